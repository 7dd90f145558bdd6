//! Where the channels of a client stand, so that it can recover from there when it comes back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// As much of a reply as says that.
#[derive(Deserialize)]
struct Reply {
    connect: Connected,
}

#[derive(Deserialize)]
struct Connected {
    subs: BTreeMap<String, Position>,
}

#[derive(Deserialize, Serialize)]
struct Position {
    #[serde(skip_deserializing)]
    recover: bool,
    epoch: String,
    #[serde(default)]
    offset: u64,
}

/// What the reply to `connect` says of the channels, in the words in which a client asks to recover them: `subs` of its
/// next `connect`.
pub(super) fn subs(reply: &[u8]) -> Option<String> {
    let mut subs = serde_json::from_slice::<Reply>(reply).ok()?.connect.subs;
    subs.values_mut().for_each(|position| position.recover = true);
    serde_json::to_string(&subs).ok()
}

/// Whether the reply gives all that was asked for.
pub(super) fn is_recovered(reply: &[u8]) -> bool {
    let count = |words: &[u8]| memchr::memmem::find_iter(reply, words).count();
    count(b"\"recovered\":true") == count(b"\"was_recovering\":true")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_asks_for_what_it_was_told() {
        let reply = br#"{"id":1,"connect":{"client":"c","subs":{
            "a:#7":{"recoverable":true,"epoch":"abcdefgh","offset":3},"b:#7":{"positioned":true,"epoch":"ijklmnop"}}}}"#;
        let asked = r#"{"a:#7":{"recover":true,"epoch":"abcdefgh","offset":3},"b:#7":{"recover":true,"epoch":"ijklmnop","offset":0}}"#;
        assert_eq!(subs(reply).as_deref(), Some(asked));
        assert_eq!(subs(b"{}"), None);
    }

    #[test]
    fn who_is_told_of_a_loss_has_not_recovered() {
        let recovered = br#"{"was_recovering":true,"recovered":true},{"recoverable":true}"#;
        let told = br#"{"was_recovering":true,"recovered":true},{"was_recovering":true}"#;
        assert!(is_recovered(recovered) && is_recovered(b"{}") && !is_recovered(told));
    }
}
