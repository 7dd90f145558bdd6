//! A storm of clients that come back and want what they have missed.

use std::time::Duration;

use anyhow::Result;
use tokio::time::sleep;

use super::{Driver, Figure, Round, cost, gain};
use crate::load::{Command, Connect, Pace, Publish};
use crate::process;

/// Publications that each client misses.
const MISSED: u64 = 10;
/// Files that the server may have opened besides, since its clients came.
const OTHERS: usize = 32;

pub(super) async fn storm(round: Round<'_>) -> Result<Vec<Figure>> {
    let server = round.subject.start(round.redis, "").await?;
    let mut driver = Driver::start()?;
    let connect = Command::Connect(Connect { recovers: true, ..round.connect(server.addr, round.size, None) });
    let before = process::open_files(server.pid)?;
    driver.tell(&connect).await?;
    driver.tell(&Command::Close).await?;
    // That they leave is not what is measured.
    while process::open_files(server.pid)? > before + OTHERS.min(round.size / 2) {
        sleep(Duration::from_millis(10)).await;
    }
    let personal = round.personal(Pace::Each(MISSED), 0.0, round.size);
    driver.tell(&Command::Publish(Publish { deliveries: 0, ..personal })).await?;
    let measured = driver.measure(server.pid, &connect).await?;
    measured.exactly(MISSED * round.size as u64)?;
    Ok(vec![
        cost("CPU per recovery", "µs", measured.each(round.size as u64)),
        gain("recoveries per second", "1/s", round.size as f64 / measured.answer.seconds),
        cost("until all are back", "s", measured.answer.seconds),
    ])
}
