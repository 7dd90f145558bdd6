//! What is killed during a storm, and when.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fred::interfaces::KeysInterface;
use sqlx::{Connection, PgConnection};
use tokio::time::{Instant, sleep};

use super::book::{Fate, key};
use super::writers::Load;
use super::{Faults, Ground, Storm};
use crate::eventually::eventually;
use crate::proxy::Proxy;
use crate::servers::{Postgres, Redis};
use crate::stage::Stage;

/// Servers are there, and rotations come, within this time.
const PATIENCE: Duration = Duration::from_secs(120);
/// A partition of the log lasts so long, and its entries are kept for as long: two rotations in half a minute, and no
/// worker is away for that long.
pub(super) const BUCKET: Duration = Duration::from_secs(8);
/// Rotations that a storm of the workers must span.
const ROTATIONS: usize = 2;

/// What was done.
#[derive(Default)]
pub(super) struct Weather {
    pub(super) told: String,
    pub(super) rotations: usize,
    /// Keys that were filled from commits which the database then lost.
    pub(super) late: Vec<u64>,
    /// Servers that took over: they live for as long as somebody looks at them.
    _servers: (Vec<Redis>, Option<Postgres>),
}

/// Kills what is asked for, and returns when there were enough commits.
pub(super) async fn strike(ground: &mut Ground, storm: &Storm, load: &Load<'_>) -> Result<Weather> {
    let mut random = fastrand::Rng::with_seed(storm.seed);
    let weather = match storm.faults {
        Faults::Workers => workers(&ground.stage, storm, &mut random, load).await?,
        Faults::Redis => redis(ground, storm, &mut random).await?,
        Faults::Postgres => postgres(&mut ground.stage, storm, &mut random).await?,
        Faults::Standby => standby(ground, &mut random, load).await?,
    };
    let asked = Instant::now();
    let begun = load.commits.load(Ordering::Relaxed);
    // Some come after the last fault in any case.
    let enough = storm.commits.max(begun + 100);
    while load.commits.load(Ordering::Relaxed) < enough {
        ensure!(asked.elapsed() < PATIENCE * 10, "{} commits", load.commits.load(Ordering::Relaxed));
        sleep(Duration::from_millis(50)).await;
    }
    Ok(weather)
}

fn moment(random: &mut fastrand::Rng) -> Duration {
    Duration::from_millis(random.u64(20..800))
}

/// Each of the three as often as asked for, in a random order.
async fn workers(stage: &Stage, storm: &Storm, random: &mut fastrand::Rng, load: &Load<'_>) -> Result<Weather> {
    change_log::rotate::set_bucket_length(stage.database.pool(), BUCKET).await?;
    let mut order: Vec<usize> = (0..3).cycle().take(3 * storm.kills).collect();
    random.shuffle(&mut order);
    let kills = async {
        for which in order {
            sleep(moment(random)).await;
            match which {
                0 => {
                    stage.publisher().await.kill().await?;
                    stage.revive_publisher().await?;
                }
                1 => {
                    stage.bridge().await.kill().await?;
                    stage.revive_bridge().await?;
                }
                _ => {
                    stage.worker().await.kill().await?;
                    stage.revive_worker().await?;
                }
            }
        }
        Ok(())
    };
    let (rotations, ()) = tokio::try_join!(rotations(&load.url, storm), kills)?;
    let told = format!("each worker killed {} times", storm.kills);
    Ok(Weather { told, rotations, ..Weather::default() })
}

/// Waits until the log was rotated twice, and for the end of a transaction that was open meanwhile; returns how often it
/// was. Emptying a partition gives it another file, whichever worker does it.
async fn rotations(url: &str, storm: &Storm) -> Result<usize> {
    let mut connection = PgConnection::connect(url).await?;
    let (begun, mut last, mut count) = (Instant::now(), [0_i64; 3], 0);
    while count < ROTATIONS || begun.elapsed() < storm.hold {
        ensure!(begun.elapsed() < storm.hold + PATIENCE, "{count} rotations of the log in {:?}", begun.elapsed());
        for (slot, last) in last.iter_mut().enumerate() {
            let file = sqlx::query_scalar("select pg_relation_filenode(('griot.log_' || $1)::regclass)::bigint");
            let file = file.bind(slot.to_string()).fetch_one(&mut connection).await?;
            count += usize::from(*last != 0 && *last != file);
            *last = file;
        }
        sleep(Duration::from_millis(100)).await;
    }
    Ok(count)
}

/// The worker and the primary together, after the replica was left behind.
async fn redis(ground: &Ground, storm: &Storm, random: &mut fastrand::Rng) -> Result<Weather> {
    let mut promoted: Vec<Redis> = Vec::new();
    for _ in 0..storm.kills {
        let primary = promoted.last().unwrap_or(&ground.stage.servers.redis);
        let feed = Proxy::start(primary.addr()).await?;
        let replica = Redis::start_with(&["--replicaof", &format!("127.0.0.1 {}", feed.addr().port())]).await?;
        eventually(PATIENCE, "the replica follows", || async {
            replica.ask("INFO replication").await.is_ok_and(|info| info.contains("master_link_status:up"))
        })
        .await;
        sleep(moment(random)).await;
        feed.stall();
        sleep(moment(random)).await;
        let worker = ground.stage.worker().await;
        tokio::try_join!(worker.kill(), primary.kill())?;
        drop(worker);
        replica.ask("REPLICAOF NO ONE").await?;
        ground.redis.retarget(replica.addr());
        ground.redis.reset().await;
        ground.stage.revive_worker().await?;
        promoted.push(replica);
    }
    let told = format!("worker and Redis primary killed together {} times", storm.kills);
    Ok(Weather { told, _servers: (promoted, None), ..Weather::default() })
}

/// The server dies as in a power failure of its host, and comes back with what it had confirmed.
async fn postgres(stage: &mut Stage, storm: &Storm, random: &mut fastrand::Rng) -> Result<Weather> {
    for _ in 0..storm.kills {
        sleep(moment(random)).await;
        stage.servers.postgres.kill().await?;
        sleep(moment(random)).await;
        stage.servers.postgres.start_again().await?;
    }
    let told = format!("PostgreSQL killed and started again {} times", storm.kills);
    Ok(Weather { told, ..Weather::default() })
}

/// The server dies and a standby that was left behind goes on. Before, a reader fills its cache from commits that the
/// standby will never have.
async fn standby(ground: &Ground, random: &mut fastrand::Rng, load: &Load<'_>) -> Result<Weather> {
    let primary = &ground.stage.servers.postgres;
    let standby = primary.standby().await?;
    standby.has_replayed(primary).await?;
    sleep(moment(random)).await;
    standby.stop_receiving().await?;
    let before = load.book.logged(Fate::Committed);
    eventually(PATIENCE, "commits that the standby lacks have their effects", || async {
        load.book.received(&load.book.logged(Fate::Committed)).len() > before.len() + 20
    })
    .await;
    let after = load.book.received(&load.book.logged(Fate::Committed));
    let late: Vec<u64> = after.into_iter().filter(|id| !before.contains(id)).collect();
    for id in &late {
        let _: () = load.cache.set(key(*id), "after", None, None, false).await.context("filling the cache")?;
    }
    primary.kill().await?;
    standby.promote().await?;
    ground.postgres.retarget(standby.addr());
    ground.postgres.reset().await;
    let told = format!("a standby promoted that lacks the last commits, {} keys filled from them", late.len());
    Ok(Weather { told, late, _servers: (Vec::new(), Some(standby)), ..Weather::default() })
}
