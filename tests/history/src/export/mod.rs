//! A history in the words of other checkers. Both exports tell of appends to logs and of reads of them, one log for each
//! partition; docs/consistency.md states the mapping. Streams at `memory` are left out: their promises end with a process,
//! and no sequential log has a crash in it. So are streams that let old records go, and partitions that a producer without
//! an id writes to: what it sends twice may be there twice, and one append appends once.
//!
//! An operation lies between two places in the history: it took effect at some point between them. Invariants: a place is
//! where the history says so and never later (its beginning) or earlier (its end); what has no known outcome has no end; and
//! an export is linear in its history.

pub mod elle;
pub mod porcupine;

use std::collections::{BTreeMap, BTreeSet};

use tiderace_base::ids::PartitionKey;

use crate::knowledge::Knowledge;
use crate::observation::{BatchName, Observation};

/// A place in a history: observation `n` is at `2n`, and what begins by it is just behind it.
pub(crate) type Place = u64;

/// What became of an append.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// It is in the log; where, if that was said.
    Appended { end: Place, offset: Option<u64> },
    /// It is not, for certain.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// One batch's append.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Append {
    pub(crate) partition: PartitionKey,
    pub(crate) records: u32,
    pub(crate) begin: Place,
    /// When it began, in nanoseconds of the history's clock.
    pub(crate) begin_ns: u64,
    pub(crate) end_ns: u64,
    pub(crate) outcome: Outcome,
    /// Sendings that were not refused.
    open: u32,
}

/// All appends of a history. The element that a batch is in its log is its number here.
#[derive(Debug, Default)]
pub(crate) struct Appends {
    knowledge: Knowledge,
    place: Place,
    appends: Vec<Append>,
    named: BTreeMap<BatchName, usize>,
    /// Batches whose producer the history does not know, by where they stand.
    strangers: BTreeMap<(PartitionKey, u64), usize>,
    /// Partitions that a producer without an id writes to.
    repeating: BTreeSet<PartitionKey>,
}

impl Appends {
    /// Takes the next observation and says where it is in the history.
    pub(crate) fn observe(&mut self, at_ns: u64, observation: &Observation) -> Place {
        self.knowledge.learn(at_ns, observation);
        self.place += 2;
        match observation {
            Observation::Submitted { batch, .. } if batch.is_nameless() => {
                self.repeating.insert(batch.partition);
            }
            Observation::Submitted { batch, records, .. } if self.covers(batch.partition) => {
                let index = self.named.entry(*batch).or_insert(self.appends.len());
                if let Some(append) = self.appends.get_mut(*index) {
                    append.open += 1;
                } else {
                    self.appends.push(Append {
                        partition: batch.partition,
                        records: *records,
                        begin: self.place + 1,
                        begin_ns: at_ns,
                        end_ns: at_ns,
                        outcome: Outcome::Unknown,
                        open: 1,
                    });
                }
            }
            Observation::Acknowledged { batch, offset, .. } => {
                self.appended(at_ns, batch, Some(*offset));
            }
            Observation::Stored { batch } => self.appended(at_ns, batch, None),
            Observation::Refused { batch } => {
                if let Some(append) = self.named.get(batch).map(|index| &mut self.appends[*index]) {
                    append.open = append.open.saturating_sub(1);
                }
            }
            _ => {}
        }
        self.place
    }

    fn appended(&mut self, at_ns: u64, batch: &BatchName, offset: Option<u64>) {
        let end = self.place;
        if let Some(append) = self.named.get(batch).map(|index| &mut self.appends[*index])
            && append.outcome == Outcome::Unknown
        {
            append.outcome = Outcome::Appended { end, offset };
            append.end_ns = at_ns;
        }
    }

    /// Whether the export tells of this partition.
    pub(crate) fn covers(&self, partition: PartitionKey) -> bool {
        !self.knowledge.is_volatile(partition)
            && !self.knowledge.trims(partition)
            && !self.repeating.contains(&partition)
    }

    /// The element of a delivered batch. One that nobody is known to have sent was appended by a stranger, at any time.
    pub(crate) fn element(
        &mut self,
        partition: PartitionKey,
        batch: Option<&BatchName>,
        offset: u64,
        records: u32,
    ) -> usize {
        if let Some(index) = batch.and_then(|batch| self.named.get(batch)) {
            return *index;
        }
        let next = self.appends.len();
        let index = *self.strangers.entry((partition, offset)).or_insert(next);
        if index == next {
            self.appends.push(Append {
                partition,
                records,
                begin: 1,
                begin_ns: 0,
                end_ns: 0,
                outcome: Outcome::Unknown,
                open: 1,
            });
        }
        index
    }

    /// Partitions of which the export does not tell after all, whatever it had heard of them before.
    pub(crate) fn repeating(&self) -> BTreeSet<PartitionKey> {
        self.repeating.clone()
    }

    /// The appends that are told of, with their elements, and the place behind the history's end. Where every sending was
    /// refused, so is the append.
    pub(crate) fn finish(mut self) -> (Vec<(usize, Append)>, Place) {
        for append in &mut self.appends {
            if append.open == 0 && append.outcome == Outcome::Unknown {
                append.outcome = Outcome::Refused;
            }
        }
        let appends = self.appends.into_iter().enumerate();
        let told = appends.filter(|(_, append)| !self.repeating.contains(&append.partition));
        (told.collect(), self.place + 2)
    }
}
