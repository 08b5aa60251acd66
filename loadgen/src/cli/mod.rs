//! The command line: what may be asked of each mode, with its defaults, and how it becomes a plan. Refuses what contradicts
//! itself before anything is connected.

mod load;
mod profiled;

pub(crate) use load::{RunArguments, SoakArguments, SweepArguments};
pub(crate) use profiled::parse;

use crate::setup::Wanted;
use crate::systems::System;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tiderace_base::catalogue::Durability;
use tiderace_io::{Connector, Identity};

/// Load for a Tiderace node, measured so that the figures can be believed.
///
/// Latency counts from the time at which a batch was meant to be sent, whether or not the server kept up. Percentiles
/// that rest on too few samples are refused; a missed rate and a generator that was itself the limit are said.
#[derive(Parser, Debug)]
#[command(version)]
pub(crate) struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Sends batches at a rate or as fast as they are acknowledged, and reports rates and latencies.
    Run(Box<RunArguments>),
    /// Finds the knee: offers rates that grow until one is missed or its p99 is beyond a bound, then narrows it down.
    /// Exits with 1 when no rate held.
    Sweep(Box<SweepArguments>),
    /// A long open loop, told interval by interval, with the drift of memory and a count of what was delivered. Exits with
    /// 1 when something acknowledged was not delivered exactly once, whole and in order.
    Soak(Box<SoakArguments>),
    /// Lists the named workloads: what each is for, and the flags that it stands for.
    Profiles(ProfilesArguments),
    /// Produces with exact retries while the server may die and come back, and verifies that nothing acknowledged was
    /// lost, duplicated or reordered. Exits with 1 when something was.
    Integrity(Box<IntegrityArguments>),
    /// Runs the floor and `tiderace serve` in turns under the same workloads and prints how far apart they are.
    FloorCompare(Box<CompareArguments>),
    /// Runs `tiderace serve` and other systems in turns under the same workloads, each with its own client, and prints one
    /// table and draws one plot. A system that is not there is skipped. Exits with 1 when a system refused or lost anything.
    Compare(Box<SystemsArguments>),
}

/// See [`Command::Profiles`].
#[derive(Args, Debug)]
pub(crate) struct ProfilesArguments {
    /// Writes the list as JSON to this file; `-` is standard output.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

/// A durability by its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Level {
    /// Acknowledged from memory.
    Memory,
    /// On the leader's disk.
    Local,
    /// On the disks of a quorum.
    Quorum,
}

impl Level {
    const fn durability(self) -> Durability {
        match self {
            Self::Memory => Durability::Memory,
            Self::Local => Durability::Local,
            Self::Quorum => Durability::Quorum,
        }
    }
}

/// Seconds, with fractions; `ms`, `s`, `m` and `h` are understood.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    // The longer unit first: it ends with the shorter one.
    let units = [("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let (number, scale) = units
        .into_iter()
        .find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, scale)))
        .unwrap_or((text, 1.0));
    number
        .parse::<f64>()
        .ok()
        .map(|seconds| seconds * scale)
        .filter(|seconds| (0.0..1e9).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("{text:?} is no time: write 10, 10s, 500ms, 5m or 1h"))
}

pub(crate) fn rate(text: &str) -> Result<f64, String> {
    text.parse::<f64>()
        .ok()
        .filter(|rate| *rate > 0.0 && rate.is_finite())
        .ok_or_else(|| format!("{text:?} is no rate: write a number of batches a second above 0"))
}

fn theta(text: &str) -> Result<f64, String> {
    text.parse::<f64>()
        .ok()
        .filter(|theta| (0.0..=10.0).contains(theta))
        .ok_or_else(|| format!("{text:?} is no exponent: write a number from 0 to 10"))
}

