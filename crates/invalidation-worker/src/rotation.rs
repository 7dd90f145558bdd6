//! Keeps the change log small: while this worker leads, it empties the partitions that nobody needs any more.

use std::time::Duration;

use change_log::PgPool;
use change_log::rotate::{Attempt, Outcome, rotate};

use crate::metrics::Metrics;
use crate::reign::Reign;

/// Between two attempts: the shortest, and the longest, of which there are hundreds in the time that a partition of the
/// default length can be emptied in.
const EVERY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Tries again and again until the reign is over. An entry stays for `retention` after its commit, whoever has applied
/// it.
pub(crate) async fn run(pool: PgPool, region: String, term: i64, retention: Duration, reign: Reign, metrics: Metrics) {
    let every = (retention / 60).clamp(EVERY.0, EVERY.1);
    while reign.pause(every).await {
        match rotate(&pool, &region, term, retention).await {
            Ok(attempts) => attempts.iter().for_each(|attempt| tell(attempt, &metrics)),
            // Whoever looks after the lease says whether PostgreSQL is away; the log only grows a little meanwhile.
            Err(error) => {
                metrics.errors.count("postgresql");
                tracing::warn!(%error, "the log was not rotated");
            }
        }
    }
}

fn tell(attempt: &Attempt, metrics: &Metrics) {
    match attempt.outcome {
        Outcome::Emptied => {
            metrics.log_rotations.inc();
            tracing::info!(slot = attempt.slot, "emptied a partition of the log");
        }
        Outcome::Later => tracing::debug!(slot = attempt.slot, "a partition of the log is in use"),
        Outcome::Current | Outcome::Empty | Outcome::Needed => {}
    }
    for region in &attempt.lapsed {
        tracing::error!(region, "the region was away for longer than the retention: entries that it needs are gone");
    }
}
