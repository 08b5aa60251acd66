//! How much one shard remembers of producers, over all its partitions. Counts who is remembered and the places beyond each
//! one's last, holds both to their bounds, and says who goes first: the one silent longest among the next few, so that no
//! batch pays for a look at everybody. A place is dropped by the shard alone, for only a retry misses it, and is told so; a
//! producer is forgotten by an entry, for its partition then judges otherwise. Pure. Invariants: the counts are the sums over
//! all partitions; places never exceed their bound; producers do only while replay brings more than a smaller bound allows.

use crate::metrics::Metrics;
use crate::partition::Partition;
use crate::partitions::{Index, Partitions};
use crate::producer::{PRODUCER_BYTES, Producer, Remembered};
use std::collections::BTreeSet;
use std::ops::Bound;
use tiderace_base::ids::ProducerId;
use tiderace_base::limits::{PRODUCER_WINDOW, PRODUCERS_PER_PARTITION_MAX};
use tiderace_base::planted::{Bug, is_planted};
use tiderace_base::position::Lsn;

/// Producers that are compared before one is forgotten.
const CANDIDATES: usize = 64;
/// Windows that are compared before one is cut.
const WINDOWS_COMPARED: usize = 4;

/// The bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProducerBounds {
    /// Producers, each counted once for every partition that remembers it.
    pub producers_max: usize,
    /// Places of batches, those beyond each producer's last.
    pub places_max: usize,
}

impl ProducerBounds {
    /// What fits into so many bytes: three quarters for producers, the rest for places.
    #[must_use]
    pub const fn of(bytes: usize) -> Self {
        Self {
            producers_max: bytes / 4 * 3 / PRODUCER_BYTES,
            places_max: bytes / 4 / size_of::<Remembered>(),
        }
    }

    /// The bytes that they allow.
    #[must_use]
    pub const fn bytes(self) -> usize {
        self.producers_max * PRODUCER_BYTES + self.places_max * size_of::<Remembered>()
    }
}

/// A producer in one partition.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Place {
    partition: Index,
    /// Among the partition's producers.
    nth: usize,
}

/// The counts of one shard.
#[derive(Debug)]
pub(crate) struct ProducerRoom {
    bounds: ProducerBounds,
    producers: usize,
    places: usize,
    /// The partitions that remember anybody.
    holders: BTreeSet<Index>,
    /// Where the next look for a producer to forget begins.
    forget_from: Place,
    /// The producers that hold more than their last place.
    windows: BTreeSet<(Index, ProducerId)>,
    /// Behind which of them the next look for one to cut begins.
    cut_after: (Index, ProducerId),
}

/// The same, for one partition.
#[derive(Debug)]
pub(crate) struct RoomOf<'a> {
    room: &'a mut ProducerRoom,
    partition: Index,
}

impl ProducerRoom {
    pub(crate) fn new(bounds: ProducerBounds) -> Self {
        assert!(bounds.producers_max > 0, "somebody is remembered");
        Self {
            bounds,
            producers: 0,
            places: 0,
            holders: BTreeSet::new(),
            forget_from: Place {
                partition: Index::FIRST,
                nth: 0,
            },
            windows: BTreeSet::new(),
            cut_after: (Index::FIRST, ProducerId::default()),
        }
    }

    /// Says how much is remembered.
    pub(crate) fn publish(&self, metrics: &Metrics) {
        metrics.producers.set(self.producers as u64);
        metrics.producer_places.set(self.places as u64);
    }

    /// How many must be forgotten before another is remembered: two where a smaller bound than before has to be reached.
    pub(crate) fn too_many(&self) -> usize {
        if is_planted(Bug::KeepEverybody) {
            return 0;
        }
        (self.producers + 1)
            .saturating_sub(self.bounds.producers_max)
            .min(2)
    }

