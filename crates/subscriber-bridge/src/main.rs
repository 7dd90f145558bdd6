//! The subscriber-bridge's command line.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::{Parser, Subcommand};
use fanout_core::{Shutdown, UserId, config, telemetry};
use subscriber_bridge::{Bridge, Config};

/// glibc's own gives hardly anything back: of 65,000 connections, at most 15,000 at a time, 193 MB stayed when all were
/// closed. With jemalloc it was 73 MB; with this one and its huge pages 72 MB, without them 45 MB (with smaller tasks).
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
