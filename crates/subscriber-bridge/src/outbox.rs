//! The outbox of a connection: the only thing that writes to its socket.
//!
//! Whoever has something for the connection writes it straight to the socket when nothing is waiting, and otherwise
//! appends it. It never blocks and never wakes a task while the socket keeps up.

mod queue;
#[cfg(test)]
pub(crate) mod tests;

use std::convert::Infallible;
use std::future::pending;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf, Bytes};
use fanout_core::Channel;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};

pub(crate) use self::queue::Kind;
use self::queue::{Queue, Waiting};
use crate::codes::{CLOSED, Disconnect, SLOW, WRITE_ERROR};
use crate::frame;
use crate::order::Order;
use crate::protocol::{Push, Reply};
use crate::room::Taken;
use crate::run::Run;
use crate::subscription::Held;
use crate::wire::Wire;

/// Frames in one vectored write; the kernel takes at most 1,024.
const VECTORED: usize = 64;
/// Bytes handed to a [`Sink::Queue`] at once, unless one frame is longer.
const HANDED: usize = 64 * 1024;

/// Where an outbox writes.
#[derive(Debug)]
pub enum Sink {
    /// A plain socket, which whoever has something writes to directly.
    Socket(TcpStream),
    /// Something that encodes for itself (TLS, an HTTP response): the connection's task hands it what waits, and it takes
    /// the next only when it is done with the one before. An empty piece is the last.
    Queue(mpsc::Sender<Bytes>),
}

/// See the module.
#[derive(Debug)]
pub struct Outbox {
    sink: Sink,
    wire: Wire,
    queue: Mutex<Queue>,
    /// Wakes the connection's task: something waits, or the outbox was closed.
    changed: Notify,
    /// Most bytes that may wait, by kind.
    limits: [usize; 2],
}

/// Why an outbox gives the word back to its connection.
#[derive(Debug)]
pub enum Turn {
    /// It was closed.
    Closed(Disconnect),
    /// Continuity of these channels is lost, and the client has not been told yet.
    Lost(Vec<Channel>),
    /// Somebody who does not hold the connection wants something of it.
    Order(Box<Order>),
}

impl Outbox {
    /// An outbox that writes to `sink`; of live frames and of histories, so many bytes may wait.
    #[must_use]
    pub fn new(sink: Sink, wire: Wire, live: usize, history: usize) -> Self {
        Self { sink, wire, queue: Mutex::default(), changed: Notify::new(), limits: [live, history] }
    }

    /// The plain socket, for reading.
    pub fn stream(&self) -> Option<&TcpStream> {
        match &self.sink {
            Sink::Socket(stream) => Some(stream),
            Sink::Queue(_) => None,
        }
    }

    /// How everything here is encoded and framed.
    pub fn wire(&self) -> Wire {
        self.wire
    }

    /// Reads what sending will need. Memory that nobody has touched for a while takes longer to come than all else that is
    /// done here, and that of several outboxes comes at the same time when it is asked for before each sends.
    pub(crate) fn fetch(&self) {
        std::hint::black_box((self.stream().map(AsRawFd::as_raw_fd), self.wire, self.limits));
    }

    /// Sends bytes that are framed already.
    pub fn send(&self, frame: Bytes) {
        self.enqueue(Waiting::live(frame));
    }

    /// Sends a reply.
    pub(crate) fn reply(&self, reply: &Reply) {
        self.send(self.wire.reply(reply));
    }

    /// Sends what a client missed or looks up, which holds a part of the room for histories until it is written.
    pub(crate) fn recover(&self, frame: Bytes, room: Option<Taken>) {
        self.enqueue(Waiting { kind: Kind::History, room, ..Waiting::live(frame) });
    }

    /// Sends a publication; while the socket is behind, an older one with the same conflation is taken out.
    pub(crate) fn publish(&self, held: &Held) {
        let frame = held.push.frame(self.wire);
        let mut queue = self.queue();
        let written = self.write_now(&mut queue, frame);
        if written < frame.len() {
            self.append(&mut queue, held, written);
        }
    }

    /// Sends the publications of a run, with one write where the socket takes them.
    pub(crate) fn publish_run(&self, run: &Run) {
        let mut queue = self.queue();
        let mut written = self.write_now(&mut queue, run.frames(self.wire));
        for held in &run.held {
            let length = held.push.frame(self.wire).len();
            if written < length {
                self.append(&mut queue, held, written);
            }
            written = written.saturating_sub(length);
        }
    }

