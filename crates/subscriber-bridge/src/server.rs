//! The listener for browsers: HTTP until the upgrade, a [`Connection`] after it.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fanout_core::Shutdown;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::Shared;
use crate::connection::Connection;
use crate::hub::ConnectionId;
use crate::outbox::Outbox;

/// Where bidirectional WebSockets begin.
const WEBSOCKET: &str = "/connection/websocket";

type Answer = Response<Full<Bytes>>;

/// Accepts connections on `listener` until the ending is asked for.
pub(crate) async fn serve(listener: TcpListener, shared: Arc<Shared>, shutdown: Shutdown) {
    let ids = AtomicU64::new(1);
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.requested() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let id = ConnectionId(ids.fetch_add(1, Ordering::Relaxed));
                let shared = Arc::clone(&shared);
                let ending = shutdown.clone();
                shutdown.spawn(async move {
                    if let Err(error) = handshake(stream, id, shared, ending).await {
                        tracing::debug!(connection = id.0, %error, "no WebSocket");
                    }
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: spinning would only make it worse.
                shared.metrics.refused.count("accept failed");
                tracing::warn!(%error, "cannot accept a connection; is the limit of open files reached?");
                shutdown.pause(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Speaks HTTP on `stream`. After an upgrade a task of its own serves the WebSocket, because a task keeps the size of
/// the largest thing it ever did.
async fn handshake(stream: TcpStream, id: ConnectionId, shared: Arc<Shared>, shutdown: Shutdown) -> hyper::Result<()> {
    let _ = stream.set_nodelay(true);
    let upgraded = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let decide = {
        let (shared, upgraded) = (Arc::clone(&shared), Arc::clone(&upgraded));
        move |request: Request<Incoming>| {
            let answer = answer(&request, &shared);
            upgraded.store(answer.status() == StatusCode::SWITCHING_PROTOCOLS, Ordering::Relaxed);
            std::future::ready(Ok::<_, Infallible>(answer))
        }
    };
    let http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(shared.config.stale_seconds.into()))
        .keep_alive(true)
        .serve_connection(TokioIo::new(stream), service_fn(decide));
    let parts = tokio::select! {
        biased;
        () = shutdown.requested() => return Ok(()),
        parts = http.without_shutdown() => parts?,
    };
    if upgraded.load(Ordering::Relaxed) {
        let outbox = Outbox::new(parts.io.into_inner(), shared.config.max_outbox_bytes);
        let ending = shutdown.clone();
        shutdown.spawn(async move {
            shared.metrics.connections.inc();
            let metrics = shared.metrics.clone();
            Connection::new(shared, id, outbox, parts.read_buf).await.run(ending).await;
            metrics.connections.dec();
        });
    }
    Ok(())
}

fn answer(request: &Request<Incoming>, shared: &Shared) -> Answer {
    match (request.uri().path(), request.method()) {
        (WEBSOCKET, &Method::GET) => match upgrade(request.headers(), shared) {
            Ok(answer) => answer,
            Err((status, text)) => {
                shared.metrics.refused.count(text);
                plain(status, format!("{text}\n"))
            }
        },
        (WEBSOCKET, _) => plain(StatusCode::METHOD_NOT_ALLOWED, "a WebSocket begins with GET\n".into()),
        ("/health", &Method::GET) => plain(StatusCode::OK, "{}".into()),
        _ => plain(StatusCode::NOT_FOUND, format!("nothing here; WebSockets connect to {WEBSOCKET}\n")),
    }
}

fn upgrade(headers: &HeaderMap, shared: &Shared) -> Result<Answer, (StatusCode, &'static str)> {
    let is = |name, value: &str| {
        let words = headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
        words.map(str::trim).any(|word| word.eq_ignore_ascii_case(value))
    };
    if !is(header::UPGRADE, "websocket") || !is(header::CONNECTION, "upgrade") {
        return Err((StatusCode::UPGRADE_REQUIRED, "this address speaks WebSocket only"));
    }
    if !is(header::SEC_WEBSOCKET_VERSION, "13") {
        return Err((StatusCode::UPGRADE_REQUIRED, "Sec-WebSocket-Version must be 13"));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|key| key.len() == 24);
    let key = key.ok_or((StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is missing or not 24 characters"))?;
    if !origin_allowed(headers.get(header::ORIGIN), &shared.config.allowed_origins) {
        return Err((StatusCode::FORBIDDEN, "this page's origin is not in subscriber_bridge.allowed_origins"));
    }
    let offered = headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL);
    let json = is(header::SEC_WEBSOCKET_PROTOCOL, "centrifuge-json");
    if offered && !json {
        return Err((StatusCode::BAD_REQUEST, "of the offered subprotocols none is centrifuge-json"));
    }
    let open = usize::try_from(shared.metrics.connections.get()).unwrap_or(0);
    if open >= shared.config.max_connections {
        return Err((StatusCode::SERVICE_UNAVAILABLE, "this bridge is full, see subscriber_bridge.max_connections"));
    }
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if json {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("centrifuge-json"));
    }
    Ok(answer)
}

/// Browsers always send `Origin`; what sends none is no page, and holds no cookies of a visitor.
fn origin_allowed(origin: Option<&HeaderValue>, allowed: &[String]) -> bool {
    let Some(origin) = origin else { return true };
    let origin = origin.to_str().unwrap_or_default();
    allowed.iter().any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin))
}

fn plain(status: StatusCode, text: String) -> Answer {
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() = status;
    answer
}
