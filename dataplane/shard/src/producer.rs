//! What a partition remembers of its producers, so that a retry is answered exactly: per producer its epoch, its last
//! sequence, and the places of its last [`PRODUCER_WINDOW`] batches; and of those that it has forgotten how far their
//! batches reach, so that none of them is stored again for a new one. Pure; never reads a clock: a producer is expired by
//! an entry. Invariants: the window holds consecutive sequences that end at the last one; every batch at or past
//! [`Producers::forgotten_end`] has its producer remembered.

use std::collections::VecDeque;
use tiderace_base::ids::ProducerId;
use tiderace_base::limits::{PRODUCER_WINDOW, PRODUCERS_PER_PARTITION_MAX};
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
    /// Its newest epoch.
    pub epoch: ProducerEpoch,
    /// Its last sequence.
    pub last_seq: ProducerSeq,
    /// The places of its last batches, oldest first.
    pub window: VecDeque<Remembered>,
}

impl Producer {
    /// Where the batch of this sequence went; `None` outside the window.
    #[must_use]
    pub fn remembered(&self, seq: ProducerSeq) -> Option<Remembered> {
        let back = usize::try_from(self.last_seq.distance_from(seq)?).ok()?;
        let index = self.window.len().checked_sub(back + 1)?;
        self.window.get(index).copied()
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
    /// A batch of its number was appended before, too long ago to say where.
    Forgotten,
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
            return producer
                .remembered(seq)
                .map_or(Verdict::Forgotten, Verdict::Duplicate);
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
        self.known.iter().min_by_key(|producer| {
            (
                producer.window.back().map_or(Lsn::ZERO, |last| last.end),
                producer.id,
            )
        })
    }

    /// Takes an appended batch.
    ///
    /// # Panics
    /// When the batch is not the next of its producer: it was judged before.
    pub fn appended(
        &mut self,
        id: ProducerId,
        epoch: ProducerEpoch,
        seq: ProducerSeq,
        place: Remembered,
    ) {
        assert_eq!(
            self.judge_number(id, epoch, seq),
            Verdict::Append,
            "only the next batch is appended"
        );
        let index = match self.known.binary_search_by_key(&id, |known| known.id) {
            Ok(index) => {
                let producer = &mut self.known[index];
                if producer.epoch != epoch {
                    producer.window.clear();
                }
                index
            }
            Err(index) => {
                assert!(
                    self.known.len() < PRODUCERS_PER_PARTITION_MAX,
                    "one must be expired first"
                );
                self.known.insert(
                    index,
                    Producer {
                        id,
                        epoch,
                        last_seq: seq,
                        window: VecDeque::with_capacity(1),
                    },
                );
                index
            }
        };
        let producer = &mut self.known[index];
        producer.epoch = epoch;
        producer.last_seq = seq;
        if producer.window.len() == PRODUCER_WINDOW {
            producer.window.pop_front();
        }
        producer.window.push_back(place);
    }

