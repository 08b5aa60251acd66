//! Drives a checkpoint while appends go on: wants it, takes the owner's cells and adds the journal's own, writes the part's
//! pieces a few at a time, and has the superblock name the part when it is synced and everything that its cells reflect is
//! durable. A part that does not fit the disk, or whose file cannot be opened, is given up, and a whole one is wanted later.
//! J-12

pub(crate) mod partition_row;
pub(crate) mod truncation_row;

use crate::checkpoint::{Cell, Chain, NO_PARENT, PartWriter, SegmentRow};
use crate::cuts::Cut;
use crate::format::superblock::CheckpointRef;
use crate::journal::Journal;
use crate::operations::Op;
use crate::outcome::Output;
use crate::planted::{Bug, is_planted};
use crate::spares::RETRY_AFTER_NS;
use std::collections::BTreeSet;
use std::ops::Bound;
use tiderace_base::disk::{DiskError, JournalFile};
use tiderace_base::ids::{PartitionKey, SlotId};
use tiderace_base::limits::MIB;
use tiderace_base::operation::{Effect, Fatal};
use tiderace_base::position::Lsn;
use tiderace_base::time::Mono;

/// Sealed segments that the last checkpoint does not cover, at most.
const SEGMENTS_UNCOVERED_MAX: usize = 4;

/// Pieces of a part in flight: the disk is busy, and appends are not behind a queue.
const WRITES_MAX: usize = 2;
/// Above this the journal adds none of its own cells, and the owner is asked not to.
const BACKLOG_BYTES_MAX: usize = MIB;
/// Own cells added in one go.
const OWN_CELLS_AT_ONCE: usize = 1024;

/// The part that is being written.
#[derive(Debug)]
struct Open {
    writer: PartWriter,
    file_is_there: bool,
    writes: usize,
    syncing: bool,
    synced: bool,
    owner_is_done: bool,
    /// Where the journal ended when the last cell was captured.
    captured_end: Option<Lsn>,
    /// The superblock that names the part.
    version: Option<u64>,
    /// A base: all segments and partitions above these are still to be written.
    segments_after: Option<Bound<u64>>,
    partitions_after: Option<Bound<PartitionKey>>,
}

/// A part that was given up while pieces of it were in flight.
#[derive(Debug)]
struct Abandoned {
    id: u64,
    writes: usize,
    /// Files to remove when nothing is in flight any more.
    files: Vec<u64>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Checkpointing {
    pub(crate) chain: Chain,
    open: Option<Open>,
    /// No part is begun beside it.
    abandoned: Option<Abandoned>,
    /// A part was given up while the owner was still feeding it.
    discarding: bool,
    base_is_needed: bool,
    /// Where the journal ended when the last checkpoint was begun.
    last_begun: Lsn,
    /// The oldest entry that the owner has not captured. J-66
    pub(crate) uncaptured: Option<Lsn>,
    retry_at: Option<Mono>,
    segments_dirty: BTreeSet<u64>,
    partitions_dirty: BTreeSet<PartitionKey>,
}

impl Checkpointing {
    pub(crate) fn new(chain: Chain, covers: Lsn) -> Self {
        Self {
            chain,
            open: None,
            abandoned: None,
            discarding: false,
            // What changed since the last checkpoint was replayed, not counted: all is written once.
            base_is_needed: true,
            last_begun: covers,
            uncaptured: None,
            retry_at: None,
            segments_dirty: BTreeSet::new(),
            partitions_dirty: BTreeSet::new(),
        }
    }

    pub(crate) fn segment_changed(&mut self, seq: u64) {
        self.segments_dirty.insert(seq);
    }

    pub(crate) fn partition_changed(&mut self, key: PartitionKey) {
        self.partitions_dirty.insert(key);
    }

    pub(crate) fn backlog_bytes(&self) -> usize {
        self.open
            .as_ref()
            .map_or(0, |open| open.writer.backlog_bytes())
    }

    /// When another try is due; not while the last one is still ending.
    pub(crate) fn retry_at(&self) -> Option<Mono> {
        self.retry_at.filter(|_| self.abandoned.is_none())
    }

