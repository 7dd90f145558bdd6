//! Reading where channels stand.

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
    Ok(answers.iter().map(|fields| feed_position(fields)).collect())
}

fn feed_position(fields: &[Value]) -> Result<FeedPosition, RedisError> {
    if let [error] = fields {
        return Err(RedisError::answered(error.as_string().unwrap_or_default()));
    }
    known_form(fields).ok_or_else(|| RedisError::Refused("a position of unknown form".into()))
}

fn known_form(fields: &[Value]) -> Option<FeedPosition> {
    let [epoch, sequence, tops @ ..] = fields else { return None };
    let tops = tops.chunks_exact(2).map(|pair| Some((pair[0].as_string()?, pair[1].as_u64()?)));
    Some(FeedPosition {
        epoch: epoch.as_string()?.parse().ok()?,
        sequence: sequence.as_u64()?,
        tops: tops.collect::<Option<_>>()?,
    })
}

/// Redis's glob for the positions of all feeds. Whoever removes them has every subscriber told that continuity is lost.
pub const ALL: &str = "griot:{*}:position:*";
