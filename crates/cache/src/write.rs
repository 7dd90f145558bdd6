//! Write-through with versions: the database first, then the cache, and never an older version over a newer one.

use std::sync::Arc;

use bytes::Bytes;
use fanout_core::RedisError;

use crate::error::{Error, KeyError};
use crate::family::Family;
use crate::key::{Token, companion};
use crate::script::{CLAIM_SCRIPT, WRITE_SCRIPT};

/// What became of the cache after a write that was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Readers find this version.
    Stored,
    /// Readers find a version that is as new or newer.
    Kept,
    /// Nothing is there: the key was not cached, or was deleted since the write began, or somebody else was loading it,
    /// which is now void. The next reader loads.
    Absent,
    /// The value, or the one that was there, is no JSON object with a number in the family's version field; the key was
    /// deleted. That is a mistake of the application, and logged.
    Unversioned,
    /// Too large for the cache; the key was deleted.
    TooLarge,
    /// Redis did not confirm: the version from before may be there, until a rule of the invalidation-worker or its life
    /// ends it.
    Away,
}

/// A write that was committed.
#[derive(Debug, Clone)]
pub struct Written {
    /// What the closure gave.
    pub value: Bytes,
    /// What became of the cache.
    pub outcome: Outcome,
}

impl Outcome {
    fn label(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Kept => "kept",
            Self::Absent => "absent",
            Self::Unversioned => "unversioned",
            Self::TooLarge => "too_large",
            Self::Away => "away",
        }
    }
}

impl Family {
    /// Writes by `write`, which commits and gives the new value: a JSON object whose version field is larger than with
    /// every write of this key before (`version = version + 1` in the row that is locked). Then puts it into the cache.
    ///
    /// Where nothing is cached the writer takes the lease before it writes, also from a reader, and readers wait for it as
    /// for a load. So a version is only ever put where nothing newer was deleted: two writers in any order leave the newest,
    /// or nothing.
    ///
    /// A rule of the invalidation-worker that names the key deletes it after the commit, and with it what was put there;
    /// without one a push can be faster than this write. `docs/cache.md` says which of the two to choose.
    ///
    /// When `write` fails the key is deleted, because the commit may have been done all the same. When it is dropped, the
    /// version from before stays until a rule of the invalidation-worker or its life ends it.
    ///
    /// # Errors
    /// What `write` answers; a key out of limits. Redis never: the write counts, and [`Outcome::Away`] tells.
    pub async fn write_through<V: Into<Bytes>, E>(
        &self,
        key: &str,
        write: impl AsyncFnOnce() -> Result<V, E>,
    ) -> Result<Written, Error<E>> {
        KeyError::check(key, self.cache.shared.config.max_key_bytes)?;
        let token = self.claim(key).await;
        match write().await {
            Ok(value) => {
                let value = value.into();
                let outcome = self.written(key, token.as_ref(), &value).await;
                Ok(Written { value, outcome })
            }
            Err(error) => {
                self.cache.shared.metrics.write(self.name, "failed");
                // What Redis does not confirm is counted; the error that matters is the write's.
                let _deleted = self.cache.invalidate(&[key]).await;
                Err(Error::Load(Arc::new(error)))
            }
        }
    }

    /// Puts a version that was committed already into the cache, where an older one is. It fills no key that is not cached:
    /// a newer version may have been deleted since.
    ///
    /// # Errors
    /// A key out of limits.
    pub async fn replace(&self, key: &str, value: impl Into<Bytes>) -> Result<Outcome, KeyError> {
        KeyError::check(key, self.cache.shared.config.max_key_bytes)?;
        Ok(self.written(key, None, &value.into()).await)
    }

    /// The writer's lease, where there is no value.
    async fn claim(&self, key: &str) -> Option<Token> {
        let shared = &self.cache.shared;
        let companion = self.leased_by(key)?;
        let token = Token::random();
        let arguments = vec![token.as_str().to_owned(), shared.config.lease_ms.to_string()];
        let claim = CLAIM_SCRIPT.evalsha_with_reload(&shared.client, vec![key.to_owned(), companion], arguments);
        let claimed: Result<u64, RedisError> = shared.insist(self.name, claim).await;
        matches!(claimed, Ok(1)).then_some(token)
    }

    async fn written(&self, key: &str, token: Option<&Token>, value: &Bytes) -> Outcome {
        let outcome = self.try_written(key, token, value).await.unwrap_or(Outcome::Away);
        if outcome == Outcome::Unversioned {
            tracing::warn!(family = self.name, key, field = self.version_field, "a value has no version");
        }
        self.cache.shared.metrics.write(self.name, outcome.label());
        outcome
    }

    async fn try_written(&self, key: &str, token: Option<&Token>, value: &Bytes) -> Result<Outcome, RedisError> {
        let shared = &self.cache.shared;
        if self.unfit(value) == Some("too_large") {
            self.cache.invalidate(&[key]).await?;
            return Ok(Outcome::TooLarge);
        }
        let arguments = vec![
            Bytes::from(token.map_or_else(String::new, |token| token.as_str().to_owned())),
            value.clone(),
            Bytes::from_static(self.version_field.as_bytes()),
            Bytes::from(shared.config.life_ms(self.ttl).to_string()),
        ];
        let keys: Vec<String> = std::iter::once(key.to_owned()).chain(companion(key)).collect();
        let write = WRITE_SCRIPT.evalsha_with_reload(&shared.client, keys, arguments);
        let answer: String = shared.insist(self.name, write).await?;
        match answer.as_str() {
            "stored" => Ok(Outcome::Stored),
            "kept" => Ok(Outcome::Kept),
            "absent" => Ok(Outcome::Absent),
            "unversioned" => Ok(Outcome::Unversioned),
            _ => Err(RedisError::Refused(format!("the write script answered {answer:?}"))),
        }
    }
}
