//! What was measured, as a table for people and as JSON for programs. Ratios are of pairs: the same workload in the same
//! round, another runtime over our own loop. Absolute figures are medians, and mean nothing without the machine they stand
//! beside.

use crate::environment::Environment;
use crate::load::{Seen, Workload};
use crate::servers::Runtime;
use crate::statistics::{Paired, median};
use serde::Serialize;
use serde_json::json;
use std::fmt::Write;

/// One measurement.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Measured {
    /// Answers in a second.
    frames_per_second: f64,
    /// Processor time of the server for each, in microseconds.
    server_cpu_us_per_frame: f64,
    /// Which part of the time the server used a core. A server that waits is bound by the disk, the network or the client.
    server_busy: f64,
    /// The same of the client. Near 1 it is the client that is measured.
    client_busy: f64,
    /// Response times; of one connection with one request only.
    p50_us: Option<f64>,
    p99_us: Option<f64>,
}

impl Measured {
    pub(crate) fn of(seen: &Seen) -> Self {
        let frames = seen.frames as f64;
        let quantile = |part: f64| {
            let last = seen.response_ns.len().checked_sub(1)?;
            let at = (part * last as f64).round() as usize;
            seen.response_ns.get(at).map(|ns| *ns as f64 / 1e3)
        };
        Self {
            frames_per_second: frames / seen.seconds,
            server_cpu_us_per_frame: seen.usage.server_cpu_seconds * 1e6 / frames,
            server_busy: seen.usage.server_cpu_seconds / seen.seconds,
            client_busy: seen.usage.client_cpu_seconds / seen.seconds,
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
        }
    }

    /// For people.
    pub(crate) fn line(&self, workload: Workload) -> String {
        let mut line = format!(
            "{}, server {:.2} us a frame, busy {:.2}, client busy {:.2}",
            rate(self.frames_per_second, workload),
            self.server_cpu_us_per_frame,
            self.server_busy,
            self.client_busy
        );
        if let (Some(p50), Some(p99)) = (self.p50_us, self.p99_us) {
            let _ = write!(line, ", p50 {p50:.1} us, p99 {p99:.1} us");
        }
        line
    }
}

fn rate(frames_per_second: f64, workload: Workload) -> String {
    if workload.payload_bytes >= 4096 {
        let bytes = frames_per_second * workload.payload_bytes as f64;
        format!("{:.2} GB/s", bytes / 1e9)
    } else {
        format!("{:.1} k/s", frames_per_second / 1e3)
    }
}

#[derive(Clone, Debug, Serialize)]
struct Run {
    round: usize,
    workload: Workload,
    runtime: Runtime,
    #[serde(flatten)]
    measured: Measured,
}

/// Everything about one comparison.
#[derive(Debug)]
pub(crate) struct Report {
    environment: Environment,
    seconds: f64,
    writes_max: u8,
    fdatasync: bool,
    runs: Vec<Run>,
    left_out: Vec<(Runtime, String)>,
    failed: Vec<(Runtime, String)>,
}

/// A runtime against our own loop in one workload.
#[derive(Debug, Serialize)]
struct Against {
    workload: String,
    runtime: Runtime,
    rate: Option<Paired>,
    server_cpu_per_frame: Option<Paired>,
    p50: Option<Paired>,
}

impl Report {
    pub(crate) const fn new(
        environment: Environment,
        seconds: f64,
        writes_max: u8,
        fdatasync: bool,
    ) -> Self {
        Self {
            environment,
            seconds,
            writes_max,
            fdatasync,
            runs: Vec::new(),
            left_out: Vec::new(),
            failed: Vec::new(),
        }
    }

    /// A runtime does not start here.
    pub(crate) fn left_out(&mut self, runtime: Runtime, reason: String) {
        self.left_out.push((runtime, reason));
    }

    /// A runtime failed under load. What it showed before stays.
    pub(crate) fn failed(&mut self, runtime: Runtime, reason: String) {
        self.failed.push((runtime, reason));
    }

    pub(crate) fn has_failed(&self, runtime: Runtime) -> bool {
        self.failed.iter().any(|(failed, _)| *failed == runtime)
    }

    pub(crate) fn any_failed(&self) -> bool {
        !self.failed.is_empty()
    }

    pub(crate) fn measured(
        &mut self,
        round: usize,
        workload: Workload,
        runtime: Runtime,
        measured: Measured,
    ) {
        self.runs.push(Run {
            round,
            workload,
            runtime,
            measured,
        });
    }

    fn rounds(&self) -> usize {
        self.runs.iter().map(|run| run.round + 1).max().unwrap_or(0)
    }

    /// One figure of every round, in order.
    fn series(
        &self,
        workload: Workload,
        runtime: Runtime,
        figure: impl Fn(&Measured) -> Option<f64>,
    ) -> Vec<Option<f64>> {
        let mut series = vec![None; self.rounds()];
        for run in &self.runs {
            if run.workload == workload && run.runtime == runtime {
                series[run.round] = figure(&run.measured);
            }
        }
        series
    }

    fn against(&self, workload: Workload, runtime: Runtime) -> Against {
        let paired = |figure: fn(&Measured) -> Option<f64>| {
            Paired::of(
                &self.series(workload, runtime, figure),
                &self.series(workload, Runtime::Ours, figure),
            )
        };
        Against {
            workload: workload.to_string(),
            runtime,
            rate: paired(|measured| Some(measured.frames_per_second)),
            server_cpu_per_frame: paired(|measured| Some(measured.server_cpu_us_per_frame)),
            p50: paired(|measured| measured.p50_us),
        }
    }

    fn comparisons(&self) -> Vec<Against> {
        let peers = || Runtime::ALL.into_iter().filter(|it| *it != Runtime::Ours);
        Workload::ALL
            .into_iter()
            .flat_map(|workload| peers().map(move |peer| self.against(workload, peer)))
            .collect()
    }

