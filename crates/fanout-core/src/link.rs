//! The link: Griot's own subscriber connection to one Redis primary.
//!
//! Every subscription is confirmed, a silent server is noticed by heartbeat, a lost connection is replaced with
//! jitter, and everything that was subscribed is subscribed again in batches. Whoever listens is told what may have been
//! missed. Client libraries promise less: their subscriptions are not acknowledged and their gaps are silent.

mod connector;
mod question;
mod table;
mod wire;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, oneshot};

pub use self::connector::Connector;
use self::table::Table;
use self::wire::Address;
use crate::config::ConfigError;
use crate::position::FeedPosition;
use crate::redis::{RedisConfig, RedisError};

/// Barriers that may wait for the connection at once.
const BARRIERS: usize = 1_024;

/// What the listener is told, in the order in which it happened.
#[derive(Debug)]
pub enum Event {
    /// Something was published on a subscribed pub/sub channel.
    Message {
        /// The pub/sub channel's name.
        channel: Bytes,
        /// What was published.
        payload: Bytes,
    },
    /// The connection is up. Subscriptions follow.
    Up,
    /// The connection is lost; nothing is delivered until [`Event::Resumed`] names a channel again.
    Down(String),
    /// This channel was live before the connection was lost, and is live again: what came between was missed.
    Resumed(Bytes),
}

/// Who listens to a link. Everything is called between two reads of the socket and must not block.
pub trait Ear {
    /// Something has happened.
    fn hear(&mut self, event: Event);

    /// Does some of the work that [`hear`](Self::hear) has left, and says whether more is left. While it is, the link looks
    /// for what comes in between two calls, without waiting.
    fn work(&mut self) -> bool;

    /// Whether so much work is left that nothing more can be heard.
    fn is_full(&self) -> bool;
}

impl<F: FnMut(Event)> Ear for F {
    fn hear(&mut self, event: Event) {
        self(event);
    }

    fn work(&mut self) -> bool {
        false
    }

    fn is_full(&self) -> bool {
        false
    }
}

/// Subscribes and leaves. Clones speak of the same connection.
#[derive(Debug, Clone)]
pub struct Link {
    shared: Arc<Shared>,
    barriers: mpsc::Sender<oneshot::Sender<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    table: Mutex<Table>,
    changed: Notify,
    connected: AtomicBool,
    /// Whose connection it is, while there is one and identities are asked for.
    identity: Mutex<Option<String>>,
    /// Asks for another connection.
    renewed: Notify,
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn identity(&self) -> MutexGuard<'_, Option<String>> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    /// A link to the server of `config`, and what keeps it up once it is [run](Connector::run).
    ///
    /// # Errors
    /// A configuration that cannot work.
    pub fn new(config: &RedisConfig) -> Result<(Self, Connector), ConfigError> {
        let server = config.server()?;
        let host = server.server.hosts().into_iter().next();
        let host = host.ok_or_else(|| ConfigError("redis.url names no host".into()))?;
        let address = Address {
            host: host.host.to_string(),
            port: host.port,
            username: server.username.clone(),
            password: server.password.clone(),
            identified: config.fence,
        };
        let shared = Arc::new(Shared::default());
        let (barriers, requests) = mpsc::channel(BARRIERS);
        let config = config.clone();
        let connector = Connector { shared: Arc::clone(&shared), config, address, requests, expected: VecDeque::new() };
        Ok((Self { shared, barriers }, connector))
    }

    /// Wants the pub/sub channel; the receiver hears when the subscription is confirmed, however long that takes.
    pub fn subscribe(&self, channel: &str) -> oneshot::Receiver<()> {
        let (waiting, confirmed) = oneshot::channel();
        self.shared.table().want(channel, waiting);
        self.shared.changed.notify_one();
        confirmed
    }

    /// Wants the pub/sub channel of a feed, and asks where that stands once it is subscribed, so that nothing lies between the
    /// answer and the publications that come. The receiver hears it, however long that takes; a feed without a position is
    /// given one, and where Redis refuses that, the answer is the error.
    pub fn join(&self, channel: &str) -> oneshot::Receiver<Result<FeedPosition, RedisError>> {
        let (asker, answered) = oneshot::channel();
        self.shared.table().ask(channel, asker);
        self.shared.changed.notify_one();
        answered
    }

    /// Wants the pub/sub channel no longer.
    pub fn unsubscribe(&self, channel: &str) {
        self.shared.table().leave(channel);
        self.shared.changed.notify_one();
    }

    /// Returns once everything that Redis had published before the call has been told to the listener; `false` when the
    /// connection was lost before that. The listener may have left [work](Ear::work): whoever asks what became of it has
    /// that done first.
    pub async fn barrier(&self) -> bool {
        let (reached, wait) = oneshot::channel();
        self.barriers.send(reached).await.is_ok() && wait.await.is_ok()
    }

    /// Whether there is a connection.
    pub fn is_connected(&self) -> bool {
        self.shared.connected.load(Ordering::Relaxed)
    }

    /// The identity of the server at the other end, as [`Redis::identity`](crate::Redis::identity) names it; none while
    /// there is no connection.
    pub fn identity(&self) -> Option<String> {
        self.shared.identity().clone()
    }

    /// Gives the connection up for another one, because it leads to a server that is the primary no more.
    pub fn renew(&self) {
        self.shared.renewed.notify_one();
    }

    /// Whether every wanted channel is confirmed.
    pub fn is_settled(&self) -> bool {
        self.shared.table().is_settled()
    }
}
