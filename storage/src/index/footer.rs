//! The footer of a sealed segment: the bytes that stand beside it on disk, validated once and then searched where they
//! lie, without building anything. Whatever is wrong with a footer makes it absent and nothing worse: it is rebuilt by
//! scanning its segment.

use super::Life;
use super::position::{
    Located, POSITION_BYTES, Partition, PositionRow, SLOT_POSITION_BYTES, SlotPosition,
    SlotPositionRow, SlotSpan, living, locate, locate_seq, locate_time, slot_span,
};
use bytes::Bytes;
use core::fmt;
use core::mem::offset_of;
use tiderace_base::checksum::crc32c;
use tiderace_base::ids::{PartitionIndex, PartitionKey, SlotId, StreamId};
use tiderace_base::limits::{BATCH_HEADER_BYTES, BLOCK_BYTES};
use tiderace_base::position::{Offset, SlotSeq};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The version that is written, and the only one that is read: a footer of version 1, which knows no slots, is absent.
pub const FOOTER_VERSION: u32 = 2;

const MAGIC: u64 = u64::from_le_bytes(*b"TRFOOT01");
const COUNTED: &str = "the counts were held against the length";
/// Stands where there is no earlier segment: no life has this number.
const NO_PREVIOUS: u64 = u64::MAX;

impl Life {
    /// The first byte of the segment file that lies past this life's chunks.
    pub(super) fn positions_end(&self) -> u64 {
        let bytes = self.end.distance_from(self.start).unwrap_or(0);
        bytes.saturating_add(BLOCK_BYTES as u64)
    }
}

/// What begins a footer.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Header {
    magic: U64,
    version: U32,
    reserved_a: U32,
    journal_id: U64,
    seq: U64,
    salt: U64,
    start_lsn: U64,
    end_lsn: U64,
    partition_count: U32,
    position_count: U32,
    file_bytes: U64,
    slot_count: U32,
    slot_position_count: U32,
    reserved_b: [u8; 40],
    body_crc: U32,
    header_crc: U32,
}

const _: () = {
    assert!(
        size_of::<Header>() == Header::BYTES,
        "a footer's header is 128 bytes"
    );
    assert!(
        offset_of!(Header, journal_id) == 16,
        "the identity follows the version"
    );
    assert!(
        offset_of!(Header, partition_count) == 56,
        "the counts follow the identity"
    );
    assert!(
        offset_of!(Header, file_bytes) == 64,
        "the length follows the counts"
    );
    assert!(
        offset_of!(Header, slot_count) == 72,
        "the slots' counts follow the length"
    );
    assert!(
        offset_of!(Header, body_crc) == 120,
        "the checksums end the header"
    );
};

/// How many rows and positions a footer has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Counts {
    pub(super) partitions: u32,
    pub(super) positions: u32,
    pub(super) slots: u32,
    pub(super) slot_positions: u32,
}

impl Counts {
    /// Where each list begins, in the order in which they stand, and where the last one ends. Counts are 32 bits each: the
    /// sums fit 64.
    fn places(self) -> [u64; 5] {
        let rows = Header::BYTES as u64;
        let slots = rows + u64::from(self.partitions) * PartitionRow::BYTES as u64;
        let positions = slots + u64::from(self.slots) * SlotRow::BYTES as u64;
        let slot_positions = positions + u64::from(self.positions) * POSITION_BYTES as u64;
        let end = slot_positions + u64::from(self.slot_positions) * SLOT_POSITION_BYTES as u64;
        [rows, slots, positions, slot_positions, end]
    }

    /// Bytes of a whole footer, padded to blocks.
    pub(super) fn file_bytes(self) -> u64 {
        let [.., end] = self.places();
        end.next_multiple_of(BLOCK_BYTES as u64)
    }
}

impl Header {
    pub(super) const BYTES: usize = 128;

