//! Reports of numbers that are known.

use super::*;

fn of(row: &str, size: usize, subject: &str, metric: &str, rounds: &[f64]) -> Measurement {
    let better = if metric.starts_with("deliveries") { Better::Higher } else { Better::Lower };
    Measurement {
        row: row.into(),
        size,
        subject: subject.into(),
        metric: metric.into(),
        unit: "µs".into(),
        better,
        rounds: rounds.into(),
        notes: String::new(),
    }
}

fn paced(subject: &str, rounds: &[f64]) -> Measurement {
    of("broadcast-paced", 5_000, subject, "CPU per delivery", rounds)
}

fn results(measurements: Vec<Measurement>) -> Results {
    Results { measurements, ..Results::default() }
}

/// The line of the report that begins so.
fn line(results: &Results, begin: &str) -> String {
    let report = markdown(&Table(results));
    let line = report.lines().find(|line| line.starts_with(begin));
    line.unwrap_or_else(|| panic!("no line begins {begin:?}: {report}")).to_owned()
}

const PACED: &str = "| server CPU per delivery, paced broadcast |";

#[test]
fn a_target_that_is_met_holds() {
    let results = results(vec![paced("griot", &[5.0, 9.0, 4.0]), paced("floor", &[4.0, 4.0, 4.0])]);
    assert_eq!(line(&results, PACED), format!("{PACED} 5,000 | ≤ 1.25 × floor | 5.00 | 4.00 | 1.25 | holds |"));
}

#[test]
fn a_target_that_is_missed_is_called_missed() {
    let results = results(vec![paced("griot", &[5.01]), paced("floor", &[4.0])]);
    assert!(line(&results, PACED).ends_with("| **missed** |"));
}

#[test]
fn a_target_by_which_more_is_better_is_missed_from_below() {
    let metric = "deliveries per second of a core";
    let saturated = |griot: f64| {
        let of = |subject, value| of("broadcast-saturated", 5_000, subject, metric, &[value]);
        line(&results(vec![of("griot", griot), of("floor", 100.0)]), "| deliveries per second of a core")
    };
    assert!(saturated(249.0).ends_with("| 2.49 | **missed** |"));
    assert!(saturated(250.0).ends_with("| 2.50 | holds |"));
}

#[test]
fn memory_and_fairness_are_judged_by_themselves() {
    let results = results(vec![
        of("idle", 15_000, "griot", "memory per connection", &[4.6]),
        of("fairness", 5_000, "griot", "p99 beside the broadcast", &[2.9]),
        of("fairness", 5_000, "griot", "p99 alone", &[1.0]),
    ]);
    assert!(line(&results, "| memory per idle").ends_with("| ≤ 4.5 KB | 4.60 | – | – | **missed** |"));
    assert!(line(&results, "| personal p99 beside").ends_with("| 2.90 | 1.00 | 2.90 | holds |"));
}

#[test]
fn without_a_floor_nothing_is_judged_and_nothing_is_a_ratio() {
    let results = results(vec![paced("griot", &[5.0])]);
    assert!(line(&results, PACED).ends_with("| – | – | – | no CPU per delivery of floor |"));
    assert_eq!(line(&results, "| 5,000 | griot |"), "| 5,000 | griot | 5.00 | 5.00 | 5.00 | 1 | – |  |");
    assert!(line(&results, "| p99 latency, paced").ends_with("not measured |"));
}

#[test]
fn a_size_that_was_not_measured_is_not_replaced_by_another() {
    let mut results = results(vec![paced("griot", &[1.0]), paced("floor", &[4.0])]);
    results.measurements.iter_mut().for_each(|of| of.size = 1_000);
    assert!(line(&results, PACED).ends_with("not measured |"));
}

