//! The hub: which connections have which channels, and handing publications to them.
//!
//! A publication is encoded once and the same bytes go to every subscriber. Feeds are spread over shards, each behind
//! its own lock; no lock is held across an await. Order of locks: shard, then the link's table or an outbox.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use fanout_core::envelope::{Envelope, Position};
use fanout_core::link::Link;
use fanout_core::names::{Feed, Partitions};
use fanout_core::position::FeedPosition;
use fanout_core::{Channel, Topics};
use tokio::sync::oneshot;

use crate::metrics::Metrics;
use crate::outbox::Outbox;
use crate::subscription::{Held, Subscription, Verdict};
use crate::{codes, frame, protocol};

/// Shards: enough that a large broadcast delays few others.
const SHARDS: usize = 64;

/// Names a connection within this bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ConnectionId(pub(crate) u64);

/// See the module.
pub(crate) struct Hub {
    shards: Vec<Mutex<HashMap<Feed, Subscribers>>>,
    hasher: RandomState,
    link: Link,
    partitions: Partitions,
    topics: Topics,
    metrics: Metrics,
}

/// The connections of one feed, by channel. A user's feed has a handful of channels, any other has one.
#[derive(Default)]
struct Subscribers {
    channels: Vec<(Channel, HashMap<ConnectionId, Subscription>)>,
}

