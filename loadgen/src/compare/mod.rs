//! How far the product is from the floor: both servers run alternately on one core, the generator on another, under the
//! same workloads, A B A B, so that a machine whose speed drifts gives each pair the same drift. Only the ratios
//! within pairs mean anything; the calibration says what the machine could do meanwhile.

pub(crate) mod calibrate;
pub(crate) mod server;
pub(crate) mod statistics;

use crate::batches::Shape;
use crate::cli::CompareArguments;
use crate::environment::{self, Environment};
use crate::keys::{Choice, Keys, Spread};
use crate::load::{Mode, Plan, Wait, execute, readers};
use crate::output;
use crate::report::Report;
use crate::setup::Wanted;
use calibrate::Calibration;
use serde::Serialize;
use server::{Kind, Server};
use statistics::Paired;
use std::process::ExitCode;
use std::time::Duration;
use tiderace_base::catalogue::Durability;

/// What a stream keeps: as much as the floor's one file, which it overwrites round and round.
const KEPT_BYTES: u64 = 256 << 20;
/// The same of the stream that is written one record at a time: it would keep a segment of each round.
const KEPT_SINGLE_BYTES: u64 = 1 << 20;
/// Segments that the product's journal uses again before anything is measured. Until then it writes zeros beside the
/// appends; the floor has written its own before it listens.
const RECYCLED_MIN: f64 = 3.0;
const RECYCLED: &str = "tiderace_shard_journal_segments_recycled_total";
const PREWRITTEN: &str = "tiderace_shard_journal_prewritten_bytes_total";
/// Runs until then, at the most.
const SETTLING_RUNS_MAX: u32 = 60;

/// What is compared, and by which figure.
#[derive(Clone, Copy, Debug)]
struct Case {
    name: &'static str,
    stream: &'static str,
    connections: usize,
    in_flight: usize,
    partitions: u32,
    kept_bytes: u64,
    shape: Shape,
    figure: Figure,
    /// The ratio to reach, product over floor, and what it is called.
    goal: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Figure {
    /// Batches acknowledged a second: more is better.
    Rate,
    /// Median response: less is better.
    Median,
}

const CASES: [Case; 5] = [
    Case {
        name: "64 KiB batches, 8 connections",
        stream: "compare/large",
        connections: 8,
        in_flight: 4,
        partitions: 8,
        kept_bytes: KEPT_BYTES,
        shape: Shape {
            records: 64,
            value_bytes: 960,
            keyed: true,
        },
        figure: Figure::Rate,
        goal: "throughput >= 0.85 of the floor",
    },
    Case {
        name: "256 B records, 64 connections x 16",
        stream: "compare/small",
        connections: 64,
        in_flight: 16,
        partitions: 64,
        kept_bytes: KEPT_BYTES,
        shape: Shape {
            records: 1,
            value_bytes: 256,
            keyed: true,
        },
        figure: Figure::Rate,
        goal: "at least 1,000,000 acknowledgements a second",
    },
    Case {
        name: "one record at a time",
        stream: "compare/single",
        connections: 1,
        in_flight: 1,
        partitions: 1,
        kept_bytes: KEPT_SINGLE_BYTES,
        shape: Shape {
            records: 1,
            value_bytes: 256,
            keyed: true,
        },
        figure: Figure::Median,
        goal: "median <= 1.25 x the floor's",
    },
    Case {
        name: "1 MiB batches, 4 connections",
        stream: "compare/largest",
        connections: 4,
        in_flight: 2,
        partitions: 4,
        kept_bytes: KEPT_BYTES,
        shape: Shape {
            records: 1024,
            value_bytes: 978,
            keyed: true,
        },
        figure: Figure::Rate,
        goal: "throughput >= 0.9 of the floor",
    },
    Case {
        name: "100 B records, batches of 1000",
        stream: "compare/tiny",
        connections: 8,
        in_flight: 4,
        partitions: 8,
        kept_bytes: KEPT_BYTES,
        shape: Shape {
            records: 1000,
            value_bytes: 84,
            keyed: true,
        },
        figure: Figure::Rate,
        goal: "at least 8,000,000 records a second",
    },
];

/// One run on one server.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    pub(crate) batches_per_s: f64,
    pub(crate) bytes_per_s: f64,
    pub(crate) p50_ns: Option<u64>,
    pub(crate) p99_ns: Option<u64>,
    pub(crate) server_cpu_s_per_gb: Option<f64>,
    pub(crate) generator_share: Option<f64>,
    pub(crate) warnings: Vec<String>,
}

