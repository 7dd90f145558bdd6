//! Publishing from Rust: one publication, or many in one call per partition.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use fred::types::Value;
use uuid::Uuid;

use crate::channel::Channel;
use crate::client::ClientInfo;
use crate::data::Data;
use crate::envelope::{Description, Position};
use crate::names::Feed;
use crate::redis::{Redis, RedisError};
use crate::script;
use crate::topic::Topics;

/// Longest idempotency key, conflation key and epoch of a version in bytes.
pub const MAX_KEY_BYTES: usize = 128;
/// Most tags of a publication.
pub const MAX_TAGS: usize = 16;
/// Longest name and longest value of a tag in bytes.
pub const MAX_TAG_BYTES: usize = 256;
/// Publications in one call of the script: bounds how long the server's main thread is held.
const BATCH: usize = 128;

/// What makes publishing the same thing twice harmless.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Once {
    /// Nothing: published as often as asked.
    #[default]
    No,
    /// The caller's key, per channel, remembered for `redis.idempotency_seconds`; a repeat returns the first position.
    Key(String),
    /// The public id names an entry of the change log, remembered for `redis.entry_memory_seconds`.
    Entry,
}

/// The number of a state that data shows: what is not newer than the last one published is dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// From 1.
    pub number: u64,
    /// Numbers of different epochs are not compared; empty matches any.
    pub epoch: String,
}

/// One piece of data for a channel.
#[derive(Debug, Clone)]
pub struct Publication {
    /// Where it goes.
    pub channel: Channel,
    /// What it says.
    pub data: Data,
    /// The public id, which clients see as `tags.id`.
    pub id: Uuid,
    /// On conflated topics, a newer publication with the same key may replace an older unsent one.
    pub conflation_key: Option<String>,
    /// Shown to clients beside `id`.
    pub tags: BTreeMap<String, String>,
    /// What makes a repetition harmless.
    pub once: Once,
    /// Keep it out of the history: it then has no position.
    pub skip_history: bool,
    /// Publish it only if the channel has not published this version or a newer one; read where history is kept.
    pub version: Option<Version>,
    /// The client that publishes it; none when a backend does.
    pub info: Option<ClientInfo>,
}

impl Publication {
    /// `data` for `channel`, with a public id of its own.
    pub fn new(channel: Channel, data: Data) -> Self {
        Self {
            channel,
            data,
            id: Uuid::new_v4(),
            conflation_key: None,
            tags: BTreeMap::new(),
            once: Once::No,
            skip_history: false,
            version: None,
            info: None,
        }
    }
}

/// What became of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Its position, when its topic keeps history; of a repeated entry of the change log it is not known, and of an old
    /// version it is the channel's top.
    pub position: Option<Position>,
    /// Whether it, or a version as new, had been published before, so that nothing was published now.
    pub repeated: bool,
}

/// Why a publication was not published, or may not have been.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// No topic of the configuration takes this channel.
    #[error("unknown channel {:?}: no topic {:?} is configured", .0.as_str(), .0.topic())]
    UnknownTopic(Channel),
    /// A field over its limit; the text names field, value and limit.
    #[error("{0}")]
    Limit(String),
    /// Redis did not confirm. The same publication with an idempotency key can be published again safely.
    #[error(transparent)]
    Redis(#[from] RedisError),
}

impl PublishError {
    /// Whether certainly nothing was published.
    pub fn is_unpublished(&self) -> bool {
        match self {
            Self::UnknownTopic(_) | Self::Limit(_) => true,
            Self::Redis(error) => !matches!(error, RedisError::Away(_)),
        }
    }
}

/// Publishes to the feeds of one deployment.
#[derive(Debug, Clone)]
pub struct Publisher {
    redis: Redis,
    topics: Topics,
}

impl Publisher {
    /// Publishes through `redis` what `topics` permits.
    pub fn new(redis: Redis, topics: Topics) -> Self {
        Self { redis, topics }
    }

    /// The Redis it publishes through.
    pub fn redis(&self) -> &Redis {
        &self.redis
    }

