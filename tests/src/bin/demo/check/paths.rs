//! The five ways in which a publication enters Griot.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fred::clients::Client as Redis;
use fred::interfaces::{KeysInterface, PubsubInterface};
use futures::stream::{self, TryStreamExt};
use griot_tests::http;
use griot_tests::process::Launch;
use griot_tests::stage::Stage;
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};
use uuid::Uuid;

use super::Fault;
use super::ledger::Ledger;
use crate::shop::now_us;

/// One way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Path {
    /// Plain PUBLISH.
    Raw,
    /// The HTTP API.
    Api,
    /// The command line.
    Send,
    /// `griot.publish` in a transaction.
    Sql,
    /// A row change that a rule turns into a publication.
    Row,
}

/// All of them, in the order in which the check tries them.
pub(crate) const PATHS: [Path; 5] = [Path::Raw, Path::Api, Path::Send, Path::Sql, Path::Row];

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Raw => "raw Redis PUBLISH",
            Self::Api => "HTTP API",
            Self::Send => "publisher send (with process start)",
            Self::Sql => "SQL griot.publish, 10 % rolled back",
            Self::Row => "row change through a rule",
        })
    }
}

/// Between two publications of one path: a steady 500 per second, so that latencies mean something.
const PACE: Duration = Duration::from_millis(2);
/// Senders that wait for an answer at the same time.
const CONCURRENCY: usize = 4;

/// Sends, and keeps the books.
pub(crate) struct Sender<'a> {
    stage: &'a Stage,
    redis: Redis,
    users: Vec<String>,
    count: usize,
    ledger: Arc<Ledger>,
    fault: Option<Fault>,
}

impl<'a> Sender<'a> {
    /// Prepares the rows that will change.
    pub(crate) async fn new(
        stage: &'a Stage,
        users: Vec<String>,
        count: usize,
        ledger: Arc<Ledger>,
        fault: Option<Fault>,
    ) -> Result<Self> {
        sqlx::query(
            "insert into parcels select n, ($1::text[])[1 + n % cardinality($1)], 'old-' || n, '', '' \
             from generate_series(0, $2 - 1) n",
        )
        .bind(&users)
        .bind(i32::try_from(count)?)
        .execute(stage.database.pool())
        .await?;
        let redis = stage.servers.redis.client().await?;
        Ok(Self { stage, redis, users, count, ledger, fault })
    }

    /// Sends all publications of `path`.
    pub(crate) async fn send(&self, path: Path) -> Result<()> {
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let turns = stream::unfold((pace, 0), |(mut pace, turn)| async move {
            if turn == self.count {
                return None;
            }
            pace.tick().await;
            Some((Ok::<usize, anyhow::Error>(turn), (pace, turn + 1)))
        });
        turns.try_for_each_concurrent(CONCURRENCY, |turn| self.one(path, turn)).await
    }

    async fn one(&self, path: Path, turn: usize) -> Result<()> {
        let user = &self.users[turn % self.users.len()];
        let id = Uuid::new_v4().to_string();
        self.ledger.sending(&id, path, user, now_us());
        match path {
            Path::Raw => self.raw(user, &id, turn).await,
            Path::Api => self.api(user, &id, turn).await,
            Path::Send => self.command_line(user, &id).await,
            Path::Sql => self.sql(user, &id, turn).await,
            Path::Row => self.row(user, &id, turn).await,
        }
    }

    /// The faults are planted in the middle.
    fn breaks(&self, fault: Fault, turn: usize) -> bool {
        self.fault == Some(fault) && turn == self.count / 2
    }

    async fn raw(&self, user: &str, id: &str, turn: usize) -> Result<()> {
        if self.breaks(Fault::Drop, turn) {
            return Ok(());
        }
        let field = if turn.is_multiple_of(2) { "user_id" } else { "userId" };
        let owner = user.parse::<i64>().ok().filter(|n| n.to_string() == user).map_or(json!(user), |n| json!(n));
        let _: i64 = self.redis.publish("orders", json!({field: owner, "check": id}).to_string()).await?;
        Ok(())
    }

    async fn api(&self, user: &str, id: &str, turn: usize) -> Result<()> {
        let user = if self.breaks(Fault::Misroute, turn) { &self.users[(turn + 1) % self.users.len()] } else { user };
        self.call_api(user, &json!({"check": id})).await
    }

    async fn call_api(&self, user: &str, data: &serde_json::Value) -> Result<()> {
        let body = json!({"channel": format!("orders:#{user}"), "data": data}).to_string();
        let key = [("X-API-Key", self.stage.api_key.as_str())];
        let answer = http::post(self.stage.api_addr, "/api/publish", &key, &body).await?;
        ensure!(answer.status == 200 && answer.body.contains("\"result\""), "{} {}", answer.status, answer.body);
        Ok(())
    }

    async fn command_line(&self, user: &str, id: &str) -> Result<()> {
        let data = json!({"check": id}).to_string();
        let send = Launch::new("publisher").arg("send").arg(format!("notifications:#{user}")).arg(data);
        let ended = send.env("REDIS_URL", self.stage.servers.redis.url()).run().await?;
        ensure!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        let printed = String::from_utf8(ended.stdout)?;
        let public_id = printed.split(' ').next().context("publisher send prints the public id")?;
        self.ledger.public_id(id, public_id.to_owned());
        Ok(())
    }

    async fn sql(&self, user: &str, id: &str, turn: usize) -> Result<()> {
        let mut transaction = self.stage.database.pool().begin().await?;
        let channel = format!("wallet-updates:#{user}");
        let data = json!({"check": id});
        let public_id = change_log::append::publish(&mut *transaction, &channel, &data, None).await?;
        self.ledger.public_id(id, public_id.to_string());
        if turn % 10 == 9 {
            transaction.rollback().await?;
            self.ledger.rolled_back(id);
        } else {
            self.ledger.sending_now(id);
            transaction.commit().await?;
        }
        Ok(())
    }

    /// Both keys are cached before the commit; when the push arrives, neither may be there.
    async fn row(&self, user: &str, id: &str, turn: usize) -> Result<()> {
        let (old, new) = (format!("old-{turn}"), format!("new-{turn}"));
        for code in [&old, &new] {
            let _: () = self.redis.set(format!("parcel:{code}"), "before", None, None, false).await?;
        }
        if self.breaks(Fault::Late, turn) {
            self.call_api(user, &json!({"check": id, "code": new, "previous": old})).await?;
            self.ledger.wait_for(id, Duration::from_secs(5)).await;
        }
        let update = sqlx::query("update parcels set code = $2, previous = $3, \"check\" = $4 where id = $1")
            .bind(i64::try_from(turn)?)
            .bind(&new)
            .bind(&old)
            .bind(id);
        self.ledger.sending_now(id);
        let changed = update.execute(self.stage.database.pool()).await?;
        ensure!(changed.rows_affected() == 1, "row {turn} is missing");
        Ok(())
    }
}
