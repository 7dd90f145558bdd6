//! Reading what channels published: after a position, or a page of it.

use bytes::Bytes;
use fred::types::Value;

use crate::channel::Channel;
use crate::envelope::{Envelope, Position};
use crate::names::Feed;
use crate::redis::{Redis, RedisError};
use crate::script;
use crate::topic::Topic;

/// Most publications read of one channel; the limit of the Centrifugal client protocol for one recovery.
pub const MAX_PUBLICATIONS: usize = 300;
/// Most bytes of one page.
pub const MAX_PAGE_BYTES: usize = 8 << 20;
/// Channels in one round of calls: with [`Since::max_bytes`] it bounds what an answer can hold.
const BATCH: usize = 16;

/// A channel, and the position after which its publications are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Since {
    /// The channel.
    pub channel: Channel,
    /// Whether its topic conflates: the newest publication of each key is then all there is.
    pub conflated: bool,
    /// The epoch that the asker knows; empty matches any.
    pub epoch: String,
    /// The last offset that the asker has.
    pub offset: u64,
}

/// What a channel published after the position asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct After {
    /// Where the channel stands now.
    pub top: Position,
    /// The [envelopes](crate::envelope), oldest first; `None` when not all of them are there any more, when they are too
    /// many or too large, or when the position is of another epoch.
    pub envelopes: Option<Vec<Bytes>>,
}

/// Reads the channels of `asked`, in the order asked for, each at most `max_bytes` and [`MAX_PUBLICATIONS`]; paced by
/// waiting for each round of channels before the next.
///
/// # Errors
/// As any command.
pub async fn read(redis: &Redis, asked: &[Since], max_bytes: usize) -> Result<Vec<After>, RedisError> {
    let head = [Bytes::from(MAX_PUBLICATIONS.to_string()), Bytes::from(max_bytes.to_string())];
    let mut found = Vec::with_capacity(asked.len());
    for round in asked.chunks(BATCH) {
        let members: Vec<_> = round.iter().map(arguments).collect();
        let answers = script::run_each(redis, &script::HISTORY, &head, &members).await?;
        for (since, answer) in round.iter().zip(&answers) {
            let after = after(since, answer);
            found.push(after.ok_or_else(|| RedisError::Refused("a history of unknown form".into()))?);
        }
    }
    Ok(found)
}

/// Which part of a channel's history is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ask {
    /// Only what comes after this offset (in reverse: before it) of this epoch; an empty epoch matches any. Without it
    /// from the oldest, in reverse from the newest.
    pub since: Option<(u64, String)>,
    /// Most publications: 0 asks for the position alone, a negative number for as many as there may be in one page.
    pub limit: i32,
    /// Newest first.
    pub reverse: bool,
}

/// A part of a channel's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paged {
    /// Where the channel stands now.
    pub top: Position,
    /// The [envelopes](crate::envelope), in the order asked for.
    pub envelopes: Vec<Bytes>,
}

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// The position asked about is of another epoch than the channel.
    #[error("the position is of another epoch than the channel, which is in {}", .0.epoch)]
    OtherEpoch(Position),
    /// Redis did not give it.
    #[error(transparent)]
    Redis(#[from] RedisError),
}

/// Reads a page of `channel`, which must belong to `topic`: at most [`MAX_PUBLICATIONS`], and [`MAX_PAGE_BYTES`] unless
/// one publication alone is larger. What was trimmed is silently not there; of a conflated topic the newest publication
/// of each key is all there is.
///
/// # Errors
/// See [`PageError`].
pub async fn page(redis: &Redis, topic: &Topic, channel: &Channel, ask: &Ask) -> Result<Paged, PageError> {
    page_of(redis, topic, channel, ask, MAX_PUBLICATIONS).await
}

