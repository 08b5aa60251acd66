//! A batch of an idempotent producer stands in its partition once: every acknowledgement of it, the first and those of
//! its retries, and every delivery name the same offset. What a `memory` stream lost with its process may come again. A
//! producer without an id may have each of its sendings appended.
//!
//! An observation costs a search among partitions; a death costs as much as there are.

use std::collections::BTreeMap;

use tiderace_base::collections::Map;
use tiderace_base::ids::PartitionKey;

use super::Property;
use crate::knowledge::Knowledge;
use crate::observation::{BatchName, Kind, Observation};

/// Where each batch stands.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    places: BTreeMap<PartitionKey, Map<BatchName, u64>>,
}

impl Property for Checker {
    fn name(&self) -> &'static str {
        "retries_never_duplicate"
    }

    fn judges(&self) -> &'static [Kind] {
        &[Kind::Acknowledged, Kind::Delivered]
    }

    fn follows(&self) -> &'static [Kind] {
        &[Kind::NodeDied, Kind::LinkLost]
    }

    fn observe(&mut self, observation: &Observation, knowledge: &Knowledge) -> Result<(), String> {
        match observation {
            Observation::Acknowledged { batch, offset, .. }
            | Observation::Delivered {
                batch: Some(batch),
                offset,
                ..
            } if !batch.is_nameless() => {
                let places = self.places.entry(batch.partition).or_default();
                let place = *places.entry(*batch).or_insert(*offset);
                if place != *offset {
                    return Err(format!("{batch:?} stands at {place} and at {offset}"));
                }
            }
            Observation::NodeDied { .. } | Observation::LinkLost { .. } => {
                self.places
                    .retain(|partition, _| !knowledge.is_volatile(*partition));
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::planted::*;
    use super::*;

    #[test]
    fn a_batch_without_a_producer_id_may_stand_twice() {
        let at = |offset| Observation::Acknowledged {
            batch: BatchName {
                producer: 0,
                producer_epoch: 0,
                ..batch(0)
            },
            offset,
            epoch: 1,
            duplicate: false,
        };
        assert_accepts(&mut Checker::default(), &[at(0), at(2)]);
    }

    #[test]
    fn a_batch_at_two_places_is_noticed() {
        assert_refuses_the_last(
            &mut Checker::default(),
            &[acknowledged(0, 0, 1), died(), acknowledged(0, 2, 2)],
        );
        assert_refuses_the_last(
            &mut Checker::default(),
            &[delivered(1, 0, 0, 1), delivered(1, 0, 2, 1)],
        );
    }

    #[test]
    fn a_retry_that_hears_the_same_offset_is_fine() {
        assert_accepts(
            &mut Checker::default(),
            &[
                acknowledged(0, 0, 1),
                delivered(1, 0, 0, 1),
                died(),
                acknowledged(0, 0, 2),
            ],
        );
    }
}
