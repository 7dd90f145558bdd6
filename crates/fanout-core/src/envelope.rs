//! What travels through Redis and stands in a channel's history: position, description, data.
//!
//! ```text
//! G1 SEQUENCE EPOCH OFFSET          written by the script, which alone knows them
//! {"topic":…,"id":…,"key":…,…}      written by the publisher
//! DATA                              the application's JSON, without line breaks
//! ```
//!
//! Data stands apart so that a bridge can splice it into a frame without parsing it.
//!
//! Joins and leaves travel on the same pub/sub channels. They have no position and are not stored:
//!
//! ```text
//! G1 joined                         or `G1 left`
//! {"topic":…,"info":{…}}
//! ```

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};

use crate::client::ClientInfo;
use crate::data::Data;

/// The life of a feed's offsets: eight hexadecimal digits. Offsets of different epochs cannot be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch(u32);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl FromStr for Epoch {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u32::from_str_radix(text, 16).map(Self)
    }
}

/// A place in a channel. Offset 0 is before the first publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    /// Which life of the channel the offset counts in.
    pub epoch: Epoch,
    /// The number of the publication, from 1, without gaps.
    pub offset: u64,
}

/// What a publisher says of a publication; the second line of an envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description<'a> {
    /// The topic: a user's feed carries several.
    #[serde(borrow)]
    pub topic: Cow<'a, str>,
    /// The public id.
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    /// The conflation key.
    #[serde(borrow, default, deserialize_with = "optional", skip_serializing_if = "Option::is_none")]
    pub key: Option<Cow<'a, str>>,
    /// The publisher's tags, shown to clients beside `id`.
    #[serde(borrow, default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
    /// The client that published it; none when a backend did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub info: Option<ClientInfo>,
}

/// serde borrows a text, but not one inside of something else.
fn optional<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Cow<'a, str>>, D::Error> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    Ok(Option::<Text<'a>>::deserialize(deserializer)?.map(|Text(text)| text))
}

impl Description<'_> {
    /// The part of an envelope that the publisher knows.
    pub(crate) fn body(&self, data: &Data) -> Vec<u8> {
        let mut body = serde_json::to_vec(self).unwrap_or_default();
        body.push(b'\n');
        body.extend_from_slice(data.as_bytes());
        body
    }
}

/// A publication as it comes out of Redis.
#[derive(Debug)]
pub struct Envelope<'a> {
    /// The number of the publication in its feed, over all topics, from 1.
    pub sequence: u64,
    /// The position in the channel; offset 0 when the topic keeps no history.
    pub position: Position,
    /// What the publisher said of it.
    pub description: Description<'a>,
    /// The application's JSON.
    pub data: Data,
}

