//! Slow and hostile browsers: each gets a clear answer, costs what its limits say, and is nobody else's trouble.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fanout_core::{Channel, Data, Publication, Publisher, RedisConfig};
use futures::future::try_join_all;
use griot_tests::bridge::{LoneBridge, SECRET};
use griot_tests::client::{Client, Received, closed, open, refused};
use griot_tests::eventually::eventually;
use griot_tests::servers::{Redis, shared};
use griot_tests::token;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(20);

async fn bridge(settings: &str) -> Result<LoneBridge> {
    LoneBridge::start(&shared().await.redis.url(), settings).await
}

/// Sends bytes and returns all that comes back until the end.
async fn answer(addr: SocketAddr, bytes: &[u8]) -> Result<String> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.write_all(bytes).await?;
    rest(stream).await
}

async fn rest(mut stream: TcpStream) -> Result<String> {
    let mut text = Vec::new();
    // A reset after the answer is an end, too.
    let _ = timeout(SOON, stream.read_to_end(&mut text)).await.context("the connection does not end")?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

async fn works(bridge: &LoneBridge) -> Result<()> {
    let (client, _) = bridge.client(&format!("u{}", uuid::Uuid::new_v4().simple())).await?;
    client.subscribe("products").await.map(drop)
}

#[tokio::test]
async fn handshakes_that_do_not_come_to_an_end_are_answered_and_closed() -> Result<()> {
    let bridge = bridge("stale_seconds = 1").await?;
    let silent = TcpStream::connect(bridge.addr()).await?;
    let mut half = TcpStream::connect(bridge.addr()).await?;
    half.write_all(b"GET /connection/websocket HTTP/1.1\r\nHost: x\r\n").await?;
    let mut trickle = TcpStream::connect(bridge.addr()).await?;
    let trickled = async {
        let mut pace = tokio::time::interval(Duration::from_millis(50));
        for byte in b"GET /connection/websocket HTTP/1.1\r\nX-Slow: ".iter().chain(std::iter::repeat(&b'x')) {
            pace.tick().await;
            if trickle.write_all(&[*byte]).await.is_err() {
                break;
            }
            let mut first = [0; 1];
            if timeout(Duration::from_millis(1), trickle.peek(&mut first)).await.is_ok() {
                break;
            }
        }
        rest(trickle).await
    };
    for text in [rest(silent).await?, rest(half).await?, timeout(SOON, trickled).await??] {
        ensure!(text.starts_with("HTTP/1.1 408") && text.contains("stale_seconds"), "{text:?}");
    }
    let mute = Client::over(open(&bridge.socket(), &[]).await?);
    assert_eq!(mute.closed(SOON).await?.code, 3502, "a WebSocket without a first command");
    let kept = answer(bridge.addr(), b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await?;
    ensure!(kept.starts_with("HTTP/1.1 200") && !kept.contains("408"), "{kept:?}");
    works(&bridge).await
}

#[tokio::test]
async fn garbage_and_requests_over_the_limits_are_answered() -> Result<()> {
    let bridge = bridge("").await?;
    let long = format!("GET /health HTTP/1.1\r\nX-Long: {}\r\n\r\n", "x".repeat(20_000));
    let many = format!("GET /health HTTP/1.1\r\n{}\r\n", "X-Many: 1\r\n".repeat(2_000));
    for (request, status) in [
        (b"\x00\x01\x02\x03\xff\xfe\r\n\r\n".as_slice(), "400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "400"),
        (b"GET / HTTP/9.9\r\n\r\n", "400"),
        (long.as_bytes(), "431"),
        (many.as_bytes(), "431"),
        (b"POST /connection/websocket HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", "405"),
        (b"GET /etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "404"),
    ] {
        let text = answer(bridge.addr(), request).await?;
        ensure!(text.starts_with(&format!("HTTP/1.1 {status}")), "{status} expected: {text:?}");
    }
    works(&bridge).await
}

#[tokio::test]
async fn one_connection_gets_its_channels_and_an_error_for_each_one_more() -> Result<()> {
    let bridge = bridge("").await?;
    let (client, connected) = bridge.client("42").await?;
    let own = connected["subs"].as_object().map_or(0, serde_json::Map::len);
    // Named channels are closed in the shop: the limit comes after the permission, so a topic that is open is needed.
    let topics = "[topics.rooms]\npersonal = \"off\"\nnamed = true";
    let open_bridge = LoneBridge::start_with(topics, &shared().await.redis.url(), "").await?;
    let (many, _) = open_bridge.client("42").await?;
    const ASKED: usize = 10_000;
    for n in 0..ASKED {
        many.send("subscribe", json!({"channel": format!("rooms:{n}")})).await?;
    }
    let (mut subscribed, mut limited) = (0, 0);
    for _ in 0..ASKED {
        match many.next(SOON).await?.1 {
            Received::Reply(reply) if reply["error"]["code"] == 106 => limited += 1,
            Received::Reply(reply) if reply["subscribe"].is_object() => subscribed += 1,
            other => anyhow::bail!("{other:?}"),
        }
    }
    assert_eq!((subscribed, limited), (128, ASKED - 128));
    assert_eq!(own, 3);
    drop(client);
    Ok(())
}

#[tokio::test]
async fn connections_are_limited_per_user_and_per_address() -> Result<()> {
    let bridge = bridge("max_connections_per_user = 2").await?;
    let (first, _) = bridge.client("42").await?;
    let _second = bridge.client("42").await?;
    let error = bridge.client("42").await.expect_err("a third");
    assert_eq!(closed(&error).map(|closed| closed.code), Some(3504), "{error:#}");
    bridge.client("4").await?;
    first.close().await?;
    eventually(SOON, "the place is free again", || async { bridge.client("42").await.is_ok() }).await;

    let bridge = self::bridge("max_connections_per_address = 2").await?;
    let kept = [TcpStream::connect(bridge.addr()).await?, TcpStream::connect(bridge.addr()).await?];
    let text = answer(bridge.addr(), b"").await?;
    ensure!(text.starts_with("HTTP/1.1 429") && text.contains("max_connections_per_address"), "{text:?}");
    drop(kept);
    eventually(SOON, "the places are free again", || async { bridge.client("42").await.is_ok() }).await;

    let proxied = self::bridge("max_connections_per_address = 2\ntrusted_proxies = [\"127.0.0.0/8\"]").await?;
    let from = async |address: &str| open(&proxied.socket(), &[("x-forwarded-for", address)]).await;
    let _kept = (from("9.9.9.9, 1.1.1.1").await?, from("1.1.1.1").await?);
    let refused = from("1.1.1.1").await.err().map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(refused.contains("429"), "{refused:?}");
    from("1.1.1.1, 2.2.2.2").await?;
    Ok(())
}

#[tokio::test]
async fn a_full_bridge_says_so_and_silent_connections_give_their_places_back() -> Result<()> {
    let bridge = bridge("max_connections = 20\nstale_seconds = 1").await?;
    let silent = try_join_all((0..20).map(|_| TcpStream::connect(bridge.addr()))).await?;
    eventually(SOON, "the bridge is full", || async {
        answer(bridge.addr(), b"").await.is_ok_and(|text| text.starts_with("HTTP/1.1 503"))
    })
    .await;
    for stream in silent {
        rest(stream).await?;
    }
    eventually(SOON, "there are places again", || async { works(&bridge).await.is_ok() }).await;
    Ok(())
}

async fn publish(publisher: &Publisher, channel: &str, data: Value, key: Option<&str>) -> Result<()> {
    let mut publication = Publication::new(Channel::parse(channel)?, Data::parse(data.to_string())?);
    publication.conflation_key = key.map(str::to_owned);
    publisher.publish(publication).await?;
    Ok(())
}

/// Resident memory of a process in bytes.
fn resident(pid: u32) -> Result<usize> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<usize>()? * 1024)
}

#[tokio::test]
async fn a_browser_that_stops_reading_costs_its_bytes_and_resumes_completely() -> Result<()> {
    const LIMIT: usize = 1024 * 1024;
    const SLOW: usize = 20;
    let redis = Redis::start().await?;
    let settings = format!("max_outbox_bytes = {LIMIT}\nsocket_send_buffer_bytes = 65536");
    let topics = griot_tests::stage::TOPICS.replace("[topics.orders]", "[topics.orders]\nhistory_size = 300");
    let bridge = LoneBridge::start_with(&topics, &redis.url(), &settings).await?;
    let config = RedisConfig { url: redis.url(), ..RedisConfig::default() };
    let publisher = Publisher::new(fanout_core::Redis::connect(&config)?, griot_tests::bridge::topics(&topics)?);
    let (fast, _) = bridge.client("42").await?;
    let mut slow = Vec::new();
    for _ in 0..SLOW {
        let (client, connected) = bridge.client("42").await?;
        client.keep_reading(false);
        slow.push((client, connected));
    }
    let before = resident(bridge.process.pid())?;
    // Larger than all that kernel and outbox take; the newest wallet of each key stays behind.
    let text = "x".repeat(40_000);
    const ORDERS: u64 = 150;
    for n in 1..=ORDERS {
        publish(&publisher, "orders:#42", json!({"n": n, "text": text}), None).await?;
        publish(&publisher, "wallet-updates:#42", json!({"n": n}), Some(["cash", "savings"][n as usize % 2])).await?;
        // It is never behind, so that nothing is conflated for it.
        let (channel, publication) = fast.next_publication(SOON).await?;
        assert_eq!((channel.as_str(), &publication["data"]["n"]), ("orders:#42", &json!(n)), "the fast one has all");
        assert_eq!(fast.next_publication(SOON).await?.1["data"]["n"], n);
    }
    let cost = resident(bridge.process.pid())?.saturating_sub(before);
    ensure!(cost <= SLOW * LIMIT + 8 * LIMIT, "{SLOW} slow clients cost {cost} bytes, {LIMIT} are permitted for each");
    eventually(SOON, "all were disconnected as slow", || async {
        bridge.metric("griot_disconnects_total{reason=\"slow\"}").await.is_ok_and(|count| count == SLOW as f64)
    })
    .await;
    for (client, connected) in slow {
        client.keep_reading(true);
        let resumed = resume(&bridge, &client, &connected, ORDERS).await?;
        assert_eq!(resumed.0, (1..=ORDERS).collect::<Vec<_>>(), "orders are complete");
        assert!(resumed.1.ends_with(&[ORDERS - 1, ORDERS]), "the newest of each wallet: {:?}", resumed.1);
    }
    Ok(())
}

/// Reads what was still on its way, comes back with the positions that are reached, and returns the numbers of all orders
/// and wallets that came, in their order.
async fn resume(bridge: &LoneBridge, client: &Client, connected: &Value, orders: u64) -> Result<(Vec<u64>, Vec<u64>)> {
    let mut offsets = [0, 0];
    let mut numbers = [Vec::new(), Vec::new()];
    let names = ["orders:#42", "wallet-updates:#42"];
    let mut take = |channel: &str, publication: &Value| {
        let index = usize::from(channel == names[1]);
        offsets[index] = publication["offset"].as_u64().unwrap_or(0);
        numbers[index].push(publication["data"]["n"].as_u64().unwrap_or(0));
        offsets
    };
    let mut at = [0, 0];
    while let Ok((_, push)) = client.next_push(SOON).await {
        at = take(push["channel"].as_str().unwrap_or_default(), &push["pub"]);
    }
    assert_eq!(client.closed(SOON).await?.code, 3008, "a code after which clients come back");
    let again = Client::over(open(&bridge.socket(), &[]).await?);
    let sub = |index: usize| {
        let epoch = &connected["subs"][names[index]]["epoch"];
        json!({"recover": true, "epoch": epoch, "offset": at[index]})
    };
    let subs = json!({names[0]: sub(0), names[1]: sub(1)});
    let connect = json!({"token": token::token(SECRET, "42"), "subs": subs});
    let connected = again.command("connect", connect).await.map_err(|error| match refused(&error) {
        Some(refused) => refused.clone().into(),
        None => error,
    })?;
    for name in names {
        let sub = &connected["subs"][name];
        ensure!(sub["recovered"] == true, "{name}: {sub}");
        for publication in sub["publications"].as_array().into_iter().flatten() {
            at = take(name, publication);
        }
    }
    // What does not fit into the reply follows it.
    while at != [orders, orders] {
        let (_, push) = again.next_push(SOON).await?;
        at = take(push["channel"].as_str().unwrap_or_default(), &push["pub"]);
    }
    let [orders, wallets] = numbers;
    Ok((orders, wallets))
}
