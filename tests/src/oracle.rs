//! What must be true of everything that clients received: the judge of promises 1 and 2.
//!
//! It knows what was published where (by the receipts of the publishers) and follows each client on each channel: whether
//! every publication came, once, in order, to its owner, and never one of an epoch that the client has not been told of.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Mutex;

use anyhow::Result;
use fanout_core::envelope::Position;
use fanout_core::{Channel, Data, Publication, PublishError, Publisher};
use serde_json::Value;

use crate::fleet::Seen;

/// What was published, as far as it is known.
#[derive(Debug, Default)]
pub struct Ledger {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Which publications were given a position.
    given: HashMap<(String, String, u64), Vec<u64>>,
    /// Publications whose call failed: they may have been published.
    uncertain: HashSet<(String, u64)>,
}

impl Ledger {
    /// Publishes the number `n` and takes note of what became of it; says whether it was confirmed.
    ///
    /// # Errors
    /// Only what no fault explains: a channel or data that is refused.
    pub async fn publish(&self, publisher: &Publisher, channel: &str, n: u64) -> Result<bool> {
        let publication = Publication::new(Channel::parse(channel)?, Data::parse(n.to_string())?);
        match publisher.publish(publication).await {
            Ok(receipt) => {
                let position = receipt.position.map(|at| (at.epoch.to_string(), at.offset)).unwrap_or_default();
                self.confirmed(channel, position, n);
                Ok(true)
            }
            Err(PublishError::Redis(_)) => {
                self.failed(channel, n);
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// `n` was published on `channel` and was given this epoch and offset.
    pub fn confirmed(&self, channel: &str, (epoch, offset): (String, u64), n: u64) {
        self.known().given.entry((channel.to_owned(), epoch, offset)).or_default().push(n);
    }

    /// `n` may have been published on `channel`.
    pub fn failed(&self, channel: &str, n: u64) {
        self.known().uncertain.insert((channel.to_owned(), n));
    }

    /// Positions that name two publications.
    pub fn collisions(&self) -> usize {
        self.known().given.values().filter(|publications| publications.len() > 1).count()
    }

    /// How many publications were confirmed.
    pub fn confirmations(&self) -> usize {
        self.known().given.values().map(Vec::len).sum()
    }

    fn has(&self, channel: &str, epoch: &str, offset: u64, data: &Value) -> bool {
        let Some(n) = data.as_u64() else { return false };
        let known = self.known();
        let place = (channel.to_owned(), epoch.to_owned(), offset);
        known.given.get(&place).is_some_and(|publications| publications.contains(&n))
            || known.uncertain.contains(&(channel.to_owned(), n))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// What is wrong with what clients received, a sentence each; few are kept, all are counted.
#[derive(Debug, Default)]
pub struct Findings {
    /// How many, by kind.
    pub counts: BTreeMap<&'static str, usize>,
    /// The first of them.
    pub examples: Vec<String>,
}

impl Findings {
    fn add(&mut self, kind: &'static str, seen: &Seen, more: &str) {
        *self.counts.entry(kind).or_default() += 1;
        if self.examples.len() < 5 {
            let Seen { c, t, channel, offset, data, .. } = seen;
            let offset = offset.map_or_else(|| "none".to_owned(), |offset| offset.to_string());
            self.examples
                .push(format!("{kind}: client {c} at {t} ms on {channel}, offset {offset}, data {data}: {more}"));
        }
    }
}

/// Where one client stands on one channel.
#[derive(Debug, Default)]
struct Reader {
    /// Epoch and last offset; none while the subscription has no position.
    at: Option<(String, u64)>,
    /// When it was told that continuity is lost, in milliseconds.
    told: Vec<u64>,
    received: u64,
}

/// Follows what clients see.
#[derive(Debug)]
pub struct Oracle<'a> {
    ledger: &'a Ledger,
    users: Vec<String>,
    readers: HashMap<(usize, String), Reader>,
    /// The last number of each client on its present connection, over all its personal channels.
    order: HashMap<usize, u64>,
    /// What came, and the epoch that its client knew of.
    unverified: Vec<(Seen, String)>,
    /// Clients that are connected.
    pub connected: HashSet<usize>,
    known: HashSet<usize>,
    /// Who lost a connection, and when, in milliseconds.
    pub losses: Vec<(usize, u64)>,
    /// When clients were connected again, in milliseconds.
    pub returns: Vec<u64>,
    /// What was wrong.
    pub findings: Findings,
}

impl<'a> Oracle<'a> {
    /// Judges the clients of `users`, by their index.
    pub fn new(ledger: &'a Ledger, users: Vec<String>) -> Self {
        Self {
            ledger,
            users,
            readers: HashMap::new(),
            order: HashMap::new(),
            unverified: Vec::new(),
            connected: HashSet::new(),
            known: HashSet::new(),
            losses: Vec::new(),
            returns: Vec::new(),
            findings: Findings::default(),
        }
    }

    /// Takes note of what a client saw.
    pub fn observe(&mut self, seen: &Seen) {
        match seen.e.as_str() {
            "connecting" | "disconnected" => {
                if self.connected.remove(&seen.c) && seen.e == "connecting" {
                    self.losses.push((seen.c, seen.t));
                }
                self.order.remove(&seen.c);
                if seen.e == "disconnected" && seen.code != Some(0) {
                    self.findings.add("ended for good", seen, &format!("code {:?}", seen.code));
                }
            }
            "connected" => {
                self.connected.insert(seen.c);
                if !self.known.insert(seen.c) {
                    self.returns.push(seen.t);
                }
            }
            "subscribed" => self.subscribed(seen),
            "pub" => self.publication(seen),
            _ => {}
        }
    }

    fn subscribed(&mut self, seen: &Seen) {
        let reader = self.readers.entry((seen.c, seen.channel.clone())).or_default();
        if seen.recovered {
            let asked = seen.epoch.clone().zip(seen.offset);
            if reader.at != asked {
                self.findings.add("recovered from elsewhere", seen, &format!("it stood at {:?}", reader.at));
            }
            return;
        }
        if seen.was_recovering {
            reader.told.push(seen.t);
        }
        let position = seen.epoch.clone().zip(Some(seen.offset.unwrap_or(0)));
        reader.at = position.filter(|_| seen.recoverable);
    }

    fn publication(&mut self, seen: &Seen) {
        let owner = seen.channel.split_once(":#").map(|(_, user)| user);
        if owner.is_some_and(|owner| self.users.get(seen.c).is_none_or(|user| user != owner)) {
            return self.findings.add("misdelivered", seen, &format!("the client is {:?}", self.users.get(seen.c)));
        }
        let Some(offset) = seen.offset else { return };
        let reader = self.readers.entry((seen.c, seen.channel.clone())).or_default();
        reader.received += 1;
        let Some((epoch, last)) = &mut reader.at else { return };
        if offset <= *last {
            return self.findings.add("repeated or out of order", seen, &format!("the last one was {last}"));
        }
        if offset > *last + 1 {
            self.findings.add("lost", seen, &format!("the last one was {last}"));
        }
        *last = offset;
        let epoch = epoch.clone();
        self.unverified.push((seen.clone(), epoch));
    }

    /// Compares what came with what was published, which is only known once the publishers have their answers.
    pub fn verify(&mut self) {
        for (seen, epoch) in std::mem::take(&mut self.unverified) {
            if !self.ledger.has(&seen.channel, &epoch, seen.offset.unwrap_or(0), &seen.data) {
                self.findings.add("not what was published there", &seen, &format!("the client knows of epoch {epoch}"));
            }
        }
    }

    /// A publication that never came.
    pub fn never_came(&mut self, behind: &[String]) {
        *self.findings.counts.entry("lost: never came").or_default() += behind.len();
        self.findings.examples.extend(behind.iter().take(3).cloned());
    }

    /// How many clients do not stand at the tops of their channels, or are not connected.
    pub fn behind(&self, tops: &HashMap<String, Position>, channels: impl Fn(usize) -> Vec<String>) -> Vec<String> {
        let mut behind = Vec::new();
        for client in 0..self.users.len() {
            for channel in channels(client) {
                let top = tops.get(&channel).map(|top| (top.epoch.to_string(), top.offset));
                let at = self.readers.get(&(client, channel.clone())).and_then(|reader| reader.at.clone());
                if at != top || !self.connected.contains(&client) {
                    behind.push(format!("client {client} on {channel} is at {at:?}, the top is {top:?}"));
                }
            }
        }
        behind
    }

    /// How often, and when, each client was told on each of its channels.
    pub fn told(&self) -> impl Iterator<Item = (usize, &str, &[u64])> {
        self.readers.iter().map(|((client, channel), reader)| (*client, channel.as_str(), reader.told.as_slice()))
    }

    /// How many publications with a position were received, repeated ones included.
    pub fn received(&self) -> u64 {
        self.readers.values().map(|reader| reader.received).sum()
    }

    /// One user's events have one order while connected: `n` grows over all channels of a client. To be asked only where
    /// one publisher numbered all of them, and for what did not come by a client's own recovery.
    pub fn in_one_order(&mut self, seen: &Seen) {
        if let (true, Some(n)) = (seen.e == "pub" && seen.channel.contains('#'), seen.data.as_u64()) {
            let last = self.order.insert(seen.c, n);
            if last.is_some_and(|last| last >= n) {
                self.findings.add("not in the order of the feed", seen, &format!("after {last:?}"));
            }
        }
    }
}
