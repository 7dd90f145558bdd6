//! The outbox of a connection: the only thing that writes to its socket.
//!
//! Whoever has something for the connection writes it straight to the socket when nothing is waiting, and otherwise
//! appends it. It never blocks and never wakes a task while the socket keeps up.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf, Bytes};
use fanout_core::Channel;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::codes::{CLOSED, Disconnect, SLOW, WRITE_ERROR};
use crate::frame;

/// Frames in one vectored write; the kernel takes at most 1,024.
const VECTORED: usize = 64;
/// What an allocation costs beside its bytes: the allocator's header, and the counters of a shared one.
const ALLOCATION: usize = 32;
/// Places in a queue that are kept when it is empty again.
const KEPT: usize = 16;

/// See the module.
#[derive(Debug)]
pub(crate) struct Outbox {
    stream: TcpStream,
    queue: Mutex<Queue>,
    /// Wakes the connection's task: something waits, or the outbox was closed.
    changed: Notify,
    /// Most bytes that may wait.
    limit: usize,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Waiting>,
    /// What the frames that wait cost.
    bytes: usize,
    /// Whether the first frame is partly written and may no longer be taken out.
    begun: bool,
    /// Why the connection ends; nothing is appended any more.
    closed: Option<Disconnect>,
    /// Client-side subscriptions that were ended from this side.
    ended: Vec<Channel>,
    /// Channels whose continuity is lost and of which the client is to be told.
    lost: Vec<Channel>,
}

/// Why an outbox gives the word back to its connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It was closed.
    Closed(Disconnect),
    /// Continuity of these channels is lost, and the client has not been told yet.
    Lost(Vec<Channel>),
}

#[derive(Debug)]
struct Waiting {
    frame: Bytes,
    /// A newer frame with the same replaces this one.
    conflation: Option<Arc<str>>,
}

impl Waiting {
    /// Bytes of memory for `length` bytes of a frame: with its place in the queue and the headers of its allocations, so
    /// that a million short frames cost what the limit says, too.
    fn cost(length: usize) -> usize {
        length + size_of::<Self>() + 2 * ALLOCATION
    }
}

impl Outbox {
    pub(crate) fn new(stream: TcpStream, limit: usize) -> Self {
        Self { stream, queue: Mutex::default(), changed: Notify::new(), limit }
    }

    /// The socket, for reading.
    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends a frame.
    pub(crate) fn send(&self, frame: Bytes) {
        self.enqueue(&mut self.queue(), frame, None);
    }

    /// Sends a publication; while the socket is behind, an older one with the same conflation is taken out.
    pub(crate) fn publish(&self, frame: Bytes, conflation: Option<&Arc<str>>) {
        self.enqueue(&mut self.queue(), frame, conflation);
    }

    /// Sends the push that ends the subscription to `channel`, and tells the connection's task of it.
    pub(crate) fn end_subscription(&self, channel: Channel, push: Bytes) {
        let mut queue = self.queue();
        queue.ended.push(channel);
        self.enqueue(&mut queue, push, None);
    }

    /// Tells the connection's task that continuity of `channel` is lost.
    pub(crate) fn lose(&self, channel: Channel) {
        self.queue().lost.push(channel);
        self.changed.notify_one();
    }

    /// Takes the subscriptions that were ended from this side since the last call.
    pub(crate) fn take_ended(&self) -> Vec<Channel> {
        std::mem::take(&mut self.queue().ended)
    }

    /// Ends the connection: a close frame follows what waits, or for a slow client replaces it. The first reason counts.
    pub(crate) fn close(&self, disconnect: Disconnect) {
        self.close_locked(&mut self.queue(), disconnect);
    }

