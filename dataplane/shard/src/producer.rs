//! What a partition remembers of its producers, so that a retry is answered exactly: per producer its epoch, its last
//! sequence, and the places of its last [`PRODUCER_WINDOW`] batches, as far as the shard has room for them; and of those that
//! it has forgotten how far their batches reach, so that none of them is stored again for a new one. Pure; never reads a
//! clock: a producer is expired by an entry. Invariants: the window holds consecutive sequences that end at the last one;
//! every batch at or past [`Producers::forgotten_end`] has its producer remembered.

use crate::producer_room::RoomOf;
use std::collections::VecDeque;
use tiderace_base::ids::ProducerId;
use tiderace_base::limits::{PRODUCER_WINDOW, PRODUCERS_PER_PARTITION_MAX};
use tiderace_base::planted::{Bug, is_planted};
use tiderace_base::position::{Lsn, Offset, ProducerEpoch, ProducerSeq};

/// Producers of one checkpoint cell.
pub(crate) const PRODUCERS_PER_CELL: usize = 64;

/// Where one batch of a producer went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Remembered {
    /// Offset of its first record.
    pub base_offset: Offset,
    /// When it was appended, in microseconds since 1970.
    pub append_time_us: u64,
    /// The end of its entry in the journal: durable at its level once the journal is durable up to here.
    pub end: Lsn,
    /// The checksum over what its producer wrote, body included: what comes under its number and has another one is no
    /// repeat of it.
    pub producer_crc: u32,
}

/// A batch as it arrives, as far as its producer's past decides about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    /// Its producer.
    pub id: ProducerId,
    /// The producer's epoch.
    pub epoch: ProducerEpoch,
    /// Its number.
    pub seq: ProducerSeq,
    /// The checksum over what its producer wrote.
    pub producer_crc: u32,
    /// If it is stored already, then at or past this offset.
    pub since: Offset,
}

/// One producer of one partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Producer {
    /// Its id.
    pub id: ProducerId,
    // The last place lies flat here: a million producers that sent one batch each cost a cache line each, and no allocation.
    base_offset: Offset,
    append_time_us: u64,
    end: Lsn,
    producer_crc: u32,
    /// Its newest epoch.
    pub epoch: ProducerEpoch,
    /// Its last sequence.
    pub last_seq: ProducerSeq,
    /// The places of the batches before the last, oldest first; none before there is a second batch, nor once it was cut.
    #[expect(
        clippy::box_collection,
        reason = "most have none, and a pointer is what keeps a producer within a cache line"
    )]
    earlier: Option<Box<VecDeque<Remembered>>>,
}

const _: () = assert!(
    size_of::<Producer>() == 64,
    "a producer is a cache line: there may be a million"
);

/// What a producer costs without its earlier places: itself, and the part of its list that is not filled.
pub(crate) const PRODUCER_BYTES: usize = size_of::<Producer>() * (LIST_SLACK + 1) / LIST_SLACK;

/// A list of producers that is full grows by this part of itself.
const LIST_SLACK: usize = 8;

/// Places before the last, at most.
const EARLIER_MAX: usize = PRODUCER_WINDOW - 1;
/// Places for which a window first has room; each step doubles it.
const EARLIER_MIN: usize = 7;
/// A window that cannot grow asks for another to be cut once in so many batches.
const ASKS_EVERY: u64 = 8;
/// What a window costs beside its places, in places.
const LIST_PLACES: usize = 4;

const _: () = assert!(
    size_of::<VecDeque<Remembered>>() + 2 * 16 + 64 <= LIST_PLACES * size_of::<Remembered>(),
    "a window's list is counted, with what the allocator adds to its two pieces, and its name among all windows"
);

