//! What can be set.

use std::time::Duration;

use fanout_core::config::ConfigError;
use serde::Deserialize;

/// What readers do while Redis is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenAway {
    /// Load without the cache, one load per key and process at a time.
    Load,
    /// Answer [`Error::Redis`](crate::Error::Redis): for a database that would not bear it.
    Fail,
}

/// Times and limits of a [`Cache`](crate::Cache).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CacheConfig {
    /// Seconds that a value lives at most, where the family says nothing else. It bounds what an unknown fault can do.
    pub ttl_seconds: u64,
    /// Percent by which lives are shortened at random, 0 to 90, so that what was filled together does not end together.
    pub ttl_jitter_percent: u8,
    /// Milliseconds that a lease lasts: longer than nearly all loads. A load that takes longer is not cached.
    pub lease_ms: u64,
    /// Milliseconds that a reader waits for a fill by another process; then it loads without filling.
    pub lease_wait_ms: u64,
    /// Milliseconds that a reader waits for a load of the same key in this process; then it loads without filling.
    pub flight_wait_ms: u64,
    /// Keys that are loaded at the same time by one reader for all; what is beyond is loaded by each reader for itself.
    pub max_flights: usize,
    /// Longest key in bytes; a longer one is an error.
    pub max_key_bytes: usize,
    /// Largest value in bytes; a larger one is returned and not cached.
    pub max_value_bytes: usize,
    /// Milliseconds until a command without an answer has failed.
    pub command_timeout_ms: u64,
    /// Milliseconds that readers leave Redis alone after a command failed because it is away; invalidations and writes
    /// are tried nevertheless.
    pub away_pause_ms: u64,
    /// `load` or `fail`.
    pub when_away: WhenAway,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            ttl_seconds: 3_600,
            ttl_jitter_percent: 10,
            lease_ms: 3_000,
            lease_wait_ms: 300,
            flight_wait_ms: 3_000,
            max_flights: 10_000,
            max_key_bytes: 512,
            max_value_bytes: 1024 * 1024,
            command_timeout_ms: 250,
            away_pause_ms: 1_000,
            when_away: WhenAway::Load,
        }
    }
}

impl CacheConfig {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let positive = [
            ("ttl_seconds", self.ttl_seconds),
            ("lease_ms", self.lease_ms),
            ("flight_wait_ms", self.flight_wait_ms),
            ("command_timeout_ms", self.command_timeout_ms),
        ];
        if let Some((field, _)) = positive.into_iter().find(|(_, value)| *value == 0) {
            return Err(ConfigError(format!("{field} = 0: must be at least 1")));
        }
        if self.ttl_jitter_percent > 90 {
            return Err(ConfigError(format!("ttl_jitter_percent = {}: must be 0 to 90", self.ttl_jitter_percent)));
        }
        Ok(())
    }

    /// Milliseconds that a value of `ttl` lives this time.
    pub(crate) fn life_ms(&self, ttl: Duration) -> u64 {
        let shortened = 1.0 - f64::from(self.ttl_jitter_percent) / 100.0 * fastrand::f64();
        u64::try_from(ttl.mul_f64(shortened).as_millis()).unwrap_or(u64::MAX >> 1).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_differ_and_none_is_longer_than_asked() {
        let config = CacheConfig::default();
        let lives: Vec<u64> = (0..100).map(|_| config.life_ms(Duration::from_secs(100))).collect();
        assert!(lives.iter().all(|life| (90_000..=100_000).contains(life)), "{lives:?}");
        assert!(lives.iter().any(|life| *life != lives[0]), "{lives:?}");
        assert_eq!(config.life_ms(Duration::ZERO), 1);
    }
}
