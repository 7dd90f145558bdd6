//! The listener for browsers: HTTP until the upgrade, a [`Connection`] after it.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use fanout_core::Shutdown;
use fanout_core::http::{self, Partings};
use futures::FutureExt;
use futures::future::join_all;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tower::ServiceExt;

use crate::connection::{Connection, Said};
use crate::handshake::{self, Refusal};
use crate::hub::ConnectionId;
use crate::outbox::Outbox;
use crate::protocol::Encoding;
use crate::session::Manner;
use crate::tls::{self, Stream};
use crate::wire::Wire;
use crate::{Shared, admission};

/// Where bidirectional WebSockets begin.
const WEBSOCKET: &str = "/connection/websocket";
/// The subprotocols, of which a client may offer one.
const JSON: &str = "centrifuge-json";
const PROTOBUF: &str = "centrifuge-protobuf";

type Answer = Response<Body>;

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
                let guest = Guest { peer, _seat: seat, address: Mutex::new(address) };
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
    peer: SocketAddr,
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
    async fn run(self, socket: TcpStream) {
        let _ = socket.set_nodelay(true);
        let Some(stream) = self.secure(socket).await else { return };
        let patience = self.shared.config.patience();
        let progress = Arc::new(Progress::default());
        let answer = {
            let (shared, guest) = (Arc::clone(&self.shared), Arc::clone(&self.guest));
            let visitor = Arc::new(Visitor { shared, guest, progress: Arc::clone(&progress) });
            move |request: Request<Incoming>| {
                let visitor = Arc::clone(&visitor);
                async move { Ok::<_, Infallible>(visitor.answer(request).await) }.boxed()
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
        let upgraded = progress.upgraded.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (ended, upgraded) {
            (Ok(Ok(())), Some(upgrade)) => self.upgraded(stream, parts.read_buf, upgrade),
            (Ok(Ok(())), None) => http::linger(stream).await,
            (Ok(Err(error)), _) => {
                // hyper has answered what it could not parse.
                self.shared.metrics.refused.count("not HTTP");
                tracing::debug!(connection = self.id.0, %error, "no WebSocket");
                http::linger(stream).await;
            }
            // A kept connection that nobody uses: an answer to nothing would be taken for the next request's.
            (Err(_), _) if progress.answered.load(Ordering::Relaxed) => {}
            (Err(_), _) => {
                self.shared.metrics.refused.count("no request in time");
                let text = format!("no complete request within {patience:.0?}, see subscriber_bridge.stale_seconds\n");
                http::part(stream, StatusCode::REQUEST_TIMEOUT, &text).await;
            }
        }
    }

    /// The socket as it is, or TLS over it where that is configured; `None` when the handshake of TLS came to nothing.
    async fn secure(&self, socket: TcpStream) -> Option<Stream> {
        let Some(tls) = &self.shared.tls else { return Some(Stream::Left(socket)) };
        let accepted = tokio::select! {
            biased;
            () = self.shutdown.requested() => return None,
            accepted = timeout(self.shared.config.patience(), tls.accept(socket)) => accepted,
        };
        match accepted {
            Ok(Ok(stream)) => return Some(Stream::Right(Box::new(stream))),
            Ok(Err(error)) => {
                self.shared.metrics.refused.count("no TLS");
                tracing::debug!(connection = self.id.0, %error, "no TLS");
            }
            Err(_) => self.shared.metrics.refused.count("no TLS in time"),
        }
        None
    }

    fn upgraded(self, stream: Stream, early: Bytes, upgrade: Upgrade) {
        let Self { id, guest, shared, shutdown } = self;
        let Upgrade { wire, manner, said } = upgrade;
        let (live, history) = (shared.config.max_outbox_bytes, shared.config.max_recovery_bytes);
        let (sink, source, writing) = tls::halves(stream, early);
        let outbox = Outbox::new(sink, wire, live, history);
        let ending = shutdown.clone();
        shutdown.spawn(async move {
            shared.metrics.connections.inc();
            let metrics = shared.metrics.clone();
            tokio::select! {
                () = Connection::new(shared, id, outbox, manner, source).run(said, ending) => {}
                () = writing => {}
            }
            metrics.connections.dec();
            drop(guest);
        });
    }
}

/// How far a handshake has come.
#[derive(Default)]
struct Progress {
    answered: AtomicBool,
    upgraded: Mutex<Option<Upgrade>>,
}

/// What a handshake has agreed on.
struct Upgrade {
    wire: Wire,
    manner: Manner,
    said: Said,
}

/// One request.
struct Visitor {
    shared: Arc<Shared>,
    guest: Arc<Guest>,
    progress: Arc<Progress>,
}

impl Visitor {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let path = request.uri().path();
        let answer = match (path, request.method()) {
            (WEBSOCKET, _) => self.websocket(&request),
            ("/health", &Method::GET) => Ok(Answer::new("{}".into())),
            _ => match &self.shared.pages {
                Some(pages) => Ok(self.page(pages.clone(), request).await),
                None => Err((StatusCode::NOT_FOUND, "nothing here; WebSockets connect to /connection/websocket")),
            },
        };
        self.progress.answered.store(true, Ordering::Relaxed);
        answer.unwrap_or_else(|refusal| {
            self.shared.metrics.refused.count(refusal.1);
            handshake::refuse(refusal).map(Body::new)
        })
    }

    /// An answer of somebody else, who is told who asks.
    async fn page(&self, pages: Router, mut request: Request<Incoming>) -> Answer {
        request.extensions_mut().insert(ConnectInfo(self.guest.peer));
        pages.oneshot(request).await.unwrap_or_else(|never| match never {})
    }

    /// Counts the visitor by its address, once, and asks whether the page that it comes from may connect.
    fn admit(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        if !origin_allowed(headers.get(header::ORIGIN), &self.shared.config.allowed_origins) {
            return Err((StatusCode::FORBIDDEN, "this page's origin is not in subscriber_bridge.allowed_origins"));
        }
        let mut address = self.guest.address.lock().unwrap_or_else(PoisonError::into_inner);
        if address.is_none() {
            let proxies = &self.shared.config.trusted_proxies;
            let client = admission::forwarded(headers, proxies).unwrap_or(self.guest.peer.ip());
            *address = Some(enter(&self.shared, client)?);
        }
        Ok(())
    }

    fn websocket(&self, request: &Request<Incoming>) -> Result<Answer, Refusal> {
        let mut answer = handshake::accept(request)?;
        let headers = request.headers();
        self.admit(headers)?;
        let offers = |name| handshake::has(headers, &header::SEC_WEBSOCKET_PROTOCOL, name);
        let chosen = if offers(PROTOBUF) { Some(PROTOBUF) } else { offers(JSON).then_some(JSON) };
        if headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL) && chosen.is_none() {
            return Err((StatusCode::BAD_REQUEST, "no subprotocol offered is centrifuge-json or centrifuge-protobuf"));
        }
        if let Some(chosen) = chosen {
            answer.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(chosen));
        }
        let asks = |name: &str, value: &str| query(request.uri(), name).is_some_and(|asked| asked == value);
        let protobuf = chosen == Some(PROTOBUF)
            || (chosen.is_none() && (asks("cf_protocol", "protobuf") || asks("format", "protobuf")));
        let encoding = if protobuf { Encoding::Protobuf } else { Encoding::Json };
        let manner = Manner::TwoWay { pings: !asks("cf_ws_frame_ping_pong", "true") };
        let upgrade = Upgrade { wire: Wire { encoding, ..Wire::USUAL }, manner, said: Said::Nothing };
        *self.progress.upgraded.lock().unwrap_or_else(PoisonError::into_inner) = Some(upgrade);
        Ok(answer.map(Body::new))
    }
}

/// The value of a parameter in a request's address, as it stands there.
fn query<'a>(address: &'a Uri, name: &str) -> Option<&'a str> {
    let pairs = address.query()?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// Browsers always send `Origin`; what sends none is no page, and holds no cookies of a visitor.
fn origin_allowed(origin: Option<&HeaderValue>, allowed: &[String]) -> bool {
    let Some(origin) = origin else { return true };
    let origin = origin.to_str().unwrap_or_default();
    allowed.iter().any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin))
}
