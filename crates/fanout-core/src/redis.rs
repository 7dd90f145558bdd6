//! The connection for commands: fred, with everything set that its defaults leave unsafe.

mod error;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use fred::clients::Client;
use fred::interfaces::{ClientLike, HashesInterface, KeysInterface};
use fred::socket2::TcpKeepalive;
use fred::types::config::{Config, ReconnectError, ReconnectPolicy, TcpConfig};
use fred::types::{Builder, InfoKind, RespVersion};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::admin::Health;
use crate::config::{ConfigError, secret};
use crate::names::{DEPLOYMENT, MAX_PARTITIONS, Partitions};
use crate::shutdown::Shutdown;

pub use error::{DeploymentError, RedisError};

/// Keys in one UNLINK: a few hundred keep the server's main thread for well under a millisecond.
const UNLINK_BATCH: usize = 256;

/// The field of the deployment's record that changes when all positions were removed.
const FORGETTING: &str = "forgetting";

/// How often a worker looks whether Redis is there.
const WATCH: Duration = Duration::from_millis(250);
/// How long a connection to a replica is kept at least: another one may lead to the same.
const REPLACE: Duration = Duration::from_secs(2);
const REPLICA: &str = "this server is a replica: redis.url must lead to the primary";

/// The identity in the answer to `INFO replication`, when a primary gave it; else why it is of no use.
pub(crate) fn primary_identity(info: &str) -> Result<String, &'static str> {
    if info.lines().any(|line| line.trim_end() == "role:slave") {
        return Err(REPLICA);
    }
    let id = info.lines().find_map(|line| line.strip_prefix("master_replid:"));
    id.map(|id| id.trim_end().to_owned()).ok_or("INFO replication names no master_replid")
}

/// Where Redis is and what all processes of a deployment must agree on.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RedisConfig {
    /// `redis://[user[:password]@]host:port[/database]`; the environment's `REDIS_URL`.
    pub url: String,
    /// The password; the environment's `REDIS_PASSWORD`.
    pub password: Option<SecretString>,
    /// A file that holds the password.
    pub password_file: Option<PathBuf>,
    /// Partitions of this deployment. Recorded in Redis by the first process; one that differs is refused.
    pub partitions: u16,
    /// Whether positions are fenced by the server's identity. Off only where a provider refuses `INFO`.
    pub fence: bool,
    /// Seconds that the positions of a feed live which nobody reads; bridges read those that they hold.
    pub position_ttl_seconds: u32,
    /// Seconds that entries of the change log are remembered so that a repeated effect publishes nothing.
    pub entry_memory_seconds: u32,
    /// Seconds that idempotency keys are remembered.
    pub idempotency_seconds: u32,
    /// Milliseconds until a command without an answer has failed.
    pub command_timeout_ms: u64,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            url: "redis://127.0.0.1:6379".into(),
            password: None,
            password_file: None,
            partitions: 64,
            fence: true,
            position_ttl_seconds: 7 * 24 * 3600,
            entry_memory_seconds: 30 * 60,
            idempotency_seconds: 300,
            command_timeout_ms: 5_000,
        }
    }
}

impl RedisConfig {
    /// The arguments with which every script begins, see `lua/fence.lua`.
    pub(crate) fn fenced(&self) -> [String; 2] {
        [u8::from(self.fence).to_string(), self.position_ttl_seconds.to_string()]
    }

    /// fred's configuration of this server; also the one parser of the URL.
    pub(crate) fn server(&self) -> Result<Config, ConfigError> {
        if !self.url.starts_with("redis://") {
            return Err(ConfigError(format!(
                "redis.url must be redis://host:port (this version speaks to one Redis without TLS), not {:?}",
                self.url.split('@').next_back().unwrap_or_default()
            )));
        }
        let mut config = Config::from_url(&self.url)
            .map_err(|error| ConfigError(format!("redis.url is not a Redis URL: {}", error.details())))?;
        if let Some(password) = secret("redis.password", self.password.as_ref(), self.password_file.as_ref())? {
            config.password = Some(password.expose_secret().to_owned());
        }
        config.version = RespVersion::RESP3;
        config.fail_fast = false;
        if !(1..=MAX_PARTITIONS).contains(&self.partitions) {
            return Err(ConfigError(format!("redis.partitions = {}: must be 1 to {MAX_PARTITIONS}", self.partitions)));
        }
        Ok(config)
    }

