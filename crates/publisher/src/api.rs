//! The HTTP API: requests in the shapes of the Centrifugal server API, each turned into publications.

use std::collections::BTreeMap;

use bytes::Bytes;
use fanout_core::publisher::Once;
use fanout_core::{Channel, Data, Publication, PublishError, Publisher, Receipt, RedisError, begins_object};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

/// Most of what one call may ask for. The body's length is limited before it comes here.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Channels of one broadcast.
    pub broadcast_channels: usize,
    /// Commands of one batch.
    pub batch_commands: usize,
    /// Channels of all commands of one batch together.
    pub batch_channels: usize,
}

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

/// The body of `batch`.
///
/// `parallel` is read over: all commands of a batch go to Redis together, one call per partition, and a channel's
/// publications keep the order of the commands.
#[derive(Debug, Deserialize)]
pub struct Batch {
    /// The commands, each an object with one method: `{"publish":{…}}` or `{"broadcast":{…}}`.
    pub commands: Vec<Box<RawValue>>,
}

/// One thing to do.
#[derive(Debug)]
pub enum Command {
    /// Publish to one channel.
    Publish(Request),
    /// Publish the same to several channels.
    Broadcast(Request),
}

/// A command of a batch as it comes in: none, one or several methods.
#[derive(Deserialize)]
struct Methods {
    publish: Option<Request>,
    broadcast: Option<Request>,
    #[serde(flatten)]
    others: BTreeMap<String, IgnoredAny>,
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

/// An answer that is a result or an error.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer<T> {
    /// It was done.
    Result(T),
    /// It was not.
    Error(ApiError),
}

/// The answer to one command of a batch: `{"publish":{…}}`, `{"broadcast":{…}}` or `{"error":{…}}`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// What was published.
    Publish(PublishResult),
    /// What was broadcast.
    Broadcast(BroadcastResult),
    /// Nothing was.
    Error(ApiError),
}

/// What a command that stands alone has as its result.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Done {
    /// Of `publish`.
    Publish(PublishResult),
    /// Of `broadcast`.
    Broadcast(BroadcastResult),
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

/// What was done of a batch.
#[derive(Debug, Serialize)]
pub struct BatchResult {
    /// One reply per command, in the order of the request.
    pub replies: Vec<Reply>,
}

/// Carries out one command.
pub async fn alone(publisher: &Publisher, command: Command, limits: Limits) -> Answer<Done> {
    match carry_out(publisher, vec![Ok(command)], limits).await.pop() {
        Some(Reply::Publish(result)) => Answer::Result(Done::Publish(result)),
        Some(Reply::Broadcast(result)) => Answer::Result(Done::Broadcast(result)),
        Some(Reply::Error(error)) => Answer::Error(error),
        None => Answer::Error(internal("no answer".into())),
    }
}

/// Carries out a batch. One refused command stops no other.
///
/// # Errors
/// More commands or more channels than `limits` permit: then nothing is published.
pub async fn batch(publisher: &Publisher, batch: Batch, limits: Limits) -> Result<BatchResult, ApiError> {
    let count = batch.commands.len();
    if count > limits.batch_commands {
        let limit = limits.batch_commands;
        let message = format!("commands has {count} members, the limit is {limit} (publisher.max_batch_commands)");
        return Err(bad_request(message));
    }
    let commands: Vec<_> = batch.commands.iter().map(|command| Command::parse(command)).collect();
    let channels: usize = commands.iter().flatten().map(Command::channels).sum();
    if channels > limits.batch_channels {
        let limit = limits.batch_channels;
        let message = format!(
            "the commands name {channels} channels together, the limit is {limit} (publisher.max_batch_channels): \
             nothing was published"
        );
        return Err(bad_request(message));
    }
    Ok(BatchResult { replies: carry_out(publisher, commands, limits).await })
}

/// What a command has in what is published together.
enum Share {
    Publish,
    /// One per channel, less the refused ones.
    Broadcast(Vec<Result<(), ApiError>>),
}

