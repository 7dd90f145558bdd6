//! What readers see of results: `report.md`, a plot per metric of each row, and the block of the README.

mod plot;
mod summary;
mod target;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use self::plot::{Plot, Series};
use self::summary::{Summary, number};
use self::target::{TARGETS, unbeaten};
use crate::results::{Better, Machine, Measurement, Results};

/// Notes of a subject that does less than Griot in the row begin so; what it does not do follows.
pub const LESSER_WORK: &str = "lesser work";
/// Griot once more: what differs from the first is noise.
const AGAIN: &str = "griot-again";
/// Griot given plain publications, of which nothing is kept: what it does is what baselines do.
const PLAIN: &str = "griot-raw";
/// Griot spoken to in another way, and the floor: nobody's rivals.
const OURS: [&str; 6] = ["griot", AGAIN, "griot-protobuf", "griot-tls", PLAIN, "floor"];

/// Writes `report.md` and the plots into `dir`, which is made.
///
/// # Errors
/// `dir` cannot be written to.
pub fn write(results: &Results, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    let table = Table(results);
    let mut files = vec![("report.md".to_owned(), markdown(&table))];
    for (row, metric) in table.metrics() {
        files.push((plot_name(row, metric), plot(&table, row, metric)));
    }
    for (name, text) in files {
        let file = dir.join(name);
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}

/// The README's block: the targets' metrics, Griot beside the floor and everybody else, and on which machine.
#[must_use]
pub fn readme_block(results: &Results) -> String {
    let table = Table(results);
    let mut others: Vec<&str> = results.measurements.iter().map(|of| of.subject.as_str()).collect();
    others.retain(|subject| !OURS.contains(subject));
    others.sort_unstable();
    others.dedup();
    let mut out = String::new();
    let heads: Vec<String> = others.iter().map(|other| format!(" {other} |")).collect();
    let _ = writeln!(out, "| | connections | Griot | floor | Griot / floor |{}", heads.concat());
    let _ = writeln!(out, "| --- | ---: | ---: | ---: | ---: |{}", " ---: |".repeat(others.len()));
    let mut shown = Vec::new();
    for target in &TARGETS {
        let Some(size) = target.size_in(&table) else { continue };
        if shown.contains(&(target.row, target.metric)) {
            continue;
        }
        shown.push((target.row, target.metric));
        let unit = table.unit(target.row, target.metric);
        let median = |subject: &str| {
            let summary = table.summary(target.row, size, target.metric, subject);
            summary.map_or("–".into(), |summary| number(summary.median))
        };
        let theirs: Vec<String> = others
            .iter()
            .map(|other| {
                let mark = if table.is_lesser(target.row, size, target.metric, other) { "\\*" } else { "" };
                format!(" {}{mark} |", median(other))
            })
            .collect();
        let _ = writeln!(
            out,
            "| {}{unit} | {} | {} | {} | {} |{}",
            target.what.split(", beside").next().unwrap_or(target.what),
            number(size as f64),
            median("griot"),
            median("floor"),
            // Beside a floor that does not do what is measured, a ratio would only puzzle.
            target.to_floor(&table).map_or("–".into(), number),
            theirs.concat(),
        );
    }
    let _ = writeln!(out, "\n{}", machine(&results.machine, &table));
    if out.contains("\\*") {
        out.push_str("\\* does less work than Griot in this row.\n");
    }
    out
}

fn markdown(table: &Table<'_>) -> String {
    let mut out = String::from("# What a delivery and a connection cost\n\n");
    let _ = writeln!(out, "{}\n", machine(&table.0.machine, table));
    out.push_str(
        "The floor is the least that a correct server can do. Ratios are to the floor of the same row and size.\n\n",
    );
    targets(table, &mut out);
    noise(table, &mut out);
    let mut last = "";
    for (row, metric) in table.metrics() {
        if row != last {
            let _ = writeln!(out, "## {row}\n");
            last = row;
        }
        let _ = writeln!(out, "### {metric}{}\n", table.unit(row, metric));
        let _ = writeln!(out, "![{metric} of {row}]({})\n", plot_name(row, metric));
        measured(table, row, metric, &mut out);
    }
    out
}

fn targets(table: &Table<'_>, out: &mut String) {
    out.push_str("## Targets\n\n| | connections | reach | Griot | beside | ratio | |\n");
    out.push_str("| --- | ---: | --- | ---: | ---: | ---: | --- |\n");
    for target in &TARGETS {
        let size = target.size_in(table).or(target.size).map_or("–".into(), |size| number(size as f64));
        let _ = write!(out, "| {} | {size} | {} | ", target.what, target.reach.words());
        let _ = match target.judge(table) {
            Err(missing) => writeln!(out, "– | – | – | {missing} |"),
            Ok(judged) => {
                let verdict = if judged.holds { "holds" } else { "**missed**" };
                let other = judged.other.map_or("–".into(), number);
                let ratio = judged.other.map_or("–".into(), |other| number(judged.griot / other));
                writeln!(out, "{} | {other} | {ratio} | {verdict} |", number(judged.griot))
            }
        };
    }
    let (unbeaten, compared) = unbeaten(table);
    let verdict = match (compared, unbeaten.is_empty()) {
        (0, _) => "not measured".into(),
        (_, true) => format!("holds, in {compared} comparisons"),
        (_, false) => format!("**missed** in {} of {compared}: {}", unbeaten.len(), unbeaten.join("; ")),
    };
    let _ = writeln!(
        out,
        "| every baseline, by the Griot that does the same work | all | beaten | – | – | – | {verdict} |\n"
    );
}

fn noise(table: &Table<'_>, out: &mut String) {
    let again: Vec<&Measurement> = table.0.measurements.iter().filter(|of| of.subject == AGAIN).collect();
    if again.is_empty() {
        return;
    }
    out.push_str("## Noise\n\nGriot against itself: how far a ratio is from 1.00 here is what a ratio elsewhere does not mean.\n\n");
    out.push_str(
        "| row | connections | metric | Griot | Griot again | ratio |\n| --- | ---: | --- | ---: | ---: | ---: |\n",
    );
    for of in again {
        let first = table.summary(&of.row, of.size, &of.metric, "griot");
        let (Some(first), Some(again)) = (first, Summary::of(&of.rounds)) else { continue };
        let ratio = number(again.median / first.median);
        let (first, again) = (number(first.median), number(again.median));
        let size = number(of.size as f64);
        let _ = writeln!(out, "| {} | {size} | {} | {first} | {again} | {ratio} |", of.row, of.metric);
    }
    out.push('\n');
}

fn measured(table: &Table<'_>, row: &str, metric: &str, out: &mut String) {
    out.push_str("| connections | subject | median | minimum | maximum | rounds | / floor | |\n");
    out.push_str("| ---: | --- | ---: | ---: | ---: | ---: | ---: | --- |\n");
    for size in table.sizes(row, metric) {
        for of in table.of(row, metric).filter(|of| of.size == size) {
            let Some(summary) = Summary::of(&of.rounds) else { continue };
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} | {} | {} |",
                number(size as f64),
                of.subject,
                number(summary.median),
                number(summary.min),
                number(summary.max),
                of.rounds.len(),
                table.ratio(row, size, metric, &of.subject).map_or("–".into(), number),
                of.notes,
            );
        }
    }
    out.push('\n');
}

