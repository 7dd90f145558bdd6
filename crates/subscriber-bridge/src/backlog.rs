//! Publications of a feed with many subscribers, which go out slice by slice, so that a large fan-out delays nobody else.
//! What arrives while one is under way goes out together after it.

use std::collections::VecDeque;

use fanout_core::Channel;

use crate::room::Taken;
use crate::run::{self, Run};
use crate::subscription::Held;

/// Bytes of data written before others have their turn, and the number of writes: together about 0.15 ms. Slices four times
/// as long cost as much per delivery, and a personal publication's p99 beside them was 0.8 ms more (`bench fairness`).
const SLICE_BYTES: usize = 64 * 1024;
const SLICE: usize = 32;

/// See the module.
pub(crate) struct Backlog {
    waiting: VecDeque<(Channel, Held)>,
    /// What is being handed to the members of its channel, and how many of them are its next slice.
    pub(crate) run: Option<Run>,
    /// What is held of the bytes that all backlogs may have.
    room: Taken,
}

impl Backlog {
    pub(crate) fn new(room: Taken) -> Self {
        Self { waiting: VecDeque::new(), run: None, room }
    }

    /// Appends a publication; `false` when all backlogs together have as much as they may.
    pub(crate) fn push(&mut self, channel: &Channel, held: &Held) -> bool {
        let granted = self.room.more(held.bytes + size_of::<(Channel, Held)>());
        if granted {
            self.waiting.push_back((channel.clone(), held.clone()));
        }
        granted
    }

    /// Takes the next run, if there is one: what waits for the same channel as the first.
    pub(crate) fn next(&mut self) -> Option<&Run> {
        let (channel, _) = self.waiting.front()?;
        let channel = channel.clone();
        let mut bytes = 0;
        let fits = |(of, held): &&(Channel, Held)| {
            bytes += held.bytes;
            *of == channel && bytes <= run::MAX_BYTES
        };
        let count = self.waiting.iter().take(run::MAX_COUNT).take_while(fits).count().max(1);
        let held: Vec<Held> = self.waiting.drain(..count).map(|(_, held)| held).collect();
        Some(self.run.insert(Run::new(channel, held)))
    }

    /// The run is with all members.
    pub(crate) fn finish(&mut self) {
        let bytes = |run: Run| run.held.iter().map(|held| held.bytes + size_of::<(Channel, Held)>()).sum();
        self.room.less(self.run.take().map_or(0, bytes));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.run.is_none() && self.waiting.is_empty()
    }
}

/// How many members a run goes to before others have their turn.
pub(crate) fn slice(run: &Run) -> usize {
    let bytes: usize = run.held.iter().map(|held| held.bytes).sum();
    (SLICE_BYTES / bytes.max(1)).clamp(1, SLICE)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::outbox::Kind;
    use crate::protocol;
    use crate::room::Room;
    use crate::wire::Shared;

    /// A backlog with a publication of so many bytes for each channel, and the room it has.
    fn with(publications: &[(&str, usize)]) -> (Backlog, Room) {
        let room = Room::new(1 << 20);
        let mut backlog = Backlog::new(room.nothing());
        for (name, bytes) in publications {
            let publication = protocol::publication("1".to_owned().into(), None, None);
            let push = Arc::new(Shared::new(protocol::published(name, publication)));
            let held = Held { push, bytes: *bytes, kind: Kind::Live, position: None, conflation: None };
            assert!(backlog.push(&Channel::parse(name).expect("channel"), &held));
        }
        (backlog, room)
    }

    /// Channel and bytes of each publication of all runs.
    fn runs(backlog: &mut Backlog) -> Vec<(String, Vec<usize>)> {
        let mut all = Vec::new();
        while let Some(run) = backlog.next() {
            all.push((run.channel.as_str().to_owned(), run.held.iter().map(|held| held.bytes).collect()));
            backlog.finish();
        }
        all
    }

    #[test]
    fn a_run_ends_where_another_channel_begins_and_nothing_is_overtaken() {
        let (mut backlog, _) = with(&[("news", 1), ("news", 2), ("news:a", 3), ("news", 4)]);
        let expected = [("news", vec![1, 2]), ("news:a", vec![3]), ("news", vec![4])];
        assert_eq!(runs(&mut backlog), expected.map(|(name, bytes)| (name.to_owned(), bytes)));
        assert!(backlog.is_empty());
    }

    #[test]
    fn a_run_has_no_more_bytes_than_go_into_a_socket_unless_one_publication_has() {
        let half = run::MAX_BYTES / 2;
        let (mut backlog, _) = with(&[("news", half), ("news", half), ("news", 1), ("news", 3 * half), ("news", 1)]);
        let sizes: Vec<_> = runs(&mut backlog).into_iter().map(|(_, bytes)| bytes).collect();
        assert_eq!(sizes, [vec![half, half], vec![1], vec![3 * half], vec![1]]);
    }

    #[test]
    fn a_run_has_so_many_publications_at_most() {
        let (mut backlog, _) = with(&[("news", 1); run::MAX_COUNT + 1]);
        let counts: Vec<_> = runs(&mut backlog).into_iter().map(|(_, bytes)| bytes.len()).collect();
        assert_eq!(counts, [run::MAX_COUNT, 1]);
    }

    #[test]
    fn what_went_out_gives_its_room_back() {
        let (mut backlog, room) = with(&[("news", 1 << 18); 3]);
        assert!(room.is_scarce());
        runs(&mut backlog);
        assert!(room.nothing().more(1 << 20), "all of it is free");
    }
}
