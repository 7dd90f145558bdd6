//! One load per key at a time: who comes while it goes on waits for its turn, and is given the value if it is fresh enough
//! for them.
//!
//! A value is never older than the reader's own beginning. Else a page that refetches because it was told of a change
//! could be handed what another reader had loaded before that change.

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use fanout_core::RedisError;
use tokio::sync::{Mutex as TurnLock, MutexGuard};

use crate::error::Error;
use crate::key::Token;

/// A moment in the order of this process's reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u64);

impl Moment {
    /// Later than every moment taken before.
    pub(crate) fn now() -> Self {
        static MOMENTS: AtomicU64 = AtomicU64::new(0);
        Self(MOMENTS.fetch_add(1, Ordering::SeqCst))
    }
}

/// The loads that are under way.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    by_key: Mutex<HashMap<String, (Arc<TurnLock<Turn>>, usize)>>,
}

/// A reader's part in a flight. The flight is forgotten with its last reader.
#[derive(Debug)]
pub(crate) struct Seat<'a> {
    flights: &'a Flights,
    key: &'a str,
    turn: Arc<TurnLock<Turn>>,
}

/// What the readers of a flight hand on to one another; whose turn it is, loads. A reader that is dropped hands its turn
/// to the next.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// Asks for the lease. The next reader asks with the same, so that a lease whose reader was dropped is still of use;
    /// but a token that a fill was sent with is never used again, because that fill may still be on its way.
    pub(crate) token: Option<Token>,
    landed: Option<Landed>,
}

#[derive(Debug)]
struct Landed {
    outcome: Result<Bytes, Failure>,
    /// When the outcome was still true for certain.
    as_of: Moment,
}

#[derive(Debug, Clone)]
enum Failure {
    Load(Arc<dyn Any + Send + Sync>),
    Redis(RedisError),
}

impl Flights {
    /// Takes part in the flight of `key`, or begins one; `None` when there are `limit` others.
    pub(crate) fn join<'a>(&'a self, key: &'a str, limit: usize) -> Option<Seat<'a>> {
        let mut by_key = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = if let Some((turn, readers)) = by_key.get_mut(key) {
            *readers += 1;
            Arc::clone(turn)
        } else {
            if by_key.len() >= limit {
                return None;
            }
            let turn = Arc::default();
            by_key.insert(key.to_owned(), (Arc::clone(&turn), 1));
            turn
        };
        Some(Seat { flights: self, key, turn })
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Seat<'_> {
    /// Waits for one's turn, in the order of coming.
    pub(crate) async fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().await
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut by_key = self.flights.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, readers)) = by_key.get_mut(self.key) {
            *readers -= 1;
            if *readers == 0 {
                by_key.remove(self.key);
            }
        }
    }
}

impl Turn {
    /// What an earlier turn ended with, if it holds for a reader that began at `began`.
    pub(crate) fn outcome<E: Send + Sync + 'static>(&self, began: Moment) -> Option<Result<Bytes, Error<E>>> {
        let landed = self.landed.as_ref().filter(|landed| began < landed.as_of)?;
        match landed.outcome.clone() {
            Ok(value) => Some(Ok(value)),
            Err(Failure::Redis(error)) => Some(Err(Error::Redis(error))),
            // Of another type when two callers load one key by closures that fail differently.
            Err(Failure::Load(error)) => Some(Err(Error::Load(error.downcast().ok()?))),
        }
    }

    /// Ends the turn.
    pub(crate) fn land<E: Send + Sync + 'static>(&mut self, outcome: &Result<Bytes, Error<E>>, as_of: Moment) {
        let outcome = match outcome {
            Ok(value) => Ok(value.clone()),
            Err(Error::Load(error)) => {
                let error: Arc<dyn Any + Send + Sync> = Arc::<E>::clone(error);
                Err(Failure::Load(error))
            }
            Err(Error::Redis(error)) => Err(Failure::Redis(error.clone())),
            Err(Error::Key(_)) => return,
        };
        self.landed = Some(Landed { outcome, as_of });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Outcome = Result<Bytes, Error<String>>;

    #[test]
    fn what_landed_holds_for_whom_began_before_it_was_true() {
        let early = Moment::now();
        let as_of = Moment::now();
        let late = Moment::now();
        let mut turn = Turn::default();
        assert!(turn.outcome::<String>(early).is_none());
        let value: Outcome = Ok(Bytes::from_static(b"v"));
        turn.land(&value, as_of);
        assert_eq!(turn.outcome::<String>(early).and_then(Result::ok).as_deref(), Some(&b"v"[..]));
        assert!(turn.outcome::<String>(late).is_none(), "a later reader is not given an earlier value");
    }

    #[test]
    fn an_error_is_shared_as_it_is_and_only_with_those_who_expect_its_type() {
        let (began, as_of) = (Moment::now(), Moment::now());
        let mut turn = Turn::default();
        let failed: Outcome = Err(Error::Load(Arc::new("no database".to_owned())));
        turn.land(&failed, as_of);
        let shared = turn.outcome::<String>(began).expect("an outcome").expect_err("it failed");
        assert_eq!(shared.to_string(), "no database");
        assert!(turn.outcome::<u8>(began).is_none());
    }

    #[tokio::test]
    async fn a_flight_is_forgotten_with_its_last_reader_and_there_are_no_more_than_the_limit() {
        let flights = Flights::default();
        let first = flights.join("a", 1).expect("room");
        let second = flights.join("a", 1).expect("the same flight");
        assert!(flights.join("b", 1).is_none(), "over the limit");
        drop(first);
        assert_eq!(flights.len(), 1);
        let turn = second.turn().await;
        assert!(turn.landed.is_none());
        drop(turn);
        drop(second);
        assert_eq!(flights.len(), 0);
    }
}
