//! The append time of a partition's entries never goes back with their offsets, whatever the wall clock does and whoever
//! leads.
//!
//! An observation costs a search among the offsets of its partition.

use std::collections::BTreeMap;

use tiderace_base::ids::PartitionKey;

use super::Property;
use crate::knowledge::Knowledge;
use crate::observation::{Kind, Observation};

/// Append times by place.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    times: BTreeMap<PartitionKey, BTreeMap<u64, u64>>,
}

impl Property for Checker {
    fn name(&self) -> &'static str {
        "append_time_never_goes_back"
    }

    fn judges(&self) -> &'static [Kind] {
        &[Kind::Delivered]
    }

    fn follows(&self) -> &'static [Kind] {
        &[Kind::NodeDied, Kind::LinkLost]
    }

    fn observe(&mut self, observation: &Observation, knowledge: &Knowledge) -> Result<(), String> {
        match observation {
            Observation::Delivered {
                partition,
                offset,
                append_time_us,
                ..
            } => {
                let times = self.times.entry(*partition).or_default();
                if times.get(offset) == Some(append_time_us) {
                    // Another reader has been given the same.
                    return Ok(());
                }
                let before = times.range(..offset).next_back();
                let after = times.range(offset + 1..).next();
                if before.is_some_and(|(_, time)| time > append_time_us)
                    || after.is_some_and(|(_, time)| time < append_time_us)
                {
                    return Err(format!(
                        "{partition}: offset {offset} was appended at {append_time_us}, its neighbours at {before:?} and {after:?}"
                    ));
                }
                times.insert(*offset, *append_time_us);
            }
            Observation::NodeDied { .. } | Observation::LinkLost { .. } => {
                self.times
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
    use crate::observation::Reader;

    #[test]
    fn an_earlier_time_at_a_later_offset_is_noticed() {
        let stale = Observation::Delivered {
            reader: Reader(1),
            partition: PARTITION,
            batch: Some(batch(9)),
            offset: 20,
            records: 1,
            digest: 0,
            epoch: 1,
            append_time_us: 3,
        };
        assert_refuses_the_last(&mut Checker::default(), &[delivered(1, 0, 10, 1), stale]);
    }

    #[test]
    fn readers_may_come_in_any_order() {
        assert_accepts(
            &mut Checker::default(),
            &[
                delivered(1, 5, 10, 1),
                delivered(2, 0, 0, 1),
                delivered(2, 5, 10, 1),
            ],
        );
    }
}
