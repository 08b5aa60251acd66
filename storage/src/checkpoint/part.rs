//! The header block of a part file, and what can be wrong with a part. The header binds the whole file: its counts, the
//! checksum of its body, whose journal it belongs to and which part it builds on.

use super::cell::CellError;
use crate::format::COUNT_MAX;
use core::fmt;
use core::mem::offset_of;
use tiderace_base::checksum::crc32c;
use tiderace_base::disk::DiskError;
use tiderace_base::ids::JournalId;
use tiderace_base::limits::BLOCK_BYTES;
use tiderace_base::position::Lsn;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The version that is written, and the only one that is read.
pub const PART_VERSION: u32 = 1;
/// The parent of a base. No part has this number.
pub const NO_PARENT: u64 = 0;

const MAGIC: u64 = u64::from_le_bytes(*b"TRCKPT01");

/// A part file that is complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// Its number, that of its file; never reused.
    pub id: u64,
    /// The part that it builds on; [`NO_PARENT`] for a base.
    pub parent: u64,
    /// Replay from here on completes it.
    pub covers: Lsn,
    /// How many cells it has.
    pub cell_count: u64,
    /// Bytes of its cells, without padding.
    pub body_bytes: u64,
}

impl Part {
    /// Whether it builds on no other.
    #[must_use]
    pub fn is_base(&self) -> bool {
        self.parent == NO_PARENT
    }

    /// The file's length. J-52: no more and no less.
    ///
    /// `None` when no file is that long.
    pub(super) fn file_bytes(&self) -> Option<u64> {
        self.body_bytes
            .checked_next_multiple_of(BLOCK_BYTES as u64)?
            .checked_add(BLOCK_BYTES as u64)
    }
}

/// Why a part cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PartError {
    /// The disk failed or the file is absent.
    Disk(DiskError),
    /// The file has no whole header, or another length than its header says: it was being written.
    Length,
    /// The file does not begin like a part.
    Magic,
    /// The header does not match its checksum.
    HeaderChecksum,
    /// Another version of Tiderace wrote it: start that version, or one that reads both.
    Version(u32),
    /// It belongs to another journal, or the file bears another part's number.
    Foreign,
    /// The body does not match its checksum.
    BodyChecksum,
    /// The checksums hold, but at this byte of the body stands no cell: a bug of the writer.
    Cell {
        /// Bytes of the body before it.
        at: u64,
        /// What is wrong with it.
        error: CellError,
    },
    /// The checksums hold but counts, padding or parent contradict the content: a bug of the writer.
    Malformed,
}

impl fmt::Display for PartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(error) => write!(f, "{error}"),
            Self::Length => write!(f, "the file's length is not what its header says"),
            Self::Magic => write!(f, "the file does not begin like a checkpoint"),
            Self::HeaderChecksum => write!(f, "the header fails its checksum"),
            Self::Version(version) => write!(
                f,
                "the checkpoint has version {version}, this Tiderace reads {PART_VERSION}"
            ),
            Self::Foreign => write!(f, "the file belongs to another journal or part"),
            Self::BodyChecksum => write!(f, "the body fails its checksum"),
            Self::Cell { at, error } => write!(f, "no cell at byte {at} of the body: {error}"),
            Self::Malformed => write!(f, "the file contradicts itself"),
        }
    }
}

impl core::error::Error for PartError {}

impl From<DiskError> for PartError {
    fn from(error: DiskError) -> Self {
        Self::Disk(error)
    }
}

/// The first block of a part file.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct HeaderBlock {
    magic: U64,
    version: U32,
    body_crc: U32,
    journal_id: U64,
    id: U64,
    parent: U64,
    covers_lsn: U64,
    cell_count: U64,
    body_bytes: U64,
    reserved: [u8; RESERVED_BYTES],
    header_crc: U32,
}

const RESERVED_BYTES: usize = BLOCK_BYTES - 68;

const _: () = {
    assert!(
        size_of::<HeaderBlock>() == BLOCK_BYTES,
        "the header is one block"
    );
    assert!(
        offset_of!(HeaderBlock, journal_id) == 16,
        "the identity follows the version"
    );
    assert!(
        offset_of!(HeaderBlock, body_bytes) == 56,
        "the counts follow what is covered"
    );
    assert!(
        offset_of!(HeaderBlock, header_crc) == BLOCK_BYTES - 4,
        "the checksum ends the block"
    );
};

/// Writes the header into a zeroed block.
pub(super) fn encode_header(block: &mut [u8], journal: JournalId, part: &Part, body_crc: u32) {
    let header = HeaderBlock::mut_from_bytes(block).expect("the header is one block");
    header.magic = U64::new(MAGIC);
    header.version = U32::new(PART_VERSION);
    header.body_crc = U32::new(body_crc);
    header.journal_id = U64::new(journal.get());
    header.id = U64::new(part.id);
    header.parent = U64::new(part.parent);
    header.covers_lsn = U64::new(part.covers.get());
    header.cell_count = U64::new(part.cell_count);
    header.body_bytes = U64::new(part.body_bytes);
    header.header_crc = U32::new(header_checksum(header));
}

fn header_checksum(header: &HeaderBlock) -> u32 {
    crc32c(&header.as_bytes()[..offset_of!(HeaderBlock, header_crc)])
}

/// Reads and judges the header block of the part `id`: what it says and the body's checksum.
pub(super) fn decode_header(
    block: &[u8],
    journal: JournalId,
    id: u64,
) -> Result<(Part, u32), PartError> {
    let header = HeaderBlock::ref_from_bytes(block).map_err(|_| PartError::Length)?;
    if header.magic.get() != MAGIC {
        return Err(PartError::Magic);
    }
    // J-51: the checksum first, so that a flipped bit is never taken for another version.
    if header.header_crc.get() != header_checksum(header) {
        return Err(PartError::HeaderChecksum);
    }
    if header.version.get() != PART_VERSION {
        return Err(PartError::Version(header.version.get()));
    }
    if header.journal_id.get() != journal.get() || header.id.get() != id {
        return Err(PartError::Foreign);
    }
    let part = Part {
        id,
        parent: header.parent.get(),
        covers: Lsn::new(header.covers_lsn.get()),
        cell_count: header.cell_count.get(),
        body_bytes: header.body_bytes.get(),
    };
    // J-54: a parent is older than its child, so that following parents ends.
    if part.parent >= id
        || part.covers.get() > COUNT_MAX
        || header.reserved.iter().any(|byte| *byte != 0)
    {
        return Err(PartError::Malformed);
    }
    Ok((part, header.body_crc.get()))
}
