//! The one table, for people: each system under each workload, the middle of each figure over the rounds, and how far the
//! product is from it with an interval. What each system has on the disk when it acknowledges stands below it, because a
//! rate without that means nothing.

use super::figures::us;
use super::server::Durable;
use super::{Comparison, Row, System};

/// All that is said.
pub(super) fn text(comparison: &Comparison) -> String {
    let mut lines = vec![String::new()];
    lines.push(format!(
        "{:<10} {:>11} {:>8} {:>10} {:>10} {:>10} {:>9} {:>8} {:>5}  {}",
        "system",
        "records/s",
        "MB/s",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "CPU s/GB",
        "RSS MiB",
        "gen%",
        "tiderace over it (95 % interval)"
    ));
    for case in &comparison.workloads {
        lines.push(case.line());
        for row in comparison.rows_of(case.name) {
            lines.push(line(row, mark(comparison, row.system)));
        }
    }
    lines.push(String::new());
    lines.push(
        "Bytes are those of values. RSS is the peak of the run. gen% is the share of its core that the generator used, the \
         system's client included; > means that it was the limit, and the server may be faster. MISSED: less than 99 % of the \
         rate was acknowledged. us are from the time at which a batch was meant to be sent to its last acknowledgement."
            .to_owned(),
    );
    for standing in &comparison.systems {
        lines.push(format!(
            "{:<10} {}",
            format!("{}{}", standing.system, mark(comparison, standing.system)),
            standing.line()
        ));
    }
    for skipped in &comparison.skipped {
        lines.push(format!(
            "{:<10} skipped: {}",
            skipped.system, skipped.reason
        ));
    }
    for failure in &comparison.failures {
        lines.push(format!(
            "FAILED     {} on {}, round {}: {}",
            failure.workload, failure.system, failure.round, failure.reason
        ));
    }
    for warning in &comparison.warnings {
        lines.push(format!("WARNING    {warning}"));
    }
    lines.join("\n")
}

/// `*`: an acknowledged record may be lost. `?`: its owner knows.
pub(super) fn mark(comparison: &Comparison, system: System) -> &'static str {
    let standing = comparison
        .systems
        .iter()
        .find(|standing| standing.system == system);
    match standing.map(|standing| standing.durable) {
        Some(Durable::Yes) | None => "",
        Some(Durable::No) => "*",
        Some(Durable::AsConfigured) => "?",
    }
}

fn line(row: &Row, mark: &str) -> String {
    let name = format!("{}{mark}", row.system);
    let Some(median) = &row.median else {
        return format!("{name:<10} not measured");
    };
    let float = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
    };
    let share = median.generator_share.map(|share| share * 100.0);
    let ratio = row
        .tiderace_over
        .as_ref()
        .map_or_else(String::new, |ratio| {
            ratio.interval95.map_or_else(
                || format!("x {:.2} (one pair)", ratio.median),
                |[low, high]| format!("x {:.2} ({low:.2} to {high:.2})", ratio.median),
            )
        });
    let text = format!(
        "{name:<10} {:>11.0} {:>8.1} {:>10} {:>10} {:>10} {:>9} {:>8} {:>5}  {ratio}{}",
        median.records_per_s,
        median.mb_per_s,
        us(median.p50_ns),
        us(median.p99_ns),
        us(median.p999_ns),
        float(median.cpu_s_per_gb, 2),
        float(median.peak_rss_mib, 0),
        format!(
            "{}{}",
            if median.generator_was_the_limit {
                ">"
            } else {
                ""
            },
            float(share, 0)
        ),
        if median.missed { "  MISSED" } else { "" }
    );
    text.trim_end().to_owned()
}