impl Producer {
    /// A producer whose last batches went to these places.
    ///
    /// # Panics
    /// When there is none, or more than a window's.
    #[must_use]
    pub(crate) fn new(
        id: ProducerId,
        epoch: ProducerEpoch,
        last_seq: ProducerSeq,
        mut window: VecDeque<Remembered>,
    ) -> Self {
        assert!(
            window.len() <= PRODUCER_WINDOW,
            "a window has at most {PRODUCER_WINDOW} places"
        );
        let last = window
            .pop_back()
            .expect("a known producer has sent a batch");
        Self {
            id,
            base_offset: last.base_offset,
            append_time_us: last.append_time_us,
            end: last.end,
            producer_crc: last.producer_crc,
            epoch,
            last_seq,
            earlier: (!window.is_empty()).then(|| Box::new(window)),
        }
    }

    /// Where its last batch went.
    #[must_use]
    pub const fn last(&self) -> Remembered {
        Remembered {
            base_offset: self.base_offset,
            append_time_us: self.append_time_us,
            end: self.end,
            producer_crc: self.producer_crc,
        }
    }

    /// The places of its last batches, oldest first; at least one.
    pub fn window(&self) -> impl ExactSizeIterator<Item = Remembered> {
        let earlier = self.earlier.as_deref();
        let count = earlier.map_or(0, VecDeque::len) + 1;
        (0..count).map(move |nth| {
            let place = earlier.and_then(|earlier| earlier.get(nth));
            place.copied().unwrap_or_else(|| self.last())
        })
    }

    /// Where the batch of this sequence went; `None` outside the window.
    #[must_use]
    pub fn remembered(&self, seq: ProducerSeq) -> Option<Remembered> {
        let back = usize::try_from(self.last_seq.distance_from(seq)?).ok()?;
        if back == 0 {
            return Some(self.last());
        }
        let earlier = self.earlier.as_ref()?;
        earlier.get(earlier.len().checked_sub(back)?).copied()
    }

    /// What its earlier places take of the shard's room.
    pub(crate) fn places_held(&self) -> usize {
        self.earlier
            .as_ref()
            .map_or(0, |earlier| earlier.capacity() + LIST_PLACES)
    }

    /// Whether another's window may be cut so that its own can grow: now and then, for where all are busy, whoever is cut
    /// asks for as much again.
    pub(crate) fn asks_for_places(&self) -> bool {
        self.grows() && self.last_seq.get().is_multiple_of(ASKS_EVERY)
    }

    /// Whether the next batch makes its window grow, if there is room.
    fn grows(&self) -> bool {
        let earlier = self.earlier.as_ref();
        earlier.is_none_or(|earlier| {
            earlier.len() == earlier.capacity() && earlier.capacity() < EARLIER_MAX
        })
    }

    /// Takes the place of its next batch. Without room for a larger window the oldest place goes.
    fn next(&mut self, seq: ProducerSeq, place: Remembered, room: &mut RoomOf<'_>) {
        if self.grows() {
            let held = self.places_held();
            let capacity = held.saturating_sub(LIST_PLACES);
            let wanted = (2 * capacity + 1).clamp(EARLIER_MIN, EARLIER_MAX);
            if room.take_places(self.id, held, wanted + LIST_PLACES - held) {
                let earlier = self.earlier.get_or_insert_default();
                earlier.reserve_exact(wanted - earlier.len());
                assert_eq!(
                    earlier.capacity(),
                    wanted,
                    "what was counted is what is taken"
                );
            }
        }
        let last = self.last();
        if let Some(earlier) = &mut self.earlier {
            if earlier.len() == earlier.capacity().min(EARLIER_MAX) {
                earlier.pop_front();
            }
            earlier.push_back(last);
        }
        self.last_seq = seq;
        self.set_last(place);
    }

    const fn set_last(&mut self, place: Remembered) {
        self.base_offset = place.base_offset;
        self.append_time_us = place.append_time_us;
        self.end = place.end;
        self.producer_crc = place.producer_crc;
    }

    /// Drops the earlier places.
    fn cut(&mut self, room: &mut RoomOf<'_>) {
        room.free_places(self.id, self.places_held());
        self.earlier = None;
    }
}

