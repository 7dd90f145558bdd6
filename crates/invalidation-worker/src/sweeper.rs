//! Sweeps beside the worker's loop: a commit that names a pattern does not hold those that follow.
//!
//! Per pattern at most one pass runs and one waits, however often it is asked for: a pass covers every entry that was
//! read before it began. Requests are numbered, so that publications can wait for all passes up to a number. The cursor
//! waits for none: what is [unsettled](Sweeper::unsettled) is saved with it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

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

/// For how long a pass that is done is remembered: a replica promoted after it may lack its last removals.
const RECENT: Duration = Duration::from_secs(60);

/// A request's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Ticket(u64);

#[cfg(test)]
impl Ticket {
    pub(crate) fn nth(number: u64) -> Self {
        Self(number)
    }
}

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
    waiting: BTreeMap<String, (Ticket, SystemTime)>,
    /// The pattern of the pass that runs, and the first request that it serves.
    running: Option<(String, Ticket, SystemTime)>,
    /// Patterns whose pass was done lately, with when it was asked for and when it ended.
    done: BTreeMap<String, (SystemTime, Instant)>,
}

impl Book {
    fn ask(&mut self, pattern: String, since: SystemTime) {
        self.last.0 += 1;
        self.waiting.entry(pattern).or_insert((self.last, since));
    }

    /// Takes the pattern that waits longest.
    fn begin(&mut self) -> Option<(String, SystemTime)> {
        let pattern = self.waiting.iter().min_by_key(|(_, (ticket, _))| *ticket).map(|(pattern, _)| pattern.clone())?;
        let (ticket, since) = self.waiting.remove(&pattern)?;
        self.running = Some((pattern.clone(), ticket, since));
        Some((pattern, since))
    }

    /// The pass that runs is done at `now`.
    fn end(&mut self, now: Instant) {
        self.done.retain(|_, (_, ended)| *ended + RECENT > now);
        if let Some((pattern, _, since)) = self.running.take() {
            self.done.insert(pattern, (since, now));
        }
    }

    /// Patterns that have to be swept again should another server answer: those whose pass is not done, or was lately.
    fn unsettled(&self, now: Instant) -> BTreeMap<String, SystemTime> {
        let done = self.done.iter().filter(|(_, (_, ended))| *ended + RECENT > now);
        let done = done.map(|(pattern, (since, _))| (pattern.clone(), *since));
        let waiting = self.waiting.iter().map(|(pattern, (_, since))| (pattern.clone(), *since));
        let running = self.running.iter().map(|(pattern, _, since)| (pattern.clone(), *since));
        // Of a pattern that is in several places the oldest request counts that is not done.
        done.chain(waiting).chain(running).collect()
    }

    /// Everything asked for up to and including this was swept.
    fn swept(&self) -> Ticket {
        let running = self.running.iter().map(|(_, ticket, _)| *ticket);
        let open = self.waiting.values().map(|(ticket, _)| *ticket).chain(running).min();
        open.map_or(self.last, |open| Ticket(open.0 - 1))
    }
}

impl Sweeper {
    /// Asks for a pass of each pattern that begins after now. Waits while too many are waiting.
    pub(crate) async fn ask(&self, patterns: impl IntoIterator<Item = String>, reign: &Reign) {
        let now = SystemTime::now();
        self.ask_again(patterns.into_iter().map(|pattern| (pattern, now)), reign).await;
    }

    /// Asks again for passes that were asked for before, by another worker perhaps, and were not finished.
    pub(crate) async fn ask_again(&self, sweeps: impl IntoIterator<Item = (String, SystemTime)>, reign: &Reign) {
        for (pattern, since) in sweeps {
            self.book().ask(pattern, since);
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

    /// Patterns that whoever leads next has to sweep, and since when each was asked for: those whose pass is not done,
    /// and those whose pass was done so lately that a promotion could undo it.
    pub(crate) fn unsettled(&self) -> BTreeMap<String, SystemTime> {
        self.book().unsettled(Instant::now())
    }

    /// Waits until everything asked for so far was swept; `false` when the reign ended before.
    pub(crate) async fn finished(&self, reign: &Reign) -> bool {
        let last = self.last();
        self.until(reign, |book| book.swept() >= last).await
    }

    /// Sweeps until the reign is over. What was not swept by then is swept by whoever leads next: it stands beside the
    /// cursor.
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
            metrics.sweep_age.observe(since.elapsed().unwrap_or_default());
            self.book().end(Instant::now());
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
        book.ask("a*".into(), SystemTime::UNIX_EPOCH);
        book.ask("b*".into(), SystemTime::UNIX_EPOCH);
        assert_eq!(book.begin().expect("a pass").0, "a*");
        book.ask("a*".into(), SystemTime::UNIX_EPOCH);
        book.ask("a*".into(), SystemTime::UNIX_EPOCH);
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

    #[test]
    fn a_pass_is_unsettled_until_no_promotion_can_undo_it() {
        let mut book = Book::default();
        let (asked, now) = (SystemTime::UNIX_EPOCH, Instant::now());
        let names = |book: &Book, now| book.unsettled(now).into_keys().collect::<Vec<_>>();
        book.ask("a*".into(), asked);
        book.ask("b*".into(), asked);
        book.begin();
        assert_eq!(names(&book, now), ["a*", "b*"]);
        book.end(now);
        assert_eq!(names(&book, now + RECENT - Duration::from_nanos(1)), ["a*", "b*"]);
        assert_eq!(names(&book, now + RECENT), ["b*"]);
    }
}
