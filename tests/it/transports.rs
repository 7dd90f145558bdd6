//! The HTTP transports of the bridge: streams and events, both ways and one way, and what pages may do.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use fanout_core::{Channel, Data, Publication};
use griot_tests::bridge::{LoneBridge, SECRET, publisher};
use griot_tests::client::{Client, Received, open};
use griot_tests::servers::shared;
use griot_tests::stream::Stream;
use griot_tests::{http, token};
use hyper::Method;
use prost::Message as _;
use serde_json::{Value, json};
use subscriber_bridge::protocol::message::{Command, ConnectRequest, Reply};
use tokio_tungstenite::tungstenite::Message;

pub(crate) const SOON: Duration = Duration::from_secs(20);
/// All of them.
pub(crate) const ON: &str =
    "http_stream = true\nsse = true\nuni_websocket = true\nuni_http_stream = true\nuni_sse = true";
const OCTETS: (&str, &str) = ("content-type", "application/octet-stream");

pub(crate) async fn bridge(settings: &str) -> Result<LoneBridge> {
    LoneBridge::start(&shared().await.redis.url(), &format!("{ON}\n{settings}")).await
}

pub(crate) fn unique() -> String {
    format!("u{}", uuid::Uuid::new_v4().simple())
}

pub(crate) fn connect(user: &str) -> String {
    json!({"id": 1, "connect": {"token": token::token(SECRET, user)}}).to_string()
}

