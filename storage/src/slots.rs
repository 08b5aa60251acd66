//! What a journal does for an owner that replicates slots: takes entries that another node's leader placed, cuts a slot,
//! keeps what a slot promised, and gives a slot's entries back by their sequence, of whatever kind. J-60 to J-67
//!
//! Knows no epoch's leader and no quorum: who may write what stands in `dataplane/replica`. Refuses an entry whose checksums
//! do not hold, that has no number in its slot, or one that its slot gave before. Invariant: what a truncation took is
//! given to nobody, from the moment at which it is written.

use crate::cuts::{Cut, oldest_dead};
use crate::entry::{Class, EntryMeta, Placed, Refused};
use crate::footers::{Alive, View};
use crate::format::COUNT_MAX;
use crate::format::superblock::Truncation;
use crate::index::NoteError;
use crate::journal::Journal;
use crate::marks::{Mark, MarkKind, clear_marks_of, put_mark};
use crate::outcome::{ReadId, SlotEntries, SlotOutput};
use crate::planted::{Bug, is_planted};
use crate::reader::{Of, Want};
use bytes::Bytes;
use core::fmt;
use tiderace_base::ids::SlotId;
use tiderace_base::limits::{BATCH_HEADER_BYTES, BLOCK_BYTES, SLOTS};
use tiderace_base::operation::Effects;
use tiderace_base::position::{Lsn, Offset, SlotSeq};
use tiderace_wire::batch::{BatchHeader, HeaderError, Placement};
use tiderace_wire::entry::{EntryKind, NO_PARTITION, Seal, Truncate, encode_entry};

/// Why an entry that another node placed is not taken. Nothing was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryRefused {
    /// Not now.
    Now(Refused),
    /// It is no whole entry: fetch it again.
    Header(HeaderError),
    /// It is of a kind that belongs to one replica alone, or its body has not the size of its kind.
    Kind,
    /// Its slot is none, or its sequence is greater than any: whoever sent it is wrong.
    Number,
    /// It does not follow what this segment holds of its slot and its partition: whoever sent it is wrong.
    Order(NoteError),
    /// It is larger than an entry of this journal may be.
    Size,
}

impl fmt::Display for EntryRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now(refused) => refused.fmt(f),
            Self::Header(error) => error.fmt(f),
            Self::Kind => write!(
                f,
                "no entry of this kind and size is copied from another node"
            ),
            Self::Number => write!(f, "no slot has this number, or no entry this sequence"),
            Self::Order(error) => error.fmt(f),
            Self::Size => write!(f, "the entry is larger than this journal's largest"),
        }
    }
}

impl core::error::Error for EntryRefused {}

/// Why a slot is not cut. Nothing was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CutRefused {
    /// Not now.
    Now(Refused),
    /// As many truncations of this slot are kept as may be: what they took lies among what is kept. Take a snapshot.
    TooMany,
}

impl fmt::Display for CutRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now(refused) => refused.fmt(f),
            Self::TooMany => write!(
                f,
                "the slot was cut too often for what is kept of it: a snapshot is needed"
            ),
        }
    }
}

impl core::error::Error for CutRefused {}

impl Journal {
    /// Appends an entry of any slot as its leader made it, header and body: not a bit of it changes.
    ///
    /// # Errors
    /// See [`EntryRefused`].
    pub fn append_entry(&mut self, entry: &[u8]) -> Result<Placed, EntryRefused> {
        if entry.len() > self.settings.chunk_bytes_max - BLOCK_BYTES {
            return Err(EntryRefused::Size);
        }
        let header = BatchHeader::parse(entry).map_err(EntryRefused::Header)?;
        let body = &entry[BATCH_HEADER_BYTES..];
        header
            .check_producer(body.len())
            .and_then(|()| header.check_placement())
            .and_then(|()| header.check_body(body))
            .map_err(EntryRefused::Header)?;
        let kind = header.entry_kind().map_err(EntryRefused::Header)?;
        // A start that met either would take its chunk for damaged.
        let is_sized = kind.body_bytes().is_none_or(|bytes| bytes == body.len());
        if kind.is_local() || !is_sized {
            return Err(EntryRefused::Kind);
        }
        if header.slot().get() >= SLOTS || header.slot_seq().get() > COUNT_MAX {
            return Err(EntryRefused::Number);
        }
        let meta = EntryMeta::of(header);
        if meta.key.is_some() && meta.next_offset <= meta.base_offset {
            return Err(EntryRefused::Order(NoteError::Empty));
        }
        let class = if meta.key.is_some() {
            Class::Data
        } else {
            Class::Control
        };
        self.make_room(class, entry.len())
            .map_err(EntryRefused::Now)?;
        // Making room may have begun a segment, which holds nothing to compare with.
        let index = &self.active.index;
        index
            .follows(meta.slot, meta.slot_seq, meta.key)
            .map_err(EntryRefused::Order)?;
        let mut draft = self.draft(class, entry.len()).map_err(EntryRefused::Now)?;
        draft.copy(entry);
        Ok(draft.commit(meta))
    }

