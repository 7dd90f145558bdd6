//! The audience of one feed: which connections have which of its channels, and what all of them have heard.

use fanout_core::envelope::{Envelope, Epoch};
use fanout_core::history::Since;
use fanout_core::position::FeedPosition;
use fanout_core::{Channel, Topic, Topics};

use crate::backlog::Backlog;
use crate::members::{Member, Members};
use crate::repair::{Found, Repair};
use crate::room::Room;

/// See the module. A user's feed has a handful of channels, any other has one.
#[derive(Default)]
pub(crate) struct Audience {
    pub(crate) channels: Vec<(Channel, Members)>,
    /// Epoch and sequence number of the last publication that came.
    heard: Option<(Epoch, u64)>,
    /// While something may be missing.
    pub(crate) repair: Option<Box<Repair>>,
    /// What waits for its turn to go to many members.
    pub(crate) backlog: Option<Box<Backlog>>,
}

impl Audience {
    /// The members of `channel`, which is added when it is not there.
    pub(crate) fn of(&mut self, channel: &Channel) -> &mut Members {
        let index = self.channels.iter().position(|(known, _)| known == channel).unwrap_or_else(|| {
            self.channels.reserve_exact(1);
            self.channels.push((channel.clone(), Members::default()));
            self.channels.len() - 1
        });
        &mut self.channels[index].1
    }

    /// The members of `channel`, if there are any.
    pub(crate) fn members(&mut self, channel: &Channel) -> Option<&mut Members> {
        let (_, members) = self.channels.iter_mut().find(|(known, _)| known == channel)?;
        Some(members).filter(|members| !members.is_empty())
    }

    /// The channel of `topic`, of which a feed carries at most one, when somebody has it.
    pub(crate) fn channel(&self, topic: &str) -> Option<Channel> {
        let (channel, _) =
            self.channels.iter().find(|(channel, members)| channel.topic() == topic && !members.is_empty())?;
        Some(channel.clone())
    }

    /// Takes note of a publication that came; `false` when one before it did not, on whichever channel of the feed.
    pub(crate) fn hears(&mut self, envelope: &Envelope<'_>) -> bool {
        let (epoch, sequence) = (envelope.position.epoch, envelope.sequence);
        if self.heard.is_some_and(|(known, last)| known == epoch && sequence > last + 1) {
            return false;
        }
        self.heard = Some((epoch, sequence));
        true
    }

    /// What the members lack of channels that stand at `position`, now that all that was published before has arrived.
    pub(crate) fn missing(&self, position: &FeedPosition, topics: &Topics) -> Vec<Since> {
        let Some(repair) = &self.repair else { return Vec::new() };
        let lacks = |(channel, members): &(Channel, Members)| {
            let topic = topics.of(channel).filter(|topic| topic.keeps_history())?;
            let top = position.of(channel.topic());
            let known = members.subscriptions().filter_map(|member| member.live().flatten());
            let oldest = known.filter(|known| known.epoch == top.epoch).map(|known| known.offset).min()?;
            if oldest >= top.offset || repair.holds(channel, top.epoch, oldest, top.offset) {
                return None;
            }
            let (channel, conflated) = (channel.clone(), topic.conflate);
            Some(Since { channel, conflated, epoch: top.epoch.to_string(), offset: oldest })
        };
        self.channels.iter().filter_map(lacks).collect()
    }

    /// Marks the members whose continuity is lost: those of another epoch, and those for whom `found` came too late.
    /// Without a position, which Redis refused to give, that is everybody who had one. Returns how many they are.
    pub(crate) fn lose(&mut self, position: Option<&FeedPosition>, found: &[Found], topics: &Topics) -> usize {
        let mut lost = 0;
        for (channel, members) in &mut self.channels {
            if !topics.of(channel).is_some_and(Topic::keeps_history) {
                continue;
            }
            let top = position.map(|position| position.of(channel.topic()));
            let incomplete = found.iter().any(|(since, envelopes)| since.channel == *channel && envelopes.is_none());
            for Member { connection, subscription: member } in members.iter_mut() {
                let Some(known) = member.live() else { continue };
                let keeps = match (known, top) {
                    (Some(known), Some(top)) => known.epoch == top.epoch && !(incomplete && known.offset < top.offset),
                    _ => false,
                };
                if keeps {
                    continue;
                }
                match &mut self.repair {
                    // Its position may be newer than the one that it is compared with.
                    Some(repair) if repair.fresh.contains(connection) => repair.again = true,
                    _ => {
                        member.lose(channel);
                        lost += 1;
                    }
                }
            }
        }
        lost
    }

    /// Ends this round of the repair, after which `heard` is the last publication that came; says whether another round
    /// is needed.
    pub(crate) fn repaired(&mut self, heard: Option<(Epoch, u64)>, room: &Room) -> bool {
        self.heard = heard;
        let again = self.repair.take().is_some_and(|repair| repair.again);
        self.repair = again.then(|| Box::new(Repair::new(room)));
        again
    }

    /// Removes channels without members; says whether nobody is left.
    pub(crate) fn tidy(&mut self) -> bool {
        self.channels.retain(|(_, members)| !members.is_empty());
        self.channels.is_empty()
    }
}
