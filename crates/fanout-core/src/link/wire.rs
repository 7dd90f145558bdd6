//! One RESP3 connection: commands out, and what the server says in.

use std::io::{self, Write};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use redis_protocol::resp3::decode::complete::decode_bytes_mut;
use redis_protocol::resp3::types::BytesFrame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::redis::primary_identity;

/// Bytes asked from the socket at once: many publications per read under load.
const READ: usize = 64 * 1024;
/// Largest frame: an envelope is below 128 KiB, so that anything near this is not ours.
const MAX_FRAME: usize = 1024 * 1024;
/// How long connecting, signing in or one write may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Where the server is and who we are there.
#[derive(Clone)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    /// Whether to ask for the server's identity.
    pub(super) identified: bool,
}

/// What the server says.
#[derive(Debug, PartialEq)]
pub(super) enum Said {
    /// Something was published.
    Message { channel: Bytes, payload: Bytes },
    /// One SUBSCRIBE or UNSUBSCRIBE was carried out.
    Confirmed { channel: Bytes },
    /// The answer to the oldest command that has none: any but SUBSCRIBE and UNSUBSCRIBE.
    Answer(BytesFrame),
    /// An error. It cannot be told whether it answers such a command, or is in place of a confirmation.
    Error(String),
}

/// An open connection to a primary.
pub(super) struct Wire {
    stream: TcpStream,
    buffer: BytesMut,
    /// Commands that are not sent yet.
    commands: Vec<u8>,
    /// Who answered when the connection was opened; none when it was not asked for.
    pub(super) identity: Option<String>,
}

impl Wire {
    /// Connects, switches to RESP3 and signs in.
    pub(super) async fn open(address: &Address) -> io::Result<Self> {
        let opened = timeout(PATIENCE, Self::open_unbounded(address)).await;
        opened.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer while connecting")))
    }

    async fn open_unbounded(address: &Address) -> io::Result<Self> {
        let stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
        stream.set_nodelay(true)?;
        let mut wire = Self { stream, buffer: BytesMut::new(), commands: Vec::new(), identity: None };
        let mut hello = vec!["HELLO", "3"];
        if let Some(password) = &address.password {
            hello.extend(["AUTH", address.username.as_deref().unwrap_or("default"), password]);
        }
        hello.extend(["SETNAME", "griot-link"]);
        wire.command(&hello);
        if !matches!(wire.answer().await?, BytesFrame::Map { .. }) {
            let text = "HELLO 3 was answered by something else than a map";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        if address.identified {
            wire.command(&["INFO", "replication"]);
            wire.identity = Some(identity(wire.answer().await?)?);
        }
        Ok(wire)
    }

    /// Adds a command to what the next [`send`](Self::send) sends.
    pub(super) fn command(&mut self, words: &[&str]) {
        // Writing to memory does not fail.
        let _ = write!(self.commands, "*{}\r\n", words.len());
        for word in words {
            let _ = write!(self.commands, "${}\r\n{word}\r\n", word.len());
        }
    }

    /// Sends all commands that wait for it, in one write.
    pub(super) async fn send(&mut self) -> io::Result<()> {
        if self.commands.is_empty() {
            return Ok(());
        }
        timeout(PATIENCE, self.stream.write_all(&self.commands))
            .await
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "the server does not read")))?;
        self.commands.clear();
        Ok(())
    }

    /// Sends what waits, and waits for the answer: nothing else may be under way.
    async fn answer(&mut self) -> io::Result<BytesFrame> {
        self.send().await?;
        loop {
            match self.said()? {
                Some(Said::Answer(frame)) => return Ok(frame),
                Some(Said::Error(text)) => return Err(io::Error::other(text)),
                Some(_) => {}
                None => self.fill().await?,
            }
        }
    }

    /// Waits for bytes; cancel-safe. An error of kind `UnexpectedEof` is the server closing.
    pub(super) async fn fill(&mut self) -> io::Result<()> {
        // What is held of the last read keeps its memory, and asking for more then means a new one: not for little.
        if self.buffer.capacity() - self.buffer.len() < READ / 4 {
            self.buffer.reserve(READ);
        }
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection")),
            _ => Ok(()),
        }
    }

    /// The next thing said within the bytes that are here.
    pub(super) fn said(&mut self) -> io::Result<Option<Said>> {
        loop {
            if let Some(message) = message(&mut self.buffer) {
                return Ok(Some(message));
            }
            match self.frame()? {
                None => return Ok(None),
                Some(frame) => {
                    if let Some(said) = understand(frame) {
                        return Ok(Some(said));
                    }
                }
            }
        }
    }

    fn frame(&mut self) -> io::Result<Option<BytesFrame>> {
        if self.buffer.is_empty() {
            return Ok(None);
        }
        let decoded = decode_bytes_mut(&mut self.buffer)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        match decoded {
            Some((frame, _, _)) => Ok(Some(frame)),
            None if self.buffer.len() > MAX_FRAME => {
                Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame larger than {MAX_FRAME} bytes")))
            }
            None => Ok(None),
        }
    }
}

