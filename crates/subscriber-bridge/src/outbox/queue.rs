//! What waits for a connection: frames for its client, and orders for its task.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use fanout_core::Channel;

use crate::codes::Disconnect;
use crate::order::Order;
use crate::room::Taken;

/// What an allocation costs beside its bytes: the allocator's header, and the counters of a shared one.
const ALLOCATION: usize = 32;
/// Orders that may wait for the connection's task.
const MAX_ORDERS: usize = 128;
/// Of these, commands that the client sent by requests of their own, and their bytes unless one alone has more: it must not
/// keep out what others order.
const MAX_COMMANDS: usize = 64;
const MAX_COMMAND_BYTES: usize = 256 * 1024;

/// Which limit a frame counts against. Histories have one of their own: what a client has missed must not end its
/// connection as too slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Whatever happens now.
    Live,
    /// What is repaired or recovered.
    History,
}

#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) frame: Bytes,
    pub(super) kind: Kind,
    /// A newer frame with the same replaces this one.
    pub(super) conflation: Option<Arc<str>>,
    /// Given back once the frame is written.
    #[expect(dead_code, reason = "it is given back by being dropped")]
    pub(super) room: Option<Taken>,
}

impl Waiting {
    pub(super) fn live(frame: Bytes) -> Self {
        Self { frame, kind: Kind::Live, conflation: None, room: None }
    }

    /// Bytes of memory: with the frame's place in the queue and the headers of its allocations, so that a million short
    /// frames cost what the limit says, too.
    pub(super) fn cost(&self) -> usize {
        self.frame.len() + size_of::<Self>() + 2 * ALLOCATION
    }
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) frames: VecDeque<Waiting>,
    /// What the frames that wait cost, live ones and those of histories.
    pub(super) costs: [usize; 2],
    /// Whether the first frame is partly written and may no longer be taken out.
    pub(super) begun: bool,
    /// Why the connection ends; nothing is appended any more.
    pub(super) closed: Option<Box<Disconnect>>,
    /// Most connections never have any.
    tasks: Option<Box<Tasks>>,
}

/// What the connection's task is to know or to do.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    /// Client-side subscriptions that were ended from this side.
    pub(super) ended: Vec<Channel>,
    /// Channels whose continuity is lost and of which the client is to be told.
    pub(super) lost: Vec<Channel>,
    /// What somebody else wants of it.
    pub(super) orders: VecDeque<Order>,
}

impl Queue {
    /// The tasks, to add one.
    pub(super) fn add(&mut self) -> &mut Tasks {
        self.tasks.get_or_insert_default()
    }

    /// The tasks, if there have been any.
    pub(super) fn tasks(&mut self) -> Option<&mut Tasks> {
        self.tasks.as_deref_mut()
    }

    pub(super) fn remove_conflated(&mut self, key: &Arc<str>) {
        let fixed = usize::from(self.begun);
        let older = self.frames.iter().skip(fixed).position(|waiting| waiting.conflation.as_ref() == Some(key));
        if let Some(removed) = older.and_then(|index| self.frames.remove(index + fixed)) {
            self.costs[removed.kind as usize] -= removed.cost();
        }
    }

    /// The first frame, and those after it that together are at most `bytes`.
    pub(super) fn take(&mut self, bytes: usize) -> Bytes {
        let mut sizes = 0;
        let fits = |waiting: &&Waiting| {
            sizes += waiting.frame.len();
            sizes <= bytes
        };
        let count = self.frames.iter().take_while(fits).count().max(1);
        let frames: Vec<Bytes> = self.frames.iter().take(count).map(|waiting| waiting.frame.clone()).collect();
        self.advance(frames.iter().map(Bytes::len).sum());
        match <[Bytes; 1]>::try_from(frames) {
            Ok([one]) => one,
            Err(several) => several.concat().into(),
        }
    }

    pub(super) fn advance(&mut self, mut written: usize) {
        while let Some(first) = self.frames.front_mut() {
            if written < first.frame.len() {
                first.frame.advance(written);
                self.costs[first.kind as usize] -= written;
                self.begun |= written > 0;
                return;
            }
            written -= first.frame.len();
            self.costs[first.kind as usize] -= first.cost();
            self.begun = false;
            self.frames.pop_front();
        }
        // A connection that keeps up holds no memory for what might wait.
        self.frames = VecDeque::new();
    }
}

impl Tasks {
    /// Whether there is room for `order`.
    pub(super) fn takes(&self, order: &Order) -> bool {
        if self.orders.len() >= MAX_ORDERS {
            return false;
        }
        let Order::Commands(commands) = order else { return true };
        let sizes = self.orders.iter().filter_map(|waiting| match waiting {
            Order::Commands(commands) => Some(commands.len()),
            _ => None,
        });
        let (count, bytes) = sizes.fold((0, 0), |(count, bytes), size| (count + 1, bytes + size));
        count == 0 || (count < MAX_COMMANDS && bytes + commands.len() <= MAX_COMMAND_BYTES)
    }
}
