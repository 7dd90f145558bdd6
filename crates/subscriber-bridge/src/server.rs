//! The listener for browsers: HTTP on each socket until it becomes a WebSocket, carries a stream, or ends.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use fanout_core::Shutdown;
use fanout_core::http::{self, Partings};
use futures::FutureExt;
use futures::future::{join_all, select};
use hyper::body::{Bytes, Incoming};
use hyper::header::HeaderMap;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{sleep, timeout};

use crate::connection::{Connection, Said};
use crate::handshake::Refusal;
use crate::hub::ConnectionId;
use crate::incoming::Source;
use crate::outbox::{Outbox, Sink};
use crate::session::Manner;
use crate::tls::{self, Stream};
use crate::visitor::Visitor;
use crate::wire::Wire;
use crate::{Shared, admission};

/// What hyper may hold of a stream that its client does not read, beside what the outbox holds.
const MAX_BUFFER_BYTES: usize = 64 * 1024;

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
    pub(crate) peer: SocketAddr,
    _seat: Seat,
    address: Mutex<Option<Address>>,
}

impl Guest {
    /// Counts the client of a request with `headers` by its address, where a proxy's word is needed to know it.
    pub(crate) fn enter(&self, shared: &Shared, headers: &HeaderMap) -> Result<(), Refusal> {
        let proxies = &shared.config.trusted_proxies;
        if admission::is_trusted(self.peer.ip(), proxies) {
            let mut address = self.address.lock().unwrap_or_else(PoisonError::into_inner);
            // The proxy may have sent another client's request over this connection before.
            *address = None;
            *address = Some(enter(shared, admission::forwarded(headers, proxies).unwrap_or(self.peer.ip()))?);
        }
        Ok(())
    }
}

/// A connection that speaks HTTP.
#[derive(Clone)]
pub(crate) struct Visit {
    id: ConnectionId,
    pub(crate) guest: Arc<Guest>,
    pub(crate) shared: Arc<Shared>,
    shutdown: Shutdown,
}

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// No request has come yet.
    New,
    /// A request is being answered, which has a time limit of its own.
    Answering,
    /// A request was answered, and another may come.
    Kept,
    /// The answer is a stream, which lives as long as its connection.
    Streaming,
    /// The stream has ended, and its last words are on their way.
    Parting,
}

impl Visit {
    /// Speaks HTTP until the upgrade. A task of its own serves the WebSocket then, because a task keeps the size of the
    /// largest thing it ever did.
    async fn run(self, socket: TcpStream) {
        let Some(stream) = self.secure(socket).await else { return };
        let stages = watch::Sender::new(Stage::New);
        let visitor = Arc::new(Visitor::new(self.clone(), stages.clone()));
        let answer = {
            let visitor = Arc::clone(&visitor);
            move |request: Request<Incoming>| {
                let visitor = Arc::clone(&visitor);
                async move { Ok::<_, Infallible>(visitor.answer(request).await) }.boxed()
            }
        };
        let mut http = http1::Builder::new()
            .max_header_size(http::MAX_HEADER_BYTES)
            .max_buf_size(MAX_BUFFER_BYTES)
            .serve_connection(TokioIo::new(stream), service_fn(answer));
        let end = tokio::select! {
            biased;
            end = self.limit(stages.subscribe()) => end,
            ended = poll_fn(|cx| http.poll_without_shutdown(cx)) => End::Itself(ended),
        };
        let parts = http.into_parts();
        let stream = parts.io.into_inner();
        match (end, visitor.take_opening()) {
            (End::Shutdown, _) => {}
            (End::Itself(Ok(())), Some(opening)) => {
                self.upgraded(opening, stream, parts.read_buf);
            }
            (End::Itself(Ok(())), None) => http::linger(stream).await,
            (End::Itself(Err(error)), _) => {
                tracing::debug!(connection = self.id.0, %error, "HTTP ended");
                if error.is_parse() {
                    // hyper has answered it.
                    self.shared.metrics.refused.count("not HTTP");
                    http::linger(stream).await;
                }
            }
            // An answer to nothing would be taken for the next request's.
            (End::Late, _) if *stages.borrow() != Stage::New => {}
            (End::Late, _) => {
                self.shared.metrics.refused.count("no request in time");
                let seconds = self.shared.config.stale_seconds;
                let text = format!("no complete request within {seconds}s, see subscriber_bridge.stale_seconds\n");
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

    /// When to stop, should HTTP not end by itself: a client has some time for each request, and one whose stream has ended
    /// for the last words. At shutdown, who waits for nothing gets nothing; streams are ended by their own tasks.
    async fn limit(&self, mut stages: watch::Receiver<Stage>) -> End {
        loop {
            let stage = *stages.borrow_and_update();
            let waits = matches!(stage, Stage::New | Stage::Kept);
            tokio::select! {
                biased;
                // The sender lives as long as the visit.
                _ = stages.changed() => {}
                () = self.shutdown.requested(), if waits => return End::Shutdown,
                () = sleep(self.shared.config.patience()), if waits || stage == Stage::Parting => return End::Late,
            }
        }
    }

    fn upgraded(&self, opening: Opening, stream: Stream, early: Bytes) {
        let (sink, source, writing) = tls::halves(stream, early);
        let connection = self.connection(opening, sink, source);
        match writing {
            None => drop(self.shutdown.spawn(connection)),
            Some(writing) => drop(self.shutdown.spawn(async move {
                let connection = pin!(connection);
                select(connection, writing).await;
            })),
        }
    }

    /// Starts the connection of a stream that `taker` takes, and tells `stages` when it has begun and when it is over.
    pub(crate) fn stream(&self, opening: Opening, taker: mpsc::Sender<Bytes>, stages: watch::Sender<Stage>) {
        stages.send_replace(Stage::Streaming);
        let connection = self.connection(opening, Sink::Queue(taker), Bytes::new().into());
        self.shutdown.spawn(async move {
            connection.await;
            stages.send_replace(Stage::Parting);
        });
    }

    /// The life of the connection that was agreed on.
    fn connection(&self, opening: Opening, sink: Sink, source: Source) -> impl Future<Output = ()> + use<> {
        let Self { id, guest, shared, shutdown } = self.clone();
        let Opening { wire, manner, said } = opening;
        let outbox = Outbox::new(sink, wire, shared.config.max_outbox_bytes, shared.config.max_recovery_bytes);
        let counted = (guest, shared.metrics.open(wire));
        let connection = Connection::new(shared, id, outbox, manner, said, source);
        async move {
            let _counted = counted;
            connection.run(shutdown).await;
        }
    }
}

/// How speaking HTTP came to an end.
enum End {
    /// By what the client did, or because all is said.
    Itself(hyper::Result<()>),
    /// The client was given time enough.
    Late,
    /// The bridge stops.
    Shutdown,
}

/// What a client and the bridge have agreed on.
pub(crate) struct Opening {
    /// What the bridge writes.
    pub(crate) wire: Wire,
    /// How the client speaks.
    pub(crate) manner: Manner,
    /// What it has said already.
    pub(crate) said: Option<Said>,
}
