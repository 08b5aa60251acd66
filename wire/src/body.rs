//! Bodies: an rkyv archive of records, little-endian, unaligned, with 32-bit relative pointers and the root at the end.
//! It is written in one pass by a hand-laid encoder whose bytes equal those of the archive's own serializer, validated
//! once at the door and once by its reader, and read in place. Validation allocates nothing and follows no pointer that
//! leaves the body, overlaps another or points against the order of writing.

use crate::batch::{BatchHeader, Codec};
use crate::error::ErrorCode;
use bytes::BytesMut;
use core::fmt;
use rkyv::rancor::Failure;
use tiderace_base::limits::{BATCH_RECORDS_MAX, BODY_BYTES_MAX, KEY_BYTES_MAX};

pub use archive::{ArchivedBody, ArchivedHeader, ArchivedRecord, Body, Header, Record};

/// The record has a key; without it the key's bytes are none.
pub const HAS_KEY: u8 = 1;
/// The record has no value: it removes its key.
pub const TOMBSTONE: u8 = 1 << 1;
const FLAGS_KNOWN: u8 = HAS_KEY | TOMBSTONE;

/// A record's row in the archive.
pub const RECORD_ROW_BYTES: usize = 29;
/// A header's row in the archive.
pub const HEADER_ROW_BYTES: usize = 16;
/// The root: the pointer to the rows and their number.
pub const ROOT_BYTES: usize = 8;

const _: () = {
    assert!(
        size_of::<ArchivedRecord>() == RECORD_ROW_BYTES,
        "a record's row has its published size"
    );
    assert!(
        size_of::<ArchivedHeader>() == HEADER_ROW_BYTES,
        "a header's row has its published size"
    );
    assert!(
        size_of::<ArchivedBody>() == ROOT_BYTES,
        "the root has its published size"
    );
    assert!(align_of::<ArchivedBody>() == 1, "an archive lies anywhere");
    assert!(
        BATCH_RECORDS_MAX as usize * RECORD_ROW_BYTES + ROOT_BYTES <= BODY_BYTES_MAX,
        "a body can hold the most records"
    );
};

mod archive {
    //! The archived structs. In a module of their own because the derives name their twins without documentation.
    #![allow(
        missing_docs,
        reason = "the derives emit public twins and resolvers whose fields have no documentation of their own"
    )]

    use rkyv::{Archive, Deserialize, Serialize};

    /// What a body holds.
    #[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
    pub struct Body {
        /// In the order of their offsets.
        pub records: Vec<Record>,
    }

    /// One record.
    #[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
    pub struct Record {
        /// Empty without [`super::HAS_KEY`].
        pub key: Vec<u8>,
        /// Empty with [`super::TOMBSTONE`].
        pub value: Vec<u8>,
        /// In the producer's order; names may repeat.
        pub headers: Vec<Header>,
        /// Microseconds after the batch's first time.
        pub time_delta_us: u32,
        /// [`super::HAS_KEY`] and [`super::TOMBSTONE`].
        pub flags: u8,
    }

    /// A name and a value beside a record's own.
    #[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
    pub struct Header {
        /// Any bytes; UTF-8 by custom.
        pub name: Vec<u8>,
        /// Any bytes.
        pub value: Vec<u8>,
    }
}

impl ArchivedRecord {
    /// The key, if the record has one.
    #[must_use]
    pub fn key(&self) -> Option<&[u8]> {
        (self.flags & HAS_KEY != 0).then_some(self.key.as_slice())
    }

    /// The value, or `None` for a tombstone.
    #[must_use]
    pub fn value(&self) -> Option<&[u8]> {
        (self.flags & TOMBSTONE == 0).then_some(self.value.as_slice())
    }

    /// Names and values, in the producer's order.
    pub fn headers(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        self.headers
            .iter()
            .map(|header| (header.name.as_slice(), header.value.as_slice()))
    }

    /// The record's time, in microseconds since 1970, within the batch of this header.
    #[must_use]
    pub fn time_us(&self, header: &BatchHeader) -> u64 {
        header
            .first_time_us()
            .saturating_add(u64::from(self.time_delta_us.to_native()))
    }
}

