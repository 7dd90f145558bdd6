//! The JSON of a push that carries a publication, written around its data in one pass: nothing is written as often, and
//! what serde makes of it costs three times as much. A test holds both to the same bytes.

use std::ops::Bound::{Excluded, Unbounded};

use fanout_core::envelope::Description;
use serde::Serialize;

use super::message::{ClientInfo, Push};

/// What a push has beside the strings in it.
const AROUND: usize = 128;

/// What is written, wherever it stands. The data has to be JSON.
pub(super) struct Published<'a, T> {
    pub(super) channel: &'a str,
    pub(super) data: &'a [u8],
    pub(super) info: Option<&'a ClientInfo>,
    pub(super) offset: u64,
    /// In the order of their names.
    pub(super) tags: T,
}

/// What `push` says, when it carries a publication.
pub(super) fn of(push: &Push) -> Option<Published<'_, impl Iterator<Item = (&str, &str)> + Clone>> {
    let publication = push.publication.as_ref()?;
    Some(Published {
        channel: &push.channel,
        data: &publication.data,
        info: publication.info.as_ref(),
        offset: publication.offset,
        tags: publication.tags.iter().map(|(name, value)| (name.as_str(), value.as_str())),
    })
}

/// The tags that clients see, in the order of their names: the publisher's, and the public id as `id`.
pub(super) fn tags<'a>(description: &'a Description<'_>) -> impl Iterator<Item = (&'a str, &'a str)> + Clone {
    let before = description.tags.range::<str, _>((Unbounded, Excluded("id")));
    let after = description.tags.range::<str, _>((Excluded("id"), Unbounded));
    let text = |(name, value): (&'a std::borrow::Cow<'_, str>, &'a std::borrow::Cow<'_, str>)| (&**name, &**value);
    before.map(text).chain([("id", &*description.id)]).chain(after.map(text))
}

impl<'a, T: Iterator<Item = (&'a str, &'a str)> + Clone> Published<'a, T> {
    /// Appends it, in one allocation.
    pub(super) fn write(self, out: &mut Vec<u8>) {
        out.reserve(self.estimate());
        out.push(b'{');
        if !self.channel.is_empty() {
            out.extend_from_slice(b"\"channel\":");
            text(self.channel, out);
            out.push(b',');
        }
        out.extend_from_slice(b"\"pub\":{\"data\":");
        out.extend_from_slice(self.data);
        if let Some(info) = self.info {
            out.extend_from_slice(b",\"info\":");
            json(info, out);
        }
        if self.offset > 0 {
            out.extend_from_slice(b",\"offset\":");
            json(self.offset, out);
        }
        let mut before: &[u8] = b",\"tags\":{";
        for (name, value) in self.tags {
            out.extend_from_slice(std::mem::replace(&mut before, b","));
            text(name, out);
            out.push(b':');
            text(value, out);
        }
        out.extend_from_slice(if before == b"," { b"}}}" } else { b"}}" });
    }

    /// About how many bytes it will be.
    fn estimate(&self) -> usize {
        let tags: usize = self.tags.clone().map(|(name, value)| name.len() + value.len() + 6).sum();
        AROUND + self.channel.len() + self.data.len() + tags
    }
}

/// Few names and ids have anything to escape.
fn text(text: &str, out: &mut Vec<u8>) {
    if text.bytes().any(|byte| byte < b' ' || byte == b'"' || byte == b'\\') {
        return json(text, out);
    }
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

fn json(value: impl Serialize, out: &mut Vec<u8>) {
    // Strings, and data that was checked where it entered, can be written.
    let _ = serde_json::to_writer(out, &value);
}

#[cfg(test)]
mod tests {
    use super::super::message::Publication;
    use super::*;

    #[test]
    fn it_is_what_serde_writes() {
        let info = ClientInfo { user: "4\"2".into(), conn_info: r#"{"name":"Ama"}"#.into(), ..ClientInfo::default() };
        for channel in ["", "orders:#42", "a\"b"] {
            for info in [None, Some(info.clone())] {
                for offset in [0, 7, u64::MAX] {
                    for tags in [&[][..], &[("id", "u-1")], &[("id", "\u{1}\\"), ("ö", "\"")]] {
                        let tags = tags.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
                        let data = r#"{ "n": 9007199254740993, "b":1.50 }"#.into();
                        let publication = Some(Publication { data, info: info.clone(), offset, tags });
                        let push = Push { channel: channel.into(), publication, ..Push::default() };
                        let mut out = Vec::new();
                        of(&push).expect("a publication").write(&mut out);
                        assert_eq!(String::from_utf8(out).ok(), serde_json::to_string(&push).ok());
                    }
                }
            }
        }
        assert!(of(&Push::default()).is_none());
    }

    #[test]
    fn the_id_stands_among_the_tags_and_instead_of_one_of_its_name() {
        let seen = |line: &str| -> Vec<(String, String)> {
            let description: Description<'_> = serde_json::from_str(line).expect("a description");
            tags(&description).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
        };
        let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        assert_eq!(seen(r#"{"topic":"a","id":"1"}"#), pairs(&[("id", "1")]));
        let line = r#"{"topic":"a","id":"1","tags":{"op":"x","id":"2","at":"y"}}"#;
        assert_eq!(seen(line), pairs(&[("at", "y"), ("id", "1"), ("op", "x")]));
    }
}
