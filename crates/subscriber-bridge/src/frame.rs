//! Encoding the WebSocket frames that a server sends: unmasked, never fragmented (RFC 6455 §5.2).

use bytes::Bytes;

use crate::codes::Disconnect;

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
/// Longest reason in a close frame, beside its code.
const MAX_REASON_BYTES: usize = 123;
/// What RFC 6455 calls an unexpected condition, for codes that a close frame cannot carry.
const INTERNAL_ERROR: u16 = 1011;

/// A text frame, ready to be shared by every socket that is to carry it.
pub(crate) fn text(payload: &[u8]) -> Bytes {
    encode(TEXT, payload)
}

/// A binary frame.
pub(crate) fn binary(payload: &[u8]) -> Bytes {
    encode(BINARY, payload)
}

/// A close frame with code and reason. The whole of it is at most 125 bytes (RFC 6455 §5.5).
pub(crate) fn close(disconnect: &Disconnect) -> Bytes {
    let reason = &disconnect.reason[..disconnect.reason.floor_char_boundary(MAX_REASON_BYTES)];
    let code = u16::try_from(disconnect.code).unwrap_or(INTERNAL_ERROR);
    encode(CLOSE, &[&code.to_be_bytes(), reason.as_bytes()].concat())
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
        assert_eq!(text(&[b'x'; 126])[..4], [0x81, 126, 0, 126]);
        assert_eq!(text(&[b'x'; 65_535])[..4], [0x81, 126, 0xff, 0xff]);
        assert_eq!(text(&[b'x'; 65_536])[..10], [0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }
}
