//! What a node sends is what the protocol allows: frames that parse, message ids that grow, answers to questions that
//! were asked, batches whose checksums hold and that belong where they were delivered. The clients check; this refuses. That a batch
//! belongs where it was delivered shows in its name.
//!
//! An observation costs constant time.

use super::Property;
use crate::knowledge::Knowledge;
use crate::observation::{Kind, Observation};

/// Refuses what a client could not accept.
#[derive(Debug, Default)]
pub(crate) struct Checker;

impl Property for Checker {
    fn name(&self) -> &'static str {
        "nodes_never_break_the_protocol"
    }

    fn judges(&self) -> &'static [Kind] {
        &[Kind::ProtocolBroken, Kind::Delivered]
    }

    fn observe(&mut self, observation: &Observation, _: &Knowledge) -> Result<(), String> {
        match observation {
            Observation::ProtocolBroken { what } => Err(what.clone()),
            Observation::Delivered {
                partition,
                batch: Some(batch),
                offset,
                ..
            } if batch.partition != *partition => {
                Err(format!("{batch:?} is delivered at {offset} of {partition}"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::planted::{assert_accepts, assert_refuses_the_last, delivered, died};
    use super::*;
    use tiderace_base::ids::PartitionIndex;

    #[test]
    fn what_a_client_cannot_accept_is_noticed() {
        let what = "a frame with a wrong checksum".to_owned();
        let history = [Observation::Healed, Observation::ProtocolBroken { what }];
        assert_refuses_the_last(&mut Checker, &history);
        assert_accepts(&mut Checker, &[Observation::Healed, died()]);
    }

    #[test]
    fn a_batch_of_another_partition_is_noticed() {
        let fine = delivered(1, 0, 0, 1);
        let mut strayed = fine.clone();
        if let Observation::Delivered { partition, .. } = &mut strayed {
            partition.partition = PartitionIndex::new(1);
        }
        assert_refuses_the_last(&mut Checker, &[fine, strayed]);
    }
}
