//! The Centrifugal client protocol: commands in, replies and pushes out, in JSON or in protobuf.
//!
//! [`message`] has what stands on the wire; here is how it comes to be. How replies are framed for a transport is
//! [`wire`](crate::wire)'s.

pub mod message;
mod raw;
mod splice;

use bytes::{Buf, Bytes};
use fanout_core::envelope::{Description, Envelope, Position};
use fanout_core::{Data, begins_object, is_line};
use prost::Message;
use serde::Serialize;

use self::message::{Begun, ClientInfo, Ended, Error, Presence, Publication, SubscribeResult};
pub use self::message::{Command, Push, Reply};
use crate::codes::{CommandError, Ending};

/// How a reply begins that carries nothing but a push.
const PUSH: &[u8] = b"{\"push\":";

/// How commands and replies are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// One JSON object per line.
    Json,
    /// Each message after its length, an unsigned varint.
    Protobuf,
}

impl Encoding {
    /// The commands of one message, in order. The last is `None` where what follows is none.
    pub fn commands(self, message: Bytes) -> Commands {
        Commands { encoding: self, rest: Some(message) }
    }

    /// Appends one reply, without a frame. Nothing where it holds data that is not JSON, which was checked where it entered.
    pub(crate) fn reply(self, reply: &Reply, out: &mut Vec<u8>) {
        match (self, reply.push.as_ref().and_then(splice::of)) {
            (Self::Json, Some(published)) => {
                out.extend_from_slice(PUSH);
                published.write(out);
                out.push(b'}');
            }
            _ => self.encode(reply, out),
        }
    }

    /// Appends one push as one-way transports send it, without a reply around it.
    pub(crate) fn push(self, push: &Push, out: &mut Vec<u8>) {
        match (self, splice::of(push)) {
            (Self::Json, Some(published)) => published.write(out),
            _ => self.encode(push, out),
        }
    }

    /// Appends the push of what came out of Redis on `channel`, alone or in a reply. In JSON nothing is copied but into
    /// `out`.
    pub(crate) fn envelope(self, channel: &str, envelope: &Envelope<'_>, alone: bool, out: &mut Vec<u8>) {
        let Envelope { position, description, data, .. } = envelope;
        match self {
            Self::Json => {
                out.extend_from_slice(if alone { b"" } else { PUSH });
                let (info, data) = (description.info.as_ref().map(info), data.as_bytes());
                let (info, tags) = (info.as_ref(), splice::tags(description));
                splice::Published { channel, data, info, offset: position.offset, tags }.write(out);
                out.extend_from_slice(if alone { b"" } else { b"}" });
            }
            Self::Protobuf => {
                let position = Some(*position);
                let push = published(channel, publication(data.bytes(), position, Some(description)));
                if alone {
                    self.push(&push, out)
                } else {
                    self.reply(&Reply { push: Some(push), ..Reply::default() }, out)
                }
            }
        }
    }

    fn encode(self, message: &(impl Message + Serialize), out: &mut Vec<u8>) {
        let begin = out.len();
        let written = match self {
            Self::Json => serde_json::to_writer(&mut *out, message).is_ok(),
            Self::Protobuf => message.encode_length_delimited(out).is_ok(),
        };
        if !written {
            out.truncate(begin);
        }
    }

    /// What asks for a sign of life: nothing at all, encoded.
    pub(crate) fn ping(self) -> &'static [u8] {
        match self {
            Self::Json => b"{}",
            Self::Protobuf => b"\0",
        }
    }
}

/// See [`Encoding::commands`].
#[derive(Debug)]
pub struct Commands {
    encoding: Encoding,
    rest: Option<Bytes>,
}

impl Iterator for Commands {
    /// Nothing for what is no command.
    type Item = Option<Command>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut rest = self.rest.take()?;
        let command = match self.encoding {
            Encoding::Json => {
                let end = rest.iter().position(|byte| *byte == b'\n');
                let line = rest.split_to(end.unwrap_or(rest.len()));
                // One line break may end the message.
                rest.advance(usize::from(end.is_some()));
                begins_object(&line).then(|| serde_json::from_slice::<Command>(&line).ok()).flatten()
            }
            Encoding::Protobuf => Command::decode_length_delimited(&mut rest).ok(),
        };
        self.rest = Some(rest).filter(|rest| !rest.is_empty() && command.is_some());
        Some(command)
    }
}

