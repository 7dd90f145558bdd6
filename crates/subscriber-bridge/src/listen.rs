//! Listening to the link: publications go to the hub, raw ones by way of their owner.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fanout_core::admin::Health;
use fanout_core::link::{Ear, Event, Link};
use fanout_core::names::Partitions;
use fanout_core::{Redis, Shutdown, Topic, Topics, control};

use crate::hub::{Hub, SHARDS};
use crate::metrics::Metrics;
use crate::raw;
use crate::{BridgeConfig, Shared, order};

/// How often the link is looked at.
const WATCH: Duration = Duration::from_millis(250);
/// How often it is asked whether commands and link lead to the same server.
const COMPARE: Duration = Duration::from_secs(1);

/// See the module.
pub(crate) struct Listener {
    hub: Arc<Hub>,
    /// The topics whose plain Redis channel is listened to.
    raw: HashMap<String, Topic>,
    raw_budget: Mutex<RawBudget>,
    metrics: Metrics,
    health: Health,
    /// The pub/sub channels by which this bridge is told what to do.
    orders: [String; 2],
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
        node: &str,
    ) -> Arc<Self> {
        let raw: HashMap<String, Topic> = topics
            .iter()
            .filter(|(_, topic)| topic.raw)
            .map(|(name, topic)| (name.to_owned(), topic.clone()))
            .collect();
        for name in raw.keys() {
            drop(link.subscribe(name));
        }
        let orders = control::channels(node);
        for name in &orders {
            drop(link.subscribe(name));
        }
        let per_second = config.max_raw_per_second;
        Arc::new(Self {
            hub,
            raw,
            raw_budget: Mutex::new(RawBudget { per_second, left: per_second, since: Instant::now() }),
            metrics: metrics.clone(),
            health: health.clone(),
            orders,
        })
    }

    /// Hears what the link tells.
    pub(crate) fn ear(self: Arc<Self>, shared: &Arc<Shared>, shutdown: &Shutdown) -> impl Ear + use<> {
        Hearing { listener: self, shared: Arc::clone(shared), shutdown: shutdown.clone() }
    }

    fn hear(&self, event: Event) {
        match event {
            Event::Message { channel, payload } => self.message(&channel, payload),
            Event::Up => tracing::info!("the link to Redis is up"),
            Event::Down(why) => self.health.down("link", why),
            Event::Resumed(channel) => {
                if let Some(feed) = std::str::from_utf8(&channel).ok().and_then(Partitions::feed) {
                    self.hub.resumed(&feed);
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
            Ok((channel, data)) => self.hub.publish_raw(&channel, data.bytes()),
            Err(reason) => {
                self.metrics.raw_dropped.count(reason);
                let sample = String::from_utf8_lossy(&payload[..payload.len().min(128)]).into_owned();
                tracing::debug!(topic = name, reason, sample, "dropped a raw publication");
            }
        }
    }

    /// Keeps readiness true to whether every subscription is confirmed.
    pub(crate) async fn watch(self: Arc<Self>, link: Link, shutdown: Shutdown) {
        while shutdown.pause(WATCH).await {
            if link.is_connected() && link.is_settled() {
                self.health.up("link");
            }
        }
    }
}

/// A listener at its link.
struct Hearing {
    listener: Arc<Listener>,
    shared: Arc<Shared>,
    shutdown: Shutdown,
}

impl Ear for Hearing {
    fn hear(&mut self, event: Event) {
        match event {
            Event::Message { channel, payload }
                if self.listener.orders.iter().any(|name| name.as_bytes() == channel) =>
            {
                order::hear(&self.shared, &payload, &self.shutdown);
            }
            event => self.listener.hear(event),
        }
    }

    fn work(&mut self) -> bool {
        self.listener.hub.work()
    }

    fn is_full(&self) -> bool {
        self.listener.hub.is_full()
    }
}

/// Replaces a link that leads to another server than commands do: the one it leads to is the primary no more, and what is
/// published elsewhere would never arrive.
pub(crate) async fn compare(redis: Redis, link: Link, shutdown: Shutdown) {
    let mut differed = false;
    while shutdown.pause(COMPARE).await {
        let (Ok(Some(ours)), Some(its)) = (redis.identity().await, link.identity()) else { continue };
        // One difference may be a promotion that the other connection is just about to follow.
        if ours != its && differed {
            tracing::warn!("commands and subscriptions go to different servers, connecting the link anew");
            link.renew();
        }
        differed = ours != its && !differed;
    }
}

/// Has every feed compared when all positions were removed on purpose: a region that lost entries of the change log tells
/// every subscriber, and one of a quiet channel would not hear of it before its next publication.
pub(crate) async fn follow_forgetting(redis: Redis, hub: Arc<Hub>, shutdown: Shutdown) {
    let mut known: Option<Option<String>> = None;
    while shutdown.pause(COMPARE).await {
        let Ok(now) = redis.forgetting().await else { continue };
        if known.as_ref().is_some_and(|known| *known != now) {
            tracing::warn!("all positions were removed: every feed is compared");
            (0..SHARDS).for_each(|shard| hub.examine(shard));
        }
        known = Some(now);
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
