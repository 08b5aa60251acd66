//! The index of the open segment. The writer notes every entry as it commits it; recovery notes the same entries while it
//! scans the segment, and arrives at the same index. Refuses entries that do not follow one another.
//!
//! Each partition owns its positions in one `Vec` that grows by a quarter. One arena linked per partition would need 4
//! bytes a position for the link, and could be searched only one by one: a reader that catches up inside the open segment
//! would pay a chain of cache misses for each run it asks for. With their own `Vec` the positions are searched by halving
//! and sealed by one copy. Growing by a quarter keeps slack near an eighth, where doubling wastes up to half; a partition
//! has at most one position for each block of the segment (a few exceptions after truncation), which bounds what one
//! growth moves.

use super::Life;
use super::position::{
    Located, POSITION_BYTES, Partition, Position, PositionRow, locate, locate_time,
};
use super::seal::Sealing;
use core::fmt;
use tiderace_base::collections::Map;
use tiderace_base::ids::PartitionKey;
use tiderace_base::limits::BLOCK_BYTES;
use tiderace_base::position::{Lsn, Offset};

/// One entry of a partition's data, as the writer placed it or a scan found it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Note {
    /// Whose.
    pub key: PartitionKey,
    /// Its first offset.
    pub base_offset: Offset,
    /// The offset past its last.
    pub next_offset: Offset,
    /// When it was appended, in microseconds since 1970.
    pub append_time_us: u64,
    /// Byte position of its header in the segment file.
    pub at: u32,
    /// Its length with header.
    pub bytes: u32,
    /// LSN of the chunk that it lies in.
    pub chunk: Lsn,
}

/// Why an entry was not noted. The index is unchanged. From the writer it is a bug; from a scan it means that the
/// segment holds what no writer writes, and the caller treats the entry as damaged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoteError {
    /// The entry has no bytes or no records.
    Empty,
    /// The entry lies before the end of the one noted last, inside the segment's header, or past what a u32 can place.
    Place,
    /// The chunk lies before that of the entry noted last.
    Chunk,
}

impl fmt::Display for NoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "the entry has no bytes or no records"),
            Self::Place => write!(
                f,
                "the entry does not lie behind the one before it in the segment"
            ),
            Self::Chunk => write!(
                f,
                "the entry's chunk lies before that of the entry before it"
            ),
        }
    }
}

impl core::error::Error for NoteError {}

/// The next note of the partition opens a new position. Chunks are counted from 1.
const CLOSED: u32 = 0;

#[derive(Debug)]
pub(super) struct Indexed {
    pub(super) key: PartitionKey,
    pub(super) first_time_us: u64,
    pub(super) next_offset: Offset,
    /// Ordinal of the chunk that the last position describes, or [`CLOSED`].
    chunk: u32,
    pub(super) rows: Vec<PositionRow>,
}

impl Indexed {
    /// `None` when a truncation left nothing of the partition here.
    pub(super) fn partition(&self) -> Option<Partition> {
        let (first, last) = (self.rows.first()?, self.rows.last()?);
        Some(Partition {
            key: self.key,
            first_offset: Offset::new(first.base_offset()),
            next_offset: self.next_offset,
            first_time_us: self.first_time_us,
            last_time_us: last.time_max_us(),
            position_count: self.rows.len() as u32,
        })
    }

    /// Drops the positions that begin at or past `from`.
    fn drop_from(&mut self, from: Offset) {
        let kept = self
            .rows
            .partition_point(|row| row.base_offset() < from.get());
        self.rows.truncate(kept);
    }
}

/// Where the partitions' batches lie in a segment that is still being filled.
#[derive(Debug, Default)]
pub struct SegmentIndex {
    by_key: Map<PartitionKey, u32>,
    partitions: Vec<Indexed>,
    chunk: Option<Lsn>,
    chunk_ordinal: u32,
    /// The byte past the entry noted last.
    filled_to: u32,
    rows_capacity: usize,
}

impl SegmentIndex {
    /// An index of a segment without entries.
    #[must_use]
    pub fn new() -> Self {
        Self {
            filled_to: BLOCK_BYTES as u32,
            ..Self::default()
        }
    }

