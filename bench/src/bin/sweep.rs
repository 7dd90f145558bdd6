//! `just sweep`: what the removal of a pattern costs the others. 100,000 among a million keys go, by the worker's sweep and
//! by KEYS and DEL, while another client reads; its p99 and its longest wait are compared, in alternating rounds.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use fred::interfaces::KeysInterface;
use griot_tests::eventually::eventually;
use griot_tests::servers::Redis;
use griot_tests::stage::{Script, Stage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Keys that match, and keys in all.
const MATCHING: usize = 100_000;
const ALL: usize = 1_000_000;

/// Measures what the removal of a pattern costs other clients.
#[derive(Debug, Parser)]
struct Arguments {
    /// Rounds of each kind.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// What one round of a kind cost.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    p99: f64,
    worst: f64,
    seconds: f64,
}

#[tokio::main]
async fn main() -> ExitCode {
    match measure(Arguments::parse().rounds).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sweep: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(rounds: usize) -> Result<()> {
    let stage = Stage::start(Script::default()).await?;
    let redis = &stage.servers.redis;
    fill(redis, "other", ALL - MATCHING).await?;
    println!("                idle               KEYS + DEL                    sweep");
    println!("round    p99  worst      p99  worst   pass         p99  worst   pass      (ms, s)");
    let mut costs: [Vec<Cost>; 3] = Default::default();
    for round in 1..=rounds {
        costs[0].push(
            beside(redis, || async {
                tokio::time::sleep(Duration::from_secs(3)).await;
                Ok(())
            })
            .await?,
        );
        fill(redis, "search", MATCHING).await?;
        costs[1].push(beside(redis, || keys_and_del(redis)).await?);
        fill(redis, "search", MATCHING).await?;
        costs[2].push(beside(redis, || swept(&stage)).await?);
        let [idle, keys, sweep] = [0, 1, 2].map(|kind: usize| costs[kind][round - 1]);
        println!(
            "{round:5} {:6.2} {:6.1}   {:6.2} {:6.1} {:6.2}      {:6.2} {:6.1} {:6.2}",
            idle.p99, idle.worst, keys.p99, keys.worst, keys.seconds, sweep.p99, sweep.worst, sweep.seconds
        );
    }
    let median = |kind: usize, of: fn(&Cost) -> f64| {
        let mut all: Vec<f64> = costs[kind].iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    println!(
        "medians: worst stall of the sweep is 1/{:.0} of KEYS + DEL's, p99 {:.2} × idle, pass {:.1} s",
        median(1, |cost| cost.worst) / median(2, |cost| cost.worst),
        median(2, |cost| cost.p99) / median(0, |cost| cost.p99),
        median(2, |cost| cost.seconds),
    );
    Ok(())
}

/// Reads keys at a steady pace on a connection of its own while `work` is done.
async fn beside<F: Future<Output = Result<()>>>(redis: &Redis, work: impl FnOnce() -> F) -> Result<Cost> {
    let (stop, stopped) = watch::channel(false);
    let reading = read(redis, stopped);
    let working = async {
        let begun = Instant::now();
        work().await?;
        let seconds = begun.elapsed().as_secs_f64();
        stop.send_replace(true);
        anyhow::Ok(seconds)
    };
    let (mut waits, seconds) = tokio::try_join!(reading, working)?;
    waits.sort_by(f64::total_cmp);
    let worst = waits.last().copied().context("nothing was read")?;
    Ok(Cost { p99: waits[waits.len() * 99 / 100], worst, seconds })
}

/// Milliseconds of each GET, counted from when it was due.
async fn read(redis: &Redis, stopped: watch::Receiver<bool>) -> Result<Vec<f64>> {
    let mut stream = TcpStream::connect(redis.addr()).await?;
    stream.set_nodelay(true)?;
    let mut pace = interval(Duration::from_millis(1));
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut waits = Vec::new();
    let mut answer = [0; 256];
    while !*stopped.borrow() {
        let _ = pace.tick().await;
        let asked = Instant::now();
        let command = format!("GET other:{}\r\n", fastrand::usize(1..ALL - MATCHING));
        stream.write_all(command.as_bytes()).await?;
        let mut read = 0;
        while !answer[..read].ends_with(b"v\r\n") {
            read += stream.read(&mut answer[read..]).await?;
        }
        waits.push(asked.elapsed().as_secs_f64() * 1_000.0);
    }
    Ok(waits)
}

async fn fill(redis: &Redis, name: &str, count: usize) -> Result<()> {
    const STEP: usize = 50_000;
    for first in (1..=count).step_by(STEP) {
        let last = (first + STEP - 1).min(count);
        let script = format!("for i={first},{last} do redis.call('SET','{name}:'..i,string.rep('x',63)..'v') end");
        redis.ask(&format!("EVAL \"{script}\" 0")).await?;
    }
    Ok(())
}

/// As the shop did it before.
async fn keys_and_del(redis: &Redis) -> Result<()> {
    let keys: Vec<String> = redis.ask("KEYS search:*").await?.lines().map(str::to_owned).collect();
    let _: u64 = redis.client().await?.del(keys).await?;
    Ok(())
}

/// By the worker, after a commit that names the pattern.
async fn swept(stage: &Stage) -> Result<()> {
    sqlx::query("select griot.invalidate_pattern('search:*')").execute(stage.database.pool()).await?;
    let redis = &stage.servers.redis;
    eventually(Duration::from_secs(120), "the pattern is gone", || async {
        redis
            .ask("DBSIZE")
            .await
            .is_ok_and(|size| size.parse::<usize>().is_ok_and(|size| size < ALL - MATCHING + 1_000))
    })
    .await;
    Ok(())
}
