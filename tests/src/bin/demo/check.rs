//! The check: publications over every path, from this process to browsers held by others; what arrives is compared
//! with what was sent, one by one.

mod ledger;
mod paths;

use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use griot_tests::stage::{RULES, SCHEMA, Script, Stage};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use self::ledger::Ledger;
use self::paths::{PATHS, Sender};
use crate::subscriber::{Arrival, Setup};

/// A fault to plant, so that everybody can see that the check finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fault {
    /// Lose one publication.
    Drop,
    /// Give one to the wrong user.
    Misroute,
    /// Publish once before the cache is invalidated.
    Late,
}

/// Receiving processes.
const RECEIVERS: usize = 2;
/// After the last arrival, what has not come within this time counts as lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who receives: ids that are easy to mistake for one another, and ordinary ones.
fn users() -> Vec<String> {
    let alike = ["4", "2", "42", "24", "04", "1e2", "100", "9007199254740993", "9007199254740992", "a", "A", "a:42"];
    alike.into_iter().map(str::to_owned).chain((1..=12).map(|n| format!("shopper-{n}"))).collect()
}

const PARCELS: &str = "
create table parcels (
    id bigint primary key,
    user_id text not null,
    code text not null,
    previous text not null,
    \"check\" text not null
);";

const PARCEL_RULES: &str = r#"
[rules.parcels]
table = "public.parcels"
on = ["update"]
keys = ["parcel:{code}"]

[rules.parcels.publication]
channel = "orders:#{user_id}"
data = ["check", "code", "previous"]
"#;

/// Runs the check; exit code 0 only if nothing was lost, misdelivered or stale.
pub(crate) async fn run(count: usize, fault: Option<Fault>) -> Result<ExitCode> {
    println!("starting Redis, PostgreSQL and the three workers, private to this check");
    let script =
        Script { schema: format!("{SCHEMA}{PARCELS}"), rules: format!("{RULES}{PARCEL_RULES}"), ..Script::default() };
    let stage = Stage::start(script).await?;
    let users = users();
    let ledger = Arc::new(Ledger::default());
    let mut receivers = Vec::new();
    let mut readers = JoinSet::new();
    for part in users.chunks(users.len().div_ceil(RECEIVERS)) {
        let (receiver, lines) = receiver(&stage, part).await?;
        receivers.push(receiver);
        readers.spawn(record(lines, Arc::clone(&ledger)));
    }
    println!("{} users are connected in {RECEIVERS} processes; {count} publications over each path", users.len());
    let sender = Sender::new(&stage, users, count, Arc::clone(&ledger), fault).await?;
    for path in PATHS {
        let sent = tokio::select! {
            sent = sender.send(path) => sent,
            Some(ended) = readers.join_next() => ended?.and(Err(anyhow::anyhow!("a receiving process ended early"))),
        };
        sent.with_context(|| format!("path: {path}"))?;
        ledger.settle(path, PATIENCE).await;
    }
    Ok(verdict(&ledger))
}

fn verdict(ledger: &Ledger) -> ExitCode {
    println!(
        "\n{:<42} {:>6} {:>5} {:>12} {:>8} {:>6} {:>9} {:>9}",
        "path", "count", "lost", "misdelivered", "repeated", "stale", "p50 ms", "p99 ms"
    );
    let mut complaints = Vec::new();
    for path in PATHS {
        let row = ledger.row(path);
        println!(
            "{path:<42} {:>6} {:>5} {:>12} {:>8} {:>6} {:>9.2} {:>9.2}",
            row.count, row.lost, row.misdelivered, row.repeated, row.stale, row.p50_ms, row.p99_ms
        );
        for (number, what) in [
            (row.lost, "lost"),
            (row.misdelivered, "misdelivered"),
            (row.stale, "pushed while the old value was still cached"),
            (row.ghosts, "delivered although their transaction rolled back"),
            (row.wrong_ids, "delivered with another public id than they were given"),
        ] {
            if number > 0 {
                complaints.push(format!("{path}: {number} {what}"));
            }
        }
    }
    let strangers = ledger.strangers();
    if strangers > 0 {
        complaints.push(format!("{strangers} arrived that nobody sent"));
    }
    if complaints.is_empty() {
        println!("\nnothing was lost, misdelivered or stale");
        return ExitCode::SUCCESS;
    }
    println!("\nFAILED\n  {}", complaints.join("\n  "));
    ExitCode::FAILURE
}

async fn receiver(
    stage: &Stage,
    users: &[String],
) -> Result<(Child, tokio::io::Lines<BufReader<tokio::process::ChildStdout>>)> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("subscribe")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("a receiving process")?;
    let setup = Setup {
        socket: stage.socket(),
        redis: stage.servers.redis.url(),
        users: users.iter().map(|user| (user.clone(), stage.token(user))).collect(),
    };
    let mut line = serde_json::to_vec(&setup)?;
    line.push(b'\n');
    child.stdin.as_mut().context("standard input is piped")?.write_all(&line).await?;
    let mut lines = BufReader::new(child.stdout.take().context("standard output is piped")?).lines();
    let ready = lines.next_line().await?;
    ensure!(ready.as_deref() == Some("ready"), "a receiving process did not start");
    Ok((child, lines))
}

async fn record(
    mut lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
    ledger: Arc<Ledger>,
) -> Result<()> {
    while let Some(line) = lines.next_line().await? {
        ledger.arrived(serde_json::from_str::<Arrival>(&line)?);
    }
    Ok(())
}
