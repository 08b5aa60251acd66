//! Stale read: whoever asks where a partition ends hears an end that holds everything that was acknowledged before it asked,
//! by more than the bound that the stream declares. Without a declaration the bound is zero: a partition's leader answers,
//! and knows what it acknowledged. A `memory` stream is acknowledged before it is visible, so it says nothing here. What a death may take is `acknowledged_is_never_weaker_than_its_level`'s.
//!
//! An observation costs a search; each acknowledged end is kept once.

use std::collections::BTreeMap;

use tiderace_base::collections::Map;
use tiderace_base::ids::PartitionKey;

use super::Property;
use crate::knowledge::Knowledge;
use crate::observation::{Kind, Observation, Reader};

/// Acknowledged ends and when they were heard of, in order; only those that grew.
#[derive(Debug, Default)]
struct Ends(Vec<(u64, u64)>);

impl Ends {
    fn grow(&mut self, at_ns: u64, end: u64) {
        if self.0.last().is_none_or(|(_, last)| *last < end) {
            self.0.push((at_ns, end));
        }
    }

    /// What was acknowledged at this time or before.
    fn by(&self, at_ns: u64) -> u64 {
        let count = self.0.partition_point(|(heard_ns, _)| *heard_ns <= at_ns);
        count.checked_sub(1).map_or(0, |last| self.0[last].1)
    }
}

/// What was acknowledged since a node died last, and what each reader has to hear.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    ends: BTreeMap<PartitionKey, Ends>,
    staleness_ns_max: BTreeMap<u64, u64>,
    asked: Map<Reader, u64>,
    /// Somebody has asked behind an acknowledgement.
    compares: bool,
}

impl Property for Checker {
    fn name(&self) -> &'static str {
        "reads_are_never_stale"
    }

    fn judges(&self) -> &'static [Kind] {
        &[Kind::Positioned]
    }

    fn follows(&self) -> &'static [Kind] {
        &[
            Kind::StalenessDeclared,
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
            Observation::StalenessDeclared {
                stream,
                staleness_ns_max,
            } => {
                self.staleness_ns_max.insert(*stream, *staleness_ns_max);
            }
            Observation::Acknowledged { batch, offset, .. }
                if !knowledge.is_volatile(batch.partition) =>
            {
                let records = knowledge.sent(batch).map_or(1, |sent| sent.records);
                let ends = self.ends.entry(batch.partition).or_default();
                ends.grow(knowledge.at_ns(), offset + u64::from(records));
            }
            Observation::NodeDied { .. } | Observation::LinkLost { .. } => {
                self.ends.clear();
                // What was asked of the run before is answered by nobody, or by a run that knows less of `memory`.
                self.asked.clear();
            }
            Observation::Asked { reader, partition } => {
                let bound_ns = self.staleness_ns_max.get(&partition.stream.get());
                let by_ns = knowledge
                    .at_ns()
                    .checked_sub(bound_ns.copied().unwrap_or(0));
                let ends = self.ends.get(partition);
                let least = by_ns.zip(ends).map_or(0, |(by_ns, ends)| ends.by(by_ns));
                self.compares |= least > 0;
                self.asked.insert(*reader, least);
            }
            Observation::Positioned {
                reader,
                partition,
                end,
                ..
            } => {
                let least = self.asked.remove(reader).unwrap_or(0);
                if *end < least {
                    return Err(format!(
                        "{partition}: {reader:?} hears that the end is {end}; long enough before it asked, everything \
                         below {least} was acknowledged"
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

    #[test]
    fn an_answer_that_lacks_what_was_acknowledged_before_is_noticed() {
        let begun = [submitted(0), acknowledged(0, 0, 1), asked(1)];
        let history = |end| [&begun[..], &[told_end(1, 0, end)]].concat();
        assert_refuses_the_last(&mut Checker::default(), &history(1));
        assert_accepts(&mut Checker::default(), &history(2));
    }

    #[test]
    fn memory_is_visible_when_it_is_on_the_disk() {
        let history = [
            known(Durability::Memory, false),
            submitted(0),
            acknowledged(0, 0, 1),
            asked(1),
            told_end(1, 0, 0),
        ];
        assert_accepts(&mut Checker::default(), &history);
    }

    #[test]
    fn what_is_acknowledged_behind_the_question_need_not_be_in_the_answer() {
        let history = [
            asked(1),
            submitted(0),
            acknowledged(0, 0, 1),
            told_end(1, 0, 0),
        ];
        assert_accepts(&mut Checker::default(), &history);
    }

    #[test]
    fn a_declared_bound_holds_to_the_nanosecond() {
        // Acknowledged at 2 ns, asked at 4 ns.
        let history = |staleness_ns_max| {
            [
                Observation::StalenessDeclared {
                    stream: PARTITION.stream.get(),
                    staleness_ns_max,
                },
                submitted(0),
                acknowledged(0, 0, 1),
                Observation::Healed,
                asked(1),
                told_end(1, 0, 0),
            ]
        };
        assert_accepts(&mut Checker::default(), &history(3));
        assert_refuses_the_last(&mut Checker::default(), &history(2));
    }
}
