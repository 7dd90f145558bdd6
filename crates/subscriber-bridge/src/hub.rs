//! The hub: which connections have which channels, and handing publications to them.
//!
//! A publication is encoded once and the same bytes go to every subscriber. Feeds are spread over shards, each behind
//! its own lock; no lock is held across an await. Order of locks: shard, then the link's table, the list of busy feeds or
//! an outbox.

mod delivery;
mod repairing;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use fanout_core::envelope::Position;
use fanout_core::link::Link;
use fanout_core::names::{Feed, Partitions};
use fanout_core::{Channel, Topic, Topics, control};
use parking_lot::{Mutex, MutexGuard};

use self::delivery::Busy;
use self::repairing::Ailing;
use crate::arrival::Arrival;
use crate::audience::Audience;
use crate::join::Joining;
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use crate::room::Room;
use crate::subscription::{Subscription, Verdict};

/// Shards: enough that a large broadcast delays few others.
pub(crate) const SHARDS: usize = 64;

/// Names a connection within this bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ConnectionId(pub(crate) u64);

/// Boxed: half of a table is empty at times, and there is an audience for each user who is here.
type Shard = HashMap<Feed, Box<Audience>>;

/// See the module.
pub(crate) struct Hub {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
    link: Link,
    partitions: Partitions,
    topics: Topics,
    metrics: Metrics,
    room: Room,
    ailing: Ailing,
    busy: Busy,
}

impl Hub {
    /// All repairs together hold what `room` gives.
    pub(crate) fn new(link: Link, partitions: Partitions, topics: Topics, metrics: Metrics, room: Room) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            link,
            partitions,
            topics,
            metrics,
            room,
            ailing: Ailing::default(),
            busy: Busy::default(),
        }
    }

    /// Adds the connection to `channels`. What is published from now on is held until [`activate`](Self::activate).
    pub(crate) fn join(
        &self,
        connection: ConnectionId,
        outbox: &Arc<Outbox>,
        channels: &[Joining],
        server_side: bool,
    ) -> Arrival {
        let mut feeds: Vec<(Feed, bool)> = Vec::new();
        for channels in channels.chunk_by(|one, next| one.channel.shares_owner(&next.channel)) {
            let feed = Feed::of(&channels[0].channel);
            let mut shard = self.shard(&feed);
            let audience = shard.entry(feed.clone()).or_insert_with(|| {
                self.metrics.feeds.inc();
                Box::default()
            });
            for Joining { channel, terms, .. } in channels {
                let subscription = Subscription::joining(Arc::clone(outbox), server_side, terms.hears);
                audience.of(channel).insert(connection, subscription);
            }
            drop(shard);
            let keep = |Joining { channel, .. }: &Joining| self.topics.of(channel).is_some_and(Topic::keeps_history);
            let keeps = channels.iter().any(keep);
            match feeds.iter_mut().find(|(known, _)| *known == feed) {
                Some((_, any)) => *any |= keeps,
                None => feeds.push((feed, keeps)),
            }
        }
        // Not before all are there: whatever is published after the position was read has to find each of them.
        let mut arrival = Arrival::default();
        for (feed, keeps) in feeds {
            let pubsub = self.partitions.pubsub(&feed);
            // Under the shard's lock, so that it cannot cross anybody's leaving.
            let shard = self.shard(&feed);
            if !shard.contains_key(&feed) {
                continue;
            }
            match keeps {
                true => arrival.position(feed, self.link.join(&pubsub)),
                false => arrival.confirmation(self.link.subscribe(&pubsub)),
            }
        }
        arrival
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
        let Some(subscription) = members.get_mut(connection) else { return };
        let (held, mut missed) = subscription.activate(position);
        for held in &held {
            missed |= self.offer(subscription, held) == Verdict::Gap;
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
            audience.of(channel).remove(connection);
            self.tidy(&mut shard, &feed);
        }
    }

    /// The channels that fit `pattern`, each with how many connections have it; at most `most`.
    pub(crate) fn channels(&self, pattern: &str, most: usize) -> Vec<(Channel, u64)> {
        let mut found = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
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
            let shard = shard.lock();
            for (_, members) in shard.values().flat_map(|audience| &audience.channels) {
                channels += 1;
                subscriptions += members.len() as u64;
            }
        }
        (channels, subscriptions)
    }

    fn tidy(&self, shard: &mut Shard, feed: &Feed) {
        if shard.get_mut(feed).is_some_and(|audience| audience.tidy()) {
            shard.remove(feed);
            self.metrics.feeds.dec();
            self.link.unsubscribe(&self.partitions.pubsub(feed));
        }
    }

    fn shard(&self, feed: &Feed) -> MutexGuard<'_, Shard> {
        let index = self.hasher.hash_one(feed) as usize % SHARDS;
        self.shards[index].lock()
    }
}
