//! The follower of one slot under one epoch: asks the leader for what lies behind its end, finds out where the two logs
//! part, cuts there, takes entries in order, and says how far it is durable. Works on the [`SlotCopy`], which outlives it.
//!
//! Every answer of a leader names what it answers, so that what was delayed, repeated or overtaken over several
//! connections is recognised and changes nothing.
//!
//! Refuses entries of another epoch or another boot of the leader, entries below the copy's fence, entries
//! that do not continue what was matched. Invariants: nothing is acknowledged, and no committed end is believed,
//! before the copy was found to be a prefix of the leader's log; a truncation is written before anything new.

use crate::configuration::Member;
use crate::copy::{End, Marks, Quarantine, SlotCopy, Written};
use crate::lease::{Grants, LeaseAsk};
use crate::planted::{Bug, is_planted};
use tiderace_base::ids::BootId;
use tiderace_base::limits::SLOT_LEASE_NS_MAX;
use tiderace_base::position::{Epoch, SlotSeq};
use tiderace_base::time::Mono;

/// What a follower asks for: entries behind its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fetch {
    /// The epoch that it follows.
    pub epoch: Epoch,
    /// Who it is.
    pub member: Member,
    /// Where its copy ends.
    pub held: End,
    /// How far that is durable.
    pub durable: SlotSeq,
    /// What is wrong with it.
    pub marks: Marks,
}

/// What stands before entries that a leader ships.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shipment {
    /// The leader's epoch.
    pub epoch: Epoch,
    /// The leader's run.
    pub boot: BootId,
    /// The leader's entry before the first that is shipped.
    pub after: End,
    /// The leader's last entry.
    pub leader_end: SlotSeq,
    /// The last entry that the leader knows to be committed.
    pub committed: SlotSeq,
}

/// Where the logs part, by the leader's map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Diverged {
    /// The leader's epoch.
    pub epoch: Epoch,
    /// The leader's run.
    pub boot: BootId,
    /// The end that was asked about.
    pub asked: End,
    /// The newest of the leader's epochs that is not above it, with that epoch's last sequence.
    pub end: End,
}

/// How far a follower is durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ack {
    /// The epoch of the leader that it follows.
    pub epoch: Epoch,
    /// Who it is.
    pub member: Member,
    /// The highest sequence below which nothing is missing on its disk.
    pub durable: SlotSeq,
}

/// Why a follower takes nothing of what it was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FollowRefused {
    /// The sender's epoch is over: tell it that this one was promised or followed.
    Fenced {
        /// Nothing older is taken.
        fence: Epoch,
    },
    /// The epoch is newer than this follower knows: keep the frame until the catalogue has come.
    Ahead,
    /// Another run of the leader than the one that the catalogue gave the epoch to: close the connection.
    OtherBoot,
    /// A `Truncate` has to be written first; then ask again.
    Owed,
    /// It does not continue what is held: ask again.
    Gap,
    /// The copy was not found to be the leader's yet: ask again.
    Unmatched,
    /// Another entry stands here than the leader has: ask again, and be told where the logs part.
    Parted,
    /// An epoch goes back, or is above the leader's: the leader is wrong, close the connection.
    Malformed,
    /// The copy is out of use.
    Quarantined,
}

/// What became of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// It is the copy's new end: write it, and hand this back when it is durable.
    Placed(Written),
    /// It was held already.
    Known,
}

/// What comes of being told where the logs part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parting {
    /// Write `Truncate{epoch, from}`, call [`SlotCopy::truncated`], then ask again.
    Cut {
        /// The epoch that it is cut for.
        epoch: Epoch,
        /// The first sequence that goes.
        from: SlotSeq,
    },
    /// It answers a question that is no longer asked: nothing changes.
    Late,
    /// The map speaks of epochs that one of the two has folded: a snapshot is needed.
    Snapshot,
    /// What would be cut is committed: the copy is out of use from now on.
    Quarantined(Quarantine),
}

/// One slot's follower under one epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Follower {
    epoch: Epoch,
    leader: Member,
    me: Member,
    is_matched: bool,
}

