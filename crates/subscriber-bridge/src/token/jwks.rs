//! A key set at an address (JWKS, RFC 7517): fetched by one caller at a time, seldom, and kept for a limited time.

use std::path::Path;
use std::time::Duration;

use fanout_core::config::ConfigError;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use super::FetchError;
use super::keys::Keys;
use crate::outbound::{Limits, Outbound};

/// Least time between two fetches: whoever shows tokens with invented key ids causes no more. Whoever has a token of a
/// new key waits as long, and clients wait 5 s.
const INTERVAL: Duration = Duration::from_secs(2);
/// How long keys serve before they are fetched again, so that a key taken out of the set ends.
const FRESH: Duration = Duration::from_secs(300);
/// How long keys serve while their address does not answer.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// Key sets of large issuers are a few kilobytes.
const LIMITS: Limits = Limits { patience: Duration::from_secs(3), max_bytes: 256 * 1024, max_idle: 1 };

/// See the module.
pub(super) struct Jwks {
    outbound: Outbound,
    /// Held while fetching: that is what makes it one caller at a time.
    history: Mutex<History>,
}

/// What a fetch brought.
pub(super) enum Fetched {
    Keys(Keys),
    Failed(FetchError),
    /// As the fetch before.
    FailedAgain,
}

#[derive(Default)]
struct History {
    /// When the last fetch began, whatever came of it.
    attempted: Option<Instant>,
    /// When the last fetch began that has ended, and its error.
    ended: Option<(Instant, Option<FetchError>)>,
    /// When the last fetch began that brought keys.
    fetched: Option<Instant>,
}

impl Jwks {
    pub(super) fn new(field: &str, url: &str, ca_file: Option<&Path>) -> Result<Self, ConfigError> {
        Ok(Self { outbound: Outbound::new(field, url, ca_file, LIMITS)?, history: Mutex::default() })
    }

    /// Waits for a fetch that began after this call; many callers share one. Whoever makes it tells `done` what it brought,
    /// with an error only if that is news.
    pub(super) async fn learn(&self, done: impl FnOnce(Fetched)) -> Result<(), FetchError> {
        let asked = Instant::now();
        let mut history = self.history.lock().await;
        if let Some((began, error)) = &history.ended
            && *began >= asked
        {
            return error.clone().map_or(Ok(()), Err);
        }
        if let Some(attempted) = history.attempted {
            sleep_until(attempted + INTERVAL).await;
        }
        let began = Instant::now();
        history.attempted = Some(began);
        let fetched = self.fetch().await;
        let ended = (began, fetched.as_ref().err().cloned());
        let before = history.ended.replace(ended).and_then(|(_, error)| error);
        match fetched {
            Ok(keys) => {
                history.fetched = Some(began);
                done(Fetched::Keys(keys));
                Ok(())
            }
            Err(error) => {
                done(if before.as_ref() == Some(&error) {
                    Fetched::FailedAgain
                } else {
                    Fetched::Failed(error.clone())
                });
                Err(error)
            }
        }
    }

    async fn fetch(&self) -> Result<Keys, FetchError> {
        let document = self.outbound.get().await.map_err(|error| FetchError(error.to_string()))?;
        Keys::set(&document).map_err(FetchError)
    }

    /// Whether the keys are to be fetched again.
    pub(super) async fn is_due(&self) -> bool {
        self.older_than(FRESH).await
    }

    /// Whether the keys may not serve any longer.
    pub(super) async fn is_outdated(&self) -> bool {
        self.older_than(MAX_AGE).await
    }

    async fn older_than(&self, age: Duration) -> bool {
        self.history.lock().await.fetched.is_none_or(|at| at.elapsed() >= age)
    }
}
