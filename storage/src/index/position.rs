//! Positions, and the searches in them that an open segment's index and a footer share. Positions are kept as they stand
//! in a footer, so that sealing copies them and reading searches them in place.
//!
//! Invariants of one partition's positions: base offsets grow strictly, times never fall, places in the segment grow
//! and do not overlap, and the partition's next offset lies past the last base offset.

use tiderace_base::ids::PartitionKey;
use tiderace_base::position::Offset;
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
    /// Byte position in the segment file of the first entry.
    pub at: u32,
    /// Bytes from `at` to the end of the last entry.
    pub span: u32,
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
    /// Its first offset in the segment.
    pub first_offset: Offset,
    /// The offset past its last in the segment.
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
    at: U32,
    span: U32,
}

/// Bytes of one position.
pub(super) const POSITION_BYTES: usize = 24;

const _: () = assert!(
    size_of::<PositionRow>() == POSITION_BYTES,
    "a position has no padding"
);

impl PositionRow {
    pub(super) fn new(position: Position) -> Self {
        Self {
            base_offset: U64::new(position.base_offset.get()),
            time_max_us: U64::new(position.time_max_us),
            at: U32::new(position.at),
            span: U32::new(position.span),
        }
    }

    pub(super) fn get(&self) -> Position {
        Position {
            base_offset: Offset::new(self.base_offset.get()),
            time_max_us: self.time_max_us.get(),
            at: self.at.get(),
            span: self.span.get(),
        }
    }

    pub(super) fn base_offset(&self) -> u64 {
        self.base_offset.get()
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
