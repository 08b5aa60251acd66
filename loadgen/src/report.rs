//! A run's figures, for people and as JSON, and what is wrong with them. A figure that must not be believed carries its
//! reason in `warnings`: a rate that was missed, a generator that was itself the limit, batches without an answer, a
//! build without optimisation.

use crate::compare::Sample;
use crate::environment::Environment;
use crate::keys::{Keys, Spread};
use crate::latency::Summary;
use crate::limits::{Limits, Measurer};
use crate::load::{Plan, Tally, readers};
use crate::schedule::Arrivals;
use serde::Serialize;
use std::collections::BTreeMap;
use tiderace_wire::error::ErrorCode;

/// A rate that misses its target by more is marked.
const RATE_TOLERANCE: f64 = 0.01;
/// A generator that uses more of its core was itself the limit.
const GENERATOR_SHARE_MAX: f64 = 0.95;
/// A generator whose own lateness at the 99th percentile is more than this much of the median response is marked.
const LAG_SHARE_MAX: f64 = 0.5;

/// What was asked for.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Workload {
    /// The profile that it comes from; flags may have changed it.
    pub(crate) profile: Option<String>,
    /// The stream's path; of several, what their paths begin with.
    pub(crate) stream: String,
    /// How many streams.
    pub(crate) streams: u64,
    /// How batches were spread over them.
    pub(crate) stream_spread: Spread,
    /// The exponent of that, where there is one.
    pub(crate) stream_theta: Option<f64>,
    /// The partitions of each.
    pub(crate) partitions: u32,
    /// How records were keyed.
    pub(crate) keys: Keys,
    /// How many keys there were, where a key decided the partition.
    pub(crate) key_count: Option<u64>,
    /// The exponent of their distribution, where there is one.
    pub(crate) key_theta: Option<f64>,
    /// What its acknowledgements promise.
    pub(crate) durability: String,
    /// Whether connections were encrypted.
    pub(crate) tls: bool,
    /// Producing connections.
    pub(crate) connections: usize,
    /// Batches in flight of each.
    pub(crate) in_flight: usize,
    /// Records of a batch.
    pub(crate) batch_records: u32,
    /// Bytes of a record's value.
    pub(crate) record_bytes: usize,
    /// Bytes of a batch with its header.
    pub(crate) batch_bytes: usize,
    /// Whether batches are deduplicated.
    pub(crate) idempotent: bool,
    /// Subscribers of each partition that measured delivery.
    pub(crate) fan_out: usize,
    /// How batches were spread, in an open loop.
    pub(crate) arrivals: Option<Arrivals>,
    /// Before measuring.
    pub(crate) warmup_s: f64,
    /// Measuring.
    pub(crate) duration_s: f64,
    /// Whether the generator never slept.
    pub(crate) spinning: bool,
    /// The generator's core.
    pub(crate) cpu: Option<usize>,
    /// Decides arrivals, keys and values.
    pub(crate) seed: u64,
}

/// Rates over the measured part.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Rates {
    /// Batches a second that were wanted, in an open loop.
    pub(crate) target_batches_per_s: Option<f64>,
    /// Batches a second that were acknowledged.
    pub(crate) batches_per_s: f64,
    /// Records a second.
    pub(crate) records_per_s: f64,
    /// Bytes of batches, headers included, a second.
    pub(crate) bytes_per_s: f64,
    /// Whether the target was missed by more than 1 %.
    pub(crate) missed: bool,
}

impl Rates {
    /// From what was counted in `seconds`.
    #[must_use]
    pub(crate) fn new(
        target: Option<f64>,
        tally: &Tally,
        seconds: f64,
        batch_records: u32,
        batch_bytes: usize,
    ) -> Self {
        let batches_per_s = tally.acked_measured as f64 / seconds;
        // An open loop with random gaps is held to what its schedule really asked for in this part.
        let wanted = target.map(|target| {
            (tally.measured as f64 / seconds).max(
                // A run that ended early has not even scheduled what was wanted.
                if tally.failed.is_some() { target } else { 0.0 },
            )
        });
        Self {
            target_batches_per_s: target,
            batches_per_s,
            records_per_s: batches_per_s * f64::from(batch_records),
            bytes_per_s: batches_per_s * batch_bytes as f64,
            missed: wanted.is_some_and(|wanted| batches_per_s < wanted * (1.0 - RATE_TOLERANCE)),
        }
    }
}

