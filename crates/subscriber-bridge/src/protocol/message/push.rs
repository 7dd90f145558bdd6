//! What the bridge sends without being asked, and what it is made of.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use serde::Serialize;

use super::{Expiry, SubscribeResult, is_default};
use crate::protocol::raw;

/// What nobody asked for.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct Push {
    /// The channel; absent in what concerns the whole connection.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub channel: String,
    /// Something was published.
    #[prost(message, optional, tag = "4")]
    #[serde(rename = "pub", skip_serializing_if = "is_default")]
    pub publication: Option<Publication>,
    /// Somebody came.
    #[prost(message, optional, tag = "5")]
    #[serde(skip_serializing_if = "is_default")]
    pub join: Option<Presence>,
    /// Somebody left.
    #[prost(message, optional, tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub leave: Option<Presence>,
    /// The subscription ended.
    #[prost(message, optional, tag = "7")]
    #[serde(skip_serializing_if = "is_default")]
    pub unsubscribe: Option<Ended>,
    /// A server-side subscription began.
    #[prost(message, optional, tag = "9")]
    #[serde(skip_serializing_if = "is_default")]
    pub subscribe: Option<Begun>,
    /// Signed in, on a one-way transport.
    #[prost(message, optional, tag = "10")]
    #[serde(skip_serializing_if = "is_default")]
    pub connect: Option<Connected>,
    /// The connection ends, on transports without a close frame.
    #[prost(message, optional, tag = "11")]
    #[serde(skip_serializing_if = "is_default")]
    pub disconnect: Option<Disconnected>,
    /// The connection's expiry changed.
    #[prost(message, optional, tag = "12")]
    #[serde(skip_serializing_if = "is_default")]
    pub refresh: Option<Expiry>,
}

/// A publication as clients see it.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct Publication {
    /// The application's JSON, untouched.
    #[prost(bytes = "bytes", tag = "4")]
    #[serde(with = "raw")]
    pub data: Bytes,
    /// Who published it, when a client did.
    #[prost(message, optional, tag = "5")]
    #[serde(skip_serializing_if = "is_default")]
    pub info: Option<ClientInfo>,
    /// The offset; absent without history.
    #[prost(uint64, tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub offset: u64,
    /// The publisher's tags, and `id`, the public id.
    #[prost(btree_map = "string, string", tag = "7")]
    #[serde(skip_serializing_if = "is_default")]
    pub tags: BTreeMap<String, String>,
}

/// Who somebody is.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct ClientInfo {
    /// The user; empty for an anonymous one.
    #[prost(string, tag = "1")]
    pub user: String,
    /// The connection's id.
    #[prost(string, tag = "2")]
    pub client: String,
    /// What the connection token says of the user.
    #[prost(bytes = "bytes", tag = "3")]
    #[serde(with = "raw", skip_serializing_if = "is_default")]
    pub conn_info: Bytes,
    /// What the subscription token says of the user.
    #[prost(bytes = "bytes", tag = "4")]
    #[serde(with = "raw", skip_serializing_if = "is_default")]
    pub chan_info: Bytes,
}

/// Somebody who came or left.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct Presence {
    /// Who.
    #[prost(message, optional, tag = "1")]
    pub info: Option<ClientInfo>,
}

/// The end of a subscription.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct Ended {
    /// Below 2500 for good; else the client subscribes again.
    #[prost(uint32, tag = "2")]
    pub code: u32,
    /// The standard text of the code.
    #[prost(string, tag = "3")]
    pub reason: String,
}

/// The beginning of a server-side subscription.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct Begun {
    /// The client may keep the position and recover from it.
    #[prost(bool, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub recoverable: bool,
    /// The channel's epoch.
    #[prost(string, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub epoch: String,
    /// Its last offset.
    #[prost(uint64, tag = "5")]
    #[serde(skip_serializing_if = "is_default")]
    pub offset: u64,
    /// The bridge watches the position.
    #[prost(bool, tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub positioned: bool,
    /// What whoever subscribed the client says to it.
    #[prost(bytes = "bytes", tag = "7")]
    #[serde(with = "raw", skip_serializing_if = "is_default")]
    pub data: Bytes,
}

/// Signed in, on a one-way transport: what [`ConnectResult`](super::ConnectResult) says, by other numbers.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct Connected {
    /// The connection's id.
    #[prost(string, tag = "1")]
    pub client: String,
    /// The bridge's version.
    #[prost(string, tag = "2")]
    pub version: String,
    /// The server-side subscriptions.
    #[prost(btree_map = "string, message", tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub subs: BTreeMap<String, SubscribeResult>,
    /// Whether the token expires.
    #[prost(bool, tag = "5")]
    #[serde(skip_serializing_if = "is_default")]
    pub expires: bool,
    /// Seconds until then.
    #[prost(uint32, optional, tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub ttl: Option<u32>,
    /// Seconds between pings of the bridge.
    #[prost(uint32, tag = "7")]
    #[serde(skip_serializing_if = "is_default")]
    pub ping: u32,
    /// The secret by which the API names this connection.
    #[prost(string, tag = "9")]
    #[serde(skip_serializing_if = "is_default")]
    pub session: String,
}

/// The end of the connection.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct Disconnected {
    /// See [`crate::codes`].
    #[prost(uint32, tag = "1")]
    pub code: u32,
    /// Its text.
    #[prost(string, tag = "2")]
    pub reason: String,
}
