//! What must never happen, one file each. A property is a fold over the history: it sees the observations of the kinds that
//! it names, in order, and refuses the first that cannot be. Invariant: a property draws nothing and changes nothing, so that
//! judging a run does not change it. What has no known outcome is never held against anybody.

mod a_drain_never_forgets_a_reader;
mod acknowledged_is_never_lost;
mod acknowledged_is_never_passed_over;
mod acknowledged_is_never_weaker_than_its_level;
mod append_time_never_goes_back;
mod committed_offsets_never_go_back;
mod credit_is_conserved;
mod deleted_data_never_comes_back;
mod delivered_is_never_taken_back;
mod memory_never_exceeds_its_budget;
mod no_cycle_of_waiting;
mod nodes_never_break_the_protocol;
mod offsets_never_disagree;
mod offsets_never_have_holes;
mod old_epochs_are_refused;
mod polls_never_go_back;
mod polls_never_skip;
mod reads_are_never_stale;
mod refused_is_never_visible;
mod retention_never_drops_too_much;
mod retries_never_duplicate;
mod sends_never_overtake;
mod tenants_never_leak;
mod truncated_never_comes_back;

use crate::knowledge::Knowledge;
use crate::observation::{Kind, Observation};

/// Something that must hold in every history.
pub(crate) trait Property: Send {
    /// Its name, which is that of its file.
    fn name(&self) -> &'static str;

    /// The kinds of observations that it may refuse.
    fn judges(&self) -> &'static [Kind];

    /// The kinds that it has to see besides.
    fn follows(&self) -> &'static [Kind] {
        &[]
    }

    /// Whether it has nothing yet to hold observations against, so that it has judged none.
    fn is_blind(&self) -> bool {
        false
    }

    /// Takes the next observation of these kinds; `knowledge` has learnt it.
    ///
    /// # Errors
    /// Says what cannot be.
    fn observe(&mut self, observation: &Observation, knowledge: &Knowledge) -> Result<(), String>;
}

/// Every property, in the order of their names.
pub(crate) fn all() -> Vec<Box<dyn Property>> {
    vec![
        Box::<a_drain_never_forgets_a_reader::Checker>::default(),
        Box::<acknowledged_is_never_lost::Checker>::default(),
        Box::<acknowledged_is_never_passed_over::Checker>::default(),
        Box::<acknowledged_is_never_weaker_than_its_level::Checker>::default(),
        Box::<append_time_never_goes_back::Checker>::default(),
        Box::<committed_offsets_never_go_back::Checker>::default(),
        Box::<credit_is_conserved::Checker>::default(),
        Box::<deleted_data_never_comes_back::Checker>::default(),
        Box::<delivered_is_never_taken_back::Checker>::default(),
        Box::<memory_never_exceeds_its_budget::Checker>::default(),
        Box::<no_cycle_of_waiting::Checker>::default(),
        Box::<nodes_never_break_the_protocol::Checker>::default(),
        Box::<offsets_never_disagree::Checker>::default(),
        Box::<offsets_never_have_holes::Checker>::default(),
        Box::<old_epochs_are_refused::Checker>::default(),
        Box::<polls_never_go_back::Checker>::default(),
        Box::<polls_never_skip::Checker>::default(),
        Box::<reads_are_never_stale::Checker>::default(),
        Box::<refused_is_never_visible::Checker>::default(),
        Box::<retention_never_drops_too_much::Checker>::default(),
        Box::<retries_never_duplicate::Checker>::default(),
        Box::<sends_never_overtake::Checker>::default(),
        Box::<tenants_never_leak::Checker>::default(),
        Box::<truncated_never_comes_back::Checker>::default(),
    ]
}

/// The names of all properties, in order.
#[must_use]
pub fn names() -> Vec<&'static str> {
    all().iter().map(|property| property.name()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_files_and_in_order() {
        let names = names();
        assert!(names.is_sorted(), "{names:?}");
        let source = include_str!("mod.rs");
        let files: Vec<&str> = source
            .lines()
            .filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'))
            .collect();
        assert_eq!(names, files);
    }
}

#[cfg(test)]
pub(crate) mod planted {
    //! Pieces of histories for the checkers' tests.

