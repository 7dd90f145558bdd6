//! The publisher: an HTTP API for backends in any language. From Rust, use [`fanout_core::Publisher`] itself.

pub mod api;
pub mod config;
pub mod intake;
mod server;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use fanout_core::admin::{self, Health, Operators, Readiness};
use fanout_core::config::{ConfigError, secret};
use fanout_core::telemetry::{self, ByReason};
use fanout_core::{Publisher, Redis, Shutdown, Topics, http};
use secrecy::SecretString;
use tokio::net::TcpListener;

pub use self::config::{Config, PublisherConfig};
use self::server::Api;
pub use self::server::has_key;

/// The API, described: OpenAPI 3.1.
pub const OPENAPI: &str = include_str!("../openapi.json");

/// A publisher whose addresses are bound.
pub struct Server {
    backends: TcpListener,
    operators: Operators,
    config: Config,
    key: SecretString,
    topics: Topics,
}

impl Server {
    /// Checks the configuration and binds both addresses.
    ///
    /// # Errors
    /// A configuration that cannot work, or an address that cannot be had.
    pub async fn bind(config: Config) -> Result<Self, ConfigError> {
        let (key, topics) = check(&config)?;
        let own = &config.publisher;
        let backends = admin::bind("publisher.listen", own.listen).await?;
        let operators = Operators::bind("publisher.admin_listen", own.admin_listen).await?;
        Ok(Self { backends, operators, config, key, topics })
    }

    /// Where backends call.
    ///
    /// # Errors
    /// When the socket has no address any more.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.backends.local_addr()
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
        let limits = self.config.publisher.listener()?;
        let (api, work) = begin(self.operators, self.config, self.key, self.topics, &shutdown)?;
        shutdown.spawn(http::serve(self.backends, api.routes, limits, api.refused, shutdown.clone()));
        work.run(shutdown).await
    }
}

/// The API for a listener that serves other things too, and what the publisher does besides.
///
/// # Errors
/// A configuration that cannot work.
pub fn mounted(operators: Operators, config: Config, shutdown: &Shutdown) -> Result<(Router, Work), ConfigError> {
    let (key, topics) = check(&config)?;
    let (api, work) = begin(operators, config, key, topics, shutdown)?;
    Ok((api.routes, work))
}

fn begin(
    operators: Operators,
    config: Config,
    key: SecretString,
    topics: Topics,
    shutdown: &Shutdown,
) -> Result<(Routes, Work), ConfigError> {
    let mut registry = telemetry::registry();
    let metrics = server::Metrics::register(&mut registry);
    let health = Health::new(&["redis"]);
    let redis = Redis::connect(&config.redis)?;
    let readiness = operators.show(health.clone(), registry, shutdown);
    let publisher = Publisher::new(redis.clone(), topics);
    let open = Arc::new(AtomicBool::new(false));
    let refused = metrics.refused.clone();
    let api = Api { publisher, key, config: config.publisher, metrics, open: Arc::clone(&open) };
    Ok((Routes { routes: api.routes(), refused }, Work { redis, health, open, readiness }))
}

/// The API's routes, and who counts what their listener refuses.
struct Routes {
    routes: Router,
    refused: ByReason,
}

/// What the publisher does beside answering.
pub struct Work {
    redis: Redis,
    health: Health,
    open: Arc<AtomicBool>,
    readiness: Readiness,
}

impl Work {
    /// Opens the API once this process is known to be configured as its deployment, and watches Redis until the ending is
    /// asked for.
    ///
    /// # Errors
    /// Redis holds records of a deployment that is configured differently.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), ConfigError> {
        self.redis.join_deployment(&shutdown).await?;
        self.open.store(true, Ordering::Relaxed);
        shutdown.spawn(self.redis.watch(self.health, shutdown.clone()));
        self.readiness.tell("serving");
        shutdown.requested().await;
        Ok(())
    }
}

/// Checks everything about a configuration that can be known without listening or connecting.
///
/// # Errors
/// A sentence that names the field and says what to do.
pub fn check(config: &Config) -> Result<(SecretString, Topics), ConfigError> {
    Redis::check(&config.redis)?;
    let topics = Topics::new(config.topics.clone(), config.default_topic.clone()).map_err(ConfigError)?;
    let own = &config.publisher;
    own.listener()?;
    let key = secret("publisher.api_key", own.api_key.as_ref(), own.api_key_file.as_ref())?.ok_or_else(|| {
        ConfigError(
            "no API key: give the one that your backends send as X-API-Key, as api_key_file in [publisher] or in the \
             environment as GRIOT_PUBLISHER__API_KEY (make one with `openssl rand -hex 32`)"
                .into(),
        )
    })?;
    Ok((key, topics))
}
