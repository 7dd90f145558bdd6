//! The requests of one HTTP connection: which path, which page, and what is answered.

use std::sync::{Mutex, PoisonError};

use axum::body::Body;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::watch;
use tokio::time::timeout;
use tower::ServiceExt;

use crate::connection::Said;
use crate::handshake::{self, Refusal};
use crate::protocol::Encoding;
use crate::protocol::message::ConnectRequest;
use crate::server::{Opening, Stage, Visit};
use crate::session::Manner;
use crate::stream::{self, Transport, query};
use crate::wire::Wire;
use crate::{emulation, origin};

/// The subprotocols, of which a client may offer one.
const JSON: &str = "centrifuge-json";
const PROTOBUF: &str = "centrifuge-protobuf";
/// What a client is told that wants protobuf where it is off.
pub(crate) const NO_PROTOBUF: Refusal = (StatusCode::BAD_REQUEST, "protobuf is off, see subscriber_bridge.protobuf");

pub(crate) type Answer = Response<Body>;

/// See the module.
pub(crate) struct Visitor {
    pub(crate) visit: Visit,
    pub(crate) stages: watch::Sender<Stage>,
    /// What a handshake has agreed on.
    opening: Mutex<Option<Opening>>,
}

/// What a path leads to.
enum Place {
    /// A WebSocket; whether its client only hears.
    WebSocket(bool),
    /// A stream.
    Stream(&'static Transport),
    /// Commands of clients that hear a stream.
    Emulation,
    /// Nothing, over a connection that is used for more later.
    Init,
    /// Whether the bridge is there.
    Health,
}

impl Place {
    fn of(path: &str) -> Option<Self> {
        Some(match path {
            "/connection/websocket" => Self::WebSocket(false),
            "/connection/uni_websocket" => Self::WebSocket(true),
            "/connection/init" => Self::Init,
            "/emulation" => Self::Emulation,
            "/health" => Self::Health,
            path => Self::Stream(Transport::at(path)?),
        })
    }

    /// The methods that it answers to, where pages use it by plain HTTP.
    fn methods(&self) -> Option<&'static str> {
        match self {
            Self::WebSocket(_) | Self::Health => None,
            Self::Init => Some("GET, OPTIONS"),
            Self::Emulation => Some("POST, OPTIONS"),
            Self::Stream(transport) => Some(transport.methods()),
        }
    }
}

impl Visitor {
    pub(crate) fn new(visit: Visit, stages: watch::Sender<Stage>) -> Self {
        Self { visit, stages, opening: Mutex::default() }
    }

