//! One connection's view of a region's place: the statements that read the log and move the cursor.

use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::postgres::PgRow;
use sqlx::{Executor, PgPool, Postgres, Row};

use super::{Next, Pass};
use crate::entry::{Entry, entry_columns};
use crate::error::Error;
use crate::progress::{LINEAGE, Lost, Opening, Progress, Saved};
use crate::trail::Trail;

/// How long one call to PostgreSQL may take.
const CALL: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Session {
    connection: Connection,
    /// What stands in `griot.cursor`.
    pub(super) saved: Saved,
    /// This database, as it will stand there.
    lineage: String,
    /// Everything that this snapshot sees was applied.
    pub(super) applied: String,
    /// The rest of a pair that did not fit one page.
    pub(super) frozen: Option<Frozen>,
    /// Where a replay would begin.
    pub(super) trail: Trail,
}

/// A pair `(applied, cur)` that is read in windows of ids.
#[derive(Debug, Clone)]
pub(super) struct Frozen {
    cur: String,
    /// Every entry of the pair has a higher id.
    before: i64,
    /// No entry that `cur` sees has a higher id.
    upto: i64,
    pass: Pass,
    /// Up to and including this id, the pass is done.
    after: i64,
}

/// What one read of the log gives.
pub(super) struct Window {
    pub(super) entries: Vec<Entry>,
    pub(super) pass: Pass,
    pub(super) next: Next,
}

impl Session {
    /// Connects and takes up the saved cursor, or starts at the present.
    pub(super) async fn open(pool: &PgPool, region: &str, term: i64) -> Result<(Self, Opening), Error> {
        let mut connection = Connection::open(pool).await?;
        let standby = sqlx::query_scalar("select pg_is_in_recovery()");
        if connection.call("look for the primary", async |c| standby.fetch_one(c).await).await? {
            return Err(Error::Standby);
        }
        let lineage = sqlx::query_scalar(LINEAGE);
        let lineage: String = connection.call("ask which database it is", async |c| lineage.fetch_one(c).await).await?;
        let mut saved = connection.call("read the cursor", async |c| Saved::read(c, region).await).await?;
        if saved.is_none() {
            let start = sqlx::query(
                "insert into griot.cursor (region, snapshot, lineage, term) values ($1, pg_current_snapshot(), $2, $3)
                 on conflict do nothing",
            )
            .bind(region)
            .bind(&lineage)
            .bind(term);
            connection.call("create the cursor", async |c| start.execute(c).await).await?;
            // Somebody else may have been first; what stands there counts.
            saved = connection.call("read the cursor", async |c| Saved::read(c, region).await).await?;
        }
        let saved = saved.ok_or(sqlx::Error::RowNotFound)?;
        let waiting = connection.call("read what waits", async |c| saved.waiting(c).await).await?;
        let mut session = Self {
            applied: saved.snapshot.clone(),
            trail: Trail::new(Instant::now(), saved.replay_from.clone()),
            connection,
            saved,
            lineage,
            frozen: None,
        };
        let lost = session.lost();
        if lost.as_ref().is_some_and(Lost::begins_anew) {
            session.start_at_the_present().await?;
        }
        let Progress { server, sweeps, .. } = session.saved.progress.clone();
        let saved_ago = session.saved.ago;
        Ok((session, Opening { server, sweeps, waiting, saved_ago, lost }))
    }

    fn lost(&self) -> Option<Lost> {
        if self.saved.lapsed {
            return Some(Lost::Retention);
        }
        let was = self.saved.lineage.as_ref().filter(|was| **was != self.lineage)?;
        Some(Lost::History { was: was.clone(), is: self.lineage.clone() })
    }

    /// Where the saved cursor means nothing.
    async fn start_at_the_present(&mut self) -> Result<(), Error> {
        let now = sqlx::query_scalar("select pg_current_snapshot()::text");
        self.applied = self.connection.call("start at the present", async |c| now.fetch_one(c).await).await?;
        self.trail = Trail::new(Instant::now(), self.applied.clone());
        Ok(())
    }

    /// Back to where a replay begins.
    pub(super) fn rewind(&mut self) {
        self.applied = self.trail.beginning().to_owned();
        self.frozen = None;
        self.trail = Trail::new(Instant::now(), self.applied.clone());
    }

