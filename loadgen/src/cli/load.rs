//! The flags of a workload, and how they become a plan. The modes that send load share them; each adds when it sends.

use super::{TargetArguments, duration, rate, theta};
use crate::batches::Shape;
use crate::keys::{Choice, Keys, Spread};
use crate::limits::Measurer;
use crate::load::{Mode, Plan, Wait, readers};
use crate::profiles;
use crate::schedule::Arrivals;
use crate::setup::Wanted;
use clap::Args;
use clap::builder::PossibleValuesParser;
use std::path::PathBuf;
use std::time::Duration;
use tiderace_io::Connector;

/// What is sent and who listens.
#[derive(Args, Debug)]
pub(crate) struct WorkloadArguments {
    /// A named workload: stands for the flags that `loadgen profiles` lists. Flags that are given beat it.
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(profiles::names()))]
    profile: Option<String>,
    #[command(flatten)]
    target: TargetArguments,
    /// How an open loop's batches are spread.
    #[arg(long, value_enum, default_value_t = Arrivals::Poisson)]
    arrivals: Arrivals,
    /// Producing connections.
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// Batches in flight of each connection.
    #[arg(long, default_value_t = 16)]
    in_flight: usize,
    /// Records of a batch.
    #[arg(long, default_value_t = 1)]
    batch_records: u32,
    /// Bytes of a record's value. Its key has 16 more.
    #[arg(long, default_value_t = 256)]
    record_bytes: usize,
    /// Whether batches are numbered and deduplicated, as the client does it.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    idempotent: bool,
    /// How many streams are written; above 1 their paths are those of --stream with a number behind it.
    #[arg(long, default_value_t = 1)]
    streams: u64,
    /// How batches are spread over the streams.
    #[arg(long, value_enum, default_value_t = Spread::Even)]
    stream_spread: Spread,
    /// The exponent of --stream-spread zipf: 0 is even, more is steeper.
    #[arg(long, default_value_t = 0.99, value_parser = theta)]
    stream_theta: f64,
    /// How records are keyed, and so how batches are spread over the partitions of a stream.
    #[arg(long, value_enum, default_value_t = Keys::Even)]
    keys: Keys,
    /// How many keys --keys uniform and --keys zipf draw from.
    #[arg(long, default_value_t = 1_000_000)]
    key_count: u64,
    /// The exponent of --keys zipf: 0 is uniform, more is steeper.
    #[arg(long, default_value_t = 0.99, value_parser = theta)]
    theta: f64,
    /// Subscribers of each partition, which measure delivery.
    #[arg(long, default_value_t = 0)]
    fan_out: usize,
    /// Stalled subscribers of each partition: they give credit and never read.
    #[arg(long, default_value_t = 0)]
    stalled: usize,
    /// Slow subscribers of each partition: each of their connections reads --slow-rate.
    #[arg(long, default_value_t = 0)]
    slow: usize,
    /// Bytes a second that a slow subscriber's connection reads.
    #[arg(long, default_value_t = 100_000)]
    slow_rate: u64,
    /// Reads what the streams already hold, from the earliest record on, while the load is measured.
    #[arg(long)]
    catch_up: bool,
    /// Before anything is measured.
    #[arg(long, default_value = "2s", value_parser = duration)]
    warmup: Duration,
    /// How long answers are waited for at the end.
    #[arg(long, default_value = "10s", value_parser = duration)]
    patience: Duration,
    /// The generator's core.
    #[arg(long)]
    cpu: Option<usize>,
    /// How the generator waits.
    #[arg(long, value_enum, default_value_t = Wait::Auto)]
    wait: Wait,
    /// The server's process, where it runs here: its processor time and memory are reported.
    #[arg(long)]
    server_pid: Option<u32>,
    /// Where the server writes, so that the report can name the file system.
    #[arg(long)]
    data: Option<PathBuf>,
    /// The floor's program: after the run it is measured under the same batches, with the machine's own limits.
    #[arg(long)]
    floor: Option<PathBuf>,
    /// A directory for the floor's data, on the disk that the server writes to. What it makes in there is removed again.
    #[arg(long, default_value = ".")]
    floor_dir: PathBuf,
    /// The floor's core.
    #[arg(long)]
    floor_cpu: Option<usize>,
    /// Decides arrivals, keys and values.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Writes the report as JSON to this file; `-` is standard output.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

impl WorkloadArguments {
    /// What measures the floor, if that was asked for.
    ///
    /// # Errors
    /// There is no such program.
    pub(crate) fn measurer(&self) -> Result<Option<Measurer>, String> {
        self.floor
            .as_deref()
            .map(|floor| Measurer::new(floor, &self.floor_dir, self.floor_cpu))
            .transpose()
    }

    /// How TLS is spoken, where it is.
    ///
    /// # Errors
    /// A sentence for people: a file that cannot be read or used.
    pub(crate) fn connector(&self) -> Result<Option<Connector>, String> {
        self.target.connector()
    }

