//! Keys that are read in the same way, and read-through.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fanout_core::RedisError;
use fred::interfaces::KeysInterface;
use fred::types::{Expiration, SetOptions};

use crate::cache::Cache;
use crate::config::WhenAway;
use crate::error::{Error, KeyError};
use crate::flight::{Moment, Turn};
use crate::key::{Token, companion};
use crate::lease::{Lease, Looked};

/// First and longest pause of a reader who waits for another process's fill.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(50));

/// Keys that are read and written in the same way.
#[derive(Debug, Clone)]
pub struct Family {
    pub(crate) cache: Cache,
    pub(crate) name: &'static str,
    pub(crate) ttl: Duration,
    pub(crate) version_field: &'static str,
    placeholders: bool,
}

impl Family {
    pub(crate) fn new(cache: Cache, name: &'static str) -> Self {
        let ttl = Duration::from_secs(cache.shared.config.ttl_seconds);
        Self { cache, name, ttl, version_field: "version", placeholders: true }
    }

    /// How long values live at most.
    #[must_use]
    pub fn ttl(self, ttl: Duration) -> Self {
        Self { ttl, ..self }
    }

    /// The field of the JSON value that holds its version, for write-through; `version` when not given.
    #[must_use]
    pub fn version_field(self, version_field: &'static str) -> Self {
        Self { version_field, ..self }
    }

    /// For keys that others read who do not take an empty string for a miss. There is no lease then: a value that was
    /// loaded before a change can be filled after the key was deleted, and stays until its life ends or the next change.
    /// Choose a short [`ttl`](Self::ttl).
    #[must_use]
    pub fn without_placeholders(self) -> Self {
        Self { placeholders: false, ..self }
    }

