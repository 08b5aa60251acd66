//! Hole in the middle: offsets are dense. From where a reader began to the end that it reports, every offset is in a batch
//! that somebody was given, or in a gap that somebody was told of. Unlike `polls_never_skip` this looks at the log and not at
//! the steps of one reader, so that it also holds for readers that share the work.
//!
//! An observation costs a search among the ranges of its partition, amortised.

use std::collections::BTreeMap;

use tiderace_base::collections::Map;
use tiderace_base::ids::PartitionKey;

use super::Property;
use crate::knowledge::Knowledge;
use crate::observation::{Kind, Observation, Reader};
use crate::ranges::Ranges;

/// What is accounted for, by partition, and where each reader began.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    logs: BTreeMap<PartitionKey, Ranges>,
    readers: Map<Reader, (PartitionKey, u64)>,
}

impl Property for Checker {
    fn name(&self) -> &'static str {
        "offsets_never_have_holes"
    }

    fn judges(&self) -> &'static [Kind] {
        &[Kind::ReadThrough]
    }

    fn follows(&self) -> &'static [Kind] {
        &[
            Kind::Positioned,
            Kind::Delivered,
            Kind::GapTold,
            Kind::NodeDied,
            Kind::LinkLost,
        ]
    }

    fn observe(&mut self, observation: &Observation, knowledge: &Knowledge) -> Result<(), String> {
        match observation {
            Observation::Positioned {
                reader,
                partition,
                next,
                ..
            } => {
                self.readers.insert(*reader, (*partition, *next));
            }
            Observation::Delivered {
                partition,
                offset,
                records,
                ..
            } => {
                let log = self.logs.entry(*partition).or_default();
                log.insert(*offset, offset + u64::from(*records));
            }
            Observation::GapTold { reader, from, to } => {
                if let Some((partition, _)) = self.readers.get(reader) {
                    self.logs.entry(*partition).or_default().insert(*from, *to);
                }
            }
            Observation::ReadThrough {
                reader,
                partition,
                end,
            } => {
                let Some((_, from)) = self.readers.get(reader) else {
                    return Ok(());
                };
                let log = self.logs.entry(*partition).or_default();
                if let Some(hole) = log.first_missing(*from, *end) {
                    return Err(format!(
                        "{partition}: nobody was ever given offset {hole} or told that it is gone, and {reader:?} has read \
                         from {from} to {end}"
                    ));
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

    #[test]
    fn an_offset_that_nobody_accounts_for_is_noticed() {
        let begun = [
            positioned(1, 0),
            delivered(1, 0, 0, 1),
            delivered(1, 2, 4, 1),
        ];
        let hole = [&begun[..], &[read_through(1, 6)]].concat();
        assert_refuses_the_last(&mut Checker::default(), &hole);
        let told = [&begun[..], &[gap(1, 2, 4), read_through(1, 6)]].concat();
        assert_accepts(&mut Checker::default(), &told);
        let shared = [&begun[..], &[delivered(2, 1, 2, 1), read_through(1, 6)]].concat();
        assert_accepts(&mut Checker::default(), &shared);
    }

    #[test]
    fn what_lies_before_a_reader_is_not_its_business() {
        let history = [positioned(1, 4), delivered(1, 2, 4, 1), read_through(1, 6)];
        assert_accepts(&mut Checker::default(), &history);
    }
}
