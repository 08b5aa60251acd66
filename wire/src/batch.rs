//! The batch header: 128 bytes that are the same on every socket, in memory and on disk. A producer fills the first
//! 80 bytes and binds them, with the body's checksum, by `producer_crc`; whoever leads the slot fills the other 48 and
//! binds both by `placement_crc`. Refuses a header whose reserved parts are not zero. Never looks into a body.

use crate::entry::EntryKind;
use crate::error::ErrorCode;
use core::fmt;
use core::ops::Range;
use tiderace_base::checksum::crc32c;
use tiderace_base::ids::{PartitionIndex, PartitionKey, ProducerId, SlotId, StreamId};
use tiderace_base::limits::{BATCH_HEADER_BYTES, BATCH_RECORDS_MAX, BODY_BYTES_MAX};
use tiderace_base::position::{Epoch, Offset, ProducerEpoch, ProducerSeq, SlotSeq};
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// "TRB1".
pub const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"TRB1");
/// The layout on this page.
pub const BATCH_VERSION: u16 = 1;
/// The producer's part, its checksum included.
pub const PRODUCER_PART_BYTES: usize = 80;
/// Where the producer's checksum stands, and where the bytes begin that the placement checksum covers.
const PRODUCER_CRC_AT: usize = 76;
const PLACEMENT_CRC_AT: usize = 124;

/// How a body is coded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Codec {
    /// The archive as it is.
    None,
    /// One LZ4 block behind its decoded size as u32.
    Lz4,
}

/// The attributes of a batch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Attributes(u16);

impl Attributes {
    /// No codec and no flags.
    pub const NONE: Self = Self(0);
    const CODEC: u16 = 0x000f;
    const IDEMPOTENT: u16 = 1 << 4;
    const TRACED: u16 = 1 << 5;
    const PRIORITY: u16 = 1 << 6;
    const KNOWN: u16 = Self::CODEC | Self::IDEMPOTENT | Self::TRACED | Self::PRIORITY;

    /// Exactly these 16 bits, or `None` when one of them means nothing.
    #[must_use]
    pub const fn from_bits(bits: u16) -> Option<Self> {
        // P-12
        if bits & !Self::KNOWN == 0 && bits & Self::CODEC <= 1 {
            Some(Self(bits))
        } else {
            None
        }
    }

    /// The 16 bits.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// The same with this codec.
    #[must_use]
    pub const fn with_codec(self, codec: Codec) -> Self {
        let code = match codec {
            Codec::None => 0,
            Codec::Lz4 => 1,
        };
        Self(self.0 & !Self::CODEC | code)
    }

    /// The same, with a producer whose retries are recognised.
    #[must_use]
    pub const fn with_idempotent(self) -> Self {
        Self(self.0 | Self::IDEMPOTENT)
    }

    /// The same, to be followed through the system.
    #[must_use]
    pub const fn with_traced(self) -> Self {
        Self(self.0 | Self::TRACED)
    }

    /// The same, ahead of others.
    #[must_use]
    pub const fn with_priority(self) -> Self {
        Self(self.0 | Self::PRIORITY)
    }

    /// How the body is coded.
    #[must_use]
    pub const fn codec(self) -> Codec {
        if self.0 & Self::CODEC == 0 {
            Codec::None
        } else {
            Codec::Lz4
        }
    }

    /// Whether retries are recognised.
    #[must_use]
    pub const fn is_idempotent(self) -> bool {
        self.0 & Self::IDEMPOTENT != 0
    }

    /// Whether the batch is followed through the system.
    #[must_use]
    pub const fn is_traced(self) -> bool {
        self.0 & Self::TRACED != 0
    }

    /// Whether the batch goes ahead of others.
    #[must_use]
    pub const fn is_priority(self) -> bool {
        self.0 & Self::PRIORITY != 0
    }
}

