//! A segment's first block: which life of the file this is, where it stands in the journal, and what came before it. It is
//! written once in a life and durable before the life's first chunk is submitted.

use super::{COUNT_MAX, FILE_NUMBER_MAX, FORMAT_VERSION};
use tiderace_base::checksum::crc32c;
use tiderace_base::ids::JournalId;
use tiderace_base::limits::BLOCK_BYTES;
use tiderace_base::position::Lsn;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const MAGIC: [u8; 8] = *b"TRSEGM01";

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    magic: [u8; 8],
    version: U32,
    pad: U32,
    journal_id: U64,
    seq: U64,
    salt: U64,
    start_lsn: U64,
    segment_bytes: U64,
    before_seq: U64,
    before_salt: U64,
    before_end_lsn: U64,
    before_file: U32,
    before_last_crc: U32,
    created_us: U64,
}

const CRC_AT: usize = BLOCK_BYTES - 4;
const _: () = assert!(
    size_of::<Raw>() == 96,
    "the table in docs/journal.md says 96"
);

/// The segment before this one in the journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Predecessor {
    pub(crate) seq: u64,
    pub(crate) file: u32,
    pub(crate) salt: u64,
    /// What lies in its file past this place is of no life that counts.
    pub(crate) end_lsn: Lsn,
    /// Checksum of its last chunk's first block; zero when it has none.
    pub(crate) last_crc: u32,
}

/// What a segment's first block says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SegmentHeader {
    pub(crate) journal: JournalId,
    /// Number of this life; grows with each segment begun. From 1, so that zero can say none.
    pub(crate) seq: u64,
    pub(crate) salt: u64,
    pub(crate) start_lsn: Lsn,
    pub(crate) segment_bytes: u64,
    pub(crate) before: Option<Predecessor>,
    pub(crate) created_us: u64,
}

impl SegmentHeader {
    /// The whole block.
    pub(crate) fn encode(&self, block: &mut [u8]) {
        assert_eq!(block.len(), BLOCK_BYTES, "a header is one block");
        block.fill(0);
        let before = self.before.unwrap_or(Predecessor {
            seq: 0,
            file: 0,
            salt: 0,
            end_lsn: Lsn::ZERO,
            last_crc: 0,
        });
        let raw = Raw {
            magic: MAGIC,
            version: FORMAT_VERSION.into(),
            pad: 0.into(),
            journal_id: self.journal.get().into(),
            seq: self.seq.into(),
            salt: self.salt.into(),
            start_lsn: self.start_lsn.get().into(),
            segment_bytes: self.segment_bytes.into(),
            before_seq: before.seq.into(),
            before_salt: before.salt.into(),
            before_end_lsn: before.end_lsn.get().into(),
            before_file: before.file.into(),
            before_last_crc: before.last_crc.into(),
            created_us: self.created_us.into(),
        };
        block[..size_of::<Raw>()].copy_from_slice(raw.as_bytes());
        let crc = crc32c(&block[..CRC_AT]);
        block[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads a block; none: it is no header of this journal.
    pub(crate) fn decode(block: &[u8], journal: JournalId) -> Option<Self> {
        let (body, crc) = block.get(..BLOCK_BYTES)?.split_at(CRC_AT);
        if crc != crc32c(body).to_le_bytes() {
            return None;
        }
        let (raw, _) = Raw::ref_from_prefix(body).ok()?;
        if raw.magic != MAGIC
            || raw.version.get() != FORMAT_VERSION
            || raw.journal_id.get() != journal.get()
        {
            return None;
        }
        let before = (raw.before_seq.get() != 0).then(|| Predecessor {
            seq: raw.before_seq.get(),
            file: raw.before_file.get(),
            salt: raw.before_salt.get(),
            end_lsn: Lsn::new(raw.before_end_lsn.get()),
            last_crc: raw.before_last_crc.get(),
        });
        // A predecessor comes before its successor and ends where that starts: whoever follows the links comes to an end.
        let follows = before.is_none_or(|before| {
            before.seq < raw.seq.get()
                && before.end_lsn.get() == raw.start_lsn.get()
                && before.file <= FILE_NUMBER_MAX
        });
        if !follows || raw.seq.get() > COUNT_MAX || raw.start_lsn.get() > COUNT_MAX {
            return None;
        }
        Some(Self {
            journal,
            seq: raw.seq.get(),
            salt: raw.salt.get(),
            start_lsn: Lsn::new(raw.start_lsn.get()),
            segment_bytes: raw.segment_bytes.get(),
            before,
            created_us: raw.created_us.get(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_round_trips_and_any_changed_bit_is_refused() {
        let header = SegmentHeader {
            journal: JournalId::new(5),
            seq: 2,
            salt: 77,
            start_lsn: Lsn::new(8192),
            segment_bytes: 65536,
            before: Some(Predecessor {
                seq: 1,
                file: 3,
                salt: 9,
                end_lsn: Lsn::new(8192),
                last_crc: 4,
            }),
            created_us: 1,
        };
        let mut block = vec![0; BLOCK_BYTES];
        header.encode(&mut block);
        assert_eq!(
            SegmentHeader::decode(&block, JournalId::new(5)),
            Some(header)
        );
        assert_eq!(SegmentHeader::decode(&block, JournalId::new(6)), None);
        assert_eq!(
            SegmentHeader::decode(&block[..100], JournalId::new(5)),
            None
        );
        for at in [0, 8, 40, 95, 2000, 4095] {
            block[at] ^= 1;
            assert_eq!(SegmentHeader::decode(&block, JournalId::new(5)), None);
            block[at] ^= 1;
        }
    }
}