/// How a publication begins. What follows are two strings, each after its length.
const MESSAGE: &[u8] = b">3\r\n$7\r\nmessage\r\n";

/// Takes a publication out of `buffer` when a whole one stands at its beginning. Of what comes in, little else matters, and
/// taking it as a frame like any other costs ten times as much. Its parts share the buffer, which is kept for as long as
/// any of them: whoever holds one for long copies it. What is held for a moment keeps no more than what came meanwhile.
fn message(buffer: &mut BytesMut) -> Option<Said> {
    let (channel, rest) = string(buffer.strip_prefix(MESSAGE)?)?;
    let (payload, rest) = string(rest)?;
    let (channel, payload, length) = (channel.len(), payload.len(), buffer.len() - rest.len());
    let frame = buffer.split_to(length).freeze();
    let begin = length - 2 - payload;
    let header = frame[MESSAGE.len()..].iter().position(|byte| *byte == b'\n')? + 1 + MESSAGE.len();
    Some(Said::Message { channel: frame.slice(header..header + channel), payload: frame.slice(begin..begin + payload) })
}

/// A string of which the length stands before it, `$5\r\nhello\r\n`, and what follows it.
fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let bytes = bytes.strip_prefix(b"$")?;
    let end = bytes.iter().take(9).position(|byte| *byte == b'\r')?;
    let length: usize = std::str::from_utf8(&bytes[..end]).ok()?.parse().ok()?;
    let bytes = bytes[end..].strip_prefix(b"\r\n")?;
    let (string, rest) = bytes.split_at_checked(length)?;
    Some((string, rest.strip_prefix(b"\r\n")?))
}

fn understand(frame: BytesFrame) -> Option<Said> {
    match frame {
        BytesFrame::Push { data, .. } => {
            let mut parts = data.into_iter().map(text);
            match (parts.next()??.as_ref(), parts.next()??, parts.next()) {
                (b"message", channel, Some(Some(payload))) => Some(Said::Message { channel, payload }),
                (b"subscribe" | b"unsubscribe", channel, _) => Some(Said::Confirmed { channel }),
                _ => None,
            }
        }
        BytesFrame::SimpleError { data, .. } => Some(Said::Error(data.to_string())),
        BytesFrame::BlobError { data, .. } => Some(Said::Error(String::from_utf8_lossy(&data).into_owned())),
        answer => Some(Said::Answer(answer)),
    }
}

/// Who the server is by its answer to `INFO replication`.
pub(super) fn identity(answer: BytesFrame) -> io::Result<String> {
    let info = match &answer {
        BytesFrame::VerbatimString { data, .. } | BytesFrame::BlobString { data, .. } => String::from_utf8_lossy(data),
        _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "INFO was answered by something else than text")),
    };
    primary_identity(&info).map_err(io::Error::other)
}

fn text(frame: BytesFrame) -> Option<Bytes> {
    match frame {
        BytesFrame::BlobString { data, .. } | BytesFrame::SimpleString { data, .. } => Some(data),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything said in `stream`, which comes in pieces of so many bytes.
    fn said(stream: &[u8], piece: usize, quickly: bool) -> Vec<Said> {
        let (mut buffer, mut all) = (BytesMut::new(), Vec::new());
        for piece in stream.chunks(piece) {
            buffer.extend_from_slice(piece);
            loop {
                if quickly && let Some(message) = message(&mut buffer) {
                    all.push(message);
                    continue;
                }
                if buffer.is_empty() {
                    break;
                }
                let Some((frame, _, _)) = decode_bytes_mut(&mut buffer).expect("RESP") else { break };
                all.extend(understand(frame));
            }
        }
        assert!(buffer.is_empty());
        all
    }

    #[test]
    fn publications_are_understood_as_frames_are_wherever_they_are_torn() {
        let mut stream = Vec::new();
        for payload in ["", "x", "\r\n", "$5\r\nhello\r\n", ">3\r\n$7\r\nmessage\r\n", &"y".repeat(1_000)] {
            let message = format!(">3\r\n$7\r\nmessage\r\n$3\r\na\r\n\r\n${}\r\n{payload}\r\n", payload.len());
            stream.extend_from_slice(message.as_bytes());
            stream.extend_from_slice(b"+PONG\r\n>3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n");
        }
        let whole = said(&stream, usize::MAX, false);
        assert_eq!(whole.len(), 18);
        for piece in [1, 2, 3, 7, 64, stream.len()] {
            assert_eq!(said(&stream, piece, true), whole, "in pieces of {piece}");
        }
    }
}
