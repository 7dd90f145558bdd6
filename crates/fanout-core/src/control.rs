//! Orders to the bridges, over Redis pub/sub: what the API asks of connections wherever they are held.
//!
//! An order is heard by whoever listens in that moment; nothing is stored.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use fred::interfaces::{HashesInterface, KeysInterface, PubsubInterface};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::channel::Channel;
use crate::data::Data;
use crate::nodes;
use crate::redis::{Redis, RedisError};

/// The pub/sub channel on which every bridge listens.
const EVERYWHERE: &str = "griot:{control}:all";
/// Most channels that one bridge answers a survey with.
pub const MAX_SURVEYED: usize = 10_000;
/// How long a survey waits for bridges that are registered and do not answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often a survey looks for answers.
const LOOK: Duration = Duration::from_millis(20);
/// Seconds that answers are kept, should nobody collect them.
const ANSWER_SECONDS: i64 = 30;

/// What bridges are told to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Give connections a server-side subscription.
    Subscribe(Subscribe),
    /// End subscriptions.
    Unsubscribe {
        /// Whose.
        whom: Whom,
        /// To which channel.
        channel: String,
    },
    /// Close connections.
    Disconnect {
        /// Whose.
        whom: Whom,
        /// Ids of connections that stay.
        whitelist: Vec<String>,
        /// The code that the client is given.
        code: u32,
        /// The reason that the client is given.
        reason: String,
    },
    /// Let connections live longer, or not.
    Refresh {
        /// Whose.
        whom: Whom,
        /// Whether they have expired and are to be closed.
        expired: bool,
        /// Unix seconds at which they expire; 0 is never.
        expire_at: i64,
        /// What replaces the connection's info.
        info: Option<Data>,
    },
    /// Take commands that came by a request of their own.
    Emulate {
        /// The session that the stream was given.
        session: String,
        /// The commands: JSON text, or base64 of protobuf.
        data: String,
        /// Whether it is protobuf.
        protobuf: bool,
    },
    /// Say which channels have subscribers; answered with [`answer`].
    Survey {
        /// Where the answers are collected.
        reply_to: String,
        /// A [glob] of channel names; empty matches all.
        pattern: String,
    },
}

/// Which connections an order means: those of the user, an empty one being the anonymous ones, and of these only the one
/// with the id or the session, where given.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Whom {
    /// The user's id.
    pub user: String,
    /// The connection's id; empty means any.
    pub client: String,
    /// The connection's session; empty means any.
    pub session: String,
}

impl Whom {
    /// Whether the connection is meant.
    pub fn means(&self, user: &str, client: &str, session: &str) -> bool {
        let fits = |wanted: &str, is: &str| wanted.is_empty() || wanted == is;
        self.user == user && fits(&self.client, client) && fits(&self.session, session)
    }
}

/// A server-side subscription.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribe {
    /// Whose.
    pub whom: Whom,
    /// To which channel.
    pub channel: String,
    /// What others see of the client in this channel.
    pub info: Option<Data>,
    /// What the client is given with the subscription.
    pub data: Option<Data>,
    /// Unix seconds at which it expires; 0 is never.
    pub expire_at: i64,
    /// The position from which the client wants to go on.
    pub recover_since: Option<Since>,
    /// Settings of the topic that are others for this subscription.
    pub overrides: Overrides,
}

/// A position as a client names it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Since {
    /// The last offset it has.
    pub offset: u64,
    /// The epoch; empty matches any.
    pub epoch: String,
}

/// Settings of a topic that are others for one subscription, in the fields of the Centrifugal server API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Overrides {
    /// Whether it is kept in the presence.
    pub presence: Option<Switch>,
    /// Whether it is announced.
    pub join_leave: Option<Switch>,
    /// Whether it is told of others that come and leave.
    pub force_push_join_leave: Option<Switch>,
    /// Whether it has a position.
    pub force_positioning: Option<Switch>,
    /// Whether it recovers.
    pub force_recovery: Option<Switch>,
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    /// On.
    pub value: bool,
}

impl Order {
    /// Takes what came on one of the [channels].
    ///
    /// # Errors
    /// Not an order that this version knows.
    pub fn parse(payload: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(payload)
    }
}

/// The pub/sub channels on which the bridge `node` listens.
pub fn channels(node: &str) -> [String; 2] {
    [EVERYWHERE.to_owned(), channel_of(node)]
}

fn channel_of(node: &str) -> String {
    format!("griot:{{control}}:to:{node}")
}

/// Tells every bridge.
///
/// # Errors
/// As any command.
pub async fn everywhere(redis: &Redis, order: &Order) -> Result<(), RedisError> {
    publish(redis, EVERYWHERE.to_owned(), order).await.map(drop)
}