/// Where and what to write.
#[derive(Args, Debug)]
pub(crate) struct TargetArguments {
    /// Any port of the node.
    #[arg(long, default_value = "127.0.0.1:7450")]
    pub(crate) server: SocketAddr,
    /// Speak TLS, and trust the nodes that these CA certificates (PEM) have signed.
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// The generator's certificate chain (PEM), for a node that asks for one.
    #[arg(long, value_name = "FILE", requires_all = ["tls_ca", "tls_key"])]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The private key of --tls-cert (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// The stream; made if absent.
    #[arg(long, default_value = "loadgen")]
    pub(crate) stream: String,
    /// Its partitions.
    #[arg(long, default_value_t = 8)]
    pub(crate) partitions: u32,
    /// What its acknowledgements promise. The node's default if not given.
    #[arg(long)]
    pub(crate) durability: Option<Level>,
    /// Bytes of each partition that are kept, if the stream is made; 0 keeps all. Bounded, a long run's journal uses its
    /// files again, as that of a node that has run for long.
    #[arg(long, default_value_t = 0)]
    pub(crate) retention_bytes: u64,
}

impl TargetArguments {
    /// How TLS is spoken, where it is. A node's certificate has to name the IP address of --server.
    ///
    /// # Errors
    /// A sentence for people: a file that cannot be read or used.
    pub(crate) fn connector(&self) -> Result<Option<Connector>, String> {
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
        };
        let Some(ca) = &self.tls_ca else {
            return Ok(None);
        };
        let ca = read(ca)?;
        let own = match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => Some((read(cert)?, read(key)?)),
            _ => None,
        };
        let identity = own.as_ref().map(|(chain, key)| Identity { chain, key });
        Connector::new(&ca, identity, &self.server.ip().to_string())
            .map(Some)
            .map_err(|error| format!("TLS is not possible: {error}"))
    }

    /// The stream.
    #[must_use]
    pub(crate) fn wanted(&self) -> Wanted {
        Wanted {
            path: self.stream.as_str().into(),
            streams: 1,
            partitions: self.partitions,
            durability: self.durability.map(Level::durability),
            retention_bytes: self.retention_bytes,
        }
    }
}

