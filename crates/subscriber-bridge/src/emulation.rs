//! Commands of clients that hear a stream: a request may reach any bridge, and goes to the one that holds the stream.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use fanout_core::control;
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use prost::Message;
use serde::{Deserialize, Deserializer};
use uuid::Uuid;

use crate::Shared;
use crate::config::BridgeConfig;
use crate::handshake::Refusal;
use crate::protocol::Encoding;
use crate::stream::{body, encoding};
use crate::visitor::NO_PROTOBUF;

/// What such a request says.
#[derive(Clone, PartialEq, Message, Deserialize)]
struct Emulation {
    /// The bridge that holds the stream.
    #[prost(string, tag = "1")]
    node: String,
    /// The secret session of the stream.
    #[prost(string, tag = "2")]
    session: String,
    /// Commands as over a connection; in JSON a string that holds them.
    #[prost(bytes = "bytes", tag = "3")]
    #[serde(deserialize_with = "text")]
    data: Bytes,
}

fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    String::deserialize(deserializer).map(Bytes::from)
}

/// Whether there are streams whose clients could speak.
pub(crate) fn check(config: &BridgeConfig) -> Result<(), Refusal> {
    let off = "HTTP streams are off, see subscriber_bridge.http_stream and subscriber_bridge.sse";
    if config.http_stream || config.sse { Ok(()) } else { Err((StatusCode::NOT_FOUND, off)) }
}

/// Takes the commands of one request to the connection of their session. Whether that session exists is told to nobody.
pub(crate) async fn take(shared: &Shared, request: Request<Incoming>) -> Result<(), Refusal> {
    check(&shared.config)?;
    if request.method() != Method::POST {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "commands come by POST"));
    }
    let encoding = encoding(request.headers());
    if encoding == Encoding::Protobuf && !shared.config.protobuf {
        return Err(NO_PROTOBUF);
    }
    let body = body(request, shared.config.max_message_bytes).await?;
    let Emulation { node, session, data } =
        parse(encoding, body).ok_or((StatusCode::BAD_REQUEST, "session, node and data are not as they should be"))?;
    if node == shared.rules.node {
        shared.connections.to_session(&session, data);
        return Ok(());
    }
    let gone = (StatusCode::NOT_FOUND, "no bridge of that name is there: its stream has ended");
    // A name that no bridge has must not become part of a channel's.
    let node = Uuid::parse_str(&node).map_err(|_| gone)?.to_string();
    let protobuf = encoding == Encoding::Protobuf;
    let data = match encoding {
        Encoding::Json => String::from_utf8_lossy(&data).into_owned(),
        Encoding::Protobuf => STANDARD.encode(&data),
    };
    match control::to(&shared.redis, &node, &control::Order::Emulate { session, data, protobuf }).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(gone),
        Err(error) => {
            tracing::debug!(%error, "commands could not be passed on");
            Err((StatusCode::INTERNAL_SERVER_ERROR, "the bridge that holds the stream cannot be reached now"))
        }
    }
}

fn parse(encoding: Encoding, body: Bytes) -> Option<Emulation> {
    let request: Emulation = match encoding {
        Encoding::Json => serde_json::from_slice(&body).ok()?,
        Encoding::Protobuf => Emulation::decode(body).ok()?,
    };
    let is_whole = !request.node.is_empty() && !request.session.is_empty() && !request.data.is_empty();
    is_whole.then_some(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_and_protobuf_are_read_alike_and_have_all_three() {
        let json = |text: &'static str| parse(Encoding::Json, text.into());
        let request = json(r#"{"session":"s","node":"n","data":"{\"id\":1}\n{}","more":1}"#).expect("whole");
        assert_eq!(request.data, "{\"id\":1}\n{}");
        assert_eq!(parse(Encoding::Protobuf, request.encode_to_vec().into()), Some(request));
        for text in [
            "",
            "[]",
            r#"{"session":"s","node":"n"}"#,
            r#"{"session":"","node":"n","data":"{}"}"#,
            r#"{"session":"s","data":"{}"}"#,
            r#"{"session":"s","node":"n","data":{"id":1}}"#,
            r#"{"session":"s","node":"n","data":[1]}"#,
        ] {
            assert_eq!(json(text), None, "{text}");
        }
        assert_eq!(parse(Encoding::Protobuf, Bytes::from_static(b"\x0a\x05x")), None);
    }
}
