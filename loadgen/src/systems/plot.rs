//! The one plot, as an SVG of a fixed layout without a script or a font of its own: for each workload a band, in it for each
//! system a line, with the throughput as a bar on the left and the response at p50, p99 and p99.9 on a logarithmic scale on
//! the right. What was not measured is said, not drawn as zero; what must not be quoted is said below.

use super::cases::Case;
use super::figures::Sample;
use super::table::mark;
use super::{Comparison, System};
use std::fmt::Write;

const WIDTH: f64 = 1040.0;
const MARGIN: f64 = 24.0;
/// Where the bars and the responses begin and end.
const BARS: [f64; 2] = [170.0, 500.0];
const RESPONSES: [f64; 2] = [560.0, 1000.0];
/// Beside a bar, for its value.
const VALUE_WIDTH: f64 = 130.0;
const HEAD_HEIGHT: f64 = 84.0;
const BAND_HEAD_HEIGHT: f64 = 34.0;
const BAND_FOOT_HEIGHT: f64 = 38.0;
const LINE_HEIGHT: f64 = 26.0;
const NOTE_HEIGHT: f64 = 16.0;
/// Characters of a note's line.
const NOTE_CHARS: usize = 160;

const INK: &str = "#1f2933";
const PALE: &str = "#6b7785";
const GRID: &str = "#e3e8ee";

/// Colours that people who see few of them tell apart, too.
const fn colour(system: System) -> &'static str {
    match system {
        System::Tiderace => "#0072b2",
        System::Nats => "#e69f00",
        System::Redis => "#d55e00",
        System::Kafka => "#009e73",
        System::Iggy => "#cc79a7",
    }
}

#[derive(Clone, Copy)]
enum Shape {
    Circle,
    Square,
    Triangle,
}