impl Follower {
    /// The catalogue says that `leader` leads under `epoch`. From now on nothing older is taken.
    ///
    /// # Errors
    /// When something newer was promised or followed. A promise above the epoch that is led heals by another election.
    pub fn follow(
        copy: &mut SlotCopy,
        epoch: Epoch,
        leader: Member,
        me: Member,
    ) -> Result<Self, FollowRefused> {
        assert!(leader.node != me.node, "nobody follows itself");
        if copy.quarantine().is_some() {
            return Err(FollowRefused::Quarantined);
        }
        let fence = copy.fence();
        if epoch < fence {
            return Err(FollowRefused::Fenced { fence });
        }
        copy.follow(epoch);
        if is_planted(Bug::CutByWatermark) && copy.end() > copy.committed() {
            let from = copy.committed().advance(1);
            if copy.owed_truncation().is_none() {
                copy.owe_truncation(epoch, from)
                    .expect("above what is committed");
            }
        }
        Ok(Self {
            epoch,
            leader,
            me,
            is_matched: false,
        })
    }

    /// The epoch that is followed.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Who leads it.
    #[must_use]
    pub fn leader(&self) -> Member {
        self.leader
    }

    /// Whether the copy was found to be a prefix of the leader's log. It stays one for as long as this epoch is followed:
    /// nothing is appended but what the leader shipped behind it.
    #[must_use]
    pub fn is_matched(&self) -> bool {
        self.is_matched
    }

    /// What to ask the leader for; `None` while a truncation is owed, and when nothing of this epoch is taken any more.
    #[must_use]
    pub fn fetch(&self, copy: &SlotCopy) -> Option<Fetch> {
        if self.may_take(copy).is_err() || copy.owed_truncation().is_some() {
            return None;
        }
        let mut marks = copy.marks();
        marks.suspect = copy.is_suspect();
        Some(Fetch {
            epoch: self.epoch,
            member: self.me,
            held: copy.held(),
            durable: copy.durable(),
            marks,
        })
    }

    /// The leader ships entries. After this each is handed to [`Follower::entry`], in order, and then
    /// [`Follower::committed`] is called.
    ///
    /// # Errors
    /// When none of them may be taken.
    pub fn admit(&mut self, copy: &SlotCopy, shipment: &Shipment) -> Result<(), FollowRefused> {
        self.check_sender(copy, shipment.epoch, shipment.boot)?;
        if copy.owed_truncation().is_some() {
            return Err(FollowRefused::Owed);
        }
        if shipment.after == copy.held() {
            self.is_matched = true;
        }
        Ok(())
    }

    /// One entry of an admitted shipment.
    ///
    /// # Errors
    /// When it may not be taken; those behind it may not either.
    pub fn entry(
        &mut self,
        copy: &mut SlotCopy,
        epoch: Epoch,
        seq: SlotSeq,
    ) -> Result<Taken, FollowRefused> {
        self.may_take(copy)?;
        if copy.owed_truncation().is_some() {
            return Err(FollowRefused::Owed);
        }
        if epoch > self.epoch || seq == SlotSeq::ZERO {
            return Err(FollowRefused::Malformed);
        }
        let held = copy.held();
        if seq <= held.seq {
            // Below the base, and among folded epochs, there is nothing to compare with.
            return match copy.epoch_at(seq) {
                Some(known) if known != epoch => {
                    if self.is_matched {
                        Err(FollowRefused::Malformed)
                    } else {
                        Err(FollowRefused::Parted)
                    }
                }
                Some(_) => {
                    self.is_matched |= seq == held.seq;
                    Ok(Taken::Known)
                }
                None => Ok(Taken::Known),
            };
        }
        if seq != held.seq.advance(1) {
            return Err(FollowRefused::Gap);
        }
        if !self.is_matched {
            return Err(FollowRefused::Unmatched);
        }
        if epoch < held.epoch {
            return Err(FollowRefused::Malformed);
        }
        Ok(Taken::Placed(copy.append(epoch, seq)))
    }

