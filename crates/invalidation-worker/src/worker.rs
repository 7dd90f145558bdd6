//! The loop: read what the cursor has not seen, invalidate, publish, move the cursor.

use std::time::{Duration, Instant, SystemTime};

use change_log::{Page, Reader, Rules};
use fanout_core::admin::Health;
use fanout_core::{Publication, PublishError, Publisher, Redis, RedisError, Shutdown};

use crate::WorkerConfig;
use crate::metrics::Metrics;
use crate::plan::{Plan, Poison, plan};
use crate::sweep::sweep;

/// Between two polls while something happens.
const BUSY: Duration = Duration::from_millis(2);
/// Between two polls when nothing has happened for a while.
const IDLE: Duration = Duration::from_millis(50);
/// The cursor is saved at most this often; what is repeated after a crash is repeated harmlessly.
const SAVE: Duration = Duration::from_millis(250);
/// First and longest wait after a failure.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Applies the change log to one region.
pub(crate) struct Worker {
    pub(crate) reader: Reader,
    pub(crate) rules: Rules,
    pub(crate) redis: Redis,
    pub(crate) publisher: Publisher,
    pub(crate) config: WorkerConfig,
    pub(crate) health: Health,
    pub(crate) metrics: Metrics,
    pub(crate) shutdown: Shutdown,
}

/// The ending was asked for before the work was done.
struct Stopped;

impl Worker {
    /// Works until the ending is asked for, and then saves the cursor.
    pub(crate) async fn run(mut self) {
        let mut wait = BUSY;
        let mut saved = Instant::now();
        let mut failure = RETRY.0;
        while !self.shutdown.is_requested() {
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
                        self.save().await;
                        saved = Instant::now();
                    }
                    if !more {
                        self.shutdown.pause(wait).await;
                    }
                }
                Err(error) => {
                    self.metrics.errors.count("postgresql");
                    self.health.down("postgresql", error.to_string());
                    self.shutdown.pause(jittered(failure)).await;
                    failure = (failure * 2).min(RETRY.1);
                }
            }
        }
        self.save().await;
    }

    async fn save(&mut self) {
        if let Err(error) = self.reader.save().await {
            self.metrics.errors.count("postgresql");
            self.health.down("postgresql", error.to_string());
        }
    }

    /// Applies a page; the reader moves on only when everything was confirmed.
    async fn page(&mut self, page: Page) -> Result<(), Stopped> {
        if !page.entries.is_empty() {
            let plan = plan(&page.entries, &self.rules);
            self.apply(plan).await?;
            let now = SystemTime::now();
            for entry in &page.entries {
                self.metrics.entries.count(entry.body.kind());
                self.metrics.lag.observe(now.duration_since(entry.at).unwrap_or_default());
            }
        }
        self.reader.confirm(page);
        Ok(())
    }

    async fn apply(&self, plan: Plan) -> Result<(), Stopped> {
        for poison in &plan.poison {
            self.set_aside(poison);
        }
        if !plan.keys.is_empty() {
            let deleted = self.insist(|| self.redis.unlink(&plan.keys)).await?;
            self.metrics.keys.inc_by(deleted);
        }
        self.publish(plan.publications).await?;
        for pattern in &plan.patterns {
            let begun = Instant::now();
            let swept = self.insist(|| sweep(&self.redis, pattern, self.config.sweep_count)).await?;
            self.metrics.swept.inc_by(swept);
            self.metrics.sweep.observe(begun.elapsed());
            tracing::debug!(pattern, swept, seconds = begun.elapsed().as_secs_f64(), "swept");
        }
        self.publish(plan.after_sweep).await
    }

    /// Publishes all, in order; what Redis did not confirm is tried again, and nothing overtakes it.
    async fn publish(&self, mut publications: Vec<Publication>) -> Result<(), Stopped> {
        let mut failure = RETRY.0;
        while !publications.is_empty() {
            let results = self.publisher.publish_all(publications.clone()).await;
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
                        let reason = if matches!(error, PublishError::UnknownTopic(_)) { "unknown_topic" } else { "limit" };
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
            match command().await {
                Ok(value) => return Ok(value),
                Err(error) => self.failed(&error, &mut failure).await?,
            }
        }
    }

    async fn failed(&self, error: &RedisError, wait: &mut Duration) -> Result<(), Stopped> {
        self.metrics.errors.count("redis");
        self.health.down("redis", error.to_string());
        if !self.shutdown.pause(jittered(*wait)).await {
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
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.5 + 0.5 * fastrand::f64())
}
