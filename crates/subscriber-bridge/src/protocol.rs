//! The JSON of the Centrifugal client protocol: commands in, replies and pushes out.
//!
//! Rules of the encoding: snake_case names, defaults left out, 64-bit integers as numbers, a result object present
//! even when it is empty, one JSON object per line.

use std::collections::BTreeMap;

use bytes::Bytes;
use fanout_core::envelope::{Description, Envelope, Position};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::codes::CommandError;

/// One command. Unknown fields are ignored, as clients newer than this bridge send them.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Command {
    /// Above 0 for everything that is answered.
    pub id: u32,
    /// Signs in; the first command.
    pub connect: Option<ConnectRequest>,
    /// Begins a client-side subscription.
    pub subscribe: Option<SubscribeRequest>,
    /// Ends a subscription.
    pub unsubscribe: Option<ChannelRequest>,
    /// Publishes.
    pub publish: Option<ChannelRequest>,
    /// Asks who is there.
    pub presence: Option<ChannelRequest>,
    /// Asks how many are there.
    pub presence_stats: Option<ChannelRequest>,
    /// Asks for what was published.
    pub history: Option<ChannelRequest>,
    /// Asks the application.
    pub rpc: Option<Ignored>,
    /// Tells the application.
    pub send: Option<Ignored>,
    /// Brings a newer token.
    pub refresh: Option<RefreshRequest>,
    /// Brings a newer subscription token.
    pub sub_refresh: Option<ChannelRequest>,
}

/// Content that this bridge does not read.
#[derive(Debug, Default, Deserialize)]
pub struct Ignored {}

/// What every request about a channel has.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ChannelRequest {
    /// The channel's name.
    pub channel: String,
}

/// Signs in.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ConnectRequest {
    /// The connection token.
    pub token: String,
    /// What the client knows of server-side subscriptions, and what it would like.
    pub subs: BTreeMap<String, SubscribeRequest>,
}

/// Begins a subscription.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct SubscribeRequest {
    /// The channel's name; absent in [`ConnectRequest::subs`].
    pub channel: String,
    /// Whether to continue after `epoch` and `offset`.
    pub recover: bool,
    /// The epoch that the client knows; empty matches any.
    pub epoch: String,
    /// The last offset that the client has.
    pub offset: u64,
}

/// Brings a newer token.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct RefreshRequest {
    /// The connection token.
    pub token: String,
}

/// The answer to a command.
#[derive(Debug, Serialize)]
pub struct Reply<'a> {
    /// The command's id.
    pub id: u32,
    /// What it says.
    #[serde(flatten)]
    pub content: Content<'a>,
}

/// What a reply says.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Content<'a> {
    /// The command failed.
    Error(CommandError),
    /// Signed in.
    Connect(ConnectResult<'a>),
    /// Subscribed.
    Subscribe(SubscribeResult),
    /// Unsubscribed.
    Unsubscribe(Empty),
    /// The token was taken.
    Refresh(Expiry),
}

/// A result without fields; it must be there all the same.
#[derive(Debug, Serialize)]
pub struct Empty {}

/// Until when the connection lives.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Expiry {
    /// Whether the client must refresh its token.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub expires: bool,
    /// Seconds until then. Always there when `expires`, because centrifuge-python reads it without a default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u64>,
}

/// Signed in.
#[derive(Debug, Serialize)]
pub struct ConnectResult<'a> {
    /// The connection's id.
    pub client: &'a str,
    /// The bridge's version.
    pub version: &'static str,
    /// Until when.
    #[serde(flatten)]
    pub expiry: Expiry,
    /// The server-side subscriptions.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub subs: BTreeMap<&'a str, SubscribeResult>,
    /// Seconds between pings of the bridge.
    pub ping: u32,
    /// The client must answer pings.
    pub pong: bool,
}

/// Subscribed.
#[derive(Debug, Default, Serialize)]
pub struct SubscribeResult {
    /// The client may keep the position and recover from it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub recoverable: bool,
    /// The channel's epoch.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub epoch: String,
    /// What the client missed, each as [`recovered`] encodes it, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub publications: Vec<Box<RawValue>>,
    /// Whether the client missed nothing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub recovered: bool,
    /// The position's offset; of a recovered subscription the one that was asked for, since the client counts on through
    /// `publications` by itself.
    #[serde(skip_serializing_if = "is_zero")]
    pub offset: u64,
    /// The bridge watches the position.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub positioned: bool,
    /// The client asked to recover.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub was_recovering: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(offset: &u64) -> bool {
    *offset == 0
}

