//! One run from its plan to its report: prepares the stream, connects, gives the machine to a driver on a thread of its
//! own, and turns what it counted into figures.

use super::link::{Link, LinkPlan};
use super::subscriber::Subscriber;
use super::{Lengths, Load, Mode, Tally, Waiting, share};
use crate::batches::Shape;
use crate::environment::{Environment, Usage};
use crate::progress::{Line, Progress};
use crate::report::{Rates, Report, Server, Workload};
use crate::setup::{self, Place, Wanted};
use clap::ValueEnum;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tiderace_base::ids::ProducerId;
use tiderace_io::{Driver, DriverConfig, Outcome, entropy};

/// How the generator's thread waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Wait {
    /// Spin in an open loop, where a wake-up would be measured as latency; sleep in saturation.
    Auto,
    /// Never sleep: the generator needs a core of its own.
    Spin,
    /// Sleep in the ring until something completes or is due.
    Sleep,
}

/// Everything that a run is told.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The profile that it comes from.
    pub(crate) profile: Option<String>,
    /// Any port of the node.
    pub(crate) server: SocketAddr,
    /// The stream.
    pub(crate) wanted: Wanted,
    /// What is sent.
    pub(crate) shape: Shape,
    /// When it is sent.
    pub(crate) mode: Mode,
    /// Producing connections.
    pub(crate) connections: usize,
    /// Batches in flight of each.
    pub(crate) in_flight: usize,
    /// Whether batches are numbered and deduplicated, as the client does it.
    pub(crate) idempotent: bool,
    /// Whether a consumer measures delivery.
    pub(crate) subscribe: bool,
    /// Before anything is measured.
    pub(crate) warmup: Duration,
    /// The measured part.
    pub(crate) duration: Duration,
    /// How long answers are waited for at the end.
    pub(crate) patience: Duration,
    /// The generator's core.
    pub(crate) cpu: Option<usize>,
    /// How it waits.
    pub(crate) wait: Wait,
    /// The server's process, where it runs on this machine: its processor time and memory are reported.
    pub(crate) server_pid: Option<u32>,
    /// Where the server writes, where that is known.
    pub(crate) data: Option<PathBuf>,
    /// Decides arrivals, keys and values.
    pub(crate) seed: u64,
}

impl Plan {
    /// Whether the plan can be carried out.
    ///
    /// # Errors
    /// What to change.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.shape.check()?;
        let window = tiderace_base::limits::PRODUCER_WINDOW;
        let lanes = (self.wanted.partitions as usize).div_ceil(self.connections.max(1));
        if self.connections == 0 || self.in_flight == 0 || self.wanted.partitions == 0 {
            return Err("connections, batches in flight and partitions are at least 1".to_owned());
        }
        if self.idempotent && self.in_flight > window * lanes {
            return Err(format!(
                "a producer may have {window} batches in flight to one partition; take fewer, or --idempotent false"
            ));
        }
        if self.duration.is_zero() {
            return Err("a run measures for some time: --duration is more than zero".to_owned());
        }
        Ok(())
    }

    fn waiting(&self) -> Waiting {
        match (self.wait, self.mode) {
            (Wait::Spin, _) | (Wait::Auto, Mode::Open { .. }) => Waiting::Spin,
            (Wait::Sleep, _) | (Wait::Auto, Mode::Saturation) => Waiting::Sleep,
        }
    }
}

