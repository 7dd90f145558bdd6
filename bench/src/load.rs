//! The load client: thousands of connections on one epoll loop, raw frames, several source addresses. It is a process of
//! its own, driven by JSON lines on standard input, and says what it cost itself.

mod commits;
mod connection;
mod dialect;
mod fleet;
mod marker;
mod outlet;
mod position;
mod publisher;
mod stream;
mod tally;

use std::io::BufRead;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

pub use self::dialect::Dialect;
use self::fleet::Fleet;
pub use self::outlet::Via;
pub use self::publisher::{Pace, Publish};
pub use self::tally::{Counted, Tally};
use crate::process;

/// What a load process can be told to do. It answers each with one line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// Open connections, and answer when all are ready.
    Connect(Connect),
    /// Count from here on.
    Begin,
    /// Say what has arrived since, and what the loop has used.
    Report,
    /// Publish, and answer when the last publication has arrived everywhere, or nothing arrives for five seconds.
    Publish(Publish),
    /// Connect and disconnect so many times, so many at once, each as the first connection of `connect` would.
    Churn(Connect),
    /// Close all connections.
    Close,
}

/// Which connections to open.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Connect {
    /// The server.
    pub to: SocketAddr,
    /// How it is spoken to.
    pub dialect: Dialect,
    /// How many connections.
    pub count: usize,
    /// The first of their users.
    #[serde(default)]
    pub first_user: usize,
    /// So many of them are being opened at a time.
    pub at_once: usize,
    /// The channel that all of them subscribe to; without, each has that of its own user, `user-N`.
    pub channel: Option<String>,
    /// The secret that signs their tokens, where they sign in.
    pub secret: Option<String>,
    /// Whose certificates are trusted, a file in PEM; with it TLS is spoken.
    pub trusted: Option<PathBuf>,
    /// Whether they never read, once they are ready.
    #[serde(default)]
    pub deaf: bool,
    /// Whether they remember where their channels stand, and recover from where those stood that were closed.
    #[serde(default)]
    pub recovers: bool,
}

/// What a load process answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Answer {
    /// Why it failed.
    pub error: Option<String>,
    /// Seconds that the command took.
    pub seconds: f64,
    /// Publications that went out for the command.
    pub published: u64,
    /// What arrived since [`Command::Begin`].
    pub counted: Counted,
    /// Microseconds of CPU of the client's loop since [`Command::Begin`].
    pub own_cpu: f64,
}

/// Does what standard input says until it ends; `behind` others who want the same core.
///
/// # Errors
/// The machine refuses what a loop needs.
pub fn serve(behind: bool) -> Result<()> {
    if behind {
        // Before there are more threads: they have what the first one has.
        process::stand_behind().context("standing behind others")?;
    }
    let tally = Arc::new(Tally::default());
    let (orders, waiting) = channel();
    let fleet = Fleet::new(Arc::clone(&tally), waiting)?;
    let waker = fleet.waker();
    let (answers, answered) = channel();
    let looping = thread::Builder::new().name("loop".into()).spawn(move || fleet.run(&answers))?;
    for line in std::io::stdin().lock().lines() {
        let command: Command = serde_json::from_str(&line?).context("a command that is none")?;
        let answer = match command {
            Command::Publish(publish) => publisher::run(&publish, &tally),
            command => {
                orders.send(command)?;
                waker.wake()?;
                next(&answered)
            }
        };
        println!("{}", serde_json::to_string(&answer)?);
        if looping.is_finished() {
            break;
        }
    }
    Ok(())
}

fn next(answered: &Receiver<Answer>) -> Answer {
    answered.recv_timeout(Duration::from_secs(300)).unwrap_or_else(|_| Answer::failed("the loop has stopped"))
}

impl Answer {
    fn failed(error: impl Into<String>) -> Self {
        Self { error: Some(error.into()), seconds: 0.0, published: 0, counted: Counted::default(), own_cpu: 0.0 }
    }
}
