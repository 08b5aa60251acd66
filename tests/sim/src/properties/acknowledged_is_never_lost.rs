//! What was acknowledged is there: at the offset that the acknowledgement named, with the content that was sent, to every
//! reader that passes it, whatever happened to the node in between; and what a node said to hold without saying where is
//! somewhere. Acknowledgements of `memory` streams end with the process; retention may take what is old, where the stream
//! has one.

use std::collections::{BTreeMap, BTreeSet};

use tiderace_base::ids::PartitionKey;

use super::{Property, Streams};
use crate::history::{BatchName, Observation, Reader};

#[derive(Clone, Copy, Debug)]
struct Content {
    batch: BatchName,
    records: u32,
    digest: u64,
}

#[derive(Debug)]
struct Reading {
    start: u64,
    /// Where it began.
    from: u64,
    /// The batches it saw, by offset.
    seen: BTreeMap<u64, Option<BatchName>>,
}

/// Acknowledged batches by place, and what each reader saw.
#[derive(Debug, Default)]
pub(super) struct Checker {
    streams: Streams,
    submitted: BTreeMap<BatchName, (u32, u64)>,
    acknowledged: BTreeMap<PartitionKey, BTreeMap<u64, Content>>,
    /// What a node said to hold without saying where.
    stored: BTreeMap<PartitionKey, BTreeSet<BatchName>>,
    readers: BTreeMap<Reader, Reading>,
}

impl Checker {
    /// The acknowledged batch that holds a record of the range, if there is one.
    fn overlapping(
        &self,
        partition: PartitionKey,
        from: u64,
        until: u64,
    ) -> Option<(u64, Content)> {
        let (offset, content) = self
            .acknowledged
            .get(&partition)?
            .range(..until)
            .next_back()?;
        (offset + u64::from(content.records) > from).then_some((*offset, *content))
    }
}

