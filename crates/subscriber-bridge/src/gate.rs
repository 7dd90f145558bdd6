//! Spreads what costs processor time over the time there is: signatures in a storm of connects. Whoever comes waits for a
//! turn, and is turned away at once when the wait would be too long, so that the queue is bounded by time.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Turns that may be taken at once after a rest, as a share of a second.
const BURST: Duration = Duration::from_millis(100);

/// Everyone waits too long already: come back later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crowded;

/// See the module.
#[derive(Debug)]
pub struct Gate {
    interval: Duration,
    /// When the next turn is.
    next: Mutex<Option<Instant>>,
}

impl Gate {
    /// A gate with so many turns per second; 0 for no limit.
    pub fn new(per_second: u32) -> Self {
        let interval = Duration::from_secs(1).checked_div(per_second).unwrap_or_default();
        Self { interval, next: Mutex::default() }
    }

    /// Waits for a turn, `patience` at the most.
    ///
    /// # Errors
    /// The wait would be longer. Nobody else waits longer for whoever was turned away.
    pub async fn pass(&self, patience: Duration) -> Result<(), Crowded> {
        let turn = self.turn(Instant::now(), patience)?;
        sleep_until(turn).await;
        Ok(())
    }

    fn turn(&self, now: Instant, patience: Duration) -> Result<Instant, Crowded> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let turn = next.map_or(earliest, |next| next.max(earliest));
        if turn > now + patience {
            return Err(Crowded);
        }
        *next = Some(turn + self.interval);
        Ok(turn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(2);

    #[test]
    fn turns_are_an_interval_apart_after_a_burst() {
        let gate = Gate::new(100);
        let now = Instant::now();
        let waits: Vec<Duration> =
            (0..30).map(|_| gate.turn(now, PATIENCE).expect("a turn").saturating_duration_since(now)).collect();
        assert!(waits[..11].iter().all(Duration::is_zero), "a tenth of a second's worth at once: {waits:?}");
        assert_eq!(waits[29], Duration::from_millis(190));
    }

    #[test]
    fn whoever_would_wait_too_long_is_turned_away_and_takes_no_turn() {
        let gate = Gate::new(10);
        let now = Instant::now();
        let granted = (0..1_000).filter(|_| gate.turn(now, PATIENCE).is_ok()).count();
        assert_eq!(granted, 22, "two seconds of turns and the burst");
        assert!(gate.turn(now + Duration::from_millis(150), PATIENCE).is_ok(), "those turned away are not in the way");
    }

    #[test]
    fn without_a_limit_nobody_waits() {
        let gate = Gate::new(0);
        let now = Instant::now();
        assert!((0..1_000).all(|_| gate.turn(now, Duration::ZERO).is_ok_and(|turn| turn <= now)));
    }
}
