//! `just soak MINUTES`: trials of the event path, chosen and sized at random, for as long as asked; then a verdict.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use fanout_core::Shutdown;
use griot_tests::trial::{self, Fault, Outcome, Size};

/// Runs trials of the event path at random and ends with a verdict: exit code 0 when nothing was wrong.
#[derive(Debug, Parser)]
struct Arguments {
    /// Minutes to go on; the trial that is then under way is finished, and there is one at least.
    #[arg(default_value_t = 30)]
    minutes: u64,
    /// Chooses the same trials again.
    #[arg(long)]
    seed: Option<u64>,
    /// Plant a fault into each trial, which it must find: the verdict is then a failure.
    #[arg(long, value_enum)]
    plant: Option<Fault>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tokio::select! {
        biased;
        signal = Shutdown::signal() => {
            eprintln!("soak: stopped by {}", signal.unwrap_or("a signal that cannot be waited for"));
            ExitCode::FAILURE
        }
        verdict = soak(&arguments) => verdict,
    }
}

async fn soak(arguments: &Arguments) -> ExitCode {
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let mut random = fastrand::Rng::with_seed(seed);
    let begun = Instant::now();
    let end = Duration::from_secs(arguments.minutes * 60);
    let mut passed: BTreeMap<&str, usize> = BTreeMap::new();
    let mut failed: BTreeMap<&str, usize> = BTreeMap::new();
    println!("soak: {} minutes, seed {seed}", arguments.minutes);
    loop {
        let kind = KINDS[random.usize(..KINDS.len())];
        let size = size(kind, &mut random, arguments.plant);
        let (told, wrong) = match run(kind, size).await {
            Ok(Outcome { told, wrong }) => (told, wrong),
            Err(error) => (kind.to_owned(), vec![format!("the trial did not come to an end: {error:#}")]),
        };
        let seconds = begun.elapsed().as_secs();
        let good = wrong.is_empty();
        println!("{:3}:{:02}  {}  {told}", seconds / 60, seconds % 60, if good { "ok    " } else { "FAILED" });
        for wrong in wrong {
            println!("                - {wrong}");
        }
        *(if good { &mut passed } else { &mut failed }).entry(kind).or_default() += 1;
        if begun.elapsed() >= end {
            break;
        }
    }
    let total: usize = passed.values().chain(failed.values()).sum();
    println!("\ntrial                     passed  failed");
    for kind in KINDS {
        let count = |of: &BTreeMap<&str, usize>| of.get(kind).copied().unwrap_or(0);
        println!("{kind:24}  {:6}  {:6}", count(&passed), count(&failed));
    }
    let minutes = begun.elapsed().as_secs_f64() / 60.0;
    if failed.is_empty() {
        println!(
            "verdict: passed. {total} trials in {minutes:.1} minutes, seed {seed}: nothing lost, misdelivered or out of order."
        );
        ExitCode::SUCCESS
    } else {
        let failures: usize = failed.values().sum();
        println!("verdict: FAILED. {failures} of {total} trials in {minutes:.1} minutes, seed {seed}.");
        ExitCode::FAILURE
    }
}

const CUT: &str = "link cut";
const STALLED: &str = "link stalled";
const RESTARTED: &str = "Redis restarted";
const EMPTIED: &str = "Redis restarted empty";
const KILLED: &str = "bridge killed";
const PROMOTED: &str = "replica promoted";
const KINDS: [&str; 6] = [CUT, STALLED, RESTARTED, EMPTIED, KILLED, PROMOTED];

async fn run(kind: &str, size: Size) -> Result<Outcome> {
    match kind {
        CUT => trial::cut(size, false).await,
        STALLED => trial::cut(size, true).await,
        RESTARTED => trial::restart(size, true).await,
        EMPTIED => trial::restart(size, false).await,
        KILLED => trial::crash(size).await,
        _ => trial::promotion(size).await,
    }
}

fn size(kind: &str, random: &mut fastrand::Rng, plant: Option<Fault>) -> Size {
    let clients = match kind {
        KILLED => random.usize(200..=1_000),
        CUT | STALLED => random.usize(5..=300),
        _ => random.usize(20..=120),
    };
    // At least one publication for each channel, and no more than a history keeps.
    let channels = 3 * clients as u64 + 1;
    let publications = random.u64(channels..=(channels * 200).clamp(channels, 4_000));
    let outage = Duration::from_millis(random.u64(500..=10_000));
    Size { clients, publications, outage, telling_window: random.u32(2..=6), plant }
}
