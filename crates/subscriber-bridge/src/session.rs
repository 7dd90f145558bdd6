//! The session of one connection: a pure state machine. Commands and times come in as values; what has to be done comes
//! out as [`Step`]s. It does no I/O and reads no clock.

mod ask;
mod channels;
mod connect;
mod subscribe;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use fanout_core::history::Ask;
use fanout_core::{Channel, ClientInfo, Data, Topic, Topics, UserId};

use self::channels::Channels;
use crate::allowance::Allowance;
use crate::codes::{self, CommandError, Disconnect};
use crate::join::{Join, Terms};
use crate::protocol::message::{ConnectRequest, Expiry};
use crate::protocol::{Command, Reply, failure};
use crate::token::Tokens;

/// Seconds to which longer ones are cut, a year, so that clients' timers do not overflow.
const MAX_TTL: u32 = 365 * 24 * 3600;

/// What sessions of one bridge share.
pub struct Rules {
    /// Verifies tokens.
    pub tokens: Tokens,
    /// What exists and who may have it.
    pub topics: Topics,
    /// The bridge's name among the others.
    pub node: String,
    /// Whether everything is permitted to everybody, but for other users' personal channels.
    pub insecure: bool,
    /// Whether clients without a user may connect.
    pub allow_anonymous: bool,
    /// Whether there is a backend that answers `rpc`.
    pub answers_rpc: bool,
    /// Most channels of one connection.
    pub max_channels: usize,
    /// Subscriptions that a connection may begin per second, beyond `max_channels` at once.
    pub max_subscribes_per_second: u32,
    /// Seconds between pings.
    pub ping_seconds: u32,
}

/// How a client speaks, as far as it matters to its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manner {
    /// Both ways over one connection. Without `pings` it has asked for the transport's own.
    TwoWay {
        /// Whether the bridge pings, and the client answers.
        pings: bool,
    },
    /// It hears a stream and speaks by requests, which name this secret session.
    Emulated(String),
    /// It only hears. The secret session is for the application's backend.
    OneWay(String),
}

/// What the connection has to do for a command.
#[derive(Debug)]
pub enum Step {
    /// Nothing.
    Nothing,
    /// The last ping was answered: the next one is due after the interval.
    Answered,
    /// Send this reply.
    Reply(Box<Reply>),
    /// Subscribe to these channels, read their positions, and call [`Session::joined`].
    Join(Join),
    /// Leave this channel, which was subscribed on these terms, and then send the reply.
    Leave(Channel, Option<Terms>, Box<Reply>),
    /// Publish, and answer command `id`.
    Publish {
        /// The command.
        id: u32,
        /// Where.
        channel: Channel,
        /// What.
        data: Data,
        /// Who.
        info: ClientInfo,
    },
    /// Answer command `id` with who has the channel.
    Presence(u32, Channel),
    /// Answer command `id` with how many have the channel.
    PresenceStats(u32, Channel),
    /// Answer command `id` with what was published.
    History(u32, Channel, Ask),
    /// Answer command `id` with what the backend says to this method and data.
    Call(u32, String, Option<Data>),
    /// A token names a key that is not known yet: [learn](Tokens::learn), and do the command once more; if it comes to
    /// this again, do the step inside.
    Learn(Box<Step>),
    /// Close.
    Disconnect(Disconnect),
}

/// Who has signed in.
#[derive(Debug)]
struct Who {
    /// Nobody in particular when there is none.
    user: Option<UserId>,
    /// What the token says for others to see.
    info: Option<Data>,
    /// The channels of the token.
    granted: Box<[Channel]>,
}

/// One of the session's subscriptions.
#[derive(Debug)]
struct Subscribed {
    server_side: bool,
    /// Unix seconds.
    expires_at: Option<u64>,
    terms: Terms,
}

/// See the module.
pub struct Session {
    rules: Arc<Rules>,
    /// The connection's id, which clients see.
    client: String,
    manner: Manner,
    who: Option<Who>,
    expires_at: Option<u64>,
    channels: Channels,
    /// Whether a ping waits for its pong.
    pinged: bool,
    subscribes: Allowance,
}

impl Session {
    /// A session that has not signed in yet.
    pub fn new(rules: Arc<Rules>, client: String, manner: Manner) -> Self {
        let subscribes = Allowance::new(rules.max_channels, rules.max_subscribes_per_second);
        Self {
            rules,
            client,
            manner,
            who: None,
            expires_at: None,
            channels: Channels::default(),
            pinged: false,
            subscribes,
        }
    }

    /// The connection's id.
    pub fn client(&self) -> &str {
        &self.client
    }

    /// The secret session; empty where the client needs none.
    pub fn secret(&self) -> &str {
        match &self.manner {
            Manner::TwoWay { .. } => "",
            Manner::Emulated(session) | Manner::OneWay(session) => session,
        }
    }

    /// Whether somebody has signed in.
    pub fn is_signed_in(&self) -> bool {
        self.who.is_some()
    }

    /// Who has signed in, when it is a user.
    pub fn user(&self) -> Option<&UserId> {
        self.who.as_ref()?.user.as_ref()
    }

    /// Unix seconds after which the connection may no longer live.
    pub fn expires_at(&self) -> Option<u64> {
        self.expires_at
    }

    /// The connection's channels, each with the terms on which it has it.
    pub fn channels(&self) -> impl Iterator<Item = (&Channel, &Terms)> {
        self.channels.iter().map(|(channel, subscribed)| (channel, &subscribed.terms))
    }

