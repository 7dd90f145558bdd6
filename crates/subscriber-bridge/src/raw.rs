//! Compatibility with plain `PUBLISH TOPIC {"user_id":42,…}` of any Redis client: whose is it?

use bytes::Bytes;
use fanout_core::{Channel, Data, DataError, Topic, UserId, begins_object};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// The owner's fields of a raw publication. `Some(Null)` is told apart from an absent field: a publication whose
/// backend had no user at hand must not become everybody's.
#[derive(Deserialize)]
struct Owner {
    #[serde(default, deserialize_with = "present")]
    user_id: Option<Value>,
    #[serde(default, rename = "userId", deserialize_with = "present")]
    user_id_camel: Option<Value>,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// Where the raw publication `payload` on the Redis channel `name` goes.
///
/// # Errors
/// The reason for dropping it, a label of `griot_raw_dropped_total`.
pub(crate) fn route(name: &str, topic: &Topic, payload: Bytes) -> Result<(Channel, Data), &'static str> {
    let data = Data::parse(payload).map_err(|error| match error {
        DataError::TooLong(_) => "too long",
        DataError::NotJson(_) => "not JSON",
    })?;
    if !begins_object(data.as_bytes()) {
        return Err("not an object");
    }
    let owner: Owner = serde_json::from_slice(data.as_bytes()).map_err(|_| "two users")?;
    let user = match (owner.user_id.map(user), owner.user_id_camel.map(user)) {
        (None, None) if topic.broadcast => return Ok((Channel::parse(name).map_err(|_| "not a topic")?, data)),
        (None, None) => return Err("no user"),
        (Some(one), None) | (None, Some(one)) => one?,
        (Some(one), Some(other)) => {
            let (one, other) = (one?, other?);
            if one != other {
                return Err("two users");
            }
            one
        }
    };
    Ok((Channel::personal(name, &user).map_err(|_| "not a user id")?, data))
}

/// A string, or an integer as it was written. `1e2` is no integer, and what does not fit 64 bits would have lost digits.
fn user(value: Value) -> Result<UserId, &'static str> {
    let text = match value {
        Value::String(text) => text,
        Value::Number(number) if number.is_i64() || number.is_u64() => number.to_string(),
        _ => return Err("not a user id"),
    };
    UserId::parse(&text).map_err(|_| "not a user id")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(payload: &str, broadcast: bool) -> Result<String, &'static str> {
        let topic = Topic { broadcast, ..Topic::default() };
        route("orders", &topic, Bytes::from(payload.to_owned())).map(|(channel, _)| channel.to_string())
    }

    #[test]
    fn the_owner_is_taken_literally() {
        for (payload, channel) in [
            (r#"{"user_id":42}"#, "orders:#42"),
            (r#" {"userId":"42"}"#, "orders:#42"),
            (r#"{"user_id":"42","userId":42}"#, "orders:#42"),
            (r#"{"user_id":"1e2"}"#, "orders:#1e2"),
            (r#"{"user_id":9007199254740993}"#, "orders:#9007199254740993"),
            (r#"{"user_id":"04"}"#, "orders:#04"),
        ] {
            assert_eq!(to(payload, false).as_deref(), Ok(channel), "{payload}");
        }
    }

    #[test]
    fn doubt_drops_even_where_broadcast_is_allowed() {
        for payload in [
            r#"{"user_id":null}"#,
            r#"{"user_id":""}"#,
            r#"{"user_id":"4,2"}"#,
            r#"{"user_id":"a#42"}"#,
            r#"{"user_id":1e2}"#,
            r#"{"user_id":4.0}"#,
            r#"{"user_id":99999999999999999999}"#,
            r#"{"user_id":[42]}"#,
            r#"{"user_id":42,"userId":"4"}"#,
            r#"{"user_id":42,"user_id":4}"#,
            r#"{"user_id":42,"userId":null}"#,
            r#"["42","4"]"#,
            r#""x""#,
            "{",
            "",
        ] {
            assert!(to(payload, true).is_err(), "{payload}");
        }
    }

    #[test]
    fn without_a_user_it_is_broadcast_only_where_the_topic_allows_it() {
        assert_eq!(to(r#"{"n":1}"#, true).as_deref(), Ok("orders"));
        assert_eq!(to(r#"{"n":1}"#, false), Err("no user"));
    }
}
