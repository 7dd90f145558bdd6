//! What the hub does for the repair of feeds, and telling those for whom there is none.

use bytes::Bytes;
use fanout_core::Channel;
use fanout_core::envelope::Envelope;
use fanout_core::history::Since;
use fanout_core::names::Feed;
use fanout_core::position::FeedPosition;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{ConnectionId, Hub};
use crate::audience::Audience;
use crate::members::Members;
use crate::outbox::Kind;
use crate::repair::{Found, Repair};
use crate::subscription::{Continues, Subscription};
use crate::{codes, protocol};

/// Feeds that wait for their repair; at most those that the bridge has.
#[derive(Debug, Default)]
pub(super) struct Ailing {
    feeds: Mutex<Vec<Feed>>,
    changed: Notify,
}

impl Hub {
    /// The feed was live, lost and is live again: what came between is to be repaired.
    pub(crate) fn resumed(&self, feed: &Feed) {
        let mut shard = self.shard(feed);
        let Some(audience) = shard.get_mut(feed) else { return };
        for (_, members) in &mut audience.channels {
            members.iter_mut().for_each(|member| member.subscription.disturb());
        }
        self.begin_repair(feed, audience);
    }

    /// Compares the positions of all feeds of one shard, as after a lost link; reading them also keeps them alive.
    pub(crate) fn examine(&self, shard: usize) {
        let mut shard = self.shards[shard].lock();
        for (feed, audience) in shard.iter_mut() {
            self.begin_repair(feed, audience);
        }
    }

    /// Waits for feeds that are to be repaired, and takes at most `limit`.
    pub(crate) async fn ailing(&self, limit: usize) -> Vec<Feed> {
        loop {
            let batch = {
                let mut feeds = self.ailing.feeds.lock();
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
        self.ailing.feeds.lock().extend(feeds);
        self.ailing.changed.notify_one();
    }

    /// What the audience of `feed` lacks, now that it stands at `position`.
    pub(crate) fn missing(&self, feed: &Feed, position: &FeedPosition) -> Vec<Since> {
        let mut shard = self.shard(feed);
        let Some(audience) = shard.get_mut(feed) else { return Vec::new() };
        // What waits has arrived.
        self.finish(feed, audience);
        audience.missing(position, &self.topics)
    }

    /// Ends a round of the repair of `feed`: releases what was held and what was `found` in the histories, and marks
    /// those for whom that is not enough. Without a position, which Redis refused to give, that is everybody.
    pub(crate) fn repaired(&self, feed: &Feed, position: Option<&FeedPosition>, found: &[Found]) {
        let mut shard = self.shard(feed);
        let Some(audience) = shard.get_mut(feed) else { return };
        // What waits was published before what was held.
        self.finish(feed, audience);
        let Some(repair) = &mut audience.repair else { return };
        let merged = position.map(|position| repair.merge(position, found)).unwrap_or_default();
        let lost = audience.lose(position, found, &self.topics);
        let mut gaps = false;
        for payload in merged.values() {
            let Ok(envelope) = Envelope::parse(payload) else { continue };
            let replaced =
                found.iter().any(|(since, _)| since.conflated && since.channel.topic() == envelope.description.topic);
            let continues = if replaced { Continues::Later } else { Continues::Next };
            gaps |= self.release(feed, audience, payload, &envelope, continues);
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

    /// Delivers what was held or read; says whether some members lack a publication before it.
    fn release(
        &self,
        feed: &Feed,
        audience: &mut Audience,
        payload: &Bytes,
        envelope: &Envelope<'_>,
        continues: Continues,
    ) -> bool {
        let Some((channel, held)) = self.ready(feed, audience, payload, envelope, Kind::History) else { return false };
        let members = audience.members(&channel);
        members.is_some_and(|members| self.offer_all(&channel, members, &held, continues))
    }

    /// Tells the connection what it is still to be told of `channels`.
    pub(crate) fn tell_lost(&self, connection: ConnectionId, channels: &[Channel]) {
        for channel in channels {
            let feed = Feed::of(channel);
            let mut shard = self.shard(&feed);
            let Some(members) = shard.get_mut(&feed).and_then(|audience| audience.members(channel)) else { continue };
            if members.get(connection).is_some_and(Subscription::is_lost) {
                self.tell(channel, members, connection);
            }
            self.tidy(&mut shard, &feed);
        }
    }

    /// From now on what arrives on `feed` is held until a repair is done; one that is under way is done once more.
    pub(super) fn begin_repair(&self, feed: &Feed, audience: &mut Audience) {
        if let Some(repair) = &mut audience.repair {
            repair.again = true;
        } else {
            audience.repair = Some(Box::new(Repair::new(&self.room)));
            self.still_ailing([feed.clone()]);
        }
    }

    /// Tells one subscriber that continuity is lost, by the means of its kind of subscription, and removes it.
    pub(super) fn tell(&self, channel: &Channel, members: &mut Members, connection: ConnectionId) {
        let Some(subscription) = members.remove(connection) else { return };
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
}
