//! Presence in Redis: who is there, how many, and that each coming and going is announced once.

use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use fanout_core::envelope::Notice;
use fanout_core::link::{Event, Link};
use fanout_core::names::Feed;
use fanout_core::presence::{self, Member, Stats};
use fanout_core::{Channel, ClientInfo, Data, RedisConfig, Shutdown};
use griot_tests::eventually::eventually;
use griot_tests::servers::{self, Redis};
use serde_json::json;
use tokio::sync::mpsc;

use crate::api::api_with;

const LONG: Duration = Duration::from_secs(60);

fn member(channel: &Channel, client: &str, user: &str) -> Member {
    let conn_info = Some(Data::parse(format!("{{\"n\":\"{client} of {user}\"}}")).expect("json"));
    let info = ClientInfo { user: user.into(), client: client.into(), conn_info, chan_info: None };
    Member { channel: channel.clone(), info, keeps: true, announces: true }
}

fn config(redis: &Redis) -> RedisConfig {
    RedisConfig { url: redis.url(), ..RedisConfig::default() }
}

async fn connect() -> Result<(fanout_core::Redis, Channel)> {
    let redis = fanout_core::Redis::connect(&config(&servers::shared().await.redis))?;
    Ok((redis, Channel::parse(&format!("chat:{}", uuid::Uuid::new_v4()))?))
}

/// What is announced on the feed of `channel`: `+CLIENT` and `-CLIENT`.
async fn listen(redis: &fanout_core::Redis, channel: &Channel) -> Result<mpsc::Receiver<String>> {
    let (link, connector) = Link::new(&config(&servers::shared().await.redis))?;
    let (tell, told) = mpsc::channel(100);
    let hear = move |event| {
        let Event::Message { payload, .. } = event else { return };
        let said = match Notice::parse(&payload) {
            Ok(Notice::Joined(who)) => format!("+{}", who.info.client),
            Ok(Notice::Left(who)) => format!("-{}", who.info.client),
            other => format!("{other:?}"),
        };
        tell.try_send(said).expect("room");
    };
    let confirmed = link.subscribe(&redis.partitions().pubsub(&Feed::of(channel)));
    let shutdown = Shutdown::new();
    shutdown.spawn(connector.run(hear, shutdown.clone()));
    confirmed.await?;
    Ok(told)
}

#[tokio::test]
async fn members_come_are_counted_by_user_and_leave() -> Result<()> {
    let (redis, channel) = connect().await?;
    let members = [member(&channel, "a", "42"), member(&channel, "b", "42"), member(&channel, "c", "")];
    presence::enter(&redis, &members, LONG).await?;
    let mut infos = presence::read(&redis, &channel).await?;
    infos.sort_by(|a, b| a.client.cmp(&b.client));
    assert_eq!(infos, members.clone().map(|member| member.info));
    assert_eq!(presence::stats(&redis, &channel).await?, Stats { clients: 3, users: 2 });
    presence::leave(&redis, &members[..1]).await?;
    assert_eq!(presence::stats(&redis, &channel).await?, Stats { clients: 2, users: 2 });
    presence::leave(&redis, &members).await?;
    assert_eq!(presence::stats(&redis, &channel).await?, Stats::default());
    assert_eq!(presence::read(&redis, &channel).await?, []);
    Ok(())
}

#[tokio::test]
async fn a_repetition_announces_nothing() -> Result<()> {
    let (redis, channel) = connect().await?;
    let mut told = listen(&redis, &channel).await?;
    let (kept, end) = (member(&channel, "a", "42"), member(&channel, "end", "42"));
    let unkept = Member { keeps: false, ..member(&channel, "b", "") };
    for _ in 0..2 {
        presence::enter(&redis, std::slice::from_ref(&kept), LONG).await?;
        presence::refresh(&redis, std::slice::from_ref(&kept), LONG).await?;
    }
    presence::enter(&redis, std::slice::from_ref(&unkept), LONG).await?;
    for _ in 0..2 {
        presence::leave(&redis, std::slice::from_ref(&kept)).await?;
    }
    presence::leave(&redis, &[unkept]).await?;
    presence::enter(&redis, &[end], LONG).await?;
    let mut all = Vec::new();
    while all.last().is_none_or(|last| last != "+end") {
        all.push(told.recv().await.expect("the link lives"));
    }
    assert_eq!(all, ["+a", "+b", "-a", "-b", "+end"]);
    Ok(())
}

