//! One thread for each machine of a node: a shard's is pinned, control's is not. A thread says how it ended, also when it
//! dies of a panic; nobody polls.

use super::boot::{Machines, NodeSettings};
use super::descriptors::LINKS_MAX;
use crate::directory::DataDirectory;
use crate::exit::{Exit, Failure};
use crate::health::{Counted, Health, Take};
use crate::listen::Sockets;
use core::fmt;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;
use tiderace_base::ids::ShardId;
use tiderace_base::limits::KIB;
use tiderace_base::mesh::Peer;
use tiderace_base::operation::{Fatal, Machine};
use tiderace_io::{
    Counters, Driver, DriverConfig, MeshBuilder, NodeLinks, Outcome, StartError, StopHandle,
};

/// A thread of the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Which {
    Control,
    Shard(u16),
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Control => f.write_str("control"),
            Self::Shard(shard) => write!(f, "shard-{shard}"),
        }
    }
}

/// How a thread ended.
#[derive(Debug)]
pub(crate) enum How {
    Ran(Outcome),
    /// It panicked; the panic is in the log.
    Died,
}

impl How {
    pub(crate) const fn is_stopped(&self) -> bool {
        matches!(self, Self::Ran(Outcome::Stopped))
    }

    /// Why the node ends because of this.
    pub(crate) fn failure(&self, which: &Which) -> Failure {
        match self {
            Self::Ran(Outcome::Stopped) => Failure::new(Exit::ThreadDied, format!("{which} stopped although nobody asked it to")),
            Self::Ran(Outcome::Fatal(fatal)) => fatal_failure(which, fatal),
            Self::Ran(Outcome::NotStarted(error)) => start_failure(error),
            Self::Died => Failure::new(Exit::ThreadDied, format!("{which} died of a bug; the panic stands above"))
                .hint("report it with this log, then start again: recovery keeps every acknowledged event"),
        }
    }
}

fn fatal_failure(which: &Which, fatal: &Fatal) -> Failure {
    let exit = match fatal {
        Fatal::JournalWrite(_) => Exit::JournalWrite,
        Fatal::JournalSync(_) => Exit::JournalSync,
        Fatal::Superblock(_) => Exit::Superblock,
        Fatal::Corruption(_) => Exit::Corruption,
        Fatal::RingRefused(_) => Exit::RingRefused,
        Fatal::NotAdmitted(_) => Exit::NotAdmitted,
    };
    Failure::new(exit, format!("{which}: {fatal}"))
}

fn start_failure(error: &StartError) -> Failure {
    match error {
        StartError::RingRefused(_) => Failure::new(Exit::RingRefused, error.to_string()),
        StartError::CpuRefused { .. } => {
            Failure::new(Exit::Config, error.to_string()).hint("start with --pin false")
        }
        StartError::Resource(_) => Failure::new(Exit::Failed, error.to_string()),
    }
}

