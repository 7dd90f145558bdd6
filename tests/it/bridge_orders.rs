//! What the API orders of connections, by whoever holds them: both ways and one way.

use std::time::Duration;

use anyhow::{Result, ensure};
use fanout_core::control::{self, Order, Subscribe, Whom};
use fanout_core::{Data, RedisConfig};
use griot_tests::bridge::{LoneBridge, SECRET};
use griot_tests::client::Client;
use griot_tests::eventually::eventually;
use griot_tests::servers::Redis;
use griot_tests::stream::Stream;
use griot_tests::token;
use hyper::Method;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);
const ROOM: &str = "[topics.room]\npersonal = \"off\"\nnamed = true\nhistory_size = 10\n\
                    presence = true\nsee_presence = \"users\"";

struct Stage {
    server: Redis,
    redis: fanout_core::Redis,
    bridges: [LoneBridge; 2],
}

impl Stage {
    async fn new() -> Result<Self> {
        let server = Redis::start().await?;
        let (url, settings) = (server.url(), "uni_http_stream = true");
        let redis = fanout_core::Redis::connect(&RedisConfig { url: url.clone(), ..RedisConfig::default() })?;
        let start = || LoneBridge::start_with(ROOM, &url, settings);
        Ok(Self { bridges: [start().await?, start().await?], server, redis })
    }

    /// A connection of `user` to each bridge: one both ways, one that only hears.
    async fn clients(&self, user: &str) -> Result<(Client, Value, Stream, Value)> {
        let (both, connected) = self.bridges[0].client(user).await?;
        let request = json!({"token": token::token(SECRET, user)}).to_string();
        let path = "/connection/uni_http_stream";
        let mut one = Stream::open(self.bridges[1].addr(), Method::POST, path, &[], request).await?;
        let first = one.said().await?["connect"].take();
        Ok((both, connected, one, first))
    }

    async fn order(&self, order: Order) -> Result<()> {
        Ok(control::everywhere(&self.redis, &order).await?)
    }

    async fn subscribe(&self, subscribe: Subscribe) -> Result<()> {
        self.order(Order::Subscribe(subscribe)).await
    }

    async fn publish(&self, data: &str) -> Result<()> {
        let publisher = fanout_core::Publisher::new(self.redis.clone(), griot_tests::bridge::topics(ROOM)?);
        let channel = fanout_core::Channel::parse("room:1")?;
        publisher.publish(fanout_core::Publication::new(channel, Data::parse(data.to_owned())?)).await?;
        Ok(())
    }
}

fn whom(user: &str) -> Whom {
    Whom { user: user.into(), ..Whom::default() }
}

fn to_room(user: &str) -> Subscribe {
    Subscribe {
        whom: whom(user),
        channel: "room:1".into(),
        info: None,
        data: None,
        expire_at: 0,
        recover_since: None,
        overrides: control::Overrides::default(),
    }
}

