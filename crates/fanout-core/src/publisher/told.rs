//! What `lua/publish.lua` is told, and what it answers.

use std::borrow::Cow;

use bytes::Bytes;

use super::{Once, Publication, Receipt};
use crate::envelope::{Description, Position};
use crate::names::Feed;
use crate::redis::RedisError;
use crate::topic::Topic;

/// What the script is told of one publication.
#[derive(Debug)]
pub(super) struct Told<'a> {
    partition: usize,
    shape: Shape<'a>,
    /// Feed, channel, and what the shape says there is.
    own: Vec<Bytes>,
}

/// What publications of a call mostly share, so that it is said once.
#[derive(Debug, PartialEq, Eq)]
struct Shape<'a> {
    topic: &'a str,
    /// 0: no history.
    history_size: u32,
    history_seconds: u32,
    replaces: bool,
    once: &'static str,
    versioned: bool,
}

impl Shape<'_> {
    fn arguments(&self) -> [Bytes; 6] {
        let flag = |set: bool, name: &'static str| Bytes::from_static(if set { name } else { "" }.as_bytes());
        [
            Bytes::from(self.topic.to_owned()),
            Bytes::from(self.history_size.to_string()),
            Bytes::from(self.history_seconds.to_string()),
            flag(self.replaces, "replaces"),
            Bytes::from_static(self.once.as_bytes()),
            flag(self.versioned, "versioned"),
        ]
    }
}

impl<'a> Told<'a> {
    /// `topic` is the channel's, `partition` that of its feed.
    pub(super) fn new(publication: &'a Publication, topic: &Topic, feed: &Feed, partition: usize) -> Self {
        let channel = &publication.channel;
        let keeps = topic.keeps_history() && !publication.skip_history;
        let version = publication.version.as_ref().filter(|version| keeps && version.number > 0);
        let mut own = vec![Bytes::from(feed.as_str().to_owned()), Bytes::from(channel.as_str().to_owned())];
        if topic.conflate {
            let key = publication.conflation_key.as_ref();
            own.push(key.map_or(Bytes::from_static(b"none"), |key| Bytes::from(format!("key {key}"))));
        }
        let once = match &publication.once {
            Once::No => "",
            Once::Key(key) => {
                own.push(Bytes::from(key.clone()));
                "key"
            }
            Once::Entry => {
                own.push(Bytes::copy_from_slice(publication.id.as_bytes()));
                "entry"
            }
        };
        if let Some(version) = version {
            own.extend([Bytes::from(version.number.to_string()), Bytes::from(version.epoch.clone())]);
        }
        own.push(body(publication));
        let shape = Shape {
            topic: channel.topic(),
            history_size: if keeps { topic.history_size } else { 0 },
            history_seconds: topic.history_ttl_seconds,
            replaces: topic.conflate,
            once,
            versioned: version.is_some(),
        };
        Self { partition, shape, own }
    }
}

/// All of an envelope but the line that the script writes.
fn body(publication: &Publication) -> Bytes {
    let id = publication.id.to_string();
    let description = Description {
        topic: publication.channel.topic().into(),
        id: id.as_str().into(),
        key: publication.conflation_key.as_deref().map(Cow::from),
        tags: publication.tags.iter().map(|(name, value)| (name.into(), value.into())).collect(),
        info: publication.info.clone(),
    };
    Bytes::from(description.body(&publication.data))
}

/// Adds a call's arguments from the number of shapes on; returns the partitions that are the call's keys, in order.
pub(super) fn extend(arguments: &mut Vec<Bytes>, batch: &[&Told<'_>]) -> Vec<usize> {
    let (mut partitions, mut shapes, mut publications) = (Vec::new(), Vec::new(), Vec::new());
    for told in batch {
        publications.push(number(&mut partitions, told.partition));
        publications.push(number(&mut shapes, &told.shape));
        publications.extend(told.own.iter().cloned());
    }
    arguments.push(Bytes::from(shapes.len().to_string()));
    arguments.extend(shapes.into_iter().flat_map(Shape::arguments));
    arguments.extend(publications);
    partitions
}

/// The number of `one` in `known`, from 1; it is added where it is not there.
fn number<T: PartialEq>(known: &mut Vec<T>, one: T) -> Bytes {
    let index = known.iter().position(|other| *other == one).unwrap_or_else(|| {
        known.push(one);
        known.len() - 1
    });
    Bytes::from((index + 1).to_string())
}

/// What the script's answer says of `count` publications; none when it has another form.
///
/// After one that Redis refused there are no further ones.
pub(super) fn outcomes(answer: &str, count: usize) -> Option<Vec<Result<Receipt, RedisError>>> {
    let outcomes: Vec<_> = answer.split('\n').map(outcome).collect::<Option<_>>()?;
    let (last, before) = outcomes.split_last()?;
    let whole = before.iter().all(Result::is_ok) && (outcomes.len() == count || last.is_err() && before.len() < count);
    whole.then_some(outcomes)
}

/// `1 EPOCH OFFSET` of what was published, `0 EPOCH OFFSET` of what is repeated, `2 ERROR` of what Redis refused.
fn outcome(line: &str) -> Option<Result<Receipt, RedisError>> {
    let (state, rest) = line.split_once(' ')?;
    if state == "2" {
        return Some(Err(RedisError::answered(rest.to_owned())));
    }
    let (epoch, offset) = rest.split_once(' ')?;
    let position = match offset.parse().ok()? {
        0 => None,
        offset => Some(Position { epoch: epoch.parse().ok()?, offset }),
    };
    Some(Ok(Receipt { position, repeated: state != "1" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_of_each_what_became_of_it() {
        let outcomes = outcomes("1 7 12\n0 7 3\n1  0\n2 OOM command not allowed", 6).unwrap();
        let receipts: Vec<_> = outcomes[..3].iter().map(|outcome| outcome.clone().unwrap()).collect();
        let position = |offset| Some(Position { epoch: "7".parse().unwrap(), offset });
        assert_eq!(receipts[0], Receipt { position: position(12), repeated: false });
        assert_eq!(receipts[1], Receipt { position: position(3), repeated: true });
        assert_eq!(receipts[2], Receipt { position: None, repeated: false }, "the topic keeps no history");
        assert!(matches!(outcomes[3], Err(RedisError::OutOfMemory)), "{outcomes:?}");
        assert_eq!(outcomes.len(), 4, "what stands behind a refused one has no outcome");
    }

    #[test]
    fn an_answer_of_another_form_says_nothing_of_anybody() {
        let malformed = [
            ("", 1),
            ("1 7 12", 2),
            ("1 7 12\n1 7 13", 1),
            ("2 ERR before\n1 7 12", 2),
            ("1 7 12\n2 ERR of one too many", 1),
            ("1 7", 1),
            ("1 7 twelve", 1),
            ("1 7 12\n", 1),
        ];
        for (answer, count) in malformed {
            assert!(outcomes(answer, count).is_none(), "{answer:?} of {count}");
        }
    }
}
