//! Who may look at `/metrics` and `/readyz` on an address that browsers reach: whoever has the API's key, and programs of
//! this machine.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use secrecy::SecretString;

/// What a proxy adds. With one of these the peer is not the one who asks, so that its address says nothing.
const FORWARDED: [&str; 3] = ["x-forwarded-for", "forwarded", "x-real-ip"];

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Guard(Arc<SecretString>);

impl Guard {
    pub(crate) fn new(key: SecretString) -> Self {
        Self(Arc::new(key))
    }
}

/// Lets a request through, or answers 401.
pub(crate) async fn guard(State(Guard(key)): State<Guard>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| *peer);
    let headers = request.headers();
    if is_local(peer, headers) || publisher::has_key(headers, request.uri(), &key) {
        return next.run(request).await;
    }
    StatusCode::UNAUTHORIZED.into_response()
}

fn is_local(peer: Option<SocketAddr>, headers: &HeaderMap) -> bool {
    let loopback = peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback());
    // A page of another site can have a browser of this machine ask, and never read the answer; but it says its origin.
    loopback && !FORWARDED.iter().any(|name| headers.contains_key(*name)) && !headers.contains_key("origin")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(peer: &str, header: Option<&'static str>) -> bool {
        let mut headers = HeaderMap::new();
        if let Some(name) = header {
            headers.insert(name, axum::http::HeaderValue::from_static("127.0.0.1"));
        }
        is_local(peer.parse().ok(), &headers)
    }

    #[test]
    fn local_is_a_peer_of_this_machine_that_speaks_for_itself() {
        assert!(local("127.0.0.1:1", None) && local("[::1]:1", None) && local("[::ffff:127.0.0.1]:1", None));
        assert!(!local("10.0.0.1:1", None) && !local("nobody", None));
        for name in FORWARDED {
            assert!(!local("127.0.0.1:1", Some(name)), "{name}");
        }
    }
}