    /// Notes the next entry. An offset below the partition's next one supersedes what was noted from there on (J-43).
    ///
    /// # Errors
    /// When the entry is empty or does not follow the one before it; the index is then unchanged.
    pub fn note(&mut self, note: Note) -> Result<(), NoteError> {
        if note.bytes == 0 || note.next_offset <= note.base_offset {
            return Err(NoteError::Empty);
        }
        let end = note.at.checked_add(note.bytes).ok_or(NoteError::Place)?;
        if note.at < self.filled_to {
            return Err(NoteError::Place);
        }
        match self.chunk {
            Some(chunk) if note.chunk < chunk => return Err(NoteError::Chunk),
            Some(chunk) if note.chunk == chunk => {}
            // At most one chunk for each noted byte: the ordinal fits.
            Some(_) | None => {
                self.chunk = Some(note.chunk);
                self.chunk_ordinal += 1;
            }
        }
        self.filled_to = end;
        let chunk = self.chunk_ordinal;
        let indexed = self.indexed_mut(note.key);
        let superseding = note.base_offset < indexed.next_offset;
        if superseding {
            indexed.drop_from(note.base_offset);
        }
        // J-43: behind a truncation the run begins where that cut, even if offsets were left out since: entries between
        // would count as alive otherwise.
        let base_offset = if indexed.chunk == CLOSED && !indexed.rows.is_empty() {
            note.base_offset.min(indexed.next_offset)
        } else {
            note.base_offset
        };
        indexed.next_offset = note.next_offset;
        let open = indexed.chunk == chunk && !superseding;
        indexed.chunk = chunk;
        if let (true, Some(last)) = (open, indexed.rows.last_mut()) {
            // J-42: one position for each partition and chunk.
            last.extend(end, note.append_time_us);
            return Ok(());
        }
        let time_before_us = match indexed.rows.last() {
            Some(last) => last.time_max_us(),
            None => {
                indexed.first_time_us = note.append_time_us;
                0
            }
        };
        let mut grown = 0;
        if indexed.rows.len() == indexed.rows.capacity() {
            let before = indexed.rows.capacity();
            indexed.rows.reserve_exact((before / 4).max(2));
            grown = indexed.rows.capacity() - before;
        }
        indexed.rows.push(PositionRow::new(Position {
            base_offset,
            // J-45
            time_max_us: time_before_us.max(note.append_time_us),
            at: note.at,
            span: note.bytes,
        }));
        self.rows_capacity += grown;
        Ok(())
    }

    fn indexed_mut(&mut self, key: PartitionKey) -> &mut Indexed {
        let next = self.partitions.len();
        let index = *self.by_key.entry(key).or_insert(next as u32) as usize;
        if index == next {
            self.partitions.push(Indexed {
                key,
                first_time_us: 0,
                next_offset: Offset::ZERO,
                chunk: CLOSED,
                rows: Vec::new(),
            });
        }
        &mut self.partitions[index]
    }

    fn indexed(&self, key: PartitionKey) -> Option<&Indexed> {
        let index = *self.by_key.get(&key)?;
        self.partitions.get(index as usize)
    }

    /// Forgets what the partition holds here from `from` on: a truncation said that it is dead. Nothing else changes, so
    /// that a scan that meets the truncation at the same place arrives at the same index.
    pub fn truncate(&mut self, key: PartitionKey, from: Offset) {
        let Some(&index) = self.by_key.get(&key) else {
            return;
        };
        let indexed = &mut self.partitions[index as usize];
        if from >= indexed.next_offset {
            return;
        }
        indexed.drop_from(from);
        indexed.next_offset = from;
        // J-43: what follows gets a position of its own, and so ends the run that holds dead entries.
        indexed.chunk = CLOSED;
    }

    /// The run that holds the offset; `None` when the segment does not hold it.
    #[must_use]
    pub fn locate(&self, key: PartitionKey, offset: Offset) -> Option<Located> {
        let indexed = self.indexed(key)?;
        locate(&indexed.rows, indexed.next_offset, offset)
    }

    /// The first run that may hold an entry appended at or after `time_us`; every earlier entry of the partition in this
    /// segment is older. Where truncation left dead entries in that run, the answer may lie in a later one.
    #[must_use]
    pub fn locate_time(&self, key: PartitionKey, time_us: u64) -> Option<Located> {
        let indexed = self.indexed(key)?;
        locate_time(&indexed.rows, indexed.next_offset, time_us)
    }

    /// What the segment holds of the partition.
    #[must_use]
    pub fn partition(&self, key: PartitionKey) -> Option<Partition> {
        self.indexed(key)?.partition()
    }

    /// What the segment holds of each partition, in the order in which they first appeared.
    pub fn partitions(&self) -> impl Iterator<Item = Partition> + '_ {
        self.partitions.iter().filter_map(Indexed::partition)
    }

    /// How many positions there are.
    #[must_use]
    pub fn position_count(&self) -> usize {
        self.partitions
            .iter()
            .map(|indexed| indexed.rows.len())
            .sum()
    }

    /// Bytes of memory that the index holds, within the allocator's rounding.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        // A slot of the map has one byte of control beside its key and value, and an eighth of the slots stays free.
        self.rows_capacity * POSITION_BYTES
            + self.partitions.capacity() * size_of::<Indexed>()
            + self.by_key.capacity() * 8 / 7 * (size_of::<(PartitionKey, u32)>() + 1)
    }

    /// Ends the segment's life. `previous` tells for a partition the number of the latest earlier life that holds some of
    /// it; for the same answers the footer has the same bytes, however the index came about (J-46).
    ///
    /// # Panics
    /// When the life ends before the entry noted last: the caller mixed up segments.
    pub fn seal(self, life: Life, previous: impl FnMut(PartitionKey) -> Option<u64>) -> Sealing {
        Sealing::new(self, life, previous)
    }

    pub(super) fn all(&self) -> &[Indexed] {
        &self.partitions
    }

    pub(super) fn filled_to(&self) -> u32 {
        self.filled_to
    }
}
