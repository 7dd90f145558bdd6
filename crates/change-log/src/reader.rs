//! Reads the change log of one region: everything that was committed and that the cursor has not seen, once.
//!
//! The cursor is a snapshot. Between two of them, `prev` and `cur`, lie exactly the entries of the transactions that
//! `cur` sees and `prev` did not, whatever their ids and however late they committed. A poll takes `cur` and the
//! entries in one statement, so that both agree. When there are more than a page holds, the pair is frozen and read in
//! windows of ids; only when all of it was applied does the cursor become `cur`.
//!
//! A frozen pair is read once per [`Pass`], because one transaction's entries may lie in different windows: its keys
//! must all be gone before the first of its publications leaves.

use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::PgRow;
use sqlx::{Executor, PgPool, Postgres, Row};

use crate::cursor::check_region;
use crate::entry::{Entry, entry_columns};
use crate::error::Error;

/// How long one call to PostgreSQL may take.
const CALL: Duration = Duration::from_secs(10);

/// A region's place in the change log. Nothing is held in the database between calls but one connection.
#[derive(Debug)]
pub struct Reader {
    pool: PgPool,
    region: String,
    /// Under which the cursor is saved.
    term: i64,
    /// `None` until the first poll and after any error: the saved cursor is then read again. What was in memory is
    /// not trusted across connections, because a server that crashed gives out again the transaction ids that it
    /// had not yet made durable.
    session: Option<Session>,
    /// Counts sessions, so that a page of an earlier one confirms nothing.
    sessions: u64,
}

#[derive(Debug)]
struct Session {
    connection: PoolConnection<Postgres>,
    /// What stands in `griot.cursor`.
    saved: String,
    /// Everything that this snapshot sees was applied.
    applied: String,
    /// The rest of a pair that did not fit one page.
    frozen: Option<Frozen>,
}

/// A pair `(applied, cur)` that is read in windows of ids.
#[derive(Debug, Clone)]
struct Frozen {
    cur: String,
    /// Every entry of the pair has a higher id.
    before: i64,
    /// No entry that `cur` sees has a higher id.
    upto: i64,
    pass: Pass,
    /// Up to and including this id, the pass is done.
    after: i64,
}

/// Which effects of a page's entries are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// All, in this order: delete keys, publish, sweep, publish what waited for the sweep.
    All,
    /// First time through a backlog: delete keys, and remember patterns.
    Invalidate,
    /// Second time through the same entries: publish what waits for no sweep.
    Publish,
    /// Third time: sweep what was remembered, then publish what waited for it.
    AfterSweep,
}

/// Entries to apply, in order. Give the page back to [`Reader::confirm`] once all of them took effect.
#[derive(Debug)]
pub struct Page {
    /// In the order of their ids. Empty when nothing was committed, or when a window held nothing new.
    pub entries: Vec<Entry>,
    /// More is waiting: poll again at once.
    pub more: bool,
    /// Which of their effects are due.
    pub pass: Pass,
    session: u64,
    next: Next,
}

/// A place up to which everything was confirmed. See [`Reader::mark`].
#[derive(Debug)]
pub struct Mark {
    session: u64,
    snapshot: String,
}

/// What one read of the log gives.
struct Window {
    entries: Vec<Entry>,
    pass: Pass,
    next: Next,
}

/// Where the reader stands when a page was applied.
#[derive(Debug)]
enum Next {
    Applied(String),
    Frozen(Frozen),
}

impl Reader {
    /// A reader for `region`. Does no I/O: the cursor is read, and for a new region created, by the first poll.
    /// A new region starts at the present.
    ///
    /// `term` is that of the region's leader ([`Tenure::term`](crate::Tenure::term)), 0 where nobody ever led: only
    /// under the present one is the cursor saved.
    ///
    /// # Errors
    /// [`Error::Region`] when the name is not valid.
    pub fn new(pool: PgPool, region: &str, term: i64) -> Result<Self, Error> {
        check_region(region)?;
        Ok(Self { pool, region: region.to_owned(), term, session: None, sessions: 0 })
    }

    /// The next at most `limit` entries. Until they are confirmed, another poll returns them again.
    ///
    /// Not cancel safe: a poll that is dropped half-way leaves the reader at the saved cursor.
    ///
    /// # Errors
    /// Any error leaves the reader at the saved cursor: entries that were confirmed but not saved come again.
    pub async fn poll(&mut self, limit: u32) -> Result<Page, Error> {
        let limit = i64::from(limit.max(1));
        let (session, mut open) = self.open().await?;
        let window = match open.frozen.clone() {
            None => open.fresh(&self.region, limit).await?,
            Some(frozen) => open.window(frozen, limit).await?,
        };
        self.session = Some(open);
        let Window { entries, pass, next } = window;
        Ok(Page { entries, more: matches!(next, Next::Frozen(_)), pass, session, next })
    }

    /// All entries of `page` took effect; the reader moves on. A page from before an error is ignored: its entries
    /// come again.
    pub fn confirm(&mut self, page: Page) {
        let Some(session) = self.session.as_mut().filter(|_| page.session == self.sessions) else {
            return;
        };
        match page.next {
            Next::Applied(cur) => {
                session.applied = cur;
                session.frozen = None;
            }
            Next::Frozen(frozen) => session.frozen = Some(frozen),
        }
    }

    /// What is confirmed now, to be [saved](Self::save) now or later; `None` when the cursor says so already.
    pub fn mark(&self) -> Option<Mark> {
        let session = self.session.as_ref()?;
        (session.saved != session.applied).then(|| Mark { session: self.sessions, snapshot: session.applied.clone() })
    }

