//! Caching strategies for backends whose values live in PostgreSQL and are cached in Redis: read-through and cache-aside
//! with leases, write-through with versions.
//!
//! A key holds the application's bytes and nothing else, so that `GET product:42` works from any language; while a value
//! is being loaded it holds the empty string. `docs/cache.md` says what is promised, and has the same protocol for Node.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! # async fn load_product(_id: u64) -> Result<String, std::io::Error> { Ok("{}".into()) }
//! use cache::{Cache, CacheConfig};
//! use fanout_core::{Redis, RedisConfig};
//!
//! let redis = Redis::connect(&RedisConfig { url: "redis://127.0.0.1:6379".into(), ..RedisConfig::default() })?;
//! let mut registry = fanout_core::telemetry::registry();
//! let cache = Cache::new(&redis, CacheConfig::default(), &mut registry)?;
//! let products = cache.family("product");
//! let product = products.read_through("product:42", || load_product(42)).await?;
//! # drop(product);
//! # Ok(())
//! # }
//! ```
//!
//! It knows no SQL: it is given closures that load and write, and their errors come back as they are.

mod cache;
mod config;
mod error;
mod family;
mod flight;
mod key;
mod lease;
mod metrics;
pub mod script;
mod write;

pub use cache::Cache;
pub use config::{CacheConfig, WhenAway};
pub use error::{Error, KeyError};
pub use family::Family;
pub use key::companion;
pub use lease::{Lease, Looked};
pub use write::{Outcome, Written};
