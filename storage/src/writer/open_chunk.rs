//! The chunk that is being filled: where it will lie, how much it may hold, and the rows of its directory. Its bytes are
//! the open part of the current region. One value is used for every chunk, so that its lists keep their memory.

use crate::entry::EntryMeta;
use crate::format::chunk::{
    HEADER_BYTES, Known, PARTITION_ROW_BYTES, PartitionRow, SLOT_ROW_BYTES, SlotRow,
};
use tiderace_base::checksum::{Joiner, crc32c_append};
use tiderace_base::collections::Map;
use tiderace_base::ids::{PartitionKey, SlotId};
use tiderace_base::limits::KIB;
use tiderace_base::position::{Lsn, SlotSeq};

/// Room for the directory when little is appended: entries start at 512.
const DIRECTORY_BYTES_MIN: usize = 384;
/// Room for the directory at most: the first block keeps a KiB for entries.
const DIRECTORY_BYTES_MAX: usize = 2944;

/// A checksum of fewer bytes is computed again rather than joined.
const JOINED_BYTES_MIN: usize = 8 * KIB;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct OpenChunk {
    pub(crate) is_open: bool,
    pub(crate) lsn: Lsn,
    pub(crate) entries_at: usize,
    /// The most that the chunk may hold, header included.
    pub(crate) capacity: usize,
    pub(crate) entry_count: u32,
    /// What is known of the checksum of the blocks behind the first.
    pub(crate) known: Known,
    joiner: Option<Joiner>,
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
        self.known = Known::default();
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

    /// `chunk` is what the chunk holds so far. Its last `bytes` bytes have this checksum, which their entry carries and
    /// which was just checked: they need not be read again.
    pub(crate) fn note_checksum(&mut self, chunk: &[u8], bytes: usize, crc: u32) {
        let at = chunk.len() - bytes;
        if bytes < JOINED_BYTES_MIN || at < self.known.to {
            return;
        }
        let joiner = match self.joiner {
            Some(joiner) if joiner.bytes() as usize == bytes => joiner,
            Some(_) | None => *self.joiner.insert(Joiner::new(bytes as u32)),
        };
        let before = crc32c_append(self.known.crc, &chunk[self.known.to..at]);
        self.known = Known {
            to: chunk.len(),
            crc: joiner.join(before, crc),
        };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::chunk::{Life, Seal, decode_first, seal};
    use tiderace_base::checksum::crc32c;
    use tiderace_base::ids::{BootId, JournalId};
    use tiderace_base::limits::BLOCK_BYTES;
    use tiderace_base::time::Wall;

    // J-4
    #[test]
    fn joined_checksums_are_those_of_the_bytes() {
        let life = Life {
            journal: JournalId::new(1),
            salt: 2,
        };
        // Entries as (bytes before the checked part, checked bytes): in the first block, over its end, large and small.
        let rounds: [&[(usize, usize)]; 5] = [
            &[(128, 9000)],
            &[(128, 100), (128, 9000), (128, 9000), (0, 50)],
            &[(5000, 20_000), (128, 8192), (128, 8191), (4096, 8193)],
            &[(128, 0), (3000, 0)],
            &[(4096 - 512, 8192)],
        ];
        for entries in rounds {
            let mut open = OpenChunk::default();
            open.start(Lsn::ZERO, 512, 1 << 20);
            let mut chunk = vec![0; 512];
            for (n, (before, checked)) in entries.iter().enumerate() {
                let body: Vec<u8> = (0..*checked).map(|at| (at * 7 + n) as u8).collect();
                chunk.resize(chunk.len() + before, n as u8 + 1);
                chunk.extend_from_slice(&body);
                open.note_checksum(&chunk, *checked, crc32c(&body));
            }
            let entry_bytes = chunk.len() - 512;
            chunk.resize(chunk.len().next_multiple_of(BLOCK_BYTES), 0);
            let seal_of = Seal {
                life,
                lsn: Lsn::ZERO,
                durable_lsn: Lsn::ZERO,
                entries_at: 512,
                entry_bytes,
                entry_count: entries.len() as u32,
                prev_crc: 0,
                known: open.known,
                closing: false,
                wall: Wall::from_us(1),
                boot: BootId::new(1),
            };
            seal(&mut chunk, &seal_of, &[], &[]);
            let header = decode_first(&chunk, life).expect("it is whole");
            assert!(header.rest_matches(&chunk), "{entries:?}");
        }
    }
}
