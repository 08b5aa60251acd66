//! What a partition remembers of its producers, so that a retry is answered exactly: per producer its epoch, its last
//! sequence, and the places of its last [`PRODUCER_WINDOW`] batches. Pure; never reads a clock: a producer is expired by
//! an entry. Invariant: the window holds consecutive sequences that end at the last one.

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
    /// It was appended before, too long ago to say where.
    Forgotten,
    /// A batch before it is missing: this sequence is due.
    Gap {
        /// The sequence that is due.
        due: ProducerSeq,
    },
    /// The producer is not known here, and this is not its first batch.
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

    /// What to do with the batch (`id`, `epoch`, `seq`). Changes nothing.
    #[must_use]
    pub fn judge(&self, id: ProducerId, epoch: ProducerEpoch, seq: ProducerSeq) -> Verdict {
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
            self.judge(id, epoch, seq),
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
            self.known.remove(index);
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

    /// Takes a producer from a checkpoint. Its window may be cut short, never be too long.
    ///
    /// # Errors
    /// When the window is longer than any may be, or the producers do not come ordered by id: the cell is damaged.
    pub fn restore(&mut self, producer: Producer) -> Result<(), ()> {
        let ordered = self.known.last().is_none_or(|last| last.id < producer.id);
        if !ordered
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
        }
    }

    const ONE: ProducerEpoch = ProducerEpoch::new(1);
    const TWO: ProducerEpoch = ProducerEpoch::new(2);

    #[test]
    fn verdicts() {
        let mut producers = Producers::default();
        let id = ProducerId::new(7);
        assert_eq!(
            producers.judge(id, ONE, ProducerSeq::new(3)),
            Verdict::Unknown
        );
        for seq in 0..200 {
            assert_eq!(
                producers.judge(id, ONE, ProducerSeq::new(seq)),
                Verdict::Append
            );
            producers.appended(id, ONE, ProducerSeq::new(seq), place(seq));
        }
        assert_eq!(
            producers.judge(id, ONE, ProducerSeq::new(201)),
            Verdict::Gap {
                due: ProducerSeq::new(200)
            }
        );
        assert_eq!(
            producers.judge(id, ONE, ProducerSeq::new(199)),
            Verdict::Duplicate(place(199))
        );
        assert_eq!(
            producers.judge(id, ONE, ProducerSeq::new(72)),
            Verdict::Duplicate(place(72))
        );
        assert_eq!(
            producers.judge(id, ONE, ProducerSeq::new(71)),
            Verdict::Forgotten
        );
        assert_eq!(
            producers.judge(id, TWO, ProducerSeq::new(5)),
            Verdict::Gap {
                due: ProducerSeq::ZERO
            }
        );
        producers.appended(id, TWO, ProducerSeq::ZERO, place(500));
        assert_eq!(
            producers.judge(id, ONE, ProducerSeq::new(199)),
            Verdict::Fenced { newest: TWO }
        );
        assert_eq!(
            producers.judge(id, TWO, ProducerSeq::ZERO),
            Verdict::Duplicate(place(500))
        );
        producers.expire(id);
        assert_eq!(
            producers.judge(id, TWO, ProducerSeq::new(1)),
            Verdict::Unknown
        );
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
                let verdict = producers.judge(ProducerId::new(id), ONE, ProducerSeq::new(seq));
                let due = sent.len() as u64;
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
                    Verdict::Fenced { .. } => panic!("one epoch only"),
                }
            }
        }
    }
}
