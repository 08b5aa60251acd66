//! The chunk that is being filled: where it will lie, how much it may hold, and the rows of its directory. Its bytes are
//! the open part of the current region. One value is used for every chunk, so that its lists keep their memory.

use crate::entry::EntryMeta;
use crate::format::chunk::{
    HEADER_BYTES, PARTITION_ROW_BYTES, PartitionRow, SLOT_ROW_BYTES, SlotRow,
};
use tiderace_base::collections::Map;
use tiderace_base::ids::{PartitionKey, SlotId};
use tiderace_base::position::{Lsn, SlotSeq};

/// Room for the directory when little is appended: entries start at 512.
const DIRECTORY_BYTES_MIN: usize = 384;
/// Room for the directory at most: the first block keeps a KiB for entries.
const DIRECTORY_BYTES_MAX: usize = 2944;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct OpenChunk {
    pub(crate) is_open: bool,
    pub(crate) lsn: Lsn,
    pub(crate) entries_at: usize,
    /// The most that the chunk may hold, header included.
    pub(crate) capacity: usize,
    pub(crate) entry_count: u32,
    pub(crate) slots: Vec<SlotRow>,
    pub(crate) partitions: Vec<PartitionRow>,
    slot_places: Map<SlotId, u32>,
    partition_places: Map<PartitionKey, u32>,
    /// What the chunk before needed for its directory.
    directory_bytes: usize,
}

impl OpenChunk {
    /// Where the entries of the next chunk start: room for what the last directory needed and a quarter more.
    pub(crate) fn next_entries_at(&self) -> usize {
        let wanted = self.directory_bytes + self.directory_bytes / 4;
        let room = wanted.clamp(DIRECTORY_BYTES_MIN, DIRECTORY_BYTES_MAX);
        HEADER_BYTES + room.next_multiple_of(SLOT_ROW_BYTES)
    }

    pub(crate) fn start(&mut self, lsn: Lsn, entries_at: usize, capacity: usize) {
        assert!(!self.is_open, "one chunk is open at a time");
        self.is_open = true;
        self.lsn = lsn;
        self.entries_at = entries_at;
        self.capacity = capacity;
        self.entry_count = 0;
        self.slots.clear();
        self.partitions.clear();
        self.slot_places.clear();
        self.partition_places.clear();
    }

    pub(crate) fn note(&mut self, meta: &EntryMeta) {
        self.entry_count += 1;
        // Entries of this replica alone have no number in their slot.
        if meta.slot_seq > SlotSeq::ZERO {
            let row = SlotRow {
                slot: meta.slot,
                epoch: meta.epoch,
                last_seq: meta.slot_seq,
            };
            let next = self.slots.len() as u32;
            let place = *self.slot_places.entry(meta.slot).or_insert(next);
            if place == next {
                self.slots.push(row);
            } else {
                self.slots[place as usize] = row;
            }
        }
        if let Some(key) = meta.key {
            let row = PartitionRow {
                key,
                end_offset: meta.next_offset,
            };
            let next = self.partitions.len() as u32;
            let place = *self.partition_places.entry(key).or_insert(next);
            if place == next {
                self.partitions.push(row);
            } else {
                self.partitions[place as usize] = row;
            }
        }
    }

    pub(crate) fn close(&mut self) {
        assert!(self.is_open, "only an open chunk is closed");
        self.is_open = false;
        self.directory_bytes =
            self.slots.len() * SLOT_ROW_BYTES + self.partitions.len() * PARTITION_ROW_BYTES;
    }
}

const _: () = assert!(
    HEADER_BYTES + DIRECTORY_BYTES_MAX + SLOT_ROW_BYTES <= tiderace_base::limits::BLOCK_BYTES,
    "the directory lies in the first block"
);
