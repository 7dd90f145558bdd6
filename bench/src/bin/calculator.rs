//! What a number of users needs. `cargo run --bin calculator -- --users 100000000 --online 0.1 --explain`

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use griot_bench::calculator::{Figures, Site, print};
use griot_bench::results::Results;

/// Bridges, Redis, bandwidth and the time to be well again after a failover, for so many users in four regions.
#[derive(Parser)]
#[command(name = "calculator")]
struct Cli {
    #[command(flatten)]
    site: Site,
    /// What `bench` measured; figures that it lacks are assumed, and said to be
    #[arg(long, default_value = "target/bench/results.json")]
    results: PathBuf,
    /// Print each formula below its line
    #[arg(long)]
    explain: bool,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    cli.site.check().context("these numbers describe no site")?;
    let figures = Figures::measured(&Results::read(&cli.results)?);
    println!("{}", print(&cli.site.plans(&figures), &figures, cli.explain).trim_end());
    Ok(())
}
