//! A journal, its disk and an owner whose state is a digest of everything it was told: enough to know exactly which entries
//! a recovery brought back. Completions come in an order that the seed decides.

use super::disk::TestDisk;
use crate::{
    Class, Damage, EntryMeta, Journal, OpenError, Output, Placed, ReadError, ReadId, Refused,
    Replay, Scrubbing, Settings, Starts, open,
};
use std::collections::{BTreeMap, BTreeSet};
use tiderace_base::checksum::crc32c;
use tiderace_base::disk::{Disk, DiskError, JournalFile};
use tiderace_base::ids::{
    BootId, NodeId, PartitionIndex, PartitionKey, ProducerId, SlotId, StreamId,
};
use tiderace_base::limits::KIB;
use tiderace_base::operation::{Effect, Effects, Event, Fatal};
use tiderace_base::position::{Epoch, Lsn, Offset, ProducerEpoch, ProducerSeq, SlotSeq};
use tiderace_base::prng::Prng;
use tiderace_base::time::{Mono, Now, Wall};
use tiderace_wire::batch::{Attributes, BatchHeader, Placement, ProducerPart};
use tiderace_wire::entry::{EntryKind, EpochStart, NO_PARTITION, encode_entry};

pub(super) const CELL: u8 = 16;

pub(super) fn key(n: u64) -> PartitionKey {
    PartitionKey {
        stream: StreamId::new(1 + n / 2),
        partition: PartitionIndex::new((n % 2) as u32),
    }
}

/// What the owner knows of a partition.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct State {
    pub(super) next: u64,
    pub(super) entries: u64,
    pub(super) digest: u32,
    pub(super) applied: u64,
    pub(super) time_us: u64,
}

impl State {
    fn apply(&mut self, end: Lsn, next: u64, bytes_crc: u32, time_us: u64) {
        self.next = next;
        self.entries += 1;
        let mut both = [0; 8];
        both[..4].copy_from_slice(&self.digest.to_le_bytes());
        both[4..].copy_from_slice(&bytes_crc.to_le_bytes());
        self.digest = crc32c(&both);
        self.applied = end.get();
        self.time_us = time_us;
    }

    fn encode(&self) -> Vec<u8> {
        let words = [
            self.next,
            self.entries,
            u64::from(self.digest),
            self.applied,
            self.time_us,
        ];
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn decode(bytes: &[u8]) -> Self {
        let word = |n: usize| {
            let bytes = bytes[n * 8..n * 8 + 8].try_into().expect("eight bytes");
            u64::from_le_bytes(bytes)
        };
        Self {
            next: word(0),
            entries: word(1),
            digest: word(2) as u32,
            applied: word(3),
            time_us: word(4),
        }
    }
}

/// The owner's state.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Owner {
    pub(super) states: BTreeMap<PartitionKey, State>,
    last: Lsn,
}

impl Replay for Owner {
    fn cell(&mut self, kind: u8, cell_key: &[u8], value: Option<&[u8]>) {
        assert_eq!(kind, CELL);
        let n = u64::from_le_bytes(cell_key.try_into().expect("a key of eight bytes"));
        match value {
            Some(value) => self.states.insert(key(n), State::decode(value)),
            None => self.states.remove(&key(n)),
        };
    }

    fn entry(&mut self, lsn: Lsn, end: Lsn, header: &BatchHeader, body: &[u8]) {
        assert!(lsn >= self.last, "entries come in LSN order");
        self.last = end;
        assert_eq!(end.get() - lsn.get(), (128 + body.len()) as u64);
        if header.entry_kind() != Ok(EntryKind::Data) {
            assert_eq!(header.entry_kind(), Ok(EntryKind::EpochStart));
            return;
        }
        let state = self.states.entry(header.key()).or_default();
        if state.applied >= end.get() {
            return;
        }
        assert_eq!(
            state.next,
            header.base_offset().get(),
            "no entry is left out"
        );
        let mut bytes = header.bytes().to_vec();
        bytes.extend_from_slice(body);
        state.apply(
            end,
            header.next_offset().get(),
            crc32c(&bytes),
            header.append_time_us(),
        );
    }
}

