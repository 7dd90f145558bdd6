//! What stands in every publication, so that whoever receives it can judge it without parsing the frame around it:
//! `{"u":USER,"s":NUMBER,"t":NANOSECONDS,"p":"xx…"}`.

use std::io::Write;
use std::sync::LazyLock;
use std::time::Instant;

use memchr::memmem::Finder;

/// Users from here on are nobody: of a broadcast.
pub(super) const EVERYBODY: u64 = u32::MAX as u64;

static BEGIN: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"{\"u\":"));
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Whom a publication is for, which one it is of those, counted from 1, and when it should have left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marker {
    pub(super) user: u64,
    pub(super) number: u64,
    pub(super) nanos: u64,
}

/// Nanoseconds since this process began to count.
pub(super) fn now() -> u64 {
    EPOCH.elapsed().as_nanos() as u64
}

impl Marker {
    /// Writes it as JSON of `bytes` bytes or somewhat more.
    pub(super) fn write(self, bytes: usize, out: &mut Vec<u8>) {
        let begin = out.len();
        // A vector takes everything.
        let _ = write!(out, "{{\"u\":{},\"s\":{},\"t\":{},\"p\":\"", self.user, self.number, self.nanos);
        let end = begin + bytes;
        out.resize(end.saturating_sub(2).max(out.len()), b'x');
        out.extend_from_slice(b"\"}");
    }

    /// The marker somewhere in `bytes`.
    pub(super) fn find(bytes: &[u8]) -> Option<Self> {
        Self::first(bytes).map(|(marker, _)| marker)
    }

    /// All that are in `bytes`, as when several publications come in one frame.
    pub(super) fn all(mut bytes: &[u8]) -> impl Iterator<Item = Self> {
        std::iter::from_fn(move || {
            let (marker, rest) = Self::first(bytes)?;
            bytes = rest;
            Some(marker)
        })
    }

    /// The first in `bytes`, and what follows it.
    fn first(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let rest = &bytes[BEGIN.find(bytes)? + 5..];
        let (user, rest) = number(rest)?;
        let (number_, rest) = number(rest.strip_prefix(b",\"s\":")?)?;
        let (nanos, rest) = number(rest.strip_prefix(b",\"t\":")?)?;
        Some((Self { user, number: number_, nanos }, rest))
    }
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let value = bytes[..digits].iter().fold(0_u64, |value, digit| value.wrapping_mul(10) + u64::from(digit - b'0'));
    (digits > 0).then_some((value, &bytes[digits..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_found_in_whatever_stands_around_it() {
        let marker = Marker { user: 7, number: 12, nanos: 345 };
        let mut frame = b"{\"push\":{\"channel\":\"news\",\"pub\":{\"data\":".to_vec();
        let begin = frame.len();
        marker.write(100, &mut frame);
        assert_eq!(frame.len(), begin + 100);
        frame.extend_from_slice(b",\"offset\":3}}}");
        assert_eq!(Marker::find(&frame), Some(marker));
        assert_eq!(Marker::find(b"{}"), None);
        let next = Marker { number: 13, ..marker };
        next.write(100, &mut frame);
        assert_eq!(Marker::all(&frame).collect::<Vec<_>>(), [marker, next]);
    }
}
