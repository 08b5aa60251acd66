//! Committed-offset regression: a group stands no lower than where it was moved to, unless a member asked to go back. A wish
//! without an answer is indeterminate: it may have moved the group or not. The product has no groups yet; planted histories
//! keep this checker until it has.
//!
//! An observation costs a search, amortised.

use std::collections::BTreeMap;

use tiderace_base::ids::PartitionKey;

use super::Property;
use crate::knowledge::Knowledge;
use crate::observation::{Kind, Observation};

#[derive(Debug, Default)]
struct Position {
    /// The group stands here or further on.
    least: u64,
    /// The furthest that was asked for since a member asked to go back.
    furthest: u64,
    /// Wishes without an answer, of those that raise what is known when they have one.
    open: BTreeMap<u64, u64>,
}

/// Where each group has to stand.
#[derive(Debug, Default)]
pub(crate) struct Checker(BTreeMap<(u128, PartitionKey), Position>);

impl Property for Checker {
    fn name(&self) -> &'static str {
        "committed_offsets_never_go_back"
    }

    fn judges(&self) -> &'static [Kind] {
        &[Kind::GroupStands]
    }

    fn follows(&self) -> &'static [Kind] {
        &[Kind::GroupMoveAsked, Kind::GroupMoved]
    }

    fn observe(&mut self, observation: &Observation, _: &Knowledge) -> Result<(), String> {
        match observation {
            Observation::GroupMoveAsked {
                group,
                partition,
                wish,
                offset,
            } => {
                let position = self.0.entry((*group, *partition)).or_default();
                if *offset < position.furthest {
                    // Back: from now on answers to what was asked before say nothing.
                    position.open.clear();
                    position.least = position.least.min(*offset);
                }
                position.furthest = *offset;
                position.open.insert(*wish, *offset);
            }
            Observation::GroupMoved {
                group,
                partition,
                wish,
            } => {
                let position = self.0.entry((*group, *partition)).or_default();
                if let Some(offset) = position.open.remove(wish) {
                    position.least = position.least.max(offset);
                }
            }
            Observation::GroupStands {
                group,
                partition,
                offset,
            } => {
                let position = self.0.entry((*group, *partition)).or_default();
                if *offset < position.least {
                    return Err(format!(
                        "{partition}: group {group:x} is said to stand at {offset}, and it was moved to {}",
                        position.least
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

    const GROUP: u128 = 9;

    fn ask(wish: u64, offset: u64) -> Observation {
        Observation::GroupMoveAsked {
            group: GROUP,
            partition: PARTITION,
            wish,
            offset,
        }
    }

    fn moved(wish: u64) -> Observation {
        Observation::GroupMoved {
            group: GROUP,
            partition: PARTITION,
            wish,
        }
    }

    fn stands(offset: u64) -> Observation {
        Observation::GroupStands {
            group: GROUP,
            partition: PARTITION,
            offset,
        }
    }

    #[test]
    fn a_group_that_stands_before_its_position_is_noticed() {
        let history = |offset| {
            [
                ask(1, 5),
                moved(1),
                ask(2, 9),
                moved(2),
                died(),
                stands(offset),
            ]
        };
        assert_refuses_the_last(&mut Checker::default(), &history(8));
        assert_accepts(&mut Checker::default(), &history(9));
    }

    #[test]
    fn a_wish_without_an_answer_may_have_moved_it_or_not() {
        for offset in [5, 9] {
            let history = [ask(1, 5), moved(1), ask(2, 9), stands(offset)];
            assert_accepts(&mut Checker::default(), &history);
        }
    }

    #[test]
    fn a_member_may_ask_to_go_back_and_late_answers_say_nothing_then() {
        let history = [
            ask(1, 9),
            ask(2, 3),
            moved(1),
            stands(3),
            moved(2),
            stands(3),
        ];
        assert_accepts(&mut Checker::default(), &history);
        let history = [ask(1, 9), ask(2, 3), moved(2), stands(2)];
        assert_refuses_the_last(&mut Checker::default(), &history);
    }
}
