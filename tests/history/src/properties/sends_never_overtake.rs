//! Non-monotonic send: the batches of one producer stand in a partition in the order of its numbers: a higher producer epoch
//! behind a lower one, and within one a higher number behind a lower one. Numbers may lack: what was not appended is not
//! there. And what anybody first sent when something was acknowledged already, with an id or without, stands behind that. Of
//! a `memory` stream what stood before a crash says nothing.
//!
//! An observation costs a search among the named batches of its partition; a death costs as much as there are partitions.

use std::collections::BTreeMap;
use std::ops::Bound;

use tiderace_base::collections::Map;
use tiderace_base::ids::PartitionKey;

use super::Property;
use crate::knowledge::Knowledge;
use crate::observation::{BatchName, Kind, Observation};

#[derive(Debug, Default)]
struct Log {
    /// Where each batch stands, in the order of their names: producer, its epoch, number.
    places: BTreeMap<BatchName, u64>,
    /// Behind everything that was acknowledged.
    end: u64,
    /// What that was when a batch was first sent.
    floors: Map<BatchName, u64>,
}

/// What stands where in each partition.
#[derive(Debug, Default)]
pub(crate) struct Checker(BTreeMap<PartitionKey, Log>);

impl Checker {
    fn place(&mut self, batch: BatchName, offset: u64) -> Result<(), String> {
        let log = self.0.entry(batch.partition).or_default();
        if let Some(floor) = log.floors.get(&batch).filter(|floor| **floor > offset) {
            return Err(format!(
                "{batch:?} stands at {offset}; when it was first sent, everything below {floor} was acknowledged"
            ));
        }
        if batch.is_nameless() {
            return Ok(());
        }
        let places = &mut log.places;
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
        &[Kind::Submitted, Kind::NodeDied, Kind::LinkLost]
    }

    fn observe(&mut self, observation: &Observation, knowledge: &Knowledge) -> Result<(), String> {
        match observation {
            Observation::Submitted { batch, .. } => {
                let log = self.0.entry(batch.partition).or_default();
                log.floors.entry(*batch).or_insert(log.end);
                Ok(())
            }
            Observation::Acknowledged { batch, offset, .. } => {
                self.place(*batch, *offset)?;
                let records = knowledge.sent(batch).map_or(1, |sent| sent.records);
                let log = self.0.entry(batch.partition).or_default();
                log.end = log.end.max(offset + u64::from(records));
                Ok(())
            }
            Observation::Delivered {
                batch: Some(batch),
                offset,
                ..
            } => self.place(*batch, *offset),
            Observation::NodeDied { .. } | Observation::LinkLost { .. } => {
                let logs = self.0.iter_mut();
                for (_, log) in logs.filter(|(key, _)| knowledge.is_volatile(**key)) {
                    log.places.clear();
                    log.end = 0;
                    // What was sent before may have survived, and stand before whatever comes.
                    log.floors.values_mut().for_each(|floor| *floor = 0);
                }
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
    use tiderace_base::catalogue::Durability;

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
    fn what_is_sent_behind_an_acknowledgement_and_stands_before_it_is_noticed() {
        let nameless = |digest| BatchName {
            producer: 0,
            producer_epoch: 0,
            ..batch(digest)
        };
        let sent = |digest| Observation::Submitted {
            batch: nameless(digest),
            epoch: 0,
            records: 2,
            digest,
        };
        let stands = |digest, offset| Observation::Acknowledged {
            batch: nameless(digest),
            offset,
            epoch: 1,
            duplicate: false,
        };
        let history = |second| [sent(9), stands(9, 10), sent(5), stands(5, second)];
        assert_refuses_the_last(&mut Checker::default(), &history(8));
        assert_accepts(&mut Checker::default(), &history(12));
        // Sent together, they may stand in any order; and one that is sent twice may stand twice.
        let history = [sent(9), sent(5), stands(5, 4), stands(9, 2), stands(9, 6)];
        assert_accepts(&mut Checker::default(), &history);
    }

    #[test]
    fn what_survived_in_a_memory_stream_may_stand_before_what_came_later() {
        let history = [
            known(Durability::Memory, false),
            submitted(0),
            died(),
            submitted(1),
            acknowledged(1, 4, 2),
            submitted(0),
            acknowledged(0, 0, 1),
        ];
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
