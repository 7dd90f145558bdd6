//! What the cache counts, per family. Hit rate is `hits / (hits + misses)`; loads per miss say what leases and sharing
//! save.

use std::time::Duration;

use fanout_core::telemetry::Seconds;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    family: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    family: &'static str,
    outcome: &'static str,
}

/// Counters and histograms of a cache. Clones count together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    hits: Family<Of, Counter>,
    misses: Family<Of, Counter>,
    shared: Family<Of, Counter>,
    leases: Family<Outcome, Counter>,
    fills: Family<Outcome, Counter>,
    loads: Family<Outcome, Counter>,
    writes: Family<Outcome, Counter>,
    errors: Family<Outcome, Counter>,
    invalidated: Counter,
    load_seconds: Seconds,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            load_seconds: Seconds::register(registry, "cache_load_seconds", "Duration of loads"),
            ..Self::default()
        };
        let mut one = |name, help, counter: &Family<Of, Counter>| registry.register(name, help, counter.clone());
        one("cache_hits", "Reads that found a value", &metrics.hits);
        one("cache_misses", "Reads that found none at first", &metrics.misses);
        one("cache_shared", "Misses that were given what another read of this process loaded", &metrics.shared);
        let mut by = |name, help, counter: &Family<Outcome, Counter>| registry.register(name, help, counter.clone());
        by("cache_leases", "Leases asked for by readers: granted or refused", &metrics.leases);
        by("cache_fills", "What became of loaded values: stored, lost, empty, too_large or unfilled", &metrics.fills);
        by("cache_loads", "Loads: ok or failed", &metrics.loads);
        by(
            "cache_writes",
            "Write-through: stored; refused as kept or absent; unversioned, too_large, away or failed",
            &metrics.writes,
        );
        by("cache_redis_errors", "Commands that failed: away or refused", &metrics.errors);
        registry.register("cache_invalidated", "Keys that invalidate() removed", metrics.invalidated.clone());
        metrics
    }

    pub(crate) fn hit(&self, family: &'static str) {
        self.hits.get_or_create(&Of { family }).inc();
    }

    pub(crate) fn miss(&self, family: &'static str) {
        self.misses.get_or_create(&Of { family }).inc();
    }

    pub(crate) fn shared(&self, family: &'static str) {
        self.shared.get_or_create(&Of { family }).inc();
    }

    pub(crate) fn lease(&self, family: &'static str, outcome: &'static str) {
        self.leases.get_or_create(&Outcome { family, outcome }).inc();
    }

    pub(crate) fn fill(&self, family: &'static str, outcome: &'static str) {
        self.fills.get_or_create(&Outcome { family, outcome }).inc();
    }

    pub(crate) fn load(&self, family: &'static str, outcome: &'static str, took: Duration) {
        self.loads.get_or_create(&Outcome { family, outcome }).inc();
        self.load_seconds.observe(took);
    }

    pub(crate) fn write(&self, family: &'static str, outcome: &'static str) {
        self.writes.get_or_create(&Outcome { family, outcome }).inc();
    }

    pub(crate) fn error(&self, family: &'static str, outcome: &'static str) {
        self.errors.get_or_create(&Outcome { family, outcome }).inc();
    }

    pub(crate) fn invalidated(&self, keys: u64) {
        self.invalidated.inc_by(keys);
    }
}
