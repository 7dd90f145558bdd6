//! The loop: read what the cursor has not seen, invalidate, publish, move the cursor.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use change_log::{Lost, Opening, Page, Pass, Progress, Reader, Rules};

use crate::WorkerConfig;
use crate::applier::{Applier, Halt};
use crate::backoff::Backoff;
use crate::hearing::Ears;
use crate::pace::Limits;
use crate::plan::{Plan, plan};
use crate::redelete::Redelete;
use crate::sampler::Sampler;
use crate::sweep::forget_positions;
use crate::sweeper::Sweeper;
use crate::waiting::Waiting;

/// Between two polls while something happens.
const BUSY: Duration = Duration::from_millis(2);
/// Between two polls when nothing has happened for a while.
const IDLE: Duration = Duration::from_millis(50);
/// The cursor is saved at most this often; what is repeated after a crash is repeated harmlessly.
const SAVE: Duration = Duration::from_millis(250);
/// Between two looks whether it is still the same Redis server: what a promotion undid stays undone no longer, however
/// quiet the database is.
const LOOK: Duration = Duration::from_secs(1);
/// After a promotion a lease of the cache that came back with the replica may be used for as long as it lasts, so that
/// what was deleted in the replay is deleted once more after that.
const LEASE: Duration = Duration::from_secs(3);
/// Publications that may wait for sweeps; with more, the loop waits.
const WAITING: usize = 10_000;
/// Longest wait after a failure.
const RETRY: Duration = Duration::from_secs(2);

/// Applies the change log to one region, for one term.
pub(crate) struct Worker {
    reader: Reader,
    rules: Arc<Rules>,
    page_entries: u32,
    sweep_limits: Limits,
    applier: Applier,
    sweeper: Sweeper,
    redelete: Redelete,
    waiting: Waiting,
    sampler: Sampler,
    ears: Ears,
    /// When the server was last seen well.
    looked: Instant,
    /// When a replay is to be repeated.
    again: Option<Instant>,
}

impl Worker {
    pub(crate) fn new(
        reader: Reader,
        rules: Arc<Rules>,
        config: &WorkerConfig,
        applier: Applier,
        sweeper: Sweeper,
        redelete: Redelete,
        ears: Ears,
    ) -> Self {
        Self {
            reader,
            rules,
            page_entries: config.page_entries,
            sweep_limits: config.sweep_limits(),
            applier,
            sweeper,
            redelete,
            waiting: Waiting::default(),
            sampler: Sampler::new(config.log_one_commit_in),
            ears,
            looked: Instant::now(),
            again: None,
        }
    }

    /// Works until the reign is over, and then saves the cursor if it may.
    pub(crate) async fn run(mut self) {
        let mut wait = BUSY;
        let mut saved = Instant::now();
        let mut failure = Backoff::upto(RETRY);
        while !self.applier.reign.is_over() {
            match self.reader.poll(self.page_entries).await {
                Ok(page) => {
                    self.applier.health.up("postgresql");
                    failure.reset();
                    wait = if page.entries.is_empty() { (wait * 2).min(IDLE) } else { BUSY };
                    let more = page.more;
                    if self.turn(page).await.is_err() {
                        break;
                    }
                    if saved.elapsed() >= SAVE {
                        if self.save().await.is_err() {
                            return;
                        }
                        saved = Instant::now();
                    }
                    if !more {
                        self.rest(wait).await;
                    }
                }
                Err(error) => {
                    self.lost_database(&error);
                    self.applier.reign.pause(failure.wait()).await;
                }
            }
        }
        if self.applier.reign.may_act() {
            let _ = self.save().await;
        }
    }

    /// Waits for `duration`, or less when something is notified or the reign ends.
    async fn rest(&self, duration: Duration) {
        tokio::select! {
            biased;
            () = self.ears.woken() => {
                self.applier.metrics.wakes.inc();
            }
            _ = self.applier.reign.pause(duration) => {}
        }
    }

    /// Applies a page, what was heard and what waited, and goes back for a replay when another server answers.
    async fn turn(&mut self, page: Page) -> Result<(), Halt> {
        let more = page.more;
        let applied = async {
            self.page(page).await?;
            self.hear().await?;
            self.release().await?;
            self.look(more).await
        };
        match applied.await {
            Err(Halt::Moved) => self.replay().await,
            outcome => outcome,
        }
    }

    /// Applies a page; the reader moves on only when everything was confirmed. A backlog is gone through once per
    /// [`Pass`], so that the keys of a transaction are gone before any of its publications leaves, however its entries
    /// lie in the windows.
    async fn page(&mut self, mut page: Page) -> Result<(), Halt> {
        if let Some(opening) = page.opening.take() {
            self.take_up(opening).await?;
        }
        if !page.entries.is_empty() {
            let mut plan = plan(&page.entries, &self.rules);
            if page.pass != Pass::Publish {
                self.invalidate(&mut plan).await?;
            }
            if page.pass != Pass::Invalidate {
                self.publish(plan).await?;
                self.count(&page);
            }
        }
        self.reader.confirm(page);
        Ok(())
    }

    /// Applies what was heard of applications' own triggers.
    async fn hear(&mut self) -> Result<(), Halt> {
        let heard = self.ears.heard(self.page_entries);
        if !heard.is_empty() {
            let mut plan = plan(heard, &self.rules);
            self.invalidate(&mut plan).await?;
            self.publish(plan).await?;
            self.ears.forget();
        }
        Ok(())
    }

