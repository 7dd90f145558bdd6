//! No silent gap: what happens to subscribers when the link is cut or Redis is away. The long story is `trials.rs`.

use std::time::Duration;

use anyhow::{Result, ensure};
use fanout_core::{Channel, Data, Publication, Publisher};
use fred::interfaces::PubsubInterface;
use griot_tests::bridge::{LoneBridge, SECRET, publisher};
use griot_tests::client::{Client, closed};
use griot_tests::eventually::eventually;
use griot_tests::process::Launch;
use griot_tests::proxy::Proxy;
use griot_tests::servers::{Redis, free_addr};
use griot_tests::token;
use serde_json::json;

const SOON: Duration = Duration::from_secs(15);

async fn publish(publisher: &Publisher, channel: &str, json: &str) -> Result<()> {
    publisher.publish(Publication::new(Channel::parse(channel)?, Data::parse(json.to_owned())?)).await?;
    Ok(())
}

async fn link_is(bridge: &LoneBridge, up: bool) {
    eventually(SOON, if up { "the bridge is ready" } else { "the bridge says that the link is missing" }, || async {
        bridge.ready().await.is_ok_and(|(ready, words)| ready == up && (up || words.contains("link")))
    })
    .await;
}

#[tokio::test]
async fn a_cut_longer_than_the_history_is_told_to_those_who_missed_it_and_to_nobody_else() -> Result<()> {
    let redis = Redis::start().await?;
    let way = Proxy::start(redis.addr()).await?;
    let bridge = LoneBridge::start(&format!("redis://{}", way.addr()), "telling_window_seconds = 1").await?;
    let publisher = publisher(&redis.url())?;
    let (missed, _) = bridge.client("42").await?;
    let (spared, _) = bridge.client("4").await?;
    spared.subscribe("products").await?;
    publish(&publisher, "orders:#42", "0").await?;
    missed.next_publication(SOON).await?;
    way.cut().await;
    link_is(&bridge, false).await;
    for n in 0..=100 {
        publish(&publisher, "orders:#42", &n.to_string()).await?;
    }
    for n in 0..=20 {
        publish(&publisher, "products", &n.to_string()).await?;
    }
    publish(&publisher, "orders:#4", "1").await?;
    way.restore().await?;
    let end = missed.closed(SOON).await?;
    assert_eq!((end.code, end.reason.as_str()), (3010, "insufficient state"));
    assert_eq!(spared.next_publication(SOON).await?.1["data"], json!(1), "what the history has is repaired");
    let (_, push) = spared.next_push(SOON).await?;
    assert_eq!(push, json!({"channel": "products", "unsubscribe": {"code": 2500, "reason": "insufficient state"}}));
    let again = spared.recover("products", "", 0).await?;
    assert_eq!((again["was_recovering"].as_bool(), again.get("recovered")), (Some(true), None), "{again}");
    publish(&publisher, "products", "2").await?;
    publish(&publisher, "orders:#4", "3").await?;
    let first = spared.next_publication(SOON).await?;
    let second = spared.next_publication(SOON).await?;
    assert_eq!((first.0.as_str(), &first.1["data"]), ("products", &json!(2)));
    assert_eq!((second.0.as_str(), &second.1["data"]), ("orders:#4", &json!(3)), "4 kept its connection");
    Ok(())
}

#[tokio::test]
async fn whoever_lost_continuity_is_told_before_anything_newer_is_delivered() -> Result<()> {
    let redis = Redis::start().await?;
    let bridge = LoneBridge::start(&redis.url(), "telling_window_seconds = 3600").await?;
    let publisher = publisher(&redis.url())?;
    let (client, _) = bridge.client("42").await?;
    client.subscribe("products").await?;
    // As an eviction does it: the positions are gone, and nobody was told of that either.
    redis.ask("FLUSHALL").await?;
    publish(&publisher, "products", "1").await?;
    let (_, push) = client.next_push(SOON).await?;
    assert_eq!(push["unsubscribe"]["code"], 2500, "{push}");
    publish(&publisher, "orders:#42", "1").await?;
    assert_eq!(client.closed(SOON).await?.code, 3010);
    assert!(client.next_push(Duration::ZERO).await.is_err(), "nothing of the new epoch came before that");
    Ok(())
}

#[tokio::test]
async fn a_cut_in_which_nothing_was_published_is_not_told() -> Result<()> {
    let redis = Redis::start().await?;
    let way = Proxy::start(redis.addr()).await?;
    let bridge = LoneBridge::start(&format!("redis://{}", way.addr()), "").await?;
    let publisher = publisher(&redis.url())?;
    let (client, _) = bridge.client("42").await?;
    publish(&publisher, "orders:#42", "1").await?;
    client.next_publication(SOON).await?;
    for n in 2..5 {
        way.cut().await;
        link_is(&bridge, false).await;
        way.restore().await?;
        link_is(&bridge, true).await;
        publish(&publisher, "orders:#42", &n.to_string()).await?;
        assert_eq!(client.next_publication(SOON).await?.1["data"], json!(n));
    }
    assert_eq!(bridge.metric("griot_continuity_lost_total{reason=\"server-side\"}").await?, 0.0);
    Ok(())
}

