//! `just fresh [COMMITS]`: does a page that asks again on a push ever see the value from before? It must not; and it must
//! where the publication leaves before the deletion, and where readers fill without leases.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use griot_tests::fresh::{Variant, measure};

/// Counts the pages that asked again on a push and were given an old value.
#[derive(Debug, Parser)]
struct Arguments {
    /// Commits of each kind.
    #[arg(default_value_t = 10_000)]
    commits: usize,
}

const VARIANTS: [(Variant, &str); 3] = [
    (Variant::Promised, "delete, publish, leases"),
    (Variant::PublishedFirst, "publish, delete, leases"),
    (Variant::WithoutLeases, "delete, publish, no leases"),
];

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse().commits).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("fresh: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether old values were found where they must be, and nowhere else.
async fn run(commits: usize) -> Result<bool> {
    println!("variant                      commits  refetches  violations     reads     loads");
    let mut good = true;
    for (variant, name) in VARIANTS {
        let tally = measure(variant, commits).await?;
        println!(
            "{name:27}  {:7}  {:9}  {:10}  {:8}  {:8}",
            tally.commits, tally.refetches, tally.violations, tally.reads, tally.loads
        );
        good &= tally.refetches == commits && (tally.violations == 0) == (variant == Variant::Promised);
    }
    Ok(good)
}
