//! Reading what a client sends: bytes go in, messages and control frames come out. No I/O, and nothing held when idle.

use bytes::{Buf, Bytes, BytesMut};

use super::MAX_CONTROL;
use super::mask::unmask;
use crate::codes::{Disconnect, NOT_UTF8, TOO_BIG, protocol_error};

const FINAL: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;
/// Opcodes; from [`CLOSE`] on they are those of control frames.
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
/// The longest header: two bytes, a length of eight, a mask of four.
const MAX_HEADER: usize = 14;

const RESERVED_BIT: Disconnect = protocol_error("protocol error: a reserved bit is set and no extension was agreed on");
const UNKNOWN_OPCODE: Disconnect = protocol_error("protocol error: a frame has a reserved opcode");
const FRAGMENTED_CONTROL: Disconnect = protocol_error("protocol error: a control frame is fragmented");
const LONG_CONTROL: Disconnect = protocol_error("protocol error: a control frame has more than 125 bytes");
const NOT_STARTED: Disconnect = protocol_error("protocol error: a continuation has no message to continue");
const NOT_FINISHED: Disconnect = protocol_error("protocol error: a message begins before the last one has ended");
const NOT_MASKED: Disconnect = protocol_error("protocol error: a client's frame is not masked");
const LENGTH_FORM: Disconnect = protocol_error("protocol error: a length is not in its shortest form");
const CLOSE_LENGTH: Disconnect = protocol_error("protocol error: a close frame has half a code");
const CLOSE_CODE: Disconnect = protocol_error("protocol error: a close frame has a code that must not be sent");

/// What a client has sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// A whole text message, which is UTF-8.
    Text(Bytes),
    /// A whole binary message.
    Binary(Bytes),
    /// A ping, to be answered by a pong with the same bytes.
    Ping(Bytes),
    /// A pong.
    Pong(Bytes),
    /// The client closes, with a code or without; what it sends afterwards means nothing.
    Close(Option<u16>),
}

/// Reads the frames of one client. It fails as soon as the first wrong byte is there, and the connection with it.
#[derive(Debug)]
pub struct Reader {
    /// Most bytes of a message, all its fragments together.
    limit: usize,
    /// The header that is coming in, and how much of it is there.
    header: [u8; MAX_HEADER],
    filled: usize,
    /// The frame whose payload is coming in.
    frame: Option<Frame>,
    /// The opcode of the message under way.
    message: Option<u8>,
    /// What is there of the message under way.
    data: BytesMut,
    /// Bytes of `data` that are whole characters.
    checked: usize,
    /// What is there of the control frame under way, which may stand between two fragments.
    control: BytesMut,
    ended: bool,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    is_final: bool,
    opcode: u8,
    /// Bytes that are still to come.
    rest: usize,
    /// The mask as the next byte needs it.
    mask: [u8; 4],
}

