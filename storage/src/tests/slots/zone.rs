//! A world of three slots in one journal: entries that another node placed, truncations, seals, commits, releases and
//! crashes at random, beside a model that keeps every record and sums up what lives. Every answer is held against the model
//! when it comes.

use super::super::world::{World, key, small};
use crate::{
    EntryRefused, Journal, OpenError, Output, ReadError, ReadId, Replay, SlotOutput, SlotReadError,
    Starts, open,
};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use tiderace_base::checksum::crc32c;
use tiderace_base::disk::{DiskError, JournalFile};
use tiderace_base::ids::{PartitionKey, ProducerId, SlotId};
use tiderace_base::operation::{Effect, Effects};
use tiderace_base::position::{Epoch, Lsn, Offset, ProducerEpoch, ProducerSeq, SlotSeq};
use tiderace_base::prng::Prng;
use tiderace_wire::batch::{Attributes, BatchHeader, Placement, ProducerPart};
use tiderace_wire::entry::{EntryKind, EpochStart, NO_PARTITION, Seal, Truncate, encode_entry};

pub(super) const SLOTS: u16 = 3;
pub(super) const PARTITIONS: u64 = 6;
pub(super) const CELL: u8 = 16;

pub(super) fn slot_of(partition: u64) -> SlotId {
    SlotId::new((partition % u64::from(SLOTS)) as u16)
}

/// One entry of a slot.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) lsn: Lsn,
    pub(super) end: Lsn,
    pub(super) slot: SlotId,
    pub(super) seq: u64,
    /// The partition, the offsets and the time of data.
    pub(super) data: Option<(u64, u64, u64, u64)>,
    pub(super) bytes: Bytes,
}

#[derive(Clone, Debug)]
pub(super) enum Record {
    Entry(Entry),
    Truncate(Lsn, SlotId, u64),
    Seal(Lsn, Seal),
}

impl Record {
    pub(super) fn end(&self) -> Lsn {
        match self {
            Self::Entry(entry) => entry.end,
            Self::Truncate(end, ..) | Self::Seal(end, _) => *end,
        }
    }
}

/// What lives of these records.
pub(super) fn living(records: &[Record]) -> Vec<Entry> {
    let mut living: Vec<Entry> = Vec::new();
    for record in records {
        match record {
            Record::Entry(entry) => living.push(entry.clone()),
            Record::Truncate(_, slot, from) => {
                living.retain(|entry| entry.slot != *slot || entry.seq < *from);
            }
            Record::Seal(..) => {}
        }
    }
    living
}

pub(super) fn digest(entries: impl Iterator<Item = u32>) -> u32 {
    entries.fold(0, |digest, crc| {
        let mut both = [0; 8];
        both[..4].copy_from_slice(&digest.to_le_bytes());
        both[4..].copy_from_slice(&crc.to_le_bytes());
        crc32c(&both)
    })
}

/// A slot as its owner rebuilds it: what was committed when the checkpoint captured it, as a digest, and what follows it.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    pub(super) committed: u64,
    pub(super) digest: u32,
    pub(super) above: Vec<u32>,
}

#[derive(Default)]
pub(super) struct Owner {
    pub(super) slots: BTreeMap<SlotId, Held>,
    pub(super) last: Lsn,
}

impl Replay for Owner {
    fn cell(&mut self, kind: u8, key: &[u8], value: Option<&[u8]>) {
        assert_eq!(kind, CELL);
        let value = value.expect("nothing is removed");
        let slot = SlotId::new(u16::from_le_bytes(key.try_into().expect("two bytes")));
        let held = self.slots.entry(slot).or_default();
        held.committed = u64::from_le_bytes(value[..8].try_into().expect("eight bytes"));
        held.digest = u32::from_le_bytes(value[8..].try_into().expect("four bytes"));
    }