    /// The plan, plain, at a rate or as fast as batches are acknowledged.
    #[must_use]
    pub(crate) fn plan(&self, rate: Option<f64>, duration: Duration) -> Plan {
        Plan {
            profile: self.profile.clone(),
            server: self.target.server,
            tls: None,
            wanted: Wanted {
                streams: self.streams,
                ..self.target.wanted()
            },
            choice: Choice {
                keys: self.keys,
                key_count: self.key_count,
                key_theta: self.theta,
                spread: self.stream_spread,
                stream_theta: self.stream_theta,
            },
            shape: Shape {
                records: self.batch_records,
                value_bytes: self.record_bytes,
                keyed: self.keys.keyed(),
            },
            mode: match rate {
                Some(rate) => Mode::Open {
                    rate,
                    arrivals: self.arrivals,
                },
                None => Mode::Saturation,
            },
            connections: self.connections,
            in_flight: self.in_flight,
            idempotent: self.idempotent,
            fan_out: self.fan_out,
            readers: readers::Wanted {
                stalled: self.stalled,
                slow: self.slow,
                slow_bytes_per_s: if self.slow > 0 { self.slow_rate } else { 0 },
                catch_up: self.catch_up,
            },
            verifies: false,
            interval: None,
            warmup: self.warmup,
            duration,
            patience: self.patience,
            cpu: self.cpu,
            wait: self.wait,
            server_pid: self.server_pid,
            data: self.data.clone(),
            seed: self.seed,
        }
    }
}

/// See [`super::Command::Run`].
#[derive(Args, Debug)]
pub(crate) struct RunArguments {
    /// Open loop: so many batches a second over all connections, whatever the server does.
    #[arg(
        long,
        value_parser = rate,
        conflicts_with = "saturate",
        required_unless_present_any = ["saturate", "profile"]
    )]
    rate: Option<f64>,
    /// Saturation: as many batches in flight as --in-flight allows, all the time.
    #[arg(long, conflicts_with = "rate")]
    saturate: bool,
    /// The measured part.
    #[arg(long, default_value = "10s", value_parser = duration)]
    duration: Duration,
    #[command(flatten)]
    pub(crate) workload: WorkloadArguments,
    /// Writes the distribution of the response time (of the delivery time with --fan-out as well) as `.hgrm`.
    #[arg(long)]
    pub(crate) hgrm: Option<PathBuf>,
}

impl RunArguments {
    /// The plan.
    #[must_use]
    pub(crate) fn plan(&self) -> Plan {
        self.workload.plan(self.rate, self.duration)
    }
}

/// See [`super::Command::Sweep`].
#[derive(Args, Debug)]
pub(crate) struct SweepArguments {
    /// The first rate, in batches a second over all connections.
    #[arg(long, default_value_t = 1000.0, value_parser = rate)]
    pub(crate) from: f64,
    /// No rate above this is offered.
    #[arg(long, default_value_t = 10_000_000.0, value_parser = rate)]
    pub(crate) to: f64,
    /// Each rate is so many times the one before, until one fails.
    #[arg(long, default_value_t = 2.0, value_parser = factor)]
    pub(crate) factor: f64,
    /// The sweep ends when the rates that held and failed are this close: 0.05 is 5 %.
    #[arg(long, default_value_t = 0.05, value_parser = precision)]
    pub(crate) precision: f64,
    /// Rates that are offered, at most.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) steps: u32,
    /// A rate fails when the 99th percentile of its response is beyond this.
    #[arg(long, default_value = "10ms", value_parser = duration)]
    pub(crate) p99_max: Duration,
    /// The measured part of each step.
    #[arg(long, default_value = "5s", value_parser = duration)]
    pub(crate) duration: Duration,
    #[command(flatten)]
    pub(crate) workload: WorkloadArguments,
}

/// See [`super::Command::Soak`].
#[derive(Args, Debug)]
pub(crate) struct SoakArguments {
    /// Open loop: so many batches a second over all connections, whatever the server does.
    #[arg(long, value_parser = rate, required_unless_present = "profile")]
    rate: Option<f64>,
    /// The measured part.
    #[arg(long, default_value = "10m", value_parser = duration)]
    duration: Duration,
    /// The pieces that it is told in.
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub(crate) interval: Duration,
    #[command(flatten)]
    pub(crate) workload: WorkloadArguments,
}

impl SoakArguments {
    /// The plan: at least one subscriber of each partition checks what is delivered.
    ///
    /// # Errors
    /// What to change.
    pub(crate) fn plan(&self) -> Result<Plan, String> {
        let rate = self
            .rate
            .ok_or("a soak has a rate, and this profile has none: give --rate")?;
        let plan = self.workload.plan(Some(rate), self.duration);
        Ok(Plan {
            tls: self.workload.connector()?,
            fan_out: plan.fan_out.max(1),
            verifies: true,
            interval: Some(self.interval),
            ..plan
        })
    }
}

fn factor(text: &str) -> Result<f64, String> {
    text.parse::<f64>()
        .ok()
        .filter(|factor| (1.01..=100.0).contains(factor))
        .ok_or_else(|| format!("{text:?} is no factor: write a number from 1.01 to 100"))
}

fn precision(text: &str) -> Result<f64, String> {
    text.parse::<f64>()
        .ok()
        .filter(|precision| (0.001..=1.0).contains(precision))
        .ok_or_else(|| format!("{text:?} is no precision: write a number from 0.001 to 1"))
}
