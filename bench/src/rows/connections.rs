//! Connections: what each costs while it does nothing, and while it comes.

use std::time::Duration;

use anyhow::Result;
use tokio::time::sleep;

use super::{Driver, Figure, Round, cost};
use crate::load::{Command, Connect};
use crate::process;

/// Long enough that what a storm has left to do is done, and that the allocator has given back what it needed.
const SETTLED: Duration = Duration::from_secs(10);
/// The same where the numbers mean nothing.
const HARDLY: Duration = Duration::from_millis(100);
/// Connects and disconnects after which memory is looked at again, and so many at a time.
const CHURN: (usize, usize) = (50_000, 1_000);

pub(super) async fn idle(round: Round<'_>) -> Result<Vec<Figure>> {
    let settled = if round.quick { HARDLY } else { SETTLED };
    let server = round.subject.start(round.redis, "").await?;
    let mut driver = Driver::start()?;
    let before = process::resident(server.pid)?;
    driver.tell(&Command::Connect(round.connect(server.addr, round.size, None))).await?;
    sleep(settled).await;
    let full = process::resident(server.pid)?.saturating_sub(before);
    let mut figures = vec![cost("memory per connection", "KB", full as f64 / 1e3 / round.size as f64)];
    let largest = super::Row::Idle.sizes().iter().max() == Some(&round.size);
    if largest && !round.quick && round.subject.is_griot() {
        driver.tell(&Command::Close).await?;
        let (count, at_once) = CHURN;
        driver.tell(&Command::Churn(Connect { at_once, ..round.connect(server.addr, count, None) })).await?;
        sleep(settled).await;
        let left = process::resident(server.pid)?.saturating_sub(before);
        figures.push(cost("memory left after all are gone and 50,000 came and went", "MB", left as f64 / 1e6));
    }
    Ok(figures)
}

pub(super) async fn storm(round: Round<'_>) -> Result<Vec<Figure>> {
    let server = round.subject.start(round.redis, "").await?;
    let mut driver = Driver::start()?;
    let connect = Command::Connect(round.connect(server.addr, round.size, None));
    let measured = driver.measure(server.pid, &connect).await?;
    Ok(vec![
        cost("CPU per connect", "µs", measured.each(round.size as u64)),
        super::gain("connects per second", "1/s", round.size as f64 / measured.answer.seconds),
    ])
}
