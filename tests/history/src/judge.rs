//! Every property over one history, one observation at a time. A property that was broken has said what it had to say and
//! sees no more; the others go on. Invariant: whoever judges does not touch what is judged.

use std::collections::BTreeSet;
use std::fmt;

use tiderace_base::collections::Map;
use tiderace_base::ids::PartitionKey;

use crate::knowledge::Knowledge;
use crate::observation::{BatchName, Kind, Observation, Reader};
use crate::properties::{self, Property};

/// A property was broken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which property.
    pub property: &'static str,
    /// What cannot be.
    pub what: String,
    /// When it was seen, in nanoseconds of the history's clock.
    pub at_ns: u64,
    /// Which observation showed it, from 0.
    pub observation: u64,
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

/// What became of one property.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// Its name.
    pub property: &'static str,
    /// How many observations it judged: those of the kinds that it may refuse, up to the one that broke it.
    pub judged: u64,
    /// How it was broken, if it was.
    pub violation: Option<Violation>,
}

struct Seat {
    property: Box<dyn Property>,
    violation: Option<Violation>,
    judged: u64,
}

/// Every property over one history.
pub struct Judge {
    seats: Vec<Seat>,
    /// By kind: the seats of the properties that look at it, and whether they may refuse it.
    watching: Vec<Vec<(usize, bool)>>,
    knowledge: Knowledge,
    stale: Stale,
    first: Option<Violation>,
    observations: u64,
    acknowledged: u64,
    delivered: u64,
    drained: u64,
    cut_off: u64,
}

impl Default for Judge {
    fn default() -> Self {
        let properties = properties::all();
        let watching = Kind::ALL
            .iter()
            .map(|kind| {
                let watch = |property: &dyn Property| {
                    let judges = property.judges().contains(kind);
                    (judges || property.follows().contains(kind)).then_some(judges)
                };
                let each = properties.iter().enumerate();
                each.filter_map(|(index, property)| Some((index, watch(property.as_ref())?)))
                    .collect()
            })
            .collect();
        let seat = |property| Seat {
            property,
            violation: None,
            judged: 0,
        };
        Self {
            seats: properties.into_iter().map(seat).collect(),
            watching,
            knowledge: Knowledge::default(),
            stale: Stale::default(),
            first: None,
            observations: 0,
            acknowledged: 0,
            delivered: 0,
            drained: 0,
            cut_off: 0,
        }
    }
}

