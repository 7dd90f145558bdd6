//! Publishing: to one channel, to several, and everything of a batch that follows each other in one go.

use std::collections::BTreeMap;

use fanout_core::publisher::{Once, Version};
use fanout_core::{Data, Publication, PublishError, Publisher, Receipt};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Answer, ApiError, Limits, Reply, bad_request, channel, either, internal, present, raw};

/// The body of `publish` (which reads `channel`) and `broadcast` (which reads `channels`).
///
/// Unknown fields are ignored, as other servers of this API do.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Request {
    /// The channel's name.
    pub channel: String,
    /// The channels' names.
    pub channels: Vec<String>,
    /// Any JSON value.
    #[serde(deserialize_with = "present")]
    pub data: Option<Box<RawValue>>,
    /// The same in base64; wins over `data`.
    pub b64data: Option<String>,
    /// Shown to clients.
    pub tags: BTreeMap<String, String>,
    /// The same key on the same channel publishes once.
    pub idempotency_key: String,
    /// On conflated topics, a newer publication with the same key may replace an older unsent one.
    pub conflation_key: Option<String>,
    /// Keep it out of the history.
    pub skip_history: bool,
    /// Above 0: drop it unless it is newer than the channel's last one.
    pub version: u64,
    /// Versions of different epochs are not compared; empty matches any.
    pub version_epoch: String,
}

/// What was published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PublishResult {
    /// The publication's offset; absent without history.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// The channel's epoch; absent without history.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<String>,
}

/// What was broadcast.
#[derive(Debug, Serialize)]
pub struct BroadcastResult {
    /// One answer per channel, in the order of the request.
    pub responses: Vec<Answer<PublishResult>>,
}

/// Commands whose publications go out together; each is then given its share of the outcomes.
pub(crate) struct Round {
    limits: Limits,
    publications: Vec<Publication>,
    shares: Vec<Result<Share, ApiError>>,
}

/// What a command has in what is published together.
enum Share {
    Publish,
    /// One per channel, less the refused ones.
    Broadcast(Vec<Result<(), ApiError>>),
}

impl Round {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, publications: Vec::new(), shares: Vec::new() }
    }

    pub(crate) fn publish(&mut self, request: &Request) {
        let share = request.publication().map(|publication| {
            self.publications.push(publication);
            Share::Publish
        });
        self.shares.push(share);
    }

    pub(crate) fn broadcast(&mut self, request: &Request) {
        let share = request.publications(self.limits, &mut self.publications).map(Share::Broadcast);
        self.shares.push(share);
    }

    /// Keeps the place of a command that is none.
    pub(crate) fn refuse(&mut self, error: ApiError) {
        self.shares.push(Err(error));
    }

    pub(crate) async fn end(self, publisher: &Publisher) -> Vec<Reply> {
        let mut outcomes = publisher.publish_all(self.publications).await.into_iter();
        let mut next = move || outcomes.next().map_or_else(|| Err(internal("no answer".into())), result);
        let reply = |share| match share {
            Ok(Share::Publish) => Reply { method: "publish", outcome: raw(next()) },
            Ok(Share::Broadcast(channels)) => {
                let responses = channels.into_iter().map(|channel| channel.and_then(|()| next()).into()).collect();
                Reply { method: "broadcast", outcome: raw(Ok(BroadcastResult { responses })) }
            }
            Err(error) => Reply { method: "publish", outcome: Err(error) },
        };
        self.shares.into_iter().map(reply).collect()
    }
}

impl Request {
    /// The publication that `publish` asks for.
    ///
    /// # Errors
    /// A field that is missing or wrong.
    pub fn publication(&self) -> Result<Publication, ApiError> {
        self.to(&self.channel, self.data()?)
    }

    /// Adds the publications that `broadcast` asks for to `all`; returns which channels have one there.
    fn publications(&self, limits: Limits, all: &mut Vec<Publication>) -> Result<Vec<Result<(), ApiError>>, ApiError> {
        let (count, limit) = (self.channels.len(), limits.broadcast_channels);
        if count == 0 || count > limit {
            let message = format!("channels has {count} members, allowed are 1 to {limit}");
            return Err(bad_request(message));
        }
        let data = self.data()?;
        let mut add = |channel| self.to(channel, data.clone()).map(|publication| all.push(publication));
        Ok(self.channels.iter().map(|channel| add(channel)).collect())
    }

    /// The data, checked once however many channels it goes to.
    fn data(&self) -> Result<Data, ApiError> {
        let data = either("data", self.data.as_deref(), self.b64data.as_deref())?;
        data.ok_or_else(|| bad_request("data is missing".into()))
    }

    fn to(&self, name: &str, data: Data) -> Result<Publication, ApiError> {
        let mut publication = Publication::new(channel(name)?, data);
        publication.tags.clone_from(&self.tags);
        publication.conflation_key.clone_from(&self.conflation_key);
        publication.skip_history = self.skip_history;
        if !self.idempotency_key.is_empty() {
            publication.once = Once::Key(self.idempotency_key.clone());
        }
        if self.version > 0 {
            publication.version = Some(Version { number: self.version, epoch: self.version_epoch.clone() });
        }
        Ok(publication)
    }
}

fn result(outcome: Result<Receipt, PublishError>) -> Result<PublishResult, ApiError> {
    let position = outcome?.position;
    Ok(PublishResult {
        offset: position.map(|position| position.offset),
        epoch: position.map(|position| position.epoch.to_string()),
    })
}
