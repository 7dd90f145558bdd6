//! What the bridges tell: which there are, and which channels have subscribers.

use std::collections::BTreeMap;

use fanout_core::nodes::{self, Node};
use fanout_core::{Publisher, control};
use serde::{Deserialize, Serialize};

use super::ApiError;

/// The body of `channels`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Channels {
    /// `*` stands for any characters, `?` for one; empty matches all.
    pub pattern: String,
}

/// The body of `info`, of which nothing is read.
#[derive(Debug, Default, Deserialize)]
pub struct Info {}

/// The channels that have subscribers; of one bridge at most [`control::MAX_SURVEYED`].
#[derive(Debug, Serialize)]
pub struct Subscribed {
    /// By name.
    pub channels: BTreeMap<String, Subscribers>,
}

/// How many subscribe.
#[derive(Debug, Serialize)]
pub struct Subscribers {
    /// Connections.
    pub num_clients: u64,
}

/// The bridges that are alive.
#[derive(Debug, Serialize)]
pub struct Nodes {
    /// By their ids.
    pub nodes: Vec<Node>,
}

impl Channels {
    pub(crate) async fn survey(self, publisher: &Publisher) -> Result<Subscribed, ApiError> {
        let counted = control::survey(publisher.redis(), &self.pattern).await?;
        let channels = counted.into_iter().map(|(name, num_clients)| (name, Subscribers { num_clients })).collect();
        Ok(Subscribed { channels })
    }
}

pub(crate) async fn info(publisher: &Publisher) -> Result<Nodes, ApiError> {
    Ok(Nodes { nodes: nodes::live(publisher.redis()).await? })
}
