//! The flags of a workload, and how they become a plan. The modes that send load share them; each adds when it sends.

use super::{TargetArguments, duration, rate};
use crate::batches::Shape;
use crate::load::{Mode, Plan, Wait};
use crate::profiles;
use crate::schedule::Arrivals;
use clap::Args;
use clap::builder::PossibleValuesParser;
use std::path::PathBuf;
use std::time::Duration;

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
    /// A consumer listens and measures delivery.
    #[arg(long)]
    subscribe: bool,
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
    /// Decides arrivals, keys and values.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Writes the report as JSON to this file; `-` is standard output.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

impl WorkloadArguments {
    /// The plan, at a rate or as fast as batches are acknowledged.
    #[must_use]
    pub(crate) fn plan(&self, rate: Option<f64>, duration: Duration) -> Plan {
        Plan {
            profile: self.profile.clone(),
            server: self.target.server,
            wanted: self.target.wanted(),
            shape: Shape {
                records: self.batch_records,
                value_bytes: self.record_bytes,
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
            subscribe: self.subscribe,
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
    /// Writes the distribution of the response time (of the delivery time with --subscribe as well) as `.hgrm`.
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
