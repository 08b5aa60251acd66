//! The figures of one run, read from the JSON report that every run writes, whoever carried it out, so that all of them
//! are computed in one place. Bytes are those of values alone: what a system adds to them is its own affair and shows in its
//! rate. Nothing is made up: what a report does not know stays unknown.

use crate::compare::statistics;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Debug, Deserialize)]
struct Report {
    workload: Workload,
    rates: Rates,
    batches: Batches,
    response_ns: Response,
    generator: Generator,
    server: Option<Server>,
    warnings: Vec<String>,
    failed: bool,
}

#[derive(Debug, Deserialize)]
struct Workload {
    batch_records: u32,
    record_bytes: usize,
}

#[derive(Debug, Deserialize)]
struct Rates {
    records_per_s: f64,
    missed: bool,
}

#[derive(Debug, Deserialize)]
struct Batches {
    acked: u64,
    refused: BTreeMap<String, u64>,
}

#[derive(Debug, Deserialize)]
struct Response {
    p50: Option<u64>,
    p99: Option<u64>,
    p999: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Generator {
    share: Option<f64>,
    was_the_limit: bool,
}

#[derive(Debug, Deserialize)]
struct Server {
    cpu_s: f64,
    peak_rss_mib: f64,
}

/// One run, or the middle of several.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(super) struct Sample {
    pub(super) records_per_s: f64,
    /// Of values, in 10^6 a second.
    pub(super) mb_per_s: f64,
    /// Response: from the time at which a batch was meant to be sent.
    pub(super) p50_ns: Option<u64>,
    pub(super) p99_ns: Option<u64>,
    pub(super) p999_ns: Option<u64>,
    /// Processor seconds of the server for each 10^9 bytes of values.
    pub(super) cpu_s_per_gb: Option<f64>,
    /// The most memory that the server had during the run.
    pub(super) peak_rss_mib: Option<f64>,
    /// Share of its core that the generator used, the system's client included.
    pub(super) generator_share: Option<f64>,
    /// Whether the generator, the system's client included, was the limit.
    pub(super) generator_was_the_limit: bool,
    /// Whether the rate of an open loop was missed.
    pub(super) missed: bool,
    pub(super) warnings: Vec<String>,
}

impl Sample {
    /// From a report.
    ///
    /// # Errors
    /// The run failed, anything in it was refused or nothing acknowledged, or this is no report.
    pub(super) fn read(report: serde_json::Value) -> Result<Self, String> {
        let report: Report = serde_json::from_value(report)
            .map_err(|error| format!("the report cannot be read: {error}"))?;
        let refused: u64 = report.batches.refused.values().sum();
        if report.failed || refused > 0 {
            return Err(format!(
                "{} batches acknowledged, {refused} refused or lost; {}",
                report.batches.acked,
                report.warnings.join("; ")
            ));
        }
        if report.batches.acked == 0 {
            return Err("nothing was acknowledged".to_owned());
        }
        let batch_bytes =
            f64::from(report.workload.batch_records) * report.workload.record_bytes as f64;
        let acked_gb = report.batches.acked as f64 * batch_bytes / 1e9;
        Ok(Self {
            records_per_s: report.rates.records_per_s,
            mb_per_s: report.rates.records_per_s * report.workload.record_bytes as f64 / 1e6,
            p50_ns: report.response_ns.p50,
            p99_ns: report.response_ns.p99,
            p999_ns: report.response_ns.p999,
            cpu_s_per_gb: report.server.as_ref().map(|server| server.cpu_s / acked_gb),
            peak_rss_mib: report.server.as_ref().map(|server| server.peak_rss_mib),
            generator_share: report.generator.share,
            generator_was_the_limit: report.generator.was_the_limit,
            missed: report.rates.missed,
            warnings: report.warnings,
        })
    }

