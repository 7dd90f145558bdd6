//! A cache in one Redis: what its families share.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fanout_core::config::ConfigError;
use fanout_core::{Redis, RedisError};
use fred::clients::Client;
use fred::interfaces::KeysInterface;
use prometheus_client::registry::Registry;

use crate::config::CacheConfig;
use crate::family::Family;
use crate::flight::Flights;
use crate::metrics::Metrics;

/// Deletions that wait for their answers at the same time.
const UNLINK_BATCH: usize = 256;

/// A cache in front of a database. Clones are the same cache.
#[derive(Debug, Clone)]
pub struct Cache {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) client: Client,
    pub(crate) config: CacheConfig,
    pub(crate) metrics: Metrics,
    pub(crate) flights: Flights,
    /// Until when readers leave Redis alone.
    away_until: Mutex<Option<Instant>>,
}

impl Cache {
    /// A cache in `redis`, which must lead to the primary: a replica may still have what was deleted. Metrics are called
    /// `cache_…`, behind the prefix of `registry` ([`fanout_core::telemetry::registry`] has `griot`).
    ///
    /// # Errors
    /// A configuration that cannot work.
    pub fn new(redis: &Redis, config: CacheConfig, registry: &mut Registry) -> Result<Self, ConfigError> {
        config.check()?;
        let metrics = Metrics::register(registry);
        let client = redis.client().clone();
        let shared = Shared { client, config, metrics, flights: Flights::default(), away_until: Mutex::default() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Keys that are read and written in the same way, `product:1`, `product:2`, …; `name` is their label in the metrics.
    pub fn family(&self, name: &'static str) -> Family {
        Family::new(self.clone(), name)
    }

    /// Deletes keys, and by that ends their leases: what was loaded before is not filled after. Returns how many existed.
    ///
    /// A writer calls it after its commit. Where a rule of the invalidation-worker names the keys, nobody needs to.
    ///
    /// # Errors
    /// Redis did not confirm: some of the keys may still be there. Deleting again is harmless.
    pub async fn invalidate<K: AsRef<str>>(&self, keys: &[K]) -> Result<u64, RedisError> {
        let mut existed = 0;
        for batch in keys.chunks(UNLINK_BATCH) {
            // One command per key: in a cluster they lie in different slots.
            let unlinked = batch.iter().map(|key| self.shared.client.unlink::<u64, _>(key.as_ref()));
            let unlinked = futures::future::try_join_all(unlinked);
            let counts = self.shared.insist("invalidate", unlinked).await?;
            existed += counts.into_iter().sum::<u64>();
        }
        self.shared.metrics.invalidated(existed);
        Ok(existed)
    }

    /// Keys that are being loaded now; at most `max_flights`.
    pub fn flights(&self) -> usize {
        self.shared.flights.len()
    }
}

impl Shared {
    /// Carries a reader's command out, unless Redis was away a moment ago.
    pub(crate) fn attempt<T>(
        &self,
        family: &'static str,
        command: impl Future<Output = Result<T, fred::error::Error>> + Send,
    ) -> impl Future<Output = Result<T, RedisError>> + Send {
        let insisting = self.insist(family, command);
        async move {
            let away_until = *self.away_until.lock().unwrap_or_else(PoisonError::into_inner);
            if away_until.is_some_and(|until| Instant::now() < until) {
                return Err(RedisError::NotDone("it was away a moment ago".into()));
            }
            insisting.await
        }
    }

    /// Carries a command out.
    pub(crate) fn insist<T>(
        &self,
        family: &'static str,
        command: impl Future<Output = Result<T, fred::error::Error>> + Send,
    ) -> impl Future<Output = Result<T, RedisError>> + Send {
        // A command of fred is a future of 20 KB, which would be part of every future around it.
        let command = Box::pin(command);
        async move {
            let limit = Duration::from_millis(self.config.command_timeout_ms);
            let answer = match tokio::time::timeout(limit, command).await {
                Ok(answer) => answer.map_err(RedisError::from),
                Err(_) => Err(RedisError::Away(format!("no answer within {limit:?}"))),
            };
            if let Err(error) = &answer {
                self.failed(family, error);
            }
            answer
        }
    }

    fn failed(&self, family: &'static str, error: &RedisError) {
        self.metrics.error(family, if error.is_away() { "away" } else { "refused" });
        tracing::debug!(family, %error, "the cache");
        if error.is_away() {
            let until = Instant::now() + Duration::from_millis(self.config.away_pause_ms);
            *self.away_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
        }
    }
}
