//! Answers that do not end: the bridge speaks in the body of one, and the client in requests of their own or not at all.

use std::collections::HashMap;
use std::convert::Infallible;

use axum::body::Body;
use axum::extract::Query;
use futures::stream::poll_fn;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::config::BridgeConfig;
use crate::connection::Said;
use crate::handshake::Refusal;
use crate::protocol::Encoding;
use crate::protocol::message::ConnectRequest;
use crate::server::Opening;
use crate::session::Manner;
use crate::visitor::{Answer, NO_PROTOBUF, Visitor};
use crate::wire::{Framing, Wire};

/// The parameter with what a client says that cannot send a body.
pub(crate) const SAID: &str = "cf_connect";
/// What a client is told whose connect request is none.
pub(crate) const NO_REQUEST: Refusal = (
    StatusCode::BAD_REQUEST,
    "the connect request, in cf_connect or in the body, is not a JSON object as it should be",
);
/// What opens the stream on the way through proxies and in the browser, before anything is said.
const FIRST_EVENT_BYTES: &[u8] = b"\r\n";

/// One kind of stream.
pub(crate) struct Transport {
    path: &'static str,
    is_on: fn(&BridgeConfig) -> bool,
    off: &'static str,
    framing: Framing,
    one_way: bool,
}

static TRANSPORTS: [Transport; 4] = [
    Transport {
        path: "/connection/http_stream",
        is_on: |config| config.http_stream,
        off: "HTTP streams are off, see subscriber_bridge.http_stream",
        framing: Framing::Stream,
        one_way: false,
    },
    Transport {
        path: "/connection/sse",
        is_on: |config| config.sse,
        off: "server-sent events are off, see subscriber_bridge.sse",
        framing: Framing::Events,
        one_way: false,
    },
    Transport {
        path: "/connection/uni_http_stream",
        is_on: |config| config.uni_http_stream,
        off: "one-way HTTP streams are off, see subscriber_bridge.uni_http_stream",
        framing: Framing::Stream,
        one_way: true,
    },
    Transport {
        path: "/connection/uni_sse",
        is_on: |config| config.uni_sse,
        off: "one-way server-sent events are off, see subscriber_bridge.uni_sse",
        framing: Framing::Events,
        one_way: true,
    },
];

impl Transport {
    /// The one that begins at `path`.
    pub(crate) fn at(path: &str) -> Option<&'static Self> {
        TRANSPORTS.iter().find(|transport| transport.path == path)
    }

    /// The methods by which it begins, and the one that asks for them.
    pub(crate) fn methods(&self) -> &'static str {
        match self.framing {
            Framing::Events => "GET, POST, OPTIONS",
            Framing::Stream | Framing::WebSocket => "POST, OPTIONS",
        }
    }

    /// Whether it is on.
    pub(crate) fn check(&self, config: &BridgeConfig) -> Result<(), Refusal> {
        if (self.is_on)(config) { Ok(()) } else { Err((StatusCode::NOT_FOUND, self.off)) }
    }

    /// What the client says with the request that opens its stream.
    async fn said(&self, request: Request<Incoming>, config: &BridgeConfig) -> Result<Said, Refusal> {
        let said = match *request.method() {
            Method::POST => body(request, config.max_message_bytes).await?,
            Method::GET if self.framing == Framing::Events => match query(request.uri(), SAID) {
                Some(said) => said.into(),
                None if self.one_way => Bytes::new(),
                None => return Err((StatusCode::BAD_REQUEST, "the parameter cf_connect with commands is missing")),
            },
            _ => {
                return Err((
                    StatusCode::METHOD_NOT_ALLOWED,
                    "streams begin with POST, server-sent events with GET too",
                ));
            }
        };
        if self.one_way {
            return Ok(Said::Connect(ConnectRequest::parse(&said).ok_or(NO_REQUEST)?));
        }
        Ok(Said::Commands(said))
    }
}