    /// Appends a publication of which the socket has taken so many bytes already.
    fn append(&self, queue: &mut Queue, held: &Held, written: usize) {
        if let Some(key) = &held.conflation {
            queue.remove_conflated(key);
        }
        let mut frame = held.push.frame(self.wire).clone();
        frame.advance(written);
        queue.begun |= written > 0;
        self.wait(queue, Waiting { kind: held.kind, conflation: held.conflation.clone(), ..Waiting::live(frame) });
    }

    /// Sends the push that ends the subscription to `channel`, and tells the connection's task of it.
    pub(crate) fn end_subscription(&self, channel: Channel, push: Push) {
        let mut queue = self.queue();
        queue.add().ended.push(channel);
        drop(queue);
        self.send(self.wire.push(push));
    }

    /// Tells the connection's task that continuity of `channel` is lost.
    pub(crate) fn lose(&self, channel: Channel) {
        self.queue().add().lost.push(channel);
        self.changed.notify_one();
    }

    /// Gives the connection's task something to do; `false` when too much waits for it already, or it has ended.
    pub(crate) fn order(&self, order: Order) -> bool {
        let mut queue = self.queue();
        if queue.closed.is_some() || !queue.add().takes(&order) {
            return false;
        }
        queue.add().orders.push_back(order);
        self.changed.notify_one();
        true
    }

    /// Takes the subscriptions that were ended from this side since the last call.
    pub(crate) fn take_ended(&self) -> Vec<Channel> {
        self.queue().tasks().map(|tasks| std::mem::take(&mut tasks.ended)).unwrap_or_default()
    }

    /// Ends the connection: a close frame follows what waits, or for a slow client replaces it. The first reason counts.
    pub fn close(&self, disconnect: Disconnect) {
        self.close_locked(&mut self.queue(), disconnect);
    }

    /// Ends the connection because the client has closed it: the echo of its close frame follows what waits.
    pub fn echo_close(&self, code: Option<u16>) {
        self.close_with(&mut self.queue(), CLOSED, Some(frame::close_echo(code)));
    }

    /// Why the connection ends, once it does.
    pub fn closed(&self) -> Option<Disconnect> {
        self.queue().closed.as_deref().cloned()
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes `frame`, or as much as the socket takes, unless something waits before it.
    fn enqueue(&self, mut waiting: Waiting) {
        let mut queue = self.queue();
        let written = self.write_now(&mut queue, &waiting.frame);
        if written < waiting.frame.len() {
            waiting.frame.advance(written);
            queue.begun |= written > 0;
            self.wait(&mut queue, waiting);
        }
    }

    /// Hands `bytes` to the socket when nothing waits; returns how many it took. Of what follows the end of the connection
    /// it takes everything, and drops it.
    fn write_now(&self, queue: &mut Queue, bytes: &[u8]) -> usize {
        if queue.closed.is_some() || bytes.is_empty() {
            return bytes.len();
        }
        let Sink::Socket(stream) = &self.sink else { return 0 };
        if !queue.frames.is_empty() {
            return 0;
        }
        // Past the runtime's own record of what the socket is ready for, which is memory of its own: the socket knows. Where it
        // takes nothing, the connection's task asks it again and is then told when it does.
        match SockRef::from(stream).send(bytes) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => {
                self.close_locked(queue, WRITE_ERROR);
                bytes.len()
            }
        }
    }

    fn wait(&self, queue: &mut Queue, waiting: Waiting) {
        if queue.closed.is_some() {
            return;
        }
        let kind = waiting.kind as usize;
        if queue.costs[kind] + waiting.cost() > self.limits[kind] {
            if queue.begun && queue.frames.is_empty() {
                // Its rest, however long, or the close frame would stand in the middle of it.
                queue.frames.push_back(waiting);
            }
            return self.close_locked(queue, SLOW);
        }
        queue.costs[kind] += waiting.cost();
        queue.frames.push_back(waiting);
        if queue.frames.len() == 1 {
            // Otherwise the task waits already until the peer takes something.
            self.changed.notify_one();
        }
    }

    fn close_locked(&self, queue: &mut Queue, disconnect: Disconnect) {
        // With what the peer is told of an ending, if it still listens.
        let last = (disconnect != WRITE_ERROR && disconnect != CLOSED).then(|| self.wire.close(&disconnect));
        self.close_with(queue, disconnect, last);
    }