    /// Cuts a slot: from now on nobody is given an entry of it with this sequence or a greater one that was appended
    /// before, and the sequences and the offsets are free for other entries.
    ///
    /// # Errors
    /// See [`CutRefused`].
    ///
    /// # Panics
    /// When it cuts from a sequence that no entry has, or names no slot.
    pub fn truncate_slot(&mut self, truncate: &Truncate) -> Result<Placed, CutRefused> {
        let (slot, from) = (truncate.slot, truncate.from_seq);
        assert!(
            (1..=COUNT_MAX).contains(&from.get()) && slot.get() < SLOTS,
            "some entry may have this number"
        );
        if !self.cuts.has_room(slot) {
            return Err(CutRefused::TooMany);
        }
        let body = truncate.to_bytes();
        let placed = self
            .append_local(EntryKind::Truncate, slot, truncate.epoch, &body)
            .map_err(CutRefused::Now)?;
        let oldest = self.oldest_dead(slot, from);
        self.active.index.truncate(slot, from);
        let cut = Cut {
            epoch: truncate.epoch,
            from,
            at: placed.lsn,
            oldest,
            life: self.active.seq,
        };
        self.cuts.take(slot, cut);
        self.reads.forget_what_was_seen();
        // What kept a segment may be dead now.
        for sealed in self.segments.values_mut() {
            sealed.witness = None;
        }
        self.superblocks.ask();
        Ok(placed)
    }

    /// Keeps what a slot promises, and the answer that is given with it. [`SlotOutput::Sealed`] says when it may be given.
    ///
    /// # Errors
    /// See [`Refused`]: nothing was written.
    ///
    /// # Panics
    /// When the slot promised as much before, or there is no such slot, or it says a sequence that no entry has.
    pub fn seal_slot(&mut self, seal: &Seal) -> Result<Placed, Refused> {
        assert!(
            self.seals.epoch_of(seal.slot) < Some(seal.epoch),
            "a promise never goes back"
        );
        assert!(
            seal.slot.get() < SLOTS && seal.last_seq.max(seal.flushed_seq).get() <= COUNT_MAX,
            "a superblock that says more is not believed"
        );
        let body = seal.to_bytes();
        let placed = self.append_local(EntryKind::Seal, seal.slot, seal.epoch, &body)?;
        let version = self.superblocks.ask();
        self.seals.take(*seal, placed.end, version);
        Ok(placed)
    }

    /// The newest seal of each slot, those of earlier runs included.
    pub fn seals(&self) -> impl Iterator<Item = Seal> {
        self.seals.rows()
    }

    /// An entry of this replica alone.
    fn append_local(
        &mut self,
        entry_kind: EntryKind,
        slot: SlotId,
        epoch: tiderace_base::position::Epoch,
        body: &[u8],
    ) -> Result<Placed, Refused> {
        let append_time_us = self.now.wall.as_us();
        let mut header = encode_entry(entry_kind, NO_PARTITION, body);
        header.place(Placement {
            base_offset: Offset::ZERO,
            slot_seq: SlotSeq::ZERO,
            epoch,
            slot,
            entry_kind,
            append_time_us,
        });
        let mut draft = self.draft(Class::Control, BATCH_HEADER_BYTES + body.len())?;
        draft.copy(header.bytes());
        draft.copy(body);
        Ok(draft.commit(EntryMeta::of(&header)))
    }

