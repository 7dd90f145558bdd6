//! The cursor: nothing is lost and nothing comes twice, in whatever order transactions end.

use change_log::{Error, Progress, Reader, append, cursor};
use sqlx::Executor;

use super::{database, execute, keys, reader, take};

#[tokio::test]
async fn a_late_commit_is_not_lost() {
    let database = database().await;
    let pool = database.pool();
    let mut reader = reader(pool).await;
    let mut late = pool.begin().await.expect("begin");
    append::invalidate(&mut *late, "late").await.expect("invalidate");
    append::invalidate(pool, "early").await.expect("invalidate");
    assert_eq!(keys(&take(&mut reader).await), ["early"]);
    append::invalidate(pool, "middle").await.expect("invalidate");
    late.commit().await.expect("commit");
    // The late one has the lower id, and within a page ids decide.
    assert_eq!(keys(&take(&mut reader).await), ["late", "middle"]);
    assert!(take(&mut reader).await.is_empty());
}

#[tokio::test]
async fn a_backlog_is_read_under_one_frozen_pair() {
    let database = database().await;
    let pool = database.pool();
    let mut reader = reader(pool).await;
    let mut late = pool.begin().await.expect("begin");
    for n in 0..40 {
        let executor: &mut sqlx::PgConnection =
            if n % 4 == 0 { &mut late } else { &mut pool.acquire().await.expect("c") };
        append::invalidate(executor, &format!("k{n:02}")).await.expect("invalidate");
    }
    let first = reader.poll(7).await.expect("a page");
    assert!(first.more);
    let mut seen: Vec<String> = keys(&first.entries).into_iter().map(str::to_owned).collect();
    reader.confirm(first);
    // Both of these commit while the pair is frozen: they belong to the next one.
    late.commit().await.expect("commit");
    append::invalidate(pool, "after").await.expect("invalidate");
    loop {
        let page = reader.poll(7).await.expect("a page");
        assert!(page.entries.len() <= 7);
        seen.extend(keys(&page.entries).into_iter().map(str::to_owned));
        let more = page.more;
        reader.confirm(page);
        if !more {
            break;
        }
    }
    let once: Vec<String> = (0..40).filter(|n| n % 4 != 0).map(|n| format!("k{n:02}")).collect();
    assert_eq!(seen, [once.clone(), once].concat(), "the same entries once per pass: keys, publications");
    let rest = take(&mut reader).await;
    let expected: Vec<String> = (0..40).step_by(4).map(|n| format!("k{n:02}")).chain(["after".to_owned()]).collect();
    assert_eq!(keys(&rest), expected);
}

#[tokio::test]
async fn what_is_not_confirmed_comes_again_and_what_is_not_saved_too() {
    let database = database().await;
    let pool = database.pool();
    let mut reader = reader(pool).await;
    append::invalidate(pool, "a").await.expect("invalidate");
    drop(reader.poll(10).await.expect("a page"));
    assert_eq!(keys(&take(&mut reader).await), ["a"]);

    let mut second = Reader::new(pool.clone(), "here", 0).expect("region");
    assert_eq!(keys(&take(&mut second).await), ["a"], "confirmed, but never saved");
    let mark = second.mark(Progress::default()).expect("something to save");
    second.save(mark).await.expect("save");
    let mut third = Reader::new(pool.clone(), "here", 0).expect("region");
    assert!(take(&mut third).await.is_empty());
}

#[tokio::test]
async fn after_a_lost_connection_the_saved_cursor_counts() {
    let database = database().await;
    let pool = database.pool();
    let mut reader = reader(pool).await;
    append::invalidate(pool, "a").await.expect("invalidate");
    let page = reader.poll(10).await.expect("a page");
    execute(pool, "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and datname = current_database()").await;
    let error = reader.poll(10).await.expect_err("the connection is gone");
    assert!(error.is_transient(), "{error}");
    assert_eq!(keys(&reader.poll(10).await.expect("a page").entries), ["a"]);
    // This page is from before: what it says was perhaps rolled back by a crash.
    reader.confirm(page);
    assert_eq!(keys(&take(&mut reader).await), ["a"]);
}

#[tokio::test]
async fn regions_do_not_see_each_other() {
    let database = database().await;
    let pool = database.pool();
    let mut here = reader(pool).await;
    append::invalidate(pool, "a").await.expect("invalidate");
    let mut there = Reader::new(pool.clone(), "there", 0).expect("region");
    assert!(take(&mut there).await.is_empty(), "started after the entry");
    append::invalidate(pool, "b").await.expect("invalidate");
    assert_eq!(keys(&take(&mut there).await), ["b"]);

    let status = cursor::status(pool).await.expect("status");
    let pending: Vec<_> = status.iter().map(|region| (region.region.as_str(), region.pending)).collect();
    assert_eq!(pending, [("here", 2), ("there", 1)], "as saved");
    assert!(status[0].oldest_pending.is_some());
    assert_eq!(keys(&take(&mut here).await), ["a", "b"]);
    let mark = here.mark(Progress::default()).expect("something to save");
    here.save(mark).await.expect("save");
    let status = cursor::status(pool).await.expect("status");
    assert_eq!((status[0].pending, status[0].oldest_pending), (0, None));
}

#[tokio::test]
async fn a_cursor_from_another_history_is_told() {
    let database = database().await;
    let pool = database.pool();
    execute(pool, "insert into griot.cursor (region, snapshot) values ('here', '900000000:900000000:')").await;
    let mut reader = Reader::new(pool.clone(), "here", 0).expect("region");
    let error = reader.poll(10).await.expect_err("ahead");
    assert!(matches!(error, Error::CursorAhead { .. }) && !error.is_transient(), "{error}");
}

#[tokio::test]
async fn a_database_without_the_schema_says_what_to_run() {
    let database = database().await;
    execute(database.pool(), "drop schema griot cascade").await;
    let mut reader = Reader::new(database.pool().clone(), "here", 0).expect("region");
    let error = reader.poll(10).await.expect_err("no schema");
    assert!(!error.is_transient() && error.to_string().contains("migrate"), "{error}");
}

#[test]
fn a_regions_name_is_checked() {
    let pool = sqlx::postgres::PgPoolOptions::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let _guard = runtime.enter();
    let pool = pool.connect_lazy("postgres://nobody@127.0.0.1:1/none").expect("lazy");
    for name in ["", "a b", "it's", &"x".repeat(65)] {
        assert!(matches!(Reader::new(pool.clone(), name, 0), Err(Error::Region(_))), "{name:?}");
    }
}

#[tokio::test]
async fn an_entry_that_nobody_could_have_written_stops_nothing() {
    let database = database().await;
    let pool = database.pool();
    let mut reader = reader(pool).await;
    let sql = "insert into griot.log (kind) values ('publish');
               insert into griot.log (kind, source, op, new_row) values ('row', 'public.t', 'insert', '[1]')";
    pool.execute(sql).await.expect("insert");
    append::invalidate(pool, "a").await.expect("invalidate");
    let entries = take(&mut reader).await;
    let kinds: Vec<_> = entries.iter().map(|entry| entry.body.kind()).collect();
    assert_eq!(kinds, ["unreadable", "unreadable", "invalidate"]);
}
