//! Subscriptions on their way: what a session asks the connection to subscribe to, and what comes back. Pure values.

use bytes::Bytes;
use fanout_core::envelope::Position;
use fanout_core::{Channel, Data, Topic};

use crate::protocol::message::{Expiry, SubscribeRequest, SubscribeResult};
use crate::protocol::recovered;
use crate::session::expiry;
use crate::token::Options;

/// Channels on their way to be subscribed.
#[derive(Debug)]
pub struct Join {
    pub(crate) id: u32,
    pub(crate) channels: Vec<Joining>,
    pub(crate) cause: Cause,
    /// The client wants an error, rather than a subscription that has lost its position.
    pub(crate) only_recovered: bool,
}

/// Why channels are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The client signs in: with the channels that the bridge gives it.
    Connect,
    /// The client subscribes.
    Subscribe,
    /// The application's backend subscribes it.
    Order,
}

/// One of them.
#[derive(Debug)]
pub struct Joining {
    /// Which.
    pub channel: Channel,
    /// What the client wants to recover.
    pub recovery: Option<Recovery>,
    /// On which terms.
    pub terms: Terms,
    /// What the client is given with the subscription.
    pub data: Option<Data>,
    /// Unix seconds until which it may last.
    pub expires_at: Option<u64>,
}

/// On which terms a connection has a channel.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Terms {
    /// It is kept in the presence.
    pub keeps: bool,
    /// Its coming and leaving is announced.
    pub announces: bool,
    /// It is told who comes and leaves.
    pub hears: bool,
    /// What others see of it in this channel.
    pub info: Option<Data>,
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
    /// What the client wants to recover, in the order of the channels.
    pub fn recoveries(&self) -> impl Iterator<Item = Option<&Recovery>> {
        self.channels.iter().map(|joining| joining.recovery.as_ref())
    }
}

impl Terms {
    /// The topic's own terms, with what a token's `options` make different.
    pub fn new(topic: &Topic, options: Option<&Options>) -> Self {
        let overrides = options.map(|options| options.overrides).unwrap_or_default();
        Self {
            keeps: overrides.presence.unwrap_or(topic.presence),
            announces: overrides.join_leave.unwrap_or(topic.join_leave),
            hears: overrides.force_push_join_leave.unwrap_or(topic.force_join_leave),
            info: options.and_then(|options| options.info.clone()),
        }
    }

    /// Whether Redis is to know of the subscription.
    pub fn shows(&self) -> bool {
        self.keeps || self.announces
    }
}

impl Joining {
    /// `channel`, as far as the client's `wish` goes.
    pub fn new(channel: Channel, wish: Option<&SubscribeRequest>, terms: Terms) -> Self {
        let wish = wish.filter(|wish| wish.recover);
        let recovery = wish.map(|wish| Recovery { epoch: wish.epoch.clone(), offset: wish.offset });
        Self { channel, recovery, terms, data: None, expires_at: None }
    }

    /// The subscription as the client is told of it at `now`. A recovered one answers the offset that was asked for, any
    /// other the top (client protocol, "Recovery").
    pub(crate) fn result(&self, standing: Option<&Standing>, now: u64) -> SubscribeResult {
        let was_recovering = self.recovery.is_some();
        let Expiry { expires, ttl } = expiry(self.expires_at, now);
        let data = self.data.as_ref().map(Data::bytes).unwrap_or_default();
        let result = SubscribeResult { was_recovering, expires, ttl, data, ..SubscribeResult::default() };
        let Some(standing) = standing else { return result };
        let missed = standing.missed.as_ref().filter(|_| was_recovering);
        let publications: Option<Vec<_>> = missed.and_then(|missed| missed.iter().map(recovered).collect());
        let since = self.recovery.as_ref().filter(|_| publications.is_some()).map(|recovery| recovery.offset);
        SubscribeResult {
            recoverable: true,
            positioned: true,
            epoch: standing.top.epoch.to_string(),
            offset: since.unwrap_or(standing.top.offset),
            recovered: since.is_some(),
            publications: publications.unwrap_or_default(),
            ..result
        }
    }
}
