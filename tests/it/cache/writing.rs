//! Write-through: the newest version or nothing, whoever is faster.

use std::sync::Arc;

use anyhow::Result;
use cache::{CacheConfig, Error, Looked, Outcome};
use fred::interfaces::KeysInterface;
use tokio::sync::Mutex;

use super::Process;

fn wallet(version: u64) -> String {
    format!("{{\"balance_cents\": 5, \"version\": {version}}}")
}

#[tokio::test]
async fn a_version_is_stored_and_an_older_or_equal_one_replaces_nothing() -> Result<()> {
    let process = Process::start(CacheConfig::default()).await?;
    let family = process.cache.family("t");
    let key = process.key("wallet:1");
    let write = async |version| {
        let written = family.write_through(&key, || async move { Ok::<_, String>(wallet(version)) }).await?;
        assert_eq!(written.value, wallet(version));
        anyhow::Ok((written.outcome, process.plain(&key).await?))
    };
    assert_eq!(write(2).await?, (Outcome::Stored, Some(wallet(2))));
    assert_eq!(write(10).await?, (Outcome::Stored, Some(wallet(10))), "versions are numbers");
    assert_eq!(write(9).await?, (Outcome::Kept, Some(wallet(10))));
    assert_eq!(write(10).await?, (Outcome::Kept, Some(wallet(10))));
    assert_eq!(family.replace(&key, wallet(11)).await?, Outcome::Stored);
    process.cache.invalidate(&[&key]).await?;
    assert_eq!(family.replace(&key, wallet(12)).await?, Outcome::Absent, "a newer one may have been deleted");
    assert_eq!(process.plain(&key).await?, None);
    let outcomes = ["stored", "kept", "absent"].map(|outcome| process.counted("writes", outcome));
    assert_eq!(outcomes, [3, 2, 1]);
    Ok(())
}

#[tokio::test]
async fn a_writer_takes_a_readers_lease_and_the_reader_fills_nothing() -> Result<()> {
    let process = Process::start(CacheConfig::default()).await?;
    let family = process.cache.family("t");
    let key = process.key("wallet:1");
    let Looked::Granted(lease) = family.look(&key).await? else { panic!("nothing is there") };
    let written = family.write_through(&key, || async { Ok::<_, String>(wallet(2)) }).await?;
    assert_eq!(written.outcome, Outcome::Stored);
    assert!(!lease.fill(wallet(1)).await?, "the load was older");
    assert_eq!(process.plain(&key).await?, Some(wallet(2)));
    // A commit that claimed nothing ends the lease too.
    process.cache.invalidate(&[&key]).await?;
    let Looked::Granted(lease) = family.look(&key).await? else { panic!("nothing is there") };
    assert_eq!(family.replace(&key, wallet(3)).await?, Outcome::Absent);
    assert!(!lease.fill(wallet(2)).await?, "the load may be older");
    assert_eq!(process.plain(&key).await?, None);
    Ok(())
}

