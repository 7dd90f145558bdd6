//! The reading half of a connection. Pings and closes are answered through its outbox.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, ReadBuf, ReadHalf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::codes::Disconnect;
use crate::frame::{self, Reader, Received};
use crate::outbox::Outbox;
use crate::tls::Stream;

/// Bytes that are read at once, and the same within a frame that is known to be long.
const CHUNK: usize = 4 * 1024;
const LONG_CHUNK: usize = 64 * 1024;
/// How long a peer may take to end a connection over which everything is said.
const LINGER: Duration = Duration::from_secs(1);

/// Where a connection reads: from the plain socket of its outbox, unless it has a stream of its own.
#[derive(Debug)]
pub struct Source {
    early: BytesMut,
    own: Option<ReadHalf<Stream>>,
}

impl Source {
    /// A stream of which the outbox writes the other half.
    pub(crate) fn own(early: Bytes, half: ReadHalf<Stream>) -> Self {
        Self { early: early.into(), own: Some(half) }
    }
}

impl From<Bytes> for Source {
    /// The plain socket, of which this was read already.
    fn from(early: Bytes) -> Self {
        Self { early: early.into(), own: None }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Incoming {
    outbox: Arc<Outbox>,
    reader: Reader,
    own: Option<ReadHalf<Stream>>,
    /// What was read and not understood yet. Nothing is allocated while it is empty.
    unread: BytesMut,
}

impl Incoming {
    /// Reads from `source`, and answers through `outbox`. `limit` is in bytes, for one message.
    pub fn new(outbox: Arc<Outbox>, source: impl Into<Source>, limit: usize) -> Self {
        let Source { early, own } = source.into();
        Self { outbox, reader: Reader::new(limit), own, unread: early }
    }

    /// What the client sends next; `None` when the socket ends. Pings are answered and a close is echoed before they are
    /// returned. Cancel-safe.
    ///
    /// # Errors
    /// What the client did wrong, with which the outbox is to be closed.
    pub async fn next(&mut self) -> Result<Option<Received>, Disconnect> {
        loop {
            if let Some(received) = self.reader.read(&mut self.unread)? {
                match &received {
                    Received::Ping(payload) => self.outbox.send(frame::pong(payload)),
                    Received::Close(code) => self.outbox.echo_close(*code),
                    Received::Text(_) | Received::Binary(_) | Received::Pong(_) => {}
                }
                return Ok(Some(received));
            }
            if !self.fill().await {
                return Ok(None);
            }
        }
    }

    /// After our own close frame: reads on until the client has closed too, at most for `patience`, so that it sees the
    /// code and not a reset. Of a client that broke the protocol nothing is understood any more; it sees the end at once.
    pub async fn finish(&mut self, patience: Duration) {
        let close = async { while !self.reader.has_ended() && matches!(self.next().await, Ok(Some(_))) {} };
        // Whoever says nothing is left without a word.
        let _ = timeout(patience, close).await;
        let linger = async {
            self.outbox.hang_up().await;
            while self.fill().await {}
        };
        let _ = timeout(LINGER, linger).await;
    }

    /// Reads what is there, or waits for it; false at the end. The buffer is allocated when bytes have come.
    async fn fill(&mut self) -> bool {
        self.unread = BytesMut::new();
        let Self { outbox, own, reader, .. } = &mut *self;
        let read = match (own, outbox.stream()) {
            (Some(half), _) => poll_fn(|cx| poll_own(half, cx)).await,
            (None, Some(stream)) => read_socket(stream, reader.expects().clamp(CHUNK, LONG_CHUNK)).await,
            (None, None) => return false,
        };
        // A peer that is gone without a word has ended, too.
        self.unread = read.unwrap_or_default();
        !self.unread.is_empty()
    }
}

async fn read_socket(stream: &TcpStream, most: usize) -> io::Result<BytesMut> {
    loop {
        poll_fn(|cx| stream.poll_read_ready(cx)).await?;
        let mut chunk = BytesMut::with_capacity(most);
        match stream.try_read_buf(&mut chunk) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read.map(|_| chunk),
        }
    }
}

fn poll_own(half: &mut ReadHalf<Stream>, cx: &mut Context<'_>) -> Poll<io::Result<BytesMut>> {
    let mut chunk = [0; CHUNK];
    let mut read = ReadBuf::new(&mut chunk);
    ready!(Pin::new(half).poll_read(cx, &mut read))?;
    Poll::Ready(Ok(BytesMut::from(read.filled())))
}
