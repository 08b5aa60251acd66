//! One run from its plan to its report: prepares the stream, connects, gives the machine to a driver on a thread of its
//! own, and turns what it counted into figures.

use super::intervals::{INTERVALS_MAX, Intervals};
use super::link::{Link, LinkPlan};
use super::memory::{Sample, Sampler};
use super::readers::{self, Readers};
use super::subscriber::Subscriber;
use super::{Course, Lengths, Load, Mode, Tally, Waiting, lanes};
use crate::batches::Shape;
use crate::environment::{Environment, Usage};
use crate::keys::{Choice, Keys, RANKS_MAX, Spread};
use crate::progress::{Line, Progress};
use crate::report::{Rates, Report, Server, Workload};
use crate::session::connect;
use crate::setup::{self, Target, Wanted};
use clap::ValueEnum;
use serde::Serialize;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tiderace_base::ids::ProducerId;
use tiderace_io::{Connector, Driver, DriverConfig, Outcome, entropy};

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
    /// Speaks TLS to every node. None: plain.
    pub(crate) tls: Option<Connector>,
    /// The streams.
    pub(crate) wanted: Wanted,
    /// What decides where batches go.
    pub(crate) choice: Choice,
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
    /// Subscribers of each partition, which measure delivery.
    pub(crate) fan_out: usize,
    /// Who reads beside the load.
    pub(crate) readers: readers::Wanted,
    /// Whether what the subscribers get is checked against what was sent.
    pub(crate) verifies: bool,
    /// The pieces in which the measured part is told as well.
    pub(crate) interval: Option<Duration>,
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
        self.wanted.check()?;
        let window = tiderace_base::limits::PRODUCER_WINDOW;
        let places = self.wanted.streams as usize * self.wanted.partitions as usize;
        let lanes = if self.choice.takes_turns() {
            places.div_ceil(self.connections.max(1))
        } else {
            // All that is drawn may fall on one partition.
            1
        };
        if self.connections == 0 || self.in_flight == 0 {
            return Err("connections and batches in flight are at least 1".to_owned());
        }
        if !(1..=RANKS_MAX).contains(&self.choice.key_count) {
            return Err(format!("there are 1 to {RANKS_MAX} keys"));
        }
        if self.readers.slow > 0 && self.readers.slow_bytes_per_s == 0 {
            return Err(
                "a slow subscriber reads something: --slow-rate is more than zero".to_owned(),
            );
        }
        if self.idempotent && self.in_flight > window * lanes {
            return Err(format!(
                "a producer may have {window} batches in flight to one partition; take fewer, or --idempotent false"
            ));
        }
        if self.verifies && (!self.idempotent || self.fan_out == 0) {
            return Err(
                "what is delivered can be checked only where batches are numbered and somebody subscribes"
                    .to_owned(),
            );
        }
        if let Some(interval) = self.interval
            && (interval.is_zero()
                || self.duration.as_nanos().div_ceil(interval.as_nanos())
                    > u128::from(INTERVALS_MAX))
        {
            return Err(format!(
                "a run has at most {INTERVALS_MAX} intervals: take a longer --interval"
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

/// What a run brought.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) report: Report,
    pub(crate) tally: Tally,
    /// Memory over time, of a run in intervals.
    pub(crate) memory: Vec<Sample>,
}

/// Carries out a plan. A run that ends early, for example because the server went away, has a report that says so.
///
/// # Errors
/// A sentence for people: nothing was measured.
pub(crate) fn execute(plan: &Plan) -> Result<Measured, String> {
    plan.check()?;
    let target = setup::prepare(plan.server, plan.tls.as_ref(), &plan.wanted)?;
    measure(plan, &target)
}

/// Carries out a plan on streams that are there.
///
/// # Errors
/// A sentence for people: nothing was measured.
pub(crate) fn measure(plan: &Plan, target: &Target) -> Result<Measured, String> {
    plan.check()?;
    // Before anything runs: afterwards the load average is our own.
    let environment = Environment::read(plan.data.as_deref());
    let run = entropy::random_u64() | 1;
    let identity = setup::identity();
    let mut links = Vec::new();
    let mut addresses = Vec::new();
    let lanes = lanes(plan.choice, target, plan.connections, plan.seed)?;
    for (index, (lanes, weight)) in lanes.into_iter().enumerate() {
        addresses.push(lanes.places()[0].address);
        let producer = if plan.idempotent {
            (index as u128 + 1) << 64 | u128::from(run)
        } else {
            0
        };
        links.push(Link::new(
            &identity,
            LinkPlan {
                lanes,
                shape: plan.shape,
                in_flight: plan.in_flight,
                producer: ProducerId::new(producer),
                weight,
                seed: plan.seed.wrapping_add(index as u64),
            },
        ));
    }
    let mut subscribers = Vec::new();
    if plan.fan_out > 0 {
        let groups = readers::groups(target);
        for _ in 0..plan.fan_out {
            for (address, places) in &groups {
                addresses.push(*address);
                subscribers.push(Subscriber::new(&identity, places, run, plan.verifies));
            }
        }
    }
    let progress = Arc::new(Progress::default());
    let readers = Readers::begin(plan.readers, target, &progress)?;
    let sockets = addresses
        .iter()
        .map(|address| connect(*address))
        .collect::<Result<Vec<_>, _>>()?;
    let load = Load::new(
        Course {
            mode: plan.mode,
            waiting: plan.waiting(),
            lengths: Lengths {
                warmup_ns: plan.warmup.as_nanos() as u64,
                duration_ns: plan.duration.as_nanos() as u64,
                patience_ns: plan.patience.as_nanos() as u64,
            },
            seed: plan.seed,
        },
        links,
        subscribers,
        Tally {
            intervals: plan
                .interval
                .map(|interval| Intervals::new(interval.as_nanos() as u64)),
            ..Tally::new(plan.fan_out as u64)
        },
        Arc::clone(&progress),
    );
    let before = plan.server_pid.and_then(Usage::of);
    let begun = Instant::now();
    let sampler = plan
        .interval
        .map(|interval| Sampler::begin(interval, plan.server_pid, &progress));
    let line = Line::draw(&progress, "batches");
    let tally = drive(plan.cpu, plan.tls.as_ref(), sockets, load);
    drop(line);
    let used = before
        .zip(plan.server_pid.and_then(Usage::of))
        .map(|(before, after)| Used {
            cpu_ns: after.cpu_ns.saturating_sub(before.cpu_ns),
            elapsed_s: begun.elapsed().as_secs_f64(),
            peak_rss_kib: after.peak_rss_kib,
        });
    let memory = sampler.map_or_else(Vec::new, Sampler::end);
    let readers = readers.end();
    let tally = tally?;
    let report = report(
        plan,
        environment,
        &target.durability.to_string(),
        &tally,
        readers,
        used,
    );
    Ok(Measured {
        report,
        tally,
        memory,
    })
}

/// What the server's process used from the first hello to the last answer.
#[derive(Clone, Copy, Debug)]
struct Used {
    cpu_ns: u64,
    elapsed_s: f64,
    peak_rss_kib: u64,
}

fn drive(
    cpu: Option<usize>,
    tls: Option<&Connector>,
    sockets: Vec<TcpStream>,
    mut load: Load,
) -> Result<Tally, String> {
    let mut driver = Driver::new(DriverConfig {
        cpu,
        connections_max: sockets.len(),
        ..DriverConfig::default()
    })
    .map_err(|error| error.to_string())?;
    let adopter = driver.adopter();
    for socket in sockets {
        match tls {
            None => adopter.adopt(socket),
            Some(tls) => adopter.adopt_tls(socket, tls),
        }
        .map_err(|error| error.to_string())?;
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

fn report(
    plan: &Plan,
    environment: Environment,
    durability: &str,
    tally: &Tally,
    readers: readers::Report,
    used: Option<Used>,
) -> Report {
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
            streams: plan.wanted.streams,
            stream_spread: plan.choice.spread,
            stream_theta: (plan.choice.spread == Spread::Zipf).then_some(plan.choice.stream_theta),
            partitions: plan.wanted.partitions,
            keys: plan.choice.keys,
            key_count: matches!(plan.choice.keys, Keys::Uniform | Keys::Zipf)
                .then_some(plan.choice.key_count),
            key_theta: (plan.choice.keys == Keys::Zipf).then_some(plan.choice.key_theta),
            durability: durability.to_owned(),
            connections: plan.connections,
            in_flight: plan.in_flight,
            batch_records: plan.shape.records,
            record_bytes: plan.shape.value_bytes,
            batch_bytes: plan.shape.batch_bytes(),
            tls: plan.tls.is_some(),
            idempotent: plan.idempotent,
            fan_out: plan.fan_out,
            arrivals,
            warmup_s: plan.warmup.as_secs_f64(),
            duration_s: seconds,
            spinning: plan.waiting() == Waiting::Spin,
            cpu: plan.cpu,
            seed: plan.seed,
        },
        environment,
        Rates::new(
            rate,
            tally,
            seconds,
            plan.shape.records,
            plan.shape.batch_bytes(),
        ),
        tally,
        readers,
        used.map(|used| {
            let cpu_s = used.cpu_ns as f64 / 1e9;
            Server {
                cpu_s,
                cores: cpu_s / used.elapsed_s,
                // Over the whole run, warm-up included, as the bytes are.
                cpu_s_per_gb: (total_bytes > 0).then(|| used.cpu_ns as f64 / total_bytes as f64),
                peak_rss_mib: used.peak_rss_kib as f64 / 1024.0,
            }
        }),
        plan.waiting() == Waiting::Spin,
        plan.duration.as_nanos() as u64,
    )
}
