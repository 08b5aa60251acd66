//! The segments of the log: the one that is being filled, and those that are full. A full one's row says where it lies and
//! never changes; beside it stands what the serving journal knows of it.

use crate::checkpoint::SegmentRow;
use crate::format::chunk;
use crate::index::{Life, SegmentIndex};
use tiderace_base::ids::{JournalId, PartitionKey, SlotId};
use tiderace_base::limits::BLOCK_BYTES;
use tiderace_base::position::{Lsn, Offset, SlotSeq};
use tiderace_base::time::Mono;

/// Who needed a segment when somebody looked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Witness {
    /// A partition, and the end of its data there.
    Partition(PartitionKey, Offset),
    /// A slot, and the end of its entries there.
    Slot(SlotId, SlotSeq),
}

/// A segment that takes no more chunks.
#[derive(Clone, Debug)]
pub(crate) struct Sealed {
    pub(crate) row: SegmentRow,
    /// Recovery cut its file: it cannot be used for another life.
    pub(crate) is_short: bool,
    pub(crate) witness: Option<Witness>,
    /// Its index could be neither read nor built: it is not tried again before this to release the segment.
    pub(crate) unreadable_until: Option<Mono>,
}

impl Sealed {
    pub(crate) fn new(row: SegmentRow, is_short: bool) -> Self {
        Self {
            row,
            is_short,
            witness: None,
            unreadable_until: None,
        }
    }

    pub(crate) fn life(&self, journal: JournalId) -> Life {
        Life {
            journal,
            seq: self.row.seq,
            salt: self.row.salt,
            start: self.row.start,
            end: self.row.end,
        }
    }
}

/// What has to be durable before the first chunk of a segment is submitted. J-3
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Begun {
    /// Its header is on its way, and so is the superblock that names it.
    Waiting { header: bool, version: u64 },
    /// Both are durable.
    Yes,
}

/// The segment that is being filled.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) file: u32,
    pub(crate) seq: u64,
    pub(crate) salt: u64,
    pub(crate) start: Lsn,
    pub(crate) begun: Begun,
    /// Byte of the file where the next chunk goes.
    pub(crate) at: u64,
    /// Checksum of the journal's last chunk, zero before there is one.
    pub(crate) last_crc: u32,
    pub(crate) index: SegmentIndex,
}

impl Active {
    pub(crate) fn new(
        file: u32,
        seq: u64,
        salt: u64,
        start: Lsn,
        begun: Begun,
        last_crc: u32,
    ) -> Self {
        Self {
            file,
            seq,
            salt,
            start,
            begun,
            at: BLOCK_BYTES as u64,
            last_crc,
            index: SegmentIndex::new(),
        }
    }

    pub(crate) fn chunk_life(&self, journal: JournalId) -> chunk::Life {
        chunk::Life {
            journal,
            salt: self.salt,
        }
    }

    /// The journal's place of the next chunk.
    pub(crate) fn next_lsn(&self) -> Lsn {
        self.start.advance(self.at - BLOCK_BYTES as u64)
    }
}
