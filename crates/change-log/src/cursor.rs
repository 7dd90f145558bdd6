//! Where each region stands, as an operator wants to see it.

use std::time::{Duration, SystemTime};

use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row};

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
    /// It was away for longer than the retention, and entries that it has not applied are gone. What is pending is
    /// what is left.
    pub lapsed: bool,
    /// Who leads the region, or led it last.
    pub leader: Option<Leader>,
}

/// The row of a region's leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// The worker: host, process id and a random part.
    pub holder: String,
    /// The number of the takeover.
    pub term: i64,
    /// Until when nobody else takes over, by PostgreSQL's clock.
    pub until: SystemTime,
    /// How long that still is, by the same clock; `None` when it has run out, and nobody leads.
    pub remaining: Option<Duration>,
}

/// Every region's cursor, by name.
///
/// # Errors
/// [`Error::Database`] when PostgreSQL is away or the role may not read.
pub async fn status(pool: &PgPool) -> Result<Vec<RegionStatus>, Error> {
    let rows = sqlx::query(
        "select c.region,
                (extract(epoch from c.saved_at) * 1000000)::bigint as saved_at,
                (extract(epoch from clock_timestamp() - c.saved_at) * 1000000)::bigint as saved_ago,
                c.lapsed, p.pending,
                (extract(epoch from clock_timestamp() - p.oldest) * 1000000)::bigint as oldest,
                led.holder, led.term,
                (extract(epoch from led.until) * 1000000)::bigint as until,
                (extract(epoch from led.until - clock_timestamp()) * 1000000)::bigint as remaining
         from griot.cursor c
         left join griot.leader led on led.region = c.region
         cross join lateral (
             select count(*) as pending, min(l.at) as oldest
             from griot.log l
             where l.xid >= pg_snapshot_xmax(c.snapshot) or l.xid = any(array(select pg_snapshot_xip(c.snapshot)))
         ) p
         order by c.region",
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.iter().map(decode).collect::<Result<_, sqlx::Error>>()?)
}

fn decode(row: &PgRow) -> Result<RegionStatus, sqlx::Error> {
    let micros = |value: i64| Duration::from_micros(value.max(0).unsigned_abs());
    let leader = match row.try_get("holder")? {
        None => None,
        Some(holder) => {
            let remaining = micros(row.try_get("remaining")?);
            Some(Leader {
                holder,
                term: row.try_get("term")?,
                until: SystemTime::UNIX_EPOCH + micros(row.try_get("until")?),
                remaining: (!remaining.is_zero()).then_some(remaining),
            })
        }
    };
    Ok(RegionStatus {
        region: row.try_get("region")?,
        saved_at: SystemTime::UNIX_EPOCH + micros(row.try_get("saved_at")?),
        saved_ago: micros(row.try_get("saved_ago")?),
        pending: row.try_get::<i64, _>("pending")?.max(0).unsigned_abs(),
        oldest_pending: row.try_get::<Option<i64>, _>("oldest")?.map(micros),
        lapsed: row.try_get("lapsed")?,
        leader,
    })
}

/// Whether `region` can name one; the table checks the same.
pub(crate) fn check_region(region: &str) -> Result<(), Error> {
    let valid = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if region.is_empty() || region.len() > REGION_BYTES || !region.bytes().all(valid) {
        return Err(Error::Region(region.to_owned()));
    }
    Ok(())
}
