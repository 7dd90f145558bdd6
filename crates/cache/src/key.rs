//! Keys and their companions.

/// The companion of `key`, which holds the token of a lease: in the same slot of a cluster, and outside of every pattern
/// that begins as the key does, unless the key has a hash tag.
///
/// `product:42` has `{product:42}~lease`; `{42}:cart`, which has a hash tag of its own, `{42}:cart~lease`. `None` where no
/// name would be in the same slot for certain: a key with braces that are no hash tag. Such a key is never leased.
pub fn companion(key: &str) -> Option<String> {
    if !key.contains(['{', '}']) {
        return Some(format!("{{{key}}}~lease"));
    }
    // As Redis does it: from the first `{` to the first `}` after it, if anything is between.
    let (_, after) = key.split_once('{')?;
    let (tag, _) = after.split_once('}')?;
    (!tag.is_empty()).then(|| format!("{key}~lease"))
}

/// What a reader or a writer is known by to the scripts; no two are the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token(String);

impl Token {
    pub(crate) fn random() -> Self {
        Self(format!("{:032x}", fastrand::u128(..)))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use fred::util::redis_keyslot;

    use super::*;

    #[test]
    fn a_companion_is_in_the_slot_of_its_key() {
        for (key, expected) in [
            ("product:42", "{product:42}~lease"),
            ("search:a b*", "{search:a b*}~lease"),
            ("{42}:cart", "{42}:cart~lease"),
            ("a}b{c}d", "a}b{c}d~lease"),
            ("{a{b}", "{a{b}~lease"),
            ("{a}{", "{a}{~lease"),
        ] {
            let companion = companion(key).expect(key);
            assert_eq!(companion, expected);
            assert_eq!(redis_keyslot(companion.as_bytes()), redis_keyslot(key.as_bytes()), "{key}");
        }
    }

    #[test]
    fn a_key_with_stray_braces_has_none() {
        for key in ["a{b", "a}b", "a}b{c", "a{}b", "{}", "}{", "a{}{b}"] {
            assert_eq!(companion(key), None, "{key}");
        }
    }
}
