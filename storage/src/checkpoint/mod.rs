//! Checkpoints: a journal's state as cells, in files that build on one another. `Cell` is one fact or its removal;
//! `PartWriter` turns cells into one part file's blocks; `PartReader` verifies a part whole before it hands out the first
//! cell; `Chain` knows which parts make up the newest and the previous checkpoint, when to start afresh, and which files
//! nobody needs any more. `SegmentRow` is the one cell that belongs to the journal itself.
//!
//! Emits no effect: blocks come out with their place, and the journal writes them. What cells mean is their owner's
//! business, and so is what they say of LSNs: a checkpoint is fuzzy, and replay from `covers` must be idempotent over it.

mod cell;
mod chain;
mod check;
mod part;
mod reader;
mod segment_row;
#[cfg(test)]
mod tests;
mod writer;

pub use cell::{CELL_BYTES_MAX, CELL_KEY_BYTES_MAX, CELL_VALUE_BYTES_MAX, Cell, CellError};
pub use chain::{Chain, Next};
pub(crate) use check::PartCheck;
pub use part::{NO_PARENT, PART_VERSION, Part, PartError};
pub use reader::{ChainError, PartReader, verify_chain};
pub use segment_row::{SegmentRow, SegmentRowError};
pub use writer::{PIECE_BYTES, PartWriter, Piece};

/// Cell kinds, except those from [`kind::OWNER_MIN`] on, whose meaning their owner gives.
pub mod kind {
    /// A row of the segment table: [`super::SegmentRow`].
    pub const SEGMENT: u8 = 1;
    /// A truncation whose dead entries are still in some segment.
    pub const TRUNCATION: u8 = 2;
    /// The first kind that belongs to the journal's owner.
    pub const OWNER_MIN: u8 = 16;
}

/// Parts of one checkpoint: bounds what a start reads besides the cells themselves, and files kept open to damage.
pub const PARTS_MAX: usize = 64;

/// How far the deltas may outgrow their base, in bytes: a small base is not written again for every few cells.
pub const DELTA_SLACK_BYTES: u64 = 1024 * 1024;
