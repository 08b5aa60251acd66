//! The log's entries with their payloads, from the newest snapshot on. `noraft` keeps where terms and memberships lie; both
//! always end at the same position, which [`Raft`](super::Raft) asserts.

use bytes::Bytes;
use std::collections::{BTreeSet, VecDeque};
use tiderace_base::ids::NodeId;
use tiderace_base::position::{RaftIndex, Term};

/// A place in the log. Compared as Raft compares logs: by term first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Position {
    /// The term of the entry there.
    pub term: Term,
    /// Its number. The first entry has 1.
    pub index: RaftIndex,
}

impl Position {
    /// Before the first entry.
    pub const ZERO: Self = Self {
        term: Term::ZERO,
        index: RaftIndex::ZERO,
    };

    pub(super) const fn of(position: noraft::LogPosition) -> Self {
        Self {
            term: Term::new(position.term.get()),
            index: RaftIndex::new(position.index.get()),
        }
    }

    pub(super) const fn inner(self) -> noraft::LogPosition {
        noraft::LogPosition::new(
            noraft::Term::new(self.term.get()),
            noraft::LogIndex::new(self.index.get()),
        )
    }
}

/// Who takes part.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Members {
    /// Who votes and counts.
    pub voters: BTreeSet<NodeId>,
    /// Who will, while a change of the voters is under way: then a majority of both is needed for everything.
    pub incoming: BTreeSet<NodeId>,
    /// Who is given every entry and counts for nothing.
    pub learners: BTreeSet<NodeId>,
}

impl Members {
    /// Voters alone.
    #[must_use]
    pub fn voters(voters: impl IntoIterator<Item = NodeId>) -> Self {
        Self {
            voters: voters.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Whether the node's vote counts, now or after the change under way.
    #[must_use]
    pub fn is_voter(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.incoming.contains(&node)
    }

    /// Whether the core means the same.
    pub(super) fn is(&self, config: &noraft::ClusterConfig) -> bool {
        let same = |own: &BTreeSet<NodeId>, other: &BTreeSet<noraft::NodeId>| {
            own.len() == other.len() && own.iter().zip(other).all(|(a, b)| a.get() == b.get())
        };
        same(&self.voters, &config.voters)
            && same(&self.incoming, &config.new_voters)
            && same(&self.learners, &config.non_voters)
    }

    pub(super) fn of(config: &noraft::ClusterConfig) -> Self {
        let ids = |set: &BTreeSet<noraft::NodeId>| -> BTreeSet<NodeId> {
            set.iter().map(|id| NodeId::new(id.get())).collect()
        };
        Self {
            voters: ids(&config.voters),
            incoming: ids(&config.new_voters),
            learners: ids(&config.non_voters),
        }
    }

    pub(super) fn inner(&self) -> noraft::ClusterConfig {
        let ids = |set: &BTreeSet<NodeId>| -> BTreeSet<noraft::NodeId> {
            set.iter().map(|id| noraft::NodeId::new(id.get())).collect()
        };
        noraft::ClusterConfig {
            voters: ids(&self.voters),
            new_voters: ids(&self.incoming),
            non_voters: ids(&self.learners),
        }
    }
}

/// What an entry says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Payload {
    /// A leader's first entry: its term begins.
    Term,
    /// Who takes part from here on.
    Members(Members),
    /// Something for whoever applies the log; opaque here.
    Command(Bytes),
}

/// One entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Where it stands.
    pub position: Position,
    /// What it says.
    pub payload: Payload,
}

impl Entry {
    pub(super) fn inner(&self) -> noraft::LogEntry {
        match &self.payload {
            Payload::Term => noraft::LogEntry::Term(noraft::Term::new(self.position.term.get())),
            Payload::Members(members) => noraft::LogEntry::ClusterConfig(members.inner()),
            Payload::Command(_) => noraft::LogEntry::Command,
        }
    }

    /// What it takes in a message, about.
    pub(super) fn bytes(&self) -> usize {
        const HEADER: usize = 24;
        match &self.payload {
            Payload::Term => HEADER,
            Payload::Members(members) => {
                let ids = members.voters.len() + members.incoming.len() + members.learners.len();
                HEADER + 8 * ids
            }
            Payload::Command(bytes) => HEADER + bytes.len(),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Entries {
    /// The last entry that the snapshot holds.
    base: Position,
    held: VecDeque<Entry>,
}

impl Entries {
    pub(super) fn new(base: Position, entries: Vec<Entry>) -> Self {
        let mut this = Self {
            base,
            held: VecDeque::with_capacity(entries.len()),
        };
        for entry in entries {
            this.push(entry);
        }
        this
    }

    pub(super) fn base(&self) -> Position {
        self.base
    }

    pub(super) fn last(&self) -> Position {
        self.held.back().map_or(self.base, |entry| entry.position)
    }

    pub(super) fn push(&mut self, entry: Entry) {
        let last = self.last();
        assert_eq!(
            entry.position.index,
            last.index.advance(1),
            "the log has no holes"
        );
        assert!(entry.position.term >= last.term, "terms never go back");
        self.held.push_back(entry);
    }

    /// Drops what lies behind `index`.
    pub(super) fn cut(&mut self, index: RaftIndex) {
        assert!(index >= self.base.index, "a snapshot is never cut");
        let kept = index.get() - self.base.index.get();
        self.held.truncate(kept as usize);
    }

    /// The position at an index; none: not held.
    pub(super) fn position(&self, index: RaftIndex) -> Option<Position> {
        if index == self.base.index {
            return Some(self.base);
        }
        self.get(index).map(|entry| entry.position)
    }

    pub(super) fn get(&self, index: RaftIndex) -> Option<&Entry> {
        let nth = index.get().checked_sub(self.base.index.get() + 1)?;
        self.held.get(nth as usize)
    }

    /// Entries from `from` on, as many as fit, at least one if there is one.
    pub(super) fn from(&self, from: RaftIndex, bytes_max: usize) -> Vec<Entry> {
        let Some(nth) = from.get().checked_sub(self.base.index.get() + 1) else {
            return Vec::new();
        };
        let mut bytes = 0;
        let mut taken = Vec::new();
        for entry in self.held.iter().skip(nth as usize) {
            bytes += entry.bytes();
            if !taken.is_empty() && bytes > bytes_max {
                break;
            }
            taken.push(entry.clone());
        }
        taken
    }

    /// The snapshot holds everything up to here.
    pub(super) fn rebase(&mut self, base: Position) {
        if self.position(base.index) == Some(base) {
            let dropped = base.index.get() - self.base.index.get();
            self.held.drain(..dropped as usize);
        } else {
            self.held.clear();
        }
        self.base = base;
    }
}
