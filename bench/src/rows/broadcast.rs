//! One channel, many subscribers.

use anyhow::Result;

use super::driver::BROADCAST;
use super::{Driver, Figure, Round, cost, gain};
use crate::load::{Command, Connect, Pace};
use crate::process;

/// Publications per second where they are paced.
const PACE: Pace = Pace::PerSecond(10.0);
/// Publications under way where as many as possible are to get through.
pub(super) const WINDOW: Pace = Pace::Window(32);
/// One in so many does not read.
const DEAF: usize = 100;

pub(super) async fn paced(round: Round<'_>) -> Result<Vec<Figure>> {
    let publish = |seconds| round.broadcast(PACE, seconds, round.size);
    let measured = round.delivered(Some(BROADCAST), publish).await?;
    let counted = measured.answer.counted;
    Ok(vec![
        cost("CPU per delivery", "µs", measured.each(counted.deliveries)),
        cost("p50", "ms", counted.p50 / 1e3),
        cost("p99", "ms", counted.p99 / 1e3),
        cost("the load client's CPU per delivery", "µs", measured.answer.own_cpu / counted.deliveries as f64),
    ])
}

pub(super) async fn saturated(round: Round<'_>) -> Result<Vec<Figure>> {
    let publish = |seconds| round.broadcast(WINDOW, seconds, round.size);
    let measured = round.delivered(Some(BROADCAST), publish).await?;
    let counted = measured.answer.counted;
    Ok(vec![
        gain("deliveries per second of a core", "1/s", counted.deliveries as f64 / measured.cpu.as_secs_f64()),
        gain("deliveries per second", "1/s", counted.deliveries as f64 / measured.answer.seconds),
        cost("p99", "ms", counted.p99 / 1e3),
    ])
}

pub(super) async fn slow_readers(round: Round<'_>) -> Result<Vec<Figure>> {
    let server =
        round.subject.start(round.redis, "max_outbox_bytes = 262144\nsocket_send_buffer_bytes = 16384").await?;
    let mut driver = Driver::start()?;
    let connect = round.connect(&server, round.size, Some(BROADCAST));
    driver.tell(&Command::Connect(Connect { deaf_every: DEAF, ..connect })).await?;
    let listening = round.size - round.size.div_ceil(DEAF);
    let before = process::resident(server.pid)?;
    // Long enough that what the deaf ones are sent fills their sockets and their outboxes.
    let publish = round.broadcast(Pace::PerSecond(25.0), round.seconds(), listening);
    let publish = crate::load::Publish { bytes: 4_096, ..publish };
    let measured = driver.measure(&server, &Command::Publish(publish)).await?;
    let growth = process::resident(server.pid)?.saturating_sub(before);
    let counted = measured.answer.counted;
    Ok(vec![
        gain("connections ended as slow", "", counted.closed as f64),
        cost("p99 of those who read", "ms", counted.p99 / 1e3),
        cost("lost by those who read", "", counted.lost as f64),
        cost("memory for each that does not read", "KB", growth as f64 / 1e3 / round.size.div_ceil(DEAF) as f64),
    ])
}
