//! Fences only grow. Epochs never fall with the offset; a run of a node accepts nothing in an epoch that was seen before
//! it began; a batch sent for one epoch is not accepted in another; and a producer that was fenced by a higher epoch of
//! its own gets nothing accepted any more.
//!
//! An observation costs a search; a death costs as much as there are partitions.

use std::collections::BTreeMap;

use tiderace_base::ids::PartitionKey;

use super::Property;
use crate::knowledge::Knowledge;
use crate::observation::{BatchName, Kind, Observation};

#[derive(Clone, Copy, Debug)]
struct Submission {
    epoch: u32,
    /// Epochs up to this one were seen in earlier runs of the node when the batch was first sent.
    before: u32,
    /// The producer had a higher epoch acknowledged when the batch was first sent.
    fenced: bool,
}

/// Epochs by place, and what each batch may not be accepted in.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    epochs: BTreeMap<PartitionKey, BTreeMap<u64, u32>>,
    highest: BTreeMap<PartitionKey, u32>,
    /// The highest before the last death of a node.
    before: BTreeMap<PartitionKey, u32>,
    producers: BTreeMap<(PartitionKey, u128), u32>,
    submissions: BTreeMap<BatchName, Submission>,
}

impl Checker {
    fn place(&mut self, partition: PartitionKey, offset: u64, epoch: u32) -> Result<(), String> {
        let epochs = self.epochs.entry(partition).or_default();
        if epochs.get(&offset) == Some(&epoch) {
            // Somebody has heard the same.
            return Ok(());
        }
        let before = epochs.range(..=offset).next_back();
        let after = epochs.range(offset..).next();
        if before.is_some_and(|(_, other)| *other > epoch)
            || after.is_some_and(|(_, other)| *other < epoch)
        {
            return Err(format!(
                "{partition}: offset {offset} has epoch {epoch}, its neighbours {before:?} and {after:?}"
            ));
        }
        epochs.insert(offset, epoch);
        let highest = self.highest.entry(partition).or_default();
        *highest = epoch.max(*highest);
        Ok(())
    }

    fn accept(&mut self, batch: &BatchName, offset: u64, epoch: u32) -> Result<(), String> {
        if let Some(sent) = self.submissions.get(batch) {
            if sent.epoch != 0 && sent.epoch != epoch {
                return Err(format!(
                    "{batch:?} was sent for epoch {} and accepted in {epoch}",
                    sent.epoch
                ));
            }
            if epoch <= sent.before {
                return Err(format!(
                    "{batch:?} was accepted in epoch {epoch}, and {} was seen before it was first sent, in an earlier run",
                    sent.before
                ));
            }
            if sent.fenced {
                return Err(format!(
                    "{batch:?} was accepted, and a higher epoch of its producer before it was sent"
                ));
            }
        }
        let fence = self
            .producers
            .entry((batch.partition, batch.producer))
            .or_default();
        *fence = batch.producer_epoch.max(*fence);
        self.place(batch.partition, offset, epoch)
    }
}

impl Property for Checker {
    fn name(&self) -> &'static str {
        "old_epochs_are_refused"
    }

    fn judges(&self) -> &'static [Kind] {
        &[Kind::Acknowledged, Kind::Delivered]
    }

    fn follows(&self) -> &'static [Kind] {
        &[Kind::Submitted, Kind::NodeDied, Kind::LinkLost]
    }

    fn observe(&mut self, observation: &Observation, knowledge: &Knowledge) -> Result<(), String> {
        match observation {
            Observation::Submitted { batch, epoch, .. } => {
                let before = self.before.get(&batch.partition).copied().unwrap_or(0);
                let fence = self.producers.get(&(batch.partition, batch.producer));
                let fenced = fence.is_some_and(|fence| *fence > batch.producer_epoch);
                self.submissions
                    .entry(*batch)
                    // Sent again for another epoch: either may have been the one that was accepted.
                    .and_modify(|sent| {
                        if sent.epoch != *epoch {
                            sent.epoch = 0;
                        }
                    })
                    .or_insert(Submission {
                        epoch: *epoch,
                        before,
                        fenced,
                    });
                Ok(())
            }
            Observation::Acknowledged {
                batch,
                offset,
                epoch,
                duplicate: false,
            } => self.accept(batch, *offset, *epoch),
            Observation::Delivered {
                partition,
                offset,
                epoch,
                ..
            } => self.place(*partition, *offset, *epoch),
            Observation::NodeDied { .. } | Observation::LinkLost { .. } => {
                if observation.kind() == Kind::NodeDied {
                    self.before.clone_from(&self.highest);
                }
                self.epochs
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
    fn an_epoch_that_falls_with_the_offset_is_noticed() {
        assert_refuses_the_last(
            &mut Checker::default(),
            &[delivered(1, 0, 0, 5), delivered(1, 1, 2, 4)],
        );
        assert_refuses_the_last(
            &mut Checker::default(),
            &[delivered(1, 0, 0, 5), delivered(2, 0, 0, 6)],
        );
    }

    #[test]
    fn an_epoch_that_is_resumed_after_a_crash_is_noticed() {
        assert_refuses_the_last(
            &mut Checker::default(),
            &[
                submitted(0),
                acknowledged(0, 0, 5),
                died(),
                submitted(1),
                acknowledged(1, 2, 5),
            ],
        );
        assert_accepts(
            &mut Checker::default(),
            &[
                submitted(0),
                acknowledged(0, 0, 5),
                died(),
                submitted(1),
                acknowledged(1, 2, 6),
            ],
        );
    }

    #[test]
    fn a_batch_for_an_old_epoch_that_is_accepted_is_noticed() {
        let stale = Observation::Submitted {
            batch: batch(3),
            epoch: 4,
            records: 2,
            digest: 0,
        };
        assert_refuses_the_last(&mut Checker::default(), &[stale, acknowledged(3, 0, 5)]);
    }

    #[test]
    fn a_fenced_producer_that_is_accepted_is_noticed() {
        let newer = BatchName {
            producer_epoch: 2,
            ..batch(0)
        };
        let sent = Observation::Submitted {
            batch: newer,
            epoch: 0,
            records: 2,
            digest: 0,
        };
        let accepted = Observation::Acknowledged {
            batch: newer,
            offset: 0,
            epoch: 1,
            duplicate: false,
        };
        assert_refuses_the_last(
            &mut Checker::default(),
            &[sent, accepted, submitted(1), acknowledged(1, 2, 1)],
        );
    }
}
