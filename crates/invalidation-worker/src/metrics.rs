//! What the worker counts.

use fanout_core::telemetry::{ByReason, Seconds};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Counters and histograms of the worker.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    /// 1 while this worker leads its region, 0 while it stands by.
    pub(crate) leader: Gauge,
    /// How often it took over.
    pub(crate) takeovers: Counter,
    /// Partitions of the log that were emptied.
    pub(crate) log_rotations: Counter,
    /// Entries applied, by kind.
    pub(crate) entries: ByReason,
    /// Exact keys that existed and were deleted.
    pub(crate) keys: Counter,
    /// Of those that `redelete` deleted once more, the ones that were there again.
    pub(crate) redeleted: Counter,
    /// Keys that sweeps removed.
    pub(crate) swept: Counter,
    /// Publications confirmed by Redis.
    pub(crate) publications: Counter,
    /// Publications that had been published before, by this worker before it was restarted.
    pub(crate) repeated: Counter,
    /// How often another Redis server answered, and what it may lack was applied again.
    pub(crate) replays: Counter,
    /// How often everything that rules name was swept, because history or keys of another time came back.
    pub(crate) flushes: Counter,
    /// How often the region had been away for longer than the retention: an alarm.
    pub(crate) lapses: Counter,
    /// Notifications of applications' own triggers.
    pub(crate) heard: Counter,
    /// Those of them that took no effect, by reason.
    pub(crate) heard_dropped: ByReason,
    /// How often the connection that listens was lost, and with it an unknown number of notifications.
    pub(crate) heard_losses: Counter,
    /// How often a notification ended the pause between two polls.
    pub(crate) wakes: Counter,
    /// Parts of entries that could not take effect, by reason.
    pub(crate) poison: ByReason,
    /// Failed attempts, by dependency.
    pub(crate) errors: ByReason,
    /// From the writing of an entry until all of its page took effect.
    pub(crate) lag: Seconds,
    /// How long a sweep took.
    pub(crate) sweep: Seconds,
    /// From the first request of a sweep until it was done: how long a raw pattern may be stale.
    pub(crate) sweep_age: Seconds,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            entries: ByReason::register(registry, "entries_applied", "Entries of the change log applied, by kind"),
            leader: Gauge::default(),
            takeovers: Counter::default(),
            log_rotations: Counter::default(),
            keys: Counter::default(),
            redeleted: Counter::default(),
            swept: Counter::default(),
            publications: Counter::default(),
            repeated: Counter::default(),
            replays: Counter::default(),
            flushes: Counter::default(),
            lapses: Counter::default(),
            heard: Counter::default(),
            heard_dropped: ByReason::register(registry, "heard_dropped", "Notifications without effect, by reason"),
            heard_losses: Counter::default(),
            wakes: Counter::default(),
            poison: ByReason::register(registry, "poison", "Parts of entries that could not take effect, by reason"),
            errors: ByReason::register(registry, "worker_errors", "Failed attempts, by dependency"),
            lag: Seconds::register(registry, "apply_lag_seconds", "From the writing of an entry until it took effect"),
            sweep: Seconds::register(registry, "sweep_seconds", "Duration of sweeps"),
            sweep_age: Seconds::register(
                registry,
                "sweep_age_seconds",
                "From the request of a sweep until it was done",
            ),
        };
        registry.register("leader", "1 while this worker leads its region", metrics.leader.clone());
        registry.register("takeovers", "Times that this worker took its region over", metrics.takeovers.clone());
        registry.register("log_rotations", "Partitions of the log that were emptied", metrics.log_rotations.clone());
        registry.register("keys_deleted", "Exact keys deleted", metrics.keys.clone());
        let help = "Exact keys that were there again when redelete deleted them once more";
        registry.register("keys_redeleted", help, metrics.redeleted.clone());
        registry.register("keys_swept", "Keys that sweeps removed", metrics.swept.clone());
        registry.register("log_publications", "Publications of the change log", metrics.publications.clone());
        registry.register("replays", "Times that another Redis server answered", metrics.replays.clone());
        registry.register("lapses", "Times that entries were gone before they were applied", metrics.lapses.clone());
        registry.register("flushes", "Times that all that rules name was swept", metrics.flushes.clone());
        registry.register("heard", "Notifications of applications' own triggers", metrics.heard.clone());
        let help = "Times that the connection that listens was lost, and notifications with it";
        registry.register("heard_losses", help, metrics.heard_losses.clone());
        let help = "Times that a notification ended the pause between two polls";
        registry.register("wakes", help, metrics.wakes.clone());
        registry.register("log_publications_repeated", "Of these, published before", metrics.repeated.clone());
        metrics
    }
}