    fn client(&self) -> Result<Client, ConfigError> {
        let timeout = Duration::from_millis(self.command_timeout_ms.max(1));
        // For ever, from 5 ms to 2 s. fred waits before its first attempt too, which a command line would feel.
        let mut reconnect = ReconnectPolicy::new_exponential(0, 5, 2_000, 2);
        reconnect.set_jitter(10);
        Builder::from_config(self.server()?)
            .with_connection_config(|connection| {
                connection.connection_timeout = Duration::from_secs(3);
                connection.internal_command_timeout = Duration::from_secs(3);
                // A command is sent once: a script whose answer was lost may have run, and idempotency decides then.
                connection.max_command_attempts = 1;
                connection.max_command_buffer_len = 50_000;
                // A server that stopped answering looks alive to TCP; without this fred would wait for it for ever.
                connection.unresponsive.max_timeout = Some(timeout * 2);
                connection.unresponsive.interval = Duration::from_secs(1);
                connection.tcp = TcpConfig {
                    nodelay: Some(true),
                    keepalive: Some(TcpKeepalive::new().with_time(Duration::from_secs(15))),
                    ..TcpConfig::default()
                };
                // A primary that stepped down keeps its connections; writing to it must lead to a new look.
                connection.reconnect_errors =
                    vec![ReconnectError::ReadOnly, ReconnectError::Loading, ReconnectError::MasterDown];
            })
            .with_performance_config(|performance| performance.default_command_timeout = timeout)
            .set_policy(reconnect)
            .build()
            .map_err(|error| ConfigError(format!("redis: {}", error.details())))
    }
}

/// A client for commands. It reconnects for ever and shares one connection among its clones.
#[derive(Debug, Clone)]
pub struct Redis {
    client: Client,
    config: RedisConfig,
    partitions: Partitions,
}

impl Redis {
    /// Begins to connect; Redis need not be there yet.
    ///
    /// # Errors
    /// A configuration that cannot work.
    pub fn connect(config: &RedisConfig) -> Result<Self, ConfigError> {
        let client = config.client()?;
        client.connect();
        Ok(Self { client, config: config.clone(), partitions: Partitions::new(config.partitions) })
    }

    /// Checks a configuration without connecting.
    ///
    /// # Errors
    /// A configuration that cannot work.
    pub fn check(config: &RedisConfig) -> Result<(), ConfigError> {
        config.server().map(drop)
    }

    /// Waits until Redis answers, and compares what all processes of the deployment must agree on.
    ///
    /// The first process records it in `griot:{deployment}`.
    ///
    /// # Errors
    /// This process is configured differently, or has not the rights it needs. An absent Redis is waited for.
    pub async fn join_deployment(&self, shutdown: &Shutdown) -> Result<(), ConfigError> {
        let mut wait = Duration::from_millis(50);
        loop {
            match self.check_deployment().await {
                Ok(()) => return Ok(()),
                Err(DeploymentError::Differs(error)) => return Err(error),
                Err(DeploymentError::Redis(error)) if !error.is_transient() => {
                    return Err(ConfigError(error.to_string()));
                }
                Err(DeploymentError::Redis(error)) => tracing::warn!(%error, "waiting for Redis"),
            }
            if !shutdown.pause(wait).await {
                return Ok(());
            }
            wait = (wait * 2).min(Duration::from_secs(2));
        }
    }

    /// Compares once what all processes of the deployment must agree on; what is not recorded yet, is recorded.
    ///
    /// # Errors
    /// Redis did not answer, or this process is configured differently.
    pub async fn check_deployment(&self) -> Result<(), DeploymentError> {
        // Asked for here, so that a missing right shows when a worker starts and not with its first publication.
        self.identity().await?;
        let ours = [("partitions", self.config.partitions.to_string()), ("fence", self.config.fence.to_string())];
        for (field, value) in ours {
            let recorded = self.recorded(field, &value).await?;
            if recorded != value {
                return Err(DeploymentError::Differs(ConfigError(format!(
                    "redis.{field} = {value} here, but this deployment runs with {recorded} (recorded in {DEPLOYMENT}): \
                     set {field} = {recorded} in [redis], or stop every worker and delete that key"
                ))));
            }
        }
        Ok(())
    }

    /// What is recorded, which is `value` if nothing was. Read first: a full Redis takes no write.
    async fn recorded(&self, field: &str, value: &str) -> Result<String, RedisError> {
        let recorded: Option<String> = self.client.hget(DEPLOYMENT, field).await?;
        if let Some(recorded) = recorded {
            return Ok(recorded);
        }
        self.record(field, value).await?;
        Ok(self.client.hget(DEPLOYMENT, field).await?)
    }

    async fn record(&self, field: &str, value: &str) -> Result<bool, RedisError> {
        Ok(self.client.hsetnx(DEPLOYMENT, field, value).await?)
    }

    /// Records that all positions were removed on purpose, so that bridges compare those that they hold.
    ///
    /// # Errors
    /// As any command.
    pub async fn record_forgetting(&self) -> Result<(), RedisError> {
        Ok(self.client.hset(DEPLOYMENT, (FORGETTING, uuid::Uuid::new_v4().to_string())).await?)
    }

    /// Another value each time that [all positions were removed](Self::record_forgetting); `None` when they never were.
    ///
    /// # Errors
    /// As any command.
    pub async fn forgetting(&self) -> Result<Option<String>, RedisError> {
        Ok(self.client.hget(DEPLOYMENT, FORGETTING).await?)
    }