#[derive(Clone)]
pub(super) struct Entry {
    pub(super) partition: u64,
    pub(super) base: u64,
    pub(super) next: u64,
    pub(super) end: Lsn,
    pub(super) time_us: u64,
    pub(super) bytes: Vec<u8>,
}

struct Asked {
    partition: u64,
    from: u64,
    /// The end of what was durable of the partition when it was asked.
    durable_end: u64,
}

pub(super) struct World {
    pub(super) prng: Prng,
    pub(super) disk: TestDisk,
    pub(super) journal: Option<Journal>,
    pub(super) flying: Vec<Effect>,
    pub(super) entries: Vec<Entry>,
    pub(super) owner: Owner,
    dirty: BTreeSet<u64>,
    feeding: Option<bool>,
    pub(super) starts: BTreeMap<PartitionKey, Offset>,
    /// Each with the end of the entry that says it: a crash that loses the entry takes the start back.
    starts_log: Vec<(Lsn, PartitionKey, Offset)>,
    pub(super) acked: Lsn,
    pub(super) now: Now,
    boots: u64,
    seed: u64,
    asked: BTreeMap<ReadId, Asked>,
    pub(super) times: BTreeMap<ReadId, Option<(u64, u64)>>,
    pub(super) fatal: Option<Fatal>,
    pub(super) checkpoints: u64,
    pub(super) reads_answered: u64,
    /// Where the last read that found something ended.
    pub(super) last_read_next: u64,
    pub(super) recycled: u64,
    pub(super) read_only: bool,
    reclaim_wanted: bool,
    /// The next chunk write fails with this.
    pub(super) fail_write: Option<DiskError>,
    slot_seq: u64,
    pub(super) settings: Settings,
    pub(super) damage_is_expected: bool,
    pub(super) damaged: Vec<(JournalFile, u64)>,
    /// What the journal told of by itself.
    pub(super) told: Vec<Damage>,
}

struct StartsOnly<'a>(&'a BTreeMap<PartitionKey, Offset>);

impl Starts for StartsOnly<'_> {
    fn start_of(&self, key: PartitionKey) -> Option<Offset> {
        Some(self.0.get(&key).copied().unwrap_or(Offset::ZERO))
    }
}

