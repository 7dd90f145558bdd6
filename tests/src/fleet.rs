//! Official clients in numbers: a Node process with one npm `centrifuge` client per user, which reports what they see.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, timeout_at};

/// One client.
#[derive(Debug, Clone, Serialize)]
pub struct Visitor {
    /// Who it is.
    pub user: String,
    /// Its connection token.
    pub token: String,
    /// What it subscribes to by itself; personal channels come without asking.
    pub subscribe: Vec<String>,
}

/// What a client saw; `tests/node/fleet.js` says which fields come with which kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Seen {
    /// The kind: `connecting`, `connected`, `subscribed`, `pub`, …
    pub e: String,
    /// The client's index.
    pub c: usize,
    /// Milliseconds since the start of the fleet.
    pub t: u64,
    /// The channel; empty where none is concerned.
    #[serde(deserialize_with = "or_empty")]
    pub channel: String,
    /// Whether recovery was asked for.
    pub was_recovering: bool,
    /// Whether it succeeded.
    pub recovered: bool,
    /// Whether the subscription has a position.
    pub recoverable: bool,
    /// The offset.
    pub offset: Option<u64>,
    /// The epoch.
    pub epoch: Option<String>,
    /// A publication's public id.
    pub id: Option<String>,
    /// A publication's data.
    pub data: Value,
    /// Why something ended.
    pub code: Option<u64>,
}

fn or_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// The running process. It ends with this value, and with this process.
#[derive(Debug)]
pub struct Fleet {
    _process: Child,
    commands: ChildStdin,
    seen: Lines<BufReader<ChildStdout>>,
}

impl Fleet {
    /// Starts one client per visitor; they connect by and by.
    pub async fn start(socket: &str, visitors: &[Visitor]) -> Result<Self> {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/node"));
        ensure!(
            folder.join("node_modules").is_dir(),
            "{}/node_modules is missing: `./dev test` installs it, and so does `npm ci` in that folder",
            folder.display()
        );
        let mut process = Command::new("node")
            .arg(folder.join("fleet.js"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting node")?;
        let mut commands = process.stdin.take().context("standard input is piped")?;
        let seen = BufReader::new(process.stdout.take().context("standard output is piped")?).lines();
        let config = json!({"socket": socket, "users": visitors, "min_delay_ms": 100, "max_delay_ms": 2_000});
        commands.write_all(format!("{config}\n").as_bytes()).await?;
        Ok(Self { _process: process, commands, seen })
    }

    /// Lets one client go away, or come back.
    pub async fn tell(&mut self, client: usize, connect: bool) -> Result<()> {
        let command = json!({"do": if connect { "connect" } else { "disconnect" }, "c": client});
        Ok(self.commands.write_all(format!("{command}\n").as_bytes()).await?)
    }

    /// The next thing that a client saw; `None` when nothing came within the time.
    pub async fn next(&mut self, within: Duration) -> Result<Option<Seen>> {
        let Ok(line) = timeout_at(Instant::now() + within, self.seen.next_line()).await else { return Ok(None) };
        let line = line?.context("the fleet has ended")?;
        serde_json::from_str(&line).map(Some).with_context(|| line)
    }
}
