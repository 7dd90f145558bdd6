//! The worker and its database: it follows a failover to another server, and keeps the change log small.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use griot_tests::client::Client;
use griot_tests::eventually::eventually;
use griot_tests::http;
use griot_tests::process::Launch;
use griot_tests::stage::{Script, Stage};
use serde_json::json;
use sqlx::{Executor, PgPool};

const SOON: Duration = Duration::from_secs(30);

/// Publishes `n` inside PostgreSQL, and hears it.
async fn say_and_hear(pool: &PgPool, client: &Client, n: i64) -> Result<()> {
    change_log::append::publish(pool, "orders:#42", &json!({ "n": n }), None).await?;
    let (_, publication) = client.next_publication(SOON).await?;
    ensure!(publication["data"]["n"] == n, "expected {n}: {publication}");
    Ok(())
}

#[tokio::test]
async fn a_worker_follows_the_database_to_the_promoted_standby() -> Result<()> {
    let stage = Stage::start(Script::default()).await?;
    let primary = &stage.servers.postgres;
    let standby = primary.standby().await?;
    let behind = stage.database.url().replace(&primary.addr().to_string(), &standby.addr().to_string());
    stage.worker().await.kill().await?;
    let both = format!("{behind},{}", stage.database.url());
    let worker = Launch::new("invalidation-worker").config(stage.config.replace(stage.database.url(), &both));
    let _worker = worker.ready_at(stage.worker_admin).start().await?;
    let (client, _) = Client::connect(&stage.socket(), &stage.token("42")).await?;
    say_and_hear(stage.database.pool(), &client, 1).await?;

    standby.has_replayed(primary).await?;
    primary.kill().await?;
    eventually(SOON, "the worker says what it found", || async {
        let ready = http::get(stage.worker_admin, "/readyz").await.expect("an answer").body;
        ready.contains("none of 2 servers") && ready.contains("is a standby")
    })
    .await;
    standby.promote().await?;
    say_and_hear(&PgPool::connect(&behind).await?, &client, 2).await
}

#[tokio::test]
async fn the_log_is_rotated_while_nothing_is_lost() -> Result<()> {
    let script = Script { worker: "retention_seconds = 30".into(), ..Script::default() };
    let stage = Stage::start(script).await?;
    let pool = stage.database.pool();
    change_log::rotate::set_bucket_length(pool, Duration::from_secs(1)).await?;
    let (client, _) = Client::connect(&stage.socket(), &stage.token("42")).await?;
    let mut n = 0;
    while rotations(&stage).await? < 4 {
        n += 1;
        say_and_hear(pool, &client, n).await?;
        // The retention passes.
        pool.execute("update griot.tick set at = at - interval '1 minute'").await?;
        ensure!(n < 100_000, "no rotations");
    }
    Ok(())
}

async fn rotations(stage: &Stage) -> Result<u64> {
    let text = http::get(stage.worker_admin, "/metrics").await?.body;
    let value = text.lines().find_map(|line| line.strip_prefix("griot_log_rotations_total "));
    Ok(value.context("no such metric")?.parse()?)
}
