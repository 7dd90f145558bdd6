//! The life of one connection: take commands, keep the outbox moving, ping, and leave nothing behind.

mod ordered;
mod perform;

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use fanout_core::presence::Member;
use fanout_core::{Channel, Shutdown, UserId};
use tokio::time::{Instant, sleep_until};

use crate::Shared;
use crate::codes::{self, Disconnect};
use crate::frame::{self, Received};
use crate::hub::ConnectionId;
use crate::incoming::{Incoming, Source};
use crate::outbox::{Outbox, Turn};
use crate::protocol::Encoding;
use crate::protocol::message::ConnectRequest;
use crate::session::{Manner, Session, Step};
use crate::wire::Framing;

/// How long a subscription may wait for Redis before it is answered as unrecoverable; clients give up after 5 s. Many that
/// come back at once wait for each other.
const JOIN_PATIENCE: Duration = Duration::from_secs(4);
/// The same while the link to Redis is lost: it may be back in a moment, and is hardly worth more.
const LOST_PATIENCE: Duration = Duration::from_secs(1);
/// How long a client waits for its token to be verified; clients give up after 5 s.
const VERIFY_PATIENCE: Duration = Duration::from_secs(3);
/// How long a closing connection waits for what is under way and for the client's own close.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// A connection and what it needs.
pub(crate) struct Connection {
    shared: Arc<Shared>,
    id: ConnectionId,
    session: Session,
    outbox: Arc<Outbox>,
    /// What the client sends over this connection, if it can.
    incoming: Option<Incoming>,
    /// What the client said before it had the connection, until that is done.
    said: Option<Said>,
    /// When the next ping goes out, or the pong to the last one is due, or the first command.
    timer: Instant,
    /// Up to when its commands have used their time; a second in advance is granted.
    paced: Instant,
    /// Channels of whose lost continuity the client is to be told.
    lost: Vec<Channel>,
    /// When it is told.
    tell_at: Option<Instant>,
}

impl Connection {
    /// A connection; of a WebSocket, `source` is what the client speaks over.
    pub(crate) fn new(
        shared: Arc<Shared>,
        id: ConnectionId,
        outbox: Outbox,
        manner: Manner,
        said: Option<Said>,
        source: impl Into<Source>,
    ) -> Box<Self> {
        let outbox = Arc::new(outbox);
        let limit = shared.config.max_message_bytes;
        let incoming = matches!(outbox.wire().framing, Framing::WebSocket)
            .then(|| Incoming::new(Arc::clone(&outbox), source, limit));
        let session = Session::new(Arc::clone(&shared.rules), uuid::Uuid::new_v4().to_string(), manner);
        shared.connections.begin(session.secret(), &outbox);
        let (paced, timer) = (Instant::now(), Instant::now() + shared.config.patience());
        let lost = Vec::new();
        Box::new(Self { shared, id, session, outbox, incoming, said, timer, paced, lost, tell_at: None })
    }

    /// Lives until either side ends it, beginning with what the client said before it had the connection.
    ///
    /// A task keeps the size of the largest thing that it ever does, and most of the time a connection only waits: all
    /// else is boxed while it is done.
    pub(crate) async fn run(mut self: Box<Self>, shutdown: Shutdown) {
        let begun = match self.said.take() {
            None => Ok(()),
            Some(said) => Box::pin(self.begin(said)).await,
        };
        let disconnect = match begun {
            Ok(()) => self.serve(&shutdown).await,
            Err(disconnect) => disconnect,
        };
        Box::pin(self.part(disconnect)).await;
    }

    async fn begin(&mut self, said: Said) -> Result<(), Disconnect> {
        let outbox = Arc::clone(&self.outbox);
        match said {
            Said::Commands(commands) => outbox.beside(Box::pin(self.commands(commands))).await,
            Said::Connect(request) => outbox.beside(Box::pin(self.connect(&request))).await,
        }
    }

