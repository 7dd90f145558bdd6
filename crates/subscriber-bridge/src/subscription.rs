//! One connection's subscription to one channel: what is delivered next, and what proves a gap.

use std::sync::Arc;

use fanout_core::Channel;
use fanout_core::envelope::Position;

use crate::outbox::{Kind, Outbox};
use crate::run::Run;
use crate::wire::Shared;

/// Publications held per subscription while its position is read. More means that reading takes far too long.
const MAX_HELD: usize = 1_024;
/// Bytes held per subscription while its position is read.
const MAX_HELD_BYTES: usize = 1024 * 1024;

/// A publication on its way to subscribers.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    /// What every subscriber gets, each as its wire wants it.
    pub(crate) push: Arc<Shared>,
    /// Bytes of its data.
    pub(crate) bytes: usize,
    /// Whether it happens now or is repaired.
    pub(crate) kind: Kind,
    /// Its position; none without history.
    pub(crate) position: Option<Position>,
    /// Channel and conflation key, where the topic conflates.
    pub(crate) conflation: Option<Arc<str>>,
}

/// Which offset continues a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Continues {
    /// The next one.
    Next,
    /// Any later one: what lies between was replaced by newer publications of the same keys.
    Later,
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
    /// It does not continue what the subscriber has: something before it is missing, which may still be in the history, or
    /// it is of another epoch, and a look at the position tells whose is the present one.
    Gap,
    /// Continuity is lost; the subscriber is to be told before it gets anything more of this channel.
    Lost,
}

/// See the module.
pub(crate) struct Subscription {
    pub(crate) outbox: Arc<Outbox>,
    /// Whether the bridge subscribed the connection, rather than the client.
    pub(crate) server_side: bool,
    /// Whether it is told who comes and leaves.
    pub(crate) hears: bool,
    phase: Phase,
}

enum Phase {
    /// The position is being read. Boxed, because it is over soon and what comes after it is small.
    Joining(Box<Joining>),
    /// Publications are delivered. The position is that of the last one; unknown when Redis could not tell it.
    Live(Option<Position>),
    /// Continuity is lost, and the subscriber is told soon.
    Lost,
}

/// What arrives while the position is being read.
#[derive(Default)]
struct Joining {
    held: Vec<Held>,
    bytes: usize,
    /// Something may have been missed meanwhile.
    disturbed: bool,
}

impl Joining {
    fn hold(&mut self, held: &Held) {
        self.bytes += held.bytes;
        if self.held.len() < MAX_HELD && self.bytes <= MAX_HELD_BYTES {
            self.held.push(held.clone());
        } else {
            self.disturbed = true;
        }
    }
}

impl Subscription {
    pub(crate) fn joining(outbox: Arc<Outbox>, server_side: bool, hears: bool) -> Self {
        Self { outbox, server_side, hears, phase: Phase::Joining(Box::default()) }
    }

    /// Begins delivery after `position`; returns what was held, to be offered again, and whether something may have been
    /// missed since joining.
    pub(crate) fn activate(&mut self, position: Option<Position>) -> (Vec<Held>, bool) {
        match std::mem::replace(&mut self.phase, Phase::Live(position)) {
            Phase::Joining(joining) => (joining.held, joining.disturbed),
            Phase::Live(_) | Phase::Lost => (Vec::new(), false),
        }
    }

    /// Something may have been missed; says so at [`activate`](Self::activate) when the position is still being read.
    pub(crate) fn disturb(&mut self) {
        if let Phase::Joining(joining) = &mut self.phase {
            joining.disturbed = true;
        }
    }

    /// Delivers `held` when it continues what the subscriber has.
    pub(crate) fn offer(&mut self, held: &Held, continues: Continues) -> Verdict {
        match &mut self.phase {
            Phase::Joining(joining) => {
                joining.hold(held);
                return Verdict::Held;
            }
            Phase::Lost if held.position.is_some() => return Verdict::Lost,
            Phase::Lost => {}
            Phase::Live(known) => {
                if let Some(new) = held.position {
                    let verdict = known.map_or(Verdict::Deliver, |known| follows(known, new, continues));
                    if verdict != Verdict::Deliver {
                        return verdict;
                    }
                    *known = Some(new);
                }
            }
        }
        self.outbox.publish(held);
        Verdict::Deliver
    }

    /// Delivers a whole run, in one write, when it continues what the subscriber has; otherwise each publication has to be
    /// [offered](Self::offer).
    pub(crate) fn take(&mut self, run: &Run) -> bool {
        let Phase::Live(known) = &mut self.phase else { return false };
        let Some(after) = run.after(*known) else { return false };
        *known = after;
        self.outbox.publish_run(run);
        true
    }

    /// Where the subscriber stands: nothing while the position is being read or continuity is lost, `Some(None)` when
    /// Redis could not tell.
    pub(crate) fn live(&self) -> Option<Option<Position>> {
        match &self.phase {
            Phase::Live(known) => Some(*known),
            Phase::Joining(_) | Phase::Lost => None,
        }
    }

    /// From now on nothing with a position is delivered on `channel` until the subscriber is told. It is not for one whose
    /// position is being read.
    pub(crate) fn lose(&mut self, channel: &Channel) {
        if matches!(self.phase, Phase::Live(_)) {
            self.phase = Phase::Lost;
            self.outbox.lose(channel.clone());
        }
    }

    /// Whether the subscriber is to be told that continuity is lost.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(self.phase, Phase::Lost)
    }
}

fn follows(known: Position, new: Position, continues: Continues) -> Verdict {
    if known.epoch != new.epoch {
        Verdict::Gap
    } else if new.offset <= known.offset {
        Verdict::Repeated
    } else if new.offset > known.offset + 1 && continues == Continues::Next {
        Verdict::Gap
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
        let next = |known, new| follows(known, new, Continues::Next);
        assert_eq!(next(at("a", 4), at("a", 5)), Verdict::Deliver);
        assert_eq!(next(at("a", 4), at("a", 4)), Verdict::Repeated);
        assert_eq!(next(at("a", 4), at("a", 6)), Verdict::Gap);
        assert_eq!(next(at("a", 4), at("b", 5)), Verdict::Gap);
    }

    #[test]
    fn where_newer_ones_replaced_what_lies_between_any_later_offset_follows() {
        let later = |known, new| follows(known, new, Continues::Later);
        assert_eq!(later(at("a", 4), at("a", 9)), Verdict::Deliver);
        assert_eq!(later(at("a", 4), at("a", 4)), Verdict::Repeated);
        assert_eq!(later(at("a", 4), at("b", 9)), Verdict::Gap);
    }
}
