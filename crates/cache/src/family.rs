//! Keys that are read in the same way: read-through, and the steps of which it consists for cache-aside.

use std::future::Future;
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
use crate::script::{FILL_SCRIPT, LEASE_SCRIPT, RELEASE_SCRIPT};

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

/// What a reader found.
#[derive(Debug)]
pub enum Looked {
    /// The value.
    Found(Bytes),
    /// Nothing, and it is the reader's to load: fill or release the lease.
    Granted(Lease),
    /// Nothing yet: somebody else loads.
    Taken,
    /// Nothing, and no lease is given for this key: load, and fill nothing.
    Unleased,
}

/// The right to fill a key with what is loaded from now on. It ends by itself after `lease_ms`, and when the key is
/// deleted or written.
#[derive(Debug)]
#[must_use = "load, then fill it or release it; other readers wait"]
pub struct Lease {
    family: Family,
    key: String,
    companion: String,
    token: Token,
}

/// What a loaded value is worth to others.
enum Filled {
    /// Nothing had deleted the key when this fill was sent.
    Stored(Moment),
    No,
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
    pub async fn read_through<V, E, F, Fut>(&self, key: &str, load: F) -> Result<Bytes, Error<E>>
    where
        V: Into<Bytes>,
        E: Send + Sync + 'static,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<V, E>>,
    {
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
            return self.load_unfilled(load).await;
        };
        if let Some(outcome) = turn.outcome(began) {
            shared.metrics.shared(self.name);
            return outcome;
        }
        self.lead(key, &mut turn, load).await
    }

    /// Looks a key up; when nothing is there, the first who looks is granted the lease.
    ///
    /// # Errors
    /// As any command; a key out of limits.
    pub async fn look(&self, key: &str) -> Result<Looked, Error<std::convert::Infallible>> {
        KeyError::check(key, self.cache.shared.config.max_key_bytes)?;
        match self.get(key).await? {
            Some(value) => Ok(Looked::Found(value)),
            None => Ok(self.ask(key, &Token::random()).await?),
        }
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, RedisError> {
        let shared = &self.cache.shared;
        let value: Option<Bytes> = shared.attempt(self.name, shared.client.get(key)).await?;
        Ok(value.filter(|value| !value.is_empty()))
    }

    /// The companion of a key that is leased.
    pub(crate) fn leased_by(&self, key: &str) -> Option<String> {
        companion(key).filter(|_| self.placeholders)
    }

    /// Asks for the lease. Whoever asks again with the same token holds it still.
    async fn ask(&self, key: &str, token: &Token) -> Result<Looked, RedisError> {
        let shared = &self.cache.shared;
        let Some(companion) = self.leased_by(key) else {
            return Ok(self.get(key).await?.map_or(Looked::Unleased, Looked::Found));
        };
        let keys = vec![key.to_owned(), companion.clone()];
        let arguments = vec![token.as_str().to_owned(), shared.config.lease_ms.to_string()];
        let asked = LEASE_SCRIPT.evalsha_with_reload(&shared.client, keys, arguments);
        let answer: Option<Bytes> = shared.attempt(self.name, asked).await?;
        Ok(match answer {
            Some(value) if value.is_empty() => {
                shared.metrics.lease(self.name, "refused");
                Looked::Taken
            }
            Some(value) => Looked::Found(value),
            None => {
                shared.metrics.lease(self.name, "granted");
                let family = self.clone();
                Looked::Granted(Lease { family, key: key.to_owned(), companion, token: token.clone() })
            }
        })
    }

    /// Has the turn: finds the value, or loads and fills it.
    async fn lead<V, E, F, Fut>(&self, key: &str, turn: &mut Turn, load: F) -> Result<Bytes, Error<E>>
    where
        V: Into<Bytes>,
        E: Send + Sync + 'static,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<V, E>>,
    {
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
                    let found = Ok(value);
                    turn.land(&found, as_of);
                    return found;
                }
                Looked::Taken if !left.is_zero() => {
                    tokio::time::sleep(pause.mul_f64(0.5 + 0.5 * fastrand::f64()).min(left)).await;
                    pause = (pause * 2).min(PAUSE.1);
                    continue;
                }
                Looked::Granted(lease) => Some(lease),
                Looked::Taken | Looked::Unleased => None,
            };
            return self.load_and_fill(key, turn, lease, load).await;
        }
    }

    async fn load_and_fill<V, E, F, Fut>(
        &self,
        key: &str,
        turn: &mut Turn,
        lease: Option<Lease>,
        load: F,
    ) -> Result<Bytes, Error<E>>
    where
        V: Into<Bytes>,
        E: Send + Sync + 'static,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<V, E>>,
    {
        let before = Moment::now();
        let loaded = self.load(load).await;
        turn.token = None;
        let filled = match (&loaded, lease) {
            (Ok(value), Some(lease)) => lease.fill_as_of(value).await.unwrap_or(Filled::No),
            (Ok(value), None) => {
                self.fill_unleased(key, value).await;
                Filled::No
            }
            (Err(_), Some(lease)) => {
                // What cannot be given back ends by its time.
                let _ended = lease.release().await;
                Filled::No
            }
            (Err(_), None) => Filled::No,
        };
        let as_of = match (filled, &loaded) {
            (Filled::Stored(sent), _) => sent,
            // Nobody knows what has changed since the load began. An error is not older for that.
            (Filled::No, Ok(_)) => before,
            (Filled::No, Err(_)) => Moment::now(),
        };
        turn.land(&loaded, as_of);
        loaded
    }

    /// Loads for oneself alone.
    async fn load_unfilled<V, E, F, Fut>(&self, load: F) -> Result<Bytes, Error<E>>
    where
        V: Into<Bytes>,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<V, E>>,
    {
        let loaded = self.load(load).await;
        self.cache.shared.metrics.fill(self.name, "unfilled");
        loaded
    }

    async fn load<V, E, F, Fut>(&self, load: F) -> Result<Bytes, Error<E>>
    where
        V: Into<Bytes>,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<V, E>>,
    {
        let begun = Instant::now();
        let loaded = load().await;
        let outcome = if loaded.is_ok() { "ok" } else { "failed" };
        self.cache.shared.metrics.load(self.name, outcome, begun.elapsed());
        loaded.map(Into::into).map_err(|error| Error::Load(Arc::new(error)))
    }

    /// Without placeholders nothing says whether the key was deleted meanwhile; what is there already is at least not
    /// replaced. Keys that are not leased for their braces, or are under somebody else's lease, are not filled.
    async fn fill_unleased(&self, key: &str, value: &Bytes) {
        let shared = &self.cache.shared;
        if self.placeholders || self.unfit(value) {
            return shared.metrics.fill(self.name, self.unfit_reason(value).unwrap_or("unfilled"));
        }
        let life = i64::try_from(shared.config.life_ms(self.ttl)).unwrap_or(i64::MAX);
        let set = shared.client.set(key, value.clone(), Some(Expiration::PX(life)), Some(SetOptions::NX), false);
        let stored: Result<Option<String>, RedisError> = shared.attempt(self.name, set).await;
        shared.metrics.fill(self.name, if matches!(stored, Ok(Some(_))) { "stored" } else { "lost" });
    }

    fn unfit(&self, value: &Bytes) -> bool {
        self.unfit_reason(value).is_some()
    }

    pub(crate) fn unfit_reason(&self, value: &Bytes) -> Option<&'static str> {
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