/// Carries out a plan. A run that ends early, for example because the server went away, has a report that says so.
///
/// # Errors
/// A sentence for people: nothing was measured.
pub(crate) fn execute(plan: &Plan) -> Result<(Report, Tally), String> {
    plan.check()?;
    let target = setup::prepare(plan.server, &plan.wanted)?;
    let run = entropy::random_u64() | 1;
    let identity = setup::identity();
    let mut links = Vec::new();
    let mut addresses = Vec::new();
    for index in 0..plan.connections {
        let places = share(&target, index, plan.connections);
        addresses.push(places[0].address);
        let producer = if plan.idempotent {
            (index as u128 + 1) << 64 | u128::from(run)
        } else {
            0
        };
        links.push(Link::new(
            &identity,
            LinkPlan {
                stream: target.stream.id,
                places,
                shape: plan.shape,
                in_flight: plan.in_flight,
                producer: ProducerId::new(producer),
                seed: plan.seed.wrapping_add(index as u64),
            },
        ));
    }
    let mut subscribers = Vec::new();
    if plan.subscribe {
        let mut shards: BTreeMap<SocketAddr, Vec<Place>> = BTreeMap::new();
        for place in &target.places {
            shards.entry(place.address).or_default().push(*place);
        }
        for (address, places) in shards {
            addresses.push(address);
            subscribers.push(Subscriber::new(&identity, target.stream.id, &places, run));
        }
    }
    let sockets = addresses
        .iter()
        .map(|address| setup::connect(*address))
        .collect::<Result<Vec<_>, _>>()?;
    let progress = Arc::new(Progress::default());
    let load = Load::new(
        plan.mode,
        plan.waiting(),
        Lengths {
            warmup_ns: plan.warmup.as_nanos() as u64,
            duration_ns: plan.duration.as_nanos() as u64,
            patience_ns: plan.patience.as_nanos() as u64,
        },
        links,
        subscribers,
        Arc::clone(&progress),
        plan.seed,
    );
    let before = plan.server_pid.and_then(Usage::of);
    let line = Line::draw(&progress, "batches");
    let tally = drive(plan.cpu, sockets, load)?;
    drop(line);
    let after = plan.server_pid.and_then(Usage::of);
    let report = report(
        plan,
        &target.stream.durability.to_string(),
        &tally,
        before.zip(after),
    );
    Ok((report, tally))
}

fn drive(cpu: Option<usize>, sockets: Vec<TcpStream>, mut load: Load) -> Result<Tally, String> {
    let mut driver = Driver::new(DriverConfig {
        cpu,
        connections_max: sockets.len(),
        ..DriverConfig::default()
    })
    .map_err(|error| error.to_string())?;
    let adopter = driver.adopter();
    for socket in sockets {
        adopter.adopt(socket).map_err(|error| error.to_string())?;
    }
    let thread = std::thread::Builder::new()
        .name("load".to_owned())
        .spawn(move || {
            let outcome = driver.run(&mut load);
            (outcome, load.into_tally())
        })
        .map_err(|error| error.to_string())?;
    let (outcome, mut tally) = thread
        .join()
        .map_err(|_| "the generator's thread panicked".to_owned())?;
    match outcome {
        Outcome::Stopped => {}
        Outcome::Fatal(fatal) => {
            tally.failed.get_or_insert(fatal.to_string());
        }
        Outcome::NotStarted(error) => return Err(error.to_string()),
    }
    Ok(tally)
}

fn report(plan: &Plan, durability: &str, tally: &Tally, usage: Option<(Usage, Usage)>) -> Report {
    let (mode, rate, arrivals) = match plan.mode {
        Mode::Open { rate, arrivals } => ("open loop", Some(rate), Some(arrivals)),
        Mode::Saturation => ("saturation", None, None),
    };
    let seconds = plan.duration.as_secs_f64();
    let total_bytes = tally.acked * plan.shape.batch_bytes() as u64;
    Report::new(
        mode,
        Workload {
            profile: plan.profile.clone(),
            stream: plan.wanted.path.to_string(),
            partitions: plan.wanted.partitions,
            durability: durability.to_owned(),
            connections: plan.connections,
            in_flight: plan.in_flight,
            batch_records: plan.shape.records,
            record_bytes: plan.shape.value_bytes,
            batch_bytes: plan.shape.batch_bytes(),
            idempotent: plan.idempotent,
            subscribe: plan.subscribe,
            arrivals,
            warmup_s: plan.warmup.as_secs_f64(),
            duration_s: seconds,
            spinning: plan.waiting() == Waiting::Spin,
            cpu: plan.cpu,
            seed: plan.seed,
        },
        Environment::read(plan.data.as_deref()),
        Rates::new(rate, tally, seconds, plan.shape),
        tally,
        usage.map(|(before, after)| {
            let cpu_ns = after.cpu_ns.saturating_sub(before.cpu_ns);
            Server {
                cpu_s: cpu_ns as f64 / 1e9,
                // Over the whole run, warm-up included, as the bytes are.
                cpu_s_per_gb: (total_bytes > 0).then(|| cpu_ns as f64 / total_bytes as f64),
                peak_rss_mib: after.peak_rss_kib as f64 / 1024.0,
            }
        }),
        plan.waiting() == Waiting::Spin,
        plan.duration.as_nanos() as u64,
    )
}
