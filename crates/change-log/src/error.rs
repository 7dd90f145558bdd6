//! What can go wrong between here and PostgreSQL, and whether waiting helps.

use std::fmt;
use std::time::Duration;

use sqlx::migrate::MigrateError;

/// The one error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// PostgreSQL refused a statement or could not be reached.
    #[error("PostgreSQL: {0}")]
    Database(#[source] sqlx::Error),
    /// The database lacks Griot's schema or has an older one.
    #[error("the schema griot is missing or old ({0}): run `invalidation-worker migrate`")]
    NotMigrated(String),
    /// A migration failed.
    #[error("migration: {0}")]
    Migrate(#[from] MigrateError),
    /// The address of the database could not be understood. The address itself is not shown: it holds the password.
    #[error("the database address is not valid: {0}; expected postgres://USER:PASSWORD@HOST:PORT/DATABASE")]
    Address(String),
    /// PostgreSQL did not answer in time.
    #[error("PostgreSQL did not answer within {} ms: {what}", after.as_millis())]
    Timeout {
        /// What was asked.
        what: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// No server of the database can be written to; what each of them answered.
    #[error("{}", refusals(.0))]
    NoServer(Vec<Refusal>),
    /// What answers is not PostgreSQL itself.
    #[error(
        "this is a connection pooler, which lends the same session to others: give the address of PostgreSQL itself, \
         where a worker takes at most 9 connections"
    )]
    Pooler,
    /// The server is a standby. Its snapshots list no running transactions, so a cursor from there loses entries.
    #[error("this PostgreSQL server is a standby; the change log is read on the primary only")]
    Standby,
    /// The saved cursor speaks of transactions that this database has not had.
    #[error(
        "the cursor of region {region} is ahead of the database, which was probably restored from a dump: flush the \
         region's caches, then `delete from griot.cursor where region = '{region}'` to start at the present"
    )]
    CursorAhead {
        /// Whose cursor.
        region: String,
    },
    /// Another worker leads the region now: what this one applied is applied again, by it, under the same public ids.
    #[error("another worker leads region {region}; term {term} is over")]
    Superseded {
        /// Whose cursor.
        region: String,
        /// The term that is over.
        term: i64,
    },
    /// A table's lock was not free. Nothing of it was changed.
    #[error(
        "{table} was not free within {} ms, {attempts} times: a transaction that wrote to it is open; repeat when it is over",
        waited.as_millis()
    )]
    Busy {
        /// The table or partition, as SQL names it.
        table: String,
        /// How often its lock was asked for.
        attempts: u32,
        /// How long each time.
        waited: Duration,
    },
    /// A statement to rehearse was refused; PostgreSQL's own sentence where it came that far.
    #[error("{0}")]
    Statement(String),
    /// A region's name is not one.
    #[error("region {0:?}: a name is 1 to 64 characters of A-Z a-z 0-9 _ -")]
    Region(String),
    /// Data that should become JSON would not.
    #[error("data: {0}")]
    Json(#[from] serde_json::Error),
    /// The rules are wrong, or do not fit the database.
    #[error("{}", lines(.0))]
    Rules(Vec<Problem>),
}

impl Error {
    /// Whether the same call may succeed later without anybody changing a configuration: then wait and repeat.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Database(error) => database_is_transient(error),
            Self::Migrate(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) => {
                database_is_transient(error)
            }
            Self::Timeout { .. } | Self::Busy { .. } | Self::Standby | Self::Superseded { .. } => true,
            Self::NoServer(refusals) => refusals.iter().any(|refusal| refusal.error.is_transient()),
            Self::NotMigrated(_)
            | Self::Migrate(_)
            | Self::Pooler
            | Self::Address(_)
            | Self::CursorAhead { .. }
            | Self::Region(_)
            | Self::Statement(_)
            | Self::Json(_)
            | Self::Rules(_) => false,
        }
    }

    /// A short word for a metric's label.
    pub fn metric_label(&self) -> &'static str {
        match self {
            Self::Database(sqlx::Error::Database(_)) | Self::Statement(_) => "refused",
            Self::Database(_) => "connection",
            Self::NotMigrated(_) | Self::Migrate(_) => "schema",
            Self::Timeout { .. } | Self::Busy { .. } => "timeout",
            Self::Standby => "standby",
            Self::Superseded { .. } => "superseded",
            Self::CursorAhead { .. } => "cursor_ahead",
            Self::NoServer(_) => "no_server",
            Self::Pooler | Self::Address(_) | Self::Region(_) | Self::Json(_) | Self::Rules(_) => "configuration",
        }
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|e| e.code()).unwrap_or_default();
        // Undefined table, column, function and schema. Statements of this crate name nothing but Griot's own.
        if matches!(&*code, "42P01" | "42703" | "42883" | "3F000") {
            Self::NotMigrated(error.to_string())
        } else {
            Self::Database(error)
        }
    }
}

/// Trouble on the way and refusals that pass (restart, overload, deadlock, a standby in the primary's place) are
/// transient; a wrong password, a missing right and a value out of range are not.
fn database_is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            let class = code.get(..2).unwrap_or_default();
            &*code == "25006" || matches!(class, "08" | "40" | "53" | "55" | "57" | "58" | "XX")
        }
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        _ => false,
    }
}

/// Why a server was not chosen.
#[derive(Debug)]
pub struct Refusal {
    /// `HOST:PORT/DATABASE`
    pub server: String,
    /// What it answered.
    pub error: Error,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.server, self.error)
    }
}

fn refusals(refusals: &[Refusal]) -> String {
    let each = refusals.iter().map(Refusal::to_string).collect::<Vec<_>>().join("; ");
    if refusals.len() == 1 { each } else { format!("none of {} servers can be written to: {each}", refusals.len()) }
}

/// One thing that is wrong in a file of rules, with the place to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line in the file, from 1.
    pub line: usize,
    /// Column in the line, from 1, in characters.
    pub column: usize,
    /// The sentence, naming the rule.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.message)
    }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}
