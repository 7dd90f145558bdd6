//! `just latency`: how long after a commit its cache key is gone, and how many keys per second the worker sustains.
//!
//! The load is an open loop: commits are offered at a steady rate whatever happens, and times count from when a commit was
//! due, so that a stall is felt by all that it holds up.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use fred::interfaces::KeysInterface;
use futures::future::try_join_all;
use griot_tests::http;
use griot_tests::servers::Redis;
use griot_tests::stage::{Script, Stage};
use sqlx::{Connection, PgConnection};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::time::{Instant, interval, sleep_until, timeout_at};

const SCHEMA: &str = "
create table things (id bigint primary key, n bigint not null default 0);
insert into things (id) select generate_series(1, 200000);";
const THINGS: u64 = 200_000;
const RULES: &str = r#"
[rules.things]
table = "public.things"
keys = ["thing:{id}"]
"#;
const WRITERS: u64 = 8;
/// What comes later than this after the last commit counts as never.
const PATIENCE: Duration = Duration::from_secs(20);

/// Measures how soon the keys of a commit are gone.
#[derive(Debug, Parser)]
struct Arguments {
    /// Commits per second.
    #[arg(long, default_value_t = 1_000)]
    rate: u64,
    /// Seconds for which they are offered.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Rows of a statement where the rate of keys is raised.
    #[arg(long, default_value_t = 50)]
    rows: u64,
    /// Seconds of each step.
    #[arg(long, default_value_t = 8)]
    step: u64,
    /// Keys per second of the steps; the first at which the lag grows is the last.
    #[arg(long, default_value = "5000,10000,15000,20000,25000,30000,40000,50000", value_delimiter = ',')]
    keys: Vec<u64>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match measure(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("latency: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(arguments: &Arguments) -> Result<()> {
    ensure!(arguments.rate * arguments.seconds <= THINGS, "at most {THINGS} commits: each has a key of its own");
    let script = Script { schema: SCHEMA.into(), rules: RULES.into(), postgres: &["fsync=on"], ..Script::default() };
    let stage = Stage::start(script).await?;
    one_key_each(&stage, arguments.rate, arguments.seconds).await?;
    println!("keys/s    committed     waiting (entries, at the middle and the end)");
    let mut sustained = 0;
    for &keys in &arguments.keys {
        let step = many_keys(&stage, keys, arguments.rows, arguments.step).await?;
        println!("{keys:6}  {:9.0}/s  {:8.0} {:8.0}", step.committed, step.middle, step.end);
        // What is being applied is never more than this; what is more waits for a worker that does not keep up.
        let flat = step.middle.max(step.end) < step.committed / 4.0;
        if !flat || step.committed < keys as f64 * 0.95 {
            break;
        }
        sustained = keys;
    }
    println!("sustained: {sustained} keys per second, {} rows a statement", arguments.rows);
    Ok(())
}

/// Offers commits that invalidate one key each, and prints how long after its time each key was gone.
async fn one_key_each(stage: &Stage, rate: u64, seconds: u64) -> Result<()> {
    let count = rate * seconds;
    fill(&stage.servers.redis, count).await?;
    let mut keys = Deletions::watch(&stage.servers.redis).await?;
    let begun = Instant::now() + Duration::from_millis(200);
    let due = |id: u64| begun + Duration::from_secs(1).mul_f64((id - 1) as f64 / rate as f64);
    let writers = (1..=WRITERS).map(|writer| async move {
        let mut connection = PgConnection::connect(stage.database.url()).await?;
        let mut taken = Vec::new();
        for id in (writer..=count).step_by(usize::try_from(WRITERS)?) {
            sleep_until(due(id)).await;
            let update = sqlx::query("update things set n = n + 1 where id = $1").bind(i64::try_from(id)?);
            update.execute(&mut connection).await?;
            taken.push(due(id).elapsed());
        }
        anyhow::Ok(taken)
    });
    let gone = async {
        let mut gone = Vec::new();
        while (gone.len() as u64) < count {
            let seen = timeout_at(due(count) + PATIENCE, keys.next()).await;
            let id = seen.with_context(|| format!("{} of {count} keys are gone", gone.len()))??;
            gone.push(due(id).elapsed());
        }
        Ok(gone)
    };
    let (committed, gone) = tokio::try_join!(try_join_all(writers), gone)?;
    println!("{count} commits at {rate} per second, from when each was due (ms)   p50    p99    max");
    print("commit confirmed", committed.concat());
    print("key gone", gone);
    Ok(())
}

fn print(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let [p50, p99, max] =
        [times.len() / 2, times.len() * 99 / 100, times.len() - 1].map(|at| times[at].as_secs_f64() * 1_000.0);
    println!("{what:60} {p50:6.2} {p99:6.2} {max:6.2}");
}

/// The keys that others delete, as Redis tells them. By client tracking and not by asking: it is told in the turn of the
/// server's loop that deletes the key, and asking for thousands of keys would be a load of its own.
struct Deletions(Lines<BufReader<TcpStream>>);

impl Deletions {
    async fn watch(redis: &Redis) -> Result<Self> {
        let mut stream = TcpStream::connect(redis.addr()).await?;
        stream.write_all(b"HELLO 3\r\nCLIENT TRACKING ON BCAST PREFIX thing:\r\n").await?;
        let mut lines = BufReader::new(stream).lines();
        while lines.next_line().await?.context("no answer to CLIENT TRACKING")? != "+OK" {}
        Ok(Self(lines))
    }

    /// The number of the next one. Lines that hold no key are the frames around them.
    async fn next(&mut self) -> Result<u64> {
        loop {
            let line = self.0.next_line().await?.context("the connection to Redis ended")?;
            if let Some(id) = line.strip_prefix("thing:") {
                return Ok(id.parse()?);
            }
        }
    }
}

/// What became of a step.
struct Step {
    /// Keys per second that were committed.
    committed: f64,
    /// Entries that waited in the middle of the step, and at its end.
    middle: f64,
    end: f64,
}

/// Offers statements of so many rows, whose keys are in the cache, and looks whether the worker keeps up.
async fn many_keys(stage: &Stage, rate: u64, rows: u64, seconds: u64) -> Result<Step> {
    let applied = || http::metric(stage.worker_admin, "griot_entries_applied_total{reason=\"row\"}");
    let before = applied().await?;
    let (begun, count) = (Instant::now(), rate * seconds / rows);
    let due = |n: u64| begun + Duration::from_secs(1).mul_f64((n * rows) as f64 / rate as f64);
    let committed = AtomicU64::new(0);
    let committed = &committed;
    let writers = (0..WRITERS).map(|writer| async move {
        let mut connection = PgConnection::connect(stage.database.url()).await?;
        let redis = stage.servers.redis.client().await?;
        for n in (writer..count).step_by(usize::try_from(WRITERS)?) {
            sleep_until(due(n)).await;
            // Far from each other, so that no two writers wait for the same row.
            let first = (n * rows) % (THINGS - rows) + 1;
            let keys: Vec<(String, &str)> = (first..first + rows).map(|id| (format!("thing:{id}"), "v")).collect();
            let _: () = redis.mset(keys).await?;
            sqlx::query("update things set n = n + 1 where id >= $1 and id < $2")
                .bind(i64::try_from(first)?)
                .bind(i64::try_from(first + rows)?)
                .execute(&mut connection)
                .await?;
            committed.fetch_add(rows, Ordering::Relaxed);
        }
        anyhow::Ok(begun.elapsed())
    });
    let waiting = || async {
        let applied = applied().await? - before;
        anyhow::Ok(committed.load(Ordering::Relaxed) as f64 - applied)
    };
    let middle = async {
        tokio::time::sleep(Duration::from_secs(seconds) / 2).await;
        waiting().await
    };
    let (elapsed, middle) = tokio::try_join!(try_join_all(writers), middle)?;
    let end = waiting().await?;
    let elapsed = elapsed.into_iter().max().context("there are writers")?;
    let mut turns = interval(Duration::from_millis(50));
    // The next step begins without a backlog.
    while waiting().await? > 0.0 {
        turns.tick().await;
        ensure!(begun.elapsed() < elapsed + 3 * PATIENCE, "the backlog does not end: {} wait", waiting().await?);
    }
    Ok(Step { committed: (count * rows) as f64 / elapsed.as_secs_f64(), middle, end })
}

/// Puts the keys of the first `count` things into the cache, within the server.
async fn fill(redis: &Redis, count: u64) -> Result<()> {
    let script = format!("for i = 1, {count} do redis.call('SET', 'thing:' .. i, 'v') end");
    redis.ask(&format!("EVAL \"{script}\" 0")).await?;
    Ok(())
}
