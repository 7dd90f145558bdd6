//! Channels, feeds, publishing and the link to Redis: what every worker of Griot stands on.
//!
//! An event's path begins in [`publisher`], is named by [`channel`] and [`names`], goes through Redis as an
//! [`envelope`] and comes out at the [`link`].

pub mod admin;
pub mod channel;
mod client;
pub mod config;
pub mod control;
mod data;
pub mod envelope;
pub mod history;
pub mod http;
pub mod link;
pub mod names;
pub mod nodes;
pub mod position;
pub mod presence;
mod process;
pub mod publisher;
mod redis;
mod script;
mod shutdown;
pub mod telemetry;
mod topic;

pub use channel::{Channel, UserId};
pub use client::ClientInfo;
pub use data::{Data, DataError, MAX_DATA_BYTES, begins_object, is_line};
pub use process::{ready, run};
pub use publisher::{BATCH, Publication, PublishError, Publisher, Receipt};
pub use redis::{DeploymentError, Redis, RedisConfig, RedisError};
pub use shutdown::Shutdown;
pub use topic::{Personal, Topic, Topics, Who};
