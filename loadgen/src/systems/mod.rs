//! How the product stands beside other systems: all of them run on one core of this machine, each with its own
//! well-kept client on another, under the same workloads and the same words for durability, in turns, so that a machine
//! whose speed drifts gives all of them the same drift. The product is driven by the engine in this process; the others by
//! an adapter, a program of a package of its own, because their clients have no place in this workspace. A system that
//! is not there is skipped, and the report says why. Whatever a system refuses or loses fails the comparison.

mod adapter;
mod cases;
mod figures;
mod plot;
mod server;
mod table;

use crate::cli::SystemsArguments;
use crate::compare::calibrate::{self, Calibration};
use crate::compare::server::{Folder, program};
use crate::compare::{Settling, statistics};
use crate::environment::{self, Environment};
use crate::output;
use adapter::Adapter;
use cases::Case;
use clap::ValueEnum;
use figures::Sample;
use serde::Serialize;
use server::{Fleet, Standing};
use statistics::Paired;
use std::fmt;
use std::process::ExitCode;

/// A system that can be compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum System {
    /// The product.
    Tiderace,
    /// NATS JetStream.
    Nats,
    /// Redis Streams.
    Redis,
    /// Whatever speaks the protocol of Kafka.
    Kafka,
    /// Apache Iggy.
    Iggy,
}

impl System {
    const PEERS: [Self; 4] = [Self::Nats, Self::Redis, Self::Kafka, Self::Iggy];

    /// As the adapter and the flags call it.
    const fn name(self) -> &'static str {
        match self {
            Self::Tiderace => "tiderace",
            Self::Nats => "nats",
            Self::Redis => "redis",
            Self::Kafka => "kafka",
            Self::Iggy => "iggy",
        }
    }

    /// As its makers call it.
    const fn title(self) -> &'static str {
        match self {
            Self::Tiderace => "Tiderace",
            Self::Nats => "NATS JetStream",
            Self::Redis => "Redis Streams",
            Self::Kafka => "Kafka protocol",
            Self::Iggy => "Apache Iggy",
        }
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A system that is not in the comparison, and why.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Skipped {
    system: System,
    reason: String,
}

/// A run that failed: its system is not measured under this workload any more.
#[derive(Clone, Debug, Serialize)]
struct Failure {
    system: System,
    workload: &'static str,
    round: u32,
    reason: String,
}

