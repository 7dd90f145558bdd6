//! The hub: which connections have which channels, and handing publications to them.
//!
//! A publication is encoded once and the same bytes go to every subscriber. Feeds are spread over shards, each behind
//! its own lock; no lock is held across an await. Order of locks: shard, then the link's table or an outbox.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use fanout_core::envelope::{Envelope, Notice, Position, Presence};
use fanout_core::history::Since;
use fanout_core::link::Link;
use fanout_core::names::{Feed, Partitions};
use fanout_core::position::FeedPosition;
use fanout_core::{Channel, Topics, control};
use serde::de::IgnoredAny;
use tokio::sync::{Notify, oneshot};

use crate::audience::{Audience, Members};
use crate::join::Joining;
use crate::metrics::Metrics;
use crate::outbox::{Kind, Outbox};
use crate::repair::{Found, Repair};
use crate::room::Room;
use crate::subscription::{Continues, Held, Subscription, Verdict};
use crate::wire::Shared;
use crate::{codes, protocol};

/// Shards: enough that a large broadcast delays few others.
pub(crate) const SHARDS: usize = 64;

/// Names a connection within this bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ConnectionId(pub(crate) u64);

/// See the module.
pub(crate) struct Hub {
    shards: Vec<Mutex<HashMap<Feed, Audience>>>,
    hasher: RandomState,
    link: Link,
    partitions: Partitions,
    topics: Topics,
    metrics: Metrics,
    room: Room,
    ailing: Ailing,
}

/// Feeds that wait for their repair; at most those that the bridge has.
#[derive(Debug, Default)]
struct Ailing {
    feeds: Mutex<Vec<Feed>>,
    changed: Notify,
}

