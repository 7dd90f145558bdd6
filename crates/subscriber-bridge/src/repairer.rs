//! Repairing feeds: reading where they stand and what is missing, in paced rounds, once per channel.

use std::sync::Arc;
use std::time::Duration;

use fanout_core::history::{self, Since};
use fanout_core::link::Link;
use fanout_core::names::Feed;
use fanout_core::position::FeedPosition;
use fanout_core::{Redis, RedisError, Shutdown, position};

use crate::hub::{Hub, SHARDS};
use crate::metrics::Metrics;
use crate::repair::Found;

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

    /// Goes through `feeds` once. An error means that Redis or the link is away; whatever else Redis refuses costs those
    /// their continuity whom it concerns.
    async fn round(&self, feeds: &[Feed]) -> Result<(), RedisError> {
        let positions = self.positions(feeds).await?;
        // What was published before the read is with the hub once the barrier is passed: only what is then still missing
        // was missed.
        if !self.link.barrier().await {
            return Err(RedisError::Away("the link was lost again".into()));
        }
        let missing: Vec<Vec<Since>> = feeds
            .iter()
            .zip(&positions)
            .map(|(feed, position)| position.as_ref().map(|at| self.hub.missing(feed, at)).unwrap_or_default())
            .collect();
        let mut found = self.histories(missing.iter().flatten().cloned().collect()).await?.into_iter();
        for ((feed, position), missing) in feeds.iter().zip(&positions).zip(missing) {
            let found: Vec<Found> = found.by_ref().take(missing.len()).collect();
            self.hub.repaired(feed, position.as_ref(), &found);
        }
        Ok(())
    }

    async fn positions(&self, feeds: &[Feed]) -> Result<Vec<Option<FeedPosition>>, RedisError> {
        let read = match position::read(&self.redis, feeds).await {
            Err(error) if !error.is_away() => feeds.iter().map(|_| Err(error.clone())).collect(),
            read => read?,
        };
        let or_none = |(feed, position): (&Feed, Result<FeedPosition, RedisError>)| {
            position.inspect_err(|error| tracing::warn!(%feed, %error, "no position: continuity is lost")).ok()
        };
        Ok(feeds.iter().zip(read).map(or_none).collect())
    }

    async fn histories(&self, asked: Vec<Since>) -> Result<Vec<Found>, RedisError> {
        self.metrics.history_reads.count_many("repair", asked.len());
        match history::read(&self.redis, &asked, self.max_bytes).await {
            Ok(found) => Ok(asked.into_iter().zip(found.into_iter().map(|after| after.envelopes)).collect()),
            Err(error) if error.is_away() => Err(error),
            Err(error) => {
                tracing::warn!(%error, channels = asked.len(), "no histories: continuity is lost");
                Ok(asked.into_iter().map(|since| (since, None)).collect())
            }
        }
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
