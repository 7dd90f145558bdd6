//! The session of one connection: a pure state machine. Commands come in as bytes and times as values; what has to
//! be done comes out as [`Step`]s. It does no I/O and reads no clock.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use fanout_core::{Channel, Personal, Topics, UserId, begins_object};

use crate::allowance::Allowance;
use crate::codes::{self, CommandError, Disconnect};
use crate::join::{Join, Recovery, Standing, subscribed};
use crate::protocol::{
    Command, ConnectRequest, ConnectResult, Content, Empty, Expiry, SubscribeRequest, SubscribeResult, reply,
};
use crate::token::{TokenError, Tokens};

/// What sessions of one bridge share.
pub struct Rules {
    /// Verifies connection tokens.
    pub tokens: Tokens,
    /// What exists and who may have it.
    pub topics: Topics,
    /// Most channels of one connection.
    pub max_channels: usize,
    /// Subscriptions that a connection may begin per second, beyond `max_channels` at once.
    pub max_subscribes_per_second: u32,
    /// Seconds between pings.
    pub ping_seconds: u32,
}

/// What the connection has to do for a command.
#[derive(Debug)]
pub enum Step {
    /// Nothing.
    Nothing,
    /// The last ping was answered: the next one is due after the interval.
    Answered,
    /// Send this reply.
    Reply(Vec<u8>),
    /// Subscribe to these channels, read their positions, and call [`Session::joined`].
    Join(Join),
    /// Leave this channel, if the connection has it, and then send the reply.
    Leave(Channel, Vec<u8>),
    /// The token's key is not known: [`learn`](Tokens::learn) and give the same command again. If the answer is this again,
    /// do what is in it.
    Learn(Box<Step>),
    /// Close.
    Disconnect(Disconnect),
}

/// See the module.
pub struct Session {
    rules: Arc<Rules>,
    /// The connection's id, which clients see.
    client: String,
    user: Option<UserId>,
    expires_at: Option<u64>,
    /// The connection's channels, each with whether it is server-side.
    channels: HashMap<Channel, bool>,
    /// Whether a ping waits for its pong.
    pinged: bool,
    subscribes: Allowance,
}

impl Session {
    /// A session that has not signed in yet.
    pub fn new(rules: Arc<Rules>, client: String) -> Self {
        let subscribes = Allowance::new(rules.max_channels, rules.max_subscribes_per_second);
        Self { rules, client, user: None, expires_at: None, channels: HashMap::new(), pinged: false, subscribes }
    }

    /// Who has signed in.
    pub fn user(&self) -> Option<&UserId> {
        self.user.as_ref()
    }

    /// Unix seconds after which the connection may no longer live.
    pub fn expires_at(&self) -> Option<u64> {
        self.expires_at
    }

    /// The connection's channels.
    pub fn channels(&self) -> impl Iterator<Item = &Channel> {
        self.channels.keys()
    }

    /// A ping goes out.
    pub fn ping(&mut self) {
        self.pinged = true;
    }

    /// Whether a ping waits for its pong.
    pub fn awaits_pong(&self) -> bool {
        self.pinged
    }

    /// The bridge ended the subscription to `channel`.
    pub fn ended(&mut self, channel: &Channel) {
        self.channels.remove(channel);
    }

    /// One command, at `now` in Unix seconds.
    pub fn command(&mut self, line: &[u8], now: u64) -> Step {
        let command = serde_json::from_slice::<Command>(line).ok().filter(|_| begins_object(line));
        let Some(command) = command else { return refuse(codes::BAD_REQUEST) };
        let id = command.id;
        if self.user.is_none() {
            return match command.connect {
                Some(request) if id > 0 => self.connect(id, &request, now),
                _ => refuse(codes::BAD_REQUEST),
            };
        }
        if id == 0 {
            return match command.send {
                Some(_) => refuse(codes::NOT_AVAILABLE),
                None => self.pong(),
            };
        }
        if command.connect.is_some() {
            return refuse(codes::BAD_REQUEST);
        }
        if let Some(request) = command.subscribe {
            return self.subscribe(id, &request, now);
        }
        if let Some(request) = command.unsubscribe {
            return self.unsubscribe(id, &request.channel);
        }
        if let Some(request) = command.publish {
            return self.about(id, &request.channel, codes::PERMISSION_DENIED);
        }
        if let Some(request) = command.presence.or(command.presence_stats).or(command.history) {
            return self.about(id, &request.channel, codes::FEATURE_OFF);
        }
        if command.rpc.is_some() {
            return fail(id, codes::FEATURE_OFF);
        }
        if let Some(request) = command.refresh {
            return self.refresh(id, &request.token, now);
        }
        if let Some(request) = command.sub_refresh {
            return self.about(id, &request.channel, codes::PERMISSION_DENIED);
        }
        refuse(codes::BAD_REQUEST)
    }

