//! Promises 3 and 4 under `kill -9` and promotions, in the short form: `just storm` and `just soak` run the long ones.

use std::time::Duration;

use anyhow::Result;
use griot_tests::trial::{Fault, Faults, Outcome, Storm, storm, undone};

const SHORT: Storm =
    Storm { seed: 4, commits: 400, kills: 3, hold: Duration::from_secs(5), faults: Faults::Workers, plant: None };

fn passes(outcome: &Outcome) {
    println!("{}", outcome.told);
    assert!(outcome.wrong.is_empty(), "{}\n{}", outcome.told, outcome.wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_commit_has_its_effects_whichever_worker_is_killed_and_while_the_log_rotates() -> Result<()> {
    passes(&storm(SHORT).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_missing_when_worker_and_redis_are_killed_together_and_a_replica_is_promoted() -> Result<()> {
    passes(&storm(Storm { faults: Faults::Redis, ..SHORT }).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_commit_has_its_effects_when_postgresql_is_killed() -> Result<()> {
    passes(&storm(Storm { faults: Faults::Postgres, ..SHORT }).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_loses_no_new_commit_and_what_was_cached_from_lost_ones_is_swept() -> Result<()> {
    passes(&storm(Storm { faults: Faults::Standby, ..SHORT }).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_a_promotion_undid_is_done_again_and_nobody_sees_the_old_value_after_that() -> Result<()> {
    passes(&undone(500, None).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planted_value_after_an_undone_deletion_is_found() -> Result<()> {
    let outcome = undone(500, Some(Fault::Stale)).await?;
    assert_eq!(outcome.wrong, ["stale: 1 keys came back"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planted_loss_and_a_planted_stale_value_are_found() -> Result<()> {
    let asked = Storm { faults: Faults::Postgres, kills: 1, commits: 50, ..SHORT };
    for (plant, word) in [(Fault::Loss, "committed and never came"), (Fault::Stale, "committed and still cached")] {
        let outcome = storm(Storm { plant: Some(plant), ..asked }).await?;
        assert!(outcome.wrong.iter().any(|wrong| wrong.contains(word)), "{plant:?}: {:?}", outcome.wrong);
        assert_eq!(outcome.wrong.len(), 1, "{:?}", outcome.wrong);
    }
    Ok(())
}
