//! Committed means delivered, in a storm: eight writers with rollbacks and savepoints, a transaction that stays open, and
//! processes that are killed at random moments. The database says what was committed, clients and caches what came of it.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use fanout_core::envelope::Envelope;
use fanout_core::names::{Feed, Partitions};
use fanout_core::{Channel, RedisConfig};
use fred::clients::Client;
use fred::interfaces::{KeysInterface, LuaInterface};
use futures::future::try_join_all;
use sqlx::{Connection, PgConnection};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::book::{Book, Fate, key};
use self::faults::Weather;
use self::writers::{Load, Writer};
use super::{Fault, Outcome};
use crate::fleet::{Fleet, Visitor};
use crate::proxy::Proxy;
use crate::servers::Servers;
use crate::stage::{Script, Stage};

mod book;
mod faults;
mod writers;

const SCHEMA: &str = "
create table facts (id bigint primary key, owner text not null);
create table marks (id bigint primary key);";
const RULES: &str = r#"
[rules.facts]
table = "public.facts"
on = ["insert"]
keys = ["fact:{id}"]

[rules.facts.publication]
channel = "orders:#{owner}"
data = ["id"]
"#;
const TOPICS: &str = "[topics.orders]\nhistory_size = 10000";
/// Eight who write, and one whose transaction stays open.
const WRITERS: usize = 8;
/// Between two transactions of a writer, and between two calls of the API.
const PACE: Duration = Duration::from_millis(30);
/// Everything has had its effects within this time after the last commit, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Faults {
    /// Publisher, bridge and invalidation-worker, each on its own, while the log is rotated at least twice.
    Workers,
    /// The invalidation-worker and the Redis primary together; a replica that was left behind is promoted.
    Redis,
    /// PostgreSQL, which is started again.
    Postgres,
    /// PostgreSQL; a standby that lacks the last commits is promoted.
    Standby,
}

/// What a storm is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Storm {
    /// Chooses the same again, as far as the machine's timing lets it.
    pub seed: u64,
    /// Commits; at least.
    pub commits: u64,
    /// How often each process is killed.
    pub kills: usize,
    /// How long a transaction stays open.
    pub hold: Duration,
    /// What is killed.
    pub faults: Faults,
    /// A fault to plant: only [`Fault::Loss`] and [`Fault::Stale`].
    pub plant: Option<Fault>,
}

/// Writes while processes are killed. Every commit must have its effects, no rollback may, and what comes twice has the
/// same public id.
///
/// # Errors
/// When a server cannot be started, or the storm does not come to an end.
pub async fn storm(storm: Storm) -> Result<Outcome> {
    let mut ground = Box::pin(Ground::build(storm.faults)).await?;
    let (book, over) = (Book::default(), CancellationToken::new());
    let cache = writers::cache(ground.redis.addr()).await?;
    let url = ground.stage.database.url_at(ground.postgres.addr());
    let load = Load { book: &book, cache, url, commits: AtomicU64::new(0), over: over.clone() };
    let (api, api_key) = (ground.stage.api_addr, ground.stage.api_key.clone());
    let mut fleet = gather(&ground.stage).await?;

    let applications = try_join_all((0..WRITERS).map(|owner| Writer::new(&load, owner, storm.seed).run(PACE)));
    let calls = Box::pin(async {
        // The API promises nothing about a Redis that loses what it had confirmed.
        if storm.faults == Faults::Workers { writers::call(&load, api, &api_key, PACE).await } else { Ok(()) }
    });
    let weather = Box::pin(async {
        let weather = faults::strike(&mut ground, &storm, &load).await;
        over.cancel();
        weather
    });
    let held = Box::pin(Writer::new(&load, WRITERS, storm.seed).hold(storm.hold));
    let weather = {
        let mut work = Box::pin(async { tokio::try_join!(weather, applications, held, calls) });
        loop {
            tokio::select! {
                biased;
                done = &mut work => break done?.0,
                seen = fleet.next(PATIENCE) => seen?.iter().for_each(|seen| book.arrived(seen)),
            }
        }
    };
    let judge = Judge { storm, ground: &ground, load: &load, undone: book.logged(Fate::RolledBack), weather };
    Box::pin(judge.judge(&mut fleet)).await
}

/// Everything that runs. The proxies lead to whichever server is the primary.
struct Ground {
    stage: Stage,
    redis: Proxy,
    postgres: Proxy,
}

impl Ground {
    async fn build(kills: Faults) -> Result<Self> {
        let servers = Servers::start().await?;
        let (redis, postgres) =
            tokio::try_join!(Proxy::start(servers.redis.addr()), Proxy::start(servers.postgres.addr()))?;
        // Where Redis loses something, what the log keeps makes it good.
        let short = format!("retention_seconds = {}", faults::BUCKET.as_secs());
        let retention = if kills == Faults::Workers { short } else { String::new() };
        let script = Script {
            schema: SCHEMA.into(),
            rules: RULES.into(),
            topics: TOPICS.into(),
            worker: format!("lease_ms = 600\n{retention}"),
            redis_at: Some(redis.addr()),
            postgres_at: Some(postgres.addr()),
            ..Script::default()
        };
        Ok(Self { stage: Stage::on(servers, script).await?, redis, postgres })
    }
}

/// One client per writer, all of them subscribed: what was published before is not for them.
async fn gather(stage: &Stage) -> Result<Fleet> {
    let visitors = visitors(stage);
    let mut fleet = Fleet::start(&stage.socket(), &visitors).await?;
    let mut there = HashSet::new();
    while there.len() < visitors.len() {
        let seen = fleet.next(PATIENCE).await?.context("the clients do not subscribe")?;
        if seen.e == "subscribed" {
            there.insert(seen.c);
        }
    }
    Ok(fleet)
}

