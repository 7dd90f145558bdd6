//! What the link is subscribed to and what it should be: pure bookkeeping, no I/O.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

/// One pub/sub channel that somebody wants, or that has to be left.
#[derive(Debug, Default)]
struct Entry {
    /// Whether it should be subscribed.
    wanted: bool,
    /// Whether the last command sent for it on this connection was SUBSCRIBE.
    sent: bool,
    /// Commands sent on this connection whose confirmation has not come.
    outstanding: u32,
    /// Whether it was confirmed on an earlier connection: continuity has to be checked when it is again.
    was_live: bool,
    /// Whether it stands in `changed`.
    queued: bool,
    /// Who waits for the confirmation.
    waiting: Vec<oneshot::Sender<()>>,
}

/// The subscriptions of one link.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// A tree: it grows with what is in it, where a hash table doubles.
    entries: BTreeMap<String, Entry>,
    /// Entries for which something may have to be sent.
    changed: Vec<String>,
}

/// The commands that bring the server's view closer to the wanted one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Commands {
    pub(super) subscribe: Vec<String>,
    pub(super) unsubscribe: Vec<String>,
}

impl Table {
    /// Wants `channel`; `waiting` hears when the subscription is confirmed.
    pub(super) fn want(&mut self, channel: &str, waiting: oneshot::Sender<()>) {
        let entry = self.entries.entry(channel.to_owned()).or_default();
        entry.wanted = true;
        if entry.sent && entry.outstanding == 0 {
            // Nobody waiting any more is no error.
            let _ = waiting.send(());
            return;
        }
        // While Redis is away, those who gave up waiting must not pile up.
        entry.waiting.retain(|waiting| !waiting.is_closed());
        entry.waiting.push(waiting);
        Self::queue(&mut self.changed, channel, entry);
    }

    /// Wants `channel` no longer.
    pub(super) fn leave(&mut self, channel: &str) {
        if let Some(entry) = self.entries.get_mut(channel) {
            entry.wanted = false;
            entry.was_live = false;
            entry.waiting.clear();
            Self::queue(&mut self.changed, channel, entry);
        }
    }

    /// Forgets what the ended connection knew; everything wanted has to be sent again.
    pub(super) fn disconnected(&mut self) {
        self.changed.clear();
        self.entries.retain(|_, entry| entry.wanted);
        for (channel, entry) in &mut self.entries {
            entry.was_live |= entry.sent && entry.outstanding == 0;
            entry.sent = false;
            entry.outstanding = 0;
            entry.queued = true;
            self.changed.push(channel.clone());
        }
    }

    /// Takes at most `limit` changes; they count as sent.
    pub(super) fn take(&mut self, limit: usize) -> Commands {
        let mut commands = Commands::default();
        for channel in self.changed.drain(..limit.min(self.changed.len())) {
            let Some(entry) = self.entries.get_mut(&channel) else { continue };
            entry.queued = false;
            if entry.wanted != entry.sent {
                entry.sent = entry.wanted;
                entry.outstanding += 1;
                let commands = if entry.wanted { &mut commands.subscribe } else { &mut commands.unsubscribe };
                commands.push(channel);
            } else if !entry.wanted && entry.outstanding == 0 {
                self.entries.remove(&channel);
            }
        }
        commands
    }

    /// Whether `take` would find something.
    pub(super) fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    /// The server confirmed one command for `channel`; says whether the channel is live again after a lost connection.
    ///
    /// With several commands under way only the last confirmation counts: between SUBSCRIBE, UNSUBSCRIBE, SUBSCRIBE
    /// there is a moment in which nothing is delivered.
    pub(super) fn confirmed(&mut self, channel: &str) -> bool {
        let Some(entry) = self.entries.get_mut(channel) else { return false };
        entry.outstanding = entry.outstanding.saturating_sub(1);
        if entry.outstanding > 0 {
            return false;
        }
        if !entry.sent {
            if !entry.wanted {
                self.entries.remove(channel);
            }
            return false;
        }
        for waiting in entry.waiting.drain(..) {
            let _ = waiting.send(());
        }
        std::mem::take(&mut entry.was_live)
    }

    /// Whether every wanted channel is confirmed.
    pub(super) fn is_settled(&self) -> bool {
        self.entries.values().all(|entry| entry.wanted == entry.sent && entry.outstanding == 0)
    }

    fn queue(changed: &mut Vec<String>, channel: &str, entry: &mut Entry) {
        if !entry.queued {
            entry.queued = true;
            changed.push(channel.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(table: &mut Table, channel: &str) -> oneshot::Receiver<()> {
        let (waiting, confirmed) = oneshot::channel();
        table.want(channel, waiting);
        confirmed
    }

    fn subscribe(channels: &[&str]) -> Commands {
        Commands { subscribe: channels.iter().map(|c| (*c).to_owned()).collect(), ..Commands::default() }
    }

    #[test]
    fn two_who_want_the_same_cost_one_command() {
        let mut table = Table::default();
        let (mut first, mut second) = (want(&mut table, "a"), want(&mut table, "a"));
        assert_eq!(table.take(10), subscribe(&["a"]));
        assert_eq!(table.take(10), Commands::default());
        assert!(first.try_recv().is_err());
        assert!(!table.confirmed("a"));
        assert!(first.try_recv().is_ok() && second.try_recv().is_ok());
        assert!(want(&mut table, "a").try_recv().is_ok(), "live already");
    }

    #[test]
    fn a_subscription_that_was_left_meanwhile_is_confirmed_by_its_last_command_only() {
        let mut table = Table::default();
        drop(want(&mut table, "a"));
        assert_eq!(table.take(10), subscribe(&["a"]));
        table.leave("a");
        assert_eq!(table.take(10).unsubscribe, ["a"]);
        let mut again = want(&mut table, "a");
        assert_eq!(table.take(10), subscribe(&["a"]));
        table.confirmed("a");
        table.confirmed("a");
        assert!(again.try_recv().is_err(), "the second SUBSCRIBE is still under way");
        table.confirmed("a");
        assert!(again.try_recv().is_ok());
    }

    #[test]
    fn after_a_lost_connection_what_was_live_is_told_apart_from_what_is_new() {
        let mut table = Table::default();
        drop(want(&mut table, "old"));
        table.take(10);
        table.confirmed("old");
        drop(want(&mut table, "new"));
        table.disconnected();
        assert!(!table.is_settled());
        let mut sent = table.take(10).subscribe;
        sent.sort();
        assert_eq!(sent, ["new", "old"]);
        assert!(table.confirmed("old"));
        assert!(!table.confirmed("new"));
        assert!(table.is_settled());
    }

    #[test]
    fn what_nobody_wants_leaves_nothing_behind() {
        let mut table = Table::default();
        drop(want(&mut table, "a"));
        table.take(10);
        table.confirmed("a");
        table.leave("a");
        assert_eq!(table.take(10).unsubscribe, ["a"]);
        table.confirmed("a");
        drop(want(&mut table, "b"));
        table.leave("b");
        assert_eq!(table.take(10), Commands::default());
        assert!(table.entries.is_empty());
    }
}