    /// What others see of this client in a channel that it has on `terms`.
    pub fn info(&self, terms: Option<&Terms>) -> ClientInfo {
        ClientInfo {
            user: self.user().map(ToString::to_string).unwrap_or_default(),
            client: self.client.clone(),
            conn_info: self.who.as_ref().and_then(|who| who.info.clone()),
            chan_info: terms.and_then(|terms| terms.info.clone()),
        }
    }

    /// A ping goes out. Says whether an answer is due.
    pub fn ping(&mut self) -> bool {
        self.pinged = !matches!(self.manner, Manner::OneWay(_) | Manner::TwoWay { pings: false });
        self.pinged
    }

    /// Whether the transport pings, because the client asked for that.
    pub fn pings_by_transport(&self) -> bool {
        self.manner == Manner::TwoWay { pings: false }
    }

    /// Whether a ping waits for its pong.
    pub fn awaits_pong(&self) -> bool {
        self.pinged
    }

    /// The bridge ended the subscription to `channel`; returns on which terms it was.
    pub fn ended(&mut self, channel: &Channel) -> Option<Terms> {
        self.channels.remove(channel).map(|subscribed| subscribed.terms)
    }

    /// Channels whose subscription ended more than `grace` seconds before `now`, each with whether it is server-side.
    pub fn overdue(&self, now: u64, grace: u64) -> Vec<(Channel, bool)> {
        let overdue = |subscribed: &Subscribed| subscribed.expires_at.is_some_and(|at| at.saturating_add(grace) <= now);
        let channels = self.channels.iter().filter(|(_, subscribed)| overdue(subscribed));
        channels.map(|(channel, subscribed)| (channel.clone(), subscribed.server_side)).collect()
    }

    /// One command, at `now` in Unix seconds; none where the client sent something else.
    pub fn command(&mut self, command: Option<&Command>, now: u64) -> Step {
        let Some(command) = command else { return refuse(codes::BAD_REQUEST) };
        let id = command.id;
        if self.who.is_none() {
            return match &command.connect {
                Some(request) if id > 0 => self.connect(id, request, now),
                _ => refuse(codes::BAD_REQUEST),
            };
        }
        if id == 0 {
            return if command.send.is_some() { refuse(codes::NOT_AVAILABLE) } else { self.pong() };
        }
        if command.connect.is_some() {
            return refuse(codes::BAD_REQUEST);
        }
        let step = if let Some(request) = &command.subscribe {
            self.subscribe(id, request, now)
        } else if let Some(request) = &command.unsubscribe {
            self.unsubscribe(id, &request.channel)
        } else if let Some(request) = &command.publish {
            self.publish(id, request)
        } else if let Some(request) = &command.presence {
            self.presence(&request.channel).map(|channel| Step::Presence(id, channel))
        } else if let Some(request) = &command.presence_stats {
            self.presence(&request.channel).map(|channel| Step::PresenceStats(id, channel))
        } else if let Some(request) = &command.history {
            self.history(id, request)
        } else if let Some(request) = &command.rpc {
            self.rpc(id, request)
        } else if let Some(request) = &command.refresh {
            self.refresh(id, &request.token, now)
        } else if let Some(request) = &command.sub_refresh {
            self.sub_refresh(id, request, now)
        } else {
            Err(codes::BAD_REQUEST.into())
        };
        step.unwrap_or_else(|refusal| refusal.into_step(id))
    }

    /// The only command of a client that cannot speak.
    pub fn connect_one_way(&mut self, request: &ConnectRequest, now: u64) -> Step {
        let step = self.connect(1, request, now);
        self.spoken(step)
    }

    fn pong(&mut self) -> Step {
        // The reference closes on a pong that nobody asked for; being lenient costs nothing, as long as it does not
        // put off the next ping.
        if std::mem::take(&mut self.pinged) { Step::Answered } else { Step::Nothing }
    }

    /// See [`Rules::channel`].
    fn channel(&self, name: &str) -> Result<(Channel, &Topic), Refusal> {
        self.rules.channel(name)
    }
}

impl Rules {
    /// The channel of that name and its topic.
    fn channel(&self, name: &str) -> Result<(Channel, &Topic), Refusal> {
        if name.is_empty() {
            return Err(codes::BAD_REQUEST.into());
        }
        let channel = Channel::parse(name).map_err(|_| codes::BAD_COMMAND)?;
        match self.topics.of(&channel) {
            Some(topic) => Ok((channel, topic)),
            None => Err(codes::UNKNOWN_CHANNEL.into()),
        }
    }
}

pub(crate) fn expiry(expires_at: Option<u64>, now: u64) -> Expiry {
    let left = expires_at.map(|at| u32::try_from(at.saturating_sub(now)).unwrap_or(MAX_TTL).min(MAX_TTL));
    Expiry { expires: left.is_some(), ttl: left }
}

/// Why a command is not done.
enum Refusal {
    Command(CommandError),
    Disconnect(Disconnect),
    /// Unless a key that is still to be learnt changes it.
    Unlearnt(Box<Refusal>),
}

impl From<CommandError> for Refusal {
    fn from(error: CommandError) -> Self {
        Self::Command(error)
    }
}

impl From<Disconnect> for Refusal {
    fn from(disconnect: Disconnect) -> Self {
        Self::Disconnect(disconnect)
    }
}

impl Refusal {
    fn into_step(self, id: u32) -> Step {
        match self {
            Self::Command(error) => Step::Reply(Box::new(failure(id, error))),
            Self::Disconnect(disconnect) => refuse(disconnect),
            Self::Unlearnt(otherwise) => Step::Learn(Box::new(otherwise.into_step(id))),
        }
    }
}

fn refuse(disconnect: Disconnect) -> Step {
    Step::Disconnect(disconnect)
}

fn answer(reply: Reply) -> Step {
    Step::Reply(Box::new(reply))
}
