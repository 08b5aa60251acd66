//! Writes a small journal on a simulated disk, with full segments, footers, checkpoints and an open end, and remembers what
//! it wrote. The owner's state of a partition is a chain of checksums over its entries, so that any entry that is lost,
//! changed, repeated or put elsewhere shows. Invariant: everything that [`Scribe::written`] says was acknowledged.

use std::collections::{BTreeMap, VecDeque};

use tiderace_base::checksum::crc32c;
use tiderace_base::ids::{
    BootId, NodeId, PartitionIndex, PartitionKey, ProducerId, SlotId, StreamId,
};
use tiderace_base::limits::KIB;
use tiderace_base::operation::{Effect, Effects, OpId};
use tiderace_base::position::{Epoch, Lsn, Offset, ProducerEpoch, ProducerSeq, SlotSeq};
use tiderace_base::prng::Prng;
use tiderace_base::time::{Mono, Now, Wall};
use tiderace_storage::{Class, EntryMeta, Journal, Output, Replay, Settings, open};
use tiderace_wire::batch::{Attributes, BatchHeader, Placement, ProducerPart};
use tiderace_wire::entry::EntryKind;

use sim::world::disk::{Ending, Operation, Power, SimDisk};

/// The owner's own kind of cell.
pub(super) const CELL: u8 = 16;
const PARTITIONS: u64 = 3;

/// What the owner knows of a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct State {
    pub(super) next: u64,
    digest: u32,
    applied: u64,
}