/// What to do with a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is the next: append it.
    Append,
    /// It was appended before: answer with its place, once that is durable.
    Duplicate(Remembered),
    /// Another batch was appended under its number.
    Reused,
    /// A batch of its number was appended before, and where is forgotten: below this place.
    Forgotten {
        /// Where the producer's last batch went.
        later: Remembered,
    },
    /// A batch before it is missing: this sequence is due.
    Gap {
        /// The sequence that is due.
        due: ProducerSeq,
    },
    /// The producer is not known here, and this is not its first batch, or may be its first again.
    Unknown,
    /// A newer epoch of this producer exists.
    Fenced {
        /// The newest epoch.
        newest: ProducerEpoch,
    },
}

/// The producers of one partition, ordered by id.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Producers {
    known: Vec<Producer>,
    forgotten_end: Offset,
}

impl Producers {
    /// Every producer, ordered by id.
    #[must_use]
    pub fn known(&self) -> &[Producer] {
        &self.known
    }

    /// One producer.
    #[must_use]
    pub fn get(&self, id: ProducerId) -> Option<&Producer> {
        self.known
            .binary_search_by_key(&id, |known| known.id)
            .ok()
            .map(|index| &self.known[index])
    }

    /// No batch of a forgotten producer stands at or past this offset; zero while none was forgotten.
    #[must_use]
    pub const fn forgotten_end(&self) -> Offset {
        self.forgotten_end
    }

    /// What to do with a batch. Changes nothing.
    #[must_use]
    pub fn judge(&self, claim: &Claim) -> Verdict {
        match self.judge_number(claim.id, claim.epoch, claim.seq) {
            // P-19: what begins may be stored already, under a producer or an epoch of it that is forgotten.
            Verdict::Append
                if claim.seq == ProducerSeq::ZERO && claim.since < self.forgotten_end =>
            {
                Verdict::Unknown
            }
            // P-18
            Verdict::Duplicate(place) if place.producer_crc != claim.producer_crc => {
                Verdict::Reused
            }
            verdict => verdict,
        }
    }

    fn judge_number(&self, id: ProducerId, epoch: ProducerEpoch, seq: ProducerSeq) -> Verdict {
        let Some(producer) = self.get(id) else {
            return if seq == ProducerSeq::ZERO {
                Verdict::Append
            } else {
                Verdict::Unknown
            };
        };
        if epoch < producer.epoch && is_planted(Bug::AcceptFenced) {
            return Verdict::Append;
        }
        if epoch < producer.epoch {
            return Verdict::Fenced {
                newest: producer.epoch,
            };
        }
        if epoch > producer.epoch {
            return if seq == ProducerSeq::ZERO {
                Verdict::Append
            } else {
                Verdict::Gap {
                    due: ProducerSeq::ZERO,
                }
            };
        }
        if seq <= producer.last_seq {
            let later = producer.last();
            return producer
                .remembered(seq)
                .map_or(Verdict::Forgotten { later }, Verdict::Duplicate);
        }
        let due = producer.last_seq.advance(1);
        if seq == due {
            Verdict::Append
        } else {
            Verdict::Gap { due }
        }
    }

    /// The producer that must be expired before a batch of `id` can be appended: the one whose last batch lies furthest
    /// back in the journal, when the partition remembers as many as it may and `id` is not among them.
    #[must_use]
    pub fn must_expire(&self, id: ProducerId) -> Option<&Producer> {
        if self.known.len() < PRODUCERS_PER_PARTITION_MAX || self.get(id).is_some() {
            return None;
        }
        self.known.iter().min_by_key(|producer| producer.end)
    }

