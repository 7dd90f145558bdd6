//! Publications to random users, whom nobody is connected for, on the three ways in: by the library, by the API of the
//! publisher, and by plain `PUBLISH`, which Redis hands to a bridge and the bridge routes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use griot_tests::bridge::{LoneBridge, publisher};
use griot_tests::process::Launch;
use griot_tests::servers::free_addr;
use griot_tests::stage::TOPICS;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::redis::{BATCH, BYTES, publish};
use super::{Figure, Round, cost, gain};
use crate::process;

/// Connections of a backend that calls the API.
const CALLERS: usize = 16;
/// Plain publications that the bridge may have before it; Redis would cut off one that lets too much wait.
const AHEAD: usize = 4_000;
/// How long the bridge may take for these.
const PATIENCE: Duration = Duration::from_secs(20);
const KEY: &str = "the key of a bench";

/// A way in, by the names of its figures.
struct Way {
    rate: &'static str,
    redis: &'static str,
    /// Of the worker between whoever publishes and Redis, or behind Redis.
    worker: &'static str,
}

const LIBRARY: Way =
    Way { rate: "publications per second, batches of 256", redis: "Redis CPU per publication", worker: "" };
const SINGLE: Way = Way {
    rate: "publications per second by the API",
    redis: "Redis CPU per publication by the API",
    worker: "the publisher's CPU per publication",
};
const BATCHES: Way = Way {
    rate: "publications per second by the API, batches of 256",
    redis: "Redis CPU per publication by the API, batches of 256",
    worker: "the publisher's CPU per publication, batches of 256",
};
const RAW: Way = Way {
    rate: "raw publications per second",
    redis: "Redis CPU per raw publication",
    worker: "the bridge's CPU per raw publication",
};

pub(super) async fn every_way(round: Round<'_>) -> Result<Vec<Figure>> {
    let mut random = fastrand::Rng::with_seed(6);
    let count = if round.quick { 1_000 } else { 100_000 };
    let users: Vec<usize> = (0..count).map(|_| random.usize(..round.size)).collect();
    let mut figures = by_library(round, &users).await.context("by the library")?;
    figures.extend(by_api(round, &users).await.context("by the API")?);
    figures.extend(raw(round, &users).await.context("raw")?);
    Ok(figures)
}

impl Way {
    /// What `work` publishes so many by, and what that costs Redis and the worker.
    async fn measure(
        &self,
        round: Round<'_>,
        worker: Option<u32>,
        count: usize,
        work: impl Future<Output = Result<()>>,
    ) -> Result<Vec<Figure>> {
        let used = || anyhow::Ok((process::cpu(round.redis.pid())?, worker.map(process::cpu).transpose()?));
        let (before, since) = (used()?, Instant::now());
        work.await?;
        let (after, seconds) = (used()?, since.elapsed().as_secs_f64());
        let each = |used: Duration| used.as_secs_f64() * 1e6 / count as f64;
        let mut figures = vec![
            cost(self.redis, "µs", each(after.0.saturating_sub(before.0))),
            gain(self.rate, "1/s", count as f64 / seconds),
        ];
        if let (Some(before), Some(after)) = (before.1, after.1) {
            figures.push(cost(self.worker, "µs", each(after.saturating_sub(before))));
        }
        Ok(figures)
    }
}

async fn by_library(round: Round<'_>, users: &[usize]) -> Result<Vec<Figure>> {
    let publisher = publisher(&round.redis.url())?;
    let work = publish(&publisher, users.iter().map(|user| ("notifications", *user)));
    LIBRARY.measure(round, None, users.len(), work).await
}

async fn by_api(round: Round<'_>, users: &[usize]) -> Result<Vec<Figure>> {
    let (addr, admin) = (free_addr()?, free_addr()?);
    let config = format!(
        "{TOPICS}\n[redis]\nurl = {:?}\n[publisher]\nlisten = \"{addr}\"\nadmin_listen = \"{admin}\"\napi_key = {KEY:?}\n",
        round.redis.url()
    );
    let worker = Launch::new("publisher").config(config).ready_at(admin).start().await?;
    process::pin_server(worker.pid())?;
    let alone = &users[..users.len() / 5];
    let work = call(addr, alone, 1);
    let mut figures = SINGLE.measure(round, Some(worker.pid()), alone.len(), work).await?;
    let work = call(addr, users, BATCH);
    figures.extend(BATCHES.measure(round, Some(worker.pid()), users.len(), work).await?);
    Ok(figures)
}

