//! Orders to bridges and the registry of bridges, without a bridge: what is told is heard, and what is asked answered.

use std::time::Duration;

use anyhow::Result;
use fanout_core::control::{self, Order, Whom};
use fanout_core::link::{Event, Link};
use fanout_core::nodes::{self, Node};
use fanout_core::{Channel, RedisConfig, Shutdown};
use griot_tests::eventually::eventually;
use griot_tests::servers::Redis;
use tokio::sync::mpsc;

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
    /// Listens as the bridge `node` would.
    async fn bridge(&self, node: &str) -> Result<mpsc::Receiver<Order>> {
        let (link, connector) = Link::new(&self.config)?;
        let (tell, told) = mpsc::channel(10);
        let hear = move |event| {
            if let Event::Message { payload, .. } = event {
                tell.try_send(Order::parse(&payload).expect("an order")).expect("room");
            }
        };
        let confirmed = control::channels(node).map(|channel| link.subscribe(&channel));
        tokio::task::spawn(async move { connector.run(hear, Shutdown::new()).await });
        for confirmed in confirmed {
            confirmed.await?;
        }
        Ok(told)
    }
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
        let (mut orders, redis) = (stage.bridge(uid).await?, stage.redis.clone());
        tokio::task::spawn(async move {
            while let Some(Order::Survey { reply_to, pattern }) = orders.recv().await {
                let channels = [("orders:#4", 1), ("news", 2)].map(|(name, n)| (Channel::parse(name).expect(name), n));
                let matching = channels.into_iter().filter(|(channel, _)| control::glob(&pattern, channel.as_str()));
                control::answer(&redis, &reply_to, uid, matching).await.expect("answered");
            }
        });
    }
    let all = control::survey(&stage.redis, "").await?;
    assert_eq!(all, [("news".to_owned(), 4), ("orders:#4".to_owned(), 2)].into());
    assert_eq!(control::survey(&stage.redis, "orders:*").await?, [("orders:#4".to_owned(), 2)].into());
    // One that is registered and does not answer is waited for, and then left out.
    nodes::announce(&stage.redis, &node("stopped")).await?;
    assert_eq!(control::survey(&stage.redis, "news").await?, [("news".to_owned(), 4)].into());
    Ok(())
}
