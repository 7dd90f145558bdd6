//! The subscriber-bridge: holds the browsers' sockets and fans Redis out to them.
//!
//! What arrives at the [link](fanout_core::link) goes through the hub to the outboxes. It knows nothing of PostgreSQL.

mod admission;
mod allowance;
mod arrival;
mod attendance;
mod audience;
pub mod backend;
mod backlog;
pub mod codes;
pub mod config;
mod connection;
mod connections;
mod emulation;
pub mod frame;
pub mod gate;
pub mod handshake;
mod hub;
pub mod incoming;
pub mod join;
mod listen;
mod members;
mod metrics;
pub mod order;
mod origin;
pub mod outbound;
pub mod outbox;
pub mod protocol;
mod raw;
mod recovery;
mod repair;
mod repairer;
mod room;
mod run;
mod server;
pub mod session;
mod stream;
mod subscription;
pub mod tls;
pub mod token;
mod visitor;
pub mod wire;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use fanout_core::admin::{self, Health, Operators};
use fanout_core::config::ConfigError;
use fanout_core::link::Link;
use fanout_core::nodes::{self, Node};
use fanout_core::{Publisher, Redis, Shutdown, Topics, telemetry};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use self::admission::Counts;
use self::attendance::Attendance;
use self::backend::Backend;
pub use self::config::{BridgeConfig, Config};
use self::connections::Connections;
use self::gate::Gate;
use self::hub::Hub;
use self::listen::Listener;
use self::metrics::Metrics;
use self::repairer::Repairer;
use self::room::Room;
use self::session::Rules;
use self::tls::Tls;
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
    /// Spreads the verification of connection tokens.
    pub(crate) gate: Gate,
    /// Publishes what clients publish.
    pub(crate) publisher: Publisher,
    /// Answers what clients call.
    pub(crate) backend: Option<Backend>,
    pub(crate) attendance: Attendance,
    pub(crate) connections: Connections,
    /// Makes the handshakes, where browsers speak TLS.
    pub(crate) tls: Option<TlsAcceptor>,
    /// What answers on paths that are not the bridge's.
    pub(crate) pages: Option<Router>,
}

/// A bridge whose addresses are bound.
pub struct Bridge {
    browsers: Vec<TcpListener>,
    operators: Operators,
    config: Config,
    tokens: Tokens,
    topics: Topics,
    tls: Option<Tls>,
    pages: Option<Router>,
}

impl Bridge {
    /// Checks the configuration and binds the addresses for browsers and for operators.
    ///
    /// # Errors
    /// A configuration that cannot work, or an address that cannot be had.
    pub async fn bind(config: Config) -> Result<Self, ConfigError> {
        let address = config.subscriber_bridge.admin_listen;
        Self::shown_at(Operators::bind("subscriber_bridge.admin_listen", address).await?, config).await
    }

    /// Checks the configuration of a bridge at which operators look somewhere else, and binds the addresses for browsers.
    ///
    /// # Errors
    /// As [`Bridge::bind`].
    pub async fn shown_at(operators: Operators, config: Config) -> Result<Self, ConfigError> {
        let (tokens, topics) = check(&config)?;
        let own = &config.subscriber_bridge;
        let tls = Tls::new(own)?;
        let buffer = Some(own.socket_send_buffer_bytes).filter(|bytes| *bytes > 0);
        let mut browsers = Vec::new();
        for address in &own.listen {
            browsers.push(admin::bind_with("subscriber_bridge.listen", *address, buffer).await?);
        }
        Ok(Self { browsers, operators, config, tokens, topics, tls, pages: None })
    }

    /// Lets `pages` answer on the browsers' address where the bridge has nothing to say.
    #[must_use]
    pub fn with_pages(self, pages: Router) -> Self {
        Self { pages: Some(pages), ..self }
    }

