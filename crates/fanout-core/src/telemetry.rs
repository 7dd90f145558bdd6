//! Logs and metrics of a worker.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeLabelSet, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;
use tracing_subscriber::EnvFilter;

use crate::config::{ConfigError, LogConfig, LogFormat};

/// Starts writing the log to standard error. Standard output stays free for what a command prints.
///
/// # Errors
/// A filter that does not parse, or a log that was started before.
pub fn start(config: &LogConfig) -> Result<(), ConfigError> {
    let filter = EnvFilter::try_new(&config.filter)
        .map_err(|error| ConfigError(format!("log.filter = {:?}: {error}", config.filter)))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match config.format {
        LogFormat::Text => log.with_ansi(false).try_init(),
        LogFormat::Json => log.json().try_init(),
    };
    started.map_err(|error| ConfigError(format!("the log was started before: {error}")))
}

/// A registry whose metrics all begin with `griot_`.
pub fn registry() -> Registry {
    Registry::with_prefix("griot")
}

/// The one label of metrics that count by reason.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    /// Why, from a fixed list.
    pub reason: &'static str,
}

/// Counts by reason; every drop and every disconnect goes through one.
#[derive(Debug, Clone, Default)]
pub struct ByReason(Family<Reason, Counter>);

impl ByReason {
    /// Registers the counter under `name`.
    pub fn register(registry: &mut Registry, name: &str, help: &str) -> Self {
        let counter = Self::default();
        registry.register(name, help, counter.0.clone());
        counter
    }

    /// Counts one.
    pub fn count(&self, reason: &'static str) {
        self.count_many(reason, 1);
    }

    /// Counts several at once.
    pub fn count_many(&self, reason: &'static str, count: usize) {
        self.0.get_or_create(&Reason { reason }).inc_by(count as u64);
    }
}

/// A histogram of seconds with fixed buckets and no lock, so that the hot path can observe.
#[derive(Debug, Clone, Default)]
pub struct Seconds(std::sync::Arc<SecondsInner>);

#[derive(Debug, Default)]
struct SecondsInner {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

/// From 100 µs to 10 s; the platform's goals are 10 ms and below.
const BOUNDS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

impl Seconds {
    /// Registers the histogram under `name`.
    pub fn register(registry: &mut Registry, name: &str, help: &str) -> Self {
        let histogram = Self::default();
        registry.register(name, help, histogram.clone());
        histogram
    }

    /// Adds one observation.
    pub fn observe(&self, duration: std::time::Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.0.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.0.micros.fetch_add(micros, Ordering::Relaxed);
    }
}

impl TypedMetric for Seconds {
    const TYPE: MetricType = MetricType::Histogram;
}

impl prometheus_client::encoding::EncodeMetric for Seconds {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counts: Vec<u64> = self.0.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        let bounds = BOUNDS.into_iter().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(counts.iter().copied()).collect();
        let micros = self.0.micros.load(Ordering::Relaxed);
        #[expect(clippy::cast_precision_loss, reason = "a sum of seconds needs no more than 52 bits")]
        encoder.encode_histogram::<NoLabelSet>(micros as f64 / 1e6, counts.iter().sum(), &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_cumulative_and_sums() {
        let mut registry = registry();
        let seconds = Seconds::register(&mut registry, "lag_seconds", "Lag");
        seconds.observe(std::time::Duration::from_millis(3));
        seconds.observe(std::time::Duration::from_secs(60));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
        for line in
            ["le=\"0.0025\"} 0", "le=\"0.005\"} 1", "le=\"10.0\"} 1", "le=\"+Inf\"} 2", "griot_lag_seconds_count 2"]
        {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
