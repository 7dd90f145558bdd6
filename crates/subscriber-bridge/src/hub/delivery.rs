//! Handing publications to those who have their channel: at once where they are few, and otherwise slice by slice.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use fanout_core::envelope::{Envelope, Notice, Presence};
use fanout_core::names::Feed;
use fanout_core::{Channel, is_line};
use parking_lot::{Mutex, MutexGuard};

use super::Hub;
use crate::audience::Audience;
use crate::backlog::{self, Backlog};
use crate::members::{Member, Members};
use crate::outbox::Kind;
use crate::protocol;
use crate::room::Room;
use crate::run::Run;
use crate::subscription::{Continues, Held, Subscription, Verdict};
use crate::wire::Shared;

/// To so many members a publication goes at once.
const FEW: usize = 64;
/// So many outboxes are fetched at once: the processor waits for about as many pieces of memory at the same time.
const TOGETHER: usize = 8;
/// Most bytes of publications that wait for their turn, over all feeds.
const MAX_BACKLOG_BYTES: usize = 32 * 1024 * 1024;

/// Feeds whose backlog waits for its next slice, in turn.
pub(super) struct Busy {
    feeds: Mutex<VecDeque<Feed>>,
    room: Room,
}

impl Default for Busy {
    fn default() -> Self {
        Self { feeds: Mutex::default(), room: Room::new(MAX_BACKLOG_BYTES) }
    }
}

impl Hub {
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
        let in_order = audience.repair.is_none() && audience.hears(&envelope);
        if !in_order || self.deliver(feed, audience, payload, &envelope) {
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
        for member in members.iter_mut().filter(|member| member.subscription.hears) {
            self.offer(&mut member.subscription, &held);
        }
    }

    /// Delivers a raw publication, which has neither position nor history.
    pub(crate) fn publish_raw(&self, channel: &Channel, data: Bytes) {
        self.metrics.received.inc();
        let feed = Feed::of(channel);
        let mut shard = self.shard(&feed);
        let Some(audience) = shard.get_mut(&feed) else { return };
        let bytes = data.len();
        let push = protocol::published(channel.as_str(), protocol::publication(data, None, None));
        let push = Arc::new(Shared::new(push));
        self.hand_on(
            &feed,
            audience,
            channel,
            &Held { push, bytes, kind: Kind::Live, position: None, conflation: None },
        );
    }

    /// Hands the next slice of what waits to its members; says whether more waits. Between two calls others have their
    /// turn.
    pub(crate) fn work(&self) -> bool {
        let Some(feed) = self.busy.feeds.lock().pop_front() else { return false };
        let mut shard = self.shard(&feed);
        if let Some(audience) = shard.get_mut(&feed) {
            self.slice(&feed, audience);
            if audience.backlog.is_some() {
                self.busy.feeds.lock().push_back(feed.clone());
            }
        }
        self.tidy(&mut shard, &feed);
        // Whoever joins or leaves must not wait until the whole backlog is done.
        MutexGuard::unlock_fair(shard);
        !self.busy.feeds.lock().is_empty()
    }

    /// Whether so much waits that nothing more should be read.
    pub(crate) fn is_full(&self) -> bool {
        self.busy.room.is_scarce()
    }

    /// Delivers a live publication; says whether some members lack one before it.
    fn deliver(&self, feed: &Feed, audience: &mut Audience, payload: &Bytes, envelope: &Envelope<'_>) -> bool {
        let Some((channel, held)) = self.ready(feed, audience, payload, envelope, Kind::Live) else { return false };
        self.hand_on(feed, audience, &channel, &held)
    }

    /// A publication as it goes to the members of its channel, when there are any.
    pub(super) fn ready(
        &self,
        feed: &Feed,
        audience: &mut Audience,
        payload: &Bytes,
        envelope: &Envelope<'_>,
        kind: Kind,
    ) -> Option<(Channel, Held)> {
        let description = &envelope.description;
        let Some(channel) = audience.channel(&description.topic) else {
            if feed.channel(&description.topic).is_none() {
                self.metrics.dropped.count("topic of another feed");
            }
            return None;
        };
        let position = Some(envelope.position).filter(|position| position.offset > 0);
        if !is_line(envelope.data.as_bytes()) {
            // Somebody else wrote to Griot's keys. It can never be delivered, so that it is a gap for good.
            self.metrics.dropped.count("not JSON");
            let members = audience.members(&channel)?;
            members.iter_mut().for_each(|member| member.subscription.lose(&channel));
            return None;
        }
        let conflates = |_: &&_| self.topics.of(&channel).is_some_and(|topic| topic.conflate);
        let key = description.key.as_ref().filter(conflates);
        let conflation = key.map(|key| format!("{channel} {key}").into());
        let bytes = envelope.data.as_bytes().len();
        let members = audience.members(&channel)?;
        let wire = members.subscriptions().next().map(|first| first.outbox.wire())?;
        // Waiting for many it would keep all that was read together with it.
        let payload = if members.len() > FEW { Bytes::copy_from_slice(payload) } else { payload.clone() };
        let push = Arc::new(Shared::envelope(&channel, payload, envelope, wire));
        Some((channel, Held { push, bytes, kind, position, conflation }))
    }

