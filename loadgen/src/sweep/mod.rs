//! The knee: how much load a server takes before it misses the rate or its 99th percentile leaves a bound. Each step is an
//! open-loop run of its own on the same streams; what a step left behind is waited for before the next begins. A step at
//! which the generator was the limit ends the sweep: what lies above says nothing about the server.

mod search;

use crate::cli::SweepArguments;
use crate::environment::Environment;
use crate::limits::Limits;
use crate::load::{Plan, measure};
use crate::output;
use crate::report::{Report, Workload};
use crate::setup;
use search::{Knee, Search, Verdict};
use serde::Serialize;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

/// Samples of a step, so that its 99th percentile is one.
const SAMPLES_MIN: f64 = 1000.0;

/// What ends a rate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// It was kept within the bound.
    Held,
    /// Less than 99 % of it was acknowledged.
    RateMissed,
    /// The 99th percentile of the response is beyond the bound.
    P99Exceeded,
    /// Batches were refused, lost their answer, or the run ended early.
    Broken,
    /// The generator was the limit.
    GeneratorLimit,
}

impl Outcome {
    const fn word(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::RateMissed => "rate missed",
            Self::P99Exceeded => "p99 exceeded",
            Self::Broken => "broken",
            Self::GeneratorLimit => "generator was the limit",
        }
    }

    const fn verdict(self) -> Verdict {
        match self {
            Self::Held => Verdict::Held,
            Self::RateMissed | Self::P99Exceeded | Self::Broken => Verdict::Failed,
            Self::GeneratorLimit => Verdict::Unknown,
        }
    }

    /// Of a step's report. The generator is blamed first: a rate that it could not send is none that the server missed.
    fn of(report: &Report, p99_max: Duration) -> Self {
        let beyond = report
            .response_ns
            .p99
            .is_none_or(|p99| u128::from(p99) > p99_max.as_nanos());
        if report.failed || report.batches.unfinished > 0 || !report.batches.refused.is_empty() {
            Self::Broken
        } else if (report.rates.missed || beyond) && report.generator.was_the_limit {
            Self::GeneratorLimit
        } else if report.rates.missed {
            Self::RateMissed
        } else if beyond {
            Self::P99Exceeded
        } else {
            Self::Held
        }
    }
}

/// One offered rate.
#[derive(Clone, Debug, Serialize)]
struct Step {
    offered_batches_per_s: f64,
    outcome: Outcome,
    batches_per_s: f64,
    bytes_per_s: f64,
    p50_ns: Option<u64>,
    p99_ns: Option<u64>,
    p999_ns: Option<u64>,
    max_ns: Option<u64>,
    /// Cores that the server used; 1 is a whole one.
    server_cores: Option<f64>,
    server_cpu_s_per_gb: Option<f64>,
    server_peak_rss_mib: Option<f64>,
    generator_share: Option<f64>,
    warnings: Vec<String>,
}

impl Step {
    fn of(rate: f64, outcome: Outcome, report: &Report) -> Self {
        let server = report.server.as_ref();
        Self {
            offered_batches_per_s: rate,
            outcome,
            batches_per_s: report.rates.batches_per_s,
            bytes_per_s: report.rates.bytes_per_s,
            p50_ns: report.response_ns.p50,
            p99_ns: report.response_ns.p99,
            p999_ns: report.response_ns.p999,
            max_ns: report.response_ns.max,
            server_cores: server.map(|server| server.cores),
            server_cpu_s_per_gb: server.and_then(|server| server.cpu_s_per_gb),
            server_peak_rss_mib: server.map(|server| server.peak_rss_mib),
            generator_share: report.generator.share,
            warnings: report.warnings.clone(),
        }
    }

