//! What applications' own triggers notify goes through the rules, at most once, and what is lost of it is counted.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fred::clients::Client as Redis;
use fred::interfaces::KeysInterface;
use griot_tests::client::Client;
use griot_tests::eventually::{eventually, eventually_some};
use griot_tests::http;
use griot_tests::process::Launch;
use griot_tests::stage::{Script, Stage};
use griot_tests::supervisor::TemporaryFolder;
use sqlx::{AssertSqlSafe, Executor};

const SOON: Duration = Duration::from_secs(30);

/// As a shop has them: one trigger notifies the row, the other a wrapper around both of its versions.
const TABLES: &str = "
create table items (id bigint primary key, slug text, price int);
create table stock (id bigint primary key, place text);
create table plain (id bigint primary key);
insert into items select n, 'slug-' || n, 0 from generate_series(1, 10) n;
insert into stock values (1, 'lagos');
create function tell_item() returns trigger language plpgsql as $$
begin
  perform pg_notify('product_changed', row_to_json(new)::text);
  return new;
end $$;
create trigger tell after insert or update on items for each row execute function tell_item();
create function tell_change() returns trigger language plpgsql as $$
begin
  perform pg_notify('Changes', json_build_object('operation', tg_op, 'table', tg_table_name, 'schema', tg_table_schema,
                                                 'old', row_to_json(old), 'new', row_to_json(new))::text);
  return new;
end $$;
create trigger tell after insert or update or delete on stock for each row execute function tell_change();";

const RULES: &str = r#"
[rules.items]
table = "public.items"
keys = ["item:{id}", "item:slug:{slug}"]

[rules.items.publication]
channel = "products"
data = ["id", "price"]

[rules.stock]
table = "public.stock"
keys = ["place:{place}"]
patterns = ["near:{old.place}:*"]
publish = "after-sweep"

[rules.stock.publication]
channel = "products"
data = ["id", "place"]

[rules.plain]
table = "public.plain"
keys = ["plain:{id}"]

[listen.product_changed]
tables = ["public.items"]

[listen.Changes]
tables = ["public.items", "public.stock"]
"#;

/// The stage, its worker listening, and somebody who is subscribed to `products`.
async fn stage(worker: &str) -> Result<(Stage, Redis, Client)> {
    let script = Script { schema: TABLES.into(), rules: RULES.into(), worker: worker.to_owned(), ..Script::default() };
    let stage = Stage::start(script).await?;
    listener(&stage, 0).await;
    let redis = stage.servers.redis.client().await?;
    let (client, _) = Client::connect(&stage.socket(), &stage.token("42")).await?;
    client.subscribe("products").await?;
    Ok((stage, redis, client))
}

/// The process of PostgreSQL that serves the worker's ears, once it is another than `before`.
async fn listener(stage: &Stage, before: i32) -> i32 {
    const LISTENS: &str = "select pid from pg_stat_activity
        where datname = current_database() and application_name = 'invalidation-worker listens'
          and state = 'idle' and (query ilike 'listen%' or query = 'select 1') and pid <> $1";
    eventually_some(SOON, "the worker listens", || async {
        sqlx::query_scalar(LISTENS).bind(before).fetch_optional(stage.database.pool()).await.ok().flatten()
    })
    .await
}

async fn execute(stage: &Stage, sql: &str) -> Result<()> {
    let done = stage.database.pool().execute(AssertSqlSafe(sql.to_owned())).await;
    done.map(drop).with_context(|| sql.to_owned())
}

async fn fill(redis: &Redis, keys: &[&str]) -> Result<()> {
    for key in keys {
        let _: () = redis.set(*key, "before", None, None, false).await?;
    }
    Ok(())
}

async fn left(redis: &Redis, keys: &[&str]) -> Result<i64> {
    Ok(redis.exists(keys.to_vec()).await?)
}

async fn metric(stage: &Stage, name: &str) -> Result<f64> {
    http::metric(stage.worker_admin, name).await
}

