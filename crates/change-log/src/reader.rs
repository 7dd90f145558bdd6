//! Reads the change log of one region: everything that was committed and that the cursor has not seen, once.
//!
//! The cursor is a snapshot. Between two of them, `prev` and `cur`, lie exactly the entries of the transactions that
//! `cur` sees and `prev` did not, whatever their ids and however late they committed. A poll takes `cur` and the
//! entries in one statement, so that both agree. When there are more than a page holds, the pair is frozen and read in
//! windows of ids; only when all of it was applied does the cursor become `cur`.
//!
//! A frozen pair is read once per [`Pass`], because one transaction's entries may lie in different windows: its keys
//! must all be gone before the first of its publications leaves.

mod session;

use std::time::Instant;

use sqlx::PgPool;

use crate::cursor::check_region;
use crate::entry::Entry;
use crate::error::Error;
use crate::progress::{Opening, Progress};
use session::{Frozen, Session, Window};

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

/// Which effects of a page's entries are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// All: delete keys, ask for sweeps, then publish.
    All,
    /// First time through a backlog: delete keys and ask for sweeps.
    Invalidate,
    /// Second time through the same entries: publish.
    Publish,
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
    /// What the saved cursor left to do, when this poll had to read it: the first does, and the one after an error.
    pub opening: Option<Opening>,
    session: u64,
    next: Next,
}

/// A place up to which everything was confirmed, with what was under way there. See [`Reader::mark`].
#[derive(Debug)]
pub struct Mark {
    session: u64,
    snapshot: String,
    progress: Progress,
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
        let (mut open, opening) = match self.session.take() {
            Some(session) => (session, None),
            None => {
                self.sessions += 1;
                let (session, opening) = Session::open(&self.pool, &self.region, self.term).await?;
                (session, Some(opening))
            }
        };
        let window = match open.frozen.clone() {
            None => open.fresh(&self.region, limit).await?,
            Some(frozen) => open.window(frozen, limit).await?,
        };
        self.session = Some(open);
        let Window { entries, pass, next } = window;
        let more = matches!(next, Next::Frozen(_));
        Ok(Page { entries, more, pass, opening, session: self.sessions, next })
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

    /// The Redis server on which everything confirmed took effect is well at this moment: a
    /// [replay](Self::rewind) need not begin more than a minute before it.
    pub fn healthy(&mut self) {
        if let Some(session) = &mut self.session {
            session.trail.healthy(Instant::now(), &session.applied);
        }
    }

    /// Goes back for a replay: what was applied in the minute before Redis was last [seen well](Self::healthy), or
    /// since, comes again, in the order of ids, before anything new. Pages polled before count for nothing.
    ///
    /// Another call before a minute has passed goes back to the same place.
    pub fn rewind(&mut self) {
        if let Some(session) = &mut self.session {
            self.sessions += 1;
            session.rewind();
        }
    }

    /// What is confirmed now and what is under way, to be [saved](Self::save) now or later; `None` when the row says so
    /// already.
    pub fn mark(&self, progress: Progress) -> Option<Mark> {
        let session = self.session.as_ref()?;
        let saved = session.saved.snapshot == session.applied && session.saved.progress == progress;
        (!saved).then(|| Mark { session: self.sessions, snapshot: session.applied.clone(), progress })
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
        if !session.save(&self.region, self.term, mark.snapshot, mark.progress).await? {
            return Err(Error::Superseded { region: self.region.clone(), term: self.term });
        }
        self.session = Some(session);
        Ok(())
    }
}