    /// The oldest life that holds something of what a truncation takes that is written now; 0: it is not known.
    fn oldest_dead(&mut self, slot: SlotId, from: SlotSeq) -> u64 {
        let (cuts, footers) = (&self.cuts, &mut self.footers);
        let own = self.active.index.slot_span(slot, SlotSeq::MAX);
        let own = (self.active.seq, Some(own));
        let earlier = self.segments.iter().rev().map(|(seq, sealed)| {
            let dead_from = cuts.dead_from(slot, sealed.row.end);
            let view = footers.view(*seq);
            (*seq, view.map(|view| view.slot_span(slot, dead_from)))
        });
        oldest_dead(from, core::iter::once(own).chain(earlier))
    }

    /// Forgets the truncations of which nothing dead is left.
    pub(crate) fn forget_cuts(&mut self) {
        if self.cuts.is_empty() {
            return;
        }
        let (segments, active) = (&self.segments, self.active.seq);
        self.cuts.forget(|oldest, life| {
            life >= active || segments.range(oldest..=life).next().is_some()
        });
    }

    /// What the superblock says of truncations: the newest of each slot, while a start may not find it in a checkpoint.
    pub(crate) fn truncations_to_name(&self) -> impl Iterator<Item = Truncation> {
        let covered = self.checkpointing.chain.covered_by_both();
        let newest = self.cuts.newest();
        let uncovered = newest.filter(move |(_, cut)| covered.is_none_or(|lsn| cut.at >= lsn));
        uncovered.map(|(slot, cut)| Truncation {
            slot,
            epoch: cut.epoch,
            from: cut.from,
            at: cut.at,
        })
    }

    /// The slot's copy on this disk may lack anything from now on: its bytes cannot be read, or a part of a snapshot is about
    /// to replace them. [`SlotOutput::Marked`] says when that is durable: touch nothing of the copy before.
    pub fn mark_suspect(&mut self, slot: SlotId) {
        let since_lsn = self.end_lsn();
        let mark = Mark {
            slot: Some(slot),
            kind: MarkKind::Suspect,
            greatest: None,
            since_lsn,
        };
        put_mark(&mut self.superblocks.next.marks, mark);
        let version = self.superblocks.ask();
        self.marking.push((slot, version));
    }

    /// The slot has caught up past its marks: forgets them, durably with the superblock that is asked for with this.
    pub fn clear_marks_of(&mut self, slot: SlotId) {
        clear_marks_of(&mut self.superblocks.next.marks, slot);
        self.superblocks.ask();
    }

    /// Tells of the marks and the seals that became durable.
    pub(crate) fn tell_slots(&mut self) {
        let superblocks = &self.superblocks;
        let outputs = &mut self.slot_outputs;
        self.marking.retain(|(slot, version)| {
            let is_durable = superblocks.is_durable(*version) || is_planted(Bug::TellMarkEarly);
            if is_durable {
                outputs.push(SlotOutput::Marked { slot: *slot });
            }
            !is_durable
        });
        let superblocks = &self.superblocks;
        let durable = self.inflight.durable();
        let told = self.seals.told(durable, |it| superblocks.is_durable(it));
        let told = told.into_iter();
        self.slot_outputs
            .extend(told.map(|(slot, epoch)| SlotOutput::Sealed { slot, epoch }));
    }

    /// What happened to slots since the last call: ask after each step.
    pub fn take_slot_outputs(&mut self) -> Vec<SlotOutput> {
        core::mem::take(&mut self.slot_outputs)
    }

    /// Reads a slot's entries from the disk, of all kinds, from this sequence on and without a gap: about `bytes_max` bytes
    /// of them and at least one. Answered by [`SlotOutput::Entries`], never at once. Counts among
    /// [`Journal::reads_under_way`], and waits its turn like every read.
    pub fn read_slot(
        &mut self,
        slot: SlotId,
        from: SlotSeq,
        bytes_max: usize,
        effects: &mut Effects,
    ) -> ReadId {
        let from = from.max(SlotSeq::new(1));
        let id = self.start_read(Of::Slot(slot), Want::Entries { from, bytes_max });
        effects.append(&mut self.outbox);
        id
    }

