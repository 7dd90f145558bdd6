//! `griot` on port 8000 for anybody, with a private Redis: what test suites of client libraries are pointed at. See
//! tests/config/anonymous.toml.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use fanout_core::Shutdown;
use griot_tests::process::{Launch, Worker};
use griot_tests::servers::Redis;
use serde::Deserialize;
use tokio::io::AsyncReadExt;

const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/anonymous.toml");

/// Starts griot for anybody on this machine, until interrupted.
#[derive(Debug, Parser)]
struct Arguments {
    /// Another port than 8000.
    #[arg(long)]
    port: Option<u16>,
    /// Print one line of JSON when ready, and end with standard input. For programs.
    #[arg(long)]
    print_json: bool,
}

/// What of the configuration is shown.
#[derive(Debug, Deserialize)]
struct Shown {
    subscriber_bridge: Bridge,
    publisher: Publisher,
}

#[derive(Debug, Deserialize)]
struct Bridge {
    listen: Vec<SocketAddr>,
    token_secret: String,
}

#[derive(Debug, Deserialize)]
struct Publisher {
    api_key: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        // Not a return: a read of standard input that is still under way would keep the runtime.
        Ok(()) => std::process::exit(0),
        Err(error) => {
            eprintln!("anonymous: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<()> {
    let started = tokio::select! {
        biased;
        signal = Shutdown::signal() => return signal.map(drop).context("signals"),
        started = start(arguments.port) => started,
    };
    let (shown, redis, griot) = started?;
    if arguments.print_json {
        let base: Vec<String> = shown.subscriber_bridge.listen.iter().map(|addr| format!("http://{addr}")).collect();
        println!("{}", serde_json::json!({ "http": base, "redis": redis.url() }));
    } else {
        show(&shown, &redis);
    }
    let mut nothing = Vec::new();
    tokio::select! {
        signal = Shutdown::signal() => drop(signal?),
        code = griot.ended() => anyhow::bail!("griot ended with code {}\n{}", code?, griot.output()),
        _ = async { tokio::io::stdin().read_to_end(&mut nothing).await }, if arguments.print_json => {}
    }
    griot.stop().await?;
    redis.stop().await
}

async fn start(port: Option<u16>) -> Result<(Shown, Redis, Worker)> {
    let text = std::fs::read_to_string(CONFIG).with_context(|| format!("reading {CONFIG}"))?;
    let mut shown: Shown = fanout_core::config::parse(&text)?;
    let redis = Redis::start().await?;
    let mut launch = Launch::new("griot").arg("--config").arg(Path::new(CONFIG).to_string_lossy());
    if let Some(port) = port {
        shown.subscriber_bridge.listen.iter_mut().for_each(|address| address.set_port(port));
        launch = launch.env("GRIOT_SUBSCRIBER_BRIDGE__LISTEN", format!("{:?}", texts(&shown.subscriber_bridge.listen)));
    }
    let first = *shown.subscriber_bridge.listen.first().context("the configuration names no address")?;
    let griot = launch.env("REDIS_URL", redis.url()).ready_at(first).start().await?;
    Ok((shown, redis, griot))
}

fn texts(addresses: &[SocketAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

fn show(shown: &Shown, redis: &Redis) {
    let Shown { subscriber_bridge: bridge, publisher } = shown;
    let base = bridge.listen.first().map_or_else(String::new, |address| format!("localhost:{}", address.port()));
    println!("\n  griot for anybody on this machine, at {}\n", texts(&bridge.listen).join(" and "));
    println!("  WebSocket    ws://{base}/connection/websocket        (JSON and protobuf)");
    println!("  streams      http://{base}/connection/http_stream    and /connection/sse, commands to /emulation");
    println!("  one-way      http://{base}/connection/uni_sse        uni_http_stream, uni_websocket");
    println!("  HTTP API     http://{base}/api/publish               X-API-Key: {}", publisher.api_key);
    println!("  metrics      http://{base}/metrics");
    println!("  Redis        {}", redis.url());
    println!("\n  Tokens are signed with HS256 and `{}`, and need not be sent.", bridge.token_secret);
    println!("  What is configured stands in tests/config/anonymous.toml. Ctrl-C ends griot and its Redis.\n");
}
