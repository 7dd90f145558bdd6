//! What things cost, each figure with where it comes from: measured by `bench`, or taken on trust until it is.

use crate::results::{Measurement, Results};

/// One cost and where it comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// In the unit of its field.
    pub value: f64,
    /// For the reader: a row of the results, or why this number.
    pub source: String,
}

/// Everything that the formulas multiply by.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// CPU of a bridge for one delivery on a personal channel, in µs.
    pub personal_delivery: Figure,
    /// CPU of a bridge for one of many deliveries of one publication, in µs.
    pub broadcast_delivery: Figure,
    /// CPU of a bridge for one ping and its pong, in µs.
    pub ping: Figure,
    /// CPU of a bridge for one connection with its token and its personal channels, in µs.
    pub connect: Figure,
    /// CPU of a bridge for one client that comes back and recovers what it has missed, in µs.
    pub recovery: Figure,
    /// Memory of a bridge for an idle connection, in bytes.
    pub connection: Figure,
    /// Memory of the kernel for an idle socket, in bytes. No process shows it.
    pub socket: Figure,
    /// Memory of Redis for one user's positions and histories, in bytes.
    pub active_user: Figure,
    /// Memory of Redis for the subscription of one user who is there, in bytes.
    pub subscription: Figure,
    /// CPU of a Redis primary for one publication with history, in µs.
    pub publication: Figure,
    /// CPU of a Redis primary for one position that is read, in µs.
    pub position: Figure,
    /// What a delivery adds on the wire to its data: push, WebSocket, TLS, TCP, IP and Ethernet, in bytes.
    pub envelope: Figure,
}

impl Default for Figures {
    fn default() -> Self {
        let figure = |value, source: &str| Figure { value, source: source.to_owned() };
        Self {
            personal_delivery: figure(4.0, "assumed: 1.6 times a send of 1.1 to 1.6 µs, and reading it from Redis"),
            broadcast_delivery: figure(2.0, "assumed: 1.25 times a send of 1.1 to 1.6 µs"),
            ping: figure(4.0, "assumed: a send, a read of 1.1 µs and a wake-up"),
            connect: figure(150.0, "assumed: 6 times a bare upgrade of about 25 µs"),
            recovery: figure(300.0, "assumed: twice a connect"),
            connection: figure(4_500.0, "assumed: the target of the row `idle`"),
            socket: figure(4_096.0, "Linux slab sizes, 3.7 KB (TCP 2,368, socket inode 832, file, dentry, epoll item)"),
            active_user: figure(
                4_000.0,
                "assumed: 15 entries of 200 bytes at up to 233 bytes each in lists, and the position",
            ),
            subscription: figure(
                300.0,
                "assumed: a channel's name in Redis' table of subscribers and in the bridge's client",
            ),
            publication: figure(20.0, "assumed: one script call with fence, position, history and PUBLISH"),
            position: figure(2.0, "measured on Redis 7.0 for paced, pipelined batches"),
            envelope: figure(200.0, "push 80, WebSocket 4, TLS 22, TCP/IP with timestamps 52, Ethernet 38"),
        }
    }
}

impl Figures {
    /// The defaults, with what was measured of Griot in their place, at the largest size that was measured.
    #[must_use]
    pub fn measured(results: &Results) -> Self {
        let mut figures = Self::default();
        for (figure, row, metric, to) in [
            (&mut figures.personal_delivery, "personal", "CPU per delivery", MICROSECONDS),
            (&mut figures.broadcast_delivery, "broadcast-paced", "CPU per delivery", MICROSECONDS),
            (&mut figures.connect, "connect", "CPU per connect", MICROSECONDS),
            (&mut figures.recovery, "recovery", "CPU per recovery", MICROSECONDS),
            (&mut figures.connection, "idle", "memory per connection", BYTES),
            (&mut figures.active_user, "redis-memory", "memory per active user", BYTES),
            (&mut figures.publication, "publish", "Redis CPU per publication", MICROSECONDS),
        ] {
            if let Some(found) = find(results, row, metric, to) {
                *figure = found;
            }
        }
        figures
    }

