//! A site for tests in other languages: a private Redis, a publisher and bridges, driven over stdin and told about on
//! stdout, one line of JSON each.
//!
//! ```text
//! site
//! > {"topics":"[topics.chat]\nnamed = true","bridges":["sse = true","ping_seconds = 2"],"publisher":""}
//! < {"redis":"redis://…","api":"http://…","api_key":"…","secret":"…","bridges":[{"http":"http://…","admin":"http://…"},…]}
//! > {"do":"kill","bridge":1}     SIGKILL; "stop" asks it to end, "start" brings it back where it was
//! > {"do":"restart-redis"}       with nothing of what it held
//! < {"done":true}                or {"failed":"why"}
//! ```
//!
//! Everything ends with stdin, and with this process in every case.

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use griot_tests::bridge::SECRET;
use griot_tests::process::{Launch, Worker};
use griot_tests::servers::{Redis, free_addr};
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader, Stdin};

/// The key of every publisher that a site has.
const API_KEY: &str = "a key that only tests have";

/// The first line.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Plan {
    /// `[topics.…]` and `[default_topic]`, in TOML.
    topics: String,
    /// Lines of `[subscriber_bridge]`, for each bridge.
    bridges: Vec<String>,
    /// Lines of `[publisher]`.
    #[serde(default)]
    publisher: String,
}

/// Every further line.
#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
enum Order {
    Kill { bridge: usize },
    Stop { bridge: usize },
    Start { bridge: usize },
    RestartRedis,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("site: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let first = lines.next_line().await?.context("no plan: give it as the first line of stdin")?;
    let plan: Plan = serde_json::from_str(&first).context("the first line is not a plan")?;
    let mut site = Site::start(&plan).await?;
    println!("{}", site.facts());
    site.obey(lines).await
}

struct Site {
    redis: Redis,
    api: SocketAddr,
    bridges: Vec<Bridge>,
    _publisher: Worker,
}

struct Bridge {
    addr: SocketAddr,
    admin: SocketAddr,
    config: String,
    worker: Worker,
}

impl Site {
    async fn start(plan: &Plan) -> Result<Self> {
        let redis = Redis::start().await?;
        let shared = format!("{}\n[redis]\nurl = {:?}\n", plan.topics, redis.url());
        let (api, admin) = (free_addr()?, free_addr()?);
        let config = format!(
            "{shared}[publisher]\nlisten = \"{api}\"\nadmin_listen = \"{admin}\"\napi_key = {API_KEY:?}\n{}\n",
            plan.publisher
        );
        let publisher = Launch::new("publisher").config(config).ready_at(admin).start().await?;
        let mut bridges = Vec::new();
        for settings in &plan.bridges {
            bridges.push(Bridge::start(&shared, settings).await?);
        }
        Ok(Self { redis, api, bridges, _publisher: publisher })
    }

    fn facts(&self) -> serde_json::Value {
        let bridge = |bridge: &Bridge| json!({"http": format!("http://{}", bridge.addr), "admin": format!("http://{}", bridge.admin)});
        json!({
            "redis": self.redis.url(),
            "api": format!("http://{}", self.api),
            "api_key": API_KEY,
            "secret": SECRET,
            "bridges": self.bridges.iter().map(bridge).collect::<Vec<_>>(),
        })
    }

    async fn obey(&mut self, mut lines: tokio::io::Lines<BufReader<Stdin>>) -> Result<()> {
        while let Some(line) = lines.next_line().await? {
            let told = match self.order(&line).await {
                Ok(()) => json!({ "done": true }),
                Err(error) => json!({ "failed": format!("{error:#}") }),
            };
            println!("{told}");
        }
        Ok(())
    }

    async fn order(&mut self, line: &str) -> Result<()> {
        match serde_json::from_str(line).with_context(|| format!("not an order: {line}"))? {
            Order::Kill { bridge } => self.bridge(bridge)?.worker.kill().await,
            Order::Stop { bridge } => self.bridge(bridge)?.worker.stop().await,
            Order::Start { bridge } => self.bridge(bridge)?.start_again().await,
            Order::RestartRedis => {
                self.redis.kill().await?;
                self.redis.start_again().await
            }
        }
    }

    fn bridge(&mut self, number: usize) -> Result<&mut Bridge> {
        let count = self.bridges.len();
        match self.bridges.get_mut(number) {
            Some(bridge) => Ok(bridge),
            None => bail!("there is no bridge {number} of {count}"),
        }
    }
}

impl Bridge {
    async fn start(shared: &str, settings: &str) -> Result<Self> {
        let (addr, admin) = (free_addr()?, free_addr()?);
        let config = format!(
            "{shared}[subscriber_bridge]\nlisten = \"{addr}\"\nadmin_listen = \"{admin}\"\ntoken_secret = {SECRET:?}\n\
             {settings}\n"
        );
        let worker = Launch::new("subscriber-bridge").config(config.clone()).ready_at(admin).start().await?;
        Ok(Self { addr, admin, config, worker })
    }

    async fn start_again(&mut self) -> Result<()> {
        let again = Launch::new("subscriber-bridge").config(self.config.clone()).ready_at(self.admin);
        self.worker = again.start().await?;
        Ok(())
    }
}
