//! Publishing, and asking who is there and what was published.

use fanout_core::history::Ask;
use fanout_core::{Channel, Data, Topic, Who};

use super::{Refusal, Session, Step};
use crate::codes;
use crate::protocol::message::{HistoryRequest, PublishRequest, RpcRequest};

impl Session {
    pub(super) fn publish(&self, id: u32, request: &PublishRequest) -> Result<Step, Refusal> {
        let (channel, topic) = self.channel(&request.channel)?;
        let data = Data::parse(request.data.clone()).map_err(|_| codes::BAD_COMMAND)?;
        self.permit(topic, topic.publish, &channel)?;
        let terms = self.channels.get(&channel).map(|subscribed| &subscribed.terms);
        Ok(Step::Publish { id, info: self.info(terms), channel, data })
    }

    /// The channel of that name, if its presence may be seen.
    pub(super) fn presence(&self, name: &str) -> Result<Channel, Refusal> {
        let (channel, topic) = self.channel(name)?;
        if !topic.presence {
            return Err(codes::FEATURE_OFF.into());
        }
        self.permit(topic, topic.see_presence, &channel)?;
        Ok(channel)
    }

    pub(super) fn history(&self, id: u32, request: &HistoryRequest) -> Result<Step, Refusal> {
        let (channel, topic) = self.channel(&request.channel)?;
        if !topic.keeps_history() {
            return Err(codes::FEATURE_OFF.into());
        }
        self.permit(topic, topic.see_history, &channel)?;
        let since = request.since.as_ref().map(|since| (since.offset, since.epoch.clone()));
        if request.reverse && since.as_ref().is_some_and(|(offset, _)| *offset == 0) {
            return Err(codes::BAD_COMMAND.into());
        }
        Ok(Step::History(id, channel, Ask { since, limit: request.limit, reverse: request.reverse }))
    }

    pub(super) fn rpc(&self, id: u32, request: &RpcRequest) -> Result<Step, Refusal> {
        if !self.rules.answers_rpc {
            return Err(codes::FEATURE_OFF.into());
        }
        let data = match request.data.is_empty() {
            true => None,
            false => Some(Data::parse(request.data.clone()).map_err(|_| codes::BAD_COMMAND)?),
        };
        Ok(Step::Call(id, request.method.clone(), data))
    }

    fn permit(&self, topic: &Topic, who: Who, channel: &Channel) -> Result<(), Refusal> {
        let subscribed = self.channels.get(channel).is_some();
        let own = channel.owner().is_none_or(|owner| self.user().is_some_and(|user| user.as_str() == owner));
        match own && (self.rules.insecure || topic.permits(who, self.user(), channel, subscribed)) {
            true => Ok(()),
            false => Err(codes::PERMISSION_DENIED.into()),
        }
    }
}
