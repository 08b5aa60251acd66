//! Batches at the client's edge: a finished body becomes a batch by the header in front of it, and a received batch is
//! read in place, without a copy. A batch is handed to a reader only after its header's two checksums and its body's
//! hold; the archive inside is validated when its records are asked for, because a view of it can only be borrowed.

use bytes::{Bytes, BytesMut};
use core::fmt;
use tiderace_base::ids::{PartitionIndex, PartitionKey, ProducerId};
use tiderace_base::limits::BATCH_HEADER_BYTES;
use tiderace_base::position::{Epoch, Offset, ProducerEpoch, ProducerSeq};
use tiderace_wire::batch::{Attributes, BatchHeader, Codec, ProducerPart};
use tiderace_wire::body::{self, ArchivedRecord, BodyError, Built};
use tiderace_wire::entry::EntryKind;

/// What a body takes beyond the weight of its records.
pub(crate) const BODY_SLACK_BYTES: usize = body::ROOT_BYTES;

/// Who sends a batch, where to, and as which.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// Where to.
    pub key: PartitionKey,
    /// Who; zero: not deduplicated.
    pub producer: ProducerId,
    /// The producer's epoch.
    pub epoch: ProducerEpoch,
    /// The batch's number in it.
    pub seq: ProducerSeq,
}

/// Up to here a batch is copied into a shared arena: the copy costs less than an allocation of its own, and the
/// builder's buffer can be used again at once.
const ARENA_BATCH_BYTES_MAX: usize = 4 * 1024;
/// Arenas are taken in steps of this size. A batch that waits long holds the arena that it lies in, so it is not larger.
const ARENA_BYTES: usize = 64 * 1024;

/// A batch of a body that was built behind room for its header.
///
/// # Panics
/// When there is no such room.
#[must_use]
pub fn encode(arena: &mut BytesMut, stamp: Stamp, built: Built) -> Bytes {
    assert_eq!(
        built.front_bytes, BATCH_HEADER_BYTES,
        "a header goes in front"
    );
    let body = built.body();
    let header = BatchHeader::producer(ProducerPart {
        key: stamp.key,
        attributes: attributes(stamp),
        record_count: built.record_count,
        body_bytes: body.len() as u32,
        body_crc: tiderace_base::checksum::crc32c(body),
        producer_id: stamp.producer,
        producer_seq: stamp.seq,
        producer_epoch: stamp.epoch,
        schema_id: 0,
        first_time_us: built.first_time_us,
        time_span_us: built.time_span_us,
    });
    if built.bytes.len() <= ARENA_BATCH_BYTES_MAX {
        if arena.capacity() < built.bytes.len() {
            arena.reserve(ARENA_BYTES);
        }
        arena.extend_from_slice(header.bytes());
        arena.extend_from_slice(built.body());
        return arena.split().freeze();
    }
    let mut bytes = built.bytes;
    bytes[..BATCH_HEADER_BYTES].copy_from_slice(header.bytes());
    bytes.freeze()
}

/// A batch with the same body under another stamp. For a batch that no node holds.
///
/// # Panics
/// When `bytes` is not a batch.
#[must_use]
pub fn restamp(bytes: &Bytes, stamp: Stamp) -> Bytes {
    let old = BatchHeader::parse(bytes).expect("a sealed batch has a header");
    let header = BatchHeader::producer(ProducerPart {
        key: stamp.key,
        attributes: attributes(stamp),
        record_count: old.record_count(),
        body_bytes: old.body_bytes(),
        body_crc: old.body_crc(),
        producer_id: stamp.producer,
        producer_seq: stamp.seq,
        producer_epoch: stamp.epoch,
        schema_id: old.schema_id(),
        first_time_us: old.first_time_us(),
        time_span_us: old.time_span_us(),
    });
    let mut again = BytesMut::with_capacity(bytes.len());
    again.extend_from_slice(header.bytes());
    again.extend_from_slice(&bytes[BATCH_HEADER_BYTES..]);
    again.freeze()
}

fn attributes(stamp: Stamp) -> Attributes {
    if stamp.producer.get() == 0 {
        Attributes::NONE
    } else {
        Attributes::NONE.with_idempotent()
    }
}

/// Why a received batch is not handed to its reader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BatchError {
    /// A checksum or a length does not hold, or it is another partition's.
    Damaged,
    /// A codec that this client does not read, in the batch that begins here.
    Codec(Offset),
}

/// Splits the bytes of a deliver frame into its batches. A batch within one piece is a slice of it; one that lies
/// across pieces is copied together. `None`: the bytes are not whole batches.
pub(crate) fn split(pieces: &[Bytes], out: &mut Vec<Bytes>) -> Option<()> {
    let mut pieces = pieces.iter().filter(|piece| !piece.is_empty()).cloned();
    let mut rest = pieces.next()?;
    loop {
        let whole = |bytes: &[u8]| -> Option<Option<usize>> {
            if bytes.len() < BATCH_HEADER_BYTES {
                return Some(None);
            }
            let header = BatchHeader::parse(bytes).ok()?;
            Some((bytes.len() >= header.batch_len()).then(|| header.batch_len()))
        };
        if let Some(len) = whole(&rest)? {
            out.push(rest.split_to(len));
            if rest.is_empty() {
                match pieces.next() {
                    Some(piece) => rest = piece,
                    None => return Some(()),
                }
            }
            continue;
        }
        // Only what lacks is taken from the following pieces, so that the batches behind it stay where they are.
        let mut joined = BytesMut::from(&rest[..]);
        rest.clear();
        loop {
            let lacks = if joined.len() < BATCH_HEADER_BYTES {
                BATCH_HEADER_BYTES - joined.len()
            } else {
                BatchHeader::parse(&joined).ok()?.batch_len() - joined.len()
            };
            if lacks == 0 {
                break;
            }
            if rest.is_empty() {
                rest = pieces.next()?;
            }
            joined.extend_from_slice(&rest.split_to(lacks.min(rest.len())));
        }
        out.push(joined.freeze());
        if rest.is_empty() {
            match pieces.next() {
                Some(piece) => rest = piece,
                None => return Some(()),
            }
        }
    }
}