impl Property for Checker {
    fn name(&self) -> &'static str {
        "acknowledged_is_never_lost"
    }

    fn observe(&mut self, observation: &Observation) -> Result<(), String> {
        self.streams.observe(observation);
        match observation {
            Observation::Submitted {
                batch,
                records,
                digest,
                ..
            } => {
                self.submitted.insert(*batch, (*records, *digest));
            }
            Observation::Acknowledged { batch, offset, .. } => {
                let Some((records, digest)) = self.submitted.get(batch).copied() else {
                    return Err(format!("{batch:?} is acknowledged and was never sent"));
                };
                let until = offset + u64::from(records);
                if let Some((other_offset, other)) =
                    self.overlapping(batch.partition, *offset, until)
                    && (other.batch != *batch || other_offset != *offset)
                {
                    return Err(format!(
                        "{batch:?} is acknowledged at {offset}, where {:?} was acknowledged at {other_offset}",
                        other.batch
                    ));
                }
                self.acknowledged
                    .entry(batch.partition)
                    .or_default()
                    .insert(
                        *offset,
                        Content {
                            batch: *batch,
                            records,
                            digest,
                        },
                    );
            }
            Observation::Positioned {
                reader,
                next,
                start,
                ..
            } => {
                self.readers.insert(
                    *reader,
                    Reading {
                        start: *start,
                        from: *next,
                        seen: BTreeMap::new(),
                    },
                );
            }
            Observation::Delivered {
                reader,
                partition,
                batch,
                offset,
                records,
                digest,
                ..
            } => {
                if let Some(reading) = self.readers.get_mut(reader) {
                    reading.seen.insert(*offset, *batch);
                }
                let until = offset + u64::from(*records);
                if let Some((place, content)) = self.overlapping(*partition, *offset, until)
                    && (Some(content.batch) != *batch
                        || place != *offset
                        || content.digest != *digest
                        || content.records != *records)
                {
                    return Err(format!(
                        "{batch:?} with {records} records and digest {digest:x} stands at {offset}, where {content:?} was \
                         acknowledged at {place}"
                    ));
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
            } => {
                let Some(reading) = self.readers.get(reader) else {
                    return Ok(());
                };
                let acknowledged = self.acknowledged.entry(*partition).or_default();
                for (offset, content) in acknowledged.iter() {
                    let until = offset + u64::from(content.records);
                    let kept = !self.streams.trims(*partition) || until > reading.start;
                    let passed = until > reading.from || reading.from == reading.start;
                    if kept && passed && !reading.seen.contains_key(offset) {
                        return Err(format!(
                            "{content:?} was acknowledged at {offset}; {reader:?} has read from {} (start {}) to the end \
                             {end} and has not seen it",
                            reading.from, reading.start
                        ));
                    }
                }
                let whole = reading.from == 0 && !self.streams.trims(*partition);
                let stored = self.stored.get(partition).filter(|_| whole);
                let seen: BTreeSet<BatchName> = reading.seen.values().flatten().copied().collect();
                let missing = stored.and_then(|stored| stored.difference(&seen).next());
                if let Some(batch) = missing {
                    return Err(format!(
                        "a node said to hold {batch:?}; {reader:?} has read everything and has not seen it"
                    ));
                }
            }
            Observation::Stored { batch } => {
                let stored = self.stored.entry(batch.partition).or_default();
                stored.insert(*batch);
            }
            Observation::Forgotten { batch } if !self.streams.is_volatile(batch.partition) => {
                return Err(format!(
                    "{batch:?} was acknowledged, and the node expects it or an earlier one"
                ));
            }
            Observation::NodeDied { .. } => {
                let streams = &self.streams;
                self.acknowledged
                    .retain(|partition, _| !streams.is_volatile(*partition));
                self.stored
                    .retain(|partition, _| !streams.is_volatile(*partition));
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

    fn read_through(end: u64) -> Observation {
        Observation::ReadThrough {
            reader: Reader(1),
            partition: PARTITION,
            end,
        }
    }

    #[test]
    fn a_lost_tail_is_noticed() {
        assert_refuses_the_last(
            &mut Checker::default(),
            &[
                submitted(0),
                acknowledged(0, 0, 1),
                submitted(1),
                acknowledged(1, 2, 1),
                died(),
                positioned(1, 0),
                delivered(1, 0, 0, 1),
                read_through(2),
            ],
        );
    }

    #[test]
    fn a_producer_that_was_forgotten_is_noticed() {
        let forgotten = Observation::Forgotten { batch: batch(0) };
        let history = [submitted(0), acknowledged(0, 0, 1), died(), forgotten];
        assert_refuses_the_last(&mut Checker::default(), &history);
    }

    #[test]
    fn what_was_said_to_be_held_and_is_nowhere_is_noticed() {
        let stored = |seq| Observation::Stored { batch: batch(seq) };
        let (first, second) = (delivered(1, 0, 0, 1), read_through(2));
        let read = [positioned(1, 0), first, second];
        let mut history = vec![submitted(0), submitted(1), stored(0)];
        history.extend(read.clone());
        assert_accepts(&mut Checker::default(), &history);
        let mut history = vec![submitted(0), submitted(1), stored(1)];
        history.extend(read);
        assert_refuses_the_last(&mut Checker::default(), &history);
    }

    #[test]
    fn another_batch_at_the_same_place_is_noticed() {
        assert_refuses_the_last(
            &mut Checker::default(),
            &[
                submitted(0),
                acknowledged(0, 0, 1),
                positioned(1, 0),
                delivered(1, 5, 0, 2),
            ],
        );
        assert_refuses_the_last(
            &mut Checker::default(),
            &[
                submitted(0),
                submitted(1),
                acknowledged(0, 0, 1),
                acknowledged(1, 1, 1),
            ],
        );
    }

    #[test]
    fn other_content_under_the_same_name_is_noticed() {
        let changed = Observation::Delivered {
            reader: Reader(1),
            partition: PARTITION,
            batch: Some(batch(0)),
            offset: 0,
            records: 2,
            digest: 99,
            epoch: 1,
            append_time_us: 0,
        };
        assert_refuses_the_last(
            &mut Checker::default(),
            &[
                submitted(0),
                acknowledged(0, 0, 1),
                positioned(1, 0),
                changed,
            ],
        );
    }

    #[test]
    fn memory_ends_with_the_process_and_retention_takes_what_is_old() {
        let known = |durability, trims| Observation::StreamKnown {
            stream: PARTITION.stream.get(),
            durability,
            trims,
        };
        assert_accepts(
            &mut Checker::default(),
            &[
                known(tiderace_base::catalogue::Durability::Memory, false),
                submitted(0),
                acknowledged(0, 0, 1),
                died(),
                positioned(1, 0),
                read_through(0),
            ],
        );
        assert_accepts(
            &mut Checker::default(),
            &[
                known(tiderace_base::catalogue::Durability::Local, true),
                submitted(0),
                acknowledged(0, 0, 1),
                positioned(1, 0),
                Observation::GapTold {
                    reader: Reader(1),
                    from: 0,
                    to: 2,
                },
                read_through(2),
            ],
        );
    }
}