impl Judge {
    /// Shows an observation to every property that looks at its kind.
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
        let number = self.observations;
        self.observations += 1;
        self.knowledge.learn(at_ns, observation);
        if self.stale.covers(observation, &self.knowledge) {
            return;
        }
        for (index, judges) in &self.watching[observation.kind() as usize] {
            let seat = &mut self.seats[*index];
            if seat.violation.is_some() {
                continue;
            }
            seat.judged += u64::from(*judges);
            if let Err(what) = seat.property.observe(observation, &self.knowledge) {
                let violation = Violation {
                    property: seat.property.name(),
                    what,
                    at_ns,
                    observation: number,
                };
                self.first.get_or_insert_with(|| violation.clone());
                seat.violation = Some(violation);
            }
        }
    }

    /// Something outside the history cannot be.
    pub fn refuse(&mut self, property: &'static str, what: String, at_ns: u64) {
        let observation = self.observations;
        self.first.get_or_insert(Violation {
            property,
            what,
            at_ns,
            observation,
        });
    }

    /// Whether a property is broken.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.first.is_some()
    }

    /// The first violation.
    #[must_use]
    pub fn violation(&self) -> Option<&Violation> {
        self.first.as_ref()
    }

    /// Every property that is broken, the first one first: one observation may break several.
    #[must_use]
    pub fn broken(&self) -> Vec<&'static str> {
        let first = self.first.iter().map(|violation| violation.property);
        let others = self.seats.iter().filter_map(|seat| seat.violation.as_ref());
        let mut broken: Vec<&str> = first
            .chain(others.map(|violation| violation.property))
            .collect();
        let mut seen = BTreeSet::new();
        broken.retain(|property| seen.insert(*property));
        broken
    }

    /// What became of each property, in the order of their names.
    #[must_use]
    pub fn verdicts(&self) -> Vec<Verdict> {
        let verdict = |seat: &Seat| Verdict {
            property: seat.property.name(),
            judged: if seat.property.is_blind() {
                0
            } else {
                seat.judged
            },
            violation: seat.violation.clone(),
        };
        self.seats.iter().map(verdict).collect()
    }

    /// Observations so far.
    #[must_use]
    pub fn observations(&self) -> u64 {
        self.observations
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

/// What comes late from a run of the node that is over: the kernel still delivers what a killed process had sent. For a
/// stream whose promises end with the process such an observation says nothing any more.
#[derive(Debug, Default)]
struct Stale {
    run: u64,
    /// In which run a batch was sent last. Of `memory` streams alone, and of those not known to be anything else.
    sent: Map<BatchName, u64>,
    asked: Map<Reader, (u64, PartitionKey)>,
    /// Whose position came late: what follows it on the same connection does, too.
    late: BTreeSet<Reader>,
}

impl Stale {
    fn covers(&mut self, observation: &Observation, knowledge: &Knowledge) -> bool {
        let run = match observation {
            Observation::NodeDied { .. } | Observation::LinkLost { .. } => {
                self.run += 1;
                return false;
            }
            Observation::Submitted { batch, .. } => {
                if knowledge.is_volatile(batch.partition) {
                    self.sent.insert(*batch, self.run);
                }
                return false;
            }
            Observation::Asked { reader, partition } => {
                self.asked.insert(*reader, (self.run, *partition));
                return false;
            }
            Observation::Acknowledged { batch, .. } => {
                if !knowledge.is_volatile(batch.partition) {
                    return false;
                }
                self.sent.get(batch)
            }
            Observation::Delivered {
                reader, partition, ..
            }
            | Observation::ReadThrough {
                reader, partition, ..
            } => {
                if !knowledge.is_volatile(*partition) {
                    return false;
                }
                self.asked.get(reader).map(|(run, _)| run)
            }
            Observation::Positioned {
                reader, partition, ..
            } => {
                let asked = self.asked.get(reader).copied();
                let is_late = knowledge.is_volatile(*partition)
                    && asked.is_some_and(|(run, _)| run != self.run);
                if is_late {
                    self.late.insert(*reader);
                } else {
                    self.late.remove(reader);
                }
                return is_late;
            }
            Observation::GapTold { reader, .. } => {
                if self.late.contains(reader) {
                    return true;
                }
                let asked = self.asked.get(reader);
                let volatile = asked.filter(|(_, partition)| knowledge.is_volatile(*partition));
                volatile.map(|(run, _)| run)
            }
            _ => return false,
        };
        run.is_some_and(|run| *run != self.run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::planted::*;
    use tiderace_base::catalogue::Durability;

    fn known(durability: Durability) -> Observation {
        Observation::StreamKnown {
            stream: PARTITION.stream.get(),
            durability,
            trims: false,
        }
    }

    #[test]
    fn a_late_acknowledgement_of_a_memory_stream_promises_nothing() {
        let mut judge = Judge::default();
        let history = [
            known(Durability::Memory),
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

    #[test]
    fn a_gap_behind_a_position_that_came_late_says_nothing() {
        let positioned = |next| Observation::Positioned {
            reader: Reader(1),
            partition: PARTITION,
            next,
            start: next,
            end: 50,
        };
        let asked = Observation::Asked {
            reader: Reader(1),
            partition: PARTITION,
        };
        let gap = Observation::GapTold {
            reader: Reader(1),
            from: 20,
            to: 30,
        };
        let late = [
            known(Durability::Memory),
            asked.clone(),
            positioned(0),
            asked.clone(),
            died(),
            positioned(20),
            gap.clone(),
        ];
        let mut judge = Judge::default();
        for observation in &late {
            judge.observe(0, observation);
        }
        assert_eq!(judge.violation(), None);

        // What came before it may be late, too, behind a position that was not.
        let late = [
            known(Durability::Memory),
            asked.clone(),
            positioned(0),
            died(),
            delivered(1, 0, 0, 20),
            gap.clone(),
            delivered(1, 1, 30, 1),
        ];
        let mut judge = Judge::default();
        for observation in &late {
            judge.observe(0, observation);
        }
        assert_eq!(judge.violation(), None);

        // Where nothing is late, it is a jump.
        let mut judge = Judge::default();
        for observation in [known(Durability::Local), asked, positioned(0), gap] {
            judge.observe(0, &observation);
        }
        assert!(judge.is_broken());
    }

    #[test]
    fn each_property_says_what_it_judged_and_what_broke_it() {
        let mut judge = Judge::default();
        let history = [
            known(Durability::Local),
            submitted(0),
            acknowledged(0, 0, 1),
            asked(1),
            positioned(1, 0),
            delivered(1, 0, 0, 1),
            delivered(1, 1, 4, 1),
            delivered(1, 2, 9, 1),
        ];
        for (at_ns, observation) in (0..).zip(&history) {
            judge.observe(at_ns, observation);
        }
        let verdicts = judge.verdicts();
        let of = |name: &str| {
            let verdict = verdicts.iter().find(|verdict| verdict.property == name);
            verdict.expect("it is there").clone()
        };
        let skipped = of("polls_never_skip");
        let violation = skipped.violation.expect("two records were skipped");
        assert_eq!((violation.observation, violation.at_ns), (6, 6));
        assert_eq!(
            skipped.judged, 3,
            "a position and the batches up to the one that broke it"
        );
        assert_eq!(of("polls_never_go_back").violation, None);
        assert_eq!(of("polls_never_go_back").judged, 3);
        assert_eq!(of("committed_offsets_never_go_back").judged, 0);
    }
}