impl Sample {
    /// The figures of a report.
    pub(crate) fn of(report: &Report) -> Self {
        Self {
            batches_per_s: report.rates.batches_per_s,
            bytes_per_s: report.rates.bytes_per_s,
            p50_ns: report.response_ns.p50,
            p99_ns: report.response_ns.p99,
            server_cpu_s_per_gb: report
                .server
                .as_ref()
                .and_then(|server| server.cpu_s_per_gb),
            generator_share: report.generator.share,
            warnings: report.warnings.clone(),
        }
    }

    fn figure(&self, figure: Figure) -> Option<f64> {
        match figure {
            Figure::Rate => Some(self.batches_per_s),
            Figure::Median => self.p50_ns.map(|ns| ns as f64),
        }
        .filter(|value| *value > 0.0)
    }
}

/// One workload on both servers.
#[derive(Clone, Debug, Serialize)]
struct Row {
    workload: &'static str,
    compared: &'static str,
    goal: &'static str,
    floor_median: Option<f64>,
    tiderace_median: Option<f64>,
    /// Product over floor.
    ratio: Option<Paired>,
    /// Product over floor, processor seconds for each GB.
    cpu_ratio: Option<Paired>,
    floor: Vec<Sample>,
    tiderace: Vec<Sample>,
}

#[derive(Clone, Debug, Serialize)]
struct Comparison {
    environment: Environment,
    calibration: Vec<Calibration>,
    rounds: u32,
    server_cpu: usize,
    generator_cpu: usize,
    rows: Vec<Row>,
    warnings: Vec<String>,
}

