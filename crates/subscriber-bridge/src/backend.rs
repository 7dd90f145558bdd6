//! Calls of clients (`rpc`) that the application's own backend answers.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use fanout_core::config::ConfigError;
use fanout_core::{Data, MAX_DATA_BYTES};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::Semaphore;

use crate::outbound::{Limits, Outbound, OutboundError};

/// Clients give up on a command after 5 s.
const PATIENCE: Duration = Duration::from_secs(4);
/// Around the data there is little more than the names of fields.
const MAX_ANSWER_BYTES: usize = MAX_DATA_BYTES + 4 * 1024;
/// Connections that rest between calls.
const MAX_IDLE: usize = 16;

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// As many calls as permitted are under way: the client may try again.
    #[error("as many calls as permitted are under way")]
    Busy,
    /// The backend refused it; code and text are for the client.
    #[error("refused with {code} {message:?}")]
    Refused {
        /// The backend's own code.
        code: u32,
        /// Its text.
        message: String,
    },
    /// The backend could not be asked: the client may try again.
    #[error("the backend: {0}")]
    Unreachable(#[from] OutboundError),
    /// The backend answered something else than `{"result":{"data":…}}` or `{"error":{"code":…,"message":…}}`.
    #[error("the backend's answer is neither a result nor an error: {0}")]
    Answer(String),
}

/// One call, as the backend gets it.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Call<'a> {
    /// The connection's id.
    pub client: &'a str,
    /// Who calls; empty for nobody in particular.
    pub user: &'a str,
    /// What is called.
    pub method: &'a str,
    /// With what; left out when there is nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Answer {
    result: Option<ResultOf>,
    error: Option<ErrorOf>,
}

#[derive(Deserialize)]
struct ResultOf {
    data: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct ErrorOf {
    code: u32,
    message: String,
}

/// The application's backend at `rpc_url`.
pub struct Backend {
    outbound: Outbound,
    calls: Semaphore,
}

impl Backend {
    /// A backend at `url` with at most `max_calls` at once.
    ///
    /// # Errors
    /// As [`Outbound::new`].
    pub fn new(url: &str, ca_file: Option<&Path>, max_calls: usize) -> Result<Self, ConfigError> {
        let limits = Limits { patience: PATIENCE, max_bytes: MAX_ANSWER_BYTES, max_idle: MAX_IDLE };
        let outbound = Outbound::new("subscriber_bridge.rpc_url", url, ca_file, limits)?;
        Ok(Self { outbound, calls: Semaphore::new(max_calls) })
    }

    /// What the backend answers to `call`; `None` is a result without data.
    ///
    /// # Errors
    /// See [`CallError`]. Nothing is tried twice that the backend may have seen.
    pub async fn rpc(&self, call: Call<'_>) -> Result<Option<Data>, CallError> {
        let _permit = self.calls.try_acquire().map_err(|_| CallError::Busy)?;
        let json = serde_json::to_vec(&call).map_err(|error| CallError::Answer(error.to_string()))?;
        let answer = self.outbound.post(json.into()).await?;
        let answer: Answer = serde_json::from_slice(&answer).map_err(|error| CallError::Answer(error.to_string()))?;
        match answer {
            Answer { error: Some(ErrorOf { code, message }), .. } => Err(CallError::Refused { code, message }),
            Answer { result: Some(ResultOf { data: None }), .. } => Ok(None),
            Answer { result: Some(ResultOf { data: Some(data) }), .. } => {
                let data = Data::parse(Bytes::copy_from_slice(data.get().as_bytes()));
                data.map(Some).map_err(|error| CallError::Answer(error.to_string()))
            }
            Answer { result: None, error: None } => Err(CallError::Answer("it holds neither".into())),
        }
    }
}

#[cfg(test)]
mod tests;
