//! Append to the change log inside the caller's transaction: what rolls back takes no effect anywhere.
//!
//! The caller's role needs `griot_writer`. A refused value is an exception in the caller's transaction, which is then
//! aborted as after any failed statement.

use serde::Serialize;
use sqlx::PgExecutor;
use uuid::Uuid;

use crate::error::Error;

/// Publishes `data` on `channel` in every region once the transaction has committed.
///
/// `conflation_key`: on conflated topics a newer publication with the same key replaces an older one that a slow
/// browser has not taken yet. Returns the public id, which clients receive with the publication.
///
/// ```no_run
/// # async fn order_paid(pool: &change_log::PgPool) -> Result<(), Box<dyn std::error::Error>> {
/// let mut transaction = pool.begin().await?;
/// sqlx::query("update orders set status = 'paid' where id = 7").execute(&mut *transaction).await?;
/// let data = serde_json::json!({ "id": 7, "status": "paid" });
/// change_log::append::publish(&mut *transaction, "orders:#42", &data, None).await?;
/// transaction.commit().await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Database`] with a sentence that names the field, the value and the limit when the channel, the data
/// (64 KiB as JSON) or the conflation key (128 bytes) is not valid.
pub async fn publish<'e>(
    executor: impl PgExecutor<'e>,
    channel: &str,
    data: &(impl Serialize + ?Sized),
    conflation_key: Option<&str>,
) -> Result<Uuid, Error> {
    Ok(sqlx::query_scalar("select griot.publish($1, $2::text::jsonb, $3)")
        .bind(channel)
        .bind(serde_json::to_string(data)?)
        .bind(conflation_key)
        .fetch_one(executor)
        .await?)
}

/// Deletes the cache key `key` (1 to 512 bytes) in every region once the transaction has committed.
///
/// # Errors
/// [`Error::Database`] when the key is not valid.
pub async fn invalidate<'e>(executor: impl PgExecutor<'e>, key: &str) -> Result<Uuid, Error> {
    Ok(sqlx::query_scalar("select griot.invalidate($1)").bind(key).fetch_one(executor).await?)
}

/// Deletes every cache key that matches `pattern` (Redis's glob) in every region once the transaction has committed.
///
/// The pattern must begin with a literal character. It costs a scan of the whole keyspace: prefer exact keys.
///
/// # Errors
/// [`Error::Database`] when the pattern is not valid.
pub async fn invalidate_pattern<'e>(executor: impl PgExecutor<'e>, pattern: &str) -> Result<Uuid, Error> {
    Ok(sqlx::query_scalar("select griot.invalidate_pattern($1)").bind(pattern).fetch_one(executor).await?)
}
