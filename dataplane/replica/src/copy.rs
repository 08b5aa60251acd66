//! What one replica holds of one slot: how far entries are written, durable and known to be committed, where each epoch
//! began, what it promised, and what is wrong with it. The leader and the follower of the slot work on this value; the
//! journal is their caller's, who tells what was written and what became durable, and who replays it at a start.
//!
//! Refuses to cut what it knows to be committed: then it is quarantined for ever, and the machines answer nothing.
//! Invariants: sequences are dense above the base; base <= committed <= end; durable <= end; epochs rise; the promise
//! never goes back; while a truncation is owed nothing is appended.

use crate::EpochMap;
use crate::planted::{Bug, is_planted};
use crate::seal::Promise;
use tiderace_base::position::{Epoch, SlotSeq};

/// The end of a copy. Compared by epoch first: that is what an election looks at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct End {
    /// The epoch of the last entry; zero when nothing is held.
    pub epoch: Epoch,
    /// Its sequence; zero when nothing is held.
    pub seq: SlotSeq,
}

/// The greatest entry that a copy may have held before its tail was cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// It held nothing greater.
    Known(End),
    /// Nothing can be named: no winner reaches it.
    Unknown,
}

impl Reach {
    /// Whether a copy that ends at `end` lacks nothing that this one may have held.
    #[must_use]
    pub fn is_reached_by(self, end: End) -> bool {
        match self {
            Self::Known(greatest) => end >= greatest,
            Self::Unknown => false,
        }
    }

    /// What covers both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Known(a), Self::Known(b)) => Self::Known(a.max(b)),
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
        }
    }
}

/// What recoveries found out about a copy that its peers must know before they count it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Marks {
    /// Bytes were not readable: anything may be missing.
    pub suspect: bool,
    /// The tail was cut; how far it may have reached.
    pub cut: Option<Reach>,
}

impl Marks {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_none(&self) -> bool {
        !self.suspect && self.cut.is_none()
    }
}

/// A place in the copy's own history, to be handed back when the journal has it: which of the copy's lives it belongs to
/// (a truncation begins another), and up to where. Two entries may stand at one sequence, one after the other; the
/// completion of the first says nothing about the second.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    pub(crate) cuts: u32,
    pub(crate) seq: SlotSeq,
}

/// Why a copy is out of use until an operator looks at it: this copy or that leader is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quarantine {
    /// Under which epoch the cut was asked for.
    pub epoch: Epoch,
    /// From where.
    pub from: SlotSeq,
    /// What this copy knew to be committed.
    pub committed: SlotSeq,
}

/// What a replayed entry did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replayed {
    /// It is held.
    Taken,
    /// It lies behind unreadable bytes and does not prove that nothing is missing before it: it will be fetched again.
    Dropped,
}

/// What one replica holds of one slot.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SlotCopy {
    epochs: EpochMap<SlotSeq>,
    base: SlotSeq,
    end: SlotSeq,
    durable: SlotSeq,
    committed: SlotSeq,
    cuts: u32,
    pub(crate) promise: Promise,
    /// The newest epoch that this replica leads or follows: nothing older is taken, though nothing was promised on disk.
    followed: Epoch,
    marks: Marks,
    /// The slot's epoch in the catalogue when this boot was committed: only a greater one was given after the marks.
    marked_under: Epoch,
    is_behind_damage: bool,
    has_dropped: bool,
    is_partial: bool,
    owed: Option<SlotSeq>,
    quarantine: Option<Quarantine>,
}

impl SlotCopy {
    /// A copy as a checkpoint kept it, before the journal behind the checkpoint is replayed. `None` when what was kept
    /// contradicts itself.
    #[must_use]
    pub fn restored(
        starts: &[(Epoch, SlotSeq)],
        base: SlotSeq,
        end: SlotSeq,
        committed: SlotSeq,
    ) -> Option<Self> {
        let epochs = EpochMap::restored(starts)?;
        let is_sound = base <= committed
            && committed <= end
            && starts.last().is_none_or(|(_, start)| *start <= end)
            && (end == SlotSeq::ZERO || !starts.is_empty());
        is_sound.then(|| Self {
            epochs,
            base,
            end,
            durable: end,
            committed,
            ..Self::default()
        })
    }

    /// Takes an entry that recovery read, in the order of the journal.
    ///
    /// Behind unreadable bytes a number that fits proves nothing: a truncation and other entries may stand in them, and
    /// the entry would be put on a log that it does not belong to. Only one of the same epoch as the last that is held
    /// belongs behind it for certain (R-5: copies of one epoch are prefixes of one log). All others are dropped.
    ///
    /// # Panics
    /// When it is not the next of its slot and nothing was unreadable.
    pub fn replay(&mut self, epoch: Epoch, seq: SlotSeq) -> Replayed {
        assert!(!self.is_partial, "a snapshot's rest is not replayed");
        let is_next = seq == self.end.advance(1);
        if self.is_behind_damage {
            let belongs = epoch == self.epochs.last() || is_planted(Bug::TakeBehindDamage);
            if !is_next || !belongs || epoch < self.epochs.last() {
                self.has_dropped = true;
                return Replayed::Dropped;
            }
        }
        assert!(is_next, "a slot's sequence is dense");
        self.append(epoch, seq);
        self.durable = self.end;
        Replayed::Taken
    }

