//! The HTTP API: requests in the shapes of the Centrifugal server API, and what becomes of each.

pub mod bridges;
pub mod history;
pub mod order;
pub mod presence;
pub mod publish;

use fanout_core::history::PageError;
use fanout_core::{Channel, Data, PublishError, Publisher, RedisError, Topic, begins_object};
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

/// Commands of one batch whose answers may be large: histories, presences and surveys of channels.
const BATCH_LARGE: usize = 16;
/// Longest word of a stranger, in characters, that an error shows.
const SHOWN: usize = 200;

/// The body of `batch`.
///
/// `parallel` is read over: publications that follow each other in the batch go to Redis together, and everything keeps
/// the order of the commands.
#[derive(Debug, Deserialize)]
pub struct Batch {
    /// The commands, each an object with one method: `{"publish":{…}}`, `{"presence":{…}}`, …
    pub commands: Vec<Box<RawValue>>,
}

/// One thing to do.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Publish to one channel.
    Publish(publish::Request),
    /// Publish the same to several channels.
    Broadcast(publish::Request),
    /// Read what a channel has published.
    History(history::Request),
    /// Remove what a channel has published.
    HistoryRemove(history::Remove),
    /// Say who is in a channel.
    Presence(presence::Request),
    /// Say how many are in a channel.
    PresenceStats(presence::Request),
    /// Say which channels have subscribers.
    Channels(bridges::Channels),
    /// Say which bridges there are.
    Info(bridges::Info),
    /// Give connections a subscription.
    Subscribe(order::Subscribe),
    /// End subscriptions.
    Unsubscribe(order::Unsubscribe),
    /// Close connections.
    Disconnect(order::Disconnect),
    /// Let connections live longer, or not.
    Refresh(order::Refresh),
}

/// The names of all commands, which are the last part of their paths.
pub const METHODS: [&str; 12] = [
    "publish",
    "broadcast",
    "history",
    "history_remove",
    "presence",
    "presence_stats",
    "channels",
    "info",
    "subscribe",
    "unsubscribe",
    "disconnect",
    "refresh",
];

/// An error of the API. The HTTP status stays 200, as clients of this API expect, unless they ask for another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ApiError {
    /// 100 internal, 102 unknown channel, 107 bad request, 108 not available, 112 unrecoverable position.
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

/// What became of a command: its result as JSON.
pub type Outcome = Result<Box<RawValue>, ApiError>;

/// The answer to one command of a batch: the method with its result, or the error.
#[derive(Debug)]
pub struct Reply {
    method: &'static str,
    /// What became of it.
    pub outcome: Outcome,
}

/// What was done of a batch.
#[derive(Debug, Serialize)]
pub struct BatchResult {
    /// One reply per command, in the order of the request.
    pub replies: Vec<Reply>,
}

/// Carries out one command.
pub async fn alone(publisher: &Publisher, command: Command, limits: Limits) -> Outcome {
    let reply = carry_out(publisher, vec![Ok(command)], limits).await.pop();
    reply.map_or_else(|| Err(internal("no answer".into())), |reply| reply.outcome)
}

/// Carries out a batch. One refused command stops no other.
///
/// # Errors
/// More commands, channels or large answers than `limits` permit: then nothing is done.
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
    let large = commands.iter().flatten().filter(|command| command.answers_much()).count();
    if large > BATCH_LARGE {
        let message = format!(
            "the commands ask for {large} histories, presences and lists of channels, the limit is {BATCH_LARGE}: \
             nothing was done"
        );
        return Err(bad_request(message));
    }
    Ok(BatchResult { replies: carry_out(publisher, commands, limits).await })
}

