//! The pinned hash: XXH3-64 (the published specification, seed 0). Where a record goes is part of the
//! protocol: every client and every node, of every version, computes the same place.

use crate::catalogue::Durability;
use crate::ids::{PartitionIndex, PartitionKey, SlotId};
use crate::limits;
use xxhash_rust::xxh3::xxh3_64;

/// The partition of a keyed record: `xxh3_64(key) mod partitions`.
///
/// # Panics
/// When `partitions` is zero: no stream has none.
#[must_use]
pub fn partition_of_key(key: &[u8], partitions: u32) -> PartitionIndex {
    assert!(partitions > 0, "a stream has at least one partition");
    PartitionIndex::new((xxh3_64(key) % u64::from(partitions)) as u32)
}

/// The slot of a partition: `xxh3_64(stream as u64 LE, partition as u32 LE)` modulo the size of its durability's
/// family, from that family's first slot.
#[must_use]
pub fn slot_of(partition: PartitionKey, durability: Durability) -> SlotId {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&partition.stream.get().to_le_bytes());
    bytes[8..].copy_from_slice(&partition.partition.get().to_le_bytes());
    let family = limits::slot_family(durability);
    let size = u64::from(family.end - family.start);
    SlotId::new(family.start + (xxh3_64(&bytes) % size) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::StreamId;

    #[test]
    fn placement_is_pinned() {
        // Published vectors of XXH3-64 with seed 0: these numbers may never change.
        assert_eq!(xxh3_64(b""), 0x2d06_8005_38d3_94c2);
        assert_eq!(
            partition_of_key(b"", 1000).get(),
            (0x2d06_8005_38d3_94c2_u64 % 1000) as u32
        );
    }

    #[test]
    fn a_slot_stays_in_its_family() {
        for durability in Durability::ALL {
            let family = limits::slot_family(durability);
            for stream in 0..2000 {
                let key = PartitionKey {
                    stream: StreamId::new(stream),
                    partition: PartitionIndex::new(3),
                };
                assert!(family.contains(&slot_of(key, durability).get()));
            }
        }
    }
}
