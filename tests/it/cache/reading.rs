//! Read-through: one load for many, fresh for each, and nobody waits for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use cache::{CacheConfig, Error, KeyError, Looked, WhenAway};
use fred::interfaces::KeysInterface;
use futures::future::join_all;
use griot_tests::eventually::eventually;
use griot_tests::servers::Redis;
use tokio::sync::Semaphore;

use super::Process;

const SOON: Duration = Duration::from_secs(15);
/// Longer than any test: whoever waits so long has failed.
const NEVER_MS: u64 = 600_000;

/// A database that answers when it is let, and counts.
struct Database {
    asked: AtomicU64,
    gate: Semaphore,
    holds: std::sync::Mutex<&'static str>,
}

impl Database {
    fn closed(holds: &'static str) -> Arc<Self> {
        Arc::new(Self { asked: AtomicU64::new(0), gate: Semaphore::new(0), holds: std::sync::Mutex::new(holds) })
    }

    fn open(holds: &'static str) -> Arc<Self> {
        let database = Self::closed(holds);
        database.let_through(1_000);
        database
    }

    fn let_through(&self, loads: usize) {
        self.gate.add_permits(loads);
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    fn commit(&self, holds: &'static str) {
        *self.holds.lock().expect("no panic") = holds;
    }

    /// Reads what is committed now, and takes its time to answer.
    async fn load(&self) -> Result<&'static str, String> {
        let read = *self.holds.lock().expect("no panic");
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.gate.acquire().await.expect("never closed").forget();
        if read == "broken" { Err("the database is broken".into()) } else { Ok(read) }
    }
}

type Answer = Result<Bytes, Error<String>>;

fn read(process: &Process, key: &str, database: &Arc<Database>) -> impl Future<Output = Answer> + Send + use<> {
    let (family, key, database) = (process.cache.family("t"), key.to_owned(), Arc::clone(database));
    async move { family.read_through(&key, || database.load()).await }
}

/// So many readers at once, and the moment when all of them have found nothing.
async fn crowd(
    process: &Process,
    key: &str,
    database: &Arc<Database>,
    readers: u64,
) -> Vec<tokio::task::JoinHandle<Answer>> {
    let before = process.counted("misses", "");
    let tasks = fanout_core::Shutdown::new();
    let crowd = (0..readers).map(|_| tasks.spawn(read(process, key, database))).collect();
    eventually(SOON, "all have missed", || async { process.counted("misses", "") == before + readers }).await;
    eventually(SOON, "one loads", || async { database.asked() > 0 }).await;
    crowd
}

#[tokio::test]
async fn a_hundred_readers_of_one_key_load_once() -> Result<()> {
    let process = Process::start(CacheConfig { flight_wait_ms: NEVER_MS, ..CacheConfig::default() }).await?;
    let (key, database) = (process.key("product"), Database::closed("a kora"));
    let crowd = crowd(&process, &key, &database, 100).await;
    assert_eq!(process.plain(&key).await?.as_deref(), Some(""), "the placeholder");
    database.let_through(1_000);
    for reader in join_all(crowd).await {
        assert_eq!(reader??, "a kora");
    }
    assert_eq!((database.asked(), process.counted("shared", ""), process.cache.flights()), (1, 99, 0));
    assert_eq!(read(&process, &key, &database).await?, "a kora");
    assert_eq!((process.counted("hits", ""), process.counted("loads", "ok")), (1, 1));
    Ok(())
}

#[tokio::test]
async fn without_room_for_a_flight_each_loads_for_itself_and_one_fills() -> Result<()> {
    let config = CacheConfig { max_flights: 0, lease_wait_ms: 20, ..CacheConfig::default() };
    let process = Process::start(config).await?;
    let (key, database) = (process.key("product"), Database::closed("a kora"));
    let crowd = crowd(&process, &key, &database, 10).await;
    eventually(SOON, "all load", || async { database.asked() == 10 }).await;
    database.let_through(10);
    for reader in join_all(crowd).await {
        assert_eq!(reader??, "a kora");
    }
    assert_eq!((process.counted("fills", "stored"), process.counted("fills", "unfilled")), (1, 9));
    Ok(())
}

