//! Publications of one channel that go to its members together: one write per connection, however many they are.

use bytes::Bytes;
use fanout_core::Channel;
use fanout_core::envelope::Position;

use crate::subscription::Held;
use crate::wire::{Frames, Wire};

/// Most bytes of data in one run: little more fits into a socket at once.
pub(crate) const MAX_BYTES: usize = 64 * 1024;
/// Most publications in one run.
pub(crate) const MAX_COUNT: usize = 256;

/// See the module.
pub(crate) struct Run {
    pub(crate) channel: Channel,
    pub(crate) held: Vec<Held>,
    /// The first and the last position, where each is the next after the one before; twice nothing where none has any.
    contiguous: Option<(Option<Position>, Option<Position>)>,
    /// All frames in one piece.
    joined: Frames,
}

impl Run {
    /// A run of at least one publication, in the order in which they were published.
    pub(crate) fn new(channel: Channel, held: Vec<Held>) -> Self {
        let next = |pair: &[Held]| match (pair[0].position, pair[1].position) {
            (None, None) => true,
            (Some(one), Some(other)) => one.epoch == other.epoch && one.offset + 1 == other.offset,
            _ => false,
        };
        let ends = (held.first().and_then(|held| held.position), held.last().and_then(|held| held.position));
        let contiguous = held.windows(2).all(next).then_some(ends);
        Self { channel, held, contiguous, joined: Frames::default() }
    }

    /// Where a subscriber stands after the whole run who stands at `known` before; nothing when the run as a whole is not
    /// what comes next for it.
    pub(crate) fn after(&self, known: Option<Position>) -> Option<Option<Position>> {
        let (first, last) = self.contiguous?;
        let follows = match (known, first) {
            (Some(known), Some(first)) => known.epoch == first.epoch && known.offset + 1 == first.offset,
            _ => true,
        };
        follows.then_some(last.or(known))
    }

    /// All frames for connections of `wire`, one after the other.
    pub(crate) fn frames(&self, wire: Wire) -> &Bytes {
        self.joined.get(wire, || match &self.held[..] {
            [one] => one.push.frame(wire).clone(),
            several => several.iter().map(|held| &held.push.frame(wire)[..]).collect::<Vec<_>>().concat().into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::outbox::Kind;
    use crate::protocol;
    use crate::wire::Shared;

    fn at(offset: u64) -> Option<Position> {
        Some(Position { epoch: "a".parse().expect("epoch"), offset })
    }

    fn run(positions: &[Option<Position>]) -> Run {
        let channel = Channel::parse("news").expect("channel");
        let held = positions.iter().enumerate().map(|(index, position)| {
            let publication = protocol::publication(index.to_string().into(), *position, None);
            let push = Arc::new(Shared::new(protocol::published("news", publication)));
            Held { push, bytes: 1, kind: Kind::Live, position: *position, conflation: None }
        });
        Run::new(channel.clone(), held.collect())
    }

    #[test]
    fn it_is_taken_as_a_whole_only_by_who_stands_right_before_it() {
        let whole = run(&[at(4), at(5), at(6)]);
        assert_eq!(whole.after(at(3)), Some(at(6)));
        assert_eq!(whole.after(at(4)), None);
        assert_eq!(whole.after(at(2)), None);
        assert_eq!(whole.after(None), Some(at(6)), "who does not know where it stands takes what comes");
        assert_eq!(run(&[at(4), at(6)]).after(at(3)), None);
        assert_eq!(run(&[at(4), None]).after(at(3)), None);
        assert_eq!(run(&[None, None]).after(at(3)), Some(at(3)));
    }

    #[test]
    fn its_frames_stand_one_after_the_other() {
        let whole = run(&[None, None]);
        let each: Vec<u8> = whole.held.iter().flat_map(|held| held.push.frame(Wire::USUAL).to_vec()).collect();
        assert_eq!(whole.frames(Wire::USUAL), &each);
    }
}