    async fn invalidate(&mut self, plan: &mut Plan) -> Result<(), Halt> {
        plan.poison.iter().for_each(|poison| self.applier.set_aside(poison));
        self.applier.delete(&plan.keys).await?;
        self.redelete.ask(std::mem::take(&mut plan.redelete), &self.applier.reign).await;
        self.sweeper.ask(std::mem::take(&mut plan.patterns), &self.applier.reign).await;
        Ok(())
    }

    async fn publish(&mut self, plan: Plan) -> Result<(), Halt> {
        let publications = self.waiting.hold(plan.publications, self.sweeper.last());
        self.applier.publish(publications).await
    }

    /// Takes up what stood beside the saved cursor.
    async fn take_up(&mut self, opening: Opening) -> Result<(), Halt> {
        if let Some(lost) = opening.lost {
            tracing::warn!("{lost}: what all rules name is swept before anything else");
            self.sweep_all().await?;
            if lost == Lost::Retention {
                self.tell_all().await?;
            }
        }
        self.sweeper.ask_again(opening.sweeps, &self.applier.reign).await;
        self.waiting.hold_all(plan(&opening.waiting, &self.rules).publications, self.sweeper.last());
        let server = self.applier.insist(|| self.applier.redis.identity()).await?;
        self.applier.server = opening.server.or(server);
        // Nothing is known of the time since.
        self.looked = Instant::now().checked_sub(opening.saved_ago).unwrap_or(self.looked);
        self.look_now().await
    }

    /// Removes everything that any rule could have named.
    async fn sweep_all(&mut self) -> Result<(), Halt> {
        let all = self.rules.namespaces();
        self.applier.metrics.flushes.inc();
        // Not fenced: it is repeated as a whole, or followed by a replay.
        let applier = &self.applier;
        applier.insist(|| applier.redis.unlink(&all.keys, None)).await?;
        self.sweeper.ask(all.patterns, &self.applier.reign).await;
        if self.sweeper.finished(&self.applier.reign).await { Ok(()) } else { Err(Halt::Over) }
    }

    /// Has every subscriber told that continuity is lost: publications are gone that nobody received.
    async fn tell_all(&self) -> Result<(), Halt> {
        let applier = &self.applier;
        applier.metrics.lapses.inc();
        applier.insist(|| forget_positions(&applier.redis, self.sweep_limits, &applier.reign)).await
    }

    /// Publishes what waited for sweeps that are done; waits for them when too much is waiting.
    async fn release(&mut self) -> Result<(), Halt> {
        if self.waiting.len() > WAITING && !self.sweeper.finished(&self.applier.reign).await {
            return Err(Halt::Over);
        }
        let due = self.waiting.due(self.sweeper.swept());
        let count = due.len();
        self.applier.publish(due).await?;
        self.waiting.let_go(count);
        Ok(())
    }

    /// Sees from time to time whether the server is the same, and repeats a replay when it is time.
    async fn look(&mut self, more: bool) -> Result<(), Halt> {
        if self.looked.elapsed() >= LOOK {
            self.look_now().await?;
        }
        if !more && self.again.is_some_and(|again| again <= Instant::now()) {
            self.again = None;
            self.reader.rewind();
        }
        Ok(())
    }

    async fn look_now(&mut self) -> Result<(), Halt> {
        let server = self.applier.insist(|| self.applier.redis.identity()).await?;
        if server != self.applier.server {
            return Err(Halt::Moved);
        }
        self.looked = Instant::now();
        self.reader.healthy();
        Ok(())
    }

    /// Another server answers: what took effect on the one before in its last minute may be missing here, and is applied
    /// again before anything new.
    async fn replay(&mut self) -> Result<(), Halt> {
        let applier = &self.applier;
        let server = applier.insist(|| applier.redis.identity()).await?;
        let unseen = self.looked.elapsed() + LOOK;
        let old_keys = applier.insist(|| applier.redis.came_from_snapshot(unseen)).await?;
        tracing::warn!(
            was = applier.server.as_deref().unwrap_or("unknown"),
            is = server.as_deref().unwrap_or("unknown"),
            "another Redis server answers: what it may lack is applied again"
        );
        applier.metrics.replays.inc();
        self.applier.server = server;
        self.reader.rewind();
        self.again = Some(Instant::now() + LEASE);
        self.looked = Instant::now();
        self.sweeper.ask_again(self.sweeper.unsettled(), &self.applier.reign).await;
        if old_keys {
            tracing::warn!(
                "it took its keys from a snapshot on disk: what all rules name is swept before anything else"
            );
            self.sweep_all().await?;
        }
        Ok(())
    }

    /// Saves how far everything took effect, and what is under way.
    async fn save(&mut self) -> Result<(), Halt> {
        let progress = Progress {
            server: self.applier.server.clone(),
            sweeps: self.sweeper.unsettled(),
            waiting: self.waiting.entries(),
        };
        let Some(mark) = self.reader.mark(progress) else { return Ok(()) };
        match self.reader.save(mark).await {
            Ok(()) => Ok(()),
            Err(error @ change_log::Error::Superseded { .. }) => {
                tracing::warn!(%error, "the cursor is not saved");
                Err(Halt::Over)
            }
            Err(error) => {
                self.lost_database(&error);
                Ok(())
            }
        }
    }

    fn lost_database(&self, error: &change_log::Error) {
        self.applier.metrics.errors.count("postgresql");
        self.applier.health.down("postgresql", error.to_string());
    }

    fn count(&mut self, page: &Page) {
        let now = SystemTime::now();
        for entry in &page.entries {
            self.applier.metrics.entries.count(entry.body.kind());
            // Clocks of two machines may differ; a negative lag is none.
            self.applier.metrics.lag.observe(now.duration_since(entry.at).unwrap_or_default());
        }
        self.sampler.page(&page.entries, &self.rules);
    }
}