    /// Each figure with its name and unit, as a reader goes through them.
    #[must_use]
    pub fn list(&self) -> [(&'static str, &'static str, &Figure); 12] {
        [
            ("delivery on a personal channel, bridge", "µs", &self.personal_delivery),
            ("delivery of a broadcast, bridge", "µs", &self.broadcast_delivery),
            ("ping and pong, bridge", "µs", &self.ping),
            ("connect, bridge", "µs", &self.connect),
            ("reconnect and recovery, bridge", "µs", &self.recovery),
            ("idle connection, bridge", "bytes", &self.connection),
            ("idle connection, kernel", "bytes", &self.socket),
            ("active user, Redis", "bytes", &self.active_user),
            ("subscription, Redis", "bytes", &self.subscription),
            ("publication, Redis", "µs", &self.publication),
            ("position read, Redis", "µs", &self.position),
            ("around the data of a delivery", "bytes", &self.envelope),
        ]
    }
}

type Units = &'static [(&'static str, f64)];
const MICROSECONDS: Units = &[("ns", 1e-3), ("µs", 1.0), ("us", 1.0), ("ms", 1e3)];
const BYTES: Units = &[("bytes", 1.0), ("B", 1.0), ("KB", 1e3), ("KiB", 1024.0), ("MB", 1e6)];

fn find(results: &Results, row: &str, metric: &str, units: Units) -> Option<Figure> {
    let fits = |m: &&Measurement| m.row == row && m.subject == "griot" && m.metric == metric;
    let found = results.measurements.iter().filter(fits).max_by_key(|m| m.size)?;
    let (_, factor) = units.iter().find(|(unit, _)| *unit == found.unit)?;
    let source =
        format!("measured: row `{row}` at {}, {} rounds, {}", found.size, found.rounds.len(), results.machine.cpu);
    Some(Figure { value: median(&found.rounds)? * factor, source })
}

fn median(rounds: &[f64]) -> Option<f64> {
    let mut sorted = rounds.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = sorted[(sorted.len() - 1) / 2];
    Some(f64::midpoint(lower, upper))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Better;

    fn measurement(size: usize, subject: &str, unit: &str, rounds: &[f64]) -> Measurement {
        Measurement {
            row: "idle".to_owned(),
            size,
            subject: subject.to_owned(),
            metric: "memory per connection".to_owned(),
            unit: unit.to_owned(),
            better: Better::Lower,
            rounds: rounds.to_vec(),
            notes: String::new(),
        }
    }

    fn connection(measurements: Vec<Measurement>) -> Figure {
        Figures::measured(&Results { measurements, ..Results::default() }).connection
    }

    #[test]
    fn the_largest_size_of_griot_is_taken_in_bytes() {
        let of_griot = |size, rounds: &[f64]| measurement(size, "griot", "KB", rounds);
        let figure = connection(vec![
            of_griot(1_000, &[9.0]),
            of_griot(15_000, &[4.0, 3.0, 5.0, 100.0]),
            measurement(15_000, "floor", "KB", &[1.0]),
            Measurement {
                metric: "the load client's memory per connection".to_owned(),
                ..measurement(15_000, "griot", "KB", &[2.0])
            },
        ]);
        assert!((figure.value - 4_500.0).abs() < 1e-6, "{figure:?}");
        assert!(figure.source.starts_with("measured: row `idle` at 15000, 4 rounds"), "{figure:?}");
    }

    #[test]
    fn what_was_not_measured_or_in_a_strange_unit_stays_assumed() {
        let assumed = Figures::default().connection;
        assert_eq!(connection(Vec::new()), assumed);
        assert_eq!(connection(vec![measurement(15_000, "griot", "KB", &[])]), assumed);
        assert_eq!(connection(vec![measurement(15_000, "griot", "furlongs", &[1.0])]), assumed);
    }
}
