//! Listeners that strangers reach: whatever they send or do not send, they get a status or are closed in bounded time,
//! and those who behave are served meanwhile.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::routing::{get, post};
use fanout_core::Shutdown;
use fanout_core::admin::{self, Health};
use fanout_core::http::{self as listener, Limits};
use fanout_core::telemetry::{self, ByReason};
use futures::future::try_join_all;
use griot_tests::eventually::eventually;
use griot_tests::http;
use griot_tests::process::Launch;
use griot_tests::servers::{Redis, free_addr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{interval, timeout};

/// Longer than every limit here together; whoever is held for so long is held for ever.
const BOUND: Duration = Duration::from_secs(10);
/// More than the kernel buffers between two sockets.
const LARGE: usize = 32 * 1024 * 1024;

const LIMITS: Limits =
    Limits { connections: 64, header_timeout: Duration::from_millis(400), request_timeout: Duration::from_millis(600) };

/// A listener of ours with routes to try, and the operators' beside it.
struct Site {
    addr: SocketAddr,
    admin: SocketAddr,
    /// A call of `/wait` is under way.
    under_way: Arc<Notify>,
    /// Lets it go on.
    go_on: Arc<Notify>,
    shutdown: Shutdown,
}

impl Site {
    async fn start(limits: Limits) -> Result<Self> {
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let (public, operators) = (admin::bind("public", free).await?, admin::bind("operators", free).await?);
        let (addr, admin) = (public.local_addr()?, operators.local_addr()?);
        let (under_way, go_on, shutdown) = (Arc::new(Notify::new()), Arc::new(Notify::new()), Shutdown::new());
        let (begun, wait) = (Arc::clone(&under_way), Arc::clone(&go_on));
        let routes = Router::new()
            .route("/quick", get(|| std::future::ready("quick")))
            .route("/echo", post(|body: String| std::future::ready(body)))
            .route("/large", get(|| std::future::ready("x".repeat(LARGE))))
            .route(
                "/wait",
                get(async move || {
                    begun.notify_one();
                    wait.notified().await;
                }),
            );
        let mut registry = telemetry::registry();
        let refused = ByReason::register(&mut registry, "refused", "By reason");
        let (health, registry) = (Health::new(&[]), Arc::new(registry));
        shutdown.spawn(admin::serve_within(limits, operators, health, registry, shutdown.clone()));
        shutdown.spawn(listener::serve(public, routes, limits, refused, shutdown.clone()));
        Ok(Self { addr, admin, under_way, go_on, shutdown })
    }

    async fn refused(&self, listener: &str, reason: &str) -> Result<u64> {
        let text = http::get(self.admin, "/metrics").await?.body;
        let line = format!("griot_{listener}_total{{reason=\"{reason}\"}} ");
        Ok(text.lines().find_map(|l| l.strip_prefix(&line)?.parse().ok()).unwrap_or(0))
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.shutdown.request();
    }
}

/// Sends `first`, then a byte of `rest` every 20 ms until it is cut off; returns all that came back.
async fn stranger(addr: SocketAddr, first: &[u8], rest: &[u8]) -> Result<String> {
    let held = async {
        let (mut reader, mut writer) = TcpStream::connect(addr).await?.into_split();
        // The peer may answer, and close, before it has read everything.
        let _ = writer.write_all(first).await;
        let trickle = async {
            let mut turns = interval(Duration::from_millis(20));
            for byte in rest {
                turns.tick().await;
                if writer.write_all(&[*byte]).await.is_err() {
                    break;
                }
            }
            std::future::pending::<()>().await;
        };
        let mut answer = Vec::new();
        tokio::select! {
            read = reader.read_to_end(&mut answer) => {
                // A reset after the answer is an ending too.
                let _ = read;
            }
            () = trickle => {}
        }
        anyhow::Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    timeout(BOUND, held).await.context("a stranger is held for ever")?
}

/// Calls over one connection that stays open, as a backend does; fails when it is closed.
struct Regular(TcpStream);

impl Regular {
    async fn connect(addr: SocketAddr) -> Result<Self> {
        let mut regular = Self(TcpStream::connect(addr).await?);
        regular.call().await?;
        Ok(regular)
    }

    async fn call(&mut self) -> Result<()> {
        self.0.write_all(b"GET /quick HTTP/1.1\r\nhost: here\r\n\r\n").await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"quick") {
            let read =
                timeout(BOUND, self.0.read_buf(&mut answer)).await.context("a regular client is not served")??;
            ensure!(read > 0, "a regular client was cut off: {}", String::from_utf8_lossy(&answer));
        }
        ensure!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        Ok(())
    }

    /// Calls until `other` is done; returns how often.
    async fn meanwhile<T>(&mut self, other: impl Future<Output = Result<T>>) -> Result<(T, usize)> {
        let mut other = std::pin::pin!(other);
        let mut turns = interval(Duration::from_millis(10));
        let mut calls = 0;
        loop {
            tokio::select! {
                biased;
                result = &mut other => return Ok((result?, calls)),
                _ = turns.tick() => self.call().await?,
            }
            calls += 1;
        }
    }
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}

const HEAD: &[u8] = b"POST /echo HTTP/1.1\r\nhost: here\r\ncontent-length: 100000\r\n\r\n";

#[tokio::test]
async fn whoever_does_not_finish_a_request_gets_408_and_the_others_are_served() -> Result<()> {
    let site = Site::start(LIMITS).await?;
    let mut regular = Regular::connect(site.addr).await?;
    let trickle = [b'x'; 400];
    let header = [b"GET /quick HTTP/1.1\r\nx-slow: ".as_slice(), &trickle].concat();
    let strangers: [(&str, &[u8], &[u8]); 5] = [
        ("silent", b"", b""),
        ("half a line", b"GET /qui", b""),
        ("half the headers", b"GET /quick HTTP/1.1\r\nhost: here\r\n", b""),
        ("slow-loris", b"", &header),
        ("body trickling", HEAD, &trickle),
    ];
    let all = strangers.map(|(_, first, rest)| stranger(site.addr, first, rest));
    let (answers, calls) = regular.meanwhile(try_join_all(all)).await?;
    for ((name, ..), answer) in strangers.iter().zip(answers) {
        assert!(status(&answer) == 408 && answer.ends_with('\n'), "{name}: {answer:?}");
    }
    assert!(calls > 10, "{calls}");
    assert_eq!(site.refused("refused", "header timeout").await?, 4);
    assert_eq!(site.refused("refused", "request timeout").await?, 1);
    // The operators' listener is served by the same code.
    assert_eq!(status(&stranger(site.admin, b"GET /met", b"").await?), 408);
    assert_eq!(site.refused("admin_refused", "header timeout").await?, 1);
    Ok(())
}

#[tokio::test]
async fn what_is_too_large_or_no_http_gets_a_status() -> Result<()> {
    let site = Site::start(LIMITS).await?;
    let large = format!("GET /quick HTTP/1.1\r\nx-large: {}\r\n\r\n", "x".repeat(listener::MAX_HEADER_BYTES));
    let many = format!("GET /quick HTTP/1.1\r\n{}\r\n", "x-many: 1\r\n".repeat(500));
    let endless = format!("GET /{}", "x".repeat(200_000));
    for (name, sent, expected) in [
        ("large header", large.as_bytes(), &[431][..]),
        ("many headers", many.as_bytes(), &[431]),
        ("endless line", endless.as_bytes(), &[414, 431]),
        ("garbage", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", &[400]),
        ("another protocol", b"*1\r\n$4\r\nPING\r\n", &[400]),
        ("negative length", b"POST /echo HTTP/1.1\r\nhost: h\r\ncontent-length: -1\r\n\r\n", &[400]),
    ] {
        let answer = stranger(site.addr, sent, b"").await?;
        assert!(expected.contains(&status(&answer)), "{name}: {answer:?}");
    }
    assert!(site.refused("refused", "headers too large").await? >= 2);
    assert!(site.refused("refused", "not HTTP").await? >= 2);
    Regular::connect(site.addr).await.map(drop)
}

#[tokio::test]
async fn over_the_limit_300_are_told_or_closed_and_a_regular_client_is_served() -> Result<()> {
    let limits = Limits { connections: 3, header_timeout: Duration::from_secs(3), ..LIMITS };
    let site = Site::start(limits).await?;
    let mut regular = Regular::connect(site.addr).await?;
    let (one, other) = (TcpStream::connect(site.addr).await?, TcpStream::connect(site.addr).await?);
    // Accepted in order: when one more is refused, the two before it are held.
    let first = stranger(site.addr, b"", b"").await?;
    assert!(status(&first) == 503 && first.contains("all 3 connections"), "{first:?}");
    let crowd = (0..300).map(|_| stranger(site.addr, b"", b""));
    let (answers, _) = regular.meanwhile(try_join_all(crowd)).await?;
    assert!(answers.iter().all(|answer| matches!(status(answer), 503 | 0)), "{answers:?}");
    let told = answers.iter().filter(|answer| status(answer) == 503).count();
    assert!(told >= 64, "{told}");
    assert_eq!(site.refused("refused", "full").await?, 301);
    drop((one, other));
    eventually(BOUND, "there is room again", || async { Regular::connect(site.addr).await.is_ok() }).await;
    Ok(())
}

#[tokio::test]
async fn an_answer_that_nobody_takes_and_an_unused_connection_are_closed() -> Result<()> {
    let site = Site::start(LIMITS).await?;
    let mut deaf = TcpStream::connect(site.addr).await?;
    deaf.write_all(b"GET /large HTTP/1.1\r\nhost: here\r\n\r\n").await?;
    eventually(BOUND, "it is cut off", || async {
        site.refused("refused", "answer not taken").await.is_ok_and(|count| count == 1)
    })
    .await;
    // Nothing but silence may come on a connection that is kept: the next request would take it for its answer.
    let mut unused = Regular::connect(site.addr).await?;
    let mut rest = Vec::new();
    timeout(BOUND, unused.0.read_to_end(&mut rest)).await.context("an unused connection is kept for ever")??;
    assert_eq!(rest, b"");
    assert_eq!(site.refused("refused", "header timeout").await?, 0);
    Ok(())
}

#[tokio::test]
async fn at_the_ending_calls_under_way_are_answered_and_the_rest_is_closed() -> Result<()> {
    let limits = Limits { header_timeout: BOUND * 3, request_timeout: BOUND * 3, ..LIMITS };
    let site = Site::start(limits).await?;
    let mut idle = Regular::connect(site.addr).await?;
    let mut half = TcpStream::connect(site.addr).await?;
    half.write_all(b"GET /quick HTT").await?;
    let call = http::get(site.addr, "/wait");
    let mut call = std::pin::pin!(call);
    tokio::select! {
        answer = &mut call => anyhow::bail!("it does not wait: {answer:?}"),
        () = site.under_way.notified() => {}
    }
    let drain = site.shutdown.drain(BOUND);
    let answered = async {
        let mut rest = Vec::new();
        idle.0.read_to_end(&mut rest).await?;
        assert_eq!(rest, b"", "closed at once");
        site.go_on.notify_one();
        call.await
    };
    let (drained, answer) = tokio::join!(drain, answered);
    assert_eq!(answer?.status, 200);
    assert!(drained, "every task is tracked and has ended");
    assert!(TcpStream::connect(site.addr).await.is_err(), "nobody listens any more");
    Ok(())
}

#[tokio::test]
async fn the_api_has_these_limits_from_its_configuration() -> Result<()> {
    let (redis, addr, admin) = (Redis::start().await?, free_addr()?, free_addr()?);
    let config = format!(
        "[redis]\nurl = {:?}\n[publisher]\nlisten = \"{addr}\"\nadmin_listen = \"{admin}\"\napi_key = \"k\"\n\
         max_connections = 2\nheader_timeout_seconds = 1\nrequest_timeout_seconds = 1\nmax_body_bytes = 1000\n",
        redis.url()
    );
    let process = Launch::new("publisher").config(config).ready_at(admin).start().await?;
    let call = |length: usize| {
        format!("POST /api/publish HTTP/1.1\r\nhost: h\r\nx-api-key: k\r\ncontent-length: {length}\r\n\r\n{{")
    };
    let (trickling, announced) = (call(900), call(5_000_000));
    let slow = stranger(addr, trickling.as_bytes(), &[b' '; 400]).await?;
    assert!(status(&slow) == 408 && slow.contains("1s"), "{slow:?}");
    assert_eq!(status(&stranger(addr, b"", b"").await?), 408);
    let large = stranger(addr, announced.as_bytes(), &[b' '; 400]).await?;
    assert!(status(&large) == 413 && large.contains("max_body_bytes"), "{large:?}");
    // Of a body that announces no length only the limit is read.
    let chunked = format!(
        "POST /api/publish HTTP/1.1\r\nhost: h\r\nx-api-key: k\r\ntransfer-encoding: chunked\r\n\r\n7d0\r\n{}",
        " ".repeat(2000)
    );
    let large = stranger(addr, chunked.as_bytes(), b"").await?;
    assert!(status(&large) == 413 && large.contains("max_body_bytes"), "{large:?}");
    // Who has no key is answered before a byte of the body is read.
    let keyless = trickling.replace("x-api-key: k", "x-api-key: no");
    assert_eq!(status(&stranger(addr, keyless.as_bytes(), b"").await?), 401);
    let metrics = http::get(admin, "/metrics").await?.body;
    assert!(metrics.contains("griot_api_refused_total{reason=\"header timeout\"} 1"), "{metrics}");
    process.stop().await?;
    for (field, value) in
        [("max_connections", "0"), ("header_timeout_seconds", "0"), ("request_timeout_seconds", "9999")]
    {
        let check = Launch::new("publisher").arg("--check-config").env("GRIOT_PUBLISHER__API_KEY", "k");
        let ended = check.env(&format!("GRIOT_PUBLISHER__{}", field.to_uppercase()), value).run().await?;
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(!ended.status.success() && said.contains(field) && said.contains(value), "{said}");
    }
    Ok(())
}
