//! The pace of a sweep: steps as large as the stall budget allows, and pauses that leave the server to others. Pure; the
//! times come in.

use std::time::Duration;

/// Keys that a step looks at when even that takes too long: less would be all overhead.
const LEAST: u32 = 10;
/// Where a pass begins, before anything is known of the server.
const FIRST: u32 = 50;
/// Steps whose shortest time counts: a busy machine makes single ones long that cost the server nothing.
const WINDOW: u32 = 8;

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    limits: Limits,
    count: u32,
    /// The shortest round trip of this pass: what is above it was the server's work.
    floor: Duration,
    /// Steps since the count was last adapted, and the shortest time above the floor that one of them took.
    steps: u32,
    stall: Duration,
    /// The server's work for a step, as the last window showed it.
    server: Duration,
}

/// What a sweep may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// How long one command may hold the server.
    pub(crate) stall: Duration,
    /// Share of the time in which the sweep has a command under way, 0 to 1.
    pub(crate) duty: f64,
    /// Most keys that one step looks at.
    pub(crate) most: u32,
}

impl Pace {
    pub(crate) fn new(limits: Limits) -> Self {
        let count = FIRST.min(limits.most).max(1);
        Self { limits, count, floor: Duration::MAX, steps: 0, stall: Duration::MAX, server: Duration::ZERO }
    }

    /// How many keys the next step looks at.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// A step's SCAN and UNLINK took so long; returns the pause before the next one.
    pub(crate) fn step(&mut self, scan: Duration, unlink: Duration) -> Duration {
        self.floor = self.floor.min(scan);
        let (scan, unlink) = (scan.saturating_sub(self.floor), unlink.saturating_sub(self.floor));
        self.stall = self.stall.min(scan.max(unlink));
        self.steps += 1;
        if self.steps == WINDOW {
            self.adapt();
        }
        // Of a single step nobody knows whether the server took the time or our own turn came late.
        let duty = self.limits.duty.clamp(0.01, 1.0);
        self.server.mul_f64(1.0 / duty - 1.0)
    }

    fn adapt(&mut self) {
        if self.stall > self.limits.stall {
            self.count = (self.count / 2).max(LEAST.min(self.limits.most));
        } else if self.stall < self.limits.stall / 2 {
            self.count = (self.count + self.count / 4 + 1).min(self.limits.most);
        }
        self.server = self.stall;
        (self.steps, self.stall) = (0, Duration::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    /// A server that takes `per_key` nanoseconds for a key; returns where the count settles.
    fn settles(per_key: u64, most: u32) -> u32 {
        let mut pace = Pace::new(Limits { stall: micros(300), duty: 0.2, most });
        for _ in 0..2_000 {
            let scan = micros(80) + Duration::from_nanos(per_key * u64::from(pace.count()));
            pace.step(scan, Duration::ZERO);
        }
        pace.count()
    }

    #[test]
    fn a_step_grows_until_it_takes_its_budget() {
        assert!((75..=300).contains(&settles(1_000, 5_000)), "{}", settles(1_000, 5_000));
        assert!(settles(10, 5_000) == 5_000, "a fast server is asked for as much as is permitted");
        assert_eq!(settles(1_000_000, 5_000), LEAST, "a slow one for the least");
        assert_eq!(settles(10, 4), 4, "never more than permitted");
    }

    #[test]
    fn pauses_leave_the_server_to_others() {
        let pause = |duty| {
            let mut pace = Pace::new(Limits { stall: micros(300), duty, most: 50 });
            pace.step(micros(80), Duration::ZERO);
            (0..20).map(|_| pace.step(micros(180), micros(0))).last()
        };
        assert_eq!(pause(0.2), Some(micros(400)), "100 µs of work are a fifth of the time");
        assert_eq!(pause(1.0), Some(Duration::ZERO));
    }

    #[test]
    fn a_late_turn_of_our_own_is_not_taken_for_a_stall() {
        let mut pace = Pace::new(Limits { stall: micros(300), duty: 0.2, most: 5_000 });
        for step in 0..800 {
            let late = if step % 3 == 0 { 5_000 } else { 0 };
            pace.step(micros(80 + late) + Duration::from_nanos(200 * u64::from(pace.count())), Duration::ZERO);
        }
        assert!(pace.count() > 500, "{}", pace.count());
    }
}
