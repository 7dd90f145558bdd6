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
    /// Say what each table's rules do, and whether the installed triggers are those of the file.
    Show {
        /// The file of rules; without one, the configured file.
        file: Option<PathBuf>,
    },
    /// Run a statement, print what it would invalidate and publish, and take it back.
    DryRun {
        /// The file of rules.
        file: PathBuf,
        /// One statement: insert, update, delete, merge, truncate, select, with or call.
        statement: String,
        /// Milliseconds to wait for a lock.
        #[arg(long, default_value_t = 2_000)]
        lock_timeout_ms: u64,
        /// Milliseconds that the statement may take. Its locks are held as long.
        #[arg(long, default_value_t = 10_000)]
        statement_timeout_ms: u64,
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
                    Some(Command::Rules(command)) => rules(&config, command).await,
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

async fn rules(config: &Config, command: RulesCommand) -> anyhow::Result<()> {
    use commands::rules::{apply, check, dry_run, show};
    let ms = Duration::from_millis;
    match command {
        RulesCommand::Check { file } => check(config, &file).await,
        RulesCommand::Apply { file, lock_timeout_ms } => apply(config, &file, ms(lock_timeout_ms)).await,
        RulesCommand::Show { file } => show(config, file).await,
        RulesCommand::DryRun { file, statement, lock_timeout_ms, statement_timeout_ms } => {
            dry_run(config, &file, &statement, ms(lock_timeout_ms), ms(statement_timeout_ms)).await
        }
    }
}

async fn serve(config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    let region = Region::bind(config).await?;
    tracing::info!(operators = %region.admin_addr()?, "invalidation-worker is listening");
    Ok(region.run(shutdown).await?)
}
