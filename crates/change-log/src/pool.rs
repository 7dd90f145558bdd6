//! Connections to PostgreSQL with the limits that sqlx leaves open, and the migrations.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Executor, PgPool};

use crate::error::Error;

/// How long a call may wait for a connection.
const ACQUIRE: Duration = Duration::from_secs(3);

/// A few connections to the database at `url`, opened when first needed: PostgreSQL may be away when this returns.
///
/// # Errors
/// [`Error::Address`] when `url` is not a PostgreSQL address.
pub fn pool(url: &str, application_name: &str) -> Result<PgPool, Error> {
    let options = PgConnectOptions::from_str(url)
        .map_err(|error| Error::Address(error.to_string()))?
        .application_name(application_name);
    Ok(PgPoolOptions::new()
        .max_connections(4)
        .acquire_timeout(ACQUIRE)
        .after_connect(|connection, _| {
            Box::pin(async move {
                // sqlx has no keepalive of its own: a peer that vanished would hold the server's side for hours. The
                // server's limit on a statement also ends what a cancelled call left behind.
                connection
                    .execute(
                        "set tcp_keepalives_idle = 20; set tcp_keepalives_interval = 5; set tcp_keepalives_count = 3; \
                         set statement_timeout = '30s'; set idle_in_transaction_session_timeout = '30s'",
                    )
                    .await?;
                Ok(())
            })
        })
        .connect_lazy_with(options))
}

/// Brings the schema `griot` up to date. Safe to call from several processes at once, and again.
///
/// The role that runs this owns the schema. It needs the right to create a schema, and to create roles unless
/// `griot_writer` and `griot_worker` exist already.
///
/// # Errors
/// [`Error::Migrate`] when the server refuses or an applied migration was edited afterwards.
pub async fn migrate(pool: &PgPool) -> Result<(), Error> {
    let mut migrator = sqlx::migrate!("../../migrations");
    // sqlx's default table would be shared with the application's own sqlx migrations, and neither would start.
    migrator.create_schema("griot");
    migrator.dangerous_set_table_name("griot.migration");
    let mut connection = pool.acquire().await?;
    // The migrator's lock belongs to the session and stays when a migration fails or this is not waited for; back in the
    // pool, the connection would keep everybody else from migrating.
    connection.close_on_drop();
    migrator.run(&mut *connection).await?;
    Ok(())
}
