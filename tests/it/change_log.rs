//! The change log on a real PostgreSQL: appending, reading by cursor, capturing row changes.

mod append;
mod capture;
mod choosing;
mod installing;
mod leading;
mod migrating;
mod reading;
mod roles;
mod rotating;

use change_log::{Body, Entry, PgPool, Reader};
use griot_tests::servers::Database;
use sqlx::{AssertSqlSafe, Executor};

async fn database() -> Database {
    Database::fresh().await.expect("a database")
}

/// Runs SQL that must succeed.
async fn execute(pool: &PgPool, sql: &str) {
    pool.execute(AssertSqlSafe(sql.to_owned())).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// A reader that starts now.
async fn reader(pool: &PgPool) -> Reader {
    let mut reader = Reader::new(pool.clone(), "here", 0).expect("a region");
    assert!(take(&mut reader).await.is_empty(), "a new region starts at the present");
    reader
}

/// Everything that is due, confirmed.
async fn take(reader: &mut Reader) -> Vec<Entry> {
    let mut entries = Vec::new();
    loop {
        let mut page = reader.poll(100).await.expect("a page");
        entries.append(&mut page.entries);
        let more = page.more;
        reader.confirm(page);
        if !more {
            return entries;
        }
    }
}

/// The keys of `invalidate` entries, in their order.
fn keys(entries: &[Entry]) -> Vec<&str> {
    entries
        .iter()
        .map(|entry| match &entry.body {
            Body::Invalidate { key } => key.as_str(),
            other => panic!("not an invalidate: {other:?}"),
        })
        .collect()
}