/// The one path of all commands, in their order. Publications that follow each other go out together, so that they cost
/// few calls of Redis.
async fn carry_out(publisher: &Publisher, commands: Vec<Result<Command, ApiError>>, limits: Limits) -> Vec<Reply> {
    let mut replies = Vec::with_capacity(commands.len());
    let mut round = publish::Round::new(limits);
    for command in commands {
        match command {
            Ok(Command::Publish(request)) => round.publish(&request),
            Ok(Command::Broadcast(request)) => round.broadcast(&request),
            Err(error) => round.refuse(error),
            Ok(command) => {
                replies.extend(std::mem::replace(&mut round, publish::Round::new(limits)).end(publisher).await);
                // Boxed: a batch of publications needs none of their room.
                replies.push(Box::pin(command.ask(publisher)).await);
            }
        }
    }
    replies.extend(round.end(publisher).await);
    replies
}

impl Command {
    /// The command of the method's own path; `None` when there is no such method.
    pub fn of(method: &str, json: &[u8]) -> Option<serde_json::Result<Self>> {
        fn read<'a, T: Deserialize<'a>>(json: &'a [u8], of: fn(T) -> Command) -> Option<serde_json::Result<Command>> {
            Some(serde_json::from_slice(json).map(of))
        }
        match method {
            "publish" => read(json, Self::Publish),
            "broadcast" => read(json, Self::Broadcast),
            "history" => read(json, Self::History),
            "history_remove" => read(json, Self::HistoryRemove),
            "presence" => read(json, Self::Presence),
            "presence_stats" => read(json, Self::PresenceStats),
            "channels" => read(json, Self::Channels),
            "info" => read(json, Self::Info),
            "subscribe" => read(json, Self::Subscribe),
            "unsubscribe" => read(json, Self::Unsubscribe),
            "disconnect" => read(json, Self::Disconnect),
            "refresh" => read(json, Self::Refresh),
            _ => None,
        }
    }

    /// A command of a batch, which names its method.
    fn parse(command: &RawValue) -> Result<Self, ApiError> {
        let refused = |why: String| {
            let why: String = why.chars().take(SHOWN).collect();
            bad_request(format!("a command is an object with one method, such as {{\"publish\":{{…}}}}: {why}"))
        };
        if !begins_object(command.get().as_bytes()) {
            return Err(refused("this one is no object".into()));
        }
        serde_json::from_str(command.get()).map_err(|error| refused(error.to_string()))
    }

    async fn ask(self, publisher: &Publisher) -> Reply {
        let (method, outcome) = match self {
            Self::History(request) => ("history", raw(request.read(publisher).await)),
            Self::HistoryRemove(request) => ("history_remove", raw(request.remove(publisher).await)),
            Self::Presence(request) => ("presence", raw(request.read(publisher).await)),
            Self::PresenceStats(request) => ("presence_stats", raw(request.count(publisher).await)),
            Self::Channels(request) => ("channels", raw(request.survey(publisher).await)),
            Self::Info(_) => ("info", raw(bridges::info(publisher).await)),
            Self::Subscribe(request) => ("subscribe", raw(order::tell(publisher, request.order(publisher)).await)),
            Self::Unsubscribe(request) => ("unsubscribe", raw(order::tell(publisher, request.order()).await)),
            Self::Disconnect(request) => ("disconnect", raw(order::tell(publisher, request.order()).await)),
            Self::Refresh(request) => ("refresh", raw(order::tell(publisher, request.order()).await)),
            Self::Publish(_) | Self::Broadcast(_) => ("publish", Err(internal("not published with its round".into()))),
        };
        Reply { method, outcome }
    }

    fn channels(&self) -> usize {
        match self {
            Self::Broadcast(request) => request.channels.len(),
            _ => 1,
        }
    }

    fn answers_much(&self) -> bool {
        matches!(self, Self::History(_) | Self::Presence(_) | Self::Channels(_))
    }
}

impl Serialize for Reply {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.outcome {
            Ok(result) => serializer.collect_map([(self.method, result)]),
            Err(error) => serializer.collect_map([("error", error)]),
        }
    }
}