/// What is wrong with a batch's header, or with its body against it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum HeaderError {
    /// Fewer bytes than a header, or than its body needs: a whole batch is wanted.
    Short,
    /// More bytes than header and body.
    Long,
    /// Not a batch: wrong first four bytes.
    Magic,
    /// A layout that this release does not know: upgrade it.
    Version,
    /// The producer's checksum does not hold: damaged on its way, send it again.
    ProducerChecksum,
    /// The placement checksum does not hold: damaged on its way or at rest, read it again from elsewhere.
    PlacementChecksum,
    /// The body's checksum does not hold: damaged on its way or at rest.
    BodyChecksum,
    /// An unknown attribute, or an idempotent batch without a producer, or the reverse.
    Attributes,
    /// A body that is empty or larger than the limit.
    BodySize,
    /// No records, or more than the limit.
    RecordCount,
    /// The placement part of a batch from a producer is not zero: only the node places.
    Placed,
    /// The placement part has an unknown kind, flags, reserved bytes, or an end that no offset names.
    Placement,
}

impl HeaderError {
    /// The code with which a node refuses such a batch.
    #[must_use]
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::Short
            | Self::Long
            | Self::Magic
            | Self::Version
            | Self::Attributes
            | Self::RecordCount
            | Self::Placed
            | Self::Placement => ErrorCode::BatchHeader,
            Self::ProducerChecksum | Self::PlacementChecksum | Self::BodyChecksum => {
                ErrorCode::BatchChecksum
            }
            Self::BodySize => ErrorCode::BatchTooLarge,
        }
    }
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Short => "the batch is not whole",
            Self::Long => "bytes follow the batch",
            Self::Magic => "not a batch header",
            Self::Version => "a batch header of an unknown version",
            Self::ProducerChecksum => "the producer's checksum does not hold",
            Self::PlacementChecksum => "the placement checksum does not hold",
            Self::BodyChecksum => "the body's checksum does not hold",
            Self::Attributes => "the attributes contradict themselves or are unknown",
            Self::BodySize => "the body is empty or too large",
            Self::RecordCount => "no records, or too many",
            Self::Placed => "a producer's batch claims a place",
            Self::Placement => "the placement part contradicts itself or is unknown",
        })
    }
}

impl core::error::Error for HeaderError {}

/// What a producer says about its batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProducerPart {
    /// Codec and flags.
    pub attributes: Attributes,
    /// Where the batch belongs.
    pub key: PartitionKey,
    /// Records in the body.
    pub record_count: u32,
    /// Size of the body.
    pub body_bytes: u32,
    /// CRC32C of the body.
    pub body_crc: u32,
    /// Who sends it; zero without deduplication.
    pub producer_id: ProducerId,
    /// Number of the batch within (producer, producer epoch, partition), from 0.
    pub producer_seq: ProducerSeq,
    /// The producer's own fence.
    pub producer_epoch: ProducerEpoch,
    /// The schema of the values; zero for none.
    pub schema_id: u32,
    /// The oldest record's time, in microseconds since 1970.
    pub first_time_us: u64,
    /// From the oldest to the newest record, in microseconds.
    pub time_span_us: u32,
}

/// What the node that leads the slot says about a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placement {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// The entry's number within its slot; 0 for what is local to a replica.
    pub slot_seq: SlotSeq,
    /// The slot's epoch.
    pub epoch: Epoch,
    /// The slot.
    pub slot: SlotId,
    /// What the entry is.
    pub entry_kind: EntryKind,
    /// When it was appended, in microseconds since 1970; never goes back within a partition.
    pub append_time_us: u64,
}

/// The header of a batch, as it lies in memory, on the wire and on disk.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BatchHeader {
    magic: U32,
    header_version: U16,
    attributes: U16,
    stream_id: U64,
    partition: U32,
    record_count: U32,
    body_bytes: U32,
    body_crc: U32,
    producer_id: U128,
    producer_seq: U64,
    producer_epoch: U32,
    schema_id: U32,
    first_time_us: U64,
    time_span_us: U32,
    producer_crc: U32,
    base_offset: U64,
    slot_seq: U64,
    epoch: U32,
    slot: U16,
    entry_kind: u8,
    flags: u8,
    append_time_us: U64,
    reserved_a: U64,
    reserved_b: U32,
    placement_crc: U32,
}

