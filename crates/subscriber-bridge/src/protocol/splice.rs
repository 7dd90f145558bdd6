//! The JSON of a push that carries a publication, written around its data in one pass: nothing is written as often, and
//! what serde makes of it costs three times as much. A test holds both to the same bytes.

use std::io::Write;

use serde::Serialize;

use super::message::{Publication, Push};

/// What a push has beside the strings in it.
const AROUND: usize = 128;

/// About how many bytes it will be.
pub(super) fn estimate(push: &Push) -> usize {
    push.publication.as_ref().map_or(0, |publication| {
        let tags: usize = publication.tags.iter().map(|(name, value)| name.len() + value.len() + 6).sum();
        AROUND + push.channel.len() + publication.data.len() + tags
    })
}

/// Writes `push` when a publication is all that it carries, which has to be JSON; says whether it was that.
pub(super) fn write(push: &Push, out: &mut Vec<u8>) -> bool {
    let Some(publication) = &push.publication else { return false };
    out.push(b'{');
    if !push.channel.is_empty() {
        out.extend_from_slice(b"\"channel\":");
        json(&push.channel, out);
        out.push(b',');
    }
    out.extend_from_slice(b"\"pub\":");
    write_publication(publication, out);
    out.push(b'}');
    true
}

fn write_publication(publication: &Publication, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"data\":");
    out.extend_from_slice(&publication.data);
    if let Some(info) = &publication.info {
        out.extend_from_slice(b",\"info\":");
        json(info, out);
    }
    if publication.offset > 0 {
        // A vector takes everything.
        let _ = write!(out, ",\"offset\":{}", publication.offset);
    }
    if !publication.tags.is_empty() {
        out.extend_from_slice(b",\"tags\":");
        json(&publication.tags, out);
    }
    out.push(b'}');
}

fn json(value: impl Serialize, out: &mut Vec<u8>) {
    // Strings, and data that was checked where it entered, can be written.
    let _ = serde_json::to_writer(out, &value);
}

#[cfg(test)]
mod tests {
    use super::super::message::ClientInfo;
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
                        assert!(write(&push, &mut out));
                        assert_eq!(String::from_utf8(out).ok(), serde_json::to_string(&push).ok());
                    }
                }
            }
        }
        assert!(!write(&Push::default(), &mut Vec::new()));
    }
}
