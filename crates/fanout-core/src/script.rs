//! The scripts that run inside Redis, each behind the fence.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use bytes::Bytes;
use fred::types::Value;
use fred::types::scripts::Script;

use crate::names::Feed;
use crate::redis::{Redis, RedisError};

macro_rules! fenced {
    ($file:literal) => {
        LazyLock::new(|| Script::from_lua(concat!(include_str!("lua/fence.lua"), include_str!($file))))
    };
}

/// Publishes a batch of publications of one partition.
pub(crate) static PUBLISH: LazyLock<Script> = fenced!("lua/publish.lua");
/// Reads positions of feeds of one partition.
pub(crate) static POSITIONS: LazyLock<Script> = fenced!("lua/positions.lua");

/// Reads what channels published after a position.
pub(crate) static HISTORY: LazyLock<Script> = fenced!("lua/history.lua");

/// Reads a page of a channel's history.
pub(crate) static PAGE: LazyLock<Script> = fenced!("lua/page.lua");

/// Changes who is present in channels of one partition, and reads it.
pub(crate) static PRESENCE: LazyLock<Script> = fenced!("lua/presence.lua");

/// Runs `script` for what each of `asked` is about, one pipelined call per partition; answers come in the order asked.
///
/// `head` precedes the arguments of the members in every call.
pub(crate) async fn run_each(
    redis: &Redis,
    script: &Script,
    head: &[Bytes],
    asked: &[(Feed, Vec<Bytes>)],
) -> Result<Vec<Vec<Value>>, RedisError> {
    let mut partitions: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (index, (feed, _)) in asked.iter().enumerate() {
        partitions.entry(redis.partitions().of(feed)).or_default().push(index);
    }
    let calls = partitions.into_iter().map(|(partition, members)| async move {
        let arguments = members.iter().flat_map(|index| asked[*index].1.iter().cloned());
        let arguments = head.iter().cloned().chain(arguments).collect();
        let answers: Vec<Vec<Value>> = run(redis, script, &[partition], arguments).await?;
        if answers.len() != members.len() {
            return Err(RedisError::Refused("a script gave fewer answers than it was asked".into()));
        }
        Ok(members.into_iter().zip(answers))
    });
    let mut answers = vec![Vec::new(); asked.len()];
    for (index, answer) in futures::future::try_join_all(calls).await?.into_iter().flatten() {
        answers[index] = answer;
    }
    Ok(answers)
}

/// Runs `script` for `partitions`, all of one server; `arguments` follow those that the fence needs.
pub(crate) async fn run<T: fred::types::FromValue>(
    redis: &Redis,
    script: &Script,
    partitions: &[usize],
    arguments: Vec<Bytes>,
) -> Result<T, RedisError> {
    let fenced = redis.config().fenced().map(Value::from);
    let all: Vec<Value> = fenced.into_iter().chain(arguments.into_iter().map(Value::Bytes)).collect();
    let keys: Vec<&str> = partitions.iter().map(|partition| redis.partitions().prefix(*partition)).collect();
    Ok(script.evalsha_with_reload(redis.client(), keys, all).await?)
}
