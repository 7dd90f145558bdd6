//! The harness that starts real servers for the tests and the demo.
//!
//! What it starts is private (free ports, temporary folders) and gone with the process that started it, however that
//! ends. It waits for conditions, never for a time.

pub mod bridge;
pub mod client;
pub mod eventually;
pub mod fleet;
pub mod fresh;
pub mod http;
pub mod oracle;
pub mod process;
pub mod proxy;
pub mod servers;
pub mod stage;
pub mod stream;
pub mod supervisor;
pub mod token;
pub mod trial;
