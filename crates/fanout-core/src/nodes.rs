//! The bridges that are alive: each announces itself every few seconds, and what is not announced any more is gone.

use std::time::Duration;

use fred::interfaces::{HashesInterface, KeysInterface};
use fred::types::Expiration;
use serde::{Deserialize, Serialize};

use crate::redis::{Redis, RedisError};

/// How often a bridge announces itself.
pub const EVERY: Duration = Duration::from_secs(3);
/// Seconds that an announcement counts.
const LIFE_SECONDS: i64 = 10;
/// The hash with the ids of all bridges that may be alive.
const IDS: &str = "griot:{control}:nodes";

/// A bridge, in the fields of the Centrifugal server API.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Node {
    /// Another one for each start.
    pub uid: String,
    /// For people: the host's name, say.
    pub name: String,
    /// Of Griot.
    pub version: String,
    /// Connections.
    pub num_clients: u64,
    /// Different users among them.
    pub num_users: u64,
    /// Subscriptions.
    pub num_subs: u64,
    /// Channels with subscriptions.
    pub num_channels: u64,
    /// Seconds since the start.
    pub uptime: u64,
}

/// Says that the bridge is alive.
///
/// # Errors
/// As any command.
pub async fn announce(redis: &Redis, node: &Node) -> Result<(), RedisError> {
    let json = serde_json::to_string(node).unwrap_or_default();
    let () = redis.client().set(key(&node.uid), json, Some(Expiration::EX(LIFE_SECONDS)), None, false).await?;
    Ok(redis.client().hset(IDS, (node.uid.as_str(), "")).await?)
}

/// Says that the bridge ends.
///
/// # Errors
/// As any command; it is then gone when its last announcement expires.
pub async fn leave(redis: &Redis, uid: &str) -> Result<(), RedisError> {
    let () = redis.client().del(key(uid)).await?;
    Ok(redis.client().hdel(IDS, uid).await?)
}

/// The bridges that are alive, by their ids.
///
/// # Errors
/// As any command.
pub async fn live(redis: &Redis) -> Result<Vec<Node>, RedisError> {
    let mut ids: Vec<String> = redis.client().hkeys(IDS).await?;
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    ids.sort();
    let keys: Vec<String> = ids.iter().map(|uid| key(uid)).collect();
    let announced: Vec<Option<String>> = redis.client().mget(keys).await?;
    // One that announces itself in this moment is listed again by its next announcement.
    let gone: Vec<String> =
        ids.into_iter().zip(&announced).filter(|(_, node)| node.is_none()).map(|(id, _)| id).collect();
    if !gone.is_empty() {
        let () = redis.client().hdel(IDS, gone).await?;
    }
    Ok(announced.into_iter().flatten().filter_map(|node| serde_json::from_str(&node).ok()).collect())
}

fn key(uid: &str) -> String {
    format!("griot:{{control}}:node:{uid}")
}
