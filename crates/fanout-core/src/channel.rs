//! Channel names and user ids: what they may look like, and whom a channel belongs to.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// Longest channel name in bytes, as in the Centrifugal client protocol.
pub const MAX_CHANNEL_BYTES: usize = 255;
/// Longest user id in bytes.
pub const MAX_USER_BYTES: usize = 128;
/// Longest topic name in bytes.
pub const MAX_TOPIC_BYTES: usize = 64;

/// Why a name was refused. The text names the rule and shows the value, cut to a readable length.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not a user id.
    #[error("user id {0} is not 1 to {MAX_USER_BYTES} bytes of printable ASCII without `#`, `,` and blanks")]
    User(Quoted),
    /// Longer than [`MAX_CHANNEL_BYTES`].
    #[error("channel {0} is longer than {MAX_CHANNEL_BYTES} bytes")]
    TooLong(Quoted),
    /// The part before the first `:` (or a bare name) is not a topic name.
    #[error(
        "channel {0} does not begin with a topic: 1 to {MAX_TOPIC_BYTES} of the characters A-Z a-z 0-9 `_` `.` `-`"
    )]
    Topic(Quoted),
    /// The part after the first `:` is neither `#USER` nor a plain name.
    #[error("channel {0} has a name with a blank, `#`, `,` or a character outside printable ASCII")]
    Name(Quoted),
}

/// A refused value as it appears in an error text: quoted, escaped and cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quoted(String);

impl Quoted {
    /// Keeps enough of `value` to recognise it, and no more than fits on a log line.
    pub fn new(value: &str) -> Self {
        const SHOWN: usize = 64;
        let cut: String = value.chars().take(SHOWN).collect();
        let more = if cut.len() < value.len() { "…" } else { "" };
        Self(format!("{cut:?}{more}"))
    }
}

impl fmt::Display for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The id of a signed-in user: 1 to 128 bytes of printable ASCII without `#`, `,` and blanks.
///
/// `#` and `,` are refused because `orders:#4,2` means two users in the client protocol and `#a#42` ends in
/// somebody else's id.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UserId(Arc<str>);

impl UserId {
    /// Takes `id` as it is; nothing is trimmed or folded, so that `4` and `04` stay two users.
    pub fn parse(id: &str) -> Result<Self, NameError> {
        Self::check(id).map(|()| Self(id.into()))
    }

    fn check(id: &str) -> Result<(), NameError> {
        let ok = !id.is_empty() && id.len() <= MAX_USER_BYTES && id.bytes().all(is_name_byte);
        if ok { Ok(()) } else { Err(NameError::User(Quoted::new(id))) }
    }

    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A well-formed channel: `orders` (broadcast), `orders:#42` (personal) or `orders:room` (named).
///
/// Well-formed does not mean known: whether a topic of that name exists is answered by
/// [`Topics::of`](crate::Topics::of).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Channel(Arc<str>);

impl Channel {
    /// Checks `name` and takes it as it is.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        if name.len() > MAX_CHANNEL_BYTES {
            return Err(NameError::TooLong(Quoted::new(name)));
        }
        let (topic, rest) = match name.split_once(':') {
            Some((topic, rest)) => (topic, Some(rest)),
            None => (name, None),
        };
        if !is_topic_name(topic) {
            return Err(NameError::Topic(Quoted::new(name)));
        }
        match rest {
            None => {}
            Some(rest) => match rest.strip_prefix('#') {
                Some(user) => UserId::check(user)?,
                None if !rest.is_empty() && rest.bytes().all(is_name_byte) => {}
                None => return Err(NameError::Name(Quoted::new(name))),
            },
        }
        Ok(Self(name.into()))
    }

    /// The personal channel of `user` in `topic`.
    pub fn personal(topic: &str, user: &UserId) -> Result<Self, NameError> {
        Self::parse(&format!("{topic}:#{user}"))
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name's first part: the topic's name, or a bare name.
    pub fn topic(&self) -> &str {
        self.0.split_once(':').map_or(&self.0, |(topic, _)| topic)
    }

    /// Whether the name has no second part.
    pub fn is_bare(&self) -> bool {
        !self.0.contains(':')
    }

    /// The one user to whom a personal channel belongs.
    pub fn owner(&self) -> Option<&str> {
        self.0.split_once(":#").map(|(_, user)| user).filter(|_| self.is_personal())
    }

    /// Whether both belong to the same user.
    pub fn shares_owner(&self, other: &Self) -> bool {
        self.owner().is_some_and(|owner| other.owner() == Some(owner))
    }

    fn is_personal(&self) -> bool {
        self.0.split_once(':').is_some_and(|(_, rest)| rest.starts_with('#'))
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Channel {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// Whether `name` can name a topic.
pub fn is_topic_name(name: &str) -> bool {
    (1..=MAX_TOPIC_BYTES).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'#' && byte != b','
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_personal_channel_has_exactly_the_owner_it_spells() {
        for (name, owner) in [
            ("orders:#42", Some("42")),
            ("orders:#4", Some("4")),
            ("orders:#1e2", Some("1e2")),
            ("orders:#9007199254740993", Some("9007199254740993")),
            ("orders:#a:b", Some("a:b")),
            ("orders", None),
            ("orders:42", None),
            ("orders:room:x", None),
        ] {
            assert_eq!(Channel::parse(name).expect(name).owner(), owner, "{name}");
        }
    }

    #[test]
    fn names_that_could_reach_others_are_refused() {
        for name in [
            "",
            "orders:#",
            "orders:",
            "orders:#4,2",
            "orders:#a#42",
            "orders:##42",
            "orders:a#42",
            "#42",
            "orders#42",
            "or ders",
            "orders:#4 2",
            "orders:\u{e9}",
            "orders:#4\n2",
            ":#42",
            "$orders",
        ] {
            assert!(Channel::parse(name).is_err(), "{name:?}");
        }
        assert!(Channel::parse(&"a".repeat(65)).is_err());
        assert!(Channel::parse(&format!("orders:{}", "x".repeat(249))).is_err());
    }

    #[test]
    fn an_error_shows_a_cut_value() {
        let text = UserId::parse(&"x y".repeat(100)).expect_err("blanks").to_string();
        assert!(text.len() < 220 && text.contains('…'), "{text}");
    }
}
