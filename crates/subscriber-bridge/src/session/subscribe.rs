//! Client-side subscriptions: subscribe, unsubscribe, sub_refresh, and what comes of a join.

use std::sync::Arc;

use fanout_core::Channel;

use super::{Refusal, Session, Step, Subscribed, answer, expiry};
use crate::codes;
use crate::join::{Cause, Join, Joining, Standing, Terms};
use crate::protocol::message::{Empty, SubRefreshRequest, SubscribeRequest};
use crate::protocol::{self, Reply, failure};
use crate::token::{Grant, TokenError};

/// A flag of a request: an error, rather than a subscription that has lost its position.
const ONLY_RECOVERED: i64 = 2;
/// The kind of subscription whose absence has a code of its own.
const SHARED_POLL: i32 = 4;

impl Session {
    pub(super) fn subscribe(&mut self, id: u32, request: &SubscribeRequest, now: u64) -> Result<Step, Refusal> {
        if !matches!(request.delta.as_str(), "" | "fossil") {
            return Err(codes::BAD_REQUEST.into());
        }
        let rules = Arc::clone(&self.rules);
        let (channel, topic) = rules.channel(&request.channel)?;
        match request.r#type {
            0 if request.filter.is_some() => return Err(codes::BAD_COMMAND.into()),
            0 => {}
            SHARED_POLL => return Err(codes::FEATURE_OFF.into()),
            _ => return Err(codes::PERMISSION_DENIED.into()),
        }
        if self.channels.get(&channel).is_some() {
            return Err(codes::ALREADY_SUBSCRIBED.into());
        }
        if self.channels.len() >= self.rules.max_channels {
            return Err(codes::LIMIT_EXCEEDED.into());
        }
        let own = channel.owner().is_none_or(|owner| self.user().is_some_and(|user| user.as_str() == owner));
        // A token opens any topic, but nobody else's personal channel.
        let by_token = !request.token.is_empty();
        if !own || !(by_token || self.may_subscribe(topic, self.user(), &channel)) {
            return Err(codes::PERMISSION_DENIED.into());
        }
        // Before a signature is verified, which costs more than anything else here.
        if !self.subscribes.take(now) {
            return Err(codes::TOO_MANY_REQUESTS.into());
        }
        let grant = match by_token {
            true => Some(self.grant(&request.token, &channel, now, codes::PERMISSION_DENIED.into())?),
            false => None,
        };
        let mut terms = Terms::new(topic, grant.as_ref().map(|grant| &grant.options));
        let sees = self.rules.insecure || topic.permits(topic.see_presence, self.user(), &channel, true);
        terms.hears |= request.join_leave && topic.join_leave && sees;
        let mut joining = Joining::new(channel, Some(request), terms);
        if let Some(grant) = grant {
            joining.data = grant.options.data;
            joining.expires_at = grant.expires_at.filter(|_| !self.rules.insecure);
        }
        let only_recovered = request.recover && request.flag & ONLY_RECOVERED != 0;
        Ok(Step::Join(Join { id, channels: vec![joining], cause: Cause::Subscribe, only_recovered }))
    }

    /// What a subscription token for `channel` grants; one that is not valid is answered as `invalid`.
    fn grant(&self, token: &str, channel: &Channel, now: u64, invalid: Refusal) -> Result<Grant, Refusal> {
        let grant = match self.rules.tokens.subscription(token, now) {
            Ok(grant) => grant,
            Err(TokenError::Expired) => return Err(codes::TOKEN_EXPIRED.into()),
            Err(TokenError::Invalid) => return Err(invalid),
            Err(TokenError::UnknownKey) => return Err(Refusal::Unlearnt(Box::new(invalid))),
        };
        match grant.fits(self.user(), channel, &self.client) {
            true => Ok(grant),
            false => Err(codes::INVALID_TOKEN.into()),
        }
    }

    /// The channels of `join` are subscribed and stand as in `standings`, in the same order; a channel without history has
    /// none, and one that could not be read makes its subscription unrecoverable. Returns the reply.
    ///
    /// # Errors
    /// The reply of a subscription that is not wanted as it stands: its channel is to be left before it is sent.
    pub fn joined(&mut self, join: Join, standings: &[Option<Standing>], now: u64) -> Result<Reply, Box<Reply>> {
        let (id, cause, only_recovered) = (join.id, join.cause, join.only_recovered);
        if cause == Cause::Connect {
            return Ok(self.connected(join, standings, now));
        }
        let (Some(joining), Some(standing)) = (join.channels.into_iter().next(), standings.first()) else {
            return Err(Box::new(failure(id, codes::INTERNAL)));
        };
        let result = joining.result(standing.as_ref(), now);
        if only_recovered && !result.recovered {
            return Err(Box::new(failure(id, codes::UNRECOVERABLE)));
        }
        if cause == Cause::Order {
            let push = Some(protocol::begun(joining.channel.as_str(), result));
            self.own(joining, true);
            return Ok(Reply { push, ..Reply::default() });
        }
        self.own(joining, false);
        Ok(Reply { id, subscribe: Some(result), ..Reply::default() })
    }

    pub(super) fn own(&mut self, joining: Joining, server_side: bool) {
        let Joining { channel, expires_at, terms, .. } = joining;
        self.channels.insert(channel, Subscribed { server_side, expires_at, terms });
    }

    pub(super) fn unsubscribe(&mut self, id: u32, name: &str) -> Result<Step, Refusal> {
        let done = Reply { id, unsubscribe: Some(Empty {}), ..Reply::default() };
        match self.channel(name).map(|(channel, _)| channel) {
            Ok(channel) => {
                let terms = self.ended(&channel);
                Ok(Step::Leave(channel, terms, Box::new(done)))
            }
            // Ending what was never there succeeds.
            Err(Refusal::Command(_)) => Ok(answer(done)),
            Err(refusal) => Err(refusal),
        }
    }

    pub(super) fn sub_refresh(&mut self, id: u32, request: &SubRefreshRequest, now: u64) -> Result<Step, Refusal> {
        let (channel, _) = self.channel(&request.channel)?;
        if self.channels.get(&channel).is_none() {
            return Err(codes::PERMISSION_DENIED.into());
        }
        if request.token.is_empty() {
            return Err(codes::BAD_COMMAND.into());
        }
        if !self.subscribes.take(now) {
            return Err(codes::TOO_MANY_REQUESTS.into());
        }
        let grant = self.grant(&request.token, &channel, now, codes::INVALID_TOKEN.into())?;
        let expires_at = grant.expires_at.filter(|_| !self.rules.insecure);
        if let Some(subscribed) = self.channels.get_mut(&channel) {
            subscribed.expires_at = expires_at;
            subscribed.terms.info = grant.options.info;
        }
        Ok(answer(Reply { id, sub_refresh: Some(expiry(expires_at, now)), ..Reply::default() }))
    }
}
