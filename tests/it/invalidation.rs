//! Committed means delivered, and fresh on push: row changes through the rules to caches and browsers.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use change_log::cursor;
use fanout_core::names::{Feed, Partitions};
use fanout_core::{Channel, RedisConfig};
use fred::interfaces::{KeysInterface, LuaInterface};
use griot_tests::client::Client;
use griot_tests::eventually::eventually;
use griot_tests::http;
use griot_tests::stage::{RULES, SCHEMA, Script, Stage};
use serde_json::json;

const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn the_keys_of_old_and_new_values_are_gone_before_the_push_arrives_1000_times() -> Result<()> {
    let stage = Stage::start(Script::default()).await?;
    let redis = stage.servers.redis.client().await?;
    let (client, _) = Client::connect(&stage.socket(), &stage.token("42")).await?;
    client.subscribe("products").await?;
    let mut slug = "kora".to_owned();
    for turn in 0..1_000 {
        let new = format!("kora-{turn}");
        let keys = ["product:1".to_owned(), format!("product:slug:{slug}"), format!("product:slug:{new}")];
        for key in &keys {
            let _: () = redis.set(key, "before", None, None, false).await?;
        }
        sqlx::query("update products set slug = $1, price_cents = $2 where id = 1")
            .bind(&new)
            .bind(turn)
            .execute(stage.database.pool())
            .await?;
        let (_, publication) = client.next_publication(SOON).await?;
        let left: i64 = redis.exists(keys.to_vec()).await?;
        ensure!(publication["data"]["slug"] == *new, "turn {turn}: {publication}");
        ensure!(left == 0, "turn {turn}: {left} of {keys:?} were still there when the push arrived");
        slug = new;
    }
    Ok(())
}

const CATALOGUE: &str = "
create table catalogue (id bigint primary key, title text not null);
insert into catalogue values (1, 'first');";

const CATALOGUE_RULES: &str = r#"
[rules.catalogue]
table = "public.catalogue"
keys = ["catalogue:{id}"]
patterns = ["search:*"]
publish = "after-sweep"

[rules.catalogue.publication]
channel = "products"
data = ["id", "title"]
"#;

/// Fills keys `PREFIX1` to `PREFIX<COUNT>` inside the server.
const FILL: &str = "for i = tonumber(ARGV[2]), tonumber(ARGV[3]) do redis.call('SET', ARGV[1] .. i, 'x') end";
/// Counts how many of them are there.
const COUNT: &str = "local found = 0
for i = tonumber(ARGV[2]), tonumber(ARGV[3]) do found = found + redis.call('EXISTS', ARGV[1] .. i) end
return found";

