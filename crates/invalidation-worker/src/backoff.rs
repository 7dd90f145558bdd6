//! How long to wait after failures: longer each time, and not in step with others.

use std::time::Duration;

/// The first wait.
const FIRST: Duration = Duration::from_millis(50);

/// See the module.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    pub(crate) fn upto(longest: Duration) -> Self {
        Self { next: FIRST, longest }
    }

    /// The wait after a failure: between half and the whole of twice the one before.
    pub(crate) fn wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.longest);
        wait.mul_f64(0.5 + 0.5 * fastrand::f64())
    }

    /// It went well.
    pub(crate) fn reset(&mut self) {
        self.next = FIRST;
    }
}
