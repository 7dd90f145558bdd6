//! Orders to bridges and the registry of bridges, without a bridge: what is told is heard, and what is asked answered.

use std::time::Duration;

use anyhow::Result;
use fanout_core::control::{self, Order, Overrides, Since, Subscribe, Switch, Whom};
use fanout_core::link::{Event, Link};
use fanout_core::nodes::{self, Node};
use fanout_core::{Channel, Data, RedisConfig, Shutdown};
use griot_tests::eventually::eventually;
use griot_tests::servers::Redis;
use serde_json::json;
use tokio::sync::mpsc;

use crate::api::api_with;

struct Stage {
    _server: Redis,
    config: RedisConfig,
    redis: fanout_core::Redis,
}

async fn stage() -> Result<Stage> {
    let server = Redis::start().await?;
    let config = RedisConfig { url: server.url(), ..RedisConfig::default() };
    Ok(Stage { redis: fanout_core::Redis::connect(&config)?, _server: server, config })
}

impl Stage {
    async fn bridge(&self, node: &str) -> Result<mpsc::Receiver<Order>> {
        bridge(&self.config, node).await
    }
}

/// Listens as the bridge `node` would.
async fn bridge(config: &RedisConfig, node: &str) -> Result<mpsc::Receiver<Order>> {
    let (link, connector) = Link::new(config)?;
    let (tell, told) = mpsc::channel(10);
    let hear = move |event| {
        if let Event::Message { payload, .. } = event {
            tell.try_send(Order::parse(&payload).expect("an order")).expect("room");
        }
    };
    let confirmed = control::channels(node).map(|channel| link.subscribe(&channel));
    let shutdown = Shutdown::new();
    shutdown.spawn(connector.run(hear, shutdown.clone()));
    for confirmed in confirmed {
        confirmed.await?;
    }
    Ok(told)
}

/// Answers surveys as the bridge `uid` would, which has these channels.
fn answering(mut orders: mpsc::Receiver<Order>, redis: fanout_core::Redis, uid: &'static str) {
    Shutdown::new().spawn(async move {
        while let Some(Order::Survey { reply_to, pattern }) = orders.recv().await {
            let channels = [("orders:#4", 1), ("news", 2)].map(|(name, n)| (Channel::parse(name).expect(name), n));
            let matching = channels.into_iter().filter(|(channel, _)| control::glob(&pattern, channel.as_str()));
            control::answer(&redis, &reply_to, uid, matching).await.expect("answered");
        }
    });
}

fn node(uid: &str) -> Node {
    Node { uid: uid.into(), name: format!("host of {uid}"), num_clients: 3, ..Node::default() }
}

#[tokio::test]
async fn an_order_reaches_every_bridge_or_the_one_named() -> Result<()> {
    let stage = stage().await?;
    let (mut one, mut two) = (stage.bridge("one").await?, stage.bridge("two").await?);
    let unsubscribe =
        Order::Unsubscribe { whom: Whom { user: "42".into(), ..Whom::default() }, channel: "news".into() };
    control::everywhere(&stage.redis, &unsubscribe).await?;
    let emulate = Order::Emulate { session: "s".into(), data: "{\"id\":1}\n{\"id\":2}".into(), protobuf: false };
    assert!(control::to(&stage.redis, "two", &emulate).await?);
    assert!(!control::to(&stage.redis, "three", &emulate).await?, "nobody of that name listens");
    assert_eq!(one.recv().await.as_ref(), Some(&unsubscribe));
    assert_eq!(two.recv().await.as_ref(), Some(&unsubscribe));
    assert_eq!(two.recv().await, Some(emulate));
    control::everywhere(&stage.redis, &unsubscribe).await?;
    assert_eq!(one.recv().await, Some(unsubscribe), "what was for another was not heard");
    Ok(())
}

