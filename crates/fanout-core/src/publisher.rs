//! Publishing from Rust: one publication, or many in one call.

mod told;

use std::collections::BTreeMap;

use bytes::Bytes;
use uuid::Uuid;

use self::told::Told;

use crate::channel::Channel;
use crate::client::ClientInfo;
use crate::data::Data;
use crate::envelope::Position;
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
/// Publications in one call of the script: bounds how long the server's main thread is held, to 1 to 2 ms.
pub const BATCH: usize = 64;

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

    /// Publishes many, in the given order, one call for a batch of them. Results stand in the given order.
    ///
    /// More than a batch go in several calls, one after the other. What stands behind a failed one is not published, so that
    /// nothing overtakes, and is [not done](RedisError::NotDone). A call without an answer fails all that it carried.
    pub async fn publish_all(&self, publications: Vec<Publication>) -> Vec<Result<Receipt, PublishError>> {
        self.publish_while(publications, None, || true).await
    }

    /// [`publish_all`](Self::publish_all) for one who may lose the right to publish on the way: `may` is asked before
    /// every call, and what it refuses is [not done](RedisError::NotDone).
    ///
    /// `expected` is the [identity](Redis::identity) of the server that the caller's earlier effects stand on: another one
    /// appends nothing and answers [`RedisError::Fenced`].
    pub async fn publish_while(
        &self,
        publications: Vec<Publication>,
        expected: Option<&str>,
        may: impl Fn() -> bool,
    ) -> Vec<Result<Receipt, PublishError>> {
        let all: Vec<_> = publications.iter().map(|publication| self.told(publication)).collect();
        let told: Vec<&Told<'_>> = all.iter().flatten().collect();
        let mut outcomes = Vec::with_capacity(told.len());
        let mut failed: Option<RedisError> = None;
        for batch in told.chunks(BATCH) {
            let answered = match &failed {
                Some(_) => Ok(Vec::new()),
                None if !may() => Err(RedisError::NotDone("no longer permitted".into())),
                // The client library's futures are some kilobytes, which would be part of every caller's.
                None => Box::pin(self.call(batch, expected)).await,
            };
            let mut of_batch = answered.unwrap_or_else(|error| vec![Err(error); batch.len()]);
            if failed.is_none() {
                failed = of_batch.last().and_then(|outcome| outcome.clone().err());
            }
            of_batch.resize_with(batch.len(), || Err(behind(failed.as_ref())));
            outcomes.append(&mut of_batch);
        }
        let mut outcomes = outcomes.into_iter();
        let mut next = || outcomes.next().unwrap_or_else(|| Err(behind(None))).map_err(PublishError::from);
        all.into_iter().map(|told| told.and_then(|_| next())).collect()
    }

    /// One call of the script. What stands behind a publication that Redis refused has no outcome.
    async fn call(
        &self,
        batch: &[&Told<'_>],
        expected: Option<&str>,
    ) -> Result<Vec<Result<Receipt, RedisError>>, RedisError> {
        let config = self.redis.config();
        let mut arguments = vec![
            Bytes::from_static(b"PUBLISH"),
            Bytes::from(config.entry_memory_seconds.to_string()),
            Bytes::from(config.idempotency_seconds.to_string()),
            Bytes::from(expected.unwrap_or_default().to_owned()),
        ];
        let partitions = told::extend(&mut arguments, batch);
        let answer: String = script::run(&self.redis, &script::PUBLISH, &partitions, arguments).await?;
        told::outcomes(&answer, batch.len())
            .ok_or_else(|| RedisError::Refused("the publish script gave an answer of unknown form".into()))
    }

    /// What the script is told of a publication.
    fn told<'a>(&self, publication: &'a Publication) -> Result<Told<'a>, PublishError> {
        let channel = &publication.channel;
        let topic = self.topics.of(channel).ok_or_else(|| PublishError::UnknownTopic(channel.clone()))?;
        check_limits(publication)?;
        let feed = Feed::of(channel);
        let partition = self.redis.partitions().of(&feed);
        Ok(Told::new(publication, topic, &feed, partition))
    }
}

/// What becomes of a publication behind one that failed.
fn behind(failed: Option<&RedisError>) -> RedisError {
    match failed {
        Some(RedisError::OutOfMemory) => RedisError::OutOfMemory,
        Some(error) => RedisError::NotDone(format!("an earlier publication failed ({error})")),
        None => RedisError::Refused("no answer".into()),
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