    pub(super) fn new(life: Life, counts: Counts, file_bytes: u64, body_crc: u32) -> Self {
        let mut header = Self {
            magic: U64::new(MAGIC),
            version: U32::new(FOOTER_VERSION),
            reserved_a: U32::ZERO,
            journal_id: U64::new(life.journal.get()),
            seq: U64::new(life.seq),
            salt: U64::new(life.salt),
            start_lsn: U64::new(life.start.get()),
            end_lsn: U64::new(life.end.get()),
            partition_count: U32::new(counts.partitions),
            position_count: U32::new(counts.positions),
            file_bytes: U64::new(file_bytes),
            slot_count: U32::new(counts.slots),
            slot_position_count: U32::new(counts.slot_positions),
            reserved_b: [0; 40],
            body_crc: U32::new(body_crc),
            header_crc: U32::ZERO,
        };
        header.header_crc = U32::new(header.checksum());
        header
    }

    fn checksum(&self) -> u32 {
        crc32c(&self.as_bytes()[..offset_of!(Header, header_crc)])
    }

    fn counts(&self) -> Counts {
        Counts {
            partitions: self.partition_count.get(),
            positions: self.position_count.get(),
            slots: self.slot_count.get(),
            slot_positions: self.slot_position_count.get(),
        }
    }

    /// Reads and judges the header alone.
    fn decode(bytes: &[u8], life: &Life) -> Result<Self, FooterError> {
        let (header, _) = Self::read_from_prefix(bytes).map_err(|_| FooterError::Length)?;
        if header.magic.get() != MAGIC {
            return Err(FooterError::Magic);
        }
        // J-41: the checksum first, so that a flipped bit is never taken for another version.
        if header.header_crc.get() != header.checksum() {
            return Err(FooterError::HeaderChecksum);
        }
        if header.version.get() != FOOTER_VERSION {
            return Err(FooterError::Version(header.version.get()));
        }
        let same = header.journal_id.get() == life.journal.get()
            && header.seq.get() == life.seq
            && header.salt.get() == life.salt
            && header.start_lsn.get() == life.start.get()
            && header.end_lsn.get() == life.end.get();
        if !same {
            // J-40
            return Err(FooterError::Foreign);
        }
        // Each position stands for an entry at least, and each row has a position: what is read of a footer is bounded by
        // what its segment can hold, whatever the footer says.
        let positions_max = life.positions_end() / BATCH_HEADER_BYTES as u64;
        let counts = header.counts();
        let is_possible = u64::from(counts.positions) <= positions_max
            && u64::from(counts.slot_positions) <= positions_max
            && counts.partitions <= counts.positions
            && counts.slots <= counts.slot_positions;
        if !is_possible
            || header.file_bytes.get() != counts.file_bytes()
            || header.reserved_a != U32::ZERO
            || header.reserved_b != [0; 40]
        {
            return Err(FooterError::Malformed);
        }
        Ok(header)
    }
}

/// What a segment holds of one partition, as it stands in a footer.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct PartitionRow {
    stream: U64,
    partition: U32,
    position_count: U32,
    first_offset: U64,
    next_offset: U64,
    first_time_us: U64,
    last_time_us: U64,
    previous_seq: U64,
    positions_at: U32,
    slot: U16,
    reserved: U16,
}

const _: () = {
    assert!(
        size_of::<PartitionRow>() == PartitionRow::BYTES,
        "a partition's row is 64 bytes"
    );
    assert!(
        offset_of!(PartitionRow, first_offset) == 16,
        "the offsets follow the key"
    );
    assert!(
        offset_of!(PartitionRow, previous_seq) == 48,
        "the link follows the times"
    );
};

impl PartitionRow {
    pub(super) const BYTES: usize = 64;

    pub(super) fn new(partition: &Partition, positions_at: u32, previous: Option<u64>) -> Self {
        Self {
            stream: U64::new(partition.key.stream.get()),
            partition: U32::new(partition.key.partition.get()),
            position_count: U32::new(partition.position_count),
            first_offset: U64::new(partition.first_offset.get()),
            next_offset: U64::new(partition.next_offset.get()),
            first_time_us: U64::new(partition.first_time_us),
            last_time_us: U64::new(partition.last_time_us),
            // J-47
            previous_seq: U64::new(previous.unwrap_or(NO_PREVIOUS)),
            positions_at: U32::new(positions_at),
            slot: U16::new(partition.slot.get()),
            reserved: U16::ZERO,
        }
    }

