//! Sweeps: every key that matches a pattern, by SCAN and UNLINK, never KEYS.

use std::time::{Duration, Instant};

use fanout_core::{Redis, RedisError, position};

use crate::pace::{Limits, Pace};
use crate::reign::Reign;

/// What begins a name of Griot's own: positions and histories must survive a pattern such as `g*`.
const OWN: &str = "griot:";

/// The timer knows no shorter pause: shorter ones add up to it.
const GRAIN: Duration = Duration::from_millis(1);

/// Removes every key that matches `pattern`, but for Griot's own, and was there when the pass began; returns how many.
///
/// # Errors
/// As [`pass`].
pub(crate) async fn sweep(redis: &Redis, pattern: &str, limits: Limits, reign: &Reign) -> Result<u64, RedisError> {
    pass(redis, pattern, limits, reign, |key| !key.starts_with(OWN)).await
}

/// Removes the positions of all feeds, and has bridges notice: every subscriber is told that continuity is lost.
///
/// # Errors
/// As [`pass`].
pub(crate) async fn forget_positions(redis: &Redis, limits: Limits, reign: &Reign) -> Result<(), RedisError> {
    pass(redis, position::ALL, limits, reign, |_| true).await?;
    redis.record_forgetting().await
}

/// Goes once through all keys and removes those that match `pattern` and are `meant`; returns how many. Each step looks at as
/// many keys as the stall budget allows and is followed by a pause, so that other clients get their turn.
///
/// # Errors
/// As any command; when the reign ends (a pass makes thousands of calls, and each asks); and when another server process
/// answers on the way: a cursor means nothing to it. A pass that failed counts for nothing.
async fn pass(
    redis: &Redis,
    pattern: &str,
    limits: Limits,
    reign: &Reign,
    meant: impl Fn(&str) -> bool,
) -> Result<u64, RedisError> {
    let server = redis.identity().await?;
    let mut pace = Pace::new(limits);
    let mut cursor = "0".to_owned();
    let mut removed = 0;
    let mut owed = Duration::ZERO;
    loop {
        reign.check()?;
        let begun = Instant::now();
        let (next, mut keys) = redis.scan(&cursor, pattern, pace.count()).await?;
        let scanned = begun.elapsed();
        keys.retain(|key| meant(key));
        reign.check()?;
        if !keys.is_empty() {
            removed += redis.unlink(&keys, server.as_deref()).await?;
        }
        owed += pace.step(scanned, begun.elapsed() - scanned);
        if next == "0" && redis.identity().await? != server {
            return Err(RedisError::Away(format!("the server changed during the sweep of {pattern:?}")));
        }
        if next == "0" {
            return Ok(removed);
        }
        cursor = next;
        if owed >= GRAIN {
            tokio::time::sleep(std::mem::take(&mut owed)).await;
        }
    }
}