    /// The channels of `join` are subscribed and stand as in `standings`, in the same order; a channel without history has
    /// none, and one that could not be read makes its subscription unrecoverable. Returns the reply.
    pub fn joined(&mut self, join: Join, standings: &[Option<Standing>], now: u64) -> Vec<u8> {
        let mut results: Vec<(Channel, SubscribeResult)> = Vec::with_capacity(join.channels.len());
        for ((channel, recovery), standing) in join.channels.into_iter().zip(standings) {
            self.channels.insert(channel.clone(), join.connect);
            results.push((channel, subscribed(recovery.as_ref(), standing.as_ref())));
        }
        if !join.connect {
            let result = results.pop().map(|(_, result)| result).unwrap_or_default();
            return reply(join.id, Content::Subscribe(result));
        }
        let subs: BTreeMap<&str, SubscribeResult> =
            results.iter_mut().map(|(channel, result)| (channel.as_str(), std::mem::take(result))).collect();
        let result = ConnectResult {
            client: &self.client,
            version: env!("CARGO_PKG_VERSION"),
            expiry: self.expiry(now),
            subs,
            ping: self.rules.ping_seconds,
            pong: true,
        };
        reply(join.id, Content::Connect(result))
    }

    fn connect(&mut self, id: u32, request: &ConnectRequest, now: u64) -> Step {
        let identity = match self.rules.tokens.connection(&request.token, now) {
            Ok(identity) => identity,
            Err(TokenError::Expired) => return fail(id, codes::TOKEN_EXPIRED),
            Err(TokenError::UnknownKey) => return Step::Learn(Box::new(refuse(codes::INVALID_TOKEN))),
            Err(TokenError::Invalid) => return refuse(codes::INVALID_TOKEN),
        };
        let Some(user) = identity.user else { return refuse(codes::INVALID_TOKEN) };
        let mut channels = Vec::new();
        for (name, topic) in self.rules.topics.iter().filter(|(_, topic)| topic.personal == Personal::Auto) {
            match Channel::personal(name, &user) {
                Ok(channel) => channels.push((channel.clone(), topic, request.subs.get(channel.as_str()))),
                // The longest user id and the longest topic together pass the limit of a channel name.
                Err(_) => return refuse(codes::INVALID_TOKEN),
            }
        }
        for (name, sub) in &request.subs {
            let Ok(channel) = Channel::parse(name) else { return refuse(codes::BAD_REQUEST) };
            let Some(topic) = self.rules.topics.of(&channel) else { return refuse(codes::BAD_REQUEST) };
            let known = channels.iter().any(|(known, _, _)| *known == channel);
            if !known && topic.may_subscribe(&user, &channel) {
                channels.push((channel, topic, Some(sub)));
            }
        }
        if channels.len() > self.rules.max_channels {
            return refuse(codes::CHANNEL_LIMIT);
        }
        let channels = channels.into_iter().map(|(channel, _, sub)| (channel, sub.and_then(recovery))).collect();
        self.user = Some(user);
        self.expires_at = identity.expires_at;
        Step::Join(Join { id, channels, connect: true })
    }

    fn subscribe(&mut self, id: u32, request: &SubscribeRequest, now: u64) -> Step {
        let channel = match self.channel(&request.channel) {
            Ok(channel) => channel,
            Err(step) => return step.into_step(id),
        };
        if self.channels.contains_key(&channel) {
            return fail(id, codes::ALREADY_SUBSCRIBED);
        }
        let Some(topic) = self.rules.topics.of(&channel) else { return fail(id, codes::UNKNOWN_CHANNEL) };
        if !self.user.as_ref().is_some_and(|user| topic.may_subscribe(user, &channel)) {
            return fail(id, codes::PERMISSION_DENIED);
        }
        if self.channels.len() >= self.rules.max_channels {
            return fail(id, codes::LIMIT_EXCEEDED);
        }
        if !self.subscribes.take(now) {
            return fail(id, codes::TOO_MANY_REQUESTS);
        }
        Step::Join(Join { id, channels: vec![(channel, recovery(request))], connect: false })
    }

    fn unsubscribe(&mut self, id: u32, name: &str) -> Step {
        let done = reply(id, Content::Unsubscribe(Empty {}));
        match self.channel(name) {
            Ok(channel) => {
                self.channels.remove(&channel);
                Step::Leave(channel, done)
            }
            Err(Refusal::Disconnect(disconnect)) => refuse(disconnect),
            // Ending what was never there succeeds.
            Err(Refusal::Command(_)) => Step::Reply(done),
        }
    }

    /// A command about a channel that is answered `error` unless the channel itself is wrong.
    fn about(&self, id: u32, name: &str, error: CommandError) -> Step {
        match self.channel(name) {
            Ok(_) => fail(id, error),
            Err(refusal) => refusal.into_step(id),
        }
    }

    fn refresh(&mut self, id: u32, token: &str, now: u64) -> Step {
        if token.is_empty() {
            return refuse(codes::BAD_REQUEST);
        }
        match self.rules.tokens.connection(token, now) {
            Ok(identity) if identity.user == self.user => {
                self.expires_at = identity.expires_at;
                Step::Reply(reply(id, Content::Refresh(self.expiry(now))))
            }
            Err(TokenError::Expired) => refuse(codes::EXPIRED),
            Err(TokenError::UnknownKey) => Step::Learn(Box::new(refuse(codes::INVALID_TOKEN))),
            Ok(_) | Err(TokenError::Invalid) => refuse(codes::INVALID_TOKEN),
        }
    }