    /// Saves the cursor; `false` when the term is over, or when the region lapsed since the cursor was read.
    pub(super) async fn save(
        &mut self,
        region: &str,
        term: i64,
        snapshot: String,
        progress: Progress,
    ) -> Result<bool, Error> {
        let replay_from = self.trail.beginning().to_owned();
        let save = sqlx::query(
            "insert into griot.cursor as c (region, snapshot, term, lineage, server, replay_from, sweeps, waiting)
             values ($1, $2::pg_snapshot, $3, $4, $5, $6::pg_snapshot, $7::jsonb, $8)
             on conflict (region) do update
             set snapshot = excluded.snapshot, lineage = excluded.lineage, server = excluded.server,
                 replay_from = excluded.replay_from, sweeps = excluded.sweeps, waiting = excluded.waiting,
                 saved_at = clock_timestamp(), lapsed = false
             where c.term = excluded.term and (not c.lapsed or $9)",
        )
        .bind(region)
        .bind(snapshot.clone())
        .bind(term)
        .bind(self.lineage.clone())
        .bind(progress.server.clone())
        .bind(replay_from.clone())
        .bind(Saved::sweeps(&progress))
        .bind(progress.waiting.clone())
        .bind(self.saved.lapsed);
        let saved = self.connection.call("save the cursor", async |c| save.execute(c).await).await?;
        self.saved = Saved {
            snapshot,
            replay_from,
            progress,
            lineage: Some(self.lineage.clone()),
            ago: Duration::ZERO,
            lapsed: false,
        };
        Ok(saved.rows_affected() > 0)
    }

    /// Everything since the cursor, when it fits one page.
    pub(super) async fn fresh(&mut self, region: &str, limit: i64) -> Result<Window, Error> {
        // Both branches walk the index on xid in its order, which the limits make the only sensible plan: with a
        // million old entries and nothing new it is six index probes. They share no entry: a snapshot's running
        // transactions are all below its xmax. What this statement sees is below its own snapshot's xmax too, except
        // rows that came out of another database's dump: those are nobody's commits.
        const POLL: &str = concat!(
            "with now as materialized (
                 select pg_current_snapshot() as snapshot, pg_is_in_recovery() as standby
             ), fresh as materialized (
                 (select * from griot.log
                  where xid >= pg_snapshot_xmax($1::pg_snapshot)
                    and xid < (select pg_snapshot_xmax(snapshot) from now)
                  order by xid limit $2)
                 union all
                 (select * from griot.log where xid = any(array(select pg_snapshot_xip($1::pg_snapshot)))
                  order by xid limit $2)
             )
             select now.snapshot::text as snapshot, now.standby,
                    pg_snapshot_xmax($1::pg_snapshot) > pg_snapshot_xmax(now.snapshot) as ahead, ",
            entry_columns!(),
            " from now left join fresh on true order by id"
        );
        let poll = sqlx::query(POLL).bind(self.applied.clone()).bind(limit + 1);
        let rows = self.connection.call("poll the log", async |c| poll.fetch_all(c).await).await?;
        let first = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        if first.try_get("standby")? {
            return Err(Error::Standby);
        }
        if first.try_get("ahead")? {
            return Err(Error::CursorAhead { region: region.to_owned() });
        }
        let cur: String = first.try_get("snapshot")?;
        if i64::try_from(rows.len()).is_ok_and(|n| n <= limit) {
            return Ok(Window { entries: entries(&rows)?, pass: Pass::All, next: Next::Applied(cur) });
        }
        let frozen = self.freeze(cur).await?;
        self.window(frozen, limit).await
    }

    /// Finds the range of ids in which the entries between the cursor and `cur` lie.
    async fn freeze(&mut self, cur: String) -> Result<Frozen, Error> {
        // The highest id is asked after `cur` was taken, so it is not below any that `cur` sees.
        let bounds = sqlx::query_as(
            "with due as materialized (
                 select id from griot.log
                 where (xid >= pg_snapshot_xmax($1::pg_snapshot)
                        or xid = any(array(select pg_snapshot_xip($1::pg_snapshot))))
                   and pg_visible_in_snapshot(xid, $2::pg_snapshot)
             )
             select coalesce((select min(id) from due), 0), coalesce((select max(id) from griot.log), 0)",
        )
        .bind(self.applied.clone())
        .bind(cur.clone());
        let (first, upto): (i64, i64) =
            self.connection.call("size the backlog", async |c| bounds.fetch_one(c).await).await?;
        let before = first - 1;
        Ok(Frozen { cur, before, upto, pass: Pass::Invalidate, after: before })
    }

    /// The next window of ids of a frozen pair. Its cost is bounded by the window, however the entries are spread.
    ///
    /// A window counts only what `cur` sees. What commits meanwhile would move the windows' edges from one pass to the
    /// next, and with them what a plan says about entries of the same window.
    pub(super) async fn window(&mut self, frozen: Frozen, limit: i64) -> Result<Window, Error> {
        const WINDOW: &str = concat!(
            "with w as materialized (
                 select * from griot.log
                 where id > $1 and id <= $2 and pg_visible_in_snapshot(xid, $5::pg_snapshot)
                 order by id limit $3
             ), size as (
                 select count(*) as window_rows, max(id) as reached from w
             ), due as (
                 select * from w
                 where xid >= pg_snapshot_xmax($4::pg_snapshot)
                    or xid = any(array(select pg_snapshot_xip($4::pg_snapshot)))
             )
             select size.window_rows, size.reached, ",
            entry_columns!(),
            " from size left join due on true order by id"
        );
        let query = sqlx::query(WINDOW)
            .bind(frozen.after)
            .bind(frozen.upto)
            .bind(limit)
            .bind(self.applied.clone())
            .bind(frozen.cur.clone());
        let rows = self.connection.call("read the backlog", async |c| query.fetch_all(c).await).await?;
        let first = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        let window_rows: i64 = first.try_get("window_rows")?;
        let reached: Option<i64> = first.try_get("reached")?;
        let pass = frozen.pass;
        let next = match reached {
            Some(reached) if window_rows == limit && reached < frozen.upto => {
                Next::Frozen(Frozen { after: reached, ..frozen })
            }
            _ => frozen.next_pass(),
        };
        Ok(Window { entries: entries(&rows)?, pass, next })
    }
}

