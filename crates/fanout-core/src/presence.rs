//! Who is subscribed to a channel, on whichever bridge; members that nobody refreshes expire.

use std::time::Duration;

use bytes::Bytes;
use fred::types::Value;

use crate::channel::Channel;
use crate::client::ClientInfo;
use crate::envelope::Presence;
use crate::names::Feed;
use crate::redis::{Redis, RedisError};
use crate::script;

/// Most members that [`read`] returns of one channel; [`stats`] counts them all.
pub const MAX_MEMBERS: usize = 5_000;
/// Members in one round of calls: bounds how long the server's main thread is held.
const BATCH: usize = 256;

/// A client in a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The channel.
    pub channel: Channel,
    /// The client; its connection's id tells members of a channel apart.
    pub info: ClientInfo,
    /// Whether it is kept, so that readers of the presence see it.
    pub keeps: bool,
    /// Whether subscribers are told that it came and left.
    pub announces: bool,
}

/// How many are in a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Connections.
    pub clients: u64,
    /// Different users among them; all anonymous ones count as one.
    pub users: u64,
}

/// Adds `members` for `ttl`, and announces those that were not there. A member that is not kept is announced each time.
///
/// # Errors
/// As any command. Some of the members may have been added; doing it again announces none of those twice.
pub async fn enter(redis: &Redis, members: &[Member], ttl: Duration) -> Result<(), RedisError> {
    change(redis, "enter", members, ttl, |member| member.joined()).await
}

/// Lets `members` live for another `ttl`; those that Redis has lost are there again. Nothing is announced.
///
/// A refresh that arrives after the leave of its member brings it back until it expires: whoever holds the client sends
/// one after the other.
///
/// # Errors
/// As any command.
pub async fn refresh(redis: &Redis, members: &[Member], ttl: Duration) -> Result<(), RedisError> {
    let silent: Vec<Member> = members.iter().map(|member| Member { announces: false, ..member.clone() }).collect();
    change(redis, "refresh", &silent, ttl, |member| member.joined()).await
}

/// Removes `members`, and announces those that were there. A member that is not kept is announced each time.
///
/// # Errors
/// As any command. Some of the members may have been removed; doing it again announces none of those twice.
pub async fn leave(redis: &Redis, members: &[Member]) -> Result<(), RedisError> {
    change(redis, "leave", members, Duration::ZERO, |member| member.left()).await
}

/// The members of `channel`, at most [`MAX_MEMBERS`], those that are refreshed last of all left out.
///
/// # Errors
/// As any command.
pub async fn read(redis: &Redis, channel: &Channel) -> Result<Vec<ClientInfo>, RedisError> {
    let members = ask(redis, "read", channel).await?;
    let info = |member: &Value| serde_json::from_slice(member.as_bytes()?).ok();
    let infos: Option<Vec<_>> = members.iter().map(info).collect();
    infos.ok_or_else(|| RedisError::Refused("a member of unknown form".into()))
}

/// How many are in `channel`.
///
/// # Errors
/// As any command.
pub async fn stats(redis: &Redis, channel: &Channel) -> Result<Stats, RedisError> {
    match ask(redis, "stats", channel).await?.iter().map(Value::as_u64).collect::<Vec<_>>()[..] {
        [Some(clients), Some(users)] => Ok(Stats { clients, users }),
        _ => Err(RedisError::Refused("presence stats of unknown form".into())),
    }
}

async fn change(
    redis: &Redis,
    operation: &'static str,
    members: &[Member],
    ttl: Duration,
    notice: fn(&Presence<'_>) -> Vec<u8>,
) -> Result<(), RedisError> {
    let head = head(operation, ttl);
    for round in members.chunks(BATCH) {
        let asked: Vec<_> = round.iter().map(|member| arguments(member, notice)).collect();
        script::run_each(redis, &script::PRESENCE, &head, &asked).await?;
    }
    Ok(())
}

async fn ask(redis: &Redis, operation: &'static str, channel: &Channel) -> Result<Vec<Value>, RedisError> {
    let feed = Feed::of(channel);
    let arguments = vec![text(feed.as_str()), text(channel.as_str()), Bytes::from(MAX_MEMBERS.to_string())];
    let head = head(operation, Duration::ZERO);
    let answers = script::run_each(redis, &script::PRESENCE, &head, &[(feed, arguments)]).await?;
    Ok(answers.into_iter().next().unwrap_or_default())
}

fn head(operation: &'static str, ttl: Duration) -> [Bytes; 3] {
    let ttl = Bytes::from(ttl.as_millis().to_string());
    [Bytes::from_static(operation.as_bytes()), ttl, Bytes::from_static(b"PUBLISH")]
}

fn arguments(member: &Member, notice: fn(&Presence<'_>) -> Vec<u8>) -> (Feed, Vec<Bytes>) {
    let feed = Feed::of(&member.channel);
    let presence = Presence { topic: member.channel.topic().into(), info: member.info.clone() };
    let arguments = vec![
        text(feed.as_str()),
        text(member.channel.as_str()),
        text(&member.info.client),
        text(&member.info.user),
        Bytes::from(serde_json::to_vec(&member.info).unwrap_or_default()),
        Bytes::from_static(if member.keeps { b"1" } else { b"0" }),
        if member.announces { Bytes::from(notice(&presence)) } else { Bytes::new() },
    ];
    (feed, arguments)
}

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}
