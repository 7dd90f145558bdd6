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
/// # Errors
/// As any command. A feed without a position is given one.
pub async fn read(redis: &Redis, feeds: &[Feed]) -> Result<Vec<FeedPosition>, RedisError> {
    let mut partitions: Vec<(usize, Vec<usize>)> = Vec::new();
    for (index, feed) in feeds.iter().enumerate() {
        let partition = redis.partitions().of(feed);
        match partitions.iter_mut().find(|(known, _)| *known == partition) {
            Some((_, members)) => members.push(index),
            None => partitions.push((partition, vec![index])),
        }
    }
    let calls = partitions.iter().map(|(partition, members)| async move {
        let arguments = members.iter().map(|i| Bytes::copy_from_slice(feeds[*i].as_str().as_bytes())).collect();
        let prefix = redis.partitions().prefix(*partition);
        script::run::<Vec<Vec<Value>>>(redis, &script::POSITIONS, prefix, arguments).await
    });
    let answers = futures::future::try_join_all(calls).await?;
    let mut positions = vec![None; feeds.len()];
    for ((_, members), answer) in partitions.iter().zip(answers) {
        for (index, fields) in members.iter().zip(answer) {
            positions[*index] = feed_position(&fields);
        }
    }
    positions.into_iter().collect::<Option<_>>().ok_or_else(|| RedisError::Refused("a position of unknown form".into()))
}

fn feed_position(fields: &[Value]) -> Option<FeedPosition> {
    let [epoch, sequence, tops @ ..] = fields else { return None };
    let tops = tops.chunks_exact(2).map(|pair| Some((pair[0].as_string()?, pair[1].as_u64()?)));
    Some(FeedPosition {
        epoch: epoch.as_string()?.parse().ok()?,
        sequence: sequence.as_u64()?,
        tops: tops.collect::<Option<_>>()?,
    })
}
