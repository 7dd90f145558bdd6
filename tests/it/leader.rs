//! Two workers of one region: one leads, the other stands by and takes over, and nothing takes effect twice.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use griot_tests::client::Client;
use griot_tests::eventually::{eventually, eventually_some};
use griot_tests::http;
use griot_tests::process::{Launch, Worker};
use griot_tests::servers::free_addr;
use griot_tests::stage::{Script, Stage};
use serde_json::json;

const SOON: Duration = Duration::from_secs(30);
/// What the second worker promises after the death of the first.
const TAKEOVER: Duration = Duration::from_secs(2);

/// A stage whose own worker leads, and a second worker that stands by.
struct Pair {
    stage: Stage,
    second: Worker,
    second_admin: SocketAddr,
    client: Client,
    said: i64,
}

impl Pair {
    async fn start() -> Result<Self> {
        let stage = Stage::start(Script::default()).await?;
        // Ready is also who stands by: only the one who leads says nothing more.
        eventually(SOON, "the first worker leads", || async { gauge(stage.worker_admin, "griot_leader").await == 1 })
            .await;
        let second_admin = free_addr()?;
        let config = stage.config.replace(&stage.worker_admin.to_string(), &second_admin.to_string());
        let second = Launch::new("invalidation-worker").config(config).ready_at(second_admin).start().await?;
        let (client, _) = Client::connect(&stage.socket(), &stage.token("42")).await?;
        Ok(Self { stage, second, second_admin, client, said: 0 })
    }

    /// Publishes the next number inside PostgreSQL.
    async fn say(&mut self) -> Result<()> {
        self.said += 1;
        let data = json!({"n": self.said});
        change_log::append::publish(self.stage.database.pool(), "orders:#42", &data, None).await?;
        Ok(())
    }

    /// The numbers up to the last one said arrive, each once and in order.
    async fn hear(&self, from: i64) -> Result<()> {
        for n in from..=self.said {
            let (_, publication) = self.client.next_publication(SOON).await?;
            ensure!(publication["data"]["n"] == n, "expected {n}: {publication}");
        }
        Ok(())
    }

    async fn say_and_hear(&mut self) -> Result<()> {
        self.say().await?;
        self.hear(self.said).await
    }

    /// The leader's row: term, and whether it has run out.
    async fn row(&self) -> Result<(i64, bool)> {
        let row = sqlx::query_as("select term, until <= clock_timestamp() from griot.leader where region = 'local'");
        Ok(row.fetch_one(self.stage.database.pool()).await?)
    }

    async fn cursor(&self) -> Result<(i64, String)> {
        let row = sqlx::query_as("select term, snapshot::text from griot.cursor where region = 'local'");
        Ok(row.fetch_one(self.stage.database.pool()).await?)
    }
}

/// The value of a metric without labels; what is not there is -1.
async fn gauge(admin: SocketAddr, name: &str) -> i64 {
    let text = http::get(admin, "/metrics").await.map(|answer| answer.body).unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or(-1)
}

async fn readiness(admin: SocketAddr, words: &str) {
    eventually(SOON, &format!("{admin} is ready: {words}"), || async {
        let answer = http::get(admin, "/readyz").await;
        answer.is_ok_and(|answer| answer.status == 200 && answer.body.contains(words))
    })
    .await;
}

