//! What an appender says about an entry, what it gets back, and why it may be refused. An entry is a batch header and a
//! body as `wire` lays them out; the journal stores the bytes and never looks inside while it serves.

use tiderace_base::ids::{PartitionKey, SlotId};
use tiderace_base::position::{Epoch, Lsn, Offset, SlotSeq};
use tiderace_wire::batch::BatchHeader;
use tiderace_wire::entry::EntryKind;

/// On whose behalf an entry is appended: decides which reserves it may use on a full disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Records. Refused as soon as only the reserves are left.
    Data,
    /// What keeps the node running: epoch starts, start offsets (which free space), checkpoints' entries.
    Control,
}

/// Why nothing can be appended now. Nothing was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The disk is full but for the reserves. Ends by itself, with `Output::ReadOnly(false)`.
    ReadOnly,
    /// Every write buffer is pinned, or the next segment is not ready. Try again after `Output::Room`.
    Busy,
    /// A write or a sync failed: this journal never takes anything again.
    Poisoned,
}

impl core::fmt::Display for Refused {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::ReadOnly => {
                "the disk is full: free space or let retention do so; the journal goes on by itself"
            }
            Self::Busy => {
                "the write buffers are pinned or the next segment is not ready: try again shortly"
            }
            Self::Poisoned => {
                "a write or a sync of the journal failed: check the disk, then start the node again"
            }
        })
    }
}

impl core::error::Error for Refused {}

/// What the journal needs to know about an entry in order to index it and to name it in a chunk's directory.
#[derive(Clone, Copy, Debug)]
pub struct EntryMeta {
    /// The partition whose data this is. None: not a partition's data, not indexed.
    pub key: Option<PartitionKey>,
    /// The slot it belongs to.
    pub slot: SlotId,
    /// The epoch it carries.
    pub epoch: Epoch,
    /// Its number within the slot; zero for entries of this replica alone.
    pub slot_seq: SlotSeq,
    /// Its first offset.
    pub base_offset: Offset,
    /// The offset after its last.
    pub next_offset: Offset,
    /// The broker's time on it.
    pub append_time_us: u64,
}

impl EntryMeta {
    /// What the header of a placed entry says.
    #[must_use]
    pub fn of(header: &BatchHeader) -> Self {
        let is_data = header.entry_kind() == Ok(EntryKind::Data);
        Self {
            key: is_data.then(|| header.key()),
            slot: header.slot(),
            epoch: header.epoch(),
            // Consensus' log goes back and has rules of its own: the journal does not follow it.
            slot_seq: match header.entry_kind() {
                Ok(EntryKind::Catalogue | EntryKind::Consensus) => SlotSeq::ZERO,
                _ => header.slot_seq(),
            },
            base_offset: header.base_offset(),
            next_offset: header.next_offset(),
            append_time_us: header.append_time_us(),
        }
    }
}

/// Where an entry went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placed {
    /// Of its first byte.
    pub lsn: Lsn,
    /// After its last byte: durable when `durable_lsn() >= end`.
    pub end: Lsn,
}
