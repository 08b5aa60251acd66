//! Where readers stopped, so that reading on needs no search. A place belongs to a partition and an offset, not to a
//! reader: several that read one partition at different speeds each find their own. Hints only: whoever uses one looks
//! into the index of its segment, and what was forgotten is found by a search.

use tiderace_base::collections::Map;
use tiderace_base::ids::PartitionKey;
use tiderace_base::position::Offset;

/// Places in one generation. The two together are well under 1 MiB.
const GENERATION_MAX: usize = 4096;

/// Where a partition's entry of an offset lies, if there is one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// The segment that was read last.
    pub(crate) seq: u64,
    /// The byte in it behind what was read.
    pub(crate) at: u64,
}

/// The places remembered last. When a generation is full it becomes the old one, and what that still held is forgotten:
/// a place outlives at least as many others as one generation holds.
#[derive(Debug, Default)]
pub(crate) struct Places {
    young: Map<(PartitionKey, Offset), Place>,
    old: Map<(PartitionKey, Offset), Place>,
}

impl Places {
    /// The place behind which the offset is read.
    pub(crate) fn get(&self, key: PartitionKey, offset: Offset) -> Option<Place> {
        let name = (key, offset);
        self.young
            .get(&name)
            .or_else(|| self.old.get(&name))
            .copied()
    }

    /// The place is not to be trusted.
    pub(crate) fn forget(&mut self, key: PartitionKey, offset: Offset) {
        self.young.remove(&(key, offset));
        self.old.remove(&(key, offset));
    }

    pub(crate) fn remember(&mut self, key: PartitionKey, offset: Offset, place: Place) {
        if self.young.len() >= GENERATION_MAX {
            self.old = core::mem::take(&mut self.young);
        }
        self.young.insert((key, offset), place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiderace_base::ids::{PartitionIndex, StreamId};

    fn key(n: u64) -> PartitionKey {
        PartitionKey {
            stream: StreamId::new(n),
            partition: PartitionIndex::new(0),
        }
    }

    #[test]
    fn two_readers_of_a_partition_have_two_places() {
        let mut places = Places::default();
        places.remember(key(1), Offset::new(10), Place { seq: 1, at: 100 });
        places.remember(key(1), Offset::new(20), Place { seq: 2, at: 200 });
        let seq = |places: &Places, offset| {
            let place = places.get(key(1), Offset::new(offset));
            place.map(|place| place.seq)
        };
        assert_eq!(seq(&places, 10), Some(1));
        assert_eq!(seq(&places, 20), Some(2));
        assert_eq!(seq(&places, 15), None);
    }

    #[test]
    fn a_place_outlives_a_generation_of_others_and_no_more_than_two() {
        let mut places = Places::default();
        let place = Place { seq: 1, at: 100 };
        places.remember(key(1), Offset::ZERO, place);
        for n in 0..GENERATION_MAX as u64 {
            assert!(
                places.get(key(1), Offset::ZERO).is_some(),
                "after {n} others"
            );
            places.remember(key(2), Offset::new(n), place);
        }
        for n in 0..GENERATION_MAX as u64 {
            places.remember(key(3), Offset::new(n), place);
        }
        assert!(places.get(key(1), Offset::ZERO).is_none());
        assert!(places.young.len() + places.old.len() <= 2 * GENERATION_MAX);
    }
}
