//! Who is in a channel, and how many.

use std::collections::BTreeMap;

use fanout_core::{Channel, ClientInfo, Publisher, presence};
use serde::{Deserialize, Serialize};

use super::{ApiError, known, unavailable};

/// The body of `presence` and `presence_stats`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Request {
    /// The channel's name.
    pub channel: String,
}

/// Who is there.
#[derive(Debug, Serialize)]
pub struct Present {
    /// By the ids of their connections; at most [`presence::MAX_MEMBERS`].
    pub presence: BTreeMap<String, ClientInfo>,
}

/// How many are there.
#[derive(Debug, Serialize)]
pub struct Counted {
    /// Connections.
    pub num_clients: u64,
    /// Different users among them; all anonymous ones count as one.
    pub num_users: u64,
}

impl Request {
    pub(crate) async fn read(self, publisher: &Publisher) -> Result<Present, ApiError> {
        let members = presence::read(publisher.redis(), &self.kept(publisher)?).await?;
        Ok(Present { presence: members.into_iter().map(|info| (info.client.clone(), info)).collect() })
    }

    pub(crate) async fn count(self, publisher: &Publisher) -> Result<Counted, ApiError> {
        let stats = presence::stats(publisher.redis(), &self.kept(publisher)?).await?;
        Ok(Counted { num_clients: stats.clients, num_users: stats.users })
    }

    fn kept(&self, publisher: &Publisher) -> Result<Channel, ApiError> {
        let (channel, topic) = known(publisher, &self.channel)?;
        if !topic.presence {
            let topic = channel.topic();
            return Err(unavailable(format!("topic {topic:?} keeps no presence: set presence = true in it")));
        }
        Ok(channel)
    }
}
