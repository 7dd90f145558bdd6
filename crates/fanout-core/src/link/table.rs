//! What the link is subscribed to and what it should be: pure bookkeeping, no I/O.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use super::question::{Asker, Question};

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
    /// Who waits. Boxed, because at most times nobody does.
    waiting: Option<Box<Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// For the confirmation.
    confirmation: Vec<oneshot::Sender<()>>,
    /// To be told where the feed stands, for which it has not been asked yet.
    position: Vec<Asker>,
}

impl Entry {
    fn waiting(&mut self) -> &mut Waiting {
        self.waiting.get_or_insert_default()
    }

    fn take_confirmation(&mut self) -> Vec<oneshot::Sender<()>> {
        let confirmation = self.waiting.as_mut().map(|waiting| std::mem::take(&mut waiting.confirmation));
        self.waiting.take_if(|waiting| waiting.position.is_empty());
        confirmation.unwrap_or_default()
    }

    fn take_position(&mut self) -> Vec<Asker> {
        let position = self.waiting.as_mut().map(|waiting| std::mem::take(&mut waiting.position));
        self.waiting.take_if(|waiting| waiting.confirmation.is_empty());
        position.unwrap_or_default()
    }
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
#[derive(Debug, Default)]
pub(super) struct Commands {
    pub(super) subscribe: Vec<String>,
    pub(super) unsubscribe: Vec<String>,
    /// To be asked after all has been subscribed: what is published after the answer then arrives.
    pub(super) ask: Vec<Question>,
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
        add(&mut entry.waiting().confirmation, waiting);
        Self::queue(&mut self.changed, channel, entry);
    }

    /// Wants `channel`, which is a feed's; `asker` hears where that stands, once it is subscribed.
    pub(super) fn ask(&mut self, channel: &str, asker: Asker) {
        let entry = self.entries.entry(channel.to_owned()).or_default();
        entry.wanted = true;
        add(&mut entry.waiting().position, asker);
        Self::queue(&mut self.changed, channel, entry);
    }

    /// The connection ended before `question` was answered: it is asked again on the next.
    pub(super) fn ask_again(&mut self, question: Question) {
        // Nobody asks for what was left.
        if let Some(entry) = self.entries.get_mut(&question.channel).filter(|entry| entry.wanted) {
            entry.waiting().position.extend(question.askers);
            Self::queue(&mut self.changed, &question.channel, entry);
        }
    }

    /// Wants `channel` no longer.
    pub(super) fn leave(&mut self, channel: &str) {
        if let Some(entry) = self.entries.get_mut(channel) {
            entry.wanted = false;
            entry.was_live = false;
            entry.waiting = None;
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
            let askers = entry.take_position();
            if !askers.is_empty() {
                commands.ask.push(Question { channel: channel.clone(), askers });
            }
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
        for waiting in entry.take_confirmation() {
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

/// Adds one who waits. While Redis is away those who gave up must not pile up: they are looked for before the list grows.
fn add<T>(waiting: &mut Vec<oneshot::Sender<T>>, one: oneshot::Sender<T>) {
    if waiting.len() == waiting.capacity() {
        waiting.retain(|one| !one.is_closed());
    }
    waiting.push(one);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::FeedPosition;
    use crate::redis::RedisError;

    fn want(table: &mut Table, channel: &str) -> oneshot::Receiver<()> {
        let (waiting, confirmed) = oneshot::channel();
        table.want(channel, waiting);
        confirmed
    }

    /// What is sent: subscribed, left, asked.
    fn sent(table: &mut Table) -> [Vec<String>; 3] {
        let Commands { subscribe, unsubscribe, ask } = table.take(10);
        [subscribe, unsubscribe, ask.into_iter().map(|question| question.channel).collect()]
    }

    fn these(subscribe: &[&str], unsubscribe: &[&str], ask: &[&str]) -> [Vec<String>; 3] {
        [subscribe, unsubscribe, ask].map(|channels| channels.iter().map(|channel| (*channel).to_owned()).collect())
    }

    fn ask(table: &mut Table, channel: &str) -> oneshot::Receiver<Result<FeedPosition, RedisError>> {
        let (asker, answered) = oneshot::channel();
        table.ask(channel, asker);
        answered
    }

    #[test]
    fn two_who_want_the_same_cost_one_command() {
        let mut table = Table::default();
        let (mut first, mut second) = (want(&mut table, "a"), want(&mut table, "a"));
        assert_eq!(sent(&mut table), these(&["a"], &[], &[]));
        assert_eq!(sent(&mut table), these(&[], &[], &[]));
        assert!(first.try_recv().is_err());
        assert!(!table.confirmed("a"));
        assert!(first.try_recv().is_ok() && second.try_recv().is_ok());
        assert!(want(&mut table, "a").try_recv().is_ok(), "live already");
    }

    #[test]
    fn a_subscription_that_was_left_meanwhile_is_confirmed_by_its_last_command_only() {
        let mut table = Table::default();
        drop(want(&mut table, "a"));
        assert_eq!(sent(&mut table), these(&["a"], &[], &[]));
        table.leave("a");
        assert_eq!(table.take(10).unsubscribe, ["a"]);
        let mut again = want(&mut table, "a");
        assert_eq!(sent(&mut table), these(&["a"], &[], &[]));
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
        drop(ask(&mut table, "c"));
        table.leave("c");
        assert_eq!(sent(&mut table), these(&[], &[], &[]));
        assert!(table.entries.is_empty());
    }

    #[test]
    fn who_asks_is_answered_from_after_the_asking() {
        let mut table = Table::default();
        let _first = ask(&mut table, "a");
        assert_eq!(sent(&mut table), these(&["a"], &[], &["a"]));
        let _later = ask(&mut table, "a");
        assert_eq!(sent(&mut table), these(&[], &[], &["a"]), "subscribed it is, but that answer may be older");
    }

    #[test]
    fn those_who_gave_up_waiting_do_not_pile_up() {
        let mut table = Table::default();
        let _patient = ask(&mut table, "a");
        for _ in 0..1_000 {
            drop((want(&mut table, "a"), ask(&mut table, "a")));
        }
        let waiting = table.entries["a"].waiting.as_ref().expect("one waits");
        assert!(waiting.confirmation.len() < 10 && waiting.position.len() < 10);
        assert!(table.take(10).ask[0].askers.iter().any(|asker| !asker.is_closed()), "who waits is still there");
    }

    #[test]
    fn a_question_that_the_connection_takes_with_it_is_asked_again() {
        let mut table = Table::default();
        let (stays, left) = (ask(&mut table, "a"), ask(&mut table, "b"));
        let under_way = table.take(10).ask;
        table.leave("b");
        table.disconnected();
        under_way.into_iter().for_each(|question| table.ask_again(question));
        let again = table.take(10);
        assert_eq!((again.subscribe, again.ask.len()), (vec!["a".to_owned()], 1));
        assert!(!again.ask[0].askers[0].is_closed(), "it is the same asker");
        drop((stays, left));
    }
}