#[tokio::test]
async fn a_write_whose_key_was_deleted_meanwhile_leaves_it_deleted() -> Result<()> {
    let process = Process::start(CacheConfig::default()).await?;
    let family = process.cache.family("t");
    let key = process.key("wallet:1");
    let write = async || {
        process.cache.invalidate(&[&key]).await?;
        Ok::<_, fanout_core::RedisError>(wallet(2))
    };
    assert_eq!(family.write_through(&key, write).await?.outcome, Outcome::Absent);
    assert_eq!(process.plain(&key).await?, None);
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_compared_is_deleted() -> Result<()> {
    let process = Process::start(CacheConfig::default()).await?;
    let family = process.cache.family("t");
    let key = process.key("wallet:1");
    for (before, after) in [
        (wallet(1), "not JSON".to_owned()),
        (wallet(1), "{\"balance_cents\": 5}".to_owned()),
        (wallet(1), "{\"version\": \"2\"}".to_owned()),
        (wallet(1), wallet(1 << 53)),
        (wallet(1), String::new()),
        ("not JSON".to_owned(), wallet(2)),
        ("[1]".to_owned(), wallet(2)),
    ] {
        let _: () = process.redis.set(&key, &before, None, None, false).await?;
        let (value, case) = (after.clone(), format!("{before} then {after}"));
        let written = family.write_through(&key, || async { Ok::<_, String>(value) }).await?;
        assert_eq!((written.outcome, process.plain(&key).await?), (Outcome::Unversioned, None), "{case}");
    }
    let named = family.clone().version_field("n");
    assert_eq!(named.write_through(&key, || async { Ok::<_, String>("{\"n\":1}") }).await?.outcome, Outcome::Stored);
    Ok(())
}

#[tokio::test]
async fn a_write_that_fails_deletes_the_key_because_it_may_be_committed() -> Result<()> {
    let process = Process::start(CacheConfig::default()).await?;
    let family = process.cache.family("t");
    let key = process.key("wallet:1");
    let _: () = process.redis.set(&key, wallet(1), None, None, false).await?;
    let failed = family.write_through(&key, || async { Err::<String, _>("cut off".to_owned()) }).await;
    assert!(matches!(&failed, Err(Error::Load(error)) if **error == "cut off"), "{failed:?}");
    assert_eq!(process.plain(&key).await?, None);
    Ok(())
}

/// Keys that are never leased, and families without placeholders: a write replaces and fills nothing.
#[tokio::test]
async fn without_a_lease_a_write_replaces_what_is_older_and_fills_nothing() -> Result<()> {
    let process = Process::start(CacheConfig::default()).await?;
    let plain = process.cache.family("t").without_placeholders();
    for (family, name) in [(process.cache.family("t"), "stray}brace"), (plain, "wallet:1")] {
        let key = process.key(name);
        let write = async |version| {
            let written = family.write_through(&key, || async move { Ok::<_, String>(wallet(version)) }).await?;
            anyhow::Ok((written.outcome, process.plain(&key).await?))
        };
        assert_eq!(write(1).await?, (Outcome::Absent, None));
        let _: () = process.redis.set(&key, wallet(1), None, None, false).await?;
        assert_eq!(write(2).await?, (Outcome::Stored, Some(wallet(2))));
        assert_eq!(write(1).await?, (Outcome::Kept, Some(wallet(2))));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_and_deletions_at_once_leave_the_newest_or_nothing() -> Result<()> {
    let process = Arc::new(Process::start(CacheConfig::default()).await?);
    for round in 0..50 {
        let key = process.key(&format!("wallet:{round}"));
        if round % 2 == 0 {
            let _: () = process.redis.set(&key, wallet(0), None, None, false).await?;
        }
        // The row, locked while it is written.
        let row = Arc::new(Mutex::new(0_u64));
        let tasks = fanout_core::Shutdown::new();
        let writers = (0..8).map(|n| {
            let (process, key, row) = (Arc::clone(&process), key.clone(), Arc::clone(&row));
            tasks.spawn(async move {
                if n % 4 == 3 {
                    return process.cache.invalidate(&[&key]).await.map(drop).map_err(anyhow::Error::from);
                }
                let write = || async {
                    let mut version = row.lock().await;
                    *version += 1;
                    Ok::<_, String>(wallet(*version))
                };
                process.cache.family("t").write_through(&key, write).await?;
                Ok(())
            })
        });
        for writer in futures::future::join_all(writers).await {
            writer??;
        }
        let left = process.plain(&key).await?;
        assert!(left.is_none() || left == Some(wallet(6)), "round {round}: {left:?}");
        // Whatever they left, whoever writes alone is read.
        let last = process.cache.family("t").write_through(&key, || async { Ok::<_, String>(wallet(7)) }).await?;
        assert_eq!((last.outcome, process.plain(&key).await?), (Outcome::Stored, Some(wallet(7))));
    }
    Ok(())
}
