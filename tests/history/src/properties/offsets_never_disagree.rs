//! Inconsistent offsets: everybody who hears what stands at an offset hears the same: a producer by its acknowledgement, a
//! reader by what it is given. One batch, with the records and the content that its producer sent, in one epoch; nothing
//! overlaps it. Of a `memory` stream what is there ends with the process.
//!
//! An observation costs a search among the batches of its partition.

use std::collections::BTreeMap;

use tiderace_base::ids::PartitionKey;

use super::Property;
use crate::knowledge::Knowledge;
use crate::observation::{BatchName, Kind, Observation};

#[derive(Clone, Copy, Debug)]
struct Content {
    batch: Option<BatchName>,
    records: u32,
    digest: u64,
    /// `None` until it was delivered: an answer to a retry says another one.
    epoch: Option<u32>,
}

impl Content {
    fn agrees(&self, other: &Self) -> bool {
        self.batch == other.batch
            && self.records == other.records
            && self.digest == other.digest
            && (self.epoch.is_none() || other.epoch.is_none() || self.epoch == other.epoch)
    }
}

/// What stands where, by whoever said it.
#[derive(Debug, Default)]
pub(crate) struct Checker(BTreeMap<PartitionKey, BTreeMap<u64, Content>>);

impl Checker {
    fn place(
        &mut self,
        partition: PartitionKey,
        offset: u64,
        content: Content,
    ) -> Result<(), String> {
        let contents = self.0.entry(partition).or_default();
        let until = offset + u64::from(content.records);
        if let Some((place, other)) = contents.range_mut(..until).next_back()
            && place + u64::from(other.records) > offset
        {
            if *place != offset || !other.agrees(&content) {
                return Err(format!(
                    "{partition}: {content:?} is said to stand at {offset}, and {other:?} at {place}"
                ));
            }
            other.epoch = other.epoch.or(content.epoch);
            return Ok(());
        }
        contents.insert(offset, content);
        Ok(())
    }
}

impl Property for Checker {
    fn name(&self) -> &'static str {
        "offsets_never_disagree"
    }

    fn judges(&self) -> &'static [Kind] {
        &[Kind::Acknowledged, Kind::Delivered]
    }

    fn follows(&self) -> &'static [Kind] {
        &[Kind::NodeDied, Kind::LinkLost]
    }

    fn observe(&mut self, observation: &Observation, knowledge: &Knowledge) -> Result<(), String> {
        match observation {
            Observation::Acknowledged { batch, offset, .. } => {
                let Some(sent) = knowledge.sent(batch) else {
                    return Ok(());
                };
                let content = Content {
                    batch: Some(*batch),
                    records: sent.records,
                    digest: sent.digest,
                    epoch: None,
                };
                self.place(batch.partition, *offset, content)
            }
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
                    epoch: Some(*epoch),
                };
                self.place(*partition, *offset, content)
            }
            Observation::NodeDied { .. } | Observation::LinkLost { .. } => {
                self.0
                    .retain(|partition, _| !knowledge.is_volatile(*partition));
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::planted::*;
    use super::*;

    #[test]
    fn two_readers_that_are_given_different_batches_are_noticed() {
        let others = [
            delivered(2, 9, 0, 1),
            delivered(2, 0, 0, 2),
            delivered(2, 9, 1, 1),
        ];
        for other in others {
            let history = [delivered(1, 0, 0, 1), died(), other];
            assert_refuses_the_last(&mut Checker::default(), &history);
        }
        let history = [
            delivered(1, 0, 0, 1),
            died(),
            delivered(2, 0, 0, 1),
            delivered(2, 1, 2, 2),
        ];
        assert_accepts(&mut Checker::default(), &history);
    }

    #[test]
    fn an_acknowledgement_that_a_reader_contradicts_is_noticed() {
        let begun = [submitted(0), submitted(5), acknowledged(0, 0, 1)];
        let history = |last| [&begun[..], &[last]].concat();
        for other in [delivered(1, 5, 0, 2), delivered(1, 5, 1, 1)] {
            assert_refuses_the_last(&mut Checker::default(), &history(other));
        }
        assert_accepts(&mut Checker::default(), &history(delivered(1, 0, 0, 1)));
        assert_accepts(&mut Checker::default(), &history(delivered(1, 5, 2, 1)));
    }

    #[test]
    fn two_acknowledgements_of_one_place_are_noticed() {
        let begun = [submitted(0), submitted(1), acknowledged(0, 0, 1)];
        let history = |last| [&begun[..], &[last]].concat();
        assert_refuses_the_last(&mut Checker::default(), &history(acknowledged(1, 1, 1)));
        assert_accepts(&mut Checker::default(), &history(acknowledged(1, 2, 1)));
    }

    #[test]
    fn other_content_under_the_same_name_is_noticed() {
        let changed = Observation::Delivered {
            reader: crate::observation::Reader(1),
            partition: PARTITION,
            batch: Some(batch(0)),
            offset: 0,
            records: 2,
            digest: 99,
            epoch: 1,
            append_time_us: 0,
        };
        let history = [submitted(0), acknowledged(0, 0, 1), changed];
        assert_refuses_the_last(&mut Checker::default(), &history);
    }
}
