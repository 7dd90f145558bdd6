//! `just soak MINUTES`: trials, chosen and sized at random, for as long as asked; then a verdict.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::{Parser, ValueEnum};
use fanout_core::Shutdown;
use griot_tests::fresh::{Tally, Variant, measure};
use griot_tests::trial::{self, Fault, Faults, Outcome, Size, Storm};

/// Runs trials at random and ends with a verdict: exit code 0 when nothing was wrong.
#[derive(Debug, Parser)]
struct Arguments {
    /// Minutes to go on; the trial that is then under way is finished, and there is one at least.
    #[arg(default_value_t = 30)]
    minutes: u64,
    /// Chooses the same trials again.
    #[arg(long)]
    seed: Option<u64>,
    /// Plant a fault into each trial, which it must find: the verdict is then a failure. Trials that could not find it
    /// are left out.
    #[arg(long, value_enum)]
    plant: Option<Fault>,
    /// Only these trials; all when nothing is said.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Kind>,
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
    let asked = |kind: &Kind| arguments.only.is_empty() || arguments.only.contains(kind);
    let kinds: Vec<Kind> =
        Kind::value_variants().iter().copied().filter(|kind| asked(kind) && kind.finds(arguments.plant)).collect();
    let mut passed: BTreeMap<Kind, usize> = BTreeMap::new();
    let mut failed: BTreeMap<Kind, usize> = BTreeMap::new();
    println!("soak: {} minutes, seed {seed}", arguments.minutes);
    loop {
        let Some(&kind) = random.choice(&kinds) else {
            eprintln!("soak: none of the trials asked for could find that fault");
            return ExitCode::FAILURE;
        };
        let (told, wrong) = match kind.run(&mut random, arguments.plant).await {
            Ok(Outcome { told, wrong }) => (told, wrong),
            Err(error) => (kind.name().to_owned(), vec![format!("the trial did not come to an end: {error:#}")]),
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
    for kind in kinds {
        let count = |of: &BTreeMap<Kind, usize>| of.get(&kind).copied().unwrap_or(0);
        println!("{:24}  {:6}  {:6}", kind.name(), count(&passed), count(&failed));
    }
    let minutes = begun.elapsed().as_secs_f64() / 60.0;
    if failed.is_empty() {
        println!(
            "verdict: passed. {total} trials in {minutes:.1} minutes, seed {seed}: nothing lost, misdelivered, out of \
             order or stale."
        );
        ExitCode::SUCCESS
    } else {
        let failures: usize = failed.values().sum();
        println!("verdict: FAILED. {failures} of {total} trials in {minutes:.1} minutes, seed {seed}.");
        ExitCode::FAILURE
    }
}

/// What a trial breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Kind {
    Cut,
    Stalled,
    Restarted,
    Emptied,
    BridgeKilled,
    Promoted,
    WorkersKilled,
    RedisLost,
    PostgresKilled,
    PostgresLost,
    Undone,
    Fresh,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Cut => "link cut",
            Self::Stalled => "link stalled",
            Self::Restarted => "Redis restarted",
            Self::Emptied => "Redis restarted empty",
            Self::BridgeKilled => "bridge killed",
            Self::Promoted => "replica promoted",
            Self::WorkersKilled => "storm: workers",
            Self::RedisLost => "storm: worker and Redis",
            Self::PostgresKilled => "storm: PostgreSQL",
            Self::PostgresLost => "storm: standby promoted",
            Self::Undone => "deletion undone",
            Self::Fresh => "fresh on push",
        }
    }

    /// The storm that this trial is, if it is one.
    fn faults(self) -> Option<Faults> {
        match self {
            Self::WorkersKilled => Some(Faults::Workers),
            Self::RedisLost => Some(Faults::Redis),
            Self::PostgresKilled => Some(Faults::Postgres),
            Self::PostgresLost => Some(Faults::Standby),
            _ => None,
        }
    }

    /// Whether it looks at caches only.
    fn is_of_caches(self) -> bool {
        matches!(self, Self::Undone | Self::Fresh)
    }

    /// Whether this trial looks at what the fault spoils.
    fn finds(self, plant: Option<Fault>) -> bool {
        match plant {
            None => true,
            Some(Fault::Loss) => !self.is_of_caches(),
            Some(Fault::Misdelivery | Fault::Reordering) => !self.is_of_caches() && self.faults().is_none(),
            Some(Fault::Stale) => self.is_of_caches() || self.faults().is_some(),
        }
    }

    async fn run(self, random: &mut fastrand::Rng, plant: Option<Fault>) -> Result<Outcome> {
        if let Some(faults) = self.faults() {
            let (seed, commits) = (random.u64(..1_000_000), random.u64(200..=4_000));
            let (kills, hold) = (random.usize(1..=8), Duration::from_secs(random.u64(1..=60)));
            return trial::storm(Storm { seed, commits, kills, hold, faults, plant }).await;
        }
        let size = size(self, random, plant);
        match self {
            Self::Cut => trial::cut(size, false).await,
            Self::Stalled => trial::cut(size, true).await,
            Self::Restarted => trial::restart(size, true).await,
            Self::Emptied => trial::restart(size, false).await,
            Self::BridgeKilled => trial::crash(size).await,
            Self::Fresh => fresh(random.usize(200..=2_000), plant).await,
            Self::Undone => trial::undone(random.u32(1..=2_000), plant).await,
            _ => trial::promotion(size).await,
        }
    }
}

/// Pages that ask again when they are told; the fault that can be planted is readers without leases.
async fn fresh(commits: usize, plant: Option<Fault>) -> Result<Outcome> {
    let variant = if plant.is_some() { Variant::WithoutLeases } else { Variant::Promised };
    let Tally { refetches, violations, reads, loads, .. } = measure(variant, commits).await?;
    let told = format!(
        "{commits} commits, {refetches} pages asked again on the push beside 16 readers: {violations} given a value from \
         before; {reads} reads, {loads} of them from the database"
    );
    let mut wrong = Vec::new();
    if violations > 0 {
        wrong.push(format!("{violations} pages were given a value from before the commit that they were told of"));
    }
    if refetches != commits {
        wrong.push(format!("{refetches} pages asked again after {commits} commits"));
    }
    Ok(Outcome { told, wrong })
}

fn size(kind: Kind, random: &mut fastrand::Rng, plant: Option<Fault>) -> Size {
    let clients = match kind {
        Kind::BridgeKilled => random.usize(200..=1_000),
        Kind::Cut | Kind::Stalled => random.usize(5..=300),
        _ => random.usize(20..=120),
    };
    // At least one publication for each channel, and no more than a history keeps.
    let channels = 3 * clients as u64 + 1;
    let publications = random.u64(channels..=(channels * 200).clamp(channels, 4_000));
    let outage = Duration::from_millis(random.u64(500..=10_000));
    Size { clients, publications, outage, telling_window: random.u32(2..=6), plant }
}
