//! A replica that misses the newest entries is promoted, under traffic from three publishers.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use fanout_core::{Publisher, Redis as Commands, RedisConfig};
use futures::future::try_join_all;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::interval;

use super::restart::told_once;
use super::{Outcome, Size, Stand, TOPICS};
use crate::bridge::topics;
use crate::eventually::eventually;
use crate::http;
use crate::oracle::Ledger;
use crate::process::{Launch, Worker};
use crate::proxy::Proxy;
use crate::servers::{Redis, free_addr};

const KEY: &str = "trial";
const SOON: Duration = Duration::from_secs(20);

/// Promotes a replica that was left behind. No position may name two publications, although one of three publishers is
/// frozen across the promotion, and everybody must be told once.
///
/// # Errors
/// When a server cannot be started, or clients do not catch up.
pub async fn promotion(size: Size) -> Result<Outcome> {
    let (primary, ledger) = (Redis::start().await?, Ledger::default());
    // The replica is fed through a proxy, so that it can be left behind.
    let feed = Proxy::start(primary.addr()).await?;
    let replica = Redis::start_with(&["--replicaof", &format!("127.0.0.1 {}", feed.addr().port())]).await?;
    eventually(SOON, "the replica follows", || async {
        replica.ask("INFO replication").await.is_ok_and(|info| info.contains("master_link_status:up"))
    })
    .await;
    let mut stand = Stand::build(&primary, &ledger, size, true).await?;
    let url = format!("redis://{}", stand.way.addr());
    let frozen = Backend::start(&url).await?;
    let other = Commands::connect(&RedisConfig { url, command_timeout_ms: 2_000, ..RedisConfig::default() })?;
    let ways = [
        Via::Library(stand.publisher.clone()),
        Via::Library(Publisher::new(other, topics(TOPICS)?)),
        Via::Backend(&frozen),
    ];
    let channels = stand.channels();
    let (stop, stopped) = watch::channel(false);
    let traffic = try_join_all(ways.iter().zip(1..).map(|(via, number)| {
        let flow = Flow { ledger: &ledger, channels: &channels, via, number };
        flow.run(stopped.clone())
    }));
    let events = async {
        stand.watch(size.outage / 2).await?;
        feed.stall();
        stand.watch(size.outage / 2).await?;
        frozen.process.pause()?;
        replica.ask("REPLICAOF NO ONE").await?;
        stand.way.retarget(replica.addr());
        stand.way.reset().await;
        stand.watch(size.outage / 2).await?;
        frozen.process.resume()?;
        stand.until_link(true).await?;
        stand.watch(size.outage / 2 + Duration::from_secs(size.telling_window.into())).await?;
        stop.send_replace(true);
        anyhow::Ok(())
    };
    tokio::try_join!(traffic, events)?;
    stand.caught_up().await?;
    let mut wrong = told_once(&stand.oracle);
    if ledger.collisions() > 0 {
        wrong.push(format!("{} positions name two publications", ledger.collisions()));
    }
    let told = format!(
        "replica without the newest promoted, three publishers, one of them frozen across it: {} publications, no position \
         given twice, {} clients each told once, {} received",
        ledger.confirmations(),
        stand.users.len(),
        stand.oracle.received(),
    );
    Ok(stand.outcome(told, wrong))
}

/// How one of the publishers reaches Redis.
enum Via<'a> {
    Library(Publisher),
    Backend(&'a Backend),
}

/// One publisher that publishes on and on, each publication after the answer to the one before.
struct Flow<'a> {
    ledger: &'a Ledger,
    channels: &'a [String],
    via: &'a Via<'a>,
    /// Its publications are numbered from so many millions.
    number: u64,
}

impl Flow<'_> {
    async fn run(self, stopped: watch::Receiver<bool>) -> Result<()> {
        let mut pace = interval(Duration::from_millis(2));
        let numbers = self.number * 1_000_000..;
        for (n, channel) in numbers.zip(self.channels.iter().cycle()) {
            if *stopped.borrow() {
                break;
            }
            match self.via {
                Via::Library(publisher) => drop(self.ledger.publish(publisher, channel, n).await?),
                Via::Backend(backend) => backend.publish(self.ledger, channel, n).await?,
            }
            pace.tick().await;
        }
        Ok(())
    }
}

/// The publisher as a process, which can be frozen.
struct Backend {
    process: Worker,
    api: SocketAddr,
}

impl Backend {
    async fn start(redis: &str) -> Result<Self> {
        let (api, admin) = (free_addr()?, free_addr()?);
        let config = format!(
            "{TOPICS}\n[redis]\nurl = {redis:?}\ncommand_timeout_ms = 2000\n[publisher]\nlisten = \"{api}\"\n\
             admin_listen = \"{admin}\"\napi_key = {KEY:?}\n"
        );
        let process = Launch::new("publisher").config(config).ready_at(admin).start().await?;
        Ok(Self { process, api })
    }

    async fn publish(&self, ledger: &Ledger, channel: &str, n: u64) -> Result<()> {
        let body = json!({"channel": channel, "data": n}).to_string();
        let answer = http::post(self.api, "/api/publish", &[("X-API-Key", KEY)], &body).await?.json()?;
        let result = &answer["result"];
        match (result["epoch"].as_str(), result["offset"].as_u64()) {
            (Some(epoch), Some(offset)) => ledger.confirmed(channel, (epoch.to_owned(), offset), n),
            _ => ledger.failed(channel, n),
        }
        Ok(())
    }
}
