//! The short form of `just bench`: everything is done, so that everything is known to work, and the numbers mean nothing.

use std::process::Command;

use griot_bench::results::Results;
use griot_tests::supervisor::TemporaryFolder;

/// Measures these rows of these subjects, and looks that each is in the results and in the report.
fn measure(rows: &[&str], subjects: &[&str], rounds: usize) -> TemporaryFolder {
    let folder = TemporaryFolder::new().expect("a folder");
    let mut bench = Command::new(env!("CARGO_BIN_EXE_bench"));
    bench.args(rows).args(["--quick", "--sizes", "70", "--subjects", &subjects.join(",")]);
    let output = bench.args(["--rounds", &rounds.to_string(), "--out"]).arg(folder.path()).output();
    let output = output.expect("bench runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let results = Results::read(&folder.path().join("results.json")).expect("results");
    for (row, subject) in rows.iter().flat_map(|row| subjects.iter().map(move |subject| (*row, *subject))) {
        let of: Vec<_> = results.measurements.iter().filter(|of| of.row == row && of.subject == subject).collect();
        assert!(!of.is_empty(), "{row} of {subject} is missing: {said}");
        assert!(of.iter().all(|of| of.size == 70 && of.rounds.len() == rounds), "{of:?}");
    }
    let report = std::fs::read_to_string(folder.path().join("report.md")).expect("a report");
    assert!(rows.iter().all(|row| report.contains(&format!("## {row}"))), "{report}");
    folder
}

#[test]
fn rows_measure_griot_and_the_floor_and_lose_nothing() {
    let rows = ["broadcast-paced", "broadcast-saturated", "personal", "idle", "connect"];
    let folder = measure(&rows, &["griot", "floor"], 2);
    assert!(folder.path().join("broadcast-paced-cpu-per-delivery.svg").is_file());
}

#[test]
fn what_only_griot_does_is_measured() {
    measure(&["slow-readers", "recovery", "publish", "commit-to-screen"], &["griot"], 1);
    measure(&["broadcast-paced", "idle", "connect"], &["griot-tls"], 1);
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