    fn line(&self) -> String {
        let us = |ns: Option<u64>| {
            ns.map_or_else(
                || "too few".to_owned(),
                |ns| format!("{:.1}", ns as f64 / 1000.0),
            )
        };
        let number = |value: Option<f64>, digits: usize| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
        };
        format!(
            "{:>11.0} {:>11.0} {:>8.1} {:>10} {:>10} {:>10} {:>10} {:>6} {:>7} {:>8} {:>5}  {}",
            self.offered_batches_per_s,
            self.batches_per_s,
            self.bytes_per_s / 1e6,
            us(self.p50_ns),
            us(self.p99_ns),
            us(self.p999_ns),
            us(self.max_ns),
            number(self.server_cores, 2),
            number(self.server_cpu_s_per_gb, 2),
            number(self.server_peak_rss_mib, 0),
            number(self.generator_share.map(|share| share * 100.0), 0),
            self.outcome.word()
        )
    }
}

const HEAD: &str = "  offered/s  achieved/s     MB/s     p50 us     p99 us   p99.9 us     max us  cores    s/GB  RSS MiB  gen%  outcome";

/// The whole sweep.
#[derive(Clone, Debug, Serialize)]
struct Sweep {
    workload: Workload,
    environment: Environment,
    p99_max_ns: u64,
    steps: Vec<Step>,
    /// The highest rate that held.
    knee_batches_per_s: Option<f64>,
    /// The lowest that failed.
    failed_batches_per_s: Option<f64>,
    /// What the machine allows and what the floor does at the knee, if that was asked for.
    limits: Option<Limits>,
    warnings: Vec<String>,
}

