//! Rules as an operator meets them: asked, rehearsed, applied while the workers run, and taking effect in Redis for
//! every way to change a table.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fred::clients::Client as Redis;
use fred::interfaces::KeysInterface;
use griot_tests::eventually::eventually;
use griot_tests::http;
use griot_tests::process::Launch;
use griot_tests::stage::{Script, Stage};
use sqlx::postgres::PgPoolCopyExt;
use sqlx::{AssertSqlSafe, Executor};

const SOON: Duration = Duration::from_secs(30);

const TABLES: &str = "
create table parent (id int primary key);
create table child (id int, parent int references parent on delete cascade);
create table stock (id int primary key, place int not null, status text, owner text, v int) ;
create table parted (id int, home int) partition by list (home);
create table parted_1 partition of parted for values in (1);
insert into parent values (1);
insert into child values (1, 1);
insert into stock select n, n, 'open', '42', 0 from generate_series(1, 20) n;
insert into parted values (1, 1), (2, 1);";

const RULES: &str = r##"
[limits]
rows_per_statement = 10

[rules.children]
table = "public.child"
keys = ["child:{id}"]

[rules.stock]
table = "public.stock"
keys = ["stock:{id}"]
patterns = ["place:{old.place}:*"]

[rules.paid]
table = "public.stock"
on = ["update"]
keys = ["paid:{id}"]
redelete = "1s"
when.new.status = "paid"
when.old.status = { not = "paid" }

[rules.paid.publication]
channel = "orders:#{owner}"
data = ["id", "status"]

[rules.parted]
table = "public.parted"
keys = ["parted:{id}"]
"##;

