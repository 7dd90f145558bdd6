//! What streams cost and how they end: limits, clients that do not read or are gone, kept connections, shutdown.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use griot_tests::bridge::{LoneBridge, SECRET};
use griot_tests::eventually::{eventually, eventually_some};
use griot_tests::servers::Redis;
use griot_tests::stream::Stream;
use griot_tests::{http, token};
use hyper::Method;
use hyper_util::rt::TokioIo;
use serde_json::json;

use crate::transports::{ON, SOON, bridge, connect, emulate, post, publish, request, unique};

#[tokio::test]
async fn streams_count_in_the_limits_like_sockets() -> Result<()> {
    let bridge = bridge("max_connections_per_user = 1\nmax_connections = 2\nstale_seconds = 1").await?;
    let user = unique();
    let mut first = post(&bridge, "/connection/uni_http_stream", &request(&user).to_string()).await?;
    first.json().await?;
    let second = post(&bridge, "/connection/http_stream", &connect(&user)).await?.rest().await?;
    ensure!(second.contains("\"code\":3504"), "{second}");
    let connect = connect(&unique());
    let other = eventually_some(SOON, "the second has given its place back", || async {
        post(&bridge, "/connection/sse", &connect).await.ok().filter(|stream| stream.status == 200)
    });
    let mut other = other.await;
    let connected = other.json().await?["connect"].take();
    assert_eq!(http::get(bridge.addr(), "/health").await?.status, 503, "the bridge is full");
    drop(first);
    eventually(SOON, "there is a place again", || async {
        emulate(&bridge, &connected, "{}").await.is_ok_and(|status| status == 204)
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn behind_a_proxy_each_stream_counts_for_its_own_address_and_commands_do_not() -> Result<()> {
    let bridge = bridge("max_connections_per_address = 1\ntrusted_proxies = [\"127.0.0.0/8\"]").await?;
    let from = async |address: &str, path: &str, body: &str| {
        let headers = [("x-forwarded-for", address)];
        Stream::open(bridge.addr(), Method::POST, path, &headers, body.to_owned()).await
    };
    let mut stream = from("1.1.1.1", "/connection/http_stream", &connect(&unique())).await?;
    let connected = stream.json().await?["connect"].take();
    let second = from("1.1.1.1", "/connection/uni_sse", &request(&unique()).to_string()).await?;
    ensure!(second.status == 429 && second.rest().await?.contains("max_connections_per_address"));
    let other = from("2.2.2.2", "/connection/uni_sse", &request(&unique()).to_string()).await?;
    assert_eq!(other.status, 200);
    let body = json!({"session": connected["session"], "node": connected["node"], "data": "{}"}).to_string();
    assert_eq!(from("1.1.1.1", "/emulation", &body).await?.status, 204);
    Ok(())
}

#[tokio::test]
async fn a_connection_that_is_used_is_kept_beyond_the_time_for_one_request() -> Result<()> {
    let bridge = bridge("stale_seconds = 1").await?;
    let socket = TokioIo::new(tokio::net::TcpStream::connect(bridge.addr()).await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(socket).await?;
    let speak = async {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3) {
            let request = hyper::Request::get("/connection/init").header("host", "x").body(axum::body::Body::empty())?;
            let answer = sender.send_request(request).await?;
            let body = axum::body::to_bytes(axum::body::Body::new(answer.into_body()), 100).await?;
            ensure!(&body[..] == b"{}", "{body:?}");
        }
        Ok(())
    };
    tokio::select! {
        spoken = speak => spoken,
        ended = connection => anyhow::bail!("the connection has ended: {ended:?}"),
    }
}

#[tokio::test]
async fn a_stream_that_is_not_read_costs_its_bytes_and_ends_as_slow() -> Result<()> {
    const LIMIT: usize = 1024 * 1024;
    const SLOW: usize = 10;
    let redis = Redis::start().await?;
    let settings = format!("{ON}\nmax_outbox_bytes = {LIMIT}\nsocket_send_buffer_bytes = 65536");
    let bridge = LoneBridge::start(&redis.url(), &settings).await?;
    let mut streams = Vec::new();
    for n in 0..SLOW {
        let path = ["/connection/uni_http_stream", "/connection/uni_sse"][n % 2];
        let mut stream = post(&bridge, path, &request("42").to_string()).await?;
        stream.json().await?;
        streams.push(stream);
    }
    let before = bridge.process.resident()?;
    let data = json!("x".repeat(50_000)).to_string();
    for n in 1..=400 {
        publish(&redis.url(), "orders:#42", &data).await?;
        let slow = bridge.metric("griot_disconnects_total{reason=\"slow\"}").await?;
        let cost = bridge.process.resident()?.saturating_sub(before);
        ensure!(cost <= SLOW * LIMIT + 8 * LIMIT, "{SLOW} slow clients cost {cost} bytes after {n} publications");
        if slow == SLOW as f64 {
            break;
        }
    }
    assert_eq!(bridge.metric("griot_disconnects_total{reason=\"slow\"}").await?, SLOW as f64);
    // Some read on in time and are told; of the others nothing is left all the same.
    let told = streams.remove(0).rest().await?;
    ensure!(
        told.ends_with("{\"disconnect\":{\"code\":3008,\"reason\":\"slow\"}}\n"),
        "{:?}",
        told.get(told.len() - 80..)
    );
    eventually(SOON, "nothing is left of those that never read", || async {
        bridge.metric("griot_connections").await.is_ok_and(|open| open == 0.0)
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn a_client_that_vanishes_is_noticed_at_once_and_shutdown_has_a_code() -> Result<()> {
    let redis = Redis::start().await?;
    let topics = "[topics.room]\npersonal = \"off\"\nnamed = true\npresence = true\nsee_presence = \"users\"";
    let bridge = LoneBridge::start_with(topics, &redis.url(), ON).await?;
    let (watcher, _) = bridge.client("watcher").await?;
    let count = async || {
        let stats = watcher.command("presence_stats", json!({"channel": "room:1"})).await;
        stats.ok().and_then(|stats| stats["num_clients"].as_u64())
    };
    let subscribing = json!({"token": token::token(SECRET, "42"), "subs": {"room:1": {}}}).to_string();
    for path in ["/connection/uni_http_stream", "/connection/uni_sse"] {
        let mut stream = post(&bridge, path, &subscribing).await?;
        ensure!(stream.json().await?["connect"]["subs"]["room:1"].is_object());
        assert_eq!(count().await, Some(1));
        drop(stream);
        eventually(SOON, "it has left", || async { count().await == Some(0) }).await;
    }
    let mut both = post(&bridge, "/connection/http_stream", &connect("42")).await?;
    let mut one = post(&bridge, "/connection/uni_sse", &subscribing).await?;
    both.json().await?;
    one.json().await?;
    bridge.process.stop().await?;
    assert_eq!(both.rest().await?, "{\"push\":{\"disconnect\":{\"code\":3001,\"reason\":\"shutdown\"}}}\n");
    ensure!(one.rest().await?.ends_with("data: {\"disconnect\":{\"code\":3001,\"reason\":\"shutdown\"}}\n\n"));
    Ok(())
}