#[test]
fn a_baseline_that_does_the_same_work_must_be_beaten_and_one_that_does_less_need_not() {
    let begin = "| every baseline";
    let mut results = results(vec![paced("griot", &[5.0]), paced("ws", &[4.9]), paced("socket.io", &[9.0])]);
    assert!(
        line(&results, begin).ends_with("**missed** in 1 of 2: broadcast-paced at 5,000: CPU per delivery of ws |")
    );
    results.measurements[1].notes = format!("{LESSER_WORK}: keeps no history");
    assert!(line(&results, begin).ends_with("holds, in 1 comparisons |"));
    assert!(line(&results, "| 5,000 | ws |").ends_with("| lesser work: keeps no history |"));
    results.measurements.push(paced("griot-raw", &[4.95]));
    assert!(
        line(&results, begin).contains("**missed** in 1 of 2: "),
        "the Griot that keeps nothing is there to be beside it"
    );
    results.measurements[3].rounds = vec![4.8];
    assert!(line(&results, begin).ends_with("holds, in 2 comparisons |"));
}

#[test]
fn baselines_are_compared_in_what_they_do_and_nobody_loses_where_nobody_lost_anything() {
    let of = |subject, metric, value| of("slow-readers", 5_000, subject, metric, &[value]);
    let results = results(vec![
        of("griot", "lost by those who read", 0.0),
        of("ws", "lost by those who read", 0.0),
        of("griot", "the load client's CPU per delivery", 2.0),
        of("ws", "the load client's CPU per delivery", 1.0),
    ]);
    assert!(line(&results, "| every baseline").ends_with("| holds, in 1 comparisons |"));
}

#[test]
fn noise_is_griot_beside_itself_and_no_baseline() {
    let results = results(vec![paced("griot", &[5.0]), paced("griot-again", &[4.0])]);
    assert!(line(&results, "| broadcast-paced | 5,000").ends_with("| 5.00 | 4.00 | 0.800 |"));
    assert!(line(&results, "| every baseline").ends_with("| not measured |"));
}

#[test]
fn the_readme_shows_each_metric_once_and_marks_who_does_less() {
    let mut ws = paced("ws", &[6.0]);
    ws.notes = LESSER_WORK.into();
    let results = results(vec![
        paced("griot", &[5.0]),
        paced("griot-again", &[5.0]),
        paced("floor", &[4.0]),
        ws,
        of("connect", 1_000, "griot", "CPU per connect", &[90.0]),
    ]);
    let block = readme_block(&results);
    let lines: Vec<&str> = block.lines().collect();
    assert_eq!(lines[0], "| | connections | Griot | floor | Griot / floor | ws |");
    assert_eq!(lines[2], "| server CPU per delivery, paced broadcast, µs | 5,000 | 5.00 | 4.00 | 1.25 | 6.00\\* |");
    let connect = "| server CPU per connect with token and three personal channels, µs | 1,000 | 90.0 | – | – | – |";
    assert_eq!(lines[3], connect);
    assert_eq!(lines[4], "", "the second target of the same metric is left out");
    assert!(block.ends_with("\\* does less work than Griot in this row.\n"));
}

#[test]
fn the_readme_has_no_ratio_to_a_floor_that_is_not_the_measure() {
    let memory = |subject, value| of("idle", 15_000, subject, "memory per connection", &[value]);
    let block = readme_block(&results(vec![memory("griot", 4.0), memory("floor", 0.3)]));
    assert!(block.lines().any(|line| line.ends_with("| 15,000 | 4.00 | 0.300 | – |")), "{block}");
}

#[test]
fn every_metric_has_a_file_that_the_report_names() {
    let dir = std::env::temp_dir().join(format!("griot-report-{}", std::process::id()));
    write(&results(vec![of("fairness", 5_000, "griot", "p99 beside / alone", &[1.0])]), &dir).unwrap();
    let report = fs::read_to_string(dir.join("report.md")).unwrap();
    let plot = fs::read_to_string(dir.join("fairness-p99-beside-alone.svg")).unwrap();
    fs::remove_dir_all(&dir).unwrap();
    assert!(report.contains("](fairness-p99-beside-alone.svg)"), "{report}");
    assert!(plot.ends_with("</svg>\n"), "{plot}");
}
