//! What Redis keeps of a user.

use anyhow::{Context, Result};
use fanout_core::{Channel, Data, Publication, Publisher};
use griot_tests::bridge::publisher;

use super::{Figure, Round, cost};

/// Of an active user: topic, and how many publications are kept.
const KEPT: [(&str, usize); 3] = [("notifications", 10), ("orders", 3), ("wallet-updates", 2)];
/// Bytes of each one's data.
pub(super) const BYTES: usize = 200;
/// Publications in one call.
pub(super) const BATCH: usize = 256;

pub(super) async fn memory(round: Round<'_>) -> Result<Vec<Figure>> {
    let publisher = publisher(&round.redis.url())?;
    let before = used_memory(round).await?;
    for (topic, count) in KEPT {
        let users = (0..round.size).flat_map(|user| std::iter::repeat_n(user, count));
        publish(&publisher, users.map(|user| (topic, user))).await?;
    }
    let growth = used_memory(round).await?.saturating_sub(before);
    Ok(vec![cost("memory per active user", "bytes", growth as f64 / round.size as f64)])
}

/// Publishes by the library, to these topics and users.
pub(super) async fn publish(publisher: &Publisher, to: impl Iterator<Item = (&str, usize)>) -> Result<()> {
    let data = Data::parse(format!("\"{}\"", "x".repeat(BYTES - 2)))?;
    let mut batch = Vec::with_capacity(BATCH);
    let mut to = to.peekable();
    while let Some((topic, user)) = to.next() {
        batch.push(Publication::new(Channel::parse(&format!("{topic}:#user-{user}"))?, data.clone()));
        if batch.len() == BATCH || to.peek().is_none() {
            for receipt in publisher.publish_all(std::mem::take(&mut batch)).await {
                receipt?;
            }
        }
    }
    Ok(())
}

async fn used_memory(round: Round<'_>) -> Result<u64> {
    let info = round.redis.ask("INFO memory").await?;
    let line = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
    Ok(line.context("no used_memory in INFO")?.trim().parse()?)
}