    /// Asks whether Redis takes writes, by one that changes nothing in a deployment that runs.
    ///
    /// # Errors
    /// As any command.
    pub async fn takes_writes(&self) -> Result<(), RedisError> {
        self.record("partitions", &self.config.partitions.to_string()).await.map(drop)
    }

    /// The server's own identity, which another process in its place does not have; none where `fence = false`, because
    /// the right to ask is then missing.
    ///
    /// # Errors
    /// As any command; a replica, which is no place to write to, counts as [away](RedisError::Away).
    pub async fn identity(&self) -> Result<Option<String>, RedisError> {
        if !self.config.fence {
            return Ok(None);
        }
        let info: String = self.client.info(Some(InfoKind::Replication)).await?;
        primary_identity(&info).map(Some).map_err(|role| RedisError::Away(role.to_owned()))
    }

    /// Whether the server was started less than `ago` before now and took its keys from a snapshot on disk: whatever was
    /// removed since that was saved is there again. An append-only file holds all but the last second.
    ///
    /// # Errors
    /// As any command.
    pub async fn came_from_snapshot(&self, ago: Duration) -> Result<bool, RedisError> {
        let server: String = self.client.info(Some(InfoKind::Server)).await?;
        let persistence: String = self.client.info(Some(InfoKind::Persistence)).await?;
        let number = |info: &str, name: &str| {
            let value =
                info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim_end().parse().ok());
            value.unwrap_or(0_u64)
        };
        let started = Duration::from_secs(number(&server, "uptime_in_seconds"));
        let loaded = number(&persistence, "rdb_last_load_keys_loaded") > 0;
        Ok(started <= ago && loaded && number(&persistence, "aof_enabled") == 0)
    }

    /// Asks for an answer.
    ///
    /// # Errors
    /// As any command.
    pub async fn ping(&self) -> Result<(), RedisError> {
        Ok(self.client.ping::<()>(None).await?)
    }

    /// Keeps `health` true to whether Redis answers, until the ending is asked for. A server that stepped down keeps its
    /// connections: it is left for whatever server the address leads to now.
    pub async fn watch(self, health: Health, shutdown: Shutdown) {
        let mut left: Option<Instant> = None;
        while shutdown.pause(WATCH).await {
            let answer = if self.config.fence { self.identity().await.map(drop) } else { self.ping().await };
            let Err(error) = answer else {
                health.up("redis");
                continue;
            };
            let stepped_down = matches!(&error, RedisError::Away(text) if text == REPLICA);
            health.down("redis", error.to_string());
            if stepped_down && left.is_none_or(|left| left.elapsed() > REPLACE) {
                left = Some(Instant::now());
                if let Err(error) = self.client.force_reconnection().await {
                    tracing::warn!(error = error.details(), "connecting anew");
                }
            }
        }
    }

    /// Removes `keys`, in batches that are pipelined; returns how many existed.
    ///
    /// With `expected`, each batch ends by asking the server who it is, on the connection on which it was sent: a replica
    /// that was promoted undoes what its primary had confirmed and it had not heard of.
    ///
    /// # Errors
    /// As any command, and [`RedisError::Fenced`] when another server answers than `expected`; some of the keys may then
    /// have been removed.
    pub async fn unlink(&self, keys: &[String], expected: Option<&str>) -> Result<u64, RedisError> {
        let batches = keys.chunks(UNLINK_BATCH).map(|batch| Box::pin(self.unlink_batch(batch, expected)));
        Ok(futures::future::try_join_all(batches).await?.into_iter().sum())
    }

    async fn unlink_batch(&self, keys: &[String], expected: Option<&str>) -> Result<u64, RedisError> {
        let Some(expected) = expected else { return Ok(self.client.unlink(keys.to_vec()).await?) };
        let pipeline = self.client.pipeline();
        let () = pipeline.unlink(keys.to_vec()).await?;
        let () = pipeline.info(Some(InfoKind::Replication)).await?;
        let (removed, info): (u64, String) = pipeline.all().await?;
        match primary_identity(&info) {
            Ok(identity) if identity == expected => Ok(removed),
            Ok(_) => Err(RedisError::Fenced),
            Err(role) => Err(RedisError::Away(role.to_owned())),
        }
    }

    /// One step of a SCAN: the next cursor (`"0"` ends the pass) and keys that match `pattern`.
    ///
    /// # Errors
    /// As any command. A cursor means nothing after a reconnect: begin again.
    pub async fn scan(&self, cursor: &str, pattern: &str, count: u32) -> Result<(String, Vec<String>), RedisError> {
        Ok(self.client.scan_page(cursor.to_owned(), pattern, Some(count), None).await?)
    }

    /// The partitions of this deployment.
    pub fn partitions(&self) -> &Partitions {
        &self.partitions
    }

    pub(crate) fn config(&self) -> &RedisConfig {
        &self.config
    }

    /// The client itself, for the crates of this workspace that may name fred.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Ends the connection after what is under way.
    pub async fn quit(&self) {
        if let Err(error) = self.client.quit().await {
            tracing::debug!(error = error.details(), "closing the connection to Redis");
        }
    }
}
