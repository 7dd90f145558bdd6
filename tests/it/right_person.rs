//! Right person only: ids that are easy to mistake, over every path at once, and names that try to reach others.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fanout_core::{Channel, Data, Publication};
use fred::interfaces::PubsubInterface;
use futures::future::try_join_all;
use futures::stream::{self, TryStreamExt};
use griot_tests::bridge::publisher;
use griot_tests::client::Client;
use griot_tests::http;
use griot_tests::stage::{RULES, SCHEMA, Script, Stage};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);
const USERS: usize = 200;
/// Over each of five paths.
const PER_PATH: usize = 4_000;

const LETTERS: &str = "
create table letters (id bigint generated always as identity, user_id text, \"to\" text);
create table numbered (id bigint generated always as identity, user_id bigint, \"to\" text);
create table exact (id bigint generated always as identity, user_id numeric, \"to\" text);";

const LETTER_RULES: &str = r#"
[rules.letters]
table = "public.letters"
[rules.letters.publication]
channel = "notifications:#{user_id}"
data = ["to"]

[rules.numbered]
table = "public.numbered"
[rules.numbered.publication]
channel = "notifications:#{user_id}"
data = ["to"]

[rules.exact]
table = "public.exact"
[rules.exact.publication]
channel = "notifications:#{user_id}"
data = ["to"]

[rules.rooms]
table = "public.letters"
[rules.rooms.publication]
channel = "products:{user_id}"
data = ["to"]
"#;

/// What nobody may be called, and what must reach nobody.
const NOBODY: [&str; 6] = ["", "4,2", "a#42", "#42", "4 2", "42\n"];

fn users() -> Vec<String> {
    let alike = [
        "4",
        "2",
        "42",
        "24",
        "04",
        "1e2",
        "100",
        "1E2",
        "9007199254740993",
        "9007199254740992",
        "-4",
        "a",
        "A",
        "a:42",
        "*",
        "orders:42",
        "{42}",
        "null",
        "true",
        "42]",
    ];
    alike.into_iter().map(str::to_owned).chain((alike.len()..USERS).map(|n| (1_000 + n).to_string())).collect()
}

async fn stage() -> Result<Stage> {
    let script =
        Script { schema: format!("{SCHEMA}{LETTERS}"), rules: format!("{RULES}{LETTER_RULES}"), ..Script::default() };
    Stage::start(script).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_receives_what_was_for_another_over_all_paths_at_once() -> Result<()> {
    let stage = stage().await?;
    let users = users();
    let clients = users.iter().map(|user| async {
        let (client, _) = Client::connect(&stage.socket(), &stage.token(user)).await.with_context(|| user.clone())?;
        anyhow::Ok((user.clone(), client))
    });
    let clients: HashMap<String, Client> = try_join_all(clients).await?.into_iter().collect();
    tokio::try_join!(
        raw(&stage, &users),
        api(&stage, &users),
        library(&stage, &users),
        sql(&stage, &users),
        rows(&stage, &users),
        to_nobody(&stage),
    )?;
    let each = 5 * PER_PATH / USERS;
    for (user, client) in &clients {
        for n in 0..each {
            let arrived = client.next_publication(SOON).await.with_context(|| format!("{user} has {n} of {each}"))?;
            let (channel, publication) = arrived;
            ensure!(publication["data"]["to"] == **user, "{user} received {channel} {publication}");
            ensure!(channel.split_once(":#").map(|(_, owner)| owner) == Some(user), "{user} received on {channel}");
        }
    }
    // The last word to everybody: whatever else was on its way has come before it.
    for user in &users {
        call_api(&stage, &format!("orders:#{user}"), &json!({"to": user, "last": true})).await?;
        let (_, publication) = clients[user].next_publication(SOON).await?;
        ensure!(publication["data"]["last"] == true, "{user} received one too many: {publication}");
    }
    Ok(())
}

async fn raw(stage: &Stage, users: &[String]) -> Result<()> {
    let redis = stage.servers.redis.client().await?;
    for turn in 0..PER_PATH {
        let user = &users[turn % users.len()];
        let number = user.parse::<i64>().ok().filter(|number| number.to_string() == *user);
        let owner = number.filter(|_| turn.is_multiple_of(2)).map_or(json!(user), |number| json!(number));
        let field = ["user_id", "userId"][turn / users.len() % 2];
        let topic = ["orders", "notifications", "wallet-updates"][turn % 3];
        let _: i64 = redis.publish(topic, json!({field: owner, "to": user}).to_string()).await?;
    }
    Ok(())
}

async fn call_api(stage: &Stage, channel: &str, data: &Value) -> Result<Value> {
    let body = json!({"channel": channel, "data": data}).to_string();
    let key = [("X-API-Key", stage.api_key.as_str())];
    http::post(stage.api_addr, "/api/publish", &key, &body).await?.json()
}

async fn api(stage: &Stage, users: &[String]) -> Result<()> {
    let turns = stream::iter((0..PER_PATH).map(Ok));
    let call = |turn: usize| async move {
        let user = &users[turn % users.len()];
        let answer = call_api(stage, &format!("orders:#{user}"), &json!({"to": user})).await?;
        ensure!(answer["result"].is_object(), "{user}: {answer}");
        Ok(())
    };
    turns.try_for_each_concurrent(8, call).await
}

async fn library(stage: &Stage, users: &[String]) -> Result<()> {
    let publisher = publisher(&stage.servers.redis.url())?;
    for batch in (0..PER_PATH).collect::<Vec<_>>().chunks(100) {
        let publications = batch.iter().map(|turn| {
            let user = &users[turn % users.len()];
            let channel = Channel::parse(&format!("wallet-updates:#{user}"))?;
            Ok(Publication::new(channel, Data::parse(json!({"to": user}).to_string())?))
        });
        for receipt in publisher.publish_all(publications.collect::<Result<Vec<_>>>()?).await {
            receipt?;
        }
    }
    Ok(())
}

async fn sql(stage: &Stage, users: &[String]) -> Result<()> {
    for batch in (0..PER_PATH).collect::<Vec<_>>().chunks(10) {
        let mut transaction = stage.database.pool().begin().await?;
        for turn in batch {
            let user = &users[turn % users.len()];
            let data = json!({"to": user});
            change_log::append::publish(&mut *transaction, &format!("notifications:#{user}"), &data, None).await?;
        }
        transaction.commit().await?;
    }
    Ok(())
}

/// A third each by text, bigint and numeric owners, where the id is a number.
async fn rows(stage: &Stage, users: &[String]) -> Result<()> {
    for turn in 0..PER_PATH {
        let user = &users[turn % users.len()];
        let number = user.parse::<i64>().is_ok_and(|number| number.to_string() == *user);
        let insert = match turn / users.len() % 3 {
            0 if number => "insert into numbered (user_id, \"to\") values ($1::bigint, $1)",
            1 if number => "insert into exact (user_id, \"to\") values ($1::numeric, $1)",
            _ => "insert into letters (user_id, \"to\") values ($1, $1)",
        };
        sqlx::query(insert).bind(user).execute(stage.database.pool()).await?;
    }
    Ok(())
}

/// Every way in, with ids that are none: each is refused where it enters, or counted and dropped.
async fn to_nobody(stage: &Stage) -> Result<()> {
    let redis = stage.servers.redis.client().await?;
    for user in NOBODY {
        let _: i64 = redis.publish("orders", json!({"user_id": user, "to": "nobody"}).to_string()).await?;
        let answer = call_api(stage, &format!("orders:#{user}"), &json!({"to": "nobody"})).await?;
        ensure!(answer["error"]["code"] == 107, "{user:?}: {answer}");
        let channel = format!("orders:#{user}");
        let refused =
            change_log::append::publish(stage.database.pool(), &channel, &json!({"to": "nobody"}), None).await;
        let words = refused.err().with_context(|| format!("SQL took {channel:?}"))?.to_string();
        ensure!(words.contains("user id"), "{words}");
        sqlx::query("insert into letters (user_id, \"to\") values ($1, 'nobody')")
            .bind(user)
            .execute(stage.database.pool())
            .await?;
    }
    for owner in ["null", "1e2", "4.0", "[42]", "{\"id\":42}", "99999999999999999999"] {
        let _: i64 = redis.publish("orders", format!("{{\"user_id\":{owner},\"to\":\"nobody\"}}")).await?;
    }
    let _: i64 = redis.publish("orders", r#"{"user_id":42,"userId":"4","to":"nobody"}"#).await?;
    let _: i64 = redis.publish("orders", r#"{"to":"nobody"}"#).await?;
    sqlx::query("insert into letters (\"to\") values ('nobody')").execute(stage.database.pool()).await?;
    Ok(())
}
