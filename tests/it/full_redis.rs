//! Redis over its memory limit: whoever publishes is told so, nothing is published half, and no position is given twice.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anyhow::{Context, Result};
use fanout_core::{Channel, Data, Publication, PublishError, Receipt, RedisConfig, RedisError};
use griot_tests::bridge::{LoneBridge, publisher, publisher_with};
use griot_tests::http;
use griot_tests::process::Launch;
use griot_tests::proxy::Proxy;
use griot_tests::servers::{Redis, free_addr};
use griot_tests::stage::TOPICS;
use serde_json::{Value, json};

const MEBIBYTE: u64 = 1024 * 1024;
const SOON: Duration = Duration::from_secs(15);

/// The limit of memory: `None` is none.
async fn limit(redis: &Redis, bytes: Option<u64>) -> Result<()> {
    redis.ask(&format!("CONFIG SET maxmemory {}", bytes.unwrap_or(0))).await.map(drop)
}

async fn info(redis: &Redis, section: &str, field: &str) -> Result<u64> {
    let info = redis.ask(&format!("INFO {section}")).await?;
    let value = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    Ok(value.with_context(|| format!("no {field} in {info}"))?.trim().parse()?)
}

fn publication(channel: &str, data: String) -> Result<Publication> {
    Ok(Publication::new(Channel::parse(channel)?, Data::parse(data)?))
}

fn offset(outcome: &Result<Receipt, PublishError>) -> Option<u64> {
    outcome.as_ref().ok().and_then(|receipt| receipt.position).map(|position| position.offset)
}

fn is_full(outcome: &Result<Receipt, PublishError>) -> bool {
    matches!(outcome, Err(PublishError::Redis(RedisError::OutOfMemory)))
}

// ---- publishing while nothing may be evicted

#[tokio::test]
async fn whoever_publishes_is_told_what_to_do_and_offsets_have_no_hole() -> Result<()> {
    let (redis, addr, admin) = (Redis::start().await?, free_addr()?, free_addr()?);
    let config = format!(
        "{TOPICS}\n[redis]\nurl = {:?}\n[publisher]\nlisten = \"{addr}\"\nadmin_listen = \"{admin}\"\napi_key = \"k\"\n",
        redis.url()
    );
    let _process = Launch::new("publisher").config(config).ready_at(admin).start().await?;
    let call = async |method: &str, body: Value| {
        http::post(addr, &format!("/api/{method}"), &[("X-API-Key", "k")], &body.to_string()).await?.json()
    };
    let send = || Launch::new("publisher").arg("send").arg("orders:#42").arg("{}").env("REDIS_URL", redis.url()).run();
    let library = publisher(&redis.url())?;
    let publish = json!({"channel": "orders:#42", "data": 1});
    let once = json!({"channel": "orders:#42", "data": 1, "idempotency_key": "k"});
    let first = call("publish", once.clone()).await?;
    assert_eq!(first["result"]["offset"], 1);
    let history = format!("LLEN {}", redis.ask("KEYS *:history:orders:#42").await?);

    limit(&redis, Some(1)).await?;
    let says = |error: &Value| {
        let message = error["message"].as_str().unwrap_or_default();
        error["code"] == 100
            && ["out of memory", "raise maxmemory", "was not published"].iter().all(|words| message.contains(words))
    };
    let answer = call("publish", publish.clone()).await?;
    assert!(says(&answer["error"]), "{answer}");
    let answer = call("broadcast", json!({"channels": ["orders:#42", "orders:#1", "new"], "data": 1})).await?;
    let responses = answer["result"]["responses"].as_array().context("responses")?;
    assert!(says(&responses[0]["error"]) && says(&responses[1]["error"]), "{answer}");
    assert_eq!(responses[2]["error"]["code"], 102, "{answer}");
    let commands = vec![json!({"publish": publish}); 300];
    let answer = call("batch", json!({"commands": commands})).await?;
    let replies = answer["replies"].as_array().context("replies")?;
    assert!(replies.len() == 300 && replies.iter().all(|reply| says(&reply["error"])), "{answer}");
    assert_eq!(call("publish", once).await?, first, "what was published before is told, as it needs no memory");
    assert!(is_full(&library.publish(publication("orders:#42", "1".into())?).await));
    let ended = send().await?;
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success() && said.contains("nothing was published"), "{said}");
    assert!(said.contains("out of memory") && said.contains("raise maxmemory"), "{said}");
    assert_eq!(redis.ask(&history).await?, "1", "nothing was appended");

    limit(&redis, None).await?;
    let answer = call("publish", publish).await?;
    assert_eq!(answer["result"], json!({"offset": 2, "epoch": first["result"]["epoch"]}));
    let ended = send().await?;
    assert!(ended.status.success() && String::from_utf8_lossy(&ended.stdout).contains(" offset 3 "));
    Ok(())
}

