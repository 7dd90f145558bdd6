//! Rotation: what somebody needs stays, whatever the clock and the locks say; the rest goes, and nobody waits for it.

use std::time::Duration;

use change_log::rotate::{Attempt, Outcome, rotate, set_bucket_length};
use change_log::{Candidate, Error, PgPool, Progress, Reader, Standing, append, cursor};
use griot_tests::eventually::eventually;
use griot_tests::servers::{Database, Postgres};
use sqlx::{AssertSqlSafe, Executor};

use super::{database, execute, keys, reader, take};

const SOON: Duration = Duration::from_secs(30);
/// Longer than any test: time passes by [`age`] only.
const RETENTION: Duration = Duration::from_secs(1_800);
/// With partitions this long, in seconds, the present lies in partition 0 until 2033.
const EPOCH: Duration = Duration::from_secs(2_000_000_000);

/// Partition 0 is the present for good, and the term of a leader of the region `here`.
async fn still(pool: &PgPool) -> i64 {
    set_bucket_length(pool, EPOCH).await.expect("sets the length");
    leads(pool).await
}

async fn leads(pool: &PgPool) -> i64 {
    let lease = Duration::from_secs(3_600);
    let candidate = Candidate::new(pool.clone(), "here", "test".into(), lease).expect("a region");
    match candidate.stand().await.expect("stands") {
        Standing::Leads(tenure) => tenure.term(),
        other => panic!("{other:?}"),
    }
}

/// An entry in partition 1.
async fn write(pool: &PgPool, key: &str) {
    execute(pool, &format!("insert into griot.log (bucket, kind, key) values (1, 'invalidate', '{key}')")).await;
}

async fn apply(reader: &mut Reader) -> usize {
    let entries = take(reader).await.len();
    if let Some(mark) = reader.mark(Progress::default()) {
        reader.save(mark).await.expect("saves");
    }
    entries
}

/// An hour passes for what is committed.
async fn age(pool: &PgPool) {
    execute(pool, "insert into griot.tick (snapshot) values (pg_current_snapshot())").await;
    execute(pool, "update griot.tick set at = at - interval '1 hour'").await;
}

/// An hour passes in which the region saves no cursor.
async fn absent(pool: &PgPool, region: &str) {
    let sql = format!("update griot.cursor set saved_at = saved_at - interval '1 hour' where region = '{region}'");
    execute(pool, &sql).await;
}

/// What comes of partition 1.
async fn turn(pool: &PgPool, term: i64) -> Attempt {
    let attempts = rotate(pool, "here", term, RETENTION).await.expect("rotates");
    attempts.into_iter().find(|attempt| attempt.slot == 1).expect("partition 1")
}

/// What comes of it an hour from now.
async fn turn_later(pool: &PgPool, term: i64) -> Outcome {
    age(pool).await;
    turn(pool, term).await.outcome
}

#[tokio::test]
async fn what_everybody_applied_goes_after_the_retention_and_not_before() {
    let database = database().await;
    let pool = database.pool();
    let term = still(pool).await;
    let mut reader = reader(pool).await;
    assert_eq!(turn_later(pool, term).await, Outcome::Empty);
    write(pool, "k").await;
    append::invalidate(pool, "now").await.expect("invalidate");
    assert_eq!(apply(&mut reader).await, 2);
    assert_eq!(turn(pool, term).await.outcome, Outcome::Needed, "committed within the hour");
    assert_eq!(turn(pool, term).await.outcome, Outcome::Needed);
    age(pool).await;
    let attempts = rotate(pool, "here", term, RETENTION).await.expect("rotates");
    let outcomes: Vec<_> = attempts.iter().map(|attempt| attempt.outcome).collect();
    assert_eq!(outcomes, [Outcome::Current, Outcome::Emptied, Outcome::Empty]);
    let left: Vec<String> = sqlx::query_scalar("select key from griot.log").fetch_all(pool).await.expect("keys");
    assert_eq!(left, ["now"], "the present is left alone");
    let notes: i64 = sqlx::query_scalar("select count(*) from griot.tick").fetch_one(pool).await.expect("count");
    assert!(notes <= 2, "{notes} notes: the older ones are of no use");
}

