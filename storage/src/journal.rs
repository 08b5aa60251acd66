//! The journal of one shard, as its owner sees it. It composes the writer, the reader, checkpoints and recycling, gives
//! completions to the part that asked for them, and moves everything on that can move. Refuses everything for ever once a
//! write or a sync has failed: what the disk then holds is not known. J-16

use crate::checkpointing::Checkpointing;
use crate::cuts::Cuts;
use crate::entry::{Class, Refused};
use crate::footers::Footers;
use crate::marks::Mark;
use crate::operations::{Op, Operations};
use crate::outcome::{Output, ReadId, SlotOutput};
use crate::reader::{Of, Pace, Reads, Want};
use crate::reclaim::Reclaim;
use crate::recovery::Recovered;
use crate::scrub::Scrub;
use crate::seals::Seals;
use crate::segments::{Active, Begun, Sealed};
use crate::settings::Settings;
use crate::spares::Spares;
use crate::stats::Stats;
use crate::tail::Tail;
use crate::writer::commit::Inflight;
use crate::writer::open_chunk::OpenChunk;
use crate::writer::regions::Regions;
use crate::writer::superblocks::Superblocks;
use crate::writer::{Draft, Ready};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use tiderace_base::disk::{DiskError, JournalFile};
use tiderace_base::ids::{DiskId, JournalId, PartitionKey, SlotId};
use tiderace_base::limits::BLOCK_BYTES;
use tiderace_base::operation::{Effect, Effects, Event, Fatal, OpId};
use tiderace_base::planted::{Bug, is_planted};
use tiderace_base::position::{Lsn, Offset, SlotSeq};
use tiderace_base::prng::Prng;
use tiderace_base::time::{Mono, Now};
use tiderace_wire::batch::BatchHeader;

/// Rebuilds its owner's state while a journal opens.
pub trait Replay {
    /// A checkpoint's cell of the owner's kinds (16 and above); base first, then deltas. No value: the cell was removed.
    fn cell(&mut self, kind: u8, key: &[u8], value: Option<&[u8]>);
    /// An entry, in LSN order, from the place that the checkpoint covers on. Applying one that the cells already reflect
    /// must change nothing.
    fn entry(&mut self, lsn: Lsn, end: Lsn, header: &BatchHeader, body: &[u8]);
}

/// Where partitions start: what lies below may be recycled.
pub trait Starts {
    /// The partition's first kept offset; none: the partition was dropped. Only starts whose entries are in the journal.
    fn start_of(&self, key: PartitionKey) -> Option<Offset>;

    /// Entries of the slot above this sequence are kept as entries. Nobody follows the slots of an owner that does not say:
    /// then none is kept for its sequence.
    fn base_of(&self, _slot: SlotId) -> SlotSeq {
        SlotSeq::MAX
    }
}

/// One shard's journal.
#[derive(Debug)]
pub struct Journal {
    pub(crate) settings: Settings,
    pub(crate) now: Now,
    pub(crate) prng: Prng,
    pub(crate) operations: Operations,
    /// Effects that wait for the next call that takes them.
    pub(crate) outbox: Effects,
    /// Outputs that wait for the next step.
    pub(crate) outputs: Vec<Output>,
    pub(crate) poisoned: bool,
    pub(crate) stats: Stats,
    pub(crate) superblocks: Superblocks,
    // What is being appended.
    pub(crate) regions: Regions,
    pub(crate) open: OpenChunk,
    pub(crate) ready: VecDeque<Ready>,
    pub(crate) inflight: Inflight,
    pub(crate) tail: Tail,
    pub(crate) closing_at: Option<Mono>,
    pub(crate) room_is_wanted: bool,
    // Where it goes.
    pub(crate) active: Active,
    pub(crate) segments: BTreeMap<u64, Sealed>,
    pub(crate) spares: Spares,
    pub(crate) zeros: Bytes,
    pub(crate) reclaim: Reclaim,
    read_only_told: bool,
    // Where it is found again.
    pub(crate) newest: BTreeMap<PartitionKey, u64>,
    pub(crate) cuts: Cuts,
    pub(crate) seals: Seals,
    /// Slots that were marked, with the superblock that says so.
    pub(crate) marking: Vec<(SlotId, u64)>,
    pub(crate) slot_outputs: Vec<SlotOutput>,
    pub(crate) footers: Footers,
    pub(crate) reads: Reads,
    pub(crate) pace: Pace,
    pub(crate) checkpointing: Checkpointing,
    pub(crate) scrub: Scrub,
}

