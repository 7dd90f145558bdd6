//! Pages of a channel's history, its removal, and versions of what is published.

use anyhow::Result;
use bytes::Bytes;
use fanout_core::envelope::Envelope;
use fanout_core::history::{self, Ask, MAX_PUBLICATIONS, PageError, Paged};
use fanout_core::publisher::Version;
use fanout_core::{Channel, Data, Publication, Publisher, RedisConfig, Topic, Topics};
use griot_tests::servers::{self, Redis};
use serde_json::{Value, json};

use crate::api::api_with;

struct Stage {
    redis: fanout_core::Redis,
    publisher: Publisher,
    topic: Topic,
    channel: Channel,
}

impl Stage {
    /// A channel of its own whose topic keeps `size` publications.
    async fn new(size: u32, conflate: bool) -> Result<Self> {
        Self::on(&servers::shared().await.redis, size, conflate)
    }

    fn on(server: &Redis, size: u32, conflate: bool) -> Result<Self> {
        let redis = fanout_core::Redis::connect(&RedisConfig { url: server.url(), ..RedisConfig::default() })?;
        let topic = Topic { history_size: size, conflate, ..Topic::default() };
        let topics = Topics::new(Some([("news".into(), topic.clone())].into()), None).map_err(anyhow::Error::msg)?;
        let channel = Channel::parse(&format!("news:{}", uuid::Uuid::new_v4()))?;
        Ok(Self { publisher: Publisher::new(redis.clone(), topics), redis, topic, channel })
    }

    fn publication(&self, data: &str) -> Publication {
        Publication::new(self.channel.clone(), Data::parse(data.to_owned()).expect("json"))
    }

    /// Publishes the numbers 1 to `count`, on a conflated topic with the keys 0, 1 and 2 in turn.
    async fn fill(&self, count: u32) -> Result<()> {
        for chunk in (1..=count).collect::<Vec<_>>().chunks(100) {
            let numbered = chunk.iter().map(|n| {
                let mut publication = self.publication(&n.to_string());
                publication.conflation_key = self.topic.conflate.then(|| (n % 3).to_string());
                publication
            });
            for receipt in self.publisher.publish_all(numbered.collect()).await {
                receipt?;
            }
        }
        Ok(())
    }

    async fn page(&self, ask: &Ask) -> Result<Paged, PageError> {
        history::page(&self.redis, &self.topic, &self.channel, ask).await
    }

    /// The numbers of a page.
    async fn numbers(&self, since: Option<u64>, limit: i32, reverse: bool) -> Result<Vec<u32>> {
        let since = since.map(|offset| (offset, String::new()));
        numbers(&self.page(&Ask { since, limit, reverse }).await?)
    }
}

fn numbers(page: &Paged) -> Result<Vec<u32>> {
    let number = |envelope: &Bytes| Ok(serde_json::from_slice(Envelope::parse(envelope)?.data.as_bytes())?);
    page.envelopes.iter().map(number).collect()
}

#[tokio::test]
async fn pages_go_on_where_the_last_one_ended_in_both_directions() -> Result<()> {
    let stage = Stage::new(10, false).await?;
    stage.fill(12).await?;
    for (since, limit, reverse, expected) in [
        (None, 0, false, vec![]),
        (None, 3, false, vec![3, 4, 5]),
        (Some(5), 3, false, vec![6, 7, 8]),
        (Some(10), 5, false, vec![11, 12]),
        (Some(12), 5, false, vec![]),
        (Some(99), 5, false, vec![]),
        (Some(1), 2, false, vec![3, 4]),
        (None, 3, true, vec![12, 11, 10]),
        (Some(10), 3, true, vec![9, 8, 7]),
        (Some(5), 9, true, vec![4, 3]),
        (Some(3), 9, true, vec![]),
        (Some(99), 1, true, vec![12]),
        (None, -1, false, (3..=12).collect()),
    ] {
        assert_eq!(stage.numbers(since, limit, reverse).await?, expected, "{since:?} {limit} {reverse}");
    }
    Ok(())
}

#[tokio::test]
async fn a_page_is_no_longer_than_the_limit_whoever_asks_for_more() -> Result<()> {
    let stage = Stage::new(1_000, false).await?;
    stage.fill(400).await?;
    let first: Vec<u32> = (1..=300).collect();
    for limit in [-1, i32::MIN, 301, i32::MAX] {
        assert_eq!(stage.numbers(None, limit, false).await?, first, "{limit}");
    }
    assert_eq!(stage.numbers(None, -1, true).await?, (101..=400).rev().collect::<Vec<_>>());
    let ask = Ask { limit: -1, ..Ask::default() };
    let all = history::page_of(&stage.redis, &stage.topic, &stage.channel, &ask, MAX_PUBLICATIONS * 10).await?;
    assert_eq!(all.envelopes.len(), 400);
    Ok(())
}