/// Carries it out. Exits with 1 when no rate held.
///
/// # Errors
/// A sentence for people: nothing was measured.
#[expect(clippy::print_stderr, reason = "a program speaks to its user")]
pub(crate) fn run(arguments: &SweepArguments) -> Result<ExitCode, String> {
    let tls = arguments.workload.connector()?;
    let plan = |rate| Plan {
        tls: tls.clone(),
        ..arguments.workload.plan(Some(rate), arguments.duration)
    };
    let samples = arguments.from * arguments.duration.as_secs_f64();
    if samples < SAMPLES_MIN {
        return Err(format!(
            "the first step would have about {samples:.0} samples, its p99 needs {SAMPLES_MIN:.0}: take a higher --from or a longer --duration"
        ));
    }
    if arguments.to < arguments.from {
        return Err("--to is at least --from".to_owned());
    }
    let measurer = arguments.workload.measurer()?;
    let first = plan(arguments.from);
    first.check()?;
    let environment = Environment::read(first.data.as_deref());
    let target = setup::prepare(first.server, first.tls.as_ref(), &first.wanted)?;
    let mut search = Search::new(
        arguments.from,
        // A lower rate would have too few samples.
        [
            arguments
                .from
                .min(SAMPLES_MIN / arguments.duration.as_secs_f64()),
            arguments.to,
        ],
        arguments.factor,
        arguments.precision,
        arguments.steps,
    );
    let mut steps: Vec<Step> = Vec::new();
    // The best that held; until then the first.
    let mut best: Option<Report> = None;
    // The table comes at the end; who watches sees it grow.
    let watched = std::io::stderr().is_terminal();
    if watched {
        eprintln!("{HEAD}");
    }
    while let Some(rate) = search.next() {
        let report = measure(&plan(rate), &target)?.report;
        let outcome = Outcome::of(&report, arguments.p99_max);
        let step = Step::of(rate, outcome, &report);
        if watched {
            eprintln!("{}", step.line());
        }
        steps.push(step);
        let failed = report.failed;
        let better = best.as_ref().is_none_or(|best| {
            outcome == Outcome::Held && report.rates.batches_per_s > best.rates.batches_per_s
        });
        if better {
            best = Some(report);
        }
        search.tell(outcome.verdict());
        if failed {
            break;
        }
    }
    let mut report = best.ok_or("no rate was offered")?;
    steps.sort_by(|one, other| {
        one.offered_batches_per_s
            .total_cmp(&other.offered_batches_per_s)
    });
    let (held, failed) = match search.knee() {
        Knee::Between(held, failed) => (Some(held), Some(failed)),
        Knee::Below(failed) => (None, Some(failed)),
        Knee::AtLeast(held) => (Some(held), None),
        Knee::Unknown => (None, None),
    };
    report.compare(measurer.as_ref(), &plan(held.unwrap_or(arguments.from)));
    let mut sweep = Sweep {
        workload: report.workload,
        environment,
        p99_max_ns: arguments.p99_max.as_nanos() as u64,
        steps,
        knee_batches_per_s: held,
        failed_batches_per_s: failed,
        warnings: report
            .warnings
            .into_iter()
            .filter(|warning| warning.contains("floor"))
            .collect(),
        limits: report.limits,
    };
    sweep.warn();
    eprintln!("{}", sweep.text());
    if let Some(path) = &arguments.workload.json {
        output::json(path, &sweep)?;
    }
    Ok(if sweep.knee_batches_per_s.is_some() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Sweep {
    fn warn(&mut self) {
        let steps = &self.steps;
        if steps
            .iter()
            .any(|step| step.outcome == Outcome::GeneratorLimit)
        {
            self.warnings.push(
                "the generator was the limit: the knee is that of the server only up to the highest rate that held"
                    .to_owned(),
            );
        } else if self.failed_batches_per_s.is_none() {
            self.warnings
                .push("no rate failed: take a higher --to".to_owned());
        }
        if !self.environment.optimised {
            self.warnings
                .push("built without optimisation: no figure means anything".to_owned());
        }
        if self.environment.was_busy() {
            self.warnings.push(format!(
                "the machine was not quiet (load {:.1}): nothing here may be quoted",
                self.environment.load_1m.unwrap_or(f64::NAN)
            ));
        }
    }

    fn text(&self) -> String {
        let mut lines = vec![
            format!("environment  {}", self.environment.line()),
            HEAD.to_owned(),
        ];
        lines.extend(self.steps.iter().map(Step::line));
        let bound_ms = self.p99_max_ns as f64 / 1e6;
        lines.push(match (self.knee_batches_per_s, self.failed_batches_per_s) {
            (Some(held), Some(failed)) => format!(
                "knee         {held:.0} batches/s held with p99 <= {bound_ms:.1} ms, {failed:.0} did not"
            ),
            (Some(held), None) => format!(
                "knee         not found: {held:.0} batches/s held with p99 <= {bound_ms:.1} ms"
            ),
            (None, Some(failed)) => {
                format!("knee         below {failed:.0} batches/s: no rate held")
            }
            (None, None) => "knee         unknown".to_owned(),
        });
        lines.extend(self.limits.iter().flat_map(Limits::lines));
        lines.extend(
            self.warnings
                .iter()
                .map(|warning| format!("WARNING      {warning}")),
        );
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;

    const SECOND_NS: u64 = 1_000_000_000;

    #[test]
    fn a_step_is_judged_by_its_report_and_the_generator_is_blamed_first() {
        // A thousand batches or more that each took 1 ms.
        let of = |target: f64, busy_ns: u64, p99_max_us: u64| {
            let report = report(2000, 1000, Some(target), busy_ns);
            Outcome::of(&report, Duration::from_micros(p99_max_us))
        };
        let calm = SECOND_NS / 5;
        assert_eq!(of(2000.0, calm, 2000), Outcome::Held);
        assert_eq!(of(2000.0, calm, 500), Outcome::P99Exceeded);
        assert_eq!(of(2000.0, SECOND_NS, 500), Outcome::GeneratorLimit);
        // A busy generator that kept the rate within the bound has shown that the server can.
        assert_eq!(of(2000.0, SECOND_NS, 2000), Outcome::Held);
        let mut broken = report(2000, 1000, Some(2000.0), calm);
        broken.batches.unfinished = 1;
        assert_eq!(
            Outcome::of(&broken, Duration::from_secs(1)),
            Outcome::Broken
        );
        let mut missed = report(2000, 1000, Some(2000.0), calm);
        missed.rates.missed = true;
        assert_eq!(
            Outcome::of(&missed, Duration::from_secs(1)),
            Outcome::RateMissed
        );
        // Too few samples for a 99th percentile are no proof.
        let few = report(10, 1000, Some(10.0), calm);
        assert_eq!(
            Outcome::of(&few, Duration::from_secs(1)),
            Outcome::P99Exceeded
        );
    }
}