/// Why bytes are not an envelope: somebody else published on Griot's channels, or an unknown version of Griot did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an envelope of version G1: {0}")]
pub struct EnvelopeError(&'static str);

impl<'a> Envelope<'a> {
    /// Takes an envelope apart. Data is shared with `bytes`, not copied.
    pub fn parse(bytes: &'a Bytes) -> Result<Self, EnvelopeError> {
        let (place, rest) = line(bytes).ok_or(EnvelopeError("no first line"))?;
        let (described, data) = line(rest).ok_or(EnvelopeError("no second line"))?;
        let place = std::str::from_utf8(place).map_err(|_| EnvelopeError("the first line is not text"))?;
        let mut words = place.split(' ');
        if words.next() != Some("G1") {
            return Err(EnvelopeError("another version"));
        }
        let (Some(sequence), Some(epoch), Some(offset), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(EnvelopeError("the first line has not four words"));
        };
        let number = |word: &str| word.parse().map_err(|_| EnvelopeError("a number expected in the first line"));
        Ok(Self {
            sequence: number(sequence)?,
            position: Position {
                epoch: epoch.parse().map_err(|_| EnvelopeError("the epoch is not hexadecimal"))?,
                offset: number(offset)?,
            },
            description: serde_json::from_slice(described).map_err(|_| EnvelopeError("the second line"))?,
            data: Data::checked_before(bytes.slice_ref(data)),
        })
    }
}

/// Whatever is published on a feed's pub/sub channel.
#[derive(Debug)]
pub enum Notice<'a> {
    /// A publication.
    Publication(Envelope<'a>),
    /// A client came to a channel of the feed.
    Joined(Presence<'a>),
    /// A client left one.
    Left(Presence<'a>),
}

/// Who came or left; the second line of a notice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence<'a> {
    /// The topic, which with the feed names the channel.
    #[serde(borrow)]
    pub topic: Cow<'a, str>,
    /// The client.
    pub info: ClientInfo,
}

const JOINED: &[u8] = b"G1 joined\n";
const LEFT: &[u8] = b"G1 left\n";

impl<'a> Notice<'a> {
    /// Takes apart what came on a feed's pub/sub channel. Data is shared with `bytes`, not copied.
    pub fn parse(bytes: &'a Bytes) -> Result<Self, EnvelopeError> {
        let presence = |json| serde_json::from_slice(json).map_err(|_| EnvelopeError("who came or left"));
        if let Some(json) = bytes.strip_prefix(JOINED) {
            return presence(json).map(Self::Joined);
        }
        if let Some(json) = bytes.strip_prefix(LEFT) {
            return presence(json).map(Self::Left);
        }
        Envelope::parse(bytes).map(Self::Publication)
    }
}

impl Presence<'_> {
    /// The notice that the client came.
    pub(crate) fn joined(&self) -> Vec<u8> {
        self.behind(JOINED)
    }

    /// The notice that the client left.
    pub(crate) fn left(&self) -> Vec<u8> {
        self.behind(LEFT)
    }

    fn behind(&self, first_line: &[u8]) -> Vec<u8> {
        let mut notice = first_line.to_vec();
        notice.extend(serde_json::to_vec(self).unwrap_or_default());
        notice
    }
}

fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|b| *b == b'\n')?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_publisher_writes_a_bridge_reads() {
        let description = Description {
            topic: "orders".into(),
            id: "an \"id\"\n".into(),
            key: Some("7".into()),
            tags: [("op".into(), "update".into())].into(),
            info: Some(ClientInfo {
                user: "42".into(),
                client: "c".into(),
                conn_info: Some(Data::parse("{\"name\":\"Ann\"}").expect("json")),
                chan_info: None,
            }),
        };
        let mut text = b"G1 12 00c0ffee 5\n".to_vec();
        text.extend(description.body(&Data::parse("{\"n\":9007199254740993}").expect("json")));
        let bytes = Bytes::from(text);
        let envelope = Envelope::parse(&bytes).expect("envelope");
        assert_eq!((envelope.sequence, envelope.position.offset), (12, 5));
        assert_eq!(envelope.position.epoch.to_string(), "00c0ffee");
        assert_eq!(envelope.description, description);
        assert_eq!(envelope.data.as_bytes(), b"{\"n\":9007199254740993}");
    }

    #[test]
    fn who_came_and_who_left_are_told_apart() {
        let presence =
            Presence { topic: "orders".into(), info: ClientInfo { user: "42".into(), ..ClientInfo::default() } };
        let (joined, left) = (Bytes::from(presence.joined()), Bytes::from(presence.left()));
        assert!(matches!(Notice::parse(&joined), Ok(Notice::Joined(told)) if told == presence));
        assert!(matches!(Notice::parse(&left), Ok(Notice::Left(told)) if told == presence));
        assert!(Envelope::parse(&joined).is_err(), "who knows only publications drops it");
    }

    #[test]
    fn anything_else_is_refused() {
        for text in
            ["", "hello", "G2 1 0 0\n{}\n1", "G1 1 0\n{}\n1", "G1 -1 0 0\n{}\n1", "G1 1 0 0\n{}\n1", "G1 1 0 0 0\n{}\n"]
        {
            assert!(Envelope::parse(&Bytes::from(text)).is_err(), "{text:?}");
        }
    }
}
