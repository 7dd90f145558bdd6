//! The whole of Griot on one machine: private servers, the shop's database, and the three workers as processes.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use tokio::sync::Mutex;

use crate::process::{Launch, Worker};
use crate::servers::{Database, Servers, free_addr};
use crate::supervisor::TemporaryFolder;
use crate::token;

/// Tables of the shop.
pub const SCHEMA: &str = include_str!("../shop/schema.sql");
/// What changes of them mean.
pub const RULES: &str = include_str!("../shop/rules.toml");
/// The shop's topics.
pub const TOPICS: &str = include_str!("../shop/topics.toml");

/// What the workers need beyond the servers.
#[derive(Debug, Clone)]
pub struct Script {
    /// SQL that makes the application's tables.
    pub schema: String,
    /// Rules in TOML.
    pub rules: String,
    /// Topics in TOML.
    pub topics: String,
    /// Origins of pages that may connect.
    pub origins: Vec<String>,
    /// More lines of `[invalidation_worker]`.
    pub worker: String,
    /// More settings of PostgreSQL, as [`Postgres::start_with`](crate::servers::Postgres::start_with) takes them.
    pub postgres: &'static [&'static str],
    /// Where the workers find Redis, when that is not where it listens: a [`Proxy`](crate::proxy::Proxy).
    pub redis_at: Option<SocketAddr>,
    /// Where they find PostgreSQL, likewise.
    pub postgres_at: Option<SocketAddr>,
}

impl Default for Script {
    /// The shop.
    fn default() -> Self {
        Self {
            schema: SCHEMA.into(),
            rules: RULES.into(),
            topics: TOPICS.into(),
            origins: Vec::new(),
            worker: String::new(),
            postgres: &[],
            redis_at: None,
            postgres_at: None,
        }
    }
}

/// Everything running. It ends with this value.
#[derive(Debug)]
pub struct Stage {
    /// Redis and PostgreSQL.
    pub servers: Servers,
    /// The application's database, with Griot's schema in it.
    pub database: Database,
    /// The secret that signs connection tokens.
    pub secret: String,
    /// The key of the API.
    pub api_key: String,
    /// Where browsers connect.
    pub bridge_addr: SocketAddr,
    /// Where operators look at the bridge.
    pub bridge_admin: SocketAddr,
    /// Where backends call.
    pub api_addr: SocketAddr,
    /// Where operators look at the publisher.
    pub publisher_admin: SocketAddr,
    /// Where operators look at the invalidation-worker.
    pub worker_admin: SocketAddr,
    /// The configuration of all workers, in TOML.
    pub config: String,
    bridge: Mutex<Worker>,
    publisher: Mutex<Worker>,
    worker: Mutex<Worker>,
    _folder: TemporaryFolder,
}

impl Stage {
    /// Starts the servers, makes the schema, applies the rules and starts the workers; returns when all are ready.
    pub async fn start(script: Script) -> Result<Self> {
        Self::on(Servers::start_with(script.postgres).await?, script).await
    }

    /// [`Stage::start`] on servers that run already.
    pub async fn on(servers: Servers, script: Script) -> Result<Self> {
        let database = Database::fresh_on(&servers.postgres).await?;
        sqlx::raw_sql(sqlx::AssertSqlSafe(script.schema.clone()))
            .execute(database.pool())
            .await
            .context("the schema")?;
        let folder = TemporaryFolder::new()?;
        let rules = folder.path().join("rules.toml").to_string_lossy().into_owned();
        std::fs::write(&rules, &script.rules)?;
        let (secret, api_key) = (random(), random());
        let [bridge_addr, bridge_admin, api_addr, publisher_admin, worker_admin] =
            [free_addr()?, free_addr()?, free_addr()?, free_addr()?, free_addr()?];
        let config = format!(
            "{topics}\n\
             [redis]\nurl = {redis:?}\n\
             [database]\nurl = {database:?}\n\
             [subscriber_bridge]\nlisten = \"{bridge_addr}\"\nadmin_listen = \"{bridge_admin}\"\n\
             token_secret = {secret:?}\nallowed_origins = {origins:?}\n\
             [publisher]\nlisten = \"{api_addr}\"\nadmin_listen = \"{publisher_admin}\"\napi_key = {api_key:?}\n\
             [invalidation_worker]\nadmin_listen = \"{worker_admin}\"\nrules = {rules:?}\n{worker}\n",
            worker = script.worker,
            topics = script.topics,
            redis = format!("redis://{}", script.redis_at.unwrap_or(servers.redis.addr())),
            database = database.url_at(script.postgres_at.unwrap_or(servers.postgres.addr())),
            origins = script.origins,
        );
        let applied = Launch::new("invalidation-worker").arg("rules").arg("apply").arg(rules);
        let applied = applied.env("DATABASE_URL", database.url()).run().await?;
        ensure!(applied.status.success(), "rules apply: {}", String::from_utf8_lossy(&applied.stderr));
        let start = |name: &str, admin| Launch::new(name).config(config.clone()).ready_at(admin).start();
        let (bridge, publisher, worker) = tokio::try_join!(
            start("subscriber-bridge", bridge_admin),
            start("publisher", publisher_admin),
            start("invalidation-worker", worker_admin),
        )?;
        Ok(Self {
            servers,
            database,
            secret,
            api_key,
            bridge_addr,
            bridge_admin,
            api_addr,
            publisher_admin,
            worker_admin,
            config,
            bridge: Mutex::new(bridge),
            publisher: Mutex::new(publisher),
            worker: Mutex::new(worker),
            _folder: folder,
        })
    }

    /// The address for clients of the protocol.
    pub fn socket(&self) -> String {
        format!("ws://{}/connection/websocket", self.bridge_addr)
    }

    /// A token for `user`.
    pub fn token(&self, user: &str) -> String {
        token::token(&self.secret, user)
    }

    /// The process id of the bridge.
    pub async fn bridge_pid(&self) -> u32 {
        self.bridge.lock().await.pid()
    }

    /// The bridge's process.
    pub async fn bridge(&self) -> tokio::sync::MutexGuard<'_, Worker> {
        self.bridge.lock().await
    }

    /// The publisher's process.
    pub async fn publisher(&self) -> tokio::sync::MutexGuard<'_, Worker> {
        self.publisher.lock().await
    }

    /// The invalidation-worker's process.
    pub async fn worker(&self) -> tokio::sync::MutexGuard<'_, Worker> {
        self.worker.lock().await
    }

    /// Starts the bridge again, on the same addresses, when it has ended.
    pub async fn revive_bridge(&self) -> Result<()> {
        let again = Launch::new("subscriber-bridge").config(self.config.clone()).ready_at(self.bridge_admin);
        *self.bridge.lock().await = again.start().await?;
        Ok(())
    }

    /// Starts the publisher again, on the same addresses, when it has ended.
    pub async fn revive_publisher(&self) -> Result<()> {
        let again = Launch::new("publisher").config(self.config.clone()).ready_at(self.publisher_admin);
        *self.publisher.lock().await = again.start().await?;
        Ok(())
    }

    /// Starts the invalidation-worker again after it was killed.
    pub async fn revive_worker(&self) -> Result<()> {
        let again = Launch::new("invalidation-worker").config(self.config.clone()).ready_at(self.worker_admin);
        *self.worker.lock().await = again.start().await?;
        Ok(())
    }

    /// Whether the bridge has ended, however.
    pub async fn bridge_ended(&self) -> bool {
        self.bridge.lock().await.has_ended()
    }
}

/// 64 hexadecimal digits.
fn random() -> String {
    format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple())
}