#[tokio::test]
async fn a_reader_that_is_dropped_hands_its_lease_to_the_next() -> Result<()> {
    let config = CacheConfig { flight_wait_ms: NEVER_MS, lease_ms: NEVER_MS, ..CacheConfig::default() };
    let process = Process::start(config).await?;
    let (key, database) = (process.key("product"), Database::closed("a kora"));
    let crowd = crowd(&process, &key, &database, 10).await;
    // They have their turns in the order of coming.
    crowd[0].abort();
    eventually(SOON, "the next one loads", || async { database.asked() == 2 }).await;
    database.let_through(1);
    for reader in join_all(crowd).await.into_iter().skip(1) {
        assert_eq!(reader??, "a kora");
    }
    assert_eq!((database.asked(), process.counted("fills", "stored"), process.cache.flights()), (2, 1, 0));
    assert_eq!(process.plain(&key).await?.as_deref(), Some("a kora"));
    Ok(())
}

#[tokio::test]
async fn a_load_that_fails_is_tried_once_for_all_who_wait_and_keeps_nobody_after() -> Result<()> {
    let config = CacheConfig { flight_wait_ms: NEVER_MS, lease_ms: NEVER_MS, ..CacheConfig::default() };
    let process = Process::start(config).await?;
    let (key, database) = (process.key("product"), Database::closed("broken"));
    let crowd = crowd(&process, &key, &database, 100).await;
    database.let_through(1_000);
    for reader in join_all(crowd).await {
        let error = reader?.expect_err("the database is broken");
        assert!(matches!(&error, Error::Load(error) if **error == "the database is broken"), "{error:?}");
    }
    assert_eq!((database.asked(), process.counted("loads", "failed")), (1, 1));
    assert_eq!(process.plain(&key).await?, None, "the lease was given back");
    database.commit("a kora");
    assert_eq!(read(&process, &key, &database).await?, "a kora");
    assert_eq!(process.plain(&key).await?.as_deref(), Some("a kora"));
    Ok(())
}

#[tokio::test]
async fn who_asks_after_a_change_is_never_given_what_was_loaded_before_it() -> Result<()> {
    let process = Process::start(CacheConfig { flight_wait_ms: NEVER_MS, ..CacheConfig::default() }).await?;
    let (key, database) = (process.key("product"), Database::closed("before"));
    let early = crowd(&process, &key, &database, 3).await;
    database.commit("after");
    assert_eq!(process.cache.invalidate(&[&key]).await?, 1);
    let late = crowd(&process, &key, &database, 3).await;
    database.let_through(1_000);
    assert_eq!(early.into_iter().next().expect("the first").await??, "before");
    for reader in join_all(late).await {
        assert_eq!(reader??, "after");
    }
    assert_eq!((database.asked(), process.counted("fills", "lost"), process.counted("fills", "stored")), (2, 1, 1));
    assert_eq!(process.plain(&key).await?.as_deref(), Some("after"));
    Ok(())
}

#[tokio::test]
async fn another_process_waits_for_the_fill_and_does_not_load() -> Result<()> {
    let first = Process::start(CacheConfig::default()).await?;
    let second = Process::start(CacheConfig { lease_wait_ms: NEVER_MS, ..CacheConfig::default() }).await?;
    let (key, database, untouched) = (first.key("product"), Database::closed("a kora"), Database::open("never"));
    let filler = crowd(&first, &key, &database, 1).await;
    let waiter = fanout_core::Shutdown::new().spawn(read(&second, &key, &untouched));
    eventually(SOON, "it met the placeholder", || async { second.counted("leases", "refused") > 1 }).await;
    database.let_through(1);
    assert_eq!(waiter.await??, "a kora");
    assert_eq!(untouched.asked(), 0);
    for reader in filler {
        assert_eq!(reader.await??, "a kora");
    }
    Ok(())
}

#[tokio::test]
async fn when_the_filler_dies_others_load_after_the_wait_and_fill_after_the_lease() -> Result<()> {
    let config = CacheConfig { lease_wait_ms: 100, lease_ms: 2_000, ..CacheConfig::default() };
    let process = Process::start(config).await?;
    let (key, database) = (process.key("product"), Database::open("a kora"));
    let Looked::Granted(lease) = process.cache.family("t").look(&key).await? else { panic!("nothing is there") };
    drop(lease);
    let begun = Instant::now();
    assert_eq!(read(&process, &key, &database).await?, "a kora");
    ensure!(begun.elapsed() >= Duration::from_millis(100), "it waited");
    assert_eq!((process.plain(&key).await?.as_deref(), database.asked()), (Some(""), 1));
    eventually(SOON, "the lease ends", || async { process.plain(&key).await.is_ok_and(|value| value.is_none()) }).await;
    assert_eq!(read(&process, &key, &database).await?, "a kora");
    assert_eq!(process.plain(&key).await?.as_deref(), Some("a kora"));
    Ok(())
}

