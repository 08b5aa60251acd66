//! The demo's witness. It knows what was sent and looks at every record that is delivered: content, order within key and
//! partition, dense offsets, nothing twice; and at the end, that every acknowledged event came, where its acknowledgement
//! said. It believes nobody: a number that travels in a header of each record only says which event it claims to be.

use super::data::DataSet;
use std::sync::Arc;

/// Where an event is, or is said to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) partition: u32,
    pub(crate) offset: u64,
}

/// A delivered record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sighting<'a> {
    pub(crate) place: Place,
    pub(crate) number: Option<u64>,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
}

/// What was found. Everything but `delivered` should be zero.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Verdict {
    /// Different events that were delivered with the right content.
    pub(crate) delivered: u64,
    /// Acknowledged, never delivered.
    pub(crate) lost: u64,
    /// Deliveries of an event beyond its first.
    pub(crate) duplicated: u64,
    /// Delivered after a later event of the same key or partition.
    pub(crate) reordered: u64,
    /// Not what was sent: key, value or number differ.
    pub(crate) changed: u64,
    /// Offsets that were skipped or repeated within a partition.
    pub(crate) offset_jumps: u64,
    /// Delivered elsewhere than where the acknowledgement said, or a key found in a second partition.
    pub(crate) misplaced: u64,
}

impl Verdict {
    /// Whether nothing at all is wrong.
    pub(crate) const fn is_clean(&self) -> bool {
        self.lost == 0
            && self.duplicated == 0
            && self.reordered == 0
            && self.changed == 0
            && self.offset_jumps == 0
            && self.misplaced == 0
    }
}

/// Watches deliveries.
#[derive(Debug)]
pub(crate) struct Verifier {
    data: Arc<DataSet>,
    /// Where each event was seen, by number.
    seen: Vec<Option<Place>>,
    partitions: Vec<PartitionState>,
    keys: Vec<KeyState>,
    verdict: Verdict,
}

#[derive(Clone, Copy, Default, Debug)]
struct PartitionState {
    next_offset: u64,
    /// One more than the greatest number seen.
    beyond: u64,
}

#[derive(Clone, Copy, Default, Debug)]
struct KeyState {
    partition: Option<u32>,
    beyond: u64,
}

impl Verifier {
    /// Expects `sent_max` events of `data` at most, in partitions that begin at offset 0.
    pub(crate) fn new(data: Arc<DataSet>, partitions: u32, sent_max: u64) -> Self {
        let sent_max = usize::try_from(sent_max).unwrap_or(usize::MAX);
        Self {
            seen: vec![None; sent_max],
            partitions: vec![PartitionState::default(); partitions as usize],
            keys: vec![KeyState::default(); data.key_count as usize],
            data,
            verdict: Verdict::default(),
        }
    }

    /// How many different events were delivered.
    pub(crate) const fn delivered(&self) -> u64 {
        self.verdict.delivered
    }

    /// Looks at one delivered record. True: an event that was not seen before, as it was sent.
    pub(crate) fn see(&mut self, sighting: Sighting<'_>) -> bool {
        let Sighting {
            place,
            number,
            key,
            value,
        } = sighting;
        let Some(partition) = self.partitions.get_mut(place.partition as usize) else {
            self.verdict.changed += 1;
            return false;
        };
        if place.offset != partition.next_offset {
            self.verdict.offset_jumps += 1;
        }
        partition.next_offset = place.offset.saturating_add(1).max(partition.next_offset);
        let index = number
            .and_then(|number| usize::try_from(number).ok())
            .filter(|index| *index < self.seen.len());
        let (Some(number), Some(index)) = (number, index) else {
            self.verdict.changed += 1;
            return false;
        };
        let event = self.data.event(number);
        if key != Some(&*event.key) || value != Some(&*event.value) {
            self.verdict.changed += 1;
            return false;
        }
        if self.seen[index].is_some() {
            self.verdict.duplicated += 1;
            return false;
        }
        self.seen[index] = Some(place);
        self.verdict.delivered += 1;
        let of_key = &mut self.keys[event.key_number as usize];
        if number < partition.beyond || number < of_key.beyond {
            self.verdict.reordered += 1;
        }
        partition.beyond = partition.beyond.max(number + 1);
        of_key.beyond = of_key.beyond.max(number + 1);
        if *of_key.partition.get_or_insert(place.partition) != place.partition {
            self.verdict.misplaced += 1;
        }
        true
    }

    /// Compares with the acknowledgements, by number; `None` is an event that was not acknowledged.
    pub(crate) fn finish(mut self, acked: &[Option<Place>]) -> Verdict {
        for (index, place) in acked.iter().enumerate() {
            let Some(place) = place else { continue };
            match self.seen.get(index).copied().flatten() {
                None => self.verdict.lost += 1,
                Some(seen) if seen != *place => self.verdict.misplaced += 1,
                Some(_) => {}
            }
        }
        self.verdict
    }
}

#[cfg(test)]
mod tests {
    use super::super::data::Event;
    use super::*;

    const PARTITIONS: u32 = 2;
    const SENT: u64 = 12;

    /// Six events of three keys. Key 1 lives in partition 1, the others in partition 0.
    fn data() -> Arc<DataSet> {
        let event = |index: u32| Event {
            key: format!("key-{}", index % 3).into(),
            value: format!("value-{index}").into(),
            key_number: index % 3,
        };
        Arc::new(DataSet {
            name: "test".to_owned(),
            events: (0..6).map(event).collect(),
            key_count: 3,
        })
    }

