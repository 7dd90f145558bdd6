//! `just hostile`: what hostile clients cost the others. Well-behaved clients receive paced publications; rounds without an
//! attack, once more without, and under it alternate, and the p99 of publish → client is compared.

mod attack;

use std::process::{ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use fanout_core::{Channel, Data, Publication, Publisher};
use futures::StreamExt;
use griot_tests::bridge::{LoneBridge, SECRET, publisher};
use griot_tests::client::{Socket, open};
use griot_tests::eventually::eventually;
use griot_tests::servers::Redis;
use griot_tests::token;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::{Instant, interval};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::task::TaskTracker;

/// Well-behaved clients.
const CLIENTS: usize = 100;
/// Publications per second, to one of them each.
const RATE: u64 = 500;
const ROUND: Duration = Duration::from_secs(6);

/// Measures what hostile clients cost the others.
#[derive(Debug, Parser)]
struct Arguments {
    /// Rounds of each kind.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Be hostile to the bridge at this address until standard input ends; the measurement starts it.
    #[command(hide = true)]
    Attack { socket: String },
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.command {
        Some(Command::Attack { socket }) => attack::run(socket).await,
        None => measure(arguments.rounds).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hostile: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(rounds: usize) -> Result<()> {
    let redis = Redis::start().await?;
    let bridge = LoneBridge::start(&redis.url(), "stale_seconds = 3").await?;
    let publisher = publisher(&redis.url())?;
    let latencies: Arc<Mutex<Vec<u64>>> = Arc::default();
    let tasks = TaskTracker::new();
    for user in 0..CLIENTS {
        let mut socket = open(&bridge.socket(), &[]).await?;
        let connect = json!({"id": 1, "connect": {"token": token::token(SECRET, &format!("u{user}"))}});
        futures::SinkExt::send(&mut socket, Message::text(connect.to_string())).await?;
        tasks.spawn(receive(socket, Arc::clone(&latencies)));
    }
    let mut p99s: [Vec<u64>; 3] = Default::default();
    println!("round   quiet  quiet again  under attack   p99 of publish → client in µs");
    for round in 1..=rounds {
        // In turn, so that a drift of the machine meets all kinds.
        for kind in [0, 1, 2].map(|kind| (kind + round) % 3) {
            let attack = if kind == 2 { Some(Attack::start(&bridge).await?) } else { None };
            p99s[kind].push(one_round(&publisher, &latencies).await?);
            if let Some(attack) = attack {
                attack.end(&bridge).await?;
            }
        }
        let last = |kind: usize| p99s[kind].last().copied().unwrap_or(0);
        println!("{round:5}  {:6}  {:11}  {:12}", last(0), last(1), last(2));
    }
    let ratio = |kind: usize| {
        let ratios = p99s[kind].iter().zip(&p99s[0]).map(|(one, quiet)| *one as f64 / *quiet as f64);
        let mut ratios: Vec<f64> = ratios.collect();
        ratios.sort_by(f64::total_cmp);
        ratios[ratios.len() / 2]
    };
    println!("median of the ratios to quiet: quiet again {:.2}, under attack {:.2}", ratio(1), ratio(2));
    Ok(())
}

/// The attack as a process of its own, with the lowest priority: its own work must not be measured.
struct Attack(tokio::process::Child);

impl Attack {
    async fn start(bridge: &LoneBridge) -> Result<Self> {
        let mut child = tokio::process::Command::new("nice")
            .args(["-n", "19"])
            .arg(std::env::current_exe()?)
            .args(["attack", &bridge.socket()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("standard output is piped")?).lines();
        ensure!(lines.next_line().await?.as_deref() == Some("attacking"), "the attack did not begin");
        Ok(Self(child))
    }

    /// Ends it, and waits until the bridge has none of its connections left.
    async fn end(mut self, bridge: &LoneBridge) -> Result<()> {
        drop(self.0.stdin.take());
        self.0.wait().await?;
        eventually(Duration::from_secs(30), "the connections of the attack are gone", || async {
            bridge.metric("griot_connections").await.is_ok_and(|open| open <= CLIENTS as f64)
        })
        .await;
        Ok(())
    }
}

/// Publishes at the rate for one round; returns the p99 of publish → client in microseconds.
async fn one_round(publisher: &Publisher, latencies: &Mutex<Vec<u64>>) -> Result<u64> {
    latencies.lock().unwrap_or_else(PoisonError::into_inner).clear();
    let mut pace = interval(Duration::from_secs(1) / u32::try_from(RATE)?);
    let begun = Instant::now();
    let mut sent = 0;
    while begun.elapsed() < ROUND {
        let offered = pace.tick().await;
        let channel = format!("orders:#u{}", fastrand::usize(..CLIENTS));
        // Counted from the moment at which it was due.
        let data = (micros() - u64::try_from(offered.elapsed().as_micros())?).to_string();
        publisher.publish(Publication::new(Channel::parse(&channel)?, Data::parse(data)?)).await?;
        sent += 1;
    }
    let arrived = || latencies.lock().unwrap_or_else(PoisonError::into_inner).len();
    eventually(Duration::from_secs(10), "all publications arrived", async || arrived() >= sent).await;
    let mut all = latencies.lock().unwrap_or_else(PoisonError::into_inner);
    all.sort_unstable();
    Ok(all[all.len() * 99 / 100])
}

async fn receive(mut socket: Socket, latencies: Arc<Mutex<Vec<u64>>>) {
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else { continue };
        for line in text.split('\n') {
            if line == "{}" {
                let _ = futures::SinkExt::send(&mut socket, Message::text("{}")).await;
            }
            let published =
                serde_json::from_str::<Value>(line).ok().and_then(|push| push["push"]["pub"]["data"].as_u64());
            if let Some(published) = published {
                latencies.lock().unwrap_or_else(PoisonError::into_inner).push(micros().saturating_sub(published));
            }
        }
    }
}

fn micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(0))
}