/// What the server's process used, over the whole run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Server {
    /// Processor seconds.
    pub(crate) cpu_s: f64,
    /// Cores that it used: 1 is a whole one.
    pub(crate) cores: f64,
    /// The same for each 10^9 bytes of batches acknowledged.
    pub(crate) cpu_s_per_gb: Option<f64>,
    /// The most memory that was resident at once, in MiB.
    pub(crate) peak_rss_mib: f64,
}

/// What the generator itself used.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Generator {
    /// Share of its core in the measured part: processor time, or, when it spins, time in which it did something.
    pub(crate) share: Option<f64>,
    /// Whether it was itself the limit: with a faster generator the server might have shown more.
    pub(crate) was_the_limit: bool,
    /// Its own lateness at the 99th percentile, as a share of the median response.
    pub(crate) lag_share: Option<f64>,
    /// Whether it was itself late: the response time is partly its own.
    pub(crate) was_late: bool,
}

/// Numbers of batches.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Batches {
    /// Sent.
    pub(crate) sent: u64,
    /// Acknowledged.
    pub(crate) acked: u64,
    /// Refused, by reason.
    pub(crate) refused: BTreeMap<String, u64>,
    /// Due in the measured part and never acknowledged. They count in the response with the time they had waited.
    pub(crate) unfinished: u64,
    /// Delivered to the subscribers, each of them counted.
    pub(crate) delivered: u64,
    /// Deliveries out of order, or with a gap.
    pub(crate) delivered_out_of_order: u64,
}

/// Everything about a run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// `open loop` or `saturation`.
    pub(crate) mode: &'static str,
    /// What was asked for.
    pub(crate) workload: Workload,
    /// Where it was measured.
    pub(crate) environment: Environment,
    /// Rates.
    pub(crate) rates: Rates,
    /// Counts.
    pub(crate) batches: Batches,
    /// Nanoseconds from the intended time of sending to the acknowledgement.
    pub(crate) response_ns: Summary,
    /// Nanoseconds from the time of sending to the acknowledgement.
    pub(crate) service_ns: Summary,
    /// Nanoseconds that the generator itself was late: from the intended time to the time of sending, of batches that did
    /// not have to wait for the server.
    pub(crate) schedule_lag_ns: Summary,
    /// Nanoseconds from the intended time to the subscriber, in steps of 1,000.
    pub(crate) delivery_ns: Option<Summary>,
    /// Who read beside the load.
    pub(crate) readers: readers::Report,
    /// The generator.
    pub(crate) generator: Generator,
    /// The server, where its process is known.
    pub(crate) server: Option<Server>,
    /// What the machine allows and what the floor does under the same batches, if that was asked for.
    pub(crate) limits: Option<Limits>,
    /// Why these figures, or some of them, must not be believed. Empty in a good run.
    pub(crate) warnings: Vec<String>,
    /// Whether the run ended early.
    pub(crate) failed: bool,
}

