//! Publications that go to Redis together, of all kinds and partitions in one call, and what of them lasts how long.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use fanout_core::envelope::Envelope;
use fanout_core::history::{self, Ask};
use fanout_core::publisher::{Once, Version};
use fanout_core::{BATCH, Channel, Data, Publication, PublishError, Publisher, RedisConfig, RedisError};
use griot_tests::bridge::{publisher, publisher_with};
use griot_tests::eventually::eventually;
use griot_tests::servers::Redis;
use uuid::Uuid;

const SOON: Duration = Duration::from_secs(15);
const CHANNELS: [&str; 7] = [
    "orders:#1",
    "orders:#2",
    "notifications:#1",
    "wallet-updates:#1",
    "wallet-updates:#7",
    "products",
    "products:shoes",
];

/// Publications of all kinds, some of them repetitions or old versions of others.
fn of_all_kinds(seed: u64, count: usize) -> Result<Vec<Publication>> {
    let mut random = fastrand::Rng::with_seed(seed);
    let one = |number: usize| {
        let channel = CHANNELS[random.usize(..CHANNELS.len())];
        let mut publication = Publication::new(Channel::parse(channel)?, Data::parse(number.to_string())?);
        publication.conflation_key = random.bool().then(|| random.u8(..4).to_string());
        publication.skip_history = random.u8(..10) == 0;
        match random.u8(..4) {
            0 => publication.once = Once::Key(random.u8(..20).to_string()),
            1 => {
                publication.once = Once::Entry;
                publication.id = Uuid::from_u128(random.u128(..20));
            }
            2 => publication.version = Some(Version { number: random.u64(..1_000), epoch: String::new() }),
            _ => {}
        }
        Ok(publication)
    };
    (0..count).map(one).collect()
}

/// What the history of a channel has: offset and data, oldest first.
async fn kept_of(publisher: &Publisher, name: &str) -> Result<Vec<(u64, String)>> {
    let channel = Channel::parse(name)?;
    let topic = publisher.topics().of(&channel).context("no topic")?;
    let ask = Ask { limit: -1, ..Ask::default() };
    let page = history::page(publisher.redis(), topic, &channel, &ask).await?;
    let entry = |bytes: &Bytes| {
        let envelope = Envelope::parse(bytes)?;
        anyhow::Ok((envelope.position.offset, String::from_utf8_lossy(envelope.data.as_bytes()).into_owned()))
    };
    page.envelopes.iter().map(entry).collect()
}

async fn kept(publisher: &Publisher) -> Result<Vec<Vec<(u64, String)>>> {
    let mut all = Vec::new();
    for name in CHANNELS {
        all.push(kept_of(publisher, name).await?);
    }
    Ok(all)
}

#[tokio::test]
async fn what_is_published_together_is_as_if_it_were_published_one_by_one() -> Result<()> {
    let (one, other) = (Redis::start().await?, Redis::start().await?);
    let (together, alone) = (publisher(&one.url())?, publisher(&other.url())?);
    let seed = fastrand::u64(..);
    let publications = of_all_kinds(seed, 5 * BATCH + 1)?;
    let mut repeated = 0;
    for (number, receipt) in together.publish_all(publications.clone()).await.into_iter().enumerate() {
        let receipt = receipt?;
        let expected = alone.publish(publications[number].clone()).await?;
        let offset = |receipt: fanout_core::Receipt| receipt.position.map(|position| position.offset);
        ensure!(
            (offset(receipt), receipt.repeated) == (offset(expected), expected.repeated),
            "seed {seed}, publication {number}: {receipt:?}, alone {expected:?}"
        );
        repeated += usize::from(receipt.repeated);
    }
    assert!((1..publications.len()).contains(&repeated), "seed {seed}: {repeated} are repetitions");
    assert_eq!(kept(&together).await?, kept(&alone).await?, "seed {seed}");
    Ok(())
}

