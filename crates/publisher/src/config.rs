//! The settings of the publisher: the section `[publisher]` beside those that all workers share.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use fanout_core::config::{ConfigError, LogConfig};
use fanout_core::{RedisConfig, Topic, http};
use secrecy::SecretString;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::api::Limits;

/// The configuration file as the publisher reads it. Sections of other workers are permitted and not read.
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
    /// The publisher itself.
    #[serde(default)]
    pub publisher: PublisherConfig,
    #[serde(default, rename = "subscriber_bridge")]
    _subscriber_bridge: IgnoredAny,
    #[serde(default, rename = "invalidation_worker")]
    _invalidation_worker: IgnoredAny,
    #[serde(default, rename = "database")]
    _database: IgnoredAny,
}

/// The section `[publisher]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PublisherConfig {
    /// Where backends call the API.
    pub listen: SocketAddr,
    /// Where operators look: `/livez`, `/readyz`, `/metrics`. Keep it away from browsers.
    pub admin_listen: SocketAddr,
    /// The key that backends send as `X-API-Key`.
    pub api_key: Option<SecretString>,
    /// A file that holds the key.
    pub api_key_file: Option<PathBuf>,
    /// How errors are answered: `response` as HTTP 200 with the error in it, `transport` as an HTTP status of its own.
    pub error_mode: ErrorMode,
    /// Most bytes of a request's body.
    pub max_body_bytes: usize,
    /// Most channels of one broadcast.
    pub max_broadcast_channels: usize,
    /// Most commands of one batch.
    pub max_batch_commands: usize,
    /// Most channels of all commands of one batch together: each has a copy of its data until Redis has answered.
    pub max_batch_channels: usize,
    /// Most open connections to `listen`; further ones are answered 503 and closed.
    pub max_connections: usize,
    /// Seconds for a peer to send the headers of a request, from its connection or from the answer before.
    pub header_timeout_seconds: u64,
    /// Seconds from the headers of a request to its answer, the sending of the body included.
    pub request_timeout_seconds: u64,
    /// Seconds for calls under way to end at shutdown.
    pub grace_seconds: u64,
}

/// How the API answers an error. A caller can ask for `transport` by the header `X-Centrifugo-Error-Mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorMode {
    /// HTTP 200 and `{"error":{…}}`, as clients of this API expect.
    Response,
    /// The HTTP status that fits and the error alone; a batch stays as it is.
    Transport,
}

impl PublisherConfig {
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            broadcast_channels: self.max_broadcast_channels,
            batch_commands: self.max_batch_commands,
            batch_channels: self.max_batch_channels,
        }
    }

    /// What the listener for backends grants.
    ///
    /// # Errors
    /// A limit by which nobody could be served, or connections would stay for ever.
    pub(crate) fn listener(&self) -> Result<http::Limits, ConfigError> {
        let seconds = |field: &str, value: u64| match value {
            1..=3600 => Ok(Duration::from_secs(value)),
            _ => Err(ConfigError(format!("publisher.{field} = {value}: must be 1 to 3600"))),
        };
        if self.max_connections == 0 {
            return Err(ConfigError("publisher.max_connections = 0: must be at least 1".into()));
        }
        Ok(http::Limits {
            connections: self.max_connections,
            header_timeout: seconds("header_timeout_seconds", self.header_timeout_seconds)?,
            request_timeout: seconds("request_timeout_seconds", self.request_timeout_seconds)?,
        })
    }
}

impl Default for PublisherConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8001)),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 9101)),
            api_key: None,
            api_key_file: None,
            error_mode: ErrorMode::Response,
            max_body_bytes: 1024 * 1024,
            max_broadcast_channels: 1_000,
            max_batch_commands: 1_000,
            max_batch_channels: 1_000,
            // Half of the files that a process may usually have open.
            max_connections: 512,
            header_timeout_seconds: 10,
            request_timeout_seconds: 30,
            grace_seconds: 10,
        }
    }
}