#[tokio::test]
async fn a_page_of_large_publications_ends_early_and_the_next_goes_on() -> Result<()> {
    let stage = Stage::new(300, false).await?;
    let large = format!("\"{}\"", "x".repeat(60_000));
    let publications = (0..200).map(|_| stage.publication(&large)).collect();
    for receipt in stage.publisher.publish_all(publications).await {
        receipt?;
    }
    let first = stage.page(&Ask { limit: 200, ..Ask::default() }).await?.envelopes.len();
    assert!(first > 0 && first < 200, "{first}");
    let since = Some((u64::try_from(first)?, String::new()));
    let second = stage.page(&Ask { since, limit: 200, reverse: false }).await?;
    assert_eq!(first + second.envelopes.len(), 200);
    Ok(())
}

#[tokio::test]
async fn a_conflated_topic_gives_the_newest_of_each_key() -> Result<()> {
    let stage = Stage::new(10, true).await?;
    stage.fill(7).await?;
    assert_eq!(stage.numbers(None, 10, false).await?, [5, 6, 7]);
    assert_eq!(stage.numbers(None, 2, true).await?, [7, 6]);
    assert_eq!(stage.numbers(Some(5), 10, false).await?, [6, 7]);
    assert_eq!(stage.numbers(Some(6), 10, true).await?, [5]);
    Ok(())
}