#[tokio::test]
async fn while_redis_is_away_sockets_stay_and_subscriptions_are_answered_as_unrecoverable() -> Result<()> {
    let redis = Redis::start().await?;
    let way = Proxy::start(redis.addr()).await?;
    let bridge = LoneBridge::start(&format!("redis://{}", way.addr()), "").await?;
    let (before, _) = bridge.client("4").await?;
    way.cut().await;
    link_is(&bridge, false).await;
    let (words, ready) = bridge.ready().await.map(|(ready, words)| (words, ready))?;
    ensure!(!ready && words.contains("link"), "{words}");
    let (client, connected) = bridge.client("42").await?;
    let orders = &connected["subs"]["orders:#42"];
    assert!(orders.is_object() && orders.get("recoverable").is_none(), "{connected}");
    let products = client.subscribe("products").await?;
    assert!(products.get("recoverable").is_none(), "{products}");
    way.restore().await?;
    link_is(&bridge, true).await;
    let publisher = publisher(&redis.url())?;
    publish(&publisher, "orders:#42", "1").await?;
    publish(&publisher, "orders:#4", "2").await?;
    assert_eq!(client.next_publication(SOON).await?.1["data"], json!(1));
    assert_eq!(before.next_publication(SOON).await?.1["data"], json!(2), "its socket stayed");
    Ok(())
}

