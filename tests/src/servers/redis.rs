//! A private Redis.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use fred::{
    clients::Client,
    interfaces::ClientLike,
    types::{Builder, config::Config},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

use super::{
    free_port,
    server::{PATIENCE, Server},
};
use crate::supervisor::{Program, Signal, TemporaryFolder};

/// A Redis server on loopback, without persistence unless asked for. It is ready about 50 ms after its start, so a test
/// that stops it, fills it or counts its commands takes its own.
#[derive(Debug)]
pub struct Redis {
    server: Server,
}

impl Redis {
    /// Starts one that keeps nothing on disk.
    pub async fn start() -> Result<Self> {
        Self::start_with(&[]).await
    }

    /// Starts one with more command-line arguments, which win over the defaults: `["--appendonly", "yes"]`.
    pub async fn start_with(arguments: &[&str]) -> Result<Self> {
        let port = free_port()?;
        let folder = TemporaryFolder::new()?;
        let (dir, port_text) = (folder.path().to_string_lossy(), port.to_string());
        let defaults = [
            "redis-server",
            "--port",
            &port_text,
            "--bind",
            "127.0.0.1",
            "--dir",
            &dir,
            "--save",
            "",
            "--appendonly",
            "no",
            "--repl-diskless-sync-delay",
            "0",
        ];
        let program = Program {
            name: format!("Redis on port {port}"),
            command: defaults.iter().chain(arguments).map(|&argument| argument.to_owned()).collect(),
            env: Vec::new(),
            folder: Some(folder.path().to_owned()),
            ask: Signal::Term,
            grace: Duration::from_secs(5),
        };
        let redis = Self { server: Server::start(program, port)? };
        folder.hand_over();
        redis.ready().await?;
        Ok(redis)
    }

    /// Starts a replica and waits until it has everything that `primary` has.
    pub async fn replica_of(primary: &Self) -> Result<Self> {
        let primary_port = primary.port().to_string();
        let replica = Self::start_with(&["--replicaof", &format!("127.0.0.1 {primary_port}")]).await?;
        let in_step = || async {
            let info = replica.ask("INFO replication").await?;
            ensure!(info.contains("master_link_status:up"), "not in step: {info}");
            Ok(())
        };
        replica.server.ready(in_step).await?;
        Ok(replica)
    }

    /// `redis://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://{}", self.addr())
    }

    /// Where it listens, for a [`Proxy`](crate::proxy::Proxy) in front of it.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    /// The port on 127.0.0.1; the same after a restart.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// The process id of the server that runs now.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Sends one command on a connection of its own and returns the text of the answer: `ask("INFO replication")`.
    /// Arguments are quoted as in `redis-cli`. An answer that is a list comes as one line per element.
    pub async fn ask(&self, command: &str) -> Result<String> {
        ask(self.addr(), command).await
    }

    /// A connected fred client with its defaults, for whatever needs more than [`Redis::ask`].
    pub async fn client(&self) -> Result<Client> {
        let client = Builder::from_config(Config::from_url(&self.url())?).build()?;
        client.init().await?;
        Ok(client)
    }

    /// Asks it to stop and waits for its end; [`Redis::start_again`] brings it back with what is on disk.
    pub async fn stop(&self) -> Result<()> {
        self.server.stop().await
    }

    /// Ends it as a power failure would.
    pub async fn kill(&self) -> Result<()> {
        self.server.kill().await
    }

    /// Starts it again on its port and in its folder, after [`Redis::stop`] or [`Redis::kill`].
    pub async fn start_again(&mut self) -> Result<()> {
        self.server.start_again()?;
        self.ready().await
    }

    /// Freezes it: connections stay and new ones are accepted by the kernel, but nothing answers.
    pub fn pause(&self) -> Result<()> {
        self.server.signal(Signal::Stop)
    }

    /// Ends a [`Redis::pause`].
    pub fn resume(&self) -> Result<()> {
        self.server.signal(Signal::Cont)
    }

    async fn ready(&self) -> Result<()> {
        let pid = format!("process_id:{}", self.pid());
        let answers = || async {
            let info = self.ask("INFO").await?;
            // The process id too: another program may have taken the port since it was found free.
            ensure!(info.lines().any(|line| line == pid), "another server answers");
            ensure!(info.lines().any(|line| line == "loading:0"), "it reads what is on disk");
            Ok(())
        };
        self.server.ready(answers).await
    }
}

async fn ask(addr: SocketAddr, command: &str) -> Result<String> {
    let exchange = async {
        let mut stream = BufReader::new(TcpStream::connect(addr).await?);
        stream.write_all(format!("{command}\r\n").as_bytes()).await?;
        read_answer(&mut stream).await
    };
    timeout(PATIENCE, exchange).await.with_context(|| format!("{command}: no answer from {addr}"))?
}

/// Reads one RESP2 answer. Nested lists come out flat.
async fn read_answer(stream: &mut BufReader<TcpStream>) -> Result<String> {
    let mut texts = Vec::new();
    let mut left = 1;
    while left > 0 {
        left -= 1;
        let mut head = String::new();
        ensure!(stream.read_line(&mut head).await? > 0, "the connection was closed");
        let (kind, rest) = head.trim_end().split_at_checked(1).context("an empty answer")?;
        match kind {
            "+" | ":" => texts.push(rest.to_owned()),
            "-" => bail!("{rest}"),
            "*" => left += usize::try_from(rest.parse::<i64>()?).unwrap_or(0),
            "$" => match usize::try_from(rest.parse::<i64>()?) {
                Ok(length) => {
                    let mut bytes = vec![0; length + 2];
                    stream.read_exact(&mut bytes).await?;
                    texts.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
                }
                Err(_) => texts.push("(nil)".to_owned()),
            },
            _ => bail!("not an answer: {head:?}"),
        }
    }
    Ok(texts.join("\n"))
}