/// A connection whose every call has a time limit.
#[derive(Debug)]
struct Connection(PoolConnection<Postgres>);

impl Connection {
    async fn open(pool: &PgPool) -> Result<Self, Error> {
        let connection = tokio::time::timeout(CALL, pool.acquire())
            .await
            .map_err(|_| Error::Timeout { what: "connect", after: CALL })??;
        let mut connection = Self(connection);
        // The plans are good without knowing the parameters, and planning costs more than the poll itself.
        connection.call("set up", async |c| c.execute("set plan_cache_mode = force_generic_plan").await).await?;
        Ok(connection)
    }

    /// One call under the time limit. The caller drops the session on an error, and with it the connection, which
    /// may be in the middle of an answer.
    async fn call<T>(
        &mut self,
        what: &'static str,
        work: impl AsyncFnOnce(&mut sqlx::PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, Error> {
        let outcome = tokio::time::timeout(CALL, work(&mut self.0)).await;
        let result = match outcome {
            Ok(result) => result.map_err(Error::from),
            Err(_) => Err(Error::Timeout { what, after: CALL }),
        };
        if result.is_err() {
            self.0.close_on_drop();
        }
        result
    }
}

impl Frozen {
    /// The pair from its beginning for the next pass; after the last one, the pair is applied.
    fn next_pass(self) -> Next {
        let pass = match self.pass {
            Pass::All | Pass::Publish => return Next::Applied(self.cur),
            Pass::Invalidate => Pass::Publish,
        };
        Next::Frozen(Self { pass, after: self.before, ..self })
    }
}

/// The entries among `rows`; the one row of an empty page has no id.
fn entries(rows: &[PgRow]) -> Result<Vec<Entry>, sqlx::Error> {
    rows.iter().filter(|row| !matches!(row.try_get::<Option<i64>, _>("id"), Ok(None))).map(Entry::decode).collect()
}
