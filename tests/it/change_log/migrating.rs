//! A migration that fails is tried again, by whomever.

use std::time::Duration;

use griot_tests::servers::{Database, shared};
use sqlx::{Executor, PgPool};

/// The migrations up to the one before the log's columns are changed.
async fn migrate_some(pool: &PgPool) {
    let mut migrator = sqlx::migrate!("../migrations");
    migrator.create_schema("griot");
    migrator.dangerous_set_table_name("griot.migration");
    migrator.run_to(6, pool).await.expect("migrates");
}

#[tokio::test]
async fn a_migration_that_waited_too_long_for_a_lock_keeps_nobody_from_trying_again() {
    let database = Database::empty_on(&shared().await.postgres).await.expect("a database");
    let pool = database.pool();
    migrate_some(pool).await;
    let mut writer = pool.begin().await.expect("begin");
    writer.execute("insert into griot.log (kind, key) values ('invalidate', 'k')").await.expect("insert");
    let error = change_log::migrate(pool).await.expect_err("the writer is in the way");
    assert!(error.is_transient() && error.to_string().contains("lock timeout"), "{error}");

    writer.commit().await.expect("commit");
    let other = change_log::Servers::new(database.url(), "another process").expect("an address");
    let again = tokio::time::timeout(Duration::from_secs(30), change_log::migrate(other.pool())).await;
    again.expect("the first one's lock is gone, while its pool is not").expect("migrates");
    change_log::migrate(pool).await.expect("has nothing left to do");
}
