//! The publisher's command line.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use fanout_core::publisher::Once;
use fanout_core::{Channel, Data, Publication, Redis, Shutdown, Topics, config, telemetry};
use publisher::{Config, Server};

/// HTTP API and command line by which backends publish.
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
    /// Publish one publication straight to Redis and print its public id and position.
    Send {
        /// The channel, for example orders:#42.
        channel: String,
        /// Any JSON value.
        json: String,
        /// The same key on the same channel publishes once.
        #[arg(long)]
        idempotency_key: Option<String>,
        /// On conflated topics, replaces an older unsent publication with the same key.
        #[arg(long)]
        conflation_key: Option<String>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match prepare(&arguments) {
        Ok(Some(config)) => {
            let grace = Duration::from_secs(config.publisher.grace_seconds);
            let command = arguments.command;
            fanout_core::run("publisher", grace, |shutdown| async move {
                match command {
                    Some(command) => send(config, command).await,
                    None => serve(config, shutdown).await,
                }
            })
        }
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("publisher: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Everything that needs no runtime; `None` when the command is done.
fn prepare(arguments: &Arguments) -> anyhow::Result<Option<Config>> {
    let config: Config = config::load(arguments.config.as_deref(), std::env::vars())?;
    if arguments.check_config {
        publisher::check(&config)?;
        println!("the configuration is valid");
        return Ok(None);
    }
    if arguments.command.is_none() {
        telemetry::start(&config.log)?;
    }
    Ok(Some(config))
}

async fn serve(config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    let server = Server::bind(config).await?;
    tracing::info!(backends = %server.local_addr()?, operators = %server.admin_addr()?, "publisher is listening");
    Ok(server.run(shutdown).await?)
}

async fn send(config: Config, command: Command) -> anyhow::Result<()> {
    let Command::Send { channel, json, idempotency_key, conflation_key } = command;
    let topics = Topics::new(config.topics, config.default_topic).map_err(anyhow::Error::msg)?;
    let mut publication = Publication::new(Channel::parse(&channel)?, Data::parse(json)?);
    publication.conflation_key = conflation_key;
    publication.once = idempotency_key.map_or(Once::No, Once::Key);
    let id = publication.id;
    let redis = Redis::connect(&config.redis)?;
    redis.check_deployment().await.with_context(|| format!("nothing was published to {channel}"))?;
    let receipt = fanout_core::Publisher::new(redis.clone(), topics).publish(publication).await?;
    redis.quit().await;
    let repeated = if receipt.repeated { " repeated" } else { "" };
    match receipt.position {
        Some(position) => println!("{id} offset {} epoch {}{repeated}", position.offset, position.epoch),
        None => println!("{id}{repeated}"),
    }
    Ok(())
}
