//! All three workers in one process on one port: browsers, backends and operators side by side, and none where it has no
//! business.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use griot_tests::bridge::SECRET;
use griot_tests::client::Client;
use griot_tests::process::{Launch, Worker};
use griot_tests::servers::{Database, free_addr, shared};
use griot_tests::stage::TOPICS;
use griot_tests::{http, token};
use serde_json::json;

const SOON: Duration = Duration::from_secs(30);
const KEY: &str = "a key that only tests have";

/// `sections` are more of the configuration.
async fn griot(sections: &str) -> Result<(Worker, SocketAddr)> {
    let addr = free_addr()?;
    let config = format!(
        "{TOPICS}\n[redis]\nurl = {redis:?}\n[subscriber_bridge]\nlisten = \"{addr}\"\ntoken_secret = {SECRET:?}\n\
         [publisher]\napi_key = {KEY:?}\n{sections}\n",
        redis = shared().await.redis.url(),
    );
    Ok((Launch::new("griot").config(config).ready_at(addr).start().await?, addr))
}

fn unique(user: &str) -> String {
    format!("{user}-{}", uuid::Uuid::new_v4().simple())
}

async fn client(addr: SocketAddr, user: &str) -> Result<Client> {
    Ok(Client::connect(&format!("ws://{addr}/connection/websocket"), &token::token(SECRET, user)).await?.0)
}

#[tokio::test]
async fn what_a_backend_calls_and_what_a_transaction_commits_reach_a_browser_of_the_same_port() -> Result<()> {
    let database = Database::fresh().await?;
    let (griot, addr) = griot(&format!("[database]\nurl = {:?}\n", database.url())).await?;
    let user = unique("u");
    let (client, channel) = (client(addr, &user).await?, format!("orders:#{user}"));
    let body = json!({ "channel": channel, "data": { "by": "API" } }).to_string();
    let answer = http::post(addr, "/api/publish", &[("X-API-Key", KEY)], &body).await?;
    assert!(answer.json()?["result"].is_object(), "{answer:?}");
    assert_eq!(client.next_publication(SOON).await?.1["data"], json!({ "by": "API" }));
    sqlx::query("select griot.publish($1, '{\"by\": \"SQL\"}')").bind(&channel).execute(database.pool()).await?;
    assert_eq!(client.next_publication(SOON).await?.1["data"], json!({ "by": "SQL" }));
    let metrics = http::get(addr, "/metrics").await?.body;
    for line in ["griot_connections 1", "griot_api_calls_total", "griot_log_rotations_total", "# EOF"] {
        assert_eq!(metrics.matches(&format!("\n{line}")).count().min(1), 1, "{line} in\n{metrics}");
    }
    griot.stop().await
}

#[tokio::test]
async fn without_a_database_there_is_no_worker_and_the_rest_is_ready() -> Result<()> {
    let (griot, addr) = griot("").await?;
    griot.line("no database is configured").await?;
    let metrics = http::get(addr, "/metrics").await?.body;
    assert!(metrics.contains("griot_connections") && !metrics.contains("griot_log_rotations"), "{metrics}");
    griot.stop().await
}

#[tokio::test]
async fn the_api_needs_the_key_and_operators_the_key_or_this_machine() -> Result<()> {
    let (griot, addr) = griot("").await?;
    let body = json!({ "channel": "orders:#42", "data": {} }).to_string();
    assert_eq!(http::post(addr, "/api/publish", &[], &body).await?.status, 401);
    assert_eq!(http::post(addr, "/api/publish", &[("X-API-Key", "another")], &body).await?.status, 401);
    for path in ["/metrics", "/readyz", "/livez"] {
        let ask = |headers: &'static [(&'static str, &'static str)]| http::request(addr, "GET", path, headers, "");
        assert_eq!(ask(&[]).await?.status, 200, "{path}, from this machine");
        assert_eq!(ask(&[("X-Forwarded-For", "127.0.0.1")]).await?.status, 401, "{path}, through a proxy");
        assert_eq!(ask(&[("Origin", "https://evil.example")]).await?.status, 401, "{path}, by a page");
        assert_eq!(ask(&[("X-Forwarded-For", "203.0.113.7"), ("X-API-Key", KEY)]).await?.status, 200, "{path}");
    }
    assert_eq!(http::get(addr, "/health").await?.body, "{}");
    assert_eq!(http::get(addr, "/elsewhere").await?.status, 404);
    griot.stop().await
}

#[tokio::test]
async fn it_listens_on_every_address_that_is_named() -> Result<()> {
    let (first, second) = (free_addr()?, free_addr()?);
    let env = |launch: Launch| {
        launch
            .env("GRIOT_SUBSCRIBER_BRIDGE__LISTEN", format!("[\"{first}\", \"{second}\"]"))
            .env("GRIOT_SUBSCRIBER_BRIDGE__TOKEN_SECRET", SECRET)
            .env("GRIOT_PUBLISHER__API_KEY", KEY)
    };
    let griot = env(Launch::new("griot")).env("REDIS_URL", shared().await.redis.url()).ready_at(second).start().await?;
    let user = unique("u");
    let (one, other) = (client(first, &user).await?, client(second, &user).await?);
    let body = json!({ "channel": format!("orders:#{user}"), "data": 1 }).to_string();
    http::post(first, "/api/publish", &[("X-API-Key", KEY)], &body).await?;
    for client in [one, other] {
        assert_eq!(client.next_publication(SOON).await?.1["data"], 1);
    }
    griot.stop().await
}

#[tokio::test]
async fn what_any_worker_would_refuse_is_refused() -> Result<()> {
    for (variable, value, field) in [
        ("GRIOT_PUBLISHER__MAX_CONNECTIONS", "0", "publisher.max_connections"),
        ("GRIOT_SUBSCRIBER_BRIDGE__PONG_TIMEOUT_SECONDS", "0", "pong_timeout_seconds"),
        ("GRIOT_INVALIDATION_WORKER__LEASE_MS", "1", "lease_ms"),
        ("GRIOT_PUBLISHER__LISTN", "127.0.0.1:1", "listn"),
    ] {
        let launch = Launch::new("griot").arg("--check-config").env(variable, value);
        let launch = launch.env("GRIOT_SUBSCRIBER_BRIDGE__TOKEN_SECRET", SECRET).env("GRIOT_PUBLISHER__API_KEY", KEY);
        let ended = launch.env("DATABASE_URL", "postgres://u@127.0.0.1/d").run().await?;
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(!ended.status.success() && said.contains(field), "{variable}: {said}");
    }
    Ok(())
}
