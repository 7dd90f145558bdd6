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
use tokio::sync::{Mutex as TurnLock, MutexGuard};

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
    by_key: Mutex<HashMap<String, Flight>>,
}

#[derive(Debug, Default)]
struct Flight {
    turn: Arc<TurnLock<Turn>>,
    readers: usize,
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
    /// The error is what the closure answered; closures of different callers may fail differently.
    outcome: Result<Bytes, Arc<dyn Any + Send + Sync>>,
    /// When the outcome was still true for certain.
    as_of: Moment,
}

impl Flights {
    /// Takes part in the flight of `key`, or begins one; `None` when there are `limit` others.
    pub(crate) fn join<'a>(&'a self, key: &'a str, limit: usize) -> Option<Seat<'a>> {
        let mut by_key = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        if by_key.len() >= limit && !by_key.contains_key(key) {
            return None;
        }
        let flight = by_key.entry(key.to_owned()).or_default();
        flight.readers += 1;
        let turn = Arc::clone(&flight.turn);
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
        if let Some(flight) = by_key.get_mut(self.key) {
            flight.readers -= 1;
            if flight.readers == 0 {
                by_key.remove(self.key);
            }
        }
    }
}

impl Turn {
    /// What an earlier turn ended with, if it holds for a reader that began at `began`.
    pub(crate) fn outcome<E: Send + Sync + 'static>(&self, began: Moment) -> Option<Result<Bytes, Arc<E>>> {
        let landed = self.landed.as_ref().filter(|landed| began < landed.as_of)?;
        match &landed.outcome {
            Ok(value) => Some(Ok(value.clone())),
            Err(error) => Some(Err(Arc::clone(error).downcast().ok()?)),
        }
    }

    /// Ends the turn.
    pub(crate) fn land<E: Send + Sync + 'static>(&mut self, outcome: &Result<Bytes, Arc<E>>, as_of: Moment) {
        let outcome = outcome.clone().map_err(|error| -> Arc<dyn Any + Send + Sync> { error });
        self.landed = Some(Landed { outcome, as_of });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Outcome = Result<Bytes, Arc<String>>;

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
        let failed: Outcome = Err(Arc::new("no database".to_owned()));
        turn.land(&failed, as_of);
        let shared = turn.outcome::<String>(began).expect("an outcome").expect_err("it failed");
        assert_eq!(*shared, "no database");
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
