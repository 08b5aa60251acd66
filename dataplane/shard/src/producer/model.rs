//! The producers of a partition against a model that remembers every batch of everybody for ever. What the product forgets it
//! may say so of, and never anything else: a repeat is answered with its own place, nothing is appended twice, and what is
//! remembered are the last batches without a hole.

use super::*;
use crate::partitions::Index;
use crate::producer_room::{ProducerBounds, ProducerRoom};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Producers that take part.
const IDS: u128 = 5;

#[derive(Clone, Debug)]
enum Move {
    /// The next batch of a producer, or of its next epoch.
    Append {
        id: u128,
        new_epoch: bool,
    },
    /// So many next batches of a producer.
    Many {
        id: u128,
        count: u64,
    },
    /// A claim of any kind.
    Claim {
        id: u128,
        epoch: u32,
        back: u64,
        is_same: bool,
        since: u64,
    },
    Expire {
        id: u128,
    },
    Cut {
        id: u128,
    },
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        5 => (0..IDS, prop::bool::weighted(0.1)).prop_map(|(id, new_epoch)| Move::Append { id, new_epoch }),
        2 => (0..IDS, 1_u64..150).prop_map(|(id, count)| Move::Many { id, count }),
        8 => (0..IDS, 0_u32..5, 0_u64..200, any::<bool>(), 0_u64..2000)
            .prop_map(|(id, epoch, back, is_same, since)| Move::Claim { id, epoch, back, is_same, since }),
        1 => (0..IDS).prop_map(|id| Move::Expire { id }),
        1 => (0..IDS).prop_map(|id| Move::Cut { id }),
    ];
    prop::collection::vec(one, 0..120)
}

/// All that a producer did in its newest epoch.
#[derive(Clone, Debug, Default)]
struct Past {
    epoch: u32,
    places: Vec<Remembered>,
    /// Earlier places were dropped by order: batches before this one may be forgotten.
    cut_before: u64,
}

#[derive(Default)]
struct Model {
    pasts: BTreeMap<u128, Past>,
    forgotten_end: u64,
    next_offset: u64,
}

impl Model {
    fn place(&mut self) -> Remembered {
        let offset = self.next_offset;
        self.next_offset += 3;
        Remembered {
            base_offset: Offset::new(offset),
            append_time_us: offset + 1,
            end: Lsn::new(100 * (offset + 1)),
            producer_crc: offset as u32 ^ 0x5a5a,
        }
    }

    /// Whether the product's verdict is one that the model allows. `is_roomy`: it has no excuse to forget within a window.
    fn allows(&self, claim: &Claim, verdict: Verdict, is_roomy: bool) -> bool {
        let begins = claim.seq == ProducerSeq::ZERO;
        let beginning = if !begins {
            None
        } else if claim.since.get() < self.forgotten_end {
            Some(Verdict::Unknown)
        } else {
            Some(Verdict::Append)
        };
        let Some(past) = self.pasts.get(&claim.id.get()) else {
            return verdict == beginning.unwrap_or(Verdict::Unknown);
        };
        let epoch = ProducerEpoch::new(past.epoch);
        if claim.epoch != epoch {
            let expected = if claim.epoch < epoch {
                Verdict::Fenced { newest: epoch }
            } else {
                beginning.unwrap_or(Verdict::Gap {
                    due: ProducerSeq::ZERO,
                })
            };
            return verdict == expected;
        }
        let due = past.places.len() as u64;
        let seq = claim.seq.get();
        if seq >= due {
            return verdict
                == if seq > due {
                    Verdict::Gap {
                        due: ProducerSeq::new(due),
                    }
                } else {
                    Verdict::Append
                };
        }
        let place = past.places[seq as usize];
        let later = past.places[due as usize - 1];
        let repeated = if place.producer_crc == claim.producer_crc {
            Verdict::Duplicate(place)
        } else {
            Verdict::Reused
        };
        let is_recent = due - seq <= PRODUCER_WINDOW as u64;
        let must_know = seq + 1 == due || (is_roomy && is_recent && seq >= past.cut_before);
        (is_recent && verdict == repeated)
            || (!must_know && verdict == Verdict::Forgotten { later })
    }
}