/// An error as the answer to command `id`.
pub(crate) fn failure(id: u32, error: CommandError) -> Reply {
    let CommandError { code, message, temporary } = error;
    Reply { id, error: Some(Error { code, message: message.into_owned(), temporary }), ..Reply::default() }
}

/// A publication as clients see it. Raw publications have neither position nor description.
pub(crate) fn publication(
    data: Bytes,
    position: Option<Position>,
    description: Option<&Description<'_>>,
) -> Publication {
    let mut publication = Publication { data, ..Publication::default() };
    publication.offset = position.map_or(0, |position| position.offset);
    if let Some(description) = description {
        let tags = description.tags.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        publication.tags.extend(tags);
        publication.tags.insert("id".into(), description.id.to_string());
        publication.info = description.info.as_ref().map(info);
    }
    publication
}

/// A publication out of a history; `None` when it is none.
pub(crate) fn recovered(envelope: &Bytes) -> Option<Publication> {
    let parsed = Envelope::parse(envelope).ok()?;
    let data = envelope.slice_ref(parsed.data.as_bytes());
    is_line(&data).then(|| publication(data, Some(parsed.position), Some(&parsed.description)))
}

/// The push of a publication on `channel`.
pub(crate) fn published(channel: &str, publication: Publication) -> Push {
    Push { channel: channel.to_owned(), publication: Some(publication), ..Push::default() }
}

/// Who somebody is, as clients see it.
pub(crate) fn info(info: &fanout_core::ClientInfo) -> ClientInfo {
    let bytes = |data: &Option<Data>| data.as_ref().map(Data::bytes).unwrap_or_default();
    ClientInfo {
        user: info.user.clone(),
        client: info.client.clone(),
        conn_info: bytes(&info.conn_info),
        chan_info: bytes(&info.chan_info),
    }
}

/// The push that somebody came to `channel`, or left it.
pub(crate) fn presence(channel: &str, who: &fanout_core::ClientInfo, came: bool) -> Push {
    let presence = Some(Presence { info: Some(info(who)) });
    let push = Push { channel: channel.to_owned(), ..Push::default() };
    if came { Push { join: presence, ..push } } else { Push { leave: presence, ..push } }
}

/// The push by which a client hears of a subscription to `channel` that was ordered.
pub(crate) fn begun(channel: &str, result: SubscribeResult) -> Push {
    let SubscribeResult { recoverable, epoch, offset, positioned, data, .. } = result;
    let subscribe = Some(Begun { recoverable, epoch, offset, positioned, data });
    Push { channel: channel.to_owned(), subscribe, ..Push::default() }
}

/// The push that ends a subscription to `channel`.
pub(crate) fn ended(channel: &str, ending: Ending) -> Push {
    let unsubscribe = Some(Ended { code: ending.code, reason: ending.reason.to_owned() });
    Push { channel: channel.to_owned(), unsubscribe, ..Push::default() }
}

#[cfg(test)]
mod tests {
    use super::message::{Empty, PresenceStatsResult, RpcResult};
    use super::*;

    fn encoded(encoding: Encoding, reply: &Reply) -> Vec<u8> {
        let mut out = Vec::new();
        encoding.reply(reply, &mut out);
        out
    }

    fn json(reply: &Reply) -> String {
        String::from_utf8(encoded(Encoding::Json, reply)).expect("UTF-8")
    }

