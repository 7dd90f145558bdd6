//! Installs the triggers that rules need, and says whether what is installed is what a file says.
//!
//! The role that applies rules must own the tables that they name (or be a superuser), and must be the role that ran
//! the migrations or a member of it: the trigger functions run with its rights and append to the log.
//!
//! A statement that names a partition fires the triggers of that partition only, so partitions have the same ones. A
//! partition that is created or attached later differs until the rules are applied again. Tables that inherit otherwise
//! are tables of their own: write rules for each.
//!
//! A trigger reads the columns that rules name, so dropping or renaming one of them makes writes to the table fail.
//! Apply rules without the column first. After a change of a column's type the triggers may differ: to dates, say, the
//! function must be the same in every time zone.

mod capture;
mod catalog;
mod rehearse;
mod sql;
mod table;

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::{PgConnection, PgPool};

use crate::error::Error;
use crate::rules::Rules;
use capture::Capture;
pub use rehearse::{Rehearsal, rehearse};

/// The key of the advisory lock under which rules are applied: two appliers would undo each other's work.
const APPLY_LOCK: i64 = 0x6772_696f_745f_6170;

/// What applying the rules did to one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It had no triggers of ours.
    Installed,
    /// Its rules changed, or somebody had changed the triggers.
    Updated,
    /// Everything was as it should be; nothing was touched.
    Unchanged,
    /// No rule needs them any more.
    Removed,
}

/// How a table's triggers compare with the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// They are what the rules ask for.
    Current,
    /// They come from other rules, or were changed or disabled, or a partition came or went.
    Differs,
    /// There are none.
    Missing,
    /// No rule needs them any more: none names the table, or its changes are heard on a channel of `NOTIFY`.
    Extra,
}

/// Checks that the tables and columns that `rules` name exist, but for tables whose changes are only heard: what those
/// tell need not be columns. Writes nothing.
///
/// # Errors
/// [`Error::Rules`] with a sentence for every name that is not there and the nearest one that is.
pub async fn check(pool: &PgPool, rules: &Rules) -> Result<(), Error> {
    let mut connection = pool.acquire().await?;
    catalog::find(&mut connection, rules).await.map(drop)
}

/// Makes the database's triggers those that `rules` ask for, and touches nothing where nothing differs. Each table, and
/// each partition, is locked by itself: its writers wait for at most `lock_timeout`. One that is not free in that time
/// is left to them for as long, a few times.
///
/// # Errors
/// [`Error::Rules`] when names are wrong; then nothing was changed. [`Error::Busy`] when a table was never free, or a
/// refusal by PostgreSQL; then that table differs still, and those before it are done: repeat.
pub async fn apply(pool: &PgPool, rules: &Rules, lock_timeout: Duration) -> Result<Vec<(String, Outcome)>, Error> {
    let mut connection = pool.acquire().await?;
    // The lock is the session's, and goes with it however this ends.
    connection.close_on_drop();
    sqlx::query("select pg_advisory_lock($1)").bind(APPLY_LOCK).execute(&mut *connection).await?;
    let found = catalog::find(&mut connection, rules).await?;
    let mut outcomes = Vec::new();
    for (table, tables_rules) in rules.captured() {
        let source = table.to_string();
        let Some(found) = found.get(&source) else { continue };
        let capture = Capture::new(table, tables_rules, rules.limits, found);
        let outcome = table::install(&mut connection, &source, &capture, found, lock_timeout).await?;
        outcomes.push((source, outcome));
    }
    for source in installed(&mut connection).await? {
        if !rules.captured().any(|(table, _)| table.to_string() == source) {
            table::remove(&mut connection, &source, lock_timeout).await?;
            outcomes.push((source, Outcome::Removed));
        }
    }
    Ok(outcomes)
}

/// Compares the database's triggers with `rules`, by table.
///
/// # Errors
/// As [`check`].
pub async fn compare(pool: &PgPool, rules: &Rules) -> Result<BTreeMap<String, State>, Error> {
    let mut connection = pool.acquire().await?;
    let found = catalog::find(&mut connection, rules).await?;
    let mut states: BTreeMap<String, State> =
        installed(&mut connection).await?.into_iter().map(|source| (source, State::Extra)).collect();
    for (table, tables_rules) in rules.captured() {
        let source = table.to_string();
        let Some(found) = found.get(&source) else { continue };
        let capture = Capture::new(table, tables_rules, rules.limits, found);
        let state = table::state(&mut connection, &source, &capture, found).await?;
        states.insert(source, state);
    }
    Ok(states)
}

/// The tables that triggers were installed for.
async fn installed(connection: &mut PgConnection) -> Result<Vec<String>, Error> {
    Ok(sqlx::query_scalar("select source from griot.capture order by source").fetch_all(connection).await?)
}
