//! The link is cut, or stalled, while publications are made.

use std::time::Duration;

use anyhow::Result;
use tokio::time::Instant;

use super::{Outcome, Size, Stand};
use crate::oracle::Ledger;
use crate::servers::Redis;

/// Cuts or stalls the link of a bridge. Every connected client must get every publication in order without a connection of
/// its own being lost, and every history must be read once.
///
/// # Errors
/// When a server cannot be started, or clients do not catch up.
pub async fn cut(size: Size, stall: bool) -> Result<Outcome> {
    let (redis, ledger) = (Redis::start().await?, Ledger::default());
    let mut stand = Stand::build(&redis, &ledger, size, false).await?;
    stand.expect_one_order();
    let channels = stand.channels();
    let mut n = 0;
    for channel in &channels {
        n += 1;
        ledger.publish(&stand.publisher, channel, n).await?;
    }
    stand.caught_up().await?;
    let begun = Instant::now();
    if stall {
        stand.way.stall();
    } else {
        stand.way.cut().await;
        stand.until_link(false).await?;
    }
    let pause = size.outage / u32::try_from(size.publications).unwrap_or(u32::MAX).max(1);
    for turn in 0..size.publications {
        n += 1;
        let channel = &channels[usize::try_from(turn)? % channels.len()];
        ledger.publish(&stand.publisher, channel, n).await?;
        if turn % 50 == 0 {
            stand.watch(pause * 50).await?;
        }
    }
    if stall {
        // Unnoticed by the heartbeat, it would be no more than a delay.
        stand.until_link(false).await?;
        stand.way.resume();
    } else {
        stand.way.restore().await?;
    }
    let outage = begun.elapsed();
    // Live traffic meets the repair.
    for channel in &channels {
        n += 1;
        ledger.publish(&stand.publisher, channel, n).await?;
    }
    let repairing = Instant::now();
    stand.until_link(true).await?;
    stand.caught_up().await?;
    let repaired = repairing.elapsed();
    let reads = lists_read(&redis).await?;
    let mut wrong = Vec::new();
    if reads != channels.len() {
        wrong.push(format!("{reads} histories were read for {} channels with a gap", channels.len()));
    }
    if !stand.oracle.losses.is_empty() {
        wrong.push(format!("{} clients lost their own connection", stand.oracle.losses.len()));
    }
    let told = format!(
        "link {} for {:.1} s, {} publications on {} channels, {} clients: {} received, {reads} histories read, all \
         caught up {:.1} s after the link was back",
        if stall { "stalled" } else { "cut" },
        outage.as_secs_f64(),
        ledger.confirmations(),
        channels.len(),
        stand.users.len(),
        stand.oracle.received(),
        (repaired.saturating_sub(Duration::from_millis(100))).as_secs_f64(),
    );
    Ok(stand.outcome(told, wrong))
}

/// How many lists this Redis has read.
async fn lists_read(redis: &Redis) -> Result<usize> {
    let stats = redis.ask("INFO commandstats").await?;
    let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_lrange:calls=")?.split(',').next());
    Ok(calls.map_or(Ok(0), str::parse)?)
}
