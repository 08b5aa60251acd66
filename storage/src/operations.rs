//! The journal's own operations in flight: what each completion means. Numbers have their highest bit set, so that they
//! never meet those that the owner gives to its own operations.

use crate::outcome::ReadId;
use tiderace_base::collections::Map;
use tiderace_base::operation::OpId;

const OURS: u64 = 1 << 63;

/// What an operation is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Op {
    /// A chunk.
    Chunk,
    /// The first block of the segment that begins.
    SegmentHeader,
    /// A superblock with everything up to this change.
    Superblock {
        version: u64,
    },
    /// The segment file that is being filled with zeros: its making, a piece, its sync.
    Filling,
    /// The footer of a life: its file, then its bytes.
    FooterPrepare {
        seq: u64,
    },
    FooterWrite {
        seq: u64,
    },
    /// A checkpoint part: its file, its pieces, its sync.
    PartPrepare {
        part: u64,
    },
    PartWrite {
        part: u64,
    },
    PartSync {
        part: u64,
    },
    /// A file that nobody needs.
    Remove,
    /// Bytes for a read.
    Data(ReadId),
    /// Bytes that mean nothing: the look for segments to release goes on when they are there.
    ReclaimTurn,
    /// Bytes that are read to see whether they are whole.
    Scrub,
    /// Bytes for the index of a life.
    Load {
        seq: u64,
    },
}

/// Operations between their effect and their completion.
#[derive(Debug, Default)]
pub(crate) struct Operations {
    given: u64,
    pending: Map<OpId, Op>,
}

impl Operations {
    pub(crate) fn begin(&mut self, op: Op) -> OpId {
        self.given += 1;
        let id = OpId::new(OURS | self.given);
        self.pending.insert(id, op);
        id
    }

    /// None: not one of ours, or completed before.
    pub(crate) fn end(&mut self, id: OpId) -> Option<Op> {
        self.pending.remove(&id)
    }
}
