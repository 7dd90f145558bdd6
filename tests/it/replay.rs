//! What a promotion undid is done again: acknowledged deletions, confirmed publications, and sweeps.

use std::time::Duration;

use anyhow::{Result, ensure};
use change_log::cursor;
use fanout_core::names::{Feed, Partitions};
use fanout_core::{Channel, RedisConfig};
use fred::interfaces::KeysInterface;
use griot_tests::client::Client;
use griot_tests::eventually::eventually;
use griot_tests::http;
use griot_tests::process::{Launch, Worker};
use griot_tests::proxy::Proxy;
use griot_tests::servers::Redis;
use griot_tests::stage::{Script, Stage};
use serde_json::json;

const SOON: Duration = Duration::from_secs(30);

/// A worker that reaches its Redis through a proxy, and a replica that can be left behind and promoted in its place.
struct Pair {
    stage: Stage,
    replica: Redis,
    /// From the replica to the primary.
    feed: Proxy,
    /// From the worker to whoever is the primary.
    way: Proxy,
    worker: Option<Worker>,
}

impl Pair {
    async fn start() -> Result<Self> {
        let stage = Stage::start(Script::default()).await?;
        stage.worker().await.kill().await?;
        let primary = &stage.servers.redis;
        let (feed, way) = (Proxy::start(primary.addr()).await?, Proxy::start(primary.addr()).await?);
        let replica = Redis::start_with(&["--replicaof", &format!("127.0.0.1 {}", feed.addr().port())]).await?;
        let mut pair = Self { stage, replica, feed, way, worker: None };
        pair.start_worker().await?;
        eventually(SOON, "the replica follows", || async {
            pair.replica.ask("INFO replication").await.is_ok_and(|info| info.contains("master_link_status:up"))
        })
        .await;
        Ok(pair)
    }

    async fn start_worker(&mut self) -> Result<()> {
        let way = format!("redis://{}", self.way.addr());
        let config = self.stage.config.replace(&self.stage.servers.redis.url(), &way);
        let worker = Launch::new("invalidation-worker").config(config).ready_at(self.stage.worker_admin);
        self.worker = Some(worker.start().await?);
        Ok(())
    }

    /// Fills `key` on both servers.
    async fn fill(&self, key: &str) -> Result<()> {
        let _: () = self.stage.servers.redis.client().await?.set(key, "before", None, None, false).await?;
        eventually(SOON, "the replica has the key", || async { exists(&self.replica, key).await == 1 }).await;
        Ok(())
    }

    /// A commit that deletes `key` and says so to user 42, applied on the primary and known to no replica.
    async fn commit(&self, key: &str) -> Result<()> {
        let mut transaction = self.stage.database.pool().begin().await?;
        change_log::append::invalidate(&mut *transaction, key).await?;
        change_log::append::publish(&mut *transaction, "orders:#42", &json!({"key": key}), None).await?;
        transaction.commit().await?;
        eventually(SOON, "the primary confirmed", || async {
            exists(&self.stage.servers.redis, key).await == 0 && said(&self.stage.servers.redis).await.contains(key)
        })
        .await;
        Ok(())
    }

    /// The replica becomes the primary, without what it has not heard of.
    async fn promote(&self) -> Result<()> {
        self.replica.ask("REPLICAOF NO ONE").await?;
        self.way.retarget(self.replica.addr());
        self.way.reset().await;
        Ok(())
    }

    async fn mended(&self, key: &str) {
        eventually(SOON, "what was undone is done again on the new primary", || async {
            exists(&self.replica, key).await == 0 && said(&self.replica).await.contains(key)
        })
        .await;
    }

    async fn cursor_is_saved(&self) {
        eventually(SOON, "the cursor has seen everything", || async {
            cursor::status(self.stage.database.pool()).await.is_ok_and(|all| all.iter().all(|one| one.pending == 0))
        })
        .await;
    }
}

async fn exists(redis: &Redis, key: &str) -> i64 {
    let Ok(client) = redis.client().await else { return -1 };
    client.exists(key).await.unwrap_or(-1)
}