    /// Takes an appended batch.
    ///
    /// # Panics
    /// When the batch is not the next of its producer, or one must be expired first: it was judged before.
    pub(crate) fn appended(
        &mut self,
        id: ProducerId,
        epoch: ProducerEpoch,
        seq: ProducerSeq,
        place: Remembered,
        room: &mut RoomOf<'_>,
    ) {
        assert_eq!(
            self.judge_number(id, epoch, seq),
            Verdict::Append,
            "only the next batch is appended"
        );
        match self.known.binary_search_by_key(&id, |known| known.id) {
            Ok(index) => {
                let producer = &mut self.known[index];
                if producer.epoch == epoch {
                    producer.next(seq, place, room);
                } else {
                    producer.cut(room);
                    producer.epoch = epoch;
                    producer.last_seq = seq;
                    producer.set_last(place);
                }
            }
            Err(index) => {
                self.reserve();
                let window = VecDeque::from([place]);
                self.known
                    .insert(index, Producer::new(id, epoch, seq, window));
                room.joined(self.known.len());
            }
        }
    }

    /// Makes room for one more in the list, which grows by a part of itself.
    fn reserve(&mut self) {
        if self.known.len() == self.known.capacity() {
            self.known
                .reserve_exact((self.known.len() / LIST_SLACK).max(1));
        }
    }

    /// Gives back what the list has beyond what growing would leave: memory is counted by who is known.
    fn give_back(&mut self) {
        let slack = (self.known.len() / LIST_SLACK).max(1);
        if self.known.capacity() > self.known.len() + 2 * slack {
            self.known.shrink_to(self.known.len() + slack);
        }
    }

    /// Forgets a producer, as an entry says.
    pub(crate) fn expire(&mut self, id: ProducerId, room: &mut RoomOf<'_>) {
        if let Ok(index) = self.known.binary_search_by_key(&id, |known| known.id) {
            self.known[index].cut(room);
            let producer = self.known.remove(index);
            self.give_back();
            room.left(1, self.known.len());
            self.forgotten_end = self.forgotten_end.max(producer.base_offset.advance(1));
        }
    }

    /// Forgets everybody: the partition goes.
    pub(crate) fn dropped(&mut self, room: &mut RoomOf<'_>) {
        for producer in &mut self.known {
            producer.cut(room);
        }
        if !self.known.is_empty() {
            room.left(self.known.len(), 0);
            self.known = Vec::new();
        }
    }

    /// Drops the earlier places of a producer.
    ///
    /// # Panics
    /// When it is not known.
    pub(crate) fn cut(&mut self, id: ProducerId, room: &mut RoomOf<'_>) {
        let found = self.known.binary_search_by_key(&id, |known| known.id);
        self.known[found.expect("who has a window is known")].cut(room);
    }

    /// Into how many groups a checkpoint divides them.
    #[must_use]
    pub fn groups(&self) -> u16 {
        u16::try_from(self.known.len().div_ceil(PRODUCERS_PER_CELL)).expect("producers are bounded")
    }

    /// One group, in the order of all.
    #[must_use]
    pub fn group(&self, group: u16) -> &[Producer] {
        self.known
            .chunks(PRODUCERS_PER_CELL)
            .nth(usize::from(group))
            .unwrap_or_default()
    }

    /// No producers yet, of a partition that has forgotten some up to this offset: the first part of a checkpoint.
    #[must_use]
    pub const fn restored(forgotten_end: Offset) -> Self {
        Self {
            known: Vec::new(),
            forgotten_end,
        }
    }

    /// Takes a producer from a checkpoint. Its window may be cut short, and is where there is no room for it.
    ///
    /// # Errors
    /// When the producers do not come ordered by id, or too many: the cell is damaged.
    pub(crate) fn restore(
        &mut self,
        mut producer: Producer,
        room: &mut RoomOf<'_>,
    ) -> Result<(), ()> {
        let ordered = self.known.last().is_none_or(|last| last.id < producer.id);
        if !ordered || self.known.len() >= PRODUCERS_PER_PARTITION_MAX {
            return Err(());
        }
        if !room.take_places(producer.id, 0, producer.places_held()) {
            producer.earlier = None;
        }
        self.reserve();
        self.known.push(producer);
        room.joined(self.known.len());
        Ok(())
    }
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partitions::Index;
    use crate::producer_room::{ProducerBounds, ProducerRoom};
    use std::collections::BTreeMap;
    use tiderace_base::prng::Prng;

    fn room() -> ProducerRoom {
        ProducerRoom::new(ProducerBounds::of(1 << 20))
    }

