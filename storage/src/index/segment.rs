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
    Located, POSITION_BYTES, Partition, Position, PositionRow, SLOT_POSITION_BYTES, SlotPosition,
    SlotPositionRow, SlotSpan, living, locate, locate_seq, locate_time, slot_span,
};
use super::seal::Sealing;
use core::fmt;
use tiderace_base::collections::Map;
use tiderace_base::ids::{PartitionKey, SlotId};
use tiderace_base::limits::BLOCK_BYTES;
use tiderace_base::position::{Lsn, Offset, SlotSeq};

/// One entry of a slot, as the writer placed it or a scan found it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Note {
    /// Whose data it is; none: not a partition's data, and the offsets and the time mean nothing.
    pub key: Option<PartitionKey>,
    /// The slot that it belongs to.
    pub slot: SlotId,
    /// Its number there.
    pub slot_seq: SlotSeq,
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
    /// The entry has no bytes, or is data without records.
    Empty,
    /// The entry has no number in its slot, or one that an entry before it has and no truncation took from that.
    Sequence,
    /// The entry's partition belongs to another slot.
    Slot,
    /// The entry lies before the end of the one noted last, inside the segment's header, or past what a u32 can place.
    Place,
    /// The chunk lies before that of the entry noted last.
    Chunk,
}

impl fmt::Display for NoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "the entry has no bytes or no records"),
            Self::Sequence => write!(f, "the entry has no number of its own in its slot"),
            Self::Slot => write!(f, "the entry's partition belongs to another slot"),
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
    pub(super) slot: SlotId,
    pub(super) first_time_us: u64,
    pub(super) next_offset: Offset,
    /// Ordinal of the chunk that the last position describes, or [`CLOSED`].
    chunk: u32,
    pub(super) rows: Vec<PositionRow>,
}

