//! Listening to the link: publications to the hub, and what to do when the connection was lost.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fanout_core::admin::Health;
use fanout_core::link::{Event, Link};
use fanout_core::names::{Feed, Partitions};
use fanout_core::{Redis, Shutdown, Topic, Topics, position};
use tokio::sync::Notify;

use crate::BridgeConfig;
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::raw;

/// Feeds whose positions are compared at once after a lost connection.
const RESUMED_BATCH: usize = 256;
/// How often the link is looked at, and wait after a failed comparison.
const WATCH: Duration = Duration::from_millis(250);

/// See the module.
pub(crate) struct Listener {
    hub: Arc<Hub>,
    /// The topics whose plain Redis channel is listened to.
    raw: HashMap<String, Topic>,
    raw_budget: Mutex<RawBudget>,
    metrics: Metrics,
    health: Health,
    connected: AtomicBool,
    /// Feeds that are live again and not compared yet; at most those that the bridge holds.
    resumed: Mutex<Vec<Feed>>,
    resumed_changed: Notify,
}

/// How many raw publications this second may still take.
struct RawBudget {
    per_second: u32,
    left: u32,
    since: Instant,
}

impl Listener {
    pub(crate) fn new(
        link: &Link,
        hub: Arc<Hub>,
        topics: &Topics,
        config: &BridgeConfig,
        metrics: &Metrics,
        health: &Health,
    ) -> Arc<Self> {
        let raw: HashMap<String, Topic> = topics
            .iter()
            .filter(|(_, topic)| topic.raw)
            .map(|(name, topic)| (name.to_owned(), topic.clone()))
            .collect();
        for name in raw.keys() {
            drop(link.subscribe(name));
        }
        let per_second = config.max_raw_per_second;
        Arc::new(Self {
            hub,
            raw,
            raw_budget: Mutex::new(RawBudget { per_second, left: per_second, since: Instant::now() }),
            metrics: metrics.clone(),
            health: health.clone(),
            connected: AtomicBool::new(false),
            resumed: Mutex::default(),
            resumed_changed: Notify::new(),
        })
    }

    /// What the link tells.
    pub(crate) fn hear(&self, event: Event) {
        match event {
            Event::Message { channel, payload } => self.message(&channel, payload),
            Event::Up => {
                tracing::info!("the link to Redis is up");
                self.connected.store(true, Ordering::Relaxed);
            }
            Event::Down(why) => {
                self.connected.store(false, Ordering::Relaxed);
                self.health.down("link", why);
            }
            Event::Resumed(channel) => {
                if let Some(feed) = std::str::from_utf8(&channel).ok().and_then(Partitions::feed) {
                    self.resumed().push(feed);
                    self.resumed_changed.notify_one();
                }
            }
        }
    }

    fn message(&self, channel: &Bytes, payload: Bytes) {
        let Ok(name) = std::str::from_utf8(channel) else { return };
        if let Some(feed) = Partitions::feed(name) {
            return self.hub.publish(&feed, &payload);
        }
        let Some(topic) = self.raw.get(name) else { return };
        if !self.raw_budget.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return self.metrics.raw_dropped.count("over max_raw_per_second");
        }
        match raw::route(name, topic, payload.clone()) {
            Ok((channel, data)) => self.hub.publish_raw(&channel, data.as_bytes()),
            Err(reason) => {
                self.metrics.raw_dropped.count(reason);
                let sample = String::from_utf8_lossy(&payload[..payload.len().min(128)]).into_owned();
                tracing::debug!(topic = name, reason, sample, "dropped a raw publication");
            }
        }
    }

    /// Compares positions of feeds that are live again, in paced batches, so that whoever missed something is told.
    pub(crate) async fn check_resumed(self: Arc<Self>, redis: Redis, link: Link, shutdown: Shutdown) {
        loop {
            let batch: Vec<Feed> = {
                let mut resumed = self.resumed();
                let keep = resumed.len().saturating_sub(RESUMED_BATCH);
                resumed.split_off(keep)
            };
            if batch.is_empty() {
                tokio::select! {
                    biased;
                    () = shutdown.requested() => return,
                    () = self.resumed_changed.notified() => {}
                }
                continue;
            }
            // What was published before the read is with the hub once the barrier is passed: only what is then still
            // missing was missed.
            match position::read(&redis, &batch).await {
                Ok(positions) if link.barrier().await => {
                    for (feed, position) in batch.iter().zip(&positions) {
                        self.hub.resumed(feed, position);
                    }
                }
                outcome => {
                    if let Err(error) = outcome {
                        tracing::warn!(%error, feeds = batch.len(), "positions could not be compared, trying again");
                    }
                    self.resumed().extend(batch);
                    if !shutdown.pause(WATCH).await {
                        return;
                    }
                }
            }
        }
    }

    /// Keeps readiness true to whether every subscription is confirmed.
    pub(crate) async fn watch(self: Arc<Self>, link: Link, shutdown: Shutdown) {
        while shutdown.pause(WATCH).await {
            if self.connected.load(Ordering::Relaxed) && link.is_settled() {
                self.health.up("link");
            }
        }
    }

    fn resumed(&self) -> MutexGuard<'_, Vec<Feed>> {
        self.resumed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RawBudget {
    fn take(&mut self) -> bool {
        if self.since.elapsed() >= Duration::from_secs(1) {
            self.since = Instant::now();
            self.left = self.per_second;
        }
        let granted = self.left > 0;
        self.left = self.left.saturating_sub(1);
        granted
    }
}