    /// What an honest node delivers and acknowledges.
    fn honest() -> (Vec<(u64, Place)>, Vec<Option<Place>>) {
        let mut ends = [0, 0];
        let mut deliveries = Vec::new();
        for number in 0..SENT {
            let partition = u32::from(number % 3 == 1);
            let offset = ends[partition as usize];
            ends[partition as usize] += 1;
            deliveries.push((number, Place { partition, offset }));
        }
        let acked = deliveries.iter().map(|(_, place)| Some(*place)).collect();
        (deliveries, acked)
    }

    fn verdict(deliveries: &[(u64, Place)], acked: &[Option<Place>]) -> Verdict {
        let data = data();
        let mut verifier = Verifier::new(Arc::clone(&data), PARTITIONS, SENT);
        for (number, place) in deliveries {
            let event = data.event(*number);
            verifier.see(Sighting {
                place: *place,
                number: Some(*number),
                key: Some(&event.key),
                value: Some(&event.value),
            });
        }
        verifier.finish(acked)
    }

    #[test]
    fn an_honest_node_is_clean_also_when_the_data_set_comes_twice() {
        let (deliveries, acked) = honest();
        let verdict = verdict(&deliveries, &acked);
        assert_eq!(
            verdict,
            Verdict {
                delivered: SENT,
                ..Verdict::default()
            }
        );
        assert!(verdict.is_clean());
    }

    #[test]
    fn a_planted_loss_is_found_once_acknowledged() {
        let (mut deliveries, mut acked) = honest();
        deliveries.remove(11);
        assert_eq!(
            verdict(&deliveries, &acked),
            Verdict {
                delivered: 11,
                lost: 1,
                ..Verdict::default()
            }
        );
        // What was never acknowledged may be absent.
        acked[11] = None;
        assert!(verdict(&deliveries, &acked).is_clean());
    }

    #[test]
    fn a_planted_loss_in_the_middle_is_also_a_jump() {
        let (mut deliveries, acked) = honest();
        deliveries.remove(4);
        let found = verdict(&deliveries, &acked);
        assert_eq!((found.lost, found.offset_jumps), (1, 1));
    }

    #[test]
    fn a_planted_duplicate_is_found_at_its_own_offset_and_at_a_new_one() {
        let (mut deliveries, acked) = honest();
        deliveries.insert(5, deliveries[4]);
        assert_eq!(verdict(&deliveries, &acked).duplicated, 1);
        let (mut deliveries, acked) = honest();
        deliveries.push((
            11,
            Place {
                partition: 0,
                offset: 8,
            },
        ));
        let found = verdict(&deliveries, &acked);
        assert_eq!(
            found,
            Verdict {
                delivered: SENT,
                duplicated: 1,
                ..Verdict::default()
            }
        );
    }

    #[test]
    fn a_planted_reordering_within_a_partition_is_found() {
        let (mut deliveries, mut acked) = honest();
        // Numbers 0 and 2 live in partition 0 and have different keys.
        let (first, third) = (deliveries[0].1, deliveries[2].1);
        deliveries[0] = (2, first);
        deliveries[2] = (0, third);
        acked.swap(0, 2);
        let found = verdict(&deliveries, &acked);
        assert_eq!(
            found,
            Verdict {
                delivered: SENT,
                reordered: 1,
                ..Verdict::default()
            }
        );
    }

    #[test]
    fn a_key_that_strays_into_another_partition_is_found() {
        let (mut deliveries, mut acked) = honest();
        let stray = Place {
            partition: 1,
            offset: 4,
        };
        deliveries[11].1 = stray;
        acked[11] = Some(stray);
        let found = verdict(&deliveries, &acked);
        assert_eq!(
            found,
            Verdict {
                delivered: SENT,
                misplaced: 1,
                ..Verdict::default()
            }
        );
    }

    #[test]
    fn an_acknowledgement_that_names_another_offset_is_found() {
        let (deliveries, mut acked) = honest();
        acked[3] = Some(Place {
            partition: 0,
            offset: 99,
        });
        assert_eq!(verdict(&deliveries, &acked).misplaced, 1);
    }

    #[test]
    fn changed_content_is_found_and_counts_as_not_delivered() {
        let data = data();
        let place = Place {
            partition: 0,
            offset: 0,
        };
        let (key, value): (&[u8], &[u8]) = (b"key-0", b"value-0");
        let good = Sighting {
            place,
            number: Some(0),
            key: Some(key),
            value: Some(value),
        };
        for bad in [
            Sighting {
                value: Some(b"value-1"),
                ..good
            },
            Sighting {
                value: None,
                ..good
            },
            Sighting {
                key: Some(b"key-1"),
                ..good
            },
            Sighting { key: None, ..good },
            Sighting {
                number: None,
                ..good
            },
            Sighting {
                number: Some(1),
                ..good
            },
            Sighting {
                number: Some(SENT),
                ..good
            },
            Sighting {
                number: Some(u64::MAX),
                ..good
            },
            Sighting {
                place: Place {
                    partition: PARTITIONS,
                    offset: 0,
                },
                ..good
            },
        ] {
            let mut verifier = Verifier::new(Arc::clone(&data), PARTITIONS, SENT);
            assert!(!verifier.see(bad), "{bad:?}");
            let verdict = verifier.finish(&[Some(place)]);
            assert_eq!(
                (verdict.changed, verdict.lost, verdict.delivered),
                (1, 1, 0),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn skipped_and_repeated_offsets_are_found() {
        let (mut deliveries, _) = honest();
        for (_, place) in &mut deliveries[6..] {
            place.offset += 10;
        }
        let acked: Vec<_> = deliveries.iter().map(|(_, place)| Some(*place)).collect();
        assert_eq!(
            verdict(&deliveries, &acked).offset_jumps,
            u64::from(PARTITIONS)
        );
    }
}
