//! The scripts that run inside Redis. Each is one file in `lua/`, whose head says what it takes and returns; they are
//! public because clients in other languages run the same ones.

use std::sync::LazyLock;

use fred::types::scripts::Script;

/// Looks a key up, and gives the lease to the first reader who does not find it.
pub const LEASE: &str = include_str!("lua/lease.lua");
/// Fills a key under the lease.
pub const FILL: &str = include_str!("lua/fill.lua");
/// Gives a lease back.
pub const RELEASE: &str = include_str!("lua/release.lua");
/// Takes the lease for a writer.
pub const CLAIM: &str = include_str!("lua/claim.lua");
/// Writes a committed version.
pub const WRITE: &str = include_str!("lua/write.lua");

pub(crate) static LEASE_SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::from_lua(LEASE));
pub(crate) static FILL_SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::from_lua(FILL));
pub(crate) static RELEASE_SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::from_lua(RELEASE));
pub(crate) static CLAIM_SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::from_lua(CLAIM));
pub(crate) static WRITE_SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::from_lua(WRITE));
