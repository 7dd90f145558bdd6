//! Redis is stopped and started, with its data or without.

use std::time::Duration;

use anyhow::Result;
use tokio::time::Instant;

use super::{Outcome, Size, Stand, personal};
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
    stand.fleet.tell(0, true).await?;
    // Half of the users get something at once, and are told before that; the others hear nothing but that they are told.
    let window = Duration::from_secs(size.telling_window.into());
    let (busy, all) = (channels_of(&stand, |index| index % 2 == 0), channels);
    let quiet = Instant::now() + window + Duration::from_secs(1);
    let mut turn = 0;
    while turn < size.publications || Instant::now() < quiet {
        n += 1;
        let channels = if Instant::now() < quiet { &busy } else { &all };
        let channel = &channels[usize::try_from(turn)? % channels.len()];
        if ledger.publish(&stand.publisher, channel, n).await? {
            turn += 1;
        }
        if turn % 20 == 0 {
            stand.watch(Duration::from_millis(20)).await?;
        }
    }
    stand.caught_up().await?;
    let mut wrong = told_once(&stand.oracle);
    let clients = stand.users.len();
    let quiet: Vec<u64> = stand.oracle.losses.iter().filter(|(client, _)| client % 2 == 1).map(|(_, at)| *at).collect();
    let span = Duration::from_millis(quiet.iter().max().unwrap_or(&0) - quiet.iter().min().unwrap_or(&0));
    // Ten or more moments chosen at random in a window are hardly ever all in one quarter of it.
    if quiet.len() >= 10 && span < window / 4 {
        wrong.push(format!("{} clients were told within {span:?} of a window of {window:?}", quiet.len()));
    }
    let told = format!(
        "Redis restarted {} its data, {clients} clients: each told once, the quiet ones over {:.1} s of {window:?}, {turn} \
         publications, {} received",
        if with_data { "with" } else { "without" },
        span.as_secs_f64(),
        stand.oracle.received(),
    );
    Ok(stand.outcome(told, wrong))
}

/// The personal channels of some of the users, by their index.
fn channels_of(stand: &Stand<'_>, some: impl Fn(usize) -> bool) -> Vec<String> {
    let users = stand.users.iter().enumerate().filter(|(index, _)| some(*index));
    users.flat_map(|(_, user)| personal(user)).collect()
}

/// Everybody was told once of each channel: a sentence for each who was not.
pub(super) fn told_once(oracle: &Oracle<'_>) -> Vec<String> {
    let other = oracle.told().filter(|(_, _, told)| told.len() != 1);
    other
        .map(|(client, channel, told)| format!("client {client} was told {} times of {channel}: {told:?}", told.len()))
        .collect()
}
