//! Commits in PostgreSQL: one row each, on several connections.

use anyhow::{Context, Result, bail};
use sqlx::{Connection, PgConnection};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;

/// Enough that a commit waits for the disk only behind few others.
const CONNECTIONS: usize = 8;
/// Rows that may wait for each: more mean that the database does not keep up.
const AHEAD: usize = 10_000;

/// See the module.
pub(super) struct Commits {
    runtime: Runtime,
    rows: Vec<Sender<Row>>,
    writers: Vec<JoinHandle<Result<()>>>,
}

/// Whom it is for, and what it says.
struct Row(String, String);

impl Commits {
    pub(super) fn connect(url: &str) -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (mut rows, mut writers) = (Vec::new(), Vec::new());
        for _ in 0..CONNECTIONS {
            let database = runtime.block_on(PgConnection::connect(url)).context("connecting to PostgreSQL")?;
            let (say, told) = channel(AHEAD);
            rows.push(say);
            writers.push(runtime.spawn(write(database, told)));
        }
        Ok(Self { runtime, rows, writers })
    }

    /// Those of one user keep their order.
    pub(super) fn add(&mut self, number: u64, user: String, data: &[u8]) -> Result<()> {
        let row = Row(user, String::from_utf8_lossy(data).into_owned());
        match self.rows[number as usize % CONNECTIONS].try_send(row) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => bail!("PostgreSQL does not keep up: {AHEAD} rows wait for one connection"),
            Err(TrySendError::Closed(_)) => self.finish().and_then(|()| bail!("a connection to PostgreSQL has ended")),
        }
    }

    /// Waits until all are committed.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.rows.clear();
        self.writers.drain(..).try_for_each(|writer| self.runtime.block_on(writer)?)
    }
}

async fn write(mut database: PgConnection, mut rows: Receiver<Row>) -> Result<()> {
    while let Some(Row(user, body)) = rows.recv().await {
        let insert = sqlx::query("insert into notices (user_id, body) values ($1, $2::text::json)");
        insert.bind(user).bind(body).execute(&mut database).await.context("a commit")?;
    }
    Ok(())
}
