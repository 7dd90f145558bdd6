//! What may be appended, and what is refused in the caller's transaction.

use change_log::{Body, append};
use serde_json::json;
use sqlx::Row;

use super::{database, keys, reader, take};

#[tokio::test]
async fn entries_come_back_as_they_were_appended() {
    let database = database().await;
    let mut reader = reader(database.pool()).await;
    let mut transaction = database.pool().begin().await.expect("begin");
    let data = json!({ "total": 9_007_199_254_740_993_i64, "text": "é\n" });
    let published = append::publish(&mut *transaction, "orders:#42", &data, Some("order-7")).await.expect("publish");
    append::invalidate(&mut *transaction, "product:7").await.expect("invalidate");
    append::invalidate_pattern(&mut *transaction, r"search:\*:*").await.expect("pattern");
    transaction.commit().await.expect("commit");

    let entries = take(&mut reader).await;
    let kinds: Vec<_> = entries.iter().map(|entry| entry.body.kind()).collect();
    assert_eq!(kinds, ["publish", "invalidate", "invalidate_pattern"]);
    assert_eq!(entries[0].uid, published);
    let Body::Publish { channel, data, conflation_key } = &entries[0].body else { panic!("{entries:?}") };
    assert_eq!((channel.as_str(), conflation_key.as_deref()), ("orders:#42", Some("order-7")));
    let value: serde_json::Value = serde_json::from_str(data.get()).expect("json");
    assert_eq!(value, json!({ "total": 9_007_199_254_740_993_i64, "text": "é\n" }));
}

#[tokio::test]
async fn what_rolls_back_is_never_seen() {
    let database = database().await;
    let mut reader = reader(database.pool()).await;
    let mut transaction = database.pool().begin().await.expect("begin");
    append::invalidate(&mut *transaction, "gone").await.expect("invalidate");
    transaction.rollback().await.expect("rollback");

    let mut transaction = database.pool().begin().await.expect("begin");
    append::invalidate(&mut *transaction, "before").await.expect("invalidate");
    for (key, end) in [("undone", "rollback to savepoint s"), ("kept", "release savepoint s")] {
        sqlx::query("savepoint s").execute(&mut *transaction).await.expect("savepoint");
        append::invalidate(&mut *transaction, key).await.expect("invalidate");
        sqlx::query(end).execute(&mut *transaction).await.expect(end);
    }
    transaction.commit().await.expect("commit");
    assert_eq!(keys(&take(&mut reader).await), ["before", "kept"]);
}

/// `select griot.FUNCTION(…)` must fail with this sentence.
async fn refused(call: &str, arguments: &[Option<&str>], sentence: &str) {
    let database = database().await;
    let mut query = sqlx::query(sqlx::AssertSqlSafe(format!("select griot.{call}")));
    for argument in arguments {
        query = query.bind(*argument);
    }
    let error = query.fetch_one(database.pool()).await.expect_err(call);
    let error = error.as_database_error().expect("refused by PostgreSQL");
    assert!(error.message().contains(sentence), "{arguments:?}: {}", error.message());
    assert_eq!(error.code().as_deref(), Some("22023"), "{}", error.message());
    assert!(error.message().len() < 300, "a long value is cut");
}

#[tokio::test]
async fn channels_that_could_reach_others_are_refused() {
    let long_user = format!("orders:#{}", "u".repeat(129));
    let long_topic = format!("{}:x", "t".repeat(65));
    let long = format!("orders:{}", "x".repeat(249));
    let user = "a user id is 1 to 128";
    for (channel, sentence) in [
        (None, "channel is missing"),
        (Some(""), "channel is missing"),
        (Some("orders:#"), user),
        (Some("orders:#a#42"), user),
        (Some("orders:#4,2"), user),
        (Some("orders:##42"), user),
        (Some("orders:#4 2"), user),
        (Some("orders:#42\n"), user),
        (Some("orders:#\u{e9}"), user),
        (Some("orders:#\u{ff14}"), user),
        (Some(long_user.as_str()), user),
        (Some("orders:"), "at least one character"),
        (Some("orders:a#42"), "printable ASCII"),
        (Some("orders:4,2"), "printable ASCII"),
        (Some("orders:a b"), "printable ASCII"),
        (Some(":#42"), "a topic is"),
        (Some("#42"), "a topic is"),
        (Some("or ders"), "a topic is"),
        (Some("\u{f6}rders:#42"), "a topic is"),
        (Some(long_topic.as_str()), "a topic is"),
        (Some(long.as_str()), "256 bytes, the limit is 255"),
    ] {
        refused("publish($1, '{}')", &[channel], sentence).await;
    }
}

#[tokio::test]
async fn channels_of_every_kind_and_odd_but_harmless_users_are_taken() {
    let database = database().await;
    let longest = format!("orders:#{}", "u".repeat(128));
    for channel in
        ["orders", "a.b-c_D:x", "orders:room:1", "orders:#4", "orders:#1e2", "orders:#9007199254740993", &longest]
    {
        append::publish(database.pool(), channel, &json!(null), None).await.expect(channel);
    }
}

#[tokio::test]
async fn data_keys_and_patterns_have_limits() {
    let data = format!("\"{}\"", "x".repeat(65_535));
    let (key, conflation_key) = ("k".repeat(513), "k".repeat(129));
    refused("publish('orders', $1::text::jsonb)", &[None], "data is missing").await;
    refused("publish('orders', $1::text::jsonb)", &[Some(&data)], "65537 bytes, the limit is 65536").await;
    refused("publish('orders', '1', $1)", &[Some("")], "conflation_key is empty").await;
    refused("publish('orders', '1', $1)", &[Some(&conflation_key)], "129 bytes, the limit is 128").await;
    for (call, field) in [("invalidate($1)", "key"), ("invalidate_pattern($1)", "pattern")] {
        refused(call, &[None], &format!("{field} is missing")).await;
        refused(call, &[Some("")], &format!("{field} is missing")).await;
        refused(call, &[Some(&key)], "513 bytes, the limit is 512").await;
        refused(call, &[Some("griot:{a.0}:top")], "Griot's own").await;
    }
    for pattern in ["*", "**", "?", "*?*", "[a-z]*", "*suffix"] {
        refused("invalidate_pattern($1)", &[Some(pattern)], "begin with a literal character").await;
    }
    let database = database().await;
    append::invalidate_pattern(database.pool(), r"\*literal").await.expect("an escaped star is literal");
}

#[tokio::test]
async fn the_three_partitions_take_turns_and_none_is_the_default() {
    let database = database().await;
    append::invalidate(database.pool(), "k").await.expect("invalidate");
    let row = sqlx::query("select count(*), min(bucket)::int, max(bucket)::int from griot.log")
        .fetch_one(database.pool())
        .await
        .expect("count");
    assert_eq!(row.get::<i64, _>(0), 1);
    assert!((0..3).contains(&row.get::<i32, _>(1)));
}
