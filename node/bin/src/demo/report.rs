//! What the demo prints: one JSON object for programs, the same in words for people, and whether it is a failure.

use super::data::DataSet;
use super::traffic::{Measured, Plan};
use crate::directory;
use crate::exit::{Exit, Failure};
use crate::serve::Running;
use crate::units::{show_count, show_duration};
use hdrhistogram::Histogram;
use serde::Serialize;
use std::time::Duration;

/// The percentiles of one latency, in microseconds.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub(crate) struct Latency {
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

impl Latency {
    fn of(ns: &Histogram<u64>) -> Self {
        let us = |ns: u64| ns as f64 / 1000.0;
        Self {
            p50: us(ns.value_at_quantile(0.5)),
            p99: us(ns.value_at_quantile(0.99)),
            p999: us(ns.value_at_quantile(0.999)),
            max: us(ns.max()),
        }
    }

    fn words(&self) -> String {
        format!(
            "p50 {:.0} us  p99 {:.0} us  p99.9 {:.0} us  max {:.0} us",
            self.p50, self.p99, self.p999, self.max
        )
    }
}

/// One phase.
#[derive(Clone, PartialEq, Debug, Serialize)]
struct Phase {
    events: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
    measures: &'static str,
}

#[derive(Clone, PartialEq, Debug, Serialize)]
struct Phases {
    warm_up: Phase,
    paced: Phase,
    fast: Phase,
}

/// The whole result.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Report {
    events_sent: u64,
    events_acked: u64,
    events_delivered: u64,
    lost: u64,
    duplicated: u64,
    reordered: u64,
    changed: u64,
    offset_jumps: u64,
    misplaced: u64,
    ack_us: Latency,
    delivery_us: Latency,
    durability: &'static str,
    seconds: f64,
    events_per_second: u64,
    mib_per_second: f64,
    phases: Phases,
    data: String,
    keys: u32,
    partitions: u32,
    shards: u16,
    file_system: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_error: Option<String>,
    #[serde(skip)]
    is_clean: bool,
}

impl Report {
    pub(crate) fn of(measured: &Measured, plan: Plan, data: &DataSet, node: &Running) -> Self {
        let mut report = Self::of_numbers(measured, plan, data);
        report.shards = node.shards;
        report.file_system.clone_from(&node.file_system);
        report
    }

    fn of_numbers(measured: &Measured, plan: Plan, data: &DataSet) -> Self {
        let fast_seconds = measured.fast.as_secs_f64().max(1e-9);
        let verdict = measured.verdict;
        Self {
            events_sent: measured.sent,
            events_acked: measured.acked,
            events_delivered: verdict.delivered,
            lost: verdict.lost,
            duplicated: verdict.duplicated,
            reordered: verdict.reordered,
            changed: verdict.changed,
            offset_jumps: verdict.offset_jumps,
            misplaced: verdict.misplaced,
            ack_us: Latency::of(&measured.ack_ns),
            delivery_us: Latency::of(&measured.delivery_ns),
            durability: measured.durability,
            seconds: (measured.paced + measured.fast).as_secs_f64(),
            events_per_second: (plan.fast as f64 / fast_seconds) as u64,
            mib_per_second: measured.fast_bytes as f64 / f64::from(1 << 20) / fast_seconds,
            phases: Phases {
                warm_up: Phase {
                    events: plan.warm_up,
                    rate: None,
                    seconds: None,
                    measures: "nothing; verified",
                },
                paced: Phase {
                    events: plan.paced,
                    rate: Some(plan.rate),
                    seconds: Some(measured.paced.as_secs_f64()),
                    measures: "ack_us and delivery_us: open loop, from the intended time of sending",
                },
                fast: Phase {
                    events: plan.fast,
                    rate: None,
                    seconds: Some(measured.fast.as_secs_f64()),
                    measures: "events_per_second: until the last event was acknowledged and delivered",
                },
            },
            data: data.name.clone(),
            keys: data.key_count,
            partitions: plan.partitions,
            shards: 0,
            file_system: None,
            first_error: measured.first_error.clone(),
            is_clean: verdict.is_clean(),
        }
    }

