//! One channel, many subscribers.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::time::sleep;

use super::driver::BROADCAST;
use super::{Driver, Figure, Round, cost, gain};
use crate::load::{Command, Connect, Pace, Publish};
use crate::process;

/// Publications per second where they are paced.
const PACE: Pace = Pace::PerSecond(10.0);
/// Publications under way where as many as possible are to get through.
pub(super) const WINDOW: Pace = Pace::Window(32);
/// One in so many does not read.
const DEAF: usize = 100;
/// So many publications of so many bytes each of these is sent: more than any subject keeps for it, where it has a limit.
const SENT: f64 = 80.0;
/// See [`SENT`].
const LARGE: usize = 16 * 1024;
/// A server may try for so long to tell those whom it ends why.
const LAST_WORDS: Duration = Duration::from_secs(12);

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
    let settings = "max_outbox_bytes = 262144\nsocket_send_buffer_bytes = 16384";
    let server = round.subject.start(round.redis, settings).await?;
    let mut driver = Driver::start()?;
    let deaf = round.size.div_ceil(DEAF);
    let listening = round.size - deaf;
    let connect = |count| round.connect(server.addr, count, Some(BROADCAST));
    let publish = |count: f64, seconds: f64| Publish {
        bytes: LARGE,
        ..round.broadcast(Pace::PerSecond(count / seconds), seconds, listening)
    };
    driver.tell(&Command::Connect(connect(listening))).await?;
    // What those who read need is there before: what grows beyond it is for those who do not.
    driver.tell(&Command::Publish(publish(SENT / 2.0, round.seconds()))).await?;
    driver.tell(&Command::Connect(Connect { deaf: true, ..connect(deaf) })).await?;
    let (connected, before) = (process::open_files(server.pid)?, process::resident_now(server.pid)?);
    let publish = Command::Publish(publish(SENT, 2.0 * round.seconds()));
    let (measured, peak) = process::peak(server.pid, driver.measure(server.pid, &publish)).await?;
    let answer = measured?.answer;
    let gone = || anyhow::Ok(connected.saturating_sub(process::open_files(server.pid)?));
    let since = Instant::now();
    while !round.quick && gone()? < deaf && since.elapsed() < LAST_WORDS {
        sleep(Duration::from_millis(50)).await;
    }
    let missing = (answer.published * listening as u64).saturating_sub(answer.counted.deliveries);
    Ok(vec![
        // Of all together: what waits is the same for everybody, and a server may keep it once.
        cost("peak growth of memory", "MB", peak.saturating_sub(before) as f64 / 1e6),
        gain("connections ended as slow", "", gone()? as f64 - answer.counted.closed as f64),
        cost("p99 of those who read", "ms", answer.counted.p99 / 1e3),
        cost("lost by those who read", "", missing as f64),
    ])
}
