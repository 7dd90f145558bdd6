//! As little of WebSockets as a load client and a floor server need.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

/// The key of every handshake here: nobody caches what is measured.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// Opcodes.
pub const TEXT: u8 = 1;
/// See [`TEXT`].
pub const BINARY: u8 = 2;
/// See [`TEXT`].
pub const CLOSE: u8 = 8;
/// See [`TEXT`].
pub const PING: u8 = 9;
/// See [`TEXT`].
pub const PONG: u8 = 10;

/// A request that asks for `path`, with more header lines, each ended by `\r\n`.
#[must_use]
pub fn request(host: &str, path: &str, headers: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {KEY}\r\n\
         Sec-WebSocket-Version: 13\r\n{headers}\r\n"
    )
    .into_bytes()
}

/// The answer to a request with this key.
#[must_use]
pub fn accept(key: &str) -> String {
    let digest = Sha1::new().chain_update(key).chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
        STANDARD.encode(digest)
    )
}

/// A frame of a server, or with `masked` of a client, whose mask is nothing.
#[must_use]
pub fn frame(opcode: u8, payload: &[u8], masked: bool) -> Vec<u8> {
    let mask = if masked { 0x80 } else { 0 };
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        0..=125 => frame.push(mask | payload.len() as u8),
        126..=0xffff => {
            frame.push(mask | 126);
            frame.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        }
        long => {
            frame.push(mask | 127);
            frame.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    if masked {
        frame.extend_from_slice(&[0; 4]);
    }
    frame.extend_from_slice(payload);
    frame
}

/// The first frame of `bytes`, masked or not: opcode, where its payload begins and ends; nothing while it is not whole.
/// The mask is left where it is.
#[must_use]
pub fn first(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let [head, length, ..] = *bytes else { return None };
    let (length, header) = match (length & 0x7f, bytes) {
        (126, [_, _, a, b, ..]) => (usize::from(u16::from_be_bytes([*a, *b])), 4),
        (127, [_, _, a, b, c, d, e, f, g, h, ..]) => {
            (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]) as usize, 10)
        }
        (126 | 127, _) => return None,
        (short, _) => (usize::from(short), 2),
    };
    let header = header + if bytes[1] & 0x80 > 0 { 4 } else { 0 };
    (bytes.len() >= header + length).then_some((head & 0x0f, header, header + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_of_rfc_6455() {
        assert!(accept(KEY).contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    }

    #[test]
    fn frames_are_taken_apart_as_they_were_made() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            for masked in [false, true] {
                let payload = vec![b'x'; length];
                let mut bytes = frame(TEXT, &payload, masked);
                assert_eq!(first(&bytes[..bytes.len() - 1]), None);
                bytes.push(b'y');
                let (opcode, begin, end) = first(&bytes).expect("a frame");
                assert_eq!((opcode, &bytes[begin..end], end), (TEXT, &payload[..], bytes.len() - 1));
            }
        }
    }
}
