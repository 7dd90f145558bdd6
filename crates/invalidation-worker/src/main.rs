//! The invalidation-worker's command line.

mod commands;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use fanout_core::{Shutdown, config, telemetry};
use invalidation_worker::{Config, Region};

/// Applies the change log of PostgreSQL to the caches and browsers of one region.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The configuration file; without one, defaults and the environment count.
    #[arg(long, env = "GRIOT_CONFIG", global = true)]
    config: Option<PathBuf>,
    /// Check the configuration and exit.
    #[arg(long)]
    check_config: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create or bring up to date the schema `griot`.
    Migrate,
    /// Look after the rules that say what a row change means.
    #[command(subcommand)]
    Rules(RulesCommand),
    /// Print how far each region has applied the change log.
    Status,
}

#[derive(Debug, Subcommand)]
enum RulesCommand {
    /// Check a file, and against the database where one is configured.
    Check {
        /// The file of rules.
        file: PathBuf,
    },
    /// Make the database's triggers those that the file asks for.
    Apply {
        /// The file of rules.
        file: PathBuf,
        /// Milliseconds that writers of a table may have to wait.
        #[arg(long, default_value_t = 2_000)]
        lock_timeout_ms: u64,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let prepared = config::load::<Config>(arguments.config.as_deref(), std::env::vars()).and_then(|config| {
        if arguments.command.is_none() && !arguments.check_config {
            telemetry::start(&config.log)?;
        }
        Ok(config)
    });
    match prepared {
        Ok(config) => {
            let grace = Duration::from_secs(config.invalidation_worker.grace_seconds);
            fanout_core::run("invalidation-worker", grace, |shutdown| async move {
                match arguments.command {
                    Some(Command::Migrate) => commands::migrate(&config).await,
                    Some(Command::Rules(RulesCommand::Check { file })) => commands::check(&config, &file).await,
                    Some(Command::Rules(RulesCommand::Apply { file, lock_timeout_ms })) => {
                        commands::apply(&config, &file, Duration::from_millis(lock_timeout_ms)).await
                    }
                    Some(Command::Status) => commands::status(&config).await,
                    None if arguments.check_config => commands::check_config(&config),
                    None => Box::pin(serve(config, shutdown)).await,
                }
            })
        }
        Err(error) => {
            eprintln!("invalidation-worker: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    let region = Region::bind(config).await?;
    tracing::info!(operators = %region.admin_addr()?, "invalidation-worker is listening");
    Ok(region.run(shutdown).await?)
}
