//! Hears what applications' own triggers notify, and lets the loop apply it like the log's entries.
//!
//! At most once: what is notified while nobody listens, or is waiting here when the reign ends, has no effect, and no
//! replay brings it back. What can be counted of that is counted.
//!
//! PostgreSQL asks no right for `notify`: whoever may connect to the database can have published what the rules of a
//! table in `[listen]` publish.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use change_log::{Body, Entry, Heard, Listener, PgPool, Rules};
use fanout_core::telemetry::ByReason;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc};
use uuid::Uuid;

use crate::backoff::Backoff;
use crate::metrics::Metrics;
use crate::reign::Reign;

/// The place in the log of what is in no log: its sequence begins at 1.
pub(crate) const HEARD: i64 = 0;
/// Changes that may wait for the loop; more are dropped, because nobody can ask a listener to wait.
const WAITING: usize = 10_000;
/// Of a notification without effect, so many characters are logged.
const SHOWN: usize = 200;
/// Longest wait after a failure.
const RETRY: Duration = Duration::from_secs(2);

/// Where the loop finds what was heard.
#[derive(Debug)]
pub(crate) struct Ears {
    changes: mpsc::Receiver<Entry>,
    woken: Arc<Notify>,
    /// Taken, and not yet known to have had its effect.
    taken: Vec<Entry>,
    dropped: ByReason,
}

/// What listens. See the module.
pub(crate) struct Listening {
    /// `None` when there is nothing to listen to.
    listener: Option<Listener>,
    rules: Arc<Rules>,
    metrics: Metrics,
    changes: mpsc::Sender<Entry>,
    woken: Arc<Notify>,
}

/// Both ends. `wake_channel` may be empty.
pub(crate) fn hearing(server: &PgPool, wake_channel: &str, rules: &Arc<Rules>, metrics: &Metrics) -> (Ears, Listening) {
    let mut channels: Vec<String> = rules.channels().map(str::to_owned).collect();
    if !wake_channel.is_empty() && !channels.iter().any(|channel| channel == wake_channel) {
        channels.push(wake_channel.to_owned());
    }
    let (sender, changes) = mpsc::channel(WAITING);
    let woken = Arc::new(Notify::new());
    let listening = Listening {
        listener: (!channels.is_empty()).then(|| Listener::new(server.clone(), channels)),
        rules: Arc::clone(rules),
        metrics: metrics.clone(),
        changes: sender,
        woken: Arc::clone(&woken),
    };
    (Ears { changes, woken, taken: Vec::new(), dropped: metrics.heard_dropped.clone() }, listening)
}

impl Ears {
    /// Resolves when something was notified since the last time.
    pub(crate) async fn woken(&self) {
        self.woken.notified().await;
    }

    /// At most `limit` changes that were heard. They are returned again until they are [forgotten](Self::forget).
    pub(crate) fn heard(&mut self, limit: u32) -> &[Entry] {
        if self.taken.is_empty() {
            let limit = usize::try_from(limit.max(1)).unwrap_or(usize::MAX);
            self.taken.extend(std::iter::from_fn(|| self.changes.try_recv().ok()).take(limit));
            if !self.changes.is_empty() {
                // The loop need not rest before it takes the others.
                self.woken.notify_one();
            }
        }
        &self.taken
    }

    /// What was taken had its effect.
    pub(crate) fn forget(&mut self) {
        self.taken.clear();
    }
}

impl Drop for Ears {
    /// What was taken may have had its effect; nobody knows.
    fn drop(&mut self) {
        let left = self.taken.len() + self.changes.len();
        if left > 0 {
            self.dropped.count_many("ended", left);
        }
    }
}

impl Listening {
    /// Listens until the reign is over.
    pub(crate) async fn run(mut self, reign: Reign) {
        let Some(mut listener) = self.listener.take() else { return };
        let mut failure = Backoff::upto(RETRY);
        loop {
            let heard = tokio::select! {
                biased;
                () = reign.over() => return,
                heard = listener.next() => heard,
            };
            match heard {
                Ok(Heard::Notification { channel, text }) => {
                    failure.reset();
                    self.notified(&channel, &text);
                    continue;
                }
                Ok(Heard::Lost { cause }) => {
                    self.metrics.heard_losses.inc();
                    tracing::warn!(cause, "the connection that listens was lost, and what was notified since");
                }
                Err(error) => {
                    self.metrics.errors.count("postgresql");
                    tracing::warn!(%error, "cannot listen");
                }
            }
            if !reign.pause(failure.wait()).await {
                return;
            }
        }
    }