impl ArchivedBody {
    /// The records, in the order of their offsets.
    #[must_use]
    pub fn records(&self) -> &[ArchivedRecord] {
        self.records.as_slice()
    }
}

/// Why bytes are not a body.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum BodyError {
    /// Not an archive: a pointer or a length leads out of its place.
    Archive,
    /// Not as many records as the header says, or none, or too many.
    RecordCount,
    /// A record has unknown flags, or a key or value that its flags deny.
    Flags,
    /// A key is longer than the limit.
    KeyTooLong,
    /// A record is newer than the header's newest.
    Time,
    /// The body is coded: decode it first.
    Coded,
}

impl BodyError {
    /// The code with which a node refuses such a batch.
    #[must_use]
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::Archive | Self::RecordCount | Self::Flags | Self::KeyTooLong | Self::Time => {
                ErrorCode::BatchBody
            }
            Self::Coded => ErrorCode::CodecRefused,
        }
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Archive => "the body is not an archive of records",
            Self::RecordCount => "the body has not as many records as its header says",
            Self::Flags => "a record's flags are unknown or deny what it holds",
            Self::KeyTooLong => "a key is longer than the limit",
            Self::Time => "a record is newer than the header's newest",
            Self::Coded => "the body is coded",
        })
    }
}

impl core::error::Error for BodyError {}

/// The archive in `body`, with every pointer in it checked. Says nothing about counts and flags.
///
/// # Errors
/// [`BodyError::Archive`].
pub fn access(body: &[u8]) -> Result<&ArchivedBody, BodyError> {
    // P-20
    rkyv::api::low::access::<ArchivedBody, Failure>(body).map_err(|_| BodyError::Archive)
}

/// The archive in `body`, checked as at the door but for times: pointers, the number of records, flags, keys.
///
/// # Errors
/// The first thing that does not hold.
pub fn validate(body: &[u8], record_count: u32) -> Result<&ArchivedBody, BodyError> {
    check(body, record_count, u32::MAX)
}

/// The archive in the body of this batch, checked as at the door: [`validate`], and no record newer than the header
/// says. Header and body checksums are not looked at.
///
/// # Errors
/// The first thing that does not hold; [`BodyError::Coded`] when the body is not a plain archive.
pub fn validate_batch<'a>(
    header: &BatchHeader,
    body: &'a [u8],
) -> Result<&'a ArchivedBody, BodyError> {
    if header.attributes().codec() != Codec::None {
        return Err(BodyError::Coded);
    }
    check(body, header.record_count(), header.time_span_us())
}

fn check(body: &[u8], record_count: u32, time_span_us: u32) -> Result<&ArchivedBody, BodyError> {
    let archive = access(body)?;
    let records = archive.records();
    // P-14
    if records.len() != record_count as usize
        || record_count == 0
        || record_count > BATCH_RECORDS_MAX
    {
        return Err(BodyError::RecordCount);
    }
    for record in records {
        // P-21
        if record.flags & !FLAGS_KNOWN != 0
            || (record.flags & HAS_KEY == 0 && !record.key.is_empty())
            || (record.flags & TOMBSTONE != 0 && !record.value.is_empty())
        {
            return Err(BodyError::Flags);
        }
        if record.key.len() > KEY_BYTES_MAX {
            return Err(BodyError::KeyTooLong);
        }
        // P-22
        if record.time_delta_us.to_native() > time_span_us {
            return Err(BodyError::Time);
        }
    }
    Ok(archive)
}

/// The archive of these records, its parts in the order that keeps P-20 (P-23).
///
/// # Panics
/// When it is larger than [`BODY_BYTES_MAX`].
#[must_use]
pub fn encode(records: &[Record]) -> Vec<u8> {
    let mut out = BytesMut::new();
    let mut rows = Vec::with_capacity(records.len());
    for record in records {
        let headers = record
            .headers
            .iter()
            .map(|header| (header.name.as_slice(), header.value.as_slice()));
        rows.push(lay_record(&mut out, 0, &record.key, &record.value, headers));
    }
    let table_at = position(&out, 0);
    for (row, record) in rows.iter().zip(records) {
        lay_row(&mut out, 0, row, record.time_delta_us, record.flags);
    }
    lay_root(&mut out, 0, table_at, rows.len());
    assert!(out.len() <= BODY_BYTES_MAX, "a body keeps its limit");
    out.into()
}