    fn place(offset: u64) -> Remembered {
        Remembered {
            base_offset: Offset::new(offset),
            append_time_us: offset,
            end: Lsn::new(offset + 1),
            producer_crc: offset as u32,
        }
    }

    /// The claim of the batch that would stand at `offset`, of a producer that knows nothing of the partition.
    fn claim(id: ProducerId, epoch: ProducerEpoch, seq: u64, offset: u64) -> Claim {
        Claim {
            id,
            epoch,
            seq: ProducerSeq::new(seq),
            producer_crc: offset as u32,
            since: Offset::ZERO,
        }
    }

    const ONE: ProducerEpoch = ProducerEpoch::new(1);
    const TWO: ProducerEpoch = ProducerEpoch::new(2);

    #[test]
    fn a_partition_that_forgets_its_producers_gives_their_memory_back() {
        let mut room = room();
        let mut room = room.of(Index::FIRST);
        let mut producers = Producers::default();
        for n in 0..1000 {
            let id = ProducerId::new(n);
            producers.appended(id, ONE, ProducerSeq::ZERO, place(n as u64), &mut room);
        }
        for n in 0..990 {
            producers.expire(ProducerId::new(n), &mut room);
        }
        assert_eq!(producers.known.len(), 10);
        assert!(
            producers.known.capacity() < 20,
            "{}",
            producers.known.capacity()
        );
    }

    #[test]
    fn verdicts() {
        let mut room = room();
        let mut room = room.of(Index::FIRST);
        let mut producers = Producers::default();
        let id = ProducerId::new(7);
        assert_eq!(producers.judge(&claim(id, ONE, 3, 3)), Verdict::Unknown);
        for seq in 0..200 {
            assert_eq!(producers.judge(&claim(id, ONE, seq, seq)), Verdict::Append);
            producers.appended(id, ONE, ProducerSeq::new(seq), place(seq), &mut room);
        }
        assert_eq!(
            producers.judge(&claim(id, ONE, 201, 201)),
            Verdict::Gap {
                due: ProducerSeq::new(200)
            }
        );
        assert_eq!(
            producers.judge(&claim(id, ONE, 199, 199)),
            Verdict::Duplicate(place(199))
        );
        assert_eq!(
            producers.judge(&claim(id, ONE, 72, 72)),
            Verdict::Duplicate(place(72))
        );
        assert_eq!(
            producers.judge(&claim(id, ONE, 71, 71)),
            Verdict::Forgotten { later: place(199) }
        );
        assert_eq!(
            producers.judge(&claim(id, TWO, 5, 5)),
            Verdict::Gap {
                due: ProducerSeq::ZERO
            }
        );
        producers.appended(id, TWO, ProducerSeq::ZERO, place(500), &mut room);
        assert_eq!(
            producers.judge(&claim(id, ONE, 199, 199)),
            Verdict::Fenced { newest: TWO }
        );
        assert_eq!(
            producers.judge(&claim(id, TWO, 0, 500)),
            Verdict::Duplicate(place(500))
        );
        producers.expire(id, &mut room);
        assert_eq!(producers.judge(&claim(id, TWO, 1, 501)), Verdict::Unknown);
    }

    #[test]
    fn the_longest_silent_is_expired_first() {
        let mut room = room();
        let mut room = room.of(Index::FIRST);
        let mut producers = Producers::default();
        for n in 0..PRODUCERS_PER_PARTITION_MAX as u64 {
            producers.appended(
                ProducerId::new(u128::from(n) + 1),
                ONE,
                ProducerSeq::ZERO,
                place((n + 500) % 1024),
                &mut room,
            );
        }
        let stranger = ProducerId::new(u128::MAX);
        let oldest = producers.must_expire(stranger).expect("full").clone();
        assert_eq!(oldest.last().base_offset, Offset::ZERO);
        assert_eq!(producers.must_expire(ProducerId::new(3)), None);
        producers.expire(oldest.id, &mut room);
        assert_eq!(producers.must_expire(stranger), None);
    }

