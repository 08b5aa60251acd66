//! What must never happen, one file each. A property is a fold over the history: it sees every observation in order and
//! refuses the first that cannot be. Invariant: a property draws nothing and changes nothing, so that judging a run does
//! not change it.

mod a_drain_never_forgets_a_reader;
mod acknowledged_is_never_lost;
mod append_time_never_goes_back;
mod credit_is_conserved;
mod deleted_data_never_comes_back;
mod delivered_is_never_taken_back;
mod no_cycle_of_waiting;
mod nodes_never_break_the_protocol;
mod offsets_are_dense;
mod old_epochs_are_refused;
mod retries_never_duplicate;

use std::collections::BTreeMap;
use std::fmt;

use tiderace_base::catalogue::Durability;
use tiderace_base::ids::PartitionKey;

use crate::history::{BatchName, Observation, Reader};

/// Something that must hold in every history.
trait Property {
    /// Its name, which is that of its file.
    fn name(&self) -> &'static str;

    /// Takes the next observation.
    ///
    /// # Errors
    /// Says what cannot be.
    fn observe(&mut self, observation: &Observation) -> Result<(), String>;
}

/// A property was broken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which property.
    pub property: &'static str,
    /// What cannot be.
    pub what: String,
    /// When it was seen, in nanoseconds of world time.
    pub at_ns: u64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is broken at {} us: {}",
            self.property,
            self.at_ns / 1000,
            self.what
        )
    }
}

/// Every property over one history.
pub struct Judge {
    properties: Vec<Box<dyn Property>>,
    stale: Stale,
    violation: Option<Violation>,
    acknowledged: u64,
    delivered: u64,
    drained: u64,
    cut_off: u64,
}

impl Default for Judge {
    fn default() -> Self {
        Self {
            properties: vec![
                Box::<a_drain_never_forgets_a_reader::Checker>::default(),
                Box::<acknowledged_is_never_lost::Checker>::default(),
                Box::<append_time_never_goes_back::Checker>::default(),
                Box::<credit_is_conserved::Checker>::default(),
                Box::<deleted_data_never_comes_back::Checker>::default(),
                Box::<delivered_is_never_taken_back::Checker>::default(),
                Box::<nodes_never_break_the_protocol::Checker>::default(),
                Box::<no_cycle_of_waiting::Checker>::default(),
                Box::<offsets_are_dense::Checker>::default(),
                Box::<old_epochs_are_refused::Checker>::default(),
                Box::<retries_never_duplicate::Checker>::default(),
            ],
            stale: Stale::default(),
            violation: None,
            acknowledged: 0,
            delivered: 0,
            drained: 0,
            cut_off: 0,
        }
    }
}

impl Judge {
    /// Shows an observation to every property.
    pub fn observe(&mut self, at_ns: u64, observation: &Observation) {
        match observation {
            Observation::Acknowledged { .. } => self.acknowledged += 1,
            Observation::Delivered { .. } => self.delivered += 1,
            Observation::DrainedTo { in_order: true, .. } => self.drained += 1,
            Observation::DrainedTo {
                in_order: false, ..
            } => self.cut_off += 1,
            _ => {}
        }
        if self.stale.covers(observation) {
            return;
        }
        for property in &mut self.properties {
            if let Err(what) = property.observe(observation) {
                self.violation.get_or_insert(Violation {
                    property: property.name(),
                    what,
                    at_ns,
                });
            }
        }
    }

    /// Something outside the history cannot be.
    pub fn refuse(&mut self, property: &'static str, what: String, at_ns: u64) {
        self.violation.get_or_insert(Violation {
            property,
            what,
            at_ns,
        });
    }

    /// Whether a property is broken.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.violation.is_some()
    }

    /// The first violation.
    #[must_use]
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// Batches acknowledged so far, duplicates included.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Batches delivered so far.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Subscribers that stayed until the end of a drain so far.
    #[must_use]
    pub fn drained(&self) -> u64 {
        self.drained
    }

    /// Subscribers that stayed and were cut off by a drain, or by something else meanwhile, so far.
    #[must_use]
    pub fn cut_off(&self) -> u64 {
        self.cut_off
    }
}

/// What a property needs to know of the streams.
#[derive(Debug, Default)]
struct Streams(BTreeMap<u64, (Durability, bool)>);

impl Streams {
    fn observe(&mut self, observation: &Observation) {
        if let Observation::StreamKnown {
            stream,
            durability,
            trims,
        } = observation
        {
            self.0.insert(*stream, (*durability, *trims));
        }
    }

    /// Whether what was acknowledged or delivered may be gone after a crash.
    fn is_volatile(&self, partition: PartitionKey) -> bool {
        matches!(
            self.0.get(&partition.stream.get()),
            Some((Durability::Memory, _))
        )
    }