/// Every worker's sum of a counter.
async fn sum(admins: [SocketAddr; 2], name: &str) -> i64 {
    gauge(admins[0], name).await + gauge(admins[1], name).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_leads_and_the_other_is_ready_and_says_that_it_stands_by() -> Result<()> {
    let mut pair = Pair::start().await?;
    readiness(pair.second_admin, "standby").await;
    let answer = http::get(pair.stage.worker_admin, "/readyz").await?;
    ensure!(answer.body == "ready\n", "the leader: {answer:?}");
    ensure!(gauge(pair.second_admin, "griot_leader").await == 0, "the standby is no leader");
    for _ in 0..50 {
        pair.say_and_hear().await?;
    }
    let admins = [pair.stage.worker_admin, pair.second_admin];
    eventually(SOON, "all 50 are counted", || async { sum(admins, "griot_log_publications_total").await == 50 }).await;
    ensure!(sum(admins, "griot_log_publications_repeated_total").await == 0, "nor tried to");
    let status = Launch::new("invalidation-worker").arg("status").env("DATABASE_URL", pair.stage.database.url());
    let said = String::from_utf8(status.run().await?.stdout)?;
    let pid = pair.stage.worker().await.pid();
    ensure!(said.contains("region local: led by ") && said.contains(&format!("/{pid}/")), "{said}");
    ensure!(said.contains("in term 1 for another"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_kill_9_the_other_takes_over_within_two_seconds_and_nothing_arrives_twice() -> Result<()> {
    let mut pair = Pair::start().await?;
    for _ in 0..20 {
        pair.say_and_hear().await?;
    }
    pair.stage.worker().await.kill().await?;
    let killed = Instant::now();
    pair.say_and_hear().await?;
    ensure!(killed.elapsed() < TAKEOVER, "the first effect came after {:?}", killed.elapsed());
    readiness(pair.second_admin, "ready\n").await;
    ensure!(pair.row().await? == (2, false), "the second term: {:?}", pair.row().await?);
    ensure!(gauge(pair.second_admin, "griot_takeovers_total").await == 1);
    for _ in 0..20 {
        pair.say_and_hear().await?;
    }
    // And back: who was killed comes again as a standby.
    pair.stage.revive_worker().await?;
    readiness(pair.stage.worker_admin, "standby").await;
    pair.second.kill().await?;
    let killed = Instant::now();
    pair.say_and_hear().await?;
    ensure!(killed.elapsed() < TAKEOVER, "the first effect came after {:?}", killed.elapsed());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_stopped_wakes_as_a_standby_and_has_done_nothing() -> Result<()> {
    let mut pair = Pair::start().await?;
    let first = pair.stage.worker_admin;
    for turn in 0..3 {
        pair.say_and_hear().await?;
        let counters = ["griot_log_publications_total", "griot_keys_deleted_total", "griot_keys_swept_total"];
        // A client can hear a publication before the worker counts it.
        let counted = async || gauge(first, counters[0]).await == turn + 1;
        eventually(SOON, "its publication is counted", &counted).await;
        let mut before = Vec::new();
        for counter in counters {
            before.push(gauge(first, counter).await);
        }
        pair.stage.worker().await.pause()?;
        let stopped = Instant::now();
        pair.say_and_hear().await?;
        ensure!(stopped.elapsed() < TAKEOVER, "turn {turn}: the first effect came after {:?}", stopped.elapsed());
        // More than one page of work for it, should it still think that it leads.
        for _ in 0..20 {
            pair.say().await?;
        }
        let term = pair.row().await?.0;
        let woken = pair.said;
        pair.stage.worker().await.resume()?;
        readiness(first, "standby").await;
        pair.hear(woken - 19).await?;
        for (counter, before) in counters.into_iter().zip(&before) {
            let after = gauge(first, counter).await;
            ensure!(after == *before, "turn {turn}: {counter} of the woken leader went from {before} to {after}");
        }
        ensure!(gauge(first, "griot_leader").await == 0);
        ensure!(pair.row().await? == (term, false), "the row is the other's: {:?}", pair.row().await?);
        eventually(SOON, "the cursor is the other's", || async {
            let pending = change_log::cursor::status(pair.stage.database.pool()).await;
            pending.is_ok_and(|regions| regions[0].pending == 0) && pair.cursor().await.is_ok_and(|c| c.0 == term)
        })
        .await;
        ensure!(gauge(pair.second_admin, "griot_log_publications_repeated_total").await <= 1, "turn {turn}");
        // The lead goes back, in order, for the next turn.
        pair.second.stop().await?;
        readiness(first, "ready\n").await;
        let config = pair.stage.config.replace(&first.to_string(), &pair.second_admin.to_string());
        pair.second = Launch::new("invalidation-worker").config(config).ready_at(pair.second_admin).start().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn at_sigterm_the_lease_is_given_up_and_the_takeover_is_immediate() -> Result<()> {
    // A lease longer than any wait of this test: only one that is given up can be taken over.
    let script = Script { worker: "lease_ms = 60000".into(), ..Script::default() };
    let stage = Stage::start(script).await?;
    let second_admin = free_addr()?;
    eventually(SOON, "the first worker leads", || async { gauge(stage.worker_admin, "griot_leader").await == 1 }).await;
    let config = stage.config.replace(&stage.worker_admin.to_string(), &second_admin.to_string());
    let second = Launch::new("invalidation-worker").config(config).ready_at(second_admin).start().await?;
    let (client, _) = Client::connect(&stage.socket(), &stage.token("42")).await?;
    let mut pair = Pair { stage, second, second_admin, client, said: 0 };
    pair.say_and_hear().await?;
    let asked = Instant::now();
    pair.stage.worker().await.stop().await?;
    pair.say_and_hear().await?;
    ensure!(asked.elapsed() < SOON, "the first effect came after {:?}", asked.elapsed());
    // What the first had applied it had saved.
    ensure!(gauge(pair.second_admin, "griot_log_publications_repeated_total").await == 0);
    ensure!(pair.second.pid() != 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn under_a_storm_of_takeovers_everything_arrives_once_and_in_order() -> Result<()> {
    let mut pair = Pair::start().await?;
    let first = pair.stage.worker_admin;
    for _ in 0..4 {
        let from = pair.said + 1;
        for _ in 0..30 {
            pair.say().await?;
        }
        // Whoever leads is killed in the middle of it. On a busy machine that may be the other one by now.
        let first_leads = gauge(first, "griot_leader").await == 1;
        if first_leads {
            pair.stage.worker().await.kill().await?
        } else {
            pair.second.kill().await?
        }
        pair.hear(from).await?;
        if first_leads {
            pair.stage.revive_worker().await?;
        } else {
            let config = pair.stage.config.replace(&first.to_string(), &pair.second_admin.to_string());
            pair.second = Launch::new("invalidation-worker").config(config).ready_at(pair.second_admin).start().await?;
        }
        let both = [first, pair.second_admin];
        eventually(SOON, "one leads", || async { sum(both, "griot_leader").await == 1 }).await;
    }
    pair.say_and_hear().await
}

#[tokio::test(flavor = "multi_thread")]
async fn while_postgresql_is_away_nobody_leads_and_then_one_does() -> Result<()> {
    let mut pair = Pair::start().await?;
    let admins = [pair.stage.worker_admin, pair.second_admin];
    pair.say_and_hear().await?;
    pair.stage.servers.postgres.kill().await?;
    eventually(SOON, "nobody leads", || async { sum(admins, "griot_leader").await == 0 }).await;
    pair.stage.servers.postgres.start_again().await?;
    eventually(SOON, "one leads", || async { sum(admins, "griot_leader").await == 1 }).await;
    let pool = sqlx::PgPool::connect(pair.stage.database.url()).await?;
    change_log::append::publish(&pool, "orders:#42", &json!({"n": 2}), None).await.context("publishing again")?;
    let publication =
        eventually_some(SOON, "it arrives", || async { pair.client.next_publication(SOON).await.ok() }).await;
    ensure!(publication.1["data"]["n"] == 2, "{publication:?}");
    Ok(())
}
