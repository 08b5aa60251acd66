//! Sealing: a replica promises that it takes nothing of any older epoch, and says what it holds. The promise holds
//! from the moment at which its entry is written; the answer is given when that entry is durable, and with it everything
//! before it; it is repeated unchanged afterwards, over restarts too.
//!
//! Refuses a seal that was made from an older record of the slot, and one for an epoch that is led already. Invariants:
//! the promise never goes back; nothing is answered before it is durable; no answer says more than is still held.

use crate::configuration::{Generation, Member};
use crate::copy::{End, Marks, SlotCopy};
use crate::planted::{Bug, is_planted};
use tiderace_base::position::{Epoch, SlotSeq};

/// The control leader asks a member to refuse every epoch below this one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SealAsk {
    /// The generation of the slot's record that the control leader looks at.
    pub generation: Generation,
    /// The epoch that it means to give.
    pub epoch: Epoch,
}

/// What stands in the journal, and in the superblock: the promise and the answer that was given with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SealEntry {
    /// The epoch promised.
    pub epoch: Epoch,
    /// What the copy held.
    pub held: End,
    /// How far of that was durable before the seal itself was.
    pub flushed: SlotSeq,
    /// Whether its tail was cut at a start.
    pub cut: bool,
}

/// What this replica promised last.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Promise {
    entry: Option<SealEntry>,
    pub(crate) is_durable: bool,
}

impl Promise {
    pub(crate) fn epoch(&self) -> Epoch {
        self.entry.map_or(Epoch::ZERO, |entry| entry.epoch)
    }
}

/// What a member answers when it is sealed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SealAnswer {
    /// Who answers. The boot stands in it because only a winner that has not started again since may lead.
    pub member: Member,
    /// The epoch promised, which may be above the one that was asked for.
    pub epoch: Epoch,
    /// What it holds.
    pub held: End,
    /// How far of that was durable before the seal.
    pub flushed: SlotSeq,
    /// What is wrong with it.
    pub marks: Marks,
    /// What is left of a lease that it granted, by its own clock.
    pub lease_left_ns: u64,
}

/// What comes of being asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sealing {
    /// Write this to the journal and the superblock, and call [`SlotCopy::seal_became_durable`] when both have it. From
    /// now on nothing older is taken.
    Write(SealEntry),
    /// It is written and not durable yet: the answer comes with [`SlotCopy::seal_became_durable`].
    Waiting,
    /// Answer now, with [`SlotCopy::seal_answer`].
    Answer,
    /// Say no.
    Refused(SealRefused),
}

/// Why a member does not let itself be sealed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SealRefused {
    /// The asker looks at an older record than this member knows: it has to catch up with the catalogue first.
    OldGeneration {
        /// What this member knows.
        known: Generation,
    },
    /// That epoch is led, or was: choose one above this.
    Stale {
        /// The newest epoch that was seen here.
        seen: Epoch,
    },
    /// This copy is out of use: count without it.
    Quarantined,
}

impl SlotCopy {
    /// The epoch below which nothing is taken because it was promised.
    #[must_use]
    pub fn promised(&self) -> Epoch {
        self.promise.epoch()
    }

    /// A control leader asks for a seal. `known` is the generation that this node's own copy of the catalogue has.
    pub fn seal(&mut self, ask: SealAsk, known: Generation) -> Sealing {
        if self.quarantine().is_some() {
            return Sealing::Refused(SealRefused::Quarantined);
        }
        if ask.generation < known {
            return Sealing::Refused(SealRefused::OldGeneration { known });
        }
        let promised = self.promised();
        if ask.epoch <= promised {
            // The same again, or less: what was answered is answered again.
            return if self.promise.is_durable {
                Sealing::Answer
            } else {
                Sealing::Waiting
            };
        }
        let seen = self.fence();
        if ask.epoch <= seen {
            return Sealing::Refused(SealRefused::Stale { seen });
        }
        let entry = SealEntry {
            epoch: ask.epoch,
            held: self.held(),
            flushed: self.durable(),
            cut: self.marks().cut.is_some(),
        };
        self.promise = Promise {
            entry: Some(entry),
            is_durable: is_planted(Bug::AnswerUndurableSeal),
        };
        assert!(self.promised() > promised, "a promise never goes back");
        Sealing::Write(entry)
    }

    /// The journal and the superblock have the seal for `epoch`, and the journal all that it was written behind. Says
    /// whether that is the newest promise, whose answer may be given now.
    pub fn seal_became_durable(&mut self, epoch: Epoch) -> bool {
        let promised = self.promised();
        assert!(epoch <= promised, "what was not promised is not durable");
        let is_newest = epoch == promised;
        self.promise.is_durable |= is_newest;
        is_newest
    }

    /// A seal that recovery read, in the journal or in the superblock. The greatest counts.
    pub fn replay_seal(&mut self, entry: SealEntry) {
        if entry.epoch > self.promised() {
            self.promise = Promise {
                entry: Some(entry),
                is_durable: true,
            };
        }
    }

    /// The answer to a seal; `None` before one is durable, and for ever while the copy is out of use.
    ///
    /// It is the answer that was given with the promise, with one exception: damage may have taken what it said. Then
    /// the old answer would let a copy win with an end that it does not have, so it says what is left, with its marks.
    #[must_use]
    pub fn seal_answer(&self, member: Member, lease_left_ns: u64) -> Option<SealAnswer> {
        let entry = self.promise.entry?;
        if !self.promise.is_durable || self.quarantine().is_some() {
            return None;
        }
        let held = if is_planted(Bug::RepeatLostAnswer) {
            entry.held
        } else {
            entry.held.min(self.held())
        };
        let mut marks = self.marks();
        marks.suspect = self.is_suspect();
        Some(SealAnswer {
            member,
            epoch: entry.epoch,
            held,
            flushed: entry.flushed.min(self.end()),
            marks,
            lease_left_ns,
        })
    }
}