    /// Takes a truncation that recovery read.
    ///
    /// # Panics
    /// When it cuts below the base.
    pub fn replay_truncate(&mut self, from: SlotSeq) {
        assert!(from > self.base, "nothing below the base is an entry");
        if from <= self.end {
            self.cut(from);
        }
        // A checkpoint's committed end is never cut by what was written behind it; damage before it can make it so.
        self.committed = self.committed.min(self.end);
        self.durable = self.end;
    }

    /// Bytes of the journal were not readable here.
    pub fn replay_damage(&mut self) {
        self.is_behind_damage = true;
    }

    /// An earlier recovery ended here, and its copy wrote what follows: it knew of all damage before, and cut what it
    /// had dropped before it took anything new.
    pub fn replay_restart(&mut self) {
        self.is_behind_damage = false;
        self.has_dropped = false;
    }

    /// Recovery has read the whole journal. `marks` is what the superblock says, this recovery's findings included, and
    /// `epoch` what the catalogue says of the slot at the moment at which this boot is committed: an epoch-start is
    /// "committed after the mark" for certain if its epoch is greater.
    pub fn recovered(&mut self, marks: Marks, epoch: Epoch) {
        self.durable = self.end;
        self.marks = marks;
        self.marked_under = epoch;
        self.promise.is_durable = true;
        assert!(
            !self.has_dropped || marks.suspect || is_planted(Bug::ForgetSuspect),
            "what was dropped is marked"
        );
        if self.has_dropped {
            // Else the next recovery would take up what this one dropped.
            self.owed = Some(self.end.advance(1));
        }
        self.is_behind_damage = false;
        self.has_dropped = false;
        self.check();
    }

    /// The end of what is written.
    #[must_use]
    pub fn held(&self) -> End {
        End {
            epoch: self.epochs.last(),
            seq: self.end,
        }
    }

    /// The last sequence written; the base's when nothing lies above it.
    #[must_use]
    pub fn end(&self) -> SlotSeq {
        self.end
    }

    /// The highest sequence below which nothing is missing on this disk.
    #[must_use]
    pub fn durable(&self) -> SlotSeq {
        self.durable
    }

    /// The last sequence that is known to be committed.
    #[must_use]
    pub fn committed(&self) -> SlotSeq {
        self.committed
    }

    /// Entries exist above it; below it there is a snapshot.
    #[must_use]
    pub fn base(&self) -> SlotSeq {
        self.base
    }

    /// Where each epoch began.
    #[must_use]
    pub fn epochs(&self) -> &EpochMap<SlotSeq> {
        &self.epochs
    }

    /// What is wrong with it.
    #[must_use]
    pub fn marks(&self) -> Marks {
        self.marks
    }

    /// Whether anything may be missing: unreadable bytes, or a snapshot that has not arrived as a whole.
    #[must_use]
    pub fn is_suspect(&self) -> bool {
        self.marks.suspect || self.is_partial
    }

    /// Why it is out of use.
    #[must_use]
    pub fn quarantine(&self) -> Option<Quarantine> {
        self.quarantine
    }

    /// From where a `Truncate` has to be written before anything else of the slot is.
    #[must_use]
    pub fn owed_truncation(&self) -> Option<SlotSeq> {
        self.owed
    }

    /// Nothing of an older epoch is taken: the greatest that was promised, followed or held.
    #[must_use]
    pub fn fence(&self) -> Epoch {
        let promised = self.promise.epoch();
        let promised = if is_planted(Bug::TakeBelowPromise) {
            Epoch::ZERO
        } else {
            promised
        };
        promised.max(self.followed).max(self.epochs.last())
    }

    /// The epoch of an entry, or of the last below the base; zero for the sequence before the first. `None` for what is
    /// not held, or lies where epochs may have been folded.
    #[must_use]
    pub fn epoch_at(&self, seq: SlotSeq) -> Option<Epoch> {
        if seq < self.base || seq > self.end {
            return None;
        }
        if seq == SlotSeq::ZERO {
            return Some(Epoch::ZERO);
        }
        self.epochs.epoch_at(seq)
    }

    /// The greatest epoch of which the copy is asked to take nothing below, from now on, without a word on disk: it
    /// leads or follows this one.
    pub(crate) fn follow(&mut self, epoch: Epoch) {
        assert!(epoch >= self.fence(), "an epoch is never gone back to");
        self.followed = epoch;
    }

    /// Takes the next entry.
    pub(crate) fn append(&mut self, epoch: Epoch, seq: SlotSeq) -> Written {
        assert_eq!(seq, self.end.advance(1), "a slot's sequence is dense");
        assert!(
            self.owed.is_none() && self.quarantine.is_none(),
            "nothing is appended before what is owed is cut"
        );
        self.epochs.note(epoch, seq);
        self.end = seq;
        self.written()
    }

