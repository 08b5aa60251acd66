//! The indexes of full segments: made into footers a piece at a time, written beside the segment when it is durable, kept
//! in memory within a bound, loaded again when they are needed, and built anew from the segment when the footer is absent
//! or wrong. Until a footer is written, it or the index that it is made from stays in memory.

use crate::cuts::Cuts;
use crate::format::chunk::decode_first;
use crate::index::{
    Footer, FooterCache, Located, Partition, Sealing, SegmentIndex, SlotPosition, SlotSpan,
};
use crate::journal::Journal;
use crate::operations::Op;
use crate::outcome::{ReadError, ReadId};
use crate::planted::{Bug, is_planted};
use crate::recovery::{Chunk, entries_are_good, note_entry};
use crate::segments::Sealed;
use bytes::Bytes;
use std::collections::BTreeMap;
use tiderace_base::disk::{DiskError, JournalFile};
use tiderace_base::ids::{PartitionKey, SlotId};
use tiderace_base::limits::{BLOCK_BYTES, CHUNK_BYTES_MAX};
use tiderace_base::operation::Effect;
use tiderace_base::position::{Lsn, Offset, SlotSeq};

/// Positions copied into a footer in one turn.
const POSITIONS_AT_ONCE: usize = 4096;

/// A footer that is not on the disk yet.
#[derive(Debug)]
enum Pending {
    Sealing(Option<Box<Sealing>>),
    /// Waits for the segment to be durable, then for its file, then for its bytes.
    Footer(Footer, bool),
}

/// What a life's load is at.
#[derive(Debug)]
enum Stage {
    FirstBlock,
    Whole,
    /// Reading the segment itself from this byte on.
    Scan {
        at: u64,
        index: SegmentIndex,
    },
}

/// Who is told that a load has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Waiter {
    Read(ReadId),
    Reclaim,
    Scrub,
}

#[derive(Debug)]
struct Load {
    stage: Stage,
    /// What was read last was wrong, and is being read again: what is wrong twice is damaged.
    is_doubted: bool,
    waiting: Vec<Waiter>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Footers {
    pending: BTreeMap<u64, Pending>,
    pub(crate) cache: FooterCache,
    loads: BTreeMap<u64, Load>,
}

/// An index to search.
pub(crate) enum View<'a> {
    Open(&'a SegmentIndex),
    Footer(Footer),
}

impl View<'_> {
    fn slot_of(&self, key: PartitionKey) -> Option<SlotId> {
        match self {
            Self::Open(index) => index.slot_of(key),
            Self::Footer(footer) => footer.slot_of(key),
        }
    }

    /// What lives of the slot when `dead_from` and what follows is dead.
    pub(crate) fn slot_span(&self, slot: SlotId, dead_from: SlotSeq) -> Option<SlotSpan> {
        match self {
            Self::Open(index) => index.slot_span(slot, dead_from),
            Self::Footer(footer) => footer.slot_span(slot, dead_from),
        }
    }

    /// The link to an earlier life; none where it is not known here.
    pub(crate) fn previous_seq(&self, key: PartitionKey) -> Option<u64> {
        match self {
            Self::Open(_) => None,
            Self::Footer(footer) => footer.previous_seq(key),
        }
    }

    /// Whether `previous_seq` tells.
    pub(crate) fn has_links(&self) -> bool {
        matches!(self, Self::Footer(_))
    }
}

/// The index of a life with what truncations behind that life took: the only way to ask it. J-61
pub(crate) struct Alive<'a> {
    view: &'a View<'a>,
    cuts: &'a Cuts,
    /// Where the life ends.
    end: Lsn,
}

impl<'a> Alive<'a> {
    pub(crate) fn new(view: &'a View<'a>, cuts: &'a Cuts, end: Lsn) -> Self {
        Self { view, cuts, end }
    }

    fn dead_from(&self, slot: SlotId) -> SlotSeq {
        if is_planted(Bug::BelieveOldIndex) {
            return SlotSeq::MAX;
        }
        self.cuts.dead_from(slot, self.end)
    }

    fn dead_from_in(&self, key: PartitionKey) -> Option<SlotSeq> {
        Some(self.dead_from(self.view.slot_of(key)?))
    }

    pub(crate) fn partition(&self, key: PartitionKey) -> Option<Partition> {
        let dead_from = self.dead_from_in(key)?;
        match self.view {
            View::Open(index) => index.partition(key, dead_from),
            View::Footer(footer) => footer.partition(key, dead_from),
        }
    }