impl Journal {
    pub(crate) fn recovered(found: Recovered) -> Self {
        let settings = found.settings;
        let mut spares = Spares::new(
            settings.spares_wanted,
            found.spares,
            found.gone,
            found.next_file,
        );
        if found.superblock.boot_count > 1 {
            spares = spares.found_short();
        }
        Self {
            now: found.now,
            prng: found.prng,
            operations: Operations::default(),
            outbox: Effects::new(),
            outputs: Vec::new(),
            poisoned: false,
            stats: Stats::default(),
            superblocks: Superblocks::new(found.superblock.clone()),
            regions: Regions::new(settings.region_bytes, settings.regions_max),
            open: OpenChunk::default(),
            ready: VecDeque::new(),
            inflight: Inflight::new(found.start),
            tail: Tail::new(settings.tail_bytes_max),
            closing_at: None,
            room_is_wanted: false,
            active: Active::new(
                found.file,
                found.seq,
                found.salt,
                found.start,
                Begun::Yes,
                found.last_crc,
            ),
            segments: found.sealed,
            spares,
            zeros: Bytes::new(),
            reclaim: Reclaim::default(),
            read_only_told: false,
            newest: found.newest,
            cuts: found.cuts,
            seals: Seals::new(found.superblock.seals.iter().copied()),
            marking: Vec::new(),
            slot_outputs: Vec::new(),
            footers: Footers::new(settings.footer_cache_bytes, found.footers),
            reads: Reads::default(),
            pace: Pace::new(),
            checkpointing: Checkpointing::new(found.checkpoints, found.covers),
            scrub: Scrub::new(settings.scrubbing, found.now.mono),
            settings,
        }
    }

    /// The journal's random identity.
    #[must_use]
    pub fn journal_id(&self) -> JournalId {
        self.superblocks.next.journal
    }

    /// The disk's identity, made at the first start.
    #[must_use]
    pub fn disk_id(&self) -> DiskId {
        self.superblocks.next.disk
    }

    /// How many times the journal has been opened, this time included.
    #[must_use]
    pub fn boot_count(&self) -> u64 {
        self.superblocks.next.boot_count
    }

    /// What recoveries found out that peers must know.
    #[must_use]
    pub fn marks(&self) -> &[Mark] {
        &self.superblocks.next.marks
    }

    /// Forgets the marks, durably with the next superblock.
    pub fn clear_marks(&mut self) {
        self.superblocks.next.marks.clear();
    }

