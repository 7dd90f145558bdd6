//! The invalidation-worker: applies the change log to one region. Invalidate, then publish, then move the cursor.

mod applier;
mod backoff;
pub mod config;
mod drift;
mod hearing;
mod lead;
mod metrics;
mod pace;
pub mod plan;
mod redelete;
mod reign;
mod rotation;
mod sampler;
mod sweep;
mod sweeper;
mod waiting;
mod worker;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use change_log::listen::is_channel;
use change_log::{Candidate, Rules, Servers};
use fanout_core::admin::{Health, Operators};
use fanout_core::config::{ConfigError, secret};
use fanout_core::{Publisher, Redis, Shutdown, Topics, telemetry};
use secrecy::ExposeSecret;

pub use self::config::{Config, WorkerConfig};
use self::lead::Contender;
use self::metrics::Metrics;

/// What a lease may be: shorter than this, a busy machine loses it; longer, nobody would call it a takeover.
const LEASE_MS: std::ops::RangeInclusive<u64> = 300..=60_000;
/// What a retention may be; the longest is a week, and the log holds up to three times as much.
const RETENTION_SECONDS: std::ops::RangeInclusive<u64> = 1..=604_800;

/// A worker whose address is bound.
pub struct Region {
    operators: Operators,
    config: Config,
    checked: Checked,
}

/// What a configuration says beyond its values.
pub struct Checked {
    /// Where PostgreSQL may be.
    pub servers: Servers,
    /// The rules of the configured file, or none.
    pub rules: Rules,
    /// The configured topics.
    pub topics: Topics,
}

impl Region {
    /// Checks the configuration and binds the operators' address.
    ///
    /// # Errors
    /// A configuration that cannot work, or an address that cannot be had.
    pub async fn bind(config: Config) -> Result<Self, ConfigError> {
        let address = config.invalidation_worker.admin_listen;
        Self::shown_at(Operators::bind("invalidation_worker.admin_listen", address).await?, config)
    }

    /// Checks the configuration of a worker at which operators look somewhere else. Needs a runtime.
    ///
    /// # Errors
    /// A configuration that cannot work.
    pub fn shown_at(operators: Operators, config: Config) -> Result<Self, ConfigError> {
        let checked = check(&config)?;
        Ok(Self { operators, config, checked })
    }

    /// Where operators look.
    ///
    /// # Errors
    /// When the socket has no address any more.
    pub fn admin_addr(&self) -> std::io::Result<SocketAddr> {
        self.operators.local_addr()
    }

    /// Works until the ending is asked for.
    ///
    /// # Errors
    /// Redis holds records of a deployment that is configured differently.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), ConfigError> {
        let mut registry = telemetry::registry();
        let metrics = Metrics::register(&mut registry);
        let health = Health::new(&["postgresql", "redis", "rules"]);
        let redis = Redis::connect(&self.config.redis)?;
        let readiness = self.operators.show(health.clone(), registry, &shutdown);
        let rules = Arc::new(self.checked.rules);
        let watched = servers(&self.config)?;
        shutdown.spawn(drift::watch(watched, Arc::clone(&rules), health.clone(), shutdown.clone()));
        redis.join_deployment(&shutdown).await?;
        shutdown.spawn(redis.clone().watch(health.clone(), shutdown.clone()));
        let config = self.config.invalidation_worker;
        let servers = self.checked.servers;
        let pool = servers.pool().clone();
        let lease = Duration::from_millis(config.lease_ms);
        let named = |error: change_log::Error| ConfigError(error.to_string());
        let candidate = Candidate::new(pool.clone(), &config.region, lead::holder(), lease).map_err(named)?;
        let publisher = Publisher::new(redis.clone(), self.checked.topics);
        readiness.tell("standing by");
        let contender =
            Contender { candidate, servers, pool, rules, redis, publisher, config, health, metrics, shutdown };
        contender.run().await.map_err(named)?;
        Ok(())
    }
}

/// Checks everything about a configuration that can be known without listening or connecting. Needs a runtime, because
/// the pool of connections lives in it.
///
/// # Errors
/// A sentence that names the field and says what to do.
pub fn check(config: &Config) -> Result<Checked, ConfigError> {
    Redis::check(&config.redis)?;
    let topics = Topics::new(config.topics.clone(), config.default_topic.clone()).map_err(ConfigError)?;
    let lease = config.invalidation_worker.lease_ms;
    if !(LEASE_MS.contains(&lease)) {
        let (from, to) = LEASE_MS.into_inner();
        return Err(ConfigError(format!("invalidation_worker.lease_ms = {lease}: must be {from} to {to}")));
    }
    let retention = config.invalidation_worker.retention_seconds;
    if !(RETENTION_SECONDS.contains(&retention)) {
        let (from, to) = RETENTION_SECONDS.into_inner();
        return Err(ConfigError(format!(
            "invalidation_worker.retention_seconds = {retention}: must be {from} to {to}"
        )));
    }
    let wake_channel = &config.invalidation_worker.wake_channel;
    if !wake_channel.is_empty() && !is_channel(wake_channel) {
        let text = "PostgreSQL's channels have 1 to 63 bytes";
        return Err(ConfigError(format!("invalidation_worker.wake_channel = {wake_channel:?}: {text}")));
    }
    let rules = match &config.invalidation_worker.rules {
        Some(file) => rules(config, file)?,
        None => Rules::default(),
    };
    Ok(Checked { servers: servers(config)?, rules, topics })
}

/// Reads a file of rules, and checks its channels against the topics where the configuration names some.
///
/// # Errors
/// The file cannot be read, or every problem in it with line and column.
pub fn rules(config: &Config, file: &Path) -> Result<Rules, ConfigError> {
    let text = std::fs::read_to_string(file).map_err(|error| ConfigError(format!("{}: {error}", file.display())))?;
    let told = |error: change_log::Error| ConfigError(format!("{}:\n{error}", file.display()));
    let rules = Rules::parse(&text).map_err(told)?;
    if let Some(topics) = &config.topics {
        let topics: Vec<&str> = topics.keys().map(String::as_str).collect();
        rules.check_topics(&topics, config.default_topic.is_some()).map_err(told)?;
    }
    Ok(rules)
}

/// The servers of the configured database.
///
/// # Errors
/// No database is configured; the text says how to give one.
pub fn servers(config: &Config) -> Result<Servers, ConfigError> {
    let database = &config.database;
    let url = secret("database.url", database.url.as_ref(), database.url_file.as_ref())?.ok_or_else(|| {
        ConfigError(
            "no database: give it as url_file in [database] or in the environment as \
             DATABASE_URL=postgres://user:password@host:port/database"
                .into(),
        )
    })?;
    Servers::new(url.expose_secret(), "invalidation-worker").map_err(|error| ConfigError(error.to_string()))
}