impl Report {
    /// Puts the figures together and says what is wrong with them.
    #[must_use]
    #[expect(
        clippy::too_many_arguments,
        reason = "each part comes from another room and is used once"
    )]
    pub(crate) fn new(
        mode: &'static str,
        workload: Workload,
        environment: Environment,
        rates: Rates,
        tally: &Tally,
        readers: readers::Report,
        server: Option<Server>,
        spinning: bool,
        duration_ns: u64,
    ) -> Self {
        let cpu_ns = match tally.cpu_ns {
            [Some(begin), Some(end)] => Some(end.saturating_sub(begin)),
            _ => None,
        };
        let used_ns = if spinning {
            Some(tally.busy_ns)
        } else {
            cpu_ns
        };
        let share = used_ns.map(|ns| ns as f64 / duration_ns as f64);
        let refused = tally
            .refused
            .iter()
            .map(|(code, count)| {
                let name = ErrorCode::from_code(*code)
                    .map_or_else(|| code.to_string(), |code| format!("{code:?}"));
                (name, *count)
            })
            .collect();
        let (response, lag) = (tally.response.summary(), tally.lag.summary());
        let lag_share = lag
            .p99
            .zip(response.p50)
            .map(|(lag, median)| lag as f64 / median as f64);
        let mut report = Self {
            mode,
            workload,
            environment,
            rates,
            batches: Batches {
                sent: tally.sent,
                acked: tally.acked,
                refused,
                unfinished: tally.unfinished,
                delivered: tally.delivered,
                delivered_out_of_order: tally.delivered_out_of_order,
            },
            response_ns: response,
            service_ns: tally.service.summary(),
            schedule_lag_ns: lag,
            delivery_ns: (tally.fan_out > 0).then(|| tally.delivery.summary()),
            readers,
            generator: Generator {
                share,
                was_the_limit: share.is_some_and(|share| share > GENERATOR_SHARE_MAX),
                lag_share,
                was_late: lag_share.is_some_and(|share| share > LAG_SHARE_MAX),
            },
            server,
            limits: None,
            warnings: Vec::new(),
            failed: tally.failed.is_some(),
        };
        report.warn(tally);
        report
    }

    /// Measures the floor beside it, if that was asked for. A floor that cannot be measured does not lose the report.
    pub(crate) fn compare(&mut self, measurer: Option<&Measurer>, plan: &Plan) {
        let Some(measurer) = measurer else {
            return;
        };
        match measurer.measure(plan, &Sample::of(self)) {
            Ok(limits) => self.limits = Some(limits),
            Err(why) => self
                .warnings
                .push(format!("the floor was not measured: {why}")),
        }
    }

    fn warn(&mut self, tally: &Tally) {
        self.warnings.extend(self.readers.warnings());
        let mut say = |text: String| self.warnings.push(text);
        if let Some(why) = &tally.failed {
            say(format!("the run ended early: {why}"));
        }
        if !self.environment.optimised {
            say("built without optimisation: no figure means anything".to_owned());
        }
        if self.rates.missed {
            say(format!(
                "the rate was missed by more than 1 %: {:.0} batches/s of {:.0}; the percentiles are those of a server that was behind",
                self.rates.batches_per_s,
                self.rates.target_batches_per_s.unwrap_or(0.0)
            ));
        }
        if self.generator.was_the_limit {
            say(format!(
                "the generator was the limit ({:.0} % of its core): the server may be faster than this",
                self.generator.share.unwrap_or(0.0) * 100.0
            ));
        }
        if self.workload.spinning
            && self.workload.cpu.is_some()
            && self.workload.cpu == self.environment.disk_interrupts_cpu
        {
            say("the generator spins on the core that takes the disk's interrupts: durable writes complete when it is let in there, milliseconds late; give --cpu another core, and the server this one".to_owned());
        }
        if let (true, Some(lag), Some(median)) = (
            self.generator.was_late,
            self.schedule_lag_ns.p99,
            self.response_ns.p50,
        ) {
            say(format!(
                "the generator was itself late: {:.1} us at p99, against a median of {:.1} us",
                lag as f64 / 1000.0,
                median as f64 / 1000.0
            ));
        }
        if tally.unfinished > 0 {
            say(format!(
                "{} batches were never acknowledged: they count with the time that they had waited",
                tally.unfinished
            ));
        }
        if tally.refused_count > 0 {
            say(format!("{} batches were refused", tally.refused_count));
        }
        if tally.delivered_out_of_order > 0 {
            say(format!(
                "{} deliveries were out of order",
                tally.delivered_out_of_order
            ));
        }
        if !tally.delivered_all() {
            say(format!(
                "{} deliveries of acknowledged batches did not come in time",
                tally.acked * tally.fan_out - tally.delivered
            ));
        }
    }

    /// For people.
    #[must_use]
    pub(crate) fn text(&self) -> String {
        let work = &self.workload;
        let mut lines = vec![
            format!("environment  {}", self.environment.line()),
            format!(
                "workload     {}, {} connections x {} in flight, batches of {} x {} B ({} B), {} x {} partitions, durability {}{}",
                self.mode,
                work.connections,
                work.in_flight,
                work.batch_records,
                work.record_bytes,
                work.batch_bytes,
                work.streams,
                work.partitions,
                work.durability,
                if work.tls { ", TLS" } else { "" }
            ),
            format!(
                "rate         {:.0} batches/s, {:.0} records/s, {:.1} MB/s{}",
                self.rates.batches_per_s,
                self.rates.records_per_s,
                self.rates.bytes_per_s / 1e6,
                self.rates
                    .target_batches_per_s
                    .map_or_else(String::new, |target| format!(
                        " (target {target:.0} batches/s{})",
                        if self.rates.missed { ", MISSED" } else { "" }
                    ))
            ),
            format!("response     {}", self.response_ns.line()),
        ];
        lines.push(format!("service      {}", self.service_ns.line()));
        lines.push(format!("lag          {}", self.schedule_lag_ns.line()));
        if let Some(delivery) = &self.delivery_ns {
            lines.push(format!("delivery     {}", delivery.line()));
        }
        lines.extend(self.readers.lines());
        if let Some(share) = self.generator.share {
            lines.push(format!("generator    {:.0} % of its core", share * 100.0));
        }
        if let Some(server) = &self.server {
            lines.push(format!(
                "server       {:.2} CPU s, {:.2} cores{}, peak RSS {:.0} MiB",
                server.cpu_s,
                server.cores,
                server
                    .cpu_s_per_gb
                    .map_or_else(String::new, |per| format!(" ({per:.3} s/GB)")),
                server.peak_rss_mib
            ));
        }
        lines.extend(self.limits.iter().flat_map(Limits::lines));
        for refused in self
            .response_ns
            .refused
            .iter()
            .chain(self.delivery_ns.iter().flat_map(|summary| &summary.refused))
        {
            lines.push(format!("refused      {refused}"));
        }
        for warning in &self.warnings {
            lines.push(format!("WARNING      {warning}"));
        }
        lines.join("\n")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::batches::Shape;

    const SECOND_NS: u64 = 1_000_000_000;

    /// The report of a second in which `acked` batches came back after 1 ms each, sent `lag_ns` late.
    pub(crate) fn report(acked: u64, lag_ns: u64, target: Option<f64>, busy_ns: u64) -> Report {
        let shape = Shape {
            records: 1,
            value_bytes: 100,
            keyed: true,
        };
        let mut tally = Tally {
            acked_measured: acked,
            measured: acked,
            busy_ns,
            cpu_ns: [Some(0), Some(SECOND_NS / 2)],
            ..Tally::default()
        };
        for _ in 0..acked {
            tally.response.record(1_000_000);
            tally.service.record(1_000_000);
            tally.lag.record(lag_ns);
        }
        Report::new(
            if target.is_some() {
                "open loop"
            } else {
                "saturation"
            },
            Workload {
                profile: None,
                stream: "a".to_owned(),
                streams: 1,
                stream_spread: Spread::Even,
                stream_theta: None,
                partitions: 1,
                keys: Keys::Even,
                key_count: None,
                key_theta: None,
                durability: "local".to_owned(),
                connections: 1,
                in_flight: 1,
                batch_records: 1,
                record_bytes: 100,
                batch_bytes: shape.batch_bytes(),
                tls: false,
                idempotent: true,
                fan_out: 0,
                arrivals: target.map(|_| Arrivals::Constant),
                warmup_s: 0.0,
                duration_s: 1.0,
                spinning: target.is_some(),
                cpu: None,
                seed: 1,
            },
            Environment::read(None),
            Rates::new(target, &tally, 1.0, shape.records, shape.batch_bytes()),
            &tally,
            readers::Report::default(),
            None,
            target.is_some(),
            SECOND_NS,
        )
    }

    fn warns(report: &Report, what: &str) -> bool {
        report.warnings.iter().any(|text| text.contains(what))
    }

    #[test]
    fn a_generator_that_was_the_limit_is_named() {
        let calm = report(10_000, 1000, Some(10_000.0), SECOND_NS / 5);
        assert!(!calm.generator.was_the_limit && !calm.generator.was_late);
        assert!(!calm.rates.missed);
        assert!(!warns(&calm, "generator"));
        // An open loop spins: what counts is the time in which it did something.
        let busy = report(10_000, 1000, Some(10_000.0), SECOND_NS * 97 / 100);
        assert!(busy.generator.was_the_limit);
        assert!(warns(&busy, "the generator was the limit (97 %"));
        // In saturation it sleeps: its processor time counts, and that was half a second.
        let saturated = report(10_000, 1000, None, SECOND_NS);
        assert!(!saturated.generator.was_the_limit);
        let late = report(10_000, 600_000, None, 0);
        assert!(late.generator.was_late);
        assert!(warns(&late, "the generator was itself late"));
    }

    #[test]
    fn a_run_that_ended_early_misses_the_rate_that_it_never_came_to() {
        let mut tally = Tally {
            acked_measured: 500,
            measured: 500,
            ..Tally::default()
        };
        assert!(!Rates::new(Some(1000.0), &tally, 1.0, 1, 100).missed);
        tally.failed = Some("gone".to_owned());
        assert!(Rates::new(Some(1000.0), &tally, 1.0, 1, 100).missed);
    }
}