/// Official clients, one per writer.
fn visitors(stage: &Stage) -> Vec<Visitor> {
    let owners = (0..=WRITERS).map(writers::owner);
    owners.map(|user| Visitor { token: stage.token(&user), user, subscribe: Vec::new() }).collect()
}

/// Looks at what became of everything, once nobody writes any more.
struct Judge<'a> {
    storm: Storm,
    ground: &'a Ground,
    load: &'a Load<'a>,
    /// What the applications themselves rolled back.
    undone: Vec<u64>,
    weather: Weather,
}

impl Judge<'_> {
    async fn judge(self, fleet: &mut Fleet) -> Result<Outcome> {
        let book = self.load.book;
        let lost = book.settle(&self.present().await?);
        let waiting = Instant::now();
        while !self.settled().await? && waiting.elapsed() < PATIENCE {
            while let Some(seen) = fleet.next(Duration::from_millis(100)).await? {
                book.arrived(&seen);
            }
        }
        let waited = waiting.elapsed();
        self.plant().await?;
        self.find_missing().await?;
        self.find_stale().await?;
        self.find_undone(lost).await?;
        let told = format!(
            "{:?}, seed {}: {} in {} commits; {} effects committed, {} rolled back, {lost} lost by the database, {} \
             repeats with the same id, {} rotations of the log, all settled after {:.1} s",
            self.storm.faults,
            self.storm.seed,
            self.weather.told,
            self.load.commits.load(Ordering::Relaxed),
            book.logged(Fate::Committed).len(),
            self.undone.len(),
            book.repeats(),
            self.weather.rotations,
            waited.as_secs_f64(),
        );
        Ok(Outcome { told, wrong: book.verdict() })
    }

    async fn settled(&self) -> Result<bool> {
        let late = self.weather.late.iter().copied();
        let gone: Vec<u64> = self.load.book.logged(Fate::Committed).into_iter().chain(late).collect();
        Ok(self.load.book.missing(&self.kept().await?).is_empty() && cached(&self.load.cache, &gone).await?.is_empty())
    }

    async fn find_missing(&self) -> Result<()> {
        for id in self.load.book.missing(&self.kept().await?) {
            self.load.book.wrong("committed and never came", id.to_string());
        }
        Ok(())
    }

    async fn find_stale(&self) -> Result<()> {
        for id in cached(&self.load.cache, &self.load.book.logged(Fate::Committed)).await? {
            self.load.book.wrong("stale: committed and still cached", key(id));
        }
        for id in cached(&self.load.cache, &self.weather.late).await? {
            self.load.book.wrong("stale: cached from a commit that the database lost", key(id));
        }
        Ok(())
    }

    /// What was rolled back came to nobody, and its keys are where they were; a database that lost commits excepted,
    /// which makes rollbacks of what had its effects, and all keys go.
    async fn find_undone(&self, lost: usize) -> Result<()> {
        for id in self.load.book.received(&self.undone) {
            self.load.book.wrong("rolled back and yet published", id.to_string());
        }
        if self.storm.faults == Faults::Workers {
            if lost > 0 {
                self.load.book.wrong("lost by the database", lost.to_string());
            }
            let left = cached(&self.load.cache, &self.undone).await?.len();
            if left < self.undone.len() {
                let gone = self.undone.len() - left;
                self.load.book.wrong("rolled back and yet deleted", format!("{gone} keys"));
            }
        }
        Ok(())
    }

    /// The lie that is asked for.
    async fn plant(&self) -> Result<()> {
        match self.storm.plant {
            Some(Fault::Stale) => {
                let id = self.load.book.logged(Fate::Committed).first().copied().context("nothing was committed")?;
                let _: () = self.load.cache.set(key(id), writers::STALE, None, None, false).await?;
            }
            Some(Fault::Loss) => self.load.book.forget_one(),
            Some(Fault::Misdelivery | Fault::Reordering) | None => {}
        }
        Ok(())
    }

    /// The effects that the database says were committed.
    async fn present(&self) -> Result<HashSet<u64>> {
        let mut connection = PgConnection::connect(&self.load.url).await?;
        let ids = sqlx::query_scalar("select id from facts union all select id from marks");
        let ids: Vec<i64> = ids.fetch_all(&mut connection).await?;
        Ok(ids.into_iter().map(i64::cast_unsigned).collect())
    }

    /// The public ids in the histories of a Redis that was promoted: who was told that continuity is lost asks there.
    async fn kept(&self) -> Result<HashSet<String>> {
        let mut kept = HashSet::new();
        if self.storm.faults != Faults::Redis {
            return Ok(kept);
        }
        let partitions = Partitions::new(RedisConfig::default().partitions);
        for visitor in visitors(&self.ground.stage) {
            let channel = Channel::parse(&format!("orders:#{}", visitor.user))?;
            let prefix = partitions.prefix(partitions.of(&Feed::of(&channel)));
            let history = vec![format!("{prefix}history:{channel}")];
            let all = "return redis.call('LRANGE', KEYS[1], 0, -1)";
            let envelopes: Vec<Bytes> = self.load.cache.eval(all, history, Vec::<String>::new()).await?;
            for envelope in &envelopes {
                kept.insert(Envelope::parse(envelope)?.description.id.into_owned());
            }
        }
        Ok(kept)
    }
}

/// Those of these whose key is in the cache.
async fn cached(cache: &Client, ids: &[u64]) -> Result<Vec<u64>> {
    let mut found = Vec::new();
    for ids in ids.chunks(500) {
        let values: Vec<Option<String>> = cache.mget(ids.iter().map(|id| key(*id)).collect::<Vec<_>>()).await?;
        found.extend(ids.iter().zip(values).filter(|(_, value)| value.is_some()).map(|(id, _)| *id));
    }
    Ok(found)
}