async fn stage() -> Result<Stage> {
    Stage::start(Script { schema: TABLES.into(), rules: RULES.into(), ..Script::default() }).await
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

async fn gone(redis: &Redis, what: &str, keys: &[&str]) {
    let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
    eventually(SOON, &format!("{what}: {keys:?} are gone"), || async {
        redis.exists(keys.clone()).await.is_ok_and(|left: i64| left == 0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_change_a_table_takes_effect_in_redis() -> Result<()> {
    let stage = stage().await?;
    let redis = stage.servers.redis.client().await?;
    fill(&redis, &["stock:99999", "stock", "other:1"]).await?;
    for (statement, keys) in [
        ("insert into stock values (1, 1) on conflict (id) do update set place = 7", vec!["stock:1", "place:1:x"]),
        ("insert into stock values (101, 1)", vec!["stock:101"]),
        ("merge into stock using (values (2)) v(id) on stock.id = v.id when matched then delete", vec!["stock:2"]),
        ("delete from parent", vec!["child:1"]),
        ("insert into parted_1 values (3, 1)", vec!["parted:3"]),
        ("delete from parted_1 where id = 1", vec!["parted:1"]),
        ("update stock set v = v + 1", vec!["stock:3", "stock:gone-long-ago", "place:17:x"]),
        ("truncate parted", vec!["parted:2"]),
        ("truncate stock", vec!["stock:4"]),
    ] {
        fill(&redis, &keys).await?;
        execute(&stage, statement).await?;
        gone(&redis, statement, &keys).await;
    }
    fill(&redis, &["stock:201", "stock:202"]).await?;
    let mut copy = stage.database.pool().copy_in_raw("copy stock (id, place) from stdin").await?;
    copy.send("201\t1\n202\t1\n".as_bytes()).await?;
    copy.finish().await?;
    gone(&redis, "copy", &["stock:201", "stock:202"]).await;
    let left: i64 = redis.exists(vec!["stock", "other:1"]).await?;
    assert_eq!(left, 2, "others stay");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_a_late_reader_fills_again_is_deleted_once_more_where_a_rule_asks() -> Result<()> {
    let stage = stage().await?;
    let redis = stage.servers.redis.client().await?;
    fill(&redis, &["paid:3", "stock:3", "paid:4"]).await?;
    execute(&stage, "update stock set status = 'paid' where id = 3").await?;
    gone(&redis, "the first deletion", &["paid:3", "stock:3"]).await;
    // Now the readers who had loaded before the commit fill in what they loaded.
    fill(&redis, &["paid:3", "stock:3"]).await?;
    gone(&redis, "the second deletion", &["paid:3"]).await;
    let left: i64 = redis.exists(vec!["stock:3", "paid:4"]).await?;
    assert_eq!(left, 2, "only where a rule asks");

    // It was paid before: the condition does not hold any more, and other rules go on.
    fill(&redis, &["paid:3"]).await?;
    execute(&stage, "update stock set v = 7 where id = 3").await?;
    gone(&redis, "another rule", &["stock:3"]).await;
    let left: i64 = redis.exists("paid:3").await?;
    assert_eq!(left, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_ends_in_order_deletes_early_what_waits_for_a_second_deletion() -> Result<()> {
    let rules = RULES.replace("redelete = \"1s\"", "redelete = \"60s\"");
    let stage = Stage::start(Script { schema: TABLES.into(), rules, ..Script::default() }).await?;
    let redis = stage.servers.redis.client().await?;
    fill(&redis, &["paid:3"]).await?;
    execute(&stage, "update stock set status = 'paid' where id = 3").await?;
    gone(&redis, "the first deletion", &["paid:3"]).await;
    fill(&redis, &["paid:3"]).await?;
    stage.worker().await.stop().await?;
    let left: i64 = redis.exists("paid:3").await?;
    assert_eq!(left, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_of_a_million_rows_is_one_entry_and_its_keys_are_swept() -> Result<()> {
    const ROWS: u32 = 1_000_000;
    let schema =
        format!("create table big (id int, v int); insert into big select n, 0 from generate_series(1, {ROWS}) n");
    let rules = "[rules.big]\ntable = \"public.big\"\nkeys = [\"big:{id}\"]\n\
                 [rules.big.publication]\nchannel = \"orders\"\ndata = [\"id\"]\n";
    let script = Script { schema, rules: rules.into(), worker: "sweep_duty_percent = 100".into(), ..Script::default() };
    let stage = Stage::start(script).await?;
    let redis = stage.servers.redis.client().await?;
    let keys: Vec<String> = (1..=ROWS).step_by(1_000).map(|n| format!("big:{n}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    fill(&redis, &keys).await?;
    fill(&redis, &["bigger:1"]).await?;
    let pid = stage.worker().await.pid();
    let before = resident_kb(pid)?;
    execute(&stage, "update big set v = 1").await?;
    gone(&redis, "swept", &keys).await;
    let (entries, kinds, bytes): (i64, Vec<String>, i64) = sqlx::query_as(
        "select count(*), array_agg(distinct kind),
                (select sum(pg_total_relation_size(relid))::bigint from pg_partition_tree('griot.log'))
         from griot.log",
    )
    .fetch_one(stage.database.pool())
    .await?;
    assert_eq!((entries, kinds), (1, vec!["many".to_owned()]));
    assert!(bytes < 1 << 20, "the log has {bytes} bytes");
    let grown = resident_kb(pid)?.saturating_sub(before);
    assert!(grown < 32 << 10, "the worker grew by {grown} KB");
    let left: i64 = redis.exists("bigger:1").await?;
    assert_eq!(left, 1);
    eventually(SOON, "what was not published is counted", || async {
        let metrics = http::get(stage.worker_admin, "/metrics").await.map(|answer| answer.body).unwrap_or_default();
        metrics.lines().any(|line| line == "griot_poison_total{reason=\"too_many_rows\"} 1")
    })
    .await;
    Ok(())
}

/// What the process holds of the machine's memory.
fn resident_kb(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// The file of rules that the stage's worker was started with.
fn rules_file(stage: &Stage) -> Result<String> {
    let line = stage.config.lines().find_map(|line| line.strip_prefix("rules = \"")).context("the file of rules")?;
    Ok(line.trim_end_matches('"').to_owned())
}

/// `invalidation-worker rules …`: whether it succeeded, and what it said.
async fn rules(stage: &Stage, arguments: &[&str]) -> Result<(bool, String)> {
    let launch = Launch::new("invalidation-worker").arg("rules").env("DATABASE_URL", stage.database.url());
    let ended = arguments.iter().fold(launch, |launch, argument| launch.arg(*argument)).run().await?;
    let said = [ended.stdout, ended.stderr].concat();
    Ok((ended.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

async fn readiness(stage: &Stage, status: u16, words: &str) {
    eventually(SOON, &format!("the worker answers {status} {words}"), || async {
        let answer = http::get(stage.worker_admin, "/readyz").await;
        answer.is_ok_and(|answer| answer.status == status && answer.body.contains(words))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_not_ready_while_triggers_differ_from_its_rules() -> Result<()> {
    let stage = stage().await?;
    let file = rules_file(&stage)?;
    let pid = stage.worker().await.pid();
    for damage in [
        "alter table stock disable trigger griot_update",
        "drop trigger griot_insert on child",
        "create table parted_2 partition of parted for values in (2)",
        "delete from griot.capture where source = 'public.stock'",
    ] {
        readiness(&stage, 200, "ready").await;
        execute(&stage, damage).await?;
        readiness(&stage, 503, "rules apply").await;
        let (applied, said) = rules(&stage, &["apply", &file]).await?;
        ensure!(applied, "{said}");
    }
    readiness(&stage, 200, "ready").await;
    assert_eq!(stage.worker().await.pid(), pid, "without a restart");
    execute(&stage, "alter table stock rename column place to shelf").await?;
    readiness(&stage, 503, "has no column \"place\"").await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_what_a_statement_would_do_and_takes_it_back() -> Result<()> {
    let stage = stage().await?;
    let file = rules_file(&stage)?;
    let before = contents(&stage).await?;
    let (ran, said) =
        rules(&stage, &["dry-run", &file, "update stock set status = 'paid', place = 70 where id = 7"]).await?;
    ensure!(ran, "{said}");
    for line in [
        "the statement would change 1 rows and make 1 entry",
        "update of a row of public.stock",
        "  deletes stock:7",
        "  deletes paid:7",
        "  deletes paid:7 again after 1s",
        "  sweeps place:7:*",
    ] {
        ensure!(said.lines().any(|said| said == line), "{line:?} is not in {said}");
    }
    let publication =
        said.lines().find(|line| line.starts_with("  publishes to orders:#42, id ")).context("published")?;
    ensure!(publication.ends_with(r#": {"id":7,"status":"paid"}"#), "{publication}");

    let (_, said) =
        rules(&stage, &["dry-run", &file, "/* all /* of */ them */ -- now\nupdate stock set v = 1"]).await?;
    ensure!(said.contains("update of more rows of public.stock") && said.contains("sweeps stock:*"), "{said}");
    ensure!(said.contains("  cannot: ") && said.contains("(too_many_rows)"), "{said}");
    let (_, said) = rules(&stage, &["dry-run", &file, "truncate parted"]).await?;
    ensure!(said.contains("truncate of public.parted") && said.contains("  sweeps parted:*"), "{said}");
    let (_, said) =
        rules(&stage, &["dry-run", &file, "update stock set status = 'paid', owner = null where id = 7"]).await?;
    ensure!(said.contains("the owner is null (null_owner)"), "{said}");

    // With a file that was never applied: its triggers are there for this run only.
    let other = format!("{file}.other");
    fs::write(&other, "[rules.parents]\ntable = \"public.parent\"\nkeys = [\"parent:{id}\"]\n")?;
    let (ran, said) = rules(&stage, &["dry-run", &other, "insert into parent values (8)"]).await?;
    ensure!(
        ran && said.contains("  deletes parent:8") && said.contains("public.parent: its triggers are not"),
        "{said}"
    );
    assert_eq!(contents(&stage).await?, before, "nothing stays");
    readiness(&stage, 200, "ready").await;
    Ok(())
}

/// What a dry run could have left behind: entries, rows, triggers.
async fn contents(stage: &Stage) -> Result<(i64, i64, i64)> {
    let found = sqlx::query_as(
        "select (select count(*) from griot.log), (select coalesce(sum(v + place), 0) from stock),
                (select count(*) from pg_trigger)",
    );
    Ok(found.fetch_one(stage.database.pool()).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_commits_nothing_whatever_the_text_says() -> Result<()> {
    let stage = stage().await?;
    let file = rules_file(&stage)?;
    execute(
        &stage,
        "create procedure ends() language plpgsql as $$ begin insert into parent values (9); commit; end $$",
    )
    .await?;
    let before = contents(&stage).await?;
    for (text, answer) in [
        ("commit", "a statement that begins with \"commit\" is not run"),
        ("END", "a statement that begins with \"end\" is not run"),
        ("\n-- update\n /**/ rollback", "\"rollback\" is not run"),
        ("prepare transaction 'x'", "\"prepare\" is not run"),
        ("create table x (id int)", "\"create\" is not run"),
        ("", "there is no statement"),
        ("/* update", "there is no statement"),
        ("update stock set v = 5; commit", "multiple commands"),
        ("call ends()", "invalid transaction termination"),
        ("update stock\nset nothing = 1", "line 2, column 5: column \"nothing\" of relation \"stock\" does not exist"),
        ("update stock set id = 1", "detail: Key (id)=(1) already exists."),
    ] {
        let (ran, said) = rules(&stage, &["dry-run", &file, text]).await?;
        ensure!(!ran && said.contains(answer), "{text:?}: {said}");
    }
    let (ran, said) =
        rules(&stage, &["dry-run", &file, "select pg_sleep(60)", "--statement-timeout-ms", "100"]).await?;
    ensure!(!ran && said.contains("statement timeout"), "{said}");
    assert_eq!(contents(&stage).await?, before);
    let parents: i64 = sqlx::query_scalar("select count(*) from parent").fetch_one(stage.database.pool()).await?;
    assert_eq!(parents, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_are_shown_in_sentences_with_the_state_of_their_triggers() -> Result<()> {
    let stage = stage().await?;
    let file = rules_file(&stage)?;
    execute(&stage, "alter table stock disable trigger griot_update").await?;
    let (shown, said) = rules(&stage, &["show", &file]).await?;
    ensure!(shown, "{said}");
    for line in [
        "public.child: its triggers are those of this file",
        "  children: on insert or update or delete: deletes child:{id}",
        "public.stock: its triggers differ from this file: run `rules apply`",
        "a statement that touches more than 10 rows is not looked at by row",
    ] {
        ensure!(said.lines().any(|said| said == line), "{line:?} is not in {said}");
    }
    let other = format!("{file}.other");
    fs::write(&other, "[rules.parents]\ntable = \"public.parent\"\nkeyz = [\"parent:{id}\"]\n")?;
    let (shown, said) = rules(&stage, &["show", &other]).await?;
    ensure!(!shown && said.contains("line 3, column 1: unknown field `keyz` (is it `keys`?)"), "{said}");
    Ok(())
}