/// Where a record's parts lie, from the body's first byte.
#[derive(Clone, Copy, Debug)]
struct Row {
    key_at: u32,
    key_bytes: u32,
    value_at: u32,
    value_bytes: u32,
    headers_at: u32,
    headers_count: u32,
}

/// Where the next byte of a body goes whose first byte is at `front`.
fn position(out: &BytesMut, front: usize) -> u32 {
    u32::try_from(out.len() - front).expect("a body keeps its limit")
}

fn lay_record<'a>(
    out: &mut BytesMut,
    front: usize,
    key: &[u8],
    value: &[u8],
    headers: impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])> + Clone,
) -> Row {
    let key_at = position(out, front);
    out.extend_from_slice(key);
    let value_at = position(out, front);
    out.extend_from_slice(value);
    let headers_count = headers.len();
    let headers_start = out.len();
    for (name, value) in headers.clone() {
        out.extend_from_slice(name);
        out.extend_from_slice(value);
    }
    let headers_at = position(out, front);
    let mut part_at = headers_start - front;
    for (name, value) in headers {
        for part in [name, value] {
            lay_vec(out, front, part_at as u32, part.len());
            part_at += part.len();
        }
    }
    Row {
        key_at,
        key_bytes: key.len() as u32,
        value_at,
        value_bytes: value.len() as u32,
        headers_at,
        headers_count: headers_count as u32,
    }
}

/// An archived vector: how far its first element lies from here, and how many there are.
fn lay_vec(out: &mut BytesMut, front: usize, target: u32, count: usize) {
    let here = position(out, front);
    out.extend_from_slice(&vec_bytes(here, target, count as u32));
}

fn vec_bytes(here: u32, target: u32, count: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&target.wrapping_sub(here).to_le_bytes());
    bytes[4..].copy_from_slice(&count.to_le_bytes());
    bytes
}

fn lay_row(out: &mut BytesMut, front: usize, row: &Row, time_delta_us: u32, flags: u8) {
    let here = position(out, front);
    let mut bytes = [0; RECORD_ROW_BYTES];
    bytes[0..8].copy_from_slice(&vec_bytes(here, row.key_at, row.key_bytes));
    bytes[8..16].copy_from_slice(&vec_bytes(here + 8, row.value_at, row.value_bytes));
    bytes[16..24].copy_from_slice(&vec_bytes(here + 16, row.headers_at, row.headers_count));
    bytes[24..28].copy_from_slice(&time_delta_us.to_le_bytes());
    bytes[28] = flags;
    out.extend_from_slice(&bytes);
}

fn lay_root(out: &mut BytesMut, front: usize, table_at: u32, count: usize) {
    lay_vec(out, front, table_at, count);
}

/// Why a record was not taken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PushError {
    /// The batch is full, or the record's time is too far from the others': finish it and push the record to the next.
    Full,
    /// The record fits no batch: make it smaller.
    TooLarge,
    /// The key is longer than [`KEY_BYTES_MAX`].
    KeyTooLong,
}

impl fmt::Display for PushError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the batch is full: finish it first",
            Self::TooLarge => "the record fits no batch",
            Self::KeyTooLong => "the key is longer than the limit",
        })
    }
}

impl core::error::Error for PushError {}

/// Writes a body record by record, in one pass, behind room for whatever headers go before it. Its scratch memory is
/// used again for the next body.
#[derive(Debug)]
pub struct BodyBuilder {
    out: BytesMut,
    front_bytes: usize,
    body_bytes_max: usize,
    rows: Vec<(Row, u64, u8)>,
    oldest_us: u64,
    newest_us: u64,
}

/// A finished body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Built {
    /// The room in front, zeroed, and the body behind it.
    pub bytes: BytesMut,
    /// Size of the room in front.
    pub front_bytes: usize,
    /// Records in the body.
    pub record_count: u32,
    /// The oldest record's time.
    pub first_time_us: u64,
    /// From the oldest to the newest.
    pub time_span_us: u32,
}

