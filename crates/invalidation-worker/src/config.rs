//! The settings of the invalidation-worker: the section `[invalidation_worker]` beside those that all workers share.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use fanout_core::config::LogConfig;
use fanout_core::{RedisConfig, Topic};
use secrecy::SecretString;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::pace::Limits;

/// The configuration file as the worker reads it. Sections of other workers are permitted and not read.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where Redis is.
    #[serde(default)]
    pub redis: RedisConfig,
    /// Where PostgreSQL is.
    #[serde(default)]
    pub database: DatabaseConfig,
    /// The topics, by name; the same for every worker.
    pub topics: Option<BTreeMap<String, Topic>>,
    /// The topic of channels whose bare name is no topic's.
    pub default_topic: Option<Topic>,
    /// The log.
    #[serde(default)]
    pub log: LogConfig,
    /// The worker itself.
    #[serde(default)]
    pub invalidation_worker: WorkerConfig,
    #[serde(default, rename = "subscriber_bridge")]
    _subscriber_bridge: IgnoredAny,
    #[serde(default, rename = "publisher")]
    _publisher: IgnoredAny,
}

/// The section `[database]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DatabaseConfig {
    /// `postgres://user:password@host:port/database`; the environment's `DATABASE_URL`. Several, with commas between
    /// them or between several `host:port`: the one that can be written to is chosen, and again after each failure.
    pub url: Option<SecretString>,
    /// A file that holds the URL, because it holds the password.
    pub url_file: Option<PathBuf>,
}

/// The section `[invalidation_worker]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerConfig {
    /// Where operators look: `/livez`, `/readyz`, `/metrics`. Keep it away from browsers.
    pub admin_listen: SocketAddr,
    /// The region whose Redis this worker serves. Each region has a cursor of its own.
    pub region: String,
    /// The file of rules; without one, only what applications append by hand takes effect.
    pub rules: Option<PathBuf>,
    /// A channel of `NOTIFY` on which anything that is notified has the log read at once, instead of up to 50 ms later;
    /// empty for none. For quiet databases only: `notify` lets the whole server commit one transaction at a time, which
    /// halves what eight writers get done and leaves less of what more do.
    pub wake_channel: String,
    /// Most entries that are applied at once.
    pub page_entries: u32,
    /// Most keys that one step of a sweep looks at. Steps adapt to `sweep_stall_us`; this is where they end.
    pub sweep_count: u32,
    /// Microseconds for which one command of a sweep may hold Redis.
    pub sweep_stall_us: u64,
    /// Percent of the time in which a sweep may have a command under way, 1 to 100; the rest is left to others.
    pub sweep_duty_percent: u8,
    /// Milliseconds that this worker may lead the region without renewing, which it does three times in that time.
    /// Another worker of the region takes over at most this long after this one was killed or froze.
    pub lease_ms: u64,
    /// One commit in so many is told in the log: its keys, patterns, publications and how long it took. 0 tells none.
    pub log_one_commit_in: u32,
    /// Seconds for which an entry stays in the change log after its commit, and after which a region that is away is not
    /// waited for any more. The same for every region. `migrate` makes each of the log's three partitions as long, so
    /// that the log holds two to three times this, and a partition can be emptied during all of the third.
    pub retention_seconds: u64,
    /// Seconds for what is under way to end at shutdown.
    pub grace_seconds: u64,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 9102)),
            region: "local".into(),
            rules: None,
            wake_channel: String::new(),
            page_entries: 1_000,
            sweep_count: 2_000,
            sweep_stall_us: 75,
            sweep_duty_percent: 10,
            lease_ms: 1_500,
            log_one_commit_in: 1_000,
            retention_seconds: 1_800,
            grace_seconds: 10,
        }
    }
}

impl WorkerConfig {
    /// How long entries are kept.
    pub fn retention(&self) -> Duration {
        Duration::from_secs(self.retention_seconds)
    }

    /// What a sweep may take.
    pub(crate) fn sweep_limits(&self) -> Limits {
        Limits {
            stall: Duration::from_micros(self.sweep_stall_us),
            duty: f64::from(self.sweep_duty_percent) / 100.0,
            most: self.sweep_count.max(1),
        }
    }
}
