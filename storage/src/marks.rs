//! Marks: what a recovery found out about a slot's copy on this disk that its peers must know before they count it. Kept
//! in the superblock, so that they survive restarts; cleared once the slot has caught up past them.

use tiderace_base::ids::SlotId;
use tiderace_base::position::{Epoch, Lsn, SlotSeq};

/// What is known about a slot's copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MarkKind {
    /// Bytes of it could not be read: it may lack anything.
    Suspect,
    /// Its tail was cut: it may lack what was written last and never acknowledged as durable.
    Cut,
}

/// A mark on one slot, or on all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    /// The slot; none: every slot of the journal.
    pub slot: Option<SlotId>,
    /// What happened to it.
    pub kind: MarkKind,
    /// The greatest (epoch, sequence) that it may have held; none: unknown.
    pub greatest: Option<(Epoch, SlotSeq)>,
    /// Where the journal ended when the mark was made.
    pub since_lsn: Lsn,
}
