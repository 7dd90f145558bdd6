//! Stands by until this worker may lead its region, leads it, and stands by again when it has lost it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use change_log::{Candidate, Error, PgPool, Reader, Rules, Servers, Standing, Tenure};
use fanout_core::admin::Health;
use fanout_core::{Publisher, Redis, Shutdown};
use tokio::sync::watch;

use crate::WorkerConfig;
use crate::applier::Applier;
use crate::backoff::Backoff;
use crate::hearing::{Ears, hearing};
use crate::metrics::Metrics;
use crate::redelete::{Redelete, redelete};
use crate::reign::Reign;
use crate::rotation;
use crate::sweeper::Sweeper;
use crate::worker::Worker;

/// Between two looks of a standby: the shortest, which follows a lease that should have run out, and the longest,
/// which decides how soon one that was given up is noticed.
const LOOK: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(100));
/// Longest wait after a failure.
const RETRY: Duration = Duration::from_millis(500);
/// Renewals in the length of a lease: two may fail before it is lost.
const RENEWALS: u32 = 3;

/// A worker of a region, in whichever role.
pub(crate) struct Contender {
    pub(crate) candidate: Candidate,
    pub(crate) servers: Servers,
    pub(crate) pool: PgPool,
    pub(crate) rules: Arc<Rules>,
    pub(crate) redis: Redis,
    pub(crate) publisher: Publisher,
    pub(crate) config: WorkerConfig,
    pub(crate) health: Health,
    pub(crate) metrics: Metrics,
    pub(crate) shutdown: Shutdown,
}

impl Contender {
    /// Works until the ending is asked for.
    ///
    /// # Errors
    /// The region's name is not valid.
    pub(crate) async fn run(self) -> Result<(), Error> {
        while let Some(tenure) = self.stand_by().await {
            self.lead(tenure).await?;
        }
        Ok(())
    }

    /// Waits until this worker has taken its region over; `None` when the ending was asked for before.
    ///
    /// A standby is ready: it does all that is asked of it now, a rollout that waits for readiness must not wait for the
    /// leader's death, and nobody sends it requests that it could not answer. Its words say what it does.
    async fn stand_by(&self) -> Option<Tenure> {
        let mut failure = Backoff::upto(RETRY);
        let mut chosen = false;
        while !self.shutdown.is_requested() {
            let stands = async {
                if !chosen {
                    self.servers.choose().await?;
                }
                self.candidate.stand().await
            };
            let stood = stands.await;
            // Whatever went wrong: perhaps another server is the primary now.
            chosen = stood.is_ok();
            let wait = match stood {
                Ok(Standing::Leads(tenure)) => return Some(tenure),
                Ok(Standing::Follows { holder, term, remaining }) => {
                    self.health.up("postgresql");
                    self.stands_by(&holder, term);
                    failure.reset();
                    remaining.clamp(LOOK.0, LOOK.1)
                }
                Err(error) => {
                    self.failed(&error);
                    failure.wait()
                }
            };
            self.shutdown.pause(wait).await;
        }
        None
    }

    fn stands_by(&self, holder: &str, term: i64) {
        let region = self.candidate.region();
        // Nobody's name: the row is another one's by now, and the next look says whose.
        let leader = if holder.is_empty() { "another worker" } else { holder };
        self.health.set_role(Some(format!("standby, {leader} leads region {region} in term {term}")));
    }

