//! The cache: what readers are given, what writers leave, and what is in Redis meanwhile.

use std::time::Duration;

use anyhow::Result;
use cache::{Cache, CacheConfig};
use fanout_core::RedisConfig;
use fred::clients::Client;
use fred::interfaces::KeysInterface;
use griot_tests::eventually::eventually;
use griot_tests::servers::{Redis, prefix, shared};
use prometheus_client::registry::Registry;

mod fresh;
mod interleavings;
mod reading;
mod writing;

/// A cache as a process would have one, and what a client that knows nothing of it sees.
struct Process {
    cache: Cache,
    redis: Client,
    registry: Registry,
    prefix: String,
}

impl Process {
    /// On the server that the tests share.
    async fn start(config: CacheConfig) -> Result<Self> {
        Self::on(&shared().await.redis, config).await
    }

    async fn on(server: &Redis, config: CacheConfig) -> Result<Self> {
        let redis = server.client().await?;
        let mut registry = fanout_core::telemetry::registry();
        let connected = RedisConfig { url: server.url(), ..RedisConfig::default() };
        let connection = fanout_core::Redis::connect(&connected)?;
        eventually(Duration::from_secs(15), "it is connected", || async { connection.ping().await.is_ok() }).await;
        let cache = Cache::new(&connection, config, &mut registry)?;
        Ok(Self { cache, redis, registry, prefix: prefix() })
    }

    /// A key that no other test has.
    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// What a plain GET answers.
    async fn plain(&self, key: &str) -> Result<Option<String>> {
        Ok(self.redis.get(key).await?)
    }

    /// A metric of family `t`: `counted("hits", "")`, `counted("fills", "lost")`.
    fn counted(&self, name: &str, outcome: &str) -> u64 {
        let outcome = if outcome.is_empty() { String::new() } else { format!(",outcome=\"{outcome}\"") };
        let line = format!("griot_cache_{name}_total{{family=\"t\"{outcome}}} ");
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).expect("a text");
        text.lines().find_map(|counter| counter.strip_prefix(&line)?.parse().ok()).unwrap_or(0)
    }
}
