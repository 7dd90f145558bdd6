//! `just capture`: what capturing changes costs those who write. pgbench on a private PostgreSQL, without capture, with our
//! trigger and with a trigger that notifies, in alternating rounds; and with two triggers that capture nothing, beside which
//! one sees how much of our cost is that of having a trigger.
//!
//! The data fits the server's memory and the log of its transactions is on disk, as in production: a commit waits for the
//! disk, and that wait is what a notification makes all others share.

use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use change_log::{Rules, install};
use clap::Parser;
use griot_tests::servers::{Database, Postgres};
use sqlx::Executor;
use tokio::process::Command;

/// Rows of `pgbench_accounts`, in units of 100,000: more than the writers could make each other wait for.
const SCALE: &str = "10";

/// Durable as in production, the data of all databases in memory, and no checkpoint within a run.
const SETTINGS: [&str; 5] =
    ["fsync=on", "full_page_writes=on", "shared_buffers=2GB", "max_wal_size=8GB", "checkpoint_timeout=1h"];

/// A key and a publication, as a shop would have them: both ask for columns of the row in the log.
const RULES: &str = r#"
[rules.accounts]
table = "public.pgbench_accounts"
on = ["update"]
keys = ["account:{aid}"]

[rules.accounts.publication]
channel = "accounts:#{aid}"
data = ["aid", "abalance"]
"#;

/// What a shop has that tells its caches by itself.
const NOTIFY: &str = "
create function notified() returns trigger language plpgsql as $$
begin
    perform pg_notify('changes', json_build_object('table', tg_table_name, 'op', tg_op, 'aid', new.aid,
                                                   'abalance', new.abalance)::text);
    return null;
end
$$;
create trigger notified after update on pgbench_accounts for each row execute function notified()";

/// Sees the rows that changed, and does nothing with them.
const EMPTY: &str = "
create function seen() returns trigger language plpgsql as $$ begin return null; end $$;
create trigger seen after update on pgbench_accounts referencing old table as before new table as after
    for each statement execute function seen()";

/// Writes that something changed into a table without index, and not what.
const CONSTANT: &str = "
create table noted (what int);
create function noted() returns trigger language plpgsql as $$ begin insert into noted values (1); return null; end $$;
create trigger noted after update on pgbench_accounts for each statement execute function noted()";

/// The ways, in the order of the table.
const KINDS: [&str; 5] = ["none", "ours", "pg_notify", "empty", "constant"];

/// Measures what the capture of changes costs writers.
#[derive(Debug, Parser)]
struct Arguments {
    /// Rounds for each number of clients.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each run.
    #[arg(long, default_value_t = 8)]
    seconds: u32,
    /// Numbers of clients, separated by commas.
    #[arg(long, default_value = "8,64", value_delimiter = ',')]
    clients: Vec<u32>,
    /// Microseconds that every sync of the log takes longer, as on a disk slower than this machine's.
    #[arg(long, default_value_t = 0)]
    sync_us: u32,
}

#[tokio::main]
async fn main() -> ExitCode {
    match measure(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("capture: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(arguments: &Arguments) -> Result<()> {
    // Whoever syncs for a group waits before that, with the lock for which all others wait.
    let delay = format!("commit_delay={}", arguments.sync_us);
    let settings = [&SETTINGS[..], &[&delay, "commit_siblings=0"]].concat();
    let postgres = Postgres::start_with(&settings).await?;
    println!("PostgreSQL in {} (TMPDIR), settings: {}", std::env::temp_dir().display(), settings.join(" "));
    println!("pgbench -N -M prepared -s {SCALE}, {} s a run; the rule of ours:\n{RULES}", arguments.seconds);
    let mut databases = Vec::new();
    for kind in KINDS {
        databases.push(prepare(&postgres, kind).await?);
    }
    println!("The last two are triggers that capture nothing:\n{EMPTY}\n{CONSTANT}\n");
    println!("clients  round{}   (transactions per second)", KINDS.map(|kind| format!("{kind:>12}")).concat());
    for &clients in &arguments.clients {
        let mut rates: [Vec<f64>; KINDS.len()] = Default::default();
        for round in 1..=arguments.rounds {
            // Each kind goes first and last in turn: what the machine does besides hits all alike.
            for turn in 0..KINDS.len() {
                let kind = (round + turn) % KINDS.len();
                rates[kind].push(run(&databases[kind], clients, arguments.seconds).await?);
            }
            let of_round = rates.each_ref().map(|rates| format!("{:12.0}", rates[round - 1]));
            println!("{clients:7}  {round:5}{}", of_round.concat());
        }
        report(clients, &rates);
    }
    Ok(())
}

/// A database of its own for each kind: one that was written to for longer would be at a disadvantage.
async fn prepare(postgres: &Postgres, kind: &str) -> Result<Database> {
    let database = Database::fresh_on(postgres).await?;
    pgbench(database.url(), &["--initialize", "--quiet", "--scale", SCALE]).await?;
    let pool = database.pool();
    let trigger = match kind {
        "pg_notify" => Some(NOTIFY),
        "empty" => Some(EMPTY),
        "constant" => Some(CONSTANT),
        _ => None,
    };
    if let Some(trigger) = trigger {
        pool.execute(trigger).await?;
    }
    if kind == "ours" {
        install::apply(pool, &Rules::parse(RULES)?, Duration::from_secs(2)).await?;
    }
    Ok(database)
}

/// Transactions per second of one run.
async fn run(database: &Database, clients: u32, seconds: u32) -> Result<f64> {
    for statement in ["truncate griot.log", "vacuum pgbench_accounts", "truncate pgbench_history", "checkpoint"] {
        database.pool().execute(statement).await?;
    }
    let (clients, seconds) = (clients.to_string(), seconds.to_string());
    let load = ["-N", "-n", "-M", "prepared", "-c", &clients, "-j", "2", "-T", &seconds];
    let said = pgbench(database.url(), &load).await?;
    let rate = said.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    rate.with_context(|| format!("pgbench gives no rate:\n{said}"))
}

async fn pgbench(url: &str, arguments: &[&str]) -> Result<String> {
    let ended = Command::new("pgbench").args(arguments).arg(url).stdin(Stdio::null()).kill_on_drop(true).output();
    let ended = ended.await.context("running pgbench, which comes with PostgreSQL")?;
    ensure!(ended.status.success(), "pgbench {arguments:?}: {}", String::from_utf8_lossy(&ended.stderr));
    Ok(String::from_utf8_lossy(&ended.stdout).into_owned())
}

fn report(clients: u32, rates: &[Vec<f64>; KINDS.len()]) {
    let medians = rates.each_ref().map(|rates| {
        let mut sorted = rates.clone();
        sorted.sort_by(f64::total_cmp);
        (sorted[sorted.len() / 2], sorted[0], sorted[sorted.len() - 1])
    });
    for (kind, (median, least, most)) in KINDS.iter().zip(&medians) {
        println!("{clients:7}  {kind:9}  median {median:7.0}, {least:7.0} to {most:7.0}");
    }
    let [none, ours, notify, empty, constant] = medians.map(|(median, ..)| median);
    println!(
        "{clients:7}  ours keeps {:.2} of none, and is {:.2} × pg_notify; empty keeps {:.2}, constant {:.2}",
        ours / none,
        ours / notify,
        empty / none,
        constant / none,
    );
}