    fn entry(&mut self, lsn: Lsn, end: Lsn, header: &BatchHeader, body: &[u8]) {
        assert!(lsn >= self.last, "entries come in LSN order");
        self.last = end;
        let held = self.slots.entry(header.slot()).or_default();
        match header.entry_kind().expect("it was written") {
            EntryKind::Truncate => {
                let truncate = Truncate::from_bytes(body).expect("it was written");
                let from = truncate.from_seq.get();
                assert!(from > held.committed, "what is committed is not cut");
                held.above.truncate((from - held.committed - 1) as usize);
            }
            EntryKind::Seal => {}
            _ => {
                let seq = header.slot_seq().get();
                if seq > held.committed {
                    let next = held.committed + held.above.len() as u64 + 1;
                    assert_eq!(seq, next, "a slot's sequence is dense");
                    let bytes = [header.bytes(), body].concat();
                    held.above.push(crc32c(&bytes));
                }
            }
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Slot {
    pub(super) next: u64,
    pub(super) epoch: u32,
    pub(super) committed: u64,
    pub(super) base: u64,
    pub(super) sealed: u32,
}

pub(super) struct Asked {
    pub(super) partition: u64,
    pub(super) from: u64,
    /// Living and durable up to here, at every moment since.
    pub(super) end: u64,
}

pub(super) struct AskedSlot {
    pub(super) slot: SlotId,
    pub(super) from: u64,
    pub(super) end: u64,
}

pub(super) struct Zone {
    pub(super) seed: u64,
    pub(super) world: World,
    pub(super) records: Vec<Record>,
    pub(super) slots: Vec<Slot>,
    pub(super) starts: BTreeMap<PartitionKey, Offset>,
    pub(super) feeding: Option<bool>,
    pub(super) reclaims: bool,
    pub(super) asked: BTreeMap<ReadId, Asked>,
    pub(super) asked_slots: BTreeMap<ReadId, AskedSlot>,
    /// By time: what is expected where nothing changes meanwhile.
    pub(super) times: BTreeMap<ReadId, Option<Option<(u64, u64)>>>,
    pub(super) told: BTreeSet<(SlotId, Epoch)>,
    pub(super) marked: BTreeSet<SlotId>,
    /// Where the last read of a slot that found something ended.
    pub(super) last_next: u64,
    pub(super) counts: Counts,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) reads: u64,
    pub(super) slot_reads: u64,
    pub(super) tails: u64,
    pub(super) cuts: u64,
    pub(super) dead: u64,
    pub(super) recycled: u64,
    pub(super) checkpoints: u64,
    pub(super) rebuilt: u64,
    pub(super) kept_cuts: u64,
}

pub(super) struct Bounds<'a>(
    pub(super) &'a BTreeMap<PartitionKey, Offset>,
    pub(super) &'a [Slot],
);

impl Starts for Bounds<'_> {
    fn start_of(&self, key: PartitionKey) -> Option<Offset> {
        Some(self.0.get(&key).copied().unwrap_or(Offset::ZERO))
    }

    fn base_of(&self, slot: SlotId) -> SlotSeq {
        SlotSeq::new(self.1[usize::from(slot.get())].base)
    }
}

impl Zone {
    pub(super) fn new(seed: u64) -> Self {
        let mut world = World::new(seed);
        world.settings = small(seed);
        Self {
            seed,
            world,
            records: Vec::new(),
            slots: vec![Slot::default(); usize::from(SLOTS)],
            starts: BTreeMap::new(),
            feeding: None,
            reclaims: false,
            asked: BTreeMap::new(),
            asked_slots: BTreeMap::new(),
            times: BTreeMap::new(),
            told: BTreeSet::new(),
            marked: BTreeSet::new(),
            last_next: 0,
            counts: Counts::default(),
        }
    }

    pub(super) fn journal(&mut self) -> &mut Journal {
        self.world.journal()
    }

    pub(super) fn prng(&mut self) -> &mut Prng {
        &mut self.world.prng
    }

    pub(super) fn slot(&mut self, slot: SlotId) -> &mut Slot {
        &mut self.slots[usize::from(slot.get())]
    }

