//! What clients send.

use std::collections::BTreeMap;

use bytes::Bytes;
use fanout_core::begins_object;
use prost::Message;
use serde::Deserialize;

use super::Empty;
use crate::protocol::raw;

/// What a client sends. Fields that this bridge does not read are ignored, as newer clients send them.
#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub struct Command {
    /// Above 0 for everything that is answered.
    #[prost(uint32, tag = "1")]
    pub id: u32,
    /// Signs in; the first command.
    #[prost(message, optional, tag = "4")]
    pub connect: Option<ConnectRequest>,
    /// Begins a client-side subscription.
    #[prost(message, optional, tag = "5")]
    pub subscribe: Option<SubscribeRequest>,
    /// Ends a subscription.
    #[prost(message, optional, tag = "6")]
    pub unsubscribe: Option<ChannelRequest>,
    /// Publishes.
    #[prost(message, optional, tag = "7")]
    pub publish: Option<PublishRequest>,
    /// Asks who is there.
    #[prost(message, optional, tag = "8")]
    pub presence: Option<ChannelRequest>,
    /// Asks how many are there.
    #[prost(message, optional, tag = "9")]
    pub presence_stats: Option<ChannelRequest>,
    /// Asks for what was published.
    #[prost(message, optional, tag = "10")]
    pub history: Option<HistoryRequest>,
    /// Tells the application.
    #[prost(message, optional, tag = "12")]
    pub send: Option<Empty>,
    /// Asks the application.
    #[prost(message, optional, tag = "13")]
    pub rpc: Option<RpcRequest>,
    /// Brings a newer connection token.
    #[prost(message, optional, tag = "14")]
    pub refresh: Option<RefreshRequest>,
    /// Brings a newer subscription token.
    #[prost(message, optional, tag = "15")]
    pub sub_refresh: Option<SubRefreshRequest>,
}

/// Signs in.
#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub struct ConnectRequest {
    /// The connection token.
    #[prost(string, tag = "1")]
    pub token: String,
    /// What the client knows of server-side subscriptions, and what it would like.
    #[prost(btree_map = "string, message", tag = "3")]
    pub subs: BTreeMap<String, SubscribeRequest>,
}

impl ConnectRequest {
    /// The request of a client that only hears, which is JSON and stands alone; nothing said is an empty one.
    pub fn parse(json: &[u8]) -> Option<Self> {
        match json {
            [] => Some(Self::default()),
            json => begins_object(json).then(|| serde_json::from_slice(json).ok()).flatten(),
        }
    }
}

/// Begins a subscription.
#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub struct SubscribeRequest {
    /// The channel's name; absent in [`ConnectRequest::subs`].
    #[prost(string, tag = "1")]
    pub channel: String,
    /// A subscription token.
    #[prost(string, tag = "2")]
    pub token: String,
    /// Whether to continue after `epoch` and `offset`.
    #[prost(bool, tag = "3")]
    pub recover: bool,
    /// The epoch that the client knows; empty matches any.
    #[prost(string, tag = "6")]
    pub epoch: String,
    /// The last offset that the client has.
    #[prost(uint64, tag = "7")]
    pub offset: u64,
    /// Whether the client wants to hear who joins and leaves.
    #[prost(bool, tag = "11")]
    pub join_leave: bool,
    /// The kind of delta that the client asks for. None is given, which clients cope with.
    #[prost(string, tag = "12")]
    pub delta: String,
    /// A filter by tags; refused.
    #[prost(message, optional, tag = "13")]
    #[serde(rename = "tf")]
    pub filter: Option<Empty>,
    /// Bits: 1 the client takes numbers for channels, 2 it wants error 112 rather than an unrecovered subscription.
    #[prost(int64, tag = "14")]
    pub flag: i64,
    /// The kind of subscription; only 0, a stream, is known here.
    #[prost(int32, tag = "15")]
    pub r#type: i32,
}

/// What a request about a channel has.
#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub struct ChannelRequest {
    /// The channel's name.
    #[prost(string, tag = "1")]
    pub channel: String,
}

/// Publishes.
#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub struct PublishRequest {
    /// The channel's name.
    #[prost(string, tag = "1")]
    pub channel: String,
    /// Any JSON value.
    #[prost(bytes = "bytes", tag = "2")]
    #[serde(with = "raw")]
    pub data: Bytes,
}

/// Asks for what was published.
#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub struct HistoryRequest {
    /// The channel's name.
    #[prost(string, tag = "1")]
    pub channel: String,
    /// Most publications; 0 asks for the position alone, a negative number for as many as there may be.
    #[prost(int32, tag = "7")]
    pub limit: i32,
    /// Strictly after (reverse: before) this position.
    #[prost(message, optional, tag = "8")]
    pub since: Option<StreamPosition>,
    /// Newest first.
    #[prost(bool, tag = "9")]
    pub reverse: bool,
}

/// A place in a channel.
#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub struct StreamPosition {
    /// The offset.
    #[prost(uint64, tag = "1")]
    pub offset: u64,
    /// The epoch; empty matches any.
    #[prost(string, tag = "2")]
    pub epoch: String,
}

/// Asks the application.
#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub struct RpcRequest {
    /// Any JSON value.
    #[prost(bytes = "bytes", tag = "1")]
    #[serde(with = "raw")]
    pub data: Bytes,
    /// What is asked.
    #[prost(string, tag = "2")]
    pub method: String,
}

/// Brings a newer connection token.
#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub struct RefreshRequest {
    /// The connection token.
    #[prost(string, tag = "1")]
    pub token: String,
}

/// Brings a newer subscription token.
#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub struct SubRefreshRequest {
    /// The channel's name.
    #[prost(string, tag = "1")]
    pub channel: String,
    /// The subscription token.
    #[prost(string, tag = "2")]
    pub token: String,
}
