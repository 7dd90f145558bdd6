//! The simulated shop: customers order, pay and are told, prices change. It knows PostgreSQL, the HTTP API, the cache and
//! plain `PUBLISH`, as a real shop would, and nothing else of Griot. What it publishes itself says by which `path` and when
//! (`at_us`), so that the page can show how long the way was; rows carry the moment of their change in a column.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fanout_core::Shutdown;
use fred::interfaces::PubsubInterface;
use griot_tests::http;
use griot_tests::stage::Stage;
use serde_json::json;

use crate::caches::Caches;

/// Who shops here: id and name.
pub(crate) const CUSTOMERS: [(&str, &str); 6] = [
    ("42", "Awa Diop"),
    ("4", "Kofi Mensah"),
    ("2", "Fatou Traoré"),
    ("7", "Chidi Okafor"),
    ("1e2", "Mariam Keïta"),
    ("9007199254740993", "Kwame Boateng"),
];

const STEPS: [&str; 5] = ["placed", "paid", "packed", "shipped", "delivered"];

/// Turns after which everybody has been told something in each way.
const ROUND: usize = 3 * CUSTOMERS.len();
const OVER_HTTP: [&str; 3] =
    ["Your parcel is around the corner", "Your parcel has left Tema harbour", "The tailor has your measures"];
const OVER_REDIS: [&str; 3] =
    ["A neighbour liked your last order", "Kora strings are back in the shop", "Market day is on Saturday"];

/// Lives until the ending is asked for. A failing step is reported and the next one tried.
pub(crate) async fn run(stage: Arc<Stage>, caches: Arc<Caches>, shutdown: Shutdown) {
    let redis = match stage.servers.redis.client().await {
        Ok(redis) => redis,
        Err(error) => return eprintln!("demo: the shop has no Redis: {error:#}"),
    };
    if let Err(error) = open_with_orders(&stage).await {
        eprintln!("demo: the shop opens without earlier orders: {error:#}");
    }
    let mut turn = 0_usize;
    while shutdown.pause(Duration::from_millis(350)).await {
        let (user, _) = CUSTOMERS[turn % CUSTOMERS.len()];
        let step = async {
            order(&stage, user, turn).await?;
            match turn / CUSTOMERS.len() % 3 {
                0 => pay(&stage, &caches, user, turn).await?,
                1 => notify(&stage, user, turn).await?,
                _ => {
                    let text = OVER_REDIS[turn / ROUND % OVER_REDIS.len()];
                    let hello = json!({"user_id": user, "text": text, "path": "raw", "at_us": now_us()});
                    let _: i64 = redis.publish("notifications", hello.to_string()).await?;
                }
            }
            if turn.is_multiple_of(5) {
                change_price(&stage, turn).await?;
            }
            Ok::<(), anyhow::Error>(())
        };
        if let Err(error) = step.await
            && !shutdown.is_requested()
        {
            eprintln!("\ndemo: the shop stumbled: {error:#}");
        }
        turn += 1;
    }
}

/// Everybody has ordered before, so that no page begins empty.
async fn open_with_orders(stage: &Stage) -> Result<()> {
    let customers: Vec<&str> = CUSTOMERS.iter().map(|(id, _)| *id).collect();
    sqlx::query(
        "insert into orders (user_id, status, total_cents)
         select customer, status, 30000 + (hashtext(customer || status)::bigint & 262143)
         from unnest($1::text[]) as customer, unnest(array['delivered', 'refunded', 'shipped']) as status",
    )
    .bind(customers)
    .execute(stage.database.pool())
    .await?;
    Ok(())
}

/// A new order every few turns, and the next step of an older one.
async fn order(stage: &Stage, user: &str, turn: usize) -> Result<()> {
    let pool = stage.database.pool();
    if (turn / CUSTOMERS.len()).is_multiple_of(STEPS.len()) {
        let total = 40_000 + i64::try_from(turn * 7_919 % 300_000)?;
        sqlx::query("insert into orders (user_id, total_cents) values ($1, $2)")
            .bind(user)
            .bind(total)
            .execute(pool)
            .await?;
        return Ok(());
    }
    for pair in STEPS.windows(2) {
        let moved = sqlx::query(
            "update orders set status = $3
             where id = (select id from orders where user_id = $1 and status = $2 order by id desc limit 1)",
        )
        .bind(user)
        .bind(pair[0])
        .bind(pair[1])
        .execute(pool)
        .await?;
        if moved.rows_affected() > 0 {
            return Ok(());
        }
    }
    Ok(())
}

/// A payment and its message in one transaction, both or neither, and then the new balance in the cache.
async fn pay(stage: &Stage, caches: &Caches, user: &str, turn: usize) -> Result<()> {
    let amount = i64::try_from(turn * 104_729 % 20_000)? - 9_500;
    let text = if amount < 0 { "Your payment was taken" } else { "A refund has arrived" };
    let write = async || {
        let mut transaction = stage.database.pool().begin().await?;
        let balance: String = sqlx::query_scalar(
            "update wallets set balance_cents = balance_cents + $2, version = version + 1 where user_id = $1
             returning jsonb_build_object('balance_cents', balance_cents, 'version', version)::text",
        )
        .bind(user)
        .bind(amount)
        .fetch_one(&mut *transaction)
        .await?;
        let data = json!({"text": text, "amount_cents": amount, "path": "sql", "at_us": now_us()});
        change_log::append::publish(&mut *transaction, &format!("notifications:#{user}"), &data, None).await?;
        transaction.commit().await?;
        anyhow::Ok(balance)
    };
    let (balances, key) = caches.balance(user);
    balances.write_through(&key, write).await.context("paying")?;
    Ok(())
}

async fn notify(stage: &Stage, user: &str, turn: usize) -> Result<()> {
    let text = OVER_HTTP[turn / ROUND % OVER_HTTP.len()];
    let body = json!({
        "channel": format!("notifications:#{user}"),
        "data": {"text": text, "path": "http", "at_us": now_us()},
    });
    let answer =
        http::post(stage.api_addr, "/api/publish", &[("X-API-Key", &stage.api_key)], &body.to_string()).await?;
    ensure!(
        answer.status == 200 && answer.body.contains("result"),
        "the API answered {} {}",
        answer.status,
        answer.body
    );
    Ok(())
}

async fn change_price(stage: &Stage, turn: usize) -> Result<()> {
    let change = i64::try_from(turn * 31 % 40)? * 100 - 1_900;
    sqlx::query("update products set price_cents = greatest(100000, price_cents + $2) where id = $1")
        .bind(if turn.is_multiple_of(2) { 1_i64 } else { 2 })
        .bind(change)
        .execute(stage.database.pool())
        .await?;
    Ok(())
}

/// Microseconds since 1970.
pub(crate) fn now_us() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