    /// Makes `mark` durable: one small write. A mark from before an error is ignored: its entries come again.
    ///
    /// # Errors
    /// As [`Reader::poll`], and [`Error::Superseded`] when another worker leads the region, or when the region was
    /// marked as lapsed: what the mark says was applied may have been gone before it was read.
    pub async fn save(&mut self, mark: Mark) -> Result<(), Error> {
        let Some(mut session) = self.session.take_if(|_| mark.session == self.sessions) else {
            return Ok(());
        };
        let save = sqlx::query(
            "insert into griot.cursor as c (region, snapshot, term) values ($1, $2::pg_snapshot, $3)
             on conflict (region) do update set snapshot = excluded.snapshot, saved_at = clock_timestamp()
             where c.term = excluded.term and not c.lapsed",
        )
        .bind(&self.region)
        .bind(mark.snapshot.clone())
        .bind(self.term);
        let saved = session.call("save the cursor", async |c| save.execute(c).await).await?;
        if saved.rows_affected() == 0 {
            return Err(Error::Superseded { region: self.region.clone(), term: self.term });
        }
        session.saved = mark.snapshot;
        self.session = Some(session);
        Ok(())
    }

    /// Takes the session out, opening one if there is none: an error on the way then leaves none behind.
    async fn open(&mut self) -> Result<(u64, Session), Error> {
        if let Some(session) = self.session.take() {
            return Ok((self.sessions, session));
        }
        self.sessions += 1;
        let connection = tokio::time::timeout(CALL, self.pool.acquire())
            .await
            .map_err(|_| Error::Timeout { what: "connect", after: CALL })??;
        let mut session = Session { connection, saved: String::new(), applied: String::new(), frozen: None };
        session.load(&self.region, self.term).await?;
        Ok((self.sessions, session))
    }
}

impl Session {
    /// Reads the saved cursor, or starts at the present.
    async fn load(&mut self, region: &str, term: i64) -> Result<(), Error> {
        // The plans are good without knowing the parameters, and planning costs more than the poll itself.
        self.call("set up", async |c| c.execute("set plan_cache_mode = force_generic_plan").await).await?;
        let standby = sqlx::query_scalar("select pg_is_in_recovery()");
        if self.call("look for the primary", async |c| standby.fetch_one(c).await).await? {
            return Err(Error::Standby);
        }
        let select = || sqlx::query_scalar("select snapshot::text from griot.cursor where region = $1").bind(region);
        let mut saved: Option<String> =
            self.call("read the cursor", async |c| select().fetch_optional(c).await).await?;
        if saved.is_none() {
            let start = sqlx::query(
                "insert into griot.cursor (region, snapshot, term) values ($1, pg_current_snapshot(), $2)
                 on conflict do nothing",
            )
            .bind(region)
            .bind(term);
            self.call("create the cursor", async |c| start.execute(c).await).await?;
            // Somebody else may have been first; what stands there counts.
            saved = self.call("read the cursor", async |c| select().fetch_optional(c).await).await?;
        }
        self.saved = saved.ok_or(sqlx::Error::RowNotFound)?;
        self.applied.clone_from(&self.saved);
        Ok(())
    }

    /// Everything since the cursor, when it fits one page.
    async fn fresh(&mut self, region: &str, limit: i64) -> Result<Window, Error> {
        // Both branches walk the index on xid in its order, which the limits make the only sensible plan: with a
        // million old entries and nothing new it is six index probes. They share no entry: a snapshot's running
        // transactions are all below its xmax.
        const POLL: &str = concat!(
            "with now as materialized (
                 select pg_current_snapshot() as snapshot, pg_is_in_recovery() as standby
             ), fresh as materialized (
                 (select * from griot.log where xid >= pg_snapshot_xmax($1::pg_snapshot) order by xid limit $2)
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
        let rows = self.call("poll the log", async |c| poll.fetch_all(c).await).await?;
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
        let (first, upto): (i64, i64) = self.call("size the backlog", async |c| bounds.fetch_one(c).await).await?;
        let before = first - 1;
        Ok(Frozen { cur, before, upto, pass: Pass::Invalidate, after: before })
    }

    /// The next window of ids of a frozen pair. Its cost is bounded by the window, however the entries are spread.
    ///
    /// A window counts only what `cur` sees. What commits meanwhile would move the windows' edges from one pass to the
    /// next, and with them what a plan says about entries of the same window.
    async fn window(&mut self, frozen: Frozen, limit: i64) -> Result<Window, Error> {
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
        let rows = self.call("read the backlog", async |c| query.fetch_all(c).await).await?;
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

    /// One call under the time limit. The caller drops the session on an error, and with it the connection, which
    /// may be in the middle of an answer.
    async fn call<T>(
        &mut self,
        what: &'static str,
        work: impl AsyncFnOnce(&mut sqlx::PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, Error> {
        let outcome = tokio::time::timeout(CALL, work(&mut self.connection)).await;
        let result = match outcome {
            Ok(result) => result.map_err(Error::from),
            Err(_) => Err(Error::Timeout { what, after: CALL }),
        };
        if result.is_err() {
            self.connection.close_on_drop();
        }
        result
    }
}

impl Frozen {
    /// The pair from its beginning for the next pass; after the last one, the pair is applied.
    fn next_pass(self) -> Next {
        let pass = match self.pass {
            Pass::All | Pass::AfterSweep => return Next::Applied(self.cur),
            Pass::Invalidate => Pass::Publish,
            Pass::Publish => Pass::AfterSweep,
        };
        Next::Frozen(Self { pass, after: self.before, ..self })
    }
}

/// The entries among `rows`; the one row of an empty page has no id.
fn entries(rows: &[PgRow]) -> Result<Vec<Entry>, sqlx::Error> {
    rows.iter().filter(|row| !matches!(row.try_get::<Option<i64>, _>("id"), Ok(None))).map(Entry::decode).collect()
}
