//! What happens when no newer token is brought: to a connection, to a subscription, and to one that the server began.

use std::time::Duration;

use anyhow::{Result, ensure};
use fanout_core::RedisConfig;
use fanout_core::control::{self, Order, Overrides, Subscribe, Whom};
use griot_tests::bridge::{LoneBridge, SECRET};
use griot_tests::client::Client;
use griot_tests::servers::Redis;
use griot_tests::token;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);
const ROOM: &str = "[topics.room]\npersonal = \"off\"";
const QUICK: &str = "ping_seconds = 2\npong_timeout_seconds = 1\nexpired_grace_seconds = 1";

fn granted(user: &str, channel: &str, seconds: u64) -> String {
    token::sign(SECRET, &json!({"sub": user, "channel": channel, "exp": token::unix_seconds() + seconds}))
}

async fn push(client: &Client) -> Result<Value> {
    Ok(client.next_push(SOON).await?.1)
}

#[tokio::test]
async fn a_connection_that_is_not_refreshed_ends_so_that_it_comes_back() -> Result<()> {
    let redis = Redis::start().await?;
    let bridge = LoneBridge::start_with(ROOM, &redis.url(), QUICK).await?;
    let brief = token::sign(SECRET, &json!({"sub": "42", "exp": token::unix_seconds() + 2}));
    let (one, connected) = Client::connect(&bridge.socket(), &brief).await?;
    ensure!(connected["expires"] == true && connected["ttl"].as_u64() <= Some(2), "{connected}");
    let (other, _) = Client::connect(&bridge.socket(), &brief).await?;
    let refreshed = other.command("refresh", json!({"token": token::token(SECRET, "42")})).await?;
    ensure!(refreshed["ttl"].as_u64() > Some(3_000), "{refreshed}");
    let closed = one.closed(SOON).await?;
    assert_eq!((closed.code, closed.reason.as_str()), (3005, "connection expired"));
    other.command("unsubscribe", json!({"channel": "room:none"})).await?;
    Ok(())
}

#[tokio::test]
async fn a_subscription_that_is_not_refreshed_ends_alone() -> Result<()> {
    let redis = Redis::start().await?;
    let bridge = LoneBridge::start_with(ROOM, &redis.url(), QUICK).await?;
    let (client, _) = bridge.client("42").await?;
    for (channel, seconds) in [("room:brief", 2), ("room:refreshed", 2)] {
        let request = json!({"channel": channel, "token": granted("42", channel, seconds)});
        let subscribed = client.command("subscribe", request).await?;
        ensure!(subscribed["expires"] == true && subscribed["ttl"].as_u64() <= Some(2), "{subscribed}");
    }
    let longer = json!({"channel": "room:refreshed", "token": granted("42", "room:refreshed", 3_600)});
    client.command("sub_refresh", longer).await?;
    let ended = json!({"channel": "room:brief", "unsubscribe": {"code": 2501, "reason": "subscription expired"}});
    assert_eq!(push(&client).await?, ended);
    let again = json!({"channel": "room:brief", "token": granted("42", "room:brief", 3_600)});
    client.command("subscribe", again).await?;
    Ok(())
}

#[tokio::test]
async fn a_subscription_that_the_server_began_ends_with_its_connection() -> Result<()> {
    let redis = Redis::start().await?;
    let bridge = LoneBridge::start_with(ROOM, &redis.url(), QUICK).await?;
    let (client, _) = bridge.client("42").await?;
    let commands = fanout_core::Redis::connect(&RedisConfig { url: redis.url(), ..RedisConfig::default() })?;
    let subscribe = Subscribe {
        whom: Whom { user: "42".into(), ..Whom::default() },
        channel: "room:1".into(),
        info: None,
        data: None,
        expire_at: i64::try_from(token::unix_seconds())? + 1,
        recover_since: None,
        overrides: Overrides::default(),
    };
    control::everywhere(&commands, &Order::Subscribe(subscribe)).await?;
    ensure!(push(&client).await?["subscribe"].is_object());
    let closed = client.closed(SOON).await?;
    assert_eq!((closed.code, closed.reason.as_str()), (3006, "subscription expired"));
    Ok(())
}
