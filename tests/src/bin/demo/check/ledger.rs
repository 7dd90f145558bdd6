//! What was sent and what arrived.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use super::paths::Path;
use crate::shop::now_us;
use crate::subscriber::Arrival;

/// Everything sent, by the id in its data.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    books: Mutex<Books>,
    /// Something arrived.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Books {
    sent: HashMap<String, Sent>,
    /// Sent, meant to arrive, and not there yet, by path.
    missing: HashMap<Path, usize>,
    strangers: usize,
}

#[derive(Debug)]
struct Sent {
    path: Path,
    user: String,
    at: i64,
    /// The public id, where the sender was told.
    public_id: Option<String>,
    rolled_back: bool,
    arrivals: Vec<Arrival>,
}

/// The figures of one path.
#[derive(Debug, Default)]
pub(crate) struct Row {
    pub(crate) count: usize,
    pub(crate) lost: usize,
    pub(crate) misdelivered: usize,
    pub(crate) repeated: usize,
    pub(crate) stale: usize,
    pub(crate) ghosts: usize,
    pub(crate) wrong_ids: usize,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

impl Ledger {
    /// Something is about to be sent to `user`, at `at` in microseconds since 1970.
    pub(crate) fn sending(&self, id: &str, path: Path, user: &str, at: i64) {
        let sent = Sent { path, user: user.to_owned(), at, public_id: None, rolled_back: false, arrivals: Vec::new() };
        let mut books = self.books();
        *books.missing.entry(path).or_default() += 1;
        books.sent.insert(id.to_owned(), sent);
    }

    /// Time counts from now: what came before was preparation.
    pub(crate) fn sending_now(&self, id: &str) {
        if let Some(sent) = self.books().sent.get_mut(id) {
            sent.at = now_us();
        }
    }

    /// The sender was told the public id.
    pub(crate) fn public_id(&self, id: &str, public_id: String) {
        if let Some(sent) = self.books().sent.get_mut(id) {
            sent.public_id = Some(public_id);
        }
    }

    /// The transaction rolled back: it must not arrive.
    pub(crate) fn rolled_back(&self, id: &str) {
        let mut books = self.books();
        let Books { sent, missing, .. } = &mut *books;
        if let Some(sent) = sent.get_mut(id) {
            sent.rolled_back = true;
            settled(missing, sent.path);
        }
    }

    /// Something arrived somewhere.
    pub(crate) fn arrived(&self, arrival: Arrival) {
        let mut books = self.books();
        let Books { sent, missing, strangers } = &mut *books;
        match arrival.id.as_ref().and_then(|id| sent.get_mut(id)) {
            Some(sent) => {
                let right = arrival.user == sent.user;
                let first = !sent.arrivals.iter().any(|earlier| earlier.user == sent.user);
                if right && first && !sent.rolled_back {
                    settled(missing, sent.path);
                }
                sent.arrivals.push(arrival);
            }
            None => *strangers += 1,
        }
        self.changed.notify_waiters();
    }

    /// Waits until everything sent over `path` has arrived, or nothing has for `patience`.
    pub(crate) async fn settle(&self, path: Path, patience: Duration) {
        loop {
            let changed = self.changed.notified();
            if self.books().missing.get(&path).is_none_or(|missing| *missing == 0)
                || timeout(patience, changed).await.is_err()
            {
                return;
            }
        }
    }

    /// Waits until `id` has arrived, at most for `patience`.
    pub(crate) async fn wait_for(&self, id: &str, patience: Duration) {
        let arrived = async {
            loop {
                let changed = self.changed.notified();
                if self.books().sent.get(id).is_some_and(|sent| !sent.arrivals.is_empty()) {
                    return;
                }
                changed.await;
            }
        };
        // What does not come shows in the table.
        let _ = timeout(patience, arrived).await;
    }

    /// How many arrived that nobody sent.
    pub(crate) fn strangers(&self) -> usize {
        self.books().strangers
    }

    /// The figures of `path`.
    pub(crate) fn row(&self, path: Path) -> Row {
        let books = self.books();
        let mut row = Row::default();
        let mut latencies = Vec::new();
        for sent in books.sent.values().filter(|sent| sent.path == path) {
            row.count += 1;
            let (right, wrong): (Vec<_>, Vec<_>) = sent
                .arrivals
                .iter()
                .partition(|a| a.user == sent.user && a.channel.ends_with(&format!(":#{}", sent.user)));
            row.misdelivered += wrong.len();
            row.repeated += right.len().saturating_sub(1);
            row.stale += right.iter().filter(|arrival| arrival.stale).count();
            let other_id = |a: &&&Arrival| sent.public_id.is_some() && a.public_id != sent.public_id;
            row.wrong_ids += right.iter().filter(other_id).count();
            match right.first() {
                Some(_) if sent.rolled_back => row.ghosts += 1,
                Some(first) => latencies.push(first.at - sent.at),
                None if sent.rolled_back => {}
                None => row.lost += 1,
            }
        }
        latencies.sort_unstable();
        row.p50_ms = percentile(&latencies, 50);
        row.p99_ms = percentile(&latencies, 99);
        row
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn settled(missing: &mut HashMap<Path, usize>, path: Path) {
    if let Some(missing) = missing.get_mut(&path) {
        *missing -= 1;
    }
}

/// In milliseconds, of sorted microseconds.
fn percentile(sorted: &[i64], percent: usize) -> f64 {
    let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    #[expect(clippy::cast_precision_loss, reason = "a duration of microseconds is far below 52 bits")]
    sorted.get(index).map_or(f64::NAN, |micros| *micros as f64 / 1_000.0)
}
