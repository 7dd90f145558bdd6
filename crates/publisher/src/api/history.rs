//! What a channel has published: reading it, and removing it.

use std::collections::BTreeMap;

use bytes::Bytes;
use fanout_core::control::Since;
use fanout_core::envelope::Envelope;
use fanout_core::history::{self, Ask};
use fanout_core::{Channel, ClientInfo, Data, Publisher, Topic};
use serde::{Deserialize, Serialize};

use super::{ApiError, Done, bad_request, internal, known, unavailable};

/// Most publications of one answer. One of many large ones ends earlier, at [`history::MAX_PAGE_BYTES`].
pub const MAX_PUBLICATIONS: usize = 10_000;

/// The body of `history`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Request {
    /// The channel's name.
    pub channel: String,
    /// Most publications: 0 asks for the position alone, a negative number for all.
    pub limit: i32,
    /// Only what comes after this position; in reverse, before it.
    pub since: Option<Since>,
    /// Newest first.
    pub reverse: bool,
}

/// The body of `history_remove`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Remove {
    /// The channel's name.
    pub channel: String,
}

/// A part of a channel's history.
#[derive(Debug, Serialize)]
pub struct Found {
    /// In the order asked for.
    pub publications: Vec<Published>,
    /// The channel's epoch.
    pub epoch: String,
    /// The offset of the channel's last publication.
    pub offset: u64,
}

/// A publication as it was.
#[derive(Debug, Serialize)]
pub struct Published {
    /// What it says.
    pub data: Data,
    /// The client that published it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub info: Option<ClientInfo>,
    /// Its place.
    pub offset: u64,
    /// What clients are shown beside it: the public id, and what the publisher gave.
    pub tags: BTreeMap<String, String>,
}

impl Request {
    pub(crate) async fn read(self, publisher: &Publisher) -> Result<Found, ApiError> {
        let (channel, topic) = kept(publisher, &self.channel)?;
        if self.reverse && self.since.as_ref().is_some_and(|since| since.offset == 0) {
            return Err(bad_request("reverse with since.offset = 0: nothing is before the first publication".into()));
        }
        let since = self.since.map(|since| (since.offset, since.epoch));
        let ask = Ask { since, limit: self.limit, reverse: self.reverse };
        let page = history::page_of(publisher.redis(), topic, &channel, &ask, MAX_PUBLICATIONS).await?;
        let publications = page.envelopes.iter().map(published).collect::<Result<_, _>>()?;
        Ok(Found { publications, epoch: page.top.epoch.to_string(), offset: page.top.offset })
    }
}

impl Remove {
    pub(crate) async fn remove(self, publisher: &Publisher) -> Result<Done, ApiError> {
        let (channel, _) = kept(publisher, &self.channel)?;
        history::remove(publisher.redis(), &channel).await?;
        Ok(Done {})
    }
}

fn kept<'a>(publisher: &'a Publisher, name: &str) -> Result<(Channel, &'a Topic), ApiError> {
    let (channel, topic) = known(publisher, name)?;
    if !topic.keeps_history() {
        let topic = channel.topic();
        return Err(unavailable(format!(
            "topic {topic:?} keeps no history: set its history_size and history_ttl_seconds"
        )));
    }
    Ok((channel, topic))
}

fn published(envelope: &Bytes) -> Result<Published, ApiError> {
    let envelope = Envelope::parse(envelope).map_err(|error| internal(format!("the history holds what is {error}")))?;
    let description = envelope.description;
    let tags = description.tags.into_iter().map(|(name, value)| (name.into_owned(), value.into_owned()));
    Ok(Published {
        data: envelope.data,
        info: description.info,
        offset: envelope.position.offset,
        tags: tags.chain([("id".to_owned(), description.id.into_owned())]).collect(),
    })
}
