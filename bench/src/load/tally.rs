//! What arrived: counted without a lock by the loop, read by whoever publishes.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// Steps per doubling of the latency.
const STEPS: u64 = 32;
const BUCKETS: usize = 64 * STEPS as usize;

/// See the module.
#[derive(Debug)]
pub struct Tally {
    pub(super) deliveries: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) twice: AtomicU64,
    pub(super) misdelivered: AtomicU64,
    pub(super) closed: AtomicU64,
    pub(super) unrecovered: AtomicU64,
    latencies: Box<[AtomicU64]>,
}

/// A copy of the counts at one moment. Latencies are in microseconds, exact to 3 %.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Counted {
    /// Publications that arrived.
    pub deliveries: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Publications that one after them overtook.
    pub lost: u64,
    /// Publications that came again.
    pub twice: u64,
    /// Publications that came to somebody else.
    pub misdelivered: u64,
    /// Connections that the server ended.
    pub closed: u64,
    /// Connections that were told that they have not recovered all.
    #[serde(default)]
    pub unrecovered: u64,
    /// Half of the deliveries took no longer.
    pub p50: f64,
    /// All but a hundredth took no longer.
    pub p99: f64,
    /// None took longer.
    pub max: f64,
}

impl Default for Tally {
    fn default() -> Self {
        let zero = AtomicU64::default;
        let latencies = (0..BUCKETS).map(|_| zero()).collect();
        Self {
            deliveries: zero(),
            bytes: zero(),
            lost: zero(),
            twice: zero(),
            misdelivered: zero(),
            closed: zero(),
            unrecovered: zero(),
            latencies,
        }
    }
}

impl Tally {
    pub(super) fn arrived(&self, nanos: u64) {
        // Only the loop adds, so that a load and a store are enough.
        let add = |count: &AtomicU64| count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        add(&self.latencies[bucket(nanos)]);
        add(&self.deliveries);
    }

    pub(super) fn begin(&self) {
        let counts = [&self.deliveries, &self.bytes, &self.lost, &self.twice, &self.misdelivered];
        let counts = counts.into_iter().chain([&self.closed, &self.unrecovered]);
        counts.chain(self.latencies.iter()).for_each(|count| count.store(0, Ordering::Relaxed));
    }

    pub(super) fn counted(&self) -> Counted {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counted {
            deliveries: get(&self.deliveries),
            bytes: get(&self.bytes),
            lost: get(&self.lost),
            twice: get(&self.twice),
            misdelivered: get(&self.misdelivered),
            closed: get(&self.closed),
            unrecovered: get(&self.unrecovered),
            p50: self.quantile(0.5),
            p99: self.quantile(0.99),
            max: self.quantile(1.0),
        }
    }

    fn quantile(&self, share: f64) -> f64 {
        let counts: Vec<u64> = self.latencies.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let wanted = (counts.iter().sum::<u64>() as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in counts.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                return upper(bucket) as f64 / 1_000.0;
            }
        }
        0.0
    }
}

/// Buckets grow with the value: [`STEPS`] for each doubling.
fn bucket(nanos: u64) -> usize {
    if nanos < STEPS {
        return nanos as usize;
    }
    let doubling = u64::from(nanos.ilog2()) - u64::from(STEPS.ilog2());
    (((doubling + 1) * STEPS) + ((nanos >> doubling) - STEPS)) as usize
}

/// The largest value of a bucket.
fn upper(bucket: usize) -> u64 {
    let (doubling, step) = (bucket as u64 / STEPS, bucket as u64 % STEPS);
    if doubling == 0 { step } else { ((STEPS + step + 1) << (doubling - 1)) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_at_most_three_per_cent_below_the_end_of_its_bucket() {
        for nanos in (0..40).chain([1_000, 12_345, 999_999, 1 << 40]) {
            let end = upper(bucket(nanos));
            assert!(end >= nanos && end - nanos <= nanos / 31, "{nanos} {end}");
            assert_eq!(bucket(end + 1), bucket(nanos) + 1);
        }
    }

    #[test]
    fn quantiles_are_those_of_what_arrived() {
        let tally = Tally::default();
        (1..=100).for_each(|micros| tally.arrived(micros * 1_000));
        let counted = tally.counted();
        assert_eq!(counted.deliveries, 100);
        assert!((50.0..52.0).contains(&counted.p50) && (99.0..103.0).contains(&counted.p99), "{counted:?}");
        tally.begin();
        assert_eq!(tally.counted(), Counted::default());
    }
}
