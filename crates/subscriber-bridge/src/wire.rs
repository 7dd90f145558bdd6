//! The wire of a connection: how replies are encoded and framed for its transport.
//!
//! Connections of the same wire share what is written to them, so a publication is encoded once for each wire in use.

use std::sync::OnceLock;

use bytes::Bytes;
use fanout_core::Channel;
use fanout_core::envelope::Envelope;

use crate::codes::Disconnect;
use crate::frame;
use crate::protocol::message::Disconnected;
use crate::protocol::{Encoding, Push, Reply};

/// What stands around a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Framing {
    /// WebSocket messages: text for JSON, binary for protobuf.
    WebSocket,
    /// A stream: lines for JSON, nothing for protobuf, which carries its lengths.
    Stream,
    /// Server-sent events.
    Events,
}

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Wire {
    /// How replies are written.
    pub encoding: Encoding,
    /// What stands around each.
    pub framing: Framing,
    /// Only the bridge speaks: pushes stand alone, and pings are not answered.
    pub one_way: bool,
}

impl Wire {
    /// How many there can be.
    const COUNT: usize = 12;
    /// JSON over WebSocket, both ways: what the official clients speak unless asked for something else.
    pub const USUAL: Self = Self { encoding: Encoding::Json, framing: Framing::WebSocket, one_way: false };

    fn index(self) -> usize {
        (self.framing as usize * 2 + self.encoding as usize) * 2 + usize::from(self.one_way)
    }

    /// A reply; on a one-way wire only what is a push can be said.
    pub(crate) fn reply(self, reply: &Reply) -> Bytes {
        match (self.one_way, &reply.push) {
            (true, Some(push)) => self.frame(|out| self.encoding.push(push, out)),
            (true, None) => Bytes::new(),
            (false, _) => self.frame(|out| self.encoding.reply(reply, out)),
        }
    }

    /// The push of what came out of Redis on `channel`.
    fn envelope(self, channel: &str, envelope: &Envelope<'_>) -> Bytes {
        self.frame(|out| self.encoding.envelope(channel, envelope, self.one_way, out))
    }

    /// A push.
    pub(crate) fn push(self, push: Push) -> Bytes {
        self.reply(&Reply { push: Some(push), ..Reply::default() })
    }

    /// What asks for a sign of life.
    pub(crate) fn ping(self) -> Bytes {
        self.frame(|out| out.extend_from_slice(self.encoding.ping()))
    }

    /// The last words. A WebSocket has a close frame for them; one-way clients are given the push beside it, as they may
    /// read nothing else.
    pub(crate) fn close(self, disconnect: &Disconnect) -> Bytes {
        let said = Disconnected { code: disconnect.code, reason: disconnect.reason.clone().into_owned() };
        let push = Push { disconnect: Some(said), ..Push::default() };
        match (self.framing, self.one_way) {
            (Framing::WebSocket, false) => frame::close(disconnect),
            (Framing::WebSocket, true) => [self.push(push), frame::close(disconnect)].concat().into(),
            (Framing::Stream | Framing::Events, _) => self.push(push),
        }
    }

    /// What `write` appends, framed; nothing where it appends nothing.
    fn frame(self, write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
        match (self.framing, self.encoding) {
            (Framing::WebSocket, Encoding::Json) => frame::text_of(write),
            (Framing::WebSocket, Encoding::Protobuf) => frame::binary_of(write),
            (Framing::Stream, Encoding::Json) => between(b"", write, b"\n"),
            (Framing::Stream, Encoding::Protobuf) => between(b"", write, b""),
            (Framing::Events, _) => between(b"data: ", write, b"\n\n"),
        }
    }
}

fn between(before: &[u8], write: impl FnOnce(&mut Vec<u8>), after: &[u8]) -> Bytes {
    let mut out = before.to_vec();
    write(&mut out);
    if out.len() == before.len() {
        return Bytes::new();
    }
    out.extend_from_slice(after);
    out.into()
}

/// A push that goes to many, encoded for each wire when the first connection of that wire is given it.
#[derive(Debug)]
pub(crate) struct Shared {
    source: Source,
    frames: Frames,
}

/// Bytes for each wire, made when the first connection of that wire is given them.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// For the wire that asked first; most deployments have one.
    first: OnceLock<(Wire, Bytes)>,
    others: OnceLock<Box<[OnceLock<Bytes>; Wire::COUNT]>>,
}

impl Frames {
    /// The bytes for `wire`, which `make` makes.
    pub(crate) fn get(&self, wire: Wire, make: impl Fn() -> Bytes) -> &Bytes {
        let (first, frame) = self.first.get_or_init(|| (wire, make()));
        if *first == wire {
            return frame;
        }
        let others = self.others.get_or_init(|| Box::new([const { OnceLock::new() }; Wire::COUNT]));
        others[wire.index()].get_or_init(make)
    }
}

/// What is encoded.
#[derive(Debug)]
enum Source {
    Reply(Box<Reply>),
    /// What came out of Redis on a channel. It is taken apart once more for each further wire.
    Envelope(Channel, Bytes),
}