    /// Makes room for one whole entry of at most `bytes`. What was drafted before stays as it is, whatever the answer.
    ///
    /// # Errors
    /// See [`Refused`]: nothing was written. Busy also ends when slices of [`Journal::slice`] are dropped, which the
    /// journal cannot see: try again then too.
    ///
    /// # Panics
    /// When `bytes` is zero or does not fit a chunk.
    #[inline]
    pub fn draft(&mut self, class: Class, bytes: usize) -> Result<Draft<'_>, Refused> {
        self.make_room(class, bytes)?;
        Ok(Draft::new(self, bytes))
    }

    /// Everything below is on the disk.
    #[must_use]
    pub fn durable_lsn(&self) -> Lsn {
        self.inflight.durable()
    }

    /// Everything below is on the disk, and a later chunk there or the superblock says so: a start that finds it damaged
    /// refuses, and never takes it for a torn tail. Reaches [`Journal::durable_lsn`] with the closing chunk of a pause.
    /// J-6, J-13
    #[must_use]
    pub fn proven_lsn(&self) -> Lsn {
        self.inflight.proven()
    }

    /// After the last committed entry.
    #[must_use]
    pub fn end_lsn(&self) -> Lsn {
        if self.open.is_open && self.open.entry_count > 0 {
            self.open.lsn.advance(self.regions.filled().len() as u64)
        } else {
            self.active.next_lsn()
        }
    }

    /// Below it slices can be taken.
    #[must_use]
    pub fn frozen_lsn(&self) -> Lsn {
        self.active.next_lsn()
    }

    /// `bytes` bytes of an entry from its place, from memory; none: no longer held there, or not frozen yet. Holding a
    /// slice holds its write buffer.
    #[must_use]
    pub fn slice(&self, lsn: Lsn, bytes: usize) -> Option<Bytes> {
        self.tail.slice(lsn, bytes)
    }

    /// Reads batches of a partition from the disk, from the one that holds `from` on: about `bytes_max` bytes of them and
    /// at least one. Answered by [`Output::Read`], never at once.
    pub fn read(
        &mut self,
        key: PartitionKey,
        from: Offset,
        bytes_max: usize,
        effects: &mut Effects,
    ) -> ReadId {
        let id = self.start_read(Of::Partition(key), Want::Batches { from, bytes_max });
        effects.append(&mut self.outbox);
        id
    }

    /// Looks for a partition's first durable batch whose append time is at or after `time_us`. Answered by
    /// [`Output::Time`], never at once.
    pub fn read_time(&mut self, key: PartitionKey, time_us: u64, effects: &mut Effects) -> ReadId {
        let id = self.start_read(Of::Partition(key), Want::Time { time_us });
        effects.append(&mut self.outbox);
        id
    }

    /// Reads whose bytes are not back yet, cancelled ones included: each may take memory.
    #[must_use]
    pub fn reads_under_way(&self) -> usize {
        self.reads.under_way()
    }

    /// How many reads of batches may be under way without the appends paying for it; at least one.
    #[must_use]
    pub fn reads_allowed(&self) -> usize {
        let most = self.settings.read_bytes_max;
        self.pace.reads(most)
    }

    /// The answer is no longer wanted and will not come.
    pub fn cancel_read(&mut self, id: ReadId) {
        self.forget_read(id);
    }

    /// Takes the completion of one of the journal's operations; those of others change nothing.
    pub fn step(&mut self, now: Now, event: Event, effects: &mut Effects, out: &mut Vec<Output>) {
        self.now = now;
        match event {
            Event::Written { op, result } => self.written(op, result),
            Event::ReadDone { op, result } => match self.operations.end(op) {
                Some(Op::Data(id)) => self.read_done(id, result),
                Some(Op::Load { seq }) => self.load_done(seq, result),
                Some(Op::ReclaimTurn) => self.reclaim_turn_done(),
                Some(Op::Scrub) => self.scrub_read_done(result),
                _ => {}
            },
            Event::Synced { op, result } => self.synced(op, result),
            Event::Prepared { op, result } => match self.operations.end(op) {
                Some(Op::Filling) => self.filling_done(result),
                Some(Op::FooterPrepare { seq }) => self.footer_prepared(seq, result),
                Some(Op::PartPrepare { part }) => self.part_prepared(part, result),
                _ => {}
            },
            // What could not be removed is removed by the next start.
            Event::Removed { op, .. } => {
                self.operations.end(op);
            }
            _ => {}
        }
        self.move_on();
        if self.room_is_wanted && !self.poisoned {
            self.room_is_wanted = false;
            self.outputs.push(Output::Room);
        }
        let read_only = self.spares.is_read_only();
        if read_only != self.read_only_told {
            self.read_only_told = read_only;
            self.outputs.push(Output::ReadOnly(read_only));
        }
        effects.append(&mut self.outbox);
        out.append(&mut self.outputs);
    }

    fn written(&mut self, op: OpId, result: Result<(), DiskError>) {
        match (self.operations.end(op), result) {
            (Some(Op::Chunk), Ok(())) => self.chunk_written(op),
            (Some(Op::Chunk), Err(error)) if is_planted(Bug::RetryFailedSync) => {
                self.submit_again(op, error);
            }
            (Some(Op::Chunk | Op::SegmentHeader), Err(error)) => {
                self.fail(Fatal::JournalWrite(error));
            }
            (Some(Op::SegmentHeader), Ok(())) => {
                if let Begun::Waiting { header, .. } = &mut self.active.begun {
                    *header = true;
                }
            }
            (Some(Op::Superblock { version }), Ok(())) => self.superblocks.written(version),
            (Some(Op::Superblock { .. }), Err(error)) => self.fail(Fatal::Superblock(error)),
            (Some(Op::FooterWrite { seq }), _) => self.footer_written(seq),
            (Some(Op::PartWrite { part }), result) => self.part_written(part, result),
            (Some(Op::Filling), result) => self.filling_done(result),
            _ => {}
        }
    }

    fn synced(&mut self, op: OpId, result: Result<(), DiskError>) {
        match self.operations.end(op) {
            Some(Op::PartSync { part }) => self.part_synced(part, result),
            Some(Op::Filling) => self.filling_done(result),
            _ => {}
        }
    }

    fn chunk_written(&mut self, op: OpId) {
        if let Some((begun, bytes)) = self.inflight.begun(op) {
            let reading = self.reads.under_way() > 0;
            let now = self.now.mono;
            self.pace.written(now.since(begun), bytes, reading);
        }
        if !self.poisoned && self.inflight.completed(op) {
            let durable = self.inflight.durable();
            self.tail.trim(durable);
            self.outputs.push(Output::Durable(durable));
        }
    }

    /// [`Bug::RetryFailedSync`], where the chunk lies in the segment that is being written.
    fn submit_again(&mut self, failed: OpId, error: DiskError) {
        let again = self.operations.begin(Op::Chunk);
        let place = self.inflight.rename(failed, again).and_then(|(end, len)| {
            let before = end.distance_from(self.active.start)?;
            let at = before.checked_sub(len as u64)?;
            Some((at, self.tail.slice(self.active.start.advance(at), len)?))
        });
        if let Some((at, data)) = place {
            self.outbox.push(Effect::Write {
                op: again,
                file: JournalFile::Segment(self.active.file),
                at: at + BLOCK_BYTES as u64,
                data,
                durable: true,
            });
        } else {
            self.fail(Fatal::JournalWrite(error));
        }
    }

    /// J-16: nothing is tried again, and nothing more is said to be durable.
    pub(crate) fn fail(&mut self, fatal: Fatal) {
        if !self.poisoned {
            self.poisoned = true;
            self.outputs.push(Output::Fatal(fatal));
        }
    }

    /// Whatever can go on does.
    fn move_on(&mut self) {
        if self.poisoned {
            return;
        }
        self.check_begun();
        self.submit();
        self.push_footers();
        self.push_released();
        self.want_checkpoint();
        self.push_checkpoint();
        self.push_filling();
        self.push_scrub();
        self.write_superblock();
        self.tell_slots();
    }

    /// Ends a turn: submits the open chunk when a write may go.
    pub fn flush(&mut self, now: Now, effects: &mut Effects) {
        self.now = now;
        self.move_on();
        effects.append(&mut self.outbox);
    }

    /// Does what is due: the closing chunk, another try to prepare a segment or to write a checkpoint.
    pub fn tick(&mut self, now: Now, effects: &mut Effects) {
        self.now = now;
        self.close_when_due();
        self.move_on();
        effects.append(&mut self.outbox);
    }

    /// When [`Journal::tick`] is wanted next.
    #[must_use]
    pub fn next_wake(&self) -> Option<Mono> {
        if self.poisoned {
            return None;
        }
        let sealing = self.footers.is_sealing().then_some(self.now.mono);
        [
            self.closing_at,
            self.spares.retry_at(),
            self.spares.surplus_at(),
            self.checkpointing.retry_at(),
            sealing,
            self.scrub.next_wake(self.now.mono),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Releases segments whose data all lies below its partitions' starts. Call it when starts have moved, and whenever
    /// [`Output::ReclaimMore`] asks for it: a call goes as far as it can without waiting.
    pub fn reclaim(&mut self, starts: &impl Starts, effects: &mut Effects) {
        if !self.poisoned {
            self.reclaim_some(starts);
            self.move_on();
        }
        effects.append(&mut self.outbox);
    }

    /// Adds a cell to the checkpoint that was wanted. No value: the cell is gone.
    ///
    /// # Panics
    /// When no checkpoint is wanted, or the cell is one of the journal's own kinds or exceeds a cell's bounds:
    /// a key of 1024 bytes, a value of [`crate::CELL_VALUE_BYTES_MAX`].
    pub fn checkpoint_cell(
        &mut self,
        kind: u8,
        key: &[u8],
        value: Option<&[u8]>,
        effects: &mut Effects,
    ) {
        self.take_checkpoint_cell(kind, key, value);
        if !self.poisoned {
            self.push_checkpoint();
        }
        effects.append(&mut self.outbox);
    }

    /// Bytes of cells that are not on the disk yet: feed more while this is below 1 MiB.
    #[must_use]
    pub fn checkpoint_backlog_bytes(&self) -> usize {
        self.checkpointing.backlog_bytes()
    }

    /// All cells were fed.
    pub fn checkpoint_finish(&mut self, effects: &mut Effects) {
        self.end_checkpoint_cells();
        if !self.poisoned {
            self.push_checkpoint();
        }
        effects.append(&mut self.outbox);
    }

    /// No append is in flight and none is open; what is in flight beside is made again by the next start.
    #[must_use]
    pub fn drained(&self) -> bool {
        let nothing_open = !self.open.is_open || self.open.entry_count == 0;
        self.poisoned
            || (nothing_open
                && self.ready.is_empty()
                && self.inflight.count() == 0
                && self.superblocks.is_idle())
    }

    /// The size of a segment's file.
    #[must_use]
    pub const fn segment_bytes(&self) -> u64 {
        self.settings.segment_bytes
    }

    /// Counters and gauges.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            chunks_inflight: self.inflight.count() as u64,
            segments: self.segments.len() as u64 + 1,
            spares: self.spares.ready.len() as u64,
            read_only: self.spares.is_read_only(),
            regions: self.regions.count() as u64,
            regions_pinned: self.regions.pinned() as u64,
            tail_bytes: self.tail.bytes() as u64,
            checkpoint_backlog_bytes: self.checkpointing.backlog_bytes() as u64,
            durable_lsn: self.durable_lsn().get(),
            end_lsn: self.end_lsn().get(),
            damaged: self.scrub.damaged(),
            ..self.stats
        }
    }
}
