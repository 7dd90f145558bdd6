//! The command line of all three workers in one process.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use fanout_core::{Shutdown, telemetry};
use griot::{Config, Griot};

/// As in the subscriber-bridge, which takes the most of it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Subscriber-bridge, publisher and, where a database is configured, invalidation-worker, on one port.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The configuration file, with the sections of all workers; without one, defaults and the environment count.
    #[arg(long, env = "GRIOT_CONFIG")]
    config: Option<PathBuf>,
    /// Check the configuration and exit.
    #[arg(long)]
    check_config: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match prepare(&arguments) {
        Ok(config) => fanout_core::run("griot", config.grace(), |shutdown| async move {
            if arguments.check_config { check(&config) } else { Box::pin(serve(config, shutdown)).await }
        }),
        Err(error) => {
            eprintln!("griot: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn prepare(arguments: &Arguments) -> anyhow::Result<Config> {
    let environment: Vec<_> = std::env::vars().collect();
    let config = Config::load(arguments.config.as_deref(), &environment)?;
    if !arguments.check_config {
        telemetry::start(config.log())?;
    }
    Ok(config)
}

fn check(config: &Config) -> anyhow::Result<()> {
    config.check()?;
    println!("the configuration is valid");
    Ok(())
}

async fn serve(config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    let griot = Griot::bind(config, &shutdown).await?;
    tracing::info!(addresses = ?griot.local_addrs()?, "griot is listening");
    if !griot.applies_the_change_log() {
        tracing::info!("no database is configured: nothing is invalidated, and nothing is published from SQL");
    }
    Ok(griot.run(shutdown).await?)
}
