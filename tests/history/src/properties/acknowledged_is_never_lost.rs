//! Lost write: what was acknowledged is there for whoever reads from the first record that is kept to the end, whatever
//! happened to the node in between; and what a node said to hold without saying where is somewhere. Acknowledgements of
//! `memory` streams end with the process; retention may take what is old, where the stream has one.
//!
//! An observation costs a search; a reader that reports that it has read everything costs as much again as what it read
//! and what was acknowledged, so a history is judged in O(n log n) when readers report once.

use std::collections::{BTreeMap, BTreeSet};

use tiderace_base::collections::Map;
use tiderace_base::ids::PartitionKey;

use super::Property;
use crate::knowledge::Knowledge;
use crate::observation::{BatchName, Kind, Observation, Reader};

#[derive(Clone, Copy, Debug)]
struct Content {
    batch: BatchName,
    records: u32,
}

#[derive(Debug)]
struct Reading {
    start: u64,
    /// Where it began.
    from: u64,
    /// The batches it saw, by offset, as they came.
    seen: Vec<(u64, Option<BatchName>)>,
}

/// Acknowledged batches by place, and what each reader saw.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    acknowledged: BTreeMap<PartitionKey, BTreeMap<u64, Content>>,
    /// What a node said to hold without saying where.
    stored: BTreeMap<PartitionKey, BTreeSet<BatchName>>,
    readers: Map<Reader, Reading>,
}

impl Checker {
    /// Holds what was acknowledged against what a reader saw that reports that it has read everything.
    fn audit(
        &mut self,
        reader: Reader,
        partition: PartitionKey,
        end: u64,
        knowledge: &Knowledge,
    ) -> Result<(), String> {
        let Some(reading) = self.readers.get_mut(&reader) else {
            return Ok(());
        };
        // They came in order unless another property is broken.
        reading.seen.sort_unstable_by_key(|(offset, _)| *offset);
        let trims = knowledge.trims(partition);
        let mut seen = reading.seen.iter().map(|(offset, _)| *offset).peekable();
        for (offset, content) in self.acknowledged.get(&partition).into_iter().flatten() {
            let until = offset + u64::from(content.records);
            let kept = !trims || until > reading.start;
            let passed = until > reading.from || reading.from == reading.start;
            while seen.next_if(|seen| seen < offset).is_some() {}
            if kept && passed && seen.peek() != Some(offset) {
                let (batch, records) = (content.batch, content.records);
                return Err(format!(
                    "{batch:?} with {records} records was acknowledged at {offset}; {reader:?} has read from {} (start {}) to the end \
                     {end} and has not seen it",
                    reading.from, reading.start
                ));
            }
        }
        if reading.from > 0 || trims {
            return Ok(());
        }
        if let Some(stored) = self.stored.get(&partition) {
            let seen: BTreeSet<BatchName> = reading
                .seen
                .iter()
                .filter_map(|(_, batch)| *batch)
                .collect();
            if let Some(batch) = stored.difference(&seen).next() {
                return Err(format!(
                    "a node said to hold {batch:?}; {reader:?} has read everything and has not seen it"
                ));
            }
        }
        Ok(())
    }
}

