//! Where readers stopped, so that reading on needs no search. A place belongs to a partition and an offset, or to a slot
//! and a sequence, not to a reader: several that read one partition at different speeds each find their own. Hints only: whoever uses one looks
//! into the index of its segment, and what was forgotten is found by a search.

use super::run::Of;
use tiderace_base::collections::Map;

/// Places in one generation. The two together are well under 1 MiB.
const GENERATION_MAX: usize = 4096;

/// Where an entry lies, if there is one.
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
    young: Map<(Of, u64), Place>,
    old: Map<(Of, u64), Place>,
}

impl Places {
    /// The place behind which the entry is read.
    pub(crate) fn get(&self, of: Of, number: u64) -> Option<Place> {
        let name = (of, number);
        self.young
            .get(&name)
            .or_else(|| self.old.get(&name))
            .copied()
    }

    /// The place is not to be trusted.
    pub(crate) fn forget(&mut self, of: Of, number: u64) {
        self.young.remove(&(of, number));
        self.old.remove(&(of, number));
    }

    pub(crate) fn remember(&mut self, of: Of, number: u64, place: Place) {
        if self.young.len() >= GENERATION_MAX {
            self.old = core::mem::take(&mut self.young);
        }
        self.young.insert((of, number), place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiderace_base::ids::{PartitionIndex, PartitionKey, StreamId};

    fn key(n: u64) -> Of {
        Of::Partition(PartitionKey {
            stream: StreamId::new(n),
            partition: PartitionIndex::new(0),
        })
    }

    #[test]
    fn two_readers_of_a_partition_have_two_places() {
        let mut places = Places::default();
        places.remember(key(1), 10, Place { seq: 1, at: 100 });
        places.remember(key(1), 20, Place { seq: 2, at: 200 });
        let seq = |places: &Places, offset| {
            let place = places.get(key(1), offset);
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
        places.remember(key(1), 0, place);
        for n in 0..GENERATION_MAX as u64 {
            assert!(places.get(key(1), 0).is_some(), "after {n} others");
            places.remember(key(2), n, place);
        }
        for n in 0..GENERATION_MAX as u64 {
            places.remember(key(3), n, place);
        }
        assert!(places.get(key(1), 0).is_none());
        assert!(places.young.len() + places.old.len() <= 2 * GENERATION_MAX);
    }
}