/// Begins a stream and answers with it.
pub(crate) async fn open(
    visitor: &Visitor,
    transport: &Transport,
    request: Request<Incoming>,
) -> Result<Answer, Refusal> {
    let config = &visitor.visit.shared.config;
    transport.check(config)?;
    let encoding = match (transport.framing, transport.one_way) {
        (Framing::Stream, false) => encoding(request.headers()),
        _ => Encoding::Json,
    };
    if encoding == Encoding::Protobuf && !config.protobuf {
        return Err(NO_PROTOBUF);
    }
    visitor.visit.guest.enter(&visitor.visit.shared, request.headers())?;
    let said = Some(transport.said(request, config).await?);
    let (sender, mut receiver) = mpsc::channel(1);
    if transport.framing == Framing::Events {
        // There is room: nobody else has the sender.
        let _ = sender.try_send(Bytes::from_static(FIRST_EVENT_BYTES));
    }
    let wire = Wire { encoding, framing: transport.framing, one_way: transport.one_way };
    let manner = if wire.one_way { Manner::OneWay } else { Manner::Emulated };
    let opening = Opening { wire, manner: manner(secret()), said };
    visitor.visit.stream(opening, sender, visitor.stages.clone());
    let body = poll_fn(move |cx| receiver.poll_recv(cx).map(|bytes| bytes.map(Ok::<_, Infallible>)));
    let mut answer = Answer::new(Body::from_stream(body));
    let kind = match (wire.framing, encoding) {
        (Framing::Events, _) => "text/event-stream; charset=utf-8",
        (_, Encoding::Json) => "application/json; charset=utf-8",
        (_, Encoding::Protobuf) => "application/octet-stream",
    };
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "private, no-cache, no-store, must-revalidate, max-age=0"),
        (HeaderName::from_static("x-accel-buffering"), "no"),
        // One stream per connection: what comes after it begins anew, and the end of this one is seen at once.
        (header::CONNECTION, "close"),
    ] {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(answer)
}

/// What the body of a request is written in.
pub(crate) fn encoding(headers: &HeaderMap) -> Encoding {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/octet-stream") { Encoding::Protobuf } else { Encoding::Json }
}

/// The whole body, of at most `limit` bytes.
pub(crate) async fn body(request: Request<Incoming>, limit: usize) -> Result<Bytes, Refusal> {
    let collected = Limited::new(request.into_body(), limit).collect().await;
    collected.map(|body| body.to_bytes()).map_err(|error| {
        if error.is::<LengthLimitError>() {
            (StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than subscriber_bridge.max_message_bytes")
        } else {
            (StatusCode::BAD_REQUEST, "the body broke off")
        }
    })
}

/// A parameter in a request's address, decoded.
pub(crate) fn query(address: &Uri, name: &str) -> Option<String> {
    let Query(mut parameters) = Query::<HashMap<String, String>>::try_from_uri(address).ok()?;
    parameters.remove(name)
}

/// A session that nobody can guess, which is all that commands of an emulated connection need to be taken.
pub(crate) fn secret() -> String {
    // One has 122 random bits.
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_an_address_may_have_none() {
        let value = |address: &'static str| query(&Uri::from_static(address), SAID);
        assert_eq!(value("/sse?a=1&cf_connect=%7B%22id%22%3A1%7D%0A+x").as_deref(), Some("{\"id\":1}\n x"));
        assert_eq!(value("/sse?cf_connect=").as_deref(), Some(""));
        assert_eq!((value("/sse?other=1"), value("/sse")), (None, None));
    }

    #[test]
    fn octet_streams_are_protobuf_and_everything_else_is_json() {
        let of = |kind: &'static str| {
            encoding(&HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(kind))]))
        };
        assert_eq!(of("Application/Octet-Stream; x=1"), Encoding::Protobuf);
        assert_eq!((of("text/plain"), of(""), encoding(&HeaderMap::new())), [Encoding::Json; 3].into());
    }

    #[test]
    fn secrets_are_long_and_differ() {
        assert!(secret().len() == 64 && secret() != secret());
    }
}
