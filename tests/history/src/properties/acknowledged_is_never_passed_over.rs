//! Unseen: no reader goes on behind an acknowledged batch without having been given it. It is told of at once, where
//! `acknowledged_is_never_lost` waits for somebody who has read everything; an acknowledgement that comes after the reader
//! passed counts too. A gap may pass over a batch only where the stream lets old records go.
//!
//! An observation costs a search among the ranges of its partition, amortised.

use std::collections::BTreeMap;

use tiderace_base::collections::Map;
use tiderace_base::ids::PartitionKey;

use super::Property;
use crate::knowledge::Knowledge;
use crate::observation::{Kind, Observation, Reader};
use crate::ranges::Ranges;

#[derive(Debug, Default)]
struct Log {
    acknowledged: Ranges,
    /// What some reader passed and was not given.
    passed: Ranges,
}

/// Where readers stand, and what they passed.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    logs: BTreeMap<PartitionKey, Log>,
    readers: Map<Reader, (PartitionKey, u64)>,
}

impl Checker {
    fn pass(
        &mut self,
        reader: Reader,
        partition: PartitionKey,
        from: u64,
        until: u64,
    ) -> Result<(), String> {
        let log = self.logs.entry(partition).or_default();
        if let Some((first, last)) = log.acknowledged.first_in(from, until) {
            return Err(format!(
                "{partition}: {reader:?} goes on at {until} and was not given {first}..{last}, which is acknowledged"
            ));
        }
        log.passed.insert(from, until);
        Ok(())
    }
}

impl Property for Checker {
    fn name(&self) -> &'static str {
        "acknowledged_is_never_passed_over"
    }

    fn judges(&self) -> &'static [Kind] {
        &[Kind::Acknowledged, Kind::Delivered, Kind::GapTold]
    }

    fn follows(&self) -> &'static [Kind] {
        &[Kind::Positioned, Kind::NodeDied, Kind::LinkLost]
    }

    fn observe(&mut self, observation: &Observation, knowledge: &Knowledge) -> Result<(), String> {
        match observation {
            Observation::Acknowledged { batch, offset, .. } => {
                let Some(sent) = knowledge.sent(batch) else {
                    return Ok(());
                };
                let until = offset + u64::from(sent.records);
                let log = self.logs.entry(batch.partition).or_default();
                if let Some((first, last)) = log.passed.first_in(*offset, until) {
                    return Err(format!(
                        "{batch:?} is acknowledged at {offset}, and a reader has passed {first}..{last} without it"
                    ));
                }
                log.acknowledged.insert(*offset, until);
            }
            Observation::Positioned {
                reader,
                partition,
                next,
                ..
            } => {
                self.readers.insert(*reader, (*partition, *next));
            }
            Observation::Delivered {
                reader,
                partition,
                offset,
                records,
                ..
            } => {
                let until = offset + u64::from(*records);
                if let Some((_, next)) = self.readers.get_mut(reader) {
                    let from = std::mem::replace(next, until);
                    if from < *offset {
                        return self.pass(*reader, *partition, from, *offset);
                    }
                }
            }
            Observation::GapTold { reader, to, .. } => {
                if let Some((partition, next)) = self.readers.get_mut(reader) {
                    let (partition, from) = (*partition, *next);
                    *next = from.max(*to);
                    if !knowledge.trims(partition) {
                        return self.pass(*reader, partition, from, *to);
                    }
                }
            }
            Observation::NodeDied { .. } | Observation::LinkLost { .. } => {
                self.logs
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
    use tiderace_base::catalogue::Durability;

    #[test]
    fn a_reader_that_passes_an_acknowledged_batch_is_noticed() {
        let begun = [submitted(1), acknowledged(1, 2, 1), positioned(1, 0)];
        let history = [&begun[..], &[delivered(1, 0, 0, 1), delivered(1, 2, 4, 1)]].concat();
        assert_refuses_the_last(&mut Checker::default(), &history);
        let whole = [
            delivered(1, 0, 0, 1),
            delivered(1, 1, 2, 1),
            delivered(1, 2, 4, 1),
        ];
        assert_accepts(&mut Checker::default(), &[&begun[..], &whole].concat());
    }

    #[test]
    fn an_acknowledgement_behind_a_reader_that_passed_is_noticed() {
        let begun = [submitted(1), positioned(1, 0), delivered(1, 2, 4, 1)];
        let history = [&begun[..], &[acknowledged(1, 2, 1)]].concat();
        assert_refuses_the_last(&mut Checker::default(), &history);
        // Where nothing is acknowledged another property sees to the order.
        assert_accepts(&mut Checker::default(), &begun);
    }

    #[test]
    fn a_gap_may_pass_what_a_stream_lets_go_and_nothing_else() {
        let history = |trims| {
            [
                known(Durability::Local, trims),
                submitted(0),
                acknowledged(0, 0, 1),
                positioned(1, 0),
                gap(1, 0, 2),
            ]
        };
        assert_refuses_the_last(&mut Checker::default(), &history(false));
        assert_accepts(&mut Checker::default(), &history(true));
    }
}