/// Carries it out.
///
/// # Errors
/// A sentence for people: a server could not be started, or a run failed.
#[expect(clippy::print_stderr, reason = "a program speaks to its user")]
pub(crate) fn run(arguments: &CompareArguments) -> Result<ExitCode, String> {
    let (server_cpu, cpu) = environment::cores(arguments.server_cpu, arguments.cpu)?;
    let folder = server::Folder::make(&arguments.dir, "floor-compare")?;
    let floor = server::program(arguments.floor.as_deref(), "floor")?;
    let tiderace = server::program(arguments.tiderace.as_deref(), "tiderace")?;
    let environment = Environment::read(Some(folder.path()));
    eprintln!("environment  {}", environment.line());
    let servers = [
        Server::start(Kind::Floor, &floor, &folder, Some(server_cpu))?,
        Server::start(Kind::Tiderace, &tiderace, &folder, Some(server_cpu))?,
    ];
    let tiderace = &servers[Kind::Tiderace as usize];
    let mut settling = Settling::begin(tiderace, SETTLING_RUNS_MAX)?;
    while settling.goes_on(tiderace)? {
        // One record at a time writes too little to matter.
        for case in CASES.iter().filter(|case| case.in_flight > 1) {
            let mut plan = plan(case, tiderace, arguments, cpu, &folder, 0);
            plan.warmup = Duration::ZERO;
            plan.duration = Duration::from_secs(1);
            execute(&plan)?;
        }
    }
    let mut calibration = Vec::new();
    let mut samples: Vec<[Vec<Sample>; 2]> = CASES.iter().map(|_| [vec![], vec![]]).collect();
    for round in 0..arguments.rounds {
        let measured = calibrate::measure(folder.path(), Some(cpu))?;
        eprintln!("round {:<3}    {}", round + 1, measured.line());
        calibration.push(measured);
        for (at, case) in CASES.iter().enumerate() {
            // The order within a pair changes each round, so that neither always runs on the warmer machine.
            let order = if round % 2 == 0 {
                [Kind::Floor, Kind::Tiderace]
            } else {
                [Kind::Tiderace, Kind::Floor]
            };
            for kind in order {
                let server = &servers[kind as usize];
                let plan = plan(case, server, arguments, cpu, &folder, round);
                let report = execute(&plan)?.report;
                if report.failed {
                    return Err(format!(
                        "{} on {kind}: {}",
                        case.name,
                        report.warnings.join("; ")
                    ));
                }
                let sample = Sample::of(&report);
                eprintln!("             {:<36} {kind:<9} {}", case.name, line(&sample));
                samples[at][kind as usize].push(sample);
            }
        }
    }
    let rows: Vec<Row> = CASES
        .iter()
        .zip(samples)
        .map(|(case, [floor, tiderace])| row(case, floor, tiderace))
        .collect();
    let mut comparison = Comparison {
        environment,
        calibration,
        rounds: arguments.rounds,
        server_cpu,
        generator_cpu: cpu,
        rows,
        warnings: Vec::new(),
    };
    comparison.warn();
    comparison.warnings.extend(settling.warnings(tiderace));
    eprintln!("{}", comparison.text());
    if let Some(path) = &arguments.json {
        output::json(path, &comparison)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes, run by run, until the product's journal uses its files again and writes no zeros any more, as that of a node
/// that has run for long.
#[derive(Debug)]
pub(crate) struct Settling {
    runs_left: u32,
    begun: bool,
    prewritten: f64,
}

fn known(server: &Server, name: &str) -> Result<f64, String> {
    server
        .metric(name)
        .ok_or_else(|| format!("tiderace has no metric {name}"))
}

impl Settling {
    pub(crate) fn begin(server: &Server, runs_max: u32) -> Result<Self, String> {
        Ok(Self {
            runs_left: runs_max,
            begun: false,
            prewritten: known(server, PREWRITTEN)?,
        })
    }

    /// Whether one more run is needed.
    #[expect(clippy::print_stderr, reason = "a program speaks to its user")]
    pub(crate) fn goes_on(&mut self, server: &Server) -> Result<bool, String> {
        let prewritten = known(server, PREWRITTEN)?;
        let before = std::mem::replace(&mut self.prewritten, prewritten);
        let ran = std::mem::replace(&mut self.begun, true);
        if ran && known(server, RECYCLED)? >= RECYCLED_MIN && prewritten <= before {
            return Ok(false);
        }
        if self.runs_left == 0 {
            eprintln!(
                "tiderace's journal does not come to use its files again: it writes zeros beside the appends"
            );
            return Ok(false);
        }
        self.runs_left -= 1;
        Ok(true)
    }

    /// What is wrong with what was measured since.
    pub(crate) fn warnings(&self, server: &Server) -> Vec<String> {
        let zeros = server
            .metric(PREWRITTEN)
            .map_or(0.0, |after| after - self.prewritten);
        if zeros > 0.0 {
            vec![format!(
                "tiderace wrote {:.0} MB of zeros beside what was measured: its journal had not settled",
                zeros / 1e6
            )]
        } else {
            Vec::new()
        }
    }
}

fn plan(
    case: &Case,
    server: &Server,
    arguments: &CompareArguments,
    cpu: usize,
    folder: &server::Folder,
    round: u32,
) -> Plan {
    Plan {
        profile: None,
        server: server.address(),
        tls: None,
        wanted: Wanted {
            path: case.stream.into(),
            streams: 1,
            partitions: case.partitions,
            durability: Some(Durability::Local),
            retention_bytes: case.kept_bytes / u64::from(case.partitions),
        },
        choice: Choice {
            keys: Keys::Even,
            key_count: 1,
            key_theta: 0.0,
            spread: Spread::Even,
            stream_theta: 0.0,
        },
        shape: case.shape,
        mode: Mode::Saturation,
        connections: case.connections,
        in_flight: case.in_flight,
        idempotent: true,
        fan_out: 0,
        readers: readers::Wanted::default(),
        verifies: false,
        interval: None,
        warmup: arguments.warmup,
        duration: arguments.duration,
        patience: Duration::from_secs(10),
        cpu: Some(cpu),
        wait: Wait::Auto,
        server_pid: Some(server.pid()),
        data: Some(folder.path().to_owned()),
        seed: u64::from(round) + 1,
    }
}

fn row(case: &Case, floor: Vec<Sample>, tiderace: Vec<Sample>) -> Row {
    let figures = |samples: &[Sample]| -> Vec<Option<f64>> {
        samples
            .iter()
            .map(|sample| sample.figure(case.figure))
            .collect()
    };
    let costs = |samples: &[Sample]| -> Vec<Option<f64>> {
        samples
            .iter()
            .map(|sample| sample.server_cpu_s_per_gb)
            .collect()
    };
    let (floor_figures, tiderace_figures) = (figures(&floor), figures(&tiderace));
    Row {
        workload: case.name,
        compared: match case.figure {
            Figure::Rate => "batches/s",
            Figure::Median => "p50 ns",
        },
        goal: case.goal,
        floor_median: statistics::median(floor_figures.iter().copied().flatten()),
        tiderace_median: statistics::median(tiderace_figures.iter().copied().flatten()),
        ratio: Paired::of(&tiderace_figures, &floor_figures),
        cpu_ratio: Paired::of(&costs(&tiderace), &costs(&floor)),
        floor,
        tiderace,
    }
}

/// For people.
pub(crate) fn line(sample: &Sample) -> String {
    let us = |ns: Option<u64>| ns.map_or(f64::NAN, |ns| ns as f64 / 1000.0);
    format!(
        "{:9.0} batches/s {:7.1} MB/s  p50 {:8.1} us  p99 {:8.1} us  {:6.3} CPU s/GB{}",
        sample.batches_per_s,
        sample.bytes_per_s / 1e6,
        us(sample.p50_ns),
        us(sample.p99_ns),
        sample.server_cpu_s_per_gb.unwrap_or(f64::NAN),
        if sample.warnings.is_empty() {
            ""
        } else {
            "  !"
        }
    )
}

impl Comparison {
    fn warn(&mut self) {
        let mut all: Vec<String> = Vec::new();
        for row in &self.rows {
            for (kind, samples) in [(Kind::Floor, &row.floor), (Kind::Tiderace, &row.tiderace)] {
                let mut heard: Vec<&String> =
                    samples.iter().flat_map(|sample| &sample.warnings).collect();
                heard.sort();
                heard.dedup();
                all.extend(
                    heard
                        .into_iter()
                        .map(|warning| format!("{} on {kind}: {warning}", row.workload)),
                );
            }
        }
        if self.environment.was_busy() {
            all.push(format!(
                "the machine was not quiet (load {:.1}): nothing here may be quoted",
                self.environment.load_1m.unwrap_or(f64::NAN)
            ));
        }
        if self.rounds < 5 {
            all.push(format!("{} rounds are few: take at least 5", self.rounds));
        }
        self.warnings = all;
    }

    fn text(&self) -> String {
        let mut lines = vec![String::new()];
        for row in &self.rows {
            lines.push(format!("{} ({})", row.workload, row.goal));
            let show = |value: Option<f64>| {
                value.map_or_else(|| "none".to_owned(), |value| format!("{value:.0}"))
            };
            lines.push(format!(
                "    {}: floor {}, tiderace {}",
                row.compared,
                show(row.floor_median),
                show(row.tiderace_median)
            ));
            for (what, ratio) in [("ratio", &row.ratio), ("CPU s/GB, ratio", &row.cpu_ratio)] {
                if let Some(ratio) = ratio {
                    lines.push(format!("    {what}: {}", ratio.line()));
                }
            }
        }
        for warning in &self.warnings {
            lines.push(format!("WARNING  {warning}"));
        }
        lines.join("\n")
    }
}
