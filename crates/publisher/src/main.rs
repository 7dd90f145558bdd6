//! The publisher's command line.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use fanout_core::publisher::Once;
use fanout_core::{Channel, Data, Publication, Redis, Shutdown, Topics, config, telemetry};
use publisher::intake::{self, Options};
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
    /// Publish straight to Redis: one publication, of which public id and position are printed, or with --stdin many.
    Send(Send),
}

#[derive(Debug, Args)]
struct Send {
    /// The channel, for example orders:#42.
    #[arg(required_unless_present = "stdin")]
    channel: Option<String>,
    /// Any JSON value.
    #[arg(required_unless_present = "stdin")]
    json: Option<String>,
    /// The same key on the same channel publishes once.
    #[arg(long)]
    idempotency_key: Option<String>,
    /// On conflated topics, replaces an older unsent publication with the same key.
    #[arg(long)]
    conflation_key: Option<String>,
    /// Publish lines of JSON, each in the shape of the body of /api/publish: {"channel": "orders:#42", "data": …}.
    #[arg(long, conflicts_with_all = ["channel", "json", "idempotency_key", "conflation_key"])]
    stdin: bool,
    /// With --stdin: print a line per publication too.
    #[arg(long, requires = "stdin", conflicts_with_all = ["channel", "json"])]
    print: bool,
    /// With --stdin: seconds that Redis may be away or full before it ends.
    #[arg(
        long,
        requires = "stdin",
        conflicts_with_all = ["channel", "json"],
        value_name = "SECONDS",
        default_value_t = 30
    )]
    patience: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match prepare(&arguments) {
        Ok(Some(config)) => {
            let grace = Duration::from_secs(config.publisher.grace_seconds);
            let command = arguments.command;
            fanout_core::run("publisher", grace, |shutdown| async move {
                match command {
                    Some(Command::Send(send)) if send.stdin => send_lines(config, &send, shutdown).await,
                    Some(Command::Send(send)) => send_one(config, send).await,
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

async fn send_lines(config: Config, send: &Send, shutdown: Shutdown) -> anyhow::Result<()> {
    let options = Options { print: send.print, patience: Duration::from_secs(send.patience) };
    let report = intake::run(config, options, shutdown).await?;
    eprint!("{report}");
    anyhow::ensure!(report.is_complete(), "not every line was published");
    Ok(())
}

async fn send_one(config: Config, send: Send) -> anyhow::Result<()> {
    let (channel, json) = (send.channel.unwrap_or_default(), send.json.unwrap_or_default());
    let topics = Topics::new(config.topics, config.default_topic).map_err(anyhow::Error::msg)?;
    let mut publication = Publication::new(Channel::parse(&channel)?, Data::parse(json)?);
    publication.conflation_key = send.conflation_key;
    publication.once = send.idempotency_key.map_or(Once::No, Once::Key);
    let id = publication.id;
    let redis = Redis::connect(&config.redis)?;
    redis.check_deployment().await.with_context(|| format!("nothing was published to {channel}"))?;
    let receipt = fanout_core::Publisher::new(redis.clone(), topics).publish(publication).await;
    let receipt = receipt.map_err(|error| {
        let outcome = if error.is_unpublished() { "nothing was published to" } else { "it may have been published to" };
        anyhow::Error::new(error).context(format!("{outcome} {channel}"))
    })?;
    redis.quit().await;
    println!("{}", intake::receipt_line(id, receipt));
    Ok(())
}
