//! The subscriber-bridge's command line.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::{Parser, Subcommand};
use fanout_core::{Shutdown, UserId, config, telemetry};
use subscriber_bridge::{Bridge, Config};

/// By measurement: of 65,000 connections, at most 15,000 at a time, glibc's own kept 193 MB when all were closed, jemalloc
/// 73 MB, and this one 45 MB without huge pages. Its version 3 gives back after a second, and only while something is
/// allocated; version 2 after a tenth of that (4.0 instead of 4.4 KB of each idle connection).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Holds the browsers' sockets and fans Redis out to them.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The configuration file; without one, defaults and the environment count.
    #[arg(long, env = "GRIOT_CONFIG")]
    config: Option<PathBuf>,
    /// Check the configuration and exit.
    #[arg(long)]
    check_config: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print a connection token for a user, as your backend would sign it.
    Token {
        /// The user's id.
        #[arg(long)]
        user: String,
        /// Seconds until it expires.
        #[arg(long, default_value_t = 3600)]
        ttl: u64,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match prepare(&arguments) {
        Ok(Some(config)) => {
            let grace = Duration::from_secs(config.subscriber_bridge.grace_seconds);
            fanout_core::run("subscriber-bridge", grace, |shutdown| serve(config, shutdown))
        }
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("subscriber-bridge: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Everything that needs no runtime; `None` when the command is done.
fn prepare(arguments: &Arguments) -> anyhow::Result<Option<Config>> {
    let config: Config = config::load(arguments.config.as_deref(), std::env::vars())?;
    if let Some(Command::Token { user, ttl }) = &arguments.command {
        let tokens = subscriber_bridge::tokens(&config.subscriber_bridge)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
        println!("{}", tokens.sign(&UserId::parse(user)?, now.as_secs(), *ttl)?);
        return Ok(None);
    }
    if arguments.check_config {
        subscriber_bridge::check(&config)?;
        println!("the configuration is valid");
        return Ok(None);
    }
    telemetry::start(&config.log)?;
    Ok(Some(config))
}

async fn serve(config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    let bridge = Bridge::bind(config).await?;
    let browsers: Vec<String> = bridge.local_addrs()?.iter().map(ToString::to_string).collect();
    tracing::info!(browsers = browsers.join(","), operators = %bridge.admin_addr()?, "subscriber-bridge is listening");
    Ok(bridge.run(shutdown).await?)
}