impl Hub {
    pub(crate) fn new(link: Link, partitions: Partitions, topics: Topics, metrics: Metrics) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, hasher: RandomState::new(), link, partitions, topics, metrics }
    }

    /// Adds the connection to `channels`. What is published from now on is held until [`activate`](Self::activate).
    /// Each receiver hears when the link's subscription of one feed is confirmed.
    pub(crate) fn join(
        &self,
        connection: ConnectionId,
        outbox: &Arc<Outbox>,
        channels: &[(Channel, bool)],
    ) -> Vec<oneshot::Receiver<()>> {
        let mut confirmations: Vec<(Feed, oneshot::Receiver<()>)> = Vec::new();
        for (channel, server_side) in channels {
            let feed = Feed::of(channel);
            let mut shard = self.shard(&feed);
            let subscription = Subscription::joining(Arc::clone(outbox), *server_side);
            let subscribers = shard.entry(feed.clone()).or_insert_with(|| {
                self.metrics.feeds.inc();
                Subscribers::default()
            });
            subscribers.of(channel).insert(connection, subscription);
            if !confirmations.iter().any(|(known, _)| *known == feed) {
                // Under the shard's lock, so that it cannot cross another connection's leaving.
                let confirmed = self.link.subscribe(&self.partitions.pubsub(&feed));
                confirmations.push((feed, confirmed));
            }
        }
        confirmations.into_iter().map(|(_, confirmed)| confirmed).collect()
    }

    /// Begins delivery on `channel` after `position`, with what was held since [`join`](Self::join). The caller has
    /// sent the reply before.
    pub(crate) fn activate(&self, connection: ConnectionId, channel: &Channel, position: Option<Position>) {
        let feed = Feed::of(channel);
        let mut shard = self.shard(&feed);
        let Some(subscribers) = shard.get_mut(&feed) else { return };
        let members = subscribers.of(channel);
        let Some(subscription) = members.get_mut(&connection) else { return };
        let insufficient = match subscription.activate(position) {
            None => true,
            Some(held) => held.iter().any(|held| self.offer(channel, subscription, held) == Verdict::Insufficient),
        };
        if insufficient {
            self.tell(channel, members, connection);
            self.sweep(&mut shard, &feed);
        }
    }

    /// Removes the connection from `channels`; leaves feeds that nobody here has any more.
    pub(crate) fn leave<'a>(&self, connection: ConnectionId, channels: impl IntoIterator<Item = &'a Channel>) {
        for channel in channels {
            let feed = Feed::of(channel);
            let mut shard = self.shard(&feed);
            let Some(subscribers) = shard.get_mut(&feed) else { continue };
            subscribers.of(channel).remove(&connection);
            self.sweep(&mut shard, &feed);
        }
    }

    /// Delivers what came out of Redis on `feed`.
    pub(crate) fn publish(&self, feed: &Feed, payload: &Bytes) {
        self.metrics.received.inc();
        let envelope = match Envelope::parse(payload) {
            Ok(envelope) => envelope,
            Err(error) => {
                self.metrics.dropped.count("not an envelope");
                tracing::warn!(%feed, %error, "dropped a publication");
                return;
            }
        };
        let Some(channel) = feed.channel(&envelope.description.topic) else {
            return self.metrics.dropped.count("topic of another feed");
        };
        let position = Some(envelope.position).filter(|position| position.offset > 0);
        self.deliver(&channel, || {
            let description = &envelope.description;
            let push = protocol::publication(channel.as_str(), envelope.data.as_bytes(), position, Some(description));
            let conflates = self.topics.of(&channel).is_some_and(|topic| topic.conflate);
            let key = description.key.as_ref().filter(|_| conflates);
            Held { frame: frame::text(&push), position, conflation: key.map(|key| format!("{channel} {key}").into()) }
        });
    }

    /// Delivers a raw publication, which has neither position nor history.
    pub(crate) fn publish_raw(&self, channel: &Channel, data: &[u8]) {
        self.metrics.received.inc();
        self.deliver(channel, || {
            let push = protocol::publication(channel.as_str(), data, None, None);
            Held { frame: frame::text(&push), position: None, conflation: None }
        });
    }

    /// The feed was live, lost and is live again, and stood at `position` after that: whoever is behind it missed
    /// something and is told.
    pub(crate) fn resumed(&self, feed: &Feed, position: &FeedPosition) {
        let mut shard = self.shard(feed);
        let Some(subscribers) = shard.get_mut(feed) else { return };
        for (channel, members) in &mut subscribers.channels {
            if !self.topics.of(channel).is_some_and(fanout_core::Topic::keeps_history) {
                continue;
            }
            let now = position.of(channel.topic());
            let behind: Vec<ConnectionId> =
                members.iter_mut().filter_map(|(id, member)| member.missed(now).then_some(*id)).collect();
            for connection in behind {
                self.tell(channel, members, connection);
            }
        }
        self.sweep(&mut shard, feed);
    }

    fn deliver(&self, channel: &Channel, encode: impl FnOnce() -> Held) {
        let feed = Feed::of(channel);
        let mut shard = self.shard(&feed);
        let Some(subscribers) = shard.get_mut(&feed) else { return };
        let Some((_, members)) = subscribers.channels.iter_mut().find(|(known, _)| known == channel) else { return };
        if members.is_empty() {
            return;
        }
        let held = encode();
        let mut lost = Vec::new();
        for (connection, subscription) in members.iter_mut() {
            if self.offer(channel, subscription, &held) == Verdict::Insufficient {
                lost.push(*connection);
            }
        }
        for connection in lost {
            self.tell(channel, members, connection);
        }
        self.sweep(&mut shard, &feed);
    }

    fn offer(&self, channel: &Channel, subscription: &mut Subscription, held: &Held) -> Verdict {
        let verdict = subscription.offer(held);
        match verdict {
            Verdict::Deliver => {
                self.metrics.deliveries.inc();
            }
            Verdict::Insufficient => tracing::debug!(%channel, "continuity lost"),
            Verdict::Held | Verdict::Repeated => {}
        }
        verdict
    }

    /// Tells one subscriber that continuity is lost, by the means of its kind of subscription, and removes it.
    fn tell(&self, channel: &Channel, members: &mut HashMap<ConnectionId, Subscription>, connection: ConnectionId) {
        let Some(subscription) = members.remove(&connection) else { return };
        if subscription.server_side {
            // An unsubscribe push would make clients deaf on a server-side subscription: they reconnect instead.
            self.metrics.told.count("server-side");
            subscription.outbox.close(codes::INSUFFICIENT);
        } else {
            self.metrics.told.count("client-side");
            let push = frame::text(&protocol::insufficient_state(channel.as_str()));
            subscription.outbox.end_subscription(channel.clone(), push);
        }
    }

    fn sweep(&self, shard: &mut HashMap<Feed, Subscribers>, feed: &Feed) {
        let Some(subscribers) = shard.get_mut(feed) else { return };
        subscribers.channels.retain(|(_, members)| !members.is_empty());
        if subscribers.channels.is_empty() {
            shard.remove(feed);
            self.metrics.feeds.dec();
            self.link.unsubscribe(&self.partitions.pubsub(feed));
        }
    }

    fn shard(&self, feed: &Feed) -> MutexGuard<'_, HashMap<Feed, Subscribers>> {
        let index = self.hasher.hash_one(feed) as usize % SHARDS;
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscribers {
    fn of(&mut self, channel: &Channel) -> &mut HashMap<ConnectionId, Subscription> {
        let index = self.channels.iter().position(|(known, _)| known == channel).unwrap_or_else(|| {
            self.channels.push((channel.clone(), HashMap::new()));
            self.channels.len() - 1
        });
        &mut self.channels[index].1
    }
}