    /// Offers a publication to few members at once, and to many when it is their turn; says whether some lack one before
    /// it, as far as that is known already.
    fn hand_on(&self, feed: &Feed, audience: &mut Audience, channel: &Channel, held: &Held) -> bool {
        let is_idle = audience.backlog.is_none();
        let Some(members) = audience.members(channel) else { return false };
        if is_idle && members.len() <= FEW {
            return self.offer_all(channel, members, held, Continues::Next);
        }
        if is_idle {
            audience.backlog = Some(Box::new(Backlog::new(self.busy.room.nothing())));
            let mut feeds = self.busy.feeds.lock();
            if !feeds.contains(feed) {
                feeds.push_back(feed.clone());
            }
        }
        while let Some(backlog) = &mut audience.backlog {
            if backlog.push(channel, held) {
                return false;
            }
            // There is no room: what waits goes out now.
            self.slice(feed, audience);
        }
        let members = audience.members(channel);
        members.is_some_and(|members| self.offer_all(channel, members, held, Continues::Next))
    }

    /// Offers a publication to the members of its channel; says whether some of them lack one before it.
    pub(super) fn offer_all(
        &self,
        channel: &Channel,
        members: &mut Members,
        held: &Held,
        continues: Continues,
    ) -> bool {
        let (mut lost, mut gaps, mut delivered) = (Vec::new(), false, 0);
        for Member { connection, subscription } in members.iter_mut() {
            match subscription.offer(held, continues) {
                Verdict::Deliver => delivered += 1,
                Verdict::Lost => lost.push(*connection),
                Verdict::Gap => gaps = true,
                Verdict::Held | Verdict::Repeated => {}
            }
        }
        self.metrics.deliveries.inc_by(delivered);
        for connection in lost {
            self.tell(channel, members, connection);
        }
        gaps
    }

    pub(super) fn offer(&self, subscription: &mut Subscription, held: &Held) -> Verdict {
        let verdict = subscription.offer(held, Continues::Next);
        self.metrics.deliveries.inc_by(u64::from(verdict == Verdict::Deliver));
        verdict
    }

    /// Hands what waits to all its members.
    pub(super) fn finish(&self, feed: &Feed, audience: &mut Audience) {
        while audience.backlog.is_some() {
            self.slice(feed, audience);
        }
    }

    /// Hands the run that is under way to its next members, or begins the next one.
    fn slice(&self, feed: &Feed, audience: &mut Audience) {
        let Some(mut backlog) = audience.backlog.take() else { return };
        if backlog.run.is_none()
            && let Some(run) = backlog.next()
            && let Some(members) = audience.members(&run.channel)
        {
            members.begin();
        }
        if let Some(run) = &backlog.run
            && self.hand_out(feed, audience, run)
        {
            backlog.finish();
        }
        audience.backlog = Some(backlog).filter(|backlog| !backlog.is_empty());
    }

    /// Hands a run to the next members of its channel; says whether all of them have had it.
    fn hand_out(&self, feed: &Feed, audience: &mut Audience, run: &Run) -> bool {
        let Some(members) = audience.members(&run.channel) else { return true };
        let (mut lost, mut gaps, mut delivered) = (Vec::new(), false, 0);
        for together in members.next(backlog::slice(run)).chunks_mut(TOGETHER) {
            together.iter().for_each(|member| member.subscription.outbox.fetch());
            for Member { connection, subscription } in together {
                let (count, verdict) = hand_to(subscription, run);
                delivered += count;
                match verdict {
                    Verdict::Lost => lost.push(*connection),
                    Verdict::Gap => gaps = true,
                    Verdict::Deliver | Verdict::Held | Verdict::Repeated => {}
                }
            }
        }
        self.metrics.deliveries.inc_by(delivered);
        let is_done = members.is_done();
        for connection in lost {
            self.tell(&run.channel, members, connection);
        }
        if gaps {
            self.begin_repair(feed, audience);
        }
        is_done
    }
}

/// Hands a run to one member: how many publications it was given, and whether it lacks one or has lost continuity.
fn hand_to(subscription: &mut Subscription, run: &Run) -> (u64, Verdict) {
    if subscription.take(run) {
        return (run.held.len() as u64, Verdict::Deliver);
    }
    let (mut delivered, mut verdict) = (0, Verdict::Deliver);
    for held in &run.held {
        match subscription.offer(held, Continues::Next) {
            Verdict::Deliver => delivered += 1,
            Verdict::Gap => verdict = Verdict::Gap,
            Verdict::Held | Verdict::Repeated => {}
            // All that follows would be lost as well.
            Verdict::Lost => return (delivered, Verdict::Lost),
        }
    }
    (delivered, verdict)
}

#[cfg(test)]
mod tests;
