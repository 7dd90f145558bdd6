//! The frames of RFC 6455: writing those of a server (unmasked, never fragmented), and the [`Reader`] of a client's.

use bytes::Bytes;

use crate::codes::Disconnect;

mod mask;
mod reader;

pub use self::reader::{Reader, Received};

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

/// Most bytes in a control frame.
const MAX_CONTROL: usize = 125;
/// What RFC 6455 calls an unexpected condition, for codes that a close frame cannot carry.
const UNEXPECTED: u16 = 1011;

/// A text frame, ready to be shared by every socket that is to carry it.
#[must_use]
pub fn text(payload: &[u8]) -> Bytes {
    encode(TEXT, payload)
}

/// A binary frame, ready to be shared by every socket that is to carry it.
#[must_use]
pub fn binary(payload: &[u8]) -> Bytes {
    encode(BINARY, payload)
}

/// A ping; of `payload` the first 125 bytes.
#[must_use]
pub fn ping(payload: &[u8]) -> Bytes {
    control(PING, payload)
}

/// The answer to a ping with that `payload`.
#[must_use]
pub fn pong(payload: &[u8]) -> Bytes {
    control(PONG, payload)
}

/// A close frame with code and reason; a reason that is too long is cut between two characters.
#[must_use]
pub fn close(disconnect: &Disconnect) -> Bytes {
    let reason = &disconnect.reason[..disconnect.reason.floor_char_boundary(MAX_CONTROL - 2)];
    let code = u16::try_from(disconnect.code).unwrap_or(UNEXPECTED);
    control(CLOSE, &[&code.to_be_bytes(), reason.as_bytes()].concat())
}

/// The answer to a close frame that had this code, or none.
#[must_use]
pub fn close_echo(code: Option<u16>) -> Bytes {
    control(CLOSE, code.map(u16::to_be_bytes).as_ref().map_or(&[], |code| code))
}

fn control(first: u8, payload: &[u8]) -> Bytes {
    encode(first, &payload[..payload.len().min(MAX_CONTROL)])
}

fn encode(first: u8, payload: &[u8]) -> Bytes {
    let mut frame = Vec::with_capacity(payload.len() + 10);
    frame.push(first);
    match payload.len() {
        0..=125 => frame.push(payload.len() as u8),
        126..=0xffff => {
            frame.push(126);
            frame.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        }
        long => {
            frame.push(127);
            frame.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_of_length() {
        assert_eq!(text(b"{}").as_ref(), b"\x81\x02{}");
        assert_eq!(binary(&[b'x'; 126])[..4], [0x82, 126, 0, 126]);
        assert_eq!(text(&[b'x'; 65_535])[..4], [0x81, 126, 0xff, 0xff]);
        assert_eq!(text(&[b'x'; 65_536])[..10], [0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn control_frames_are_never_longer_than_125_bytes() {
        assert_eq!(ping(b"").as_ref(), b"\x89\x00");
        assert_eq!(pong(&[b'x'; 200])[..3], [0x8a, 125, b'x']);
        assert_eq!(close_echo(None).as_ref(), b"\x88\x00");
        assert_eq!(close_echo(Some(1000)).as_ref(), b"\x88\x02\x03\xe8");
        let reason = "long reasons in Åland, where they are written with an Å every now and then, and which go on and on and on \
                      until here: ÅÅÅ";
        let frame = close(&Disconnect { code: 3000, reason: reason.into() });
        assert!(frame.len() <= 2 + MAX_CONTROL && std::str::from_utf8(&frame[4..]).is_ok());
    }
}
