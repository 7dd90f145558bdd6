//! The settings of the bridge: the section `[subscriber_bridge]` beside those that all workers share.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use fanout_core::config::LogConfig;
use fanout_core::{RedisConfig, Topic};
use ipnet::IpNet;
use secrecy::SecretString;
use serde::de::{Error, IgnoredAny};
use serde::{Deserialize, Deserializer};

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
    /// Where browsers connect: an address, or a list of them.
    #[serde(deserialize_with = "addresses")]
    pub listen: Vec<SocketAddr>,
    /// Where operators look: `/livez`, `/readyz`, `/metrics`. Keep it away from browsers.
    pub admin_listen: SocketAddr,
    /// The secret with which the application's backend signs connection tokens (HS256), at least 32 bytes.
    pub token_secret: Option<SecretString>,
    /// A file that holds the token secret.
    pub token_secret_file: Option<PathBuf>,
    /// Origins of pages that may connect, for example `https://shop.example`; `*` means every page. Requests without an
    /// `Origin` come from no page and are always allowed.
    pub allowed_origins: Vec<String>,
    /// Most connections of this bridge, those included that have not sent their handshake yet.
    pub max_connections: usize,
    /// Most connections of one address (of one /64 of IPv6); 0 for no limit, which is right only behind something that has
    /// one.
    pub max_connections_per_address: usize,
    /// Proxies, as addresses or networks (`10.0.0.0/8`), whose `X-Forwarded-For` names the client's address.
    #[serde(deserialize_with = "networks")]
    pub trusted_proxies: Vec<IpNet>,
    /// Most connections of one user; 0 for no limit.
    pub max_connections_per_user: usize,
    /// Most channels of one connection.
    pub max_channels: usize,
    /// Commands of one connection per second; whatever it sends beyond waits until they are done.
    pub max_commands_per_second: u32,
    /// Subscriptions that one connection may begin per second, beyond `max_channels` at once.
    pub max_subscribes_per_second: u32,
    /// Most bytes that may wait for a connection that does not read.
    pub max_outbox_bytes: usize,
    /// Bytes that the kernel may hold besides, for each connection that does not read; it takes twice the number.
    pub socket_send_buffer_bytes: u32,
    /// Most bytes of missed publications that may wait for one connection, beside `max_outbox_bytes`. What was missed is
    /// recovered up to half of it.
    pub max_recovery_bytes: usize,
    /// Most bytes of histories that the bridge holds at once, for repairs and recoveries of all connections.
    pub max_history_bytes: usize,
    /// Seconds over which clients are told that continuity is lost, so that not all of them come back at once. A client is
    /// told at the latest before the next publication of the channel.
    pub telling_window_seconds: u32,
    /// Most bytes of one message from a client.
    pub max_message_bytes: usize,
    /// Seconds between pings.
    pub ping_seconds: u32,
    /// Seconds in which a ping must be answered; less than between pings.
    pub pong_timeout_seconds: u32,
    /// Seconds in which a client must have sent its handshake, and again its first command; some get half as much more.
    pub stale_seconds: u32,
    /// Most raw publications per second; the rest is counted and dropped.
    pub max_raw_per_second: u32,
    /// Seconds for connections to end at shutdown.
    pub grace_seconds: u64,
}

impl Default for BridgeConfig {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 8000))],
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 9100)),
            token_secret: None,
            token_secret_file: None,
            allowed_origins: Vec::new(),
            max_connections: 15_000,
            max_connections_per_address: 0,
            trusted_proxies: Vec::new(),
            max_connections_per_user: 0,
            max_channels: 128,
            max_commands_per_second: 1_000,
            max_subscribes_per_second: 20,
            max_outbox_bytes: 1024 * 1024,
            socket_send_buffer_bytes: 128 * 1024,
            max_recovery_bytes: 16 * 1024 * 1024,
            max_history_bytes: 256 * 1024 * 1024,
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
        if self.listen.is_empty() {
            return Err("subscriber_bridge.listen = []: nobody could connect, name at least one address".into());
        }
        if self.max_commands_per_second == 0 {
            return Err("subscriber_bridge.max_commands_per_second = 0 would let nobody in: at least 1".into());
        }
        if self.max_outbox_bytes < MIN_OUTBOX_BYTES {
            return Err(format!(
                "subscriber_bridge.max_outbox_bytes = {} must be at least {MIN_OUTBOX_BYTES}: two of the largest publications",
                self.max_outbox_bytes
            ));
        }
        Ok(())
    }
}

impl BridgeConfig {
    /// How long one client may take for its handshake or its first command: `stale_seconds` and up to half as much more,
    /// so that many who say nothing are not ended in one moment.
    pub(crate) fn patience(&self) -> Duration {
        Duration::from_secs(self.stale_seconds.into()).mul_f64(1.0 + 0.5 * fastrand::f64())
    }
}

/// One address may stand without a list around it.
fn addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SocketAddr>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected an address like \"127.0.0.1:8000\", or a list of them")]
    enum Listen {
        One(SocketAddr),
        Several(Vec<SocketAddr>),
    }
    Ok(match Listen::deserialize(deserializer)? {
        Listen::One(address) => vec![address],
        Listen::Several(addresses) => addresses,
    })
}

/// An address alone is a network of one.
fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let parse = |text: &String| {
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network
            .map_err(|_| D::Error::custom(format!("{text:?} is neither an address nor a network like \"10.0.0.0/8\"")))
    };
    texts.iter().map(parse).collect()
}