#[tokio::test]
async fn another_epoch_is_refused_and_a_new_channel_has_one() -> Result<()> {
    let stage = Stage::new(10, false).await?;
    let position = Ask::default();
    let fresh = stage.page(&position).await?.top;
    assert_eq!(fresh.offset, 0);
    stage.fill(2).await?;
    let top = stage.page(&position).await?.top;
    assert_eq!((top.epoch, top.offset), (fresh.epoch, 2));
    let known = Ask { since: Some((0, top.epoch.to_string())), limit: 9, reverse: false };
    assert_eq!(numbers(&stage.page(&known).await?)?, [1, 2]);
    let other = Ask { since: Some((0, "00c0ffee".into())), limit: 0, reverse: false };
    let refused = stage.page(&other).await;
    assert!(matches!(refused, Err(PageError::OtherEpoch(now)) if now == top), "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn what_an_earlier_server_gave_is_on_no_page_of_the_next_one() -> Result<()> {
    let (primary, replica) = (Redis::start().await?, Redis::start().await?);
    let stage = Stage::on(&primary, 10, false)?;
    stage.fill(2).await?;
    // Another identity over the same keys, as after a promotion.
    primary.ask(&format!("REPLICAOF 127.0.0.1 {}", replica.addr().port())).await?;
    primary.ask("REPLICAOF NO ONE").await?;
    stage.publisher.publish(stage.publication("3")).await?;
    assert_eq!(stage.numbers(None, 9, false).await?, [3]);
    assert_eq!(stage.numbers(None, 9, true).await?, [3]);
    Ok(())
}

#[tokio::test]
async fn a_removed_history_is_empty_and_offsets_run_on() -> Result<()> {
    for conflate in [false, true] {
        let stage = Stage::new(10, conflate).await?;
        stage.fill(3).await?;
        let before = stage.page(&Ask::default()).await?.top;
        history::remove(&stage.redis, &stage.channel).await?;
        assert_eq!(stage.page(&Ask { limit: 9, ..Ask::default() }).await?, Paged { top: before, envelopes: vec![] });
        stage.fill(1).await?;
        assert_eq!(stage.page(&Ask::default()).await?.top.offset, 4);
        assert_eq!(stage.numbers(None, 9, false).await?, [1]);
        let behind =
            [history::Since { channel: stage.channel.clone(), conflated: conflate, epoch: String::new(), offset: 2 }];
        let recovered = &history::read(&stage.redis, &behind, 1 << 20).await?[0];
        assert_eq!(recovered.envelopes, None, "who is behind is told");
    }
    Ok(())
}

#[tokio::test]
async fn a_version_that_is_not_newer_is_dropped() -> Result<()> {
    let stage = Stage::new(10, false).await?;
    let publish = async |number: u64, epoch: &str| -> Result<(u64, bool)> {
        let mut publication = stage.publication(&(number % 1_000).to_string());
        publication.version = Some(Version { number, epoch: epoch.into() });
        let receipt = stage.publisher.publish(publication).await?;
        Ok((receipt.position.expect("history").offset, receipt.repeated))
    };
    assert_eq!(publish(9, "").await?, (1, false));
    assert_eq!(publish(10, "").await?, (2, false));
    assert_eq!(publish(10, "").await?, (2, true));
    assert_eq!(publish(9, "").await?, (2, true));
    assert_eq!(publish(1, "another").await?, (3, false), "versions of another epoch are not compared");
    assert_eq!(publish(1, "another").await?, (3, true));
    assert_eq!(publish(1, "").await?, (3, true), "an empty epoch matches any");
    // Both are 2^64 - 1 and its neighbour: as floating point they would be the same number.
    assert_eq!(publish(u64::MAX - 1, "big").await?, (4, false));
    assert_eq!(publish(u64::MAX, "big").await?, (5, false));
    assert!(!stage.publisher.publish(stage.publication("0")).await?.repeated, "what has no version is not compared");
    Ok(())
}

/// The data of a history that the API gave.
fn data(answer: &Value) -> Vec<Value> {
    let publications = answer["result"]["publications"].as_array().expect("publications");
    publications.iter().map(|publication| publication["data"].clone()).collect()
}

#[tokio::test]
async fn the_api_reads_and_removes_what_a_channel_has_published() -> Result<()> {
    let api = api_with("[topics.news]\n[topics.brief]\nhistory_size = 0\n").await?;
    for n in 1..=3 {
        api.call("publish", &json!({"channel": "news", "data": n, "tags": {"n": n.to_string()}})).await?;
    }
    let position = api.call("history", &json!({"channel": "news"})).await?;
    assert_eq!((&position["result"]["publications"], &position["result"]["offset"]), (&json!([]), &json!(3)));
    let epoch = position["result"]["epoch"].clone();
    let all = api.call("history", &json!({"channel": "news", "limit": -1})).await?;
    assert_eq!(data(&all), [1, 2, 3]);
    let second = &all["result"]["publications"][1];
    assert_eq!((&second["offset"], &second["tags"]["n"]), (&json!(2), &json!("2")));
    assert!(second["tags"]["id"].is_string() && second.get("info").is_none(), "{second}");
    let since = |offset: u64| json!({"channel": "news", "limit": 1, "since": {"offset": offset, "epoch": epoch}});
    assert_eq!(data(&api.call("history", &since(1)).await?), [2]);
    let before = json!({"channel": "news", "limit": 9, "since": {"offset": 3}, "reverse": true});
    assert_eq!(data(&api.call("history", &before).await?), [2, 1]);
    let batch = json!({"commands": [
        {"publish": {"channel": "news", "data": 4}},
        {"history": {"channel": "news", "limit": 1, "reverse": true}},
        {"history_remove": {"channel": "news"}},
        {"publish": {"channel": "news", "data": 5}},
        {"history": {"channel": "news", "limit": -1}},
    ]});
    let replies = api.call("batch", &batch).await?["replies"].clone();
    assert_eq!(replies[1]["history"]["publications"][0]["data"], 4, "what was published before in the batch is there");
    assert_eq!(replies[2], json!({"history_remove": {}}));
    let left = &replies[4]["history"];
    assert_eq!((&left["publications"][0]["data"], &left["offset"]), (&json!(5), &json!(5)));
    Ok(())
}

#[tokio::test]
async fn the_api_says_why_there_is_no_history() -> Result<()> {
    let api = api_with("[topics.news]\n[topics.brief]\nhistory_size = 0\n").await?;
    for (body, code, words) in [
        (json!({"channel": "brief"}), 108, "history_size"),
        (json!({"channel": "nowhere"}), 102, "unknown channel"),
        (json!({}), 107, "channel"),
        (json!({"channel": "news", "reverse": true, "since": {"offset": 0}}), 107, "reverse"),
        (json!({"channel": "news", "since": {"offset": 1, "epoch": "another"}}), 112, "unrecoverable position"),
    ] {
        let error = &api.call("history", &body).await?["error"];
        let message = error["message"].as_str().unwrap_or_default();
        assert!(error["code"] == code && message.contains(words), "{body}: {error}");
    }
    assert_eq!(api.call("history_remove", &json!({"channel": "brief"})).await?["error"]["code"], 108);
    let many = vec![json!({"history": {"channel": "news"}}); 8];
    assert_eq!(api.call("batch", &json!({"commands": many})).await?["replies"].as_array().map(Vec::len), Some(8));
    Ok(())
}