#[tokio::test]
async fn shutdown_is_told_with_a_code_that_lets_clients_reconnect() -> Result<()> {
    let redis = Redis::start().await?;
    let bridge = LoneBridge::start(&redis.url(), "").await?;
    let (client, _) = bridge.client("42").await?;
    bridge.process.stop().await?;
    assert_eq!(client.closed(SOON).await?.code, 3001);
    let refused = bridge.client("42").await.expect_err("nobody listens");
    assert!(closed(&refused).is_none());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_falls_between_a_subscription_and_its_first_publication() -> Result<()> {
    const ROUNDS: usize = 60;
    let redis = Redis::start().await?;
    let bridge = LoneBridge::start(&redis.url(), "").await?;
    let publisher = publisher(&redis.url())?;
    let (client, _) = bridge.client("42").await?;
    let flood = async {
        let mut n = 0;
        loop {
            n += 1;
            publish(&publisher, "products", &n.to_string()).await?;
        }
    };
    let subscribing = async {
        for round in 0..ROUNDS {
            let subscribed = client.subscribe("products").await?;
            let top = subscribed["offset"].as_u64().unwrap_or(0);
            for next in top + 1..top + 20 {
                let (_, publication) = client.next_publication(SOON).await?;
                ensure!(
                    publication["offset"] == next,
                    "round {round}, {next} expected: {publication} after {subscribed}"
                );
            }
            client.unsubscribe("products").await?;
            // What was under way when it ended.
            while client.next_push(Duration::ZERO).await.is_ok() {}
        }
        Ok(())
    };
    tokio::select! {
        ended = flood => ended,
        done = subscribing => done,
    }
}

#[tokio::test]
async fn a_position_lives_as_long_as_somebody_is_subscribed() -> Result<()> {
    let redis = Redis::start().await?;
    let topics = griot_tests::stage::TOPICS;
    let short = format!("{topics}\n[redis]\nposition_ttl_seconds = 2\nurl = {:?}\n", redis.url());
    let (addr, admin) = (free_addr()?, free_addr()?);
    let config = format!(
        "{short}[subscriber_bridge]\nlisten = \"{addr}\"\nadmin_listen = \"{admin}\"\ntoken_secret = {SECRET:?}\n"
    );
    let _process = Launch::new("subscriber-bridge").config(config).ready_at(admin).start().await?;
    let url = format!("ws://{addr}/connection/websocket");
    let (client, connected) = Client::connect(&url, &token::token(SECRET, "42")).await?;
    let epoch = &connected["subs"]["orders:#42"]["epoch"];
    let publisher = publisher(&redis.url())?;
    // Longer than a position that nobody reads would live.
    let unread = "SET unread 1 EX 5";
    redis.ask(unread).await?;
    eventually(SOON, "more than its time to live has passed", || async {
        redis.ask("EXISTS unread").await.is_ok_and(|exists| exists == "0")
    })
    .await;
    publish(&publisher, "orders:#42", "1").await?;
    assert_eq!(client.next_publication(SOON).await?.1["offset"], 1);
    let (_again, connected) = Client::connect(&url, &token::token(SECRET, "42")).await?;
    assert_eq!(&connected["subs"]["orders:#42"]["epoch"], epoch);
    Ok(())
}

#[tokio::test]
async fn what_comes_during_a_repair_waits_for_what_is_repaired() -> Result<()> {
    let redis = Redis::start().await?;
    let way = Proxy::start(redis.addr()).await?;
    let bridge = LoneBridge::start(&format!("redis://{}", way.addr()), "").await?;
    let publisher = publisher(&redis.url())?;
    let (client, _) = bridge.client("42").await?;
    way.cut().await;
    link_is(&bridge, false).await;
    publish(&publisher, "orders:#42", "1").await?;
    // Reading where the feed stands now takes longer than a publication needs.
    way.delay(Duration::from_millis(300));
    way.restore().await?;
    let pubsub = redis.ask("KEYS *:position:u:42").await?.replace(":position:", ":feed:");
    eventually(SOON, "the feed is subscribed again", || async {
        redis.ask(&format!("PUBSUB NUMSUB {pubsub}")).await.is_ok_and(|answer| answer.ends_with("\n1"))
    })
    .await;
    publish(&publisher, "notifications:#42", "2").await?;
    for n in [1, 2] {
        let (channel, publication) = client.next_publication(SOON).await?;
        assert_eq!(publication["data"], json!(n), "one order over all channels of a user: {channel}");
    }
    Ok(())
}

#[tokio::test]
async fn what_can_never_be_delivered_is_a_gap_and_no_loop() -> Result<()> {
    let redis = Redis::start().await?;
    let bridge = LoneBridge::start(&redis.url(), "telling_window_seconds = 1").await?;
    let publisher = publisher(&redis.url())?;
    let (client, connected) = bridge.client("42").await?;
    let epoch = connected["subs"]["orders:#42"]["epoch"].as_str().unwrap_or_default().to_owned();
    let feed = redis.ask("KEYS *:position:u:42").await?.replace(":position:", ":feed:");
    let foreign = redis.client().await?;
    for garbage in ["garbage".to_owned(), format!("G1 1 {epoch} 1\n{{\"topic\":\"orders\",\"id\":\"x\"}}\nnot json")] {
        let _: i64 = foreign.publish(feed.clone(), garbage).await?;
    }
    assert_eq!(client.closed(SOON).await?.code, 3010);
    let dropped = bridge.metric("griot_publications_dropped_total{reason=\"not JSON\"}").await?;
    assert_eq!(dropped, 1.0, "it is looked at once");
    let (client, _) = bridge.client("42").await?;
    publish(&publisher, "orders:#42", "1").await?;
    assert_eq!(client.next_publication(SOON).await?.1["data"], json!(1));
    Ok(())
}

#[tokio::test]
async fn a_user_who_may_not_read_histories_loses_continuity_and_not_the_publications_after() -> Result<()> {
    let redis = Redis::start().await?;
    redis.ask("ACL SETUSER app on >secret ~* &* +@all -lrange").await?;
    let way = Proxy::start(redis.addr()).await?;
    let bridge = LoneBridge::start(&format!("redis://app:secret@{}", way.addr()), "telling_window_seconds = 1").await?;
    let publisher = publisher(&redis.url())?;
    let (client, _) = bridge.client("42").await?;
    way.cut().await;
    link_is(&bridge, false).await;
    publish(&publisher, "orders:#42", "1").await?;
    way.restore().await?;
    assert_eq!(client.closed(SOON).await?.code, 3010);
    let (client, _) = bridge.client("42").await?;
    publish(&publisher, "orders:#42", "2").await?;
    assert_eq!(client.next_publication(SOON).await?.1["data"], json!(2));
    Ok(())
}

#[tokio::test]
async fn a_primary_that_stepped_down_is_left_although_its_connections_stay() -> Result<()> {
    let primary = Redis::start().await?;
    let replica = Redis::replica_of(&primary).await?;
    let way = Proxy::start(primary.addr()).await?;
    let bridge = LoneBridge::start(&format!("redis://{}", way.addr()), "telling_window_seconds = 1").await?;
    let (client, _) = bridge.client("42").await?;
    replica.ask("REPLICAOF NO ONE").await?;
    way.retarget(replica.addr());
    primary.ask(&format!("REPLICAOF 127.0.0.1 {}", replica.port())).await?;
    assert_eq!(client.closed(SOON).await?.code, 3010, "another server is another epoch");
    link_is(&bridge, true).await;
    let (client, _) = bridge.client("42").await?;
    publish(&publisher(&replica.url())?, "orders:#42", "1").await?;
    assert_eq!(client.next_publication(SOON).await?.1["data"], json!(1));
    Ok(())
}

#[tokio::test]
async fn a_server_that_became_another_one_without_losing_a_connection_is_told() -> Result<()> {
    let redis = Redis::start().await?;
    let bridge = LoneBridge::start(&redis.url(), "telling_window_seconds = 1").await?;
    let (client, _) = bridge.client("42").await?;
    // As after a promotion and back; whatever was published on the other side is unknown here.
    redis.ask("REPLICAOF 127.0.0.1 1").await?;
    redis.ask("REPLICAOF NO ONE").await?;
    assert_eq!(client.closed(SOON).await?.code, 3010);
    Ok(())
}