const _: () = {
    assert!(
        size_of::<BatchHeader>() == BATCH_HEADER_BYTES,
        "a batch header has its published size"
    );
    assert!(
        align_of::<BatchHeader>() == 1,
        "a batch header lies anywhere"
    );
    assert!(
        core::mem::offset_of!(BatchHeader, body_bytes) == 24,
        "the body's size is at 24"
    );
    assert!(
        core::mem::offset_of!(BatchHeader, producer_id) == 32,
        "the producer is at 32"
    );
    assert!(
        core::mem::offset_of!(BatchHeader, producer_crc) == PRODUCER_CRC_AT,
        "its checksum is at 76"
    );
    assert!(
        core::mem::offset_of!(BatchHeader, base_offset) == PRODUCER_PART_BYTES,
        "placement is at 80"
    );
    assert!(
        core::mem::offset_of!(BatchHeader, placement_crc) == PLACEMENT_CRC_AT,
        "its checksum is at 124"
    );
};

impl BatchHeader {
    /// A header as a producer sends it: checksummed, not placed.
    #[must_use]
    pub fn producer(part: ProducerPart) -> Self {
        let mut header = Self {
            magic: BATCH_MAGIC.into(),
            header_version: BATCH_VERSION.into(),
            attributes: part.attributes.bits().into(),
            stream_id: part.key.stream.get().into(),
            partition: part.key.partition.get().into(),
            record_count: part.record_count.into(),
            body_bytes: part.body_bytes.into(),
            body_crc: part.body_crc.into(),
            producer_id: part.producer_id.get().into(),
            producer_seq: part.producer_seq.get().into(),
            producer_epoch: part.producer_epoch.get().into(),
            schema_id: part.schema_id.into(),
            first_time_us: part.first_time_us.into(),
            time_span_us: part.time_span_us.into(),
            producer_crc: 0.into(),
            base_offset: 0.into(),
            slot_seq: 0.into(),
            epoch: 0.into(),
            slot: 0.into(),
            entry_kind: 0,
            flags: 0,
            append_time_us: 0.into(),
            reserved_a: 0.into(),
            reserved_b: 0.into(),
            placement_crc: 0.into(),
        };
        header.producer_crc = crc32c(&header.as_bytes()[..PRODUCER_CRC_AT]).into();
        header
    }

    /// Fills the placement part and its checksum. Nothing else changes.
    pub fn place(&mut self, placement: Placement) {
        self.base_offset = placement.base_offset.get().into();
        self.slot_seq = placement.slot_seq.get().into();
        self.epoch = placement.epoch.get().into();
        self.slot = placement.slot.get().into();
        self.entry_kind = placement.entry_kind.code();
        self.flags = 0;
        self.append_time_us = placement.append_time_us.into();
        self.reserved_a = 0.into();
        self.reserved_b = 0.into();
        self.placement_crc = self.computed_placement_crc().into();
    }

    /// The first header's worth of `bytes`. Looks at length, magic and version only.
    ///
    /// # Errors
    /// [`HeaderError::Short`], [`HeaderError::Magic`] or [`HeaderError::Version`].
    pub fn parse(bytes: &[u8]) -> Result<&Self, HeaderError> {
        let (header, _) = Self::ref_from_prefix(bytes).map_err(|_| HeaderError::Short)?;
        header.check_version()?;
        Ok(header)
    }

    /// The same, to be placed where it lies.
    ///
    /// # Errors
    /// As [`BatchHeader::parse`].
    pub fn parse_mut(bytes: &mut [u8]) -> Result<&mut Self, HeaderError> {
        let (header, _) = Self::mut_from_prefix(bytes).map_err(|_| HeaderError::Short)?;
        header.check_version()?;
        Ok(header)
    }

    fn check_version(&self) -> Result<(), HeaderError> {
        if self.magic.get() != BATCH_MAGIC {
            return Err(HeaderError::Magic);
        }
        if self.header_version.get() != BATCH_VERSION {
            return Err(HeaderError::Version);
        }
        Ok(())
    }

