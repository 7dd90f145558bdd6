//! Deletes keys once more some time after the first deletion, where a rule asks: a reader who takes no part in leases and
//! loaded before the commit may fill the old value in after the first deletion.
//!
//! What waits here stands in memory only, and the cursor does not wait for it. So the second deletion of keys that were
//! deleted within the last `redelete` is lost when the worker crashes or loses its term: such a key may keep an old
//! value until it expires or its row changes again. A promotion that undoes a second deletion has the first one replayed,
//! and that asks for a second one again. A worker that ends in order deletes early what waits.

use std::collections::BTreeSet;
use std::time::Duration;

use fanout_core::Redis;
use fanout_core::admin::Health;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::metrics::Metrics;
use crate::reign::Reign;

/// Keys that may wait; with more, the worker waits.
const WAITING: usize = 10_000;
/// Most keys of one command.
const BATCH: usize = 1_000;
/// Between two attempts at a command that failed.
const RETRY: Duration = Duration::from_millis(250);

/// Where second deletions are asked for.
#[derive(Debug, Clone)]
pub(crate) struct Redelete(mpsc::Sender<(Instant, String)>);

/// The second deletions that are due some time.
#[derive(Debug)]
pub(crate) struct Waiting {
    asked: mpsc::Receiver<(Instant, String)>,
    due: BTreeSet<(Instant, String)>,
}

/// Both ends.
pub(crate) fn redelete() -> (Redelete, Waiting) {
    let (sender, asked) = mpsc::channel(1);
    (Redelete(sender), Waiting { asked, due: BTreeSet::new() })
}

impl Redelete {
    /// Asks for deletions after these times from now. Waits while too many are waiting.
    pub(crate) async fn ask(&self, keys: Vec<(Duration, String)>, reign: &Reign) {
        for (after, key) in keys {
            tokio::select! {
                biased;
                () = reign.over() => return,
                sent = self.0.send((Instant::now() + after, key)) => if sent.is_err() {
                    return;
                },
            }
        }
    }
}

impl Waiting {
    /// Deletes what is due until the reign is over or nobody asks any more, and then the rest, if it still may.
    pub(crate) async fn run(mut self, redis: Redis, health: Health, metrics: Metrics, reign: Reign) {
        loop {
            let next = self.due.first().map(|(at, _)| *at);
            let due = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = reign.over() => break,
                () = due => {
                    let keys = self.take(Instant::now());
                    delete(&redis, &keys, &health, &metrics, &reign).await;
                }
                asked = self.asked.recv(), if self.due.len() < WAITING => match asked {
                    Some(asked) => drop(self.due.insert(asked)),
                    None => break,
                },
            }
        }
        while !self.due.is_empty() && reign.may_act() {
            let keys: Vec<String> =
                std::iter::from_fn(|| self.due.pop_first()).take(BATCH).map(|(_, key)| key).collect();
            if let Err(error) = redis.unlink(&keys, None).await {
                tracing::warn!(%error, keys = self.due.len() + keys.len(), "keys are not deleted once more");
                return;
            }
        }
    }

    /// What is due, at most a command's worth.
    fn take(&mut self, now: Instant) -> Vec<String> {
        let mut keys = Vec::new();
        while keys.len() < BATCH && self.due.first().is_some_and(|(at, _)| *at <= now) {
            keys.extend(self.due.pop_first().map(|(_, key)| key));
        }
        keys
    }
}

/// Repeats until Redis confirms it or the reign is over.
async fn delete(redis: &Redis, keys: &[String], health: &Health, metrics: &Metrics, reign: &Reign) {
    while reign.may_act() {
        match redis.unlink(keys, None).await {
            Ok(deleted) => {
                metrics.redeleted.inc_by(deleted);
                return;
            }
            Err(error) => {
                metrics.errors.count("redis");
                health.down("redis", error.to_string());
                if !reign.pause(RETRY).await {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_is_taken_in_its_order_and_in_batches() {
        let (_ask, mut waiting) = redelete();
        let now = Instant::now();
        waiting.due.insert((now + Duration::from_secs(1), "later".into()));
        waiting.due.insert((now, "now".into()));
        assert_eq!(waiting.take(now), ["now"]);
        assert!(waiting.take(now).is_empty());
        waiting.due.extend((0..BATCH).map(|n| (now, n.to_string())));
        let later = now + Duration::from_secs(1);
        assert_eq!((waiting.take(later).len(), waiting.take(later)), (BATCH, vec!["later".to_owned()]));
    }
}
