//! Non-monotonic send: the batches of one producer stand in a partition in the order of its numbers: a higher producer epoch
//! behind a lower one, and within one a higher number behind a lower one. Numbers may lack: what was not appended is not
//! there. Of a `memory` stream what stood before a crash says nothing.
//!
//! An observation costs a search among the named batches of its partition; a death costs as much as there are partitions.

use std::collections::BTreeMap;
use std::ops::Bound;

use tiderace_base::ids::PartitionKey;

use super::Property;
use crate::knowledge::Knowledge;
use crate::observation::{BatchName, Kind, Observation};

/// Where each batch stands, in the order of their names: producer, its epoch, number.
#[derive(Debug, Default)]
pub(crate) struct Checker(BTreeMap<PartitionKey, BTreeMap<BatchName, u64>>);

impl Checker {
    fn place(&mut self, batch: BatchName, offset: u64) -> Result<(), String> {
        let places = self.0.entry(batch.partition).or_default();
        if places.contains_key(&batch) {
            // At another place it is a duplicate, which another property refuses.
            return Ok(());
        }
        let is_ours = |other: &BatchName| other.producer == batch.producer;
        let before = places.range(..batch).next_back();
        let after = places
            .range((Bound::Excluded(batch), Bound::Unbounded))
            .next();
        let before = before.filter(|(other, at)| is_ours(other) && **at >= offset);
        let after = after.filter(|(other, at)| is_ours(other) && **at <= offset);
        if let Some((other, at)) = before.or(after) {
            return Err(format!(
                "{batch:?} stands at {offset}, and {other:?} at {at}"
            ));
        }
        places.insert(batch, offset);
        Ok(())
    }
}

impl Property for Checker {
    fn name(&self) -> &'static str {
        "sends_never_overtake"
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
            } => self.place(*batch, *offset),
            Observation::NodeDied { .. } | Observation::LinkLost { .. } => {
                self.0
                    .retain(|partition, _| !knowledge.is_volatile(*partition));
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::planted::*;
    use super::*;

    #[test]
    fn a_batch_before_an_earlier_one_of_its_producer_is_noticed() {
        let history = |offset| [delivered(1, 3, 10, 1), delivered(1, 5, offset, 1)];
        assert_refuses_the_last(&mut Checker::default(), &history(8));
        assert_accepts(&mut Checker::default(), &history(12));
        let late = [acknowledged(5, 10, 1), acknowledged(3, 12, 1)];
        assert_refuses_the_last(&mut Checker::default(), &late);
    }

    #[test]
    fn a_lower_epoch_of_a_producer_behind_a_higher_one_is_noticed() {
        let of_epoch = |producer_epoch, offset| Observation::Acknowledged {
            batch: BatchName {
                producer_epoch,
                ..batch(0)
            },
            offset,
            epoch: 1,
            duplicate: false,
        };
        let history = [of_epoch(2, 0), of_epoch(1, 2)];
        assert_refuses_the_last(&mut Checker::default(), &history);
        let history = [of_epoch(1, 0), of_epoch(2, 2)];
        assert_accepts(&mut Checker::default(), &history);
    }

    #[test]
    fn producers_do_not_wait_for_each_other() {
        let other = Observation::Acknowledged {
            batch: BatchName {
                producer: 2,
                ..batch(0)
            },
            offset: 20,
            epoch: 1,
            duplicate: false,
        };
        let history = [acknowledged(5, 10, 1), other, acknowledged(6, 12, 1)];
        assert_accepts(&mut Checker::default(), &history);
    }
}