    pub(crate) fn locate(&self, key: PartitionKey, offset: Offset) -> Option<Located> {
        let dead_from = self.dead_from_in(key)?;
        match self.view {
            View::Open(index) => index.locate(key, offset, dead_from),
            View::Footer(footer) => footer.locate(key, offset, dead_from),
        }
    }

    pub(crate) fn locate_time(&self, key: PartitionKey, time_us: u64) -> Option<Located> {
        let dead_from = self.dead_from_in(key)?;
        match self.view {
            View::Open(index) => index.locate_time(key, time_us, dead_from),
            View::Footer(footer) => footer.locate_time(key, time_us, dead_from),
        }
    }

    pub(crate) fn slot_span(&self, slot: SlotId) -> Option<SlotSpan> {
        self.view.slot_span(slot, self.dead_from(slot))
    }

    pub(crate) fn locate_seq(&self, slot: SlotId, seq: SlotSeq) -> Option<SlotPosition> {
        let dead_from = self.dead_from(slot);
        match self.view {
            View::Open(index) => index.locate_seq(slot, seq, dead_from),
            View::Footer(footer) => footer.locate_seq(slot, seq, dead_from),
        }
    }

    /// Every partition of which something lives.
    pub(crate) fn partitions(&self) -> Vec<Partition> {
        let all: Vec<PartitionKey> = match self.view {
            View::Open(index) => index.partitions().map(|it| it.key).collect(),
            View::Footer(footer) => footer.partitions().map(|it| it.key).collect(),
        };
        let living = all.into_iter().filter_map(|key| self.partition(key));
        living.collect()
    }
}

impl Load {
    /// Whether what was read wrong is to be read again: once.
    fn doubts(&mut self) -> bool {
        !core::mem::replace(&mut self.is_doubted, true)
    }
}

impl Footers {
    pub(crate) fn new(cache_bytes: usize, footers: Vec<Footer>) -> Self {
        let mut cache = FooterCache::new(cache_bytes);
        for footer in footers {
            cache.insert(footer);
        }
        Self {
            pending: BTreeMap::new(),
            cache,
            loads: BTreeMap::new(),
        }
    }

    /// The index of a life, if it is in memory.
    pub(crate) fn view(&mut self, seq: u64) -> Option<View<'_>> {
        match self.pending.get(&seq) {
            Some(Pending::Sealing(Some(sealing))) => Some(View::Open(sealing.index())),
            Some(Pending::Footer(footer, _)) => Some(View::Footer(footer.clone())),
            Some(Pending::Sealing(None)) | None => self.cache.get(seq).map(View::Footer),
        }
    }

    /// Whether anything about the life is in flight or being made.
    pub(crate) fn is_busy(&self, seq: u64) -> bool {
        let is_pending = match self.pending.get(&seq) {
            Some(Pending::Sealing(_) | Pending::Footer(_, true)) => true,
            Some(Pending::Footer(_, false)) | None => false,
        };
        is_pending || self.loads.contains_key(&seq)
    }

    /// Whether its footer is, or was, written beside the segment.
    pub(crate) fn is_on_disk(&self, seq: u64) -> bool {
        !self.pending.contains_key(&seq)
    }

    /// The life was released, and nothing about it is in flight.
    pub(crate) fn forget(&mut self, seq: u64) {
        self.pending.remove(&seq);
        self.cache.remove(seq);
    }

    pub(crate) fn is_sealing(&self) -> bool {
        self.pending
            .values()
            .any(|it| matches!(it, Pending::Sealing(_)))
    }
}

impl Journal {
    /// A segment is full: its index begins to become a footer.
    pub(crate) fn seal_index(&mut self, index: SegmentIndex, sealed: &Sealed) {
        let seq = sealed.row.seq;
        let keys: Vec<PartitionKey> = index.partitions().map(|it| it.key).collect();
        let newest = &self.newest;
        let sealing = index.seal(sealed.life(self.superblocks.next.journal), |key| {
            newest.get(&key).copied()
        });
        for key in keys {
            self.newest.insert(key, seq);
            self.checkpointing.partition_changed(key);
        }
        self.footers
            .pending
            .insert(seq, Pending::Sealing(Some(Box::new(sealing))));
    }

    /// Moves footers on: a piece of work for one that is being made, writes for those whose segment is durable.
    pub(crate) fn push_footers(&mut self) {
        let durable = self.inflight.durable();
        for (seq, pending) in &mut self.footers.pending {
            if let Pending::Sealing(sealing) = pending
                && let Some(mut work) = sealing.take()
            {
                if work.step(POSITIONS_AT_ONCE) {
                    *pending = Pending::Footer(work.finish(), false);
                } else {
                    *sealing = Some(work);
                    break;
                }
            }
            if let Pending::Footer(footer, asked) = pending
                && !*asked
                && footer.life().end <= durable
                && !self.reclaim.is_deciding(*seq)
                && let Some(sealed) = self.segments.get(seq)
            {
                *asked = true;
                self.outbox.push(Effect::Prepare {
                    op: self.operations.begin(Op::FooterPrepare { seq: *seq }),
                    file: JournalFile::Footer(sealed.row.file),
                    bytes: 0,
                });
            }
        }
    }

