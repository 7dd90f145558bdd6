//! The data of a publication: any JSON value, kept as the bytes it came in.

use bytes::Bytes;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use serde_json::value::RawValue;

/// Longest data in bytes, the limit of the Centrifugal client protocol for one command.
pub const MAX_DATA_BYTES: usize = 65_536;

/// Why data was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    /// Longer than [`MAX_DATA_BYTES`].
    #[error("data is {0} bytes, the limit is {MAX_DATA_BYTES}")]
    TooLong(usize),
    /// Not one JSON value.
    #[error("data is not JSON: {0}")]
    NotJson(String),
}

/// One JSON value without raw line breaks, so that it can stand in a line of the wire protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data(Bytes);

impl Data {
    /// Checks that `json` is one JSON value within the limit. Line breaks between tokens are removed.
    pub fn parse(json: impl Into<Bytes>) -> Result<Self, DataError> {
        let json: Bytes = json.into();
        if json.len() > MAX_DATA_BYTES {
            return Err(DataError::TooLong(json.len()));
        }
        // Valid JSON has raw line breaks only between tokens, so that dropping them changes no value.
        check(&json)?;
        let breaks = |b: &u8| matches!(b, b'\n' | b'\r');
        let clean = json.iter().any(breaks);
        Ok(Self(if clean { json.iter().copied().filter(|b| !breaks(b)).collect() } else { json }))
    }

    /// Data that was checked where it entered and has come back from Redis.
    pub(crate) fn checked_before(json: Bytes) -> Self {
        Self(json)
    }

    /// The JSON text, shared.
    pub fn bytes(&self) -> Bytes {
        self.0.clone()
    }

    /// The JSON text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// As the JSON that it is. Only to and from JSON, and not under `#[serde(flatten)]` or an internal tag: those read values
/// into a form of their own.
impl Serialize for Data {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue = serde_json::from_slice(&self.0).map_err(ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Self::parse(String::from(Box::<str>::from(raw))).map_err(de::Error::custom)
    }
}

/// Whether `json` can stand in a frame as it is: one JSON value in UTF-8 without raw line breaks, which end a line or an
/// event of some transports.
pub fn is_line(json: &[u8]) -> bool {
    !json.contains(&b'\n') && !json.contains(&b'\r') && check(json).is_ok()
}

/// serde looks into strings only when it reads them, so that UTF-8 is checked apart from it: a text frame of anything else
/// ends the connection of everybody who is given it.
fn check(json: &[u8]) -> Result<(), DataError> {
    let text = std::str::from_utf8(json).map_err(|error| DataError::NotJson(error.to_string()))?;
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| DataError::NotJson(error.to_string()))?;
    Ok(())
}

/// Whether `json` begins as an object. serde reads the fields of a struct from an array too, by their order, so that
/// what must be an object has to be looked at first.
pub fn begins_object(json: &[u8]) -> bool {
    json.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_breaks_go_and_everything_else_stays() {
        let data = Data::parse("{\r\n  \"a\": \"x\\ny\",\n \"big\": 9007199254740993 }").expect("json");
        assert_eq!(data.as_bytes(), br#"{  "a": "x\ny", "big": 9007199254740993 }"#);
    }

    #[test]
    fn what_would_tear_a_frame_is_no_line() {
        for json in [&b"{}"[..], b" [1, 2] ", "\"ö\"".as_bytes()] {
            assert!(is_line(json), "{json:?}");
        }
        for json in [&b""[..], b"{", b"{} {}", b"\"\xff\"", b"[1,\n2]", b"1\r"] {
            assert!(!is_line(json), "{json:?}");
        }
    }

    #[test]
    fn what_is_not_one_value_is_refused() {
        for text in ["", "{", "{} {}", "nul", "\u{1}", "{\"a\":\"x\ny\"}"] {
            assert!(matches!(Data::parse(text), Err(DataError::NotJson(_))), "{text:?}");
        }
        assert!(matches!(Data::parse(&b"\"\xff\""[..]), Err(DataError::NotJson(_))), "not UTF-8");
        let long = format!("\"{}\"", "x".repeat(MAX_DATA_BYTES));
        assert_eq!(Data::parse(long), Err(DataError::TooLong(MAX_DATA_BYTES + 2)));
    }
}