    /// What an admitted shipment says of the committed end. Believed as far as this copy reaches, and only once the copy
    /// is the leader's: else the entries below that number may be others. Says whether the copy's marks went with it,
    /// which the superblock has to be told.
    pub fn committed(&self, copy: &mut SlotCopy, shipment: &Shipment) -> bool {
        if self
            .check_sender(copy, shipment.epoch, shipment.boot)
            .is_err()
        {
            return false;
        }
        if self.is_matched || is_planted(Bug::CommitUnmatched) {
            copy.commit(shipment.committed);
        }
        self.is_matched && copy.clear_marks(self.epoch)
    }

    /// The journal has more of the copy. Says whether its marks went with it, which the superblock has to be told.
    pub fn became_durable(&self, copy: &mut SlotCopy) -> bool {
        self.is_matched && copy.clear_marks(self.epoch)
    }

    /// The leader says where the logs part. What is kept is at or below both the leader's end of that epoch and
    /// this copy's own.
    pub fn diverged(&mut self, copy: &mut SlotCopy, diverged: &Diverged) -> Parting {
        let is_late = self
            .check_sender(copy, diverged.epoch, diverged.boot)
            .is_err()
            || self.is_matched
            || copy.owed_truncation().is_some()
            || diverged.asked != copy.held()
            || diverged.asked.seq == SlotSeq::ZERO;
        if is_late {
            return Parting::Late;
        }
        let past = diverged.end.seq.advance(1);
        // Where nothing above that epoch is held, the leader's own end of it lies before this copy's.
        let own = copy.epochs().start_above(diverged.end.epoch);
        let from = own.map_or(past, |own| own.min(past));
        let is_folded =
            from > copy.base().advance(1) && copy.epoch_at(SlotSeq::new(from.get() - 1)).is_none();
        if from > copy.end() || is_folded {
            return Parting::Snapshot;
        }
        match copy.owe_truncation(self.epoch, from) {
            Ok(()) => Parting::Cut {
                epoch: self.epoch,
                from,
            },
            Err(quarantine) => Parting::Quarantined(quarantine),
        }
    }

    /// What to acknowledge; `None` while nothing may be: the copy is not known to be the leader's, or a newer epoch was
    /// promised, or the copy is suspect and has not, durably, all that an epoch holds which was given after its mark.
    #[must_use]
    pub fn ack(&self, copy: &SlotCopy) -> Option<Ack> {
        self.may_take(copy).ok()?;
        let is_whole = !copy.is_suspect()
            || copy
                .epochs()
                .start_of(self.epoch)
                .is_some_and(|start| copy.is_whole_again(self.epoch, start));
        let is_matched = self.is_matched || is_planted(Bug::AcknowledgeUnmatched);
        (is_matched && is_whole).then(|| Ack {
            epoch: self.epoch,
            member: self.me,
            durable: copy.durable(),
        })
    }

    /// The leader asks for a lease. `grants` is what this member remembers of the slot. Says how long was granted.
    ///
    /// # Errors
    /// When another epoch was promised or is followed, or this copy counts for nothing.
    pub fn grant(
        &self,
        copy: &SlotCopy,
        grants: &mut Grants,
        ask: &LeaseAsk,
        boot: BootId,
        now: Mono,
    ) -> Result<u64, FollowRefused> {
        self.check_sender(copy, ask.epoch, boot)?;
        if copy.is_suspect() {
            return Err(FollowRefused::Unmatched);
        }
        let length_ns = ask.length_ns.min(SLOT_LEASE_NS_MAX);
        grants.grant(length_ns, now);
        Ok(length_ns)
    }

    fn check_sender(
        &self,
        copy: &SlotCopy,
        epoch: Epoch,
        boot: BootId,
    ) -> Result<(), FollowRefused> {
        if epoch > self.epoch {
            return Err(FollowRefused::Ahead);
        }
        if epoch < self.epoch {
            return Err(FollowRefused::Fenced { fence: self.epoch });
        }
        if boot != self.leader.boot && !is_planted(Bug::TakeBelowPromise) {
            return Err(FollowRefused::OtherBoot);
        }
        self.may_take(copy)
    }

    fn may_take(&self, copy: &SlotCopy) -> Result<(), FollowRefused> {
        if copy.quarantine().is_some() {
            return Err(FollowRefused::Quarantined);
        }
        let fence = copy.fence();
        if fence > self.epoch {
            return Err(FollowRefused::Fenced { fence });
        }
        Ok(())
    }
}