    /// Wants a checkpoint that builds on no other as soon as may be.
    pub(crate) fn ask_for_base(&mut self, now: Mono) {
        if self.open.is_none() && self.retry_at.is_none() {
            self.base_is_needed = true;
            self.retry_at = Some(now);
        }
    }

    /// The part that is being written, if it is this one.
    fn open_part(&mut self, part: u64) -> Option<&mut Open> {
        self.open.as_mut().filter(|open| open.writer.id() == part)
    }
}

impl Journal {
    pub(crate) fn take_checkpoint_cell(&mut self, kind: u8, key: &[u8], value: Option<&[u8]>) {
        assert!(
            kind >= crate::checkpoint::kind::OWNER_MIN,
            "the kinds below belong to the journal"
        );
        if self.checkpointing.discarding {
            return;
        }
        let open = self.checkpointing.open.as_mut();
        let open = open
            .filter(|open| !open.owner_is_done)
            .expect("cells are fed while a checkpoint is wanted");
        open.writer
            .push(Cell { kind, key, value })
            .expect("the owner's cells keep the bounds of a cell");
    }

    pub(crate) fn end_checkpoint_cells(&mut self) {
        if self.checkpointing.discarding {
            self.checkpointing.discarding = false;
            self.checkpointing.retry_at = Some(self.now.mono.after_ns(RETRY_AFTER_NS));
            return;
        }
        if let Some(open) = &mut self.checkpointing.open {
            open.owner_is_done = true;
        }
    }

    /// Wants a checkpoint when enough was appended since the last one.
    pub(crate) fn want_checkpoint(&mut self) {
        let journal = self.journal_id();
        let it = &mut self.checkpointing;
        if it.open.is_some() || it.abandoned.is_some() || it.discarding {
            return;
        }
        let end = if self.open.is_open {
            self.open.lsn
        } else {
            self.active.next_lsn()
        };
        let due = match it.retry_at {
            Some(at) => self.now.mono >= at,
            None => {
                // Each start begins a segment, however little is written: without the second bound a node that is
                // started often keeps, and replays, them all.
                let appended = end.distance_from(it.last_begun).unwrap_or(0);
                let behind = self.segments.values().rev();
                let behind = behind.take_while(|sealed| sealed.row.end > it.last_begun);
                appended >= self.settings.checkpoint_every_bytes
                    || behind.take(SEGMENTS_UNCOVERED_MAX + 1).count() > SEGMENTS_UNCOVERED_MAX
            }
        };
        if !due {
            return;
        }
        it.retry_at = None;
        let next = it.chain.begin(it.base_is_needed);
        let base = next.parent == NO_PARENT;
        it.base_is_needed = false;
        it.last_begun = end;
        // J-66, J-54
        let uncaptured = it.uncaptured.filter(|_| !is_planted(Bug::CoverUncaptured));
        let before = it.chain.newest().map_or(Lsn::ZERO, |part| part.covers);
        let covers = end.min(uncaptured.unwrap_or(end)).max(before);
        if base {
            it.segments_dirty.clear();
            it.partitions_dirty.clear();
            let cuts = self.cuts.iter().map(|(slot, cut)| (slot, cut.at)).collect();
            self.cuts.dirty = cuts;
        }
        it.open = Some(Open {
            writer: PartWriter::new(journal, next.id, next.parent, covers),
            file_is_there: false,
            writes: 0,
            syncing: false,
            synced: false,
            owner_is_done: false,
            captured_end: None,
            version: None,
            segments_after: base.then_some(Bound::Unbounded),
            partitions_after: base.then_some(Bound::Unbounded),
        });
        let op = self.operations.begin(Op::PartPrepare { part: next.id });
        self.outbox.push(Effect::Prepare {
            op,
            file: JournalFile::Checkpoint(next.id),
            bytes: 0,
        });
        self.outputs.push(Output::CheckpointWanted { base });
    }

