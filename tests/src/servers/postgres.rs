//! A private PostgreSQL.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::sync::OnceCell;

use super::{free_port, run, server::Server};
use crate::supervisor::{Program, Signal, TemporaryFolder};

/// The user that the server runs as when we are root, which PostgreSQL refuses to run as. Debian's package creates it.
const ACCOUNT: &str = "postgres";

/// A PostgreSQL server on loopback. A crash of the machine would lose its data, a crash of the server does not.
#[derive(Debug)]
pub struct Postgres {
    server: Server,
    /// Whether the template of [`Database`](super::Database) exists.
    pub(super) template: OnceCell<()>,
}

impl Postgres {
    /// Initialises a cluster in a temporary folder and starts it; about 0.7 s.
    pub async fn start() -> Result<Self> {
        Self::start_with(&[]).await
    }

    /// Starts one with more settings, which win over the defaults: `["wal_level=logical"]`.
    pub async fn start_with(settings: &[&str]) -> Result<Self> {
        let folder = TemporaryFolder::new()?;
        let port = free_port()?;
        let prefix = account_prefix(folder.path())?;
        let data = folder.path().join("data").to_string_lossy().into_owned();
        let programs = programs()?;
        let initialise = [
            &program(&programs, "initdb"),
            "-D",
            &data,
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
            "--no-instructions",
        ];
        let initialise: Vec<&str> = prefix.iter().copied().chain(initialise).collect();
        run(initialise[0], &initialise[1..])?;

        let port_setting = format!("port={port}");
        let defaults = [
            port_setting.as_str(),
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "max_connections=200",
            "fsync=off",
            "full_page_writes=off",
            "max_wal_size=4GB",
        ];
        let server = program(&programs, "postgres");
        let mut command: Vec<&str> = prefix.iter().copied().chain([server.as_str(), "-D", &data]).collect();
        command.extend(defaults.iter().chain(settings).flat_map(|&setting| ["-c", setting]));
        let program = Program {
            name: format!("PostgreSQL on port {port}"),
            command: command.into_iter().map(str::to_owned).collect(),
            env: Vec::new(),
            folder: Some(folder.path().to_owned()),
            ask: Signal::Int,
            grace: Duration::from_secs(10),
        };
        let postgres = Self { server: Server::start(program, port)?, template: OnceCell::new() };
        folder.hand_over();
        postgres.ready().await?;
        Ok(postgres)
    }

    /// The URL of one of its databases, as the superuser: `postgres://postgres@127.0.0.1:PORT/NAME`.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@{}/{database}?sslmode=disable", self.addr())
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

    /// Stops it without waiting for clients; [`Postgres::start_again`] brings it back.
    pub async fn stop(&self) -> Result<()> {
        self.server.stop().await
    }

    /// Ends it as a power failure of the process would: what was committed is there after [`Postgres::start_again`].
    pub async fn kill(&self) -> Result<()> {
        self.server.kill().await
    }

    /// Starts it again on its port, after [`Postgres::stop`] or [`Postgres::kill`].
    pub async fn start_again(&mut self) -> Result<()> {
        self.server.start_again()?;
        self.ready().await
    }

    /// Freezes the process that accepts connections; sessions that exist go on.
    pub fn pause(&self) -> Result<()> {
        self.server.signal(Signal::Stop)
    }

    /// Ends a [`Postgres::pause`].
    pub fn resume(&self) -> Result<()> {
        self.server.signal(Signal::Cont)
    }

    /// Runs SQL in the database `postgres`, on a connection of its own: a pool would die with its test's runtime.
    pub(super) async fn execute(&self, sql: String) -> Result<()> {
        let mut connection = PgConnection::connect(&self.url("postgres")).await?;
        connection.execute(AssertSqlSafe(sql)).await?;
        Ok(connection.close().await?)
    }

    async fn ready(&self) -> Result<()> {
        self.server.ready(|| self.execute("select 1".to_owned())).await
    }
}

/// What comes before a command so that it runs as another user when we are root. That user gets the folder.
fn account_prefix(folder: &Path) -> Result<Vec<&'static str>> {
    if run("id", &["-u"])? != "0" {
        return Ok(Vec::new());
    }
    run("chown", &[ACCOUNT, &folder.to_string_lossy()])?;
    // Not runuser: it stays as the parent and would take our signals instead of the server.
    Ok(vec!["setpriv", "--reuid", ACCOUNT, "--regid", ACCOUNT, "--init-groups"])
}

/// The folder of the newest PostgreSQL installed. Debian keeps the server's programs out of `PATH`.
fn programs() -> Result<PathBuf> {
    let in_path = std::env::var_os("PATH").and_then(|path| {
        std::env::split_paths(&path).find(|folder| folder.join("initdb").exists() && folder.join("postgres").exists())
    });
    if let Some(folder) = in_path {
        return Ok(folder);
    }
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(Result::ok);
    versions
        .map(|version| version.path())
        .filter(|version| version.join("bin/initdb").exists())
        .max_by_key(|version| version.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()))
        .map(|version| version.join("bin"))
        .context("PostgreSQL is not installed: `./dev` installs it, or see README.md")
}

fn program(folder: &Path, name: &str) -> String {
    folder.join(name).to_string_lossy().into_owned()
}