impl Built {
    /// The body alone.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.bytes[self.front_bytes..]
    }
}

impl BodyBuilder {
    /// A builder of bodies of up to `body_bytes_max` bytes (at most [`BODY_BYTES_MAX`]) behind `front_bytes` bytes of room.
    #[must_use]
    pub fn new(front_bytes: usize, body_bytes_max: usize) -> Self {
        Self {
            out: BytesMut::new(),
            front_bytes,
            body_bytes_max: body_bytes_max.min(BODY_BYTES_MAX),
            rows: Vec::new(),
            oldest_us: 0,
            newest_us: 0,
        }
    }

    /// Records taken since the last finish.
    #[must_use]
    pub fn record_count(&self) -> u32 {
        self.rows.len() as u32
    }

    /// Whether nothing was taken since the last finish.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Size of the body if it were finished now.
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        self.out.len().saturating_sub(self.front_bytes)
            + self.rows.len() * RECORD_ROW_BYTES
            + ROOT_BYTES
    }

    /// Takes a record. Without a value it is a tombstone.
    ///
    /// # Errors
    /// When it was not taken; nothing has changed then.
    pub fn push(
        &mut self,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], &[u8])],
        time_us: u64,
    ) -> Result<(), PushError> {
        if key.is_some_and(|key| key.len() > KEY_BYTES_MAX) {
            return Err(PushError::KeyTooLong);
        }
        let record_bytes = record_bytes(key, value, headers);
        if record_bytes.saturating_add(ROOT_BYTES) > self.body_bytes_max {
            return Err(PushError::TooLarge);
        }
        let (oldest_us, newest_us) = if self.rows.is_empty() {
            (time_us, time_us)
        } else {
            (self.oldest_us.min(time_us), self.newest_us.max(time_us))
        };
        if self.body_bytes() + record_bytes > self.body_bytes_max
            || self.rows.len() >= BATCH_RECORDS_MAX as usize
            || newest_us - oldest_us > u64::from(u32::MAX)
        {
            return Err(PushError::Full);
        }
        if self.out.is_empty() {
            self.out.resize(self.front_bytes, 0);
        }
        self.oldest_us = oldest_us;
        self.newest_us = newest_us;
        let row = lay_record(
            &mut self.out,
            self.front_bytes,
            key.unwrap_or_default(),
            value.unwrap_or_default(),
            headers.iter().copied(),
        );
        let flags =
            if key.is_some() { HAS_KEY } else { 0 } | if value.is_none() { TOMBSTONE } else { 0 };
        self.rows.push((row, time_us, flags));
        Ok(())
    }

    /// Ends the body and begins the next one, empty.
    ///
    /// # Panics
    /// When no record was taken: there is no empty batch.
    pub fn finish(&mut self) -> Built {
        assert!(!self.rows.is_empty(), "a batch has at least one record");
        let body_bytes = self.body_bytes();
        self.out
            .reserve(self.rows.len() * RECORD_ROW_BYTES + ROOT_BYTES);
        let table_at = position(&self.out, self.front_bytes);
        for (row, time_us, flags) in &self.rows {
            let delta = u32::try_from(time_us - self.oldest_us).expect("checked when it was taken");
            lay_row(&mut self.out, self.front_bytes, row, delta, *flags);
        }
        lay_root(&mut self.out, self.front_bytes, table_at, self.rows.len());
        let built = Built {
            bytes: self.out.split(),
            front_bytes: self.front_bytes,
            record_count: self.rows.len() as u32,
            first_time_us: self.oldest_us,
            time_span_us: u32::try_from(self.newest_us - self.oldest_us)
                .expect("checked when it was taken"),
        };
        assert_eq!(
            built.body().len(),
            body_bytes,
            "a body has the size that was promised"
        );
        self.rows.clear();
        built
    }
}

/// What a record takes in a body, its row included.
#[must_use]
pub fn record_bytes(key: Option<&[u8]>, value: Option<&[u8]>, headers: &[(&[u8], &[u8])]) -> usize {
    let headers: usize = headers
        .iter()
        .map(|(name, value)| name.len() + value.len() + HEADER_ROW_BYTES)
        .sum();
    RECORD_ROW_BYTES + key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len) + headers
}