impl Lease {
    /// Fills the key with what was loaded since the lease was granted. `false`: the lease had ended, so that the value may
    /// be old, or the value is empty or too large; it is the reader's own all the same.
    ///
    /// # Errors
    /// As any command; the value may then have been stored.
    pub async fn fill(self, value: impl Into<Bytes>) -> Result<bool, RedisError> {
        Ok(matches!(self.fill_as_of(&value.into()).await?, Filled::Stored(_)))
    }

    async fn fill_as_of(self, value: &Bytes) -> Result<Filled, RedisError> {
        if let Some(reason) = self.family.unfit_reason(value) {
            self.family.cache.shared.metrics.fill(self.family.name, reason);
            self.release().await?;
            return Ok(Filled::No);
        }
        let Family { cache, name, ttl, .. } = &self.family;
        let shared = &cache.shared;
        let life = Bytes::from(shared.config.life_ms(*ttl).to_string());
        let arguments = vec![Bytes::from(self.token.as_str().to_owned()), value.clone(), life];
        let sent = Moment::now();
        let fill = FILL_SCRIPT.evalsha_with_reload(&shared.client, self.keys(), arguments);
        let stored: Result<u64, RedisError> = shared.attempt(name, fill).await;
        shared.metrics.fill(name, if matches!(stored, Ok(1)) { "stored" } else { "lost" });
        Ok(if stored? == 1 { Filled::Stored(sent) } else { Filled::No })
    }

    /// Gives the lease back without a value, so that the next reader need not wait for its end. `false`: it had ended.
    ///
    /// # Errors
    /// As any command; the lease then ends by its time.
    pub async fn release(self) -> Result<bool, RedisError> {
        let shared = &self.family.cache.shared;
        let arguments = vec![self.token.as_str().to_owned()];
        let released = RELEASE_SCRIPT.evalsha_with_reload(&shared.client, self.keys(), arguments);
        let released: u64 = shared.attempt(self.family.name, released).await?;
        Ok(released == 1)
    }

    fn keys(&self) -> Vec<String> {
        vec![self.key.clone(), self.companion.clone()]
    }
}
