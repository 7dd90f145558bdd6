//! What the bridge answers.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use serde::{Deserialize, Serialize};

use super::{ClientInfo, Publication, Push, is_default};
use crate::protocol::raw;

/// What the bridge sends. Without anything it is a ping.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct Reply {
    /// The command's id; 0 in pushes.
    #[prost(uint32, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub id: u32,
    /// The command failed.
    #[prost(message, optional, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub error: Option<Error>,
    /// Nobody asked for it.
    #[prost(message, optional, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub push: Option<Push>,
    /// Signed in.
    #[prost(message, optional, tag = "5")]
    #[serde(skip_serializing_if = "is_default")]
    pub connect: Option<ConnectResult>,
    /// Subscribed.
    #[prost(message, optional, tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub subscribe: Option<SubscribeResult>,
    /// Unsubscribed.
    #[prost(message, optional, tag = "7")]
    #[serde(skip_serializing_if = "is_default")]
    pub unsubscribe: Option<Empty>,
    /// Published.
    #[prost(message, optional, tag = "8")]
    #[serde(skip_serializing_if = "is_default")]
    pub publish: Option<Empty>,
    /// Who is there.
    #[prost(message, optional, tag = "9")]
    #[serde(skip_serializing_if = "is_default")]
    pub presence: Option<PresenceResult>,
    /// How many are there.
    #[prost(message, optional, tag = "10")]
    #[serde(skip_serializing_if = "is_default")]
    pub presence_stats: Option<PresenceStatsResult>,
    /// What was published.
    #[prost(message, optional, tag = "11")]
    #[serde(skip_serializing_if = "is_default")]
    pub history: Option<HistoryResult>,
    /// What the application says.
    #[prost(message, optional, tag = "13")]
    #[serde(skip_serializing_if = "is_default")]
    pub rpc: Option<RpcResult>,
    /// The connection token was taken.
    #[prost(message, optional, tag = "14")]
    #[serde(skip_serializing_if = "is_default")]
    pub refresh: Option<RefreshResult>,
    /// The subscription token was taken.
    #[prost(message, optional, tag = "15")]
    #[serde(skip_serializing_if = "is_default")]
    pub sub_refresh: Option<Expiry>,
}

/// Nothing to say; as a result it must be there all the same.
#[derive(Clone, Copy, PartialEq, Eq, Message, Serialize, Deserialize)]
pub struct Empty {}

/// Why a command failed.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct Error {
    /// See [`crate::codes`].
    #[prost(uint32, tag = "1")]
    pub code: u32,
    /// The standard text of the code.
    #[prost(string, tag = "2")]
    pub message: String,
    /// Whether the client may simply try again.
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub temporary: bool,
}

/// Signed in.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct ConnectResult {
    /// The connection's id.
    #[prost(string, tag = "1")]
    pub client: String,
    /// The bridge's version.
    #[prost(string, tag = "2")]
    pub version: String,
    /// Whether the client must refresh its token.
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub expires: bool,
    /// Seconds until then. Always there when `expires`, because centrifuge-python reads it without a default.
    #[prost(uint32, optional, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub ttl: Option<u32>,
    /// The server-side subscriptions.
    #[prost(btree_map = "string, message", tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub subs: BTreeMap<String, SubscribeResult>,
    /// Seconds between pings of the bridge.
    #[prost(uint32, tag = "7")]
    #[serde(skip_serializing_if = "is_default")]
    pub ping: u32,
    /// The client must answer pings.
    #[prost(bool, tag = "8")]
    #[serde(skip_serializing_if = "is_default")]
    pub pong: bool,
    /// The secret by which later commands name this connection, on transports that need one.
    #[prost(string, tag = "9")]
    #[serde(skip_serializing_if = "is_default")]
    pub session: String,
    /// The bridge that holds the connection, on transports that need to name it.
    #[prost(string, tag = "10")]
    #[serde(skip_serializing_if = "is_default")]
    pub node: String,
}

/// Subscribed.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct SubscribeResult {
    /// Whether the client must refresh its subscription token.
    #[prost(bool, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub expires: bool,
    /// Seconds until then.
    #[prost(uint32, optional, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub ttl: Option<u32>,
    /// The client may keep the position and recover from it.
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub recoverable: bool,
    /// The channel's epoch.
    #[prost(string, tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub epoch: String,
    /// What the client missed, oldest first.
    #[prost(message, repeated, tag = "7")]
    #[serde(skip_serializing_if = "is_default")]
    pub publications: Vec<Publication>,
    /// Whether the client missed nothing.
    #[prost(bool, tag = "8")]
    #[serde(skip_serializing_if = "is_default")]
    pub recovered: bool,
    /// The position's offset; of a recovered subscription the one that was asked for, since the client counts on through
    /// `publications` by itself.
    #[prost(uint64, tag = "9")]
    #[serde(skip_serializing_if = "is_default")]
    pub offset: u64,
    /// The bridge watches the position.
    #[prost(bool, tag = "10")]
    #[serde(skip_serializing_if = "is_default")]
    pub positioned: bool,
    /// What the subscription token says to the client.
    #[prost(bytes = "bytes", tag = "11")]
    #[serde(with = "raw", skip_serializing_if = "is_default")]
    pub data: Bytes,
    /// The client asked to recover.
    #[prost(bool, tag = "12")]
    #[serde(skip_serializing_if = "is_default")]
    pub was_recovering: bool,
}

/// Who is there.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct PresenceResult {
    /// By the connection's id.
    #[prost(btree_map = "string, message", tag = "1")]
    pub presence: BTreeMap<String, ClientInfo>,
}

/// How many are there; written even when nobody is.
#[derive(Clone, Copy, PartialEq, Eq, Message, Serialize)]
pub struct PresenceStatsResult {
    /// Connections.
    #[prost(uint32, tag = "1")]
    pub num_clients: u32,
    /// Different users.
    #[prost(uint32, tag = "2")]
    pub num_users: u32,
}

/// What was published.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct HistoryResult {
    /// In the order asked for.
    #[prost(message, repeated, tag = "1")]
    pub publications: Vec<Publication>,
    /// The channel's epoch.
    #[prost(string, tag = "2")]
    pub epoch: String,
    /// Its last offset.
    #[prost(uint64, tag = "3")]
    pub offset: u64,
}

/// What the application says.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct RpcResult {
    /// Any JSON value.
    #[prost(bytes = "bytes", tag = "1")]
    #[serde(with = "raw", skip_serializing_if = "is_default")]
    pub data: Bytes,
}

/// Until when the connection lives.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct RefreshResult {
    /// The connection's id.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub client: String,
    /// The bridge's version.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub version: String,
    /// Whether the client must refresh its token.
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub expires: bool,
    /// Seconds until then.
    #[prost(uint32, optional, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub ttl: Option<u32>,
}

/// Until when a subscription lives; also the push that tells of a new connection expiry.
#[derive(Clone, Copy, PartialEq, Eq, Message, Serialize)]
pub struct Expiry {
    /// Whether the client must refresh its token.
    #[prost(bool, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub expires: bool,
    /// Seconds until then.
    #[prost(uint32, optional, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub ttl: Option<u32>,
}