    use super::Property;
    use crate::knowledge::Knowledge;
    use crate::observation::{BatchName, Observation, Reader};
    use tiderace_base::catalogue::Durability;
    use tiderace_base::ids::{PartitionIndex, PartitionKey, StreamId};

    pub(crate) const PARTITION: PartitionKey = PartitionKey {
        stream: StreamId::new(7),
        partition: PartitionIndex::new(0),
    };

    pub(crate) fn known(durability: Durability, trims: bool) -> Observation {
        Observation::StreamKnown {
            stream: PARTITION.stream.get(),
            durability,
            trims,
        }
    }

    pub(crate) fn batch(seq: u64) -> BatchName {
        BatchName {
            partition: PARTITION,
            producer: 1,
            producer_epoch: 1,
            seq,
        }
    }

    pub(crate) fn submitted(seq: u64) -> Observation {
        Observation::Submitted {
            batch: batch(seq),
            epoch: 0,
            records: 2,
            digest: seq,
        }
    }

    pub(crate) fn acknowledged(seq: u64, offset: u64, epoch: u32) -> Observation {
        Observation::Acknowledged {
            batch: batch(seq),
            offset,
            epoch,
            duplicate: false,
        }
    }

    pub(crate) fn refused(seq: u64) -> Observation {
        Observation::Refused { batch: batch(seq) }
    }

    pub(crate) fn asked(reader: u64) -> Observation {
        Observation::Asked {
            reader: Reader(reader),
            partition: PARTITION,
        }
    }

    pub(crate) fn positioned(reader: u64, next: u64) -> Observation {
        told_end(reader, next, 100)
    }

    pub(crate) fn told_end(reader: u64, next: u64, end: u64) -> Observation {
        Observation::Positioned {
            reader: Reader(reader),
            partition: PARTITION,
            next,
            start: 0,
            end,
        }
    }

    pub(crate) fn delivered(reader: u64, seq: u64, offset: u64, epoch: u32) -> Observation {
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

    pub(crate) fn gap(reader: u64, from: u64, to: u64) -> Observation {
        Observation::GapTold {
            reader: Reader(reader),
            from,
            to,
        }
    }

    pub(crate) fn read_through(reader: u64, end: u64) -> Observation {
        Observation::ReadThrough {
            reader: Reader(reader),
            partition: PARTITION,
            end,
        }
    }

    pub(crate) fn past_changed(reader: u64, from: u64) -> Observation {
        Observation::PastChanged {
            reader: Reader(reader),
            partition: PARTITION,
            from,
        }
    }

    pub(crate) fn died() -> Observation {
        Observation::NodeDied {
            node: 0,
            power: true,
            stopped: false,
        }
    }

    /// What a property says to a history, as the judge would show it.
    fn verdicts<'a>(
        property: &'a mut dyn Property,
        history: &'a [Observation],
    ) -> impl Iterator<Item = (&'a Observation, Result<(), String>)> {
        let mut knowledge = Knowledge::default();
        (0..).zip(history).map(move |(at_ns, observation)| {
            knowledge.learn(at_ns, observation);
            let kind = observation.kind();
            let judges = property.judges().contains(&kind);
            let verdict = if judges || property.follows().contains(&kind) {
                property.observe(observation, &knowledge)
            } else {
                Ok(())
            };
            assert!(
                judges || verdict.is_ok(),
                "{kind:?} is not said to be judged"
            );
            (observation, verdict)
        })
    }

    /// Every observation but the last is fine, and the last is refused. The one at index `i` is made at `i` ns.
    #[track_caller]
    pub(crate) fn assert_refuses_the_last(property: &mut dyn Property, history: &[Observation]) {
        let mut left = history.len();
        for (observation, verdict) in verdicts(property, history) {
            left -= 1;
            if left > 0 {
                assert_eq!(verdict, Ok(()), "{observation:?}");
            } else {
                assert!(verdict.is_err(), "{observation:?} went unnoticed");
            }
        }
        assert!(!history.is_empty(), "a history has observations");
    }

    #[track_caller]
    pub(crate) fn assert_accepts(property: &mut dyn Property, history: &[Observation]) {
        for (observation, verdict) in verdicts(property, history) {
            assert_eq!(verdict, Ok(()), "{observation:?}");
        }
    }
}
