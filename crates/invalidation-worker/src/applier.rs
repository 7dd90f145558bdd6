//! Carries effects out on the region's Redis, for as long as this worker leads and the same server answers.

use std::time::Duration;

use fanout_core::admin::Health;
use fanout_core::{Publication, PublishError, Publisher, Redis, RedisError};

use crate::backoff::Backoff;
use crate::metrics::Metrics;
use crate::plan::Poison;
use crate::reign::Reign;

/// Longest wait after a failure.
const RETRY: Duration = Duration::from_secs(2);

/// See the module.
pub(crate) struct Applier {
    pub(crate) redis: Redis,
    pub(crate) publisher: Publisher,
    pub(crate) health: Health,
    pub(crate) metrics: Metrics,
    pub(crate) reign: Reign,
    /// The server on which everything so far took effect; `None` before the first effect, and where servers are not told
    /// apart.
    pub(crate) server: Option<String>,
}

/// Why effects were not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Halt {
    /// The reign is over.
    Over,
    /// Another server answers, which may lack what took effect on the one before.
    Moved,
}

impl Applier {
    /// Deletes `keys`, however often it takes.
    pub(crate) async fn delete(&self, keys: &[String]) -> Result<(), Halt> {
        if !keys.is_empty() {
            let deleted = self.insist(|| self.redis.unlink(keys, self.server.as_deref())).await?;
            self.metrics.keys.inc_by(deleted);
        }
        Ok(())
    }

    /// Publishes all, in order; what Redis did not confirm is tried again, and nothing overtakes it.
    pub(crate) async fn publish(&self, mut publications: Vec<Publication>) -> Result<(), Halt> {
        let mut failure = Backoff::upto(RETRY);
        while !publications.is_empty() {
            let server = self.server.as_deref();
            let results = self.publisher.publish_while(publications.clone(), server, || self.reign.may_act()).await;
            let mut again = Vec::new();
            let mut cause = None;
            for (publication, result) in publications.into_iter().zip(results) {
                match result {
                    Ok(receipt) => {
                        self.metrics.publications.inc();
                        self.metrics.repeated.inc_by(u64::from(receipt.repeated));
                    }
                    Err(PublishError::Redis(error)) => {
                        again.push(publication);
                        // What was not done only follows from what failed.
                        if cause.is_none() || !matches!(error, RedisError::NotDone(_)) {
                            cause = Some(error);
                        }
                    }
                    Err(error) => {
                        let reason =
                            if matches!(error, PublishError::UnknownTopic(_)) { "unknown_topic" } else { "limit" };
                        self.set_aside(&Poison { entry: 0, reason, text: format!("{}: {error}", publication.id) });
                    }
                }
            }
            publications = again;
            if let Some(error) = cause {
                self.failed(&error, &mut failure).await?;
            }
        }
        Ok(())
    }

    /// Repeats `command`, which must be harmless to repeat, until Redis confirms it.
    pub(crate) async fn insist<T, F>(&self, command: impl Fn() -> F) -> Result<T, Halt>
    where
        F: Future<Output = Result<T, RedisError>>,
    {
        let mut failure = Backoff::upto(RETRY);
        loop {
            if !self.reign.may_act() {
                return Err(Halt::Over);
            }
            match command().await {
                Ok(value) => return Ok(value),
                Err(error) => self.failed(&error, &mut failure).await?,
            }
        }
    }

    async fn failed(&self, error: &RedisError, wait: &mut Backoff) -> Result<(), Halt> {
        // Not Redis's fault: what this worker did not send, it was not permitted to send.
        if !self.reign.may_act() {
            return Err(Halt::Over);
        }
        if matches!(error, RedisError::Fenced) {
            return Err(Halt::Moved);
        }
        self.metrics.errors.count("redis");
        self.health.down("redis", error.to_string());
        if !self.reign.pause(wait.wait()).await {
            return Err(Halt::Over);
        }
        Ok(())
    }

    /// Counts and logs what cannot take effect.
    pub(crate) fn set_aside(&self, poison: &Poison) {
        self.metrics.poison.count(poison.reason);
        tracing::warn!(entry = poison.entry, reason = poison.reason, "set aside: {}", poison.text);
    }
}
