//! A bridge alone, for tests of the event path that need no PostgreSQL.

use std::net::SocketAddr;

use anyhow::Result;
use fanout_core::{Publisher, RedisConfig, Topics};

use crate::client::Client;
use crate::http;
use crate::process::{Launch, Worker};
use crate::servers::free_addr;
use crate::stage::TOPICS;
use crate::token;

/// The secret of every bridge that tests start.
pub const SECRET: &str = "a secret that only tests have, 32 bytes and more";

/// A bridge as a process of its own. It ends with this value.
#[derive(Debug)]
pub struct LoneBridge {
    /// The process.
    pub process: Worker,
    addr: SocketAddr,
    admin: SocketAddr,
    config: String,
}

impl LoneBridge {
    /// Starts a bridge on the Redis at `redis`, with the shop's topics; `settings` are lines of `[subscriber_bridge]`.
    pub async fn start(redis: &str, settings: &str) -> Result<Self> {
        Self::start_with(TOPICS, redis, settings).await
    }

    /// Starts a bridge with other `topics`, in TOML.
    pub async fn start_with(topics: &str, redis: &str, settings: &str) -> Result<Self> {
        let (addr, admin) = (free_addr()?, free_addr()?);
        let config = format!(
            "{topics}\n[redis]\nurl = {redis:?}\n[subscriber_bridge]\nlisten = \"{addr}\"\nadmin_listen = \"{admin}\"\n\
             token_secret = {SECRET:?}\n{settings}\n"
        );
        let process = Self::launch(&config, admin).await?;
        Ok(Self { process, addr, admin, config })
    }

    /// Starts it again where it was, after it was stopped or killed.
    pub async fn start_again(&mut self) -> Result<()> {
        self.process = Self::launch(&self.config, self.admin).await?;
        Ok(())
    }

    async fn launch(config: &str, admin: SocketAddr) -> Result<Worker> {
        Launch::new("subscriber-bridge").config(config).ready_at(admin).start().await
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The address for clients of the protocol.
    pub fn socket(&self) -> String {
        format!("ws://{}/connection/websocket", self.addr)
    }

    /// A client that is signed in as `user`, and the result of its connect.
    pub async fn client(&self, user: &str) -> Result<(Client, serde_json::Value)> {
        Client::connect(&self.socket(), &token::token(SECRET, user)).await
    }

    /// What `/readyz` answers: whether it is ready, and its words.
    pub async fn ready(&self) -> Result<(bool, String)> {
        let answer = http::get(self.admin, "/readyz").await?;
        Ok((answer.status == 200, answer.body))
    }

    /// The value of a metric, as it stands in a line of `/metrics`: `griot_connections`, or with its labels.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        http::metric(self.admin, name).await
    }
}

/// The library publisher on the Redis at `url`, with the shop's topics.
///
/// # Errors
/// When `url` is not one.
pub fn publisher(url: &str) -> Result<Publisher> {
    publisher_with(RedisConfig { url: url.to_owned(), ..RedisConfig::default() })
}

/// The library publisher with all settings, and the shop's topics.
///
/// # Errors
/// When the settings cannot work.
pub fn publisher_with(config: RedisConfig) -> Result<Publisher> {
    Ok(Publisher::new(fanout_core::Redis::connect(&config)?, topics(TOPICS)?))
}

/// Topics from TOML.
///
/// # Errors
/// When they are none.
pub fn topics(toml: &str) -> Result<Topics> {
    #[derive(serde::Deserialize)]
    struct File {
        topics: std::collections::BTreeMap<String, fanout_core::Topic>,
    }
    let file: File = fanout_core::config::parse(toml)?;
    Topics::new(Some(file.topics), None).map_err(anyhow::Error::msg)
}