    #[test]
    fn another_batch_under_a_remembered_number_is_no_repeat_of_it() {
        // P-18
        let mut room = room();
        let mut room = room.of(Index::FIRST);
        let mut producers = Producers::default();
        let id = ProducerId::new(7);
        for seq in 0..200 {
            producers.appended(id, ONE, ProducerSeq::new(seq), place(seq), &mut room);
        }
        for seq in 72..200 {
            assert_eq!(producers.judge(&claim(id, ONE, seq, 1000)), Verdict::Reused);
        }
        assert_eq!(
            producers.judge(&claim(id, ONE, 71, 1000)),
            Verdict::Forgotten { later: place(199) },
            "no acknowledgement either where the first batch's checksum is forgotten"
        );
    }

    #[test]
    fn a_first_batch_that_may_have_been_forgotten_is_not_appended_again() {
        // P-19
        let mut room = room();
        let mut room = room.of(Index::FIRST);
        let mut producers = Producers::default();
        let (gone, known, fresh) = (ProducerId::new(7), ProducerId::new(8), ProducerId::new(9));
        let begins = |id, epoch, since| Claim {
            since: Offset::new(since),
            ..claim(id, epoch, 0, 40)
        };
        producers.appended(known, ONE, ProducerSeq::ZERO, place(30), &mut room);
        producers.appended(gone, ONE, ProducerSeq::ZERO, place(40), &mut room);
        assert_eq!(producers.judge(&begins(fresh, ONE, 0)), Verdict::Append);
        producers.expire(gone, &mut room);
        assert_eq!(producers.forgotten_end(), Offset::new(41));
        for id in [gone, fresh] {
            assert_eq!(producers.judge(&begins(id, ONE, 40)), Verdict::Unknown);
            assert_eq!(producers.judge(&begins(id, ONE, 41)), Verdict::Append);
        }
        assert_eq!(
            producers.judge(&begins(known, TWO, 40)),
            Verdict::Unknown,
            "a higher epoch may have been forgotten before the lower one came again"
        );
        assert_eq!(producers.judge(&begins(known, TWO, 41)), Verdict::Append);
        // What comes later does not become older by forgetting what was before it.
        producers.expire(known, &mut room);
        assert_eq!(producers.forgotten_end(), Offset::new(41));
    }

    /// Against a model that remembers everything.
    #[test]
    fn a_retry_is_answered_with_the_first_answer() {
        for seed in 0..200 {
            let mut prng = Prng::new(seed);
            let mut room = room();
            let mut room = room.of(Index::FIRST);
            let mut producers = Producers::default();
            let mut model: BTreeMap<u128, Vec<u64>> = BTreeMap::new();
            let mut offset = 0;
            for _ in 0..500 {
                let id = u128::from(prng.below(3)) + 1;
                let sent = model.entry(id).or_default();
                let seq = prng.below(sent.len() as u64 + 3);
                let due = sent.len() as u64;
                let bytes = sent.get(seq as usize).copied().unwrap_or(offset);
                let verdict = producers.judge(&claim(ProducerId::new(id), ONE, seq, bytes));
                match verdict {
                    Verdict::Append => {
                        assert_eq!(seq, due);
                        producers.appended(
                            ProducerId::new(id),
                            ONE,
                            ProducerSeq::new(seq),
                            place(offset),
                            &mut room,
                        );
                        sent.push(offset);
                        offset += 1;
                    }
                    Verdict::Duplicate(remembered) => {
                        assert_eq!(remembered, place(sent[seq as usize]));
                    }
                    Verdict::Forgotten { .. } => assert!(due - seq > PRODUCER_WINDOW as u64),
                    Verdict::Gap { due: said } => assert!(seq > due && said.get() == due),
                    Verdict::Unknown => assert!(sent.is_empty() && seq > 0),
                    Verdict::Reused => panic!("the same bytes come again"),
                    Verdict::Fenced { .. } => panic!("one epoch only"),
                }
            }
        }
    }
}
