//! A running node: opens what it owns in an order in which a refusal costs nothing, recovers, then gives each machine its
//! thread and waits. Ends in order when asked (shards first, then control, which they may still need), at once when a
//! machine cannot go on, and always says why.

mod boot;
mod descriptors;
mod threads;

use crate::admin::{self, Signal};
use crate::config::Config;
use crate::directory::{self, Asked, DataDirectory, Layout};
use crate::exit::{Exit, Failure};
use crate::health::{Health, Phase};
use crate::listen::Sockets;
use crate::units;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};
use threads::{Threads, Told, Which};
use tiderace_base::catalogue::Durability;
use tiderace_base::limits::{CONNECTIONS_PER_SHARD_MAX, MIB};
use tiderace_io::{JournalDirectory, pin};

/// Cores when the kernel does not say which there are.
const CORES_UNKNOWN: usize = 1;

/// A node whose threads run.
pub(crate) struct Running {
    /// What clients connect to.
    pub(crate) server: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) shards: u16,
    /// The kind of file system that the data lies on, when the kernel says.
    pub(crate) file_system: Option<String>,
    health: Arc<Health>,
    threads: Threads,
    ask: Sender<Told>,
    told: Receiver<Told>,
    drain_timeout: Duration,
    /// No other process may open the data directory before this one's threads have ended.
    _root: JournalDirectory,
}

/// Opens, recovers and starts a node.
pub(crate) fn start(config: &Config) -> Result<Running, Failure> {
    let begun = Instant::now();
    let cores = pin::allowed().unwrap_or_default();
    let core_count = cores.len().max(CORES_UNKNOWN);
    let asked = Asked {
        shards: config.shards,
        segment_bytes: config.is_segment_asked.then_some(config.segment_bytes),
        otherwise: Layout {
            shards: u16::try_from(core_count.min(tiderace_base::limits::SHARDS_MAX)).unwrap_or(1),
            segment_bytes: config.segment_bytes,
        },
    };
    let limit = descriptors::raise();
    // Before a directory is made or a runtime is: both fail without descriptors, and neither says what it takes. How many
    // shards a directory has is known once it is open, and one at least.
    let shards_least = match config.shards {
        Some(shards) => shards,
        None if directory::is_first_start(&config.data_dir) => asked.otherwise.shards,
        None => 1,
    };
    descriptors::divide(limit, shards_least, config.peers.is_some())?;
    let directory = DataDirectory::open(&config.data_dir, asked)?;
    let file_system = directory::file_system(&config.data_dir);
    let shards = directory.layout.shards;
    let share = descriptors::divide(limit, shards, config.peers.is_some())?;
    if share.connections_served < CONNECTIONS_PER_SHARD_MAX {
        tracing::info!(
            limit,
            connections = share.connections_served,
            "the limit of open files bounds the connections of each shard"
        );
    }
    warn_of_surprises(config, shards, core_count, file_system.as_deref());
    let sockets = Sockets::bind(config, shards)?;
    let admin_listener = admin::bind(config.admin_listen)?;
    let admin = admin_listener.local_addr().unwrap_or(config.admin_listen);
    let server = sockets.shared;

    let health = Arc::new(Health::default());
    let (ask, told) = channel();
    let (seen_by_signal, ask_by_signal) = (Arc::clone(&health), ask.clone());
    admin::start(
        admin_listener,
        Arc::clone(&health),
        move |signal: Signal| {
            // While it recovers, nothing was promised yet.
            let may_wait = seen_by_signal.phase() != Phase::Recovering;
            may_wait && ask_by_signal.send(Told::Stop(signal.name())).is_ok()
        },
    )?;

    let node = boot::NodeSettings::of(config, &directory, &sockets, share)?;
    node.check()?;
    // The rings before the journals: a kernel that refuses them is known before anything is read or written.
    let pinned = if config.pin { cores } else { Vec::new() };
    let drivers = threads::drivers(&node, &directory, sockets, &pinned, config.busy_poll)?;
    let machines = boot::recover(&node, &directory)?;
    let threads = Threads::start(drivers, machines, &health, &ask)?;
    health.enter(Phase::Running);
    tracing::info!(
        %server,
        %admin,
        shards,
        data_dir = %config.data_dir.display(),
        file_system = file_system.as_deref().unwrap_or("unknown"),
        first_start = directory.is_new,
        recovered_in_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        version = env!("CARGO_PKG_VERSION"),
        "the node runs"
    );
    Ok(Running {
        server,
        admin,
        shards,
        file_system,
        health,
        threads,
        ask,
        told,
        drain_timeout: config.drain_timeout,
        _root: directory.root,
    })
}

