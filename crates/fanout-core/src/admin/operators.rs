//! Where operators look at a worker: at an address of its own, or at one board for all workers of a process.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use super::{Health, bind, exposition, readiness, serve};
use crate::config::ConfigError;
use crate::process;
use crate::shutdown::Shutdown;

/// Where operators look at a worker.
#[derive(Debug)]
pub enum Operators {
    /// At an address of its own.
    Own(TcpListener),
    /// Where they look at the other workers of the process.
    Shared(Board),
}

impl Operators {
    /// Binds an address of its own, which the configuration's `field` gave.
    ///
    /// # Errors
    /// As [`bind`].
    pub async fn bind(field: &str, address: SocketAddr) -> Result<Self, ConfigError> {
        bind(field, address).await.map(Self::Own)
    }

    /// The worker's own address.
    ///
    /// # Errors
    /// It has none, or the socket has none any more.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Own(listener) => listener.local_addr(),
            Self::Shared(_) => Err(io::Error::other("this worker shares its process's address")),
        }
    }

    /// Shows what a worker counts and misses, until the ending is asked for; what it gives is to be told when the worker
    /// is up.
    pub fn show(self, health: Health, registry: Registry, shutdown: &Shutdown) -> Readiness {
        match self {
            Self::Own(listener) => {
                shutdown.spawn(serve(listener, health, Arc::new(registry), shutdown.clone()));
                Readiness(None)
            }
            Self::Shared(board) => {
                board.lock().push(Worker { health, registry, up: false });
                Readiness(Some((board.clone(), board.lock().len() - 1)))
            }
        }
    }
}

/// Tells the service manager when everything of the process is up.
#[derive(Debug)]
pub struct Readiness(Option<(Board, usize)>);

impl Readiness {
    /// The worker is up, as `status` for `systemctl status`.
    pub fn tell(self, status: &str) {
        let Some((board, number)) = self.0 else { return process::ready(status) };
        let mut workers = board.lock();
        if let Some(worker) = workers.get_mut(number) {
            worker.up = true;
        }
        if workers.len() == board.workers && workers.iter().all(|worker| worker.up) {
            process::ready(status);
        }
    }
}

/// What all workers of a process show.
#[derive(Debug, Clone)]
pub struct Board {
    workers: usize,
    shown: Arc<Mutex<Vec<Worker>>>,
}

#[derive(Debug)]
struct Worker {
    health: Health,
    registry: Registry,
    up: bool,
}

impl Board {
    /// For so many workers: the process is ready when all of them are there.
    pub fn new(workers: usize) -> Self {
        Self { workers, shown: Arc::default() }
    }

    /// `/livez`, `/readyz` and `/metrics`, of all workers together.
    pub fn routes(&self) -> Router {
        let (ready, metrics) = (self.clone(), self.clone());
        Router::new()
            .route("/livez", get(|| std::future::ready("alive\n")))
            .route("/readyz", get(move || std::future::ready(ready.readiness())))
            .route("/metrics", get(move || std::future::ready(metrics.exposition())))
    }

    fn readiness(&self) -> impl IntoResponse + use<> {
        let workers = self.lock();
        let mut missing: Vec<String> = workers.iter().flat_map(|worker| worker.health.missing()).collect();
        missing.sort_unstable();
        missing.dedup();
        if workers.len() < self.workers {
            missing.push("not every worker has begun".into());
        }
        readiness(&missing, workers.iter().find_map(|worker| worker.health.role()))
    }

    fn exposition(&self) -> impl IntoResponse + use<> {
        exposition(self.lock().iter().map(|worker| &worker.registry))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Worker>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{self, ByReason};

    #[tokio::test]
    async fn a_board_is_ready_when_every_worker_is_there_and_shows_what_all_count() {
        let (board, shutdown) = (Board::new(2), Shutdown::new());
        let status = |board: &Board| board.readiness().into_response().status();
        let mut health = Vec::new();
        for name in ["one", "two"] {
            assert_eq!(status(&board), 503);
            let mut registry = telemetry::registry();
            ByReason::register(&mut registry, name, "Some").count("any");
            health.push(Health::new(&["redis"]));
            Operators::Shared(board.clone()).show(health[health.len() - 1].clone(), registry, &shutdown).tell("up");
        }
        assert_eq!(status(&board), 503);
        health.iter().for_each(|health| health.up("redis"));
        assert_eq!(status(&board), 200);
        let shown = axum::body::to_bytes(board.exposition().into_response().into_body(), 10_000).await.expect("body");
        let shown = String::from_utf8(shown.to_vec()).expect("text");
        assert!(shown.contains("griot_one_total") && shown.contains("griot_two_total"), "{shown}");
        assert_eq!(shown.matches("# EOF").count(), 1, "{shown}");
    }
}
