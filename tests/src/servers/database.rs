//! A fresh database per test.

use std::net::SocketAddr;

use anyhow::Result;
use sqlx::{PgPool, postgres::PgPoolOptions};

use super::{Postgres, shared};

/// Copied for every test, because a copy is much faster than the migrations.
const TEMPLATE: &str = "griot_template";

/// A database of its own with Griot's schema in it. It goes with the server.
#[derive(Debug)]
pub struct Database {
    url: String,
    addr: SocketAddr,
    pool: PgPool,
}

impl Database {
    /// A new one on the shared server of this test binary.
    pub async fn fresh() -> Result<Self> {
        Self::fresh_on(&shared().await.postgres).await
    }

    /// A new one on a given server.
    pub async fn fresh_on(postgres: &Postgres) -> Result<Self> {
        postgres.template.get_or_try_init(|| create_template(postgres)).await?;
        Self::create(postgres, &format!("template {TEMPLATE}")).await
    }

    /// A new one without Griot's schema, for tests of the migrations themselves.
    pub async fn empty_on(postgres: &Postgres) -> Result<Self> {
        Self::create(postgres, "").await
    }

    /// The URL of this database, as the superuser.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The URL of the database of this name on another server, or behind a proxy.
    #[must_use]
    pub fn url_at(&self, addr: SocketAddr) -> String {
        self.url.replacen(&self.addr.to_string(), &addr.to_string(), 1)
    }

    /// Connections to this database. It belongs to the runtime of the test that made it.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    async fn create(postgres: &Postgres, options: &str) -> Result<Self> {
        let name = format!("test_{}", uuid::Uuid::new_v4().simple());
        postgres.execute(format!("create database {name} {options}")).await?;
        let url = postgres.url(&name);
        let pool = PgPoolOptions::new().max_connections(8).connect(&url).await?;
        Ok(Self { url, addr: postgres.addr(), pool })
    }
}

async fn create_template(postgres: &Postgres) -> Result<()> {
    postgres.execute(format!("create database {TEMPLATE}")).await?;
    let pool = PgPool::connect(&postgres.url(TEMPLATE)).await?;
    change_log::migrate(&pool).await?;
    // A database that is in use cannot be a template.
    pool.close().await;
    Ok(())
}
