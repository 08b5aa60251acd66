//! A long run at a fixed rate: what one number would hide. The measured part is told in intervals, each against the whole;
//! the worst is named. Memory is sampled at every interval's end, and its drift is told. At the end, what was acknowledged is
//! counted against what the subscribers got: each batch once, whole, in its producer's order.

use crate::cli::SoakArguments;
use crate::latency::Summary;
use crate::load::memory::{Drift, Sample};
use crate::load::{Measured, Tally, execute};
use crate::output;
use crate::report::Report;
use serde::Serialize;
use std::process::ExitCode;

/// One interval.
#[derive(Clone, Debug, Serialize)]
struct Row {
    /// Since the measured part began.
    from_s: f64,
    to_s: f64,
    /// Acknowledged in it.
    batches_per_s: f64,
    /// Of what was due in it.
    response_ns: Summary,
    /// Its 99th percentile over that of the whole.
    p99_ratio: Option<f64>,
    /// Resident memory at its end, where the server's process is known.
    server_rss_mib: Option<f64>,
    generator_rss_mib: Option<f64>,
}

/// An interval that was the worst, by its number from 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
struct Worst {
    by_p99: Option<usize>,
    by_max: Option<usize>,
}

/// What was acknowledged against what was delivered.
#[derive(Clone, Debug, Serialize)]
struct Integrity {
    sent: u64,
    acked: u64,
    /// Each subscriber counted.
    delivered: u64,
    /// Deliveries of acknowledged batches that never came; of a run that ended early, those that it did not wait for.
    undelivered: u64,
    /// Numbers that a producer gave and a subscriber never got, though later ones came.
    missing: u64,
    /// Batches that came after a later one of their producer: again, or too late.
    behind: u64,
    /// Batches whose checksums do not hold.
    damaged: u64,
    /// Offsets that were not the next one.
    out_of_order: u64,
    /// Due, and never acknowledged.
    unfinished: u64,
    /// Refused.
    refused: u64,
    /// Whether everything acknowledged was delivered once, whole and in order.
    holds: bool,
}

impl Integrity {
    fn of(tally: &Tally) -> Self {
        let undelivered = (tally.acked * tally.fan_out).saturating_sub(tally.delivered);
        // A run that ended early did not wait for what was on its way.
        let lost = if tally.failed.is_some() {
            0
        } else {
            undelivered
        };
        let wrong =
            lost + tally.missing + tally.behind + tally.damaged + tally.delivered_out_of_order;
        Self {
            sent: tally.sent,
            acked: tally.acked,
            delivered: tally.delivered,
            undelivered,
            missing: tally.missing,
            behind: tally.behind,
            damaged: tally.damaged,
            out_of_order: tally.delivered_out_of_order,
            unfinished: tally.unfinished,
            refused: tally.refused_count,
            holds: wrong == 0,
        }
    }

    fn line(&self) -> String {
        format!(
            "integrity    {} sent, {} acknowledged, {} delivered: {} undelivered, {} missing, {} behind, {} damaged, {} out of order; {} unfinished, {} refused",
            self.sent,
            self.acked,
            self.delivered,
            self.undelivered,
            self.missing,
            self.behind,
            self.damaged,
            self.out_of_order,
            self.unfinished,
            self.refused
        )
    }
}

/// The whole soak.
#[derive(Clone, Debug, Serialize)]
struct Soak {
    /// Over the whole measured part.
    whole: Report,
    interval_s: f64,
    intervals: Vec<Row>,
    worst: Worst,
    server_memory: Option<Drift>,
    generator_memory: Option<Drift>,
    integrity: Integrity,
}

