//! A reader sees every offset once and in order, from where it began: nothing is skipped unless it was told of a gap,
//! nothing comes twice, nothing comes before what it asked for except inside the first batch.

use std::collections::BTreeMap;

use super::Property;
use crate::history::{Observation, Reader};

#[derive(Debug)]
struct Reading {
    next: u64,
    /// The first batch after a position may begin before it.
    positioned: bool,
}

/// Where each reader stands.
#[derive(Debug, Default)]
pub(super) struct Checker(BTreeMap<Reader, Reading>);

impl Property for Checker {
    fn name(&self) -> &'static str {
        "offsets_are_dense"
    }

    fn observe(&mut self, observation: &Observation) -> Result<(), String> {
        match observation {
            Observation::Positioned {
                reader,
                next,
                start,
                end,
                partition,
            } => {
                if next < start || next > end {
                    return Err(format!(
                        "{partition}: {reader:?} begins at {next}, outside of {start}..{end}"
                    ));
                }
                self.0.insert(
                    *reader,
                    Reading {
                        next: *next,
                        positioned: true,
                    },
                );
            }
            Observation::Delivered {
                reader,
                offset,
                records,
                partition,
                ..
            } => {
                let Some(reading) = self.0.get_mut(reader) else {
                    return Err(format!("{reader:?} is given {offset} and has no position"));
                };
                let until = offset + u64::from(*records);
                let holds_next = *offset <= reading.next && reading.next < until;
                if !holds_next || (!reading.positioned && *offset != reading.next) {
                    return Err(format!(
                        "{partition}: {reader:?} is given {offset}..{until} and wants {}",
                        reading.next
                    ));
                }
                reading.next = until;
                reading.positioned = false;
            }
            Observation::GapTold { reader, from, to } => {
                let Some(reading) = self.0.get_mut(reader) else {
                    return Err(format!("{reader:?} is told of a gap and has no position"));
                };
                if *from > reading.next || to <= from {
                    return Err(format!(
                        "{reader:?} is told of the gap {from}..{to} and wants {}",
                        reading.next
                    ));
                }
                reading.next = reading.next.max(*to);
                reading.positioned = true;
            }
            Observation::ReadThrough {
                reader,
                end,
                partition,
            } => {
                let next = self.0.get(reader).map(|reading| reading.next);
                if next != Some(*end) {
                    return Err(format!(
                        "{partition}: {reader:?} has read to the end {end} and stands at {next:?}"
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

    #[test]
    fn a_hole_a_repetition_and_a_step_back_are_noticed() {
        for offset in [4, 0, 1, 3] {
            assert_refuses_the_last(
                &mut Checker::default(),
                &[
                    positioned(1, 0),
                    delivered(1, 0, 0, 1),
                    delivered(1, 1, offset, 1),
                ],
            );
        }
    }

    #[test]
    fn the_first_batch_may_begin_before_the_position_and_must_hold_it() {
        assert_accepts(
            &mut Checker::default(),
            &[
                positioned(1, 1),
                delivered(1, 0, 0, 1),
                delivered(1, 1, 2, 1),
            ],
        );
        assert_refuses_the_last(
            &mut Checker::default(),
            &[positioned(1, 2), delivered(1, 0, 0, 1)],
        );
    }

    #[test]
    fn a_gap_moves_the_reader_only_when_it_is_told() {
        let gap = Observation::GapTold {
            reader: Reader(1),
            from: 0,
            to: 10,
        };
        assert_accepts(
            &mut Checker::default(),
            &[positioned(1, 0), gap.clone(), delivered(1, 5, 10, 1)],
        );
        assert_refuses_the_last(
            &mut Checker::default(),
            &[positioned(1, 0), gap, delivered(1, 5, 12, 1)],
        );
    }

    #[test]
    fn a_position_outside_of_what_is_kept_is_noticed() {
        assert_refuses_the_last(&mut Checker::default(), &[positioned(1, 101)]);
    }
}
