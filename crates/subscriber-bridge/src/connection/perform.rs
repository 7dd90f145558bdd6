//! What a session asks for and only a connection can do: everything that goes to Redis or to the backend.

use fanout_core::history::{self, Ask, PageError};
use fanout_core::presence::{self, Member};
use fanout_core::{Channel, ClientInfo, Data, Publication, PublishError, UserId};
use std::time::Duration;
use tokio::time::{Instant, timeout};

use super::{Connection, JOIN_PATIENCE, LOST_PATIENCE, unix_now};
use crate::backend::{Call, CallError};
use crate::codes::{self, CommandError, Disconnect};
use crate::join::{Cause, Join, Terms};
use crate::protocol::message::{Empty, HistoryResult, PresenceResult, PresenceStatsResult, RpcResult};
use crate::protocol::{self, Reply, failure};
use crate::recovery;
use crate::session::Step;

impl Connection {
    pub(super) async fn perform(&mut self, step: Step) -> Result<(), Disconnect> {
        match step {
            Step::Nothing | Step::Learn(_) => {}
            Step::Answered => self.timer = self.after(self.shared.config.ping_seconds),
            Step::Reply(reply) => self.outbox.reply(&reply),
            Step::Disconnect(disconnect) => return Err(disconnect),
            Step::Join(join) => {
                if join.cause == Cause::Connect {
                    self.enter()?;
                }
                self.join(join).await;
            }
            Step::Leave(channel, terms, reply) => {
                Box::pin(self.leave(&channel, terms.as_ref())).await;
                self.outbox.reply(&reply);
            }
            // Boxed, because every client signs in, and few do any of this.
            step => Box::pin(self.look_up(step)).await,
        }
        Ok(())
    }

    /// What somebody else has to answer: Redis, or the application's backend.
    async fn look_up(&self, step: Step) {
        match step {
            Step::Publish { id, channel, data, info } => {
                let published = in_time(self.publish(channel, data, info)).await;
                self.answer(id, published.map(|()| Reply { publish: Some(Empty {}), ..Reply::default() }));
            }
            Step::Presence(id, channel) => {
                let presence = in_time(self.presence(&channel)).await;
                self.answer(id, presence.map(|presence| Reply { presence: Some(presence), ..Reply::default() }));
            }
            Step::PresenceStats(id, channel) => {
                let stats = in_time(self.presence_stats(&channel)).await;
                self.answer(id, stats.map(|stats| Reply { presence_stats: Some(stats), ..Reply::default() }));
            }
            Step::History(id, channel, ask) => {
                let page = in_time(self.history(&channel, &ask)).await;
                self.answer(id, page.map(|page| Reply { history: Some(page), ..Reply::default() }));
            }
            Step::Call(id, method, data) => {
                let said = self.call(&method, data.as_ref()).await;
                self.answer(id, said.map(|said| Reply { rpc: Some(said), ..Reply::default() }));
            }
            // Done before it comes here.
            Step::Nothing
            | Step::Answered
            | Step::Reply(_)
            | Step::Join(_)
            | Step::Leave(..)
            | Step::Learn(_)
            | Step::Disconnect(_) => {}
        }
    }

    /// A page of a history is longer than what may wait of live publications: like what is recovered, it counts for itself
    /// and takes its room.
    fn answer(&self, id: u32, result: Result<Reply, CommandError>) {
        let reply = result.map_or_else(|error| failure(id, error), |reply| Reply { id, ..reply });
        let (frame, mut room) = (self.outbox.wire().reply(&reply), self.shared.room.nothing());
        match room.more(frame.len()) {
            true => self.outbox.recover(frame, Some(room)),
            false => self.outbox.reply(&failure(id, codes::TOO_MANY_REQUESTS)),
        }
    }

    /// Counts the connection among those of its user, and lets others find it.
    fn enter(&self) -> Result<(), Disconnect> {
        let limit = self.shared.config.max_connections_per_user;
        let entered = self.shared.connections.enter(self.id, self.session.user(), limit, &self.outbox);
        if entered { Ok(()) } else { Err(codes::CONNECTION_LIMIT) }
    }

