//! Positions, and the searches in them that an open segment's index and a footer share. Positions are kept as they stand
//! in a footer, so that sealing copies them and reading searches them in place.
//!
//! Invariants of one partition's positions: base offsets and slot sequences grow strictly, times never fall, places in the
//! segment grow and do not overlap, and the partition's next offset lies past the last base offset. Of one slot's: each is
//! a dense run of sequences, sequences and places grow and do not overlap.
//!
//! A truncation that was written behind the segment is no part of its index: every search is told from which slot sequence
//! on the segment's entries are dead.

use tiderace_base::ids::{PartitionKey, SlotId};
use tiderace_base::position::{Offset, SlotSeq};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Where a run of a partition's entries lies: from its first entry in one chunk to the end of its last entry there.
/// Entries of other partitions may lie between them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    /// Base offset of the first entry; behind a truncation, where that cut, if offsets were left out since.
    pub base_offset: Offset,
    /// The greatest append time of the partition in this segment up to and including this run, in microseconds.
    pub time_max_us: u64,
    /// Slot sequence of the first entry.
    pub first_seq: SlotSeq,
    /// Byte position in the segment file of the first entry.
    pub at: u32,
    /// Bytes from `at` to the end of the last entry.
    pub span: u32,
}

/// Where a run of a slot's entries lies, of whatever kind and partition: dense, and of one chunk. Entries of other slots,
/// and dead ones, may lie between them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotPosition {
    /// Of its first entry.
    pub first_seq: SlotSeq,
    /// One past its last.
    pub next_seq: SlotSeq,
    /// Byte position in the segment file of the first entry.
    pub at: u32,
    /// Bytes from `at` to the end of the last entry.
    pub span: u32,
}

/// What a segment holds of one slot: nothing is missing between the two but what never was an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotSpan {
    /// Which.
    pub slot: SlotId,
    /// Its first sequence in the segment.
    pub first_seq: SlotSeq,
    /// One past its last in the segment.
    pub next_seq: SlotSeq,
    /// How many positions it has.
    pub position_count: u32,
}

/// What a search found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Located {
    /// The run to read.
    pub position: Position,
    /// Where the next run begins, or the partition's end in this segment: an entry of this run at or past it is dead.
    pub until: Offset,
    /// The run after it in the same segment, so that reading ahead needs no second search.
    pub next: Option<Position>,
}

/// What a segment holds of one partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Partition {
    /// Which.
    pub key: PartitionKey,
    /// The slot that its entries belong to.
    pub slot: SlotId,
    /// Its first offset in the segment.
    pub first_offset: Offset,
    /// The offset past its last in the segment; greater where a truncation left dead entries in the last run.
    pub next_offset: Offset,
    /// Append time of its first entry in the segment, in microseconds.
    pub first_time_us: u64,
    /// The greatest append time of its entries in the segment, in microseconds.
    pub last_time_us: u64,
    /// How many positions it has.
    pub position_count: u32,
}

/// A position as it stands in a footer.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct PositionRow {
    base_offset: U64,
    time_max_us: U64,
    first_seq: U64,
    at: U32,
    span: U32,
}

/// Bytes of one position.
pub(super) const POSITION_BYTES: usize = 32;

const _: () = assert!(
    size_of::<PositionRow>() == POSITION_BYTES,
    "a position has no padding"
);

impl PositionRow {
    pub(super) fn new(position: Position) -> Self {
        Self {
            base_offset: U64::new(position.base_offset.get()),
            time_max_us: U64::new(position.time_max_us),
            first_seq: U64::new(position.first_seq.get()),
            at: U32::new(position.at),
            span: U32::new(position.span),
        }
    }

    pub(super) fn get(&self) -> Position {
        Position {
            base_offset: Offset::new(self.base_offset.get()),
            time_max_us: self.time_max_us.get(),
            first_seq: SlotSeq::new(self.first_seq.get()),
            at: self.at.get(),
            span: self.span.get(),
        }
    }

    pub(super) fn base_offset(&self) -> u64 {
        self.base_offset.get()
    }

    pub(super) fn first_seq(&self) -> u64 {
        self.first_seq.get()
    }

    pub(super) fn time_max_us(&self) -> u64 {
        self.time_max_us.get()
    }

    /// The byte past the run; a u64 because damaged rows may say anything.
    pub(super) fn end(&self) -> u64 {
        u64::from(self.at.get()) + u64::from(self.span.get())
    }

    /// Lets the run reach to `end`, with the append time of the entry that ends there.
    pub(super) fn extend(&mut self, end: u32, append_time_us: u64) {
        assert!(end > self.at.get(), "a run grows at its end");
        self.span = U32::new(end - self.at.get());
        self.time_max_us = U64::new(self.time_max_us().max(append_time_us));
    }
}