    /// The same for people.
    pub(crate) fn lines(&self) -> Vec<String> {
        let on = match &self.file_system {
            Some(kind) if directory::is_memory(kind) => {
                format!("on {kind}, WHICH IS MEMORY: these are not the numbers of a disk")
            }
            Some(kind) => format!("on {kind}"),
            None => "on an unknown file system".to_owned(),
        };
        let synced = match self.durability {
            "memory" => "acknowledged from memory",
            _ => "every batch synced to the disk before its acknowledgement",
        };
        let rate = self.phases.paced.rate.unwrap_or_default();
        let took = |phase: &Phase| {
            show_duration(Duration::from_millis(
                (phase.seconds.unwrap_or_default() * 1000.0) as u64,
            ))
        };
        let mut lines = vec![
            String::new(),
            format!("durability {}: {synced}", self.durability),
            on,
            format!(
                "{} shards, {} partitions, {} keys",
                self.shards,
                self.partitions,
                show_count(u64::from(self.keys))
            ),
            String::new(),
            format!(
                "latency from sending, at {} events/s for {} (open loop)",
                show_count(rate),
                took(&self.phases.paced)
            ),
            format!("  acknowledged  {}", self.ack_us.words()),
            format!("  delivered     {}", self.delivery_us.words()),
            String::new(),
            format!(
                "throughput, {} events in {}, until all were delivered and verified",
                show_count(self.phases.fast.events),
                took(&self.phases.fast)
            ),
            format!(
                "  {} events/s, {:.0} MiB/s",
                show_count(self.events_per_second),
                self.mib_per_second
            ),
            String::new(),
            format!(
                "sent {}   acknowledged {}   delivered {}",
                show_count(self.events_sent),
                show_count(self.events_acked),
                show_count(self.events_delivered)
            ),
            format!(
                "lost {}   duplicated {}   reordered {}   changed {}",
                self.lost, self.duplicated, self.reordered, self.changed
            ),
        ];
        if self.offset_jumps + self.misplaced > 0 {
            lines.push(format!(
                "offset jumps {}   misplaced {}",
                self.offset_jumps, self.misplaced
            ));
        }
        lines
    }

    /// Why the demo has failed; `None` when every event came as it was sent.
    pub(crate) fn failure(&self) -> Option<Failure> {
        if !self.is_clean {
            let what = format!(
                "the demo saw {} lost, {} duplicated, {} reordered, {} changed, {} offset jumps, {} misplaced",
                self.lost,
                self.duplicated,
                self.reordered,
                self.changed,
                self.offset_jumps,
                self.misplaced
            );
            return Some(
                Failure::new(Exit::Verification, what)
                    .hint("this must never happen: its data directory is kept; please report it"),
            );
        }
        let missing = self.events_sent - self.events_acked.min(self.events_sent);
        (missing > 0).then(|| {
            let first = self.first_error.as_deref().unwrap_or("unknown");
            Failure::new(
                Exit::Failed,
                format!("{missing} events were not acknowledged; the first: {first}"),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::verify::Verdict;
    use super::*;

    fn report(verdict: Verdict, acked: u64) -> Report {
        let mut ns = Histogram::new_with_bounds(1_000, 60_000_000_000, 3).expect("bounds");
        ns.saturating_record(100_000);
        let measured = Measured {
            sent: 30,
            acked,
            verdict,
            ack_ns: ns.clone(),
            delivery_ns: ns,
            paced: Duration::from_secs(1),
            fast: Duration::from_secs(2),
            fast_bytes: 2 << 20,
            durability: "local",
            first_error: None,
        };
        let plan = Plan {
            warm_up: 5,
            paced: 5,
            fast: 20,
            rate: 5,
            partitions: 2,
        };
        let data = DataSet {
            name: "d".to_owned(),
            events: Vec::new(),
            key_count: 3,
        };
        Report::of_numbers(&measured, plan, &data)
    }

    #[test]
    fn the_object_has_every_field_that_scripts_read() {
        let clean = report(
            Verdict {
                delivered: 30,
                ..Verdict::default()
            },
            30,
        );
        let object = serde_json::to_value(&clean).expect("JSON");
        for (field, value) in [
            ("events_sent", 30),
            ("events_acked", 30),
            ("events_delivered", 30),
            ("lost", 0),
            ("duplicated", 0),
            ("reordered", 0),
            ("events_per_second", 10),
        ] {
            assert_eq!(object[field], value, "{field}");
        }
        for latency in ["ack_us", "delivery_us"] {
            for percentile in ["p50", "p99", "p999"] {
                let us = object[latency][percentile].as_f64().expect("a number");
                assert!((99.0..101.0).contains(&us), "{latency} {percentile} {us}");
            }
        }
        assert_eq!(object["durability"], "local");
        assert!(object["seconds"].is_f64() && object["is_clean"].is_null());
        assert!(clean.failure().is_none());
    }

    #[test]
    fn its_lines_fit_a_terminal_of_80_columns() {
        let mut slow = report(Verdict::default(), 30);
        let us = 999_999.0;
        slow.ack_us = Latency {
            p50: 99_999.0,
            p99: us,
            p999: us,
            max: us,
        };
        slow.file_system = Some("tmpfs".to_owned());
        slow.events_sent = 100_000_000;
        for line in slow.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }

    #[test]
    fn anything_wrong_is_a_failure() {
        let good = Verdict {
            delivered: 30,
            ..Verdict::default()
        };
        for verdict in [
            Verdict { lost: 1, ..good },
            Verdict {
                duplicated: 1,
                ..good
            },
            Verdict {
                reordered: 1,
                ..good
            },
            Verdict { changed: 1, ..good },
            Verdict {
                offset_jumps: 1,
                ..good
            },
            Verdict {
                misplaced: 1,
                ..good
            },
        ] {
            let failure = report(verdict, 30).failure().expect("a failure");
            assert_eq!(failure.exit, Exit::Verification, "{verdict:?}");
        }
        assert_eq!(
            report(
                Verdict {
                    delivered: 29,
                    ..good
                },
                29
            )
            .failure()
            .expect("a failure")
            .exit,
            Exit::Failed
        );
    }
}
