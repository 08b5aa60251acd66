//! Subscribers see only what is durable at the stream's level: what one of them was given stands at the same offset, with
//! the same content, for everyone after, and no visible end is ever lower than what was delivered. Deliveries of `memory`
//! streams end with the process.

use std::collections::BTreeMap;

use tiderace_base::ids::PartitionKey;

use super::{Property, Streams};
use crate::history::{BatchName, Observation, Reader};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Content {
    batch: Option<BatchName>,
    records: u32,
    digest: u64,
    epoch: u32,
}

/// What was ever delivered, by place.
#[derive(Debug, Default)]
pub(super) struct Checker {
    streams: Streams,
    delivered: BTreeMap<PartitionKey, BTreeMap<u64, Content>>,
    /// The end of what was delivered to anybody when this reader asked for its position.
    asked: BTreeMap<Reader, u64>,
}

impl Property for Checker {
    fn name(&self) -> &'static str {
        "delivered_is_never_taken_back"
    }

    fn observe(&mut self, observation: &Observation) -> Result<(), String> {
        self.streams.observe(observation);
        match observation {
            Observation::Delivered {
                partition,
                batch,
                offset,
                records,
                digest,
                epoch,
                ..
            } => {
                let content = Content {
                    batch: *batch,
                    records: *records,
                    digest: *digest,
                    epoch: *epoch,
                };
                let delivered = self.delivered.entry(*partition).or_default();
                let until = offset + u64::from(*records);
                if let Some((place, other)) = delivered.range(..until).next_back()
                    && place + u64::from(other.records) > *offset
                    && (place != offset || *other != content)
                {
                    return Err(format!(
                        "{partition}: {content:?} stands at {offset}, where {other:?} was delivered at {place}"
                    ));
                }
                delivered.insert(*offset, content);
            }
            Observation::Asked { reader, partition } => {
                let last = self
                    .delivered
                    .get(partition)
                    .and_then(|delivered| delivered.iter().next_back());
                let end = last.map_or(0, |(offset, content)| offset + u64::from(content.records));
                self.asked.insert(*reader, end);
            }
            Observation::Positioned {
                reader,
                partition,
                end,
                ..
            } => {
                let least = self.asked.remove(reader).unwrap_or(0);
                if *end < least && !self.streams.is_volatile(*partition) {
                    return Err(format!(
                        "{partition}: {reader:?} hears that the end is {end}; before it asked, {least} had been delivered"
                    ));
                }
            }
            Observation::PastChanged {
                reader,
                partition,
                from,
            } if !self.streams.is_volatile(*partition) => {
                return Err(format!(
                    "{partition}: {reader:?} is told that what it knows from {from} on is not so"
                ));
            }
            Observation::NodeDied { .. } => {
                let streams = &self.streams;
                self.delivered
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

    #[test]
    fn a_delivered_batch_that_is_replaced_is_noticed() {
        assert_refuses_the_last(
            &mut Checker::default(),
            &[delivered(1, 0, 0, 1), died(), delivered(2, 9, 0, 2)],
        );
        assert_refuses_the_last(
            &mut Checker::default(),
            &[delivered(1, 0, 0, 1), died(), delivered(2, 9, 1, 2)],
        );
    }

    #[test]
    fn an_end_below_what_was_delivered_is_noticed() {
        assert_refuses_the_last(
            &mut Checker::default(),
            &[delivered(1, 0, 99, 1), died(), asked(2), positioned(2, 0)],
        );
    }

    #[test]
    fn an_answer_may_be_older_than_what_others_saw_since_the_question() {
        assert_accepts(
            &mut Checker::default(),
            &[asked(2), delivered(1, 0, 99, 1), positioned(2, 0)],
        );
    }

    #[test]
    fn another_past_is_noticed() {
        let changed = Observation::PastChanged {
            reader: Reader(1),
            partition: PARTITION,
            from: 0,
        };
        assert_refuses_the_last(&mut Checker::default(), &[delivered(1, 0, 0, 1), changed]);
    }

    #[test]
    fn reading_again_is_fine() {
        assert_accepts(
            &mut Checker::default(),
            &[
                delivered(1, 0, 0, 1),
                died(),
                asked(2),
                positioned(2, 0),
                delivered(2, 0, 0, 1),
                delivered(2, 1, 2, 2),
            ],
        );
    }
}
