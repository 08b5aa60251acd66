//! What a leader has besides: the state with everything that it has appended, on which it concludes; the states that its entries
//! make, until they are committed; and the tombstones that may be cleared. Gone with its leadership.
//!
//! Invariant: the working state is the one that applying the whole log makes.

use crate::catalogue::{Catalogue, Proposal};
use crate::checkpoint::{LogFault, apply};
use crate::desk::{Answer, Asker};
use crate::event::{CHANGE_EVENT_BYTES_MAX, Fact};
use crate::raft::{Entry, Position};
use std::collections::VecDeque;
use tiderace_base::catalogue::{Change, Durability, Refusal};
use tiderace_base::ids::StreamId;
use tiderace_base::limits;
use tiderace_base::position::{CatalogueVersion, RaftIndex};
use tiderace_base::time::Wall;
use tiderace_storage::Class;

/// An entry that was proposed and is not committed yet, and the state with it.
#[derive(Debug)]
struct Proposed {
    index: RaftIndex,
    state: Catalogue,
    facts: Vec<Fact>,
}

/// A run of facts, concluded on a copy of the working state.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) class: Class,
    pub(crate) state: Catalogue,
    pub(crate) facts: Vec<Fact>,
    pub(crate) body: Vec<u8>,
}

/// A run of changes, and what came of them.
#[derive(Debug)]
pub(crate) struct Concluded {
    pub(crate) batch: Batch,
    pub(crate) taken: usize,
    pub(crate) answers: Vec<Answer>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Leading {
    working: Catalogue,
    proposed: VecDeque<Proposed>,
    /// The working state's tombstones, oldest first, with a version that has each.
    tombstones: VecDeque<(CatalogueVersion, StreamId)>,
    /// This run's boot was proposed.
    pub(crate) has_booted: bool,
}

impl Leading {
    /// Begins from what is applied and the entries behind it.
    pub(crate) fn new<'a>(
        applied: &Catalogue,
        entries: impl Iterator<Item = &'a Entry>,
    ) -> Result<Self, LogFault> {
        let mut working = applied.clone();
        for entry in entries {
            apply(&mut working, entry, |_, _| {})?;
        }
        // No tombstone is younger than that.
        let version = working.deleted;
        let tombstones = working.tombstones();
        Ok(Self {
            tombstones: tombstones.map(|stream| (version, stream)).collect(),
            working,
            proposed: VecDeque::new(),
            has_booted: false,
        })
    }

    pub(crate) const fn working(&self) -> &Catalogue {
        &self.working
    }

    pub(crate) fn batch(&self, class: Class) -> Batch {
        Batch {
            class,
            state: self.working.clone(),
            facts: Vec::new(),
            body: Vec::new(),
        }
    }

    /// The batch was proposed at this position.
    pub(crate) fn proposed(&mut self, batch: Batch, at: Position) {
        self.working = batch.state.clone();
        let version = self.working.version();
        for fact in &batch.facts {
            match fact {
                Fact::StreamDeleted { stream } => self.tombstones.push_back((version, *stream)),
                Fact::TombstoneCleared { stream } => {
                    self.tombstones.retain(|(_, it)| it != stream);
                }
                _ => {}
            }
        }
        self.proposed.push_back(Proposed {
            index: at.index,
            state: batch.state,
            facts: batch.facts,
        });
    }

    /// The state that the entry at this index makes, and what it changed, if it was proposed here.
    pub(crate) fn committed(&mut self, index: RaftIndex) -> Option<(Catalogue, Vec<Fact>)> {
        let proposed = self.proposed.pop_front_if(|it| it.index == index)?;
        Some((proposed.state, proposed.facts))
    }

    /// Concludes a run of waiting changes that go into one entry. Deletions may use the space reserved for control
    /// entries, since they free some; creations may not. So a run holds one kind. `last`: where the log ends, for what changes
    /// nothing.
    pub(crate) fn conclude(
        &self,
        waiting: &VecDeque<(Asker, Change)>,
        durability: Durability,
        body_bytes_max: usize,
        wall: Wall,
        last: RaftIndex,
    ) -> Concluded {
        let (_, first) = &waiting[0];
        let mut concluded = Concluded {
            batch: self.batch(class_of(first)),
            taken: 0,
            answers: Vec::new(),
        };
        let batch = &mut concluded.batch;
        for (asker, change) in waiting {
            let is_full = batch.facts.len() == limits::CATALOGUE_BATCH_MAX
                || batch.body.len() + CHANGE_EVENT_BYTES_MAX > body_bytes_max;
            if is_full || class_of(change) != batch.class {
                break;
            }
            let outcome = match batch.state.propose(change, durability, wall) {
                Ok(Proposal::Conclude(fact, outcome)) => {
                    batch.add(fact);
                    Ok(outcome)
                }
                Ok(Proposal::Already(outcome)) => Ok(outcome),
                Err(refusal) => Err(refusal),
            };
            // Also a refusal is true only of a state that lasts: it waits for its version like every other answer.
            concluded.answers.push(Answer {
                asker: *asker,
                index: last,
                version: batch.state.version(),
                outcome,
            });
            concluded.taken += 1;
        }
        assert!(concluded.taken > 0, "the first change always fits");
        concluded
    }

    /// What becomes of a change while the disk is full.
    pub(crate) fn refuse_full(
        &self,
        asker: Asker,
        change: &Change,
        durability: Durability,
        wall: Wall,
        last: RaftIndex,
    ) -> Answer {
        let outcome = match self.working.propose(change, durability, wall) {
            Ok(Proposal::Conclude(..)) => Err(Refusal::DiskFull),
            Ok(Proposal::Already(outcome)) => Ok(outcome),
            Err(refusal) => Err(refusal),
        };
        Answer {
            asker,
            index: last,
            version: self.working.version(),
            outcome,
        }
    }

    /// Tombstones of which nobody holds anything, one entry's worth; none: there is none.
    pub(crate) fn clear(&self, dropped: CatalogueVersion, body_bytes_max: usize) -> Option<Batch> {
        let mut batch = self.batch(Class::Data);
        for (version, stream) in &self.tombstones {
            let is_full = batch.facts.len() == limits::CATALOGUE_BATCH_MAX
                || batch.body.len() + CHANGE_EVENT_BYTES_MAX > body_bytes_max;
            if is_full || *version > dropped {
                break;
            }
            let fact = batch.state.propose_cleared(*stream);
            batch.add(fact.expect("what is queued here is a tombstone"));
        }
        (!batch.facts.is_empty()).then_some(batch)
    }
}

impl Batch {
    /// Applies a fact that was concluded on this batch's state, and appends its event.
    pub(crate) fn add(&mut self, fact: Fact) {
        let event = self.state.event(fact);
        self.state
            .apply(&event)
            .expect("what was concluded on a state fits it");
        event.encode(&mut self.body);
        self.facts.push(event.fact);
    }
}

/// Deletions free space and may use what is reserved for that.
const fn class_of(change: &Change) -> Class {
    match change {
        Change::CreateStream { .. } => Class::Data,
        Change::DeleteStream(_) => Class::Control,
    }
}
