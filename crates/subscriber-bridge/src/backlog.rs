//! Publications of a feed with many subscribers, which go out slice by slice, so that a large fan-out delays nobody else.
//! What arrives while one is under way goes out together after it.

use std::collections::VecDeque;

use fanout_core::Channel;

use crate::room::Taken;
use crate::run::{self, Run};
use crate::subscription::Held;

/// Bytes written before others have their turn, and the number of writes: together well below a millisecond.
const SLICE_BYTES: usize = 256 * 1024;
const SLICE: usize = 128;

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
