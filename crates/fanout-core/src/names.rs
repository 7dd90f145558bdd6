//! How Griot's keys and pub/sub channels are named in Redis, and which partition a feed belongs to.
//!
//! Every name carries its partition's tag, `griot:{TAG}:…`, on every kind of deployment, so that moving from one Redis
//! to a cluster renames nothing.

use std::fmt;
use std::sync::Arc;

use fred::util::redis_keyslot;

use crate::channel::{Channel, UserId};

/// Hash slots of a Redis cluster.
const SLOTS: usize = 16_384;
/// Most partitions: one for every eighth slot, far beyond the primaries of any cluster.
pub const MAX_PARTITIONS: u16 = 2_048;
/// The hash that records what all processes of a deployment must agree on.
pub const DEPLOYMENT: &str = "griot:{deployment}";

/// The unit in Redis: one per user (all personal channels of that user), one per broadcast or named channel.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Feed(Arc<str>);

impl Feed {
    /// The feed that carries `channel`.
    pub fn of(channel: &Channel) -> Self {
        match channel.owner() {
            Some(owner) => Self(format!("u:{owner}").into()),
            None => Self(format!("c:{channel}").into()),
        }
    }

    /// Whether this is the feed that carries `channel`.
    pub fn carries(&self, channel: &Channel) -> bool {
        match channel.owner() {
            Some(owner) => self.0.strip_prefix("u:") == Some(owner),
            None => self.0.strip_prefix("c:") == Some(channel.as_str()),
        }
    }

    /// The channel on which this feed carries publications of `topic`.
    ///
    /// The owner comes from the feed and never from the publication: what reaches a user was published to that user.
    pub fn channel(&self, topic: &str) -> Option<Channel> {
        match self.0.split_at_checked(2)? {
            ("u:", user) => Channel::personal(topic, &UserId::parse(user).ok()?).ok(),
            ("c:", name) => Channel::parse(name).ok().filter(|channel| channel.topic() == topic),
            _ => None,
        }
    }

    /// The feed's text, `u:USER` or `c:CHANNEL`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The partitions of a deployment, by the prefix of their names.
#[derive(Debug, Clone)]
pub struct Partitions(Arc<[Box<str>]>);

impl Partitions {
    /// `count` partitions, whose tags lie evenly over the hash slots; the same for every process with the same count.
    pub fn new(count: u16) -> Self {
        let count = usize::from(count.clamp(1, MAX_PARTITIONS));
        let width = SLOTS / count;
        let prefix = |partition: usize| {
            let wanted = |tag: &String| {
                let slot = usize::from(redis_keyslot(tag.as_bytes()));
                slot.abs_diff(partition * width + width / 2) <= width / 4
            };
            let mut tags = (0_u32..).map(|n| format!("{partition:x}.{n:x}"));
            let tag = tags.find(wanted).unwrap_or_default();
            format!("griot:{{{tag}}}:").into_boxed_str()
        };
        Self((0..count).map(prefix).collect())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The partition of `feed`.
    pub fn of(&self, feed: &Feed) -> usize {
        usize::from(redis_keyslot(feed.as_str().as_bytes())) * self.count() / SLOTS
    }

    /// How the names of partition `index` begin: `griot:{TAG}:`.
    pub fn prefix(&self, index: usize) -> &str {
        &self.0[index]
    }

    /// The Redis pub/sub channel of `feed`.
    pub fn pubsub(&self, feed: &Feed) -> String {
        format!("{}feed:{feed}", self.prefix(self.of(feed)))
    }

    /// The feed of a Redis pub/sub channel, when it is one.
    pub fn feed(pubsub: &str) -> Option<Feed> {
        Self::split(pubsub).map(|(_, feed)| Feed(feed.into()))
    }

    /// The partition's prefix and the feed's text in such a name.
    pub(crate) fn split(pubsub: &str) -> Option<(&str, &str)> {
        let (tag, _) = pubsub.strip_prefix("griot:{")?.split_once('}')?;
        let (prefix, rest) = pubsub.split_at_checked("griot:{}:".len() + tag.len())?;
        Some((prefix, rest.strip_prefix("feed:")?)).filter(|_| prefix.ends_with(':'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_has_one_feed_and_a_feed_leads_back_to_its_channels() {
        let orders = Channel::parse("orders:#a{b}c").expect("channel");
        let wallet = Channel::parse("wallet-updates:#a{b}c").expect("channel");
        assert_eq!(Feed::of(&orders), Feed::of(&wallet));
        assert_eq!(Feed::of(&orders).channel("wallet-updates").as_ref(), Some(&wallet));
        assert!(Feed::of(&orders).carries(&wallet) && orders.shares_owner(&wallet));
        let partitions = Partitions::new(64);
        assert_eq!(Partitions::feed(&partitions.pubsub(&Feed::of(&orders))), Some(Feed::of(&orders)));
        for name in ["orders", "griot:{deployment}", "griot:{1.0}:position:u:42", "griot:{1.0:feed:u:42", "griot:{"] {
            assert_eq!(Partitions::feed(name), None, "{name}");
        }
    }

    #[test]
    fn a_channel_feed_carries_no_other_topic() {
        let room = Feed::of(&Channel::parse("orders:room").expect("channel"));
        assert!(room.channel("orders").is_some());
        assert_eq!(room.channel("notifications"), None);
        let (other, personal) = (Channel::parse("orders"), Channel::parse("orders:#room"));
        assert!(![other, personal].into_iter().flatten().any(|other| room.carries(&other)));
    }

    #[test]
    fn partitions_lie_evenly_over_the_slots() {
        for count in [1, 3, 64, MAX_PARTITIONS] {
            let partitions = Partitions::new(count);
            let width = SLOTS / usize::from(count);
            for index in 0..partitions.count() {
                let slot = usize::from(redis_keyslot(partitions.prefix(index).as_bytes()));
                assert_eq!((slot / width).min(usize::from(count) - 1), index, "{count} partitions");
            }
        }
    }
}
