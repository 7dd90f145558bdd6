//! `rules apply`: what it changes, what it leaves alone, and what it refuses.

use std::time::Duration;

use change_log::install::{Outcome, State, apply, check, compare};
use change_log::{Error, PgPool, Rules};
use griot_tests::eventually::eventually;
use sqlx::Executor;

use super::{database, execute};

const WAIT: Duration = Duration::from_secs(2);

fn rules(text: &str) -> Rules {
    Rules::parse(text).expect("rules")
}

/// A rule on `public.t` with these keys.
fn with_keys(keys: &str) -> Rules {
    rules(&format!("[rules.r]\ntable = \"public.t\"\nkeys = [{keys}]"))
}

async fn outcome(pool: &PgPool, rules: &Rules) -> Outcome {
    let outcomes = apply(pool, rules, WAIT).await.expect("apply");
    assert_eq!(outcomes.len(), 1, "{outcomes:?}");
    outcomes[0].1
}

async fn state(pool: &PgPool, rules: &Rules) -> State {
    compare(pool, rules).await.expect("compare")["public.t"]
}

/// The oids of our triggers on `t`: they tell whether one was made anew.
async fn triggers(pool: &PgPool) -> Vec<(String, i64)> {
    sqlx::query_as("select tgname::text, oid::bigint from pg_trigger where tgrelid = 't'::regclass order by 1")
        .fetch_all(pool)
        .await
        .expect("triggers")
}

