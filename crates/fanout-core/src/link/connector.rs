//! What keeps a link's connection up: connects again and again, sends what is wanted, hears what comes.

use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis_protocol::resp3::types::BytesFrame;
use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::question::Call;
use super::wire::{self, Address, Said, Wire};
use super::{Ear, Event, Shared};
use crate::redis::{RedisConfig, RedisError};
use crate::script::POSITIONS;
use crate::shutdown::Shutdown;

/// Channels in one SUBSCRIBE, so that a large resubscription does not hold the server's main thread.
const BATCH: usize = 512;
/// How often the server is asked for a sign of life.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// Silence after which the connection is given up. A living server answers every heartbeat.
const SILENCE: Duration = Duration::from_secs(5);

/// Keeps a link's connection up.
pub struct Connector {
    pub(super) shared: Arc<Shared>,
    pub(super) config: RedisConfig,
    pub(super) address: Address,
    /// Barriers that are asked for.
    pub(super) requests: mpsc::Receiver<oneshot::Sender<()>>,
    /// What is to be answered, oldest first.
    pub(super) expected: VecDeque<Expected>,
}

/// What the server is to answer, and who waits for it.
#[derive(Debug)]
pub(super) enum Expected {
    /// A PING; heartbeats wait for nobody.
    Pong(Option<oneshot::Sender<()>>),
    /// Who the server is.
    Identity,
    /// That it has the script of positions.
    Script,
    /// Positions.
    Positions(Call),
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
            *self.shared.identity() = None;
            self.shared.connected.store(false, Ordering::Relaxed);
            self.disconnected();
            ear.hear(Event::Down(error.to_string()));
            if !working(&mut ear, shutdown.pause(backoff(attempt))).await {
                return;
            }
            attempt += 1;
        }
    }

    /// Who waits for a position goes on waiting, and who waits for anything else hears that the connection is lost.
    fn disconnected(&mut self) {
        let mut table = self.shared.table();
        table.disconnected();
        for expected in self.expected.drain(..) {
            if let Expected::Positions(call) = expected {
                call.questions().into_iter().for_each(|question| table.ask_again(question));
            }
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
                Some(reached) = self.requests.recv() => self.ask(&mut wire, &["PING"], Expected::Pong(Some(reached))),
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
                    self.ask(&mut wire, &["PING"], Expected::Pong(None));
                    if wire.identity.is_some() {
                        self.ask(&mut wire, &["INFO", "replication"], Expected::Identity);
                    }
                }
                // Only who yields is told what has come in.
                () = yield_now(), if is_left => {}
            }
        }
    }

    /// Sends what has come to be wanted, in one write.
    async fn send_changes(&mut self, wire: &mut Wire) -> io::Result<()> {
        let commands = self.shared.table().take(BATCH);
        for (name, channels) in [("SUBSCRIBE", &commands.subscribe), ("UNSUBSCRIBE", &commands.unsubscribe)] {
            if !channels.is_empty() {
                let words: Vec<&str> = [name].into_iter().chain(channels.iter().map(String::as_str)).collect();
                wire.command(&words);
            }
        }
        for call in Call::all(commands.ask) {
            self.ask_positions(wire, call);
        }
        if self.shared.table().has_changes() {
            // The rest goes out after what the server has said meanwhile was read.
            self.shared.changed.notify_one();
        }
        wire.send().await
    }

    /// Adds a command to what is sent next.
    fn ask(&mut self, wire: &mut Wire, command: &[&str], expected: Expected) {
        wire.command(command);
        self.expected.push_back(expected);
    }

    fn ask_positions(&mut self, wire: &mut Wire, call: Call) {
        let command = call.command(&self.config);
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        self.ask(wire, &words, Expected::Positions(call));
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
                Said::Answer(answer) => self.answered(wire, answer)?,
                Said::Error(text) => self.refused(wire, &text)?,
            }
        }
        Ok(())
    }

    fn answered(&mut self, wire: &Wire, answer: BytesFrame) -> io::Result<()> {
        let fits = match self.expected.pop_front() {
            Some(Expected::Pong(reached)) => {
                if let Some(reached) = reached {
                    let _ = reached.send(());
                }
                matches!(answer, BytesFrame::SimpleString { .. })
            }
            Some(Expected::Identity) => {
                // A server that stepped down keeps its connections, and one that came back by itself is another.
                if wire.identity != Some(wire::identity(answer)?) {
                    return Err(io::Error::other("the server became another one (a promotion or a restart)"));
                }
                true
            }
            Some(Expected::Script) => true,
            Some(Expected::Positions(call)) => call.answered(&answer),
            None => false,
        };
        if fits {
            Ok(())
        } else {
            Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "Redis answered something else than it was asked: the link connects anew",
            ))
        }
    }

    /// That the script is unknown answers a call of it and nothing else: the server is given it, and asked again.
    fn refused(&mut self, wire: &mut Wire, text: &str) -> io::Result<()> {
        let expected = if text.starts_with("NOSCRIPT") { self.expected.pop_front() } else { None };
        let Some(Expected::Positions(call)) = expected else {
            let error = RedisError::answered(text.to_owned());
            return Err(io::Error::other(format!("subscribing, or asking for a position: {error}")));
        };
        let script = POSITIONS.lua().map(|script| script.to_string()).unwrap_or_default();
        self.ask(wire, &["SCRIPT", "LOAD", &script], Expected::Script);
        self.ask_positions(wire, call);
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::link::Link;

    const FEED: &str = "griot:{0.1}:feed:u:1";

    /// A link, and its connection to a server that says nothing more.
    async fn connected() -> (Link, Connector, Wire, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let url = format!("redis://{}", listener.local_addr().expect("address"));
        let (link, connector) =
            Link::new(&RedisConfig { url, fence: false, ..RedisConfig::default() }).expect("a link");
        let accept = async {
            let (mut server, _) = listener.accept().await.expect("accepts");
            server.write_all(b"%0\r\n").await.expect("writes");
            server
        };
        let (wire, server) = tokio::join!(Wire::open(&connector.address), accept);
        (link, connector, wire.expect("a connection"), server)
    }

    /// The subscriptions and questions that the server was sent, in order.
    async fn sent(wire: Wire, mut server: TcpStream) -> Vec<String> {
        drop(wire);
        let mut text = String::new();
        server.read_to_string(&mut text).await.expect("reads");
        text.lines().filter(|word| ["SUBSCRIBE", "SCRIPT", "EVALSHA"].contains(word)).map(str::to_owned).collect()
    }

    #[tokio::test]
    async fn a_feed_is_asked_about_after_it_is_subscribed_and_again_on_the_next_connection() {
        let (link, mut connector, mut wire, server) = connected().await;
        let mut answered = link.join(FEED);
        for _ in 0..2 {
            connector.send_changes(&mut wire).await.expect("sends");
            connector.disconnected();
        }
        assert!(answered.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Empty), "it waits on");
        assert_eq!(sent(wire, server).await, ["SUBSCRIBE", "EVALSHA", "SUBSCRIBE", "EVALSHA"]);
    }

    #[tokio::test]
    async fn a_server_without_the_script_is_given_it_and_asked_again() {
        let (link, mut connector, mut wire, server) = connected().await;
        let _answered = link.join(FEED);
        connector.send_changes(&mut wire).await.expect("sends");
        connector.refused(&mut wire, "NOSCRIPT No matching script.").expect("the connection goes on");
        wire.send().await.expect("sends");
        assert_eq!(sent(wire, server).await, ["SUBSCRIBE", "EVALSHA", "SCRIPT", "EVALSHA"]);
    }

    #[tokio::test]
    async fn an_answer_to_something_else_ends_the_connection() {
        let (link, mut connector, mut wire, _server) = connected().await;
        let _answered = link.join(FEED);
        connector.send_changes(&mut wire).await.expect("sends");
        let answer = BytesFrame::Array { data: Vec::new(), attributes: None };
        assert!(connector.answered(&wire, answer).is_err());
    }
}
