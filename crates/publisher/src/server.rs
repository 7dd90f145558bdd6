//! The listener for backends.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Request as HttpRequest, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::post;
use fanout_core::telemetry::{ByReason, Seconds};
use fanout_core::{Publisher, Shutdown, begins_object};
use prometheus_client::registry::Registry;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use tokio::net::TcpListener;

use crate::PublisherConfig;
use crate::api::{self, Answer, Request};

/// What the API counts.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    calls: ByReason,
    seconds: Seconds,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        Self {
            calls: ByReason::register(registry, "api_calls", "Calls of the API, by outcome"),
            seconds: Seconds::register(registry, "api_seconds", "Duration of calls of the API"),
        }
    }
}

struct Api {
    publisher: Publisher,
    key: SecretString,
    config: PublisherConfig,
    metrics: Metrics,
}

/// Serves the API on `listener` until the ending is asked for and the calls under way are answered.
pub(crate) async fn serve(
    listener: TcpListener,
    publisher: Publisher,
    key: SecretString,
    config: PublisherConfig,
    metrics: Metrics,
    shutdown: Shutdown,
) -> std::io::Result<()> {
    let limit = config.max_body_bytes;
    let api = Arc::new(Api { publisher, key, config, metrics });
    let routes = Router::new()
        .route("/api/publish", post(publish))
        .route("/api/broadcast", post(broadcast))
        .layer(DefaultBodyLimit::max(limit))
        .layer(middleware::from_fn_with_state(Arc::clone(&api), guard))
        .with_state(api);
    axum::serve(listener, routes).with_graceful_shutdown(async move { shutdown.requested().await }).await
}

type Refused = (StatusCode, String);

async fn publish(State(api): State<Arc<Api>>, body: Result<Bytes, BytesRejection>) -> Result<Response, Refused> {
    let request = parse(body)?;
    Ok(respond(&api, api::publish(&api.publisher, request).await))
}

async fn broadcast(State(api): State<Arc<Api>>, body: Result<Bytes, BytesRejection>) -> Result<Response, Refused> {
    let request = parse(body)?;
    let limit = api.config.max_broadcast_channels;
    Ok(respond(&api, api::broadcast(&api.publisher, request, limit).await))
}

fn parse(body: Result<Bytes, BytesRejection>) -> Result<Request, Refused> {
    let body = body.map_err(|rejection| {
        (rejection.status(), format!("{}; see publisher.max_body_bytes\n", rejection.body_text()))
    })?;
    if !begins_object(&body) {
        return Err((StatusCode::BAD_REQUEST, "the body is not a JSON object\n".into()));
    }
    serde_json::from_slice(&body)
        .map_err(|error| (StatusCode::BAD_REQUEST, format!("the body is not a request: {error}\n")))
}

fn respond<T: Serialize>(api: &Api, answer: Answer<T>) -> Response {
    let outcome = match &answer {
        Answer::Result(_) => "done",
        Answer::Error(error) if error.code == 100 => "failed",
        Answer::Error(_) => "refused",
    };
    api.metrics.calls.count(outcome);
    Json(answer).into_response()
}

/// Lets calls with the key through, and times them.
async fn guard(State(api): State<Arc<Api>>, request: HttpRequest, next: Next) -> Response {
    let key = api.key.expose_secret().as_bytes();
    if !presented(request.headers(), request.uri()).any(|presented| same(presented.as_bytes(), key)) {
        api.metrics.calls.count("unauthorized");
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let begun = Instant::now();
    let response = next.run(request).await;
    api.metrics.seconds.observe(begun.elapsed());
    response
}

/// The places in which clients of this API send their key.
fn presented<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> impl Iterator<Item = &'a str> {
    let own = headers.get("x-api-key").and_then(|value| value.to_str().ok());
    let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let query = uri.query().into_iter().flat_map(|query| query.split('&'));
    own.into_iter()
        .chain(authorization.and_then(|value| value.strip_prefix("apikey ")))
        .chain(query.filter_map(|pair| pair.strip_prefix("api_key=")))
}

/// Compares in a time that does not depend on where the two differ.
fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}