/// A result without fields.
#[derive(Debug, Serialize)]
pub struct Done {}

/// The channel `name` and its topic.
pub(crate) fn known<'a>(publisher: &'a Publisher, name: &str) -> Result<(Channel, &'a Topic), ApiError> {
    let channel = channel(name)?;
    match publisher.topics().of(&channel) {
        Some(topic) => Ok((channel, topic)),
        None => Err(PublishError::UnknownTopic(channel).into()),
    }
}

pub(crate) fn channel(name: &str) -> Result<Channel, ApiError> {
    if name.is_empty() {
        return Err(bad_request("channel is missing or empty".into()));
    }
    Channel::parse(name).map_err(|error| bad_request(error.to_string()))
}

/// The JSON of `field`, or what `b64field` holds in base64, which must be JSON too.
pub(crate) fn either(field: &str, json: Option<&RawValue>, base64: Option<&str>) -> Result<Option<Data>, ApiError> {
    use base64::Engine;
    let data = match (json, base64) {
        (_, Some(text)) => {
            let bytes = base64::engine::general_purpose::STANDARD
                .decode(text)
                .map_err(|error| bad_request(format!("b64{field} is not base64: {error}")))?;
            let text = String::from_utf8(bytes).map_err(|_| {
                bad_request(format!("b64{field} holds bytes that are not text: {field} must be JSON for every client"))
            })?;
            Data::parse(text)
        }
        (Some(json), None) => Data::parse(json.get().to_owned()),
        (None, None) => return Ok(None),
    };
    let named = |error: fanout_core::DataError| error.to_string().replacen("data", field, 1);
    data.map(Some).map_err(|error| bad_request(named(error)))
}

/// `null` is data too.
pub(crate) fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

fn raw<T: Serialize>(result: Result<T, ApiError>) -> Outcome {
    serde_json::value::to_raw_value(&result?).map_err(|error| internal(format!("the answer is not JSON: {error}")))
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
            // For want of memory a script is refused before its first write.
            PublishError::Redis(RedisError::OutOfMemory | RedisError::NotDone(_)) => {
                internal(format!("{error}. It was not published"))
            }
            PublishError::Redis(_) => internal(error.to_string()),
        }
    }
}

impl From<RedisError> for ApiError {
    fn from(error: RedisError) -> Self {
        internal(error.to_string())
    }
}

impl From<PageError> for ApiError {
    fn from(error: PageError) -> Self {
        match error {
            PageError::OtherEpoch(_) => Self { code: 112, message: format!("unrecoverable position: {error}") },
            PageError::Redis(error) => error.into(),
        }
    }
}

pub(crate) fn bad_request(message: String) -> ApiError {
    ApiError { code: 107, message }
}

pub(crate) fn unavailable(message: String) -> ApiError {
    ApiError { code: 108, message }
}

pub(crate) fn internal(message: String) -> ApiError {
    ApiError { code: 100, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_has_its_path_and_its_place_in_a_batch() {
        for method in METHODS {
            assert!(matches!(Command::of(method, b"{}"), Some(Ok(_))), "{method}");
            let command = RawValue::from_string(format!("{{{method:?}:{{}}}}")).expect("json");
            assert!(Command::parse(&command).is_ok(), "{method}");
        }
        assert!(Command::of("rpc", b"{}").is_none());
    }

    #[test]
    fn the_document_names_every_method_and_no_other() {
        let document: serde_json::Value = serde_json::from_str(crate::OPENAPI).expect("json");
        let paths = document["paths"].as_object().expect("paths");
        let mut expected: Vec<String> = METHODS.iter().map(|method| format!("/{method}")).collect();
        expected.push("/batch".into());
        expected.push("/openapi.json".into());
        let mut found: Vec<&String> = paths.keys().collect();
        expected.sort();
        found.sort();
        assert_eq!(found, expected.iter().collect::<Vec<_>>());
    }
}
