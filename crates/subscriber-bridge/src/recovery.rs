//! Recovery by position: what a client that comes back has missed.

use fanout_core::Channel;
use fanout_core::envelope::Position;
use fanout_core::history::{self, Since};
use fanout_core::names::Feed;
use fanout_core::position::FeedPosition;

use crate::join::{Join, Standing};
use crate::metrics::Metrics;
use crate::room::Taken;
use crate::wire::Wire;
use crate::{Shared, protocol};

/// Most bytes of missed publications in one reply: clients take messages of 1 MiB (centrifuge-python) at least.
pub(crate) const MAX_REPLY_BYTES: usize = 768 * 1024;

/// Where the channels of `join` stand, each with what its client asks to recover, when their feeds are at `positions`;
/// `None` for those without history and those whose position Redis does not give. What is missed takes its `room`.
pub(crate) async fn standings(
    shared: &Shared,
    join: &Join,
    positions: &[(Feed, FeedPosition)],
    room: &mut Taken,
) -> Vec<Option<Standing>> {
    let top = |channel: &Channel| {
        shared.rules.topics.of(channel).filter(|topic| topic.keeps_history())?;
        let (_, position) = positions.iter().find(|(feed, _)| feed.carries(channel))?;
        Some(position.of(channel.topic()))
    };
    let tops: Vec<Option<Position>> = join.channels.iter().map(|joining| top(&joining.channel)).collect();
    let mut standings: Vec<Option<Standing>> =
        tops.iter().map(|top| top.map(|top| Standing { top, missed: None })).collect();
    let mut asked: Vec<(usize, Since)> = Vec::new();
    for (index, recovery) in join.recoveries().enumerate() {
        let (Some(recovery), Some(standing)) = (recovery, &mut standings[index]) else { continue };
        let same_epoch = recovery.epoch.is_empty() || recovery.epoch == standing.top.epoch.to_string();
        if same_epoch && recovery.offset == standing.top.offset {
            standing.missed = Some(Vec::new());
        } else if same_epoch && recovery.offset < standing.top.offset {
            let channel = &join.channels[index].channel;
            let conflated = shared.rules.topics.of(channel).is_some_and(|topic| topic.conflate);
            let (epoch, offset) = (recovery.epoch.clone(), recovery.offset);
            asked.push((index, Since { channel: channel.clone(), conflated, epoch, offset }));
        }
    }
    read_missed(shared, &asked, &mut standings, room).await;
    standings
}

/// Reads what was missed, as long as it fits into what one connection, and all together, may have of histories.
async fn read_missed(shared: &Shared, asked: &[(usize, Since)], standings: &mut [Option<Standing>], room: &mut Taken) {
    if asked.is_empty() {
        return;
    }
    // Encoded and in a queue it takes more than it does in Redis.
    let mut left = shared.config.max_recovery_bytes / 2;
    let since: Vec<Since> = asked.iter().map(|(_, since)| since.clone()).collect();
    let found = match history::read(&shared.redis, &since, left).await {
        Ok(found) => found,
        Err(error) => return tracing::debug!(%error, "a history could not be read"),
    };
    shared.metrics.history_reads.count_many("recovery", asked.len());
    for ((index, _), after) in asked.iter().zip(found) {
        let bytes: usize = after.envelopes.iter().flatten().map(bytes::Bytes::len).sum();
        let missed = after.envelopes.filter(|_| bytes <= left && room.more(bytes));
        left -= if missed.is_some() { bytes } else { 0 };
        standings[*index] = Some(Standing { top: after.top, missed });
    }
}

/// What does not go into the reply follows it as pushes, so that no client meets a message larger than it takes: the
/// replies' share of `standings`, `room` in bytes, stays, the rest is encoded for `wire` and returned.
pub(crate) fn beyond_the_reply(
    channels: &[Channel],
    standings: &mut [Option<Standing>],
    wire: Wire,
    mut room: usize,
) -> Vec<bytes::Bytes> {
    let mut frames = Vec::new();
    for (channel, standing) in channels.iter().zip(standings) {
        let Some(missed) = standing.as_mut().and_then(|standing| standing.missed.as_mut()) else { continue };
        let fits = missed.iter().take_while(|envelope| {
            let fits = envelope.len() <= room;
            room -= if fits { envelope.len() } else { room };
            fits
        });
        let rest = missed.split_off(fits.count());
        let publications = rest.iter().filter_map(protocol::recovered);
        frames.extend(publications.map(|one| wire.push(protocol::published(channel.as_str(), one))));
    }
    frames
}

/// Counts what became of the recoveries that were asked for.
pub(crate) fn count(metrics: &Metrics, join: &Join, standings: &[Option<Standing>]) {
    for (_, standing) in join.recoveries().zip(standings).filter(|(recovery, _)| recovery.is_some()) {
        let recovered = standing.as_ref().is_some_and(|standing| standing.missed.is_some());
        metrics.recoveries.count(if recovered { "recovered" } else { "unrecovered" });
    }
}