    fn notified(&self, channel: &str, text: &str) {
        if self.rules.channels().any(|heard| heard == channel) {
            self.metrics.heard.inc();
            match self.rules.heard(channel, text) {
                Ok(change) => self.pass_on(Body::Row(change)),
                Err(reason) => {
                    self.metrics.heard_dropped.count(reason.metric_label());
                    let sample: String = text.chars().take(SHOWN).collect();
                    tracing::debug!(channel, "a notification has no effect, {reason}: {sample:?}");
                }
            }
        }
        self.woken.notify_one();
    }

    fn pass_on(&self, body: Body) {
        let entry = Entry { id: HEARD, xid: 0, uid: Uuid::new_v4(), at: SystemTime::now(), body };
        match self.changes.try_send(entry) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.metrics.heard_dropped.count("full"),
            Err(TrySendError::Closed(_)) => self.metrics.heard_dropped.count("ended"),
        }
    }
}

#[cfg(test)]
mod tests {
    use change_log::Servers;
    use fanout_core::telemetry;
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    const RULES: &str = "[rules.t]\ntable = \"public.t\"\nkeys = [\"t:{id}\"]\n[listen.heard]\ntables = [\"public.t\"]";

    fn ends(wake_channel: &str) -> (Ears, Listening) {
        ends_counted_in(wake_channel, &mut telemetry::registry())
    }

    fn ends_counted_in(wake_channel: &str, registry: &mut Registry) -> (Ears, Listening) {
        let servers = Servers::new("postgres://u@127.0.0.1/d", "test").expect("an address");
        let rules = Arc::new(Rules::parse(RULES).expect("rules"));
        hearing(servers.pool(), wake_channel, &rules, &Metrics::register(registry))
    }

    #[tokio::test]
    async fn changes_are_taken_in_their_order_and_again_until_they_are_forgotten() {
        let (mut ears, listening) = ends("");
        for id in 0..3 {
            listening.notified("heard", &format!("{{\"id\":{id}}}"));
        }
        let ids = |heard: &[Entry]| -> Vec<Uuid> { heard.iter().map(|entry| entry.uid).collect() };
        let first = ids(ears.heard(2));
        assert_eq!((first.len(), ids(ears.heard(2))), (2, first));
        ears.forget();
        ears.woken().await;
        assert_eq!(ears.heard(2).len(), 1);
        ears.forget();
        assert!(ears.heard(2).is_empty());
    }

    #[tokio::test]
    async fn what_finds_no_room_is_dropped_and_counted() {
        let mut registry = telemetry::registry();
        let (mut ears, listening) = ends_counted_in("", &mut registry);
        (0..=WAITING).for_each(|id| listening.notified("heard", &format!("{{\"id\":{id}}}")));
        assert_eq!(ears.heard(u32::MAX).len(), WAITING);
        let mut metrics = String::new();
        encode(&mut metrics, &registry).expect("metrics");
        assert!(metrics.contains("griot_heard_dropped_total{reason=\"full\"} 1\n"), "{metrics}");

        listening.notified("heard", "{\"id\":1}");
        drop(ears);
        metrics.clear();
        encode(&mut metrics, &registry).expect("metrics");
        let left = format!("griot_heard_dropped_total{{reason=\"ended\"}} {}\n", WAITING + 1);
        assert!(metrics.contains(&left), "what the reign leaves behind: {metrics}");
    }

    #[tokio::test]
    async fn the_wake_channel_wakes_and_changes_nothing() {
        let (mut ears, listening) = ends("wake");
        listening.notified("wake", "{\"id\":1}");
        ears.woken().await;
        assert!(ears.heard(1).is_empty());
        assert_eq!(listening.metrics.heard.get(), 0);
    }
}
