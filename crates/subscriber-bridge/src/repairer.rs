//! Repairing feeds: reading where they stand and what is missing, in paced rounds, once per channel.

use std::sync::Arc;
use std::time::Duration;

use fanout_core::history::{self, After, Since};
use fanout_core::link::Link;
use fanout_core::names::Feed;
use fanout_core::{Redis, RedisError, Shutdown, position};

use crate::hub::{Hub, SHARDS};
use crate::metrics::Metrics;

/// Feeds in one round: about half a millisecond of the primary for their positions.
const BATCH: usize = 256;
/// Wait after a failed round, doubled while rounds fail.
const WAIT: Duration = Duration::from_millis(100);
/// Longest wait after a failed round.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// See the module.
pub(crate) struct Repairer {
    pub(crate) hub: Arc<Hub>,
    pub(crate) redis: Redis,
    pub(crate) link: Link,
    pub(crate) metrics: Metrics,
    /// Most bytes read of one channel.
    pub(crate) max_bytes: usize,
}

impl Repairer {
    /// Repairs whatever ails, until the ending is asked for.
    pub(crate) async fn run(self, shutdown: Shutdown) {
        let mut wait = WAIT;
        loop {
            let batch = tokio::select! {
                biased;
                () = shutdown.requested() => return,
                batch = self.hub.ailing(BATCH) => batch,
            };
            match self.round(&batch).await {
                Ok(()) => wait = WAIT,
                Err(error) => {
                    tracing::warn!(%error, feeds = batch.len(), "feeds could not be repaired, trying again");
                    self.hub.still_ailing(batch);
                    if !shutdown.pause(wait).await {
                        return;
                    }
                    wait = (wait * 2).min(MAX_WAIT);
                }
            }
        }
    }

    async fn round(&self, feeds: &[Feed]) -> Result<(), RedisError> {
        let positions = position::read(&self.redis, feeds).await?;
        // What was published before the read is with the hub once the barrier is passed: only what is then still missing
        // was missed.
        if !self.link.barrier().await {
            return Err(RedisError::Away("the link was lost again".into()));
        }
        let missing: Vec<Vec<Since>> = feeds
            .iter()
            .zip(&positions)
            .map(|(feed, position)| {
                position.as_ref().map(|position| self.hub.missing(feed, position)).unwrap_or_default()
            })
            .collect();
        let asked: Vec<Since> = missing.iter().flatten().cloned().collect();
        let mut found = history::read(&self.redis, &asked, self.max_bytes).await?.into_iter();
        self.metrics.history_reads.count_many("repair", asked.len());
        for ((feed, position), missing) in feeds.iter().zip(&positions).zip(missing) {
            let found: Vec<(Since, After)> = missing.into_iter().zip(found.by_ref()).collect();
            if let Err(error) = position {
                tracing::warn!(%feed, %error, "Redis gives no position: continuity is lost");
            }
            self.hub.repaired(feed, position.as_ref().ok(), &found);
        }
        Ok(())
    }
}

/// Longest time after which the position of a feed is compared, whatever happens or does not.
const EXAMINED: Duration = Duration::from_secs(24 * 3600);

/// Keeps the positions of feeds alive as long as somebody is subscribed to them: each is read several times within the
/// `lifetime` of an unused one, one shard after the other, and compared on the way.
pub(crate) async fn examine(hub: Arc<Hub>, lifetime: Duration, shutdown: Shutdown) {
    let pause = (lifetime / 7).min(EXAMINED) / u32::try_from(SHARDS).unwrap_or(1);
    for shard in (0..SHARDS).cycle() {
        if !shutdown.pause(pause).await {
            return;
        }
        hub.examine(shard);
    }
}
