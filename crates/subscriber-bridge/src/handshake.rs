//! The opening handshake of RFC 6455, as a server sees it (§4.2): what a request must have, and the answer to it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Version};
use sha1::{Digest, Sha1};

/// What a server adds to the key of a client, to show that it means WebSocket.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// An answer to a handshake.
pub type Answer = Response<Full<Bytes>>;
/// Why a handshake is refused: the status, and a text for who reads it.
pub type Refusal = (StatusCode, &'static str);

/// The answer that turns the connection into a WebSocket. No extension is agreed on, whichever are offered.
///
/// # Errors
/// What the request lacks.
pub fn accept<B>(request: &Request<B>) -> Result<Answer, Refusal> {
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "a WebSocket begins with GET"));
    }
    if !has(headers, &header::UPGRADE, "websocket") || !has(headers, &header::CONNECTION, "upgrade") {
        return Err((StatusCode::UPGRADE_REQUIRED, "this address speaks WebSocket only"));
    }
    if request.version() < Version::HTTP_11 || !headers.contains_key(header::HOST) {
        return Err((StatusCode::BAD_REQUEST, "a WebSocket begins with HTTP/1.1 and a Host"));
    }
    if !has(headers, &header::SEC_WEBSOCKET_VERSION, "13") {
        return Err((StatusCode::UPGRADE_REQUIRED, "Sec-WebSocket-Version must be 13"));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|key| is_key(key.as_bytes()));
    let key = key.ok_or((StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is missing or not 16 bytes in base64"))?;
    let mut answer = Answer::default();
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&accept_key(key.as_bytes())) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    Ok(answer)
}

/// The answer to a request that is refused; it says what an upgrade would take, where that is the reason.
#[must_use]
pub fn refuse((status, text): Refusal) -> Answer {
    let mut answer = Response::new(Full::from(format!("{text}\n")));
    *answer.status_mut() = status;
    if status == StatusCode::UPGRADE_REQUIRED {
        let headers = answer.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    answer
}

/// Whether one of the words of a header is `word`, in whichever case.
#[must_use]
pub fn has(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let words = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    words.map(str::trim).any(|offered| offered.eq_ignore_ascii_case(word))
}

fn is_key(key: &[u8]) -> bool {
    STANDARD.decode(key).is_ok_and(|nonce| nonce.len() == 16)
}

fn accept_key(key: &[u8]) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_the_rfc() {
        assert!(is_key(b"dGhlIHNhbXBsZSBub25jZQ=="));
        assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn keys_that_are_not_16_bytes_in_base64() {
        for key in [
            "",
            "dGhlIHNhbXBsZSBub25j",
            "dGhlIHNhbXBsZSBub25jZQ",
            "dGhlIHNhbXBsZSBub25j!!==",
            "MTIzNDU2Nzg5MDEyMzQ1Njc4",
        ] {
            assert!(!is_key(key.as_bytes()), "{key}");
        }
    }
}