    pub(crate) fn footer_prepared(&mut self, seq: u64, result: Result<(), DiskError>) {
        let (Ok(()), Some(Pending::Footer(footer, _)), Some(sealed)) = (
            result,
            self.footers.pending.get(&seq),
            self.segments.get(&seq),
        ) else {
            self.footer_written(seq);
            return;
        };
        self.outbox.push(Effect::Write {
            op: self.operations.begin(Op::FooterWrite { seq }),
            file: JournalFile::Footer(sealed.row.file),
            at: 0,
            data: footer.bytes().clone(),
            durable: true,
        });
    }

    /// Written or not: from here on it is read again, or built again.
    pub(crate) fn footer_written(&mut self, seq: u64) {
        if let Some(Pending::Footer(footer, _)) = self.footers.pending.remove(&seq) {
            self.footers.cache.insert(footer);
        }
        self.reclaim_unblocked();
    }

    /// Has the index of a sealed life loaded; `waiting` is told when it is there.
    pub(crate) fn load_index(&mut self, seq: u64, waiting: Waiter) {
        if let Some(load) = self.footers.loads.get_mut(&seq) {
            load.waiting.push(waiting);
            return;
        }
        let Some(sealed) = self.segments.get(&seq) else {
            return;
        };
        let file = JournalFile::Footer(sealed.row.file);
        self.footers.loads.insert(
            seq,
            Load {
                stage: Stage::FirstBlock,
                is_doubted: false,
                waiting: vec![waiting],
            },
        );
        self.read_for_load(seq, file, 0, BLOCK_BYTES as u64);
    }

    fn read_for_load(&mut self, seq: u64, file: JournalFile, at: u64, bytes: u64) {
        let op = self.operations.begin(Op::Load { seq });
        self.stats.read_bytes += bytes;
        self.outbox.push(Effect::Read {
            op,
            file,
            at,
            len: bytes as u32,
        });
    }

    pub(crate) fn load_done(&mut self, seq: u64, result: Result<Bytes, DiskError>) {
        let (Some(mut load), Some(sealed)) =
            (self.footers.loads.remove(&seq), self.segments.get(&seq))
        else {
            return;
        };
        let life = sealed.life(self.superblocks.next.journal);
        let row = sealed.row;
        let file = JournalFile::Footer(row.file);
        // A process without descriptors says nothing of the footer.
        if let Err(error @ DiskError::NotOpened(_)) = result {
            return self.load_ended(seq, load.waiting, Err(ReadError::Disk(error)));
        }
        match load.stage {
            Stage::FirstBlock => {
                let is_absent = result == Err(DiskError::Absent);
                let size = result
                    .ok()
                    .and_then(|block| Footer::file_bytes(&block, &life).ok())
                    .filter(|size| *size <= u64::from(u32::MAX));
                match size {
                    Some(size) => {
                        load.stage = Stage::Whole;
                        self.read_on(seq, load, file, 0, size);
                    }
                    None if !is_absent && load.doubts() => {
                        self.read_on(seq, load, file, 0, BLOCK_BYTES as u64);
                    }
                    None => {
                        self.scan_from(seq, load.waiting, BLOCK_BYTES as u64, SegmentIndex::new());
                    }
                }
            }
            Stage::Whole => match result.map(|bytes| Footer::decode(bytes, &life)) {
                Ok(Ok(footer)) => {
                    self.stats.footers_loaded += 1;
                    self.load_ended(seq, load.waiting, Ok(footer));
                }
                // Its length may have been what was read wrong.
                Ok(Err(_)) | Err(_) if load.doubts() => {
                    load.stage = Stage::FirstBlock;
                    self.read_on(seq, load, file, 0, BLOCK_BYTES as u64);
                }
                Ok(Err(_)) | Err(_) => {
                    self.scan_from(seq, load.waiting, BLOCK_BYTES as u64, SegmentIndex::new());
                }
            },
            Stage::Scan { at, index } => {
                self.scan_piece(seq, load.waiting, at, index, load.is_doubted, result);
            }
        }
    }

    fn read_on(&mut self, seq: u64, load: Load, file: JournalFile, at: u64, bytes: u64) {
        self.footers.loads.insert(seq, load);
        self.read_for_load(seq, file, at, bytes);
    }