    /// Leaves everything, and tells the client why.
    async fn part(self: Box<Self>, disconnect: Disconnect) {
        let channels: Vec<Channel> = self.session.channels().map(|(channel, _)| channel.clone()).collect();
        self.shared.hub.leave(self.id, &channels);
        self.shared.connections.leave(self.id, self.session.user(), self.session.secret());
        self.shared.metrics.disconnects.count(disconnect.label());
        let user = self.session.user().map_or("", UserId::as_str);
        let (code, reason) = (disconnect.code, disconnect.reason.as_ref());
        tracing::debug!(connection = self.id.0, user, code, reason, "connection ended");
        self.outbox.close(disconnect);
        let members: Vec<Member> =
            self.session.channels().filter_map(|(channel, terms)| self.member(channel, terms)).collect();
        let Self { shared, id, outbox, incoming, .. } = *self;
        let last_words = async {
            // Whoever does not take what it is sent is not waited for.
            if outbox.finish(CLOSE_PATIENCE).await
                && let Some(mut incoming) = incoming
            {
                incoming.finish(CLOSE_PATIENCE).await;
            }
        };
        tokio::join!(shared.attendance.leave(id, &members), last_words);
    }

    /// Branches by priority: the ending, the outbox (a closed one ends the connection), what is due, the client.
    async fn serve(&mut self, shutdown: &Shutdown) -> Disconnect {
        let outbox = Arc::clone(&self.outbox);
        let mut asleep = pin!(sleep_until(self.due()));
        loop {
            // Few commands change what is due, and a timer that is set anew costs a lock.
            if asleep.deadline() != self.due() {
                asleep.as_mut().reset(self.due());
            }
            let done = tokio::select! {
                biased;
                () = shutdown.requested() => return codes::SHUTDOWN,
                turn = outbox.drive() => match turn {
                    Turn::Closed(disconnect) => return disconnect,
                    Turn::Lost(channels) => {
                        self.lose(channels);
                        continue;
                    }
                    Turn::Order(order) => outbox.beside(Box::pin(self.obey(*order))).await,
                },
                () = &mut asleep => Box::pin(self.wake()).await,
                received = next(&mut self.incoming) => outbox.beside(Box::pin(self.hear(received))).await,
            };
            if let Err(disconnect) = done {
                return disconnect;
            }
        }
    }

    /// When something is due next.
    fn due(&self) -> Instant {
        self.tell_at.map_or(self.timer, |tell_at| tell_at.min(self.timer))
    }

    /// Something is due.
    async fn wake(&mut self) -> Result<(), Disconnect> {
        if self.tell_at.is_some_and(|tell_at| tell_at <= Instant::now()) {
            self.tell();
            return Ok(());
        }
        self.tick().await
    }

    async fn hear(&mut self, received: Result<Option<Received>, Disconnect>) -> Result<(), Disconnect> {
        let encoding = self.outbox.wire().encoding;
        match received? {
            Some(Received::Text(text)) if encoding == Encoding::Json => self.commands(text).await,
            Some(Received::Binary(bytes)) if encoding == Encoding::Protobuf => self.commands(bytes).await,
            Some(Received::Text(_) | Received::Binary(_)) => Err(codes::UNSUPPORTED),
            Some(Received::Ping(_) | Received::Pong(_)) => {
                self.pace().await;
                Ok(())
            }
            Some(Received::Close(_)) | None => Err(codes::CLOSED),
        }
    }

    /// The commands of one message, each dispatched before the next: a client sends connect and subscribe in one. Of a
    /// client that only hears, the first message is a connect request, and the others mean nothing.
    async fn commands(&mut self, message: Bytes) -> Result<(), Disconnect> {
        if self.outbox.wire().one_way {
            self.pace().await;
            if self.session.is_signed_in() {
                return Ok(());
            }
            let request = ConnectRequest::parse(&message).ok_or(codes::BAD_REQUEST)?;
            return self.connect(&request).await;
        }
        for command in self.outbox.wire().encoding.commands(message) {
            self.part_with_ended().await;
            if self.outbox.closed().is_some() {
                return Ok(());
            }
            self.pace().await;
            let was_signed_in = self.session.is_signed_in();
            if !was_signed_in {
                self.wait_for_turn().await?;
            }
            let step = self.step(|session, now| session.command(command.as_ref(), now)).await?;
            self.perform(step).await?;
            if !was_signed_in && !self.session.is_signed_in() {
                // After a failed connect the client begins anew; the rest of the message means nothing.
                return Ok(());
            }
        }
        Ok(())
    }

    /// Takes note of subscriptions that the hub has ended.
    async fn part_with_ended(&mut self) {
        for channel in self.outbox.take_ended() {
            if let Some(terms) = self.session.ended(&channel) {
                self.leave(&channel, Some(&terms)).await;
            }
        }
    }

