//! The demo: a small shop on top of Griot, with everything real and private.
//!
//! `demo` runs it with its storefront, `demo --check` sends publications over every path and compares what arrives,
//! `demo watch --user 42` prints what user 42 receives from a demo that runs.

mod caches;
mod check;
mod facts;
mod shop;
mod status;
mod storefront;
mod subscriber;
mod watch;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use fanout_core::Shutdown;
use griot_tests::stage::{Script, Stage};
use tokio::io::AsyncReadExt;

use crate::caches::Caches;
use crate::facts::Facts;

/// Starts Griot with private servers and a simulated shop.
#[derive(Debug, Parser)]
struct Arguments {
    /// Send publications over every path, compare what arrives, print a table and exit.
    #[arg(long)]
    check: bool,
    /// With --check: plant a fault, which the check must find.
    #[arg(long = "break", value_enum, requires = "check")]
    fault: Option<check::Fault>,
    /// With --check: publications per path.
    #[arg(long, default_value_t = 2_000, requires = "check")]
    count: usize,
    /// Print one line of JSON when ready, and end with standard input. For programs.
    #[arg(long)]
    print_json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print what a user receives from the demo that runs.
    Watch {
        /// The user's id.
        #[arg(long, default_value = "42")]
        user: String,
        /// End after so many publications.
        #[arg(long)]
        count: Option<usize>,
    },
    /// Receive for the check; the check starts it.
    #[command(hide = true)]
    Subscribe,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    let ended = runtime.block_on(run(arguments));
    // A read of standard input that is still under way must not keep the process.
    runtime.shutdown_background();
    ended.unwrap_or_else(|error| failed(&error))
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("demo: {error:#}");
    ExitCode::FAILURE
}

async fn run(arguments: Arguments) -> Result<ExitCode> {
    match arguments.command {
        Some(Command::Watch { user, count }) => watch::run(&user, count).await,
        Some(Command::Subscribe) => subscriber::run().await.map(|()| ExitCode::SUCCESS),
        None if arguments.check => {
            tokio::select! {
                biased;
                signal = Shutdown::signal() => {
                    eprintln!("demo: stopped by {}", signal?);
                    Ok(ExitCode::FAILURE)
                }
                outcome = check::run(arguments.count, arguments.fault) => outcome,
            }
        }
        None => show(arguments.print_json).await,
    }
}

/// The demo with its storefront, until it is told to end.
async fn show(print_json: bool) -> Result<ExitCode> {
    let shutdown = Shutdown::new();
    let (listener, storefront) = storefront::bind(print_json).await?;
    let stage = tokio::select! {
        biased;
        signal = Shutdown::signal() => {
            eprintln!("demo: stopped by {}", signal?);
            return Ok(ExitCode::FAILURE);
        }
        stage = Stage::start(Script { origins: vec![storefront.clone()], ..Script::default() }) => stage?,
    };
    let stage = Arc::new(stage);
    let facts = Facts::of(&stage, &storefront).await;
    let caches = Arc::new(Caches::open(&stage)?);
    shutdown.spawn(storefront::serve(listener, Arc::clone(&stage), Arc::clone(&caches), shutdown.clone()));
    shutdown.spawn(shop::run(Arc::clone(&stage), caches, shutdown.clone()));
    shutdown.spawn(revive(Arc::clone(&stage), shutdown.clone()));
    if print_json {
        println!("{}", serde_json::to_string(&facts)?);
        let (mut input, mut nothing) = (tokio::io::stdin(), Vec::new());
        tokio::select! {
            _ = input.read_to_end(&mut nothing) => {}
            signal = Shutdown::signal() => drop(signal?),
        }
    } else {
        let _written = facts.write()?;
        facts.show();
        tokio::select! {
            signal = Shutdown::signal() => drop(signal?),
            () = status::run(&stage) => {}
        }
        println!("\nstopping the servers");
    }
    shutdown.drain(Duration::from_secs(10)).await;
    Ok(ExitCode::SUCCESS)
}

/// A bridge that ended is started again after a moment, long enough for the page to show that it is gone.
async fn revive(stage: Arc<Stage>, shutdown: Shutdown) {
    while shutdown.pause(Duration::from_millis(500)).await {
        if stage.bridge_ended().await
            && shutdown.pause(Duration::from_secs(3)).await
            && let Err(error) = stage.revive_bridge().await
        {
            eprintln!("demo: the bridge did not start again: {error:#}");
        }
    }
}
