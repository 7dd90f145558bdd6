use std::time::Duration;

use fred::interfaces::KeysInterface;
use sqlx::PgPool;

use super::*;
use crate::eventually::eventually;

#[test]
fn ports_are_given_once() {
    let ports: HashSet<u16> = (0..200).map(|_| free_port().unwrap()).collect();
    assert_eq!(ports.len(), 200);
}

#[tokio::test]
async fn redis_comes_back_on_its_port_with_what_is_on_disk() {
    let mut redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]).await.unwrap();
    let port = redis.port();
    assert_eq!(redis.ask("SET greeting \"habari yako\"").await.unwrap(), "OK");
    redis.kill().await.unwrap();
    assert!(redis.ask("PING").await.is_err());
    redis.start_again().await.unwrap();
    assert_eq!(redis.port(), port);
    assert_eq!(redis.ask("GET greeting").await.unwrap(), "habari yako");
    redis.stop().await.unwrap();
    redis.start_again().await.unwrap();
    assert_eq!(redis.ask("MGET greeting nothing").await.unwrap(), "habari yako\n(nil)");
}

#[tokio::test]
async fn a_frozen_redis_answers_when_it_goes_on() {
    let redis = Redis::start().await.unwrap();
    let client = redis.client().await.unwrap();
    redis.pause().unwrap();
    let set = client.set::<(), _, _>("a", 1, None, None, false);
    tokio::pin!(set);
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut set).await.is_err());
    redis.resume().unwrap();
    set.await.unwrap();
    assert_eq!(redis.ask("GET a").await.unwrap(), "1");
}

#[tokio::test]
async fn a_replica_follows_its_primary() {
    let primary = Redis::start().await.unwrap();
    primary.ask("SET before 1").await.unwrap();
    let replica = Redis::replica_of(&primary).await.unwrap();
    assert_eq!(replica.ask("GET before").await.unwrap(), "1");
    primary.ask("SET after 1").await.unwrap();
    eventually(Duration::from_secs(10), "the write arrives", || async {
        replica.ask("GET after").await.unwrap() == "1"
    })
    .await;
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why() {
    let error = Redis::start_with(&["--no-such-setting", "1"]).await.unwrap_err();
    assert!(format!("{error:#}").contains("no-such-setting"), "{error:#}");
}

#[tokio::test]
async fn databases_are_fresh_and_apart() {
    let (one, two) = tokio::try_join!(Database::fresh(), Database::fresh()).unwrap();
    sqlx::query("create table only_here (id int)").execute(one.pool()).await.unwrap();
    let found: Option<String> =
        sqlx::query_scalar("select to_regclass('only_here')::text").fetch_one(two.pool()).await.unwrap();
    assert_eq!(found, None);
    assert_ne!(one.url(), two.url());
}

#[tokio::test]
async fn postgres_keeps_what_was_committed_when_it_is_killed() {
    let mut postgres = Postgres::start().await.unwrap();
    let database = Database::empty_on(&postgres).await.unwrap();
    sqlx::query("create table kept as select 42 as answer").execute(database.pool()).await.unwrap();
    postgres.kill().await.unwrap();
    postgres.start_again().await.unwrap();
    let pool = PgPool::connect(database.url()).await.unwrap();
    let answer: i32 = sqlx::query_scalar("select answer from kept").fetch_one(&pool).await.unwrap();
    assert_eq!(answer, 42);
    pool.close().await;
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_standby_follows_until_it_is_cut_off_and_leads_once_promoted() {
    let primary = Postgres::start_with(&["max_prepared_transactions=5"]).await.unwrap();
    let standby = primary.standby().await.unwrap();
    primary.execute("create table n as select 1 as n".to_owned()).await.unwrap();
    standby.has_replayed(&primary).await.unwrap();
    let connect = || async { PgPool::connect(&standby.url("postgres")).await.unwrap() };
    let pool = connect().await;
    let count = || sqlx::query_scalar::<_, i64>("select count(*) from n").fetch_one(&pool);
    assert_eq!(count().await.unwrap(), 1);
    sqlx::query("insert into n values (2)").execute(&pool).await.unwrap_err();

    standby.stop_receiving().await.unwrap();
    primary.execute("insert into n values (3)".to_owned()).await.unwrap();
    primary.kill().await.unwrap();
    standby.promote().await.unwrap();
    sqlx::query("insert into n values (4)").execute(&pool).await.unwrap();
    assert_eq!(count().await.unwrap(), 2, "what was committed after the cut is not there");
}
