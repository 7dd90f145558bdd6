//! The listener for operators: `/livez`, `/readyz`, `/metrics`. It has an address of its own, away from browsers.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpSocket};

use crate::config::ConfigError;
use crate::http::{self, Limits};
use crate::shutdown::Shutdown;
use crate::telemetry::{self, ByReason};

mod operators;

pub use self::operators::{Board, Operators, Readiness};

/// Which dependencies are there. Clones share one view.
#[derive(Debug, Clone)]
pub struct Health {
    dependencies: Arc<Mutex<BTreeMap<&'static str, Option<String>>>>,
    role: Arc<Mutex<Option<String>>>,
}

impl Health {
    /// Nothing is there yet.
    pub fn new(dependencies: &[&'static str]) -> Self {
        let missing = dependencies.iter().map(|name| (*name, Some("not connected yet".to_owned())));
        Self { dependencies: Arc::new(Mutex::new(missing.collect())), role: Arc::default() }
    }

    /// `dependency` is there.
    pub fn up(&self, dependency: &'static str) {
        if self.set(dependency, None).is_some() {
            tracing::info!(dependency, "is there");
        }
    }

    /// `dependency` is missing, and why.
    pub fn down(&self, dependency: &'static str, why: impl Into<String>) {
        let why = why.into();
        if self.set(dependency, Some(why.clone())).is_none() {
            tracing::warn!(dependency, why, "is missing");
        }
    }

    /// What `/readyz` says beside `ready`, for a worker that is ready and does not work; `None` says nothing.
    pub fn set_role(&self, role: Option<String>) {
        *self.role.lock().unwrap_or_else(PoisonError::into_inner) = role;
    }

    fn role(&self) -> Option<String> {
        self.role.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is missing, a sentence each; empty when the worker is ready.
    pub fn missing(&self) -> Vec<String> {
        let all = self.dependencies.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(|(name, why)| why.as_ref().map(|why| format!("{name}: {why}"))).collect()
    }

    fn set(&self, dependency: &'static str, state: Option<String>) -> Option<String> {
        self.dependencies.lock().unwrap_or_else(PoisonError::into_inner).insert(dependency, state).flatten()
    }
}

/// Connections that the kernel completes before they are accepted; it caps this at `net.core.somaxconn`. With the
/// standard library's 128 a burst of reconnects is dropped and tries again only seconds later.
const BACKLOG: u32 = 4_096;

/// Binds `address`, which the configuration's `field` gave.
///
/// # Errors
/// The address is taken or not one of this machine; the text says which field to change.
pub async fn bind(field: &str, address: SocketAddr) -> Result<TcpListener, ConfigError> {
    bind_with(field, address, None).await
}

/// [`bind`], with a limit to what the kernel holds for a connection whose peer does not read, in bytes.
///
/// # Errors
/// As [`bind`].
#[expect(clippy::unused_async, reason = "its callers await it, and a socket needs their runtime")]
pub async fn bind_with(field: &str, address: SocketAddr, send_buffer: Option<u32>) -> Result<TcpListener, ConfigError> {
    listen(address, send_buffer)
        .map_err(|error| ConfigError(format!("cannot listen on {field} = \"{address}\": {error}")))
}

fn listen(address: SocketAddr, send_buffer: Option<u32>) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(bytes) = send_buffer {
        // Connections inherit it.
        socket.set_send_buffer_size(bytes)?;
    }
    // Connections inherit this, too.
    socket.set_nodelay(true)?;
    // A worker that starts again must not wait for the last connections of the one before.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves operators on `listener` until the ending is asked for.
pub async fn serve(listener: TcpListener, health: Health, registry: Arc<Registry>, shutdown: Shutdown) {
    serve_within(Limits::OPERATORS, listener, health, registry, shutdown).await;
}

/// [`serve`] with limits of one's own.
pub async fn serve_within(
    limits: Limits,
    listener: TcpListener,
    health: Health,
    registry: Arc<Registry>,
    shutdown: Shutdown,
) {
    // The worker's registry is complete by now, so what this listener counts has one of its own.
    let mut own = telemetry::registry();
    let help = "Connections and requests that the listener for operators cut off, by reason";
    let refused = ByReason::register(&mut own, "admin_refused", help);
    let ready = move || std::future::ready(readiness(&health.missing(), health.role()));
    let own = Arc::new(own);
    let metrics = move || std::future::ready(exposition([&*own, &*registry]));
    let routes = Router::new()
        .route("/livez", get(|| std::future::ready("alive\n")))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics));
    http::serve(listener, routes, limits, refused, shutdown).await;
}

fn readiness(missing: &[String], role: Option<String>) -> impl IntoResponse + use<> {
    if missing.is_empty() {
        return (StatusCode::OK, role.map_or_else(|| "ready\n".to_owned(), |role| format!("ready: {role}\n")));
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", missing.join("; ")))
}

fn exposition<'a>(registries: impl IntoIterator<Item = &'a Registry>) -> Response {
    let mut exposed = String::new();
    let mut encoded = registries.into_iter().map(|registry| text::encode_registry(&mut exposed, registry));
    match encoded.all(|encoded| encoded.is_ok()) && text::encode_eof(&mut exposed).is_ok() {
        true => {
            let form = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, form)], exposed).into_response()
        }
        false => (StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n").into_response(),
    }
}