    fn key(&self) -> PartitionKey {
        PartitionKey {
            stream: StreamId::new(self.stream.get()),
            partition: PartitionIndex::new(self.partition.get()),
        }
    }

    fn next_offset(&self) -> Offset {
        Offset::new(self.next_offset.get())
    }

    fn slot(&self) -> SlotId {
        SlotId::new(self.slot.get())
    }

    /// `None` when a truncation behind the segment left nothing of it.
    fn partition(&self, positions: &[PositionRow], dead_from: SlotSeq) -> Option<Partition> {
        let (rows, next_offset) = living(positions, self.next_offset(), dead_from);
        let last = rows.last()?;
        Some(Partition {
            key: self.key(),
            slot: self.slot(),
            first_offset: Offset::new(self.first_offset.get()),
            next_offset,
            first_time_us: self.first_time_us.get(),
            last_time_us: last.time_max_us(),
            position_count: rows.len() as u32,
        })
    }
}

/// A slot of which a segment holds some, as it stands in a footer.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct SlotRow {
    slot: U16,
    reserved_a: U16,
    position_count: U32,
    positions_at: U32,
    reserved_b: U32,
}

const _: () = assert!(
    size_of::<SlotRow>() == SlotRow::BYTES,
    "a slot's row is 16 bytes"
);

impl SlotRow {
    pub(super) const BYTES: usize = 16;

    pub(super) fn new(slot: SlotId, position_count: u32, positions_at: u32) -> Self {
        Self {
            slot: U16::new(slot.get()),
            reserved_a: U16::ZERO,
            position_count: U32::new(position_count),
            positions_at: U32::new(positions_at),
            reserved_b: U32::ZERO,
        }
    }
}

/// Why bytes are no footer of that life. Whichever it is: scan the segment and write the footer again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FooterError {
    /// Fewer bytes than a footer has, or more or fewer than its header says.
    Length,
    /// The bytes are not a footer's.
    Magic,
    /// The header does not match its checksum.
    HeaderChecksum,
    /// Another version of Tiderace wrote it.
    Version(u32),
    /// It belongs to another life of the file, or to the same life before recovery cut it.
    Foreign,
    /// The body does not match its checksum.
    BodyChecksum,
    /// The checksums hold but the content contradicts itself: a bug of the writer.
    Malformed,
}

impl fmt::Display for FooterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length => write!(f, "the footer's length is not what its header says"),
            Self::Magic => write!(f, "the bytes are not a footer's"),
            Self::HeaderChecksum => write!(f, "the footer's header fails its checksum"),
            Self::Version(version) => {
                write!(f, "the footer has version {version}, not {FOOTER_VERSION}")
            }
            Self::Foreign => write!(f, "the footer belongs to another life of the segment"),
            Self::BodyChecksum => write!(f, "the footer's body fails its checksum"),
            Self::Malformed => write!(f, "the footer contradicts itself"),
        }
    }
}

impl core::error::Error for FooterError {}

/// A footer that was found good. Cloning shares the bytes.
#[derive(Clone, Debug)]
pub struct Footer {
    bytes: Bytes,
    life: Life,
    counts: Counts,
}

impl Footer {
    /// How long the footer file of this life is, from its first block: what to read to have all of it.
    ///
    /// # Errors
    /// Whatever makes the header unfit.
    pub fn file_bytes(first_block: &[u8], life: &Life) -> Result<u64, FooterError> {
        Ok(Header::decode(first_block, life)?.file_bytes.get())
    }

    /// Validates the bytes of a whole footer file against the life that it should describe.
    ///
    /// # Errors
    /// Whatever is wrong; the footer then counts as absent.
    pub fn decode(bytes: Bytes, life: &Life) -> Result<Self, FooterError> {
        let header = Header::decode(&bytes, life)?;
        if header.file_bytes.get() != bytes.len() as u64 {
            return Err(FooterError::Length);
        }
        if crc32c(&bytes[Header::BYTES..]) != header.body_crc.get() {
            return Err(FooterError::BodyChecksum);
        }
        let footer = Self {
            life: *life,
            counts: header.counts(),
            bytes,
        };
        if !footer.is_well_formed() {
            return Err(FooterError::Malformed);
        }
        Ok(footer)
    }