/// A slot's position as it stands in a footer.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct SlotPositionRow {
    first_seq: U64,
    next_seq: U64,
    at: U32,
    span: U32,
}

/// Bytes of one slot's position.
pub(super) const SLOT_POSITION_BYTES: usize = 24;

const _: () = assert!(
    size_of::<SlotPositionRow>() == SLOT_POSITION_BYTES,
    "a slot's position has no padding"
);

impl SlotPositionRow {
    /// A run of one entry.
    pub(super) fn new(seq: SlotSeq, at: u32, bytes: u32) -> Self {
        Self {
            first_seq: U64::new(seq.get()),
            next_seq: U64::new(seq.advance(1).get()),
            at: U32::new(at),
            span: U32::new(bytes),
        }
    }

    pub(super) fn get(&self) -> SlotPosition {
        SlotPosition {
            first_seq: SlotSeq::new(self.first_seq.get()),
            next_seq: SlotSeq::new(self.next_seq.get()),
            at: self.at.get(),
            span: self.span.get(),
        }
    }

    pub(super) fn first_seq(&self) -> u64 {
        self.first_seq.get()
    }

    pub(super) fn next_seq(&self) -> u64 {
        self.next_seq.get()
    }

    pub(super) fn at(&self) -> u64 {
        u64::from(self.at.get())
    }

    pub(super) fn end(&self) -> u64 {
        u64::from(self.at.get()) + u64::from(self.span.get())
    }

    /// Lets the run take the next entry, which ends at `end`.
    pub(super) fn extend(&mut self, end: u32) {
        assert!(end > self.at.get(), "a run grows at its end");
        self.span = U32::new(end - self.at.get());
        self.next_seq = U64::new(self.next_seq() + 1);
    }

    /// What lies at or past `from` is dead.
    pub(super) fn cut(&mut self, from: SlotSeq) {
        self.next_seq = U64::new(self.next_seq().min(from.get()));
    }
}

/// The rows of which something lives, and where they end, when `dead_from` and what follows it is dead. The end is that of
/// the last living entry, or lies behind it within the run that was cut.
pub(super) fn living(
    rows: &[PositionRow],
    next_offset: Offset,
    dead_from: SlotSeq,
) -> (&[PositionRow], Offset) {
    let kept = rows.partition_point(|row| row.first_seq() < dead_from.get());
    let next = rows.get(kept);
    let next = next.map_or(next_offset, |row| Offset::new(row.base_offset()));
    (&rows[..kept], next)
}

/// The run of a slot that holds `seq`; `None` when none does.
pub(super) fn locate_seq(
    rows: &[SlotPositionRow],
    seq: SlotSeq,
    dead_from: SlotSeq,
) -> Option<SlotPosition> {
    if seq >= dead_from {
        return None;
    }
    let past = rows.partition_point(|row| row.first_seq() <= seq.get());
    let mut found = rows.get(past.checked_sub(1)?)?.get();
    found.next_seq = found.next_seq.min(dead_from);
    (seq < found.next_seq).then_some(found)
}

/// What the rows hold of a slot; `None` when all of it is dead.
pub(super) fn slot_span(
    slot: SlotId,
    rows: &[SlotPositionRow],
    dead_from: SlotSeq,
) -> Option<SlotSpan> {
    let kept = rows.partition_point(|row| row.first_seq() < dead_from.get());
    let (first, last) = (rows[..kept].first()?, rows[..kept].last()?);
    Some(SlotSpan {
        slot,
        first_seq: SlotSeq::new(first.first_seq()),
        next_seq: SlotSeq::new(last.next_seq()).min(dead_from),
        position_count: kept as u32,
    })
}

/// The run that holds `offset`; `None` outside of what the rows cover.
pub(super) fn locate(rows: &[PositionRow], next_offset: Offset, offset: Offset) -> Option<Located> {
    if offset >= next_offset {
        return None;
    }
    let past = rows.partition_point(|row| row.base_offset() <= offset.get());
    located(rows, next_offset, past.checked_sub(1)?)
}

/// The first run that may hold an entry appended at or after `time_us`. J-45: the times are running maxima, so nothing
/// before that run is young enough, whatever the wall clock did.
pub(super) fn locate_time(
    rows: &[PositionRow],
    next_offset: Offset,
    time_us: u64,
) -> Option<Located> {
    let index = rows.partition_point(|row| row.time_max_us() < time_us);
    located(rows, next_offset, index)
}

fn located(rows: &[PositionRow], next_offset: Offset, index: usize) -> Option<Located> {
    let position = rows.get(index)?.get();
    let next = rows.get(index + 1).map(PositionRow::get);
    // J-43: what lies past the next run's base was superseded by it.
    let until = next.map_or(next_offset, |next| next.base_offset);
    Some(Located {
        position,
        until,
        next,
    })
}
