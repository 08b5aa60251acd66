//! Runs a journal on a disk in memory: executes what it asks for, one operation after the other and at once, feeds the
//! checkpoints that it wants, and keeps what it answers.

use crate::journal::disk::ImageDisk;
use crate::journal::owner::{CELL, Owner, key};
use std::collections::BTreeMap;
use tiderace_base::disk::Disk;
use tiderace_base::ids::{BootId, NodeId, PartitionKey};
use tiderace_base::limits::KIB;
use tiderace_base::operation::{Effect, Effects, Event, Fatal};
use tiderace_base::position::{Lsn, Offset};
use tiderace_base::time::{Now, Wall};
use tiderace_storage::{
    Journal, OpenError, Output, ReadBatches, ReadError, Scrubbing, Settings, Starts, open,
};

/// The settings of every journal here: small parts, so that a small image has many of them.
pub(crate) fn settings(seed: u64, checkpoint_every_bytes: u64) -> Settings {
    Settings {
        segment_bytes: 64 * KIB as u64,
        chunk_bytes_max: 16 * KIB,
        chunks_inflight_max: 2,
        region_bytes: 32 * KIB,
        regions_max: 4,
        tail_bytes_max: 32 * KIB,
        footer_cache_bytes: 24 * KIB,
        read_bytes_max: 8 * KIB,
        checkpoint_every_bytes,
        scrubbing: Scrubbing {
            bytes_per_second: 0,
            first_after_ns: 0,
            every_ns: 0,
        },
        ..Settings::serving(NodeId::new(1), BootId::new(seed), 0, 1, seed)
    }
}

/// Operations that one call may lead to before something is thought to go round in circles.
const OPERATIONS_MAX: usize = 100_000;

struct Known<'a>(&'a BTreeMap<u64, u64>);

impl Starts for Known<'_> {
    fn start_of(&self, key_of: PartitionKey) -> Option<Offset> {
        let start = self.0.iter().find(|(number, _)| key(**number) == key_of);
        Some(start.map_or(Offset::ZERO, |(_, start)| Offset::new(*start)))
    }
}

/// An open journal and its disk.
pub(crate) struct Driven {
    pub(crate) journal: Journal,
    pub(crate) disk: ImageDisk,
    /// What the owner knows; checkpoints are fed from it.
    pub(crate) owner: Owner,
    pub(crate) now: Now,
    pub(crate) durable: Lsn,
    pub(crate) fatal: Option<Fatal>,
    pub(crate) read_only: bool,
    pub(crate) checkpoints: u64,
    /// Partitions' first kept offsets.
    pub(crate) starts: BTreeMap<u64, u64>,
    answer: Option<Result<ReadBatches, ReadError>>,
    wanted: Option<bool>,
    reclaims: bool,
}

/// Opens what lies on a disk. Gives the disk back when it is refused.
///
/// # Errors
/// As [`open`].
pub(crate) fn start(
    mut disk: ImageDisk,
    settings: Settings,
) -> Result<Driven, (OpenError, ImageDisk)> {
    let mut owner = Owner::default();
    let now = Now::default();
    match open(&mut disk, settings, now, &mut owner) {
        Ok(journal) => Ok(Driven {
            durable: journal.durable_lsn(),
            journal,
            disk,
            owner,
            now,
            fatal: None,
            read_only: false,
            checkpoints: 0,
            starts: BTreeMap::new(),
            answer: None,
            wanted: None,
            reclaims: false,
        }),
        Err(error) => Err((error, disk)),
    }
}

impl Driven {
    /// Time passes, and what waited for it happens.
    pub(crate) fn pass(&mut self, ns: u64) {
        self.now = Now {
            mono: self.now.mono.after_ns(ns),
            wall: Wall::from_us(self.now.wall.as_us() + ns / 1000),
        };
        let mut effects = Effects::new();
        if self
            .journal
            .next_wake()
            .is_some_and(|at| at <= self.now.mono)
        {
            self.journal.tick(self.now, &mut effects);
        }
        self.execute(effects);
    }

