//! Sweeps beside the worker's loop: a commit that names a pattern does not hold those that follow.
//!
//! Per pattern at most one pass runs and one waits, however often it is asked for: a pass covers every entry that was
//! read before it began. Requests are numbered, so that the cursor, and publications that asked to wait, can wait for
//! all passes up to a number.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fanout_core::Redis;
use fanout_core::admin::Health;
use tokio::sync::Notify;

use crate::metrics::Metrics;
use crate::pace::Limits;
use crate::reign::Reign;
use crate::sweep::sweep;

/// Patterns that may wait for their pass; with more, the worker waits.
const WAITING: usize = 256;
/// Between two attempts at a pass that failed.
const RETRY: Duration = Duration::from_millis(250);

/// A request's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Ticket(u64);

/// Where passes are asked for. Clones speak of the same passes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sweeper(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    book: Mutex<Book>,
    asked: Notify,
    done: Notify,
}

/// Which passes are due. Pure bookkeeping.
#[derive(Debug, Default)]
struct Book {
    /// The number of the last request.
    last: Ticket,
    /// Patterns that wait for a pass, each with its first request since the last pass began, and when that was.
    waiting: BTreeMap<String, (Ticket, Instant)>,
    /// The first request that the running pass serves.
    running: Option<Ticket>,
}

impl Book {
    fn ask(&mut self, pattern: String) {
        self.last.0 += 1;
        self.waiting.entry(pattern).or_insert((self.last, Instant::now()));
    }

    /// Takes the pattern that waits longest.
    fn begin(&mut self) -> Option<(String, Instant)> {
        let pattern = self.waiting.iter().min_by_key(|(_, (ticket, _))| *ticket).map(|(pattern, _)| pattern.clone())?;
        let (ticket, since) = self.waiting.remove(&pattern)?;
        self.running = Some(ticket);
        Some((pattern, since))
    }

    /// Everything asked for up to and including this was swept.
    fn swept(&self) -> Ticket {
        let open = self.waiting.values().map(|(ticket, _)| *ticket).chain(self.running).min();
        open.map_or(self.last, |open| Ticket(open.0 - 1))
    }
}

impl Sweeper {
    /// Asks for a pass of each pattern that begins after now. Waits while too many are waiting.
    pub(crate) async fn ask(&self, patterns: Vec<String>, reign: &Reign) {
        for pattern in patterns {
            self.book().ask(pattern);
            self.0.asked.notify_one();
            self.until(reign, |book| book.waiting.len() < WAITING).await;
        }
    }

    /// The number of the last request.
    pub(crate) fn last(&self) -> Ticket {
        self.book().last
    }

    /// Everything asked for up to and including this was swept.
    pub(crate) fn swept(&self) -> Ticket {
        self.book().swept()
    }

    /// Waits until everything asked for so far was swept; `false` when the reign ended before.
    pub(crate) async fn finished(&self, reign: &Reign) -> bool {
        let last = self.last();
        self.until(reign, |book| book.swept() >= last).await
    }

    /// Sweeps until the reign is over. What was not swept by then is swept by whoever leads next: the cursor waited.
    pub(crate) async fn run(self, redis: Redis, limits: Limits, health: Health, metrics: Metrics, reign: Reign) {
        while !reign.is_over() {
            let Some((pattern, since)) = self.book().begin() else {
                tokio::select! {
                    () = reign.over() => return,
                    () = self.0.asked.notified() => continue,
                }
            };
            while let Err(error) = self.pass(&redis, &pattern, limits, &metrics, &reign).await {
                if reign.is_over() {
                    return;
                }
                metrics.errors.count("redis");
                health.down("redis", error.to_string());
                if !reign.pause(RETRY).await {
                    return;
                }
            }
            metrics.sweep_age.observe(since.elapsed());
            self.book().running = None;
            self.0.done.notify_waiters();
        }
    }

    async fn pass(
        &self,
        redis: &Redis,
        pattern: &str,
        limits: Limits,
        metrics: &Metrics,
        reign: &Reign,
    ) -> Result<(), fanout_core::RedisError> {
        let begun = Instant::now();
        let removed = sweep(redis, pattern, limits, reign).await?;
        metrics.swept.inc_by(removed);
        metrics.sweep.observe(begun.elapsed());
        tracing::debug!(pattern, removed, seconds = begun.elapsed().as_secs_f64(), "swept");
        Ok(())
    }

    async fn until(&self, reign: &Reign, reached: impl Fn(&Book) -> bool) -> bool {
        loop {
            let done = self.0.done.notified();
            let mut done = std::pin::pin!(done);
            // Registered before looking, so that a pass that ends in between is not missed.
            done.as_mut().enable();
            if reached(&self.book()) {
                return true;
            }
            tokio::select! {
                biased;
                () = reign.over() => return false,
                () = done => {}
            }
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_runs_once_and_waits_once_and_the_number_waits_for_both() {
        let mut book = Book::default();
        assert_eq!(book.swept(), Ticket(0));
        book.ask("a*".into());
        book.ask("b*".into());
        assert_eq!(book.begin().expect("a pass").0, "a*");
        book.ask("a*".into());
        book.ask("a*".into());
        assert_eq!((book.waiting.len(), book.last), (2, Ticket(4)));
        assert_eq!(book.swept(), Ticket(0));
        book.running = None;
        assert_eq!(book.swept(), Ticket(1), "the first request; b* is due");
        assert_eq!(book.begin().expect("a pass").0, "b*");
        book.running = None;
        assert_eq!(book.swept(), Ticket(2));
        assert_eq!(book.begin().expect("a pass").0, "a*");
        assert_eq!(book.swept(), Ticket(2), "a pass that runs has not swept");
        book.running = None;
        assert_eq!(book.swept(), Ticket(4), "one pass serves both requests that waited");
    }
}