/// One system under one workload.
#[derive(Clone, Debug, Serialize)]
struct Row {
    workload: &'static str,
    system: System,
    /// The middle of each figure over the rounds; `None` when there is no sample.
    median: Option<Sample>,
    /// The product over this system, in the figure by which the workload is compared.
    tiderace_over: Option<Paired>,
    samples: Vec<Sample>,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
struct Comparison {
    environment: Environment,
    calibration: Vec<Calibration>,
    rounds: u32,
    duration_s: f64,
    server_cpu: usize,
    generator_cpu: usize,
    workloads: Vec<Case>,
    systems: Vec<Standing>,
    skipped: Vec<Skipped>,
    rows: Vec<Row>,
    failures: Vec<Failure>,
    warnings: Vec<String>,
}

/// Carries it out.
///
/// # Errors
/// A sentence for people: the product could not be started or measured, or there is nobody to compare it with.
#[expect(clippy::print_stderr, reason = "a program speaks to its user")]
pub(crate) fn run(arguments: &SystemsArguments) -> Result<ExitCode, String> {
    let (server_cpu, cpu) = environment::cores(arguments.server_cpu, arguments.cpu)?;
    let folder = Folder::make(&arguments.dir, "compare")?;
    let tiderace = program(arguments.tiderace.as_deref(), "tiderace")?;
    // Before anything runs: afterwards the load average is our own.
    let environment = Environment::read(Some(folder.path()));
    eprintln!("environment  {}", environment.line());
    let adapter = Adapter::find(arguments.peers.as_deref());
    let (fleet, skipped) = Fleet::start(arguments, &tiderace, &adapter, &folder, server_cpu)?;
    for skipped in &skipped {
        eprintln!("skipped      {}: {}", skipped.system, skipped.reason);
    }
    let systems = fleet.standings();
    for standing in &systems {
        eprintln!("{:<12} {}", standing.system.name(), standing.line());
    }
    if systems.len() < 2 {
        return Err(
            "there is nobody to compare tiderace with: every other system was skipped".to_owned(),
        );
    }
    let cases = cases::all(arguments.rate);
    let runner = Runner {
        arguments,
        adapter: &adapter,
        fleet: &fleet,
        folder: &folder,
        cpu,
    };
    let mut settling = Settling::begin(fleet.tiderace(), arguments.settling_runs_max)?;
    while settling.goes_on(fleet.tiderace())? {
        for case in cases.iter().take(2) {
            runner.settle(case)?;
        }
    }
    let (calibration, samples, failures) = runner.rounds(&cases)?;
    let mut comparison = Comparison {
        environment,
        calibration,
        rounds: arguments.rounds,
        duration_s: arguments.duration.as_secs_f64(),
        server_cpu,
        generator_cpu: cpu,
        rows: rows(&cases, &systems, samples),
        workloads: cases,
        systems,
        skipped,
        failures,
        warnings: settling.warnings(fleet.tiderace()),
    };
    comparison.warn();
    drop(fleet);
    eprintln!("{}", table::text(&comparison));
    if let Some(path) = &arguments.plot {
        output::write(path, &plot::svg(&comparison))?;
    }
    if let Some(path) = &arguments.json {
        output::json(path, &comparison)?;
    }
    Ok(if comparison.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// By round; `None` where a system was not measured.
type Samples = Vec<Vec<Vec<Option<Sample>>>>;

struct Runner<'a> {
    arguments: &'a SystemsArguments,
    adapter: &'a Adapter,
    fleet: &'a Fleet,
    folder: &'a Folder,
    cpu: usize,
}

impl Runner<'_> {
    /// A short run on the product alone.
    fn settle(&self, case: &Case) -> Result<(), String> {
        let mut plan = self.plan(case, 0);
        plan.warmup = std::time::Duration::ZERO;
        plan.duration = std::time::Duration::from_secs(1);
        crate::load::execute(&plan).map(drop)
    }

    fn plan(&self, case: &Case, round: u32) -> crate::load::Plan {
        case.plan(
            self.arguments,
            self.fleet.tiderace(),
            self.folder,
            self.cpu,
            round,
        )
    }

    /// One run of one system.
    fn measure(&self, case: &Case, system: System, round: u32) -> Result<Sample, String> {
        self.fleet.forget_peak(system);
        if system == System::Tiderace {
            let report = crate::load::execute(&self.plan(case, round))?.report;
            let value = serde_json::to_value(&report).map_err(|error| error.to_string())?;
            return Sample::read(value);
        }
        let job = case.job(
            self.arguments,
            self.fleet,
            system,
            self.folder,
            self.cpu,
            round,
        );
        Sample::read(self.adapter.run(&job)?)
    }

    #[expect(clippy::print_stderr, reason = "a program speaks to its user")]
    fn rounds(&self, cases: &[Case]) -> Result<(Vec<Calibration>, Samples, Vec<Failure>), String> {
        let systems = self.fleet.systems();
        let mut calibration = Vec::new();
        let mut failures: Vec<Failure> = Vec::new();
        let mut samples: Samples = cases
            .iter()
            .map(|_| systems.iter().map(|_| Vec::new()).collect())
            .collect();
        for round in 0..self.arguments.rounds {
            let measured = calibrate::measure(self.folder.path(), Some(self.cpu))?;
            eprintln!("round {:<3}    {}", round + 1, measured.line());
            calibration.push(measured);
            for (at, case) in cases.iter().enumerate() {
                // Each round begins with another one, so that none always runs on the warmer machine.
                for turn in 0..systems.len() {
                    let index = (turn + round as usize) % systems.len();
                    let system = systems[index];
                    let gone = failures
                        .iter()
                        .any(|failure| (failure.system, failure.workload) == (system, case.name));
                    let sample = if gone {
                        None
                    } else {
                        match self.measure(case, system, round) {
                            Ok(sample) => {
                                eprintln!(
                                    "             {:<30} {system:<9} {}",
                                    case.name,
                                    sample.line()
                                );
                                Some(sample)
                            }
                            Err(reason) => {
                                eprintln!("FAILED       {} on {system}: {reason}", case.name);
                                failures.push(Failure {
                                    system,
                                    workload: case.name,
                                    round: round + 1,
                                    reason,
                                });
                                None
                            }
                        }
                    };
                    samples[at][index].push(sample);
                }
            }
        }
        Ok((calibration, samples, failures))
    }
}

fn rows(cases: &[Case], systems: &[Standing], samples: Samples) -> Vec<Row> {
    let mut rows = Vec::new();
    for (case, by_system) in cases.iter().zip(samples) {
        let figures = |samples: &[Option<Sample>]| -> Vec<Option<f64>> {
            samples
                .iter()
                .map(|sample| sample.as_ref().and_then(|sample| case.figure.of(sample)))
                .collect()
        };
        // The product comes first: `Fleet` keeps it so.
        let tiderace = figures(&by_system[0]);
        for (standing, samples) in systems.iter().zip(by_system) {
            let tiderace_over = (standing.system != System::Tiderace)
                .then(|| Paired::of(&tiderace, &figures(&samples)))
                .flatten();
            let samples: Vec<Sample> = samples.into_iter().flatten().collect();
            rows.push(Row {
                workload: case.name,
                system: standing.system,
                median: Sample::median(&samples),
                tiderace_over,
                samples,
            });
        }
    }
    rows
}

impl Comparison {
    fn warn(&mut self) {
        let mut all: Vec<String> = Vec::new();
        for row in &self.rows {
            let mut heard: Vec<&String> = row
                .samples
                .iter()
                .flat_map(|sample| &sample.warnings)
                .collect();
            heard.sort();
            heard.dedup();
            all.extend(
                heard
                    .into_iter()
                    .map(|warning| format!("{} on {}: {warning}", row.workload, row.system)),
            );
        }
        if self.environment.was_busy() {
            all.push(format!(
                "the machine was not quiet (load {:.1}): nothing here may be quoted",
                self.environment.load_1m.unwrap_or(f64::NAN)
            ));
        }
        if self.server_cpu == self.generator_cpu {
            all.push("servers and generators shared a core: nothing here may be quoted".to_owned());
        }
        if self.rounds < 5 {
            all.push(format!("{} rounds are few: take at least 5", self.rounds));
        }
        self.warnings.extend(all);
    }

    /// The systems of a workload, in order.
    fn rows_of<'a>(&'a self, workload: &'a str) -> impl Iterator<Item = &'a Row> {
        self.rows.iter().filter(move |row| row.workload == workload)
    }
}

#[cfg(test)]
mod tests;
