//! What was set out to be reached, and whether a run reaches it.

use super::Table;
use super::summary::number;
use crate::results::Better;

/// One number that Griot is held to.
#[derive(Debug)]
pub(super) struct Target {
    /// In words, for readers.
    pub(super) what: &'static str,
    pub(super) row: &'static str,
    /// Connections; without, the most that were measured.
    pub(super) size: Option<usize>,
    pub(super) metric: &'static str,
    pub(super) reach: Reach,
}

/// What a median is compared with.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reach {
    /// So many times the floor's, or less.
    AtMostFloor(f64),
    /// So many times the floor's, or more.
    AtLeastFloor(f64),
    /// So much, or less.
    AtMost(f64, &'static str),
    /// So many times another metric of its own, or less.
    AtMostOwn(f64, &'static str),
    /// Less than this subject's.
    Below(&'static str),
}

/// The table, row by row. That all baselines are beaten is judged apart, by [`unbeaten`].
pub(super) const TARGETS: [Target; 8] = [
    Target {
        what: "server CPU per delivery, paced broadcast",
        row: "broadcast-paced",
        size: Some(5_000),
        metric: "CPU per delivery",
        reach: Reach::AtMostFloor(1.25),
    },
    Target {
        what: "deliveries per second of a core, saturating broadcast",
        row: "broadcast-saturated",
        size: Some(5_000),
        metric: "deliveries per second of a core",
        reach: Reach::AtLeastFloor(2.5),
    },
    Target {
        what: "server CPU per personal delivery",
        row: "personal",
        size: Some(15_000),
        metric: "CPU per delivery",
        reach: Reach::AtMostFloor(1.6),
    },
    Target {
        what: "memory per idle signed-in connection with three personal channels",
        row: "idle",
        size: Some(15_000),
        metric: "memory per connection",
        reach: Reach::AtMost(4.5, "KB"),
    },
    Target {
        what: "server CPU per connect with token and three personal channels, beside a bare upgrade",
        row: "connect",
        size: None,
        metric: "CPU per connect",
        reach: Reach::AtMostFloor(6.0),
    },
    Target {
        what: "the same beside the Node recipe without token",
        row: "connect",
        size: None,
        metric: "CPU per connect",
        reach: Reach::Below("ws"),
    },
    Target {
        what: "p99 latency, paced broadcast",
        row: "broadcast-paced",
        size: Some(5_000),
        metric: "p99",
        reach: Reach::AtMostFloor(1.3),
    },
    Target {
        what: "personal p99 beside a saturating broadcast, beside its own without",
        row: "fairness",
        size: None,
        metric: "p99 beside the broadcast",
        reach: Reach::AtMostOwn(3.0, "p99 alone"),
    },
];

/// A target beside what was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Judged {
    pub(super) griot: f64,
    /// What it is compared with; nothing where the target is a number of its own.
    pub(super) other: Option<f64>,
    pub(super) holds: bool,
}

impl Reach {
    /// For readers: `≤ 1.25 × floor`.
    pub(super) fn words(self) -> String {
        match self {
            Self::AtMostFloor(times) => format!("≤ {times} × floor"),
            Self::AtLeastFloor(times) => format!("≥ {times} × floor"),
            Self::AtMost(most, unit) => format!("≤ {most} {unit}"),
            Self::AtMostOwn(times, metric) => format!("≤ {times} × {metric}"),
            Self::Below(subject) => format!("< {subject}"),
        }
    }
}

impl Target {
    /// At which size it is judged; nothing where the row was not measured at it.
    pub(super) fn size_in(&self, table: &Table<'_>) -> Option<usize> {
        let sizes = table.sizes(self.row, self.metric);
        match self.size {
            Some(size) => sizes.contains(&size).then_some(size),
            None => sizes.last().copied(),
        }
    }

    /// The ratio to the floor, where that is what it is judged by.
    pub(super) fn to_floor(&self, table: &Table<'_>) -> Option<f64> {
        let of_floor = matches!(self.reach, Reach::AtMostFloor(_) | Reach::AtLeastFloor(_));
        of_floor.then(|| table.ratio(self.row, self.size_in(table)?, self.metric, "griot")).flatten()
    }

    /// Whether it holds; otherwise what is missing for judging.
    pub(super) fn judge(&self, table: &Table<'_>) -> Result<Judged, String> {
        let size = self.size_in(table).ok_or("not measured")?;
        let median = |subject: &str, metric: &str| {
            let summary = table.summary(self.row, size, metric, subject);
            summary.map(|summary| summary.median).ok_or_else(|| format!("no {metric} of {subject}"))
        };
        let griot = median("griot", self.metric)?;
        Ok(match self.reach {
            Reach::AtMost(most, _) => Judged { griot, other: None, holds: griot <= most },
            Reach::AtMostFloor(times) => {
                let floor = median("floor", self.metric)?;
                Judged { griot, other: Some(floor), holds: griot <= times * floor }
            }
            Reach::AtLeastFloor(times) => {
                let floor = median("floor", self.metric)?;
                Judged { griot, other: Some(floor), holds: griot >= times * floor }
            }
            Reach::AtMostOwn(times, metric) => {
                let own = median("griot", metric)?;
                Judged { griot, other: Some(own), holds: griot <= times * own }
            }
            Reach::Below(subject) => {
                let other = median(subject, self.metric)?;
                Judged { griot, other: Some(other), holds: griot < other }
            }
        })
    }
}

/// Metrics of the instrument itself begin so: they tell nothing of who is measured.
const INSTRUMENT: &str = "the load client's";

/// Where a baseline is better than the Griot that does the same work, in words; and in how many comparisons.
pub(super) fn unbeaten(table: &Table<'_>) -> (Vec<String>, usize) {
    let (mut unbeaten, mut compared) = (Vec::new(), 0);
    for (other, theirs, griot) in table.comparisons() {
        if other.metric.starts_with(INSTRUMENT) {
            continue;
        }
        compared += 1;
        let beaten = match other.better {
            Better::Lower => griot.median <= theirs.median,
            Better::Higher => griot.median >= theirs.median,
        };
        if !beaten {
            let size = number(other.size as f64);
            unbeaten.push(format!("{} at {size}: {} of {}", other.row, other.metric, other.subject));
        }
    }
    (unbeaten, compared)
}
