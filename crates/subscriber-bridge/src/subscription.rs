//! One connection's subscription to one channel: what is delivered next, and what proves a gap.

use std::sync::Arc;

use bytes::Bytes;
use fanout_core::envelope::Position;

use crate::outbox::Outbox;

/// Publications held per subscription while its position is read. More means that reading takes far too long.
const MAX_HELD: usize = 1_024;

/// A publication, encoded for the wire.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    /// The frame that every subscriber gets.
    pub(crate) frame: Bytes,
    /// Its position; none without history.
    pub(crate) position: Option<Position>,
    /// Channel and conflation key, where the topic conflates.
    pub(crate) conflation: Option<Arc<str>>,
}

/// What became of an offered publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Handed to the outbox.
    Deliver,
    /// Kept until the position is known.
    Held,
    /// The subscriber has it already.
    Repeated,
    /// Something before it is missing.
    Insufficient,
}

/// See the module.
pub(crate) struct Subscription {
    pub(crate) outbox: Arc<Outbox>,
    /// Whether the bridge subscribed the connection, rather than the client.
    pub(crate) server_side: bool,
    phase: Phase,
}

enum Phase {
    /// The position is being read. Disturbed: something may have been missed meanwhile.
    Joining { held: Vec<Held>, disturbed: bool },
    /// Publications are delivered. The position is that of the last one; unknown when Redis could not tell it.
    Live(Option<Position>),
}

impl Subscription {
    pub(crate) fn joining(outbox: Arc<Outbox>, server_side: bool) -> Self {
        Self { outbox, server_side, phase: Phase::Joining { held: Vec::new(), disturbed: false } }
    }

    /// Begins delivery after `position` and returns what was held, to be offered again; `None` when something may have
    /// been missed since joining, so that the subscriber has to be told.
    pub(crate) fn activate(&mut self, position: Option<Position>) -> Option<Vec<Held>> {
        match std::mem::replace(&mut self.phase, Phase::Live(position)) {
            Phase::Joining { held, disturbed } => (!disturbed).then_some(held),
            Phase::Live(_) => Some(Vec::new()),
        }
    }

    /// Delivers `held` when it is the next publication.
    pub(crate) fn offer(&mut self, held: &Held) -> Verdict {
        match &mut self.phase {
            Phase::Joining { held: waiting, disturbed } => {
                *disturbed |= waiting.len() >= MAX_HELD;
                if !*disturbed {
                    waiting.push(held.clone());
                }
                return Verdict::Held;
            }
            Phase::Live(known) => {
                if let Some(new) = held.position {
                    let verdict = known.map_or(Verdict::Deliver, |known| follows(known, new));
                    if verdict != Verdict::Deliver {
                        return verdict;
                    }
                    *known = Some(new);
                }
            }
        }
        self.outbox.publish(held.frame.clone(), held.conflation.as_ref());
        Verdict::Deliver
    }

    /// The channel was out of reach and now stands at `now`; says whether this subscriber missed something.
    pub(crate) fn missed(&mut self, now: Position) -> bool {
        match &mut self.phase {
            Phase::Live(Some(known)) => known.epoch != now.epoch || known.offset < now.offset,
            Phase::Live(None) => true,
            Phase::Joining { disturbed, .. } => {
                // Its position may have been read before the channel was back.
                *disturbed = true;
                false
            }
        }
    }
}

fn follows(known: Position, new: Position) -> Verdict {
    if known.epoch != new.epoch || new.offset > known.offset + 1 {
        Verdict::Insufficient
    } else if new.offset <= known.offset {
        Verdict::Repeated
    } else {
        Verdict::Deliver
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: &str, offset: u64) -> Position {
        Position { epoch: epoch.parse().expect("epoch"), offset }
    }

    #[test]
    fn only_the_next_offset_of_the_same_epoch_follows() {
        assert_eq!(follows(at("a", 4), at("a", 5)), Verdict::Deliver);
        assert_eq!(follows(at("a", 4), at("a", 4)), Verdict::Repeated);
        assert_eq!(follows(at("a", 4), at("a", 6)), Verdict::Insufficient);
        assert_eq!(follows(at("a", 4), at("b", 5)), Verdict::Insufficient);
    }
}
