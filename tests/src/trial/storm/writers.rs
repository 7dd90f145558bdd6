//! Those who write during a storm: eight applications, one transaction that stays open, and one caller of the API.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use fred::clients::Client;
use fred::interfaces::{ClientLike, KeysInterface};
use fred::types::Builder;
use fred::types::config::{Config, ReconnectPolicy};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::book::{Book, Fate, key};
use crate::http;

/// What the application has in the cache before it writes.
pub(super) const STALE: &str = "before";
/// Between two attempts of whoever lost its server.
const RETRY: Duration = Duration::from_millis(50);

/// What all of them share.
pub(super) struct Load<'a> {
    pub(super) book: &'a Book,
    pub(super) cache: Client,
    /// The database, by way of whatever stands before it.
    pub(super) url: String,
    /// Transactions that were told that they committed.
    pub(super) commits: AtomicU64,
    /// No new transaction begins.
    pub(super) over: CancellationToken,
}

/// A client that keeps connecting to this address.
pub(super) async fn cache(addr: SocketAddr) -> Result<Client> {
    let mut builder = Builder::from_config(Config::from_url(&format!("redis://{addr}"))?);
    builder.with_performance_config(|config| config.default_command_timeout = Duration::from_secs(1));
    builder.set_policy(ReconnectPolicy::new_constant(0, 50));
    let client = builder.build()?;
    client.init().await?;
    Ok(client)
}

/// One of the applications.
pub(super) struct Writer<'a> {
    load: &'a Load<'a>,
    /// Its client's index; its effects are numbered from so many millions.
    owner: usize,
    random: fastrand::Rng,
    next: u64,
}

/// The effects of the transaction under way.
#[derive(Default)]
struct Attempt {
    kept: Vec<u64>,
    undone: Vec<u64>,
    /// `commit` was sent.
    committing: bool,
}

