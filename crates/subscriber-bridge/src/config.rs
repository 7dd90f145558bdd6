//! The settings of the bridge: the section `[subscriber_bridge]` beside those that all workers share.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use fanout_core::config::LogConfig;
use fanout_core::{RedisConfig, Topic};
use secrecy::SecretString;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// Smallest outbox: it must hold the largest publication, and another one while that is being written.
const MIN_OUTBOX_BYTES: usize = 256 * 1024;

/// The configuration file as the bridge reads it. Sections of other workers are permitted and not read.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where Redis is.
    #[serde(default)]
    pub redis: RedisConfig,
    /// The topics, by name; the same for every worker.
    pub topics: Option<BTreeMap<String, Topic>>,
    /// The topic of channels whose bare name is no topic's.
    pub default_topic: Option<Topic>,
    /// The log.
    #[serde(default)]
    pub log: LogConfig,
    /// The bridge itself.
    #[serde(default)]
    pub subscriber_bridge: BridgeConfig,
    #[serde(default, rename = "publisher")]
    _publisher: IgnoredAny,
    #[serde(default, rename = "invalidation_worker")]
    _invalidation_worker: IgnoredAny,
    #[serde(default, rename = "database")]
    _database: IgnoredAny,
}

/// The section `[subscriber_bridge]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BridgeConfig {
    /// Where browsers connect.
    pub listen: SocketAddr,
    /// Where operators look: `/livez`, `/readyz`, `/metrics`. Keep it away from browsers.
    pub admin_listen: SocketAddr,
    /// The secret with which the application's backend signs connection tokens (HS256), at least 32 bytes.
    pub token_secret: Option<SecretString>,
    /// A file that holds the token secret.
    pub token_secret_file: Option<PathBuf>,
    /// Origins of pages that may connect, for example `https://shop.example`; `*` means every page. Requests without an
    /// `Origin` come from no page and are always allowed.
    pub allowed_origins: Vec<String>,
    /// Most connections of this bridge.
    pub max_connections: usize,
    /// Most channels of one connection.
    pub max_channels: usize,
    /// Most bytes that may wait for a connection that does not read.
    pub max_outbox_bytes: usize,
    /// Most bytes that all feeds together may hold back while they are being repaired after a lost link.
    pub max_repair_bytes: usize,
    /// Seconds over which clients are told that continuity is lost, so that not all of them come back at once. A client is
    /// told at the latest before the next publication of the channel.
    pub telling_window_seconds: u32,
    /// Most bytes of one message from a client.
    pub max_message_bytes: usize,
    /// Seconds between pings.
    pub ping_seconds: u32,
    /// Seconds in which a ping must be answered; less than between pings.
    pub pong_timeout_seconds: u32,
    /// Seconds in which a client must have sent its handshake, and again its first command.
    pub stale_seconds: u32,
    /// Most raw publications per second; the rest is counted and dropped.
    pub max_raw_per_second: u32,
    /// Seconds for connections to end at shutdown.
    pub grace_seconds: u64,
}

impl Default for BridgeConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8000)),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 9100)),
            token_secret: None,
            token_secret_file: None,
            allowed_origins: Vec::new(),
            max_connections: 15_000,
            max_channels: 128,
            max_outbox_bytes: 1024 * 1024,
            max_repair_bytes: 64 * 1024 * 1024,
            telling_window_seconds: 10,
            max_message_bytes: 64 * 1024,
            ping_seconds: 25,
            pong_timeout_seconds: 8,
            stale_seconds: 10,
            max_raw_per_second: 20_000,
            grace_seconds: 10,
        }
    }
}

impl BridgeConfig {
    /// Checks what types cannot.
    ///
    /// # Errors
    /// A sentence that names the fields.
    pub fn check(&self) -> Result<(), String> {
        if self.pong_timeout_seconds == 0 || self.pong_timeout_seconds >= self.ping_seconds {
            return Err(format!(
                "subscriber_bridge.pong_timeout_seconds = {} must be at least 1 and less than ping_seconds = {}",
                self.pong_timeout_seconds, self.ping_seconds
            ));
        }
        if self.max_outbox_bytes < MIN_OUTBOX_BYTES {
            return Err(format!(
                "subscriber_bridge.max_outbox_bytes = {} must be at least {MIN_OUTBOX_BYTES}: two of the largest publications",
                self.max_outbox_bytes
            ));
        }
        Ok(())
    }

    /// Most bytes of history for one connection or one channel: a reply with all of it, and more beside it, fits into the
    /// outbox.
    pub(crate) fn max_recovery_bytes(&self) -> usize {
        self.max_outbox_bytes / 2
    }
}