/// Changes an item and expects the next publication to be of it.
async fn hears_a_change(stage: &Stage, client: &Client, price: i32) -> Result<()> {
    execute(stage, &format!("update items set price = {price} where id = 1")).await?;
    let (_, publication) = client.next_publication(SOON).await?;
    ensure!(publication["data"]["price"] == price, "of price {price}: {publication}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_notified_is_invalidated_before_it_is_published_once_200_times() -> Result<()> {
    let (stage, redis, client) = stage("").await?;
    for turn in 1..=200 {
        fill(&redis, &["item:1", "item:slug:slug-1"]).await?;
        // Whatever had come twice would be of the turn before.
        hears_a_change(&stage, &client, turn).await?;
        ensure!(left(&redis, &["item:1", "item:slug:slug-1"]).await? == 0, "turn {turn}: there when the push arrived");
    }
    ensure!(metric(&stage, "griot_heard_total").await? == 200.0);
    ensure!(metric(&stage, "griot_log_publications_total").await? == 200.0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_tables_that_are_not_heard_have_triggers_of_ours() -> Result<()> {
    let (stage, ..) = stage("").await?;
    let tables: Vec<String> = sqlx::query_scalar(
        "select distinct tgrelid::regclass::text from pg_trigger where tgname like 'griot%' and not tgisinternal
         and tgrelid in ('items'::regclass, 'stock'::regclass, 'plain'::regclass)",
    )
    .fetch_all(stage.database.pool())
    .await?;
    ensure!(tables == ["plain"], "{tables:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrapper_invalidates_by_old_and_new_values_and_waits_for_its_sweep() -> Result<()> {
    let (stage, redis, client) = stage("").await?;
    let keys = ["place:lagos", "place:dakar", "near:lagos:7"];
    fill(&redis, &keys).await?;
    execute(&stage, "update stock set place = 'dakar'").await?;
    let (_, publication) = client.next_publication(SOON).await?;
    ensure!(publication["data"]["place"] == "dakar", "{publication}");
    ensure!(publication["tags"]["op"] == "update", "{publication}");
    ensure!(left(&redis, &keys).await? == 0);
    fill(&redis, &["place:dakar"]).await?;
    execute(&stage, "delete from stock").await?;
    let (_, publication) = client.next_publication(SOON).await?;
    ensure!(publication["data"]["place"] == "dakar" && publication["tags"]["op"] == "delete", "{publication}");
    ensure!(left(&redis, &["place:dakar"]).await? == 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rolled_back_does_nothing() -> Result<()> {
    let (stage, redis, client) = stage("").await?;
    fill(&redis, &["item:2"]).await?;
    let mut transaction = stage.database.pool().begin().await?;
    transaction.execute("update items set price = 5 where id = 2").await?;
    transaction.rollback().await?;
    hears_a_change(&stage, &client, 1).await?;
    ensure!(left(&redis, &["item:2"]).await? == 1);
    ensure!(metric(&stage, "griot_heard_total").await? == 1.0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_tells_of_no_row_is_counted_and_stops_nothing() -> Result<()> {
    let (stage, _redis, client) = stage("").await?;
    for (channel, text) in [
        ("product_changed", ""),
        ("product_changed", "item 1 changed"),
        ("product_changed", "[1]"),
        ("product_changed", "{\"id\":1"),
        ("Changes", r#"{"id":1}"#),
        ("Changes", r#"{"table":"users","id":1}"#),
        ("product_changed", r#"{"slug":"lacks what the rule needs"}"#),
    ] {
        sqlx::query("select pg_notify($1, $2)").bind(channel).bind(text).execute(stage.database.pool()).await?;
    }
    hears_a_change(&stage, &client, 1).await?;
    for (reason, count) in [("not_an_object", 4.0), ("no_table", 1.0), ("other_table", 1.0)] {
        let counted = metric(&stage, &format!("griot_heard_dropped_total{{reason=\"{reason}\"}}")).await?;
        ensure!(counted == count, "{reason}: {counted}");
    }
    ensure!(metric(&stage, "griot_poison_total{reason=\"missing_column\"}").await? > 0.0);
    ensure!(metric(&stage, "griot_heard_total").await? == 8.0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_is_counted_and_what_is_notified_later_is_heard() -> Result<()> {
    let (stage, _redis, client) = stage("").await?;
    hears_a_change(&stage, &client, 1).await?;
    ensure!(metric(&stage, "griot_heard_losses_total").await? == 0.0);
    let mut listening = listener(&stage, 0).await;
    for loss in 1..=2_u8 {
        let ended: bool = sqlx::query_scalar("select pg_terminate_backend($1)")
            .bind(listening)
            .fetch_one(stage.database.pool())
            .await?;
        ensure!(ended);
        eventually(SOON, "the loss is counted", || async {
            metric(&stage, "griot_heard_losses_total").await.is_ok_and(|losses| losses == f64::from(loss))
        })
        .await;
        listening = listener(&stage, listening).await;
        hears_a_change(&stage, &client, 10 + i32::from(loss)).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_notified_on_the_wake_channel_ends_the_pause_and_has_no_other_effect() -> Result<()> {
    let (stage, redis, _client) = stage("wake_channel = \"griot_wake\"").await?;
    fill(&redis, &["item:1"]).await?;
    ensure!(metric(&stage, "griot_wakes_total").await? == 0.0);
    sqlx::query("select pg_notify('griot_wake', '{\"id\":1}')").execute(stage.database.pool()).await?;
    eventually(SOON, "the pause ends", || async {
        metric(&stage, "griot_wakes_total").await.is_ok_and(|wakes| wakes == 1.0)
    })
    .await;
    ensure!(left(&redis, &["item:1"]).await? == 1);
    ensure!(metric(&stage, "griot_heard_total").await? == 0.0);
    Ok(())
}

#[tokio::test]
async fn a_wake_channel_that_postgresql_would_cut_is_refused() -> Result<()> {
    let folder = TemporaryFolder::new()?;
    let file = folder.path().join("griot.toml");
    let text =
        format!("[database]\nurl = \"postgres://u@h/d\"\n[invalidation_worker]\nwake_channel = {:?}\n", "w".repeat(64));
    std::fs::write(&file, text)?;
    let checked = Launch::new("invalidation-worker").arg("--check-config").arg("--config").arg(file.to_string_lossy());
    let checked = checked.run().await?;
    let said = String::from_utf8_lossy(&checked.stderr);
    ensure!(!checked.status.success() && said.contains("wake_channel") && said.contains("1 to 63 bytes"), "{said}");
    Ok(())
}
