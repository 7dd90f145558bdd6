//! What the TOML reader says, with the nearest right name for one that it does not know.

use crate::nearest::nearest;

/// ``unknown field `keyz`, expected one of …`` becomes ``unknown field `keyz` (is it `keys`?), expected one of …``.
pub(super) fn with_nearest(message: &str) -> String {
    let message = message.replace('\n', "; ");
    let Some((unknown, expected)) = message.split_once(", expected").filter(|_| message.starts_with("unknown ")) else {
        return message;
    };
    let quoted = |text: &str| text.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let candidates = quoted(expected);
    match quoted(unknown).first().and_then(|name| nearest(name, &candidates)) {
        Some(name) => format!("{unknown} (is it `{name}`?), expected{expected}"),
        None => message,
    }
}