    /// What a handshake has agreed on, once.
    pub(crate) fn take_opening(&self) -> Option<Opening> {
        self.opening.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Answers within bounded time; a stream goes on after that.
    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Answer {
        self.stages.send_replace(Stage::Answering);
        let late = (StatusCode::REQUEST_TIMEOUT, "the request took too long, see subscriber_bridge.stale_seconds");
        let answer = timeout(self.visit.shared.config.patience(), self.route(request)).await;
        let answer = answer.unwrap_or_else(|_| self.refuse(late));
        self.stages.send_if_modified(|stage| {
            let is_over = *stage == Stage::Answering;
            if is_over {
                *stage = Stage::Kept;
            }
            is_over
        });
        answer
    }

    /// Boxes what takes the most room: every WebSocket's handshake comes through here.
    async fn route(&self, request: Request<Incoming>) -> Answer {
        let Some(place) = Place::of(request.uri().path()) else { return Box::pin(self.page(request)).await };
        let Some(methods) = place.methods() else {
            let answer = match place {
                Place::WebSocket(one_way) => self.websocket(&request, one_way),
                _ => Ok(Answer::new("{}".into())),
            };
            return answer.unwrap_or_else(|refusal| self.refuse(refusal));
        };
        if let Err(refusal) = self.permit(request.headers()) {
            return self.refuse(refusal);
        }
        let asked = request.headers().clone();
        let preflight = request.method() == Method::OPTIONS;
        let answer = match place {
            Place::Stream(transport) if preflight => transport.check(&self.visit.shared.config).map(|()| nothing()),
            Place::Emulation if preflight => emulation::check(&self.visit.shared.config).map(|()| nothing()),
            _ if preflight => Ok(nothing()),
            Place::Stream(transport) => Box::pin(stream::open(self, transport, request)).await,
            Place::Emulation => Box::pin(emulation::take(&self.visit.shared, request)).await.map(|()| nothing()),
            _ => Ok(init()),
        };
        let mut answer = answer.unwrap_or_else(|refusal| self.refuse(refusal));
        if preflight {
            origin::permit(&asked, methods, answer.headers_mut());
        }
        origin::expose(&asked, answer.headers_mut());
        answer
    }

    /// An answer of somebody else, who is told who asks.
    async fn page(&self, mut request: Request<Incoming>) -> Answer {
        request.extensions_mut().insert(ConnectInfo(self.visit.guest.peer));
        match &self.visit.shared.pages {
            Some(pages) => pages.clone().oneshot(request).await.unwrap_or_else(|never| match never {}),
            None => self.refuse((StatusCode::NOT_FOUND, "nothing here; WebSockets connect to /connection/websocket")),
        }
    }

    fn refuse(&self, refusal: Refusal) -> Answer {
        self.visit.shared.metrics.refused.count(refusal.1);
        handshake::refuse(refusal).map(Body::new)
    }

    /// Whether the page that a request comes from may connect.
    fn permit(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let config = &self.visit.shared.config;
        if config.insecure || origin::is_allowed(headers.get(header::ORIGIN), &config.allowed_origins) {
            return Ok(());
        }
        Err((StatusCode::FORBIDDEN, "this page's origin is not in subscriber_bridge.allowed_origins"))
    }

    fn websocket(&self, request: &Request<Incoming>, one_way: bool) -> Result<Answer, Refusal> {
        let (config, headers) = (&self.visit.shared.config, request.headers());
        if one_way && !config.uni_websocket {
            return Err((StatusCode::NOT_FOUND, "one-way WebSockets are off, see subscriber_bridge.uni_websocket"));
        }
        let mut answer = handshake::accept(request)?;
        self.permit(headers)?;
        let chosen = subprotocol(headers, config.protobuf && !one_way)?;
        let asks = |name: &str, value: &str| query(request.uri(), name).is_some_and(|asked| asked == value);
        let protobuf = match chosen {
            Some(chosen) => chosen == PROTOBUF,
            None => !one_way && (asks("cf_protocol", "protobuf") || asks("format", "protobuf")),
        };
        if protobuf && !config.protobuf {
            return Err(NO_PROTOBUF);
        }
        let said = query(request.uri(), stream::SAID).filter(|_| one_way);
        let said = said.map(|said| ConnectRequest::parse(said.as_bytes()).ok_or(stream::NO_REQUEST)).transpose()?;
        let said = said.map(Said::Connect);
        self.visit.guest.enter(&self.visit.shared, headers)?;
        if let Some(chosen) = chosen {
            answer.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(chosen));
        }
        let encoding = if protobuf { Encoding::Protobuf } else { Encoding::Json };
        let pings = !asks("cf_ws_frame_ping_pong", "true");
        let manner = if one_way { Manner::OneWay(stream::secret()) } else { Manner::TwoWay { pings } };
        let opening = Opening { wire: Wire { encoding, one_way, ..Wire::USUAL }, manner, said };
        *self.opening.lock().unwrap_or_else(PoisonError::into_inner) = Some(opening);
        Ok(answer.map(Body::new))
    }
}

/// Which of the subprotocols that a client offers is spoken; none where it offers none.
fn subprotocol(headers: &HeaderMap, protobuf: bool) -> Result<Option<&'static str>, Refusal> {
    let offers = |name| handshake::has(headers, &header::SEC_WEBSOCKET_PROTOCOL, name);
    if protobuf && offers(PROTOBUF) {
        return Ok(Some(PROTOBUF));
    }
    if offers(JSON) || !headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL) {
        return Ok(offers(JSON).then_some(JSON));
    }
    if offers(PROTOBUF) {
        return Err(NO_PROTOBUF);
    }
    Err((StatusCode::BAD_REQUEST, "no subprotocol offered is centrifuge-json or centrifuge-protobuf"))
}

fn nothing() -> Answer {
    let mut answer = Answer::default();
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}

fn init() -> Answer {
    let mut answer = Answer::new("{}".into());
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}