    /// What lives and is durable.
    pub(super) fn durable(&self) -> Vec<Entry> {
        let acked = self.world.acked;
        let known = self.records.iter().take_while(|it| it.end() <= acked);
        let known: Vec<Record> = known.cloned().collect();
        let ends = living(&self.records);
        let all: BTreeSet<Lsn> = ends.iter().map(|entry| entry.lsn).collect();
        let mut durable = living(&known);
        // A truncation counts from when it is written.
        durable.retain(|entry| all.contains(&entry.lsn));
        durable
    }

    pub(super) fn end_of(&self, partition: u64) -> u64 {
        let entries = living(&self.records);
        let ends = entries.iter().filter_map(|entry| entry.data);
        let ends = ends.filter(|data| data.0 == partition).map(|data| data.2);
        ends.max().unwrap_or(0)
    }

    pub(super) fn open(&mut self) -> Result<(), OpenError> {
        let mut owner = Owner::default();
        let settings = self.world.next_settings();
        let now = self.world.now;
        let journal = open(&mut self.world.disk, settings, now, &mut owner)?;
        let end = journal.durable_lsn();
        let kept = self.records.iter().take_while(|it| it.end() <= end).count();
        let acked = self.world.acked;
        let seed = self.seed;
        assert!(end >= acked, "seed {seed}: what was acknowledged is gone");
        self.records.truncate(kept);
        self.world.acked = end;
        self.world.journal = Some(journal);
        let living = living(&self.records);
        for n in 0..SLOTS {
            let slot = SlotId::new(n);
            let own: Vec<&Entry> = living.iter().filter(|it| it.slot == slot).collect();
            let held = owner.slots.get(&slot).cloned().unwrap_or_default();
            assert_eq!(
                held.committed + held.above.len() as u64,
                own.len() as u64,
                "seed {seed}: another end of slot {slot}"
            );
            let crcs: Vec<u32> = own.iter().map(|it| crc32c(&it.bytes)).collect();
            let (below, above) = crcs.split_at(held.committed as usize);
            assert_eq!(held.digest, digest(below.iter().copied()), "seed {seed}");
            assert_eq!(held.above, above, "seed {seed}: other entries in {slot}");
            let seals = self.records.iter().filter_map(|record| match record {
                Record::Seal(_, seal) if seal.slot == slot => Some(seal.epoch),
                _ => None,
            });
            let sealed = seals.max();
            let journal = self.world.journal();
            let found = journal.seals().find(|seal| seal.slot == slot);
            let found = found.map(|seal| seal.epoch);
            // One that the superblock has and the journal lost was promised to nobody.
            assert!(found >= sealed, "seed {seed}: a promise was forgotten");
            let slot = &mut self.slots[usize::from(n)];
            slot.next = own.len() as u64;
            assert!(slot.next >= slot.committed, "seed {seed}");
            slot.sealed = found.map_or(0, |epoch| epoch.get());
        }
        for (slot, epoch) in &self.told {
            let journal = self.world.journal();
            let mut seals = journal.seals();
            assert!(seals.any(|it| it.slot == *slot && it.epoch >= *epoch));
        }
        self.feeding = None;
        self.hold_checkpoints();
        Ok(())
    }

    /// What is not committed is not in the cells.
    pub(super) fn hold_checkpoints(&mut self) {
        let living = living(&self.records);
        let slots = &self.slots;
        let mut above = living.iter().filter(|entry| {
            let slot = &slots[usize::from(entry.slot.get())];
            entry.seq > slot.committed
        });
        let oldest = above.next().map(|entry| entry.lsn);
        self.world.journal().replay_from(oldest);
    }