    /// A slot's entries from memory, from this sequence on and without a gap: as many of those that are there as make about
    /// `bytes_max` bytes, durable or not. None: the first is not in memory, or not frozen yet, or not there at all. Holding
    /// them holds their write buffers.
    pub fn slot_tail(
        &mut self,
        slot: SlotId,
        from: SlotSeq,
        bytes_max: usize,
    ) -> Option<SlotEntries> {
        let from = from.max(SlotSeq::new(1));
        let mut seq = self.tail_life_of(slot, from)?;
        let mut found = SlotEntries {
            entries: Vec::new(),
            next: from,
            buffer_bytes: 0,
        };
        loop {
            let is_whole = self.take_tail(slot, seq, bytes_max, &mut found);
            let next = self.segments.range(seq + 1..).next().map(|(seq, _)| *seq);
            seq = match next {
                _ if !is_whole || seq == self.active.seq => break,
                Some(next) => next,
                None => self.active.seq,
            };
        }
        (!found.entries.is_empty()).then_some(found)
    }

    /// The life in which the entry lies, if it may be in memory.
    fn tail_life_of(&mut self, slot: SlotId, from: SlotSeq) -> Option<u64> {
        let first = self.active.index.slot_span(slot, SlotSeq::MAX);
        if first.is_some_and(|span| span.first_seq <= from) {
            return Some(self.active.seq);
        }
        let oldest = self.tail.oldest()?;
        for (seq, sealed) in self.segments.iter().rev() {
            if sealed.row.end <= oldest {
                return None;
            }
            let dead_from = self.cuts.dead_from(slot, sealed.row.end);
            let span = self.footers.view(*seq)?.slot_span(slot, dead_from);
            if span.is_some_and(|span| span.first_seq <= from) {
                return Some(*seq);
            }
        }
        None
    }

    /// Takes what one life has in memory. Whether all of it was taken, so that more may follow in the next one.
    fn take_tail(
        &mut self,
        slot: SlotId,
        seq: u64,
        bytes_max: usize,
        found: &mut SlotEntries,
    ) -> bool {
        let (view, start, end) = match self.segments.get(&seq) {
            Some(sealed) => (self.footers.view(seq), sealed.row.start, sealed.row.end),
            None => {
                let view = View::Open(&self.active.index);
                (Some(view), self.active.start, Lsn::MAX)
            }
        };
        let Some(view) = view else {
            return false;
        };
        let alive = Alive::new(&view, &self.cuts, end);
        let mut taken: usize = found.entries.iter().map(Bytes::len).sum();
        while let Some(position) = alive.locate_seq(slot, found.next) {
            let lsn = start.advance(u64::from(position.at) - BLOCK_BYTES as u64);
            let Some(run) = self.tail.slice(lsn, position.span as usize) else {
                return false;
            };
            found.buffer_bytes += run.len();
            let mut at = 0;
            while found.next < position.next_seq {
                let header = run.get(at..).map(BatchHeader::parse);
                let Some(Ok(header)) = header else {
                    // The index and the bytes are this process's own.
                    return false;
                };
                let length = header.batch_len();
                let is_next = header.slot() == slot
                    && header.slot_seq() == found.next
                    && !self.cuts.is_dead(slot, found.next, lsn.advance(at as u64));
                if is_next {
                    found.entries.push(run.slice(at..at + length));
                    found.next = found.next.advance(1);
                }
                at += length;
                if is_next {
                    taken += length;
                    if taken >= bytes_max {
                        return false;
                    }
                }
            }
        }
        true
    }

    /// No checkpoint that begins from now on covers `lsn` or more: entries of the owner from there on are not in its cells.
    /// None: they all are. J-66
    pub fn replay_from(&mut self, lsn: Option<Lsn>) {
        self.checkpointing.uncaptured = lsn;
    }
}
