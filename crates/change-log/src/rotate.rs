//! Gives old entries back by emptying whole partitions of the log, once every region has applied them and the retention
//! is over. `migrations/0007_rotation.sql` holds the proof; this asks for it.

use std::time::Duration;

use sqlx::{AssertSqlSafe, PgPool, Row};

use crate::error::Error;

/// How long one attempt may take; it waits for no lock.
const CALL: Duration = Duration::from_secs(10);
/// The partitions of the log.
const SLOTS: std::ops::Range<i16> = 0..3;

/// What came of the attempt to empty one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was emptied.
    Emptied,
    /// It is the one that is written to.
    Current,
    /// There was nothing in it.
    Empty,
    /// A region has not applied an entry in it, or one is younger than the retention.
    Needed,
    /// A transaction that wrote to it is open, or somebody else uses it.
    Later,
}

/// An attempt to empty one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Which partition: 0, 1 or 2.
    pub slot: i16,
    /// What came of it.
    pub outcome: Outcome,
    /// Regions that were away for longer than the retention and lost entries now: their caches must be flushed.
    pub lapsed: Vec<String>,
}

/// Empties what may be emptied now, for the leader of `region` in `term`. Called every few seconds; between calls that
/// find something to do it costs a few probes of an index, and no writer ever waits for it.
///
/// An entry is kept until every region has applied it, and for `retention` after its commit. A region whose cursor was
/// not saved for `retention` is not waited for: it is marked as lapsed.
///
/// # Errors
/// [`Error::Superseded`] when `term` is over; PostgreSQL is away.
pub async fn rotate(pool: &PgPool, region: &str, term: i64, retention: Duration) -> Result<Vec<Attempt>, Error> {
    let mut attempts = Vec::new();
    for slot in SLOTS {
        attempts.push(attempt(pool, region, term, slot, retention).await?);
    }
    Ok(attempts)
}

async fn attempt(pool: &PgPool, region: &str, term: i64, slot: i16, retention: Duration) -> Result<Attempt, Error> {
    let rotate = sqlx::query("select outcome, lapsed from griot.rotate($1, $2, $3, $4 * interval '1 microsecond')")
        .bind(region)
        .bind(term)
        .bind(slot)
        .bind(i64::try_from(retention.as_micros()).unwrap_or(i64::MAX))
        .fetch_one(pool);
    let timeout = |_| Error::Timeout { what: "rotate the log", after: CALL };
    let row = tokio::time::timeout(CALL, rotate).await.map_err(timeout)??;
    let outcome = match row.try_get("outcome")? {
        "emptied" => Outcome::Emptied,
        "current" => Outcome::Current,
        "empty" => Outcome::Empty,
        "needed" => Outcome::Needed,
        "later" => Outcome::Later,
        _ => return Err(Error::Superseded { region: region.to_owned(), term }),
    };
    Ok(Attempt { slot, outcome, lapsed: row.try_get("lapsed")? })
}

/// Sets how long each partition of the log is written to, to at least a second; by the role that owns the schema. Says
/// whether that is a change. Safe at any time: a partition is emptied by what lies in it.
///
/// # Errors
/// PostgreSQL is away, or the role does not own the schema.
pub async fn set_bucket_length(pool: &PgPool, length: Duration) -> Result<bool, Error> {
    let seconds = i32::try_from(length.as_secs().max(1)).unwrap_or(i32::MAX);
    let present: i32 = sqlx::query_scalar("select griot.bucket_seconds()").fetch_one(pool).await?;
    if present == seconds {
        return Ok(false);
    }
    let replace = format!(
        "create or replace function griot.bucket_seconds() returns integer language sql immutable parallel safe \
         return {seconds}"
    );
    sqlx::query(AssertSqlSafe(replace)).execute(pool).await?;
    Ok(true)
}