    pub(super) fn append(&mut self) -> bool {
        let partition = self.prng().below(PARTITIONS);
        let is_control = self.prng().chance(1, 8);
        let large = self.prng().chance(1, 20);
        let body_bytes = self.prng().range(1, if large { 9000 } else { 700 });
        let mut body = vec![0; body_bytes as usize];
        self.prng().fill(&mut body);
        let slot = slot_of(partition);
        let seq = self.slot(slot).next + 1;
        let epoch = Epoch::new(self.slot(slot).epoch + 1);
        let base = self.end_of(partition);
        let records = 1 + self.prng().below(5);
        // It never goes back within a partition, but with what is cut.
        let living = living(&self.records);
        let own = living.iter().filter_map(|it| it.data);
        let last = own.filter(|it| it.0 == partition).map(|it| it.3).max();
        let time_us = last.unwrap_or(1000) + self.prng().below(40);
        let mut header = if is_control {
            body = vec![7; EpochStart::BYTES];
            encode_entry(EntryKind::EpochStart, NO_PARTITION, &body)
        } else {
            BatchHeader::producer(ProducerPart {
                attributes: Attributes::NONE,
                key: key(partition),
                record_count: records as u32,
                body_bytes: body.len() as u32,
                body_crc: crc32c(&body),
                producer_id: ProducerId::new(0),
                producer_seq: ProducerSeq::ZERO,
                producer_epoch: ProducerEpoch::ZERO,
                schema_id: 0,
                first_time_us: 0,
                time_span_us: 0,
            })
        };
        header.place(Placement {
            base_offset: Offset::new(if is_control { 0 } else { base }),
            slot_seq: SlotSeq::new(seq),
            epoch,
            slot,
            entry_kind: if is_control {
                EntryKind::EpochStart
            } else {
                EntryKind::Data
            },
            append_time_us: time_us,
        });
        let bytes = [header.bytes(), body.as_slice()].concat();
        let placed = match self.journal().append_entry(&bytes) {
            Ok(placed) => placed,
            Err(EntryRefused::Now(_)) => return false,
            Err(error) => panic!("seed {}: {error}", self.seed),
        };
        self.slot(slot).next += 1;
        let data = (!is_control).then_some((partition, base, base + records, time_us));
        self.records.push(Record::Entry(Entry {
            lsn: placed.lsn,
            end: placed.end,
            slot,
            seq,
            data,
            bytes: bytes.into(),
        }));
        self.hold_checkpoints();
        true
    }

    pub(super) fn truncate(&mut self) {
        let slot = SlotId::new(self.prng().below(u64::from(SLOTS)) as u16);
        let (committed, next) = (self.slot(slot).committed, self.slot(slot).next);
        if next == committed {
            return;
        }
        let span = (next - committed).min(40);
        let from = next + 1 - self.prng().range(1, span + 1);
        self.cut(slot, from);
    }

    pub(super) fn cut(&mut self, slot: SlotId, from: u64) {
        let epoch = self.slot(slot).epoch + 1;
        let truncate = Truncate {
            slot,
            epoch: Epoch::new(epoch),
            from_seq: SlotSeq::new(from),
        };
        let Ok(placed) = self.journal().truncate_slot(&truncate) else {
            return;
        };
        let before = living(&self.records).len();
        self.records.push(Record::Truncate(placed.end, slot, from));
        self.counts.dead += (before - living(&self.records).len()) as u64;
        self.counts.cuts += 1;
        self.slot(slot).epoch = epoch;
        self.slot(slot).next = from - 1;
        let ends: Vec<u64> = (0..PARTITIONS).map(|it| self.end_of(it)).collect();
        for asked in self.asked.values_mut() {
            asked.end = asked.end.min(ends[asked.partition as usize]);
        }
        for asked in self.asked_slots.values_mut().filter(|it| it.slot == slot) {
            asked.end = asked.end.min(from - 1);
        }
        for expected in self.times.values_mut() {
            *expected = None;
        }
        self.hold_checkpoints();
    }

    pub(super) fn seal(&mut self) {
        let slot = SlotId::new(self.prng().below(u64::from(SLOTS)) as u16);
        let state = self.slot(slot).clone();
        let seal = Seal {
            slot,
            epoch: Epoch::new(state.sealed + 1),
            last_epoch: Epoch::new(state.epoch),
            last_seq: SlotSeq::new(state.next),
            flushed_seq: SlotSeq::new(state.committed),
            cut: false,
        };
        if let Ok(placed) = self.journal().seal_slot(&seal) {
            self.slot(slot).sealed += 1;
            self.records.push(Record::Seal(placed.end, seal));
        }
    }

