//! The loop: read what the cursor has not seen, invalidate, publish, move the cursor.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use change_log::{Mark, Page, Pass, Reader, Rules};
use fanout_core::admin::Health;
use fanout_core::{Publication, PublishError, Publisher, Redis, RedisError};

use crate::WorkerConfig;
use crate::metrics::Metrics;
use crate::plan::{Plan, Poison, plan};
use crate::redelete::Redelete;
use crate::reign::Reign;
use crate::sweeper::{Sweeper, Ticket};

/// Between two polls while something happens.
const BUSY: Duration = Duration::from_millis(2);
/// Between two polls when nothing has happened for a while.
const IDLE: Duration = Duration::from_millis(50);
/// The cursor is saved at most this often; what is repeated after a crash is repeated harmlessly.
const SAVE: Duration = Duration::from_millis(250);
/// First and longest wait after a failure.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Applies the change log to one region, for one term.
pub(crate) struct Worker {
    pub(crate) reader: Reader,
    pub(crate) rules: Arc<Rules>,
    pub(crate) redis: Redis,
    pub(crate) publisher: Publisher,
    pub(crate) config: WorkerConfig,
    pub(crate) health: Health,
    pub(crate) metrics: Metrics,
    pub(crate) reign: Reign,
    pub(crate) sweeper: Sweeper,
    pub(crate) redelete: Redelete,
    /// A cursor that is saved once the sweeps that were asked for before it are done.
    pub(crate) mark: Option<(Ticket, Mark)>,
}

/// The reign ended before the work was done.
struct Stopped;

impl Worker {
    /// Works until the reign is over, and then saves the cursor if it may.
    pub(crate) async fn run(mut self) {
        let mut wait = BUSY;
        let mut saved = Instant::now();
        let mut failure = RETRY.0;
        while !self.reign.is_over() {
            match self.reader.poll(self.config.page_entries).await {
                Ok(page) => {
                    self.health.up("postgresql");
                    failure = RETRY.0;
                    wait = if page.entries.is_empty() { (wait * 2).min(IDLE) } else { BUSY };
                    let more = page.more;
                    if self.page(page).await.is_err() {
                        break;
                    }
                    if saved.elapsed() >= SAVE {
                        if self.save().await.is_err() {
                            return;
                        }
                        saved = Instant::now();
                    }
                    if !more {
                        self.reign.pause(wait).await;
                    }
                }
                Err(error) => {
                    self.metrics.errors.count("postgresql");
                    self.health.down("postgresql", error.to_string());
                    self.reign.pause(jittered(failure)).await;
                    failure = (failure * 2).min(RETRY.1);
                }
            }
        }
        // The mark that waited, and then what came after it.
        if self.reign.may_act() && self.save().await.is_ok() {
            let _ = self.save().await;
        }
    }

    /// Saves how far everything took effect, sweeps included: a cursor waits as a mark until those that were asked for
    /// before it are done.
    async fn save(&mut self) -> Result<(), Stopped> {
        let due = self.mark.take().or_else(|| Some((self.sweeper.last(), self.reader.mark()?)));
        let Some((asked, mark)) = due else { return Ok(()) };
        if self.sweeper.swept() < asked {
            self.mark = Some((asked, mark));
            return Ok(());
        }
        match self.reader.save(mark).await {
            Ok(()) => Ok(()),
            Err(error @ change_log::Error::Superseded { .. }) => {
                tracing::warn!(%error, "the cursor is not saved");
                Err(Stopped)
            }
            Err(error) => {
                self.metrics.errors.count("postgresql");
                self.health.down("postgresql", error.to_string());
                Ok(())
            }
        }
    }

    /// Applies a page; the reader moves on only when everything was confirmed.
    async fn page(&mut self, page: Page) -> Result<(), Stopped> {
        if !page.entries.is_empty() {
            self.apply(page.pass, plan(&page.entries, &self.rules)).await?;
            if matches!(page.pass, Pass::All | Pass::AfterSweep) {
                self.count(&page);
            }
        }
        self.reader.confirm(page);
        Ok(())
    }