#[tokio::test]
async fn a_bridge_is_registered_while_it_announces_itself() -> Result<()> {
    let stage = stage().await?;
    assert_eq!(nodes::live(&stage.redis).await?, []);
    nodes::announce(&stage.redis, &node("b")).await?;
    nodes::announce(&stage.redis, &node("a")).await?;
    assert_eq!(nodes::live(&stage.redis).await?, [node("a"), node("b")]);
    nodes::leave(&stage.redis, "a").await?;
    assert_eq!(nodes::live(&stage.redis).await?, [node("b")]);
    eventually(Duration::from_secs(30), "the silent bridge is gone", || async {
        nodes::live(&stage.redis).await.is_ok_and(|live| live.is_empty())
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn a_survey_adds_up_what_the_bridges_answer() -> Result<()> {
    let stage = stage().await?;
    for uid in ["one", "two"] {
        nodes::announce(&stage.redis, &node(uid)).await?;
        answering(stage.bridge(uid).await?, stage.redis.clone(), uid);
    }
    let all = control::survey(&stage.redis, "").await?;
    assert_eq!(all, [("news".to_owned(), 4), ("orders:#4".to_owned(), 2)].into());
    assert_eq!(control::survey(&stage.redis, "orders:*").await?, [("orders:#4".to_owned(), 2)].into());
    // One that is registered and does not answer is waited for, and then left out.
    nodes::announce(&stage.redis, &node("stopped")).await?;
    assert_eq!(control::survey(&stage.redis, "news").await?, [("news".to_owned(), 4)].into());
    Ok(())
}

#[tokio::test]
async fn what_the_api_orders_every_bridge_hears() -> Result<()> {
    let api = api_with("[topics.news]\n").await?;
    let config = RedisConfig { url: api.redis.url(), ..RedisConfig::default() };
    let mut orders = bridge(&config, "one").await?;
    let whom = Whom { user: "42".into(), client: "c".into(), session: String::new() };
    let subscribe = json!({
        "user": "42", "client": "c", "channel": "news:a", "info": {"i": 1}, "b64data": "eyJkIjoyfQ==", "expire_at": 9,
        "recover_since": {"offset": 3, "epoch": "e"}, "override": {"presence": {"value": true}},
    });
    assert_eq!(api.call("subscribe", &subscribe).await?, json!({"result": {}}));
    let data = |json: &'static str| Some(Data::parse(json).expect("json"));
    let expected = Subscribe {
        whom: whom.clone(),
        channel: "news:a".into(),
        info: data(r#"{"i":1}"#),
        data: data(r#"{"d":2}"#),
        expire_at: 9,
        recover_since: Some(Since { offset: 3, epoch: "e".into() }),
        overrides: Overrides { presence: Some(Switch { value: true }), ..Overrides::default() },
    };
    assert_eq!(orders.recv().await, Some(Order::Subscribe(expected)));
    let batch = json!({"commands": [
        {"unsubscribe": {"user": "42", "client": "c", "channel": "news:a"}},
        {"disconnect": {"user": "42", "client": "c", "whitelist": ["d"]}},
        {"refresh": {"user": "42", "client": "c", "expired": true, "expire_at": 5, "info": null}},
    ]});
    let replies = json!([{"unsubscribe": {}}, {"disconnect": {}}, {"refresh": {}}]);
    assert_eq!(api.call("batch", &batch).await?["replies"], replies);
    assert_eq!(orders.recv().await, Some(Order::Unsubscribe { whom: whom.clone(), channel: "news:a".into() }));
    let closed = Order::Disconnect {
        whom: whom.clone(),
        whitelist: vec!["d".into()],
        code: 3503,
        reason: "force disconnect".into(),
    };
    assert_eq!(orders.recv().await, Some(closed));
    assert_eq!(orders.recv().await, Some(Order::Refresh { whom, expired: true, expire_at: 5, info: None }));
    Ok(())
}

#[tokio::test]
async fn an_order_that_no_client_could_bear_is_refused() -> Result<()> {
    let api = api_with("[topics.news]\n").await?;
    for (method, body, code, words) in [
        ("subscribe", json!({"user": "42"}), 107, "channel"),
        ("subscribe", json!({"channel": "nowhere"}), 102, "unknown channel"),
        ("subscribe", json!({"channel": "news", "b64info": "/w=="}), 107, "b64info"),
        ("unsubscribe", json!({"user": "42"}), 107, "channel"),
        ("disconnect", json!({"disconnect": {"code": 1000, "reason": "x"}}), 107, "3000"),
        ("disconnect", json!({"disconnect": {"code": 4000, "reason": "x".repeat(124)}}), 107, "123"),
        ("disconnect", json!({"disconnect": {"code": 4000, "reason": "true"}}), 107, "JSON"),
    ] {
        let error = &api.call(method, &body).await?["error"];
        let message = error["message"].as_str().unwrap_or_default();
        assert!(error["code"] == code && message.contains(words), "{method} {body}: {error}");
    }
    Ok(())
}

#[tokio::test]
async fn the_api_tells_what_the_bridges_tell() -> Result<()> {
    let api = api_with("[topics.news]\n").await?;
    assert_eq!(api.call("info", &json!({})).await?, json!({"result": {"nodes": []}}));
    assert_eq!(api.call("channels", &json!({})).await?, json!({"result": {"channels": {}}}));
    let (redis, config) = (api.commands()?, RedisConfig { url: api.redis.url(), ..RedisConfig::default() });
    nodes::announce(&redis, &node("one")).await?;
    answering(bridge(&config, "one").await?, redis, "one");
    let info = api.call("info", &json!({})).await?;
    assert_eq!(info["result"]["nodes"], json!([node("one")]));
    let found = api.call("channels", &json!({"pattern": "n*"})).await?;
    assert_eq!(found, json!({"result": {"channels": {"news": {"num_clients": 2}}}}));
    Ok(())
}
