//! Where a replay begins, as a value: no I/O, and the time comes in.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How far before the moment at which a Redis primary was last seen well its effects may be missing on the server that
/// was promoted in its place: a replica's lag, with much to spare.
pub(crate) const REPLAY: Duration = Duration::from_secs(60);

/// Snapshots with the moments at which everything that they see had taken effect.
#[derive(Debug)]
pub(crate) struct Trail {
    /// Oldest first; never empty.
    steps: VecDeque<(Instant, String)>,
    /// When the server on which they took effect was last seen well.
    healthy: Instant,
}

impl Trail {
    /// A trail of which only its beginning is known.
    pub(crate) fn new(now: Instant, applied: String) -> Self {
        Self { steps: VecDeque::from([(now, applied)]), healthy: now }
    }

    /// The server is well at `now`, and everything that `applied` sees took effect on it.
    pub(crate) fn healthy(&mut self, now: Instant, applied: &str) {
        self.healthy = now;
        if self.steps.back().is_none_or(|(_, last)| last != applied) {
            self.steps.push_back((now, applied.to_owned()));
        }
        while self.steps.get(1).is_some_and(|(at, _)| *at + REPLAY <= now) {
            self.steps.pop_front();
        }
    }

    /// The newest snapshot that was applied long enough before the server was last seen well, or the oldest known.
    pub(crate) fn beginning(&self) -> &str {
        self.steps.front().map_or("", |(_, snapshot)| snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_begins_a_minute_before_the_server_was_last_well() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut trail = Trail::new(start, "0".into());
        for second in 1..=50 {
            trail.healthy(after(second), &second.to_string());
        }
        assert_eq!(trail.beginning(), "0", "the oldest known, as long as nothing is old enough");
        for second in 51..=100 {
            trail.healthy(after(second), &second.to_string());
        }
        assert_eq!(trail.beginning(), "40");
        assert!(trail.steps.len() <= 61, "older ones are forgotten: {}", trail.steps.len());
    }

    #[test]
    fn what_did_not_move_for_long_is_old_enough() {
        let start = Instant::now();
        let mut trail = Trail::new(start, "0".into());
        trail.healthy(start + Duration::from_secs(10), "1");
        trail.healthy(start + Duration::from_secs(69), "1");
        assert_eq!(trail.beginning(), "0");
        trail.healthy(start + Duration::from_secs(70), "1");
        assert_eq!(trail.beginning(), "1");
    }
}