/// What the history of user 42's orders says, as one text.
async fn said(redis: &Redis) -> String {
    let channel = Channel::parse("orders:#42").expect("a channel");
    let partitions = Partitions::new(RedisConfig::default().partitions);
    let history = format!("{}history:{channel}", partitions.prefix(partitions.of(&Feed::of(&channel))));
    redis.ask(&format!("LRANGE {history} 0 -1")).await.unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_deletion_that_a_promotion_undid_is_done_again_although_nothing_else_happens() -> Result<()> {
    let pair = Pair::start().await?;
    pair.fill("product:1").await?;
    pair.feed.stall();
    pair.commit("product:1").await?;
    ensure!(exists(&pair.replica, "product:1").await == 1, "the replica has not heard of it");
    pair.promote().await?;
    pair.mended("product:1").await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_a_promotion_is_applied_after_what_it_undid() -> Result<()> {
    let pair = Pair::start().await?;
    pair.fill("product:1").await?;
    pair.feed.stall();
    pair.commit("product:1").await?;
    pair.promote().await?;
    change_log::append::publish(pair.stage.database.pool(), "orders:#42", &json!({"key": "later"}), None).await?;
    eventually(SOON, "the later publication is there", || async { said(&pair.replica).await.contains("later") }).await;
    let said = said(&pair.replica).await;
    ensure!(said.find("product:1") < said.find("later") && said.contains("product:1"), "out of order: {said}");
    ensure!(exists(&pair.replica, "product:1").await == 0, "it was published before the old value was gone");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_died_with_the_primary_leaves_nothing_behind_the_cursor_undone() -> Result<()> {
    let mut pair = Pair::start().await?;
    pair.fill("product:1").await?;
    pair.feed.stall();
    pair.commit("product:1").await?;
    pair.cursor_is_saved().await;
    let worker = pair.worker.take().expect("it runs");
    let (killed, died) = tokio::join!(worker.kill(), pair.stage.servers.redis.kill());
    killed.and(died)?;
    pair.promote().await?;
    pair.start_worker().await?;
    pair.mended("product:1").await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_of_another_history_of_the_database_has_the_rules_namespaces_swept() -> Result<()> {
    let stage = Stage::start(Script::default()).await?;
    let redis = &stage.servers.redis;
    change_log::append::publish(stage.database.pool(), "orders:#42", &json!({}), None).await?;
    eventually(SOON, "a cursor is saved", || async {
        cursor::status(stage.database.pool()).await.is_ok_and(|all| all.iter().any(|one| one.pending == 0))
    })
    .await;
    stage.worker().await.kill().await?;
    let client = redis.client().await?;
    for key in ["product:1", "product:slug:lost", "other:1"] {
        let _: () = client.set(key, "of a lost commit", None, None, false).await?;
    }
    // As after the promotion of a standby: the same system on another timeline.
    sqlx::query("update griot.cursor set lineage = split_part(lineage, '/', 1) || '/000000FF'")
        .execute(stage.database.pool())
        .await?;
    stage.revive_worker().await?;
    eventually(SOON, "what rules name is gone", || async {
        exists(redis, "product:1").await == 0 && exists(redis, "product:slug:lost").await == 0
    })
    .await;
    ensure!(exists(redis, "other:1").await == 1, "what no rule names stays");
    let metrics = http::get(stage.worker_admin, "/metrics").await?.body;
    ensure!(metrics.contains("griot_flushes_total 1"), "{metrics}");
    // And once only.
    eventually(SOON, "the cursor is of this history", || async {
        let lineages: Result<Vec<String>, _> =
            sqlx::query_scalar("select lineage from griot.cursor").fetch_all(stage.database.pool()).await;
        lineages.is_ok_and(|all| all.iter().all(|lineage| !lineage.ends_with("FF")))
    })
    .await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_lapsed_is_swept_and_every_subscriber_is_told_also_of_a_quiet_channel() -> Result<()> {
    let stage = Stage::start(Script::default()).await?;
    let redis = &stage.servers.redis;
    let pool = stage.database.pool();
    let (client, _) = Client::connect(&stage.socket(), &stage.token("42")).await?;
    change_log::append::publish(pool, "orders:#42", &json!({"n": 1}), None).await?;
    let _ = client.next_publication(SOON).await?;
    stage.worker().await.kill().await?;
    let _: () = redis.client().await?.set("product:1", "of long ago", None, None, false).await?;
    // What rotation does to a region that was away for longer than the retention.
    let lost: uuid::Uuid = change_log::append::publish(pool, "orders:#42", &json!({"n": 2}), None).await?;
    sqlx::query("delete from griot.log where uid = $1").bind(lost).execute(pool).await?;
    sqlx::query("update griot.cursor set lapsed = true").execute(pool).await?;
    stage.revive_worker().await?;
    assert_eq!(client.closed(SOON).await?.code, 3010, "nothing was published since");
    ensure!(exists(redis, "product:1").await == 0, "it was swept before anybody was told");
    let metrics = http::get(stage.worker_admin, "/metrics").await?.body;
    ensure!(metrics.contains("griot_lapses_total 1"), "{metrics}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_comes_back_from_an_old_snapshot_has_the_rules_namespaces_swept() -> Result<()> {
    let mut stage = Stage::start(Script::default()).await?;
    let client = stage.servers.redis.client().await?;
    for key in ["product:slug:gone", "other:1"] {
        let _: () = client.set(key, "of long ago", None, None, false).await?;
    }
    stage.servers.redis.ask("SAVE").await?;
    // As by a commit of longer ago than any replay reaches.
    let _: i64 = client.unlink("product:slug:gone").await?;
    change_log::append::publish(stage.database.pool(), "orders:#42", &json!({}), None).await?;
    eventually(SOON, "the cursor has seen it", || async {
        let pool = stage.database.pool();
        let saved: Result<bool, _> =
            sqlx::query_scalar("select server is not null from griot.cursor").fetch_one(pool).await;
        saved.is_ok_and(|saved| saved)
            && cursor::status(pool).await.is_ok_and(|all| all.iter().all(|one| one.pending == 0))
    })
    .await;
    drop(client);
    stage.servers.redis.kill().await?;
    stage.servers.redis.start_again().await?;
    let redis = &stage.servers.redis;
    eventually(SOON, "what came back is swept", || async { exists(redis, "product:slug:gone").await == 0 }).await;
    ensure!(exists(redis, "other:1").await == 1, "it came back from the snapshot, and no rule names it");
    let metrics = http::get(stage.worker_admin, "/metrics").await?.body;
    ensure!(metrics.contains("griot_flushes_total 1"), "{metrics}");
    Ok(())
}
