//! How a server is spoken to: what opens a connection, what says that it is ready, and what its pings look like.

use serde::{Deserialize, Serialize};

use crate::websocket::{self, BINARY, TEXT};

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dialect {
    /// The floor, and the Node recipe: channels are named in the query; ready when upgraded.
    Query,
    /// Griot in JSON.
    Griot,
    /// Griot in protobuf.
    GriotProtobuf,
    /// socket.io, version 4 of engine.io: channels are named in the query.
    SocketIo,
    /// nchan: the channel is the path.
    Nchan,
}

/// What is to be done about a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Means {
    /// The connection is ready.
    Ready,
    /// This is to be said.
    Say(Vec<u8>),
    /// It may carry a publication.
    Data,
    /// The server refuses.
    Refused,
}

impl Dialect {
    pub(super) fn request(self, host: &str, channel: &str) -> Vec<u8> {
        match self {
            Self::Query => websocket::request(host, &format!("/?channel={channel}"), ""),
            Self::Griot => websocket::request(host, "/connection/websocket", ""),
            Self::GriotProtobuf => {
                let headers = "Sec-WebSocket-Protocol: centrifuge-protobuf\r\n";
                websocket::request(host, "/connection/websocket", headers)
            }
            Self::SocketIo => {
                let path = format!("/socket.io/?EIO=4&transport=websocket&channel={channel}");
                websocket::request(host, &path, "")
            }
            Self::Nchan => websocket::request(host, &format!("/sub/{channel}"), ""),
        }
    }

    /// What is said once the connection is upgraded; nothing where it is then ready. `subs` are positions to recover from.
    pub(super) fn greeting(self, token: &str, channel: Option<&str>, subs: Option<&str>) -> Option<Vec<u8>> {
        match self {
            Self::Query | Self::Nchan => None,
            Self::SocketIo => Some(text(b"40")),
            Self::Griot => {
                let subs = subs.map_or(String::new(), |subs| format!(",\"subs\":{subs}"));
                let mut said = format!("{{\"id\":1,\"connect\":{{\"token\":{token:?}{subs}}}}}");
                if let Some(channel) = channel {
                    said += &format!("\n{{\"id\":2,\"subscribe\":{{\"channel\":{channel:?}}}}}");
                }
                Some(text(said.as_bytes()))
            }
            Self::GriotProtobuf => {
                let mut said = command(1, 4, token);
                if let Some(channel) = channel {
                    said.extend(command(2, 5, channel));
                }
                Some(websocket::frame(BINARY, &said, true))
            }
        }
    }

    pub(super) fn means(self, payload: &[u8], is_ready: bool, subscribes: bool) -> Means {
        let last = if subscribes { b'2' } else { b'1' };
        match self {
            Self::Query | Self::Nchan => Means::Data,
            Self::Griot if payload == b"{}" => Means::Say(text(b"{}")),
            Self::GriotProtobuf if payload == b"\0" => Means::Say(websocket::frame(BINARY, b"\0", true)),
            Self::SocketIo if payload == b"2" => Means::Say(text(b"3")),
            _ if is_ready => Means::Data,
            Self::SocketIo if payload.starts_with(b"40") => Means::Ready,
            Self::Griot if memchr::memmem::find(payload, b"\"error\"").is_some() => Means::Refused,
            Self::Griot => {
                let id = [b"{\"id\":", &[last][..], b","].concat();
                if memchr::memmem::find(payload, &id).is_some() { Means::Ready } else { Means::Data }
            }
            // A reply is its length, and then its id: tag 1.
            Self::GriotProtobuf => {
                let id = [0x08, last - b'0'];
                if payload.windows(2).take(4).any(|two| two == id) { Means::Ready } else { Means::Data }
            }
            Self::SocketIo => Means::Data,
        }
    }
}

fn text(payload: &[u8]) -> Vec<u8> {
    websocket::frame(TEXT, payload, true)
}

/// A command in protobuf, after its length: its id, and a message of number `kind` whose first field is `value`.
fn command(id: u8, kind: u8, value: &str) -> Vec<u8> {
    let field = [&[0x0a][..], &varint(value.len()), value.as_bytes()].concat();
    let command = [&[0x08, id, kind << 3 | 2][..], &varint(field.len()), &field].concat();
    [varint(command.len()), command].concat()
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 0x7f {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}
