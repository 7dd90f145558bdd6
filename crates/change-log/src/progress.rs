//! What stands beside the cursor in a region's row: under what everything before it took effect, and what is under way.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use crate::entry::{Entry, entry_columns};

/// What a worker saves with its cursor.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// The identity of the Redis server on which everything before the cursor took effect; `None` where servers are not
    /// told apart.
    pub server: Option<String>,
    /// Patterns whose sweep is not done, and since when each was asked for.
    pub sweeps: BTreeMap<String, SystemTime>,
    /// The ids of entries with publications that wait for these sweeps.
    pub waiting: Vec<i64>,
}

/// What a reader found beside the saved cursor: the worker takes it up before it applies anything.
#[derive(Debug)]
pub struct Opening {
    /// As in [`Progress`]. `None` too when nothing has taken effect yet.
    pub server: Option<String>,
    /// As in [`Progress`].
    pub sweeps: BTreeMap<String, SystemTime>,
    /// The entries of [`Progress::waiting`], in order.
    pub waiting: Vec<Entry>,
    /// How long ago the cursor was saved. Where nothing happens it is not.
    pub saved_ago: Duration,
    /// Why the region's caches may hold what no commit has, or lack what one did; `None` when all is well.
    pub lost: Option<Lost>,
}

/// Why the caches of a region cannot be mended entry by entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// The newest commits of the former database may be gone, and their ids and transactions given out again.
    #[error("the cursor was saved in another history of the database ({was}) than this one ({is})")]
    History {
        /// `SYSTEM_IDENTIFIER/TIMELINE` that the cursor was saved in.
        was: String,
        /// The present one.
        is: String,
    },
    /// Entries that the region had not applied were given back.
    #[error("the region was away for longer than the retention of the change log")]
    Retention,
}

impl Lost {
    /// Whether nothing follows from the cursor: what it has not seen is not in the log, or its transactions are those of
    /// another database, which are numbered differently.
    pub(crate) fn begins_anew(&self) -> bool {
        let system = |lineage: &str| lineage.split_once('/').map(|(system, _)| system.to_owned());
        match self {
            Self::History { was, is } => system(was) != system(is),
            Self::Retention => true,
        }
    }
}

/// The row of a region.
#[derive(Debug)]
pub(crate) struct Saved {
    pub(crate) snapshot: String,
    pub(crate) replay_from: String,
    pub(crate) progress: Progress,
    pub(crate) lineage: Option<String>,
    pub(crate) ago: Duration,
    pub(crate) lapsed: bool,
}

/// The server's system identifier and timeline: another pair is another history.
pub(crate) const LINEAGE: &str = "select system_identifier || '/' || left(pg_walfile_name(pg_current_wal_lsn()), 8)
     from pg_control_system()";

impl Saved {
    pub(crate) async fn read(connection: &mut PgConnection, region: &str) -> Result<Option<Self>, sqlx::Error> {
        let row = sqlx::query(
            "select snapshot::text, coalesce(replay_from, snapshot)::text as replay_from, server, lineage,
                    sweeps::text, waiting, lapsed,
                    (extract(epoch from clock_timestamp() - saved_at) * 1000000)::bigint as ago
             from griot.cursor where region = $1",
        )
        .bind(region)
        .fetch_optional(connection)
        .await?;
        row.as_ref().map(Self::decode).transpose()
    }

    fn decode(row: &PgRow) -> Result<Self, sqlx::Error> {
        let sweeps: BTreeMap<String, u64> = serde_json::from_str(row.try_get("sweeps")?).unwrap_or_default();
        let since = |micros| SystemTime::UNIX_EPOCH + Duration::from_micros(micros);
        Ok(Self {
            snapshot: row.try_get("snapshot")?,
            replay_from: row.try_get("replay_from")?,
            lineage: row.try_get("lineage")?,
            lapsed: row.try_get("lapsed")?,
            ago: Duration::from_micros(row.try_get::<i64, _>("ago")?.max(0).unsigned_abs()),
            progress: Progress {
                server: row.try_get("server")?,
                sweeps: sweeps.into_iter().map(|(pattern, micros)| (pattern, since(micros))).collect(),
                waiting: row.try_get("waiting")?,
            },
        })
    }

    /// What [`decode`](Self::decode) reads of `sweeps`.
    pub(crate) fn sweeps(progress: &Progress) -> String {
        let micros = |since: &SystemTime| since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
        let sweeps = progress.sweeps.iter().map(|(pattern, since)| (pattern, u64::try_from(micros(since)).ok()));
        serde_json::to_string(&sweeps.collect::<BTreeMap<_, _>>()).unwrap_or_else(|_| "{}".into())
    }

    /// The entries that wait. One that rotation took is not among them.
    pub(crate) async fn waiting(&self, connection: &mut PgConnection) -> Result<Vec<Entry>, sqlx::Error> {
        const WAITING: &str = concat!("select ", entry_columns!(), " from griot.log where id = any($1) order by id");
        let rows = sqlx::query(WAITING).bind(&self.progress.waiting).fetch_all(connection).await?;
        rows.iter().map(Entry::decode).collect()
    }
}
