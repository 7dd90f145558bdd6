//! Promise 3 under `kill -9`, in the short form: `just storm` runs the long one.

use std::time::Duration;

use anyhow::Result;
use griot_tests::trial::{Fault, Faults, Storm, storm};

const SHORT: Storm =
    Storm { seed: 4, commits: 400, kills: 3, hold: Duration::from_secs(5), faults: Faults::Workers, plant: None };

async fn passes(asked: Storm) -> Result<()> {
    let outcome = storm(asked).await?;
    println!("{}", outcome.told);
    assert!(outcome.wrong.is_empty(), "{}\n{}", outcome.told, outcome.wrong.join("\n"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_commit_has_its_effects_whichever_worker_is_killed_and_while_the_log_rotates() -> Result<()> {
    passes(SHORT).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_commit_has_its_effects_when_postgresql_is_killed() -> Result<()> {
    passes(Storm { faults: Faults::Postgres, ..SHORT }).await
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
