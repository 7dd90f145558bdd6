//! What somebody who does not hold a connection wants of it: orders that came over Redis, told to whom they concern.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use fanout_core::control::{self, MAX_SURVEYED, Subscribe, Whom};
use fanout_core::{Channel, Data, Shutdown};

use crate::Shared;
use crate::codes::Disconnect;

/// Done by the connection's own task, in the order in which it was asked.
#[derive(Debug)]
pub enum Order {
    /// Commands that the client sent by another way than the connection itself.
    Commands(Bytes),
    /// Close, unless the connection's id is among those that stay.
    Disconnect(Whom, Arc<[String]>, Disconnect),
    /// Begin a server-side subscription.
    Subscribe(Arc<Subscribe>),
    /// End a subscription.
    Unsubscribe(Whom, Channel),
    /// Live longer, or not.
    Refresh(Whom, Lease),
}

/// How long a connection lives from now on.
#[derive(Debug, Clone)]
pub struct Lease {
    /// It has expired.
    pub expired: bool,
    /// Unix seconds; never without.
    pub expires_at: Option<u64>,
    /// What replaces its info.
    pub info: Option<Data>,
}

/// Takes an order from Redis.
pub(crate) fn hear(shared: &Arc<Shared>, payload: &[u8], shutdown: &Shutdown) {
    let order = match control::Order::parse(payload) {
        Ok(order) => order,
        Err(error) => return tracing::warn!(%error, "an order that this bridge does not know"),
    };
    let connections = &shared.connections;
    match order {
        control::Order::Emulate { session, data, protobuf } => {
            let data = if protobuf { STANDARD.decode(data).ok() } else { Some(data.into_bytes()) };
            let Some(data) = data else { return };
            if !connections.to_session(&session, data.into()) {
                shared.metrics.dropped.count("commands for a session that is not here");
            }
        }
        control::Order::Disconnect { whom, whitelist, code, reason } => {
            let (staying, disconnect) = (Arc::from(whitelist), Disconnect { code, reason: reason.into() });
            let user = whom.user.clone();
            connections.to_user(&user, || Order::Disconnect(whom.clone(), Arc::clone(&staying), disconnect.clone()));
        }
        control::Order::Subscribe(subscribe) => {
            let subscribe = Arc::new(subscribe);
            connections.to_user(&subscribe.whom.user, || Order::Subscribe(Arc::clone(&subscribe)));
        }
        control::Order::Unsubscribe { whom, channel } => {
            let Ok(channel) = Channel::parse(&channel) else { return };
            connections.to_user(&whom.user, || Order::Unsubscribe(whom.clone(), channel.clone()));
        }
        control::Order::Refresh { whom, expired, expire_at, info } => {
            let lease = Lease { expired, expires_at: u64::try_from(expire_at).ok().filter(|at| *at > 0), info };
            connections.to_user(&whom.user, || Order::Refresh(whom.clone(), lease.clone()));
        }
        control::Order::Survey { reply_to, pattern } => {
            let shared = Arc::clone(shared);
            shutdown.spawn(async move {
                let found = shared.hub.channels(&pattern, MAX_SURVEYED);
                if let Err(error) = control::answer(&shared.redis, &reply_to, &shared.rules.node, found).await {
                    tracing::debug!(%error, "a survey could not be answered");
                }
            });
        }
    }
}