#[tokio::test]
async fn a_key_holds_the_applications_bytes_and_nothing_stays_beside_it() -> Result<()> {
    let process = Process::start(CacheConfig { ttl_seconds: 100, ..CacheConfig::default() }).await?;
    let family = process.cache.family("t");
    let bytes: &[u8] = b"\0\xff{not JSON\r\n";
    for name in ["product:42", "{product}:42", "search:a b*?"] {
        let key = process.key(name);
        let answer = family.read_through(&key, || async { Ok::<_, String>(bytes) }).await?;
        assert_eq!(answer, bytes);
        let plain: Option<Bytes> = process.redis.get(&key).await?;
        assert_eq!(plain.as_deref(), Some(bytes));
        let life: i64 = process.redis.pttl(&key).await?;
        assert!((89_000..=100_000).contains(&life), "{life}");
        let beside: i64 = process.redis.exists(cache::companion(&key).expect("it is leased")).await?;
        assert_eq!(beside, 0);
        // Set by hand, from anywhere.
        let _: () = process.redis.set(&key, "by hand", None, None, false).await?;
        assert_eq!(family.read_through(&key, || async { Ok::<_, String>("loaded") }).await?, "by hand");
    }
    Ok(())
}

#[tokio::test]
async fn what_is_out_of_limits_is_not_cached() -> Result<()> {
    let process =
        Process::start(CacheConfig { max_key_bytes: 100, max_value_bytes: 3, ..CacheConfig::default() }).await?;
    let family = process.cache.family("t");
    for (name, value, reason) in
        [("empty", "", "empty"), ("large", "four", "too_large"), ("stray{brace", "abc", "unfilled")]
    {
        let key = process.key(name);
        assert_eq!(family.read_through(&key, || async { Ok::<_, String>(value) }).await?, value);
        assert_eq!((process.plain(&key).await?, process.counted("fills", reason)), (None, 1), "{name}");
    }
    let long = "k".repeat(101);
    let refused = family.read_through(&long, || async { Ok::<_, String>("never") }).await;
    assert!(matches!(refused, Err(Error::Key(KeyError::TooLong { bytes: 101, limit: 100, .. }))), "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn without_placeholders_nobody_ever_finds_an_empty_value() -> Result<()> {
    let process = Process::start(CacheConfig::default()).await?;
    let family = process.cache.family("t").without_placeholders();
    let key = process.key("product");
    let load = || async { process.plain(&key).await.map(|meanwhile| format!("{meanwhile:?}")) };
    assert_eq!(family.read_through(&key, load).await?, "None");
    assert_eq!(process.plain(&key).await?.as_deref(), Some("None"));
    Ok(())
}

#[tokio::test]
async fn while_redis_is_away_readers_load_or_fail_as_configured_and_then_it_is_used_again() -> Result<()> {
    let mut server = Redis::start().await?;
    let quick = CacheConfig { command_timeout_ms: 100, away_pause_ms: NEVER_MS, ..CacheConfig::default() };
    let load = Process::on(&server, CacheConfig { away_pause_ms: 0, ..quick.clone() }).await?;
    let patient = Process::on(&server, quick.clone()).await?;
    let fail = Process::on(&server, CacheConfig { when_away: WhenAway::Fail, ..quick }).await?;
    let (key, database) = (load.key("product"), Database::open("a kora"));
    // Frozen: it takes connections and answers nothing.
    server.pause()?;
    for process in [&load, &patient] {
        assert_eq!(read(process, &key, &database).await?, "a kora");
    }
    let before = patient.counted("redis_errors", "away");
    assert_eq!(read(&patient, &key, &database).await?, "a kora");
    assert_eq!((before, patient.counted("redis_errors", "away")), (1, 1), "it is left alone for a while");
    let refused = read(&fail, &key, &database).await;
    assert!(matches!(refused, Err(Error::Redis(_))), "{refused:?}");
    server.resume()?;
    server.kill().await?;
    assert_eq!(read(&load, &key, &database).await?, "a kora");
    assert_eq!(database.asked(), 4);
    server.start_again().await?;
    eventually(SOON, "it is filled again", || async {
        read(&load, &key, &database).await.is_ok() && load.counted("fills", "stored") == 1
    })
    .await;
    assert_eq!(server.ask(&format!("GET {key}")).await?, "a kora");
    Ok(())
}
