//! One term of this worker as the leader, as those see it who act for it.

use std::time::{Duration, Instant};

use change_log::Tenure;
use fanout_core::{RedisError, Shutdown};
use tokio::sync::watch;

/// Whether its holder still leads. Clones speak of the same term.
#[derive(Debug, Clone)]
pub(crate) struct Reign {
    tenure: watch::Receiver<Option<Tenure>>,
    shutdown: Shutdown,
}

impl Reign {
    /// A reign that begins with `tenure`. It is prolonged by sending a later one, and over when `None` is sent.
    pub(crate) fn begin(tenure: Tenure, shutdown: Shutdown) -> (watch::Sender<Option<Tenure>>, Self) {
        let (prolong, tenure) = watch::channel(Some(tenure));
        (prolong, Self { tenure, shutdown })
    }

    /// Whether this worker may touch Redis now. Asked before every call: a process that was stopped for any time, at
    /// any place, comes by here before its next one.
    pub(crate) fn may_act(&self) -> bool {
        self.tenure.borrow().is_some_and(|tenure| tenure.allows(Instant::now()))
    }

    /// [`may_act`](Self::may_act) as the error of a command that was not sent.
    ///
    /// # Errors
    /// It may not.
    pub(crate) fn check(&self) -> Result<(), RedisError> {
        if self.may_act() {
            return Ok(());
        }
        Err(RedisError::NotDone("this worker does not lead its region any more".into()))
    }

    /// Whether to begin nothing new.
    pub(crate) fn is_over(&self) -> bool {
        self.shutdown.is_requested() || !self.may_act()
    }

    /// Resolves when the ending is asked for or the term was given up or lost.
    pub(crate) async fn over(&self) {
        let mut tenure = self.tenure.clone();
        tokio::select! {
            biased;
            () = self.shutdown.requested() => {}
            // An error is a sender that is gone, which is the end as well.
            _ = tenure.wait_for(Option::is_none) => {}
        }
    }

    /// Waits for `duration`, or less when the reign ends; says whether to go on.
    pub(crate) async fn pause(&self, duration: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.over() => false,
            () = tokio::time::sleep(duration) => !self.is_over(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_lasts_while_it_is_prolonged_and_until_it_is_given_up() {
        let long = Duration::from_secs(3_600);
        let (prolong, reign) = Reign::begin(Tenure::granted(1, Instant::now(), long), Shutdown::new());
        assert!(reign.may_act() && reign.check().is_ok() && !reign.is_over());
        prolong.send_replace(Some(Tenure::granted(1, Instant::now(), Duration::ZERO)));
        assert!(!reign.may_act() && reign.is_over(), "run out");
        prolong.send_replace(Some(Tenure::granted(1, Instant::now(), long)));
        assert!(reign.may_act());
        prolong.send_replace(None);
        assert!(!reign.pause(long).await && reign.check().is_err(), "given up");
    }

    #[tokio::test]
    async fn at_the_end_of_the_process_what_is_under_way_may_be_finished() {
        let shutdown = Shutdown::new();
        let (_prolong, reign) =
            Reign::begin(Tenure::granted(1, Instant::now(), Duration::from_secs(3_600)), shutdown.clone());
        shutdown.request();
        assert!(reign.is_over() && reign.may_act());
    }
}
