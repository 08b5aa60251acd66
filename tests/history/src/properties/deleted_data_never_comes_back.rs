//! What a node dropped of a deleted stream stays dropped. Its tombstone is cleared when every shard has said so; a
//! partition that a restart brings back afterwards belongs to a stream that nobody knows, and would be kept for ever. The
//! catalogue knows a stream before any shard takes a batch for it, so there is no other way to such a partition.
//!
//! An observation costs constant time.

use super::Property;
use crate::knowledge::Knowledge;
use crate::observation::{Kind, Observation};

/// Judges what nodes hold.
#[derive(Debug, Default)]
pub(crate) struct Checker;

impl Property for Checker {
    fn name(&self) -> &'static str {
        "deleted_data_never_comes_back"
    }

    fn judges(&self) -> &'static [Kind] {
        &[Kind::Strangers]
    }

    fn observe(&mut self, observation: &Observation, _: &Knowledge) -> Result<(), String> {
        match observation {
            Observation::Strangers { node, partitions } if *partitions > 0 => Err(format!(
                "node {node} holds {partitions} partitions of streams that its catalogue does not know"
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::planted::{assert_accepts, assert_refuses_the_last, died};
    use super::*;

    #[test]
    fn a_partition_that_a_restart_brought_back_is_noticed() {
        let holds = |partitions| Observation::Strangers {
            node: 0,
            partitions,
        };
        assert_refuses_the_last(&mut Checker, &[holds(0), died(), holds(1)]);
        assert_accepts(&mut Checker, &[holds(0), died(), holds(0)]);
    }
}
