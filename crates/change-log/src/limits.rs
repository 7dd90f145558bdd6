//! The limits that `migrations/0003_append.sql` enforces for callers of SQL; rules are held to the same ones.

/// Bytes of a cache key or a pattern.
pub(crate) const KEY_BYTES: usize = 512;
/// Bytes of a channel name.
pub(crate) const CHANNEL_BYTES: usize = 255;
/// Bytes of the topic of a channel.
pub(crate) const TOPIC_BYTES: usize = 64;
/// Bytes of a user id, and of any value that a rule puts into a channel.
pub(crate) const USER_BYTES: usize = 128;
/// Bytes of a conflation key.
pub(crate) const CONFLATION_KEY_BYTES: usize = 128;
/// Bytes of a publication's data as JSON text.
pub(crate) const DATA_BYTES: usize = 65_536;
/// Bytes of a region's name.
pub(crate) const REGION_BYTES: usize = 64;
/// What Griot's own names in Redis begin with: never a cache key.
pub(crate) const OWN_PREFIX: &str = "griot:";
