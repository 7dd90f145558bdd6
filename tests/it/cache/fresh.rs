//! Fresh on push, in its short form; `just fresh` asks 10,000 times.

use anyhow::Result;
use griot_tests::fresh::{Variant, measure};

const COMMITS: usize = 300;

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_again_on_a_push_is_never_given_the_value_from_before() -> Result<()> {
    let tally = measure(Variant::Promised, COMMITS).await?;
    println!("{tally:?}");
    assert_eq!((tally.refetches, tally.violations), (COMMITS, 0));
    assert!(tally.loads < tally.reads, "others read from the cache");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_publication_first_or_without_leases_some_are_and_this_test_notices() -> Result<()> {
    for variant in [Variant::PublishedFirst, Variant::WithoutLeases] {
        let tally = measure(variant, COMMITS).await?;
        println!("{variant:?}: {tally:?}");
        assert_eq!(tally.refetches, COMMITS);
        assert!(tally.violations > 0, "{variant:?}");
    }
    Ok(())
}
