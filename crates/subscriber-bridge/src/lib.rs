//! The subscriber-bridge: holds the browsers' sockets and fans Redis out to them.
//!
//! What arrives at the [link](fanout_core::link) goes through the hub to the outboxes. It knows nothing of PostgreSQL.

mod admission;
mod allowance;
mod audience;
pub mod backend;
pub mod codes;
pub mod config;
mod connection;
pub mod frame;
pub mod gate;
pub mod handshake;
mod hub;
pub mod incoming;
pub mod join;
mod listen;
mod metrics;
pub mod order;
pub mod outbound;
pub mod outbox;
pub mod protocol;
mod raw;
mod recovery;
mod repair;
mod repairer;
mod room;
mod server;
pub mod session;
mod subscription;
pub mod token;
pub mod wire;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use fanout_core::admin::{self, Health};
use fanout_core::config::ConfigError;
use fanout_core::link::Link;
use fanout_core::{Redis, Shutdown, Topics, UserId, telemetry};
use tokio::net::TcpListener;

use self::admission::Counts;
use self::backend::Backend;
pub use self::config::{BridgeConfig, Config};
use self::gate::Gate;
use self::hub::Hub;
use self::listen::Listener;
use self::metrics::Metrics;
use self::repairer::Repairer;
use self::room::Room;
use self::session::Rules;
use self::token::Tokens;

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) config: BridgeConfig,
    pub(crate) rules: Arc<Rules>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) redis: Redis,
    pub(crate) metrics: Metrics,
    pub(crate) room: Room,
    pub(crate) link: Link,
    pub(crate) addresses: Counts<IpAddr>,
    pub(crate) users: Counts<UserId>,
    /// Spreads the verification of connection tokens.
    pub(crate) gate: Gate,
}

/// A bridge whose addresses are bound.
pub struct Bridge {
    browsers: TcpListener,
    operators: TcpListener,
    config: Config,
    tokens: Tokens,
    topics: Topics,
}

impl Bridge {
    /// Checks the configuration and binds both addresses.
    ///
    /// # Errors
    /// A configuration that cannot work, or an address that cannot be had.
    pub async fn bind(config: Config) -> Result<Self, ConfigError> {
        let (tokens, topics) = check(&config)?;
        let own = &config.subscriber_bridge;
        let buffer = Some(own.socket_send_buffer_bytes).filter(|bytes| *bytes > 0);
        let browsers = admin::bind_with("subscriber_bridge.listen", own.listen, buffer).await?;
        let operators = admin::bind("subscriber_bridge.admin_listen", own.admin_listen).await?;
        Ok(Self { browsers, operators, config, tokens, topics })
    }

    /// Where browsers connect.
    ///
    /// # Errors
    /// When the socket has no address any more.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.browsers.local_addr()
    }

    /// Where operators look.
    ///
    /// # Errors
    /// When the socket has no address any more.
    pub fn admin_addr(&self) -> std::io::Result<SocketAddr> {
        self.operators.local_addr()
    }

    /// Serves until the ending is asked for.
    ///
    /// # Errors
    /// Redis holds records of a deployment that is configured differently.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), ConfigError> {
        let mut registry = telemetry::registry();
        let metrics = Metrics::register(&mut registry);
        let health = Health::new(&["redis", "link"]);
        let redis = Redis::connect(&self.config.redis)?;
        let config = self.config.subscriber_bridge;
        if config.insecure {
            tracing::warn!("insecure = true: everybody who reaches this address may do everything");
        }
        let (link, connector) = Link::new(&self.config.redis)?;
        let room = Room::new(config.max_history_bytes);
        let hub = Hub::new(link.clone(), &redis, self.topics.clone(), metrics.clone(), room.clone());
        let hub = Arc::new(hub);
        let listener = Listener::new(&link, Arc::clone(&hub), &self.topics, &config, &metrics, &health);
        let repairer = Repairer {
            hub: Arc::clone(&hub),
            redis: redis.clone(),
            link: link.clone(),
            metrics: metrics.clone(),
            max_bytes: config.max_recovery_bytes / 2,
        };
        let rules = Rules {
            tokens: self.tokens.counted(metrics.token_keys.clone()),
            topics: self.topics,
            max_channels: config.max_channels,
            max_subscribes_per_second: config.max_subscribes_per_second,
            ping_seconds: config.ping_seconds,
        };
        let (addresses, users) = (Counts::default(), Counts::default());
        let rules = Arc::new(rules);
        let gate = Gate::new(config.max_verifications_per_second);
        let shared = Arc::new(Shared {
            config,
            rules,
            hub,
            redis: redis.clone(),
            metrics,
            room,
            link: link.clone(),
            addresses,
            users,
            gate,
        });
        shutdown.spawn(admin::serve(self.operators, health.clone(), Arc::new(registry), shutdown.clone()));
        redis.join_deployment(&shutdown).await?;
        let hearing = Arc::clone(&listener);
        // Deliveries must not queue behind handshakes and commands, of which strangers can send any number.
        shutdown
            .spawn_apart(connector.run(move |event| hearing.hear(event), shutdown.clone()))
            .map_err(|error| ConfigError(format!("no thread for the link: {error}")))?;
        shutdown.spawn(repairer.run(shutdown.clone()));
        let watching = (Arc::clone(&shared), shutdown.clone());
        shutdown.spawn(async move { watching.0.rules.tokens.watch(watching.1).await });
        let lifetime = Duration::from_secs(self.config.redis.position_ttl_seconds.into());
        shutdown.spawn(repairer::examine(Arc::clone(&shared.hub), lifetime, shutdown.clone()));
        shutdown.spawn(listen::compare(redis.clone(), link.clone(), shutdown.clone()));
        shutdown.spawn(listen::follow_forgetting(redis.clone(), Arc::clone(&shared.hub), shutdown.clone()));
        shutdown.spawn(listener.watch(link, shutdown.clone()));
        shutdown.spawn(redis.watch(health, shutdown.clone()));
        fanout_core::ready("serving");
        server::serve(self.browsers, shared, shutdown.clone()).await;
        Ok(())
    }
}

/// Checks everything about a configuration that can be known without listening or connecting.
///
/// # Errors
/// A sentence that names the field and says what to do.
pub fn check(config: &Config) -> Result<(Tokens, Topics), ConfigError> {
    config.subscriber_bridge.check().map_err(ConfigError)?;
    Redis::check(&config.redis)?;
    let topics = Topics::new(config.topics.clone(), config.default_topic.clone()).map_err(ConfigError)?;
    backend(&config.subscriber_bridge)?;
    Ok((tokens(&config.subscriber_bridge)?, topics))
}

/// The token keys of a configuration.
///
/// # Errors
/// No key, or one that cannot be used; the text says how to give one.
pub fn tokens(config: &BridgeConfig) -> Result<Tokens, ConfigError> {
    Tokens::from_config(config)
}

/// The application's backend, if a configuration names one.
///
/// # Errors
/// An address that is none; the text names the field.
pub fn backend(config: &BridgeConfig) -> Result<Option<Backend>, ConfigError> {
    let backend = |url: &String| Backend::new(url, config.ca_file.as_deref(), config.max_rpc_calls);
    config.rpc_url.as_ref().map(backend).transpose()
}