    /// Takes bytes that were built just now.
    pub(super) fn from_sealing(bytes: Bytes, life: Life, counts: Counts) -> Self {
        Self {
            bytes,
            life,
            counts,
        }
    }

    /// J-44: rows sorted by key, positions in the rows' order without gaps, each partition's positions in order.
    fn is_well_formed(&self) -> bool {
        self.partitions_are_well_formed() && self.slots_are_well_formed()
    }

    /// J-63: rows sorted by slot, positions in the rows' order without gaps, runs and places in order.
    fn slots_are_well_formed(&self) -> bool {
        let positions = self.slot_positions();
        let end = self.life.positions_end();
        let mut positions_at = 0_usize;
        let mut slot_before = None;
        for row in self.slot_rows() {
            let first_at = row.positions_at.get() as usize;
            let last_at = first_at + row.position_count.get() as usize;
            let slot = row.slot.get();
            let is_sorted = slot_before.is_none_or(|before| before < slot);
            let is_plain = row.reserved_a == U16::ZERO && row.reserved_b == U32::ZERO;
            let Some(own) = positions.get(first_at..last_at) else {
                return false;
            };
            let (Some(first), Some(last)) = (own.first(), own.last()) else {
                return false;
            };
            let in_order = own.windows(2).all(|pair| {
                pair[0].next_seq() <= pair[1].first_seq() && pair[0].end() <= pair[1].at()
            });
            let in_bounds = first.at() >= BLOCK_BYTES as u64
                && first.first_seq() > 0
                && last.end() <= end
                && own.iter().all(|position| {
                    position.end() > position.at() && position.first_seq() < position.next_seq()
                });
            if !is_sorted || !is_plain || first_at != positions_at || !in_order || !in_bounds {
                return false;
            }
            positions_at = last_at;
            slot_before = Some(slot);
        }
        positions_at == positions.len()
    }

    fn partitions_are_well_formed(&self) -> bool {
        let positions = self.positions();
        let end = self.life.positions_end();
        let mut positions_at = 0_usize;
        let mut key_before = None;
        for row in self.rows() {
            let first_at = row.positions_at.get() as usize;
            let last_at = first_at + row.position_count.get() as usize;
            let sorted = key_before.is_none_or(|before| before < row.key());
            if !sorted || first_at != positions_at || row.reserved != U16::ZERO {
                return false;
            }
            // J-47: a search follows the links, so they lead back or it would not end.
            let previous = row.previous_seq.get();
            if previous != NO_PREVIOUS && previous >= self.life.seq {
                return false;
            }
            let Some(own) = positions.get(first_at..last_at) else {
                return false;
            };
            let (Some(first), Some(last)) = (own.first(), own.last()) else {
                return false;
            };
            let in_order = own.windows(2).all(|pair| {
                pair[0].base_offset() < pair[1].base_offset()
                    && pair[0].first_seq() < pair[1].first_seq()
                    && pair[0].time_max_us() <= pair[1].time_max_us()
                    && pair[0].end() <= u64::from(pair[1].get().at)
            });
            let in_bounds = first.get().at as usize >= BLOCK_BYTES
                && last.end() <= end
                && own.iter().all(|position| position.get().span > 0)
                && first.first_seq() > 0
                && last.first_seq() < u64::MAX
                && first.base_offset() == row.first_offset.get()
                && last.base_offset() < row.next_offset.get()
                && last.time_max_us() == row.last_time_us.get()
                && row.first_time_us.get() <= first.time_max_us();
            if !in_order || !in_bounds {
                return false;
            }
            positions_at = last_at;
            key_before = Some(row.key());
        }
        positions_at == positions.len()
    }

    /// The bytes of one of the lists.
    fn list(&self, nth: usize) -> &[u8] {
        let places = self.counts.places();
        &self.bytes[places[nth] as usize..places[nth + 1] as usize]
    }

    fn rows(&self) -> &[PartitionRow] {
        <[PartitionRow]>::ref_from_bytes(self.list(0)).expect(COUNTED)
    }

    fn slot_rows(&self) -> &[SlotRow] {
        <[SlotRow]>::ref_from_bytes(self.list(1)).expect(COUNTED)
    }