    /// For people: also fit for a page of Markdown.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let rounds = self.rounds();
        let _ = writeln!(text, "{}", self.environment.line());
        let _ = writeln!(
            text,
            "{rounds} rounds of {} s, {} writes in flight at most; ratios to our own loop: median of the pairs (95 % interval)",
            self.seconds, self.writes_max
        );
        if self.fdatasync {
            let _ = writeln!(text, "glommio and tokio-uring sync by a second operation");
        }
        if self.environment.was_busy() {
            let _ = writeln!(
                text,
                "THE MACHINE WAS BUSY BEFORE THE FIRST ROUND: ratios only, and with care"
            );
        }
        let _ = writeln!(
            text,
            "\n| workload | runtime | rate | server CPU per frame | p50 |"
        );
        let _ = writeln!(text, "|---|---|---|---|---|");
        for workload in Workload::ALL {
            let middle = |figure: fn(&Measured) -> Option<f64>| {
                median(
                    self.series(workload, Runtime::Ours, figure)
                        .into_iter()
                        .flatten(),
                )
            };
            let of = |value: Option<f64>, unit: &str| {
                value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2} {unit}"))
            };
            let _ = writeln!(
                text,
                "| {workload} | ours | {} | {} | {} |",
                middle(|it| Some(it.frames_per_second))
                    .map_or_else(|| "-".to_owned(), |value| rate(value, workload)),
                of(middle(|it| Some(it.server_cpu_us_per_frame)), "us"),
                of(middle(|it| it.p50_us), "us"),
            );
            for peer in Runtime::ALL.into_iter().filter(|it| *it != Runtime::Ours) {
                let against = self.against(workload, peer);
                if against.rate.is_none() {
                    continue;
                }
                let of = |paired: &Option<Paired>| {
                    paired.as_ref().map_or_else(|| "-".to_owned(), Paired::cell)
                };
                let _ = writeln!(
                    text,
                    "| | {peer} | {} | {} | {} |",
                    of(&against.rate),
                    of(&against.server_cpu_per_frame),
                    of(&against.p50)
                );
            }
        }
        for (runtime, reason) in &self.left_out {
            let _ = writeln!(text, "\n{runtime} was left out: {reason}");
        }
        for (runtime, reason) in &self.failed {
            let _ = writeln!(text, "\n{runtime} FAILED {reason}");
        }
        text
    }

    /// For programs: every measurement and every ratio.
    pub(crate) fn json(&self) -> String {
        let reasons = |list: &[(Runtime, String)]| {
            let reason = |(runtime, reason): &(Runtime, String)| json!({ "runtime": runtime, "reason": reason });
            list.iter().map(reason).collect::<Vec<_>>()
        };
        let whole = json!({
            "environment": self.environment,
            "busy_before": self.environment.was_busy(),
            "seconds": self.seconds,
            "writes_max": self.writes_max,
            "peers_sync_by": if self.fdatasync { "fdatasync" } else { "O_DSYNC" },
            "ratios_to_ours": self.comparisons(),
            "runs": self.runs,
            "left_out": reasons(&self.left_out),
            "failed": reasons(&self.failed),
        });
        format!("{whole:#}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Usage;
    use std::path::Path;

    fn measured(frames: u64, response_ns: Vec<u64>) -> Measured {
        Measured::of(&Seen {
            frames,
            seconds: 2.0,
            usage: Usage {
                server_cpu_seconds: 1.0,
                client_cpu_seconds: 0.5,
            },
            response_ns,
        })
    }

    #[test]
    fn a_measurement_is_what_was_seen() {
        let it = measured(1000, (1..=101).map(|us| us * 1000).collect());
        assert!((it.frames_per_second - 500.0).abs() < 1e-9);
        assert!((it.server_cpu_us_per_frame - 1000.0).abs() < 1e-9);
        assert!((it.server_busy - 0.5).abs() < 1e-9 && (it.client_busy - 0.25).abs() < 1e-9);
        assert_eq!((it.p50_us, it.p99_us), (Some(51.0), Some(100.0)));
        assert_eq!(measured(1, Vec::new()).p50_us, None);
    }

    #[test]
    fn pairs_are_of_one_round_and_what_is_missing_is_said() {
        let mut report = Report::new(Environment::read(Path::new("/")), 2.0, 4, false);
        let workload = Workload::ALL[3];
        for round in 0..3 {
            let ours = 1000 * (round as u64 + 1);
            report.measured(round, workload, Runtime::Ours, measured(ours, Vec::new()));
            // The last round lacks it: that is no pair.
            if round < 2 {
                let half = measured(ours / 2, Vec::new());
                report.measured(round, workload, Runtime::Epoll, half);
            }
        }
        report.left_out(Runtime::Glommio, "no memory may be locked".to_owned());
        report.failed(Runtime::Epoll, "in a test".to_owned());
        let rate = report
            .against(workload, Runtime::Epoll)
            .rate
            .expect("pairs");
        assert_eq!(rate.pairs, 2);
        assert!((rate.median - 0.5).abs() < 1e-9);
        assert!(report.has_failed(Runtime::Epoll) && !report.has_failed(Runtime::Ours));
        let text = report.text();
        assert!(
            text.contains("glommio was left out: no memory may be locked"),
            "{text}"
        );
        assert!(text.contains("epoll FAILED in a test"), "{text}");
        assert!(text.contains("| | epoll | 0.50 (0.50 to 0.50)"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&report.json()).expect("JSON");
        assert_eq!(json["runs"].as_array().map(Vec::len), Some(5));
        assert_eq!(json["left_out"][0]["runtime"], "glommio");
    }
}
