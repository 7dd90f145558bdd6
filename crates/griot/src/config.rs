//! One configuration file with the sections of all three workers; each is read, and refused, as its worker would.

use std::path::Path;
use std::time::Duration;

use fanout_core::config::{ConfigError, LogConfig, load};

/// What each worker reads of the file.
#[derive(Debug)]
pub struct Config {
    /// Of the subscriber-bridge, on whose address everything is.
    pub bridge: subscriber_bridge::Config,
    /// Of the publisher; its own addresses are not used.
    pub publisher: publisher::Config,
    /// Of the invalidation-worker, where a database is configured; its own address is not used.
    pub worker: Option<invalidation_worker::Config>,
}

impl Config {
    /// Reads `file`, with `environment` laid over it.
    ///
    /// # Errors
    /// As [`load`], for any of the sections.
    pub fn load(file: Option<&Path>, environment: &[(String, String)]) -> Result<Self, ConfigError> {
        let environment = || environment.iter().cloned();
        let worker: invalidation_worker::Config = load(file, environment())?;
        let has_database = worker.database.url.is_some() || worker.database.url_file.is_some();
        Ok(Self {
            bridge: load(file, environment())?,
            publisher: load(file, environment())?,
            worker: has_database.then_some(worker),
        })
    }

    /// Checks everything that can be known without listening or connecting. Needs a runtime, for the worker's sake.
    ///
    /// # Errors
    /// A sentence that names the field and says what to do.
    pub fn check(&self) -> Result<(), ConfigError> {
        subscriber_bridge::check(&self.bridge)?;
        publisher::check(&self.publisher)?;
        self.worker.as_ref().map_or(Ok(()), |worker| invalidation_worker::check(worker).map(drop))
    }

    /// The process's log.
    pub fn log(&self) -> &LogConfig {
        &self.bridge.log
    }

    /// How long what is under way may take to end: as long as the most patient of the workers gives it.
    pub fn grace(&self) -> Duration {
        let (bridge, publisher) = (self.bridge.subscriber_bridge.grace_seconds, self.publisher.publisher.grace_seconds);
        let worker = self.worker.as_ref().map_or(0, |worker| worker.invalidation_worker.grace_seconds);
        Duration::from_secs(bridge.max(publisher).max(worker))
    }
}