/// What the threads and the signals say to whoever waits for the node.
#[derive(Debug)]
pub(crate) enum Told {
    /// Somebody asks for an orderly end.
    Stop(&'static str),
    /// A thread has ended.
    Ended(Which, How),
}

/// The drivers of a node, before their threads.
#[derive(Debug)]
pub(crate) struct Drivers {
    control: Driver,
    shards: Vec<Driver>,
}

/// Makes every driver: rings, buffers, mesh. Shards are pinned to `cores` in turn; none are when it is empty.
pub(crate) fn drivers(
    node: &NodeSettings,
    directory: &DataDirectory,
    sockets: Sockets,
    cores: &[usize],
    busy_poll: Duration,
) -> Result<Drivers, Failure> {
    let mut peers: Vec<Peer> = (0..node.shards())
        .map(|shard| Peer::Shard(ShardId::new(shard)))
        .collect();
    peers.push(Peer::Control);
    let mut ends = MeshBuilder::new(&peers)
        .map_err(|error| resource(&error))?
        .into_ends();
    let control_end = ends.pop();
    let (receive_buffers, receive_buffer_bytes) = node.receive_buffers();
    let mut shards = Vec::with_capacity(ends.len());
    for (index, ((end, listeners), journal)) in ends
        .into_iter()
        .zip(sockets.listeners)
        .zip(&directory.shards)
        .enumerate()
    {
        let config = DriverConfig {
            journal: Some(journal.clone()),
            listeners,
            mesh: Some(end),
            cpu: (!cores.is_empty()).then(|| cores[index % cores.len()]),
            receive_buffers,
            receive_buffer_bytes,
            connections_max: node.share.connections_max,
            files_open_max: node.share.files_max,
            busy_poll_ns: u64::try_from(busy_poll.as_nanos()).unwrap_or(u64::MAX),
            ..DriverConfig::default()
        };
        let driver = Driver::new(config).map_err(|error| start_failure(&error))?;
        if index == 0 {
            tracing::debug!("each shard: {}", driver.report());
        }
        if let Some(why) = &driver.report().direct_io_refused {
            tracing::warn!(
                why,
                "the file system refuses direct io: the journal goes through the page cache, durable all the same"
            );
        }
        shards.push(driver);
    }
    let links = node.identity.clone().zip(sockets.peers);
    let links = links.map(|(identity, (door, _))| NodeLinks {
        links_max: LINKS_MAX,
        ..NodeLinks::new(identity, Some(door))
    });
    // Control accepts no clients; by itself it wants a few all the same.
    let (receive_buffers, receive_buffer_bytes) = match links {
        Some(_) => (32, 32 * KIB),
        None => (2, 4 * KIB),
    };
    let config = DriverConfig {
        journal: Some(directory.control.clone()),
        mesh: control_end,
        links,
        receive_buffers,
        receive_buffer_bytes,
        connections_max: 1,
        files_open_max: node.share.files_max,
        submission_entries: 64,
        completion_entries: 256,
        ..DriverConfig::default()
    };
    let control = Driver::new(config).map_err(|error| start_failure(&error))?;
    Ok(Drivers { control, shards })
}

fn resource(error: &io::Error) -> Failure {
    Failure::new(
        Exit::Failed,
        format!("a resource of the node could not be had: {error}"),
    )
    .hint("raise the limit on open files (ulimit -n, LimitNOFILE=)")
}

/// The threads of a running node.
#[derive(Debug)]
pub(crate) struct Threads {
    control: StopHandle,
    shards: Vec<StopHandle>,
    alive: Vec<Which>,
}

impl Threads {
    /// Starts every thread, control first. What they count goes to `health`, how they end to `told`.
    pub(crate) fn start(
        drivers: Drivers,
        machines: Machines,
        health: &Health,
        told: &Sender<Told>,
    ) -> Result<Self, Failure> {
        let control = drivers.control.stop_handle();
        let shards = drivers.shards.iter().map(Driver::stop_handle).collect();
        let mut counted = vec![driver_counted(Which::Control, drivers.control.counters())];
        counted.extend(machines.counted);
        let mut alive = vec![Which::Control];
        spawn(Which::Control, drivers.control, machines.node.control, told)?;
        for (index, (driver, machine)) in drivers
            .shards
            .into_iter()
            .zip(machines.node.shards)
            .enumerate()
        {
            let which = Which::Shard(u16::try_from(index).unwrap_or(u16::MAX));
            counted.push(driver_counted(which, driver.counters()));
            alive.push(which);
            spawn(which, driver, machine, told)?;
        }
        health.attach(counted);
        Ok(Self {
            control,
            shards,
            alive,
        })
    }

    pub(crate) fn stop_shards(&self) {
        for shard in &self.shards {
            shard.stop();
        }
    }

    pub(crate) fn stop_control(&self) {
        self.control.stop();
    }

    pub(crate) fn ended(&mut self, which: &Which) {
        self.alive.retain(|alive| alive != which);
    }

    pub(crate) fn shards_have_ended(&self) -> bool {
        self.alive.iter().all(|alive| *alive == Which::Control)
    }

    pub(crate) fn have_ended(&self) -> bool {
        self.alive.is_empty()
    }

    pub(crate) fn alive(&self) -> Vec<String> {
        self.alive.iter().map(Which::to_string).collect()
    }
}

/// Says that its thread died unless it said otherwise before.
struct LastWord {
    which: Which,
    told: Sender<Told>,
    how: How,
}

impl LastWord {
    fn says(mut self, how: How) {
        self.how = how;
    }
}

impl Drop for LastWord {
    fn drop(&mut self) {
        let how = core::mem::replace(&mut self.how, How::Died);
        // Nobody waits for the node any more: then nobody needs to know.
        drop(self.told.send(Told::Ended(self.which, how)));
    }
}

fn spawn<M: Machine + Send + 'static>(
    which: Which,
    mut driver: Driver,
    mut machine: M,
    told: &Sender<Told>,
) -> Result<(), Failure> {
    let last_word = LastWord {
        which,
        told: told.clone(),
        how: How::Died,
    };
    let run = move || {
        let outcome = driver.run(&mut machine);
        // Connections close and files are let go before anyone hears that this thread has ended.
        drop(driver);
        last_word.says(How::Ran(outcome));
    };
    let thread = std::thread::Builder::new().name(which.to_string());
    thread
        .spawn(run)
        .map(drop)
        .map_err(|error| resource(&error))
}

