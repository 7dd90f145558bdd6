//! The rows: what is done to a subject in one round, and which numbers come out.

mod broadcast;
mod commits;
mod connections;
mod driver;
mod personal;
mod publish;
mod recovery;
mod redis;

use anyhow::{Context, Result};
use griot_tests::servers::Redis;

pub use self::driver::Driver;
use crate::results::Better;
use crate::subjects::Subject;

/// One number of one round.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// What is measured.
    pub metric: &'static str,
    /// In what.
    pub unit: &'static str,
    /// Which way is better.
    pub better: Better,
    /// How much.
    pub value: f64,
}

/// A cost.
pub(crate) fn cost(metric: &'static str, unit: &'static str, value: f64) -> Figure {
    Figure { metric, unit, better: Better::Lower, value }
}

/// A yield.
pub(crate) fn gain(metric: &'static str, unit: &'static str, value: f64) -> Figure {
    Figure { metric, unit, better: Better::Higher, value }
}

/// What a round has.
#[derive(Debug, Clone, Copy)]
pub struct Round<'a> {
    /// Who is measured.
    pub subject: Subject,
    /// How many connections.
    pub size: usize,
    /// A server that nobody else uses.
    pub redis: &'a Redis,
    /// A short form, for tests.
    pub quick: bool,
}

impl Round<'_> {
    /// How long the measured part lasts.
    fn seconds(&self) -> f64 {
        if self.quick { 0.5 } else { 4.0 }
    }
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Row {
    /// Ten publications a second to everybody.
    BroadcastPaced,
    /// As many publications to everybody as get through.
    BroadcastSaturated,
    /// Publications to one user each.
    Personal,
    /// Connections that do nothing.
    Idle,
    /// Connections that come.
    Connect,
    /// Personal publications beside a saturating broadcast.
    Fairness,
    /// A broadcast to which one in a hundred does not listen.
    SlowReaders,
    /// What Redis keeps of a user.
    RedisMemory,
    /// Clients that come back and recover what they have missed.
    Recovery,
    /// What a publication costs, on each way in.
    Publish,
    /// From a commit in PostgreSQL to the client.
    CommitToScreen,
}

impl Row {
    /// All there are.
    pub const ALL: [Self; 11] = [
        Self::BroadcastPaced,
        Self::BroadcastSaturated,
        Self::Personal,
        Self::Idle,
        Self::Connect,
        Self::Fairness,
        Self::SlowReaders,
        Self::RedisMemory,
        Self::Recovery,
        Self::Publish,
        Self::CommitToScreen,
    ];

    /// The name in results and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::BroadcastPaced => "broadcast-paced",
            Self::BroadcastSaturated => "broadcast-saturated",
            Self::Personal => "personal",
            Self::Idle => "idle",
            Self::Connect => "connect",
            Self::Fairness => "fairness",
            Self::SlowReaders => "slow-readers",
            Self::RedisMemory => "redis-memory",
            Self::Recovery => "recovery",
            Self::Publish => "publish",
            Self::CommitToScreen => "commit-to-screen",
        }
    }

    /// The row of that name.
    ///
    /// # Errors
    /// There is none.
    pub fn named(name: &str) -> Result<Self> {
        let names = || Self::ALL.map(Self::name).join(", ");
        let row = Self::ALL.into_iter().find(|row| row.name() == name);
        row.with_context(|| format!("no row is called {name:?}; there are {}", names()))
    }

    /// The sizes that it is measured at.
    #[must_use]
    pub fn sizes(self) -> &'static [usize] {
        match self {
            Self::BroadcastPaced | Self::Personal | Self::Idle | Self::Connect => &[1_000, 5_000, 10_000, 15_000],
            Self::BroadcastSaturated => &[1_000, 5_000, 15_000],
            Self::Fairness | Self::SlowReaders => &[5_000],
            Self::RedisMemory | Self::Publish => &[10_000],
            Self::Recovery => &[1_000, 5_000, 15_000],
            Self::CommitToScreen => &[1_000],
        }
    }

    /// Whether the row says something of the subject.
    #[must_use]
    pub fn compares(self, subject: Subject) -> bool {
        match (self, subject) {
            // Nobody else keeps anything, or hears of commits.
            (Self::RedisMemory | Self::Recovery | Self::Publish | Self::CommitToScreen, subject) => {
                subject == Subject::Griot
            }
            (row, Subject::GriotTls) => matches!(row, Self::BroadcastPaced | Self::Idle | Self::Connect),
            (row, Subject::GriotRaw) => matches!(row, Self::Personal | Self::Fairness),
            // Where there is a floor to be divided by, the noise is shown too.
            (row, Subject::GriotAgain) => matches!(row, Self::BroadcastPaced | Self::Personal),
            (Self::Fairness, Subject::GriotProtobuf) => false,
            _ => true,
        }
    }

    /// Measures one round.
    ///
    /// # Errors
    /// A server or the load client fails, or something was lost.
    pub async fn measure(self, round: Round<'_>) -> Result<Vec<Figure>> {
        match self {
            Self::BroadcastPaced => broadcast::paced(round).await,
            Self::BroadcastSaturated => broadcast::saturated(round).await,
            Self::Personal => personal::paced(round).await,
            Self::Idle => connections::idle(round).await,
            Self::Connect => connections::storm(round).await,
            Self::Fairness => personal::beside_a_broadcast(round).await,
            Self::SlowReaders => broadcast::slow_readers(round).await,
            Self::RedisMemory => redis::memory(round).await,
            Self::Recovery => recovery::storm(round).await,
            Self::Publish => publish::every_way(round).await,
            Self::CommitToScreen => Box::pin(commits::to_screen(round)).await,
        }
    }
}
