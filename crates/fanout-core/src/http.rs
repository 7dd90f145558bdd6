//! HTTP for strangers: whatever a peer sends or does not send, its connection ends in bounded time, and with a status
//! where it still listens.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use self::due::Due;
use crate::shutdown::Shutdown;
use crate::telemetry::ByReason;

mod due;

/// Most bytes of a request's first line and headers; over it: 431.
pub const MAX_HEADER_BYTES: usize = 16 * 1024;
/// Most that [`Limits::connections`] can be.
const MAX_CONNECTIONS: usize = Semaphore::MAX_PERMITS;
/// What a connection's buffer for reading may grow to, bodies included.
const MAX_BUFFER_BYTES: usize = 64 * 1024;
/// How long a peer may take to fetch the last words, and how many more bytes it may send meanwhile: closing a socket
/// that holds unread bytes resets it, and the answer would be lost on its way.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 256 * 1024;
/// Peers that are told at the same time why they are refused.
const TOLD: usize = 64;

/// What a listener grants to its peers.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open connections; over it: 503.
    pub connections: usize,
    /// From the connection, or the previous answer, to the end of a request's headers; over it: 408.
    pub header_timeout: Duration,
    /// From the end of the headers to the answer, the body included: 408; and as long for the answer to be taken.
    pub request_timeout: Duration,
}

impl Limits {
    /// For the few who look after a worker.
    pub const OPERATORS: Self =
        Self { connections: 64, header_timeout: Duration::from_secs(10), request_timeout: Duration::from_secs(30) };
}

/// Serves `routes` on `listener` until the ending is asked for. Calls under way are then answered by tasks that
/// `shutdown` waits for; connections without one are closed. `refused` counts, by reason, whom it cut off.
pub async fn serve(listener: TcpListener, routes: Router, limits: Limits, refused: ByReason, shutdown: Shutdown) {
    let free = Arc::new(Semaphore::new(limits.connections.min(MAX_CONNECTIONS)));
    let partings = Partings::default();
    while let Some((stream, _)) = accept(&listener, &refused, &shutdown).await {
        if let Ok(permit) = Arc::clone(&free).try_acquire_owned() {
            let visit = Visit { routes: routes.clone(), limits, refused: refused.clone(), shutdown: shutdown.clone() };
            shutdown.spawn(visit.run(stream, permit));
        } else {
            refused.count("full");
            let connections = limits.connections;
            let full =
                format!("all {connections} connections of this listener are open: reuse connections, or try again\n");
            partings.part(stream, StatusCode::SERVICE_UNAVAILABLE, full, &shutdown);
        }
    }
}

/// The next connection and its peer; `None` once the ending was asked for. Failures are counted and waited out.
pub async fn accept(
    listener: &TcpListener,
    refused: &ByReason,
    shutdown: &Shutdown,
) -> Option<(TcpStream, SocketAddr)> {
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.requested() => return None,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(accepted) => return Some(accepted),
            Err(error) => {
                // Out of file descriptors, most likely: spinning would only make it worse.
                refused.count("accept failed");
                tracing::warn!(%error, "cannot accept a connection; is the limit of open files reached?");
                shutdown.pause(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Those who are told, all at the same time, why they are refused. They are few; others are only closed.
pub struct Partings(Arc<Semaphore>);

impl Default for Partings {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(TOLD)))
    }
}

impl Partings {
    /// Answers `status` and `text` without having a request, and closes; by a task that `shutdown` waits for.
    pub fn part(&self, stream: TcpStream, status: StatusCode, text: String, shutdown: &Shutdown) {
        if let Ok(permit) = Arc::clone(&self.0).try_acquire_owned() {
            shutdown.spawn(async move {
                part(stream, status, &text).await;
                drop(permit);
            });
        }
    }
}

/// One connection and what it may take.
struct Visit {
    routes: Router,
    limits: Limits,
    refused: ByReason,
    shutdown: Shutdown,
}

type Http = http1::Connection<TokioIo<Due>, Answers>;

