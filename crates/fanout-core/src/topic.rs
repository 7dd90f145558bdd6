//! Topics: the configured kinds of event, and what may be done with each.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::channel::{Channel, UserId, is_topic_name};

/// How the personal channels of a topic come to be subscribed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Personal {
    /// The bridge subscribes every user to the own channel on connect.
    Auto,
    /// The user may subscribe to the own channel.
    OnRequest,
    /// The topic has no personal channels.
    Off,
}

/// Who may do something with the channels of a topic. Other users' personal channels are nobody's business ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Who {
    /// Backends only, over the API.
    #[default]
    Nobody,
    /// Whoever is subscribed to the channel.
    Subscribers,
    /// Every signed-in user.
    Users,
}

/// What a topic keeps and permits. Nothing is public unless it says so.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Topic {
    /// Publications kept per channel, on a conflated topic the newest of so many keys; 0 keeps none, and the topic then
    /// has no positions.
    pub history_size: u32,
    /// Seconds that a channel's history outlives its last publication.
    pub history_ttl_seconds: u32,
    /// How personal channels are subscribed: `auto`, `on-request` or `off`.
    pub personal: Personal,
    /// Whether every signed-in user may subscribe to the broadcast channel `TOPIC`.
    pub broadcast: bool,
    /// Whether every signed-in user may subscribe to named channels `TOPIC:NAME`.
    pub named: bool,
    /// Whether a newer publication replaces an older one with the same conflation key, while that waits for a slow
    /// connection and in the history. A publication without a key replaces nothing.
    pub conflate: bool,
    /// Whether the bridges listen to plain `PUBLISH TOPIC` of any Redis client.
    pub raw: bool,
    /// Whether it is kept who is subscribed.
    pub presence: bool,
    /// Whether joins and leaves are announced, to subscribers who ask for it and may see the presence.
    pub join_leave: bool,
    /// Whether all subscribers are told of joins and leaves.
    pub force_join_leave: bool,
    /// Whether clients without a user may do what signed-in users may.
    pub anonymous: bool,
    /// Which clients may publish: `nobody`, `subscribers` or `users`.
    pub publish: Who,
    /// Which clients may see who is subscribed: `nobody`, `subscribers` or `users`.
    pub see_presence: Who,
    /// Which clients may read the history: `nobody`, `subscribers` or `users`.
    pub see_history: Who,
}

impl Default for Topic {
    fn default() -> Self {
        Self {
            history_size: 100,
            history_ttl_seconds: 600,
            personal: Personal::Auto,
            broadcast: false,
            named: false,
            conflate: false,
            raw: false,
            presence: false,
            join_leave: false,
            force_join_leave: false,
            anonymous: false,
            publish: Who::Nobody,
            see_presence: Who::Nobody,
            see_history: Who::Nobody,
        }
    }
}

impl Topic {
    /// Whether channels of this topic have positions.
    pub fn keeps_history(&self) -> bool {
        self.history_size > 0 && self.history_ttl_seconds > 0
    }

    /// Whether `user`, or one without a name, may subscribe to `channel`, which must belong to this topic.
    pub fn may_subscribe(&self, user: Option<&UserId>, channel: &Channel) -> bool {
        match channel.owner() {
            Some(owner) => self.personal != Personal::Off && user.is_some_and(|user| user.as_str() == owner),
            None => (user.is_some() || self.anonymous) && if channel.is_bare() { self.broadcast } else { self.named },
        }
    }

    /// Whether `user`, or one without a name, is among those `who` may: with `channel`, which must belong to this topic
    /// and to which the client is `subscribed`, or not.
    pub fn permits(&self, who: Who, user: Option<&UserId>, channel: &Channel, subscribed: bool) -> bool {
        let own = channel.owner().is_none_or(|owner| user.is_some_and(|user| user.as_str() == owner));
        let known = user.is_some() || self.anonymous;
        own && known
            && match who {
                Who::Nobody => false,
                Who::Subscribers => subscribed,
                Who::Users => true,
            }
    }
}

/// All topics of a deployment. Every worker must be given the same ones.
#[derive(Debug, Clone)]
pub struct Topics {
    by_name: BTreeMap<String, Topic>,
    default: Option<Topic>,
}

impl Topics {
    /// The topics of the configuration; where it names none, `orders`, `notifications` and `wallet-updates`.
    ///
    /// # Errors
    /// A sentence when a name cannot be a topic's.
    pub fn new(configured: Option<BTreeMap<String, Topic>>, default: Option<Topic>) -> Result<Self, String> {
        let by_name = configured.unwrap_or_else(Self::built_in);
        match by_name.keys().find(|name| !is_topic_name(name)) {
            Some(name) => {
                Err(format!("[topics.{name:?}]: a topic's name is 1 to 64 of the characters A-Z a-z 0-9 `_` `.` `-`"))
            }
            None => Ok(Self { by_name, default }),
        }
    }

    fn built_in() -> BTreeMap<String, Topic> {
        let topic = Topic { raw: true, ..Topic::default() };
        let conflated = Topic { conflate: true, ..topic.clone() };
        [("orders", topic.clone()), ("notifications", topic), ("wallet-updates", conflated)]
            .map(|(name, topic)| (name.to_owned(), topic))
            .into()
    }

    /// The topic of a channel: `None` is error 102, unknown channel.
    pub fn of(&self, channel: &Channel) -> Option<&Topic> {
        self.by_name.get(channel.topic()).or_else(|| self.default.as_ref().filter(|_| channel.is_bare()))
    }

    /// Every named topic, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Topic)> {
        self.by_name.iter().map(|(name, topic)| (name.as_str(), topic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_public_unless_a_topic_says_so() {
        let topics = Topics::new(None, None).expect("built in");
        let user = UserId::parse("42").expect("user");
        let may = |name: &str| {
            let channel = Channel::parse(name).expect(name);
            topics.of(&channel).map(|topic| topic.may_subscribe(Some(&user), &channel))
        };
        assert_eq!(may("orders:#42"), Some(true));
        assert_eq!(may("orders:#4"), Some(false));
        assert_eq!(may("orders"), Some(false));
        assert_eq!(may("orders:room"), Some(false));
        assert_eq!(may("elsewhere"), None);
        assert_eq!(may("elsewhere:#42"), None);
    }

    #[test]
    fn only_bare_names_fall_to_the_default_topic() {
        let default = Topic { broadcast: true, named: true, ..Topic::default() };
        let topics = Topics::new(None, Some(default)).expect("built in");
        assert!(topics.of(&Channel::parse("chat").expect("name")).is_some());
        assert!(topics.of(&Channel::parse("chat:room").expect("name")).is_none());
    }
}