/// [`page`] with another limit, `most`, than [`MAX_PUBLICATIONS`].
///
/// # Errors
/// See [`PageError`].
pub async fn page_of(
    redis: &Redis,
    topic: &Topic,
    channel: &Channel,
    ask: &Ask,
    most: usize,
) -> Result<Paged, PageError> {
    let limit = usize::try_from(ask.limit).map_or(most, |limit| limit.min(most));
    let feed = Feed::of(channel);
    let (since, epoch) = ask.since.as_ref().map_or((String::new(), ""), |(offset, epoch)| (offset.to_string(), epoch));
    let arguments = vec![
        Bytes::copy_from_slice(feed.as_str().as_bytes()),
        Bytes::copy_from_slice(channel.as_str().as_bytes()),
        Bytes::copy_from_slice(channel.topic().as_bytes()),
        Bytes::from_static(if topic.conflate { b"1" } else { b"0" }),
        Bytes::copy_from_slice(epoch.as_bytes()),
        Bytes::from(since),
        Bytes::from(limit.to_string()),
        Bytes::from_static(if ask.reverse { b"1" } else { b"0" }),
    ];
    let head = [Bytes::from(MAX_PAGE_BYTES.to_string())];
    let answers = script::run_each(redis, &script::PAGE, &head, &[(feed, arguments)]).await?;
    let answer = answers.first().and_then(|answer| paged(answer));
    let page = answer.ok_or_else(|| RedisError::Refused("a history of unknown form".into()))?;
    if !epoch.is_empty() && page.top.epoch.to_string() != epoch {
        return Err(PageError::OtherEpoch(page.top));
    }
    Ok(page)
}

/// Removes what `channel` keeps. Its position stays, so that who is behind is told and offsets run on.
///
/// # Errors
/// As any command.
pub async fn remove(redis: &Redis, channel: &Channel) -> Result<(), RedisError> {
    let prefix = redis.partitions().prefix(redis.partitions().of(&Feed::of(channel)));
    let keys = ["history", "latest"].map(|kind| format!("{prefix}{kind}:{channel}"));
    redis.unlink(&keys, None).await.map(drop)
}

fn paged(answer: &[Value]) -> Option<Paged> {
    let [epoch, top, envelopes @ ..] = answer else { return None };
    let top = Position { epoch: epoch.as_string()?.parse().ok()?, offset: top.as_u64()? };
    let envelopes = envelopes.iter().map(|value| value.clone().into_bytes()).collect::<Option<_>>()?;
    Some(Paged { top, envelopes })
}

fn arguments(since: &Since) -> (Feed, Vec<Bytes>) {
    let feed = Feed::of(&since.channel);
    let arguments = vec![
        Bytes::copy_from_slice(feed.as_str().as_bytes()),
        Bytes::copy_from_slice(since.channel.as_str().as_bytes()),
        Bytes::copy_from_slice(since.channel.topic().as_bytes()),
        Bytes::from_static(if since.conflated { b"1" } else { b"0" }),
        Bytes::copy_from_slice(since.epoch.as_bytes()),
        Bytes::from(since.offset.to_string()),
    ];
    (feed, arguments)
}

fn after(since: &Since, answer: &[Value]) -> Option<After> {
    let [epoch, top, complete, envelopes @ ..] = answer else { return None };
    let top = Position { epoch: epoch.as_string()?.parse().ok()?, offset: top.as_u64()? };
    let envelopes: Vec<Bytes> = envelopes.iter().map(|value| value.clone().into_bytes()).collect::<Option<_>>()?;
    let whole = complete.as_u64()? == 1 && follow(since, top, &envelopes);
    Some(After { top, envelopes: whole.then_some(envelopes) })
}

/// Whether `envelopes` are what the script says they are: nobody else may have written to the key.
fn follow(since: &Since, top: Position, envelopes: &[Bytes]) -> bool {
    let mut last = since.offset;
    for envelope in envelopes {
        let Ok(envelope) = Envelope::parse(envelope) else { return false };
        let Position { epoch, offset } = envelope.position;
        let next = if since.conflated { offset > last } else { offset == last + 1 };
        if epoch != top.epoch || !next || envelope.description.topic != since.channel.topic() {
            return false;
        }
        last = offset;
    }
    last == top.offset
}