    /// Without `last`, nothing more is written at all.
    fn close_with(&self, queue: &mut Queue, disconnect: Disconnect, last: Option<Bytes>) {
        if queue.closed.is_some() {
            return;
        }
        if disconnect == SLOW {
            queue.frames.truncate(usize::from(queue.begun));
        }
        match last {
            None => queue.frames.clear(),
            Some(frame) => queue.frames.push_back(Waiting::live(frame)),
        }
        queue.closed = Some(Box::new(disconnect));
        queue.costs = [Kind::Live, Kind::History]
            .map(|kind| queue.frames.iter().filter(|waiting| waiting.kind == kind).map(Waiting::cost).sum());
        self.changed.notify_one();
    }

    /// Writes what waits, and goes on whenever something waits again, until the connection has to do something. Cancel-safe.
    pub async fn drive(&self) -> Turn {
        loop {
            if let Some(turn) = self.turn() {
                return turn;
            }
            self.step().await;
        }
    }

    /// Goes on writing while the connection's task does `work`, which may have to wait for others. Boxed, because a task
    /// keeps the size of the largest thing that it ever does, and connections do nothing most of the time.
    pub(crate) async fn beside<T>(&self, work: Pin<Box<impl Future<Output = T>>>) -> T {
        let writing = async {
            while self.closed().is_none() {
                self.step().await;
            }
            pending::<Infallible>().await
        };
        tokio::select! {
            biased;
            done = work => done,
            never = writing => match never {},
        }
    }

    /// What the connection has to do.
    fn turn(&self) -> Option<Turn> {
        let mut queue = self.queue();
        if let Some(disconnect) = &queue.closed {
            return Some(Turn::Closed(disconnect.as_ref().clone()));
        }
        let tasks = queue.tasks()?;
        if !tasks.lost.is_empty() {
            return Some(Turn::Lost(std::mem::take(&mut tasks.lost)));
        }
        tasks.orders.pop_front().map(|order| Turn::Order(Box::new(order)))
    }

    /// Waits until something is to be done, or writes some of what waits.
    async fn step(&self) {
        tokio::select! {
            biased;
            // Orders and the end must not wait for a peer that does not read.
            () = self.changed.notified() => {}
            written = self.write(), if !self.is_empty() => {
                if written.is_err() {
                    self.close(WRITE_ERROR);
                }
            }
            // Nobody else would notice that the peer is gone.
            () = self.abandoned() => self.close(CLOSED),
        }
    }

    /// Resolves when nobody takes any more what is handed on.
    async fn abandoned(&self) {
        match &self.sink {
            Sink::Socket(_) => pending().await,
            // Boxed, as below: most connections have a socket, and would hold the room for this.
            Sink::Queue(taker) => Box::pin(taker.closed()).await,
        }
    }

    /// Writes the rest of a closed outbox, at most for `patience`; says whether the peer took it.
    pub async fn finish(&self, patience: Duration) -> bool {
        let rest = async { while !self.is_empty() && self.write().await.is_ok() {} };
        // A peer that does not read forfeits the close frame.
        let _ = tokio::time::timeout(patience, rest).await;
        self.is_empty()
    }

    /// Tells the peer that nothing follows; what it still sends can be read.
    pub(crate) async fn hang_up(&self) {
        // Whoever is gone has no end to be told of.
        match &self.sink {
            Sink::Socket(stream) => drop(SockRef::from(stream).shutdown(std::net::Shutdown::Write)),
            Sink::Queue(taker) => drop(taker.send(Bytes::new()).await),
        }
    }

    fn is_empty(&self) -> bool {
        self.queue().frames.is_empty()
    }

    /// Writes some of what waits, once the other side takes it.
    async fn write(&self) -> io::Result<()> {
        match &self.sink {
            Sink::Socket(stream) => {
                stream.writable().await?;
                self.write_waiting(stream)
            }
            Sink::Queue(taker) => {
                let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
                Box::pin(taker.reserve()).await.map_err(gone)?.send(self.queue().take(HANDED));
                Ok(())
            }
        }
    }

    /// One vectored write of what waits.
    fn write_waiting(&self, stream: &TcpStream) -> io::Result<()> {
        let mut queue = self.queue();
        let mut slices = [IoSlice::new(&[]); VECTORED];
        for (slice, waiting) in slices.iter_mut().zip(&queue.frames) {
            *slice = IoSlice::new(&waiting.frame);
        }
        match stream.try_write_vectored(&slices[..queue.frames.len().min(VECTORED)]) {
            Ok(written) => {
                queue.advance(written);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }
}
