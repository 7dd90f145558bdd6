//! The demo's own check: it passes, and it finds each fault that is planted.

use std::time::Duration;

use anyhow::Result;
use griot_tests::process::Launch;

async fn check(arguments: &[&str]) -> Result<(bool, String)> {
    let mut launch = Launch::new("demo").arg("--check").arg("--count").arg("60");
    for argument in arguments {
        launch = launch.arg(*argument);
    }
    // It starts servers of its own beside those of the other tests, and waits 10 s for what is lost.
    let ended = launch.run_within(Duration::from_secs(120)).await?;
    Ok((ended.status.success(), String::from_utf8_lossy(&ended.stdout).into_owned()))
}

#[tokio::test]
async fn the_check_passes_when_nothing_is_broken() -> Result<()> {
    let (passed, said) = check(&[]).await?;
    assert!(passed && said.contains("nothing was lost, misdelivered or stale"), "{said}");
    Ok(())
}

#[tokio::test]
async fn each_planted_fault_is_found_and_named() -> Result<()> {
    for (fault, words) in [("drop", "1 lost"), ("misroute", "1 misdelivered"), ("late", "still cached")] {
        let (passed, said) = check(&["--break", fault]).await?;
        assert!(!passed && said.contains("FAILED") && said.contains(words), "{fault}: {said}");
    }
    Ok(())
}