impl Indexed {
    /// `None` when a truncation left nothing of the partition here.
    pub(super) fn partition(&self, dead_from: SlotSeq) -> Option<Partition> {
        let (rows, next_offset) = living(&self.rows, self.next_offset, dead_from);
        let (first, last) = (rows.first()?, rows.last()?);
        Some(Partition {
            key: self.key,
            slot: self.slot,
            first_offset: Offset::new(first.base_offset()),
            next_offset,
            first_time_us: self.first_time_us,
            last_time_us: last.time_max_us(),
            position_count: rows.len() as u32,
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

/// Positions of one slot.
#[derive(Debug)]
pub(super) struct IndexedSlot {
    pub(super) slot: SlotId,
    /// As a partition's.
    chunk: u32,
    pub(super) rows: Vec<SlotPositionRow>,
}

/// Where the slots' entries and the partitions' batches lie in a segment that is still being filled.
#[derive(Debug, Default)]
pub struct SegmentIndex {
    by_key: Map<PartitionKey, u32>,
    partitions: Vec<Indexed>,
    slot_places: Map<SlotId, u32>,
    slots: Vec<IndexedSlot>,
    chunk: Option<Lsn>,
    chunk_ordinal: u32,
    /// The byte past the entry noted last.
    filled_to: u32,
    rows_capacity: usize,
    slot_rows_capacity: usize,
}

/// Makes room for one row more in a list that grows by a quarter; how many rows the room is larger by.
fn grow<T>(rows: &mut Vec<T>) -> usize {
    let before = rows.capacity();
    if rows.len() == before {
        rows.reserve_exact((before / 4).max(2));
    }
    rows.capacity() - before
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
        if note.bytes == 0 || (note.key.is_some() && note.next_offset <= note.base_offset) {
            return Err(NoteError::Empty);
        }
        let end = note.at.checked_add(note.bytes).ok_or(NoteError::Place)?;
        if note.at < self.filled_to {
            return Err(NoteError::Place);
        }
        if self.chunk.is_some_and(|chunk| note.chunk < chunk) {
            return Err(NoteError::Chunk);
        }
        let slot = self.place_of_slot(note.slot);
        let partition = note.key.and_then(|key| self.place_of(key));
        self.follows_at(slot, partition, note.slot, note.slot_seq)?;
        if self.chunk != Some(note.chunk) {
            // At most one chunk for each noted byte: the ordinal fits.
            self.chunk = Some(note.chunk);
            self.chunk_ordinal += 1;
        }
        self.filled_to = end;
        let slot = slot.unwrap_or_else(|| self.add_slot(note.slot));
        self.note_slot(slot, &note, end);
        if let Some(key) = note.key {
            let partition = partition.unwrap_or_else(|| self.add(key, note.slot));
            self.note_partition(partition, &note, end);
        }
        Ok(())
    }

    /// Whether an entry of this slot and partition may have this number here. J-60
    ///
    /// # Errors
    /// When it may not.
    pub fn follows(
        &self,
        slot: SlotId,
        seq: SlotSeq,
        key: Option<PartitionKey>,
    ) -> Result<(), NoteError> {
        let partition = key.and_then(|key| self.place_of(key));
        self.follows_at(self.place_of_slot(slot), partition, slot, seq)
    }

    fn follows_at(
        &self,
        place: Option<usize>,
        partition: Option<usize>,
        slot: SlotId,
        seq: SlotSeq,
    ) -> Result<(), NoteError> {
        let last = place.and_then(|place| self.slots[place].rows.last());
        let next = last.map_or(0, SlotPositionRow::next_seq);
        if seq.get() < next.max(1) || seq == SlotSeq::MAX {
            return Err(NoteError::Sequence);
        }
        if partition.is_some_and(|place| self.partitions[place].slot != slot) {
            return Err(NoteError::Slot);
        }
        Ok(())
    }

    fn place_of(&self, key: PartitionKey) -> Option<usize> {
        Some(*self.by_key.get(&key)? as usize)
    }

    fn place_of_slot(&self, slot: SlotId) -> Option<usize> {
        Some(*self.slot_places.get(&slot)? as usize)
    }

    fn add_slot(&mut self, slot: SlotId) -> usize {
        let place = self.slots.len();
        self.slot_places.insert(slot, place as u32);
        self.slots.push(IndexedSlot {
            slot,
            chunk: CLOSED,
            rows: Vec::new(),
        });
        place
    }

    fn add(&mut self, key: PartitionKey, slot: SlotId) -> usize {
        let place = self.partitions.len();
        self.by_key.insert(key, place as u32);
        self.partitions.push(Indexed {
            key,
            slot,
            first_time_us: 0,
            next_offset: Offset::ZERO,
            chunk: CLOSED,
            rows: Vec::new(),
        });
        place
    }

    fn note_slot(&mut self, place: usize, note: &Note, end: u32) {
        let slot = &mut self.slots[place];
        let is_open = slot.chunk == self.chunk_ordinal;
        slot.chunk = self.chunk_ordinal;
        if let (true, Some(last)) = (is_open, slot.rows.last_mut())
            && last.next_seq() == note.slot_seq.get()
        {
            last.extend(end);
            return;
        }
        self.slot_rows_capacity += grow(&mut slot.rows);
        slot.rows
            .push(SlotPositionRow::new(note.slot_seq, note.at, note.bytes));
    }

    fn note_partition(&mut self, place: usize, note: &Note, end: u32) {
        let chunk = self.chunk_ordinal;
        let indexed = &mut self.partitions[place];
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
            return;
        }
        let time_before_us = match indexed.rows.last() {
            Some(last) => last.time_max_us(),
            None => {
                indexed.first_time_us = note.append_time_us;
                0
            }
        };
        let grown = grow(&mut indexed.rows);
        indexed.rows.push(PositionRow::new(Position {
            base_offset,
            // J-45
            time_max_us: time_before_us.max(note.append_time_us),
            first_seq: note.slot_seq,
            at: note.at,
            span: note.bytes,
        }));
        self.rows_capacity += grown;
    }

    fn indexed(&self, key: PartitionKey) -> Option<&Indexed> {
        Some(&self.partitions[self.place_of(key)?])
    }

    fn slot(&self, slot: SlotId) -> Option<&IndexedSlot> {
        Some(&self.slots[self.place_of_slot(slot)?])
    }

    /// Forgets what the slot holds here from `from` on: a truncation said that it is dead. Nothing else changes, so that a
    /// scan that meets the truncation at the same place arrives at the same index. Of a run in whose middle the cut lies
    /// the partitions' positions keep the whole: only the entries tell where in it that is. J-61
    pub fn truncate(&mut self, slot: SlotId, from: SlotSeq) {
        let Some(place) = self.place_of_slot(slot) else {
            return;
        };
        let held = &mut self.slots[place];
        if held
            .rows
            .last()
            .is_none_or(|last| last.next_seq() <= from.get())
        {
            return;
        }
        let kept = held
            .rows
            .partition_point(|row| row.first_seq() < from.get());
        held.rows.truncate(kept);
        if let Some(last) = held.rows.last_mut() {
            last.cut(from);
        }
        held.chunk = CLOSED;
        for indexed in self.partitions.iter_mut().filter(|it| it.slot == slot) {
            let (kept, next_offset) = living(&indexed.rows, indexed.next_offset, from);
            let kept = kept.len();
            indexed.next_offset = next_offset;
            indexed.rows.truncate(kept);
            // J-43: what follows gets a position of its own, and so ends the run that may hold dead entries.
            indexed.chunk = CLOSED;
        }
    }

    /// The slot of a partition that the segment holds some of.
    #[must_use]
    pub fn slot_of(&self, key: PartitionKey) -> Option<SlotId> {
        Some(self.indexed(key)?.slot)
    }

    /// The run that holds the offset; `None` when the segment does not hold it alive.
    #[must_use]
    pub fn locate(&self, key: PartitionKey, offset: Offset, dead_from: SlotSeq) -> Option<Located> {
        let indexed = self.indexed(key)?;
        let (rows, next_offset) = living(&indexed.rows, indexed.next_offset, dead_from);
        locate(rows, next_offset, offset)
    }

    /// The first run that may hold an entry appended at or after `time_us`; every earlier living entry of the partition in
    /// this segment is older. Where truncation left dead entries in that run, the answer may lie in a later one.
    #[must_use]
    pub fn locate_time(
        &self,
        key: PartitionKey,
        time_us: u64,
        dead_from: SlotSeq,
    ) -> Option<Located> {
        let indexed = self.indexed(key)?;
        let (rows, next_offset) = living(&indexed.rows, indexed.next_offset, dead_from);
        locate_time(rows, next_offset, time_us)
    }

    /// What the segment holds of the partition.
    #[must_use]
    pub fn partition(&self, key: PartitionKey, dead_from: SlotSeq) -> Option<Partition> {
        self.indexed(key)?.partition(dead_from)
    }

    /// What the segment holds of each partition, in the order in which they first appeared, but for what truncations
    /// behind the segment took.
    pub fn partitions(&self) -> impl Iterator<Item = Partition> + '_ {
        let all = self.partitions.iter();
        all.filter_map(|indexed| indexed.partition(SlotSeq::MAX))
    }

    /// The run that holds this sequence of the slot; `None` when the segment does not hold it alive.
    #[must_use]
    pub fn locate_seq(
        &self,
        slot: SlotId,
        seq: SlotSeq,
        dead_from: SlotSeq,
    ) -> Option<SlotPosition> {
        locate_seq(&self.slot(slot)?.rows, seq, dead_from)
    }

    /// What the segment holds of the slot.
    #[must_use]
    pub fn slot_span(&self, slot: SlotId, dead_from: SlotSeq) -> Option<SlotSpan> {
        slot_span(slot, &self.slot(slot)?.rows, dead_from)
    }

    /// How many positions the partitions have.
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
        // A place of a map has one byte of control beside its key and value, and an eighth of the places stays free.
        self.rows_capacity * POSITION_BYTES
            + self.slot_rows_capacity * SLOT_POSITION_BYTES
            + self.partitions.capacity() * size_of::<Indexed>()
            + self.slots.capacity() * size_of::<IndexedSlot>()
            + self.slot_places.capacity() * 8 / 7 * (size_of::<(SlotId, u32)>() + 1)
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

    pub(super) fn all_slots(&self) -> &[IndexedSlot] {
        &self.slots
    }

    pub(super) fn filled_to(&self) -> u32 {
        self.filled_to
    }
}
