//! What the shop's backend keeps in Redis: products, which are read through, and balances, which are written through.

use std::time::Duration;

use anyhow::Result;
use cache::{Cache, CacheConfig, Family};
use fanout_core::{Redis, RedisConfig};
use griot_tests::stage::Stage;

/// A balance that its writer could not put there is old until its life ends.
const BALANCE_TTL: Duration = Duration::from_secs(60);

/// Families of keys, and their names.
#[derive(Debug)]
pub(crate) struct Caches {
    products: Family,
    balances: Family,
}

impl Caches {
    pub(crate) fn open(stage: &Stage) -> Result<Self> {
        let redis = Redis::connect(&RedisConfig { url: stage.servers.redis.url(), ..RedisConfig::default() })?;
        let cache = Cache::new(&redis, CacheConfig::default(), &mut fanout_core::telemetry::registry())?;
        Ok(Self { products: cache.family("product"), balances: cache.family("balance").ttl(BALANCE_TTL) })
    }

    /// A product. A rule deletes the key before a page is told of a change.
    pub(crate) fn product(&self, id: i64) -> (&Family, String) {
        (&self.products, format!("product:{id}"))
    }

    /// A customer's balance. No rule names the key: it would delete what a payment has just put there. So whatever changes
    /// a balance writes it through, and a page believes the publication, whose version is never behind.
    pub(crate) fn balance(&self, user: &str) -> (&Family, String) {
        (&self.balances, format!("balance:{user}"))
    }
}