    /// Everything that was appended becomes durable, and checkpoints that are wanted are made.
    pub(crate) fn settle(&mut self) {
        for _ in 0..OPERATIONS_MAX {
            let mut effects = Effects::new();
            self.journal.flush(self.now, &mut effects);
            let idle = effects.is_empty();
            self.execute(effects);
            if let Some(base) = self.wanted.take() {
                self.feed(base);
            } else if core::mem::take(&mut self.reclaims) {
                self.reclaim();
            } else if idle && (self.journal.drained() || self.fatal.is_some()) {
                return;
            } else if idle {
                self.pass(1_000_000_000);
            }
        }
        panic!("the journal never settles");
    }

    /// Executes what is asked for, until nothing more is.
    pub(crate) fn execute(&mut self, effects: Effects) {
        let mut waiting: std::collections::VecDeque<Effect> = effects.into_iter().collect();
        let mut operations = 0;
        while let Some(effect) = waiting.pop_front() {
            operations += 1;
            assert!(
                operations < OPERATIONS_MAX,
                "the journal goes round in circles"
            );
            let event = self.perform(effect);
            let mut effects = Effects::new();
            let mut out = Vec::new();
            self.journal.step(self.now, event, &mut effects, &mut out);
            waiting.extend(effects);
            for output in out {
                self.take(output);
            }
        }
    }

    fn perform(&mut self, effect: Effect) -> Event {
        match effect {
            Effect::Write {
                op, file, at, data, ..
            } => Event::Written {
                op,
                result: self.disk.write(file, at, &data),
            },
            Effect::Read { op, file, at, len } => {
                let mut bytes = vec![0; len as usize];
                let result = self.disk.read(file, at, &mut bytes);
                Event::ReadDone {
                    op,
                    result: result.map(|()| bytes.into()),
                }
            }
            Effect::Sync { op, file } => Event::Synced {
                op,
                result: self.disk.sync(file),
            },
            Effect::Prepare { op, file, bytes } => Event::Prepared {
                op,
                result: self.disk.create(file, bytes),
            },
            Effect::Remove { op, file } => Event::Removed {
                op,
                result: self.disk.remove(file),
            },
            other => panic!("a journal does not ask for {other:?}"),
        }
    }

    fn take(&mut self, output: Output) {
        match output {
            Output::Durable(lsn) => {
                assert!(lsn > self.durable, "what is durable only grows");
                self.durable = lsn;
            }
            Output::Read { result, .. } => self.answer = Some(result),
            Output::CheckpointWanted { base } => self.wanted = Some(base),
            Output::CheckpointDone => self.checkpoints += 1,
            Output::ReadOnly(read_only) => self.read_only = read_only,
            Output::ReclaimMore => self.reclaims = true,
            Output::Fatal(fatal) => self.fatal = Some(fatal),
            Output::Time { .. } | Output::Room | Output::Damaged(_) => {}
        }
    }

    fn feed(&mut self, _base: bool) {
        let mut effects = Effects::new();
        // All of it, also for a delta: a cell that did not change may be said again.
        for (number, state) in &self.owner.states {
            let key = number.to_le_bytes();
            self.journal
                .checkpoint_cell(CELL, &key, Some(&state.encode()), &mut effects);
        }
        self.journal.checkpoint_finish(&mut effects);
        self.execute(effects);
    }

    /// Segments that nobody needs any more may go.
    pub(crate) fn reclaim(&mut self) {
        let mut effects = Effects::new();
        self.journal.reclaim(&Known(&self.starts), &mut effects);
        self.execute(effects);
    }

    /// Reads a partition from an offset on. None: no answer came, because the journal has failed.
    pub(crate) fn read(
        &mut self,
        number: u64,
        from: u64,
        bytes_max: usize,
    ) -> Option<Result<ReadBatches, ReadError>> {
        let mut effects = Effects::new();
        self.journal
            .read(key(number), Offset::new(from), bytes_max, &mut effects);
        self.answer = None;
        self.execute(effects);
        self.answer.take()
    }
}