#[tokio::test]
async fn applying_twice_changes_nothing() {
    let database = database().await;
    let pool = database.pool();
    execute(pool, "create table t (id int, slug text)").await;
    let first = with_keys(r#""t:{id}""#);
    assert_eq!(state(pool, &first).await, State::Missing);
    assert_eq!(outcome(pool, &first).await, Outcome::Installed);
    assert_eq!(state(pool, &first).await, State::Current);
    let before = triggers(pool).await;
    assert_eq!(before.len(), 4);
    assert_eq!(outcome(pool, &first).await, Outcome::Unchanged);
    assert_eq!(triggers(pool).await, before);

    // Other columns need another function, not other triggers: no lock on the table.
    let second = with_keys(r#""t:{id}", "t:{slug}""#);
    assert_eq!(state(pool, &second).await, State::Differs);
    let mut reading = pool.begin().await.expect("begin");
    reading.execute("lock table t in row exclusive mode").await.expect("lock");
    assert_eq!(outcome(pool, &second).await, Outcome::Updated);
    assert_eq!(triggers(pool).await, before);
}

#[tokio::test]
async fn what_somebody_changed_is_repaired() {
    let database = database().await;
    let pool = database.pool();
    execute(pool, "create table t (id int)").await;
    let rules = with_keys(r#""t:{id}""#);
    outcome(pool, &rules).await;
    for damage in [
        "alter table t disable trigger griot_update",
        "drop trigger griot_truncate on t",
        "drop table t; create table t (id int)",
    ] {
        execute(pool, damage).await;
        assert_eq!(state(pool, &rules).await, State::Differs, "{damage}");
        assert_eq!(outcome(pool, &rules).await, Outcome::Updated, "{damage}");
        assert_eq!(state(pool, &rules).await, State::Current, "{damage}");
    }
}

#[tokio::test]
async fn only_the_asked_operations_have_triggers_and_unnamed_tables_none() {
    let database = database().await;
    let pool = database.pool();
    execute(pool, "create table t (id int)").await;
    outcome(pool, &with_keys(r#""t:{id}""#)).await;
    let inserts = rules("[rules.r]\ntable = \"public.t\"\non = [\"insert\"]\nkeys = [\"t:{id}\"]");
    assert_eq!(outcome(pool, &inserts).await, Outcome::Updated);
    let names: Vec<String> = triggers(pool).await.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["griot_insert"]);

    let none = Rules::default();
    assert_eq!(state(pool, &none).await, State::Extra);
    assert_eq!(outcome(pool, &none).await, Outcome::Removed);
    assert!(triggers(pool).await.is_empty());
    assert!(compare(pool, &none).await.expect("compare").is_empty());
}

#[tokio::test]
async fn a_table_whose_changes_are_heard_loses_its_triggers_and_need_not_be_there() {
    let database = database().await;
    let pool = database.pool();
    execute(pool, "create table t (id int)").await;
    outcome(pool, &with_keys(r#""t:{id}""#)).await;
    let heard = rules(
        "[rules.r]\ntable = \"public.t\"\nkeys = [\"t:{id}:{told}\"]\n[listen.t_changed]\ntables = [\"public.t\"]",
    );
    assert_eq!(state(pool, &heard).await, State::Extra);
    assert_eq!(outcome(pool, &heard).await, Outcome::Removed);
    assert!(triggers(pool).await.is_empty());
    execute(pool, "drop table t").await;
    assert!(compare(pool, &heard).await.expect("compare").is_empty());
    check(pool, &heard).await.expect("nothing to look at");
}

#[tokio::test]
async fn a_table_that_is_never_free_is_given_up_and_left_as_it_was() {
    let database = database().await;
    let pool = database.pool();
    execute(pool, "create table t (id int)").await;
    let rules = with_keys(r#""t:{id}""#);
    let mut writing = pool.begin().await.expect("begin");
    writing.execute("insert into t values (1)").await.expect("insert");
    let error = apply(pool, &rules, Duration::from_millis(50)).await.expect_err("locked");
    assert!(
        error.is_transient() && error.to_string().starts_with("public.t was not free within 50 ms, 5 times"),
        "{error}"
    );
    assert!(triggers(pool).await.is_empty());
    assert_eq!(state(pool, &rules).await, State::Missing);
    writing.commit().await.expect("commit");
    assert_eq!(outcome(pool, &rules).await, Outcome::Installed);
}

#[tokio::test]
async fn names_that_are_not_there_are_told_with_the_nearest_one() {
    let database = database().await;
    let pool = database.pool();
    execute(
        pool,
        "create table products (id int, user_id int) partition by list (id);
         create table products_1 partition of products for values in (1);
         create view seen as select 1 as id",
    )
    .await;
    let rules = rules(
        "[rules.a]\ntable = \"public.product\"\nkeys = [\"a:{id}\"]\n\
         [rules.b]\ntable = \"public.products\"\nkeys = [\"b:{userid}\"]\ncolumns = [\"nothing_like_it\"]\n\
         [rules.c]\ntable = \"public.seen\"\nkeys = [\"c:{id}\"]\n\
         [rules.d]\ntable = \"public.products_1\"\nkeys = [\"d:{id}\"]",
    );
    for error in [check(pool, &rules).await.expect_err("check"), apply(pool, &rules, WAIT).await.expect_err("apply")] {
        let Error::Rules(problems) = &error else { panic!("{error}") };
        let mut lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        lines.sort();
        assert_eq!(
            lines,
            [
                "line 12, column 9: rule \"d\": table public.products_1: it is a partition; name the partitioned table itself",
                "line 2, column 9: rule \"a\": table public.product: there is no such table; is it public.products?",
                "line 6, column 9: rule \"b\": table public.products has no column \"userid\"; is it \"user_id\"?",
                "line 7, column 12: rule \"b\": table public.products has no column \"nothing_like_it\"",
                "line 9, column 9: rule \"c\": table public.seen: it is not a table; only tables have triggers that see all changes",
            ]
        );
    }
    assert!(compare(pool, &Rules::default()).await.expect("compare").is_empty(), "nothing was installed");
}

/// Locks on `t` that are asked for and not granted.
async fn waiting(pool: &PgPool) -> Vec<String> {
    sqlx::query_scalar("select mode from pg_locks where relation = 't'::regclass and not granted order by 1")
        .fetch_all(pool)
        .await
        .expect("locks")
}

#[tokio::test]
async fn a_writer_who_queues_behind_apply_goes_on_while_a_long_transaction_still_holds_the_table() {
    let database = database().await;
    let pool = database.pool();
    execute(pool, "create table t (id int)").await;
    let rules = with_keys(r#""t:{id}""#);
    let mut long = pool.begin().await.expect("begin");
    long.execute("insert into t values (1)").await.expect("insert");

    let applying = apply(pool, &rules, WAIT);
    let meanwhile = async {
        eventually(WAIT * 10, "apply waits for the lock", || async {
            waiting(pool).await == ["ShareRowExclusiveLock"]
        })
        .await;
        // Behind apply: its lock conflicts with the one that waits, not with the one that is held.
        let queued = "begin; set local lock_timeout = '20s'; insert into t values (2); commit";
        execute(pool, queued).await;
        let open: bool = sqlx::query_scalar(
            "select exists (select from pg_locks where relation = 't'::regclass and mode = 'RowExclusiveLock' and granted)",
        )
        .fetch_one(pool)
        .await
        .expect("locks");
        assert!(open, "the long transaction is still there");
        assert!(triggers(pool).await.is_empty(), "and apply was not served before the writer");
        long.commit().await.expect("commit");
    };
    let (outcomes, ()) = tokio::join!(applying, meanwhile);
    assert_eq!(outcomes.expect("apply tries again").first().map(|(_, outcome)| *outcome), Some(Outcome::Installed));
    assert_eq!(state(pool, &rules).await, State::Current);
}

/// What the function must set depends on the types.
#[tokio::test]
async fn a_column_of_another_type_differs_until_the_rules_are_applied() {
    let database = database().await;
    let pool = database.pool();
    execute(pool, "create table t (id int)").await;
    let rules = with_keys(r#""t:{id}""#);
    assert_eq!(outcome(pool, &rules).await, Outcome::Installed);
    execute(pool, "alter table t alter id type bigint").await;
    assert_eq!(state(pool, &rules).await, State::Current, "as plain as before");
    execute(pool, "alter table t alter id type timestamptz using to_timestamp(id)").await;
    assert_eq!(state(pool, &rules).await, State::Differs);
    assert_eq!(outcome(pool, &rules).await, Outcome::Updated);
    assert_eq!(state(pool, &rules).await, State::Current);
}

#[tokio::test]
async fn a_partition_that_came_or_went_differs_until_the_rules_are_applied() {
    let database = database().await;
    let pool = database.pool();
    execute(pool, "create table t (id int) partition by list (id); create table t_1 partition of t for values in (1)")
        .await;
    let rules = with_keys(r#""t:{id}""#);
    assert_eq!(outcome(pool, &rules).await, Outcome::Installed);
    let before = triggers(pool).await;
    for change in [
        "create table t_2 partition of t for values in (2)",
        "alter table t detach partition t_1",
        "alter table t_2 disable trigger griot_delete",
    ] {
        execute(pool, change).await;
        assert_eq!(state(pool, &rules).await, State::Differs, "{change}");
        assert_eq!(outcome(pool, &rules).await, Outcome::Updated, "{change}");
        assert_eq!(state(pool, &rules).await, State::Current, "{change}");
    }
    assert_eq!(triggers(pool).await, before, "the table's own were not touched");
    let left: i64 = sqlx::query_scalar("select count(*) from pg_trigger where tgrelid = 't_1'::regclass")
        .fetch_one(pool)
        .await
        .expect("count");
    assert_eq!(left, 0, "what is no partition any more has no triggers");
    assert_eq!(outcome(pool, &Rules::default()).await, Outcome::Removed);
    let left: i64 = sqlx::query_scalar("select count(*) from pg_trigger where tgname like 'griot%'")
        .fetch_one(pool)
        .await
        .expect("count");
    assert_eq!(left, 0);
}