    /// Checks the producer's part, of a batch whose body has `body_len` bytes: version, checksum, attributes, sizes.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub fn check_producer(&self, body_len: usize) -> Result<(), HeaderError> {
        self.check_version()?;
        // P-10: nothing in the header is believed before its checksum holds.
        if crc32c(&self.as_bytes()[..PRODUCER_CRC_AT]) != self.producer_crc.get() {
            return Err(HeaderError::ProducerChecksum);
        }
        let attributes =
            Attributes::from_bits(self.attributes.get()).ok_or(HeaderError::Attributes)?;
        // P-13
        if attributes.is_idempotent() != (self.producer_id.get() != 0) {
            return Err(HeaderError::Attributes);
        }
        let body_bytes = self.body_len();
        if body_bytes == 0 || body_bytes > BODY_BYTES_MAX {
            return Err(HeaderError::BodySize);
        }
        // P-17: exactly one batch, whole.
        match body_len.cmp(&body_bytes) {
            core::cmp::Ordering::Less => return Err(HeaderError::Short),
            core::cmp::Ordering::Equal => {}
            core::cmp::Ordering::Greater => return Err(HeaderError::Long),
        }
        if self.record_count.get() > BATCH_RECORDS_MAX {
            return Err(HeaderError::RecordCount);
        }
        Ok(())
    }

    /// Checks that the placement part is zero, as it must arrive from a producer.
    ///
    /// # Errors
    /// [`HeaderError::Placed`].
    pub fn check_unplaced(&self) -> Result<(), HeaderError> {
        // P-11: a client cannot forge a place or a control entry.
        if self.as_bytes()[PRODUCER_PART_BYTES..] == [0; BATCH_HEADER_BYTES - PRODUCER_PART_BYTES] {
            Ok(())
        } else {
            Err(HeaderError::Placed)
        }
    }

    /// All that is asked of a header at the node's door: the producer's part, no placement, at least one record.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub fn check_door(&self, body_len: usize) -> Result<(), HeaderError> {
        self.check_producer(body_len)?;
        self.check_unplaced()?;
        // P-14
        if self.record_count.get() == 0 {
            return Err(HeaderError::RecordCount);
        }
        Ok(())
    }

    /// Checks the placement part: its checksum, which covers the producer's, a known kind, and an end that can be named.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub fn check_placement(&self) -> Result<(), HeaderError> {
        // P-15
        if self.computed_placement_crc() != self.placement_crc.get() {
            return Err(HeaderError::PlacementChecksum);
        }
        let end = self
            .base_offset()
            .checked_add(u64::from(self.record_count.get()));
        if EntryKind::from_code(self.entry_kind).is_none()
            || self.flags != 0
            || self.reserved_a.get() != 0
            || self.reserved_b.get() != 0
            || end.is_none()
        {
            return Err(HeaderError::Placement);
        }
        Ok(())
    }

    /// Checks the body against the header: its size and its checksum.
    ///
    /// # Errors
    /// [`HeaderError::Short`], [`HeaderError::Long`] or [`HeaderError::BodyChecksum`].
    pub fn check_body(&self, body: &[u8]) -> Result<(), HeaderError> {
        match body.len().cmp(&self.body_len()) {
            core::cmp::Ordering::Less => return Err(HeaderError::Short),
            core::cmp::Ordering::Equal => {}
            core::cmp::Ordering::Greater => return Err(HeaderError::Long),
        }
        // P-16
        if crc32c(body) != self.body_crc.get() {
            return Err(HeaderError::BodyChecksum);
        }
        Ok(())
    }

    fn computed_placement_crc(&self) -> u32 {
        crc32c(&self.as_bytes()[PRODUCER_CRC_AT..PLACEMENT_CRC_AT])
    }

    /// The header's own bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; BATCH_HEADER_BYTES] {
        zerocopy::transmute_ref!(self)
    }

    /// The stream.
    #[must_use]
    pub fn stream(&self) -> StreamId {
        StreamId::new(self.stream_id.get())
    }

    /// The partition's number in its stream.
    #[must_use]
    pub fn partition(&self) -> PartitionIndex {
        PartitionIndex::new(self.partition.get())
    }

    /// The partition.
    #[must_use]
    pub fn key(&self) -> PartitionKey {
        PartitionKey {
            stream: self.stream(),
            partition: self.partition(),
        }
    }

    /// Codec and flags, as checked by [`BatchHeader::check_producer`].
    #[must_use]
    pub fn attributes(&self) -> Attributes {
        Attributes(self.attributes.get())
    }

    /// Records in the body.
    #[must_use]
    pub fn record_count(&self) -> u32 {
        self.record_count.get()
    }

    /// Size of the body.
    #[must_use]
    pub fn body_bytes(&self) -> u32 {
        self.body_bytes.get()
    }

    /// Size of the body, for slicing.
    #[must_use]
    pub fn body_len(&self) -> usize {
        self.body_bytes.get() as usize
    }

    /// Size of header and body.
    #[must_use]
    pub fn batch_len(&self) -> usize {
        BATCH_HEADER_BYTES + self.body_len()
    }

    /// CRC32C of the body.
    #[must_use]
    pub fn body_crc(&self) -> u32 {
        self.body_crc.get()
    }

    /// Who sent it; zero without deduplication.
    #[must_use]
    pub fn producer_id(&self) -> ProducerId {
        ProducerId::new(self.producer_id.get())
    }

    /// Number of the batch within (producer, producer epoch, partition).
    #[must_use]
    pub fn producer_seq(&self) -> ProducerSeq {
        ProducerSeq::new(self.producer_seq.get())
    }

    /// The producer's own fence.
    #[must_use]
    pub fn producer_epoch(&self) -> ProducerEpoch {
        ProducerEpoch::new(self.producer_epoch.get())
    }

    /// The schema of the values; zero for none.
    #[must_use]
    pub fn schema_id(&self) -> u32 {
        self.schema_id.get()
    }

    /// The oldest record's time, in microseconds since 1970, by the producer's clock.
    #[must_use]
    pub fn first_time_us(&self) -> u64 {
        self.first_time_us.get()
    }

    /// From the oldest to the newest record, in microseconds.
    #[must_use]
    pub fn time_span_us(&self) -> u32 {
        self.time_span_us.get()
    }

    /// The checksum of the producer's part.
    #[must_use]
    pub fn producer_crc(&self) -> u32 {
        self.producer_crc.get()
    }

    /// Offset of the first record.
    #[must_use]
    pub fn base_offset(&self) -> Offset {
        Offset::new(self.base_offset.get())
    }

    /// One past the offset of the last record; [`Offset::MAX`] where [`BatchHeader::check_placement`] would refuse.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.base_offset()
            .checked_add(u64::from(self.record_count.get()))
            .unwrap_or(Offset::MAX)
    }

    /// The entry's number within its slot.
    #[must_use]
    pub fn slot_seq(&self) -> SlotSeq {
        SlotSeq::new(self.slot_seq.get())
    }

    /// The slot's epoch when the entry was appended.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        Epoch::new(self.epoch.get())
    }

    /// The slot.
    #[must_use]
    pub fn slot(&self) -> SlotId {
        SlotId::new(self.slot.get())
    }

    /// What the entry is.
    ///
    /// # Errors
    /// [`HeaderError::Placement`] for a kind that this release does not know.
    pub fn entry_kind(&self) -> Result<EntryKind, HeaderError> {
        EntryKind::from_code(self.entry_kind).ok_or(HeaderError::Placement)
    }

    /// When it was appended, in microseconds since 1970.
    #[must_use]
    pub fn append_time_us(&self) -> u64 {
        self.append_time_us.get()
    }
}

