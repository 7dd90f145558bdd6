//! Of several servers the one that can be written to is chosen, and what is no server of its own is refused.

use change_log::{Error, Servers, append};
use griot_tests::servers::{Database, Pooler, Postgres, free_addr, shared};

/// `addresses` with a password in each, as errors must not show it.
fn servers(addresses: &[&str]) -> Servers {
    let with_password: Vec<_> =
        addresses.iter().map(|address| address.replace("postgres@", "postgres:secret@")).collect();
    Servers::new(&with_password.join(","), "test").expect("addresses")
}

async fn port_of(servers: &Servers) -> i32 {
    sqlx::query_scalar("select inet_server_port()").fetch_one(servers.pool()).await.expect("an answer")
}

#[tokio::test]
async fn the_writable_server_is_chosen_and_again_after_a_failover() {
    let primary = Postgres::start().await.expect("a server");
    let database = Database::fresh_on(&primary).await.expect("a database");
    let name = database.url().rsplit('/').next().and_then(|rest| rest.split('?').next()).expect("a name");
    let standby = primary.standby().await.expect("a standby");
    let servers = servers(&[&standby.url(name), &primary.url(name)]);
    servers.choose().await.expect("one can be written to");
    assert_eq!(port_of(&servers).await, i32::from(primary.port()));
    append::invalidate(servers.pool(), "k").await.expect("can be written to");

    standby.has_replayed(&primary).await.expect("has all");
    primary.kill().await.expect("ends");
    let error = servers.choose().await.expect_err("none can be written to").to_string();
    let (one, two) = (standby.addr().to_string(), primary.addr().to_string());
    for said in ["none of 2 servers", "is a standby", "refused", &one, &two] {
        assert!(error.contains(said), "{said}: {error}");
    }
    assert!(!error.contains("secret"), "{error}");

    standby.promote().await.expect("the standby leads");
    servers.choose().await.expect("one can be written to");
    assert_eq!(port_of(&servers).await, i32::from(standby.port()));
    append::invalidate(servers.pool(), "k").await.expect("can be written to");
}

#[tokio::test]
async fn a_primary_that_was_replaced_and_comes_back_is_not_chosen() {
    let mut old = Postgres::start().await.expect("a server");
    let new = old.standby().await.expect("a standby");
    let servers = servers(&[&old.url("postgres"), &new.url("postgres")]);
    servers.choose().await.expect("one can be written to");
    assert_eq!(port_of(&servers).await, i32::from(old.port()));
    // Nobody told the old one.
    new.promote().await.expect("leads");
    servers.choose().await.expect("one can be written to");
    assert_eq!(port_of(&servers).await, i32::from(new.port()), "the connection that was there is not used again");
    old.kill().await.expect("ends");
    old.start_again().await.expect("comes back");
    servers.choose().await.expect("one can be written to");
    assert_eq!(port_of(&servers).await, i32::from(new.port()));
}

#[tokio::test]
async fn a_pooler_is_refused_with_a_sentence() {
    let postgres = &shared().await.postgres;
    let forgets = "ignore_startup_parameters = extra_float_digits, options\npool_mode = ";
    let refuses = "pool_mode = transaction";
    for settings in [&format!("{forgets}transaction"), &format!("{forgets}session"), refuses] {
        let pooler = Pooler::start(postgres, settings).await.expect("a pooler");
        let error = servers(&[&pooler.url("postgres")]).choose().await.expect_err(settings);
        assert!(error.to_string().contains("connection pooler"), "{settings}: {error}");
        assert!(!error.is_transient(), "{settings}: waiting does not help");
        servers(&[&pooler.url("postgres"), &postgres.url("postgres")]).choose().await.expect("PostgreSQL itself");
    }
}

#[tokio::test]
async fn a_server_that_is_away_may_come_back() {
    let nobody = free_addr().expect("a port");
    let error = servers(&[&format!("postgres://postgres@{nobody}/shop")]).choose().await.expect_err("nobody there");
    assert!(matches!(error, Error::NoServer(_)) && error.is_transient(), "{error}");
    assert!(error.to_string().starts_with(&format!("{nobody}/shop: ")), "{error}");
}
