//! Promises 1 and 2 under faults, each trial in its short form: `just soak MINUTES` runs the long ones.

use std::time::Duration;

use anyhow::Result;
use griot_tests::trial::{self, Fault, Outcome, Size};

/// 13 users have 39 personal channels, and all have the broadcast.
const SHORT: Size =
    Size { clients: 13, publications: 2_000, outage: Duration::from_secs(2), telling_window: 2, plant: None };

fn passes(outcome: &Outcome) {
    println!("{}", outcome.told);
    assert!(outcome.wrong.is_empty(), "{}\n{}", outcome.told, outcome.wrong.join("\n"));
}

#[tokio::test]
async fn a_cut_link_is_repaired_without_any_client_noticing() -> Result<()> {
    passes(&trial::cut(SHORT, false).await?);
    Ok(())
}

#[tokio::test]
async fn a_stalled_link_is_repaired_without_any_client_noticing() -> Result<()> {
    passes(&trial::cut(SHORT, true).await?);
    Ok(())
}

#[tokio::test]
async fn redis_restarted_with_its_data_is_told_once_to_everybody() -> Result<()> {
    passes(&trial::restart(Size { clients: 40, publications: 400, telling_window: 4, ..SHORT }, true).await?);
    Ok(())
}

#[tokio::test]
async fn redis_restarted_without_its_data_is_told_once_to_everybody() -> Result<()> {
    passes(&trial::restart(Size { clients: 40, publications: 400, telling_window: 4, ..SHORT }, false).await?);
    Ok(())
}

#[tokio::test]
async fn a_thousand_clients_recover_from_a_killed_bridge() -> Result<()> {
    passes(&trial::crash(Size { clients: 1_000, publications: 3_001, ..SHORT }).await?);
    Ok(())
}

#[tokio::test]
async fn a_promotion_gives_no_position_twice_and_is_told_once_to_everybody() -> Result<()> {
    passes(&trial::promotion(Size { clients: 20, ..SHORT }).await?);
    Ok(())
}

#[tokio::test]
async fn a_planted_fault_is_found() -> Result<()> {
    let size = Size { publications: 200, outage: Duration::ZERO, ..SHORT };
    for (fault, word) in [
        (Fault::Loss, "× lost"),
        (Fault::Misdelivery, "× misdelivered"),
        (Fault::Reordering, "× repeated or out of order"),
    ] {
        let outcome = trial::cut(Size { plant: Some(fault), ..size }, false).await?;
        assert!(outcome.wrong.iter().any(|wrong| wrong.contains(word)), "{fault:?}: {:?}", outcome.wrong);
    }
    Ok(())
}
