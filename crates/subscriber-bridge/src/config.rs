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
    /// Permits everything to everybody, also without a token, for experiments: refused unless `listen` is on loopback. Tokens
    /// that are sent are verified all the same, with secrets of any length.
    pub insecure: bool,
    /// Whether clients may connect without a user: with no token, or with one that names none.
    pub allow_anonymous: bool,
    /// The secret with which the application's backend signs connection tokens (HS256, HS384, HS512), at least 32 bytes.
    pub token_secret: Option<SecretString>,
    /// A file that holds the token secret. Replace it while the bridge runs, and the new one counts in seconds.
    pub token_secret_file: Option<PathBuf>,
    /// The secret before, whose tokens are still accepted.
    pub token_previous_secret: Option<SecretString>,
    /// A file that holds the secret before.
    pub token_previous_secret_file: Option<PathBuf>,
    /// Public keys in PEM that verify tokens: RSA (RS256, RS384, RS512), P-256 (ES256), P-384 (ES384), Ed25519 (EdDSA).
    pub token_public_key: Option<SecretString>,
    /// A file that holds public keys; several follow each other. It may be replaced while the bridge runs.
    pub token_public_key_file: Option<PathBuf>,
    /// Where the issuer of tokens publishes its keys (JWKS), `https` or `http`. It replaces secrets and public keys.
    pub token_jwks_url: Option<String>,
    /// What `aud` must hold; not checked without it.
    pub token_audience: Option<String>,
    /// What `iss` must be; not checked without it.
    pub token_issuer: Option<String>,
    /// The claim that names the user, instead of `sub`.
    pub token_user_id_claim: Option<String>,
    /// As `token_secret`, for subscription tokens. If one of these is given, the keys above verify connection tokens only.
    pub subscription_token_secret: Option<SecretString>,
    /// As `token_secret_file`, for subscription tokens.
    pub subscription_token_secret_file: Option<PathBuf>,
    /// As `token_previous_secret`, for subscription tokens.
    pub subscription_token_previous_secret: Option<SecretString>,
    /// As `token_previous_secret_file`, for subscription tokens.
    pub subscription_token_previous_secret_file: Option<PathBuf>,
    /// As `token_public_key`, for subscription tokens.
    pub subscription_token_public_key: Option<SecretString>,
    /// As `token_public_key_file`, for subscription tokens.
    pub subscription_token_public_key_file: Option<PathBuf>,
    /// As `token_jwks_url`, for subscription tokens.
    pub subscription_token_jwks_url: Option<String>,
    /// Signatures of connection tokens verified per second, so that clients who all come back at once leave processor time
    /// to those who are there; they wait for their turn. 2,000 of ES256 or RS256 keep most of one core busy. Bridges that
    /// know secrets only do not count: those cost next to nothing. 0 for no limit.
    pub max_verifications_per_second: u32,
    /// Certificates in PEM that are trusted beside the system's, for `https` to the key set and to `rpc_url`.
    pub ca_file: Option<PathBuf>,
    /// The application's backend that answers `rpc`; without one the command is answered "not available".
    pub rpc_url: Option<String>,
    /// Most calls of `rpc` at once.
    pub max_rpc_calls: usize,
    /// The certificate of this listener in PEM, with those that lead to its issuer: with it, browsers connect by `wss` and
    /// `https` only. Replace it and its key while the bridge runs, and new connections get it in seconds.
    pub tls_certificate_file: Option<PathBuf>,
    /// The key of the certificate, in PEM.
    pub tls_key_file: Option<PathBuf>,
    /// Whether clients may speak protobuf.
    pub protobuf: bool,
    /// Whether clients may connect by HTTP streams: `/connection/http_stream`, with commands to `/emulation`.
    pub http_stream: bool,
    /// Whether clients may connect by server-sent events: `/connection/sse`, with commands to `/emulation`.
    pub sse: bool,
    /// Whether clients may connect that only hear, by a WebSocket: `/connection/uni_websocket`.
    pub uni_websocket: bool,
    /// The same by an HTTP stream: `/connection/uni_http_stream`.
    pub uni_http_stream: bool,
    /// The same by server-sent events: `/connection/uni_sse`.
    pub uni_sse: bool,
    /// Origins of pages that may connect, for example `https://shop.example` or `https://*.shop.example`, in which `*` stands
    /// for any characters; `*` alone means every page. Requests without an `Origin` come from no page and are always allowed,
    /// and with `insecure` so is every page.
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
    /// Seconds that a client is given to bring a new token, after its connection or a subscription has expired; looked at
    /// with every ping.
    pub expired_grace_seconds: u32,
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
            insecure: false,
            allow_anonymous: false,
            token_secret: None,
            token_secret_file: None,
            token_previous_secret: None,
            token_previous_secret_file: None,
            token_public_key: None,
            token_public_key_file: None,
            token_jwks_url: None,
            token_audience: None,
            token_issuer: None,
            token_user_id_claim: None,
            subscription_token_secret: None,
            subscription_token_secret_file: None,
            subscription_token_previous_secret: None,
            subscription_token_previous_secret_file: None,
            subscription_token_public_key: None,
            subscription_token_public_key_file: None,
            subscription_token_jwks_url: None,
            max_verifications_per_second: 2_000,
            ca_file: None,
            rpc_url: None,
            max_rpc_calls: 100,
            protobuf: true,
            http_stream: false,
            sse: false,
            uni_websocket: false,
            uni_http_stream: false,
            uni_sse: false,
            tls_certificate_file: None,
            tls_key_file: None,
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
            expired_grace_seconds: 25,
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
        if let Some(open) = self.listen.iter().find(|address| self.insecure && !address.ip().is_loopback()) {
            return Err(format!(
                "subscriber_bridge.insecure = true would open everything to everybody who reaches {open}: listen on \
                 127.0.0.1 or [::1], or leave insecure out"
            ));
        }
        if self.rpc_url.is_some() && self.max_rpc_calls == 0 {
            return Err(
                "subscriber_bridge.max_rpc_calls = 0 would answer no call: at least 1, or leave rpc_url out".into()
            );
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
