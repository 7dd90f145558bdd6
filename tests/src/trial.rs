//! Trials: real servers, workers and official clients, something that breaks, and an oracle. Those of the event path judge
//! positions (promises 1 and 2), storms what was committed (3), and undone deletions what is cached (4).
//!
//! `tests/it/trials.rs` runs each in its short form, `just soak MINUTES` runs them at random for as long as asked.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fanout_core::envelope::Position;
use fanout_core::names::Feed;
use fanout_core::{Channel, Publisher, Redis as Commands, RedisConfig, position};
use tokio::time::Instant;

use crate::bridge::{LoneBridge, SECRET, topics};
use crate::fleet::{Fleet, Seen, Visitor};
use crate::oracle::{Ledger, Oracle};
use crate::proxy::Proxy;
use crate::servers::Redis;
use crate::token;

mod crash;
mod cut;
mod promotion;
mod restart;
mod storm;
mod undone;

pub use self::{
    crash::crash,
    cut::cut,
    promotion::promotion,
    restart::restart,
    storm::{Faults, Storm, storm},
    undone::undone,
};

/// Three personal topics and one broadcast, all with a history of 300.
pub const TOPICS: &str = r#"
[topics.orders]
history_size = 300
[topics.notifications]
history_size = 300
[topics.invoices]
history_size = 300
[topics.products]
history_size = 300
personal = "off"
broadcast = true
"#;
const PERSONAL: [&str; 3] = ["orders", "notifications", "invoices"];
const BROADCAST: &str = "products";

/// All clients catch up within this time, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(40);

/// A lie told to the oracle, which it must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Fault {
    /// One publication never came.
    Loss,
    /// One publication came to another user.
    Misdelivery,
    /// Two publications of a channel changed places.
    Reordering,
    /// A value from before a commit was put back into the cache; only where there is a cache.
    Stale,
}

/// What a trial is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Clients.
    pub clients: usize,
    /// Publications while something is broken.
    pub publications: u64,
    /// How long something is broken; at least.
    pub outage: Duration,
    /// Seconds over which clients are told that continuity is lost.
    pub telling_window: u32,
    /// A fault to plant.
    pub plant: Option<Fault>,
}

/// What a trial saw, in a line.
#[derive(Debug)]
pub struct Outcome {
    /// What was done and measured.
    pub told: String,
    /// What was wrong; a trial passes without.
    pub wrong: Vec<String>,
}

/// The event path with its clients. Everything ends with this value.
pub(crate) struct Stand<'a> {
    pub(crate) bridge: LoneBridge,
    /// Between the bridge and Redis.
    pub(crate) way: Proxy,
    pub(crate) publisher: Publisher,
    commands: Commands,
    pub(crate) fleet: Fleet,
    pub(crate) oracle: Oracle<'a>,
    pub(crate) users: Vec<String>,
    plant: Option<Fault>,
    /// The publication that is held back to change places with the next of its channel.
    held: Option<Seen>,
    /// Publications that the clients saw.
    seen: u64,
    /// Asked of everything that is seen, beside the oracle's own questions.
    in_one_order: bool,
}

impl<'a> Stand<'a> {
    /// Clients on a bridge that reaches `redis` by a proxy; the publisher goes the same way if `all_by_proxy`.
    pub(crate) async fn build(redis: &Redis, ledger: &'a Ledger, size: Size, all_by_proxy: bool) -> Result<Self> {
        let way = Proxy::start(redis.addr()).await?;
        let by_proxy = format!("redis://{}", way.addr());
        let settings = format!("telling_window_seconds = {}", size.telling_window);
        let bridge = LoneBridge::start_with(TOPICS, &by_proxy, &settings).await?;
        let url = if all_by_proxy { by_proxy } else { redis.url() };
        let commands = Commands::connect(&RedisConfig { url, command_timeout_ms: 2_000, ..RedisConfig::default() })?;
        let publisher = Publisher::new(commands.clone(), topics(TOPICS)?);
        let users: Vec<String> = (0..size.clients).map(|n| format!("u{n}")).collect();
        let visitors: Vec<Visitor> = users
            .iter()
            .map(|user| Visitor {
                user: user.clone(),
                token: token::token(SECRET, user),
                subscribe: vec![BROADCAST.to_owned()],
            })
            .collect();
        let fleet = Fleet::start(&bridge.socket(), &visitors).await?;
        let oracle = Oracle::new(ledger, users.clone());
        let plant = size.plant;
        let (held, seen, in_one_order) = (None, 0, false);
        let mut stand =
            Self { bridge, way, publisher, commands, fleet, oracle, users, plant, held, seen, in_one_order };
        stand.caught_up().await.context("before anything broke")?;
        Ok(stand)
    }

