//! A connection's arrival at feeds: what it waits for before it can be told where they stand.

use fanout_core::RedisError;
use fanout_core::names::Feed;
use fanout_core::position::FeedPosition;
use tokio::sync::oneshot::Receiver;

/// See the module. Each feed is asked about once, however many of its channels are joined.
#[derive(Default)]
pub(crate) struct Arrival {
    confirmations: Vec<Receiver<()>>,
    positions: Vec<(Feed, Receiver<Result<FeedPosition, RedisError>>)>,
}

impl Arrival {
    /// Waits for the subscription of a feed that keeps no history.
    pub(crate) fn confirmation(&mut self, confirmed: Receiver<()>) {
        self.confirmations.push(confirmed);
    }

    /// Waits for the subscription of `feed` and for where it then stands.
    pub(crate) fn position(&mut self, feed: Feed, answered: Receiver<Result<FeedPosition, RedisError>>) {
        self.positions.push((feed, answered));
    }

    /// Where the feeds stand that keep a history, once all are subscribed. One whose position Redis refuses is left out.
    pub(crate) async fn positions(self) -> Vec<(Feed, FeedPosition)> {
        for confirmed in self.confirmations {
            // Nobody confirms what was left meanwhile.
            let _ = confirmed.await;
        }
        let mut positions = Vec::with_capacity(self.positions.len());
        for (feed, answered) in self.positions {
            match answered.await {
                Ok(Ok(position)) => positions.push((feed, position)),
                Ok(Err(error)) => tracing::debug!(%feed, %error, "no position"),
                // It was left meanwhile.
                Err(_) => {}
            }
        }
        positions
    }
}
