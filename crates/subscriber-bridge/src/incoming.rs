//! The reading half of a connection: from the socket of its outbox, through which pings and closes are answered.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::timeout;

use crate::codes::Disconnect;
use crate::frame::{self, Reader, Received};
use crate::outbox::Outbox;

/// Bytes that are read at once, and the same within a frame that is known to be long.
const CHUNK: usize = 4 * 1024;
const LONG_CHUNK: usize = 64 * 1024;
/// How long a peer may take to end a connection over which everything is said.
const LINGER: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub struct Incoming {
    outbox: Arc<Outbox>,
    reader: Reader,
    /// What was read and not understood yet. Nothing is allocated while it is empty.
    unread: BytesMut,
}

impl Incoming {
    /// Reads from the socket of `outbox`, of which `early` was read already. `limit` is in bytes, for one message.
    #[must_use]
    pub fn new(outbox: Arc<Outbox>, early: BytesMut, limit: usize) -> Self {
        Self { outbox, reader: Reader::new(limit), unread: early }
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
        self.outbox.hang_up();
        let _ = timeout(LINGER, async { while self.fill().await {} }).await;
    }

    /// Reads what is there, or waits for it; false at the end. The buffer is allocated when bytes have come.
    async fn fill(&mut self) -> bool {
        self.unread = BytesMut::new();
        let Some(stream) = self.outbox.stream() else { return false };
        loop {
            if poll_fn(|cx| stream.poll_read_ready(cx)).await.is_err() {
                return false;
            }
            let mut chunk = BytesMut::with_capacity(self.reader.expects().clamp(CHUNK, LONG_CHUNK));
            match stream.try_read_buf(&mut chunk) {
                Ok(read) => {
                    self.unread = chunk;
                    return read > 0;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return false,
            }
        }
    }
}
