//! Signing in, and staying so: connect and refresh.

use std::collections::BTreeMap;

use fanout_core::{Channel, Data, Personal, Topic, UserId};

use super::{Manner, Refusal, Session, Step, Who, answer, expiry};
use crate::codes;
use crate::join::{Cause, Join, Joining, Standing, Terms};
use crate::protocol::Reply;
use crate::protocol::message::{
    ConnectRequest, ConnectResult, Connected, Expiry, Push, RefreshResult, SubscribeResult,
};
use crate::token::{Identity, TokenError};

/// The bridge's version, as clients are told.
const VERSION: &str = env!("CARGO_PKG_VERSION");

impl Session {
    pub(super) fn connect(&mut self, id: u32, request: &ConnectRequest, now: u64) -> Step {
        self.identify(&request.token, now)
            .and_then(|identity| self.enter(id, request, identity))
            .unwrap_or_else(|refusal| refusal.into_step(id))
    }

    /// Who presents the token, or that nobody in particular may connect.
    fn identify(&self, token: &str, now: u64) -> Result<Identity, Refusal> {
        let anonymous = self.rules.insecure || self.rules.allow_anonymous;
        if token.is_empty() {
            let nobody = Identity { user: None, expires_at: None, info: None, subs: Vec::new() };
            return if anonymous { Ok(nobody) } else { Err(codes::BAD_REQUEST.into()) };
        }
        let mut identity = self.rules.tokens.connection(token, now).map_err(|error| match error {
            TokenError::Expired => codes::TOKEN_EXPIRED.into(),
            TokenError::Invalid => codes::INVALID_TOKEN.into(),
            TokenError::UnknownKey => Refusal::Unlearnt(Box::new(codes::INVALID_TOKEN.into())),
        })?;
        if identity.user.is_none() && !anonymous {
            return Err(codes::DENIED.into());
        }
        if self.rules.insecure {
            identity.expires_at = None;
        }
        Ok(identity)
    }

    /// Subscribes to what the topics, the token and the client name, in this order.
    fn enter(&mut self, id: u32, request: &ConnectRequest, identity: Identity) -> Result<Step, Refusal> {
        let topics = &self.rules.topics;
        let mut channels: Vec<Joining> = Vec::new();
        let wish = |channel: &Channel| request.subs.get(channel.as_str());
        if let Some(user) = &identity.user {
            for (name, topic) in topics.iter().filter(|(_, topic)| topic.personal == Personal::Auto) {
                // The longest user id and the longest topic together pass the limit of a channel name.
                let channel = Channel::personal(name, user).map_err(|_| codes::INVALID_TOKEN)?;
                let terms = Terms::new(topic, None);
                channels.push(Joining::new(channel.clone(), wish(&channel), terms));
            }
        }
        for (channel, options) in &identity.subs {
            let topic = topics.of(channel).ok_or(codes::UNKNOWN_CHANNEL)?;
            let own = channel.owner().is_none_or(|owner| identity.user.as_ref().is_some_and(|u| u.as_str() == owner));
            if own && !channels.iter().any(|known| known.channel == *channel) {
                let joining = Joining::new(channel.clone(), wish(channel), Terms::new(topic, Some(options)));
                channels.push(Joining { data: options.data.clone(), ..joining });
            }
        }
        for (name, wish) in &request.subs {
            let channel = Channel::parse(name).map_err(|_| codes::BAD_REQUEST)?;
            let topic = topics.of(&channel).ok_or(codes::BAD_REQUEST)?;
            let known = channels.iter().any(|known| known.channel == channel);
            if !known && self.may_subscribe(topic, identity.user.as_ref(), &channel) {
                channels.push(Joining::new(channel, Some(wish), Terms::new(topic, None)));
            }
        }
        if channels.len() > self.rules.max_channels {
            return Err(codes::CHANNEL_LIMIT.into());
        }
        let granted = granted(&identity);
        self.who = Some(Who { user: identity.user, info: identity.info, granted });
        self.expires_at = identity.expires_at;
        Ok(Step::Join(Join { id, channels, cause: Cause::Connect, only_recovered: false }))
    }