    fn positions(&self) -> &[PositionRow] {
        <[PositionRow]>::ref_from_bytes(self.list(2)).expect(COUNTED)
    }

    fn slot_positions(&self) -> &[SlotPositionRow] {
        <[SlotPositionRow]>::ref_from_bytes(self.list(3)).expect(COUNTED)
    }

    fn slot_row(&self, slot: SlotId) -> Option<&[SlotPositionRow]> {
        let rows = self.slot_rows();
        let index = rows.binary_search_by_key(&slot.get(), |row| row.slot.get());
        Some(self.positions_of(&rows[index.ok()?]))
    }

    fn positions_of(&self, row: &SlotRow) -> &[SlotPositionRow] {
        let at = row.positions_at.get() as usize;
        &self.slot_positions()[at..at + row.position_count.get() as usize]
    }

    fn own(&self, row: &PartitionRow) -> &[PositionRow] {
        let at = row.positions_at.get() as usize;
        &self.positions()[at..at + row.position_count.get() as usize]
    }

    fn row(&self, key: PartitionKey) -> Option<(&PartitionRow, &[PositionRow])> {
        let rows = self.rows();
        let index = rows.binary_search_by_key(&key, PartitionRow::key).ok()?;
        let row = &rows[index];
        Some((row, self.own(row)))
    }

    /// The footer's bytes, whole blocks.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The life that it describes.
    #[must_use]
    pub fn life(&self) -> &Life {
        &self.life
    }

    /// The slot of a partition that the segment holds some of.
    #[must_use]
    pub fn slot_of(&self, key: PartitionKey) -> Option<SlotId> {
        Some(self.row(key)?.0.slot())
    }

    /// The run that holds the offset; `None` when the segment does not hold it alive.
    #[must_use]
    pub fn locate(&self, key: PartitionKey, offset: Offset, dead_from: SlotSeq) -> Option<Located> {
        let (row, positions) = self.row(key)?;
        let (rows, next_offset) = living(positions, row.next_offset(), dead_from);
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
        let (row, positions) = self.row(key)?;
        let (rows, next_offset) = living(positions, row.next_offset(), dead_from);
        locate_time(rows, next_offset, time_us)
    }

    /// What the segment holds of the partition.
    #[must_use]
    pub fn partition(&self, key: PartitionKey, dead_from: SlotSeq) -> Option<Partition> {
        let (row, positions) = self.row(key)?;
        row.partition(positions, dead_from)
    }

    /// The run that holds this sequence of the slot; `None` when the segment does not hold it alive.
    #[must_use]
    pub fn locate_seq(
        &self,
        slot: SlotId,
        seq: SlotSeq,
        dead_from: SlotSeq,
    ) -> Option<SlotPosition> {
        locate_seq(self.slot_row(slot)?, seq, dead_from)
    }

    /// What the segment holds of the slot.
    #[must_use]
    pub fn slot_span(&self, slot: SlotId, dead_from: SlotSeq) -> Option<SlotSpan> {
        slot_span(slot, self.slot_row(slot)?, dead_from)
    }

    /// What the segment holds of each slot, by number, but for what truncations behind the segment took.
    pub fn slots(&self) -> impl Iterator<Item = SlotSpan> + '_ {
        self.slot_rows().iter().filter_map(|row| {
            let slot = SlotId::new(row.slot.get());
            slot_span(slot, self.positions_of(row), SlotSeq::MAX)
        })
    }

    /// Number of the latest earlier life that held some of the partition when this one was sealed. That life may have been
    /// released since. `None` when there was none, or when this segment does not hold the partition.
    #[must_use]
    pub fn previous_seq(&self, key: PartitionKey) -> Option<u64> {
        let seq = self.row(key)?.0.previous_seq.get();
        (seq != NO_PREVIOUS).then_some(seq)
    }

    /// What the segment holds of each partition, by key, but for what truncations behind the segment took.
    pub fn partitions(&self) -> impl Iterator<Item = Partition> + '_ {
        let rows = self.rows().iter();
        rows.filter_map(|row| row.partition(self.own(row), SlotSeq::MAX))
    }

    /// How many positions the partitions have.
    #[must_use]
    pub fn position_count(&self) -> usize {
        self.counts.positions as usize
    }
}
