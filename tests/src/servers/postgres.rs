//! A private PostgreSQL.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
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
    /// Beyond the defaults; a standby needs those of its primary.
    settings: Vec<String>,
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
        let data = data(&folder);
        let place = ["-D", &data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"];
        run_as_account(&folder, "initdb", &[&place[..], &["--no-sync", "--no-instructions"]].concat())?;
        Self::serve(folder, settings.iter().map(|&setting| setting.to_owned()).collect()).await
    }

    /// Starts a standby that streams from this server, answers queries and has been given the same settings; about
    /// 1.5 s. What is committed here is there [in a moment](Postgres::has_replayed).
    pub async fn standby(&self) -> Result<Self> {
        let folder = TemporaryFolder::new()?;
        let (data, port) = (data(&folder), self.port().to_string());
        let copy = ["-D", &data, "-h", "127.0.0.1", "-p", &port, "-U", "postgres"];
        let follow = ["--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync"];
        run_as_account(&folder, "pg_basebackup", &[&copy[..], &follow].concat())?;
        let standby = Self::serve(folder, self.settings.clone()).await?;
        let streams = "select count(*) from pg_stat_wal_receiver where status = 'streaming'";
        standby.server.ready(|| async { ensure_one(standby.count(streams).await?) }).await?;
        Ok(standby)
    }

    async fn serve(folder: TemporaryFolder, settings: Vec<String>) -> Result<Self> {
        let port = free_port()?;
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
        let mut command = as_account(&folder, &programs()?.join("postgres"))?;
        command.extend(["-D".to_owned(), data(&folder)]);
        let settings_of_both = defaults.iter().copied().chain(settings.iter().map(String::as_str));
        command.extend(settings_of_both.flat_map(|setting| ["-c".to_owned(), setting.to_owned()]));
        let program = Program {
            name: format!("PostgreSQL on port {port}"),
            command,
            env: Vec::new(),
            folder: Some(folder.path().to_owned()),
            ask: Signal::Int,
            grace: Duration::from_secs(10),
        };
        let postgres = Self { server: Server::start(program, port)?, settings, template: OnceCell::new() };
        folder.hand_over();
        postgres.ready().await?;
        Ok(postgres)
    }

    /// Makes a standby the primary, on a timeline of its own; returns when it can be written to.
    pub async fn promote(&self) -> Result<()> {
        self.execute("select pg_promote(true, 30)".to_owned()).await?;
        ensure_one(self.count("select (not pg_is_in_recovery())::int::bigint").await?).context("the promotion")
    }

    /// Ends a standby's streaming, as a cut network would: what the primary commits from now on, it lacks.
    pub async fn stop_receiving(&self) -> Result<()> {
        for sql in ["alter system set primary_conninfo = ''", "select pg_reload_conf()"] {
            self.execute(sql.to_owned()).await?;
        }
        let stopped = "select (count(*) = 0)::int::bigint from pg_stat_wal_receiver";
        self.server.ready(|| async { ensure_one(self.count(stopped).await?) }).await
    }

    /// Waits until this standby has replayed all that `primary` has written until now.
    pub async fn has_replayed(&self, primary: &Self) -> Result<()> {
        let mut connection = PgConnection::connect(&primary.url("postgres")).await?;
        let written: String =
            sqlx::query_scalar("select pg_current_wal_lsn()::text").fetch_one(&mut connection).await?;
        let replayed = format!("select (pg_last_wal_replay_lsn() >= '{written}')::int::bigint");
        self.server.ready(|| async { ensure_one(self.count(&replayed).await?) }).await
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

    /// The number that a query gives.
    async fn count(&self, sql: &str) -> Result<i64> {
        let mut connection = PgConnection::connect(&self.url("postgres")).await?;
        let count = sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut connection).await?;
        connection.close().await?;
        Ok(count)
    }

    async fn ready(&self) -> Result<()> {
        self.server.ready(|| self.execute("select 1".to_owned())).await
    }
}

fn ensure_one(count: i64) -> Result<()> {
    ensure!(count == 1, "not yet");
    Ok(())
}

/// The folder of the data inside a server's folder.
fn data(folder: &TemporaryFolder) -> String {
    folder.path().join("data").to_string_lossy().into_owned()
}

/// How to run a program that refuses to run as root: as another user when we are. That user gets the folder.
pub(super) fn as_account(folder: &TemporaryFolder, program: &Path) -> Result<Vec<String>> {
    let mut command = Vec::new();
    if run("id", &["-u"])? == "0" {
        run("chown", &[ACCOUNT, &folder.path().to_string_lossy()])?;
        // Not runuser: it stays as the parent and would take our signals instead of the server.
        command.extend(["setpriv", "--reuid", ACCOUNT, "--regid", ACCOUNT, "--init-groups"].map(str::to_owned));
    }
    command.push(program.to_string_lossy().into_owned());
    Ok(command)
}

/// Runs one of PostgreSQL's programs that ends by itself.
fn run_as_account(folder: &TemporaryFolder, name: &str, arguments: &[&str]) -> Result<()> {
    let command = as_account(folder, &programs()?.join(name))?;
    let words: Vec<&str> = command.iter().map(String::as_str).chain(arguments.iter().copied()).collect();
    run(words[0], &words[1..]).map(drop)
}

/// The folder of the newest PostgreSQL installed. Debian keeps the server's programs out of `PATH`.
fn programs() -> Result<PathBuf> {
    let in_path = std::env::var_os("PATH").and_then(|path| {
        std::env::split_paths(&path)
            .find(|folder| ["initdb", "postgres", "pg_basebackup"].iter().all(|name| folder.join(name).exists()))
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
