//! The fence: a position never names two publications, also when a replica that misses the newest is promoted.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use fanout_core::{Channel, Data, Publication, Publisher, RedisConfig};
use griot_tests::bridge::{SECRET, publisher_with};
use griot_tests::eventually::eventually;
use griot_tests::process::Launch;
use griot_tests::proxy::Proxy;
use griot_tests::servers::{Redis, free_addr};

/// Every position that was given out, with the publication that has it.
#[derive(Default)]
struct Given(HashMap<(String, String, u64), Vec<u32>>);

impl Given {
    async fn publish(&mut self, publisher: &Publisher, channel: &str, number: u32) -> Result<()> {
        let publication = Publication::new(Channel::parse(channel)?, Data::parse(number.to_string())?);
        let receipt = publisher.publish(publication).await?;
        let position = receipt.position.expect("the topic keeps history");
        let place = (channel.to_owned(), position.epoch.to_string(), position.offset);
        self.0.entry(place).or_default().push(number);
        Ok(())
    }

    fn collisions(&self) -> usize {
        self.0.values().filter(|publications| publications.len() > 1).count()
    }
}

/// Publishes, promotes a replica that misses the newest entries, and publishes on, from one publisher that stays on its
/// connection's way and one that is new. Returns what was given out.
async fn promotion(fence: bool) -> Result<Given> {
    let primary = Redis::start().await?;
    // The replica is fed through a proxy, so that it can be left behind.
    let feed = Proxy::start(primary.addr()).await?;
    let replica = Redis::start_with(&["--replicaof", &format!("127.0.0.1 {}", feed.addr().port())]).await?;
    eventually(Duration::from_secs(10), "the replica follows", || async {
        replica.ask("INFO replication").await.is_ok_and(|info| info.contains("master_link_status:up"))
    })
    .await;
    // The publishers reach whoever is the primary, and are not told when that changes.
    let way = Proxy::start(primary.addr()).await?;
    let config = RedisConfig { url: format!("redis://{}", way.addr()), fence, ..RedisConfig::default() };
    let stale = publisher_with(config.clone())?;
    let channels = ["orders:#42", "orders:#4", "products"];
    let mut given = Given::default();
    let mut number = 0;
    let mut publish = async |given: &mut Given, publisher: &Publisher, times| -> Result<()> {
        for _ in 0..times {
            for channel in channels {
                number += 1;
                given.publish(publisher, channel, number).await?;
            }
        }
        Ok(())
    };
    publish(&mut given, &stale, 5).await?;
    let offset = |info: &str| info.lines().find_map(|line| line.strip_prefix("master_repl_offset:").map(str::to_owned));
    let target = offset(&primary.ask("INFO replication").await?);
    eventually(Duration::from_secs(10), "the replica has the first entries", || async {
        replica.ask("INFO replication").await.is_ok_and(|info| {
            info.lines().any(|line| line.strip_prefix("slave_repl_offset:").map(str::to_owned) >= target)
        })
    })
    .await;
    feed.stall();
    publish(&mut given, &stale, 5).await?;
    replica.ask("REPLICAOF NO ONE").await?;
    way.retarget(replica.addr());
    way.reset().await;
    let fresh = publisher_with(config)?;
    publish(&mut given, &fresh, 3).await?;
    // The stale one notices nothing but a broken connection.
    eventually(Duration::from_secs(10), "the stale publisher is connected again", || async {
        let probe =
            Publication::new(Channel::parse("notifications:#probe").expect("channel"), Data::parse("0").expect("json"));
        stale.publish(probe).await.is_ok()
    })
    .await;
    publish(&mut given, &stale, 5).await?;
    ensure!(given.0.values().map(Vec::len).sum::<usize>() == 54, "all were published");
    Ok(given)
}

#[tokio::test]
async fn no_position_names_two_publications_when_a_replica_without_the_newest_is_promoted() -> Result<()> {
    assert_eq!(promotion(true).await?.collisions(), 0);
    Ok(())
}

#[tokio::test]
async fn without_the_fence_the_same_promotion_gives_positions_out_twice() -> Result<()> {
    assert!(promotion(false).await?.collisions() > 0, "this test would not notice a missing fence");
    Ok(())
}

#[tokio::test]
async fn a_user_who_may_not_ask_for_the_servers_identity_is_told_which_right_is_missing() -> Result<()> {
    let redis = Redis::start().await?;
    redis.ask("ACL SETUSER app on >secret ~griot:* &* +@all -info").await?;
    let url = format!("redis://app:secret@{}", redis.addr());
    let send = || Launch::new("publisher").arg("send").arg("orders:#42").arg("{}").env("REDIS_URL", url.clone());
    let refused = send().run().await?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && said.contains("+info") && said.contains("fence = false"), "{said}");
    let unfenced = send().env("GRIOT_REDIS__FENCE", "false").run().await?;
    ensure!(unfenced.status.success(), "{}", String::from_utf8_lossy(&unfenced.stderr));
    Ok(())
}

#[tokio::test]
async fn a_process_whose_fence_differs_from_the_recorded_one_is_refused() -> Result<()> {
    for recorded in [false, true] {
        let redis = Redis::start().await?;
        let send = |fence: bool| {
            let launch = Launch::new("publisher").arg("send").arg("orders:#42").arg("{}");
            launch.env("REDIS_URL", redis.url()).env("GRIOT_REDIS__FENCE", fence.to_string()).run()
        };
        ensure!(send(recorded).await?.status.success(), "the first one records fence = {recorded}");
        let refused = send(!recorded).await?;
        let bridge = Launch::new("subscriber-bridge")
            .env("REDIS_URL", redis.url())
            .env("GRIOT_REDIS__FENCE", (!recorded).to_string())
            .env("GRIOT_SUBSCRIBER_BRIDGE__TOKEN_SECRET", SECRET)
            .env("GRIOT_SUBSCRIBER_BRIDGE__LISTEN", free_addr()?.to_string())
            .env("GRIOT_SUBSCRIBER_BRIDGE__ADMIN_LISTEN", free_addr()?.to_string());
        for ended in [refused, bridge.run().await?] {
            let said = String::from_utf8_lossy(&ended.stderr).into_owned();
            let way_out = format!("set fence = {recorded}");
            ensure!(!ended.status.success() && said.contains(&way_out), "{way_out:?} expected: {said}");
        }
        ensure!(send(recorded).await?.status.success(), "whoever agrees goes on");
    }
    Ok(())
}
