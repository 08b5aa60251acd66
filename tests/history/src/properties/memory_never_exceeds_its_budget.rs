//! Memory above budget: no part of a node ever holds more than its share of the memory that the node was given. The node
//! says what each part holds; whoever watches it asks now and then, and the parts keep their own peaks in check by assertions.
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
        "memory_never_exceeds_its_budget"
    }

    fn judges(&self) -> &'static [Kind] {
        &[Kind::MemoryHeld]
    }

    fn observe(&mut self, observation: &Observation, _: &Knowledge) -> Result<(), String> {
        match observation {
            Observation::MemoryHeld {
                node,
                shard,
                part,
                held,
                budget,
            } if held > budget => Err(format!(
                "node {node}, shard {shard}: {part} is {held}, and the budget is {budget}"
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::planted::*;
    use super::*;

    #[test]
    fn a_part_that_holds_more_than_its_share_is_noticed() {
        let holds = |held| Observation::MemoryHeld {
            node: 0,
            shard: 1,
            part: "send_held_bytes".into(),
            held,
            budget: 100,
        };
        assert_refuses_the_last(&mut Checker, &[holds(100), holds(101)]);
        assert_accepts(&mut Checker, &[holds(100), died(), holds(0)]);
    }
}