#[tokio::test]
async fn a_region_behind_keeps_what_it_needs() {
    let database = database().await;
    let pool = database.pool();
    let term = still(pool).await;
    let mut here = reader(pool).await;
    let mut there = Reader::new(pool.clone(), "there", 0).expect("a region");
    assert_eq!(apply(&mut there).await, 0);
    write(pool, "k").await;
    assert_eq!(apply(&mut here).await, 1);
    assert_eq!(turn_later(pool, term).await, Outcome::Needed, "by the other region");
    assert_eq!(apply(&mut there).await, 1);
    assert_eq!(turn_later(pool, term).await, Outcome::Emptied);
}

#[tokio::test]
async fn a_region_away_for_the_retention_is_marked_and_not_waited_for() {
    let database = database().await;
    let pool = database.pool();
    let term = still(pool).await;
    let (mut here, mut there, mut idle) = (
        reader(pool).await,
        Reader::new(pool.clone(), "there", 0).expect("a region"),
        Reader::new(pool.clone(), "idle", 0).expect("a region"),
    );
    assert_eq!((apply(&mut there).await, apply(&mut idle).await), (0, 0));
    write(pool, "k").await;
    assert_eq!((apply(&mut here).await, apply(&mut idle).await), (1, 1));
    absent(pool, "there").await;
    absent(pool, "idle").await;
    assert_eq!(turn(pool, term).await.outcome, Outcome::Needed, "whoever is away is given the retention");
    age(pool).await;
    let page = there.poll(10).await.expect("a page");
    let attempt = turn(pool, term).await;
    assert_eq!((attempt.outcome, attempt.lapsed), (Outcome::Emptied, vec!["there".to_owned()]));
    let status = cursor::status(pool).await.expect("status");
    let lapsed: Vec<_> = status.iter().map(|region| (region.region.as_str(), region.lapsed)).collect();
    assert_eq!(lapsed, [("here", false), ("idle", false), ("there", true)], "nothing that idle needs was lost");

    // It comes back at this moment, having read the cursor before: it must not believe that it has seen everything.
    there.confirm(page);
    let mark = there.mark(Progress::default()).expect("something to save");
    assert!(matches!(there.save(mark).await, Err(Error::Superseded { .. })));
    write(pool, "next").await;
    assert_eq!(apply(&mut here).await, 1);
    assert_eq!(apply(&mut idle).await, 1);
    assert_eq!(turn_later(pool, term).await, Outcome::Emptied, "it is waited for no more");
}

#[tokio::test]
async fn a_late_commit_survives_the_turns_of_the_clock() {
    let database = database().await;
    let pool = database.pool();
    set_bucket_length(pool, Duration::from_secs(1)).await.expect("sets the length");
    let term = leads(pool).await;
    let mut reader = reader(pool).await;
    let mut late = pool.begin().await.expect("begin");
    let insert = "insert into griot.log (kind, key) values ('invalidate', 'late') returning bucket";
    let slot: i16 = sqlx::query_scalar(insert).fetch_one(&mut *late).await.expect("a slot");
    let others = [(slot + 1) % 3, (slot + 2) % 3];
    for other in others {
        let sql = format!("insert into griot.log (bucket, kind, key) values ({other}, 'invalidate', 'early')");
        execute(pool, &sql).await;
    }
    assert_eq!(apply(&mut reader).await, 2);
    let outcome_of = |wanted: i16| async move {
        age(pool).await;
        let attempts = rotate(pool, "here", term, RETENTION).await.expect("rotates");
        attempts.into_iter().find(|attempt| attempt.slot == wanted).expect("the slot").outcome
    };
    for other in others {
        eventually(SOON, "the other partitions are emptied", || async {
            assert_ne!(outcome_of(slot).await, Outcome::Emptied);
            matches!(outcome_of(other).await, Outcome::Emptied | Outcome::Empty)
        })
        .await;
    }
    eventually(SOON, "its turn comes", || async { outcome_of(slot).await == Outcome::Later }).await;

    late.commit().await.expect("commit");
    eventually(SOON, "its turn comes again", || async {
        let outcome = outcome_of(slot).await;
        assert!(matches!(outcome, Outcome::Needed | Outcome::Current), "{outcome:?}");
        outcome == Outcome::Needed
    })
    .await;
    assert_eq!(keys(&take(&mut reader).await), ["late"]);
    let mark = reader.mark(Progress::default()).expect("something to save");
    reader.save(mark).await.expect("saves");
    eventually(SOON, "it is not needed any more", || async { outcome_of(slot).await == Outcome::Emptied }).await;
}

