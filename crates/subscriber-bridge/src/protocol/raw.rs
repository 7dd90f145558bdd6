//! Data in JSON: embedded as it is, neither parsed nor formatted anew.

use bytes::Bytes;
use serde::ser::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

pub(in crate::protocol) fn serialize<S: Serializer>(data: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    // Checked where it entered; it must not tear the frame all the same.
    serde_json::from_slice::<&RawValue>(data).map_err(S::Error::custom)?.serialize(serializer)
}

pub(in crate::protocol) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    let raw = Box::<RawValue>::deserialize(deserializer)?;
    Ok(Bytes::from(Box::<str>::from(raw).into_string()))
}
