//! All three workers in one process on one port, for a laptop or a small site.
//!
//! Browsers connect where the bridge listens. Backends find the publisher's API under `/api` of the same address, operators
//! `/metrics`, `/readyz` and `/livez`. The invalidation-worker runs where a database is configured.

mod config;
mod guard;

use std::net::SocketAddr;

use axum::middleware;
use fanout_core::Shutdown;
use fanout_core::admin::{Board, Operators};
use fanout_core::config::ConfigError;
use invalidation_worker::Region;
use subscriber_bridge::Bridge;

pub use self::config::Config;
use self::guard::Guard;

/// All workers, with the addresses bound.
pub struct Griot {
    bridge: Bridge,
    publisher: publisher::Work,
    region: Option<Region>,
}

impl Griot {
    /// Checks the configuration and binds where the bridge listens. Nothing is answered before [`Griot::run`].
    ///
    /// # Errors
    /// A configuration that cannot work, or an address that cannot be had.
    pub async fn bind(config: Config, shutdown: &Shutdown) -> Result<Self, ConfigError> {
        let board = Board::new(2 + usize::from(config.worker.is_some()));
        let shared = || Operators::Shared(board.clone());
        let region = config.worker.map(|config| Region::shown_at(shared(), config)).transpose()?;
        let (key, _) = publisher::check(&config.publisher)?;
        let (api, publisher) = publisher::mounted(shared(), config.publisher, shutdown)?;
        let operators = board.routes().layer(middleware::from_fn_with_state(Guard::new(key), guard::guard));
        let bridge = Bridge::shown_at(shared(), config.bridge).await?.with_pages(api.merge(operators));
        Ok(Self { bridge, publisher, region })
    }

    /// Where everybody connects.
    ///
    /// # Errors
    /// When a socket has no address any more.
    pub fn local_addrs(&self) -> std::io::Result<Vec<SocketAddr>> {
        self.bridge.local_addrs()
    }

    /// Whether a database is configured, so that its change log is applied.
    pub fn applies_the_change_log(&self) -> bool {
        self.region.is_some()
    }

    /// Serves until the ending is asked for.
    ///
    /// # Errors
    /// Redis holds records of a deployment that is configured differently.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), ConfigError> {
        let region = async {
            match self.region {
                Some(region) => Box::pin(region.run(shutdown.clone())).await,
                None => Ok(()),
            }
        };
        let bridge = Box::pin(self.bridge.run(shutdown.clone()));
        tokio::try_join!(bridge, self.publisher.run(shutdown.clone()), region).map(drop)
    }
}
