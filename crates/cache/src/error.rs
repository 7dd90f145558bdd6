//! Why a read or a write failed.

use std::sync::Arc;

use fanout_core::RedisError;

/// Why a value could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error<E> {
    /// What the closure answered, as it is; shared, because all who waited for the same load are given it.
    #[error("{0}")]
    Load(Arc<E>),
    /// Redis failed, and the configuration says not to load without it.
    #[error(transparent)]
    Redis(#[from] RedisError),
    /// No key of the cache.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// What is not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is empty.
    #[error("a key is empty")]
    Empty,
    /// It is longer than `max_key_bytes`.
    #[error("a key is {bytes} bytes, the limit is {limit}: {start:?}…")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
        /// Its first characters.
        start: String,
    },
}

impl KeyError {
    pub(crate) fn check(key: &str, limit: usize) -> Result<(), Self> {
        match key.len() {
            0 => Err(Self::Empty),
            bytes if bytes > limit => Err(Self::TooLong { bytes, limit, start: key.chars().take(40).collect() }),
            _ => Ok(()),
        }
    }
}
