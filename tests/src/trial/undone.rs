//! A deletion that Redis confirmed is undone by a promotion: the replica never had it.

use std::time::Duration;

use anyhow::{Context, Result};
use fred::clients::Client;
use fred::interfaces::KeysInterface;
use tokio::time::{Instant, interval};

use super::{Fault, Outcome};
use crate::eventually::eventually;
use crate::proxy::Proxy;
use crate::servers::{Redis, Servers};
use crate::stage::{Script, Stage};

const SOON: Duration = Duration::from_secs(30);
/// A worker that has nothing to do may take this long to notice.
const NOTICED: Duration = Duration::from_secs(10);
/// Longer than the lease of a fill: who began one before the promotion has ended it.
const AFTERWARDS: Duration = Duration::from_secs(4);

/// Deletes `count` keys by a commit while the replica is left behind, promotes the replica, which has all of them, and
/// looks how soon they are deleted again. Nobody must see one of them after that.
///
/// # Errors
/// When a server cannot be started.
pub async fn undone(count: u32, plant: Option<Fault>) -> Result<Outcome> {
    let servers = Servers::start().await?;
    let way = Proxy::start(servers.redis.addr()).await?;
    let stage = Stage::on(servers, Script { redis_at: Some(way.addr()), ..Script::default() }).await?;
    let primary = &stage.servers.redis;
    let feed = Proxy::start(primary.addr()).await?;
    let replica = Redis::start_with(&["--replicaof", &format!("127.0.0.1 {}", feed.addr().port())]).await?;
    let (on_primary, on_replica) = (primary.client().await?, replica.client().await?);
    for key in keys(count) {
        let _: () = on_primary.set(key, "before", None, None, false).await?;
    }
    eventually(SOON, "the replica has all keys", || async {
        there(&on_replica, count).await.is_ok_and(|n| n == count)
    })
    .await;

    feed.stall();
    let delete = "select griot.invalidate('undone:' || n) from generate_series(1, $1) n";
    sqlx::query(delete).bind(count.cast_signed()).execute(stage.database.pool()).await?;
    eventually(SOON, "the keys are deleted and the cursor has passed them", || async {
        let regions = change_log::cursor::status(stage.database.pool()).await;
        regions.is_ok_and(|regions| regions[0].pending == 0) && there(&on_primary, count).await.is_ok_and(|n| n == 0)
    })
    .await;
    primary.kill().await?;
    replica.ask("REPLICAOF NO ONE").await?;
    let undone = there(&on_replica, count).await?;
    way.retarget(replica.addr());
    way.reset().await;

    let promoted = Instant::now();
    let alone = gone(&on_replica, count).await?;
    if !alone {
        // Who was idle learns of it with the next commit at the latest.
        sqlx::query("select griot.invalidate('another')").execute(stage.database.pool()).await?;
    }
    let again = alone || gone(&on_replica, count).await?;
    let after = promoted.elapsed();
    if plant == Some(Fault::Stale) {
        let _: () = on_replica.set("undone:1", "before", None, None, false).await?;
    }
    let mut wrong = Vec::new();
    if undone != count {
        wrong.push(format!("the promotion undid {undone} of {count} deletions: the trial is none"));
    }
    if !again {
        wrong.push(format!("stale: {} keys are still there", there(&on_replica, count).await?));
    } else if let Some(seen) = seen_again(&on_replica, count).await? {
        wrong.push(format!("stale: {seen} keys came back"));
    }
    let how = match (alone, again) {
        (true, _) => "done again by itself",
        (false, true) => "done again with the next commit",
        (false, false) => "never done again",
    };
    let told = format!("{undone} confirmed deletions undone by a promotion: {how}, after {:.2} s", after.as_secs_f64());
    Ok(Outcome { told, wrong })
}

fn keys(count: u32) -> impl Iterator<Item = String> {
    (1..=count).map(|n| format!("undone:{n}"))
}

/// How many of the keys are there.
async fn there(redis: &Client, count: u32) -> Result<u32> {
    redis.exists(keys(count).collect::<Vec<_>>()).await.context("counting keys")
}

/// Whether all keys go in the time that an idle worker has.
async fn gone(redis: &Client, count: u32) -> Result<bool> {
    let (begun, mut turns) = (Instant::now(), interval(Duration::from_millis(10)));
    while there(redis, count).await? > 0 {
        if begun.elapsed() > NOTICED {
            return Ok(false);
        }
        turns.tick().await;
    }
    Ok(true)
}

/// How many keys a reader sees who looks for a while, if any.
async fn seen_again(redis: &Client, count: u32) -> Result<Option<u32>> {
    let (begun, mut turns) = (Instant::now(), interval(Duration::from_millis(10)));
    while begun.elapsed() < AFTERWARDS {
        let seen = there(redis, count).await?;
        if seen > 0 {
            return Ok(Some(seen));
        }
        turns.tick().await;
    }
    Ok(None)
}