    /// What one partition takes of it.
    pub(crate) const fn of(&mut self, partition: Index) -> RoomOf<'_> {
        RoomOf {
            room: self,
            partition,
        }
    }

    /// Whom to forget: of the next few, of partitions that `may` say so, the one silent longest. `None` when there is nobody.
    pub(crate) fn silent_longest<'a>(
        &mut self,
        partitions: &'a Partitions,
        may: impl Fn(&Partition) -> bool,
    ) -> Option<(Index, &'a Producer)> {
        let everybody = Looks::new(&self.holders, partitions, self.forget_from);
        let candidates =
            everybody.filter(|(place, _)| partitions.get(place.partition).is_some_and(&may));
        let mut oldest: Option<(Place, &Producer)> = None;
        for (place, producer) in candidates.take(CANDIDATES) {
            self.forget_from = place.after();
            if oldest.is_none_or(|(_, oldest)| producer.last().end < oldest.last().end) {
                oldest = Some((place, producer));
            }
        }
        oldest.map(|(place, producer)| (place.partition, producer))
    }

    /// Makes it likely that a window can grow by its next step: where too little is left, the window is cut that was, of the
    /// next few, not used for longest. Never that of `id` in `partition`, for which this is done.
    pub(crate) fn make_places(
        &mut self,
        partitions: &mut Partitions,
        partition: Index,
        id: ProducerId,
    ) -> bool {
        if self.bounds.places_max - self.places >= PRODUCER_WINDOW {
            return false;
        }
        let behind = (Bound::Excluded(self.cut_after), Bound::Unbounded);
        let around = self.windows.range(..=self.cut_after);
        let candidates = self.windows.range(behind).chain(around);
        let others = candidates.filter(|window| **window != (partition, id));
        let mut oldest: Option<(Lsn, (Index, ProducerId))> = None;
        for window in others.take(WINDOWS_COMPARED) {
            self.cut_after = *window;
            let (partition, id) = window;
            let held = partitions.get(*partition);
            let producer = held.and_then(|held| held.durable.producers.get(*id));
            let last_end = producer.expect("who has a window is known").last().end;
            if oldest.is_none_or(|(oldest_end, _)| last_end < oldest_end) {
                oldest = Some((last_end, *window));
            }
        }
        let Some((_, (partition, id))) = oldest else {
            return false;
        };
        let producers = &mut partitions.at(partition).durable.producers;
        producers.cut(id, &mut self.of(partition));
        true
    }
}

impl RoomOf<'_> {
    /// One more is remembered.
    ///
    /// # Panics
    /// When the partition remembers as many as it may.
    pub(crate) fn joined(&mut self, now: usize) {
        assert!(
            now <= PRODUCERS_PER_PARTITION_MAX,
            "one must be expired first"
        );
        if now == 1 {
            self.room.holders.insert(self.partition);
        }
        self.room.producers += 1;
    }

    /// Some are forgotten; `now` are left.
    pub(crate) fn left(&mut self, count: usize, now: usize) {
        assert!(self.room.producers >= count, "who leaves has joined");
        if now == 0 {
            self.room.holders.remove(&self.partition);
        }
        self.room.producers -= count;
    }

    /// Takes room for a producer's places, beside the `held` that it has, unless there is too little.
    pub(crate) fn take_places(&mut self, id: ProducerId, held: usize, count: usize) -> bool {
        let fits = self.room.bounds.places_max - self.room.places >= count;
        if fits {
            self.room.places += count;
            if held == 0 && count > 0 {
                self.room.windows.insert((self.partition, id));
            }
        }
        fits
    }

    /// Gives the room for a producer's places back: all that it has.
    pub(crate) fn free_places(&mut self, id: ProducerId, held: usize) {
        assert!(
            self.room.places >= held,
            "what is given back was taken before"
        );
        if held > 0 {
            self.room.windows.remove(&(self.partition, id));
            self.room.places -= held;
        }
    }
}

impl Place {
    const fn after(self) -> Self {
        Self {
            partition: self.partition,
            nth: self.nth + 1,
        }
    }
}

/// Every producer of every partition, once, from a place on and around.
struct Looks<'h, 'p> {
    holders: &'h BTreeSet<Index>,
    partitions: &'p Partitions,
    next: Place,
    until: Place,
    around: bool,
}

impl<'h, 'p> Looks<'h, 'p> {
    const fn new(holders: &'h BTreeSet<Index>, partitions: &'p Partitions, from: Place) -> Self {
        Self {
            holders,
            partitions,
            next: from,
            until: from,
            around: false,
        }
    }
}