    /// What is durable may be committed; what is committed may fall below starts and bases.
    pub(super) fn commit(&mut self) {
        let durable = self.durable();
        for n in 0..SLOTS {
            let slot = SlotId::new(n);
            let end = durable.iter().filter(|it| it.slot == slot).count() as u64;
            let committed = self.slot(slot).committed;
            if end > committed {
                self.slot(slot).committed = self.prng().range(committed, end + 1);
            }
            let (base, committed) = (self.slot(slot).base, self.slot(slot).committed);
            if committed > base && self.prng().chance(1, 2) {
                self.slot(slot).base = self.prng().range(base, committed + 1);
            }
        }
        for partition in 0..PARTITIONS {
            let committed = self.slot(slot_of(partition)).committed;
            let own = durable.iter().filter(|it| it.seq <= committed);
            let own = own.filter_map(|it| it.data).filter(|it| it.0 == partition);
            let end = own.map(|it| it.2).max().unwrap_or(0);
            let start = self.start(partition);
            if end > start && self.prng().chance(1, 2) {
                let to = self.prng().range(start, end + 1);
                self.starts.insert(key(partition), Offset::new(to));
            }
        }
        self.hold_checkpoints();
    }

    pub(super) fn start(&self, partition: u64) -> u64 {
        self.starts.get(&key(partition)).map_or(0, |it| it.get())
    }

    pub(super) fn reclaim(&mut self) {
        let mut effects = Effects::new();
        let journal = self.world.journal.as_mut().expect("it is open");
        journal.reclaim(&Bounds(&self.starts, &self.slots), &mut effects);
        self.world.flying.append(&mut effects);
    }

    pub(super) fn feed(&mut self) {
        if self.feeding.take().is_none() {
            return;
        }
        let living = living(&self.records);
        let mut effects = Effects::new();
        for n in 0..SLOTS {
            let committed = self.slots[usize::from(n)].committed;
            let own = living.iter().filter(|it| it.slot.get() == n);
            let own = own.filter(|it| it.seq <= committed);
            let digest = digest(own.map(|it| crc32c(&it.bytes)));
            let mut value = committed.to_le_bytes().to_vec();
            value.extend_from_slice(&digest.to_le_bytes());
            let journal = self.world.journal();
            journal.checkpoint_cell(CELL, &n.to_le_bytes(), Some(&value), &mut effects);
        }
        self.journal().checkpoint_finish(&mut effects);
        self.world.flying.append(&mut effects);
    }

    pub(super) fn complete_one(&mut self) -> bool {
        if self.world.flying.is_empty() {
            return false;
        }
        let count = self.world.flying.len() as u64;
        let index = self.prng().below(count) as usize;
        let effect: Effect = self.world.flying.swap_remove(index);
        let event = self.world.execute(effect);
        let now = self.world.now;
        let (mut effects, mut out) = (Effects::new(), Vec::new());
        self.journal().step(now, event, &mut effects, &mut out);
        self.world.flying.append(&mut effects);
        for output in out {
            self.take(output);
        }
        self.hear();
        if core::mem::take(&mut self.reclaims) {
            self.reclaim();
        }
        true
    }

    /// Takes what the journal says of slots.
    pub(super) fn hear(&mut self) {
        for output in self.journal().take_slot_outputs() {
            self.take_slot(output);
        }
    }

