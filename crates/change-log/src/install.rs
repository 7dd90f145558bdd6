//! Installs the triggers that rules need, and says whether what is installed is what a file says.
//!
//! The role that applies rules must own the tables that they name (or be a superuser), and must be the role that ran
//! the migrations or a member of it: the trigger functions run with its rights and append to the log.
//!
//! A trigger reads the columns that rules name, so dropping or renaming one of them makes writes to the table fail.
//! Apply rules without the column first.

mod capture;
mod catalog;
mod sql;

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Executor, PgConnection, PgPool};

use crate::error::Error;
use crate::rules::Rules;
use capture::Capture;
use catalog::Found;

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
    /// No rule names it any more.
    Removed,
}

/// How a table's triggers compare with the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// They are what the rules ask for.
    Current,
    /// They come from other rules, or were changed or disabled.
    Differs,
    /// There are none.
    Missing,
    /// No rule names the table any more.
    Extra,
}

/// Checks that the tables and columns that `rules` name exist. Writes nothing.
///
/// # Errors
/// [`Error::Rules`] with a sentence for every name that is not there and the nearest one that is.
pub async fn check(pool: &PgPool, rules: &Rules) -> Result<(), Error> {
    let mut connection = pool.acquire().await?;
    catalog::find(&mut connection, rules).await.map(drop)
}

/// Makes the database's triggers those that `rules` ask for: one transaction per table, and nothing at all where
/// nothing differs. Writers of a table wait for at most `lock_timeout` while its triggers change.
///
/// # Errors
/// [`Error::Rules`] when names are wrong; then nothing was changed. A refusal by PostgreSQL, a lock that was not free
/// in time among them, leaves that table as it was and those before it applied: repeat.
pub async fn apply(pool: &PgPool, rules: &Rules, lock_timeout: Duration) -> Result<Vec<(String, Outcome)>, Error> {
    let mut connection = pool.acquire().await?;
    let found = catalog::find(&mut connection, rules).await?;
    let mut outcomes = Vec::new();
    for (table, tables_rules) in rules.tables() {
        let source = table.to_string();
        let Some(found) = found.get(&source) else { continue };
        let capture = Capture::new(table, tables_rules);
        let outcome = install(&mut connection, &source, &capture, found, lock_timeout).await?;
        outcomes.push((source, outcome));
    }
    for source in installed(&mut connection).await?.into_keys() {
        if !rules.sources().any(|named| named == source) {
            remove(&mut connection, &source, lock_timeout).await?;
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
        installed(&mut connection).await?.into_keys().map(|source| (source, State::Extra)).collect();
    for (table, tables_rules) in rules.tables() {
        let source = table.to_string();
        let Some(found) = found.get(&source) else { continue };
        let state = state(&mut connection, &source, &Capture::new(table, tables_rules), found).await?;
        states.insert(source, state);
    }
    Ok(states)
}

/// Brings one table's triggers to `capture`.
async fn install(
    connection: &mut PgConnection,
    source: &str,
    capture: &Capture,
    found: &Found,
    lock_timeout: Duration,
) -> Result<Outcome, Error> {
    let mut transaction = begin(connection, lock_timeout).await?;
    let outcome = match state(&mut transaction, source, capture, found).await? {
        State::Current => return Ok(Outcome::Unchanged),
        State::Missing => Outcome::Installed,
        State::Differs | State::Extra => Outcome::Updated,
    };
    transaction.execute(AssertSqlSafe(capture.create_function())).await?;
    if !triggers_are(&mut transaction, capture, found).await? {
        for statement in capture.create_triggers() {
            transaction.execute(AssertSqlSafe(statement)).await?;
        }
    }
    sqlx::query(
        "insert into griot.capture (source, relation, definition) values ($1, $2::bigint::oid, $3)
         on conflict (source) do update set relation = excluded.relation, definition = excluded.definition,
                                            applied_at = clock_timestamp()",
    )
    .bind(source)
    .bind(found.relation)
    .bind(capture.definition())
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(outcome)
}

/// Takes the triggers of a table away whose rules are gone; the table itself may be gone too.
async fn remove(connection: &mut PgConnection, source: &str, lock_timeout: Duration) -> Result<(), Error> {
    let mut transaction = begin(connection, lock_timeout).await?;
    // The function is found by its name and the triggers hang on it, wherever the table was moved to meanwhile.
    transaction.execute(AssertSqlSafe(Capture::drop_function(source))).await?;
    sqlx::query("delete from griot.capture where source = $1").bind(source).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(())
}

async fn begin(
    connection: &mut PgConnection,
    lock_timeout: Duration,
) -> Result<sqlx::Transaction<'_, sqlx::Postgres>, Error> {
    let mut transaction = sqlx::Connection::begin(connection).await?;
    sqlx::query("select pg_advisory_xact_lock($1)").bind(APPLY_LOCK).execute(&mut *transaction).await?;
    sqlx::query("select set_config('lock_timeout', $1, true)")
        .bind(format!("{}ms", lock_timeout.as_millis().max(1)))
        .execute(&mut *transaction)
        .await?;
    Ok(transaction)
}

/// The recorded installations: source to definition.
async fn installed(connection: &mut PgConnection) -> Result<BTreeMap<String, String>, Error> {
    let lines: Vec<(String, String)> =
        sqlx::query_as("select source, definition from griot.capture").fetch_all(connection).await?;
    Ok(lines.into_iter().collect())
}

async fn state(connection: &mut PgConnection, source: &str, capture: &Capture, found: &Found) -> Result<State, Error> {
    let recorded: Option<(i64, String)> =
        sqlx::query_as("select relation::bigint, definition from griot.capture where source = $1")
            .bind(source)
            .fetch_optional(&mut *connection)
            .await?;
    let Some((relation, definition)) = recorded else {
        return Ok(State::Missing);
    };
    if relation != found.relation || definition != capture.definition() {
        return Ok(State::Differs);
    }
    Ok(if triggers_are(connection, capture, found).await? { State::Current } else { State::Differs })
}

/// Whether the table has exactly the wanted triggers of ours, enabled always. Then only the function may differ, and
/// it can be replaced without a lock on the table.
async fn triggers_are(connection: &mut PgConnection, capture: &Capture, found: &Found) -> Result<bool, Error> {
    let present: Vec<(String, bool)> = sqlx::query_as(
        "select t.tgname::text, t.tgenabled = 'A' and f.proname = $2
         from pg_catalog.pg_trigger t
         join pg_catalog.pg_proc f on f.oid = t.tgfoid
         join pg_catalog.pg_namespace n on n.oid = f.pronamespace
         where t.tgrelid = $1::bigint::oid and not t.tgisinternal and n.nspname = 'griot'
         order by 1",
    )
    .bind(found.relation)
    .bind(capture.function_name())
    .fetch_all(connection)
    .await?;
    let mut wanted: Vec<&str> = capture.trigger_names().collect();
    wanted.sort_unstable();
    Ok(present.iter().all(|(_, ours)| *ours) && present.iter().map(|(name, _)| name).eq(wanted))
}
