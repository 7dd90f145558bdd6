//! Who may do what, and migrations that run at once.

use std::time::Duration;

use change_log::rotate::rotate;
use change_log::{Error, PgPool, Progress, Reader, append};
use griot_tests::servers::{Database, Postgres};
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, Executor};

use super::{database, execute};

/// Connections of a new role with these grants.
async fn role(database: &Database, grants: &str) -> (String, PgPool) {
    let name = format!("role_{}", uuid::Uuid::new_v4().simple());
    execute(database.pool(), &format!("create role {name} nologin")).await;
    if !grants.is_empty() {
        execute(database.pool(), &format!("grant {grants} to {name}")).await;
    }
    let set = format!("set role {name}");
    let pool = PgPoolOptions::new()
        .max_connections(2)
        .after_connect(move |connection, _| {
            let set = set.clone();
            Box::pin(async move { connection.execute(AssertSqlSafe(set)).await.map(drop) })
        })
        .connect(database.url())
        .await
        .expect("connect");
    (name, pool)
}

#[tokio::test]
async fn without_a_grant_nothing_is_allowed() {
    let database = database().await;
    let (_, nobody) = role(&database, "").await;
    let error = append::invalidate(&nobody, "k").await.expect_err("no right");
    assert!(error.to_string().contains("permission denied") && !error.is_transient(), "{error}");
    let mut reader = Reader::new(nobody, "here", 0).expect("region");
    let error = reader.poll(1).await.expect_err("no right");
    assert!(error.to_string().contains("permission denied"), "{error}");
}

#[tokio::test]
async fn a_writer_appends_through_the_functions_only() {
    let database = database().await;
    let (_, writer) = role(&database, "griot_writer").await;
    append::publish(&writer, "orders:#42", &1, None).await.expect("publish");
    append::invalidate(&writer, "k").await.expect("invalidate");
    append::invalidate_pattern(&writer, "k*").await.expect("pattern");
    for sql in [
        "insert into griot.log (kind, channel, data) values ('publish', 'orders:#4,2', '1')",
        "select * from griot.log",
        "select * from griot.cursor",
        "delete from griot.log",
    ] {
        let error = writer.execute(sql).await.expect_err(sql);
        assert!(error.to_string().contains("permission denied"), "{sql}: {error}");
    }
}

#[tokio::test]
async fn a_worker_reads_the_log_and_keeps_its_cursor() {
    let database = database().await;
    let (_, worker) = role(&database, "griot_worker").await;
    let mut reader = super::reader(&worker).await;
    append::invalidate(database.pool(), "k").await.expect("invalidate");
    assert_eq!(super::take(&mut reader).await.len(), 1);
    let mark = reader.mark(Progress::default()).expect("something to save");
    reader.save(mark).await.expect("save");
    change_log::cursor::status(&worker).await.expect("status");
    let refused = rotate(&worker, "here", 1, Duration::from_secs(1_800)).await.expect_err("nobody leads");
    assert!(matches!(refused, Error::Superseded { .. }), "it may ask: {refused}");
    let error = worker.execute("truncate griot.log_1").await.expect_err("without the proof");
    assert!(error.to_string().contains("permission denied"), "{error}");
    let error = append::invalidate(&worker, "k").await.expect_err("reads only");
    assert!(error.to_string().contains("permission denied"), "{error}");
}

#[tokio::test]
async fn whoever_writes_a_table_needs_no_right_on_the_log() {
    let database = database().await;
    execute(database.pool(), "create table public.t (id int)").await;
    let rules = change_log::Rules::parse("[rules.r]\ntable = \"public.t\"\nkeys = [\"t:{id}\"]").expect("rules");
    change_log::install::apply(database.pool(), &rules, Duration::from_secs(2)).await.expect("apply");
    let (name, writer) = role(&database, "").await;
    execute(database.pool(), &format!("grant insert on public.t to {name}")).await;
    let mut reader = super::reader(database.pool()).await;
    // A table of that name in the session's own schema changes nothing: the function's search path is pinned.
    writer.execute("insert into public.t values (1)").await.expect("insert");
    assert_eq!(super::take(&mut reader).await.len(), 1);
}

#[tokio::test]
async fn databases_of_one_cluster_migrate_at_once() {
    let postgres = Postgres::start().await.expect("a server");
    let one = Database::empty_on(&postgres).await.expect("database");
    let two = Database::empty_on(&postgres).await.expect("database");
    // Two processes on each of two databases; the roles belong to the cluster.
    let (a, b, c, d) = tokio::join!(
        change_log::migrate(one.pool()),
        change_log::migrate(one.pool()),
        change_log::migrate(two.pool()),
        change_log::migrate(two.pool()),
    );
    for result in [a, b, c, d] {
        result.expect("migrates");
    }
    append::invalidate(two.pool(), "k").await.expect("works");
}
