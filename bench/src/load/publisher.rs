//! Publishing, on the main thread of the load process: open loop at a rate, or closed loop with a window.

use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::marker::{EVERYBODY, Marker, now};
use super::outlet::{Outlet, Via};
use super::tally::Tally;
use super::{Answer, Counted};

/// How often it is looked whether everything has arrived.
const LOOK: Duration = Duration::from_millis(1);
/// Most publications of a step: of more than a batch the library sends some only when others are answered.
const PORTION: u64 = fanout_core::BATCH as u64;
/// Nothing more is expected when nothing came for so long.
const QUIET: Duration = Duration::from_secs(5);

/// What to publish.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Publish {
    /// How.
    pub via: Via,
    /// To this channel; without, to users at random.
    pub channel: Option<String>,
    /// So many users there are, from this one on.
    pub users: (usize, usize),
    /// The topic of users' channels, where they have one.
    pub topic: String,
    /// How fast.
    pub pace: Pace,
    /// What is due within so long leaves together.
    pub step: Duration,
    /// For how many seconds.
    pub seconds: f64,
    /// So many deliveries each publication makes; with 0 none is waited for.
    pub deliveries: u64,
    /// Bytes of each publication's data.
    pub bytes: usize,
}

/// How fast.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pace {
    /// So many per second, whatever becomes of them; latency counts from when each should have left.
    PerSecond(f64),
    /// At most so many that have not arrived everywhere.
    Window(u64),
    /// So many to each user, one user after the other, as fast as they are taken; however long that lasts.
    Each(u64),
}

/// Publishes, and waits until everything has arrived.
pub(super) fn run(publish: &Publish, tally: &Tally) -> Answer {
    let since = Instant::now();
    match Outlet::new(&publish.via).and_then(|outlet| spread(publish, outlet, tally)) {
        Ok(published) => {
            let counted = tally.counted();
            Answer { error: None, seconds: since.elapsed().as_secs_f64(), published, counted, own_cpu: 0.0 }
        }
        Err(error) => Answer { counted: Counted::default(), ..Answer::failed(format!("publishing: {error:#}")) },
    }
}

fn spread(publish: &Publish, mut outlet: Outlet, tally: &Tally) -> Result<u64> {
    let arrived = || tally.deliveries.load(Relaxed);
    let before = arrived();
    let (begin, begin_nanos) = (Instant::now(), now());
    let mut recipients = Recipients::of(publish);
    let (mut published, all) = (0_u64, recipients.all(publish.pace));
    let seconds = Duration::from_secs_f64(publish.seconds);
    while all.map_or_else(|| begin.elapsed() < seconds, |all| published < all) {
        let due = match publish.pace {
            Pace::PerSecond(rate) => (begin.elapsed().as_secs_f64() * rate) as u64 + 1,
            Pace::Window(window) => (arrived() - before) / publish.deliveries.max(1) + window,
            Pace::Each(_) => all.unwrap_or_default(),
        };
        let behind = due > published + PORTION;
        let due = due.min(published + PORTION);
        for index in published..due {
            let nanos = match publish.pace {
                Pace::PerSecond(rate) => begin_nanos + (index as f64 / rate * 1e9) as u64,
                Pace::Window(_) | Pace::Each(_) => now(),
            };
            let (user, number) = recipients.next(publish.pace, index);
            outlet.add(publish, Marker { user, number, nanos })?;
        }
        published = due.max(published);
        outlet.flush()?;
        match publish.pace {
            Pace::PerSecond(_) if behind => {}
            Pace::PerSecond(rate) => {
                let next = Duration::from_secs_f64(published as f64 / rate);
                thread::sleep(next.saturating_sub(begin.elapsed()).max(publish.step));
            }
            Pace::Window(_) => thread::sleep(Duration::from_micros(100)),
            Pace::Each(_) => {}
        }
    }
    outlet.finish()?;
    let (mut last, mut moved) = (arrived(), Instant::now());
    while last - before < published * publish.deliveries && moved.elapsed() < QUIET {
        thread::sleep(LOOK);
        let now = arrived();
        if now > last {
            (last, moved) = (now, Instant::now());
        }
    }
    Ok(published)
}

/// Whom publications are for, and how many each has been sent.
struct Recipients {
    /// The first user; without, everybody is meant.
    first: Option<usize>,
    numbers: Vec<u64>,
    random: fastrand::Rng,
}

impl Recipients {
    fn of(publish: &Publish) -> Self {
        let (first, count) = publish.users;
        let (first, count) = if publish.channel.is_some() { (None, 1) } else { (Some(first), count.max(1)) };
        Self { first, numbers: vec![0; count], random: fastrand::Rng::with_seed(6) }
    }

    /// How many publications there are, where that is known.
    fn all(&self, pace: Pace) -> Option<u64> {
        match pace {
            Pace::Each(count) => Some(self.numbers.len() as u64 * count),
            Pace::PerSecond(_) | Pace::Window(_) => None,
        }
    }

    /// The user of the publication of this index, and its number among those of that user.
    fn next(&mut self, pace: Pace, index: u64) -> (u64, u64) {
        let which = match pace {
            Pace::Each(_) => index as usize % self.numbers.len(),
            Pace::PerSecond(_) | Pace::Window(_) => self.random.usize(..self.numbers.len()),
        };
        self.numbers[which] += 1;
        (self.first.map_or(EVERYBODY, |first| (first + which) as u64), self.numbers[which])
    }
}
