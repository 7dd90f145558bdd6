//! Room: the bytes that a bridge may hold at once for something (histories, backlogs), whoever asks for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// All the room there is. Clones speak of the same.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    taken: Arc<AtomicUsize>,
    limit: usize,
}

impl Room {
    pub(crate) fn new(limit: usize) -> Self {
        Self { taken: Arc::default(), limit }
    }

    /// Whether more than half of it is taken.
    pub(crate) fn is_scarce(&self) -> bool {
        self.taken.load(Ordering::Relaxed) > self.limit / 2
    }

    /// A part of no bytes yet.
    pub(crate) fn nothing(&self) -> Taken {
        Taken { room: self.clone(), bytes: 0 }
    }
}

/// A part of the room. It is given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    room: Room,
    bytes: usize,
}

impl Taken {
    /// Takes so many bytes more, if they are there.
    pub(crate) fn more(&mut self, bytes: usize) -> bool {
        let limit = self.room.limit;
        let all = |taken: usize| taken.checked_add(bytes).filter(|taken| *taken <= limit);
        let granted = self.room.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, all).is_ok();
        self.bytes += if granted { bytes } else { 0 };
        granted
    }

    /// Gives back so many bytes of those that were taken.
    pub(crate) fn less(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.room.taken.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.room.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_gives_its_room_back() {
        let room = Room::new(100);
        let (mut one, mut other) = (room.nothing(), room.nothing());
        assert!(one.more(80) && !other.more(30) && other.more(20) && !one.more(1));
        one.less(30);
        assert!(room.is_scarce() && other.more(30) && !other.more(1));
        drop(one);
        assert!(!room.is_scarce() && other.more(50));
    }
}