    /// Whether old records may go away.
    fn trims(&self, partition: PartitionKey) -> bool {
        matches!(self.0.get(&partition.stream.get()), Some((_, true)))
    }
}

/// What comes late from a run of the node that is over: the kernel still delivers what a killed process had sent. For a
/// stream whose promises end with the process such an observation says nothing any more.
#[derive(Debug, Default)]
struct Stale {
    streams: Streams,
    run: u64,
    sent: BTreeMap<BatchName, u64>,
    asked: BTreeMap<Reader, u64>,
}

impl Stale {
    fn covers(&mut self, observation: &Observation) -> bool {
        self.streams.observe(observation);
        let (partition, run) = match observation {
            Observation::NodeDied { .. } => {
                self.run += 1;
                return false;
            }
            Observation::Submitted { batch, .. } => {
                self.sent.insert(*batch, self.run);
                return false;
            }
            Observation::Asked { reader, .. } => {
                self.asked.insert(*reader, self.run);
                return false;
            }
            Observation::Acknowledged { batch, .. } => (batch.partition, self.sent.get(batch)),
            Observation::Delivered {
                reader, partition, ..
            }
            | Observation::Positioned {
                reader, partition, ..
            }
            | Observation::ReadThrough {
                reader, partition, ..
            } => (*partition, self.asked.get(reader)),
            _ => return false,
        };
        self.streams.is_volatile(partition) && run.is_some_and(|run| *run != self.run)
    }
}

#[cfg(test)]
mod tests {
    use super::planted::*;
    use super::*;

    #[test]
    fn a_late_acknowledgement_of_a_memory_stream_promises_nothing() {
        let mut judge = Judge::default();
        let known = Observation::StreamKnown {
            stream: PARTITION.stream.get(),
            durability: Durability::Memory,
            trims: false,
        };
        let history = [
            known,
            submitted(0),
            died(),
            acknowledged(0, 0, 1),
            submitted(0),
            acknowledged(0, 5, 2),
        ];
        for observation in history {
            judge.observe(0, &observation);
        }
        assert_eq!(judge.violation(), None);
    }
}

#[cfg(test)]
mod planted {
    //! Pieces of histories for the checkers' tests.

    use super::Property;
    use crate::history::{BatchName, Observation, Reader};
    use tiderace_base::ids::{PartitionIndex, PartitionKey, StreamId};

    pub(super) const PARTITION: PartitionKey = PartitionKey {
        stream: StreamId::new(7),
        partition: PartitionIndex::new(0),
    };

    pub(super) fn batch(seq: u64) -> BatchName {
        BatchName {
            partition: PARTITION,
            producer: 1,
            producer_epoch: 1,
            seq,
        }
    }

    pub(super) fn submitted(seq: u64) -> Observation {
        Observation::Submitted {
            batch: batch(seq),
            epoch: 0,
            records: 2,
            digest: seq,
        }
    }

    pub(super) fn acknowledged(seq: u64, offset: u64, epoch: u32) -> Observation {
        Observation::Acknowledged {
            batch: batch(seq),
            offset,
            epoch,
            duplicate: false,
        }
    }

    pub(super) fn asked(reader: u64) -> Observation {
        Observation::Asked {
            reader: Reader(reader),
            partition: PARTITION,
        }
    }

    pub(super) fn positioned(reader: u64, next: u64) -> Observation {
        Observation::Positioned {
            reader: Reader(reader),
            partition: PARTITION,
            next,
            start: 0,
            end: 100,
        }
    }

    pub(super) fn delivered(reader: u64, seq: u64, offset: u64, epoch: u32) -> Observation {
        Observation::Delivered {
            reader: Reader(reader),
            partition: PARTITION,
            batch: Some(batch(seq)),
            offset,
            records: 2,
            digest: seq,
            epoch,
            append_time_us: offset,
        }
    }

    pub(super) fn died() -> Observation {
        Observation::NodeDied {
            node: 0,
            power: true,
            stopped: false,
        }
    }

    /// Every observation but the last is fine, and the last is refused.
    pub(super) fn assert_refuses_the_last(property: &mut dyn Property, history: &[Observation]) {
        let (last, before) = history.split_last().expect("a history has observations");
        for observation in before {
            assert_eq!(property.observe(observation), Ok(()), "{observation:?}");
        }
        assert!(property.observe(last).is_err(), "{last:?} went unnoticed");
    }

    pub(super) fn assert_accepts(property: &mut dyn Property, history: &[Observation]) {
        for observation in history {
            assert_eq!(property.observe(observation), Ok(()), "{observation:?}");
        }
    }
}
