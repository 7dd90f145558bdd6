//! The short form of `just bench`: everything is done, so that everything is known to work, and the numbers mean nothing.

use std::process::Command;

use griot_bench::results::Results;
use griot_tests::supervisor::TemporaryFolder;

#[test]
fn rows_measure_griot_and_the_floor_and_lose_nothing() {
    let folder = TemporaryFolder::new().expect("a folder");
    let rows = ["broadcast-paced", "broadcast-saturated", "personal", "idle", "connect"];
    let mut bench = Command::new(env!("CARGO_BIN_EXE_bench"));
    bench.args(rows).args(["--quick", "--rounds", "2", "--sizes", "70", "--subjects", "griot,floor", "--out"]);
    let output = bench.arg(folder.path()).output().expect("bench runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let results = Results::read(&folder.path().join("results.json")).expect("results");
    for row in rows {
        for subject in ["griot", "floor"] {
            let of: Vec<_> = results.measurements.iter().filter(|of| of.row == row && of.subject == subject).collect();
            assert!(!of.is_empty(), "{row} of {subject} is missing: {said}");
            assert!(of.iter().all(|of| of.size == 70 && of.rounds.len() == 2), "{of:?}");
        }
    }
    let report = std::fs::read_to_string(folder.path().join("report.md")).expect("a report");
    assert!(rows.iter().all(|row| report.contains(&format!("## {row}"))), "{report}");
    assert!(folder.path().join("broadcast-paced-cpu-per-delivery.svg").is_file());
}

#[test]
fn what_is_not_there_is_named_with_what_is() {
    let output = Command::new(env!("CARGO_BIN_EXE_bench")).arg("broadcasts").output().expect("bench runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("no row is called \"broadcasts\"; there are broadcast-paced"),
        "{said}"
    );
}
