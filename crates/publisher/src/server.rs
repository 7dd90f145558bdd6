//! The listener for backends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, Request as HttpRequest, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use fanout_core::telemetry::{ByReason, Seconds};
use fanout_core::{Publisher, begins_object};
use prometheus_client::registry::Registry;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use crate::api::{self, Answer, ApiError, Command};
use crate::config::ErrorMode;
use crate::{OPENAPI, PublisherConfig};

/// What the API counts.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    calls: ByReason,
    seconds: Seconds,
    pub(crate) refused: ByReason,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        Self {
            calls: ByReason::register(registry, "api_calls", "Commands of the API (a batch has several), by outcome"),
            seconds: Seconds::register(registry, "api_seconds", "Duration of calls of the API"),
            refused: ByReason::register(
                registry,
                "api_refused",
                "Connections and requests that the API's listener cut off, by reason",
            ),
        }
    }
}

/// What calls need.
pub(crate) struct Api {
    pub(crate) publisher: Publisher,
    pub(crate) key: SecretString,
    pub(crate) config: PublisherConfig,
    pub(crate) metrics: Metrics,
    /// Whether this process is known to be configured as its deployment. Before, it must publish nothing.
    pub(crate) open: Arc<AtomicBool>,
}

impl Api {
    /// The API, for whichever listener serves it.
    pub(crate) fn routes(self) -> Router {
        let max_body_bytes = self.config.max_body_bytes;
        let api = Arc::new(self);
        let guarded = Router::new()
            .route("/api/batch", post(batch))
            .route("/api/{method}", post(call))
            .layer(DefaultBodyLimit::max(max_body_bytes))
            .layer(middleware::from_fn_with_state(Arc::clone(&api), guard));
        // It holds no secret, and who writes a client has no key yet.
        guarded.route("/api/openapi.json", get(openapi)).with_state(api)
    }
}

type Refused = (StatusCode, String);

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

async fn call(
    State(api): State<Arc<Api>>,
    Path(method): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refused> {
    let body = object(body)?;
    let Some(command) = Command::of(&method, &body) else {
        return Err((StatusCode::NOT_FOUND, String::new()));
    };
    let outcome = api::alone(&api.publisher, command.map_err(|error| no_request(&error))?, api.config.limits()).await;
    api.count(outcome.as_ref().err());
    Ok(api.answer(&headers, outcome))
}

async fn batch(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refused> {
    let commands = serde_json::from_slice(&object(body)?).map_err(|error| no_request(&error))?;
    Ok(match api::batch(&api.publisher, commands, api.config.limits()).await {
        Ok(result) => {
            result.replies.iter().for_each(|reply| api.count(reply.outcome.as_ref().err()));
            Json(result).into_response()
        }
        Err(error) => {
            api.count(Some(&error));
            api.answer(&headers, Err::<(), _>(error))
        }
    })
}

impl Api {
    /// An error is an answer like any other, unless the settings or the caller want it as an HTTP status.
    fn answer<T: Serialize>(&self, headers: &HeaderMap, outcome: Result<T, ApiError>) -> Response {
        let wanted = headers.get("x-centrifugo-error-mode").is_some_and(|mode| mode.as_bytes() == b"transport");
        match outcome {
            Err(error) if wanted || self.config.error_mode == ErrorMode::Transport => {
                (status(&error), Json(error)).into_response()
            }
            outcome => Json(Answer::from(outcome)).into_response(),
        }
    }

    fn count(&self, error: Option<&ApiError>) {
        self.metrics.calls.count(match error {
            None => "done",
            Some(error) if error.code == 100 => "failed",
            Some(_) => "refused",
        });
    }
}

fn status(error: &ApiError) -> StatusCode {
    match error.code {
        102 | 104 => StatusCode::NOT_FOUND,
        107 | 108 => StatusCode::BAD_REQUEST,
        112 => StatusCode::RANGE_NOT_SATISFIABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The body, when it can be a request.
fn object(body: Result<Bytes, BytesRejection>) -> Result<Bytes, Refused> {
    let body = body.map_err(|rejection| {
        (rejection.status(), format!("{}; see publisher.max_body_bytes\n", rejection.body_text()))
    })?;
    if begins_object(&body) {
        Ok(body)
    } else {
        Err((StatusCode::BAD_REQUEST, "the body is not a JSON object\n".into()))
    }
}

fn no_request(error: &serde_json::Error) -> Refused {
    (StatusCode::BAD_REQUEST, format!("the body is not a request: {error}\n"))
}

/// Lets calls with the key through, and times them.
async fn guard(State(api): State<Arc<Api>>, request: HttpRequest, next: Next) -> Response {
    if !has_key(request.headers(), request.uri(), &api.key) {
        api.metrics.calls.count("unauthorized");
        return StatusCode::UNAUTHORIZED.into_response();
    }
    // Before anything of it is read; a body that announces no length is cut off where it exceeds the limit.
    let limit = api.config.max_body_bytes;
    if announced(request.headers()).is_some_and(|length| length > limit as u64) {
        api.metrics.calls.count("refused");
        let text = format!("the body is over {limit} bytes; see publisher.max_body_bytes\n");
        return (StatusCode::PAYLOAD_TOO_LARGE, text).into_response();
    }
    if !api.open.load(Ordering::Relaxed) {
        let message = "Redis has not answered since this publisher started. Nothing was published; try again".into();
        let error = ApiError { code: 100, message };
        api.count(Some(&error));
        return api.answer(request.headers(), Err::<(), _>(error));
    }
    let begun = Instant::now();
    let response = next.run(request).await;
    api.metrics.seconds.observe(begun.elapsed());
    response
}

fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Whether a request presents `key`, in any of the places in which clients of the API send it.
pub fn has_key(headers: &HeaderMap, uri: &Uri, key: &SecretString) -> bool {
    let key = key.expose_secret().as_bytes();
    presented(headers, uri).any(|presented| same(presented.as_bytes(), key))
}

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