impl<'p> Iterator for Looks<'_, 'p> {
    type Item = (Place, &'p Producer);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let partition = match self.holders.range(self.next.partition..).next() {
                Some(partition) => *partition,
                None if self.around => return None,
                None => {
                    self.around = true;
                    self.next = Place {
                        partition: *self.holders.first()?,
                        nth: 0,
                    };
                    continue;
                }
            };
            if partition != self.next.partition {
                self.next = Place { partition, nth: 0 };
            }
            if self.around && self.next >= self.until {
                return None;
            }
            let place = self.next;
            let held = self.partitions.get(partition);
            let producer = held.and_then(|held| held.durable.producers.known().get(place.nth));
            match producer {
                Some(producer) => {
                    self.next = place.after();
                    return Some((place, producer));
                }
                None => {
                    self.next = Place {
                        partition: partition.after(),
                        nth: 0,
                    };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use tiderace_base::ids::{PartitionIndex, PartitionKey, StreamId};
    use tiderace_base::position::{Offset, ProducerEpoch, ProducerSeq};
    use tiderace_base::prng::Prng;

    struct World {
        room: ProducerRoom,
        partitions: Partitions,
        journal_end: u64,
        next: BTreeMap<(Index, u128), u64>,
    }

    impl World {
        fn new(partitions: u32, bounds: ProducerBounds) -> Self {
            let mut table = Partitions::default();
            for partition in 0..partitions {
                let _index = table.insert(Partition::new(PartitionKey {
                    stream: StreamId::new(1),
                    partition: PartitionIndex::new(partition),
                }));
            }
            Self {
                room: ProducerRoom::new(bounds),
                partitions: table,
                journal_end: 0,
                next: BTreeMap::new(),
            }
        }

        fn index(&self, partition: u64) -> Index {
            let key = PartitionKey {
                stream: StreamId::new(1),
                partition: PartitionIndex::new(partition as u32),
            };
            self.partitions.find(key).expect("it was made")
        }

        fn expire(&mut self, index: Index, id: ProducerId) {
            let producers = &mut self.partitions.at(index).durable.producers;
            producers.expire(id, &mut self.room.of(index));
            self.next.remove(&(index, id.get()));
        }

        /// As the shard does it. Whoever had to be forgotten.
        fn append(&mut self, index: Index, id: u128) -> Option<(Index, ProducerId)> {
            let id = ProducerId::new(id);
            let mut gone = None;
            let known = self.partitions.at(index).durable.producers.get(id);
            match known.map(Producer::asks_for_places) {
                Some(true) => {
                    let _cut = self.room.make_places(&mut self.partitions, index, id);
                }
                Some(false) => {}
                None if self.room.too_many() > 0 => {
                    let oldest = self.room.silent_longest(&self.partitions, |_| true);
                    let (whose, oldest) = oldest.expect("somebody is known");
                    let oldest = oldest.id;
                    self.expire(whose, oldest);
                    gone = Some((whose, oldest));
                }
                None => {}
            }
            self.journal_end += 1;
            let seq = self.next.entry((index, id.get())).or_default();
            let place = Remembered {
                base_offset: Offset::new(*seq),
                append_time_us: 0,
                end: Lsn::new(self.journal_end),
                producer_crc: 0,
            };
            let producers = &mut self.partitions.at(index).durable.producers;
            producers.appended(
                id,
                ProducerEpoch::new(1),
                ProducerSeq::new(*seq),
                place,
                &mut self.room.of(index),
            );
            *seq += 1;
            self.check();
            gone
        }

        fn check(&self) {
            let mut producers = 0;
            let mut places = 0;
            let mut holders = BTreeSet::new();
            let mut windows = BTreeSet::new();
            for (index, partition) in self.partitions.iter() {
                for producer in partition.durable.producers.known() {
                    producers += 1;
                    places += producer.places_held();
                    holders.insert(index);
                    if producer.places_held() > 0 {
                        windows.insert((index, producer.id));
                    }
                }
            }
            assert_eq!(self.room.producers, producers);
            assert_eq!(self.room.places, places);
            assert_eq!(self.room.holders, holders);
            assert_eq!(self.room.windows, windows);
            assert!(producers <= self.room.bounds.producers_max);
            assert!(places <= self.room.bounds.places_max);
        }

        fn remembered(&self, index: Index, id: u128) -> usize {
            let held = self.partitions.get(index).expect("it was made");
            let known = held.durable.producers.get(ProducerId::new(id));
            known.map_or(0, |known| known.window().len())
        }
    }

    #[test]
    fn the_counts_are_the_sums_and_the_bounds_hold() {
        for seed in 0..30 {
            let mut prng = Prng::new(seed);
            let bounds = ProducerBounds {
                producers_max: prng.range(1, 60) as usize,
                places_max: prng.below(600) as usize,
            };
            let partitions = prng.range(1, 20);
            let mut world = World::new(partitions as u32, bounds);
            for _ in 0..1500 {
                let index = world.index(prng.below(partitions));
                match prng.below(100) {
                    0 => {
                        let producers = &mut world.partitions.at(index).durable.producers;
                        producers.dropped(&mut world.room.of(index));
                        world.next.retain(|(whose, _), _| *whose != index);
                        world.check();
                    }
                    1 => world.expire(index, ProducerId::new(1)),
                    _ => {
                        let _gone = world.append(index, 1 + u128::from(prng.below(8)));
                    }
                }
            }
        }
    }

    #[test]
    fn whoever_is_active_has_a_whole_window_while_the_silent_are_cut() {
        let bounds = ProducerBounds {
            producers_max: 10_000,
            places_max: 20 * (PRODUCER_WINDOW + 1),
        };
        let mut world = World::new(50, bounds);
        for partition in 0..50 {
            let index = world.index(partition);
            for _ in 0..200 {
                let _gone = world.append(index, 7);
            }
            assert_eq!(world.remembered(index, 7), PRODUCER_WINDOW);
        }
        let whole = (0..50).filter(|n| world.remembered(world.index(*n), 7) == PRODUCER_WINDOW);
        assert!(whole.count() >= 15, "nobody is cut without need");
        assert!(
            (0..50).all(|n| world.remembered(world.index(n), 7) >= 1),
            "the last place always stays"
        );
    }

    #[test]
    fn without_any_room_for_places_the_last_one_stays() {
        let bounds = ProducerBounds {
            producers_max: 2,
            places_max: 0,
        };
        let mut world = World::new(1, bounds);
        let index = world.index(0);
        for _ in 0..10 {
            let _gone = world.append(index, 7);
            assert_eq!(world.remembered(index, 7), 1);
        }
    }

    #[test]
    fn whoever_comes_often_is_not_forgotten_for_those_that_come_once() {
        let bounds = ProducerBounds {
            producers_max: 1000,
            places_max: 1000,
        };
        let mut world = World::new(100, bounds);
        let mut forgotten = 0;
        for n in 0..5000_u64 {
            for regular in 1..=3_u64 {
                let index = world.index(regular);
                let gone = world.append(index, u128::from(regular));
                assert_eq!(gone, None, "they are known");
            }
            let index = world.index(n % 100);
            if let Some((_, gone)) = world.append(index, 1000 + u128::from(n)) {
                assert!(gone.get() >= 1000, "a regular one was forgotten");
                forgotten += 1;
            }
        }
        assert_eq!(forgotten, 5000 + 3 - 1000);
    }

    #[test]
    fn a_look_around_sees_everybody_once() {
        let bounds = ProducerBounds::of(1 << 20);
        let mut world = World::new(7, bounds);
        for n in 0..40_u64 {
            // One partition in three has nobody.
            let index = world.index(n % 7 / 3 * 3);
            let _gone = world.append(index, 1 + u128::from(n));
        }
        let everybody: Vec<Place> = Looks::new(
            &world.room.holders,
            &world.partitions,
            world.room.forget_from,
        )
        .map(|(place, _)| place)
        .collect();
        assert_eq!(everybody.len(), 40);
        for from in 0..7 {
            for nth in [0, 1, 5, 1000] {
                let partition = world.index(from);
                let from = Place { partition, nth };
                let looks = Looks::new(&world.room.holders, &world.partitions, from);
                let mut seen: Vec<Place> = looks.map(|(place, _)| place).collect();
                seen.sort_unstable();
                assert_eq!(seen, everybody, "from {from:?}");
            }
        }
    }
}
