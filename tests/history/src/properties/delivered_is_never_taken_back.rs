//! Subscribers see only what is durable at the stream's level: no visible end is ever lower than what was delivered before
//! somebody asked for it, whoever died meanwhile, and nobody is told that what it read is not so. Deliveries of `memory`
//! streams end with the process. That the same batch stands there is `offsets_never_disagree`'s.
//!
//! An observation costs a search among partitions or readers.

use std::collections::BTreeMap;

use tiderace_base::collections::Map;
use tiderace_base::ids::PartitionKey;

use super::Property;
use crate::knowledge::Knowledge;
use crate::observation::{Kind, Observation, Reader};

/// How far each partition was ever delivered.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    delivered: BTreeMap<PartitionKey, u64>,
    /// The end of what was delivered to anybody when this reader asked for its position.
    asked: Map<Reader, u64>,
    /// Somebody has asked behind a delivery.
    compares: bool,
}

impl Property for Checker {
    fn name(&self) -> &'static str {
        "delivered_is_never_taken_back"
    }

    fn judges(&self) -> &'static [Kind] {
        &[Kind::Positioned, Kind::PastChanged]
    }

    fn follows(&self) -> &'static [Kind] {
        &[Kind::Delivered, Kind::Asked, Kind::NodeDied, Kind::LinkLost]
    }

    fn is_blind(&self) -> bool {
        !self.compares
    }

    fn observe(&mut self, observation: &Observation, knowledge: &Knowledge) -> Result<(), String> {
        match observation {
            Observation::Delivered {
                partition,
                offset,
                records,
                ..
            } => {
                let end = self.delivered.entry(*partition).or_default();
                *end = (*end).max(offset + u64::from(*records));
            }
            Observation::Asked { reader, partition } => {
                let end = self.delivered.get(partition).copied().unwrap_or(0);
                self.compares |= end > 0;
                self.asked.insert(*reader, end);
            }
            Observation::Positioned {
                reader,
                partition,
                end,
                ..
            } => {
                let least = self.asked.remove(reader).unwrap_or(0);
                if *end < least && !knowledge.is_volatile(*partition) {
                    return Err(format!(
                        "{partition}: {reader:?} hears that the end is {end}; before it asked, {least} had been delivered"
                    ));
                }
            }
            Observation::PastChanged {
                reader,
                partition,
                from,
            } if !knowledge.is_volatile(*partition) => {
                return Err(format!(
                    "{partition}: {reader:?} is told that what it knows from {from} on is not so"
                ));
            }
            Observation::NodeDied { .. } | Observation::LinkLost { .. } => {
                self.delivered
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
    fn an_end_below_what_was_delivered_is_noticed() {
        let history = |end| {
            [
                delivered(1, 0, 99, 1),
                died(),
                asked(2),
                told_end(2, 0, end),
            ]
        };
        assert_refuses_the_last(&mut Checker::default(), &history(100));
        assert_accepts(&mut Checker::default(), &history(101));
    }

    #[test]
    fn an_answer_may_be_older_than_what_others_saw_since_the_question() {
        assert_accepts(
            &mut Checker::default(),
            &[asked(2), delivered(1, 0, 99, 1), positioned(2, 0)],
        );
    }

    #[test]
    fn another_past_is_noticed_unless_it_was_one_of_memory() {
        let history = [
            known(Durability::Local, false),
            delivered(1, 0, 0, 1),
            past_changed(1, 0),
        ];
        assert_refuses_the_last(&mut Checker::default(), &history);
        let memory = [&[known(Durability::Memory, false)], &history[1..]].concat();
        assert_accepts(&mut Checker::default(), &memory);
    }
}
