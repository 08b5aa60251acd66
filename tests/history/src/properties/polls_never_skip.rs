//! Poll skip: from where a reader begins, every batch holds the offset that comes next. Nothing is passed over unless the
//! reader was told of a gap; a reader that says it has read to the end stands there; and a position lies inside of what is
//! kept.
//!
//! An observation costs a search among readers.

use tiderace_base::collections::Map;

use super::Property;
use crate::knowledge::Knowledge;
use crate::observation::{Kind, Observation, Reader};

/// The next offset of each reader.
#[derive(Debug, Default)]
pub(crate) struct Checker(Map<Reader, u64>);

impl Property for Checker {
    fn name(&self) -> &'static str {
        "polls_never_skip"
    }

    fn judges(&self) -> &'static [Kind] {
        &[
            Kind::Positioned,
            Kind::Delivered,
            Kind::GapTold,
            Kind::ReadThrough,
        ]
    }

    fn observe(&mut self, observation: &Observation, _: &Knowledge) -> Result<(), String> {
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
                self.0.insert(*reader, *next);
            }
            Observation::Delivered {
                reader,
                offset,
                records,
                partition,
                ..
            } => {
                let Some(next) = self.0.get_mut(reader) else {
                    return Err(format!("{reader:?} is given {offset} and has no position"));
                };
                if *offset > *next {
                    return Err(format!(
                        "{partition}: {reader:?} is given {offset} and wants {next}"
                    ));
                }
                *next = offset + u64::from(*records);
            }
            Observation::GapTold { reader, from, to } => {
                let Some(next) = self.0.get_mut(reader) else {
                    return Err(format!("{reader:?} is told of a gap and has no position"));
                };
                if *from > *next || to <= from {
                    return Err(format!(
                        "{reader:?} is told of the gap {from}..{to} and wants {next}"
                    ));
                }
                *next = (*next).max(*to);
            }
            Observation::ReadThrough {
                reader,
                end,
                partition,
            } => {
                let next = self.0.get(reader);
                if next != Some(end) {
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
    fn a_batch_behind_the_next_offset_is_noticed() {
        let history = |offset| {
            let first = delivered(1, 0, 0, 1);
            [positioned(1, 0), first, delivered(1, 1, offset, 1)]
        };
        for offset in [3, 4] {
            assert_refuses_the_last(&mut Checker::default(), &history(offset));
        }
        assert_accepts(&mut Checker::default(), &history(2));
    }

    #[test]
    fn a_gap_moves_the_reader_only_as_far_as_it_is_told() {
        let begun = [positioned(1, 0), gap(1, 0, 10)];
        let history = |offset| [&begun[..], &[delivered(1, 5, offset, 1)]].concat();
        assert_accepts(&mut Checker::default(), &history(10));
        assert_refuses_the_last(&mut Checker::default(), &history(12));
        assert_refuses_the_last(&mut Checker::default(), &[positioned(1, 0), gap(1, 1, 2)]);
    }

    #[test]
    fn a_position_outside_of_what_is_kept_is_noticed() {
        assert_refuses_the_last(&mut Checker::default(), &[positioned(1, 101)]);
        assert_accepts(&mut Checker::default(), &[positioned(1, 100)]);
    }

    #[test]
    fn an_end_that_was_not_reached_is_noticed() {
        let history = |end| {
            [
                positioned(1, 0),
                delivered(1, 0, 0, 1),
                read_through(1, end),
            ]
        };
        assert_refuses_the_last(&mut Checker::default(), &history(3));
        assert_accepts(&mut Checker::default(), &history(2));
    }
}
