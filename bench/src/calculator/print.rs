//! The plan as a table of plain text.

use std::fmt::Write as _;

use super::{Figures, LINES, Line, Plan, REGIONS, Total};

/// Figures first, then one line per need with the regions beside each other; with `explain` each formula below its line.
#[must_use]
pub fn print(plans: &[Plan], figures: &Figures, explain: bool) -> String {
    let mut text = String::from("What things cost\n");
    for (name, unit, figure) in figures.list() {
        let _ = writeln!(text, "  {name:<40}{:>10} {unit:<6} {}", number(figure.value), figure.source);
    }
    let _ = write!(text, "\n{:<46}{:<9}", "What is needed", "");
    for region in REGIONS.iter().copied().chain(["all"]) {
        let _ = write!(text, "{region:>16}");
    }
    text.push('\n');
    for line in LINES {
        let _ = write!(text, "{:<46}{:<9}", line.label, line.unit);
        for value in plans.iter().map(line.of).chain([total(line, plans)]) {
            let _ = write!(text, "{:>16}", number(value));
        }
        text.push('\n');
        if explain {
            let _ = writeln!(text, "    = {}", line.formula);
        }
    }
    text
}

fn total(line: &Line, plans: &[Plan]) -> f64 {
    let values = plans.iter().map(line.of);
    match line.total {
        Total::Sum => values.sum(),
        Total::Longest => values.fold(0.0, f64::max),
    }
}

/// Three digits are more than the inputs are worth; thousands are kept apart.
fn number(value: f64) -> String {
    let decimals = match value.abs() {
        small if small < 10.0 && small.fract() != 0.0 => 2,
        middle if middle < 100.0 && middle.fract() != 0.0 => 1,
        _ => 0,
    };
    let plain = format!("{value:.decimals$}");
    let (whole, fraction) = plain.split_once('.').map_or((plain.as_str(), None), |(whole, part)| (whole, Some(part)));
    let mut grouped = String::new();
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    fraction.map_or_else(|| grouped.clone(), |fraction| format!("{grouped}.{fraction}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_their_thousands_apart_and_few_decimals() {
        let written = [0.0, 0.026, 3.0, 12.34, 123.4, 1_000.0, 2_500_000.4].map(number);
        assert_eq!(written, ["0", "0.03", "3", "12.3", "123", "1,000", "2,500,000"]);
    }

    #[test]
    fn counts_are_added_and_times_are_not() {
        let plans = [1.0, 5.0].map(|value| Plan { bridges: value, told: value, ..Plan::default() });
        let text = print(&plans, &Figures::default(), false);
        let last = |label: &str| {
            let line = text.lines().find(|line| line.starts_with(label)).unwrap();
            line.split_whitespace().last().unwrap().to_owned()
        };
        assert_eq!(last("bridges  "), "6");
        assert_eq!(last("after a lost Redis primary: all told"), "5");
        assert!(!text.contains("    = "));
    }

    #[test]
    fn every_line_is_explained_when_asked() {
        let text = print(&[Plan::default()], &Figures::default(), true);
        assert_eq!(text.matches("\n    = ").count(), LINES.len());
    }
}
