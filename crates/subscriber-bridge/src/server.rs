//! The listener for browsers: HTTP until the upgrade, a [`Connection`] after it.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use fanout_core::Shutdown;
use fanout_core::http::{self, Partings};
use futures::future::join_all;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::connection::Connection;
use crate::hub::ConnectionId;
use crate::outbox::Outbox;
use crate::{Shared, admission};

/// Where bidirectional WebSockets begin.
const WEBSOCKET: &str = "/connection/websocket";

type Answer = Response<Full<Bytes>>;

/// Accepts connections on all `listeners` until the ending is asked for.
pub(crate) async fn serve(listeners: Vec<TcpListener>, shared: Arc<Shared>, shutdown: Shutdown) {
    let ids = AtomicU64::new(1);
    let seats = Arc::new(Semaphore::new(shared.config.max_connections.min(Semaphore::MAX_PERMITS)));
    let partings = Partings::default();
    join_all(listeners.iter().map(|listener| listen(listener, &ids, &seats, &partings, &shared, &shutdown))).await;
}

async fn listen(
    listener: &TcpListener,
    ids: &AtomicU64,
    seats: &Arc<Semaphore>,
    partings: &Partings,
    shared: &Arc<Shared>,
    shutdown: &Shutdown,
) {
    while let Some((stream, peer)) = http::accept(listener, &shared.metrics.refused, shutdown).await {
        match admit(shared, seats, peer.ip()) {
            Ok((seat, address)) => {
                let id = ConnectionId(ids.fetch_add(1, Ordering::Relaxed));
                let guest = Guest { peer: peer.ip(), _seat: seat, address: Mutex::new(address) };
                let visit =
                    Visit { id, guest: Arc::new(guest), shared: Arc::clone(shared), shutdown: shutdown.clone() };
                shutdown.spawn(visit.run(stream));
            }
            Err((status, reason)) => {
                shared.metrics.refused.count(reason);
                partings.part(stream, status, format!("{reason}\n"), shutdown);
            }
        }
    }
}

type Refusal = (StatusCode, &'static str);
type Seat = OwnedSemaphorePermit;
type Address = admission::Guest<IpAddr>;

/// A seat for a new socket, and the count of its address where that is known without its headers.
fn admit(shared: &Shared, seats: &Arc<Semaphore>, peer: IpAddr) -> Result<(Seat, Option<Address>), Refusal> {
    let full = (StatusCode::SERVICE_UNAVAILABLE, "this bridge is full, see subscriber_bridge.max_connections");
    let seat = Arc::clone(seats).try_acquire_owned().map_err(|_| full)?;
    if admission::is_trusted(peer, &shared.config.trusted_proxies) {
        return Ok((seat, None));
    }
    enter(shared, peer).map(|address| (seat, Some(address)))
}

fn enter(shared: &Shared, address: IpAddr) -> Result<Address, Refusal> {
    let entered = shared.addresses.enter(admission::one_address(address), shared.config.max_connections_per_address);
    let text = "too many connections from this address, see subscriber_bridge.max_connections_per_address";
    entered.ok_or((StatusCode::TOO_MANY_REQUESTS, text))
}

/// What a connection takes up, from the first byte to the end.
pub(crate) struct Guest {
    peer: IpAddr,
    _seat: Seat,
    address: Mutex<Option<Address>>,
}

/// A connection that speaks HTTP.
struct Visit {
    id: ConnectionId,
    guest: Arc<Guest>,
    shared: Arc<Shared>,
    shutdown: Shutdown,
}

impl Visit {
    /// Speaks HTTP until the upgrade. A task of its own serves the WebSocket then, because a task keeps the size of the
    /// largest thing it ever did.
    async fn run(self, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let patience = self.shared.config.patience();
        let progress = Arc::new(Progress::default());
        let answer = {
            let (shared, guest, progress) = (Arc::clone(&self.shared), Arc::clone(&self.guest), Arc::clone(&progress));
            move |request: Request<Incoming>| {
                let answer = answer(&request, &shared, &guest);
                progress.answered.store(true, Ordering::Relaxed);
                progress.upgraded.store(answer.status() == StatusCode::SWITCHING_PROTOCOLS, Ordering::Relaxed);
                std::future::ready(Ok::<_, Infallible>(answer))
            }
        };
        let mut http = http1::Builder::new()
            .max_header_size(http::MAX_HEADER_BYTES)
            .serve_connection(TokioIo::new(stream), service_fn(answer));
        let ended = tokio::select! {
            biased;
            () = self.shutdown.requested() => return,
            ended = timeout(patience, poll_fn(|cx| http.poll_without_shutdown(cx))) => ended,
        };
        let parts = http.into_parts();
        let stream = parts.io.into_inner();
        match ended {
            Ok(Ok(())) if progress.upgraded.load(Ordering::Relaxed) => self.upgraded(stream, parts.read_buf),
            Ok(Ok(())) => http::linger(stream).await,
            Ok(Err(error)) => {
                // hyper has answered what it could not parse.
                self.shared.metrics.refused.count("not HTTP");
                tracing::debug!(connection = self.id.0, %error, "no WebSocket");
                http::linger(stream).await;
            }
            // A kept connection that nobody uses: an answer to nothing would be taken for the next request's.
            Err(_) if progress.answered.load(Ordering::Relaxed) => {}
            Err(_) => {
                self.shared.metrics.refused.count("no request in time");
                let text = format!("no complete request within {patience:.0?}, see subscriber_bridge.stale_seconds\n");
                http::part(stream, StatusCode::REQUEST_TIMEOUT, &text).await;
            }
        }
    }

    fn upgraded(self, stream: TcpStream, early: Bytes) {
        let Self { id, guest, shared, shutdown } = self;
        let outbox = Outbox::new(stream, shared.config.max_outbox_bytes, shared.config.max_recovery_bytes);
        let ending = shutdown.clone();
        shutdown.spawn(async move {
            shared.metrics.connections.inc();
            let metrics = shared.metrics.clone();
            Connection::new(shared, id, outbox, early).await.run(ending).await;
            metrics.connections.dec();
            drop(guest);
        });
    }
}

/// How far a handshake has come.
#[derive(Default)]
struct Progress {
    answered: AtomicBool,
    upgraded: AtomicBool,
}

fn answer(request: &Request<Incoming>, shared: &Shared, guest: &Guest) -> Answer {
    match (request.uri().path(), request.method()) {
        (WEBSOCKET, &Method::GET) => match upgrade(request.headers(), shared, guest) {
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

fn upgrade(headers: &HeaderMap, shared: &Shared, guest: &Guest) -> Result<Answer, Refusal> {
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
    let mut address = guest.address.lock().unwrap_or_else(PoisonError::into_inner);
    if address.is_none() {
        let client = admission::forwarded(headers, &shared.config.trusted_proxies).unwrap_or(guest.peer);
        *address = Some(enter(shared, client)?);
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