    /// Whether `user` may subscribe without a token that says so.
    pub(super) fn may_subscribe(&self, topic: &Topic, user: Option<&UserId>, channel: &Channel) -> bool {
        let open = self.rules.insecure && channel.owner().is_none();
        open || topic.may_subscribe(user, channel)
    }

    /// The answer to connect: its channels stand as in `standings`.
    pub(super) fn connected(&mut self, join: Join, standings: &[Option<Standing>], now: u64) -> Reply {
        let mut subs: BTreeMap<String, SubscribeResult> = BTreeMap::new();
        self.channels.expect(join.channels.len());
        for (joining, standing) in join.channels.into_iter().zip(standings) {
            let result = joining.result(standing.as_ref(), now);
            subs.insert(joining.channel.to_string(), result);
            self.own(joining, true);
        }
        let expiry = expiry(self.expires_at, now);
        let (client, version) = (self.client.clone(), VERSION.to_owned());
        let (session, node) = match &self.manner {
            Manner::OneWay(session) => {
                let connect = Some(Connected {
                    client,
                    version,
                    subs,
                    expires: expiry.expires,
                    ttl: expiry.ttl,
                    ping: self.rules.ping_seconds,
                    session: session.clone(),
                });
                return Reply { push: Some(Push { connect, ..Push::default() }), ..Reply::default() };
            }
            Manner::Emulated(session) => (session.clone(), self.rules.node.clone()),
            Manner::TwoWay { .. } => (String::new(), String::new()),
        };
        let pings = self.manner != Manner::TwoWay { pings: false };
        let connect = Some(ConnectResult {
            client,
            version,
            expires: expiry.expires,
            ttl: expiry.ttl,
            subs,
            ping: if pings { self.rules.ping_seconds } else { 0 },
            pong: pings,
            session,
            node,
        });
        Reply { id: join.id, connect, ..Reply::default() }
    }

    pub(super) fn refresh(&mut self, id: u32, token: &str, now: u64) -> Result<Step, Refusal> {
        if token.is_empty() {
            return Err(codes::BAD_REQUEST.into());
        }
        let identity = self.rules.tokens.connection(token, now).map_err(|error| match error {
            TokenError::Expired => codes::EXPIRED.into(),
            TokenError::Invalid => codes::INVALID_TOKEN.into(),
            TokenError::UnknownKey => Refusal::Unlearnt(Box::new(codes::INVALID_TOKEN.into())),
        })?;
        let who = self.who.as_mut().filter(|who| who.user == identity.user).ok_or(codes::INVALID_TOKEN)?;
        if who.granted != granted(&identity) {
            // The client connects again, and has what the new token says.
            return Err(codes::INSUFFICIENT.into());
        }
        who.info = identity.info;
        self.expires_at = identity.expires_at.filter(|_| !self.rules.insecure);
        let expiry = expiry(self.expires_at, now);
        let (client, version) = (self.client.clone(), VERSION.to_owned());
        let refresh = Some(RefreshResult { client, version, expires: expiry.expires, ttl: expiry.ttl });
        Ok(answer(Reply { id, refresh, ..Reply::default() }))
    }

    /// The connection lives until another time than its token says; returns what the client is told.
    pub fn renew(&mut self, expires_at: Option<u64>, info: Option<Data>, now: u64) -> Expiry {
        self.expires_at = expires_at;
        if let (Some(who), Some(info)) = (&mut self.who, info) {
            who.info = Some(info);
        }
        expiry(self.expires_at, now)
    }

    /// What a client that only hears is told instead of an error: the code that makes it do the right thing.
    pub(crate) fn spoken(&self, step: Step) -> Step {
        match step {
            Step::Reply(reply) if matches!(self.manner, Manner::OneWay(_)) => {
                Step::Disconnect(match reply.error.map(|error| error.code) {
                    Some(109) => codes::EXPIRED,
                    Some(111) => codes::CROWDED,
                    Some(103) => codes::DENIED,
                    _ => codes::INTERNAL_ERROR,
                })
            }
            step => step,
        }
    }
}

/// The channels of a token, in an order by which two can be compared.
fn granted(identity: &Identity) -> Box<[Channel]> {
    let mut granted: Vec<Channel> = identity.subs.iter().map(|(channel, _)| channel.clone()).collect();
    granted.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    granted.into()
}
