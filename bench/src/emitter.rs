//! Publications as baselines expect them in Redis, so that one plain PUBLISH reaches each of them the way another process of
//! the same site would: both are MessagePack. socket.io's adapter is sent what `@socket.io/redis-emitter` writes, nchan what
//! an nginx with `nchan_redis_storage_mode nostore` writes.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// The pub/sub channel on which socket.io's adapter expects what is for `room`.
#[must_use]
pub fn socket_io_channel(room: &str) -> String {
    format!("socket.io#/#{room}#")
}

/// The pub/sub channel on which nchan expects what is for its channel `id`.
#[must_use]
pub fn nchan_channel(id: &str) -> String {
    format!("{{channel:/{id}}}:pubsub")
}

/// `data` as nchan writes it, at `now`, in seconds since 1970: a kind, seconds to live, when and which, what came before,
/// the data, its content type, the name of an event, compression. Seen on the wire of nchan 1.3.6.
#[must_use]
pub fn nchan(data: &[u8], now: u32) -> Vec<u8> {
    const SECONDS_TO_LIVE: u32 = 30;
    let mut out = b"\x9a\xa3msg".to_vec();
    for number in [SECONDS_TO_LIVE, now] {
        Pack(&mut out).with_head(0xce, &number.to_be_bytes());
    }
    out.extend_from_slice(&[0, 0, 0]);
    Pack(&mut out).with_head(0xdb, &(data.len() as u32).to_be_bytes());
    out.extend_from_slice(data);
    out.extend_from_slice(b"\xd9\x0atext/plain\xd9\x00\x00");
    out
}

/// The event `publication` with `data`, JSON whose fields keep their order, for everybody in `room`.
///
/// # Errors
/// `data` is no JSON.
pub fn socket_io(room: &str, data: &str) -> serde_json::Result<Vec<u8>> {
    // 2 is the number of an event among socket.io's packets.
    let packet = format!(r#"{{"type":2,"data":["publication",{data}],"nsp":"/"}}"#);
    let rooms = serde_json::to_string(&[room])?;
    let json = format!(r#"["emitter",{packet},{{"rooms":{rooms},"except":[],"flags":{{}}}}]"#);
    let mut out = Vec::with_capacity(2 * json.len());
    let mut parser = serde_json::Deserializer::from_str(&json);
    Pack(&mut out).deserialize(&mut parser)?;
    parser.end()?;
    Ok(out)
}

/// Writes what is parsed as MessagePack, in its long forms only, while it is parsed.
struct Pack<'a>(&'a mut Vec<u8>);

impl Pack<'_> {
    fn with_head(&mut self, head: u8, bytes: &[u8]) {
        self.0.push(head);
        self.0.extend_from_slice(bytes);
    }

    /// Where the number of items, which is only known afterwards, is to be written.
    fn open(&mut self, head: u8) -> usize {
        self.with_head(head, &[0; 4]);
        self.0.len() - 4
    }

    fn close(&mut self, at: usize, items: u32) {
        self.0[at..at + 4].copy_from_slice(&items.to_be_bytes());
    }
}

impl<'de> DeserializeSeed<'de> for Pack<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, parser: D) -> Result<(), D::Error> {
        parser.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Pack<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.0.push(0xc0);
        Ok(())
    }

    fn visit_bool<E>(self, yes: bool) -> Result<(), E> {
        self.0.push(0xc2 + u8::from(yes));
        Ok(())
    }

    fn visit_u64<E>(mut self, number: u64) -> Result<(), E> {
        self.with_head(0xcf, &number.to_be_bytes());
        Ok(())
    }

    fn visit_i64<E>(mut self, number: i64) -> Result<(), E> {
        self.with_head(0xd3, &number.to_be_bytes());
        Ok(())
    }

    fn visit_f64<E>(mut self, number: f64) -> Result<(), E> {
        self.with_head(0xcb, &number.to_be_bytes());
        Ok(())
    }

    fn visit_str<E>(mut self, text: &str) -> Result<(), E> {
        self.with_head(0xdb, &(text.len() as u32).to_be_bytes());
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        let (at, mut number) = (self.open(0xdd), 0);
        while items.next_element_seed(Pack(self.0))?.is_some() {
            number += 1;
        }
        self.close(at, number);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut fields: A) -> Result<(), A::Error> {
        let (at, mut number) = (self.open(0xdf), 0);
        while fields.next_key_seed(Pack(self.0))?.is_some() {
            fields.next_value_seed(Pack(self.0))?;
            number += 1;
        }
        self.close(at, number);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(json: &str) -> Vec<u8> {
        let mut out = Vec::new();
        Pack(&mut out).deserialize(&mut serde_json::Deserializer::from_str(json)).unwrap();
        out
    }

    #[test]
    fn every_kind_of_value_has_its_messagepack() {
        let mut expected = vec![0xdd, 0, 0, 0, 7, 0xc0, 0xc3, 0xcf, 0, 0, 0, 0, 0, 0, 0, 1, 0xd3];
        expected.extend([0xff; 8]);
        expected.extend([0xcb, 0x3f, 0xe0, 0, 0, 0, 0, 0, 0, 0xdb, 0, 0, 0, 2, 0xc3, 0xa9]);
        expected.extend([0xdf, 0, 0, 0, 1, 0xdb, 0, 0, 0, 1, b'a', 0xdd, 0, 0, 0, 0]);
        assert_eq!(packed(r#"[null,true,1,-1,0.5,"é",{"a":[]}]"#), expected);
    }

    #[test]
    fn fields_keep_their_order_because_the_load_client_looks_for_them_in_it() {
        let bytes = socket_io("news", r#"{"u":7,"s":1}"#).unwrap();
        let at = |name: u8| bytes.windows(6).position(|part| part == [0xdb, 0, 0, 0, 1, name]);
        assert!(at(b'u').unwrap() < at(b's').unwrap());
        assert_eq!(&bytes[..5], [0xdd, 0, 0, 0, 3], "an emitter's three parts");
        assert_eq!(socket_io_channel("news"), "socket.io#/#news#");
    }

    #[test]
    fn nchan_is_sent_what_another_nginx_would_send() {
        let seen =
            b"\x9a\xa3msg\xce\x00\x00\x00\x1e\xcek\t\xd5R\x00\x00\x00\xdb\x00\x00\x00\x11{\"u\":1,\"x\":\"one\"}\xd9";
        assert!(nchan(br#"{"u":1,"x":"one"}"#, 0x6b09_d552).starts_with(seen));
        assert_eq!(nchan_channel("news"), "{channel:/news}:pubsub");
    }

    #[test]
    fn what_is_no_json_is_refused() {
        assert!(socket_io("news", "{").is_err());
        assert!(socket_io("news", r#"1],"nsp":"/"}]"#).is_err());
    }
}
