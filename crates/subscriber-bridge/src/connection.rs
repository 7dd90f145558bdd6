//! The life of one WebSocket connection: read commands, keep the outbox moving, ping, and leave nothing behind.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use fanout_core::{Channel, Shutdown, UserId};
use futures::future::join_all;
use tokio::time::{Instant, sleep_until, timeout};

use crate::Shared;
use crate::admission::Guest;
use crate::codes::{self, Disconnect};
use crate::frame::{self, Received};
use crate::hub::ConnectionId;
use crate::incoming::Incoming;
use crate::join::Join;
use crate::outbox::{Outbox, Turn};
use crate::recovery;
use crate::session::{Session, Step};

/// How long a subscription may wait for Redis before it is answered as unrecoverable; clients give up after 5 s. Many that
/// come back at once wait for each other.
const JOIN_PATIENCE: Duration = Duration::from_secs(4);
/// The same while the link to Redis is lost: it may be back in a moment, and is hardly worth more.
const LOST_PATIENCE: Duration = Duration::from_secs(1);
/// How long a closing connection waits for what is under way and for the client's own close.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);
/// Seconds that an expired connection is given to bring a new token.
const EXPIRED_GRACE: u64 = 25;

/// A connection and what it needs.
pub(crate) struct Connection {
    shared: Arc<Shared>,
    id: ConnectionId,
    session: Session,
    outbox: Arc<Outbox>,
    incoming: Incoming,
    /// When the next ping goes out, or the pong to the last one is due, or the first command.
    timer: Instant,
    /// Up to when its commands have used their time; a second in advance is granted.
    paced: Instant,
    /// Channels of whose lost continuity the client is to be told.
    lost: Vec<Channel>,
    /// When it is told.
    tell_at: Option<Instant>,
    guest: Option<Guest<UserId>>,
}

impl Connection {
    /// A connection whose handshake is done; `early` was read behind it.
    pub(crate) fn new(shared: Arc<Shared>, id: ConnectionId, outbox: Outbox, early: Bytes) -> Self {
        let outbox = Arc::new(outbox);
        let incoming = Incoming::new(Arc::clone(&outbox), early.into(), shared.config.max_message_bytes);
        let session = Session::new(Arc::clone(&shared.rules), uuid::Uuid::new_v4().to_string());
        let (paced, timer) = (Instant::now(), Instant::now() + shared.config.patience());
        Self { shared, id, session, outbox, incoming, timer, paced, lost: Vec::new(), tell_at: None, guest: None }
    }

    /// Lives until either side ends it.
    pub(crate) async fn run(mut self, shutdown: Shutdown) {
        let disconnect = self.serve(&shutdown).await;
        let channels: Vec<_> = self.session.channels().cloned().collect();
        self.shared.hub.leave(self.id, &channels);
        self.shared.metrics.disconnects.count(disconnect.reason);
        tracing::debug!(
            connection = self.id.0,
            user = self.session.user().map(tracing::field::display),
            code = disconnect.code,
            disconnect.reason,
            "connection ended"
        );
        self.outbox.close(disconnect);
        self.outbox.finish(CLOSE_PATIENCE).await;
        self.incoming.finish(CLOSE_PATIENCE).await;
    }

    /// Branches by priority: the ending, the outbox (a closed one ends the connection), what is to be told, the timer, the
    /// client.
    async fn serve(&mut self, shutdown: &Shutdown) -> Disconnect {
        let outbox = Arc::clone(&self.outbox);
        loop {
            tokio::select! {
                biased;
                () = shutdown.requested() => return codes::SHUTDOWN,
                turn = outbox.drive() => match turn {
                    Turn::Closed(disconnect) => return disconnect,
                    Turn::Lost(channels) => self.lose(channels),
                },
                () = sleep_until(self.tell_at.unwrap_or(self.timer)), if self.tell_at.is_some() => self.tell(),
                () = sleep_until(self.timer) => {
                    if let Err(disconnect) = self.tick() {
                        return disconnect;
                    }
                }
                received = self.incoming.next() => {
                    if let Err(disconnect) = self.hear(received).await {
                        return disconnect;
                    }
                }
            }
        }
    }

    async fn hear(&mut self, received: Result<Option<Received>, Disconnect>) -> Result<(), Disconnect> {
        match received? {
            Some(Received::Text(text)) => self.commands(&text).await,
            Some(Received::Binary(_)) => Err(codes::UNSUPPORTED),
            Some(Received::Ping(_) | Received::Pong(_)) => {
                self.pace().await;
                Ok(())
            }
            Some(Received::Close(_)) | None => Err(codes::CLOSED),
        }
    }

