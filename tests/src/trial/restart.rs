//! Redis is stopped and started, with its data or without.

use std::time::Duration;

use anyhow::Result;

use super::{Outcome, Size, Stand};
use crate::oracle::{Ledger, Oracle};
use crate::servers::Redis;

/// Restarts Redis. Each client must be told once that continuity is lost, over a spread window, and get everything that is
/// published after that; a client that was away is told when it comes back.
///
/// # Errors
/// When a server cannot be started, or clients do not catch up.
pub async fn restart(size: Size, with_data: bool) -> Result<Outcome> {
    let always: &[&str] = if with_data { &["--appendonly", "yes", "--appendfsync", "always"] } else { &[] };
    let (mut redis, ledger) = (Redis::start_with(always).await?, Ledger::default());
    let mut stand = Stand::build(&redis, &ledger, size, false).await?;
    let channels = stand.channels();
    let mut n = 0;
    for channel in channels.iter().cycle().take(channels.len() * 2) {
        n += 1;
        ledger.publish(&stand.publisher, channel, n).await?;
    }
    stand.caught_up().await?;
    stand.fleet.tell(0, false).await?;
    while stand.oracle.connected.contains(&0) {
        stand.watch(Duration::from_millis(10)).await?;
    }
    redis.stop().await?;
    stand.until_link(false).await?;
    stand.watch(size.outage).await?;
    redis.start_again().await?;
    stand.until_link(true).await?;
    // Nothing is published for the first half of the window, so that the spreading is seen; then everywhere.
    stand.watch(Duration::from_secs(size.telling_window.into()) / 2).await?;
    let quietly = told_clients(&stand.oracle).len();
    stand.fleet.tell(0, true).await?;
    for turn in 0..size.publications {
        n += 1;
        let channel = &channels[usize::try_from(turn)? % channels.len()];
        while !ledger.publish(&stand.publisher, channel, n).await? {
            stand.watch(Duration::from_millis(50)).await?;
        }
        if turn % 20 == 0 {
            stand.watch(Duration::from_millis(1)).await?;
        }
    }
    stand.caught_up().await?;
    let mut wrong = told_once(&stand.oracle);
    let clients = stand.users.len();
    // With a fair spread it is half of them, give or take; all or none would be no spread.
    if size.telling_window > 1 && clients >= 20 && !(clients / 8..clients * 7 / 8).contains(&quietly) {
        wrong.push(format!("{quietly} of {clients} clients were told in the first half of the window"));
    }
    let told = format!(
        "Redis restarted {} its data, {clients} clients: each told once, {quietly} in the first half of {} s, then {} \
         publications, {} received",
        if with_data { "with" } else { "without" },
        size.telling_window,
        size.publications,
        stand.oracle.received(),
    );
    Ok(stand.outcome(told, wrong))
}

/// The clients that were told of some channel.
fn told_clients(oracle: &Oracle<'_>) -> std::collections::HashSet<usize> {
    oracle.told().filter(|(_, _, told)| !told.is_empty()).map(|(client, _, _)| client).collect()
}

/// Everybody was told once of each channel: a sentence for each who was not.
pub(super) fn told_once(oracle: &Oracle<'_>) -> Vec<String> {
    let other = oracle.told().filter(|(_, _, told)| told.len() != 1);
    other
        .map(|(client, channel, told)| format!("client {client} was told {} times of {channel}: {told:?}", told.len()))
        .collect()
}
