//! The index of one segment: where each slot's entries and each partition's batches lie in it. `SegmentIndex` is filled while the segment is
//! open, or by scanning it again; `Sealing` turns it into footer bytes, a bounded piece of work at a time; `Footer` is
//! those bytes, validated once and searched in place; `FooterCache` keeps the footers used last within a bound in bytes.
//!
//! Knows no file and emits no effect: positions come in, bytes go out. A footer is a shortcut and never the truth: a
//! damaged or missing one is rebuilt from its segment. One position stands for all of a partition's entries in one
//! chunk, so that an index grows with chunks and partitions and not with batches; the same holds for slots.

mod cache;
mod footer;
mod position;
mod seal;
mod segment;
#[cfg(test)]
mod tests;

pub use cache::{CacheCounts, FooterCache};
pub use footer::{FOOTER_VERSION, Footer, FooterError};
pub use position::{Located, Partition, Position, SlotPosition, SlotSpan};
pub use seal::Sealing;
pub use segment::{Note, NoteError, SegmentIndex};

use tiderace_base::ids::JournalId;
use tiderace_base::position::Lsn;

/// One life of a segment file: what a footer must agree on before it is believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Life {
    /// The journal.
    pub journal: JournalId,
    /// The life's number, growing by one at each roll.
    pub seq: u64,
    /// The life's salt.
    pub salt: u64,
    /// LSN of the first byte behind the segment's header block.
    pub start: Lsn,
    /// LSN at which the life ended: sealed there, or cut there by recovery.
    pub end: Lsn,
}
