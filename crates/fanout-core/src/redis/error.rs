//! What can go wrong between here and Redis.

use fred::error::{Error, ErrorKind};

use crate::config::ConfigError;

/// Why a command to Redis failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RedisError {
    /// Not reachable, or no answer in time. The command may have been carried out.
    #[error("Redis is away: {0}")]
    Away(String),
    /// Certainly nothing was done: Redis was not reachable or not asked, or stopped before.
    #[error("nothing was done in Redis: {0}")]
    NotDone(String),
    /// Over its memory limit: it takes no more until something is removed or the limit is raised.
    #[error("Redis is out of memory (maxmemory reached, policy noeviction): raise maxmemory or remove keys")]
    OutOfMemory,
    /// The user lacks a right.
    #[error(
        "Redis refuses a command to this user: {0}. Scripts need +info (or `fence = false` in [redis]), and +@read \
         +@write +@pubsub on griot:*"
    )]
    NotPermitted(String),
    /// Another server answered than the one that was expected. What was sent may have been carried out there; a
    /// publication was not.
    #[error("another Redis server answers than the one expected")]
    Fenced,
    /// Any other answer that is an error.
    #[error("Redis answered an error: {0}")]
    Refused(String),
}

impl RedisError {
    /// Whether Redis could not be reached, so that trying again later is all there is to do.
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Away(_) | Self::NotDone(_))
    }

    /// Whether the same command can succeed later without anybody changing a setting.
    pub fn is_transient(&self) -> bool {
        !matches!(self, Self::NotPermitted(_))
    }
}

impl RedisError {
    /// What an error that Redis answered means, by its text.
    pub(crate) fn answered(text: String) -> Self {
        let says = |word: &str| text.contains(word);
        if says("LOADING") || says("READONLY") || says("MASTERDOWN") || says("TRYAGAIN") {
            Self::Away(text)
        } else if text.starts_with("FENCED") {
            Self::Fenced
        } else if says("OOM ") {
            Self::OutOfMemory
        } else if says("NOPERM") || says("can't run this command") {
            Self::NotPermitted(text)
        } else {
            Self::Refused(text)
        }
    }
}

impl From<Error> for RedisError {
    fn from(error: Error) -> Self {
        let text = error.details().to_owned();
        match error.kind() {
            ErrorKind::IO | ErrorKind::Timeout | ErrorKind::Canceled | ErrorKind::Backpressure | ErrorKind::Routing => {
                Self::Away(text)
            }
            ErrorKind::Auth => Self::NotPermitted(text),
            // fred's words while it has no connection to write a command to: between a disconnect and its reconnect.
            _ if text.contains("Failed to route command") => Self::NotDone("no connection".into()),
            _ => Self::answered(text),
        }
    }
}

/// Why a process may not take part in a deployment.
#[derive(Debug, thiserror::Error)]
pub enum DeploymentError {
    /// It is configured differently.
    #[error(transparent)]
    Differs(ConfigError),
    /// Redis could not be asked.
    #[error(transparent)]
    Redis(#[from] RedisError),
}
