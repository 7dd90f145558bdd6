//! The wire protocol as a client sees it: signing in, subscriptions, several commands in a message, pings, codes.

use std::time::Duration;

use anyhow::Result;
use fanout_core::{Channel, Data, Publication};
use fred::interfaces::PubsubInterface;
use griot_tests::bridge::{LoneBridge, SECRET, publisher};
use griot_tests::client::{Client, Received, closed, open, refused};
use griot_tests::eventually::eventually;
use griot_tests::process::Launch;
use griot_tests::servers::{Redis, shared};
use griot_tests::{http, token};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

const SOON: Duration = Duration::from_secs(15);

async fn bridge(settings: &str) -> Result<LoneBridge> {
    LoneBridge::start(&shared().await.redis.url(), settings).await
}

/// A client on which nothing was sent yet.
async fn silent(bridge: &LoneBridge) -> Result<Client> {
    Ok(Client::over(open(&bridge.socket(), &[]).await?))
}

fn unique(user: &str) -> String {
    format!("{user}-{}", uuid::Uuid::new_v4().simple())
}

#[tokio::test]
async fn connect_subscribes_the_personal_channels_and_says_where_they_stand() -> Result<()> {
    let bridge = bridge("").await?;
    let user = unique("u");
    let (_client, connected) = bridge.client(&user).await?;
    let subs = connected["subs"].as_object().expect("subs");
    let names: Vec<String> =
        ["notifications", "orders", "wallet-updates"].map(|topic| format!("{topic}:#{user}")).into();
    assert_eq!(subs.keys().cloned().collect::<Vec<_>>(), names);
    for sub in subs.values() {
        assert_eq!((&sub["recoverable"], &sub["positioned"], sub.get("offset")), (&json!(true), &json!(true), None));
    }
    assert_eq!(
        (&connected["ping"], &connected["pong"], &connected["expires"]),
        (&json!(25), &json!(true), &json!(true))
    );
    assert!(connected["ttl"].as_u64().is_some_and(|ttl| (3_500..=3_600).contains(&ttl)), "{connected}");
    Ok(())
}

