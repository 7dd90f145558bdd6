//! The HTTP API: requests in the shapes of the Centrifugal server API, each turned into publications.

use std::collections::BTreeMap;

use bytes::Bytes;
use fanout_core::publisher::Once;
use fanout_core::{Channel, Data, Publication, PublishError, Publisher, Receipt, RedisError};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

/// The body of `publish` (which reads `channel`) and `broadcast` (which reads `channels`).
///
/// Unknown fields are ignored, as other servers of this API do; those that would change what happens are refused.
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
    /// Shown to clients.
    pub tags: BTreeMap<String, String>,
    /// The same key on the same channel publishes once.
    pub idempotency_key: String,
    /// On conflated topics, a newer publication with the same key may replace an older unsent one.
    pub conflation_key: Option<String>,
    /// Keep it out of the history.
    pub skip_history: bool,
    /// Not supported yet: data that is not JSON.
    pub b64data: Option<IgnoredAny>,
    /// Not supported yet: drop what is not newer.
    pub version: u64,
}

/// `null` is data too.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

/// An error of the API. The HTTP status stays 200, as clients of this API expect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ApiError {
    /// 100 internal, 102 unknown channel, 107 bad request, 108 not available.
    pub code: u32,
    /// What was wrong, where, and what to do.
    pub message: String,
}

/// The answer to a request.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer<T> {
    /// It was done.
    Result(T),
    /// It was not.
    Error(ApiError),
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

/// Publishes to one channel.
pub async fn publish(publisher: &Publisher, request: Request) -> Answer<PublishResult> {
    let publication = match request.publication(&request.channel) {
        Ok(publication) => publication,
        Err(error) => return Answer::Error(error),
    };
    answer(publisher.publish(publication).await)
}

/// Publishes to several channels, at most `limit`, in one call per partition. One refused channel stops no other.
pub async fn broadcast(publisher: &Publisher, request: Request, limit: usize) -> Answer<BroadcastResult> {
    let count = request.channels.len();
    if count == 0 || count > limit {
        return Answer::Error(bad_request(format!("channels has {count} members, allowed are 1 to {limit}")));
    }
    let mut publications = Vec::with_capacity(count);
    let mut refused = Vec::with_capacity(count);
    for channel in &request.channels {
        match request.publication(channel) {
            Ok(publication) => {
                publications.push(publication);
                refused.push(None);
            }
            Err(error) => refused.push(Some(error)),
        }
    }
    let mut published = publisher.publish_all(publications).await.into_iter();
    let responses = refused.into_iter().map(|error| match error {
        Some(error) => Answer::Error(error),
        None => published.next().map_or_else(|| Answer::Error(internal("no answer".into())), answer),
    });
    Answer::Result(BroadcastResult { responses: responses.collect() })
}

impl Request {
    fn publication(&self, channel: &str) -> Result<Publication, ApiError> {
        for (field, set) in [("b64data", self.b64data.is_some()), ("version", self.version > 0)] {
            if set {
                let message = format!("{field} is not supported by this version");
                return Err(ApiError { code: 108, message });
            }
        }
        if channel.is_empty() {
            return Err(bad_request("channel is missing or empty".into()));
        }
        let channel = Channel::parse(channel).map_err(|error| bad_request(error.to_string()))?;
        let data = self.data.as_ref().ok_or_else(|| bad_request("data is missing".into()))?;
        let data = Data::parse(Bytes::copy_from_slice(data.get().as_bytes()));
        let mut publication = Publication::new(channel, data.map_err(|error| bad_request(error.to_string()))?);
        publication.tags.clone_from(&self.tags);
        publication.conflation_key.clone_from(&self.conflation_key);
        publication.skip_history = self.skip_history;
        if !self.idempotency_key.is_empty() {
            publication.once = Once::Key(self.idempotency_key.clone());
        }
        Ok(publication)
    }
}

fn answer(outcome: Result<Receipt, PublishError>) -> Answer<PublishResult> {
    match outcome {
        Ok(receipt) => Answer::Result(PublishResult {
            offset: receipt.position.map(|position| position.offset),
            epoch: receipt.position.map(|position| position.epoch.to_string()),
        }),
        Err(error) => Answer::Error(error.into()),
    }
}

impl From<PublishError> for ApiError {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::UnknownTopic(_) => Self { code: 102, message: error.to_string() },
            PublishError::Limit(message) => bad_request(message),
            PublishError::Redis(RedisError::Away(_)) => internal(format!(
                "{error}. It may or may not have been published; publishing again with the same idempotency_key is safe"
            )),
            PublishError::Redis(_) => internal(error.to_string()),
        }
    }
}

fn bad_request(message: String) -> ApiError {
    ApiError { code: 107, message }
}

fn internal(message: String) -> ApiError {
    ApiError { code: 100, message }
}