impl<'a> Writer<'a> {
    pub(super) fn new(load: &'a Load<'a>, owner: usize, seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed.wrapping_add(owner as u64));
        Self { load, owner, random, next: owner as u64 * 1_000_000 }
    }

    /// Writes, with a pause of about `pace` between two transactions, until it is over.
    pub(super) async fn run(mut self, pace: Duration) -> Result<()> {
        let mut connection = None;
        while !self.load.over.is_cancelled() {
            let mut attempt = Attempt::default();
            let done = match connection.take() {
                Some(mut open) => self.transaction(&mut open, &mut attempt).await.map(|()| open),
                None => PgConnection::connect(&self.load.url).await,
            };
            self.load.book.close(&attempt.undone, Fate::RolledBack);
            match done {
                Ok(open) => connection = Some(open),
                Err(_) => {
                    // What was not yet committing cannot have been committed.
                    let fate = if attempt.committing { Fate::Uncertain } else { Fate::RolledBack };
                    self.load.book.close(&attempt.kept, fate);
                    tokio::time::sleep(RETRY).await;
                }
            }
            tokio::time::sleep(pace.mul_f64(0.5 + self.random.f64())).await;
        }
        Ok(())
    }

    /// One transaction of a random shape. An error is a lost connection.
    async fn transaction(&mut self, connection: &mut PgConnection, attempt: &mut Attempt) -> sqlx::Result<()> {
        let mut transaction = connection.begin().await?;
        let by_rule = self.random.bool();
        attempt.kept.push(self.effect(&mut transaction, by_rule).await?);
        match self.random.u8(..8) {
            0 => attempt.kept.push(self.effect(&mut transaction, !by_rule).await?),
            1 => {
                let mut savepoint = transaction.begin().await?;
                attempt.kept.push(self.effect(&mut savepoint, by_rule).await?);
                savepoint.commit().await?;
            }
            2 => {
                let mut savepoint = transaction.begin().await?;
                attempt.undone.push(self.effect(&mut savepoint, by_rule).await?);
                savepoint.rollback().await?;
            }
            3 => {
                attempt.undone.append(&mut attempt.kept);
                return transaction.rollback().await;
            }
            4 => {
                attempt.undone.append(&mut attempt.kept);
                // Refused by the server, which aborts the transaction.
                let refused = sqlx::query("select griot.publish('orders:#', '1')").execute(&mut *transaction).await;
                return refused.map(drop).or(transaction.rollback().await);
            }
            _ => {}
        }
        attempt.committing = true;
        transaction.commit().await?;
        self.load.book.close(&attempt.kept, Fate::Committed);
        self.load.commits.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Holds a transaction open for as long as said, or until it is over, with an effect at its beginning and one at its
    /// end; again and again. By hand only: reading the log would lock all of its partitions.
    pub(super) async fn hold(mut self, open_for: Duration) -> Result<()> {
        while !self.load.over.is_cancelled() {
            let mut attempt = Attempt::default();
            if self.held(open_for, &mut attempt).await.is_err() {
                let fate = if attempt.committing { Fate::Uncertain } else { Fate::RolledBack };
                self.load.book.close(&attempt.kept, fate);
                tokio::time::sleep(RETRY).await;
            }
        }
        Ok(())
    }

    async fn held(&mut self, open_for: Duration, attempt: &mut Attempt) -> sqlx::Result<()> {
        let mut connection = PgConnection::connect(&self.load.url).await?;
        let mut transaction = connection.begin().await?;
        attempt.kept.push(self.effect(&mut transaction, false).await?);
        let _ = tokio::time::timeout(open_for, self.load.over.cancelled()).await;
        attempt.kept.push(self.effect(&mut transaction, false).await?);
        attempt.committing = true;
        transaction.commit().await?;
        self.load.book.close(&attempt.kept, Fate::Committed);
        self.load.commits.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Writes what deletes a key and publishes, by a rule or by hand, after the value of before was cached.
    async fn effect(&mut self, transaction: &mut PgConnection, by_rule: bool) -> sqlx::Result<u64> {
        self.next += 1;
        let id = self.next;
        let number = id as i64;
        while self.load.cache.set::<(), _, _>(key(id), STALE, None, None, false).await.is_err() {
            tokio::time::sleep(RETRY).await;
        }
        let owner = owner(self.owner);
        let uid: Uuid = if by_rule {
            let insert = sqlx::query("insert into facts (id, owner) values ($1, $2)").bind(number).bind(owner);
            insert.execute(&mut *transaction).await?;
            let logged = "select uid from griot.log where xid = pg_current_xact_id() and new_row ->> 'id' = $1";
            sqlx::query_scalar(logged).bind(id.to_string()).fetch_one(&mut *transaction).await?
        } else {
            sqlx::query("insert into marks (id) values ($1)").bind(number).execute(&mut *transaction).await?;
            sqlx::query("select griot.invalidate($1)").bind(key(id)).execute(&mut *transaction).await?;
            let publish = sqlx::query_scalar("select griot.publish($1, jsonb_build_object('id', $2::bigint))");
            publish.bind(format!("orders:#{owner}")).bind(number).fetch_one(&mut *transaction).await?
        };
        self.load.book.open(id, self.owner, uid.to_string());
        Ok(id)
    }
}

/// The user of a client.
pub(super) fn owner(client: usize) -> String {
    format!("w{client}")
}

/// Publishes by the API, each until it is confirmed, under one idempotency key.
pub(super) async fn call(load: &Load<'_>, api: SocketAddr, key: &str, pace: Duration) -> Result<()> {
    const FIRST: u64 = 1_000_000_000;
    for id in FIRST.. {
        if load.over.is_cancelled() {
            break;
        }
        load.book.ask(id, 0);
        let channel = format!("orders:#{}", owner(0));
        let body = json!({"channel": channel, "data": {"id": id}, "idempotency_key": id.to_string()}).to_string();
        loop {
            let answer = http::post(api, "/api/publish", &[("X-API-Key", key)], &body).await;
            if answer.and_then(|answer| answer.json()).is_ok_and(|answer| answer.get("result").is_some()) {
                break;
            }
            tokio::time::sleep(RETRY).await;
        }
        load.book.close(&[id], Fate::Committed);
        tokio::time::sleep(pace).await;
    }
    Ok(())
}
