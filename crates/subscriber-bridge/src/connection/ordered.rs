//! What others order of a connection.

use fanout_core::Channel;
use fanout_core::control::{Subscribe, Whom};

use super::{Connection, unix_now};
use crate::codes::{self, Disconnect, Ending};
use crate::join::{Cause, Join, Joining, Recovery, Terms};
use crate::order::{Lease, Order};
use crate::protocol::{self, Push};
use crate::token::{Options, Overrides};

impl Connection {
    pub(super) async fn obey(&mut self, order: Order) -> Result<(), Disconnect> {
        match order {
            Order::Commands(commands) => self.commands(commands).await,
            Order::Disconnect(whom, staying, disconnect) => {
                let stays = staying.iter().any(|id| id == self.session.client());
                if self.is_meant(&whom) && !stays { Err(disconnect) } else { Ok(()) }
            }
            Order::Subscribe(subscribe) => {
                if self.is_meant(&subscribe.whom) {
                    self.adopt(&subscribe).await;
                }
                Ok(())
            }
            Order::Unsubscribe(whom, channel) => {
                if self.is_meant(&whom) {
                    self.end(&channel, codes::UNSUBSCRIBED).await;
                }
                Ok(())
            }
            Order::Refresh(whom, lease) => {
                if self.is_meant(&whom) {
                    self.renew(lease)
                } else {
                    Ok(())
                }
            }
        }
    }

    fn is_meant(&self, whom: &Whom) -> bool {
        let user = self.session.user().map_or("", |user| user.as_str());
        self.session.is_signed_in() && whom.means(user, self.session.client(), self.session.secret())
    }

    /// Ends the subscription to `channel`, if there is one, and tells the client why.
    pub(super) async fn end(&mut self, channel: &Channel, why: Ending) {
        let Some(terms) = self.session.ended(channel) else { return };
        self.leave(channel, Some(&terms)).await;
        self.outbox.send(self.outbox.wire().push(protocol::ended(channel.as_str(), why)));
    }

    /// Begins a server-side subscription, unless the connection has the channel already.
    async fn adopt(&mut self, subscribe: &Subscribe) {
        let Ok(channel) = Channel::parse(&subscribe.channel) else { return };
        let Some(topic) = self.shared.rules.topics.of(&channel) else { return };
        let own = channel.owner().is_none_or(|owner| owner == subscribe.whom.user);
        let full = self.session.channels().count() >= self.shared.rules.max_channels;
        if !own || full || self.session.channels().any(|(known, _)| *known == channel) {
            return tracing::debug!(connection = self.id.0, %channel, "an ordered subscription is not begun");
        }
        let switch = |switch: Option<fanout_core::control::Switch>| switch.map(|switch| switch.value);
        let overrides = Overrides {
            presence: switch(subscribe.overrides.presence),
            join_leave: switch(subscribe.overrides.join_leave),
            force_push_join_leave: switch(subscribe.overrides.force_push_join_leave),
            ..Overrides::default()
        };
        let options = Options { info: subscribe.info.clone(), data: subscribe.data.clone(), overrides };
        let mut joining = Joining::new(channel, None, Terms::new(topic, Some(&options)));
        joining.data = options.data;
        joining.expires_at = u64::try_from(subscribe.expire_at).ok().filter(|at| *at > 0);
        let since = subscribe.recover_since.as_ref();
        joining.recovery = since.map(|since| Recovery { epoch: since.epoch.clone(), offset: since.offset });
        self.join(Join { id: 0, channels: vec![joining], cause: Cause::Order, only_recovered: false }).await;
    }

    /// The connection lives until another time than its token says.
    fn renew(&mut self, lease: Lease) -> Result<(), Disconnect> {
        let now = unix_now();
        if lease.expired || lease.expires_at.is_some_and(|at| at <= now) {
            return Err(codes::EXPIRED);
        }
        let expiry = self.session.renew(lease.expires_at, lease.info, now);
        let push = Push { refresh: Some(expiry), ..Push::default() };
        self.outbox.send(self.outbox.wire().push(push));
        Ok(())
    }
}