impl State {
    fn bytes(self) -> Vec<u8> {
        let words = [self.next, u64::from(self.digest), self.applied];
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn of(bytes: &[u8]) -> Option<Self> {
        let word = |n: usize| {
            let bytes = bytes.get(n * 8..n * 8 + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        Some(Self {
            next: word(0)?,
            digest: word(1)? as u32,
            applied: word(2)?,
        })
    }

    fn apply(&mut self, end: Lsn, next: u64, entry: u32) {
        let mut chain = self.digest.to_le_bytes().to_vec();
        chain.extend_from_slice(&entry.to_le_bytes());
        *self = Self {
            next,
            digest: crc32c(&chain),
            applied: end.get(),
        };
    }
}

/// The state of every partition.
pub(super) type States = BTreeMap<u64, State>;

/// The owner, at a start. What it is told is remembered, and judged when the start has ended.
#[derive(Default)]
pub(super) struct Owner {
    pub(super) states: States,
    /// What no owner may be told.
    pub(super) wrong: Option<String>,
}

impl Replay for Owner {
    fn cell(&mut self, kind: u8, key: &[u8], value: Option<&[u8]>) {
        let number = key.try_into().map(u64::from_le_bytes);
        let state = value.and_then(State::of);
        match (kind, number, state) {
            (CELL, Ok(number), Some(state)) => {
                self.states.insert(number, state);
            }
            _ => self.wrong = Some(format!("a cell of kind {kind} that nobody wrote")),
        }
    }

    fn entry(&mut self, _lsn: Lsn, end: Lsn, header: &BatchHeader, body: &[u8]) {
        if header.entry_kind() != Ok(EntryKind::Data) {
            return;
        }
        let number = u64::from(header.key().partition.get());
        let state = self.states.entry(number).or_default();
        if state.applied >= end.get() {
            return;
        }
        if state.next != header.base_offset().get() {
            self.wrong = Some(format!("partition {number} has a hole at {}", state.next));
        }
        let entry = [header.bytes(), body].concat();
        state.apply(end, header.next_offset().get(), crc32c(&entry));
    }
}

pub(super) fn settings(seed: u64) -> Settings {
    Settings {
        segment_bytes: 64 * KIB as u64,
        chunk_bytes_max: 16 * KIB,
        chunks_inflight_max: 3,
        region_bytes: 32 * KIB,
        regions_max: 4,
        tail_bytes_max: 32 * KIB,
        footer_cache_bytes: 24 * KIB,
        read_bytes_max: 8 * KIB,
        checkpoint_every_bytes: 48 * KIB as u64,
        ..Settings::serving(NodeId::new(1), BootId::new(seed), 0, 1, seed)
    }
}

pub(super) fn now(at_ns: u64) -> Now {
    Now {
        mono: Mono::from_ns(at_ns),
        wall: Wall::from_us(1_700_000_000_000_000 + at_ns / 1000),
    }
}

/// See the module.
pub(super) struct Scribe {
    disk: SimDisk,
    journal: Journal,
    prng: Prng,
    at_ns: u64,
    states: States,
    feeding: Option<bool>,
    slot_seq: u64,
    /// The states behind each entry, by where it ends.
    pub(super) written: BTreeMap<u64, States>,
}

impl Scribe {
    pub(super) fn new(seed: u64) -> Self {
        let mut disk = SimDisk::new(seed, &Power::default());
        let journal = open(&mut disk, settings(seed), now(0), &mut Owner::default())
            .expect("an empty directory is a journal");
        let written = BTreeMap::from([(journal.end_lsn().get(), States::new())]);
        Self {
            disk,
            journal,
            prng: Prng::new(seed),
            at_ns: 1,
            states: States::new(),
            feeding: None,
            slot_seq: 0,
            written,
        }
    }

    /// Appends so many entries, then closes by a pause. The directory.
    pub(super) fn write(mut self, entries: u64) -> (SimDisk, BTreeMap<u64, States>) {
        for _ in 0..entries {
            while !self.append() {
                self.settle();
            }
            if self.prng.chance(1, 3) {
                self.settle();
            }
        }
        self.settle();
        for _ in 0..4 {
            self.at_ns += 50_000_000;
            self.settle();
        }
        assert_eq!(self.journal.durable_lsn(), self.journal.end_lsn());
        (self.disk, self.written)
    }

    fn append(&mut self) -> bool {
        let number = self.prng.below(PARTITIONS);
        let state = self.states.get(&number).copied().unwrap_or_default();
        let mut body = vec![0; self.prng.range(1, 2500) as usize];
        self.prng.fill(&mut body);
        let key = PartitionKey {
            stream: StreamId::new(1),
            partition: PartitionIndex::new(number as u32),
        };
        let records = 1 + self.prng.below(5) as u32;
        let mut header = BatchHeader::producer(ProducerPart {
            attributes: Attributes::NONE,
            key,
            record_count: records,
            body_bytes: body.len() as u32,
            body_crc: crc32c(&body),
            producer_id: ProducerId::new(0),
            producer_seq: ProducerSeq::ZERO,
            producer_epoch: ProducerEpoch::ZERO,
            schema_id: 0,
            first_time_us: 0,
            time_span_us: 0,
        });
        let meta = EntryMeta {
            key: Some(key),
            slot: SlotId::new(number as u16),
            epoch: Epoch::new(1),
            slot_seq: SlotSeq::new(self.slot_seq + 1),
            base_offset: Offset::new(state.next),
            next_offset: Offset::new(state.next + u64::from(records)),
            append_time_us: self.at_ns / 1000,
        };
        header.place(Placement {
            base_offset: meta.base_offset,
            slot_seq: meta.slot_seq,
            epoch: meta.epoch,
            slot: meta.slot,
            entry_kind: EntryKind::Data,
            append_time_us: meta.append_time_us,
        });
        let entry = [&header.bytes()[..], &body].concat();
        let Ok(mut draft) = self.journal.draft(Class::Data, entry.len()) else {
            return false;
        };
        draft.copy(&entry);
        let placed = draft.commit(meta);
        self.slot_seq += 1;
        let state = self.states.entry(number).or_default();
        state.apply(placed.end, meta.next_offset.get(), crc32c(&entry));
        self.written.insert(placed.end.get(), self.states.clone());
        true
    }

    /// Flushes, and lets everything that is asked for happen.
    fn settle(&mut self) {
        let mut effects = Effects::new();
        self.journal.flush(now(self.at_ns), &mut effects);
        self.journal.tick(now(self.at_ns), &mut effects);
        let mut flying: VecDeque<OpId> = VecDeque::new();
        loop {
            for effect in effects.drain(..) {
                if let Some((op, operation)) = operation(effect) {
                    self.disk.submit(op, operation);
                    flying.push_back(op);
                }
            }
            let Some(op) = flying.pop_front() else {
                return;
            };
            self.at_ns += 20_000;
            let event = self.disk.complete(op, Ending::Done).expect("it flies");
            let mut out = Vec::new();
            self.journal
                .step(now(self.at_ns), event, &mut effects, &mut out);
            for output in out {
                match output {
                    Output::CheckpointWanted { base } => self.feeding = Some(base),
                    Output::Fatal(fatal) => panic!("a whole disk, and {fatal}"),
                    _ => {}
                }
            }
            if self.feeding.take().is_some() {
                for (number, state) in &self.states {
                    let key = number.to_le_bytes();
                    let value = state.bytes();
                    self.journal
                        .checkpoint_cell(CELL, &key, Some(&value), &mut effects);
                }
                self.journal.checkpoint_finish(&mut effects);
            }
        }
    }
}

fn operation(effect: Effect) -> Option<(OpId, Operation)> {
    Some(match effect {
        Effect::Write {
            op,
            file,
            at,
            data,
            durable,
        } => (
            op,
            Operation::Write {
                file,
                at,
                data,
                durable,
            },
        ),
        Effect::Read { op, file, at, len } => (op, Operation::Read { file, at, len }),
        Effect::Sync { op, file } => (op, Operation::Sync { file }),
        Effect::Prepare { op, file, bytes } => (op, Operation::Prepare { file, bytes }),
        Effect::Remove { op, file } => (op, Operation::Remove { file }),
        _ => return None,
    })
}
