//! The channel of a rule's publication. Its topic is fixed in the file; a value from a row fills in a user or a part
//! of a name and can become nothing else, so that `orders:{room}` never turns into somebody's `orders:#42`.

use crate::entry::RowChange;
use crate::limits::{CHANNEL_BYTES, TOPIC_BYTES, USER_BYTES};

use super::Place;
use super::render::FaultReason;
use super::template::{Piece, Template};
use super::values::Version;

/// A template for channels of one topic and one kind.
#[derive(Debug)]
pub(super) struct ChannelTemplate {
    pub(super) template: Template,
    pub(super) topic: String,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Broadcast,
    Personal,
    Named,
}

impl ChannelTemplate {
    /// Reads `text`, or says in a sentence what is wrong with it.
    pub(super) fn parse(text: &str, place: Place) -> Result<Self, String> {
        let template = Template::parse(text, place)?;
        let prefix = template.prefix().to_owned();
        let (topic, rest) = match prefix.split_once(':') {
            Some((topic, rest)) => (topic, Some(rest)),
            None => (prefix.as_str(), None),
        };
        let in_topic = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        if topic.is_empty() || topic.len() > TOPIC_BYTES || !topic.bytes().all(in_topic) {
            return Err("it must begin with a topic: 1 to 64 characters of A-Z a-z 0-9 _ . -".to_owned());
        }
        let kind = match rest {
            None if template.is_literal() => Kind::Broadcast,
            None => return Err("the topic is fixed: a placeholder may stand after `:` only".to_owned()),
            Some(rest) if rest.starts_with('#') => Kind::Personal,
            Some(_) => Kind::Named,
        };
        let channel = Self { topic: topic.to_owned(), template, kind };
        channel.check_literals(rest.unwrap_or_default())?;
        Ok(channel)
    }

    /// `first` is what follows `:` in the first literal.
    fn check_literals(&self, first: &str) -> Result<(), String> {
        if self.kind == Kind::Broadcast {
            return Ok(());
        }
        let pieces = self.template.pieces();
        if self.kind == Kind::Personal {
            let user = first.strip_prefix('#').unwrap_or_default();
            return match pieces {
                [_] if is_user(user) => Ok(()),
                [_, Piece::Column(_)] if user.is_empty() => Ok(()),
                _ => Err("after `:#` stands exactly one placeholder, the owner's id".to_owned()),
            };
        }
        let later = pieces.iter().skip(1).filter_map(|piece| match piece {
            Piece::Literal(literal) => Some(literal.as_str()),
            Piece::Column(_) => None,
        });
        if !std::iter::once(first).chain(later).all(|literal| literal.bytes().all(in_name)) {
            return Err("a name is printable ASCII without # , and blanks".to_owned());
        }
        if pieces.len() == 1 && first.is_empty() {
            return Err("nothing follows the `:`".to_owned());
        }
        Ok(())
    }

    /// Whether it is the bare name of the topic, which may also belong to `[default_topic]`.
    pub(super) fn is_bare(&self) -> bool {
        self.kind == Kind::Broadcast
    }

    /// The channel for one row. A NULL is a fault here: a publication without an addressee is worth a look.
    pub(super) fn render(&self, change: &RowChange, version: Version) -> Result<String, FaultReason> {
        let kind = self.kind;
        let rendered = self.template.render(change, version, |text, value| {
            // A `:` in a name could make two names look alike; in an owner's id it is a character like others.
            if !is_user(value) || (kind == Kind::Named && value.contains(':')) {
                return Err(FaultReason::ChannelValue { value: cut(value) });
            }
            text.push_str(value);
            Ok(())
        })?;
        match rendered {
            None if kind == Kind::Personal => Err(FaultReason::NullOwner),
            None => Err(FaultReason::NullChannel),
            Some(channel) if channel.len() > CHANNEL_BYTES => {
                Err(FaultReason::TooLong { bytes: channel.len(), limit: CHANNEL_BYTES })
            }
            Some(channel) => Ok(channel),
        }
    }
}

/// Printable ASCII without what separates ids and names.
fn in_name(b: u8) -> bool {
    b.is_ascii_graphic() && b != b'#' && b != b','
}

fn is_user(value: &str) -> bool {
    (1..=USER_BYTES).contains(&value.len()) && value.bytes().all(in_name)
}

/// Enough of a value to find it by.
fn cut(value: &str) -> String {
    value.chars().take(64).collect()
}