    fn scan_from(&mut self, seq: u64, waiting: Vec<Waiter>, at: u64, index: SegmentIndex) {
        self.scan(seq, waiting, at, index, false);
    }

    fn scan(
        &mut self,
        seq: u64,
        waiting: Vec<Waiter>,
        at: u64,
        index: SegmentIndex,
        is_doubted: bool,
    ) {
        let Some(sealed) = self.segments.get(&seq) else {
            return;
        };
        let row = sealed.row;
        let life = sealed.life(self.superblocks.next.journal);
        let end = row.end.distance_from(row.start).unwrap_or(0) + BLOCK_BYTES as u64;
        if at >= end {
            // The link to an earlier life is not in the segment: the one before it is always a safe place to look.
            let earlier = self.segments.range(..seq).next_back().map(|(seq, _)| *seq);
            let footer = index.seal(life, |_| earlier).finish();
            self.stats.footers_rebuilt += 1;
            self.footers
                .pending
                .insert(seq, Pending::Footer(footer.clone(), false));
            self.load_ended(seq, waiting, Ok(footer));
            return;
        }
        self.footers.loads.insert(
            seq,
            Load {
                stage: Stage::Scan { at, index },
                is_doubted,
                waiting,
            },
        );
        let bytes = (end - at).min(CHUNK_BYTES_MAX as u64);
        self.read_for_load(seq, JournalFile::Segment(row.file), at, bytes);
    }

    fn scan_piece(
        &mut self,
        seq: u64,
        waiting: Vec<Waiter>,
        start: u64,
        mut index: SegmentIndex,
        is_doubted: bool,
        result: Result<Bytes, DiskError>,
    ) {
        let bytes = match result {
            Ok(bytes) => bytes,
            Err(_) if !is_doubted => return self.scan(seq, waiting, start, index, true),
            Err(error) => return self.load_ended(seq, waiting, Err(ReadError::Disk(error))),
        };
        let Some(sealed) = self.segments.get(&seq) else {
            return;
        };
        let row = sealed.row;
        let life = crate::format::chunk::Life {
            journal: self.superblocks.next.journal,
            salt: row.salt,
        };
        let mut done = 0;
        while done < bytes.len() {
            let at = start + done as u64;
            let lsn = row.start.advance(at - BLOCK_BYTES as u64);
            let header = decode_first(&bytes[done..], life).filter(|it| it.lsn == lsn);
            let Some(header) = header else {
                break;
            };
            let Some(chunk) = bytes.get(done..done + header.chunk_bytes) else {
                break;
            };
            if !header.rest_matches(chunk) || !entries_are_good(&header, chunk) {
                break;
            }
            let chunk = Chunk {
                header: &header,
                at,
                bytes: chunk,
            };
            let mut good = true;
            chunk.entries(|at, header, bytes| {
                good &= note_entry(&mut index, lsn, at, header, bytes);
            });
            if !good {
                break;
            }
            done += header.chunk_bytes;
        }
        if done == 0 && !is_doubted {
            return self.scan(seq, waiting, start, index, true);
        }
        if done == 0 {
            let end = row.end.distance_from(row.start).unwrap_or(0) + BLOCK_BYTES as u64;
            let error = ReadError::Damaged {
                file: JournalFile::Segment(row.file),
                at: start,
                bytes: end - start,
            };
            self.load_ended(seq, waiting, Err(error));
            return;
        }
        self.scan_from(seq, waiting, start + done as u64, index);
    }

    fn load_ended(&mut self, seq: u64, waiting: Vec<Waiter>, result: Result<Footer, ReadError>) {
        // A search for damage passes by once: what readers use stays.
        let is_used = waiting
            .iter()
            .any(|waiter| !matches!(waiter, Waiter::Scrub));
        if let Ok(footer) = &result
            && is_used
        {
            self.footers.cache.insert(footer.clone());
        }
        for waiter in waiting {
            match (waiter, &result) {
                (Waiter::Read(id), Ok(footer)) => self.go_on_reading(id, Some(footer.clone())),
                (Waiter::Read(id), Err(error)) => self.answer_read_error(id, error.clone()),
                (Waiter::Reclaim, Ok(footer)) => self.reclaim_loaded(seq, Some(footer.clone())),
                (Waiter::Reclaim, Err(_)) => self.reclaim_loaded(seq, None),
                (Waiter::Scrub, result) => {
                    self.scrub_loaded(seq, result.as_ref().ok().cloned());
                }
            }
        }
        self.reclaim_unblocked();
    }
}
