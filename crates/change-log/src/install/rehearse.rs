//! Runs a statement to see what it would cause, and takes everything back.

use std::time::Duration;

use sqlx::{AssertSqlSafe, PgConnection, PgPool};

use crate::entry::{Entry, entry_columns};
use crate::error::Error;
use crate::rules::Rules;

use super::capture::Capture;
use super::{State, catalog, table};

/// Most entries that are looked at.
const ENTRIES: i64 = 10_000;

/// What a statement would have written.
#[derive(Debug)]
pub struct Rehearsal {
    /// The entries of the change log, in their order; the first ten thousand. Their public ids are drawn anew when the
    /// statement is really run.
    pub entries: Vec<Entry>,
    /// There were more.
    pub more: bool,
    /// Rows that the statement changed, by PostgreSQL's count.
    pub rows: u64,
    /// Tables whose installed triggers are not those of the rules: they were changed for the rehearsal.
    pub not_installed: Vec<String>,
}

/// Runs `statement` with the triggers that `rules` ask for in a transaction that is rolled back. Sequences move on, as
/// they do in every transaction that rolls back, and whatever the statement does outside of PostgreSQL stays done.
///
/// Triggers that are not installed are made in the same transaction: writers of those tables wait until it is over, which
/// `statement_timeout` bounds.
///
/// # Errors
/// [`Error::Statement`] when the text is not one statement that reads or writes rows, or PostgreSQL refuses it; nothing
/// was changed in any case.
pub async fn rehearse(
    pool: &PgPool,
    rules: &Rules,
    statement: &str,
    lock_timeout: Duration,
    statement_timeout: Duration,
) -> Result<Rehearsal, Error> {
    check(statement)?;
    let mut connection = pool.acquire().await?;
    // Whatever the statement set for the session goes with it.
    connection.close_on_drop();
    let found = catalog::find(&mut connection, rules).await?;
    let mut transaction = sqlx::Connection::begin(&mut *connection).await?;
    table::limit_locks(&mut transaction, lock_timeout).await?;
    sqlx::query("select set_config('statement_timeout', $1, true)")
        .bind(format!("{}ms", statement_timeout.as_millis().max(1)))
        .execute(&mut *transaction)
        .await?;
    let mut not_installed = Vec::new();
    for (table, tables_rules) in rules.captured() {
        let source = table.to_string();
        let Some(found) = found.get(&source) else { continue };
        let capture = Capture::new(table, tables_rules, rules.limits, found);
        if table::state(&mut transaction, &source, &capture, found).await? != State::Current {
            table::make_for_now(&mut transaction, &capture, found).await?;
            not_installed.push(source);
        }
    }
    let rows = run(&mut transaction, statement).await.map_err(|error| refused(error, statement))?;
    let mut entries = written(&mut transaction).await?;
    transaction.rollback().await?;
    let more = i64::try_from(entries.len()).is_ok_and(|n| n > ENTRIES);
    entries.truncate(usize::try_from(ENTRIES).unwrap_or(usize::MAX));
    Ok(Rehearsal { entries, more, rows, not_installed })
}

/// Only these can begin a statement: none of them ends a transaction, and PostgreSQL takes one statement at a time here.
const BEGINNINGS: [&str; 8] = ["insert", "update", "delete", "merge", "truncate", "select", "with", "call"];

fn check(statement: &str) -> Result<(), Error> {
    let text = without_comments(statement);
    let word: String = text.chars().take_while(|c| c.is_ascii_alphabetic()).collect::<String>().to_lowercase();
    if BEGINNINGS.contains(&word.as_str()) {
        return Ok(());
    }
    let expected = BEGINNINGS.join(", ");
    Err(Error::Statement(if word.is_empty() {
        format!("there is no statement; give one that begins with {expected}")
    } else {
        format!("a statement that begins with {word:?} is not run: only {expected}, for they can be taken back")
    }))
}

/// What follows blanks and comments.
fn without_comments(mut text: &str) -> &str {
    loop {
        text = text.trim_start();
        if let Some(comment) = text.strip_prefix("--") {
            text = comment.split_once('\n').map_or("", |(_, rest)| rest);
        } else if text.starts_with("/*") {
            text = after_block(text);
        } else {
            return text;
        }
    }
}

/// Block comments nest.
fn after_block(text: &str) -> &str {
    let mut depth = 0_u32;
    let mut rest = text;
    loop {
        if let Some(inner) = rest.strip_prefix("/*") {
            (depth, rest) = (depth + 1, inner);
        } else if let Some(outer) = rest.strip_prefix("*/") {
            (depth, rest) = (depth - 1, outer);
            if depth == 0 {
                return rest;
            }
        } else {
            let mut chars = rest.chars();
            if chars.next().is_none() {
                return "";
            }
            rest = chars.as_str();
        }
    }
}

/// By the extended protocol, which takes one statement. What would wait for the commit happens at once.
async fn run(connection: &mut PgConnection, statement: &str) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(AssertSqlSafe(statement.to_owned())).persistent(false).execute(&mut *connection).await?;
    sqlx::query("set constraints all immediate").execute(connection).await?;
    Ok(done.rows_affected())
}

async fn written(connection: &mut PgConnection) -> Result<Vec<Entry>, Error> {
    const WRITTEN: &str =
        concat!("select ", entry_columns!(), " from griot.log where xid = pg_current_xact_id() order by id limit $1");
    let rows = sqlx::query(WRITTEN).bind(ENTRIES + 1).fetch_all(connection).await?;
    Ok(rows.iter().map(Entry::decode).collect::<Result<_, _>>()?)
}

/// PostgreSQL's own sentence with its place in the statement.
fn refused(error: sqlx::Error, statement: &str) -> Error {
    use sqlx::postgres::{PgDatabaseError, PgErrorPosition};
    let Some(refusal) = error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>()) else {
        return Error::Database(error);
    };
    let mut text = match refusal.position() {
        Some(PgErrorPosition::Original(position)) => {
            let before: String = statement.chars().take(position.saturating_sub(1)).collect();
            let line = before.matches('\n').count() + 1;
            let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
            format!("line {line}, column {column}: {}", refusal.message())
        }
        _ => refusal.message().to_owned(),
    };
    for (word, more) in [("detail", refusal.detail()), ("hint", refusal.hint())] {
        if let Some(more) = more {
            text.push_str(&format!("\n{word}: {more}"));
        }
    }
    Error::Statement(text)
}