#[tokio::test]
async fn an_ordered_subscription_begins_with_a_push_and_ends_with_one() -> Result<()> {
    let stage = Stage::new().await?;
    let (both, _, mut one, _) = stage.clients("42").await?;
    let (other, _) = stage.bridges[0].client("4").await?;
    let data = Some(Data::parse("{\"seat\":7}")?);
    stage.subscribe(Subscribe { data: data.clone(), ..to_room("42") }).await?;
    for push in [both.next_push(SOON).await?.1, one.said().await?] {
        ensure!(push["channel"] == "room:1" && push["subscribe"]["recoverable"] == true, "{push}");
        assert_eq!(push["subscribe"]["data"], json!({"seat": 7}));
    }
    stage.publish("1").await?;
    for push in [both.next_push(SOON).await?.1, one.said().await?] {
        assert_eq!((&push["pub"]["data"], &push["pub"]["offset"]), (&json!(1), &json!(1)));
    }
    let stats = other.command("presence_stats", json!({"channel": "room:1"})).await?;
    assert_eq!(stats, json!({"num_clients": 2, "num_users": 1}));
    // A second time there is nothing to begin.
    stage.subscribe(to_room("42")).await?;
    stage.order(Order::Unsubscribe { whom: whom("42"), channel: "room:1".into() }).await?;
    for push in [both.next_push(SOON).await?.1, one.said().await?] {
        assert_eq!(push, json!({"channel": "room:1", "unsubscribe": {"code": 2000, "reason": "server unsubscribe"}}));
    }
    eventually(SOON, "nobody is there", || async {
        let stats = other.command("presence_stats", json!({"channel": "room:1"})).await;
        stats.is_ok_and(|stats| stats["num_clients"] == 0)
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn an_ordered_subscription_goes_on_from_a_position_and_takes_nothing_that_is_another_users() -> Result<()> {
    let stage = Stage::new().await?;
    for n in 1..=3 {
        stage.publish(&n.to_string()).await?;
    }
    let (both, _, mut one, _) = stage.clients("42").await?;
    let since = control::Since { offset: 1, epoch: String::new() };
    stage.subscribe(Subscribe { channel: "room:#4".into(), ..to_room("42") }).await?;
    stage.subscribe(Subscribe { channel: "nothing:1".into(), ..to_room("42") }).await?;
    stage.subscribe(Subscribe { recover_since: Some(since), ..to_room("42") }).await?;
    for n in 1..=3 {
        for push in [both.next_push(SOON).await?.1, one.said().await?] {
            match n {
                1 => ensure!(push["channel"] == "room:1" && push["subscribe"].is_object(), "{push}"),
                n => assert_eq!((&push["pub"]["data"], &push["pub"]["offset"]), (&json!(n), &json!(n))),
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn disconnects_reach_those_who_are_meant() -> Result<()> {
    let stage = Stage::new().await?;
    let (both, connected, one, first) = stage.clients("42").await?;
    let (stays, staying) = stage.bridges[1].client("42").await?;
    let (other, _) = stage.bridges[0].client("4").await?;
    let id = |connected: &Value| connected["client"].as_str().unwrap_or_default().to_owned();
    let disconnect = |whom: Whom, whitelist: Vec<String>| Order::Disconnect {
        whom,
        whitelist,
        code: 4500,
        reason: "no longer a customer".into(),
    };
    let another = Whom { client: id(&connected), ..whom("4") };
    stage.order(disconnect(another, vec![])).await?;
    let by_session = Whom { session: first["session"].as_str().unwrap_or_default().into(), ..whom("42") };
    stage.order(disconnect(by_session, vec![])).await?;
    assert_eq!(one.rest().await?, "{\"disconnect\":{\"code\":4500,\"reason\":\"no longer a customer\"}}\n");
    ensure!(both.subscribe("room:1").await.is_ok(), "another user's connection of this id, or another session");
    stage.order(disconnect(whom("42"), vec![id(&staying)])).await?;
    let closed = both.closed(SOON).await?;
    assert_eq!((closed.code, closed.reason.as_str()), (4500, "no longer a customer"));
    ensure!(stays.subscribe("room:1").await.is_ok() && other.subscribe("room:1").await.is_ok());
    drop(stage.server);
    Ok(())
}

#[tokio::test]
async fn a_refresh_tells_how_long_a_connection_lives_and_may_end_it() -> Result<()> {
    let stage = Stage::new().await?;
    let (both, _, mut one, _) = stage.clients("42").await?;
    let refresh = |expired: bool, expire_at: u64| Order::Refresh {
        whom: whom("42"),
        expired,
        expire_at: i64::try_from(expire_at).unwrap_or(i64::MAX),
        info: None,
    };
    stage.order(refresh(false, token::unix_seconds() + 1_000)).await?;
    for push in [both.next_push(SOON).await?.1, one.said().await?] {
        let ttl = push["refresh"]["ttl"].as_u64();
        ensure!(push["refresh"]["expires"] == true && ttl.is_some_and(|ttl| (900..=1_000).contains(&ttl)), "{push}");
    }
    stage.order(refresh(false, 0)).await?;
    for push in [both.next_push(SOON).await?.1, one.said().await?] {
        assert_eq!(push, json!({"refresh": {}}), "it lives without end");
    }
    stage.order(refresh(true, 0)).await?;
    assert_eq!(both.closed(SOON).await?.code, 3005);
    assert_eq!(one.rest().await?, "{\"disconnect\":{\"code\":3005,\"reason\":\"connection expired\"}}\n");
    Ok(())
}
