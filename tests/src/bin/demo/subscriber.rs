//! The receiving process of the check: holds the connections of some users and reports everything that arrives.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result};
use fred::clients::Client as Redis;
use fred::interfaces::{ClientLike, KeysInterface};
use fred::types::Builder;
use fred::types::config::Config;
use griot_tests::client::{Client, Received};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::JoinSet;

use crate::shop::now_us;

/// What a receiving process is told, as one line on its standard input. It ends with that input.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Setup {
    /// Where to connect.
    pub(crate) socket: String,
    /// Where the cache is.
    pub(crate) redis: String,
    /// Users and their tokens.
    pub(crate) users: Vec<(String, String)>,
}

/// What arrived, one line on standard output.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Arrival {
    /// Whose connection it arrived on.
    pub(crate) user: String,
    /// On which channel.
    pub(crate) channel: String,
    /// The id that the check put into the data.
    pub(crate) id: Option<String>,
    /// The public id.
    pub(crate) public_id: Option<String>,
    /// When, in microseconds since 1970.
    pub(crate) at: i64,
    /// Whether a key that the commit made stale was still there.
    pub(crate) stale: bool,
}

/// Connects everybody, prints `ready`, and reports until standard input ends.
pub(crate) async fn run() -> Result<()> {
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    let setup = input.next_line().await?.context("standard input has no setup")?;
    let setup: Setup = serde_json::from_str(&setup)?;
    let redis = Builder::from_config(Config::from_url(&setup.redis)?).build()?;
    redis.init().await?;
    let mut connections = JoinSet::new();
    for (user, token) in setup.users {
        let (client, _) = Client::connect(&setup.socket, &token).await.with_context(|| format!("user {user}"))?;
        connections.spawn(report(user, client, redis.clone()));
    }
    println!("ready");
    loop {
        tokio::select! {
            line = input.next_line() => if line?.is_none() { return Ok(()) },
            Some(ended) = connections.join_next() => ended??,
        }
    }
}

async fn report(user: String, client: Client, redis: Redis) -> Result<()> {
    loop {
        let push = match client.next(Duration::from_secs(3_600)).await?.1 {
            Received::Push(push) => push,
            Received::Closed(closed) => anyhow::bail!("user {user}: closed with {} {}", closed.code, closed.reason),
            Received::Ping | Received::Reply(_) => continue,
        };
        let at = now_us();
        let (publication, channel) = (&push["pub"], push["channel"].as_str().unwrap_or_default());
        let data = &publication["data"];
        let mut stale = false;
        for code in ["code", "previous"].iter().filter_map(|field| data[*field].as_str()) {
            stale |= redis.exists::<i64, _>(format!("parcel:{code}")).await? > 0;
        }
        let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
        let arrival = Arrival {
            user: user.clone(),
            channel: channel.to_owned(),
            id: text(&data["check"]),
            public_id: text(&publication["tags"]["id"]),
            at,
            stale,
        };
        let mut line = serde_json::to_vec(&arrival)?;
        line.push(b'\n');
        std::io::stdout().lock().write_all(&line)?;
    }
}