    /// The value of `key`: from Redis, or else what `load` gives, which is then in Redis for those who come after.
    ///
    /// `load` begins after the lease was granted, and must read what is committed then: on the primary, in no transaction
    /// that is older. Readers of one key share a load when it is fresh enough for them. It may be dropped at any moment.
    ///
    /// # Errors
    /// What `load` answers; a key out of limits; Redis, if so configured.
    pub async fn read_through<V: Into<Bytes>, E: Send + Sync + 'static>(
        &self,
        key: &str,
        load: impl AsyncFnOnce() -> Result<V, E>,
    ) -> Result<Bytes, Error<E>> {
        let shared = &self.cache.shared;
        KeyError::check(key, shared.config.max_key_bytes)?;
        let began = Moment::now();
        match self.get(key).await {
            Ok(Some(value)) => {
                shared.metrics.hit(self.name);
                return Ok(value);
            }
            Ok(None) => shared.metrics.miss(self.name),
            Err(error) => {
                shared.metrics.miss(self.name);
                self.without_redis(error)?;
            }
        }
        let Some(seat) = shared.flights.join(key, shared.config.max_flights) else {
            return self.lead(key, &mut Turn::default(), load).await;
        };
        let wait = Duration::from_millis(shared.config.flight_wait_ms);
        let Ok(mut turn) = tokio::time::timeout(wait, seat.turn()).await else {
            shared.metrics.fill(self.name, "unfilled");
            return self.load(load).await.map_err(Error::Load);
        };
        if let Some(outcome) = turn.outcome(began) {
            shared.metrics.shared(self.name);
            return outcome.map_err(Error::Load);
        }
        self.lead(key, &mut turn, load).await
    }

    /// The companion of a key that is leased.
    pub(crate) fn leased_by(&self, key: &str) -> Option<String> {
        companion(key).filter(|_| self.placeholders)
    }

    /// The value, of which an empty one is none.
    pub(crate) async fn get(&self, key: &str) -> Result<Option<Bytes>, RedisError> {
        let shared = &self.cache.shared;
        let value: Option<Bytes> = shared.attempt(self.name, shared.client.get(key)).await?;
        Ok(value.filter(|value| !value.is_empty()))
    }

    /// Has the turn: finds the value, or loads and fills it.
    async fn lead<V: Into<Bytes>, E: Send + Sync + 'static>(
        &self,
        key: &str,
        turn: &mut Turn,
        load: impl AsyncFnOnce() -> Result<V, E>,
    ) -> Result<Bytes, Error<E>> {
        let waits_until = Instant::now() + Duration::from_millis(self.cache.shared.config.lease_wait_ms);
        let mut pause = PAUSE.0;
        loop {
            let as_of = Moment::now();
            let token = turn.token.get_or_insert_with(Token::random).clone();
            let looked = match self.ask(key, &token).await {
                Ok(looked) => looked,
                Err(error) => {
                    self.without_redis(error)?;
                    Looked::Unleased
                }
            };
            let left = waits_until.saturating_duration_since(Instant::now());
            let lease = match looked {
                Looked::Found(value) => {
                    turn.land::<E>(&Ok(value.clone()), as_of);
                    return Ok(value);
                }
                Looked::Taken if !left.is_zero() => {
                    tokio::time::sleep(pause.mul_f64(0.5 + 0.5 * fastrand::f64()).min(left)).await;
                    pause = (pause * 2).min(PAUSE.1);
                    continue;
                }
                Looked::Granted(lease) => Some(lease),
                Looked::Taken | Looked::Unleased => None,
            };
            return self.load_and_fill(key, turn, lease, load).await.map_err(Error::Load);
        }
    }

    async fn load_and_fill<V: Into<Bytes>, E: Send + Sync + 'static>(
        &self,
        key: &str,
        turn: &mut Turn,
        lease: Option<Lease>,
        load: impl AsyncFnOnce() -> Result<V, E>,
    ) -> Result<Bytes, Arc<E>> {
        let before = Moment::now();
        let loaded = self.load(load).await;
        turn.token = None;
        let as_of = match (&loaded, lease) {
            // A value that could not be stored may have changed since its load began.
            (Ok(value), Some(lease)) => lease.fill_with(value).await.ok().flatten().unwrap_or(before),
            (Ok(value), None) => {
                self.fill_unleased(key, value).await;
                before
            }
            (Err(_), lease) => {
                if let Some(lease) = lease {
                    // What cannot be given back ends by its time.
                    let _ended = lease.release().await;
                }
                // An error is as good for whoever came meanwhile.
                Moment::now()
            }
        };
        turn.land(&loaded, as_of);
        loaded
    }

    async fn load<V: Into<Bytes>, E>(&self, load: impl AsyncFnOnce() -> Result<V, E>) -> Result<Bytes, Arc<E>> {
        let begun = Instant::now();
        let loaded = load().await;
        let outcome = if loaded.is_ok() { "ok" } else { "failed" };
        self.cache.shared.metrics.load(self.name, outcome, begun.elapsed());
        loaded.map(Into::into).map_err(Arc::new)
    }

    /// Without placeholders nothing says whether the key was deleted meanwhile; what is there already is at least not
    /// replaced. Keys that are not leased for their braces, or are under somebody else's lease, are not filled.
    async fn fill_unleased(&self, key: &str, value: &Bytes) {
        let shared = &self.cache.shared;
        let unfilled = self.unfit(value).or(self.placeholders.then_some("unfilled"));
        if let Some(reason) = unfilled {
            return shared.metrics.fill(self.name, reason);
        }
        let life = i64::try_from(shared.config.life_ms(self.ttl)).unwrap_or(i64::MAX);
        let set = shared.client.set(key, value.clone(), Some(Expiration::PX(life)), Some(SetOptions::NX), false);
        let stored: Result<Option<String>, RedisError> = shared.attempt(self.name, set).await;
        shared.metrics.fill(self.name, if matches!(stored, Ok(Some(_))) { "stored" } else { "lost" });
    }

    /// Why a value is not cached, if it is not.
    pub(crate) fn unfit(&self, value: &Bytes) -> Option<&'static str> {
        match value.len() {
            0 => Some("empty"),
            bytes if bytes > self.cache.shared.config.max_value_bytes => Some("too_large"),
            _ => None,
        }
    }

    /// Goes on without Redis, or says that it may not.
    fn without_redis(&self, error: RedisError) -> Result<(), RedisError> {
        match self.cache.shared.config.when_away {
            WhenAway::Load => Ok(()),
            WhenAway::Fail => Err(error),
        }
    }
}
