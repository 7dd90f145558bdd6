//! The leader's row and the cursor's term, without workers.

use std::time::{Duration, Instant};

use change_log::{Candidate, Error, PgPool, Progress, Reader, Standing, Tenure, append, cursor};
use griot_tests::eventually::eventually_some;

use super::{database, execute, keys, take};

/// Longer than any test: such a lease ends only by being given up or by hand.
const LONG: Duration = Duration::from_secs(3_600);
const SOON: Duration = Duration::from_secs(30);

fn candidate(pool: &PgPool, name: &str, lease: Duration) -> Candidate {
    Candidate::new(pool.clone(), "here", name.to_owned(), lease).expect("a region")
}

async fn leads(candidate: &Candidate) -> Tenure {
    match candidate.stand().await.expect("stands") {
        Standing::Leads(tenure) => tenure,
        other => panic!("{other:?}"),
    }
}

async fn run_out(pool: &PgPool) {
    execute(pool, "update griot.leader set until = clock_timestamp()").await;
}

#[tokio::test]
async fn one_leads_until_it_runs_out_or_is_given_up() {
    let database = database().await;
    let pool = database.pool();
    let (a, b) = (candidate(pool, "a", LONG), candidate(pool, "b", LONG));
    let first = leads(&a).await;
    assert!(first.term() == 1 && first.allows(Instant::now()));
    let Standing::Follows { holder, term, remaining } = b.stand().await.expect("stands") else { panic!("two lead") };
    assert_eq!((holder.as_str(), term), ("a", 1));
    assert!(remaining > LONG / 2 && remaining <= LONG, "{remaining:?}");
    let renewed = a.renew(first).await.expect("renews").expect("still leads");
    assert!(renewed.until() > first.until() && renewed.term() == 1);

    run_out(pool).await;
    assert_eq!(leads(&b).await.term(), 2);
    assert_eq!(a.renew(renewed).await.expect("asks"), None, "the second term is another's");
    a.give_up(1).await.expect("does nothing");
    assert!(matches!(a.stand().await, Ok(Standing::Follows { .. })), "who was late cannot give up another's lease");
    b.give_up(2).await.expect("gives up");
    assert_eq!(leads(&a).await.term(), 3);
}

#[tokio::test]
async fn of_many_who_stand_at_once_one_leads() {
    let database = database().await;
    let pool = database.pool();
    for term in 1..=10 {
        let stand = (0..8).map(|n| {
            let candidate = candidate(pool, &format!("{n}"), LONG);
            async move { candidate.stand().await.expect("stands") }
        });
        let standings = futures::future::join_all(stand).await;
        let leaders: Vec<i64> = standings
            .iter()
            .filter_map(|standing| if let Standing::Leads(tenure) = standing { Some(tenure.term()) } else { None })
            .collect();
        assert_eq!(leaders, [term]);
        run_out(pool).await;
    }
}

#[tokio::test]
async fn a_lease_that_nobody_renews_is_taken_when_its_length_is_over_and_not_before() {
    let database = database().await;
    let pool = database.pool();
    let lease = Duration::from_millis(500);
    let (a, b) = (candidate(pool, "a", lease), candidate(pool, "b", lease));
    let first = leads(&a).await;
    eventually_some(SOON, "the other takes over", || async {
        matches!(b.stand().await, Ok(Standing::Leads(_))).then_some(())
    })
    .await;
    assert!(!first.allows(Instant::now()), "the first one has stopped before another begins");
}

#[tokio::test]
async fn only_the_present_term_saves_the_cursor() {
    let database = database().await;
    let pool = database.pool();
    let (a, b) = (candidate(pool, "a", LONG), candidate(pool, "b", LONG));
    let mut old = Reader::new(pool.clone(), "here", leads(&a).await.term()).expect("region");
    assert!(take(&mut old).await.is_empty(), "starts at the present");
    append::invalidate(pool, "k").await.expect("invalidate");
    assert_eq!(keys(&take(&mut old).await), ["k"]);
    let mark = old.mark(Progress::default()).expect("something to save");

    run_out(pool).await;
    let second = leads(&b).await.term();
    let error = old.save(mark).await.expect_err("the term is over");
    assert!(matches!(error, Error::Superseded { term: 1, .. }) && error.is_transient(), "{error}");
    let mut new = Reader::new(pool.clone(), "here", second).expect("region");
    assert_eq!(keys(&take(&mut new).await), ["k"], "what was not saved comes again");
    let mark = new.mark(Progress::default()).expect("something to save");
    new.save(mark).await.expect("saves");

    let status = cursor::status(pool).await.expect("status");
    let leader = status[0].leader.as_ref().expect("a leader");
    assert_eq!((leader.holder.as_str(), leader.term, status[0].pending), ("b", 2, 0));
    assert!(leader.remaining.is_some_and(|remaining| remaining > LONG / 2));
    run_out(pool).await;
    let status = cursor::status(pool).await.expect("status");
    assert_eq!(status[0].leader.as_ref().and_then(|leader| leader.remaining), None, "nobody leads");
}