    /// Where browsers connect.
    ///
    /// # Errors
    /// When a socket has no address any more.
    pub fn local_addrs(&self) -> std::io::Result<Vec<SocketAddr>> {
        self.browsers.iter().map(TcpListener::local_addr).collect()
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
        let hub =
            Hub::new(link.clone(), redis.partitions().clone(), self.topics.clone(), metrics.clone(), room.clone());
        let hub = Arc::new(hub);
        let node = uuid::Uuid::new_v4().to_string();
        let listener = Listener::new(&link, Arc::clone(&hub), &self.topics, &config, &metrics, &health, &node);
        let publisher = Publisher::new(redis.clone(), self.topics.clone());
        let backend = backend(&config)?;
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
            node,
            insecure: config.insecure,
            allow_anonymous: config.allow_anonymous,
            answers_rpc: backend.is_some(),
            max_channels: config.max_channels,
            max_subscribes_per_second: config.max_subscribes_per_second,
            ping_seconds: config.ping_seconds,
        };
        let addresses = Counts::default();
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
            gate,
            publisher,
            backend,
            attendance: Attendance::new(redis.clone()),
            connections: Connections::default(),
            tls: self.tls.as_ref().map(Tls::acceptor),
            pages: self.pages,
        });
        let readiness = self.operators.show(health.clone(), registry, &shutdown);
        redis.join_deployment(&shutdown).await?;
        let hearing = Arc::clone(&listener);
        // Deliveries must not queue behind handshakes and commands, of which strangers can send any number.
        shutdown
            .spawn_apart(connector.run(hearing.ear(&shared, &shutdown), shutdown.clone()))
            .map_err(|error| ConfigError(format!("no thread for the link: {error}")))?;
        shutdown.spawn(repairer.run(shutdown.clone()));
        if let Some(tls) = self.tls {
            shutdown.spawn(tls.watch(shared.metrics.certificates.clone(), shutdown.clone()));
        }
        let (watching, attending) = (Arc::clone(&shared), Arc::clone(&shared));
        let (ending, parting) = (shutdown.clone(), shutdown.clone());
        shutdown.spawn(async move { watching.rules.tokens.watch(ending).await });
        shutdown.spawn(async move { attending.attendance.refresh(parting).await });
        shutdown.spawn(announce(Arc::clone(&shared), shutdown.clone()));
        let lifetime = Duration::from_secs(self.config.redis.position_ttl_seconds.into());
        shutdown.spawn(repairer::examine(Arc::clone(&shared.hub), lifetime, shutdown.clone()));
        shutdown.spawn(listen::compare(redis.clone(), link.clone(), shutdown.clone()));
        shutdown.spawn(listen::follow_forgetting(redis.clone(), Arc::clone(&shared.hub), shutdown.clone()));
        shutdown.spawn(listener.watch(link, shutdown.clone()));
        shutdown.spawn(redis.watch(health, shutdown.clone()));
        readiness.tell("serving");
        // On the threads that serve connections: from another one each would have to be handed over.
        let accepting = shutdown.spawn(server::serve(self.browsers, shared, shutdown.clone()));
        accepting.await.map_err(|error| ConfigError(format!("connections are accepted no more: {error}")))
    }
}

/// Lets others know that this bridge is there, until the ending is asked for.
async fn announce(shared: Arc<Shared>, shutdown: Shutdown) {
    let begun = Instant::now();
    loop {
        let (num_clients, num_users) = shared.connections.size();
        let (num_channels, num_subs) = shared.hub.size();
        let node = Node {
            uid: shared.rules.node.clone(),
            name: shared.rules.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            num_clients,
            num_users,
            num_subs,
            num_channels,
            uptime: begun.elapsed().as_secs(),
        };
        if let Err(error) = nodes::announce(&shared.redis, &node).await {
            tracing::debug!(%error, "this bridge could not be announced");
        }
        if !shutdown.pause(nodes::EVERY).await {
            break;
        }
    }
    // Redis may be away; the announcement expires by itself.
    let _ = timeout(Duration::from_secs(1), nodes::leave(&shared.redis, &shared.rules.node)).await;
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
    Tls::new(&config.subscriber_bridge)?;
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