    pub(super) fn take(&mut self, output: Output) {
        match output {
            Output::Durable(lsn) => self.world.acked = lsn,
            Output::Read { id, result } => {
                let Some(asked) = self.asked.remove(&id) else {
                    return;
                };
                self.counts.reads += 1;
                self.check_read(&asked, result);
            }
            Output::Time { id, result } => {
                let found = result.expect("the disk is whole");
                let found = found.map(|(offset, time_us)| (offset.get(), time_us));
                let Some(expected) = self.times.remove(&id) else {
                    return;
                };
                self.counts.reads += 1;
                if let Some(expected) = expected {
                    assert_eq!(found, expected, "seed {}: by time", self.seed);
                }
                if let Some((offset, time_us)) = found {
                    let living = living(&self.records);
                    let mut data = living.iter().filter_map(|it| it.data);
                    assert!(
                        data.any(|it| it.1 == offset && it.3 == time_us),
                        "seed {}: offset {offset} is dead",
                        self.seed
                    );
                }
            }
            Output::CheckpointWanted { base } => self.feeding = Some(base),
            Output::CheckpointDone => self.counts.checkpoints += 1,
            Output::ReclaimMore => self.reclaims = true,
            Output::ReadOnly(_) | Output::Room => {}
            Output::Damaged(damage) => panic!("seed {}: {damage}", self.seed),
            Output::Fatal(fatal) => panic!("seed {}: {fatal:?}", self.seed),
        }
    }