impl Source {
    fn frame(&self, wire: Wire) -> Bytes {
        match self {
            Self::Reply(reply) => wire.reply(reply),
            Self::Envelope(channel, payload) => {
                let envelope = Envelope::parse(payload).ok();
                envelope.map(|envelope| wire.envelope(channel.as_str(), &envelope)).unwrap_or_default()
            }
        }
    }
}

impl Shared {
    pub(crate) fn new(push: Push) -> Self {
        let reply = Reply { push: Some(push), ..Reply::default() };
        Self { source: Source::Reply(Box::new(reply)), frames: Frames::default() }
    }

    /// The push of `envelope`, which is what `payload` says, on `channel`; of its data is known that it is JSON. It is
    /// encoded for `wire` at once, as most often nobody has another one.
    pub(crate) fn envelope(channel: &Channel, payload: Bytes, envelope: &Envelope<'_>, wire: Wire) -> Self {
        let frames = Frames::default();
        frames.get(wire, || wire.envelope(channel.as_str(), envelope));
        Self { source: Source::Envelope(channel.clone(), payload), frames }
    }

    /// The bytes for connections of `wire`.
    pub(crate) fn frame(&self, wire: Wire) -> &Bytes {
        self.frames.get(wire, || self.source.frame(wire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::publication;
    use crate::{codes, protocol};

    fn wire(framing: Framing, encoding: Encoding, one_way: bool) -> Wire {
        Wire { encoding, framing, one_way }
    }

    #[test]
    fn every_wire_has_a_place_of_its_own() {
        let mut places = Vec::new();
        for framing in [Framing::WebSocket, Framing::Stream, Framing::Events] {
            for encoding in [Encoding::Json, Encoding::Protobuf] {
                places.extend([false, true].map(|one_way| wire(framing, encoding, one_way).index()));
            }
        }
        assert_eq!(places, (0..Wire::COUNT).collect::<Vec<_>>());
    }

    #[test]
    fn each_transport_frames_the_same_push_in_its_way() {
        let shared = Shared::new(protocol::published("a", publication(Bytes::from_static(b"1"), None, None)));
        let frame = |framing, encoding, one_way| shared.frame(wire(framing, encoding, one_way)).clone();
        let reply = r#"{"push":{"channel":"a","pub":{"data":1}}}"#;
        let push = r#"{"channel":"a","pub":{"data":1}}"#;
        assert_eq!(frame(Framing::WebSocket, Encoding::Json, false)[2..], *reply.as_bytes());
        assert_eq!(frame(Framing::Stream, Encoding::Json, false), format!("{reply}\n"));
        assert_eq!(frame(Framing::Events, Encoding::Json, true), format!("data: {push}\n\n"));
        let binary = frame(Framing::WebSocket, Encoding::Protobuf, false);
        assert_eq!(binary.as_ref(), b"\x82\x0b\x0a\x22\x08\x12\x01a\x22\x03\x22\x011");
        assert_eq!(frame(Framing::Stream, Encoding::Protobuf, false), binary[2..]);
    }

    #[test]
    fn what_came_out_of_redis_is_the_same_on_whichever_wire_is_asked_first() {
        let channel = Channel::parse("orders:#42").expect("channel");
        let info = r#","info":{"user":"42","client":"c","conn_info":{"name":"Ama"}}"#;
        for more in ["", r#","key":"7","tags":{"op":"up\"date","at":"1"}"#, info] {
            for offset in [0, 7] {
                let payload =
                    format!("G1 9 00c0ffee {offset}\n{{\"topic\":\"orders\",\"id\":\"u-1\"{more}}}\n{{\"n\":1.50}}");
                let payload = Bytes::from(payload);
                let envelope = Envelope::parse(&payload).expect("an envelope");
                let publication = protocol::recovered(&payload).expect("JSON");
                let whole = Shared::new(protocol::published("orders:#42", publication));
                let wires = [Framing::WebSocket, Framing::Stream, Framing::Events].into_iter().flat_map(|framing| {
                    [Encoding::Json, Encoding::Protobuf]
                        .into_iter()
                        .flat_map(move |encoding| [false, true].map(|one_way| wire(framing, encoding, one_way)))
                });
                let first = wires.clone();
                for first in first {
                    let shared = Shared::envelope(&channel, payload.clone(), &envelope, first);
                    for wire in wires.clone() {
                        assert_eq!(shared.frame(wire), whole.frame(wire), "{wire:?} after {first:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_last_words_are_a_close_frame_or_a_push() {
        let close = |framing, one_way| wire(framing, Encoding::Json, one_way).close(&codes::SHUTDOWN);
        assert_eq!(close(Framing::WebSocket, false).as_ref(), b"\x88\x0a\x0b\xb9shutdown");
        assert_eq!(
            close(Framing::Stream, false),
            "{\"push\":{\"disconnect\":{\"code\":3001,\"reason\":\"shutdown\"}}}\n"
        );
        assert!(close(Framing::WebSocket, true).ends_with(b"\x88\x0a\x0b\xb9shutdown"));
    }
}
