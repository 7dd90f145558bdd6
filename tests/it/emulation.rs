//! Commands to `/emulation`: they reach the bridge that holds the stream from any other, and end with it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use griot_tests::bridge::{LoneBridge, SECRET};
use griot_tests::eventually::eventually;
use griot_tests::servers::Redis;
use griot_tests::stream::Stream;
use griot_tests::{http, token};
use hyper::Method;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);
const ON: &str = "http_stream = true\nsse = true";
const ROOM: &str = "[topics.room]\npersonal = \"off\"\nnamed = true\npublish = \"subscribers\"";

/// A client that hears from one bridge.
struct Listener {
    stream: Stream,
    session: String,
    node: String,
}

impl Listener {
    async fn connect(bridge: &LoneBridge) -> Result<Self> {
        let connect = json!({"id": 1, "connect": {"token": token::token(SECRET, "42")}}).to_string();
        let mut stream = Stream::open(bridge.addr(), Method::POST, "/connection/http_stream", &[], connect).await?;
        let mut connected = stream.json().await?["connect"].take();
        let mut text = |name: &str| connected[name].take().as_str().map(str::to_owned).context("a string");
        Ok(Self { stream, session: text("session")?, node: text("node")? })
    }

    /// The status by which a bridge answers commands of this client.
    async fn say(&self, by: &LoneBridge, commands: &[Value]) -> Result<u16> {
        let data = commands.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
        let body = json!({"session": self.session, "node": self.node, "data": data}).to_string();
        Ok(http::post(by.addr(), "/emulation", &[], &body).await?.status)
    }
}

fn subscribe(id: u32) -> Value {
    json!({"id": id, "subscribe": {"channel": format!("room:{id}")}})
}

async fn bridges(redis: &Redis, settings: &str) -> Result<[LoneBridge; 2]> {
    let settings = format!("{ON}\n{settings}");
    let url = redis.url();
    let start = || LoneBridge::start_with(ROOM, &url, &settings);
    Ok([start().await?, start().await?])
}

#[tokio::test]
async fn commands_by_another_bridge_work_survive_it_and_end_with_the_holder() -> Result<()> {
    let redis = Redis::start().await?;
    let [holder, mut other] = bridges(&redis, "").await?;
    let mut client = Listener::connect(&holder).await?;
    assert_eq!(
        client.say(&other, &[subscribe(2), json!({"id": 3, "publish": {"channel": "room:2", "data": {}}})]).await?,
        204
    );
    ensure!(client.stream.json().await?["subscribe"].is_object());
    let said = [client.stream.json().await?, client.stream.json().await?];
    ensure!(said.contains(&json!({"id": 3, "publish": {}})), "{said:?}");
    ensure!(said.iter().any(|said| said["push"]["pub"].is_object()), "{said:?}");
    other.process.kill().await?;
    assert_eq!(client.say(&holder, &[subscribe(4)]).await?, 204);
    assert_eq!(client.stream.json().await?["id"], 4);
    other.start_again().await?;
    assert_eq!(client.say(&other, &[subscribe(5)]).await?, 204);
    assert_eq!(client.stream.json().await?["id"], 5);
    holder.process.kill().await?;
    eventually(SOON, "the holder is gone", || async {
        client.say(&other, &[subscribe(6)]).await.is_ok_and(|status| status == 404)
    })
    .await;
    ensure!(client.stream.json().await.is_err(), "the stream is over");
    Ok(())
}

#[tokio::test]
async fn unknown_sessions_are_not_told_from_known_ones_and_names_of_nobody_are_404() -> Result<()> {
    let redis = Redis::start().await?;
    let [holder, other] =
        bridges(&redis, "max_message_bytes = 2000\n[log]\nfilter = \"info,subscriber_bridge=trace,fanout_core=trace\"")
            .await?;
    let client = Listener::connect(&holder).await?;
    let post = async |node: &str, session: &str, data: &str| {
        let body = json!({"node": node, "session": session, "data": data}).to_string();
        Ok::<_, anyhow::Error>(http::post(other.addr(), "/emulation", &[], &body).await?.status)
    };
    let somebody = uuid::Uuid::new_v4().to_string();
    for (node, session, data, status) in [
        (client.node.as_str(), "nobody", "{}", 204),
        (client.node.as_str(), "", "{}", 400),
        (client.node.as_str(), client.session.as_str(), "", 400),
        ("", client.session.as_str(), "{}", 400),
        (somebody.as_str(), client.session.as_str(), "{}", 404),
        ("all", client.session.as_str(), "{}", 404),
        ("a} {b\r\n", client.session.as_str(), "{}", 404),
        (client.node.as_str(), client.session.as_str(), &"x".repeat(2_000), 413),
    ] {
        assert_eq!(post(node, session, data).await?, status, "{node} {session} {data:.20}");
    }
    redis.stop().await?;
    eventually(SOON, "Redis is missed", || async {
        client.say(&other, &[subscribe(2)]).await.is_ok_and(|status| status == 500)
    })
    .await;
    assert_eq!(client.say(&holder, &[json!({})]).await?, 204, "the holder needs no Redis for it");
    for bridge in [&holder, &other] {
        ensure!(bridge.process.output().find(&client.session).is_none(), "a session is no matter of the log");
    }
    Ok(())
}

#[tokio::test]
async fn whoever_sends_more_than_can_be_done_is_closed_with_a_code() -> Result<()> {
    let redis = Redis::start().await?;
    let [holder, other] = bridges(&redis, "max_commands_per_second = 2").await?;
    let mut client = Listener::connect(&holder).await?;
    let mut sent = 0;
    for id in 2..=200 {
        let by = if id % 2 == 0 { &holder } else { &other };
        if client.say(by, &[json!({"id": id, "unsubscribe": {"channel": "room:1"}})]).await? == 204 {
            sent += 1;
        }
    }
    assert_eq!(sent, 199, "it hears of it where it listens");
    let mut done = 0;
    loop {
        let said = client.stream.json().await?;
        match said["push"]["disconnect"]["code"].as_u64() {
            Some(code) => {
                assert_eq!(code, 3013);
                break;
            }
            None => done += 1,
        }
    }
    ensure!(done < 100, "its commands are paced: {done} were done");
    Ok(())
}

#[tokio::test]
async fn a_session_stands_in_no_log() -> Result<()> {
    let redis = Redis::start().await?;
    let (url, chatty) = (redis.url(), format!("{ROOM}\n[log]\nfilter = \"debug\""));
    let start = || LoneBridge::start_with(&chatty, &url, ON);
    let (holder, other) = (start().await?, start().await?);
    let mut client = Listener::connect(&holder).await?;
    for bridge in [&holder, &other] {
        assert_eq!(client.say(bridge, &[subscribe(2)]).await?, 204);
        assert_eq!(client.stream.json().await?["id"], 2);
    }
    let nonsense = json!({"session": client.session, "node": client.node, "data": "nonsense"}).to_string();
    assert_eq!(http::post(other.addr(), "/emulation", &[], &nonsense).await?.status, 204);
    ensure!(client.stream.json().await?["push"]["disconnect"]["code"] == 3501);
    for bridge in [&holder, &other] {
        bridge.process.stop().await?;
        let log = bridge.process.output();
        ensure!(log.find("DEBUG").is_some(), "it is chatty");
        assert_eq!(log.find(&client.session), None);
    }
    Ok(())
}
