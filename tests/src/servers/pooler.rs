//! A private pgbouncer, the pooler that operators are most likely to put in front of PostgreSQL.

use std::{fs, path::Path, time::Duration};

use anyhow::Result;
use tokio::net::TcpStream;

use super::{Postgres, free_port, postgres::as_account, server::Server};
use crate::supervisor::{Program, Signal, TemporaryFolder};

/// Where Debian keeps it, outside of most users' `PATH`.
const PROGRAM: &str = "/usr/sbin/pgbouncer";

/// A pooler on loopback in front of a [`Postgres`].
#[derive(Debug)]
pub struct Pooler {
    server: Server,
}

impl Pooler {
    /// Starts one with these lines in its section `[pgbouncer]`: `pool_mode = transaction`.
    pub async fn start(postgres: &Postgres, settings: &str) -> Result<Self> {
        let folder = TemporaryFolder::new()?;
        let port = free_port()?;
        let file = folder.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={} user=postgres\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n{settings}\n",
            postgres.port()
        );
        fs::write(&file, text)?;
        let mut command = as_account(&folder, Path::new(PROGRAM))?;
        command.push(file.to_string_lossy().into_owned());
        let program = Program {
            name: format!("pgbouncer on port {port}"),
            command,
            env: Vec::new(),
            folder: Some(folder.path().to_owned()),
            ask: Signal::Int,
            grace: Duration::from_secs(5),
        };
        let pooler = Self { server: Server::start(program, port)? };
        folder.hand_over();
        pooler.server.ready(|| async { Ok(TcpStream::connect(pooler.server.addr()).await.map(drop)?) }).await?;
        Ok(pooler)
    }

    /// The URL of a database behind it.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@{}/{database}?sslmode=disable", self.server.addr())
    }
}
