//! A channel for each user.

use std::time::Duration;

use anyhow::Result;

use super::broadcast::WINDOW;
use super::driver::BROADCAST;
use super::{Driver, Figure, Round, cost};
use crate::load::{Command, Connect, Pace, Publish};

/// Publications per second for 15,000 users; in proportion for others.
const RATE: f64 = 20_000.0 / 15_000.0;

/// Of so many a second, those of a step are one batch of the library, which could not keep up one by one beside the load
/// client on one core. Steps are the same for everybody, so that latencies can be compared.
const STEP: Duration = Duration::from_millis(3);

pub(super) async fn paced(round: Round<'_>) -> Result<Vec<Figure>> {
    let pace = Pace::PerSecond(RATE * round.size as f64);
    let publish = |seconds| Publish { step: STEP, ..round.personal(pace, seconds, round.size) };
    let measured = round.delivered(None, publish).await?;
    let counted = measured.answer.counted;
    Ok(vec![
        cost("CPU per delivery", "µs", measured.each(counted.deliveries)),
        cost("p50", "ms", counted.p50 / 1e3),
        cost("p99", "ms", counted.p99 / 1e3),
    ])
}

/// Users beside a broadcast to `round.size`.
const USERS: usize = 1_000;

pub(super) async fn beside_a_broadcast(round: Round<'_>) -> Result<Vec<Figure>> {
    let server = round.subject.start(round.redis, "").await?;
    let (mut crowd, mut users) = (Driver::start_behind()?, Driver::start()?);
    // What is published to the users must not reach the crowd.
    let connect = Connect { first_user: USERS, ..round.connect(server.addr, round.size, Some(BROADCAST)) };
    crowd.tell(&Command::Connect(connect)).await?;
    users.tell(&Command::Connect(round.connect(server.addr, USERS, None))).await?;
    let pace = Pace::PerSecond(1_000.0);
    // Each leaves when it is due: the wait for a step would be most of a latency that nobody disturbs.
    let publish = || Publish { step: Duration::ZERO, ..round.personal(pace, round.seconds(), USERS) };
    users.deliver(server.pid, publish()).await?;
    let alone = users.deliver(server.pid, publish()).await?.answer.counted;
    let broadcast = round.broadcast(WINDOW, round.seconds() + 1.0, round.size);
    let (crowded, beside) = tokio::join!(crowd.deliver(server.pid, broadcast), users.deliver(server.pid, publish()));
    let (crowded, beside) = (crowded?, beside?.answer.counted);
    Ok(vec![
        cost("p99 alone", "ms", alone.p99 / 1e3),
        cost("p99 beside the broadcast", "ms", beside.p99 / 1e3),
        cost("p99 beside / alone", "", beside.p99 / alone.p99),
        super::gain(
            "broadcast deliveries per second",
            "1/s",
            crowded.answer.counted.deliveries as f64 / crowded.answer.seconds,
        ),
    ])
}