fn plot(table: &Table<'_>, row: &str, metric: &str) -> String {
    // Whoever is there first has the first colour, in every plot: Griot, then the floor.
    let mut subjects: Vec<&str> =
        table.of(row, metric).map(|of| of.subject.as_str()).filter(|of| *of != AGAIN).collect();
    subjects.sort_by_key(|subject| (*subject != "griot", *subject != "floor", *subject));
    subjects.dedup();
    let series = subjects.into_iter().map(|subject| {
        let of = || table.of(row, metric).filter(|of| of.subject == subject);
        let mut points: Vec<_> = of().filter_map(|of| Some((of.size, Summary::of(&of.rounds)?))).collect();
        points.sort_by_key(|(size, _)| *size);
        Series { subject, lesser: of().any(is_lesser), points }
    });
    let better = match table.of(row, metric).next().map(|of| of.better) {
        Some(Better::Higher) => "more is better",
        _ => "less is better",
    };
    let label = format!("{metric}{}", table.unit(row, metric));
    Plot { title: row, label: &label, better, series: series.collect() }.svg()
}

/// The plot's file: letters and digits of the names.
fn plot_name(row: &str, metric: &str) -> String {
    let name = format!("{row} {metric}").to_lowercase();
    let words: Vec<&str> = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    words.join("-") + ".svg"
}