/// The connect request of a client that only hears.
pub(crate) fn request(user: &str) -> Value {
    json!({ "token": token::token(SECRET, user) })
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

pub(crate) async fn post(bridge: &LoneBridge, path: &str, body: &str) -> Result<Stream> {
    Stream::open(bridge.addr(), Method::POST, path, &[], body.to_owned()).await
}

async fn get(bridge: &LoneBridge, path: &str) -> Result<Stream> {
    Stream::open(bridge.addr(), Method::GET, path, &[], "").await
}

pub(crate) async fn publish(bridge_redis: &str, channel: &str, data: &str) -> Result<()> {
    let publication = Publication::new(Channel::parse(channel)?, Data::parse(data.to_owned())?);
    publisher(bridge_redis)?.publish(publication).await?;
    Ok(())
}

/// Commands of the client whose connect was answered with `connected`.
pub(crate) async fn emulate(bridge: &LoneBridge, connected: &Value, commands: &str) -> Result<u16> {
    let body = json!({"session": connected["session"], "node": connected["node"], "data": commands}).to_string();
    Ok(http::post(bridge.addr(), "/emulation", &[], &body).await?.status)
}

#[tokio::test]
async fn a_stream_and_events_carry_the_protocol_both_ways() -> Result<()> {
    let bridge = bridge("").await?;
    for (path, kind) in [
        ("/connection/http_stream", "application/json; charset=utf-8"),
        ("/connection/sse", "text/event-stream; charset=utf-8"),
    ] {
        let user = unique();
        let mut stream = match path {
            "/connection/sse" => get(&bridge, &format!("{path}?cf_connect={}", encoded(&connect(&user)))).await?,
            _ => post(&bridge, path, &connect(&user)).await?,
        };
        ensure!((stream.status, stream.header("content-type")) == (200, kind), "{stream:?}");
        assert_eq!(stream.header("x-accel-buffering"), "no");
        ensure!(stream.header("cache-control").contains("no-store"), "{stream:?}");
        if path == "/connection/sse" {
            assert_eq!(stream.line().await?.as_deref(), Some(""), "an empty line opens the way");
        }
        let connected = stream.json().await?["connect"].take();
        let session = connected["session"].as_str().context("session")?;
        ensure!(session.len() >= 32 && connected["pong"] == true && connected["node"].is_string(), "{connected}");
        let commands = "{\"id\":2,\"subscribe\":{\"channel\":\"products\"}}\n{\"id\":3,\"unsubscribe\":{\"channel\":\"products\"}}";
        assert_eq!(emulate(&bridge, &connected, commands).await?, 204);
        ensure!(stream.json().await?["subscribe"]["epoch"].is_string());
        assert_eq!(stream.json().await?, json!({"id": 3, "unsubscribe": {}}));
        publish(&shared().await.redis.url(), &format!("orders:#{user}"), "{\n\"n\": 9007199254740993}").await?;
        let push = stream.json().await?["push"].take();
        assert_eq!(push["pub"]["data"], json!({"n": 9_007_199_254_740_993_u64}));
        emulate(&bridge, &connected, "{\"id\":4,\"send\":{}}\n{\"send\":{}}").await?;
        let rest = stream.rest().await?;
        ensure!(rest.contains("{\"push\":{\"disconnect\":{\"code\":350"), "{rest}");
    }
    Ok(())
}

#[tokio::test]
async fn a_stream_carries_protobuf() -> Result<()> {
    let bridge = bridge("").await?;
    let connect = ConnectRequest { token: token::token(SECRET, &unique()), ..ConnectRequest::default() };
    let command = Command { id: 1, connect: Some(connect), ..Command::default() };
    let body = command.encode_length_delimited_to_vec();
    let path = "/connection/http_stream";
    let mut stream = Stream::open(bridge.addr(), Method::POST, path, &[OCTETS], body.clone()).await?;
    assert_eq!(stream.header("content-type"), "application/octet-stream");
    let bytes = stream.bytes().await?.context("a reply")?;
    let connected = Reply::decode_length_delimited(Bytes::from(bytes))?.connect.context("connected")?;
    let subscribe = b"\x0e\x08\x02\x2a\x0a\x0a\x08products".as_slice();
    let mut emulation = vec![0x0a, u8::try_from(connected.node.len())?];
    emulation.extend(connected.node.as_bytes());
    emulation.extend([0x12, u8::try_from(connected.session.len())?]);
    emulation.extend(connected.session.as_bytes());
    emulation.extend([0x1a, u8::try_from(subscribe.len())?]);
    emulation.extend(subscribe);
    let sent = Stream::open(bridge.addr(), Method::POST, "/emulation", &[OCTETS], emulation.clone()).await?;
    assert_eq!(sent.status, 204);
    let bytes = stream.bytes().await?.context("a reply")?;
    let reply = Reply::decode_length_delimited(Bytes::from(bytes))?;
    ensure!(reply.id == 2 && reply.subscribe.is_some(), "{reply:?}");
    let labels = "griot_transports{transport=\"http_stream\",encoding=\"protobuf\"}";
    assert_eq!(bridge.metric(labels).await?, 1.0);

    let without = self::bridge("protobuf = false").await?;
    for (path, body) in [(path, body), ("/emulation", emulation)] {
        let refused = Stream::open(without.addr(), Method::POST, path, &[OCTETS], body).await?;
        ensure!(refused.status == 400 && refused.rest().await?.contains("subscriber_bridge.protobuf"));
    }
    for (url, offers) in
        [(without.socket(), "centrifuge-protobuf"), (without.socket() + "?cf_protocol=protobuf", "centrifuge-json")]
    {
        let refused = open(&url, &[("sec-websocket-protocol", offers)]).await;
        assert_eq!(refused.is_err(), offers == "centrifuge-protobuf");
    }
    open(&without.socket(), &[("sec-websocket-protocol", "centrifuge-protobuf, centrifuge-json")]).await?;
    Ok(())
}

#[tokio::test]
async fn what_is_off_or_wrong_is_answered_with_a_status_and_a_sentence() -> Result<()> {
    let off = LoneBridge::start(&shared().await.redis.url(), "").await?;
    for setting in ["http_stream", "sse", "uni_http_stream", "uni_sse", "uni_websocket"] {
        for method in [Method::POST, Method::OPTIONS] {
            let answer = Stream::open(off.addr(), method, &format!("/connection/{setting}"), &[], "{}").await?;
            ensure!(answer.status == 404 && answer.rest().await?.contains(&format!("subscriber_bridge.{setting}")));
        }
    }
    assert_eq!(post(&off, "/emulation", "{}").await?.status, 404);
    let on = bridge("max_message_bytes = 1000\nstale_seconds = 1").await?;
    let long = "x".repeat(1_001);
    for (method, path, body, status, word) in [
        (Method::GET, "/connection/http_stream", "", 405, "POST"),
        (Method::PUT, "/connection/sse", "", 405, "POST"),
        (Method::GET, "/connection/uni_http_stream", "", 405, "POST"),
        (Method::GET, "/connection/sse", "", 400, "cf_connect"),
        (Method::GET, "/connection/uni_sse?cf_connect=%7B", "", 400, "cf_connect"),
        (Method::POST, "/connection/uni_http_stream", "[]", 400, "cf_connect"),
        (Method::POST, "/connection/http_stream", &long, 413, "max_message_bytes"),
        (Method::POST, "/emulation", &long, 413, "max_message_bytes"),
        (Method::GET, "/emulation", "", 405, "POST"),
        (Method::POST, "/emulation", "nonsense", 400, "session"),
    ] {
        let answer = Stream::open(on.addr(), method, path, &[], body.to_owned()).await?;
        let (status_is, text) = (answer.status, answer.rest().await?);
        ensure!(status_is == status && text.contains(word), "{path} {body:.20}: {status_is} {text:?}");
    }
    let waits = Stream::open(on.addr(), Method::POST, "/emulation", &[("content-length", "10")], endless()).await?;
    ensure!(waits.status == 408 && waits.rest().await?.contains("stale_seconds"));
    Ok(())
}

/// A body that does not go on.
fn endless() -> axum::body::Body {
    let begun = futures::stream::iter([Ok::<_, std::io::Error>("{")]);
    axum::body::Body::from_stream(futures::StreamExt::chain(begun, futures::stream::pending()))
}

#[tokio::test]
async fn what_a_client_begins_with_ends_its_stream_with_a_code_when_it_is_wrong() -> Result<()> {
    let bridge = bridge("stale_seconds = 1").await?;
    for (body, code) in [
        ("nonsense", 3501),
        ("", 3501),
        ("{\"id\":1,\"subscribe\":{\"channel\":\"products\"}}", 3501),
        ("{\"id\":1,\"connect\":{\"token\":\"bad\"}}", 3500),
    ] {
        let said = post(&bridge, "/connection/http_stream", body).await?.rest().await?;
        let expected = format!("{{\"push\":{{\"disconnect\":{{\"code\":{code},");
        ensure!(said.starts_with(&expected) && said.ends_with("}}}\n"), "{body}: {said}");
    }
    let expired = json!({"sub": "42", "exp": token::unix_seconds() - 1});
    let expired = token::sign(SECRET, &expired);
    // The client may begin anew, but has no session to say so: it is stale soon.
    let command = json!({"id": 1, "connect": {"token": expired}}).to_string();
    let mut stream = post(&bridge, "/connection/http_stream", &command).await?;
    assert_eq!(stream.json().await?["error"]["code"], 109);
    assert_eq!(stream.json().await?["push"]["disconnect"]["code"], 3502);
    let said = post(&bridge, "/connection/uni_http_stream", &json!({"token": expired}).to_string()).await?;
    assert_eq!(said.rest().await?, "{\"disconnect\":{\"code\":3005,\"reason\":\"connection expired\"}}\n");
    Ok(())
}

#[tokio::test]
async fn clients_that_only_hear_are_given_bare_pushes() -> Result<()> {
    // A stream lives on when the time for its request is over.
    let settings = "ping_seconds = 2\npong_timeout_seconds = 1\nstale_seconds = 1\nallow_anonymous = true";
    let bridge = bridge(settings).await?;
    for (method, path, by_address) in [
        (Method::POST, "/connection/uni_http_stream", false),
        (Method::POST, "/connection/uni_sse", false),
        (Method::GET, "/connection/uni_sse", true),
    ] {
        let user = unique();
        let asked = request(&user).to_string();
        let address = if by_address { format!("{path}?cf_connect={}", encoded(&asked)) } else { path.to_owned() };
        let mut stream = Stream::open(bridge.addr(), method, &address, &[], asked).await?;
        let first = stream.json().await?;
        let connected = &first["connect"];
        ensure!(connected["session"].is_string() && connected["ping"] == 2, "{first}");
        ensure!(connected.get("pong").is_none() && connected.get("node").is_none(), "{first}");
        assert_eq!(connected["subs"].as_object().map(|subs| subs.len()), Some(3));
        publish(&shared().await.redis.url(), &format!("orders:#{user}"), "1").await?;
        let push = stream.said().await?;
        assert_eq!((&push["channel"], &push["pub"]["data"]), (&json!(format!("orders:#{user}")), &json!(1)));
        for _ in 0..2 {
            assert_eq!(stream.json().await?, json!({}), "nobody waits for an answer");
        }
    }
    let mut nobody = get(&bridge, "/connection/uni_sse").await?;
    ensure!(nobody.json().await?["connect"]["client"].is_string(), "an empty request, from nobody in particular");
    Ok(())
}

#[tokio::test]
async fn a_one_way_websocket_hears_pushes_pings_and_the_end() -> Result<()> {
    let bridge = bridge("ping_seconds = 2\npong_timeout_seconds = 1").await?;
    let address = format!("ws://{}/connection/uni_websocket", bridge.addr());
    let (first, second) = (unique(), unique());
    let spoken = Client::over(open(&address, &[]).await?);
    spoken.send_text(request(&first).to_string()).await?;
    let parameter = format!("{address}?cf_connect={}", encoded(&request(&second).to_string()));
    let addressed = Client::over(open(&parameter, &[]).await?);
    for (client, user) in [(&spoken, &first), (&addressed, &second)] {
        // What is neither a reply nor a wrapped push is `unknown` to a two-way client.
        let bare = async || match client.next(SOON).await?.1 {
            Received::Push(push) => Ok(push["unknown"].clone()),
            other => anyhow::bail!("{other:?}"),
        };
        let connected = bare().await?;
        ensure!(connected["connect"]["session"].is_string(), "{connected}");
        client.send_text("this means nothing").await?;
        publish(&shared().await.redis.url(), &format!("orders:#{user}"), "1").await?;
        assert_eq!(bare().await?["pub"]["data"], 1);
        assert_eq!(client.next(SOON).await?.1, Received::Ping);
    }
    let bad = Client::over(open(&address, &[]).await?);
    bad.send_text("[]").await?;
    assert_eq!(bad.closed(SOON).await?.code, 3501);
    let refused = open(&format!("{address}?cf_connect=%5B%5D"), &[]).await.err().map(|error| format!("{error:#}"));
    ensure!(refused.as_ref().is_some_and(|text| text.contains("400")), "{refused:?}");

    let mut socket = open(&parameter, &[]).await?;
    let mut seen = Vec::new();
    while !seen.contains(&"ping") {
        let message = tokio::time::timeout(SOON, futures::StreamExt::next(&mut socket)).await?.context("open")??;
        seen.push(if matches!(message, Message::Ping(_)) { "ping" } else { "other" });
    }
    bridge.process.stop().await?;
    let (_, last) = spoken.next_push(SOON).await?;
    assert_eq!(last["unknown"], json!({"disconnect": {"code": 3001, "reason": "shutdown"}}));
    assert_eq!(spoken.closed(SOON).await?.code, 3001);
    Ok(())
}

#[tokio::test]
async fn pages_of_allowed_origins_only_may_use_http_and_read_the_answers() -> Result<()> {
    let bridge = bridge("allowed_origins = [\"https://*.shop.example\"]").await?;
    let paths = ["http_stream", "sse", "uni_http_stream", "uni_sse", "init"].map(|name| format!("/connection/{name}"));
    for path in paths.iter().map(String::as_str).chain(["/emulation"]) {
        for (origin, allowed) in [("https://EU.shop.example", true), ("https://evil.example", false)] {
            let headers =
                [("origin", origin), ("access-control-request-headers", "content-type, x-a"), ("cookie", "a=b")];
            let asked = Stream::open(bridge.addr(), Method::OPTIONS, path, &headers, "").await?;
            let answer = Stream::open(bridge.addr(), Method::GET, path, &headers[..1], "").await?;
            let granted = |answer: &Stream| answer.header("access-control-allow-origin").to_owned();
            if !allowed {
                ensure!((asked.status, answer.status) == (403, 403), "{path}: {asked:?}");
                ensure!(granted(&asked).is_empty() && granted(&answer).is_empty(), "{path}");
                continue;
            }
            ensure!(
                asked.status == 204 && granted(&asked) == origin && granted(&answer) == origin,
                "{path}: {asked:?}"
            );
            assert_eq!(asked.header("access-control-allow-credentials"), "true");
            assert_eq!(asked.header("access-control-allow-headers"), "content-type, x-a");
            assert_eq!(asked.header("access-control-max-age"), "300");
            ensure!(asked.header("access-control-allow-methods").contains("OPTIONS"), "{path}");
            assert_eq!(asked.header("vary"), "Origin");
        }
    }
    let socket = bridge.socket();
    open(&socket, &[("origin", "https://eu.SHOP.example")]).await?;
    assert!(open(&socket, &[("origin", "https://shop.example")]).await.is_err());
    assert_eq!(http::get(bridge.addr(), "/connection/init").await?.body, "{}");
    let insecure = self::bridge("insecure = true").await?;
    open(&insecure.socket(), &[("origin", "http://localhost:3000")]).await?;
    Ok(())
}