pub(super) fn small(seed: u64) -> Settings {
    Settings {
        segment_bytes: 64 * KIB as u64,
        chunk_bytes_max: 16 * KIB,
        chunks_inflight_max: 3,
        region_bytes: 32 * KIB,
        regions_max: 4,
        tail_bytes_max: 32 * KIB,
        footer_cache_bytes: 24 * KIB,
        read_bytes_max: 8 * KIB,
        checkpoint_every_bytes: 96 * KIB as u64,
        // All the time, so that every test is also one of what a search for damage does beside.
        scrubbing: Scrubbing {
            bytes_per_second: 256 << 20,
            first_after_ns: 1_000_000,
            every_ns: 1_000_000,
        },
        ..Settings::serving(NodeId::new(1), BootId::new(seed), 0, 1, seed)
    }
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            prng: Prng::new(seed),
            disk: TestDisk::new(seed),
            journal: None,
            flying: Vec::new(),
            entries: Vec::new(),
            owner: Owner::default(),
            dirty: BTreeSet::new(),
            feeding: None,
            starts: BTreeMap::new(),
            starts_log: Vec::new(),
            acked: Lsn::ZERO,
            now: Now::default(),
            boots: 0,
            seed,
            asked: BTreeMap::new(),
            times: BTreeMap::new(),
            fatal: None,
            checkpoints: 0,
            reads_answered: 0,
            last_read_next: 0,
            recycled: 0,
            read_only: false,
            reclaim_wanted: false,
            fail_write: None,
            slot_seq: 0,
            settings: small(seed),
            damage_is_expected: false,
            damaged: Vec::new(),
            told: Vec::new(),
        }
    }

    pub(super) fn journal(&mut self) -> &mut Journal {
        self.journal.as_mut().expect("the journal is open")
    }

    pub(super) fn next_settings(&mut self) -> Settings {
        self.boots += 1;
        Settings {
            seed: self.seed.wrapping_mul(1_000_003).wrapping_add(self.boots),
            boot: BootId::new(self.boots),
            ..self.settings.clone()
        }
    }

    pub(super) fn try_open(&mut self) -> Result<Owner, OpenError> {
        let mut owner = Owner::default();
        let settings = self.next_settings();
        let journal = open(&mut self.disk, settings, self.now, &mut owner)?;
        self.journal = Some(journal);
        Ok(owner)
    }

    /// Opens, and checks that what came back is what was acknowledged and maybe some of what followed it.
    pub(super) fn open(&mut self) {
        let owner = self.try_open().unwrap_or_else(|error| {
            panic!("seed {}: refused to open: {error}", self.seed);
        });
        self.check_recovered(&owner);
    }

    pub(super) fn check_recovered(&mut self, owner: &Owner) {
        let seed = self.seed;
        let count: u64 = owner.states.values().map(|state| state.entries).sum();
        let acked = self
            .entries
            .iter()
            .take_while(|entry| entry.end <= self.acked)
            .count() as u64;
        assert!(
            count >= acked,
            "seed {seed}: {acked} acknowledged, {count} came back"
        );
        assert!(
            count <= self.entries.len() as u64,
            "seed {seed}: entries from nowhere"
        );
        self.entries.truncate(count as usize);
        let mut expected = Owner::default();
        for entry in &self.entries {
            expected
                .states
                .entry(key(entry.partition))
                .or_default()
                .apply(entry.end, entry.next, crc32c(&entry.bytes), entry.time_us);
        }
        assert_eq!(
            owner.states, expected.states,
            "seed {seed}: no prefix of what was appended"
        );
        self.owner = owner.clone();
        self.dirty.clear();
        self.feeding = None;
        let end = self.journal().durable_lsn();
        assert!(
            end >= self.acked,
            "seed {seed}: the end went back behind what was acknowledged"
        );
        self.acked = end;
        self.starts_log.retain(|(said, _, _)| *said <= end);
        for (_, key, start) in &self.starts_log {
            self.starts.insert(*key, *start);
        }
        let log = &self.starts_log;
        self.starts
            .retain(|key, _| log.iter().any(|(_, it, _)| it == key));
    }

    /// The partition starts here from now on: an entry says so.
    pub(super) fn advance_start(&mut self, partition: u64, to: u64) -> Result<(), Refused> {
        let placed = self.append_control()?;
        let (key, start) = (key(partition), Offset::new(to));
        self.starts_log.push((placed.end, key, start));
        self.starts.insert(key, start);
        Ok(())
    }

    pub(super) fn append(&mut self, body_bytes: usize) -> Result<Placed, Refused> {
        let partition = self.prng.below(5);
        self.append_to(partition, body_bytes, Class::Data)
    }

    pub(super) fn append_to(
        &mut self,
        partition: u64,
        body_bytes: usize,
        class: Class,
    ) -> Result<Placed, Refused> {
        let state = self
            .owner
            .states
            .get(&key(partition))
            .copied()
            .unwrap_or_default();
        let mut body = vec![0; body_bytes];
        self.prng.fill(&mut body);
        let records = 1 + self.prng.below(5) as u32;
        let time_us = state.time_us + self.prng.below(3);
        let mut header = BatchHeader::producer(ProducerPart {
            attributes: Attributes::NONE,
            key: key(partition),
            record_count: records,
            body_bytes: body_bytes as u32,
            body_crc: crc32c(&body),
            producer_id: ProducerId::new(0),
            producer_seq: ProducerSeq::ZERO,
            producer_epoch: ProducerEpoch::ZERO,
            schema_id: 0,
            first_time_us: 0,
            time_span_us: 0,
        });
        let slot = SlotId::new(partition as u16);
        let slot_seq = SlotSeq::new(self.slot_seq + 1);
        header.place(Placement {
            base_offset: Offset::new(state.next),
            slot_seq,
            epoch: Epoch::new(1),
            slot,
            entry_kind: EntryKind::Data,
            append_time_us: time_us,
        });
        let next = state.next + u64::from(records);
        let mut bytes = header.bytes().to_vec();
        bytes.extend_from_slice(&body);
        let abandon = self.prng.chance(1, 16);
        let journal = self.journal.as_mut().expect("the journal is open");
        if abandon {
            let mut draft = journal.draft(class, bytes.len())?;
            draft.copy(&bytes[..100]);
            drop(draft);
        }
        let mut draft = journal.draft(class, bytes.len())?;
        draft.copy(&bytes[..128]);
        draft.copy(&bytes[128..]);
        assert_eq!(draft.bytes(), bytes);
        let placed = draft.commit(EntryMeta {
            key: Some(key(partition)),
            slot,
            epoch: Epoch::new(1),
            slot_seq,
            base_offset: Offset::new(state.next),
            next_offset: Offset::new(next),
            append_time_us: time_us,
        });
        self.slot_seq += 1;
        self.owner.states.entry(key(partition)).or_default().apply(
            placed.end,
            next,
            crc32c(&bytes),
            time_us,
        );
        self.dirty.insert(partition);
        self.entries.push(Entry {
            partition,
            base: state.next,
            next,
            end: placed.end,
            time_us,
            bytes,
        });
        Ok(placed)
    }

    /// An entry that is no partition's data.
    pub(super) fn append_control(&mut self) -> Result<Placed, Refused> {
        let body = [7; EpochStart::BYTES];
        let mut header = encode_entry(EntryKind::EpochStart, NO_PARTITION, &body);
        let slot_seq = SlotSeq::new(self.slot_seq + 1);
        header.place(Placement {
            base_offset: Offset::ZERO,
            slot_seq,
            epoch: Epoch::new(1),
            slot: SlotId::new(9),
            entry_kind: EntryKind::EpochStart,
            append_time_us: 1,
        });
        let mut draft = self.journal().draft(Class::Control, 128 + body.len())?;
        draft.copy(header.bytes());
        draft.copy(&body);
        let placed = draft.commit(EntryMeta {
            key: None,
            slot: SlotId::new(9),
            epoch: Epoch::new(1),
            slot_seq,
            base_offset: Offset::ZERO,
            next_offset: Offset::ZERO,
            append_time_us: 1,
        });
        self.slot_seq += 1;
        Ok(placed)
    }

    pub(super) fn pass(&mut self, ns: u64) {
        self.now = Now {
            mono: self.now.mono.after_ns(ns),
            wall: Wall::from_us(self.now.wall.as_us() + ns / 1000),
        };
    }

    pub(super) fn flush(&mut self) {
        let now = self.now;
        let mut effects = Effects::new();
        self.journal().flush(now, &mut effects);
        self.flying.append(&mut effects);
    }

    pub(super) fn tick(&mut self) {
        let now = self.now;
        let mut effects = Effects::new();
        if self
            .journal()
            .next_wake()
            .is_some_and(|at: Mono| at <= now.mono)
        {
            self.journal().tick(now, &mut effects);
        }
        self.flying.append(&mut effects);
    }

    pub(super) fn reclaim(&mut self) {
        let mut effects = Effects::new();
        let journal = self.journal.as_mut().expect("the journal is open");
        journal.reclaim(&StartsOnly(&self.starts), &mut effects);
        self.flying.append(&mut effects);
    }

    /// Executes one effect, any of those in flight.
    pub(super) fn complete_one(&mut self) -> bool {
        if self.flying.is_empty() {
            return false;
        }
        let index = self.prng.below(self.flying.len() as u64) as usize;
        self.complete(index);
        true
    }

    /// Executes everything but what is held back.
    pub(super) fn complete_but(&mut self, held: impl Fn(&Effect) -> bool) {
        while let Some(index) = self.flying.iter().position(|effect| !held(effect)) {
            self.complete(index);
        }
    }

    /// Executes the first operation in flight that `which` means.
    pub(super) fn complete_first(&mut self, which: impl Fn(&Effect) -> bool) {
        let index = self.flying.iter().position(which).expect("it is in flight");
        self.complete(index);
    }

    fn complete(&mut self, index: usize) {
        let effect = self.flying.swap_remove(index);
        let event = self.execute(effect);
        self.deliver(event);
    }

    /// The first operation in flight that `which` means fails.
    pub(super) fn fail_one(&mut self, which: impl Fn(&Effect) -> bool, error: DiskError) {
        let index = self.flying.iter().position(which).expect("it is in flight");
        let event = match self.flying.swap_remove(index) {
            Effect::Write { op, .. } => Event::Written {
                op,
                result: Err(error),
            },
            Effect::Prepare { op, .. } => Event::Prepared {
                op,
                result: Err(error),
            },
            Effect::Read { op, .. } => Event::ReadDone {
                op,
                result: Err(error),
            },
            Effect::Sync { op, .. } => Event::Synced {
                op,
                result: Err(error),
            },
            other => panic!("nobody asks for {other:?} to fail"),
        };
        self.deliver(event);
    }

    fn deliver(&mut self, event: Event) {
        let now = self.now;
        let mut effects = Effects::new();
        let mut out = Vec::new();
        self.journal().step(now, event, &mut effects, &mut out);
        self.flying.append(&mut effects);
        for output in out {
            self.take(output);
        }
        if core::mem::take(&mut self.reclaim_wanted) {
            self.reclaim();
        }
    }

    pub(super) fn execute(&mut self, effect: Effect) -> Event {
        match effect {
            Effect::Write {
                op,
                file,
                at,
                data,
                durable,
            } => {
                assert!(at.is_multiple_of(4096) && data.len().is_multiple_of(4096));
                let is_chunk = matches!(file, JournalFile::Segment(_)) && at > 0 && durable;
                if is_chunk && let Some(error) = self.fail_write.take() {
                    return Event::Written {
                        op,
                        result: Err(error),
                    };
                }
                let result = if durable {
                    self.disk.write_durably(file, at, &data);
                    Ok(())
                } else {
                    self.disk.write(file, at, &data)
                };
                Event::Written { op, result }
            }
            Effect::Read { op, file, at, len } => {
                let mut bytes = vec![0; len as usize];
                let result = self.disk.read(file, at, &mut bytes).map(|()| bytes.into());
                Event::ReadDone { op, result }
            }
            Effect::Sync { op, file } => Event::Synced {
                op,
                result: self.disk.sync(file),
            },
            Effect::Prepare { op, file, bytes } => Event::Prepared {
                op,
                result: self.disk.create(file, bytes),
            },
            Effect::Remove { op, file } => {
                assert!(
                    !self.flying.iter().any(|effect| is_on(effect, file)),
                    "seed {}: {file} is removed under an operation",
                    self.seed
                );
                Event::Removed {
                    op,
                    result: self.disk.remove(file),
                }
            }
            other => panic!("a journal does not ask for {other:?}"),
        }
    }

    fn take(&mut self, output: Output) {
        match output {
            Output::Durable(lsn) => {
                assert!(lsn > self.acked, "what is durable only grows");
                self.acked = lsn;
            }
            Output::CheckpointWanted { base } => self.feeding = Some(base),
            Output::CheckpointDone => self.checkpoints += 1,
            Output::Read { id, result } => self.check_read(id, result),
            Output::Time { id, result } => {
                let expected = self.times.remove(&id).expect("it was asked");
                let found = result
                    .expect("the disk is whole")
                    .map(|(o, t)| (o.get(), t));
                assert_eq!(found, expected, "seed {}: by time", self.seed);
                self.reads_answered += 1;
            }
            Output::ReadOnly(read_only) => self.read_only = read_only,
            Output::Room => {}
            Output::ReclaimMore => self.reclaim_wanted = true,
            Output::Damaged(damage) => {
                assert!(
                    self.damage_is_expected,
                    "seed {}: {damage}, and nothing is",
                    self.seed
                );
                self.told.push(damage);
            }
            Output::Fatal(fatal) => self.fatal = Some(fatal),
        }
    }

    /// Feeds the checkpoint that is wanted.
    pub(super) fn feed(&mut self) {
        let Some(base) = self.feeding.take() else {
            return;
        };
        let mut effects = Effects::new();
        let dirty = core::mem::take(&mut self.dirty);
        let journal = self.journal.as_mut().expect("the journal is open");
        for n in 0..5 {
            let Some(state) = self.owner.states.get(&key(n)) else {
                continue;
            };
            if base || dirty.contains(&n) {
                journal.checkpoint_cell(
                    CELL,
                    &n.to_le_bytes(),
                    Some(&state.encode()),
                    &mut effects,
                );
            }
        }
        journal.checkpoint_finish(&mut effects);
        self.flying.append(&mut effects);
    }

    pub(super) fn durable_end(&self, partition: u64) -> u64 {
        self.entries
            .iter()
            .filter(|entry| entry.partition == partition && entry.end <= self.acked)
            .map(|entry| entry.next)
            .max()
            .unwrap_or(0)
    }

    pub(super) fn ask(&mut self, partition: u64, from: u64, bytes_max: usize) {
        let durable_end = self.durable_end(partition);
        let mut effects = Effects::new();
        let id = self
            .journal()
            .read(key(partition), Offset::new(from), bytes_max, &mut effects);
        assert!(
            !effects.is_empty() || !self.flying.is_empty(),
            "an answer will come"
        );
        self.flying.append(&mut effects);
        self.asked.insert(
            id,
            Asked {
                partition,
                from,
                durable_end,
            },
        );
    }

    pub(super) fn ask_time(&mut self, partition: u64, time_us: u64) {
        let expected = self
            .entries
            .iter()
            .filter(|entry| entry.partition == partition && entry.end <= self.acked)
            .find(|entry| entry.time_us >= time_us)
            .map(|entry| (entry.base, entry.time_us));
        let mut effects = Effects::new();
        let id = self
            .journal()
            .read_time(key(partition), time_us, &mut effects);
        self.flying.append(&mut effects);
        self.times.insert(id, expected);
    }

    fn check_read(&mut self, id: ReadId, result: Result<crate::ReadBatches, ReadError>) {
        let asked = self.asked.remove(&id).expect("it was asked");
        let seed = self.seed;
        self.reads_answered += 1;
        let start = self
            .starts
            .get(&key(asked.partition))
            .map_or(0, |start| start.get());
        match result {
            Ok(found) => {
                self.last_read_next = found.next.get();
                let mut next = None;
                for bytes in &found.batches {
                    let header = BatchHeader::parse(bytes).expect("a whole batch");
                    let base = header.base_offset().get();
                    let entry = self
                        .entries
                        .iter()
                        .find(|entry| entry.partition == asked.partition && entry.base == base)
                        .expect("it was appended");
                    assert_eq!(&bytes[..], entry.bytes, "seed {seed}");
                    match next {
                        None => assert!(
                            (base..entry.next).contains(&asked.from),
                            "seed {seed}: asked {} got {base}",
                            asked.from
                        ),
                        Some(next) => assert_eq!(base, next, "seed {seed}: a batch is left out"),
                    }
                    next = Some(entry.next);
                }
                assert_eq!(
                    next,
                    Some(found.next.get()),
                    "seed {seed}: at least one batch"
                );
            }
            Err(ReadError::AtEnd) => {
                assert!(
                    asked.from >= asked.durable_end,
                    "seed {seed}: it was durable"
                );
            }
            Err(ReadError::BelowStart(first)) => {
                assert!(
                    asked.from < start && first.get() <= start,
                    "seed {seed}: {} is kept, from {start}; got {first}",
                    asked.from
                );
            }
            Err(ReadError::Damaged { file, at, .. }) if self.damage_is_expected => {
                self.damaged.push((file, at));
            }
            // What stands in for the file: the answer does not say which.
            Err(ReadError::Disk(_)) if self.damage_is_expected => {
                self.damaged.push((JournalFile::Superblock, 0));
            }
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }

    /// The power goes.
    pub(super) fn crash(&mut self) {
        let in_flight = self.stop();
        self.disk.crash(in_flight);
    }

    /// The process is killed; what it wrote is still in the machine's memory.
    pub(super) fn kill(&mut self) {
        let in_flight = self.stop();
        self.disk.kill(in_flight);
    }

    fn stop(&mut self) -> Vec<(JournalFile, u64, Vec<u8>)> {
        self.journal = None;
        self.asked.clear();
        self.times.clear();
        self.flying
            .drain(..)
            .filter_map(|effect| match effect {
                Effect::Write { file, at, data, .. } => Some((file, at, data.to_vec())),
                _ => None,
            })
            .collect()
    }

    /// Lets everything complete.
    pub(super) fn settle(&mut self) {
        for _ in 0..100_000 {
            self.flush();
            self.feed();
            if !self.complete_one() && self.journal().drained() {
                return;
            }
        }
        panic!("seed {}: it never settles", self.seed);
    }
}

fn is_on(effect: &Effect, name: JournalFile) -> bool {
    match effect {
        Effect::Write { file, .. }
        | Effect::Read { file, .. }
        | Effect::Sync { file, .. }
        | Effect::Prepare { file, .. } => *file == name,
        _ => false,
    }
}
