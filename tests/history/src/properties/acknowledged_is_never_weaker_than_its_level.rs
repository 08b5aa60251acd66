//! An acknowledgement claims what its stream's level names. At `local` and `quorum` it claims a disk: a node that died and
//! came back says an end that holds everything that was acknowledged before it died, to the first that asks. At `memory` it
//! claims the process, and nothing when that is over. What losing a disk may take has no observation yet.
//!
//! An observation costs a search; a death costs as much as there are partitions.

use std::collections::BTreeMap;

use tiderace_base::collections::Map;
use tiderace_base::ids::PartitionKey;

use super::Property;
use crate::knowledge::Knowledge;
use crate::observation::{Kind, Observation, Reader};

type Ends = BTreeMap<PartitionKey, u64>;

/// What was acknowledged, and what of it every later run must have.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    acknowledged: Ends,
    /// As it was when a node died last.
    claimed: Ends,
    /// The claim that held when this reader asked.
    asked: Map<Reader, u64>,
    /// Somebody has asked behind a death that had a claim before it.
    compares: bool,
}

impl Property for Checker {
    fn name(&self) -> &'static str {
        "acknowledged_is_never_weaker_than_its_level"
    }

    fn judges(&self) -> &'static [Kind] {
        &[Kind::Positioned]
    }

    fn follows(&self) -> &'static [Kind] {
        &[
            Kind::Acknowledged,
            Kind::Asked,
            Kind::NodeDied,
            Kind::LinkLost,
        ]
    }

    fn is_blind(&self) -> bool {
        !self.compares
    }

    fn observe(&mut self, observation: &Observation, knowledge: &Knowledge) -> Result<(), String> {
        match observation {
            Observation::Acknowledged { batch, offset, .. } => {
                let records = knowledge.sent(batch).map_or(1, |sent| sent.records);
                let end = self.acknowledged.entry(batch.partition).or_default();
                *end = (*end).max(offset + u64::from(records));
            }
            Observation::NodeDied { .. } | Observation::LinkLost { .. } => {
                self.acknowledged
                    .retain(|partition, _| !knowledge.is_volatile(*partition));
                self.claimed.clone_from(&self.acknowledged);
            }
            Observation::Asked { reader, partition } => {
                let claimed = self.claimed.get(partition).copied().unwrap_or(0);
                self.compares |= claimed > 0;
                self.asked.insert(*reader, claimed);
            }
            Observation::Positioned {
                reader,
                partition,
                end,
                ..
            } => {
                let claimed = self.asked.remove(reader).unwrap_or(0);
                if *end < claimed && !knowledge.is_volatile(*partition) {
                    return Err(format!(
                        "{partition}: {reader:?} hears that the end is {end}; before the node died, everything below \
                         {claimed} had been acknowledged as being on a disk"
                    ));
                }
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

    fn after_a_power_loss(durability: Durability, end: u64) -> [Observation; 6] {
        [
            known(durability, false),
            submitted(0),
            acknowledged(0, 0, 1),
            died(),
            asked(1),
            told_end(1, 0, end),
        ]
    }

    #[test]
    fn a_disk_that_was_claimed_and_has_less_is_noticed() {
        for durability in [Durability::Local, Durability::Quorum] {
            assert_refuses_the_last(&mut Checker::default(), &after_a_power_loss(durability, 1));
            assert_accepts(&mut Checker::default(), &after_a_power_loss(durability, 2));
        }
    }

    #[test]
    fn memory_claims_no_disk() {
        let history = after_a_power_loss(Durability::Memory, 0);
        assert_accepts(&mut Checker::default(), &history);
    }

    #[test]
    fn what_was_asked_before_the_death_is_held_to_what_was_claimed_then() {
        let history = [
            asked(1),
            submitted(0),
            acknowledged(0, 0, 1),
            died(),
            told_end(1, 0, 0),
        ];
        assert_accepts(&mut Checker::default(), &history);
    }
}