#[tokio::test]
async fn a_prepared_transaction_survives_rotations() {
    let postgres = Postgres::start_with(&["max_prepared_transactions=5"]).await.expect("a server");
    let database = Database::fresh_on(&postgres).await.expect("a database");
    let pool = database.pool();
    let term = still(pool).await;
    let mut reader = reader(pool).await;
    let insert = "insert into griot.log (bucket, kind, key) values (1, 'invalidate', 'prepared')";
    execute(pool, &format!("begin; {insert}; prepare transaction 'p'")).await;
    for _ in 0..3 {
        assert_eq!(apply(&mut reader).await, 0);
        assert_eq!(turn_later(pool, term).await, Outcome::Later, "its locks outlive its connection");
    }
    execute(pool, "commit prepared 'p'").await;
    assert_eq!(turn_later(pool, term).await, Outcome::Needed);
    assert_eq!(keys(&take(&mut reader).await), ["prepared"]);
}

#[tokio::test]
async fn nobody_waits_for_a_rotation_that_waits_for_somebody() {
    let database = database().await;
    let pool = database.pool();
    let term = still(pool).await;
    let mut reader = reader(pool).await;
    write(pool, "k").await;
    assert_eq!(apply(&mut reader).await, 1);
    age(pool).await;
    // A backup, for example, holds this lock for as long as it takes.
    let mut old = pool.begin().await.expect("begin");
    old.execute("select count(*) from griot.log").await.expect("reads");
    assert_eq!(turn(pool, term).await.outcome, Outcome::Later);
    let write = "begin; set local lock_timeout = '1s';
                 insert into griot.log (bucket, kind, key) values (1, 'invalidate', 'meanwhile'); commit";
    pool.execute(write).await.expect("writes at once");
    assert_eq!(apply(&mut reader).await, 1);
    old.rollback().await.expect("ends");
    assert_eq!(turn_later(pool, term).await, Outcome::Emptied);

    write_and_hold_the_cursor(pool, &mut reader, term).await;
}

/// The cursor's lock, too, is not waited for: a leader of another region may hold it.
async fn write_and_hold_the_cursor(pool: &PgPool, reader: &mut Reader, term: i64) {
    write(pool, "k").await;
    assert_eq!(apply(reader).await, 1);
    age(pool).await;
    let mut other = pool.begin().await.expect("begin");
    other.execute("lock table griot.cursor in share row exclusive mode").await.expect("locks");
    assert_eq!(turn(pool, term).await.outcome, Outcome::Later);
    other.rollback().await.expect("ends");
    assert_eq!(turn(pool, term).await.outcome, Outcome::Emptied);
}