/// Tells the bridge `node`; `false` when none of that name listens.
///
/// # Errors
/// As any command.
pub async fn to(redis: &Redis, node: &str, order: &Order) -> Result<bool, RedisError> {
    Ok(publish(redis, channel_of(node), order).await? > 0)
}

async fn publish(redis: &Redis, channel: String, order: &Order) -> Result<u64, RedisError> {
    let json = serde_json::to_vec(order).map_err(|error| RedisError::Refused(format!("an order: {error}")))?;
    Ok(redis.client().publish(channel, Bytes::from(json)).await?)
}

/// Asks every live bridge which channels match `pattern`, and returns the subscribers of each. A bridge that does not
/// answer in time is left out, and of one with very many channels all but [`MAX_SURVEYED`].
///
/// # Errors
/// As any command.
pub async fn survey(redis: &Redis, pattern: &str) -> Result<BTreeMap<String, u64>, RedisError> {
    let live = nodes::live(redis).await?;
    let reply_to = format!("griot:{{control}}:answers:{}", uuid::Uuid::new_v4());
    everywhere(redis, &Order::Survey { reply_to: reply_to.clone(), pattern: pattern.to_owned() }).await?;
    let deadline = Instant::now() + PATIENCE;
    let mut answers: BTreeMap<String, String> = redis.client().hgetall(reply_to.as_str()).await?;
    while live.iter().any(|node| !answers.contains_key(&node.uid)) && Instant::now() < deadline {
        tokio::time::sleep(LOOK).await;
        answers = redis.client().hgetall(reply_to.as_str()).await?;
    }
    redis.unlink(&[reply_to], None).await?;
    let mut channels = BTreeMap::new();
    for answer in answers.values() {
        let counted: BTreeMap<String, u64> = serde_json::from_str(answer)
            .map_err(|error| RedisError::Refused(format!("an answer to a survey is not one: {error}")))?;
        for (channel, subscribers) in counted {
            *channels.entry(channel).or_default() += subscribers;
        }
    }
    Ok(channels)
}

/// Answers a survey for the bridge `node`: channels that match, each with its subscribers.
///
/// # Errors
/// As any command.
pub async fn answer(
    redis: &Redis,
    reply_to: &str,
    node: &str,
    channels: impl IntoIterator<Item = (Channel, u64)>,
) -> Result<(), RedisError> {
    let channels: BTreeMap<_, _> =
        channels.into_iter().take(MAX_SURVEYED).map(|(channel, count)| (channel.to_string(), count)).collect();
    let json = serde_json::to_string(&channels).unwrap_or_default();
    let pipeline = redis.client().pipeline();
    let () = pipeline.hset(reply_to, (node, json)).await?;
    let () = pipeline.expire(reply_to, ANSWER_SECONDS, None).await?;
    Ok(pipeline.all().await?)
}

/// Whether `name` matches `pattern`, in which `*` stands for any characters, `?` for one, and nothing for everything.
pub fn glob(pattern: &str, name: &str) -> bool {
    if pattern.is_empty() {
        return true;
    }
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    // Where the last `*` stands, and how far the name is if that `*` stands for nothing more.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[n] => (p, n) = (p + 1, n + 1),
            _ => {
                let Some((at, taken)) = star else { return false };
                star = Some((at, taken + 1));
                (p, n) = (at + 1, taken + 1);
            }
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_comes_back_as_it_was_given() {
        let order = Order::Subscribe(Subscribe {
            whom: Whom { user: "42".into(), ..Whom::default() },
            channel: "news".into(),
            info: Some(Data::parse("{\"big\":9007199254740993}").expect("json")),
            data: None,
            expire_at: 0,
            recover_since: Some(Since { offset: 3, epoch: "e".into() }),
            overrides: Overrides { presence: Some(Switch { value: false }), ..Overrides::default() },
        });
        let json = serde_json::to_vec(&order).expect("json");
        assert_eq!(Order::parse(&json).expect("order"), order);
    }

    #[test]
    fn an_empty_user_means_the_anonymous_ones() {
        let anonymous = Whom { client: "c".into(), ..Whom::default() };
        assert!(anonymous.means("", "c", "s") && !anonymous.means("42", "c", "s") && !anonymous.means("", "d", "s"));
    }

    #[test]
    fn a_glob_matches_the_whole_name() {
        for (pattern, name, matches) in [
            ("", "orders", true),
            ("*", "orders", true),
            ("orders:*", "orders:#42", true),
            ("orders:*", "orders", false),
            ("*:#4", "orders:#42", false),
            ("*4*2", "orders:#4442", true),
            ("order?", "orders", true),
            ("order?", "order", false),
            ("orders", "orders:#4", false),
        ] {
            assert_eq!(glob(pattern, name), matches, "{pattern:?} {name:?}");
        }
    }
}