    /// Forgets a producer, as an entry says.
    pub fn expire(&mut self, id: ProducerId) {
        if let Ok(index) = self.known.binary_search_by_key(&id, |known| known.id) {
            let producer = self.known.remove(index);
            let last = producer
                .window
                .back()
                .expect("a known producer has a batch");
            self.forgotten_end = self.forgotten_end.max(last.base_offset.advance(1));
        }
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

    /// Takes a producer from a checkpoint. Its window may be cut short, never be empty or too long.
    ///
    /// # Errors
    /// When the window is such, or the producers do not come ordered by id: the cell is damaged.
    pub fn restore(&mut self, producer: Producer) -> Result<(), ()> {
        let ordered = self.known.last().is_none_or(|last| last.id < producer.id);
        if !ordered
            || producer.window.is_empty()
            || producer.window.len() > PRODUCER_WINDOW
            || self.known.len() >= PRODUCERS_PER_PARTITION_MAX
        {
            return Err(());
        }
        self.known.push(producer);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use tiderace_base::prng::Prng;

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
    fn verdicts() {
        let mut producers = Producers::default();
        let id = ProducerId::new(7);
        assert_eq!(producers.judge(&claim(id, ONE, 3, 3)), Verdict::Unknown);
        for seq in 0..200 {
            assert_eq!(producers.judge(&claim(id, ONE, seq, seq)), Verdict::Append);
            producers.appended(id, ONE, ProducerSeq::new(seq), place(seq));
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
        assert_eq!(producers.judge(&claim(id, ONE, 71, 71)), Verdict::Forgotten);
        assert_eq!(
            producers.judge(&claim(id, TWO, 5, 5)),
            Verdict::Gap {
                due: ProducerSeq::ZERO
            }
        );
        producers.appended(id, TWO, ProducerSeq::ZERO, place(500));
        assert_eq!(
            producers.judge(&claim(id, ONE, 199, 199)),
            Verdict::Fenced { newest: TWO }
        );
        assert_eq!(
            producers.judge(&claim(id, TWO, 0, 500)),
            Verdict::Duplicate(place(500))
        );
        producers.expire(id);
        assert_eq!(producers.judge(&claim(id, TWO, 1, 501)), Verdict::Unknown);
    }

    #[test]
    fn the_longest_silent_is_expired_first() {
        let mut producers = Producers::default();
        for n in 0..PRODUCERS_PER_PARTITION_MAX as u64 {
            producers.appended(
                ProducerId::new(u128::from(n) + 1),
                ONE,
                ProducerSeq::ZERO,
                place((n + 500) % 1024),
            );
        }
        let stranger = ProducerId::new(u128::MAX);
        let oldest = producers.must_expire(stranger).expect("full").clone();
        assert_eq!(oldest.window[0].base_offset, Offset::ZERO);
        assert_eq!(producers.must_expire(ProducerId::new(3)), None);
        producers.expire(oldest.id);
        assert_eq!(producers.must_expire(stranger), None);
    }

    #[test]
    fn another_batch_under_a_remembered_number_is_no_repeat_of_it() {
        // P-18
        let mut producers = Producers::default();
        let id = ProducerId::new(7);
        for seq in 0..200 {
            producers.appended(id, ONE, ProducerSeq::new(seq), place(seq));
        }
        for seq in 72..200 {
            assert_eq!(producers.judge(&claim(id, ONE, seq, 1000)), Verdict::Reused);
        }
        assert_eq!(
            producers.judge(&claim(id, ONE, 71, 1000)),
            Verdict::Forgotten,
            "no acknowledgement either where the first batch's checksum is forgotten"
        );
    }

    #[test]
    fn a_first_batch_that_may_have_been_forgotten_is_not_appended_again() {
        // P-19
        let mut producers = Producers::default();
        let (gone, known, fresh) = (ProducerId::new(7), ProducerId::new(8), ProducerId::new(9));
        let begins = |id, epoch, since| Claim {
            since: Offset::new(since),
            ..claim(id, epoch, 0, 40)
        };
        producers.appended(known, ONE, ProducerSeq::ZERO, place(30));
        producers.appended(gone, ONE, ProducerSeq::ZERO, place(40));
        assert_eq!(producers.judge(&begins(fresh, ONE, 0)), Verdict::Append);
        producers.expire(gone);
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
        producers.expire(known);
        assert_eq!(producers.forgotten_end(), Offset::new(41));
    }

    /// Against a model that remembers everything.
    #[test]
    fn a_retry_is_answered_with_the_first_answer() {
        for seed in 0..200 {
            let mut prng = Prng::new(seed);
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
                        );
                        sent.push(offset);
                        offset += 1;
                    }
                    Verdict::Duplicate(remembered) => {
                        assert_eq!(remembered, place(sent[seq as usize]));
                    }
                    Verdict::Forgotten => assert!(due - seq > PRODUCER_WINDOW as u64),
                    Verdict::Gap { due: said } => assert!(seq > due && said.get() == due),
                    Verdict::Unknown => assert!(sent.is_empty() && seq > 0),
                    Verdict::Reused => panic!("the same bytes come again"),
                    Verdict::Fenced { .. } => panic!("one epoch only"),
                }
            }
        }
    }
}
