//! The listener for operators: `/livez`, `/readyz`, `/metrics`. It has an address of its own, away from browsers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::config::ConfigError;
use crate::shutdown::Shutdown;

/// Which dependencies are there. Clones share one view.
#[derive(Debug, Clone)]
pub struct Health(Arc<Mutex<BTreeMap<&'static str, Option<String>>>>);

impl Health {
    /// Nothing is there yet.
    pub fn new(dependencies: &[&'static str]) -> Self {
        let missing = dependencies.iter().map(|name| (*name, Some("not connected yet".to_owned())));
        Self(Arc::new(Mutex::new(missing.collect())))
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

    /// What is missing, a sentence each; empty when the worker is ready.
    pub fn missing(&self) -> Vec<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(|(name, why)| why.as_ref().map(|why| format!("{name}: {why}"))).collect()
    }

    fn set(&self, dependency: &'static str, state: Option<String>) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(dependency, state).flatten()
    }
}

/// Binds `address`, which the configuration's `field` gave.
///
/// # Errors
/// The address is taken or not one of this machine; the text says which field to change.
pub async fn bind(field: &str, address: SocketAddr) -> Result<TcpListener, ConfigError> {
    TcpListener::bind(address)
        .await
        .map_err(|error| ConfigError(format!("cannot listen on {field} = \"{address}\": {error}")))
}

/// Serves operators on `listener` until the ending is asked for.
pub async fn serve(listener: TcpListener, health: Health, registry: Arc<Registry>, shutdown: Shutdown) {
    let ready = move || std::future::ready(readiness(&health));
    let metrics = move || std::future::ready(exposition(&registry));
    let routes = Router::new()
        .route("/livez", get(|| std::future::ready("alive\n")))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics));
    let ending = shutdown.clone();
    let served = axum::serve(listener, routes).with_graceful_shutdown(async move { ending.requested().await });
    if let Err(error) = served.await {
        tracing::error!(%error, "the admin listener ended");
    }
}

fn readiness(health: &Health) -> impl IntoResponse + use<> {
    let missing = health.missing();
    if missing.is_empty() {
        return (StatusCode::OK, "ready\n".to_owned());
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", missing.join("; ")))
}

fn exposition(registry: &Registry) -> impl IntoResponse + use<> {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, registry) {
        Ok(()) => {
            let form = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, form)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