fn driver_counted(which: Which, counters: Arc<Counters>) -> Counted {
    let label = match which {
        Which::Control => "control".to_owned(),
        Which::Shard(shard) => shard.to_string(),
    };
    let source = move |take: &mut Take<'_>| {
        for (name, help, counter) in [
            ("turns_total", "Turns taken.", &counters.turns),
            (
                "sleeps_total",
                "Turns that waited for something to happen.",
                &counters.sleeps,
            ),
            (
                "polls_total",
                "Turns that found something to do by looking for it, where they would have slept.",
                &counters.polls,
            ),
            (
                "completions_total",
                "Completions taken from the ring.",
                &counters.completions,
            ),
            (
                "queue_overflows_total",
                "Turns that found more completions than the queue holds.",
                &counters.queue_overflows,
            ),
            (
                "accepted_total",
                "Connections accepted.",
                &counters.accepted,
            ),
            (
                "turned_away_total",
                "Connections closed at once because there were too many.",
                &counters.turned_away,
            ),
            (
                "tls_opened_total",
                "TLS handshakes that were completed.",
                &counters.tls_opened,
            ),
            (
                "tls_failed_total",
                "TLS connections that failed: no handshake in its time, a certificate that is not trusted, damaged records.",
                &counters.tls_failed,
            ),
            ("received_total", "Pieces received.", &counters.received),
            (
                "received_copied_total",
                "Pieces copied out because receive buffers ran short.",
                &counters.received_copied,
            ),
            (
                "receive_starved_total",
                "Receives that had to wait for a buffer.",
                &counters.receive_starved,
            ),
            (
                "sends_continued_total",
                "Sends that the network took in more than one piece.",
                &counters.sends_continued,
            ),
            (
                "writes_copied_total",
                "Writes whose memory was not aligned.",
                &counters.writes_copied,
            ),
            (
                "disk_continued_total",
                "Reads and writes that the disk did in more than one piece.",
                &counters.disk_continued,
            ),
            (
                "opens_repeated_total",
                "Opens of journal files that found no descriptor and were tried again.",
                &counters.opens_repeated,
            ),
            (
                "reads_held_total",
                "Reads that waited because as many journal files were open as may be.",
                &counters.reads_held,
            ),
            (
                "mesh_waited_total",
                "Messages that had to wait because the mesh was full.",
                &counters.mesh_waited,
            ),
        ] {
            take(name, help, counter.get());
        }
    };
    Counted {
        family: "driver",
        label,
        source: Box::new(source),
        serves: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiderace_base::disk::DiskError;

    #[test]
    fn each_way_to_end_has_its_own_code_and_sentence() {
        let disk = DiskError::Io(5);
        let cases = [
            (
                How::Ran(Outcome::Fatal(Fatal::JournalWrite(disk))),
                70,
                "errno 5",
            ),
            (
                How::Ran(Outcome::Fatal(Fatal::JournalSync(disk))),
                71,
                "never retried",
            ),
            (
                How::Ran(Outcome::Fatal(Fatal::Superblock(disk))),
                72,
                "superblock",
            ),
            (
                How::Ran(Outcome::Fatal(Fatal::Corruption(
                    "segment-00000001".to_owned(),
                ))),
                73,
                "segment-00000001",
            ),
            (
                How::Ran(Outcome::Fatal(Fatal::RingRefused("EPERM".to_owned()))),
                74,
                "io_uring",
            ),
            (
                How::Ran(Outcome::NotStarted(StartError::RingRefused(
                    "EPERM".to_owned(),
                ))),
                74,
                "io_uring",
            ),
            (How::Ran(Outcome::Stopped), 75, "nobody asked"),
            (How::Died, 75, "died of a bug"),
        ];
        for (how, code, words) in cases {
            let failure = how.failure(&Which::Shard(3));
            assert_eq!(failure.exit.code(), code, "{how:?}");
            assert!(failure.to_string().contains(words), "{failure}");
        }
    }

    #[test]
    fn a_thread_that_panics_is_told_of() {
        let (told, hears) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let _last_word = LastWord {
                which: Which::Control,
                told,
                how: How::Died,
            };
            std::panic::resume_unwind(Box::new("planted"));
        });
        assert!(thread.join().is_err());
        assert!(matches!(
            hears.recv(),
            Ok(Told::Ended(Which::Control, How::Died))
        ));
    }
}
