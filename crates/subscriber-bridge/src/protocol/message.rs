//! What stands on the wire: one set of types for both encodings of the Centrifugal client protocol.
//!
//! The numbers are the protocol's field numbers, for protobuf; the names are its names, for JSON. Rules of the JSON: defaults
//! are left out except where clients rely on them, 64-bit integers are numbers, data is embedded as it is.

use std::collections::BTreeMap;

use bytes::Bytes;
use fanout_core::begins_object;
use prost::Message;
use serde::{Deserialize, Serialize};

use super::raw;

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

/// Signed in, on a one-way transport: what [`ConnectResult`] says, by other numbers.
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

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
