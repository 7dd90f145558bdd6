//! The link: Griot's own subscriber connection to one Redis primary.
//!
//! Every subscription is confirmed, a silent server is noticed by heartbeat, a lost connection is replaced with
//! jitter, and everything that was subscribed is subscribed again in batches. Whoever listens is told what may have been
//! missed. Client libraries promise less: their subscriptions are not acknowledged and their gaps are silent.

mod table;
mod wire;

use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::yield_now;
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::table::Table;
use self::wire::{Address, Said, Wire};
use crate::config::ConfigError;
use crate::redis::{RedisConfig, primary_identity};
use crate::shutdown::Shutdown;

/// Channels in one SUBSCRIBE, so that a large resubscription does not hold the server's main thread.
const BATCH: usize = 512;
/// How often the server is asked for a sign of life.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// Silence after which the connection is given up. A living server answers every heartbeat.
const SILENCE: Duration = Duration::from_secs(5);
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
        let connector = Connector { shared: Arc::clone(&shared), address, requests, pings: VecDeque::new() };
        Ok((Self { shared, barriers }, connector))
    }

    /// Wants the pub/sub channel; the receiver hears when the subscription is confirmed, however long that takes.
    pub fn subscribe(&self, channel: &str) -> oneshot::Receiver<()> {
        let (waiting, confirmed) = oneshot::channel();
        self.shared.table().want(channel, waiting);
        self.shared.changed.notify_one();
        confirmed
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

/// Keeps a link's connection up.
pub struct Connector {
    shared: Arc<Shared>,
    address: Address,
    requests: mpsc::Receiver<oneshot::Sender<()>>,
    /// Who waits for the answers to the PINGs that are under way, oldest first; heartbeats wait for nobody.
    pings: VecDeque<Option<oneshot::Sender<()>>>,
}

impl Connector {
    /// Tells `ear` what happens until the ending is asked for.
    pub async fn run(mut self, mut ear: impl Ear, shutdown: Shutdown) {
        let mut attempt = 0;
        while !shutdown.is_requested() {
            let wire = tokio::select! {
                biased;
                () = shutdown.requested() => return,
                wire = working(&mut ear, Wire::open(&self.address)) => wire,
            };
            let ended = match wire {
                Ok(wire) => {
                    attempt = 0;
                    self.connection(wire, &mut ear, &shutdown).await
                }
                Err(error) => Err(error),
            };
            let Err(error) = ended else { return };
            self.pings.clear();
            *self.shared.identity() = None;
            self.shared.connected.store(false, Ordering::Relaxed);
            self.shared.table().disconnected();
            ear.hear(Event::Down(error.to_string()));
            if !working(&mut ear, shutdown.pause(backoff(attempt))).await {
                return;
            }
            attempt += 1;
        }
    }

    /// Lives through one connection; ends without an error only when the ending was asked for.
    async fn connection(&mut self, mut wire: Wire, ear: &mut impl Ear, shutdown: &Shutdown) -> io::Result<()> {
        (*self.shared.identity()).clone_from(&wire.identity);
        self.shared.connected.store(true, Ordering::Relaxed);
        ear.hear(Event::Up);
        let mut heartbeat = interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        loop {
            self.send_changes(&mut wire).await?;
            let is_left = ear.work();
            tokio::select! {
                biased;
                () = shutdown.requested() => return Ok(()),
                // Before the socket, which under load always has more.
                () = self.shared.renewed.notified() => return Err(io::Error::other("another server is the primary now")),
                Some(reached) = self.requests.recv() => self.ping(&mut wire, Some(reached)).await?,
                filled = wire.fill(), if !ear.is_full() => {
                    filled?;
                    heard = Instant::now();
                    self.hear(&mut wire, ear)?;
                }
                () = self.shared.changed.notified() => {}
                _ = heartbeat.tick() => {
                    if ear.is_full() {
                        // It is not the server who is silent.
                        heard = Instant::now();
                    } else if heard.elapsed() > SILENCE {
                        return Err(io::Error::new(io::ErrorKind::TimedOut, format!("silent for {SILENCE:?}")));
                    }
                    self.ping(&mut wire, None).await?;
                    if wire.identity.is_some() {
                        wire.send(&["INFO", "replication"]).await?;
                    }
                }
                // Only who yields is told what has come in.
                () = yield_now(), if is_left => {}
            }
        }
    }

    async fn send_changes(&mut self, wire: &mut Wire) -> io::Result<()> {
        let commands = self.shared.table().take(BATCH);
        for (name, channels) in [("SUBSCRIBE", commands.subscribe), ("UNSUBSCRIBE", commands.unsubscribe)] {
            if !channels.is_empty() {
                let mut command = vec![name.to_owned()];
                command.extend(channels);
                wire.send(&command).await?;
            }
        }
        if self.shared.table().has_changes() {
            // The rest goes out after what the server has said meanwhile was read.
            self.shared.changed.notify_one();
        }
        Ok(())
    }

    async fn ping(&mut self, wire: &mut Wire, reached: Option<oneshot::Sender<()>>) -> io::Result<()> {
        self.pings.push_back(reached);
        wire.send(&["PING"]).await
    }

    fn hear(&mut self, wire: &mut Wire, ear: &mut impl Ear) -> io::Result<()> {
        while let Some(said) = wire.said()? {
            match said {
                Said::Message { channel, payload } => ear.hear(Event::Message { channel, payload }),
                Said::Confirmed { channel } => {
                    let name = String::from_utf8_lossy(&channel);
                    if self.shared.table().confirmed(&name) {
                        ear.hear(Event::Resumed(channel));
                    }
                }
                Said::Pong => {
                    if let Some(Some(reached)) = self.pings.pop_front() {
                        let _ = reached.send(());
                    }
                }
                Said::Info(info) => {
                    // A server that stepped down keeps its connections, and one that came back by itself is another.
                    let identity = primary_identity(&info).map_err(io::Error::other)?;
                    if wire.identity.as_ref() != Some(&identity) {
                        return Err(io::Error::other("the server became another one (a promotion or a restart)"));
                    }
                }
                Said::Error(text) => return Err(io::Error::other(format!("Redis refused a subscription: {text}"))),
            }
        }
        Ok(())
    }
}

/// Waits while `ear` works: what was heard before goes out without a connection, too.
async fn working<T>(ear: &mut impl Ear, wait: impl Future<Output = T>) -> T {
    let mut wait = pin!(wait);
    loop {
        let is_left = ear.work();
        tokio::select! {
            biased;
            done = &mut wait => return done,
            () = yield_now(), if is_left => {}
        }
    }
}

/// Between half and the whole of a doubling delay, so that bridges do not come back in step.
fn backoff(attempt: u32) -> Duration {
    let whole = 50_u64 << attempt.min(6);
    Duration::from_millis(whole / 2 + fastrand::u64(..=whole / 2))
}