#[tokio::test]
async fn what_is_committed_between_the_look_and_the_lock_stays() {
    let database = database().await;
    let pool = database.pool();
    let term = still(pool).await;
    let mut reader = reader(pool).await;
    write(pool, "old").await;
    assert_eq!(apply(&mut reader).await, 1);
    age(pool).await;
    // The look is made to take as long as this test holds a lock.
    execute(
        pool,
        "create schema at_once;
         alter function griot.needed(smallint, pg_snapshot, interval) set schema at_once;
         create function griot.needed(slot smallint, since pg_snapshot, retention interval) returns boolean
         language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
         declare
             answer boolean := at_once.needed(slot, since, retention);
         begin
             perform pg_advisory_xact_lock(42);
             return answer;
         end $$",
    )
    .await;
    let mut gate = pool.begin().await.expect("begin");
    gate.execute("select pg_advisory_xact_lock(42)").await.expect("locks");
    let turning = turn(pool, term);
    let meanwhile = async {
        let waits = "select count(*) from pg_locks where locktype = 'advisory' and objid = 42 and not granted
                     and database = (select oid from pg_database where datname = current_database())";
        eventually(SOON, "the rotation has looked", || async {
            sqlx::query_scalar::<_, i64>(waits).fetch_one(pool).await.expect("count") == 1
        })
        .await;
        write(pool, "new").await;
        gate.commit().await.expect("opens");
    };
    let (attempt, ()) = tokio::join!(turning, meanwhile);
    assert_eq!(attempt.outcome, Outcome::Needed);
    assert_eq!(keys(&take(&mut reader).await), ["new"]);
}

#[tokio::test]
async fn only_the_leader_rotates() {
    let database = database().await;
    let pool = database.pool();
    let term = still(pool).await;
    for (region, term) in [("here", term - 1), ("here", term + 1), ("there", term)] {
        let error = rotate(pool, region, term, RETENTION).await.expect_err("does not lead");
        assert!(matches!(error, Error::Superseded { .. }), "{error}");
    }
    execute(pool, "update griot.leader set until = clock_timestamp()").await;
    assert!(matches!(rotate(pool, "here", term, RETENTION).await, Err(Error::Superseded { .. })), "run out");
}

#[tokio::test]
async fn snapshots_of_another_history_prove_nothing() {
    let database = database().await;
    let pool = database.pool();
    let term = still(pool).await;
    let mut reader = reader(pool).await;
    write(pool, "k").await;
    assert_eq!(apply(&mut reader).await, 1);
    let note = "insert into griot.tick values (clock_timestamp() - interval '1 hour', '900000000:900000000:')";
    execute(pool, note).await;
    assert_eq!(turn(pool, term).await.outcome, Outcome::Needed, "no note of this history is old enough");
    execute(pool, "insert into griot.cursor (region, snapshot) values ('there', '900000000:900000000:')").await;
    assert_eq!(turn_later(pool, term).await, Outcome::Needed, "nobody knows what that region has applied");
    execute(pool, "delete from griot.cursor where region = 'there'").await;
    assert_eq!(turn_later(pool, term).await, Outcome::Emptied);
}

#[tokio::test]
async fn the_length_of_a_partition_is_set_at_any_time_and_costs_writers_nothing() {
    let database = database().await;
    let pool = database.pool();
    let mut writer = pool.acquire().await.expect("a connection");
    let mut buckets = Vec::new();
    // In units this long, the present is the unit 0, 1 and 2.
    for seconds in [2_000_000_000, 1_000_000_000, 800_000_000] {
        assert!(set_bucket_length(pool, Duration::from_secs(seconds)).await.expect("sets the length"));
        assert!(!set_bucket_length(pool, Duration::from_secs(seconds)).await.expect("changes nothing"));
        append::invalidate(&mut *writer, "k").await.expect("invalidate");
        let last = "select bucket from griot.log order by id desc limit 1";
        buckets.push(sqlx::query_scalar::<_, i16>(last).fetch_one(pool).await.expect("a bucket"));
    }
    assert_eq!(buckets, [0, 1, 2], "a session that was there before follows");
    let explain =
        AssertSqlSafe("explain (verbose, costs off) insert into griot.log (kind, key) values ('invalidate', 'k')");
    let plan: Vec<String> = sqlx::query_scalar(explain).fetch_all(pool).await.expect("a plan");
    let plan = plan.join("\n");
    assert!(plan.contains("clock_timestamp") && !plan.contains("griot.bucket"), "not inlined: {plan}");
}