impl Hub {
    /// All repairs together hold what `room` gives.
    pub(crate) fn new(link: Link, redis: &fanout_core::Redis, topics: Topics, metrics: Metrics, room: Room) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            link,
            partitions: redis.partitions().clone(),
            topics,
            metrics,
            room,
            ailing: Ailing::default(),
        }
    }

    /// Adds the connection to `channels`. What is published from now on is held until [`activate`](Self::activate).
    /// Each receiver hears when the link's subscription of one feed is confirmed.
    pub(crate) fn join(
        &self,
        connection: ConnectionId,
        outbox: &Arc<Outbox>,
        channels: &[Joining],
        server_side: bool,
    ) -> Vec<oneshot::Receiver<()>> {
        let mut confirmations: Vec<(Feed, oneshot::Receiver<()>)> = Vec::new();
        for Joining { channel, terms, .. } in channels {
            let feed = Feed::of(channel);
            let mut shard = self.shard(&feed);
            let subscription = Subscription::joining(Arc::clone(outbox), server_side, terms.hears);
            let audience = shard.entry(feed.clone()).or_insert_with(|| {
                self.metrics.feeds.inc();
                Audience::default()
            });
            audience.of(channel).insert(connection, subscription);
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
        let Some(audience) = shard.get_mut(&feed) else { return };
        if let Some(repair) = &mut audience.repair {
            repair.fresh.insert(connection);
        }
        let members = audience.of(channel);
        let Some(subscription) = members.get_mut(&connection) else { return };
        let (held, mut missed) = subscription.activate(position);
        for held in &held {
            missed |= self.offer(subscription, held, Continues::Next) == Verdict::Gap;
        }
        if missed && position.is_some() {
            self.begin_repair(&feed, audience);
        }
        self.tidy(&mut shard, &feed);
    }

    /// Removes the connection from `channels`; leaves feeds that nobody here has any more.
    pub(crate) fn leave<'a>(&self, connection: ConnectionId, channels: impl IntoIterator<Item = &'a Channel>) {
        for channel in channels {
            let feed = Feed::of(channel);
            let mut shard = self.shard(&feed);
            let Some(audience) = shard.get_mut(&feed) else { continue };
            audience.of(channel).remove(&connection);
            self.tidy(&mut shard, &feed);
        }
    }

    /// Delivers what came out of Redis on `feed`, or holds it while something before it may be missing.
    pub(crate) fn publish(&self, feed: &Feed, payload: &Bytes) {
        self.metrics.received.inc();
        let envelope = match Notice::parse(payload) {
            Ok(Notice::Publication(envelope)) => envelope,
            Ok(Notice::Joined(who)) => return self.tell_of(feed, &who, true),
            Ok(Notice::Left(who)) => return self.tell_of(feed, &who, false),
            Err(error) => {
                self.metrics.dropped.count("not an envelope");
                tracing::warn!(%feed, %error, "dropped a publication");
                return;
            }
        };
        let mut shard = self.shard(feed);
        let Some(audience) = shard.get_mut(feed) else { return };
        if let Some(repair) = &mut audience.repair {
            repair.hold(envelope.sequence, payload);
        } else if !audience.hears(&envelope) || self.deliver(feed, audience, payload, &envelope, Continues::Next) {
            self.begin_repair(feed, audience);
            audience.repair.iter_mut().for_each(|repair| repair.hold(envelope.sequence, payload));
        }
        self.tidy(&mut shard, feed);
    }

    /// Tells those who want to hear it that somebody came to a channel of `feed`, or left it.
    fn tell_of(&self, feed: &Feed, who: &Presence<'_>, came: bool) {
        let Some(channel) = feed.channel(&who.topic) else {
            return self.metrics.dropped.count("topic of another feed");
        };
        let mut shard = self.shard(feed);
        let Some(members) = shard.get_mut(feed).and_then(|audience| audience.members(&channel)) else { return };
        let push = Arc::new(Shared::new(protocol::presence(channel.as_str(), &who.info, came)));
        let held = Held { push, bytes: who.info.client.len(), kind: Kind::Live, position: None, conflation: None };
        for subscription in members.values_mut().filter(|subscription| subscription.hears) {
            self.offer(subscription, &held, Continues::Next);
        }
    }

    /// The channels that fit `pattern`, each with how many connections have it; at most `most`.
    pub(crate) fn channels(&self, pattern: &str, most: usize) -> Vec<(Channel, u64)> {
        let mut found = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let channels = shard.values().flat_map(|audience| &audience.channels);
            let fits = channels.filter(|(channel, _)| control::glob(pattern, channel.as_str()));
            let room = most - found.len();
            found.extend(fits.take(room).map(|(channel, who)| (channel.clone(), who.len() as u64)));
        }
        found
    }

    /// How many channels somebody here has, and how many subscriptions these are.
    pub(crate) fn size(&self) -> (u64, u64) {
        let (mut channels, mut subscriptions) = (0, 0);
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for (_, members) in shard.values().flat_map(|audience| &audience.channels) {
                channels += 1;
                subscriptions += members.len() as u64;
            }
        }
        (channels, subscriptions)
    }

    /// Delivers a raw publication, which has neither position nor history.
    pub(crate) fn publish_raw(&self, channel: &Channel, data: Bytes) {
        self.metrics.received.inc();
        let feed = Feed::of(channel);
        let mut shard = self.shard(&feed);
        let Some(members) = shard.get_mut(&feed).and_then(|audience| audience.members(channel)) else { return };
        let bytes = data.len();
        let push = protocol::published(channel.as_str(), protocol::publication(data, None, None));
        let push = Arc::new(Shared::new(push));
        let held = Held { push, bytes, kind: Kind::Live, position: None, conflation: None };
        for subscription in members.values_mut() {
            self.offer(subscription, &held, Continues::Next);
        }
    }

    /// The feed was live, lost and is live again: what came between is to be repaired.
    pub(crate) fn resumed(&self, feed: &Feed) {
        let mut shard = self.shard(feed);
        let Some(audience) = shard.get_mut(feed) else { return };
        for (_, members) in &mut audience.channels {
            members.values_mut().for_each(Subscription::disturb);
        }
        self.begin_repair(feed, audience);
    }

    /// Compares the positions of all feeds of one shard, as after a lost link; reading them also keeps them alive.
    pub(crate) fn examine(&self, shard: usize) {
        let mut shard = self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner);
        for (feed, audience) in shard.iter_mut() {
            self.begin_repair(feed, audience);
        }
    }

    /// Waits for feeds that are to be repaired, and takes at most `limit`.
    pub(crate) async fn ailing(&self, limit: usize) -> Vec<Feed> {
        loop {
            let batch = {
                let mut feeds = self.ailing.feeds.lock().unwrap_or_else(PoisonError::into_inner);
                let keep = feeds.len().saturating_sub(limit);
                feeds.split_off(keep)
            };
            if !batch.is_empty() {
                return batch;
            }
            self.ailing.changed.notified().await;
        }
    }

    /// These feeds are still to be repaired.
    pub(crate) fn still_ailing(&self, feeds: impl IntoIterator<Item = Feed>) {
        self.ailing.feeds.lock().unwrap_or_else(PoisonError::into_inner).extend(feeds);
        self.ailing.changed.notify_one();
    }

    /// What the audience of `feed` lacks, now that it stands at `position`.
    pub(crate) fn missing(&self, feed: &Feed, position: &FeedPosition) -> Vec<Since> {
        self.shard(feed).get(feed).map(|audience| audience.missing(position, &self.topics)).unwrap_or_default()
    }

    /// Ends a round of the repair of `feed`: releases what was held and what was `found` in the histories, and marks
    /// those for whom that is not enough. Without a position, which Redis refused to give, that is everybody.
    pub(crate) fn repaired(&self, feed: &Feed, position: Option<&FeedPosition>, found: &[Found]) {
        let mut shard = self.shard(feed);
        let Some(audience) = shard.get_mut(feed) else { return };
        let Some(repair) = &mut audience.repair else { return };
        let merged = position.map(|position| repair.merge(position, found)).unwrap_or_default();
        let lost = audience.lose(position, found, &self.topics);
        let mut gaps = false;
        for payload in merged.values() {
            let Ok(envelope) = Envelope::parse(payload) else { continue };
            let replaced =
                found.iter().any(|(since, _)| since.conflated && since.channel.topic() == envelope.description.topic);
            let continues = if replaced { Continues::Later } else { Continues::Next };
            gaps |= self.deliver(feed, audience, payload, &envelope, continues);
        }
        if let Some(repair) = &mut audience.repair {
            repair.again |= gaps;
        }
        let last = merged.last_key_value().map_or(0, |(sequence, _)| *sequence);
        if audience.repaired(position.map(|position| (position.epoch, position.sequence.max(last))), &self.room) {
            self.still_ailing([feed.clone()]);
        }
        self.metrics.repairs.count(match (lost, found.len()) {
            (0, 0) => "nothing was missing",
            (0, _) => "repaired",
            _ => "continuity lost",
        });
        self.tidy(&mut shard, feed);
    }

    /// Tells the connection what it is still to be told of `channels`.
    pub(crate) fn tell_lost(&self, connection: ConnectionId, channels: &[Channel]) {
        for channel in channels {
            let feed = Feed::of(channel);
            let mut shard = self.shard(&feed);
            let Some(members) = shard.get_mut(&feed).and_then(|audience| audience.members(channel)) else { continue };
            if members.get(&connection).is_some_and(Subscription::is_lost) {
                self.tell(channel, members, connection);
            }
            self.tidy(&mut shard, &feed);
        }
    }

    /// From now on what arrives on `feed` is held until a repair is done; one that is under way is done once more.
    fn begin_repair(&self, feed: &Feed, audience: &mut Audience) {
        if let Some(repair) = &mut audience.repair {
            repair.again = true;
        } else {
            audience.repair = Some(Repair::new(&self.room));
            self.still_ailing([feed.clone()]);
        }
    }

    /// Offers a publication to the members of its channel; says whether some of them lack one before it.
    fn deliver(
        &self,
        feed: &Feed,
        audience: &mut Audience,
        payload: &Bytes,
        envelope: &Envelope<'_>,
        continues: Continues,
    ) -> bool {
        let description = &envelope.description;
        let Some(channel) = feed.channel(&description.topic) else {
            self.metrics.dropped.count("topic of another feed");
            return false;
        };
        let kind = if audience.repair.is_some() { Kind::History } else { Kind::Live };
        let Some(members) = audience.members(&channel) else { return false };
        let position = Some(envelope.position).filter(|position| position.offset > 0);
        let data = payload.slice_ref(envelope.data.as_bytes());
        if serde_json::from_slice::<IgnoredAny>(&data).is_err() {
            // Somebody else wrote to Griot's keys. It can never be delivered, so that it is a gap for good.
            self.metrics.dropped.count("not JSON");
            members.values_mut().for_each(|member| member.lose(&channel));
            return false;
        }
        let conflates = self.topics.of(&channel).is_some_and(|topic| topic.conflate);
        let key = description.key.as_ref().filter(|_| conflates);
        let conflation = key.map(|key| format!("{channel} {key}").into());
        let bytes = data.len();
        let push = protocol::published(channel.as_str(), protocol::publication(data, position, Some(description)));
        let held = Held { push: Arc::new(Shared::new(push)), bytes, kind, position, conflation };
        let (mut lost, mut gaps) = (Vec::new(), false);
        for (connection, subscription) in members.iter_mut() {
            match self.offer(subscription, &held, continues) {
                Verdict::Lost => lost.push(*connection),
                Verdict::Gap => gaps = true,
                Verdict::Deliver | Verdict::Held | Verdict::Repeated => {}
            }
        }
        for connection in lost {
            self.tell(&channel, members, connection);
        }
        gaps
    }

    fn offer(&self, subscription: &mut Subscription, held: &Held, continues: Continues) -> Verdict {
        let verdict = subscription.offer(held, continues);
        if verdict == Verdict::Deliver {
            self.metrics.deliveries.inc();
        }
        verdict
    }

    /// Tells one subscriber that continuity is lost, by the means of its kind of subscription, and removes it.
    fn tell(&self, channel: &Channel, members: &mut Members, connection: ConnectionId) {
        let Some(subscription) = members.remove(&connection) else { return };
        if subscription.server_side {
            // An unsubscribe push would make clients deaf on a server-side subscription: they reconnect instead.
            self.metrics.told.count("server-side");
            subscription.outbox.close(codes::INSUFFICIENT);
        } else {
            self.metrics.told.count("client-side");
            let push = protocol::ended(channel.as_str(), codes::NOT_CONTINUED);
            subscription.outbox.end_subscription(channel.clone(), push);
        }
    }

    fn tidy(&self, shard: &mut HashMap<Feed, Audience>, feed: &Feed) {
        if shard.get_mut(feed).is_some_and(Audience::tidy) {
            shard.remove(feed);
            self.metrics.feeds.dec();
            self.link.unsubscribe(&self.partitions.pubsub(feed));
        }
    }

    fn shard(&self, feed: &Feed) -> MutexGuard<'_, HashMap<Feed, Audience>> {
        let index = self.hasher.hash_one(feed) as usize % SHARDS;
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