    /// Subscribes and hears where the feeds then stand, reads what a recovering client missed, replies, and only after that
    /// lets publications through: what was published meanwhile was held, so that nothing falls between and nothing overtakes
    /// the reply.
    pub(super) async fn join(&mut self, join: Join) {
        let cause = join.cause;
        let server_side = cause != Cause::Subscribe;
        let arrival = self.shared.hub.join(self.id, &self.outbox, &join.channels, server_side);
        let mut room = self.shared.room.nothing();
        let read = async {
            let positions = arrival.positions().await;
            recovery::standings(&self.shared, &join, &positions, &mut room).await
        };
        let patience = if self.shared.link.is_connected() { JOIN_PATIENCE } else { LOST_PATIENCE };
        let standings = timeout(patience, read).await;
        let mut standings = standings.unwrap_or_else(|_| join.channels.iter().map(|_| None).collect());
        recovery::count(&self.shared.metrics, &join, &standings);
        let channels: Vec<Channel> = join.channels.iter().map(|joining| joining.channel.clone()).collect();
        let members: Vec<Member> =
            join.channels.iter().filter_map(|joining| self.member(&joining.channel, &joining.terms)).collect();
        let within = if cause == Cause::Order { 0 } else { recovery::MAX_REPLY_BYTES };
        let rest = recovery::beyond_the_reply(&channels, &mut standings, self.outbox.wire(), within);
        let reply = match self.session.joined(join, &standings, unix_now()) {
            Ok(reply) => reply,
            Err(reply) => {
                self.shared.hub.leave(self.id, &channels);
                return self.outbox.reply(&reply);
            }
        };
        Box::pin(self.shared.attendance.enter(self.id, &members)).await;
        let (last, mut room) = (rest.len(), Some(room));
        for (index, frame) in std::iter::once(self.outbox.wire().reply(&reply)).chain(rest).enumerate() {
            self.outbox.recover(frame, if index == last { room.take() } else { None });
        }
        for (channel, standing) in channels.iter().zip(standings) {
            self.shared.hub.activate(self.id, channel, standing.map(|standing| standing.top));
        }
        if cause == Cause::Connect {
            self.shared.metrics.connects.inc();
            let interval = Duration::from_secs(self.shared.config.ping_seconds.into());
            // Clients that came back together must not be pinged together.
            self.timer = Instant::now() + interval.mul_f64(0.5 + 0.5 * fastrand::f64());
        }
    }

    /// What Redis is to know of a subscription on `terms`, if anything.
    pub(super) fn member(&self, channel: &Channel, terms: &Terms) -> Option<Member> {
        let (keeps, announces) = (terms.keeps, terms.announces);
        let info = || self.session.info(Some(terms));
        terms.shows().then(|| Member { channel: channel.clone(), info: info(), keeps, announces })
    }

    pub(super) async fn leave(&self, channel: &Channel, terms: Option<&Terms>) {
        self.shared.hub.leave(self.id, [channel]);
        let member = terms.and_then(|terms| self.member(channel, terms));
        self.shared.attendance.leave(self.id, member.as_slice()).await;
    }

    async fn publish(&self, channel: Channel, data: Data, info: ClientInfo) -> Result<(), CommandError> {
        let publication = Publication { info: Some(info), ..Publication::new(channel, data) };
        self.shared.publisher.publish(publication).await.map(drop).map_err(|error| {
            tracing::debug!(connection = self.id.0, %error, "a client's publication");
            match error {
                PublishError::UnknownTopic(_) => codes::UNKNOWN_CHANNEL,
                PublishError::Limit(_) => codes::BAD_COMMAND,
                PublishError::Redis(_) => codes::INTERNAL,
            }
        })
    }

    async fn presence(&self, channel: &Channel) -> Result<PresenceResult, CommandError> {
        let members = presence::read(&self.shared.redis, channel).await.map_err(internal)?;
        let presence = members.iter().map(|info| (info.client.clone(), protocol::info(info))).collect();
        Ok(PresenceResult { presence })
    }

    async fn presence_stats(&self, channel: &Channel) -> Result<PresenceStatsResult, CommandError> {
        let stats = presence::stats(&self.shared.redis, channel).await.map_err(internal)?;
        let count = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        Ok(PresenceStatsResult { num_clients: count(stats.clients), num_users: count(stats.users) })
    }

    async fn history(&self, channel: &Channel, ask: &Ask) -> Result<HistoryResult, CommandError> {
        let topic = self.shared.rules.topics.of(channel).ok_or(codes::UNKNOWN_CHANNEL)?;
        let page = history::page(&self.shared.redis, topic, channel, ask).await.map_err(|error| match error {
            PageError::OtherEpoch(_) => codes::UNRECOVERABLE,
            PageError::Redis(error) => internal(error),
        })?;
        let publications = page.envelopes.iter().filter_map(protocol::recovered).collect();
        Ok(HistoryResult { publications, epoch: page.top.epoch.to_string(), offset: page.top.offset })
    }

    async fn call(&self, method: &str, data: Option<&Data>) -> Result<RpcResult, CommandError> {
        let backend = self.shared.backend.as_ref().ok_or(codes::FEATURE_OFF)?;
        let data = data.and_then(|data| serde_json::from_slice(data.as_bytes()).ok());
        let user = self.session.user().map_or("", UserId::as_str);
        let said = backend.rpc(Call { client: self.session.client(), user, method, data }).await;
        let data = said.map_err(|error| match error {
            CallError::Refused { code, message } => CommandError { code, message: message.into(), temporary: false },
            CallError::Busy => codes::TOO_MANY_REQUESTS,
            CallError::Unreachable(_) | CallError::Answer(_) => {
                tracing::warn!(method, %error, "a call of a client could not be answered");
                codes::INTERNAL
            }
        })?;
        Ok(RpcResult { data: data.as_ref().map(Data::bytes).unwrap_or_default() })
    }
}

/// A client gives up on a command after 5 s, and its connection with it: it is answered before.
async fn in_time<T>(answer: impl Future<Output = Result<T, CommandError>>) -> Result<T, CommandError> {
    timeout(JOIN_PATIENCE, answer).await.unwrap_or(Err(codes::INTERNAL))
}

/// Redis is away or refuses: the client may try again.
fn internal(error: fanout_core::RedisError) -> CommandError {
    tracing::debug!(%error, "a command could not be answered");
    codes::INTERNAL
}
