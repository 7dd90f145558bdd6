//! Cache-aside, step by step: look a key up, load what is not there, fill it under the lease.

use std::convert::Infallible;

use bytes::Bytes;
use fanout_core::RedisError;

use crate::error::{Error, KeyError};
use crate::family::Family;
use crate::flight::Moment;
use crate::key::Token;
use crate::script::{FILL_SCRIPT, LEASE_SCRIPT, RELEASE_SCRIPT};

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

impl Family {
    /// Looks a key up; when nothing is there, the first who looks is granted the lease.
    ///
    /// # Errors
    /// As any command; a key out of limits.
    pub async fn look(&self, key: &str) -> Result<Looked, Error<Infallible>> {
        KeyError::check(key, self.cache.shared.config.max_key_bytes)?;
        match self.get(key).await? {
            Some(value) => Ok(Looked::Found(value)),
            None => Ok(self.ask(key, &Token::random()).await?),
        }
    }

    /// Asks for the lease. Whoever asks again with the same token holds it still.
    pub(crate) async fn ask(&self, key: &str, token: &Token) -> Result<Looked, RedisError> {
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
}

impl Lease {
    /// Fills the key with what was loaded since the lease was granted. `false`: the value is not stored, because the lease
    /// had ended, so that it may be old, or because it is empty or too large.
    ///
    /// # Errors
    /// As any command; the value may then have been stored.
    pub async fn fill(self, value: impl Into<Bytes>) -> Result<bool, RedisError> {
        Ok(self.fill_with(&value.into()).await?.is_some())
    }

    /// The moment when the fill was sent that stored the value: until then nothing had deleted the key.
    pub(crate) async fn fill_with(self, value: &Bytes) -> Result<Option<Moment>, RedisError> {
        let Family { cache, name, ttl, .. } = &self.family;
        let shared = &cache.shared;
        if let Some(reason) = self.family.unfit(value) {
            shared.metrics.fill(name, reason);
            self.release().await?;
            return Ok(None);
        }
        let life = Bytes::from(shared.config.life_ms(*ttl).to_string());
        let arguments = vec![Bytes::from(self.token.as_str().to_owned()), value.clone(), life];
        let sent = Moment::now();
        let fill = FILL_SCRIPT.evalsha_with_reload(&shared.client, self.keys(), arguments);
        let answer: Result<u64, RedisError> = shared.attempt(name, fill).await;
        shared.metrics.fill(name, if matches!(answer, Ok(1)) { "stored" } else { "lost" });
        Ok((answer? == 1).then_some(sent))
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
