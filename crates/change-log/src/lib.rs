//! The PostgreSQL side of Griot: append to the change log, read it by cursor, capture row changes by rule.
//!
//! An application appends in its own transaction ([`append::publish`], [`append::invalidate`],
//! [`append::invalidate_pattern`], or the SQL functions of the same names), or lets triggers do it that
//! [`install::apply`] creates from [`Rules`]. A worker reads what was committed through a [`Reader`] and asks the
//! rules what a row change means ([`Rules::effects`]).

mod addresses;
pub mod append;
pub mod cursor;
mod digest;
pub mod entry;
mod error;
pub mod install;
pub mod lead;
mod limits;
pub mod listen;
mod migrate;
mod nearest;
mod progress;
mod reader;
pub mod rotate;
pub mod rules;
mod servers;
mod tenure;
mod trail;

pub use entry::{Body, Entry, RowChange};
pub use error::{Error, Problem, Refusal};
pub use lead::{Candidate, Standing};
pub use listen::{Heard, Listener};
pub use migrate::migrate;
pub use progress::{Lost, Opening, Progress};
pub use reader::{Mark, Page, Pass, Reader};
pub use rules::{Effects, Rules, Unheard};
pub use servers::Servers;
/// The pool type that this crate's functions take, so that callers need no dependency on sqlx.
pub use sqlx::PgPool;
pub use tenure::Tenure;