#[tokio::test]
async fn nothing_that_publishing_leaves_in_redis_stays_for_ever() -> Result<()> {
    let redis = Redis::start().await?;
    let mut publications = of_all_kinds(1, 200)?;
    // To one who is sent nothing else, so that nothing else keeps what it leaves.
    publications.push(Publication::new(Channel::parse("orders:#3")?, Data::parse("1".to_owned())?));
    for receipt in publisher(&redis.url())?.publish_all(publications).await {
        receipt?;
    }
    let mut kinds = Vec::new();
    for key in redis.ask("KEYS griot:{*").await?.lines() {
        let lives = redis.ask(&format!("TTL \"{key}\"")).await?;
        assert!(lives.parse::<i64>()? > 0, "{key} has a TTL of {lives}");
        kinds.extend(key.split(':').nth(2).map(str::to_owned));
    }
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds, ["done", "history", "latest", "once", "position"]);
    Ok(())
}

#[tokio::test]
async fn the_last_version_is_remembered_for_as_long_as_something_is_published_though_nobody_reads() -> Result<()> {
    let redis = Redis::start().await?;
    let short = RedisConfig { url: redis.url(), position_ttl_seconds: 3, ..RedisConfig::default() };
    let publisher = publisher_with(short)?;
    let versioned = |number: u64| -> Result<Publication> {
        let mut publication = Publication::new(Channel::parse("products")?, Data::parse(number.to_string())?);
        publication.version = Some(Version { number, epoch: String::new() });
        Ok(publication)
    };
    let first = publisher.publish(versioned(2)?).await?;
    redis.ask("SET longer 1 EX 7").await?;
    let mut number = 2;
    eventually(SOON, "more than twice the time of a position has passed", || {
        number += 1;
        let (publisher, redis, newer) = (&publisher, &redis, versioned(number));
        async move {
            let Ok(newer) = newer else { return false };
            let _ = publisher.publish(newer).await;
            redis.ask("EXISTS longer").await.is_ok_and(|exists| exists == "0")
        }
    })
    .await;
    let old = publisher.publish(versioned(1)?).await?;
    let epoch = |receipt: fanout_core::Receipt| receipt.position.map(|position| position.epoch);
    ensure!(old.repeated && epoch(old) == epoch(first), "after {number} others {old:?}, at first {first:?}");
    Ok(())
}

#[tokio::test]
async fn what_redis_refuses_costs_nothing_that_stands_before_it_and_nothing_overtakes_it() -> Result<()> {
    let redis = Redis::start().await?;
    let publisher = publisher(&redis.url())?;
    let to = |name: &str, number: usize| -> Result<Publication> {
        Ok(Publication::new(Channel::parse(name)?, Data::parse(number.to_string())?))
    };
    publisher.publish(to("orders:#2", 0)?).await?;
    let keys = redis.ask("KEYS griot:*:history:orders:#2").await?;
    let history = keys.trim();
    redis.ask(&format!("SET \"{history}\" text")).await?;

    let channels = (0..BATCH + 5).map(|number| if number == 3 { "orders:#2" } else { "orders:#1" });
    let batch: Vec<_> = channels.enumerate().map(|(number, name)| to(name, number)).collect::<Result<_>>()?;
    let outcomes = publisher.publish_all(batch.clone()).await;
    assert_eq!(outcomes.len(), batch.len());
    for (number, outcome) in outcomes.iter().enumerate() {
        match (number, outcome) {
            (..3, Ok(receipt)) => assert!(!receipt.repeated),
            (3, Err(PublishError::Redis(RedisError::Refused(text)))) => assert!(text.contains("WRONGTYPE"), "{text}"),
            (4.., Err(PublishError::Redis(RedisError::NotDone(text)))) => assert!(text.contains("WRONGTYPE"), "{text}"),
            _ => panic!("{number}: {outcome:?}"),
        }
    }
    let numbers = |numbers: &mut dyn Iterator<Item = usize>| -> Vec<_> {
        numbers.enumerate().map(|(before, number)| (before as u64 + 1, number.to_string())).collect()
    };
    assert_eq!(kept_of(&publisher, "orders:#1").await?, numbers(&mut (0..3)));

    redis.ask(&format!("DEL \"{history}\"")).await?;
    for outcome in publisher.publish_all(batch[3..].to_vec()).await {
        outcome?;
    }
    assert_eq!(kept_of(&publisher, "orders:#1").await?, numbers(&mut (0..BATCH + 5).filter(|number| *number != 3)));
    Ok(())
}
