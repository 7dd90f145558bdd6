//! Where each region stands, as an operator wants to see it.

use std::time::{Duration, SystemTime};

use sqlx::PgPool;

use crate::error::Error;
use crate::limits::REGION_BYTES;

/// How far one region has applied the change log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionStatus {
    /// The region's name.
    pub region: String,
    /// When the cursor was last saved, by PostgreSQL's clock.
    pub saved_at: SystemTime,
    /// How long ago that was, by the same clock.
    pub saved_ago: Duration,
    /// Committed entries that the saved cursor has not seen. A worker that runs saves a moment after it applies.
    pub pending: u64,
    /// The age of the oldest of them.
    pub oldest_pending: Option<Duration>,
}

/// Every region's cursor, by name.
///
/// # Errors
/// [`Error::Database`] when PostgreSQL is away or the role may not read.
pub async fn status(pool: &PgPool) -> Result<Vec<RegionStatus>, Error> {
    type Line = (String, i64, i64, i64, Option<i64>);
    let lines: Vec<Line> = sqlx::query_as(
        "select c.region,
                (extract(epoch from c.saved_at) * 1000000)::bigint,
                (extract(epoch from clock_timestamp() - c.saved_at) * 1000000)::bigint,
                p.pending,
                (extract(epoch from clock_timestamp() - p.oldest) * 1000000)::bigint
         from griot.cursor c
         cross join lateral (
             select count(*) as pending, min(l.at) as oldest
             from griot.log l
             where l.xid >= pg_snapshot_xmax(c.snapshot) or l.xid = any(array(select pg_snapshot_xip(c.snapshot)))
         ) p
         order by c.region",
    )
    .fetch_all(pool)
    .await?;
    let micros = |value: i64| Duration::from_micros(value.max(0).unsigned_abs());
    Ok(lines
        .into_iter()
        .map(|(region, saved_at, saved_ago, pending, oldest)| RegionStatus {
            region,
            saved_at: SystemTime::UNIX_EPOCH + micros(saved_at),
            saved_ago: micros(saved_ago),
            pending: pending.max(0).unsigned_abs(),
            oldest_pending: oldest.map(micros),
        })
        .collect())
}

/// Whether `region` can name one; the table checks the same.
pub(crate) fn check_region(region: &str) -> Result<(), Error> {
    let valid = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if region.is_empty() || region.len() > REGION_BYTES || !region.bytes().all(valid) {
        return Err(Error::Region(region.to_owned()));
    }
    Ok(())
}
