//! Who of this bridge's connections is shown in the presence of which channel, and that it stays so while they live.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fanout_core::presence::{self, Member};
use fanout_core::{Channel, Redis, Shutdown};
use tokio::time::timeout;

use crate::hub::ConnectionId;

/// Seconds that a presence lasts in Redis without being refreshed: what a bridge leaves behind that was killed.
const LIFETIME: Duration = Duration::from_secs(60);
/// How often presences are refreshed, as in the Centrifugal servers.
const REFRESH: Duration = Duration::from_secs(27);
/// Members in one round of calls.
const BATCH: usize = 256;
/// How long a subscription or an ending connection waits for Redis to take note.
const PATIENCE: Duration = Duration::from_secs(2);

/// See the module.
pub(crate) struct Attendance {
    redis: Redis,
    /// Those that are kept; who is only announced is not here. At most the subscriptions of the bridge.
    kept: Mutex<HashMap<(ConnectionId, Channel), Member>>,
}

impl Attendance {
    pub(crate) fn new(redis: Redis) -> Self {
        Self { redis, kept: Mutex::default() }
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<(ConnectionId, Channel), Member>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows and announces `members`. With Redis away nobody is told; the next refresh shows them.
    pub(crate) async fn enter(&self, connection: ConnectionId, members: &[Member]) {
        if members.is_empty() {
            return;
        }
        for member in members.iter().filter(|member| member.keeps) {
            self.kept().insert((connection, member.channel.clone()), member.clone());
        }
        let entered = timeout(PATIENCE, presence::enter(&self.redis, members, LIFETIME)).await;
        if !matches!(entered, Ok(Ok(()))) {
            tracing::debug!(connection = connection.0, ?entered, "a presence could not be shown");
        }
    }

    /// Removes and announces `members`. With Redis away they are seen until their presence expires.
    pub(crate) async fn leave(&self, connection: ConnectionId, members: &[Member]) {
        if members.is_empty() {
            return;
        }
        for member in members {
            self.kept().remove(&(connection, member.channel.clone()));
        }
        let left = timeout(PATIENCE, presence::leave(&self.redis, members)).await;
        if !matches!(left, Ok(Ok(()))) {
            tracing::debug!(connection = connection.0, ?left, "a presence could not be removed");
        }
    }

    /// Keeps presences alive until the ending is asked for.
    pub(crate) async fn refresh(&self, shutdown: Shutdown) {
        while shutdown.pause(REFRESH).await {
            let members: Vec<(ConnectionId, Channel)> = self.kept().keys().cloned().collect();
            for batch in members.chunks(BATCH) {
                // Who has left meanwhile must not come back.
                let batch: Vec<Member> = {
                    let kept = self.kept();
                    batch.iter().filter_map(|member| kept.get(member).cloned()).collect()
                };
                if let Err(error) = presence::refresh(&self.redis, &batch, LIFETIME).await {
                    tracing::warn!(%error, members = members.len(), "presences could not be refreshed");
                    break;
                }
            }
        }
    }
}
