//! Who published, or who is there: what one client shows of itself to others.

use serde::{Deserialize, Serialize};

use crate::data::Data;

/// A client as others see it, in the fields of the Centrifugal client protocol.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClientInfo {
    /// The user's id; empty when anonymous.
    #[serde(default)]
    pub user: String,
    /// The id of the connection.
    #[serde(default)]
    pub client: String,
    /// What the connection's token says of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conn_info: Option<Data>,
    /// What the subscription's token says of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chan_info: Option<Data>,
}
