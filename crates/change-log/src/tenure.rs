//! How long the holder of a lease may act, as a value: no I/O, and the time comes in.

use std::time::{Duration, Instant};

/// A term of leading a region and the moment of the holder's own monotonic clock at which it stops acting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tenure {
    term: i64,
    until: Instant,
}

impl Tenure {
    /// What PostgreSQL granted for `length` in answer to what was asked at `asked`.
    ///
    /// PostgreSQL counts from a moment after the asking, so the holder, who counts from the asking itself, has stopped
    /// when the row runs out, by however much the answer took.
    pub fn granted(term: i64, asked: Instant, length: Duration) -> Self {
        Self { term, until: asked + length }
    }

    /// Which term it is.
    pub fn term(&self) -> i64 {
        self.term
    }

    /// When it ends unless it is renewed.
    pub fn until(&self) -> Instant {
        self.until
    }

    /// Whether the holder may act at `now`.
    pub fn allows(&self, now: Instant) -> bool {
        now < self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_from_the_asking_and_ends_sharply() {
        let asked = Instant::now();
        let length = Duration::from_millis(1_500);
        let tenure = Tenure::granted(3, asked, length);
        assert!(tenure.allows(asked) && tenure.allows(asked + length - Duration::from_nanos(1)));
        assert!(!tenure.allows(asked + length), "at that moment another one may begin");
        assert!(!tenure.allows(asked + Duration::from_secs(3_600)), "stopped for an hour");
        assert_eq!((tenure.term(), tenure.until()), (3, asked + length));
    }

    #[test]
    fn an_answer_that_took_longer_than_the_lease_grants_nothing() {
        let asked = Instant::now();
        let answered = asked + Duration::from_millis(1_600);
        assert!(!Tenure::granted(1, asked, Duration::from_millis(1_500)).allows(answered));
    }
}