#[tokio::test]
async fn who_is_not_refreshed_expires_and_who_is_stays() -> Result<()> {
    let (redis, channel) = connect().await?;
    let (brief, lasting) = (member(&channel, "brief", "1"), member(&channel, "lasting", "2"));
    presence::enter(&redis, &[brief.clone(), lasting.clone()], Duration::from_millis(50)).await?;
    presence::refresh(&redis, std::slice::from_ref(&lasting), LONG).await?;
    eventually(Duration::from_secs(10), "the brief one has expired", || async {
        presence::stats(&redis, &channel).await.is_ok_and(|stats| stats == Stats { clients: 1, users: 1 })
    })
    .await;
    assert_eq!(presence::read(&redis, &channel).await?, std::slice::from_ref(&lasting.info));
    let mut told = listen(&redis, &channel).await?;
    presence::leave(&redis, &[brief, lasting]).await?;
    assert_eq!(told.recv().await.as_deref(), Some("-lasting"), "who had expired is not announced");
    Ok(())
}

#[tokio::test]
async fn a_refresh_brings_back_what_redis_has_lost() -> Result<()> {
    let (redis, channel) = connect().await?;
    presence::refresh(&redis, &[member(&channel, "a", "42")], LONG).await?;
    assert_eq!(presence::stats(&redis, &channel).await?, Stats { clients: 1, users: 1 });
    Ok(())
}

#[tokio::test]
async fn a_full_redis_refuses_who_comes_and_lets_go_who_leaves() -> Result<()> {
    let server = Redis::start().await?;
    let redis = fanout_core::Redis::connect(&config(&server))?;
    let channel = Channel::parse("chat:room")?;
    let here = member(&channel, "a", "42");
    presence::enter(&redis, std::slice::from_ref(&here), LONG).await?;
    server.ask("CONFIG SET maxmemory 1").await?;
    let refused = presence::enter(&redis, &[member(&channel, "b", "2")], LONG).await;
    assert!(matches!(refused, Err(fanout_core::RedisError::OutOfMemory)), "{refused:?}");
    presence::leave(&redis, &[here]).await?;
    assert_eq!(presence::stats(&redis, &channel).await?, Stats::default());
    Ok(())
}

#[tokio::test]
async fn the_api_tells_who_is_there_where_it_is_kept() -> Result<()> {
    let api = api_with("[topics.chat]\npresence = true\n[topics.news]\n").await?;
    let room = Channel::parse("chat:room")?;
    let (ann, bob) = (member(&room, "a", "ann"), member(&room, "b", ""));
    presence::enter(&api.commands()?, &[ann, bob], LONG).await?;
    let asked = json!({"channel": "chat:room"});
    let there = json!({
        "a": {"user": "ann", "client": "a", "conn_info": {"n": "a of ann"}},
        "b": {"user": "", "client": "b", "conn_info": {"n": "b of "}},
    });
    assert_eq!(api.call("presence", &asked).await?, json!({"result": {"presence": there}}));
    let counted = json!({"num_clients": 2, "num_users": 2});
    assert_eq!(api.call("presence_stats", &asked).await?, json!({"result": counted}));
    let empty = json!({"channel": "chat:empty"});
    assert_eq!(api.call("presence", &empty).await?, json!({"result": {"presence": {}}}));
    assert_eq!(api.call("presence_stats", &empty).await?["result"]["num_clients"], 0);
    for method in ["presence", "presence_stats"] {
        for (channel, code, words) in
            [("news:a", 108, "presence = true"), ("nowhere:a", 102, "unknown channel"), ("", 107, "channel")]
        {
            let error = &api.call(method, &json!({"channel": channel})).await?["error"];
            let message = error["message"].as_str().unwrap_or_default();
            assert!(error["code"] == code && message.contains(words), "{method} {channel}: {error}");
        }
    }
    let commands = json!([{"presence_stats": asked}, {"presence": {"channel": "news:a"}}, {"presence": empty}]);
    let replies = &api.call("batch", &json!({"commands": commands})).await?["replies"];
    assert_eq!(replies[0], json!({"presence_stats": counted}));
    assert_eq!(replies[1]["error"]["code"], 108);
    assert_eq!(replies[2], json!({"presence": {"presence": {}}}));
    Ok(())
}

#[test]
fn a_notice_of_another_form_is_refused() {
    for text in ["G1 joined\n", "G1 left\n{}", "G1 came\n{}"] {
        assert!(Notice::parse(&Bytes::from(text)).is_err(), "{text:?}");
    }
}