    /// Every channel that somebody has: the broadcast last.
    pub(crate) fn channels(&self) -> Vec<String> {
        let mut channels: Vec<String> = self.users.iter().flat_map(|user| personal(user)).collect();
        channels.push(BROADCAST.to_owned());
        channels
    }

    /// Reads on until every client stands at the top of each of its channels; the oracle hears of those who do not.
    pub(crate) async fn caught_up(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            while let Some(seen) = self.fleet.next(Duration::from_millis(100)).await? {
                self.see(seen);
            }
            let behind = match self.tops().await {
                Ok(tops) => self.behind(&tops),
                Err(error) => vec![format!("no positions: {error:#}")],
            };
            if behind.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                self.oracle.never_came(&behind);
                return Ok(());
            }
        }
    }

    /// Takes what clients saw during `span`.
    pub(crate) async fn watch(&mut self, span: Duration) -> Result<()> {
        let until = Instant::now() + span;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            if let Some(seen) = self.fleet.next(left).await? {
                self.see(seen);
            }
        }
        Ok(())
    }

    /// Takes what clients see until the bridge says that its link is there, or is missing.
    pub(crate) async fn until_link(&mut self, there: bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.bridge.ready().await.is_ok_and(|(ready, words)| ready || !words.contains("link")) != there {
            ensure!(Instant::now() < deadline, "the bridge's link is not {}", if there { "there" } else { "missed" });
            self.watch(Duration::from_millis(20)).await?;
        }
        Ok(())
    }

    /// From now on also asks whether all that a user gets comes in the order of its numbers.
    pub(crate) fn expect_one_order(&mut self) {
        self.in_one_order = true;
    }

    fn behind(&self, tops: &HashMap<String, Position>) -> Vec<String> {
        self.oracle.behind(tops, |client| {
            let mut channels: Vec<String> = personal(&self.users[client]).collect();
            channels.push(BROADCAST.to_owned());
            channels
        })
    }

    async fn tops(&self) -> Result<HashMap<String, Position>> {
        let channels: Vec<Channel> =
            self.channels().iter().map(|name| Channel::parse(name)).collect::<Result<_, _>>()?;
        let feeds: Vec<Feed> = channels.iter().map(Feed::of).collect();
        let positions = position::read(&self.commands, &feeds).await?;
        let named = channels.iter().zip(positions);
        named.map(|(channel, at)| Ok((channel.to_string(), at?.of(channel.topic())))).collect()
    }

    fn see(&mut self, seen: Seen) {
        if seen.e == "pub" {
            self.seen += 1;
        }
        // Late enough that more follows on every channel: a loss then shows as a gap.
        let due = seen.e == "pub" && seen.offset.is_some() && self.seen > 3 * self.users.len() as u64 * 3;
        match self.plant {
            Some(Fault::Loss) if due => self.plant = None,
            Some(Fault::Misdelivery) if due && seen.channel.contains('#') => {
                self.plant = None;
                let c = (seen.c + 1) % self.users.len();
                self.take(&Seen { c, ..seen });
            }
            Some(Fault::Reordering) if due => match self.held.take() {
                None => self.held = Some(seen),
                Some(held) if held.c == seen.c && held.channel == seen.channel => {
                    self.plant = None;
                    self.take(&seen);
                    self.take(&held);
                }
                // Not the same channel: what was held goes first, and this one is held instead.
                Some(held) => {
                    self.take(&held);
                    self.held = Some(seen);
                }
            },
            _ => {
                if let Some(held) = self.held.take() {
                    self.take(&held);
                }
                self.take(&seen);
            }
        }
    }

    fn take(&mut self, seen: &Seen) {
        self.oracle.observe(seen);
        if self.in_one_order {
            self.oracle.in_one_order(seen);
        }
    }

    /// The end of a trial: what the oracle found, and what `more` found.
    pub(crate) fn outcome(mut self, told: String, mut more: Vec<String>) -> Outcome {
        self.oracle.verify();
        for (kind, count) in &self.oracle.findings.counts {
            more.push(format!("{count} × {kind}"));
        }
        more.extend(self.oracle.findings.examples);
        Outcome { told, wrong: more }
    }
}

fn personal(user: &str) -> impl Iterator<Item = String> {
    PERSONAL.iter().map(move |topic| format!("{topic}:#{user}"))
}