/// Carries it out.
///
/// # Errors
/// A sentence for people: nothing was measured.
#[expect(clippy::print_stderr, reason = "a program speaks to its user")]
pub(crate) fn run(arguments: &SoakArguments) -> Result<ExitCode, String> {
    let plan = arguments.plan()?;
    let measurer = arguments.workload.measurer()?;
    let mut measured = execute(&plan)?;
    measured.report.compare(measurer.as_ref(), &plan);
    let soak = Soak::of(
        measured,
        arguments.interval.as_secs_f64(),
        plan.duration.as_secs_f64(),
    );
    eprintln!("{}", soak.text());
    if let Some(path) = &arguments.workload.json {
        output::json(path, &soak)?;
    }
    Ok(if soak.whole.failed || !soak.integrity.holds {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

impl Soak {
    fn of(measured: Measured, interval_s: f64, duration_s: f64) -> Self {
        let Measured {
            report,
            tally,
            memory,
        } = measured;
        let whole_p99 = report.response_ns.p99;
        let pieces = tally.intervals.as_ref().map_or(&[][..], |all| all.all());
        let intervals: Vec<Row> = pieces
            .iter()
            .enumerate()
            .map(|(index, interval)| {
                let response_ns = interval.response.summary();
                let from_s = interval_s * index as f64;
                let to_s = (from_s + interval_s).min(duration_s);
                // The sample at the end of the interval; the first was taken when the first interval began.
                let sample = memory.get(index + 1);
                Row {
                    from_s,
                    to_s,
                    batches_per_s: interval.acked as f64 / (to_s - from_s),
                    p99_ratio: response_ns
                        .p99
                        .zip(whole_p99)
                        .map(|(own, whole)| own as f64 / whole as f64),
                    response_ns,
                    server_rss_mib: sample.and_then(|sample| sample.server_mib),
                    generator_rss_mib: sample.and_then(|sample| sample.generator_mib),
                }
            })
            .collect();
        let drift = |of: fn(&Sample) -> Option<f64>| {
            let samples: Vec<(f64, f64)> = memory
                .iter()
                .filter_map(|sample| Some((sample.at_s, of(sample)?)))
                .collect();
            Drift::of(&samples)
        };
        Self {
            worst: Worst {
                by_p99: worst(&intervals, |row| row.response_ns.p99),
                by_max: worst(&intervals, |row| row.response_ns.max),
            },
            interval_s,
            intervals,
            server_memory: drift(|sample| sample.server_mib),
            generator_memory: drift(|sample| sample.generator_mib),
            integrity: Integrity::of(&tally),
            whole: report,
        }
    }

    fn text(&self) -> String {
        let us = |ns: Option<u64>| {
            ns.map_or_else(
                || "too few".to_owned(),
                |ns| format!("{:.1}", ns as f64 / 1000.0),
            )
        };
        let mut lines = vec![format!(
            "{:>8} {:>8} {:>11} {:>10} {:>10} {:>10} {:>10} {:>8} {:>8}",
            "from s",
            "to s",
            "achieved/s",
            "p50 us",
            "p99 us",
            "p99.9 us",
            "max us",
            "x whole",
            "RSS MiB"
        )];
        for (index, row) in self.intervals.iter().enumerate() {
            let marks = match (
                self.worst.by_p99 == Some(index),
                self.worst.by_max == Some(index),
            ) {
                (true, true) => "  worst p99, worst max",
                (true, false) => "  worst p99",
                (false, true) => "  worst max",
                (false, false) => "",
            };
            lines.push(format!(
                "{:>8.1} {:>8.1} {:>11.0} {:>10} {:>10} {:>10} {:>10} {:>8} {:>8}{marks}",
                row.from_s,
                row.to_s,
                row.batches_per_s,
                us(row.response_ns.p50),
                us(row.response_ns.p99),
                us(row.response_ns.p999),
                us(row.response_ns.max),
                row.p99_ratio
                    .map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")),
                row.server_rss_mib
                    .map_or_else(|| "-".to_owned(), |mib| format!("{mib:.0}")),
            ));
        }
        lines.push(self.whole.text());
        for (who, drift) in [
            ("server", &self.server_memory),
            ("generator", &self.generator_memory),
        ] {
            if let Some(drift) = drift {
                lines.push(format!(
                    "memory       {who}: {:.1} MiB at first, {:.1} at last, {:.1} at most{}",
                    drift.first_mib,
                    drift.last_mib,
                    drift.most_mib,
                    drift
                        .mib_per_hour
                        .map_or_else(String::new, |slope| format!("; {slope:+.1} MiB an hour"))
                ));
            }
        }
        lines.push(self.integrity.line());
        if !self.integrity.holds {
            lines.push(
                "VIOLATION    not everything that was acknowledged was delivered once, whole and in order"
                    .to_owned(),
            );
        }
        lines.join("\n")
    }
}

fn worst(rows: &[Row], figure: impl Fn(&Row) -> Option<u64>) -> Option<usize> {
    rows.iter()
        .enumerate()
        .filter_map(|(index, row)| Some((figure(row)?, index)))
        // Of equals the first.
        .max_by_key(|(value, index)| (*value, usize::MAX - index))
        .map(|(_, index)| index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::intervals::Intervals;
    use crate::report::tests::report;

    /// A soak of three intervals of a second, of which the second was slow.
    fn soak(change: impl FnOnce(&mut Tally)) -> Soak {
        let mut intervals = Intervals::new(1_000_000_000);
        for (index, response_ns) in [1_000_000, 8_000_000, 2_000_000].into_iter().enumerate() {
            for batch in 0..2000 {
                let into_ns = index as u64 * 1_000_000_000 + batch;
                intervals.responded(into_ns, response_ns);
                intervals.acked(into_ns);
            }
        }
        let mut tally = Tally {
            intervals: Some(intervals),
            sent: 6000,
            acked: 6000,
            delivered: 6000,
            ..Tally::new(1)
        };
        change(&mut tally);
        let sample = |at: u32| Sample {
            at_s: f64::from(at),
            server_mib: Some(100.0 + f64::from(at)),
            generator_mib: None,
        };
        let measured = Measured {
            report: report(6000, 1000, Some(2000.0), 0),
            tally,
            memory: (0..4).map(sample).collect(),
        };
        Soak::of(measured, 1.0, 3.0)
    }

    #[test]
    fn the_worst_interval_is_named_against_the_whole() {
        let soak = soak(|_| {});
        assert_eq!(soak.intervals.len(), 3);
        let named = Worst {
            by_p99: Some(1),
            by_max: Some(1),
        };
        assert_eq!(soak.worst, named);
        let ratio = soak.intervals[1].p99_ratio.expect("enough");
        assert!((ratio - 8.0).abs() < 0.05, "{ratio}");
        assert!((soak.intervals[1].batches_per_s - 2000.0).abs() < 1e-9);
        assert_eq!(soak.intervals[2].server_rss_mib, Some(103.0));
        let slope = soak.server_memory.expect("known").mib_per_hour;
        assert!((slope.expect("enough") - 3600.0).abs() < 1e-6);
        assert!(soak.integrity.holds);
        assert!(soak.text().contains("worst p99, worst max"));
    }

    #[test]
    fn each_way_to_break_the_promise_is_a_violation() {
        let ways: [fn(&mut Tally); 5] = [
            |tally| tally.delivered = 5999,
            |tally| tally.missing = 1,
            |tally| tally.behind = 1,
            |tally| tally.damaged = 1,
            |tally| tally.delivered_out_of_order = 1,
        ];
        for way in ways {
            let soak = soak(way);
            assert!(!soak.integrity.holds);
            assert!(soak.text().contains("VIOLATION"));
        }
        // What was never acknowledged breaks none, and neither does what nobody waited for.
        assert!(soak(|tally| tally.sent = 6001).integrity.holds);
        let cut_off = soak(|tally| {
            tally.delivered = 5999;
            tally.failed = Some("the server went away".to_owned());
        });
        assert!(cut_off.integrity.holds);
        assert_eq!(cut_off.integrity.undelivered, 1);
    }
}