/// Calls the API for these users, so many publications in a call, on [`CALLERS`] connections.
async fn call(addr: std::net::SocketAddr, users: &[usize], at_once: usize) -> Result<()> {
    let mut callers = JoinSet::new();
    for share in users.chunks(users.len().div_ceil(CALLERS)) {
        let bodies: Vec<_> = share.chunks(at_once).map(body).collect();
        callers.spawn(async move {
            let mut caller = BufReader::new(TcpStream::connect(addr).await?);
            caller.get_ref().set_nodelay(true)?;
            for (path, body) in bodies {
                post(&mut caller, path, &body).await.with_context(|| format!("POST {path}"))?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = callers.join_next().await {
        done??;
    }
    Ok(())
}

/// Where to publish to these users, and with which words.
fn body(users: &[usize]) -> (&'static str, String) {
    let data = "x".repeat(BYTES - 2);
    let publication = |user: &usize| format!("{{\"channel\":\"notifications:#user-{user}\",\"data\":\"{data}\"}}");
    match users {
        [user] => ("/api/publish", publication(user)),
        users => {
            let commands: Vec<_> = users.iter().map(|user| format!("{{\"publish\":{}}}", publication(user))).collect();
            ("/api/batch", format!("{{\"commands\":[{}]}}", commands.join(",")))
        }
    }
}

/// One call on a connection that stays; whatever is not published is an error.
async fn post(caller: &mut BufReader<TcpStream>, path: &str, body: &str) -> Result<()> {
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {KEY}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    caller.write_all(request.as_bytes()).await?;
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        ensure!(caller.read_line(&mut head).await? > 0, "the publisher has closed the connection");
    }
    let length = head.lines().filter_map(|line| line.split_once(':'));
    let length = length.into_iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let mut answer = vec![0; length.context("an answer without a length")?.1.trim().parse()?];
    caller.read_exact(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let is_published = head.starts_with("HTTP/1.1 200 ") && !answer.contains("\"error\"");
    ensure!(is_published, "{} {answer}", head.lines().next().unwrap_or_default());
    Ok(())
}

async fn raw(round: Round<'_>, users: &[usize]) -> Result<Vec<Figure>> {
    let bridge = LoneBridge::start(&round.redis.url(), "max_raw_per_second = 1000000000").await?;
    process::pin_server(bridge.process.pid())?;
    let taken = || bridge.metric("griot_publications_received_total");
    let before = taken().await?;
    let mut redis = BufReader::new(TcpStream::connect(round.redis.addr()).await?);
    let work = async {
        let mut sent = 0;
        for users in users.chunks(AHEAD) {
            redis.write_all(&plain(users)).await?;
            let mut answer = String::new();
            for _ in users {
                answer.clear();
                redis.read_line(&mut answer).await?;
                ensure!(answer == ":1\r\n", "PUBLISH is answered {answer:?}, and not that one bridge hears it");
            }
            sent += users.len();
            let since = Instant::now();
            while taken().await? - before < sent as f64 {
                ensure!(since.elapsed() < PATIENCE, "of {sent} the bridge has taken {}", taken().await? - before);
                sleep(Duration::from_millis(1)).await;
            }
        }
        Ok(())
    };
    RAW.measure(round, Some(bridge.process.pid()), users.len(), work).await
}

/// `PUBLISH` to each of these users, as any client of Redis would.
fn plain(users: &[usize]) -> Vec<u8> {
    let mut commands = Vec::new();
    for user in users {
        let data = format!("{{\"user_id\":\"user-{user}\",\"text\":\"");
        let data = format!("{data}{}\"}}", "x".repeat(BYTES - 2 - data.len()));
        let command = format!("*3\r\n$7\r\nPUBLISH\r\n$13\r\nnotifications\r\n${}\r\n{data}\r\n", data.len());
        commands.extend_from_slice(command.as_bytes());
    }
    commands
}
