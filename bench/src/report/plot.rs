//! Plots, written as SVG by hand: lines over sizes with whiskers from minimum to maximum, or bars where there is one size.
//! Colours are set for light and dark pages; lines are also told apart by the shape of their points.

use std::fmt::Write;

use super::summary::{Summary, number};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 78.0;
const RIGHT: f64 = 560.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 340.0;
/// Between whiskers of the same size, which stand beside each other.
const ASIDE: f64 = 5.0;
const STYLE: &str = "<style>
text{font:13px system-ui,sans-serif;fill:#1f2328}.title{font-size:16px;font-weight:600}.soft{fill:#59636e}
.grid{stroke:#d1d9e0}.axis{stroke:#59636e}.page{fill:#fff}.end{text-anchor:end}.mid{text-anchor:middle}
.c0{--c:#0b6bcb}.c1{--c:#59636e}.c2{--c:#b35900}.c3{--c:#1a7f37}.c4{--c:#8250df}.c5{--c:#bf3989}.c6{--c:#9a6700}
@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.soft{fill:#9198a1}.grid{stroke:#3d444d}.axis{stroke:#9198a1}
.page{fill:#0d1117}.c0{--c:#58a6ff}.c1{--c:#b1bac4}.c2{--c:#ffa657}.c3{--c:#56d364}.c4{--c:#d2a8ff}.c5{--c:#ff9bce}
.c6{--c:#e3b341}}
.line{fill:none;stroke:var(--c);stroke-width:2}.lesser{stroke-dasharray:6 4}.whisker{stroke:var(--c);stroke-width:1.5}
.point{fill:var(--c)}
</style>";

/// One subject in one plot.
#[derive(Debug)]
pub(super) struct Series<'a> {
    pub(super) subject: &'a str,
    /// It does less than Griot does; drawn dashed.
    pub(super) lesser: bool,
    /// By size, ascending.
    pub(super) points: Vec<(usize, Summary)>,
}

/// One metric of one row.
pub(super) struct Plot<'a> {
    pub(super) title: &'a str,
    /// Of the metric, with its unit.
    pub(super) label: &'a str,
    /// Which way is better, in words.
    pub(super) better: &'a str,
    pub(super) series: Vec<Series<'a>>,
}

impl Plot<'_> {
    pub(super) fn svg(&self) -> String {
        let mut sizes: Vec<usize> = self.points().map(|(size, _)| *size).collect();
        sizes.sort_unstable();
        sizes.dedup();
        let top = self.points().map(|(_, summary)| summary.max).fold(0.0, f64::max);
        let mut out = format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{}">
{STYLE}
<rect class="page" width="{WIDTH}" height="{HEIGHT}" rx="6"/>
<text class="title" x="20" y="28">{}</text>
<text class="soft" x="20" y="48">{}; {}. Medians, with minimum and maximum.</text>
"#,
            escaped(&format!("{}: {}", self.title, self.label)),
            escaped(self.title),
            escaped(self.label),
            escaped(self.better),
        );
        match sizes.len() {
            0 => {}
            1 => self.bars(top, &mut out),
            _ => self.lines(&sizes, top, &mut out),
        }
        out.push_str("</svg>\n");
        out
    }

    fn points(&self) -> impl Iterator<Item = &(usize, Summary)> {
        self.series.iter().flat_map(|series| &series.points)
    }

    fn lines(&self, sizes: &[usize], top: f64, out: &mut String) {
        let (step, steps) = ticks(top);
        let most = sizes.last().copied().unwrap_or(1).max(1) as f64;
        let aside = |index: usize| (index as f64 - (self.series.len() as f64 - 1.0) / 2.0) * ASIDE;
        let right = RIGHT - aside(self.series.len());
        let x = |size: usize| LEFT + (right - LEFT) * size as f64 / most;
        let y = |value: f64| BOTTOM - (BOTTOM - TOP) * value / (step * f64::from(steps));
        for tick in 0..=steps {
            let (value, at) = (step * f64::from(tick), y(step * f64::from(tick)));
            line("grid", (LEFT, at), (RIGHT, at), out);
            text("soft end", (LEFT - 8.0, at + 4.0), &number(value), out);
        }
        line("axis", (LEFT, BOTTOM), (RIGHT, BOTTOM), out);
        for size in sizes {
            line("axis", (x(*size), BOTTOM), (x(*size), BOTTOM + 5.0), out);
            text("soft mid", (x(*size), BOTTOM + 20.0), &number(*size as f64), out);
        }
        text("mid", (f64::midpoint(LEFT, RIGHT), BOTTOM + 44.0), "connections", out);
        for (index, series) in self.series.iter().enumerate() {
            let points: Vec<(f64, &Summary)> =
                series.points.iter().map(|(size, summary)| (x(*size) + aside(index), summary)).collect();
            let path: Vec<String> =
                points.iter().map(|(x, summary)| format!("{x:.1},{:.1}", y(summary.median))).collect();
            let _ = write!(out, r#"<g class="c{}">"#, index % 7);
            let lesser = if series.lesser { " lesser" } else { "" };
            let _ = writeln!(out, r#"<polyline class="line{lesser}" points="{}"/>"#, path.join(" "));
            for (x, summary) in points {
                whisker((x, y(summary.min)), (x, y(summary.max)), out);
                point(index, (x, y(summary.median)), out);
            }
            let at = TOP + 14.0 + index as f64 * 24.0;
            line(&format!("line{lesser}"), (RIGHT + 24.0, at - 4.0), (RIGHT + 52.0, at - 4.0), out);
            point(index, (RIGHT + 38.0, at - 4.0), out);
            text("", (RIGHT + 60.0, at), &series.name(), out);
            out.push_str("</g>\n");
        }
    }

    fn bars(&self, top: f64, out: &mut String) {
        let (step, steps) = ticks(top);
        let left = LEFT + 100.0;
        let right = WIDTH - 90.0;
        let x = |value: f64| left + (right - left) * value / (step * f64::from(steps));
        for tick in 0..=steps {
            let (value, at) = (step * f64::from(tick), x(step * f64::from(tick)));
            line("grid", (at, TOP), (at, BOTTOM), out);
            text("soft mid", (at, BOTTOM + 20.0), &number(value), out);
        }
        text("mid", (f64::midpoint(left, right), BOTTOM + 44.0), self.label, out);
        let height = ((BOTTOM - TOP) / self.series.len().max(1) as f64).min(56.0);
        for (index, series) in self.series.iter().enumerate() {
            let Some((_, summary)) = series.points.first() else { continue };
            let middle = TOP + height * (index as f64 + 0.5);
            let _ = write!(out, r#"<g class="c{}">"#, index % 7);
            let _ = writeln!(
                out,
                r#"<rect class="point" x="{left}" y="{:.1}" width="{:.1}" height="{:.1}" opacity="{}"/>"#,
                middle - height * 0.3,
                (x(summary.median) - left).max(1.0),
                height * 0.6,
                if series.lesser { "0.45" } else { "0.85" },
            );
            line("axis", (x(summary.min), middle), (x(summary.max), middle), out);
            for end in [summary.min, summary.max] {
                line("axis", (x(end), middle - 5.0), (x(end), middle + 5.0), out);
            }
            text("end", (left - 8.0, middle + 4.0), &series.name(), out);
            text("", (x(summary.max) + 8.0, middle + 4.0), &number(summary.median), out);
            out.push_str("</g>\n");
        }
        line("axis", (left, TOP), (left, BOTTOM), out);
    }
}

impl Series<'_> {
    fn name(&self) -> String {
        format!("{}{}", self.subject, if self.lesser { " (does less)" } else { "" })
    }
}

/// How far apart ticks are, and how many there are above zero, so that `top` is below the last.
fn ticks(top: f64) -> (f64, u32) {
    if top <= 0.0 || !top.is_finite() {
        return (1.0, 1);
    }
    let rough = top / 4.0;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|step| step * power).find(|step| *step >= rough);
    let step = step.unwrap_or(10.0 * power);
    (step, (top / step).ceil() as u32)
}

fn line(class: &str, from: (f64, f64), to: (f64, f64), out: &mut String) {
    let ((x1, y1), (x2, y2)) = (from, to);
    let _ = writeln!(out, r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#);
}

fn whisker(from: (f64, f64), to: (f64, f64), out: &mut String) {
    line("whisker", from, to, out);
    for (x, y) in [from, to] {
        line("whisker", (x - 4.0, y), (x + 4.0, y), out);
    }
}

fn text(class: &str, at: (f64, f64), words: &str, out: &mut String) {
    let _ = writeln!(out, r#"<text class="{class}" x="{:.1}" y="{:.1}">{}</text>"#, at.0, at.1, escaped(words));
}

/// A point in the shape of its series.
fn point(index: usize, at: (f64, f64), out: &mut String) {
    let (x, y) = at;
    let _ = match index % 4 {
        0 => writeln!(out, r#"<circle class="point" cx="{x:.1}" cy="{y:.1}" r="4.5"/>"#),
        1 => writeln!(out, r#"<rect class="point" x="{:.1}" y="{:.1}" width="8" height="8"/>"#, x - 4.0, y - 4.0),
        2 => writeln!(out, r#"<path class="point" d="M{x:.1} {:.1}l5.5 10h-11z"/>"#, y - 6.0),
        _ => writeln!(out, r#"<path class="point" d="M{x:.1} {:.1}l6 6-6 6-6-6z"/>"#, y - 6.0),
    };
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_reach_above_the_highest() {
        assert_eq!(ticks(10.0), (2.5, 4));
        assert_eq!(ticks(3.1), (1.0, 4));
        assert_eq!(ticks(0.07), (0.02, 4));
        assert_eq!(ticks(0.0), (1.0, 1));
    }

    #[test]
    fn names_cannot_break_out_of_the_drawing() {
        let series =
            Series { subject: "<a & b>", lesser: true, points: vec![(5, Summary { median: 2.0, min: 1.0, max: 3.0 })] };
        let plot = Plot { title: "t\"", label: "CPU, µs", better: "less is better", series: vec![series] };
        let svg = plot.svg();
        assert!(svg.contains("&lt;a &amp; b&gt; (does less)") && svg.contains("t&quot;"), "{svg}");
    }
}
