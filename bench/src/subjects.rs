//! Whom the rows compare.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use griot_tests::bridge::{LoneBridge, SECRET};
use griot_tests::http;
use griot_tests::process::{Launch, Worker};
use griot_tests::servers::{Redis, free_addr};
use griot_tests::supervisor::{Program, Signal, Supervised};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::load::{Dialect, Via};
use crate::process;
use crate::rows::Row;

/// How long a server may take until it can be connected to.
const PATIENCE: Duration = Duration::from_secs(20);
/// Where the distribution's package puts it.
const NCHAN: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";
/// Clients of all rows come from this machine, as many as one process may have.
/// More than any row publishes, of what is raw.
const SETTINGS: &str = "max_connections = 19500\nmax_raw_per_second = 1000000";

/// One of those who are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// Griot's bridge.
    Griot,
    /// The same once more: what differs from the first is noise.
    GriotAgain,
    /// The same, spoken to in protobuf.
    GriotProtobuf,
    /// The same, spoken to in JSON by TLS.
    GriotTls,
    /// The same, given plain publications as any Redis client makes them: at most once, and nothing is kept.
    GriotRaw,
    /// The floor server.
    Floor,
    /// The Node recipe: `ws` and `ioredis`.
    Ws,
    /// `socket.io` with its Redis adapter.
    SocketIo,
    /// nginx with nchan.
    Nchan,
}

impl Subject {
    /// All there are.
    pub const ALL: [Self; 9] = [
        Self::Griot,
        Self::GriotAgain,
        Self::GriotProtobuf,
        Self::GriotTls,
        Self::GriotRaw,
        Self::Floor,
        Self::Ws,
        Self::SocketIo,
        Self::Nchan,
    ];