#[tokio::test]
async fn a_batch_that_fills_redis_half_way_tells_truly_what_was_published() -> Result<()> {
    let redis = Redis::start().await?;
    let publisher = publisher(&redis.url())?;
    publisher.publish(publication("orders:#42", "0".into())?).await?;
    // A call of the script carries 64 publications, here 2.5 MiB, of which the history keeps 4. The first one fits.
    let large = || publication("orders:#42", format!("\"{}\"", "x".repeat(40_000)));
    limit(&redis, Some(info(&redis, "memory", "used_memory").await? + 5 * MEBIBYTE)).await?;
    let batch: Vec<Publication> = (0..300).map(|_| large()).collect::<Result<_>>()?;
    let outcomes = publisher.publish_all(batch).await;
    let published = outcomes.iter().take_while(|outcome| outcome.is_ok()).count();
    assert!((1..300).contains(&published), "{published}");
    let offsets: Vec<_> = outcomes.iter().take(published).filter_map(offset).collect();
    assert_eq!(offsets, (2..=published as u64 + 1).collect::<Vec<_>>());
    assert!(outcomes[published..].iter().all(is_full), "the rest, all of it, was not");

    limit(&redis, None).await?;
    let next = publisher.publish(publication("orders:#42", "1".into())?).await;
    assert_eq!(offset(&next), Some(published as u64 + 2), "no hole");
    Ok(())
}

// ---- publishing while positions are evicted

#[tokio::test]
async fn an_evicted_position_opens_a_new_epoch_and_no_offset_is_given_twice() -> Result<()> {
    let redis = Redis::start_with(&["--maxmemory-policy", "allkeys-lru"]).await?;
    let publisher = publisher_with(RedisConfig { url: redis.url(), ..RedisConfig::default() })?;
    // Loads the script, which takes memory that nothing can evict.
    publisher.publish(publication("products", "0".into())?).await?;
    limit(&redis, Some(info(&redis, "memory", "used_memory").await? + 2 * MEBIBYTE)).await?;
    let mut given = HashSet::new();
    let mut epochs: HashMap<String, HashSet<String>> = HashMap::new();
    let (mut published, mut full) = (0, 0);
    for round in 0..4 {
        for hundred in 0..30 {
            let channels: Vec<String> = (0..100).map(|n| format!("orders:#{}", hundred * 100 + n)).collect();
            let data = || format!("\"{round} {}\"", "x".repeat(200));
            let batch = channels.iter().map(|channel| publication(channel, data())).collect::<Result<_>>()?;
            for (channel, outcome) in channels.into_iter().zip(publisher.publish_all(batch).await) {
                match outcome {
                    Ok(receipt) => {
                        let position = receipt.position.context("the topic keeps history")?;
                        let epoch = position.epoch.to_string();
                        let place = (channel.clone(), epoch.clone(), position.offset);
                        assert!(given.insert(place), "{channel} {epoch} {} was given before", position.offset);
                        epochs.entry(channel).or_default().insert(epoch);
                        published += 1;
                    }
                    Err(PublishError::Redis(RedisError::OutOfMemory)) => full += 1,
                    Err(error) => return Err(error).context("only a full Redis may refuse"),
                }
            }
        }
    }
    assert!(info(&redis, "stats", "evicted_keys").await? > 1_000, "the limit is too wide for this test");
    assert!(epochs.values().filter(|epochs| epochs.len() > 1).count() > 100, "positions were evicted");
    assert!(published > 11_000, "{published} published, {full} refused");
    Ok(())
}