/// Its name, how it is drawn, and where it is found.
type Percentile = (&'static str, Shape, fn(&Sample) -> Option<u64>);

const PERCENTILES: [Percentile; 3] = [
    ("p50", Shape::Circle, |sample| sample.p50_ns),
    ("p99", Shape::Square, |sample| sample.p99_ns),
    ("p99.9", Shape::Triangle, |sample| sample.p999_ns),
];

struct Drawing(String);

impl Drawing {
    fn text(&mut self, x: f64, y: f64, class: &str, text: &str) {
        let text = escaped(text);
        // Writing to a string does not fail.
        let _ = writeln!(
            self.0,
            r#"<text x="{x:.1}" y="{y:.1}" class="{class}">{text}</text>"#
        );
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str, width: f64) {
        let _ = writeln!(
            self.0,
            r#"<line x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}" stroke="{colour}" stroke-width="{width}"/>"#,
            from.0, from.1, to.0, to.1
        );
    }

    fn bar(&mut self, x: f64, y: f64, width: f64, height: f64, colour: &str) {
        let _ = writeln!(
            self.0,
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" rx="2" fill="{colour}"/>"#
        );
    }

    fn shape(&mut self, shape: Shape, x: f64, y: f64, colour: &str) {
        let style = format!(r##"fill="{colour}" stroke="#ffffff" stroke-width="1""##);
        let _ = match shape {
            Shape::Circle => {
                writeln!(self.0, r#"<circle cx="{x:.1}" cy="{y:.1}" r="5" {style}/>"#)
            }
            Shape::Square => writeln!(
                self.0,
                r#"<rect x="{:.1}" y="{:.1}" width="9" height="9" {style}/>"#,
                x - 4.5,
                y - 4.5
            ),
            Shape::Triangle => writeln!(
                self.0,
                r#"<path d="M{:.1} {:.1}l5.5 10h-11z" {style}/>"#,
                x,
                y - 6.0
            ),
        };
    }
}

/// The plot.
pub(super) fn svg(comparison: &Comparison) -> String {
    let lines: usize = comparison
        .workloads
        .iter()
        .map(|case| comparison.rows_of(case.name).count())
        .sum();
    let notes = notes(comparison);
    let bands = comparison.workloads.len() as f64;
    let height = HEAD_HEIGHT
        + bands * (BAND_HEAD_HEIGHT + BAND_FOOT_HEIGHT)
        + lines as f64 * LINE_HEIGHT
        + (notes.len() + 1) as f64 * NOTE_HEIGHT
        + MARGIN;
    let mut drawing = Drawing(format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0}" width="{WIDTH}" height="{height:.0}" role="img" aria-label="Throughput and response of each system under each workload">
<style>
text {{ font-family: system-ui, "DejaVu Sans", sans-serif; font-size: 12px; fill: {INK}; }}
.title {{ font-size: 18px; font-weight: 600; }}
.band {{ font-size: 13px; font-weight: 600; }}
.pale {{ fill: {PALE}; font-size: 11px; }}
.end {{ text-anchor: end; }}
.tick {{ fill: {PALE}; font-size: 11px; text-anchor: middle; }}
</style>
<rect width="{WIDTH}" height="{height:.0}" fill="#ffffff"/>
"##
    ));
    head(&mut drawing, comparison);
    let mut top = HEAD_HEIGHT;
    for case in &comparison.workloads {
        top = band(&mut drawing, comparison, case, top);
    }
    for note in &notes {
        top += NOTE_HEIGHT;
        drawing.text(MARGIN, top, "pale", note);
    }
    drawing.0.push_str("</svg>\n");
    drawing.0
}

fn head(drawing: &mut Drawing, comparison: &Comparison) {
    let title = "Acknowledged records: throughput and response";
    drawing.text(MARGIN, 32.0, "title", title);
    let said = format!(
        "median of {} round{} of {} s in turns, servers on one core, clients on another",
        comparison.rounds,
        if comparison.rounds == 1 { "" } else { "s" },
        comparison.duration_s
    );
    drawing.text(MARGIN, 52.0, "pale", &said);
    let mut x = RESPONSES[0];
    for (name, shape, _) in PERCENTILES {
        drawing.shape(shape, x, 66.0, PALE);
        drawing.text(x + 10.0, 70.0, "pale", name);
        x += 60.0;
    }
    drawing.text(
        x + 4.0,
        70.0,
        "pale",
        "response, from the intended time of sending",
    );
    drawing.text(
        BARS[0],
        70.0,
        "pale",
        "records a second, and MB/s of values",
    );
}

/// Draws a band and gives where the next begins.
fn band(drawing: &mut Drawing, comparison: &Comparison, case: &Case, top: f64) -> f64 {
    let rows: Vec<_> = comparison.rows_of(case.name).collect();
    let samples = || rows.iter().filter_map(|row| row.median.as_ref());
    let most = samples()
        .map(|sample| sample.records_per_s)
        .fold(0.0, f64::max);
    let scale = Decades::of(samples().flat_map(|sample| {
        PERCENTILES
            .iter()
            .filter_map(|(_, _, percentile)| percentile(sample))
    }));
    drawing.line((MARGIN, top), (WIDTH - MARGIN, top), GRID, 1.0);
    drawing.text(MARGIN, top + 22.0, "band", case.name);
    let how = case.rate.map_or_else(
        || "saturated".to_owned(),
        |rate| format!("open loop, {rate:.0} a second, Poisson"),
    );
    let how = format!(
        "{how}; {} connections x {} in flight",
        case.connections, case.in_flight
    );
    drawing.text(RESPONSES[1], top + 22.0, "pale end", &how);
    let first = top + BAND_HEAD_HEIGHT;
    let bottom = first + rows.len() as f64 * LINE_HEIGHT;
    for (ns, label) in scale.ticks() {
        let x = scale.x(ns);
        drawing.line((x, first), (x, bottom), GRID, 1.0);
        drawing.text(x, bottom + 14.0, "tick", &label);
    }
    for (index, row) in rows.iter().enumerate() {
        let y = first + (index as f64 + 0.5) * LINE_HEIGHT;
        let name = format!("{}{}", row.system.title(), mark(comparison, row.system));
        drawing.text(BARS[0] - 10.0, y + 4.0, "end", &name);
        let Some(sample) = &row.median else {
            drawing.text(BARS[0], y + 4.0, "pale", "not measured");
            continue;
        };
        let colour = colour(row.system);
        let room = BARS[1] - BARS[0] - VALUE_WIDTH;
        // `most` is that of some row, so it is above zero where any is.
        let width = (sample.records_per_s / most.max(f64::MIN_POSITIVE) * room).max(1.0);
        drawing.bar(BARS[0], y - 8.0, width, 16.0, colour);
        let value = format!(
            "{}/s, {} MB/s{}",
            short(sample.records_per_s),
            short(sample.mb_per_s),
            if sample.missed { ", MISSED" } else { "" }
        );
        drawing.text(BARS[0] + width + 6.0, y + 4.0, "", &value);
        let points: Vec<_> = PERCENTILES
            .iter()
            .filter_map(|(_, shape, percentile)| Some((*shape, scale.x(percentile(sample)?))))
            .collect();
        if let (Some((_, from)), Some((_, to))) = (points.first(), points.last()) {
            drawing.line((*from, y), (*to, y), colour, 2.0);
        }
        for (shape, x) in points {
            drawing.shape(shape, x, y, colour);
        }
    }
    bottom + BAND_FOOT_HEIGHT
}

/// A logarithmic scale over whole decades.
struct Decades {
    first: i32,
    last: i32,
}

impl Decades {
    /// Those that hold all values; from 10 us to 10 ms when there is none.
    fn of(values: impl Iterator<Item = u64>) -> Self {
        let (mut low, mut high) = (u64::MAX, 0);
        for value in values {
            (low, high) = (low.min(value.max(1)), high.max(value.max(1)));
        }
        if high == 0 {
            return Self { first: 4, last: 7 };
        }
        let first = low.ilog10() as i32;
        let last = (high as f64).log10().ceil() as i32;
        Self {
            first,
            last: last.max(first + 1),
        }
    }

    fn x(&self, ns: u64) -> f64 {
        let share = ((ns.max(1) as f64).log10() - f64::from(self.first))
            / f64::from(self.last - self.first);
        RESPONSES[0] + share * (RESPONSES[1] - RESPONSES[0])
    }

    fn ticks(&self) -> impl Iterator<Item = (u64, String)> {
        (self.first..=self.last).map(|decade| {
            let ns = 10_u64.pow(decade as u32);
            let label = match decade {
                ..3 => format!("{ns} ns"),
                3..6 => format!("{} us", ns / 1000),
                6..9 => format!("{} ms", ns / 1_000_000),
                _ => format!("{} s", ns / 1_000_000_000),
            };
            (ns, label)
        })
    }
}

/// Three digits, with a letter for thousands and millions.
fn short(value: f64) -> String {
    let (value, unit) = match value {
        value if value >= 1e6 => (value / 1e6, "M"),
        value if value >= 1e4 => (value / 1e3, "k"),
        value => (value, ""),
    };
    let digits = match value {
        value if value >= 100.0 => 0,
        value if value >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}{unit}")
}

/// What stands below: where acknowledged records are, who is not in it, the machine, and why nothing may be quoted.
fn notes(comparison: &Comparison) -> Vec<String> {
    let mut notes = vec![
        "A percentile is drawn where at least one round had samples enough for it.".to_owned(),
    ];
    for standing in &comparison.systems {
        notes.push(format!(
            "{}{}: {}; an acknowledged record is {}",
            standing.system.title(),
            mark(comparison, standing.system),
            standing.version,
            standing.acknowledged
        ));
    }
    for skipped in &comparison.skipped {
        notes.push(format!(
            "{} is not in it: {}",
            skipped.system.title(),
            skipped.reason
        ));
    }
    for failure in &comparison.failures {
        notes.push(format!(
            "FAILED: {} on {}",
            failure.workload,
            failure.system.title()
        ));
    }
    notes.push(comparison.environment.line());
    if !comparison.warnings.is_empty() {
        notes.push(format!("WARNING: {}", comparison.warnings.join("; ")));
    }
    notes.iter().flat_map(|note| wrapped(note)).collect()
}

/// Lines of a note, broken between words.
fn wrapped(note: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in note.split_whitespace() {
        let line = lines.last_mut().expect("there is one from the beginning");
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > NOTE_CHARS {
            lines.push(format!("    {word}"));
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_holds_every_value_between_whole_decades() {
        let scale = Decades::of([120_000, 3_500_000].into_iter());
        assert_eq!((scale.first, scale.last), (5, 7));
        assert!((scale.x(100_000) - RESPONSES[0]).abs() < 1e-9);
        assert!((scale.x(10_000_000) - RESPONSES[1]).abs() < 1e-9);
        let labels: Vec<String> = scale.ticks().map(|(_, label)| label).collect();
        assert_eq!(labels, ["100 us", "1 ms", "10 ms"]);
        // One value on a decade is still a scale.
        let single = Decades::of([1_000_000].into_iter());
        assert_eq!((single.first, single.last), (6, 7));
        assert!(Decades::of(std::iter::empty()).ticks().count() > 1);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(short(1_234_567.0), "1.23M");
        assert_eq!(short(45_678.0), "45.7k");
        assert_eq!(short(512.4), "512");
        assert_eq!(short(0.25), "0.25");
    }

    #[test]
    fn what_programs_say_cannot_break_the_drawing() {
        assert_eq!(escaped("a < b & c > d"), "a &lt; b &amp; c &gt; d");
        let long = vec!["word"; 100].join(" ");
        let lines = wrapped(&long);
        assert!(lines.len() > 1);
        assert!(
            lines
                .iter()
                .all(|line| line.chars().count() <= NOTE_CHARS + 4)
        );
    }
}