    pub(super) fn check_read(&self, asked: &Asked, result: Result<crate::ReadBatches, ReadError>) {
        let seed = self.seed;
        let start = self.start(asked.partition);
        match result {
            Ok(found) => {
                let living = living(&self.records);
                let mut next = None;
                for bytes in &found.batches {
                    let header = BatchHeader::parse(bytes).expect("a whole batch");
                    let base = header.base_offset().get();
                    let entry = living
                        .iter()
                        .find(|it| {
                            it.data
                                .is_some_and(|it| it.0 == asked.partition && it.1 == base)
                        })
                        .unwrap_or_else(|| panic!("seed {seed}: offset {base} is dead"));
                    assert_eq!(bytes, &entry.bytes, "seed {seed}: offset {base} is another");
                    match next {
                        None => assert!((base..header.next_offset().get()).contains(&asked.from)),
                        Some(next) => assert_eq!(base, next, "seed {seed}: a batch is left out"),
                    }
                    next = Some(header.next_offset().get());
                }
                assert_eq!(next, Some(found.next.get()), "seed {seed}");
            }
            Err(ReadError::AtEnd) => assert!(
                asked.from >= asked.end || asked.from < start,
                "seed {seed}: offset {} lives",
                asked.from
            ),
            Err(ReadError::BelowStart(first)) => assert!(
                asked.from < start && first.get() <= start,
                "seed {seed}: {} is kept, from {start}; got {first}",
                asked.from
            ),
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }

    pub(super) fn take_slot(&mut self, output: SlotOutput) {
        let seed = self.seed;
        match output {
            SlotOutput::Marked { slot } => {
                self.marked.insert(slot);
            }
            SlotOutput::Sealed { slot, epoch } => {
                let known = self.records.iter().any(|record| match record {
                    Record::Seal(end, seal) => {
                        (seal.slot, seal.epoch) == (slot, epoch) && *end <= self.world.acked
                    }
                    _ => false,
                });
                assert!(known, "seed {seed}: a seal is told before it is durable");
                self.told.insert((slot, epoch));
            }
            SlotOutput::Entries { id, result } => {
                let Some(asked) = self.asked_slots.remove(&id) else {
                    return;
                };
                self.counts.slot_reads += 1;
                let base = self.slot(asked.slot).base;
                match result {
                    Ok(found) => {
                        let next = self.check_entries(asked.slot, asked.from, &found.entries);
                        assert_eq!(next, found.next.get(), "seed {seed}");
                        self.last_next = next;
                    }
                    Err(SlotReadError::AtEnd) => assert!(
                        asked.from > asked.end || asked.from <= base,
                        "seed {seed}: sequence {} of {} lives",
                        asked.from,
                        asked.slot
                    ),
                    Err(SlotReadError::BelowFirst(first)) => assert!(
                        asked.from <= base && first.get() <= base + 1,
                        "seed {seed}: {} is above the base {base}; got {first}",
                        asked.from
                    ),
                    Err(error) => panic!("seed {seed}: {error}"),
                }
            }
        }
    }

    /// These are the slot's living entries, one after the other, the first the one that was asked for.
    pub(super) fn check_entries(&self, slot: SlotId, from: u64, entries: &[Bytes]) -> u64 {
        let living = living(&self.records);
        let seed = self.seed;
        assert!(!entries.is_empty(), "seed {seed}: at least one");
        let mut next = from;
        for bytes in entries {
            let entry = living
                .iter()
                .find(|it| it.slot == slot && it.seq == next)
                .unwrap_or_else(|| panic!("seed {seed}: sequence {next} is dead"));
            assert_eq!(bytes, &entry.bytes, "seed {seed}: sequence {next}");
            next += 1;
        }
        next
    }

    pub(super) fn ask(&mut self, partition: u64, from: u64, bytes_max: usize) {
        let durable = self.durable();
        let ends = durable.iter().filter_map(|it| it.data);
        let ends = ends.filter(|it| it.0 == partition).map(|it| it.2);
        let end = ends.max().unwrap_or(0);
        let mut effects = Effects::new();
        let from_offset = Offset::new(from);
        let journal = self.world.journal();
        let id = journal.read(key(partition), from_offset, bytes_max, &mut effects);
        self.world.flying.append(&mut effects);
        let asked = Asked {
            partition,
            from,
            end,
        };
        self.asked.insert(id, asked);
    }

    pub(super) fn ask_slot(&mut self, slot: SlotId, from: u64, bytes_max: usize) {
        let durable = self.durable();
        let end = durable.iter().filter(|it| it.slot == slot).count() as u64;
        // No entry has sequence 0: the first one is meant.
        let from = from.max(1);
        let mut effects = Effects::new();
        let journal = self.world.journal();
        let id = journal.read_slot(slot, SlotSeq::new(from), bytes_max, &mut effects);
        self.world.flying.append(&mut effects);
        self.asked_slots.insert(id, AskedSlot { slot, from, end });
    }

    pub(super) fn ask_time(&mut self, partition: u64, time_us: u64, is_quiet: bool) {
        let start = self.start(partition);
        let durable = self.durable();
        let own = durable.iter().filter_map(|it| it.data);
        let mut own = own.filter(|it| it.0 == partition && it.2 > start);
        let expected = own.find(|it| it.3 >= time_us).map(|it| (it.1, it.3));
        let mut effects = Effects::new();
        let journal = self.world.journal();
        let id = journal.read_time(key(partition), time_us, &mut effects);
        self.world.flying.append(&mut effects);
        // Entries below the start may still be found.
        self.times
            .insert(id, (is_quiet && start == 0).then_some(expected));
    }

    pub(super) fn look_at_tail(&mut self) {
        let slot = SlotId::new(self.prng().below(u64::from(SLOTS)) as u16);
        let next = self.slot(slot).next;
        let from = next + 2 - self.prng().below(next.min(30) + 2);
        let bytes_max = self.prng().range(1, 9000) as usize;
        let found = self
            .journal()
            .slot_tail(slot, SlotSeq::new(from), bytes_max);
        if let Some(found) = found {
            self.counts.tails += 1;
            let next = self.check_entries(slot, from.max(1), &found.entries);
            assert_eq!(next, found.next.get(), "seed {}", self.seed);
        }
    }

    pub(super) fn settle(&mut self) {
        for _ in 0..100_000 {
            self.world.flush();
            self.feed();
            if !self.complete_one() && self.journal().drained() {
                return;
            }
        }
        panic!("seed {}: it never settles", self.seed);
    }

    /// Everything that is kept, by offset, by sequence and by time, from one end to the other.
    pub(super) fn read_everything(&mut self) {
        self.settle();
        for partition in 0..PARTITIONS {
            let mut from = self.start(partition);
            let end = self.end_of(partition);
            for at in [end, end + 1, end + 9] {
                self.ask(partition, at, 1);
            }
            while from < end {
                self.ask(partition, from, 9000);
                let before = from;
                from = self.next_of(partition, from);
                assert!(from > before, "seed {}", self.seed);
            }
            for _ in 0..6 {
                let time_us = self.prng().range(990, 2010);
                self.ask_time(partition, time_us, true);
            }
            self.settle();
        }
        for n in 0..SLOTS {
            let slot = SlotId::new(n);
            let end = self.slot(slot).next;
            let mut from = self.slot(slot).base + 1;
            for at in [end + 1, end + 2, end + 20] {
                self.ask_slot(slot, at, 1);
            }
            while from <= end {
                self.ask_slot(slot, from, 2000);
                self.settle();
                let before = core::mem::replace(&mut from, self.last_next);
                assert!(from > before, "seed {}", self.seed);
            }
            self.settle();
        }
        assert!(self.asked.is_empty() && self.asked_slots.is_empty() && self.times.is_empty());
    }

    pub(super) fn next_of(&self, partition: u64, from: u64) -> u64 {
        let living = living(&self.records);
        let own = living.iter().filter_map(|it| it.data);
        let mut own = own.filter(|it| it.0 == partition && it.2 > from);
        own.next().map_or(from, |it| it.2)
    }

    pub(super) fn turn(&mut self) {
        let appends = self.prng().below(8);
        for _ in 0..appends {
            if !self.append() {
                break;
            }
        }
        if self.prng().chance(1, 9) {
            self.truncate();
        }
        if self.prng().chance(1, 30) {
            self.seal();
        }
        if self.prng().chance(7, 8) {
            self.world.flush();
        }
        if self.prng().chance(1, 3) {
            self.feed();
        }
        if self.prng().chance(1, 6) {
            self.world.pass(11_000_000);
            self.world.tick();
        }
        if self.prng().chance(1, 5) {
            self.commit();
            self.reclaim();
        }
        for _ in 0..2 {
            let partition = self.prng().below(PARTITIONS);
            let end = self.end_of(partition);
            let from = self.prng().below(end + 12);
            let bytes = self.prng().range(1, 12_000) as usize;
            let slot = slot_of(partition);
            let next = self.slot(slot).next;
            let seq = self.prng().below(next + 12);
            match self.prng().below(8) {
                0 | 1 => self.ask(partition, from, bytes),
                2 | 3 => self.ask_slot(slot, seq, bytes),
                4 => {
                    let time_us = self.prng().range(990, 2010);
                    self.ask_time(partition, time_us, false);
                }
                5 => self.look_at_tail(),
                _ => {}
            }
        }
        let completions = self.prng().below(7);
        for _ in 0..completions {
            self.complete_one();
        }
        self.world.pass(50_000);
    }

    pub(super) fn stop(&mut self) {
        let stats = self.journal().stats();
        self.counts.recycled += stats.segments_recycled;
        self.counts.rebuilt += stats.footers_rebuilt;
        self.counts.kept_cuts += self.journal().cuts.iter().count() as u64;
        self.asked.clear();
        self.asked_slots.clear();
        self.times.clear();
        if self.prng().chance(1, 3) {
            self.world.kill();
        } else {
            self.world.crash();
        }
        // A footer is a shortcut.
        if self.prng().chance(1, 2) {
            let footers: Vec<JournalFile> = self.world.disk.files.keys().copied().collect();
            for file in footers {
                if matches!(file, JournalFile::Footer(_)) && self.prng().chance(1, 2) {
                    self.world.disk.files.remove(&file);
                }
            }
        }
    }

    pub(super) fn open_through_crashes(&mut self) {
        loop {
            if self.prng().chance(1, 3) {
                let fuel = self.prng().below(14);
                self.world.disk.fuel = Some(fuel);
            }
            match self.open() {
                Ok(()) => {
                    self.world.disk.fuel = None;
                    return;
                }
                Err(OpenError::Disk {
                    error: DiskError::PowerLost,
                    ..
                }) => self.world.disk.crash(Vec::new()),
                Err(error) => panic!("seed {}: refused: {error}", self.seed),
            }
        }
    }
}
