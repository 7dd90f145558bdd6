//! The repair of one feed: while something may be missing, what arrives is held, and what is missing is read once per
//! channel. Then everything leaves in the order of the feed's sequence numbers. Pure bookkeeping, no I/O.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use fanout_core::Channel;
use fanout_core::envelope::{Envelope, Epoch};
use fanout_core::history::Since;
use fanout_core::position::FeedPosition;

use crate::hub::ConnectionId;
use crate::room::{Room, Taken};

/// Publications held per feed. What comes beyond is read from the history instead.
const MAX_HELD: usize = 1_024;

/// What was asked of a channel's history, and the envelopes that it gave; none when it has not all of them.
pub(crate) type Found = (Since, Option<Vec<Bytes>>);

/// See the module.
#[derive(Debug)]
pub(crate) struct Repair {
    /// What arrived meanwhile, by its sequence number.
    held: BTreeMap<u64, Bytes>,
    room: Taken,
    /// Whether something may be missing again: the feed is then gone through once more.
    pub(crate) again: bool,
    /// Connections whose position was read while this repair was under way, so that it may be newer than the repair's.
    pub(crate) fresh: HashSet<ConnectionId>,
}

impl Repair {
    pub(crate) fn new(room: &Room) -> Self {
        Self { held: BTreeMap::new(), room: room.nothing(), again: false, fresh: HashSet::new() }
    }

    /// Holds a publication that arrived; without room for it, the history has to give it later.
    pub(crate) fn hold(&mut self, sequence: u64, payload: &Bytes) {
        if self.held.len() < MAX_HELD && self.room.more(payload.len()) {
            // A copy: it would keep all that was read together with it.
            self.held.insert(sequence, Bytes::copy_from_slice(payload));
        } else {
            self.again = true;
        }
    }

    /// Whether the offsets `after + 1` to `top` of `channel` have all arrived.
    pub(crate) fn holds(&self, channel: &Channel, epoch: Epoch, after: u64, top: u64) -> bool {
        if top - after > self.held.len() as u64 {
            return false;
        }
        let envelopes = self.held.values().filter_map(|payload| Envelope::parse(payload).ok());
        let of_channel = envelopes.filter(|envelope| envelope.description.topic == channel.topic());
        let offsets: HashSet<u64> =
            of_channel.map(|envelope| envelope.position).filter(|at| at.epoch == epoch).map(|at| at.offset).collect();
        (after + 1..=top).all(|offset| offsets.contains(&offset))
    }

    /// Ends this round: what was held and what was read, in the order of their sequence numbers. What belongs to another
    /// epoch than `position` has no place in that order; it asks for another round.
    pub(crate) fn merge(&mut self, position: &FeedPosition, found: &[Found]) -> BTreeMap<u64, Bytes> {
        let mut merged = std::mem::take(&mut self.held);
        let belongs = |payload: &Bytes| Envelope::parse(payload).is_ok_and(|e| e.position.epoch == position.epoch);
        let before = merged.len();
        merged.retain(|_, payload| belongs(payload));
        self.again |= merged.len() < before;
        for payload in found.iter().filter_map(|(_, envelopes)| envelopes.as_ref()).flatten() {
            if let Ok(envelope) = Envelope::parse(payload) {
                merged.entry(envelope.sequence).or_insert_with(|| payload.clone());
            }
        }
        merged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: &str = "00c0ffee";

    fn envelope(sequence: u64, epoch: &str, topic: &str, offset: u64) -> Bytes {
        format!("G1 {sequence} {epoch} {offset}\n{{\"topic\":\"{topic}\",\"id\":\"i\"}}\n{sequence}").into()
    }

    fn orders() -> Channel {
        Channel::parse("orders:#42").expect("channel")
    }

    #[test]
    fn what_was_held_and_what_was_read_leave_in_the_order_of_the_feed() {
        let mut repair = Repair::new(&Room::new(10_000));
        repair.hold(7, &envelope(7, EPOCH, "orders", 4));
        repair.hold(6, &envelope(6, EPOCH, "wallet-updates", 2));
        repair.hold(8, &envelope(8, "0000000b", "orders", 5));
        let epoch = EPOCH.parse().expect("epoch");
        let position = FeedPosition { epoch, sequence: 7, tops: Vec::new() };
        let since = Since { channel: orders(), conflated: false, epoch: EPOCH.into(), offset: 1 };
        let missed = [(3, 2), (5, 3), (7, 4)].map(|(sequence, offset)| envelope(sequence, EPOCH, "orders", offset));
        let merged = repair.merge(&position, &[(since, Some(missed.into()))]);
        assert_eq!(merged.keys().copied().collect::<Vec<_>>(), [3, 5, 6, 7]);
        assert!(repair.again, "the publication of another epoch is looked at again");
    }

    #[test]
    fn only_a_whole_range_counts_as_held() {
        let mut repair = Repair::new(&Room::new(10_000));
        for (sequence, offset) in [(4, 3), (6, 4)] {
            repair.hold(sequence, &envelope(sequence, EPOCH, "orders", offset));
        }
        repair.hold(5, &envelope(5, EPOCH, "wallet-updates", 5));
        let epoch = EPOCH.parse().expect("epoch");
        assert!(repair.holds(&orders(), epoch, 2, 4));
        assert!(!repair.holds(&orders(), epoch, 1, 4));
        assert!(!repair.holds(&orders(), epoch, 2, 5));
    }

    #[test]
    fn without_room_the_history_has_to_give_it() {
        let room = Room::new(100);
        let (mut first, mut second) = (Repair::new(&room), Repair::new(&room));
        first.hold(1, &Bytes::from(vec![b'x'; 80]));
        second.hold(1, &Bytes::from(vec![b'x'; 80]));
        assert!(!first.again && second.again);
    }
}
