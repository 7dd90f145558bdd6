//! `just storm`: promise 3 in its long form. Processes are killed at random moments while eight writers write.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use fanout_core::Shutdown;
use griot_tests::trial::{Fault, Faults, Storm, storm};

/// Kills processes during commits, and says whether every commit had its effects and no rollback did.
#[derive(Debug, Parser)]
struct Arguments {
    /// What is killed; all of them, one storm after the other, when nothing is said.
    #[arg(value_enum)]
    faults: Vec<Faults>,
    /// Chooses the same moments again.
    #[arg(long)]
    seed: Option<u64>,
    /// Commits of each storm; at least.
    #[arg(long, default_value_t = 20_000)]
    commits: u64,
    /// How often each process is killed; a standby is promoted once.
    #[arg(long, default_value_t = 20)]
    kills: usize,
    /// Seconds for which a transaction stays open.
    #[arg(long, default_value_t = 60)]
    hold: u64,
    /// Plant a fault, which must be found: the verdict is then a failure.
    #[arg(long, value_enum)]
    plant: Option<Fault>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let ended = tokio::select! {
        biased;
        signal = Shutdown::signal() => {
            eprintln!("storm: stopped by {}", signal.unwrap_or("a signal that cannot be waited for"));
            return ExitCode::FAILURE;
        }
        ended = run(Arguments::parse()) => ended,
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("storm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<bool> {
    let Arguments { seed, commits, kills, hold, plant, faults } = arguments;
    let seed = seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let all = [Faults::Workers, Faults::Redis, Faults::Postgres, Faults::Standby];
    let mut good = true;
    for &faults in if faults.is_empty() { &all[..] } else { &faults } {
        let begun = Instant::now();
        println!("storm: {faults:?}, seed {seed}");
        let asked = Storm { seed, commits, kills, hold: Duration::from_secs(hold), faults, plant };
        let outcome = storm(asked).await?;
        println!("{}; {:.0} s in all", outcome.told, begun.elapsed().as_secs_f64());
        outcome.wrong.iter().for_each(|wrong| println!("  - {wrong}"));
        println!("verdict: {}", if outcome.wrong.is_empty() { "passed" } else { "FAILED" });
        good &= outcome.wrong.is_empty();
    }
    Ok(good)
}
