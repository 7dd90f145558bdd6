//! The short form of `just bench`: everything is done, so that everything is known to work, and the numbers mean nothing.

use std::process::Command;

use griot_bench::results::Results;
use griot_bench::rows::Row;
use griot_bench::subjects::Subject;
use griot_tests::supervisor::TemporaryFolder;

/// Measures these rows, and looks that every subject is in each row that compares it.
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
        let compares = Row::named(row).expect("a row").compares(Subject::named(subject).expect("a subject"));
        let of: Vec<_> = results.measurements.iter().filter(|of| of.row == row && of.subject == subject).collect();
        assert_eq!(!of.is_empty(), compares, "{row} of {subject}: {said}");
        assert!(of.iter().all(|of| of.size == 70 && of.rounds.len() == rounds), "{of:?}");
    }
    let report = std::fs::read_to_string(folder.path().join("report.md")).expect("a report");
    assert!(rows.iter().all(|row| report.contains(&format!("## {row}"))), "{report}");
    folder
}

#[test]
fn rows_measure_griot_and_the_floor_and_lose_nothing() {
    let rows = ["broadcast-paced", "broadcast-saturated", "personal", "idle", "connect"];
    let folder = measure(&rows, &["griot", "griot-tls", "floor"], 2);
    assert!(folder.path().join("broadcast-paced-cpu-per-delivery.svg").is_file());
}

#[test]
fn what_only_griot_does_is_measured_and_who_does_not_read_costs_the_others_nothing() {
    let rows = ["slow-readers", "recovery", "publish", "commit-to-screen"];
    let folder = measure(&rows, &["griot"], 1);
    let results = Results::read(&folder.path().join("results.json")).expect("results");
    let value = |metric: &str| {
        let of = results.measurements.iter().find(|of| of.row == "slow-readers" && of.metric == metric);
        of.unwrap_or_else(|| panic!("no {metric}")).rounds[0]
    };
    assert_eq!(value("lost by those who read"), 0.0);
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