    fn pong(&mut self) -> Step {
        // The reference closes on a pong that nobody asked for; being lenient costs nothing, as long as it does not
        // put off the next ping.
        if std::mem::take(&mut self.pinged) { Step::Answered } else { Step::Nothing }
    }

    fn channel(&self, name: &str) -> Result<Channel, Refusal> {
        if name.is_empty() {
            return Err(Refusal::Disconnect(codes::BAD_REQUEST));
        }
        let channel = Channel::parse(name).map_err(|_| Refusal::Command(codes::BAD_COMMAND))?;
        match self.rules.topics.of(&channel) {
            Some(_) => Ok(channel),
            None => Err(Refusal::Command(codes::UNKNOWN_CHANNEL)),
        }
    }

    fn expiry(&self, now: u64) -> Expiry {
        match self.expires_at {
            Some(at) => Expiry { expires: true, ttl: Some(at.saturating_sub(now)) },
            None => Expiry::default(),
        }
    }
}

enum Refusal {
    Command(CommandError),
    Disconnect(Disconnect),
}

impl Refusal {
    fn into_step(self, id: u32) -> Step {
        match self {
            Self::Command(error) => fail(id, error),
            Self::Disconnect(disconnect) => refuse(disconnect),
        }
    }
}

fn fail(id: u32, error: CommandError) -> Step {
    Step::Reply(reply(id, Content::Error(error)))
}

fn refuse(disconnect: Disconnect) -> Step {
    Step::Disconnect(disconnect)
}

fn recovery(request: &SubscribeRequest) -> Option<Recovery> {
    request.recover.then(|| Recovery { epoch: request.epoch.clone(), offset: request.offset })
}

#[cfg(test)]
mod tests {
    use fanout_core::config::ConfigError;
    use fanout_core::envelope::Position;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn signed_in() -> Result<Session, ConfigError> {
        let tokens = Tokens::new(Some(&"s".repeat(32).into()))?;
        let user = UserId::parse("42").expect("user");
        let token = tokens.sign(&user, NOW, 60)?;
        let topics = Topics::new(None, None).expect("built in");
        let rules = Rules { tokens, topics, max_channels: 4, max_subscribes_per_second: 2, ping_seconds: 25 };
        let mut session = Session::new(Arc::new(rules), "client".into());
        let connect = format!(r#"{{"id":1,"connect":{{"token":"{token}"}}}}"#);
        let Step::Join(join) = session.command(connect.as_bytes(), NOW) else { panic!("not signed in") };
        let standing = || {
            let top = Position { epoch: "00c0ffee".parse().expect("epoch"), offset: 7 };
            Some(Standing { top, missed: None })
        };
        let reply = session.joined(join, &[standing(), None, standing()], NOW);
        let reply = String::from_utf8(reply).expect("UTF-8");
        assert!(reply.contains(r#""orders:#42":{}"#), "a position that could not be read: {reply}");
        assert!(reply.contains(r#""expires":true,"ttl":60"#), "{reply}");
        Ok(session)
    }

    #[test]
    fn only_the_answer_to_a_ping_puts_off_the_next_one() {
        let mut session = signed_in().expect("secret");
        assert!(matches!(session.command(b"{}", NOW), Step::Nothing));
        session.ping();
        assert!(session.awaits_pong());
        assert!(matches!(session.command(b"{}", NOW), Step::Answered));
        assert!(!session.awaits_pong());
        assert!(matches!(session.command(b"{}", NOW), Step::Nothing));
    }

    #[test]
    fn a_subscription_that_the_bridge_ended_can_be_made_again() {
        let mut session = signed_in().expect("secret");
        let own = Channel::parse("orders:#42").expect("channel");
        let subscribe = br##"{"id":2,"subscribe":{"channel":"orders:#42"}}"##;
        assert!(matches!(session.command(subscribe, NOW), Step::Reply(_)), "105, it has it");
        session.ended(&own);
        assert!(matches!(session.command(subscribe, NOW), Step::Join(_)));
    }

    #[test]
    fn whoever_subscribes_over_and_over_is_put_off() {
        let mut session = signed_in().expect("secret");
        let own = Channel::parse("orders:#42").expect("channel");
        let mut subscribe = || {
            session.ended(&own);
            session.command(br##"{"id":2,"subscribe":{"channel":"orders:#42"}}"##, NOW)
        };
        assert!((0..4).all(|_| matches!(subscribe(), Step::Join(_))), "as many at once as channels are permitted");
        let Step::Reply(reply) = subscribe() else { panic!("a fifth") };
        let reply = String::from_utf8(reply).expect("UTF-8");
        assert!(reply.contains(r#""code":111"#) && reply.contains(r#""temporary":true"#), "{reply}");
    }
}