// ---- subscribing

#[tokio::test]
async fn while_redis_is_full_subscriptions_are_answered_as_unrecoverable_and_nobody_loses_the_connection() -> Result<()>
{
    let redis = Redis::start().await?;
    let bridge = LoneBridge::start(&redis.url(), "").await?;
    let library = publisher(&redis.url())?;
    let (before, _) = bridge.client("4").await?;
    limit(&redis, Some(1)).await?;
    let (client, connected) = bridge.client("42").await?;
    let orders = &connected["subs"]["orders:#42"];
    assert!(orders.is_object() && orders.get("recoverable").is_none(), "{connected}");
    let products = client.recover("products", "", 0).await?;
    assert_eq!((products.get("recoverable"), products.get("recovered")), (None, None), "{products}");
    let (_again, connected) = bridge.client("4").await?;
    assert_eq!(connected["subs"]["orders:#4"]["recoverable"], true, "a position that exists can be read: {connected}");
    assert!(is_full(&library.publish(publication("orders:#4", "0".into())?).await));

    limit(&redis, None).await?;
    for (user, client) in [("4", &before), ("42", &client)] {
        library.publish(publication(&format!("orders:#{user}"), "1".into())?).await?;
        assert_eq!(client.next_publication(SOON).await?.1["data"], 1, "the connection of {user} stayed");
    }
    let (_later, connected) = bridge.client("42").await?;
    assert_eq!(connected["subs"]["orders:#42"]["recoverable"], true, "{connected}");
    Ok(())
}

#[tokio::test]
async fn a_link_lost_while_redis_is_full_is_repaired_as_far_as_positions_exist() -> Result<()> {
    let redis = Redis::start().await?;
    let way = Proxy::start(redis.addr()).await?;
    let bridge = LoneBridge::start(&format!("redis://{}", way.addr()), "telling_window_seconds = 1").await?;
    let library = publisher(&redis.url())?;
    let (client, _) = bridge.client("42").await?;
    way.cut().await;
    library.publish(publication("orders:#42", "1".into())?).await?;
    // The restarted server would be another one; here only memory ends.
    limit(&redis, Some(1)).await?;
    way.restore().await?;
    assert_eq!(client.next_publication(SOON).await?.1["data"], 1);
    Ok(())
}

/// Under `allkeys-lru` any key can go at any time; deleting it is the same.
#[tokio::test]
async fn what_was_evicted_is_told_to_whoever_wants_to_recover_it() -> Result<()> {
    let redis = Redis::start().await?;
    redis.ask("CONFIG SET maxmemory-policy allkeys-lru").await?;
    let bridge = LoneBridge::start(&redis.url(), "").await?;
    let library = publisher(&redis.url())?;
    let (client, _) = bridge.client("42").await?;
    let epoch = client.subscribe("products").await?["epoch"].as_str().unwrap_or_default().to_owned();
    client.unsubscribe("products").await?;
    for n in 1..=3 {
        library.publish(publication("products", n.to_string())?).await?;
    }
    let evict = async |what: &str| redis.ask(&format!("DEL {}", redis.ask(&format!("KEYS *:{what}")).await?)).await;
    evict("history:products").await?;
    let history = client.recover("products", &epoch, 1).await?;
    assert_eq!((history.get("recovered"), &history["offset"], &history["epoch"]), (None, &json!(3), &json!(epoch)));
    client.unsubscribe("products").await?;
    evict("position:c:products").await?;
    let position = client.recover("products", &epoch, 3).await?;
    assert_eq!((position.get("recovered"), position.get("offset")), (None, None), "{position}");
    assert_ne!(position["epoch"], json!(epoch));
    library.publish(publication("products", "4".into())?).await?;
    assert_eq!(client.next_publication(SOON).await?.1["offset"], 1);
    Ok(())
}