impl Property for Checker {
    fn name(&self) -> &'static str {
        "acknowledged_is_never_lost"
    }

    fn judges(&self) -> &'static [Kind] {
        &[Kind::Acknowledged, Kind::ReadThrough, Kind::Forgotten]
    }

    fn follows(&self) -> &'static [Kind] {
        &[
            Kind::Positioned,
            Kind::Delivered,
            Kind::GapTold,
            Kind::Stored,
            Kind::NodeDied,
            Kind::LinkLost,
        ]
    }

    fn observe(&mut self, observation: &Observation, knowledge: &Knowledge) -> Result<(), String> {
        match observation {
            Observation::Acknowledged { batch, offset, .. } => {
                let Some(sent) = knowledge.sent(batch) else {
                    return Err(format!("{batch:?} is acknowledged and was never sent"));
                };
                let (batch, records) = (*batch, sent.records);
                let acknowledged = self.acknowledged.entry(batch.partition).or_default();
                acknowledged.insert(*offset, Content { batch, records });
            }
            Observation::Positioned {
                reader,
                next,
                start,
                ..
            } => {
                let reading = Reading {
                    start: *start,
                    from: *next,
                    seen: Vec::new(),
                };
                self.readers.insert(*reader, reading);
            }
            Observation::Delivered {
                reader,
                batch,
                offset,
                ..
            } => {
                if let Some(reading) = self.readers.get_mut(reader) {
                    reading.seen.push((*offset, *batch));
                }
            }
            Observation::GapTold { reader, to, .. } => {
                if let Some(reading) = self.readers.get_mut(reader) {
                    reading.start = reading.start.max(*to);
                }
            }
            Observation::ReadThrough {
                reader,
                partition,
                end,
            } => return self.audit(*reader, *partition, *end, knowledge),
            Observation::Stored { batch } => {
                let stored = self.stored.entry(batch.partition).or_default();
                stored.insert(*batch);
            }
            Observation::Forgotten { batch } if !knowledge.is_volatile(batch.partition) => {
                return Err(format!(
                    "{batch:?} was acknowledged, and the node expects it or an earlier one"
                ));
            }
            Observation::NodeDied { .. } | Observation::LinkLost { .. } => {
                self.acknowledged
                    .retain(|partition, _| !knowledge.is_volatile(*partition));
                self.stored
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
    use tiderace_base::catalogue::Durability;

    #[test]
    fn a_lost_tail_is_noticed() {
        let begun = [
            submitted(0),
            acknowledged(0, 0, 1),
            submitted(1),
            acknowledged(1, 2, 1),
            died(),
            positioned(1, 0),
            delivered(1, 0, 0, 1),
        ];
        let lost = [&begun[..], &[read_through(1, 2)]].concat();
        assert_refuses_the_last(&mut Checker::default(), &lost);
        let whole = [&begun[..], &[delivered(1, 1, 2, 1), read_through(1, 4)]].concat();
        assert_accepts(&mut Checker::default(), &whole);
    }

    #[test]
    fn what_was_sent_and_never_acknowledged_may_be_nowhere() {
        let history = [submitted(0), positioned(1, 0), read_through(1, 0)];
        assert_accepts(&mut Checker::default(), &history);
    }

    #[test]
    fn what_nobody_sent_and_is_acknowledged_is_noticed() {
        assert_refuses_the_last(&mut Checker::default(), &[acknowledged(0, 0, 1)]);
    }

    #[test]
    fn a_producer_that_was_forgotten_is_noticed() {
        let forgotten = Observation::Forgotten { batch: batch(0) };
        let history = [submitted(0), acknowledged(0, 0, 1), died(), forgotten];
        assert_refuses_the_last(&mut Checker::default(), &history);
        let memory = [&[known(Durability::Memory, false)], &history[..]].concat();
        assert_accepts(&mut Checker::default(), &memory);
    }

    #[test]
    fn what_was_said_to_be_held_and_is_nowhere_is_noticed() {
        let stored = |seq| Observation::Stored { batch: batch(seq) };
        let (first, second) = (delivered(1, 0, 0, 1), read_through(1, 2));
        let read = [positioned(1, 0), first, second];
        let mut history = vec![submitted(0), submitted(1), stored(0)];
        history.extend(read.clone());
        assert_accepts(&mut Checker::default(), &history);
        let mut history = vec![submitted(0), submitted(1), stored(1)];
        history.extend(read);
        assert_refuses_the_last(&mut Checker::default(), &history);
    }

    #[test]
    fn memory_ends_with_the_process_and_retention_takes_what_is_old() {
        let gone = [
            known(Durability::Memory, false),
            submitted(0),
            acknowledged(0, 0, 1),
            died(),
            positioned(1, 0),
            read_through(1, 0),
        ];
        assert_accepts(&mut Checker::default(), &gone);
        let trimmed = [
            known(Durability::Local, true),
            submitted(0),
            acknowledged(0, 0, 1),
            positioned(1, 0),
            gap(1, 0, 2),
            read_through(1, 2),
        ];
        assert_accepts(&mut Checker::default(), &trimmed);
        let kept = [&[known(Durability::Local, false)], &trimmed[1..]].concat();
        assert_refuses_the_last(&mut Checker::default(), &kept);
    }
}