impl fmt::Debug for BatchHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchHeader")
            .field("key", &self.key())
            .field("record_count", &self.record_count())
            .field("body_bytes", &self.body_bytes())
            .field("producer_id", &self.producer_id())
            .field("producer_epoch", &self.producer_epoch())
            .field("producer_seq", &self.producer_seq())
            .field("base_offset", &self.base_offset())
            .field("epoch", &self.epoch())
            .field("slot", &self.slot())
            .field("slot_seq", &self.slot_seq())
            .field("entry_kind", &self.entry_kind)
            .field("append_time_us", &self.append_time_us())
            .finish_non_exhaustive()
    }
}

/// The entries that lie back to back in `bytes`: each header with the range of its whole entry. Checks lengths, magic
/// and version only. Ends after the first error.
#[must_use]
pub fn walk(bytes: &[u8]) -> Walk<'_> {
    Walk { bytes, at: 0 }
}

/// See [`walk`].
#[derive(Clone, Debug)]
pub struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Walk<'a> {
    type Item = Result<(&'a BatchHeader, Range<usize>), HeaderError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = &self.bytes[self.at..];
        if rest.is_empty() {
            return None;
        }
        let start = self.at;
        self.at = self.bytes.len();
        Some(BatchHeader::parse(rest).and_then(|header| {
            if header.body_len() > BODY_BYTES_MAX {
                return Err(HeaderError::BodySize);
            }
            if rest.len() < header.batch_len() {
                return Err(HeaderError::Short);
            }
            self.at = start + header.batch_len();
            Ok((header, start..self.at))
        }))
    }
}