/// See [`Command::Integrity`].
#[derive(Args, Debug)]
pub(crate) struct IntegrityArguments {
    #[command(flatten)]
    pub(crate) target: TargetArguments,
    /// Producers, each with an id of its own.
    #[arg(long, default_value_t = 4)]
    pub(crate) producers: u32,
    /// Bytes of a record's value.
    #[arg(long, default_value_t = 128)]
    pub(crate) record_bytes: usize,
    /// Records a second over all producers; 0: as fast as they are acknowledged.
    #[arg(long, default_value_t = 20_000)]
    pub(crate) rate: u64,
    /// Ends sending after this time.
    #[arg(long, value_parser = duration, default_value = "10s")]
    pub(crate) duration: Duration,
    /// Ends sending after so many records, if that comes first.
    #[arg(long)]
    pub(crate) count: Option<u64>,
    /// How long nothing at all may be acknowledged or delivered before the run gives up.
    #[arg(long, value_parser = duration, default_value = "60s")]
    pub(crate) deadline: Duration,
    /// Appends what was acknowledged to this file, as it is acknowledged.
    #[arg(long)]
    pub(crate) ledger: Option<PathBuf>,
    /// Writes what was sent, acknowledged and delivered to this file, for `history check`: see docs/consistency.md.
    #[arg(long)]
    pub(crate) history: Option<PathBuf>,
    /// Sends nothing: reads the stream and checks that it holds what this ledger says was acknowledged.
    #[arg(long, conflicts_with_all = ["ledger", "history"])]
    pub(crate) verify_ledger: Option<PathBuf>,
    /// The thread's core.
    #[arg(long)]
    pub(crate) cpu: Option<usize>,
    /// Writes the report as JSON to this file; `-` is standard output.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

/// See [`Command::FloorCompare`].
#[derive(Args, Debug)]
pub(crate) struct CompareArguments {
    /// The floor's program. Beside this program if not given.
    #[arg(long)]
    pub(crate) floor: Option<PathBuf>,
    /// The `tiderace` program. Beside this program if not given.
    #[arg(long)]
    pub(crate) tiderace: Option<PathBuf>,
    /// A directory for both servers' data, on the disk to be measured. What it makes in there is removed again.
    #[arg(long, default_value = ".")]
    pub(crate) dir: PathBuf,
    /// Rounds: in each, every workload runs once on each server.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// The measured part of each run.
    #[arg(long, default_value = "4s", value_parser = duration)]
    pub(crate) duration: Duration,
    /// Before each.
    #[arg(long, default_value = "1s", value_parser = duration)]
    pub(crate) warmup: Duration,
    /// The servers' core. The one that takes the disk's interrupts if not given, or the first.
    #[arg(long)]
    pub(crate) server_cpu: Option<usize>,
    /// The generator's core. Another one if not given.
    #[arg(long)]
    pub(crate) cpu: Option<usize>,
    /// Writes the report as JSON to this file; `-` is standard output.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

/// See [`Command::Compare`].
#[derive(Args, Debug)]
pub(crate) struct SystemsArguments {
    /// The systems to compare with, separated by commas. All if not given.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) only: Vec<System>,
    /// The adapters' program. The one called `peers` beside this program if not given.
    #[arg(long)]
    pub(crate) peers: Option<PathBuf>,
    /// The `tiderace` program. Beside this program if not given.
    #[arg(long)]
    pub(crate) tiderace: Option<PathBuf>,
    /// The `nats-server` program. The one in the path if not given.
    #[arg(long)]
    pub(crate) nats_server: Option<PathBuf>,
    /// The `redis-server` program. The one in the path if not given.
    #[arg(long)]
    pub(crate) redis_server: Option<PathBuf>,
    /// A broker that speaks the protocol of Kafka and runs on this machine, on the servers' core and the same disk. What it
    /// keeps when it acknowledges is what it is configured for.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) kafka: Option<SocketAddr>,
    /// Its process, so that its processor time and memory are reported.
    #[arg(long, value_name = "PID", requires = "kafka")]
    pub(crate) kafka_pid: Option<u32>,
    /// The TCP address of a server of Apache Iggy, under the same conditions.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) iggy: Option<SocketAddr>,
    /// Its process.
    #[arg(long, value_name = "PID", requires = "iggy")]
    pub(crate) iggy_pid: Option<u32>,
    /// A directory for the servers' data, on the disk to be measured. What it makes in there is removed again.
    #[arg(long, default_value = ".")]
    pub(crate) dir: PathBuf,
    /// Rounds: in each, every workload runs once on each system.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// The measured part of each run.
    #[arg(long, default_value = "4s", value_parser = duration)]
    pub(crate) duration: Duration,
    /// Before each.
    #[arg(long, default_value = "1s", value_parser = duration)]
    pub(crate) warmup: Duration,
    /// The rate of the open loop, in records a second.
    #[arg(long, default_value_t = 2000.0, value_parser = rate)]
    pub(crate) rate: f64,
    /// Short runs on tiderace alone, at the most, until its journal uses its files again.
    #[arg(long, default_value_t = 60)]
    pub(crate) settling_runs_max: u32,
    /// The servers' core. The one that takes the disk's interrupts if not given, or the first.
    #[arg(long)]
    pub(crate) server_cpu: Option<usize>,
    /// The core of the generator and the adapters. Another one if not given.
    #[arg(long)]
    pub(crate) cpu: Option<usize>,
    /// Draws the plot into this SVG file.
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,
    /// Writes the report as JSON to this file; `-` is standard output.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn times_have_units() {
        assert_eq!(duration("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("0.5h"), Ok(Duration::from_secs(1800)));
        assert!(duration("-1s").is_err());
        assert!(duration("ten").is_err());
    }
}