    /// The commands of one message, each dispatched before the next: a client sends connect and subscribe in one.
    async fn commands(&mut self, text: &[u8]) -> Result<(), Disconnect> {
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        for line in text.split(|byte| *byte == b'\n') {
            for channel in self.outbox.take_ended() {
                self.session.ended(&channel);
            }
            if self.outbox.closed().is_some() {
                return Ok(());
            }
            self.pace().await;
            let was_signed_in = self.session.user().is_some();
            let step = self.session.command(line, unix_now());
            self.perform(step).await?;
            if !was_signed_in && self.session.user().is_none() {
                // After a failed connect the client begins anew; the rest of the message means nothing.
                return Ok(());
            }
        }
        Ok(())
    }

    /// Waits when the client has sent more commands than permitted; what it sends after them waits in its socket.
    async fn pace(&mut self) {
        let now = Instant::now();
        self.paced = self.paced.max(now) + Duration::from_secs(1) / self.shared.config.max_commands_per_second;
        if self.paced > now + Duration::from_secs(1) {
            sleep_until(self.paced - Duration::from_secs(1)).await;
        }
    }

    async fn perform(&mut self, step: Step) -> Result<(), Disconnect> {
        match step {
            Step::Nothing => {}
            Step::Answered => self.timer = self.after(self.shared.config.ping_seconds),
            Step::Reply(reply) => self.outbox.send(frame::text(&reply)),
            Step::Leave(channel, reply) => {
                self.shared.hub.leave(self.id, [&channel]);
                self.outbox.send(frame::text(&reply));
            }
            Step::Disconnect(disconnect) => return Err(disconnect),
            Step::Join(join) => {
                if join.is_connect() {
                    self.enter()?;
                }
                self.join(join).await;
            }
        }
        Ok(())
    }

    /// Counts the connection among those of its user.
    fn enter(&mut self) -> Result<(), Disconnect> {
        let Some(user) = self.session.user().cloned() else { return Ok(()) };
        let limit = self.shared.config.max_connections_per_user;
        self.guest = Some(self.shared.users.enter(user, limit).ok_or(codes::CONNECTION_LIMIT)?);
        Ok(())
    }

    /// Subscribes first, reads positions and what a recovering client missed then, replies, and only after that lets
    /// publications through: what was published meanwhile was held, so that nothing falls between and nothing overtakes the
    /// reply.
    async fn join(&mut self, join: Join) {
        let (channels, connects) = (join.channels(), join.is_connect());
        let confirmations = self.shared.hub.join(self.id, &self.outbox, &channels);
        let mut room = self.shared.room.nothing();
        let read = async {
            join_all(confirmations).await;
            recovery::standings(&self.shared, &channels, join.recoveries(), &mut room).await
        };
        let patience = if self.shared.link.is_connected() { JOIN_PATIENCE } else { LOST_PATIENCE };
        let standings = timeout(patience, read).await.ok().flatten();
        let mut standings = standings.unwrap_or_else(|| channels.iter().map(|_| None).collect());
        recovery::count(&self.shared.metrics, join.recoveries(), &standings);
        let rest = recovery::beyond_the_reply(&channels, &mut standings);
        let reply = self.session.joined(join, &standings, unix_now());
        let last = rest.len();
        let mut room = Some(room);
        for (index, frame) in std::iter::once(frame::text(&reply)).chain(rest).enumerate() {
            self.outbox.recover(frame, if index == last { room.take() } else { None });
        }
        for ((channel, _), standing) in channels.iter().zip(standings) {
            self.shared.hub.activate(self.id, channel, standing.map(|standing| standing.top));
        }
        if connects {
            self.shared.metrics.connects.inc();
            let interval = Duration::from_secs(self.shared.config.ping_seconds.into());
            // Clients that came back together must not be pinged together.
            self.timer = Instant::now() + interval.mul_f64(0.5 + 0.5 * fastrand::f64());
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
    fn tick(&mut self) -> Result<(), Disconnect> {
        if self.session.user().is_none() {
            return Err(codes::STALE);
        }
        if self.session.expires_at().is_some_and(|at| at.saturating_add(EXPIRED_GRACE) <= unix_now()) {
            return Err(codes::EXPIRED);
        }
        if self.session.awaits_pong() {
            return Err(codes::NO_PONG);
        }
        self.session.ping();
        self.outbox.send(frame::text(b"{}"));
        self.timer = self.after(self.shared.config.pong_timeout_seconds);
        Ok(())
    }

    fn after(&self, seconds: u32) -> Instant {
        Instant::now() + Duration::from_secs(seconds.into())
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