/// A received batch: the very bytes that the producer sent and the node placed.
#[derive(Clone)]
pub struct Batch {
    header: BatchHeader,
    bytes: Bytes,
    /// Records before it had been read already.
    skip: usize,
}

impl Batch {
    pub(crate) fn verify(bytes: Bytes, key: PartitionKey) -> Result<Self, BatchError> {
        let header = *BatchHeader::parse(&bytes).map_err(|_| BatchError::Damaged)?;
        let body = &bytes[BATCH_HEADER_BYTES..];
        header
            .check_producer(body.len())
            .and_then(|()| header.check_placement())
            .and_then(|()| header.check_body(body))
            .map_err(|_| BatchError::Damaged)?;
        if header.key() != key
            || header.entry_kind() != Ok(EntryKind::Data)
            || header.record_count() == 0
        {
            return Err(BatchError::Damaged);
        }
        if header.attributes().codec() != Codec::None {
            return Err(BatchError::Codec(header.base_offset()));
        }
        Ok(Self {
            header,
            bytes,
            skip: 0,
        })
    }

    pub(crate) fn starting_at(mut self, wanted: Offset) -> Self {
        self.skip = wanted
            .distance_from(self.header.base_offset())
            .unwrap_or(0)
            .min(u64::from(self.header.record_count())) as usize;
        self
    }

    /// The partition it came from.
    #[must_use]
    pub fn partition(&self) -> PartitionIndex {
        self.header.partition()
    }

    /// The header as the node placed it.
    #[must_use]
    pub const fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// Offset of the first record that is handed out.
    #[must_use]
    pub fn first_offset(&self) -> Offset {
        self.header.base_offset().advance(self.skip as u64)
    }

    /// One past the offset of the last record: where to go on.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.header.next_offset()
    }

    /// The epoch in which it was appended.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.header.epoch()
    }

    /// When it was appended, in microseconds since 1970.
    #[must_use]
    pub fn append_time_us(&self) -> u64 {
        self.header.append_time_us()
    }

    /// Records that are handed out.
    #[must_use]
    pub fn len(&self) -> usize {
        self.header.record_count() as usize - self.skip
    }

    /// Whether no record is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The whole batch, header and body, as it stands on the node's disk.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The records, in place. Validates the archive: ask once per batch, not once per record.
    ///
    /// # Errors
    /// [`BodyError`] when the body is not an archive of as many records as the header says. The producer wrote it so:
    /// reading again does not help.
    pub fn records(&self) -> Result<Records<'_>, BodyError> {
        let archive = body::validate_batch(&self.header, &self.bytes[BATCH_HEADER_BYTES..])?;
        Ok(Records {
            header: &self.header,
            records: archive.records()[self.skip..].iter(),
            offset: self.first_offset(),
        })
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("key", &self.header.key())
            .field("first_offset", &self.first_offset())
            .field("next_offset", &self.next_offset())
            .field("epoch", &self.epoch())
            .finish_non_exhaustive()
    }
}

/// The records of a batch, in offset order.
#[derive(Clone)]
pub struct Records<'a> {
    header: &'a BatchHeader,
    records: core::slice::Iter<'a, ArchivedRecord>,
    offset: Offset,
}

impl<'a> Iterator for Records<'a> {
    type Item = RecordView<'a>;

    fn next(&mut self) -> Option<RecordView<'a>> {
        let record = self.records.next()?;
        let offset = self.offset;
        self.offset = offset.advance(1);
        Some(RecordView {
            header: self.header,
            record,
            offset,
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.records.size_hint()
    }
}

impl ExactSizeIterator for Records<'_> {}

impl fmt::Debug for Records<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records")
            .field("offset", &self.offset)
            .field("left", &self.records.len())
            .finish_non_exhaustive()
    }
}

/// A record within the batch that it came in.
#[derive(Clone, Copy)]
pub struct RecordView<'a> {
    header: &'a BatchHeader,
    record: &'a ArchivedRecord,
    offset: Offset,
}

impl<'a> RecordView<'a> {
    /// Its offset.
    #[must_use]
    pub const fn offset(&self) -> Offset {
        self.offset
    }

    /// When it happened, by its producer, in microseconds since 1970.
    #[must_use]
    pub fn time_us(&self) -> u64 {
        self.record.time_us(self.header)
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> Option<&'a [u8]> {
        self.record.key()
    }

    /// Its value; `None` for a tombstone.
    #[must_use]
    pub fn value(&self) -> Option<&'a [u8]> {
        self.record.value()
    }

    /// Its headers' names and values, in the producer's order.
    pub fn headers(&self) -> impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])> {
        self.record.headers()
    }
}

impl fmt::Debug for RecordView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordView")
            .field("offset", &self.offset)
            .field("key", &self.key())
            .field("value", &self.value())
            .finish_non_exhaustive()
    }
}