    /// Signs in a client that only hears.
    async fn connect(&mut self, request: &ConnectRequest) -> Result<(), Disconnect> {
        self.wait_for_turn().await?;
        let step = self.step(|session, now| session.connect_one_way(request, now)).await?;
        self.perform(step).await
    }

    /// Signatures that cost something are verified only so often in a second.
    async fn wait_for_turn(&self) -> Result<(), Disconnect> {
        if self.shared.rules.tokens.are_costly() {
            self.shared.gate.pass(VERIFY_PATIENCE).await.map_err(|_| codes::CROWDED)?;
        }
        Ok(())
    }

    /// What `command` comes to. A token may name a key that the bridge has not heard of: it is asked for, and the command
    /// done again.
    async fn step(&mut self, command: impl Fn(&mut Session, u64) -> Step) -> Result<Step, Disconnect> {
        let step = command(&mut self.session, unix_now());
        if !matches!(step, Step::Learn(_)) {
            return Ok(step);
        }
        self.shared.rules.tokens.learn().await.map_err(|_| codes::INTERNAL_ERROR)?;
        match command(&mut self.session, unix_now()) {
            Step::Learn(otherwise) => Ok(*otherwise),
            step => Ok(step),
        }
    }

    /// Waits when the client has sent more commands than permitted; what it sends after them waits in its socket.
    async fn pace(&mut self) {
        let now = Instant::now();
        self.paced = self.paced.max(now) + Duration::from_secs(1) / self.shared.config.max_commands_per_second;
        if self.paced > now + Duration::from_secs(1) {
            sleep_until(self.paced - Duration::from_secs(1)).await;
        }
    }

    /// Continuity of `channels` is lost. The client is told at some moment of the window, so that not all clients come back
    /// at once; the hub tells it before that, should anything be published.
    fn lose(&mut self, channels: Vec<Channel>) {
        self.lost.extend(channels);
        let window = Duration::from_secs(self.shared.config.telling_window_seconds.into());
        self.tell_at.get_or_insert_with(|| Instant::now() + window.mul_f64(fastrand::f64()));
    }

    fn tell(&mut self) {
        self.tell_at = None;
        self.shared.hub.tell_lost(self.id, &std::mem::take(&mut self.lost));
    }

    /// The timer has run out.
    async fn tick(&mut self) -> Result<(), Disconnect> {
        if !self.session.is_signed_in() {
            return Err(codes::STALE);
        }
        self.part_with_ended().await;
        let now = unix_now();
        let grace = u64::from(self.shared.config.expired_grace_seconds);
        if self.session.expires_at().is_some_and(|at| at.saturating_add(grace) <= now) {
            return Err(codes::EXPIRED);
        }
        if self.session.awaits_pong() {
            return Err(codes::NO_PONG);
        }
        for (channel, server_side) in self.session.overdue(now, grace) {
            if server_side {
                return Err(codes::SERVER_SIDE_EXPIRED);
            }
            self.end(&channel, codes::SUBSCRIPTION_EXPIRED).await;
        }
        let answered = self.session.ping();
        let (wire, by_transport) = (self.outbox.wire(), self.session.pings_by_transport());
        // Whoever only hears a WebSocket may not see, or not get, one of both.
        if by_transport || (wire.one_way && wire.framing == Framing::WebSocket) {
            self.outbox.send(frame::ping(b""));
        }
        if !by_transport {
            self.outbox.send(wire.ping());
        }
        let config = &self.shared.config;
        self.timer = self.after(if answered { config.pong_timeout_seconds } else { config.ping_seconds });
        Ok(())
    }

    fn after(&self, seconds: u32) -> Instant {
        Instant::now() + Duration::from_secs(seconds.into())
    }
}

/// What a client said before it had its connection.
#[derive(Debug)]
pub(crate) enum Said {
    /// Commands.
    Commands(Bytes),
    /// All that a client can say that only hears.
    Connect(ConnectRequest),
}

/// What the client sends next over this connection; forever nothing where it cannot.
async fn next(incoming: &mut Option<Incoming>) -> Result<Option<Received>, Disconnect> {
    match incoming {
        Some(incoming) => incoming.next().await,
        None => std::future::pending().await,
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<A, B, F>(_: fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    /// What every idle connection holds.
    #[test]
    fn a_waiting_connection_is_small() {
        let (task, connection) = (size_of_future(Connection::run), size_of::<Connection>());
        assert!(task <= 1_000, "the task is {task} bytes");
        assert!(connection <= 600, "a connection is {connection} bytes");
    }
}
