//! Promise 4 put to the test: rows change, a page is told and asks again through the cache, while others read the same
//! keys; is it ever given a value from before the change that it was told of?
//!
//! `tests/it/cache/fresh.rs` asks in its short form, `just fresh` 10,000 times.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cache::{Cache, CacheConfig, Family};
use fanout_core::{Redis, RedisConfig};
use fred::interfaces::KeysInterface;
use futures::{StreamExt, TryStreamExt, stream};
use prometheus_client::registry::Registry;
use sqlx::PgPool;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::client::Client;
use crate::stage::{RULES, Script, Stage};

/// Readers who ask all the time, in as many processes.
const READERS: usize = 16;
const PROCESSES: usize = 4;
/// Transactions that commit at the same time.
const WRITERS: usize = 4;
/// Commits whose page has not asked again yet, at most.
const UNANSWERED: usize = 8;
/// Rows that change, so few that all of these meet.
const PRODUCTS: i64 = 2;
/// What an application needs at most to make a page of a row.
const RENDERING_US: u64 = 3_000;
const SOON: Duration = Duration::from_secs(30);
/// The rule's keys.
const KEYS: &str = r#"keys = ["product:{id}", "product:slug:{slug}"]"#;

/// How the caches are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// As Griot does it.
    Promised,
    /// The keys are deleted after the publication has left: when it is heard.
    PublishedFirst,
    /// Readers fill whatever they loaded.
    WithoutLeases,
}

/// What was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Changes that were committed.
    pub commits: usize,
    /// Publications on which the page asked again.
    pub refetches: usize,
    /// Of these, answers from before the change.
    pub violations: usize,
    /// Reads of everybody.
    pub reads: u64,
    /// Reads that asked the database.
    pub loads: u64,
}

/// A backend with several processes, each of which has its connection to Redis and its cache.
#[derive(Debug)]
struct Backend {
    processes: Vec<Family>,
    database: PgPool,
    reads: AtomicU64,
    loads: AtomicU64,
}

/// Commits so many changes and asks again on every push.
///
/// # Errors
/// Something else went wrong than an old value.
pub async fn measure(variant: Variant, commits: usize) -> Result<Tally> {
    let mut script = Script::default();
    if variant == Variant::PublishedFirst {
        ensure!(RULES.contains(KEYS), "the shop's rules no longer say {KEYS}");
        script.rules = RULES.replace(KEYS, "");
    }
    let stage = Stage::start(script).await?;
    let backend = Arc::new(Backend::start(&stage, variant)?);
    let mut others = JoinSet::new();
    for reader in 0..READERS {
        let backend = Arc::clone(&backend);
        others.spawn(async move { backend.read_on(reader % PROCESSES).await });
    }
    if variant == Variant::PublishedFirst {
        others.spawn(delete_when_heard(listen(&stage).await?, stage.servers.redis.client().await?));
    }
    let unanswered = Semaphore::new(UNANSWERED);
    let writing = write(stage.database.pool(), commits, &unanswered);
    let asking = ask_again(&backend, listen(&stage).await?, commits, &unanswered);
    let (refetches, violations) = tokio::select! {
        counted = async { tokio::try_join!(writing, asking) } => counted?.1,
        Some(failed) = others.join_next() => match failed?? {},
    };
    let [reads, loads] = [&backend.reads, &backend.loads].map(|count| count.load(Ordering::Relaxed));
    Ok(Tally { commits, refetches, violations, reads, loads })
}

/// Raises prices; each commit is one that a page has yet to ask for.
async fn write(database: &PgPool, commits: usize, unanswered: &Semaphore) -> Result<()> {
    let commit = async |n: usize| {
        unanswered.acquire().await?.forget();
        let raise = sqlx::query("update products set price_cents = price_cents + 1 where id = $1");
        raise.bind(i64::try_from(n)? % PRODUCTS + 1).execute(database).await?;
        anyhow::Ok(())
    };
    stream::iter(0..commits).map(commit).buffer_unordered(WRITERS).try_collect().await
}

/// The page: asks again on every push. Returns how often it did, and how often it was given a value from before.
async fn ask_again(
    backend: &Backend,
    client: Client,
    commits: usize,
    unanswered: &Semaphore,
) -> Result<(usize, usize)> {
    let pushes = stream::try_unfold(client, async |client| anyhow::Ok(Some((next_price(&client).await?, client))));
    let answer = async |(id, told): (i64, i64)| {
        let shown = backend.read(fastrand::usize(..PROCESSES), id).await?;
        unanswered.add_permits(1);
        anyhow::Ok(shown < told)
    };
    let answers = pushes.take(commits).map_ok(answer).try_buffer_unordered(UNANSWERED);
    answers.try_fold((0, 0), async |(all, old), is_old| Ok((all + 1, old + usize::from(is_old)))).await
}

/// In place of the worker, and later than it would.
async fn delete_when_heard(client: Client, redis: fred::clients::Client) -> Result<Infallible> {
    loop {
        let (id, _) = next_price(&client).await?;
        redis.unlink::<(), _>(format!("product:{id}")).await?;
    }
}

async fn listen(stage: &Stage) -> Result<Client> {
    let (client, _) = Client::connect(&stage.socket(), &stage.token("42")).await?;
    client.subscribe("products").await?;
    Ok(client)
}

/// A product and its price, as the next push tells.
async fn next_price(client: &Client) -> Result<(i64, i64)> {
    let (_, publication) = client.next_publication(SOON).await?;
    let field = |name| publication["data"][name].as_i64();
    field("id").zip(field("price_cents")).with_context(|| format!("no price: {publication}"))
}

impl Backend {
    fn start(stage: &Stage, variant: Variant) -> Result<Self> {
        let config = RedisConfig { url: stage.servers.redis.url(), ..RedisConfig::default() };
        let process = |_| {
            let redis = Redis::connect(&config)?;
            let products = Cache::new(&redis, CacheConfig::default(), &mut Registry::default())?.family("product");
            Ok(if variant == Variant::WithoutLeases { products.without_placeholders() } else { products })
        };
        let processes = (0..PROCESSES).map(process).collect::<Result<_>>()?;
        let database = stage.database.pool().clone();
        Ok(Self { processes, database, reads: AtomicU64::new(0), loads: AtomicU64::new(0) })
    }

    /// The price of a product, as `process` tells it.
    async fn read(&self, process: usize, id: i64) -> Result<i64> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let price = self.processes[process].read_through(&format!("product:{id}"), || self.load(id)).await?;
        Ok(std::str::from_utf8(&price)?.parse()?)
    }

    async fn load(&self, id: i64) -> Result<String, sqlx::Error> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        let price = sqlx::query_scalar("select price_cents::text from products where id = $1").bind(id);
        let price = price.fetch_one(&self.database).await?;
        tokio::time::sleep(Duration::from_micros(fastrand::u64(..RENDERING_US))).await;
        Ok(price)
    }

    /// Reads until it fails.
    async fn read_on(&self, process: usize) -> Result<Infallible> {
        loop {
            self.read(process, fastrand::i64(1..=PRODUCTS)).await?;
            // Others use this machine too.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