    /// The name in results and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Griot => "griot",
            Self::GriotAgain => "griot-again",
            Self::GriotProtobuf => "griot-protobuf",
            Self::GriotTls => "griot-tls",
            Self::GriotRaw => "griot-raw",
            Self::Floor => "floor",
            Self::Ws => "ws",
            Self::SocketIo => "socket.io",
            Self::Nchan => "nchan",
        }
    }

    /// The subject of that name.
    ///
    /// # Errors
    /// There is none.
    pub fn named(name: &str) -> Result<Self> {
        let names = || Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|subject| subject.name() == name)
            .with_context(|| format!("no subject is called {name:?}; there are {}", names()))
    }

    /// Whether it is Griot.
    #[must_use]
    pub fn is_griot(self) -> bool {
        !matches!(self, Self::Floor | Self::Ws | Self::SocketIo | Self::Nchan)
    }

    /// How it is spoken to.
    #[must_use]
    pub fn dialect(self) -> Dialect {
        match self {
            Self::Griot | Self::GriotAgain | Self::GriotTls | Self::GriotRaw => Dialect::Griot,
            Self::GriotProtobuf => Dialect::GriotProtobuf,
            Self::Floor | Self::Ws => Dialect::Query,
            Self::SocketIo => Dialect::SocketIo,
            Self::Nchan => Dialect::Nchan,
        }
    }

    /// What it leaves out of what `metric` of `row` counts and Griot does; nothing where it does the same work.
    #[must_use]
    pub fn leaves_out(self, row: Row, metric: &str) -> Option<&'static str> {
        match (self, row) {
            (subject, _) if subject.is_griot() || subject == Self::Floor => None,
            // What the server does with them is the same; but latency begins before Redis.
            (_, Row::Personal | Row::Fairness) if matches!(metric, "p50" | "p99" | "p99 alone") => {
                Some("it is sent plain publications, and nothing is kept of them: griot-raw does the same")
            }
            (_, Row::Idle | Row::Connect) => {
                Some("nobody signs in, and each connection has one channel instead of three")
            }
            (Self::SocketIo, Row::SlowReaders) => Some("what waits for a client that does not read has no limit"),
            _ => None,
        }
    }

    /// The secret that signs tokens, where there are any.
    #[must_use]
    pub fn secret(self) -> Option<String> {
        self.is_griot().then(|| SECRET.to_owned())
    }

    /// The certificate of whoever issued its own, where it speaks TLS.
    #[must_use]
    pub fn trusted(self) -> Option<PathBuf> {
        (self == Self::GriotTls).then(|| keys().join("ca.pem"))
    }

    /// How one publishes to it.
    #[must_use]
    pub fn via(self, redis: &Redis) -> Via {
        match self {
            Self::Griot | Self::GriotAgain | Self::GriotProtobuf | Self::GriotTls => Via::Publisher(redis.url()),
            Self::GriotRaw => Via::Raw(redis.addr()),
            Self::Floor | Self::Ws => Via::Wrapped(redis.addr()),
            Self::SocketIo => Via::SocketIo(redis.addr()),
            Self::Nchan => Via::Nchan(redis.addr()),
        }
    }

    /// Whether what it needs is installed; `just bench-setup` does that.
    #[must_use]
    pub fn is_installed(self) -> bool {
        match self {
            Self::Ws | Self::SocketIo => baselines().join("node/node_modules").is_dir(),
            Self::Nchan => Path::new(NCHAN).exists(),
            _ => true,
        }
    }

    /// Starts it on `redis` and pins it to its core; `settings` are more lines of `[subscriber_bridge]`.
    ///
    /// # Errors
    /// It does not come up.
    pub async fn start(self, redis: &Redis, settings: &str) -> Result<Running> {
        let running = match self {
            Self::Griot | Self::GriotAgain | Self::GriotProtobuf | Self::GriotTls | Self::GriotRaw => {
                let tls = if self == Self::GriotTls { tls() } else { String::new() };
                let bridge = LoneBridge::start(&redis.url(), &format!("{SETTINGS}\n{settings}\n{tls}")).await?;
                Running { pid: bridge.process.pid(), addr: bridge.addr(), _process: Process::Bridge(Box::new(bridge)) }
            }
            Self::Floor => {
                let addr = free_addr()?;
                let launch = Launch::new("bench").arg("floor").arg("--listen").arg(addr.to_string());
                let worker = launch.arg("--redis").arg(redis.addr().to_string()).start().await?;
                Running { pid: worker.pid(), addr, _process: Process::Worker(Box::new(worker)) }
            }
            Self::Ws => baseline(&["node"], "node/ws.mjs", redis)?,
            Self::SocketIo => baseline(&["node"], "node/socketio.mjs", redis)?,
            Self::Nchan => baseline(&[], "nchan/serve", redis)?,
        };
        self.reachable(running.addr).await.with_context(|| format!("{} does not come up", self.name()))?;
        process::pin_server(running.pid)?;
        Ok(running)
    }

    async fn reachable(self, addr: SocketAddr) -> Result<()> {
        let since = Instant::now();
        while !self.answers(addr).await {
            if since.elapsed() > PATIENCE {
                bail!("nobody listens at {addr} after {PATIENCE:?}");
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    async fn answers(self, addr: SocketAddr) -> bool {
        match self {
            // It listens before it has found Redis, and then turns subscribers away.
            Self::Nchan => http::get(addr, "/pub/nobody").await.is_ok_and(|answer| answer.status < 500),
            _ => TcpStream::connect(addr).await.is_ok(),
        }
    }
}

/// A subject that runs. It ends with this value.
#[derive(Debug)]
pub struct Running {
    /// Its process.
    pub pid: u32,
    /// Where clients connect.
    pub addr: SocketAddr,
    _process: Process,
}

#[derive(Debug)]
#[expect(dead_code, reason = "they are held until they are to end")]
enum Process {
    Bridge(Box<LoneBridge>),
    Worker(Box<Worker>),
    Other(Supervised),
}

/// The lines of `[subscriber_bridge]` by which it speaks TLS.
fn tls() -> String {
    let (certificate, key) = (keys().join("server.pem"), keys().join("server-key.pem"));
    format!("tls_certificate_file = {certificate:?}\ntls_key_file = {key:?}")
}

/// Certificates that tests trust.
fn keys() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/keys")
}

fn baselines() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("baselines")
}

/// A server among [`baselines`], which `interpreter` runs.
fn baseline(interpreter: &[&str], script: &str, redis: &Redis) -> Result<Running> {
    let addr = free_addr()?;
    let path = baselines().join(script).to_string_lossy().into_owned();
    let (port, redis) = (addr.port().to_string(), redis.port().to_string());
    let arguments = [path, "--port".into(), port, "--redis".into(), redis];
    let command = interpreter.iter().map(|&word| word.into()).chain(arguments).collect();
    let (ask, grace) = (Signal::Term, Duration::from_secs(5));
    let process =
        Supervised::start(&Program { name: script.into(), command, env: Vec::new(), folder: None, ask, grace })?;
    Ok(Running { pid: process.pid(), addr, _process: Process::Other(process) })
}