impl Visit {
    async fn run(self, stream: TcpStream, permit: OwnedSemaphorePermit) {
        let Self { routes, limits, refused, shutdown } = self;
        let state = Arc::new(State::default());
        let routes = TowerToHyperService::new(routes);
        let answers =
            Answers { routes, limit: limits.request_timeout, refused: refused.clone(), state: Arc::clone(&state) };
        let mut http = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            .max_header_size(MAX_HEADER_BYTES)
            .max_buf_size(MAX_BUFFER_BYTES)
            .serve_connection(TokioIo::new(Due::new(stream, limits.request_timeout)), answers);
        let Some(ended) = until_end(&mut http, &state, &shutdown).await else { return };
        let parts = http.into_parts();
        let stream = parts.io.into_inner().into_inner();
        let Err(error) = ended else { return linger(stream).await };
        let reason = reason(&error);
        if reason == HEADER_TIMEOUT && state.served.load(Ordering::Relaxed) && parts.read_buf.is_empty() {
            // A kept connection that nobody uses: an answer to nothing would be taken for the next request's.
            return;
        }
        refused.count(reason);
        tracing::debug!(%error, reason, "a connection was cut off");
        match reason {
            HEADER_TIMEOUT => {
                let text = format!("no complete request within {:?}\n", limits.header_timeout);
                part(stream, StatusCode::REQUEST_TIMEOUT, &text).await;
            }
            // hyper has answered what it could not parse.
            TOO_LARGE | NOT_HTTP => linger(stream).await,
            _ => {}
        }
        drop(permit);
    }
}

/// Speaks HTTP until the connection ends; `None` when the ending was asked for and nothing more is owed to the peer.
async fn until_end(http: &mut Http, state: &State, shutdown: &Shutdown) -> Option<hyper::Result<()>> {
    tokio::select! {
        biased;
        () = shutdown.requested() => {}
        ended = poll_fn(|cx| http.poll_without_shutdown(cx)) => return Some(ended),
    }
    Pin::new(&mut *http).graceful_shutdown();
    loop {
        match timeout(LINGER, poll_fn(|cx| http.poll_without_shutdown(cx))).await {
            Ok(ended) => return Some(ended),
            Err(_) if state.busy.load(Ordering::Relaxed) => {}
            // Half a request, or an answer that is not taken.
            Err(_) => return None,
        }
    }
}

/// What a connection is doing.
#[derive(Default)]
struct State {
    /// A call is under way.
    busy: AtomicBool,
    /// It has made a call.
    served: AtomicBool,
}

/// The routes with the time limit of a call.
struct Answers {
    routes: TowerToHyperService<Router>,
    limit: Duration,
    refused: ByReason,
    state: Arc<State>,
}

impl Service<Request<Incoming>> for Answers {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (limit, refused, state) = (self.limit, self.refused.clone(), Arc::clone(&self.state));
        let call = self.routes.call(request);
        state.busy.store(true, Ordering::Relaxed);
        state.served.store(true, Ordering::Relaxed);
        Box::pin(async move {
            let answer = timeout(limit, call).await;
            state.busy.store(false, Ordering::Relaxed);
            answer.unwrap_or_else(|_| {
                refused.count("request timeout");
                Ok(late(limit))
            })
        })
    }
}

fn late(limit: Duration) -> Response {
    let text = format!("not answered within {limit:?}, the body included; what was asked for may have been done\n");
    (StatusCode::REQUEST_TIMEOUT, [(header::CONNECTION, "close")], text).into_response()
}

const HEADER_TIMEOUT: &str = "header timeout";
const TOO_LARGE: &str = "headers too large";
const NOT_HTTP: &str = "not HTTP";

/// Why a connection ended, from a fixed list.
fn reason(error: &hyper::Error) -> &'static str {
    use std::error::Error;
    let late = |source: &(dyn Error + 'static)| {
        source.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
    };
    if error.source().is_some_and(late) {
        "answer not taken"
    } else if error.is_timeout() {
        HEADER_TIMEOUT
    } else if error.is_parse_too_large() {
        TOO_LARGE
    } else if error.is_parse() {
        NOT_HTTP
    } else {
        "broken off"
    }
}

/// Answers without having a request, and closes; takes at most two seconds.
pub async fn part(mut stream: impl AsyncRead + AsyncWrite + Unpin, status: StatusCode, text: &str) {
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
        text.len()
    );
    if matches!(timeout(LINGER, stream.write_all(answer.as_bytes())).await, Ok(Ok(()))) {
        linger(stream).await;
    }
}

/// Closes a connection so that what was written last arrives; takes at most a second.
pub async fn linger(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let fetched = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(LINGER_BYTES), &mut tokio::io::sink()).await
    };
    // It ends either way; the peer may have been gone already.
    let _ = timeout(LINGER, fetched).await;
}
