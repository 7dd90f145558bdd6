//! The bridge is killed with many clients on it.

use std::fmt::Write;
use std::time::Duration;

use anyhow::Result;
use tokio::time::Instant;

use super::{Outcome, Size, Stand};
use crate::oracle::Ledger;
use crate::servers::Redis;

/// Kills the bridge and starts it again. All clients must come back and recover what they missed.
///
/// # Errors
/// When a server cannot be started, or clients do not catch up.
pub async fn crash(size: Size) -> Result<Outcome> {
    let (redis, ledger) = (Redis::start().await?, Ledger::default());
    let mut stand = Stand::build(&redis, &ledger, size, false).await?;
    let channels = stand.channels();
    let mut n = 0;
    for channel in &channels {
        n += 1;
        ledger.publish(&stand.publisher, channel, n).await?;
    }
    stand.caught_up().await?;
    stand.bridge.process.kill().await?;
    for turn in 0..size.publications {
        n += 1;
        ledger.publish(&stand.publisher, &channels[usize::try_from(turn)? % channels.len()], n).await?;
        if turn % 100 == 0 {
            stand.watch(Duration::from_millis(1)).await?;
        }
    }
    stand.watch(size.outage).await?;
    let back = Instant::now();
    stand.bridge.start_again().await?;
    stand.caught_up().await?;
    let caught_up = back.elapsed();
    let mut wrong = Vec::new();
    let unrecovered = stand.oracle.told().filter(|(_, _, told)| !told.is_empty()).count();
    if unrecovered > 0 {
        wrong.push(format!("{unrecovered} subscriptions were not recovered"));
    }
    let connects = stand.bridge.metric("griot_connects_total").await?;
    let recovered = stand.bridge.metric("griot_recoveries_total{reason=\"recovered\"}").await?;
    let told = format!(
        "bridge killed with {} clients, {} publications meanwhile: {recovered} subscriptions recovered, {} received, all \
         caught up {:.1} s after its start; {connects} reconnects, per second:{}",
        stand.users.len(),
        size.publications,
        stand.oracle.received(),
        caught_up.as_secs_f64(),
        per_second(&stand.oracle.returns),
    );
    Ok(stand.outcome(told, wrong))
}

/// How many fell into each second, from the first on.
fn per_second(moments: &[u64]) -> String {
    let first = moments.iter().min().copied().unwrap_or(0);
    let mut seconds: Vec<usize> = Vec::new();
    for moment in moments {
        let second = usize::try_from((moment - first) / 1_000).unwrap_or(usize::MAX);
        if seconds.len() <= second {
            seconds.resize(second + 1, 0);
        }
        seconds[second] += 1;
    }
    seconds.iter().fold(String::new(), |mut text, count| {
        // Writing to a string cannot fail.
        let _ = write!(text, " {count}");
        text
    })
}