#[tokio::test]
async fn a_message_may_hold_connect_and_subscribe_and_they_are_answered_in_order() -> Result<()> {
    let bridge = bridge("").await?;
    let client = silent(&bridge).await?;
    let connect = json!({"id": 1, "connect": {"token": token::token(SECRET, &unique("u")), "name": "js"}});
    let commands = [
        connect,
        json!({"id": 2, "subscribe": {"channel": "products", "flag": 1}}),
        json!({"id": 3, "presence": {"channel": "products"}}),
        json!({"id": 4, "unsubscribe": {"channel": "products"}}),
    ];
    client.send_text(commands.map(|command| command.to_string()).join("\n") + "\n").await?;
    let mut replies = Vec::new();
    for _ in 0..4 {
        match client.next(SOON).await?.1 {
            Received::Reply(reply) => replies.push(reply),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(replies.iter().map(|reply| reply["id"].as_u64()).collect::<Vec<_>>(), [1, 2, 3, 4].map(Some));
    assert!(replies[0]["connect"]["client"].is_string() && replies[1]["subscribe"]["epoch"].is_string());
    assert_eq!(replies[2]["error"]["code"], 108);
    assert_eq!(replies[3]["unsubscribe"], json!({}));
    Ok(())
}

#[tokio::test]
async fn tokens_are_refused_with_the_code_that_tells_the_client_what_to_do() -> Result<()> {
    let bridge = bridge("").await?;
    let now = token::unix_seconds();
    for (claims, code) in [(json!({"sub": "42", "exp": now - 1}), 109), (json!({"sub": "42", "nbf": now + 3_600}), 109)]
    {
        let error = Client::connect(&bridge.socket(), &token::sign(SECRET, &claims)).await.expect_err("refused");
        assert_eq!(refused(&error).map(|refused| refused.code), Some(code), "{claims}: {error:#}");
    }
    let other = token::token("another secret of at least 32 bytes, really", "42");
    let bad = ["4,2", "a#42", "4 2", "é"].map(|user| token::token(SECRET, user));
    let number = token::sign(SECRET, &json!({"sub": 42}));
    let nobody =
        [json!({"sub": ""}), json!({"sub": null}), json!({})].map(|claims| (token::sign(SECRET, &claims), 3507));
    let bad = bad.into_iter().chain([other, number, "nonsense".into()]).map(|token| (token, 3500));
    for (token, code) in bad.chain(nobody).chain([(String::new(), 3501)]) {
        let error = Client::connect(&bridge.socket(), &token).await.expect_err("refused");
        assert_eq!(closed(&error).map(|closed| closed.code), Some(code), "{token}: {error:#}");
    }
    Ok(())
}

#[tokio::test]
async fn channels_are_refused_with_the_code_of_the_reason() -> Result<()> {
    let bridge = bridge("max_channels = 5").await?;
    let (client, _) = bridge.client("42").await?;
    for (channel, code) in [
        ("orders:#4", 103),
        ("orders:#42", 105),
        ("orders", 103),
        ("orders:room", 103),
        ("products:#42", 103),
        ("nothing", 102),
        ("nothing:#42", 102),
        ("#42", 107),
        ("orders:#4,42", 107),
        ("orders:#a#42", 107),
        ("orders:#", 107),
    ] {
        let error = client.subscribe(channel).await.expect_err(channel);
        assert_eq!(refused(&error).map(|refused| refused.code), Some(code), "{channel}: {error:#}");
    }
    client.subscribe("products").await?;
    let error = client.subscribe("products").await.expect_err("twice");
    assert_eq!(refused(&error).map(|refused| refused.code), Some(105));
    client.unsubscribe("never:had").await?;
    for (method, code) in [("publish", 103), ("history", 103), ("presence_stats", 108), ("rpc", 108)] {
        let request = json!({"channel": "products", "data": {}});
        let error = client.command(method, request).await.expect_err(method);
        assert_eq!(refused(&error).map(|refused| refused.code), Some(code), "{method}");
    }
    Ok(())
}

#[tokio::test]
async fn what_breaks_the_protocol_ends_the_connection_with_a_code() -> Result<()> {
    let bridge = bridge("").await?;
    let signed_in = json!({"id": 1, "connect": {"token": token::token(SECRET, "42")}}).to_string();
    for (messages, code) in [
        (vec!["garbage".to_owned()], 3501),
        (vec![json!({"id": 1, "subscribe": {"channel": "products"}}).to_string()], 3501),
        (vec![String::new()], 3501),
        (vec![signed_in.clone(), "[2]".into()], 3501),
        (vec![signed_in.clone(), "{}\n\n{}".into()], 3501),
        (vec![signed_in.clone(), signed_in.clone()], 3501),
        (vec![signed_in.clone(), json!({"id": 2}).to_string()], 3501),
        (vec![signed_in.clone(), json!({"id": 2, "subscribe": {"channel": ""}}).to_string()], 3501),
        (vec![signed_in.clone(), json!({"send": {"data": {}}}).to_string()], 3508),
        (vec![signed_in.clone(), "[".repeat(60_000)], 3501),
        (vec!["x".repeat(70_000)], 1009),
    ] {
        let client = silent(&bridge).await?;
        for message in &messages {
            client.send_text(message.clone()).await?;
        }
        let end = client.closed(SOON).await?;
        assert_eq!(end.code, code, "{:?}", messages.last().map(|last| &last[..last.len().min(60)]));
        assert!(!end.reason.is_empty() && serde_json::from_str::<Value>(&end.reason).is_err(), "{:?}", end.reason);
    }
    let client = silent(&bridge).await?;
    client.send_message(Message::binary(vec![1, 2, 3])).await?;
    assert_eq!(client.closed(SOON).await?.code, 1003);
    Ok(())
}

#[tokio::test]
async fn pings_are_sent_and_whoever_does_not_answer_is_disconnected() -> Result<()> {
    let bridge = bridge("ping_seconds = 2\npong_timeout_seconds = 1\nstale_seconds = 1").await?;
    let stale = silent(&bridge).await?;
    let (answers, _) = bridge.client(&unique("u")).await?;
    let (deaf, _) = bridge.client(&unique("u")).await?;
    deaf.answer_pings(false);
    assert_eq!(stale.closed(SOON).await?.code, 3502);
    assert_eq!(deaf.closed(SOON).await?.code, 3012);
    for _ in 0..3 {
        assert!(matches!(answers.next(SOON).await?.1, Received::Ping));
    }
    answers.subscribe("products").await?;
    Ok(())
}

#[tokio::test]
async fn an_expired_connection_is_refreshed_by_a_token_of_the_same_user_only() -> Result<()> {
    let bridge = bridge("").await?;
    let (client, _) = bridge.client("42").await?;
    let refreshed = client.command("refresh", json!({"token": token::token(SECRET, "42")})).await?;
    assert!(refreshed["expires"] == true && refreshed["ttl"].as_u64() > Some(3_500), "{refreshed}");
    let error = client.command("refresh", json!({"token": token::token(SECRET, "4")})).await.expect_err("another user");
    assert_eq!(closed(&error).map(|closed| closed.code), Some(3500));
    Ok(())
}

#[tokio::test]
async fn a_page_connects_only_from_an_allowed_origin_and_http_gets_an_answer() -> Result<()> {
    let bridge = bridge("allowed_origins = [\"https://shop.example\"]").await?;
    open(&bridge.socket(), &[("origin", "https://shop.example")]).await?;
    open(&bridge.socket(), &[]).await?;
    assert!(open(&bridge.socket(), &[("origin", "https://evil.example")]).await.is_err());
    assert_eq!(http::get(bridge.addr(), "/connection/websocket").await?.status, 426);
    assert_eq!(http::get(bridge.addr(), "/health").await?.body, "{}");
    assert_eq!(http::get(bridge.addr(), "/metrics").await?.status, 404, "operators have an address of their own");
    Ok(())
}

#[tokio::test]
async fn one_user_hears_on_all_connections_in_order_and_numbers_arrive_untouched() -> Result<()> {
    let redis = Redis::start().await?;
    let bridge = LoneBridge::start(&redis.url(), "").await?;
    let publisher = publisher(&redis.url())?;
    let (phone, _) = bridge.client("42").await?;
    let (laptop, _) = bridge.client("42").await?;
    let publications = (1..=200).map(|n| {
        let topic = ["orders", "notifications", "wallet-updates"][n % 3];
        let data = format!("{{\n\"n\": {n}, \"big\": 9007199254740993}}");
        Ok(Publication::new(Channel::parse(&format!("{topic}:#42"))?, Data::parse(data)?))
    });
    for receipt in publisher.publish_all(publications.collect::<Result<Vec<_>>>()?).await {
        receipt?;
    }
    for client in [&phone, &laptop] {
        let mut offsets = std::collections::HashMap::<String, u64>::new();
        for n in 1..=200 {
            let (channel, publication) = client.next_publication(SOON).await?;
            assert_eq!(
                publication["data"],
                json!({"n": n, "big": 9_007_199_254_740_993_u64}),
                "one order over all topics"
            );
            let offset = offsets.entry(channel).or_default();
            *offset += 1;
            assert_eq!(publication["offset"], *offset);
        }
    }
    assert_eq!(bridge.metric("griot_deliveries_total").await?, 400.0);
    Ok(())
}

#[tokio::test]
async fn without_a_secret_the_bridge_refuses_to_start_and_says_how_to_give_one() -> Result<()> {
    let start = |secret: Option<&str>| {
        let launch = Launch::new("subscriber-bridge");
        match secret {
            Some(secret) => launch.env("GRIOT_SUBSCRIBER_BRIDGE__TOKEN_SECRET", secret),
            None => launch,
        }
    };
    for (secret, words) in [(None, "openssl rand -hex 32"), (Some("short"), "at least 32")] {
        let ended = start(secret).run().await?;
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(!ended.status.success() && said.contains(words), "{said}");
    }
    Ok(())
}

#[tokio::test]
async fn a_token_from_the_command_line_signs_in() -> Result<()> {
    let bridge = bridge("").await?;
    let token = |user: &str| {
        let launch = Launch::new("subscriber-bridge").arg("token").arg("--user").arg(user);
        launch.env("GRIOT_SUBSCRIBER_BRIDGE__TOKEN_SECRET", SECRET)
    };
    let printed = token("42").run().await?;
    let (_, connected) = Client::connect(&bridge.socket(), String::from_utf8(printed.stdout)?.trim()).await?;
    assert!(connected["subs"]["orders:#42"].is_object(), "{connected}");
    let refused = token("4,2").run().await?;
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("4,2"));
    Ok(())
}

#[tokio::test]
async fn raw_publications_over_the_limit_and_of_nobody_are_counted() -> Result<()> {
    let redis = Redis::start().await?;
    let bridge = LoneBridge::start(&redis.url(), "max_raw_per_second = 5").await?;
    let (client, _) = bridge.client("42").await?;
    let raw = redis.client().await?;
    let _: i64 = raw.publish("orders", r#"{"user_id": null}"#).await?;
    for n in 0..100 {
        let _: i64 = raw.publish("orders", json!({"user_id": 42, "n": n}).to_string()).await?;
    }
    assert_eq!(client.next_publication(SOON).await?.1["data"]["n"], 0);
    let over =
        || async { bridge.metric("griot_raw_dropped_total{reason=\"over max_raw_per_second\"}").await.unwrap_or(0.0) };
    eventually(SOON, "all were looked at", || async {
        bridge.metric("griot_publications_received_total").await.unwrap_or(0.0) + over().await == 100.0
    })
    .await;
    assert!(over().await >= 80.0, "at most a few seconds' worth passed: {}", over().await);
    assert_eq!(bridge.metric("griot_raw_dropped_total{reason=\"not a user id\"}").await?, 1.0);
    Ok(())
}

#[tokio::test]
async fn while_redis_is_away_commands_are_answered_so_that_they_are_tried_again() -> Result<()> {
    let redis = Redis::start().await?;
    let room = "[topics.room]\nnamed = true\npublish = \"users\"\npresence = true\nsee_presence = \"users\"\n\
                see_history = \"users\"";
    let bridge = LoneBridge::start_with(room, &redis.url(), "").await?;
    let (client, _) = bridge.client("42").await?;
    redis.kill().await?;
    for method in ["publish", "presence", "presence_stats", "history"] {
        let error = client.command(method, json!({"channel": "room:1", "data": {}})).await.expect_err(method);
        let refused = refused(&error).expect("an answer");
        assert_eq!(refused.code, 100, "{method}: {error:#}");
    }
    Ok(())
}
