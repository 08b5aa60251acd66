//! One member's disk: what is durable, and records on their way there in the order in which they were handed out.

use super::super::entries::{Entry, Members, Payload, Position};
use super::super::machine::{Health, Record, RecordSeq, Restored};
use std::collections::VecDeque;
use tiderace_base::ids::NodeId;
use tiderace_base::position::{RaftIndex, Term};
use tiderace_base::prng::Prng;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    pub(super) term: Term,
    pub(super) vote: Option<NodeId>,
    pub(super) base: Position,
    pub(super) members: Members,
    pub(super) entries: Vec<Entry>,
    pub(super) is_damaged: bool,
    pub(super) on_their_way: VecDeque<(RecordSeq, Record)>,
}

impl Disk {
    pub(super) fn new(members: Members) -> Self {
        Self {
            term: Term::ZERO,
            vote: None,
            base: Position::ZERO,
            members,
            entries: Vec::new(),
            is_damaged: false,
            on_their_way: VecDeque::new(),
        }
    }

    pub(super) fn restored(&self) -> Restored {
        Restored {
            term: self.term,
            vote: self.vote,
            base: self.base,
            members: self.members.clone(),
            entries: self.entries.clone(),
            health: if self.is_damaged {
                Health::Damaged
            } else {
                Health::Whole
            },
        }
    }

    pub(super) fn last(&self) -> Position {
        self.entries.last().map_or(self.base, |it| it.position)
    }

    pub(super) fn holds(&self, position: Position) -> bool {
        position.index <= self.base.index || self.entries.iter().any(|it| it.position == position)
    }

    /// The first records become durable.
    pub(super) fn land(&mut self, count: usize) -> Option<RecordSeq> {
        let mut last = None;
        for (seq, record) in self.on_their_way.drain(..count).collect::<Vec<_>>() {
            last = Some(seq);
            match record {
                Record::Vote { term, vote } => {
                    assert!(term >= self.term, "a recorded term never goes back");
                    (self.term, self.vote) = (term, vote);
                }
                Record::Append { before, entries } => {
                    let keeps = |it: &Entry| it.position.index <= before.index;
                    self.entries.retain(keeps);
                    let base = self.base.index;
                    let fresh = entries.into_iter().filter(|it| it.position.index > base);
                    self.entries.extend(fresh);
                }
                Record::Healed => self.is_damaged = false,
            }
        }
        for pair in self.entries.windows(2) {
            assert_eq!(pair[0].position.index.advance(1), pair[1].position.index);
        }
        last
    }

    /// Some of what was on its way has landed, the rest never will.
    pub(super) fn crash(&mut self, prng: &mut Prng) {
        let landed = prng.below(self.on_their_way.len() as u64 + 1) as usize;
        self.land(landed);
        self.on_their_way.clear();
    }

    /// Forgets votes and the end of the log.
    pub(super) fn damage(&mut self, prng: &mut Prng) {
        let kept = prng.below(self.entries.len() as u64 + 1) as usize;
        self.entries.truncate(kept);
        if prng.chance(1, 2) {
            (self.term, self.vote) = (self.last().term, None);
        }
        self.is_damaged = true;
    }

    /// The state at this entry takes the place of everything up to it.
    pub(super) fn rebase(&mut self, base: Position, members: Members) {
        if base.index <= self.base.index {
            return;
        }
        if self.holds(base) {
            self.entries.retain(|it| it.position.index > base.index);
        } else {
            self.entries.clear();
        }
        self.base = base;
        self.members = members;
    }

    /// Who takes part at an entry that is held.
    pub(super) fn members_at(&self, index: RaftIndex) -> Members {
        let before = self
            .entries
            .iter()
            .take_while(|it| it.position.index <= index);
        let newest = before.filter_map(|it| match &it.payload {
            Payload::Members(members) => Some(members.clone()),
            Payload::Term | Payload::Command(_) => None,
        });
        newest.last().unwrap_or_else(|| self.members.clone())
    }
}
