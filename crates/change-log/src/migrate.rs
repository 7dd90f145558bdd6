//! The migrations of the schema `griot`.

use sqlx::PgPool;

use crate::error::Error;

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
