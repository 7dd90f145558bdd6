//! Waiting for a condition instead of for a time.

use std::{future::Future, panic::Location, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

/// How often a condition is asked for. Servers answer in well under a millisecond, so this hardly shows in a test.
const POLL: Duration = Duration::from_millis(5);

/// Waits until `check` is true.
///
/// # Panics
///
/// After `within`, naming the caller and `what` was waited for.
#[track_caller]
pub fn eventually<F, Fut>(within: Duration, what: &str, mut check: F) -> impl Future<Output = ()>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    eventually_some(within, what, move || {
        let checked = check();
        async move { checked.await.then_some(()) }
    })
}

/// Waits until `check` gives a value, and returns it.
///
/// # Panics
///
/// After `within`, naming the caller and `what` was waited for.
#[track_caller]
pub fn eventually_some<T, F, Fut>(within: Duration, what: &str, mut check: F) -> impl Future<Output = T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let caller = Location::caller();
    async move {
        let deadline = Instant::now() + within;
        let mut turns = interval(POLL);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            turns.tick().await;
            match timeout_at(deadline, check()).await {
                Ok(Some(value)) => return value,
                Ok(None) if Instant::now() < deadline => {}
                Ok(None) | Err(_) => panic!("{caller}: after {within:?} still not: {what}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn returns_the_first_value() {
        let mut turn = 0;
        let value = eventually_some(Duration::from_secs(1), "the third turn", || {
            turn += 1;
            let value = (turn == 3).then_some(turn);
            async move { value }
        });
        assert_eq!(value.await, 3);
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "eventually.rs")]
    async fn names_the_caller_when_time_is_up() {
        eventually(Duration::from_secs(1), "never", || async { false }).await;
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "still not: an answer")]
    async fn a_check_that_hangs_is_given_up() {
        eventually(Duration::from_secs(1), "an answer", std::future::pending::<bool>).await;
    }
}