impl Reader {
    /// A reader of a connection that has said nothing yet. `limit` is in bytes, for one message with all its fragments.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            header: [0; MAX_HEADER],
            filled: 0,
            frame: None,
            message: None,
            data: BytesMut::new(),
            checked: 0,
            control: BytesMut::new(),
            ended: false,
        }
    }

    /// Takes from `bytes` up to the end of the next message or control frame; with `None` all of them are taken.
    ///
    /// # Errors
    /// What the client did wrong, as it is to be told. Whatever follows is swallowed, and so it is after a close.
    pub fn read(&mut self, bytes: &mut BytesMut) -> Result<Option<Received>, Disconnect> {
        if self.ended {
            bytes.clear();
            return Ok(None);
        }
        let read = self.frames(bytes);
        if matches!(read, Err(_) | Ok(Some(Received::Close(_)))) {
            *self = Self { ended: true, ..Self::new(self.limit) };
        }
        read
    }

    /// Whether the client has closed, or broken the protocol: nothing that it sends will be read any more.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Bytes that are known to come; more may.
    #[must_use]
    pub fn expects(&self) -> usize {
        self.frame.map_or(0, |frame| frame.rest)
    }

    fn frames(&mut self, bytes: &mut BytesMut) -> Result<Option<Received>, Disconnect> {
        loop {
            let frame = match self.frame.take() {
                Some(frame) => frame,
                None => match self.header(bytes)? {
                    Some(frame) => frame,
                    None => return Ok(None),
                },
            };
            if let Some(received) = self.payload(frame, bytes)? {
                return Ok(Some(received));
            }
            if bytes.is_empty() {
                return Ok(None);
            }
        }
    }

    /// Byte by byte, so that each is judged when it is there.
    fn header(&mut self, bytes: &mut BytesMut) -> Result<Option<Frame>, Disconnect> {
        while bytes.has_remaining() {
            self.header[self.filled] = bytes.get_u8();
            self.filled += 1;
            let [first, second, ..] = self.header;
            match self.filled {
                1 => self.judge_first(first)?,
                2 => judge_second(first, second)?,
                _ => {}
            }
            let whole = match second & !MASKED {
                126 => 8,
                127 => 14,
                _ => 6,
            };
            if self.filled == whole {
                self.filled = 0;
                return self.frame().map(Some);
            }
        }
        Ok(None)
    }

    fn judge_first(&self, first: u8) -> Result<(), Disconnect> {
        if first & RESERVED != 0 {
            return Err(RESERVED_BIT);
        }
        match first & 0x0f {
            CONTINUATION if self.message.is_none() => Err(NOT_STARTED),
            TEXT | BINARY if self.message.is_some() => Err(NOT_FINISHED),
            CLOSE | PING | PONG if first & FINAL == 0 => Err(FRAGMENTED_CONTROL),
            CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG => Ok(()),
            _ => Err(UNKNOWN_OPCODE),
        }
    }

    /// The frame whose header is there.
    fn frame(&mut self) -> Result<Frame, Disconnect> {
        let [first, second, h @ ..] = self.header;
        let (length, mask, least) = match second & !MASKED {
            126 => (u64::from(u16::from_be_bytes([h[0], h[1]])), [h[2], h[3], h[4], h[5]], 126),
            127 => {
                let length = u64::from_be_bytes([h[0], h[1], h[2], h[3], h[4], h[5], h[6], h[7]]);
                (length, [h[8], h[9], h[10], h[11]], 0x1_0000)
            }
            short => (u64::from(short), [h[0], h[1], h[2], h[3]], 0),
        };
        if length < least || length > i64::MAX as u64 {
            return Err(LENGTH_FORM);
        }
        let opcode = first & 0x0f;
        if opcode < CLOSE {
            let room = self.limit - self.data.len();
            if length > room as u64 {
                return Err(TOO_BIG);
            }
            self.message.get_or_insert(opcode);
        }
        // Control frames are short, and data fits into the limit.
        Ok(Frame { is_final: first & FINAL != 0, opcode, rest: length as usize, mask })
    }

    /// Takes what is there of a frame's payload.
    fn payload(&mut self, mut frame: Frame, bytes: &mut BytesMut) -> Result<Option<Received>, Disconnect> {
        let mut part = bytes.split_to(frame.rest.min(bytes.len()));
        unmask(&mut part, frame.mask);
        frame.mask.rotate_left(part.len() % 4);
        frame.rest -= part.len();
        let is_whole = frame.rest == 0;
        if frame.opcode >= CLOSE {
            append(&mut self.control, part);
            if is_whole {
                return control(frame.opcode, std::mem::take(&mut self.control).freeze()).map(Some);
            }
        } else {
            append(&mut self.data, part);
            let ends = is_whole && frame.is_final;
            if self.message == Some(TEXT) {
                self.check_text(ends)?;
            }
            if ends {
                return Ok(Some(self.finish()));
            }
        }
        if !is_whole {
            self.frame = Some(frame);
        }
        Ok(None)
    }

    /// Fails on the first byte that no UTF-8 has in its place; a character may be incomplete until the message ends.
    fn check_text(&mut self, ends: bool) -> Result<(), Disconnect> {
        match std::str::from_utf8(&self.data[self.checked..]) {
            Ok(text) => self.checked += text.len(),
            Err(error) if error.error_len().is_none() && !ends => self.checked += error.valid_up_to(),
            Err(_) => return Err(NOT_UTF8),
        }
        Ok(())
    }

    fn finish(&mut self) -> Received {
        self.checked = 0;
        let data = std::mem::take(&mut self.data).freeze();
        if self.message.take() == Some(TEXT) { Received::Text(data) } else { Received::Binary(data) }
    }
}

fn judge_second(first: u8, second: u8) -> Result<(), Disconnect> {
    if second & MASKED == 0 {
        return Err(NOT_MASKED);
    }
    if first & 0x0f >= CLOSE && usize::from(second & !MASKED) > MAX_CONTROL {
        return Err(LONG_CONTROL);
    }
    Ok(())
}

/// What came in one piece is not copied.
fn append(to: &mut BytesMut, part: BytesMut) {
    if to.is_empty() {
        *to = part;
    } else {
        to.extend_from_slice(&part);
    }
}

fn control(opcode: u8, payload: Bytes) -> Result<Received, Disconnect> {
    match opcode {
        PING => Ok(Received::Ping(payload)),
        PONG => Ok(Received::Pong(payload)),
        _ => close(&payload),
    }
}

fn close(payload: &[u8]) -> Result<Received, Disconnect> {
    match payload {
        [] => Ok(Received::Close(None)),
        [_] => Err(CLOSE_LENGTH),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            // RFC 6455 §7.4: what stands for the lack of a code, and what nobody has defined, is not sent.
            if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                return Err(CLOSE_CODE);
            }
            std::str::from_utf8(reason).map_err(|_| NOT_UTF8)?;
            Ok(Received::Close(Some(code)))
        }
    }
}

#[cfg(test)]
mod tests;