/// The one path of all methods: everything that commands ask for is published in one go, so that a batch costs one call
/// per partition and a channel's publications keep their order; then each command is given its share of the outcomes.
async fn carry_out(publisher: &Publisher, commands: Vec<Result<Command, ApiError>>, limits: Limits) -> Vec<Reply> {
    let mut publications = Vec::with_capacity(commands.len());
    let shares: Vec<Result<Share, ApiError>> = commands
        .into_iter()
        .map(|command| match command? {
            Command::Publish(request) => {
                publications.push(request.publication()?);
                Ok(Share::Publish)
            }
            Command::Broadcast(request) => Ok(Share::Broadcast(request.publications(limits, &mut publications)?)),
        })
        .collect();
    let mut outcomes = publisher.publish_all(publications).await.into_iter();
    let mut next = move || outcomes.next().map_or_else(|| Err(internal("no answer".into())), result);
    let reply = |share| match share {
        Ok(Share::Publish) => next().map_or_else(Reply::Error, Reply::Publish),
        Ok(Share::Broadcast(channels)) => {
            let responses = channels.into_iter().map(|channel| channel.and_then(|()| next()).into());
            Reply::Broadcast(BroadcastResult { responses: responses.collect() })
        }
        Err(error) => Reply::Error(error),
    };
    shares.into_iter().map(reply).collect()
}

impl Command {
    fn parse(command: &RawValue) -> Result<Self, ApiError> {
        if !begins_object(command.get().as_bytes()) {
            return Err(bad_request("a command is an object with one method, such as {\"publish\":{…}}".into()));
        }
        let methods: Methods = serde_json::from_str(command.get())
            .map_err(|error| bad_request(format!("the command is not a request: {error}")))?;
        match (methods.publish, methods.broadcast, methods.others.first_key_value()) {
            (Some(request), None, None) => Ok(Self::Publish(request)),
            (None, Some(request), None) => Ok(Self::Broadcast(request)),
            (None, None, None) => Err(bad_request("a command needs one method: publish or broadcast".into())),
            (None, None, Some((name, _))) if methods.others.len() == 1 => {
                let message =
                    format!("method {:?} is not supported by this version; publish and broadcast are", cut(name));
                Err(ApiError { code: 108, message })
            }
            _ => Err(bad_request("a command has several methods: make one command of each".into())),
        }
    }

    fn channels(&self) -> usize {
        match self {
            Self::Publish(_) => 1,
            Self::Broadcast(request) => request.channels.len(),
        }
    }
}

impl Request {
    /// The publication that `publish` asks for.
    ///
    /// # Errors
    /// A field that is missing, wrong or not supported.
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
        for (field, set) in [("b64data", self.b64data.is_some()), ("version", self.version > 0)] {
            if set {
                let message = format!("{field} is not supported by this version");
                return Err(ApiError { code: 108, message });
            }
        }
        let data = self.data.as_ref().ok_or_else(|| bad_request("data is missing".into()))?;
        Data::parse(Bytes::copy_from_slice(data.get().as_bytes())).map_err(|error| bad_request(error.to_string()))
    }

    fn to(&self, channel: &str, data: Data) -> Result<Publication, ApiError> {
        if channel.is_empty() {
            return Err(bad_request("channel is missing or empty".into()));
        }
        let channel = Channel::parse(channel).map_err(|error| bad_request(error.to_string()))?;
        let mut publication = Publication::new(channel, data);
        publication.tags.clone_from(&self.tags);
        publication.conflation_key.clone_from(&self.conflation_key);
        publication.skip_history = self.skip_history;
        if !self.idempotency_key.is_empty() {
            publication.once = Once::Key(self.idempotency_key.clone());
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

impl<T> From<Result<T, ApiError>> for Answer<T> {
    fn from(result: Result<T, ApiError>) -> Self {
        result.map_or_else(Self::Error, Self::Result)
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
            // The script is refused before its first write, or runs to its end.
            PublishError::Redis(RedisError::OutOfMemory | RedisError::NotSent(_)) => {
                internal(format!("{error}. It was not published"))
            }
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

/// Enough of a stranger's word to recognise it.
fn cut(word: &str) -> &str {
    word.char_indices().nth(64).map_or(word, |(end, _)| &word[..end])
}