    /// Moves the part on as far as it goes now.
    pub(crate) fn push_checkpoint(&mut self) {
        self.push_own_cells();
        let end = self.end_lsn();
        let durable = self.inflight.durable();
        let Some(open) = &mut self.checkpointing.open else {
            return;
        };
        let own_is_done = open.segments_after.is_none()
            && open.partitions_after.is_none()
            && self.cuts.dirty.is_empty()
            && self.checkpointing.segments_dirty.is_empty()
            && self.checkpointing.partitions_dirty.is_empty();
        if open.owner_is_done && own_is_done && open.captured_end.is_none() {
            open.captured_end = Some(end);
            open.writer.finish();
        }
        let part = open.writer.id();
        let file = JournalFile::Checkpoint(part);
        while open.file_is_there && open.writes < WRITES_MAX {
            let Some(piece) = open.writer.take() else {
                break;
            };
            open.writes += 1;
            self.stats.checkpoint_bytes += piece.data.len() as u64;
            self.outbox.push(Effect::Write {
                op: self.operations.begin(Op::PartWrite { part }),
                file,
                at: piece.at,
                data: piece.data,
                durable: false,
            });
        }
        let Some(captured_end) = open.captured_end else {
            return;
        };
        let written = open.file_is_there && open.writes == 0 && open.writer.backlog_bytes() == 0;
        if written && !open.syncing && !open.synced {
            open.syncing = true;
            self.outbox.push(Effect::Sync {
                op: self.operations.begin(Op::PartSync { part }),
                file,
            });
        }
        if open.synced && open.version.is_none() && durable >= captured_end {
            let next = &mut self.superblocks.next;
            next.previous = self.checkpointing.chain.newest().map(|part| CheckpointRef {
                id: part.id,
                covers: part.covers,
            });
            next.newest = Some(CheckpointRef {
                id: open.writer.id(),
                covers: open.writer.covers(),
            });
            open.version = Some(self.superblocks.ask());
        }
        if open
            .version
            .is_some_and(|version| self.superblocks.is_durable(version))
        {
            let part = *open.writer.finished().expect("a named part is finished");
            self.checkpointing.open = None;
            let gone = self.checkpointing.chain.commit(part);
            self.remove_parts(gone);
            self.stats.checkpoints += 1;
            self.spares.forget_gone(self.stats.checkpoints);
            self.outputs.push(Output::CheckpointDone);
            self.want_reclaim();
        }
    }

    /// The journal's own cells: for a base all rows, and always those that changed.
    fn push_own_cells(&mut self) {
        let Some(open) = &mut self.checkpointing.open else {
            return;
        };
        if open.captured_end.is_some() {
            return;
        }
        for _ in 0..OWN_CELLS_AT_ONCE {
            if open.writer.backlog_bytes() >= BACKLOG_BYTES_MAX {
                return;
            }
            if let Some(after) = open.segments_after {
                match self.segments.range((after, Bound::Unbounded)).next() {
                    Some((seq, sealed)) => {
                        put_segment(&mut open.writer, *seq, Some(&sealed.row));
                        open.segments_after = Some(Bound::Excluded(*seq));
                    }
                    None => open.segments_after = None,
                }
            } else if let Some(after) = open.partitions_after {
                match self.newest.range((after, Bound::Unbounded)).next() {
                    Some((key, seq)) => {
                        put_partition(&mut open.writer, *key, Some(*seq));
                        open.partitions_after = Some(Bound::Excluded(*key));
                    }
                    None => open.partitions_after = None,
                }
            } else if let Some(seq) = self.checkpointing.segments_dirty.pop_first() {
                let row = self.segments.get(&seq).map(|sealed| &sealed.row);
                put_segment(&mut open.writer, seq, row);
            } else if let Some((slot, at)) = self.cuts.dirty.pop_first() {
                put_truncation(&mut open.writer, slot, at, self.cuts.get(slot, at));
            } else if let Some(key) = self.checkpointing.partitions_dirty.pop_first() {
                put_partition(&mut open.writer, key, self.newest.get(&key).copied());
            } else {
                return;
            }
        }
    }

    pub(crate) fn part_prepared(&mut self, part: u64, result: Result<(), DiskError>) {
        match (result, self.checkpointing.open_part(part)) {
            (Ok(()), Some(open)) => open.file_is_there = true,
            (Ok(()), None) => {}
            (Err(error), _) => self.give_up_part(error),
        }
    }

