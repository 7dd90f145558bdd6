//! Reading where channels stand.

use std::borrow::Cow;

use bytes::Bytes;
use fred::types::Value;

use crate::envelope::{Epoch, Position};
use crate::names::Feed;
use crate::redis::{Redis, RedisError};
use crate::script;

/// Where the channels of one feed stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedPosition {
    /// The epoch of all channels of the feed.
    pub epoch: Epoch,
    /// The number of the feed's last publication, over all topics.
    pub sequence: u64,
    /// The topics that have publications, each with its top offset.
    pub tops: Vec<(String, u64)>,
}

impl FeedPosition {
    /// The position of the feed's channel in `topic`.
    pub fn of(&self, topic: &str) -> Position {
        let top = self.tops.iter().find(|(name, _)| name == topic);
        Position { epoch: self.epoch, offset: top.map_or(0, |(_, top)| *top) }
    }
}

/// Reads the positions of `feeds`, one pipelined call per partition, in the order asked for.
///
/// A feed without a position is given one. Where Redis refuses that (its memory is full, say), the feed's own answer is
/// the error, and the others have theirs.
///
/// # Errors
/// As any command.
pub async fn read(redis: &Redis, feeds: &[Feed]) -> Result<Vec<Result<FeedPosition, RedisError>>, RedisError> {
    let asked: Vec<_> =
        feeds.iter().map(|feed| (feed.clone(), vec![Bytes::copy_from_slice(feed.as_str().as_bytes())])).collect();
    let answers = script::run_each(redis, &script::POSITIONS, &[], &asked).await?;
    Ok(answers.iter().map(|fields| of_fields(fields.iter().map(Value::as_str))).collect())
}

/// A feed's answer, field by field.
pub(crate) fn of_fields<'a>(
    fields: impl Iterator<Item = Option<Cow<'a, str>>> + Clone,
) -> Result<FeedPosition, RedisError> {
    let mut alone = fields.clone();
    if let (Some(error), None) = (alone.next(), alone.next()) {
        return Err(RedisError::answered(error.unwrap_or_default().into_owned()));
    }
    known_form(fields).ok_or_else(|| RedisError::Refused("a position of unknown form".into()))
}

fn known_form<'a>(mut fields: impl Iterator<Item = Option<Cow<'a, str>>>) -> Option<FeedPosition> {
    let (epoch, sequence) = (fields.next()??.parse().ok()?, fields.next()??.parse().ok()?);
    let mut tops = Vec::new();
    while let Some(topic) = fields.next() {
        tops.push((topic?.into_owned(), fields.next()??.parse().ok()?));
    }
    Some(FeedPosition { epoch, sequence, tops })
}

/// Redis's glob for the positions of all feeds. Whoever removes them has every subscriber told that continuity is lost.
pub const ALL: &str = "griot:{*}:position:*";
