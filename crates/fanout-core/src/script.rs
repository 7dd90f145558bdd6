//! The scripts that run inside Redis, each behind the fence.

use std::sync::LazyLock;

use bytes::Bytes;
use fred::types::Value;
use fred::types::scripts::Script;

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

/// Runs `script` for the partition with `prefix`; `arguments` follow those that the fence needs.
pub(crate) async fn run<T: fred::types::FromValue>(
    redis: &Redis,
    script: &Script,
    prefix: &str,
    arguments: Vec<Bytes>,
) -> Result<T, RedisError> {
    let config = redis.config();
    let fence = if config.fence { "1" } else { "0" };
    let mut all: Vec<Value> = Vec::with_capacity(arguments.len() + 2);
    all.push(fence.into());
    all.push(config.position_ttl_seconds.to_string().into());
    all.extend(arguments.into_iter().map(Value::Bytes));
    Ok(script.evalsha_with_reload(redis.client(), prefix, all).await?)
}