async fn each_part(redis: &fred::clients::Client, script: &str, prefix: &str, upto: u32) -> Result<i64> {
    const PART: u32 = 50_000;
    let mut sum = 0;
    for first in (1..=upto).step_by(PART as usize) {
        let last = (first + PART - 1).min(upto);
        let arguments = vec![prefix.to_owned(), first.to_string(), last.to_string()];
        let answer: Option<i64> = redis.eval(script, Vec::<String>::new(), arguments).await?;
        sum += answer.unwrap_or(0);
    }
    Ok(sum)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_after_the_sweep_comes_when_the_last_matching_key_is_gone_and_others_stay() -> Result<()> {
    const UNRELATED: u32 = 1_000_000;
    const MATCHING: u32 = 10_000;
    let script = Script {
        schema: format!("{SCHEMA}{CATALOGUE}"),
        rules: format!("{RULES}{CATALOGUE_RULES}"),
        // What is measured here is the order, not what a pass costs others.
        worker: "sweep_duty_percent = 100\nsweep_stall_us = 5000".into(),
        ..Script::default()
    };
    let stage = Stage::start(script).await?;
    let redis = stage.servers.redis.client().await?;
    let (client, _) = Client::connect(&stage.socket(), &stage.token("42")).await?;
    client.subscribe("products").await?;
    each_part(&redis, FILL, "other:", UNRELATED).await?;
    ensure!(each_part(&redis, COUNT, "other:", UNRELATED).await? == i64::from(UNRELATED), "filled");
    for turn in 0..20 {
        each_part(&redis, FILL, "search:", MATCHING).await?;
        let title = format!("title {turn}");
        sqlx::query("update catalogue set title = $1").bind(&title).execute(stage.database.pool()).await?;
        let (_, publication) = client.next_publication(SOON).await?;
        let left = each_part(&redis, COUNT, "search:", MATCHING).await?;
        ensure!(publication["data"]["title"] == *title, "{publication}");
        ensure!(left == 0, "turn {turn}: {left} keys matched when the push arrived");
    }
    ensure!(each_part(&redis, COUNT, "other:", UNRELATED).await? == i64::from(UNRELATED), "unrelated keys stay");
    let stats = stage.servers.redis.ask("INFO commandstats").await?;
    ensure!(stats.contains("cmdstat_scan:") && !stats.contains("cmdstat_keys:"), "{stats}");
    Ok(())
}

/// 20,000 steps for 200,000 keys: a sweep that takes seconds on any machine.
const SMALL_STEPS: &str = "sweep_count = 10";

#[tokio::test(flavor = "multi_thread")]
async fn a_long_sweep_does_not_hold_commits_that_name_no_pattern() -> Result<()> {
    const UNRELATED: u32 = 200_000;
    let stage = Stage::start(Script { worker: SMALL_STEPS.into(), ..Script::default() }).await?;
    let redis = stage.servers.redis.client().await?;
    let (client, _) = Client::connect(&stage.socket(), &stage.token("42")).await?;
    each_part(&redis, FILL, "other:", UNRELATED).await?;
    let _: () = redis.set("mine:1", "x", None, None, false).await?;
    change_log::append::invalidate_pattern(stage.database.pool(), "mine:*").await?;
    for n in 0..5 {
        say(&stage, n).await?;
        hear(&client, n).await?;
    }
    let passes = "griot_sweep_age_seconds_count";
    let done = || async {
        let text = http::get(stage.worker_admin, "/metrics").await.map(|answer| answer.body).unwrap_or_default();
        text.lines().any(|line| line == format!("{passes} 1"))
    };
    ensure!(!done().await, "publications came while the sweep went on");
    eventually(SOON, "the sweep ends", done).await;
    let left: i64 = redis.exists("mine:1").await?;
    assert_eq!(left, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_that_a_crash_cut_short_is_done_again() -> Result<()> {
    const UNRELATED: u32 = 200_000;
    const MATCHING: u32 = 1_000;
    let stage = Stage::start(Script { worker: SMALL_STEPS.into(), ..Script::default() }).await?;
    let redis = stage.servers.redis.client().await?;
    each_part(&redis, FILL, "other:", UNRELATED).await?;
    each_part(&redis, FILL, "mine:", MATCHING).await?;
    change_log::append::invalidate_pattern(stage.database.pool(), "mine:*").await?;
    // The cursor does not wait for the sweep: it stands beside it.
    eventually(SOON, "the cursor has seen everything", || async {
        cursor::status(stage.database.pool()).await.is_ok_and(|all| all.iter().all(|one| one.pending == 0))
    })
    .await;
    stage.worker().await.kill().await?;
    ensure!(each_part(&redis, COUNT, "mine:", MATCHING).await? > 0, "the sweep was not cut short");
    stage.revive_worker().await?;
    eventually(SOON, "the sweep is done again", || async {
        each_part(&redis, COUNT, "mine:", MATCHING).await.is_ok_and(|left| left == 0)
    })
    .await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waited_for_a_sweep_that_a_crash_cut_short_is_published_after_it() -> Result<()> {
    const UNRELATED: u32 = 200_000;
    let script = Script {
        schema: format!("{SCHEMA}{CATALOGUE}"),
        rules: format!("{RULES}{CATALOGUE_RULES}"),
        worker: SMALL_STEPS.into(),
        ..Script::default()
    };
    let stage = Stage::start(script).await?;
    let redis = stage.servers.redis.client().await?;
    let (client, _) = Client::connect(&stage.socket(), &stage.token("42")).await?;
    client.subscribe("products").await?;
    each_part(&redis, FILL, "other:", UNRELATED).await?;
    each_part(&redis, FILL, "search:", 1_000).await?;
    sqlx::query("update catalogue set title = 'waits'").execute(stage.database.pool()).await?;
    // A commit that waits for nothing does not wait for the one before, and then neither does the cursor.
    say(&stage, 1).await?;
    hear(&client, 1).await?;
    eventually(SOON, "the cursor has seen everything", || async {
        cursor::status(stage.database.pool()).await.is_ok_and(|all| all.iter().all(|one| one.pending == 0))
    })
    .await;
    stage.worker().await.kill().await?;
    ensure!(each_part(&redis, COUNT, "search:", 1_000).await? > 0, "the sweep was not cut short");
    stage.revive_worker().await?;
    let (_, publication) = client.next_publication(SOON).await?;
    ensure!(publication["data"]["title"] == "waits", "{publication}");
    ensure!(each_part(&redis, COUNT, "search:", 1_000).await? == 0, "published before the sweep was done");
    Ok(())
}

/// Says to `user` over SQL that `n`, in a transaction.
async fn say(stage: &Stage, n: i64) -> Result<()> {
    change_log::append::publish(stage.database.pool(), "orders:#42", &json!({"n": n}), None).await?;
    Ok(())
}

async fn hear(client: &Client, n: i64) -> Result<()> {
    let (_, publication) = client.next_publication(SOON).await?;
    ensure!(publication["data"]["n"] == n, "expected {n}: {publication}");
    Ok(())
}

async fn readiness(stage: &Stage, status: u16, words: &str) {
    eventually(SOON, &format!("the worker answers {status} {words}"), || async {
        let answer = http::get(stage.worker_admin, "/readyz").await;
        answer.is_ok_and(|answer| answer.status == status && answer.body.contains(words))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_while_the_worker_was_dead_arrives_after_its_restart_once() -> Result<()> {
    let stage = Stage::start(Script::default()).await?;
    let (client, _) = Client::connect(&stage.socket(), &stage.token("42")).await?;
    let mut n = 0;
    for _ in 0..3 {
        n += 1;
        say(&stage, n).await?;
        hear(&client, n).await?;
        // Its cursor may not be saved yet: what it repeats must not arrive twice.
        stage.worker().await.kill().await?;
        for _ in 0..5 {
            n += 1;
            say(&stage, n).await?;
        }
        stage.revive_worker().await?;
        for n in n - 4..=n {
            hear(&client, n).await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keys_of_a_transaction_larger_than_a_page_are_gone_before_its_first_publication_leaves() -> Result<()> {
    let stage = Stage::start(Script::default()).await?;
    let redis = stage.servers.redis.client().await?;
    let (client, _) = Client::connect(&stage.socket(), &stage.token("42")).await?;
    stage.worker().await.kill().await?;
    let _: () = redis.set("big:last", "before", None, None, false).await?;
    let mut transaction = stage.database.pool().begin().await?;
    change_log::append::publish(&mut *transaction, "orders:#42", &json!({"n": 1}), None).await?;
    sqlx::query("select griot.invalidate('big:' || n) from generate_series(1, 12000) n")
        .execute(&mut *transaction)
        .await?;
    change_log::append::invalidate(&mut *transaction, "big:last").await?;
    transaction.commit().await?;
    let heard = async {
        hear(&client, 1).await?;
        let left: i64 = redis.exists("big:last").await?;
        ensure!(left == 0, "the last key was still there when the push arrived");
        Ok(())
    };
    // Looked at the moment it arrives: the rest of the backlog is gone a moment later in any case.
    tokio::try_join!(stage.revive_worker(), heard)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_away_the_worker_waits_and_nothing_committed_is_lost() -> Result<()> {
    let mut stage = Stage::start(Script::default()).await?;
    stage.servers.redis.kill().await?;
    say(&stage, 1).await?;
    readiness(&stage, 503, "redis").await;
    stage.servers.redis.start_again().await?;
    readiness(&stage, 200, "ready").await;
    let redis = stage.servers.redis.client().await?;
    let channel = Channel::parse("orders:#42")?;
    let partitions = Partitions::new(RedisConfig::default().partitions);
    let history = format!("{}history:{channel}", partitions.prefix(partitions.of(&Feed::of(&channel))));
    eventually(SOON, "the publication is in the history", || async {
        redis.exists(&history).await.is_ok_and(|found: i64| found == 1)
    })
    .await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn while_postgresql_is_away_the_worker_waits_and_goes_on_when_it_is_back() -> Result<()> {
    let mut stage = Stage::start(Script::default()).await?;
    let (client, _) = Client::connect(&stage.socket(), &stage.token("42")).await?;
    say(&stage, 1).await?;
    hear(&client, 1).await?;
    stage.servers.postgres.stop().await?;
    readiness(&stage, 503, "postgres").await;
    stage.servers.postgres.start_again().await?;
    readiness(&stage, 200, "ready").await;
    let pool = sqlx::PgPool::connect(stage.database.url()).await?;
    change_log::append::publish(&pool, "orders:#42", &json!({"n": 2}), None).await.context("publishing again")?;
    hear(&client, 2).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rolls_back_takes_no_effect_and_by_hand_works_like_by_rule() -> Result<()> {
    let stage = Stage::start(Script::default()).await?;
    let redis = stage.servers.redis.client().await?;
    let (client, _) = Client::connect(&stage.socket(), &stage.token("42")).await?;
    for key in ["mine:1", "mine:2", "mine:[x]", "yours:1"] {
        let _: () = redis.set(key, "x", None, None, false).await?;
    }
    let mut rolled_back = stage.database.pool().begin().await?;
    change_log::append::invalidate(&mut *rolled_back, "yours:1").await?;
    change_log::append::publish(&mut *rolled_back, "orders:#42", &json!({"n": 1}), None).await?;
    rolled_back.rollback().await?;
    let mut committed = stage.database.pool().begin().await?;
    change_log::append::invalidate(&mut *committed, "mine:1").await?;
    change_log::append::invalidate_pattern(&mut *committed, "mine:\\[*").await?;
    change_log::append::publish(&mut *committed, "orders:#42", &json!({"n": 2}), None).await?;
    committed.commit().await?;
    hear(&client, 2).await?;
    let gone: i64 = redis.exists("mine:1").await?;
    assert_eq!(gone, 0, "the key goes before the push");
    eventually(SOON, "the pattern is swept", || async {
        redis.exists("mine:[x]").await.is_ok_and(|left: i64| left == 0)
    })
    .await;
    let left: i64 = redis.exists(vec!["mine:2", "yours:1"]).await?;
    assert_eq!(left, 2);
    Ok(())
}