fn machine(machine: &Machine, table: &Table<'_>) -> String {
    let Machine { cpu, cores, memory, kernel, redis, date } = machine;
    let rounds = table.0.measurements.iter().map(|of| of.rounds.len());
    let rounds = match (rounds.clone().min().unwrap_or(0), rounds.max().unwrap_or(0)) {
        (least, most) if least == most => format!("{most}"),
        (least, most) => format!("{least} to {most}"),
    };
    format!(
        "Medians of {rounds} alternating rounds on {cpu}, {cores} cores, {memory}, Linux {kernel}, Redis {redis}, {date}; \
         the server has one core to itself."
    )
}

fn is_lesser(of: &Measurement) -> bool {
    of.notes.starts_with(LESSER_WORK)
}

/// Results by row, size, metric and subject.
struct Table<'a>(&'a Results);

impl<'a> Table<'a> {
    /// Rows and their metrics, in the order in which they were measured.
    fn metrics(&self) -> Vec<(&'a str, &'a str)> {
        let mut rows: BTreeMap<&str, usize> = BTreeMap::new();
        let mut metrics: Vec<(&str, &str)> = Vec::new();
        for of in &self.0.measurements {
            let next = rows.len();
            rows.entry(&of.row).or_insert(next);
            let metric = (of.row.as_str(), of.metric.as_str());
            if !metrics.contains(&metric) {
                metrics.push(metric);
            }
        }
        metrics.sort_by_key(|(row, _)| rows.get(row));
        metrics
    }

    fn of(&self, row: &str, metric: &str) -> impl Iterator<Item = &'a Measurement> {
        self.0.measurements.iter().filter(move |of| of.row == row && of.metric == metric)
    }

    /// Ascending.
    fn sizes(&self, row: &str, metric: &str) -> Vec<usize> {
        let mut sizes: Vec<usize> = self.of(row, metric).map(|of| of.size).collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    fn find(&self, row: &str, size: usize, metric: &str, subject: &str) -> Option<&'a Measurement> {
        self.of(row, metric).find(|of| of.size == size && of.subject == subject)
    }

    fn summary(&self, row: &str, size: usize, metric: &str, subject: &str) -> Option<Summary> {
        Summary::of(&self.find(row, size, metric, subject)?.rounds)
    }

    /// To the floor of the same row and size.
    fn ratio(&self, row: &str, size: usize, metric: &str, subject: &str) -> Option<f64> {
        let floor = self.summary(row, size, metric, "floor")?;
        Some(self.summary(row, size, metric, subject)?.median / floor.median)
    }

    fn is_lesser(&self, row: &str, size: usize, metric: &str, subject: &str) -> bool {
        self.find(row, size, metric, subject).is_some_and(is_lesser)
    }

    /// What users would pick instead, beside the Griot that does the same work; nobody is beside one that does less where
    /// Griot was not measured with [plain](PLAIN) publications.
    fn comparisons(&self) -> impl Iterator<Item = (&'a Measurement, Summary, Summary)> {
        let baselines = self.0.measurements.iter().filter(|of| !OURS.contains(&of.subject.as_str()));
        baselines.filter_map(|of| {
            let ours = if is_lesser(of) { PLAIN } else { "griot" };
            Some((of, Summary::of(&of.rounds)?, self.summary(&of.row, of.size, &of.metric, ours)?))
        })
    }

    /// With a comma before it, for headings; nothing where there is none.
    fn unit(&self, row: &str, metric: &str) -> String {
        match self.of(row, metric).next().map(|of| of.unit.as_str()) {
            None | Some("") => String::new(),
            Some(unit) => format!(", {unit}"),
        }
    }
}

#[cfg(test)]
mod tests;
