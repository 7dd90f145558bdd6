//! What became of every transaction of a storm, and what clients received of it: the judge of promise 3.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::fleet::Seen;

/// What the application knows of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is open, or its connection was lost while it committed.
    Uncertain,
    /// It was told that it committed.
    Committed,
    /// It did not commit, or the savepoint around this effect was rolled back.
    RolledBack,
}

/// One effect: a publication to its owner, and mostly a key that goes.
#[derive(Debug)]
struct Effect {
    /// The client that must hear of it.
    owner: usize,
    /// The public id; what the API publishes has one of its own, known from its first arrival.
    uid: Option<String>,
    /// By the change log, with a key; else by the API.
    logged: bool,
    fate: Fate,
    arrivals: usize,
}

/// All effects by their number, which is their publication's data, and in their key.
#[derive(Debug, Default)]
pub(super) struct Book(Mutex<Pages>);

#[derive(Debug, Default)]
struct Pages {
    effects: HashMap<u64, Effect>,
    wrong: BTreeMap<&'static str, Vec<String>>,
}

/// The cache key of an effect.
pub(super) fn key(id: u64) -> String {
    format!("fact:{id}")
}

impl Book {
    /// A transaction is about to commit this effect, whose entry in the change log has this public id.
    pub(super) fn open(&self, id: u64, owner: usize, uid: String) {
        let effect = Effect { owner, uid: Some(uid), logged: true, fate: Fate::Uncertain, arrivals: 0 };
        self.pages().effects.insert(id, effect);
    }

    /// The API is about to be asked to publish this.
    pub(super) fn ask(&self, id: u64, owner: usize) {
        let effect = Effect { owner, uid: None, logged: false, fate: Fate::Uncertain, arrivals: 0 };
        self.pages().effects.insert(id, effect);
    }

    /// What became of it.
    pub(super) fn close(&self, ids: &[u64], fate: Fate) {
        let mut pages = self.pages();
        for id in ids {
            if let Some(effect) = pages.effects.get_mut(id) {
                effect.fate = fate;
            }
        }
    }

    /// A client saw something.
    pub(super) fn arrived(&self, seen: &Seen) {
        if seen.e != "pub" {
            if seen.e == "disconnected" && seen.code != Some(0) {
                self.pages().add("ended for good", format!("client {} by code {:?}", seen.c, seen.code));
            }
            return;
        }
        let mut pages = self.pages();
        let id = seen.data["id"].as_u64();
        let Some(effect) = id.and_then(|id| pages.effects.get_mut(&id)) else {
            return pages.add("published by nobody", format!("client {}: {} {:?}", seen.c, seen.data, seen.id));
        };
        effect.arrivals += 1;
        let expected = effect.uid.get_or_insert_with(|| seen.id.clone().unwrap_or_default()).clone();
        let owner = effect.owner;
        if seen.id.as_ref() != Some(&expected) {
            pages.add("another public id", format!("{} is {expected}, arrived as {:?}", seen.data, seen.id));
        }
        if owner != seen.c {
            pages.add("misdelivered", format!("{} of client {owner} arrived at client {}", seen.data, seen.c));
        }
    }

    /// Whoever knows better than the connection that was lost decides what was committed: the database that goes on.
    /// Returns how many transactions it lacks that were told that they committed.
    pub(super) fn settle(&self, present: &HashSet<u64>) -> usize {
        let mut lost = 0;
        for (id, effect) in self.pages().effects.iter_mut().filter(|(_, effect)| effect.logged) {
            lost += usize::from(effect.fate == Fate::Committed && !present.contains(id));
            effect.fate = if present.contains(id) { Fate::Committed } else { Fate::RolledBack };
        }
        lost
    }

    /// Effects that were committed and not received, except those with a public id among `kept`.
    pub(super) fn missing(&self, kept: &HashSet<String>) -> Vec<u64> {
        let kept = |effect: &Effect| effect.uid.as_ref().is_some_and(|uid| kept.contains(uid));
        let pages = self.pages();
        let missing = pages
            .effects
            .iter()
            .filter(|(_, effect)| effect.fate == Fate::Committed && effect.arrivals == 0 && !kept(effect));
        missing.map(|(id, _)| *id).collect()
    }

    /// The numbers of what passed through the change log with this fate.
    pub(super) fn logged(&self, fate: Fate) -> Vec<u64> {
        let pages = self.pages();
        pages.effects.iter().filter(|(_, effect)| effect.logged && effect.fate == fate).map(|(id, _)| *id).collect()
    }

    /// Of these, what was received.
    pub(super) fn received(&self, ids: &[u64]) -> Vec<u64> {
        let pages = self.pages();
        let received = |id: &&u64| pages.effects.get(id).is_some_and(|effect| effect.arrivals > 0);
        ids.iter().filter(received).copied().collect()
    }

    /// Forgets an arrival, for the trial of this judge.
    pub(super) fn forget_one(&self) {
        let mut pages = self.pages();
        if let Some(effect) = pages.effects.values_mut().find(|e| e.fate == Fate::Committed && e.arrivals == 1) {
            effect.arrivals = 0;
        }
    }

    /// How many publications came more than once, counting each time after the first.
    pub(super) fn repeats(&self) -> usize {
        self.pages().effects.values().map(|effect| effect.arrivals.saturating_sub(1)).sum()
    }

    /// Takes note of something that must not be.
    pub(super) fn wrong(&self, kind: &'static str, example: String) {
        self.pages().add(kind, example);
    }

    /// What was wrong: how many of each kind, and the first of them.
    pub(super) fn verdict(&self) -> Vec<String> {
        let pages = self.pages();
        let kinds = pages.wrong.iter();
        kinds.map(|(kind, all)| format!("{} × {kind}: {}", all.len(), all[..all.len().min(3)].join("; "))).collect()
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pages {
    fn add(&mut self, kind: &'static str, example: String) {
        self.wrong.entry(kind).or_default().push(example);
    }
}