    pub(crate) fn part_written(&mut self, part: u64, result: Result<(), DiskError>) {
        if let Some(open) = self.checkpointing.open_part(part) {
            open.writes -= 1;
            if let Err(error) = result {
                self.give_up_part(error);
            }
            return;
        }
        if let Err(error) = result
            && !costs_the_part_alone(error)
        {
            self.fail(Fatal::JournalWrite(error));
        }
        if let Some(abandoned) = &mut self.checkpointing.abandoned
            && abandoned.id == part
        {
            abandoned.writes -= 1;
            self.end_abandoned();
        }
    }

    /// Removes what a part that was given up left, once nothing of it is in flight.
    fn end_abandoned(&mut self) {
        let ended = self.checkpointing.abandoned.take_if(|it| it.writes == 0);
        if let Some(ended) = ended {
            self.remove_parts(ended.files);
        }
    }

    pub(crate) fn part_synced(&mut self, part: u64, result: Result<(), DiskError>) {
        match (result, self.checkpointing.open_part(part)) {
            (Ok(()), Some(open)) => open.synced = true,
            (Ok(()), None) => {}
            // No sync was asked of the disk.
            (Err(error @ DiskError::NotOpened(_)), Some(_)) => self.give_up_part(error),
            // Never tried again: the file is not named, and a new one will be written.
            (Err(error), _) => self.fail(Fatal::JournalSync(error)),
        }
    }

    fn give_up_part(&mut self, error: DiskError) {
        if !costs_the_part_alone(error) {
            self.fail(Fatal::JournalWrite(error));
            return;
        }
        let Some(open) = self.checkpointing.open.take() else {
            return;
        };
        self.stats.checkpoints_failed += 1;
        self.checkpointing.base_is_needed = true;
        if open.owner_is_done {
            self.checkpointing.retry_at = Some(self.now.mono.after_ns(RETRY_AFTER_NS));
        } else {
            self.checkpointing.discarding = true;
        }
        self.checkpointing.abandoned = Some(Abandoned {
            id: open.writer.id(),
            writes: open.writes,
            files: self.checkpointing.chain.abandon(),
        });
        self.end_abandoned();
    }

    pub(crate) fn remove_parts(&mut self, parts: Vec<u64>) {
        for part in parts {
            if self.scrub.keeps_part(part) {
                continue;
            }
            let op = self.operations.begin(Op::Remove);
            self.outbox.push(Effect::Remove {
                op,
                file: JournalFile::Checkpoint(part),
            });
        }
    }
}

/// Whether the error says nothing of what else is on the disk: the part can be written again later.
const fn costs_the_part_alone(error: DiskError) -> bool {
    matches!(error, DiskError::NoSpace | DiskError::NotOpened(_))
}

fn put_segment(writer: &mut PartWriter, seq: u64, row: Option<&SegmentRow>) {
    const FITS: &str = "the journal's own cells keep the bounds of a cell";
    match row {
        Some(row) => row.with_cell(|cell| writer.push(cell)).expect(FITS),
        None => SegmentRow::with_removal(seq, |cell| writer.push(cell)).expect(FITS),
    }
}

fn put_truncation(writer: &mut PartWriter, slot: SlotId, at: Lsn, cut: Option<&Cut>) {
    let value = cut.map(truncation_row::encode_value);
    writer
        .push(Cell {
            kind: crate::checkpoint::kind::TRUNCATION,
            key: &truncation_row::encode_key(slot, at),
            value: value.as_ref().map(|value| &value[..]),
        })
        .expect("the journal's own cells keep the bounds of a cell");
}

fn put_partition(writer: &mut PartWriter, key: PartitionKey, seq: Option<u64>) {
    writer
        .push(Cell {
            kind: partition_row::KIND,
            key: &partition_row::encode_key(key),
            value: seq.map(u64::to_le_bytes).as_ref().map(|value| &value[..]),
        })
        .expect("the journal's own cells keep the bounds of a cell");
}
