//! The channels of one session: a handful, so a sorted list, which takes no more memory than they do.

use fanout_core::Channel;

use super::Subscribed;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Channels(Vec<(Channel, Subscribed)>);

impl Channels {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Channel, &Subscribed)> {
        self.0.iter().map(|(channel, subscribed)| (channel, subscribed))
    }

    /// Makes room for so many more, and for none beyond them.
    pub(super) fn expect(&mut self, more: usize) {
        self.0.reserve_exact(more);
    }

    pub(super) fn get(&self, channel: &Channel) -> Option<&Subscribed> {
        self.find(channel).ok().map(|place| &self.0[place].1)
    }

    pub(super) fn get_mut(&mut self, channel: &Channel) -> Option<&mut Subscribed> {
        self.find(channel).ok().map(|place| &mut self.0[place].1)
    }

    /// Adds a channel, or replaces what is known of it.
    pub(super) fn insert(&mut self, channel: Channel, subscribed: Subscribed) {
        match self.find(&channel) {
            Ok(place) => self.0[place].1 = subscribed,
            Err(place) => self.0.insert(place, (channel, subscribed)),
        }
    }

    pub(super) fn remove(&mut self, channel: &Channel) -> Option<Subscribed> {
        self.find(channel).ok().map(|place| self.0.remove(place).1)
    }

    /// Where it is, or where it belongs.
    fn find(&self, channel: &Channel) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| known.as_str().cmp(channel.as_str()))
    }
}