    /// Does what is due. A backlog is gone through once per [`Pass`], so that the keys of a transaction are gone before
    /// any of its publications leaves, however its entries lie in the windows.
    async fn apply(&mut self, pass: Pass, plan: Plan) -> Result<(), Stopped> {
        if matches!(pass, Pass::All | Pass::Invalidate) {
            plan.poison.iter().for_each(|poison| self.set_aside(poison));
            self.delete(&plan.keys).await?;
            self.redelete.ask(plan.redelete, &self.reign).await;
            self.sweeper.ask(plan.patterns, &self.reign).await;
        }
        if matches!(pass, Pass::All | Pass::Publish) {
            self.publish(plan.publications).await?;
        }
        if matches!(pass, Pass::All | Pass::AfterSweep) && !plan.after_sweep.is_empty() {
            if !self.sweeper.finished(&self.reign).await {
                return Err(Stopped);
            }
            self.publish(plan.after_sweep).await?;
        }
        Ok(())
    }

    fn count(&self, page: &Page) {
        let now = SystemTime::now();
        for entry in &page.entries {
            self.metrics.entries.count(entry.body.kind());
            // Clocks of two machines may differ; a negative lag is none.
            self.metrics.lag.observe(now.duration_since(entry.at).unwrap_or_default());
        }
    }

    async fn delete(&self, keys: &[String]) -> Result<(), Stopped> {
        if !keys.is_empty() {
            let deleted = self.insist(|| self.redis.unlink(keys)).await?;
            self.metrics.keys.inc_by(deleted);
        }
        Ok(())
    }

    /// Publishes all, in order; what Redis did not confirm is tried again, and nothing overtakes it.
    async fn publish(&self, mut publications: Vec<Publication>) -> Result<(), Stopped> {
        let mut failure = RETRY.0;
        while !publications.is_empty() {
            let results = self.publisher.publish_while(publications.clone(), || self.reign.may_act()).await;
            let mut again = Vec::new();
            let mut cause = None;
            for (publication, result) in publications.into_iter().zip(results) {
                match result {
                    Ok(receipt) => {
                        self.metrics.publications.inc();
                        self.metrics.repeated.inc_by(u64::from(receipt.repeated));
                    }
                    Err(PublishError::Redis(error)) => {
                        cause = Some(error);
                        again.push(publication);
                    }
                    Err(error) => {
                        let reason =
                            if matches!(error, PublishError::UnknownTopic(_)) { "unknown_topic" } else { "limit" };
                        self.set_aside(&Poison { entry: 0, reason, text: format!("{}: {error}", publication.id) });
                    }
                }
            }
            publications = again;
            if let Some(error) = cause {
                self.failed(&error, &mut failure).await?;
            }
        }
        Ok(())
    }

    /// Repeats `command`, which must be harmless to repeat, until Redis confirms it.
    async fn insist<T, F>(&self, command: impl Fn() -> F) -> Result<T, Stopped>
    where
        F: Future<Output = Result<T, RedisError>>,
    {
        let mut failure = RETRY.0;
        loop {
            if !self.reign.may_act() {
                return Err(Stopped);
            }
            match command().await {
                Ok(value) => return Ok(value),
                Err(error) => self.failed(&error, &mut failure).await?,
            }
        }
    }

    async fn failed(&self, error: &RedisError, wait: &mut Duration) -> Result<(), Stopped> {
        // Not Redis's fault: what this worker did not send, it was not permitted to send.
        if !self.reign.may_act() {
            return Err(Stopped);
        }
        self.metrics.errors.count("redis");
        self.health.down("redis", error.to_string());
        if !self.reign.pause(jittered(*wait)).await {
            return Err(Stopped);
        }
        *wait = (*wait * 2).min(RETRY.1);
        Ok(())
    }

    fn set_aside(&self, poison: &Poison) {
        self.metrics.poison.count(poison.reason);
        tracing::warn!(entry = poison.entry, reason = poison.reason, "set aside: {}", poison.text);
    }
}

/// Between half and the whole of `wait`, so that workers do not come back in step.
pub(crate) fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.5 + 0.5 * fastrand::f64())
}