    /// The topics it was given.
    pub fn topics(&self) -> &Topics {
        &self.topics
    }

    /// Publishes one publication.
    ///
    /// # Errors
    /// See [`PublishError`]. It never retries by itself.
    pub async fn publish(&self, publication: Publication) -> Result<Receipt, PublishError> {
        let mut results = self.publish_all(vec![publication]).await;
        results.pop().unwrap_or_else(|| Err(RedisError::Refused("no answer".into()).into()))
    }

    /// Publishes many, one call per partition; within a channel in the given order. Results stand in the given order.
    ///
    /// A partition larger than a batch goes in several calls, one after the other; after a failed call the rest of that
    /// partition is not sent, so that nothing overtakes.
    pub async fn publish_all(&self, publications: Vec<Publication>) -> Vec<Result<Receipt, PublishError>> {
        self.publish_while(publications, None, || true).await
    }

    /// [`publish_all`](Self::publish_all) for one who may lose the right to publish on the way: `may` is asked before
    /// every call, and what it refuses is [not sent](RedisError::NotSent).
    ///
    /// `expected` is the [identity](Redis::identity) of the server that the caller's earlier effects stand on: another one
    /// appends nothing and answers [`RedisError::Fenced`].
    pub async fn publish_while(
        &self,
        publications: Vec<Publication>,
        expected: Option<&str>,
        may: impl Fn() -> bool,
    ) -> Vec<Result<Receipt, PublishError>> {
        let mut results: Vec<Option<Result<Receipt, PublishError>>> = Vec::new();
        results.resize_with(publications.len(), || None);
        let mut partitions: BTreeMap<usize, Vec<(usize, Vec<Bytes>)>> = BTreeMap::new();
        for (index, publication) in publications.into_iter().enumerate() {
            match self.arguments(&publication) {
                Ok((feed, arguments)) => {
                    let partition = self.redis.partitions().of(&feed);
                    partitions.entry(partition).or_default().push((index, arguments));
                }
                Err(error) => results[index] = Some(Err(error)),
            }
        }
        let calls =
            partitions.into_iter().map(|(partition, batch)| self.publish_partition(partition, batch, expected, &may));
        for (index, result) in futures::future::join_all(calls).await.into_iter().flatten() {
            results[index] = Some(result);
        }
        results.into_iter().flatten().collect()
    }

    async fn publish_partition(
        &self,
        partition: usize,
        members: Vec<(usize, Vec<Bytes>)>,
        expected: Option<&str>,
        may: &impl Fn() -> bool,
    ) -> Vec<(usize, Result<Receipt, PublishError>)> {
        let mut results = Vec::with_capacity(members.len());
        let mut failed: Option<RedisError> = None;
        for batch in members.chunks(BATCH) {
            let arguments = batch.iter().flat_map(|(_, arguments)| arguments.iter().cloned());
            let receipts = match &failed {
                Some(RedisError::OutOfMemory) => Err(RedisError::OutOfMemory),
                Some(error) => Err(RedisError::NotSent(format!("an earlier call failed ({error})"))),
                None if !may() => Err(RedisError::NotSent("no longer permitted".into())),
                None => self.call(partition, batch.len(), expected, arguments).await,
            };
            match receipts {
                Ok(receipts) => results.extend(batch.iter().zip(receipts).map(|((index, _), r)| (*index, Ok(r)))),
                Err(error) => {
                    results.extend(batch.iter().map(|(index, _)| (*index, Err(error.clone().into()))));
                    failed = Some(error);
                }
            }
        }
        results
    }

    async fn call(
        &self,
        partition: usize,
        size: usize,
        expected: Option<&str>,
        batch: impl Iterator<Item = Bytes>,
    ) -> Result<Vec<Receipt>, RedisError> {
        let config = self.redis.config();
        let mut arguments = vec![
            Bytes::from_static(b"PUBLISH"),
            Bytes::from(config.entry_memory_seconds.to_string()),
            Bytes::from(config.idempotency_seconds.to_string()),
            Bytes::from(expected.unwrap_or_default().to_owned()),
        ];
        arguments.extend(batch);
        let prefix = self.redis.partitions().prefix(partition);
        let answers: Vec<Vec<Value>> = script::run(&self.redis, &script::PUBLISH, prefix, arguments).await?;
        let receipts: Option<Vec<Receipt>> = answers.iter().map(|answer| receipt(answer)).collect();
        receipts
            .filter(|receipts| receipts.len() == size)
            .ok_or_else(|| RedisError::Refused("the publish script gave an answer of unknown form".into()))
    }