    /// Why the connection ends, once it does.
    pub(crate) fn closed(&self) -> Option<Disconnect> {
        self.queue().closed
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enqueue(&self, queue: &mut Queue, mut frame: Bytes, conflation: Option<&Arc<str>>) {
        if queue.closed.is_some() || frame.is_empty() {
            return;
        }
        if queue.frames.is_empty() {
            match self.stream.try_write(&frame) {
                Ok(written) if written == frame.len() => return,
                Ok(written) => {
                    frame.advance(written);
                    queue.begun = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return self.close_locked(queue, WRITE_ERROR),
            }
        } else if let Some(key) = conflation {
            queue.remove_conflated(key);
        }
        let cost = Waiting::cost(frame.len());
        if queue.bytes + cost > self.limit {
            return self.close_locked(queue, SLOW);
        }
        queue.bytes += cost;
        queue.frames.push_back(Waiting { frame, conflation: conflation.cloned() });
        self.changed.notify_one();
    }

    fn close_locked(&self, queue: &mut Queue, disconnect: Disconnect) {
        if queue.closed.is_some() {
            return;
        }
        queue.closed = Some(disconnect);
        if disconnect == SLOW {
            queue.frames.truncate(usize::from(queue.begun));
        }
        if disconnect == WRITE_ERROR || disconnect == CLOSED {
            queue.frames.clear();
        } else {
            queue.frames.push_back(Waiting { frame: frame::close(disconnect), conflation: None });
        }
        queue.bytes = queue.frames.iter().map(|waiting| Waiting::cost(waiting.frame.len())).sum();
        self.changed.notify_one();
    }

    /// Writes what waits, and goes on whenever something waits again, until the connection has to do something. Cancel-safe.
    pub(crate) async fn drive(&self) -> Turn {
        loop {
            {
                let mut queue = self.queue();
                if let Some(disconnect) = queue.closed {
                    return Turn::Closed(disconnect);
                }
                if !queue.lost.is_empty() {
                    return Turn::Lost(std::mem::take(&mut queue.lost));
                }
            }
            if self.is_empty() {
                self.changed.notified().await;
            } else if self.stream.writable().await.is_err() || self.write_waiting().is_err() {
                self.close(WRITE_ERROR);
            }
        }
    }

    /// Writes the rest of a closed outbox, at most for `patience`.
    pub(crate) async fn finish(&self, patience: Duration) {
        let rest =
            async { while !self.is_empty() && self.stream.writable().await.is_ok() && self.write_waiting().is_ok() {} };
        // A peer that does not read forfeits the close frame.
        let _ = tokio::time::timeout(patience, rest).await;
    }

    fn is_empty(&self) -> bool {
        self.queue().frames.is_empty()
    }

    /// One vectored write of what waits.
    fn write_waiting(&self) -> io::Result<()> {
        let mut queue = self.queue();
        let slices: Vec<IoSlice<'_>> =
            queue.frames.iter().take(VECTORED).map(|waiting| IoSlice::new(&waiting.frame)).collect();
        match self.stream.try_write_vectored(&slices) {
            Ok(written) => {
                queue.advance(written);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Queue {
    fn remove_conflated(&mut self, key: &Arc<str>) {
        let fixed = usize::from(self.begun);
        let older = self.frames.iter().skip(fixed).position(|waiting| waiting.conflation.as_ref() == Some(key));
        if let Some(removed) = older.and_then(|index| self.frames.remove(index + fixed)) {
            self.bytes -= Waiting::cost(removed.frame.len());
        }
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(first) = self.frames.front_mut() {
            if written < first.frame.len() {
                first.frame.advance(written);
                self.bytes -= written;
                self.begun |= written > 0;
                return;
            }
            written -= first.frame.len();
            self.bytes -= Waiting::cost(first.frame.len());
            self.begun = false;
            self.frames.pop_front();
        }
        // A queue that was long once must not stay so for the life of the connection.
        self.frames.shrink_to(KEPT);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    async fn pair(limit: usize) -> (Outbox, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let client = TcpStream::connect(listener.local_addr().expect("address")).await.expect("connects");
        let (server, _) = listener.accept().await.expect("accepts");
        server.writable().await.expect("writable");
        (Outbox::new(server, limit), client)
    }

    /// Fills what the kernel takes, so that what follows has to wait.
    fn stuff(outbox: &Outbox) {
        let junk = Bytes::from(vec![b'.'; 256 * 1024]);
        while outbox.is_empty() && outbox.closed().is_none() {
            outbox.send(junk.clone());
        }
    }

    async fn rest(outbox: Arc<Outbox>, mut client: TcpStream) -> Vec<u8> {
        let driver = Arc::clone(&outbox);
        let read = async {
            let mut all = Vec::new();
            client.read_to_end(&mut all).await.expect("reads");
            all
        };
        let write = async move {
            assert!(matches!(driver.drive().await, Turn::Closed(_)));
            driver.finish(Duration::from_secs(10)).await;
            drop(driver);
            drop(outbox);
        };
        tokio::join!(read, write).0
    }

    #[tokio::test]
    async fn the_newest_of_a_key_leaves_in_order_with_the_rest() {
        let (outbox, client) = pair(8 * 1024 * 1024).await;
        stuff(&outbox);
        let key: Arc<str> = "wallet-updates:#42 7".into();
        outbox.publish(Bytes::from_static(b"<old>"), Some(&key));
        outbox.publish(Bytes::from_static(b"<order>"), None);
        outbox.publish(Bytes::from_static(b"<new>"), Some(&key));
        outbox.close(crate::codes::SHUTDOWN);
        outbox.send(Bytes::from_static(b"<too late>"));
        let all = rest(Arc::new(outbox), client).await;
        let end = String::from_utf8_lossy(&all[all.len() - 40..]).into_owned();
        assert!(end.contains("...<order><new>\u{fffd}") && end.ends_with("shutdown"), "{end}");
    }

    #[tokio::test]
    async fn a_slow_client_costs_its_limit_and_no_more() {
        let (outbox, client) = pair(300 * 1024).await;
        stuff(&outbox);
        for _ in 0..10_000 {
            outbox.send(Bytes::from_static(&[b'x'; 1_000]));
            assert!(outbox.queue().bytes <= 300 * 1024);
        }
        assert_eq!(outbox.closed(), Some(SLOW));
        let all = rest(Arc::new(outbox), client).await;
        assert!(all.ends_with(b"\x88\x06\x0b\xc0slow"));
    }
}