    #[test]
    fn defaults_are_left_out_and_empty_results_are_not() {
        let reply = |id| Reply { id, ..Reply::default() };
        assert_eq!(json(&Reply { unsubscribe: Some(Empty {}), ..reply(3) }), r#"{"id":3,"unsubscribe":{}}"#);
        let subscribe = Some(SubscribeResult::default());
        assert_eq!(json(&Reply { subscribe, ..reply(2) }), r#"{"id":2,"subscribe":{}}"#);
        let presence_stats = Some(PresenceStatsResult::default());
        assert_eq!(
            json(&Reply { presence_stats, ..reply(2) }),
            r#"{"id":2,"presence_stats":{"num_clients":0,"num_users":0}}"#
        );
        let failed = failure(2, crate::codes::UNKNOWN_CHANNEL);
        assert_eq!(json(&failed), r#"{"id":2,"error":{"code":102,"message":"unknown channel"}}"#);
        assert_eq!(json(&Reply::default()).as_bytes(), Encoding::Json.ping());
        assert_eq!(encoded(Encoding::Protobuf, &Reply::default()), Encoding::Protobuf.ping());
    }

    #[test]
    fn a_publication_carries_its_data_untouched() {
        let envelope = Bytes::from(
            "G1 9 00c0ffee 7\n{\"topic\":\"orders\",\"id\":\"u-1\",\"tags\":{\"op\":\"update\"}}\n{\"n\":9007199254740993,\"b\":1.50}",
        );
        let publication = recovered(&envelope).expect("an envelope");
        let push = Some(published("orders:#42", publication));
        assert_eq!(
            json(&Reply { push, ..Reply::default() }),
            r#"{"push":{"channel":"orders:#42","pub":{"data":{"n":9007199254740993,"b":1.50},"offset":7,"tags":{"id":"u-1","op":"update"}}}}"#
        );
        let raw = published("orders", super::publication(Bytes::from_static(b"1"), None, None));
        let mut out = Vec::new();
        Encoding::Json.push(&raw, &mut out);
        assert_eq!(out, br#"{"channel":"orders","pub":{"data":1}}"#);
    }

    #[test]
    fn what_is_not_json_in_one_line_gets_into_no_frame() {
        for data in [&b"\"\xff\""[..], b"[1,\n2]", b"{"] {
            let envelope = [b"G1 9 00c0ffee 7\n{\"topic\":\"orders\",\"id\":\"u-1\"}\n", data].concat();
            assert_eq!(recovered(&envelope.into()), None, "{data:?}");
        }
        let rpc = Some(RpcResult { data: Bytes::from_static(b"\"\xff\"") });
        assert_eq!(json(&Reply { id: 2, rpc, ..Reply::default() }), "");
    }

    #[test]
    fn commands_come_one_by_one_and_end_where_one_is_none() {
        let ids = |encoding: Encoding, message: &[u8]| -> Vec<Option<u32>> {
            encoding.commands(Bytes::copy_from_slice(message)).map(|command| command.map(|c| c.id)).collect()
        };
        assert_eq!(ids(Encoding::Json, b"{\"id\":1}\n{\"id\":2}\n"), [Some(1), Some(2)]);
        assert_eq!(ids(Encoding::Json, b"{\"id\":1}\n\n{\"id\":2}"), [Some(1), None]);
        assert_eq!(ids(Encoding::Json, b""), [None]);
        assert_eq!(ids(Encoding::Json, b"[1]"), [None]);
        assert_eq!(ids(Encoding::Protobuf, b"\x02\x08\x01\x00"), [Some(1), Some(0)]);
        assert_eq!(ids(Encoding::Protobuf, b"\x02\x08\x01\x05\x08"), [Some(1), None]);
        assert_eq!(ids(Encoding::Protobuf, b""), [None]);
    }

    #[test]
    fn protobuf_and_json_are_read_alike() {
        let line =
            br##"{"id":7,"subscribe":{"channel":"orders:#42","recover":true,"offset":300,"epoch":"ab","flag":3}}"##;
        let parsed = Encoding::Json.commands(Bytes::from_static(line)).next().flatten().expect("a command");
        let bytes = parsed.encode_length_delimited_to_vec();
        assert_eq!(Encoding::Protobuf.commands(bytes.into()).next().flatten(), Some(parsed));
        let publish = br#"{"id":8,"publish":{"channel":"c","data":{ "a" : [1] }}}"#;
        let parsed = Encoding::Json.commands(Bytes::from_static(publish)).next().flatten().expect("a command");
        assert_eq!(parsed.publish.expect("publish").data, &br#"{ "a" : [1] }"#[..]);
    }
}
