//! The frames of RFC 6455: writing those of a server (unmasked, never fragmented), and the [`Reader`] of a client's.

use bytes::{Buf, Bytes};

use crate::codes::Disconnect;

mod mask;
mod reader;

pub use self::reader::{Reader, Received};

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

/// The longest header of a server's frame: two bytes and a length of eight.
const MAX_HEADER: usize = 10;
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

/// A text frame around what `write` appends to a vector; nothing when that is nothing.
pub(crate) fn text_of(write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    around(TEXT, write)
}

/// A binary frame around what `write` appends to a vector; nothing when that is nothing.
pub(crate) fn binary_of(write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    around(BINARY, write)
}

/// The header is written when the length is known, into the room that was left before the payload, which so is neither
/// measured first nor copied.
fn around(first: u8, write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut frame = vec![0; MAX_HEADER];
    write(&mut frame);
    let length = frame.len() - MAX_HEADER;
    if length == 0 {
        return Bytes::new();
    }
    let (header, size) = header(first, length);
    let begin = MAX_HEADER - size;
    frame[begin..MAX_HEADER].copy_from_slice(&header[..size]);
    let mut frame = Bytes::from(frame);
    frame.advance(begin);
    frame
}

fn encode(first: u8, payload: &[u8]) -> Bytes {
    let (header, size) = header(first, payload.len());
    [&header[..size], payload].concat().into()
}

/// The header of a frame with a payload of `length` bytes, and how many bytes of it count.
fn header(first: u8, length: usize) -> ([u8; MAX_HEADER], usize) {
    let mut header = [first, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let size = match length {
        0..=125 => {
            header[1] = length as u8;
            2
        }
        126..=0xffff => {
            header[1] = 126;
            header[2..4].copy_from_slice(&(length as u16).to_be_bytes());
            4
        }
        long => {
            header[1] = 127;
            header[2..].copy_from_slice(&(long as u64).to_be_bytes());
            MAX_HEADER
        }
    };
    (header, size)
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
        for length in [1, 125, 126, 65_535, 65_536] {
            let payload = vec![b'x'; length];
            assert_eq!(text_of(|out| out.extend_from_slice(&payload)), text(&payload));
            assert_eq!(binary_of(|out| out.extend_from_slice(&payload)), binary(&payload));
        }
        assert!(text_of(|_| {}).is_empty());
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