    /// Applies the log until the term is lost or the ending was asked for, and gives the lease up.
    async fn lead(&self, tenure: Tenure) -> Result<(), Error> {
        let (region, term) = (self.candidate.region(), tenure.term());
        tracing::info!(region, term, "leads");
        fanout_core::ready("applying the change log");
        self.health.set_role(None);
        self.metrics.takeovers.inc();
        self.metrics.leader.set(1);
        let (prolong, reign) = Reign::begin(tenure, self.shutdown.clone());
        let sweeper = Sweeper::default();
        let sweeping = self.shutdown.spawn(sweeper.clone().run(
            self.redis.clone(),
            self.config.sweep_limits(),
            self.health.clone(),
            self.metrics.clone(),
            reign.clone(),
        ));
        let rotating = self.shutdown.spawn(rotation::run(
            self.pool.clone(),
            region.to_owned(),
            term,
            self.config.retention(),
            reign.clone(),
            self.metrics.clone(),
        ));
        let (redelete, waiting) = redelete();
        let (redis, health, metrics) = (self.redis.clone(), self.health.clone(), self.metrics.clone());
        let redeleting = self.shutdown.spawn(waiting.run(redis, health, metrics, reign.clone()));
        let (ears, listening) = hearing(&self.pool, &self.config.wake_channel, &self.rules, &self.metrics);
        let listening = self.shutdown.spawn(listening.run(reign.clone()));
        let worker = self.worker(term, reign, sweeper, redelete, ears)?;
        tokio::select! {
            biased;
            () = self.keep(tenure, &prolong) => {}
            () = Box::pin(worker.run()) => {}
        }
        if !self.shutdown.is_requested() {
            // The term is lost.
            prolong.send_replace(None);
        }
        // At an ending in order it deletes what waits, while nobody else leads.
        if let Err(error) = redeleting.await {
            tracing::error!(%error, "the second deletions failed");
        }
        prolong.send_replace(None);
        self.metrics.leader.set(0);
        if let Err(error) = sweeping.await {
            tracing::error!(%error, "the sweeper failed");
        }
        // Nobody may use the pool while its server is chosen again.
        if let Err(error) = rotating.await {
            tracing::error!(%error, "the rotation failed");
        }
        if let Err(error) = listening.await {
            tracing::error!(%error, "the listening failed");
        }
        // Last of all: from here on somebody else may act.
        if let Err(error) = self.candidate.give_up(term).await {
            tracing::warn!(%error, "the lease runs out by itself");
        }
        tracing::info!(region, term, "leads no more");
        fanout_core::ready("standing by");
        Ok(())
    }

    fn worker(
        &self,
        term: i64,
        reign: Reign,
        sweeper: Sweeper,
        redelete: Redelete,
        ears: Ears,
    ) -> Result<Worker, Error> {
        let reader = Reader::new(self.pool.clone(), self.candidate.region(), term)?;
        let applier = Applier {
            redis: self.redis.clone(),
            publisher: self.publisher.clone(),
            health: self.health.clone(),
            metrics: self.metrics.clone(),
            reign,
            server: None,
        };
        Ok(Worker::new(reader, Arc::clone(&self.rules), &self.config, applier, sweeper, redelete, ears))
    }

    /// Renews the lease for as long as it can be renewed, also while the ending is under way: the last entries are
    /// applied under it.
    async fn keep(&self, mut tenure: Tenure, prolong: &watch::Sender<Option<Tenure>>) {
        let every = self.candidate.lease() / RENEWALS;
        loop {
            let left = tenure.until().saturating_duration_since(Instant::now());
            // A while after the last renewal; after one that failed, soon.
            tokio::time::sleep(left.saturating_sub(every * (RENEWALS - 1)).max(LOOK.0)).await;
            match self.candidate.renew(tenure).await {
                Ok(Some(renewed)) => {
                    tenure = renewed;
                    prolong.send_replace(Some(renewed));
                }
                Ok(None) => {
                    tracing::warn!(term = tenure.term(), "another worker has taken over");
                    return;
                }
                Err(error) => {
                    self.failed(&error);
                    if !tenure.allows(Instant::now()) {
                        return;
                    }
                }
            }
        }
    }

    fn failed(&self, error: &Error) {
        self.metrics.errors.count("postgresql");
        self.health.down("postgresql", error.to_string());
    }
}

/// What tells this process from all others, and people where it runs: host, process id and a random part.
pub(crate) fn holder() -> String {
    // Only for people, so that a machine that does not say it is no problem.
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = Some(host.trim()).filter(|host| !host.is_empty()).unwrap_or("host");
    format!("{host}/{}/{:08x}", std::process::id(), uuid::Uuid::new_v4().as_fields().0)
}