/// Says at the start what an operator would rather read now than find out later.
fn warn_of_surprises(config: &Config, shards: u16, cores: usize, file_system: Option<&str>) {
    if let Some(kind) = file_system.filter(|kind| directory::is_memory(kind)) {
        tracing::warn!(data_dir = %config.data_dir.display(), "lies on {kind}, which is memory: nothing survives a power loss");
    }
    let is_beyond = !config.listen.ip().is_loopback() || !config.shard_listen.ip().is_loopback();
    match &config.tls {
        None if is_beyond => tracing::warn!(
            "listens beyond loopback without TLS: everyone who reaches the port may read and write"
        ),
        Some(tls) if is_beyond && tls.client_ca.is_none() => tracing::warn!(
            "listens beyond loopback without tls_client_ca: everyone who trusts the node may read and write"
        ),
        _ => {}
    }
    if config.durability == Durability::Memory {
        tracing::warn!(
            "streams that do not say otherwise are acknowledged from memory: a crash loses them"
        );
    }
    if usize::from(shards) > cores {
        tracing::warn!(shards, cores, "more shards than cores: they share them");
    }
}

impl Running {
    /// Waits until every shard serves.
    pub(crate) fn wait_ready(&self) -> Result<(), Failure> {
        const LOOK_EVERY: Duration = Duration::from_millis(1);
        const READY_WITHIN: Duration = Duration::from_secs(60);
        let begun = Instant::now();
        while let Some(why) = self.health.unready() {
            self.rest(LOOK_EVERY)?;
            if begun.elapsed() > READY_WITHIN {
                let within = units::show_duration(READY_WITHIN);
                return Err(Failure::new(
                    Exit::Failed,
                    format!("the node is not ready after {within}: {why}"),
                ));
            }
        }
        Ok(())
    }

    /// Waits until the disk is left alone, at most `most`: a first start prepares journal files behind everything else.
    pub(crate) fn wait_quiet(&self, most: Duration) -> Result<(), Failure> {
        const QUIET: Duration = Duration::from_millis(200);
        let begun = Instant::now();
        let mut before = None;
        loop {
            let completions = Some(self.health.sum("driver", "completions_total"));
            if completions == before || begun.elapsed() > most {
                return Ok(());
            }
            before = completions;
            self.rest(QUIET)?;
        }
    }

    /// Lets `time` pass unless the node ends meanwhile.
    fn rest(&self, time: Duration) -> Result<(), Failure> {
        match self.told.recv_timeout(time) {
            Ok(Told::Ended(which, how)) => Err(how.failure(&which)),
            Ok(Told::Stop(by)) => {
                // Whoever waits next is told again.
                drop(self.ask.send(Told::Stop(by)));
                Err(Failure::new(
                    Exit::Failed,
                    format!("stopped by {by} before the node was ready"),
                ))
            }
            Err(_) => Ok(()),
        }
    }

    /// Asks for an orderly end, as a signal does.
    pub(crate) fn stop(&self) {
        // The receiver lives as long as this.
        drop(self.ask.send(Told::Stop("the program")));
    }

    /// Waits for the end: orderly when it was asked for, otherwise with the reason.
    pub(crate) fn wait(mut self) -> Result<(), Failure> {
        let mut drain_until: Option<Instant> = None;
        loop {
            let told = match drain_until {
                None => self.told.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(until) => self
                    .told
                    .recv_timeout(until.saturating_duration_since(Instant::now())),
            };
            match told {
                Ok(Told::Stop(by)) => {
                    if self.health.enter(Phase::Draining) {
                        tracing::info!(by, timeout = %units::show_duration(self.drain_timeout), "drains; a second signal ends at once");
                        drain_until = Some(Instant::now() + self.drain_timeout);
                        self.threads.stop_shards();
                    }
                }
                Ok(Told::Ended(which, how)) => {
                    if !how.is_stopped() || drain_until.is_none() {
                        let failure = how.failure(&which);
                        tracing::error!(thread = %which, exit_code = failure.exit.code(), "{failure}");
                        return Err(failure);
                    }
                    self.threads.ended(&which);
                    if which != Which::Control && self.threads.shards_have_ended() {
                        self.threads.stop_control();
                    }
                    if self.threads.have_ended() {
                        tracing::info!("stopped in order");
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    let what = format!(
                        "the drain took longer than {}: {} did not end",
                        units::show_duration(self.drain_timeout),
                        self.threads.alive().join(", ")
                    );
                    return Err(Failure::new(Exit::DrainTimeout, what)
                        .hint("acknowledged events are safe; look at the disk, or raise drain_timeout: readers alone take up to 5 s of it"));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::new(
                        Exit::ThreadDied,
                        "every thread of the node is gone",
                    ));
                }
            }
        }
    }
}

/// Memory for all shards when nobody says how much.
const fn memory_bytes_default(shards: u16) -> usize {
    64 * MIB * shards as usize
}