fn append(
    model: &mut Model,
    producers: &mut Producers,
    room: &mut ProducerRoom,
    id: u128,
    new_epoch: bool,
) {
    let place = model.place();
    let past = model.pasts.entry(id).or_default();
    if new_epoch {
        *past = Past {
            epoch: past.epoch + 1,
            ..Past::default()
        };
    }
    let seq = ProducerSeq::new(past.places.len() as u64);
    past.places.push(place);
    let epoch = ProducerEpoch::new(past.epoch);
    let mut room = room.of(Index::FIRST);
    producers.appended(ProducerId::new(id), epoch, seq, place, &mut room);
}

/// Plays the moves against a shard's room of so many bytes.
fn play(moves: &[Move], bytes: usize, is_roomy: bool) -> Result<(), TestCaseError> {
    let mut room = ProducerRoom::new(ProducerBounds::of(bytes));
    let mut producers = Producers::default();
    let mut model = Model::default();
    for step in moves {
        match step {
            Move::Append { id, new_epoch } => {
                append(&mut model, &mut producers, &mut room, *id, *new_epoch);
            }
            Move::Many { id, count } => {
                for _ in 0..*count {
                    append(&mut model, &mut producers, &mut room, *id, false);
                }
            }
            Move::Claim {
                id,
                epoch,
                back,
                is_same,
                since,
            } => {
                let past = model.pasts.get(id);
                let due = past.map_or(0, |past| past.places.len() as u64);
                // From far behind to two ahead of what is due.
                let seq = (due + 2).saturating_sub(*back);
                let place = past.and_then(|past| past.places.get(seq as usize));
                let crc = place.map_or(7, |place| place.producer_crc);
                let claim = Claim {
                    id: ProducerId::new(*id),
                    epoch: ProducerEpoch::new(*epoch),
                    seq: ProducerSeq::new(seq),
                    producer_crc: if *is_same { crc } else { !crc },
                    since: Offset::new(*since),
                };
                let verdict = producers.judge(&claim);
                prop_assert!(
                    model.allows(&claim, verdict, is_roomy),
                    "{claim:?} is said to be {verdict:?}"
                );
            }
            Move::Expire { id } => {
                producers.expire(ProducerId::new(*id), &mut room.of(Index::FIRST));
                if let Some(past) = model.pasts.remove(id) {
                    let last = past.places.last().expect("who is known sent a batch");
                    model.forgotten_end = model.forgotten_end.max(last.base_offset.get() + 1);
                }
            }
            Move::Cut { id } => {
                if let Some(past) = model.pasts.get_mut(id) {
                    past.cut_before = past.places.len() as u64 - 1;
                    producers.cut(ProducerId::new(*id), &mut room.of(Index::FIRST));
                }
            }
        }
        prop_assert_eq!(producers.forgotten_end().get(), model.forgotten_end);
        prop_assert!(producers.known().is_sorted_by_key(|known| known.id));
        prop_assert_eq!(producers.known().len(), model.pasts.len());
        for known in producers.known() {
            let past = &model.pasts[&known.id.get()];
            let window: Vec<Remembered> = known.window().collect();
            prop_assert!((1..=PRODUCER_WINDOW).contains(&window.len()));
            prop_assert!(
                past.places.ends_with(&window),
                "the last batches, without a hole"
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    // P-18, P-19
    #[test]
    fn with_room_every_batch_of_the_window_is_remembered(moves in moves()) {
        play(&moves, 1 << 20, true)?;
    }

    // P-18, P-19
    #[test]
    fn without_room_less_is_remembered_and_nothing_else_is_said(moves in moves(), bytes in 2_000_usize..30_000) {
        play(&moves, bytes, false)?;
    }
}
