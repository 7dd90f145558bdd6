//! Sweeps: every key that matches a pattern, by SCAN and UNLINK, never KEYS.

use fanout_core::{Redis, RedisError};

use crate::reign::Reign;

/// What begins a name of Griot's own: positions and histories must survive a pattern such as `g*`.
const OWN: &str = "griot:";

/// Removes every key that matches `pattern` and was there when the pass began; returns how many. Each step looks at
/// about `count` keys, so that other clients get their turn between steps.
///
/// # Errors
/// As any command, when the reign ends (a pass makes thousands of calls, and each asks), and when another server process answers at the end than at the beginning: a cursor means nothing to
/// it. A pass that failed counts for nothing.
pub(crate) async fn sweep(redis: &Redis, pattern: &str, count: u32, reign: &Reign) -> Result<u64, RedisError> {
    let server = redis.identity().await?;
    let mut cursor = "0".to_owned();
    let mut removed = 0;
    loop {
        reign.check()?;
        let (next, mut keys) = redis.scan(&cursor, pattern, count).await?;
        keys.retain(|key| !key.starts_with(OWN));
        reign.check()?;
        removed += redis.unlink(&keys).await?;
        if next == "0" && redis.identity().await? != server {
            return Err(RedisError::Away(format!("the server changed during the sweep of {pattern:?}")));
        }
        if next == "0" {
            return Ok(removed);
        }
        cursor = next;
    }
}