    /// The middle of each figure. Of marks, whether any run had it. `None` of nothing.
    pub(super) fn median(samples: &[Self]) -> Option<Self> {
        let float = |figure: fn(&Self) -> Option<f64>| {
            statistics::median(samples.iter().filter_map(figure))
        };
        let whole = |figure: fn(&Self) -> Option<u64>| {
            let values = samples.iter().filter_map(figure).map(|ns| ns as f64);
            statistics::median(values).map(|ns| ns as u64)
        };
        Some(Self {
            records_per_s: float(|sample| Some(sample.records_per_s))?,
            mb_per_s: float(|sample| Some(sample.mb_per_s))?,
            p50_ns: whole(|sample| sample.p50_ns),
            p99_ns: whole(|sample| sample.p99_ns),
            p999_ns: whole(|sample| sample.p999_ns),
            cpu_s_per_gb: float(|sample| sample.cpu_s_per_gb),
            peak_rss_mib: float(|sample| sample.peak_rss_mib),
            generator_share: float(|sample| sample.generator_share),
            generator_was_the_limit: samples.iter().any(|sample| sample.generator_was_the_limit),
            missed: samples.iter().any(|sample| sample.missed),
            warnings: Vec::new(),
        })
    }

    /// One line for people.
    pub(super) fn line(&self) -> String {
        format!(
            "{:9.0} records/s {:7.1} MB/s  p50 {:>9} us  p99 {:>9} us{}",
            self.records_per_s,
            self.mb_per_s,
            us(self.p50_ns),
            us(self.p99_ns),
            if self.warnings.is_empty() { "" } else { "  !" }
        )
    }
}

/// Microseconds, for people.
pub(super) fn us(ns: Option<u64>) -> String {
    ns.map_or_else(
        || "too few".to_owned(),
        |ns| format!("{:.1}", ns as f64 / 1000.0),
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::systems) fn sample(records_per_s: f64, p50_ns: u64) -> Sample {
        Sample {
            records_per_s,
            mb_per_s: records_per_s / 1e3,
            p50_ns: Some(p50_ns),
            p99_ns: Some(p50_ns * 2),
            p999_ns: None,
            cpu_s_per_gb: Some(0.5),
            peak_rss_mib: Some(64.0),
            generator_share: Some(0.4),
            generator_was_the_limit: false,
            missed: false,
            warnings: Vec::new(),
        }
    }

    /// A report of the engine itself, as JSON.
    fn report() -> serde_json::Value {
        serde_json::to_value(crate::report::tests::report(1000, 10, None, 0)).expect("JSON")
    }

    #[test]
    fn a_report_of_the_engine_is_read() {
        let mut report = report();
        // The maker of that report counts what was acknowledged in the measured part alone.
        report["batches"]["acked"] = 2000.into();
        report["server"] = serde_json::json!({ "cpu_s": 0.5, "cores": 1.0, "cpu_s_per_gb": 9.0, "peak_rss_mib": 3.0 });
        let sample = Sample::read(report).expect("it is a report");
        assert!((sample.records_per_s - 1000.0).abs() < 1e-9);
        // 100 bytes of value each; what a batch has besides does not count.
        assert!((sample.mb_per_s - 0.1).abs() < 1e-9);
        assert!((sample.cpu_s_per_gb.expect("known") - 2500.0).abs() < 1e-6);
        assert!(sample.p50_ns.expect("enough").abs_diff(1_000_000) < 1000);
        assert_eq!(sample.p999_ns, None);
    }

    #[test]
    fn a_run_in_which_anything_was_refused_is_no_sample() {
        let mut refused = report();
        refused["batches"]["acked"] = 1000.into();
        refused["batches"]["refused"]["the disk is full"] = 2.into();
        assert!(
            Sample::read(refused)
                .expect_err("refused")
                .contains("2 refused")
        );
        let mut failed = report();
        failed["failed"] = true.into();
        failed["warnings"] = serde_json::json!(["the run ended early: the connection broke"]);
        assert!(Sample::read(failed).expect_err("failed").contains("broke"));
        assert!(
            Sample::read(report())
                .expect_err("nothing")
                .contains("nothing")
        );
        assert!(
            Sample::read(serde_json::json!({}))
                .expect_err("none")
                .contains("cannot be read")
        );
    }

    #[test]
    fn the_middle_is_of_each_figure_and_a_mark_stays() {
        assert_eq!(Sample::median(&[]), None);
        let mut marked = sample(300.0, 10);
        marked.missed = true;
        let middle =
            Sample::median(&[sample(100.0, 30), marked, sample(200.0, 20)]).expect("three");
        assert!((middle.records_per_s - 200.0).abs() < 1e-9);
        assert_eq!((middle.p50_ns, middle.missed), (Some(20), true));
    }
}
