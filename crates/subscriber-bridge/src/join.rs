//! Subscriptions on their way: what a session asks the connection to subscribe to, and what comes back. Pure values.

use bytes::Bytes;
use fanout_core::Channel;
use fanout_core::envelope::Position;

use crate::protocol::message::SubscribeResult;
use crate::protocol::recovered;

/// Channels on their way to be subscribed.
#[derive(Debug)]
pub struct Join {
    pub(crate) id: u32,
    /// The channels with what the client wants to recover; the flag says whether they are server-side.
    pub(crate) channels: Vec<(Channel, Option<Recovery>)>,
    pub(crate) connect: bool,
}

/// What a client knows of a channel that it wants to recover.
#[derive(Debug)]
pub struct Recovery {
    /// The epoch; empty matches any.
    pub epoch: String,
    /// The last offset that it has.
    pub offset: u64,
}

/// Where a channel stands for a subscriber that joins.
#[derive(Debug)]
pub struct Standing {
    /// The position, as far as the subscriber then has it.
    pub top: Position,
    /// The envelopes that a recovering client missed; `None` when they are not to be had.
    pub missed: Option<Vec<Bytes>>,
}

impl Join {
    /// Whether this is the connect command, rather than a subscribe command.
    pub fn is_connect(&self) -> bool {
        self.connect
    }

    /// The channels, each with whether it is subscribed by the bridge.
    pub fn channels(&self) -> Vec<(Channel, bool)> {
        self.channels.iter().map(|(channel, _)| (channel.clone(), self.connect)).collect()
    }

    /// What the client wants to recover, in the order of [`channels`](Self::channels).
    pub fn recoveries(&self) -> impl Iterator<Item = Option<&Recovery>> {
        self.channels.iter().map(|(_, recovery)| recovery.as_ref())
    }
}

/// A recovered subscription answers the offset that was asked for, any other the top (client protocol, "Recovery").
pub(crate) fn subscribed(recovery: Option<&Recovery>, standing: Option<&Standing>) -> SubscribeResult {
    let was_recovering = recovery.is_some();
    let Some(standing) = standing else { return SubscribeResult { was_recovering, ..SubscribeResult::default() } };
    let missed = standing.missed.as_ref().filter(|_| was_recovering);
    let publications: Option<Vec<_>> = missed.and_then(|missed| missed.iter().map(recovered).collect());
    let since = recovery.filter(|_| publications.is_some()).map(|recovery| recovery.offset);
    SubscribeResult {
        recoverable: true,
        positioned: true,
        epoch: standing.top.epoch.to_string(),
        offset: since.unwrap_or(standing.top.offset),
        recovered: since.is_some(),
        publications: publications.unwrap_or_default(),
        was_recovering,
        ..SubscribeResult::default()
    }
}