    /// The publication's arguments for the script, in its order.
    fn arguments(&self, publication: &Publication) -> Result<(Feed, Vec<Bytes>), PublishError> {
        let channel = &publication.channel;
        let topic = self.topics.of(channel).ok_or_else(|| PublishError::UnknownTopic(channel.clone()))?;
        check_limits(publication)?;
        let id = publication.id.to_string();
        let description = Description {
            topic: channel.topic().into(),
            id: id.as_str().into(),
            key: publication.conflation_key.as_deref().map(Cow::from),
            tags: publication.tags.iter().map(|(name, value)| (name.into(), value.into())).collect(),
            info: publication.info.clone(),
        };
        let (kind, value) = match &publication.once {
            Once::No => ("", Bytes::new()),
            Once::Key(key) => ("key", Bytes::from(key.clone())),
            Once::Entry => ("entry", Bytes::copy_from_slice(publication.id.as_bytes())),
        };
        let keeps = topic.keeps_history() && !publication.skip_history;
        let size = if keeps { topic.history_size } else { 0 };
        let replaces = match &publication.conflation_key {
            _ if !topic.conflate => Bytes::new(),
            Some(key) => Bytes::from(format!("key {key}")),
            None => Bytes::from_static(b"none"),
        };
        let (version, version_epoch) =
            publication.version.as_ref().map_or((0, ""), |version| (version.number, version.epoch.as_str()));
        let feed = Feed::of(channel);
        let arguments = vec![
            Bytes::from(feed.as_str().to_owned()),
            Bytes::from(channel.as_str().to_owned()),
            Bytes::from(channel.topic().to_owned()),
            Bytes::from(size.to_string()),
            Bytes::from(topic.history_ttl_seconds.to_string()),
            replaces,
            Bytes::from_static(kind.as_bytes()),
            value,
            Bytes::from(version.to_string()),
            Bytes::from(version_epoch.to_owned()),
            Bytes::from(description.body(&publication.data)),
        ];
        Ok((feed, arguments))
    }
}

fn check_limits(publication: &Publication) -> Result<(), PublishError> {
    let limit = |field: &str, bytes: usize, limit: usize| {
        if bytes <= limit {
            return Ok(());
        }
        Err(PublishError::Limit(format!("{field} is {bytes} bytes, the limit is {limit}")))
    };
    if let Once::Key(key) = &publication.once {
        limit("idempotency_key", key.len(), MAX_KEY_BYTES)?;
    }
    if let Some(key) = &publication.conflation_key {
        limit("conflation_key", key.len(), MAX_KEY_BYTES)?;
    }
    if let Some(version) = &publication.version {
        limit("version_epoch", version.epoch.len(), MAX_KEY_BYTES)?;
    }
    if publication.tags.len() > MAX_TAGS {
        let found = publication.tags.len();
        return Err(PublishError::Limit(format!("tags has {found} members, the limit is {MAX_TAGS}")));
    }
    for (name, value) in &publication.tags {
        limit("the name of a tag", name.len(), MAX_TAG_BYTES)?;
        limit(&format!("tag {name:?}"), value.len(), MAX_TAG_BYTES)?;
    }
    Ok(())
}

fn receipt(answer: &[Value]) -> Option<Receipt> {
    let [published, epoch, offset] = answer else { return None };
    let offset = offset.as_u64()?;
    let position = match offset {
        0 => None,
        offset => Some(Position { epoch: epoch.as_string()?.parse().ok()?, offset }),
    };
    Some(Receipt { position, repeated: published.as_u64()? == 0 })
}