/// Encodes a reply.
pub fn reply(id: u32, content: Content<'_>) -> Vec<u8> {
    // Serialising these types cannot fail: no maps with other keys than strings, no I/O.
    serde_json::to_vec(&Reply { id, content }).unwrap_or_default()
}

/// A publication as clients see it.
#[derive(Serialize)]
struct Publication<'a> {
    data: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<&'a str, &'a str>,
}

impl<'a> Publication<'a> {
    /// `None` when `data` is not JSON: it was checked where it entered, but must not tear the frame all the same.
    fn new(data: &'a [u8], position: Option<Position>, description: Option<&'a Description<'_>>) -> Option<Self> {
        let mut tags: BTreeMap<&str, &str> = BTreeMap::new();
        if let Some(description) = description {
            tags.extend(description.tags.iter().map(|(name, value)| (name.as_ref(), value.as_ref())));
            tags.insert("id", &description.id);
        }
        let offset = position.map(|position| position.offset);
        Some(Self { data: serde_json::from_slice(data).ok()?, offset, tags })
    }
}

/// Encodes the push of a publication. Raw publications have neither position nor description.
pub fn publication(
    channel: &str,
    data: &[u8],
    position: Option<Position>,
    description: Option<&Description<'_>>,
) -> Vec<u8> {
    #[derive(Serialize)]
    struct Push<'a> {
        push: Body<'a>,
    }
    #[derive(Serialize)]
    struct Body<'a> {
        channel: &'a str,
        #[serde(rename = "pub")]
        publication: Publication<'a>,
    }
    let Some(publication) = Publication::new(data, position, description) else { return Vec::new() };
    serde_json::to_vec(&Push { push: Body { channel, publication } }).unwrap_or_default()
}

/// Encodes a publication of [`SubscribeResult::publications`]; `None` when it is none.
pub fn recovered(envelope: &Bytes) -> Option<Box<RawValue>> {
    let envelope = Envelope::parse(envelope).ok()?;
    let publication = Publication::new(envelope.data.as_bytes(), Some(envelope.position), Some(&envelope.description))?;
    serde_json::value::to_raw_value(&publication).ok()
}

/// Encodes the push that ends a client-side subscription whose continuity is lost; the client resubscribes at once.
pub fn insufficient_state(channel: &str) -> Vec<u8> {
    format!(r#"{{"push":{{"channel":{channel:?},"unsubscribe":{{"code":2500,"reason":"insufficient state"}}}}}}"#)
        .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).expect("UTF-8")
    }

    #[test]
    fn defaults_are_left_out_and_empty_results_are_not() {
        assert_eq!(text(reply(3, Content::Unsubscribe(Empty {}))), r#"{"id":3,"unsubscribe":{}}"#);
        assert_eq!(text(reply(2, Content::Subscribe(SubscribeResult::default()))), r#"{"id":2,"subscribe":{}}"#);
        let error = crate::codes::UNKNOWN_CHANNEL;
        assert_eq!(
            text(reply(2, Content::Error(error))),
            r#"{"id":2,"error":{"code":102,"message":"unknown channel"}}"#
        );
    }

    #[test]
    fn a_publication_carries_its_data_untouched() {
        let description = Description {
            topic: "orders".into(),
            id: "u-1".into(),
            key: None,
            tags: [("op".into(), "update".into())].into(),
        };
        let position = Position { epoch: "00c0ffee".parse().expect("epoch"), offset: 7 };
        let push = publication("orders:#42", br#"{"n":9007199254740993,"b":1.50}"#, Some(position), Some(&description));
        assert_eq!(
            text(push),
            r#"{"push":{"channel":"orders:#42","pub":{"data":{"n":9007199254740993,"b":1.50},"offset":7,"tags":{"id":"u-1","op":"update"}}}}"#
        );
        let envelope = Bytes::from("G1 9 00c0ffee 7\n{\"topic\":\"orders\",\"id\":\"u-1\"}\n{\"n\":1}");
        let recovered = recovered(&envelope).expect("an envelope");
        assert_eq!(recovered.get(), r#"{"data":{"n":1},"offset":7,"tags":{"id":"u-1"}}"#, "the same in a recovery");
        assert_eq!(text(publication("orders", b"1", None, None)), r#"{"push":{"channel":"orders","pub":{"data":1}}}"#);
    }
}