    /// What to hand back when all that is written so far is durable.
    #[must_use]
    pub fn written(&self) -> Written {
        Written {
            cuts: self.cuts,
            seq: self.end,
        }
    }

    /// The journal has all that was written up to `written`. Of a life that a truncation ended it says nothing: the
    /// truncation stands behind it in the journal and may become durable without what follows.
    pub fn became_durable(&mut self, written: Written) {
        if written.cuts == self.cuts {
            assert!(
                written.seq <= self.end,
                "what was not written is not durable"
            );
            self.durable = self.durable.max(written.seq);
        } else {
            assert!(written.cuts < self.cuts, "a life that did not begin");
            if is_planted(Bug::MistakeDurable) {
                self.durable = self.durable.max(written.seq.min(self.end));
            }
        }
        self.check();
    }

    /// W members have every entry up to `seq`, which this copy has too.
    pub(crate) fn commit(&mut self, seq: SlotSeq) {
        let seq = seq.min(self.end);
        self.committed = self.committed.max(seq);
        self.check();
    }

    /// What lies at `from` and behind has to go, for `epoch`. What is committed never goes: then the copy is quarantined
    /// instead.
    pub(crate) fn owe_truncation(&mut self, epoch: Epoch, from: SlotSeq) -> Result<(), Quarantine> {
        assert!(self.owed.is_none(), "one truncation at a time");
        if from <= self.committed {
            let quarantine = Quarantine {
                epoch,
                from,
                committed: self.committed,
            };
            self.quarantine = Some(quarantine);
            return Err(quarantine);
        }
        assert!(from <= self.end, "a truncation cuts something");
        self.owed = Some(from);
        Ok(())
    }

    /// The `Truncate` that was owed is written: what it names is gone, and what is durable is at most what is left.
    ///
    /// # Panics
    /// When another was owed, or none.
    pub fn truncated(&mut self, from: SlotSeq) -> Written {
        assert_eq!(self.owed, Some(from), "what was owed is what is written");
        assert!(from > self.committed, "what is committed stays");
        self.owed = None;
        if from <= self.end {
            self.cut(from);
        } else {
            // What was dropped behind damage was never held; completions of it do not exist.
            self.cuts += 1;
        }
        self.check();
        self.written()
    }

    fn cut(&mut self, from: SlotSeq) {
        assert!(from > self.base, "nothing below the base is an entry");
        self.epochs.truncate(from);
        self.end = SlotSeq::new(from.get() - 1);
        self.durable = self.durable.min(self.end);
        self.cuts += 1;
        assert!(
            self.end == SlotSeq::ZERO || self.epochs.last() > Epoch::ZERO,
            "what is held has an epoch"
        );
    }

    /// A snapshot is about to replace what is held: until it is whole the copy counts for nothing.
    pub fn begin_snapshot(&mut self) {
        self.is_partial = true;
    }

    /// The snapshot is whole and durable, and replaces everything: entries follow above `base`, which is committed.
    ///
    /// # Panics
    /// When none was begun, or it says less than this copy knows to be committed.
    pub fn finish_snapshot(&mut self, epochs: EpochMap<SlotSeq>, base: SlotSeq) -> Written {
        assert!(self.is_partial, "a snapshot begins before it ends");
        assert!(base >= self.committed, "a snapshot takes nothing back");
        assert!(
            epochs.last() > Epoch::ZERO,
            "what is below the base has an epoch"
        );
        self.is_partial = false;
        self.owed = None;
        self.epochs = epochs;
        self.base = base;
        self.end = base;
        self.durable = base;
        self.committed = base;
        self.cuts += 1;
        self.check();
        self.written()
    }

    /// Entries up to `base` are no longer kept as entries.
    ///
    /// # Panics
    /// When they are not known to be committed: nothing else may be folded away.
    pub fn raise_base(&mut self, base: SlotSeq) {
        assert!(base <= self.committed, "only what is committed is folded");
        self.base = self.base.max(base);
        self.check();
    }

    /// Whether this copy makes a member whole under `epoch` although it is suspect: all that an epoch holds which was
    /// given after the marks is on its disk.
    pub(crate) fn is_whole_again(&self, epoch: Epoch, start: SlotSeq) -> bool {
        let reached = if is_planted(Bug::ClearMarkEarly) {
            self.end
        } else {
            self.durable
        };
        epoch > self.marked_under && reached >= start && !self.is_partial
    }

    /// Whether the marks may go, and lets them go: the copy has, durably, an epoch-start that was committed after the
    /// marks were made. The caller writes the superblock.
    pub(crate) fn clear_marks(&mut self, epoch: Epoch) -> bool {
        let Some(start) = self.epochs.start_of(epoch) else {
            return false;
        };
        let may_go =
            !self.marks.is_none() && self.committed >= start && self.is_whole_again(epoch, start);
        if may_go {
            self.marks = Marks::default();
        }
        may_go
    }

    fn check(&self) {
        assert!(
            self.base <= self.committed,
            "what is below the base is committed"
        );
        assert!(self.committed <= self.end, "what is committed is held");
        assert!(self.durable <= self.end, "what is durable is held");
    }
}
