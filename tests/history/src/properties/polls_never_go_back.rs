//! Non-monotonic poll: a reader is given nothing twice and nothing from before where it stands. Only the first batch behind a
//! position or a gap may begin before it, when it holds it: the reader passes over those records.
//!
//! An observation costs a search among readers.

use tiderace_base::collections::Map;

use super::Property;
use crate::knowledge::Knowledge;
use crate::observation::{Kind, Observation, Reader};

#[derive(Debug)]
struct Reading {
    next: u64,
    /// The first batch after a position may begin before it.
    positioned: bool,
}

/// Where each reader stands.
#[derive(Debug, Default)]
pub(crate) struct Checker(Map<Reader, Reading>);

impl Property for Checker {
    fn name(&self) -> &'static str {
        "polls_never_go_back"
    }

    fn judges(&self) -> &'static [Kind] {
        &[Kind::Delivered]
    }

    fn follows(&self) -> &'static [Kind] {
        &[Kind::Positioned, Kind::GapTold]
    }

    fn observe(&mut self, observation: &Observation, _: &Knowledge) -> Result<(), String> {
        match observation {
            Observation::Positioned { reader, next, .. } => {
                let (next, positioned) = (*next, true);
                self.0.insert(*reader, Reading { next, positioned });
            }
            Observation::Delivered {
                reader,
                offset,
                records,
                partition,
                ..
            } => {
                let Some(reading) = self.0.get_mut(reader) else {
                    return Ok(());
                };
                let until = offset + u64::from(*records);
                let next = reading.next;
                if until <= next || (*offset < next && !reading.positioned) {
                    return Err(format!(
                        "{partition}: {reader:?} is given {offset}..{until} and wants {next}"
                    ));
                }
                reading.next = until;
                reading.positioned = false;
            }
            Observation::GapTold { reader, to, .. } => {
                if let Some(reading) = self.0.get_mut(reader) {
                    reading.next = reading.next.max(*to);
                    reading.positioned = true;
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

    #[test]
    fn a_repetition_and_a_step_back_are_noticed() {
        let history = |offset| {
            let first = delivered(1, 0, 10, 1);
            [positioned(1, 10), first, delivered(1, 1, offset, 1)]
        };
        for offset in [10, 11, 3] {
            assert_refuses_the_last(&mut Checker::default(), &history(offset));
        }
        assert_accepts(&mut Checker::default(), &history(12));
    }

    #[test]
    fn the_first_batch_may_begin_before_the_position_and_must_hold_it() {
        let history = [
            positioned(1, 1),
            delivered(1, 0, 0, 1),
            delivered(1, 1, 2, 1),
        ];
        assert_accepts(&mut Checker::default(), &history);
        let before = [positioned(1, 2), delivered(1, 0, 0, 1)];
        assert_refuses_the_last(&mut Checker::default(), &before);
    }

    #[test]
    fn whoever_begins_anew_may_read_again() {
        let history = [
            positioned(1, 0),
            delivered(1, 0, 0, 1),
            positioned(1, 0),
            delivered(1, 0, 0, 1),
        ];
        assert_accepts(&mut Checker::default(), &history);
    }
}
