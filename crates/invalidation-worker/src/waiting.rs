//! Publications that wait for sweeps, in the order of the log.

use std::collections::{HashMap, HashSet, VecDeque};

use fanout_core::Publication;
use fanout_core::names::Feed;
use uuid::Uuid;

use crate::hearing::HEARD;
use crate::plan::Planned;
use crate::sweeper::Ticket;

/// See the module. What follows on a feed of which a publication waits, waits too: nothing overtakes.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    queue: VecDeque<(Ticket, Planned)>,
    feeds: HashMap<Feed, usize>,
    ids: HashSet<Uuid>,
}

impl Waiting {
    /// Takes what must wait out of `planned`, to wait for all sweeps up to `ticket`; returns the rest.
    pub(crate) fn hold(&mut self, planned: Vec<Planned>, ticket: Ticket) -> Vec<Publication> {
        let mut rest = Vec::with_capacity(planned.len());
        for one in planned {
            if one.after_sweep || self.feeds.contains_key(&Feed::of(&one.publication.channel)) {
                self.push(one, ticket);
            } else {
                rest.push(one.publication);
            }
        }
        rest
    }

    /// Takes all of `planned`, whether it asks to wait or not.
    pub(crate) fn hold_all(&mut self, planned: Vec<Planned>, ticket: Ticket) {
        planned.into_iter().for_each(|one| self.push(one, ticket));
    }

    fn push(&mut self, one: Planned, ticket: Ticket) {
        // It comes again in a replay; the sweep that it waited for may then have to be done again.
        if !self.ids.insert(one.publication.id) {
            if let Some((waits, _)) =
                self.queue.iter_mut().find(|(_, other)| other.publication.id == one.publication.id)
            {
                *waits = ticket;
            }
            return;
        }
        *self.feeds.entry(Feed::of(&one.publication.channel)).or_default() += 1;
        self.queue.push_back((ticket, one));
    }

    /// The publications at the front that wait for no sweep after `swept`. They stay until they are
    /// [let go](Self::let_go).
    pub(crate) fn due(&self, swept: Ticket) -> Vec<Publication> {
        self.queue
            .iter()
            .take_while(|(ticket, _)| *ticket <= swept)
            .map(|(_, planned)| planned.publication.clone())
            .collect()
    }

    /// The first `count` were published.
    pub(crate) fn let_go(&mut self, count: usize) {
        for (_, one) in self.queue.drain(..count.min(self.queue.len())) {
            let feed = Feed::of(&one.publication.channel);
            if let Some(left) = self.feeds.get_mut(&feed) {
                *left -= 1;
                if *left == 0 {
                    self.feeds.remove(&feed);
                }
            }
            self.ids.remove(&one.publication.id);
        }
    }

    /// The entries that they come from, each once. What was only heard is in no log.
    pub(crate) fn entries(&self) -> Vec<i64> {
        let entries = self.queue.iter().map(|(_, one)| one.entry);
        let mut entries: Vec<i64> = entries.filter(|entry| *entry != HEARD).collect();
        entries.dedup();
        entries
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }
}

#[cfg(test)]
mod tests {
    use fanout_core::{Channel, Data};

    use super::*;

    fn planned(entry: i64, channel: &str, after_sweep: bool) -> Planned {
        let channel = Channel::parse(channel).expect("a channel");
        let mut publication = Publication::new(channel, Data::parse("1").expect("JSON"));
        publication.id = Uuid::from_u128(entry.unsigned_abs().into());
        Planned { entry, publication, after_sweep }
    }

    fn ids(publications: &[Publication]) -> Vec<u128> {
        publications.iter().map(|publication| publication.id.as_u128()).collect()
    }

    #[test]
    fn nothing_overtakes_on_a_feed_of_which_something_waits() {
        let mut waiting = Waiting::default();
        let page = [planned(1, "a", false), planned(2, "a", true), planned(3, "b", false), planned(4, "a", false)];
        assert_eq!(ids(&waiting.hold(page.into(), Ticket::nth(1))), [1, 3]);
        assert_eq!(ids(&waiting.hold(vec![planned(5, "a", false)], Ticket::nth(2))), [0_u128; 0]);
        assert_eq!(waiting.entries(), [2, 4, 5]);
        assert!(waiting.due(Ticket::nth(0)).is_empty());
        assert_eq!(ids(&waiting.due(Ticket::nth(1))), [2, 4]);
        waiting.let_go(2);
        assert_eq!(ids(&waiting.due(Ticket::nth(2))), [5]);
        waiting.let_go(1);
        assert_eq!(ids(&waiting.hold(vec![planned(6, "a", false)], Ticket::nth(2))), [6], "nothing waits any more");
    }

    #[test]
    fn what_was_heard_waits_like_the_rest_and_is_not_written_down() {
        let mut waiting = Waiting::default();
        let mut heard = planned(9, "a", true);
        heard.entry = HEARD;
        waiting.hold(vec![planned(1, "a", true), heard, planned(2, "a", true)], Ticket::nth(1));
        assert_eq!((waiting.len(), waiting.entries()), (3, vec![1, 2]));
    }

    #[test]
    fn what_comes_again_in_a_replay_waits_once_and_for_the_later_sweep() {
        let mut waiting = Waiting::default();
        waiting.hold(vec![planned(1, "a", true)], Ticket::nth(1));
        waiting.hold(vec![planned(1, "a", true)], Ticket::nth(3));
        assert_eq!(waiting.len(), 1);
        assert!(waiting.due(Ticket::nth(2)).is_empty());
        assert_eq!(ids(&waiting.due(Ticket::nth(3))), [1]);
    }
}
