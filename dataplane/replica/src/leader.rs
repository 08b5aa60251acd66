//! The leader of one slot under one epoch: places entries, ships them, counts who has them, and says what may be exposed.
//! Works on the [`SlotCopy`], which outlives it.
//!
//! ```text
//! chosen ──epoch-start placed──▶ started ──epoch-start committed──▶ led      newer promise, epoch or record: deposed
//! ```
//!
//! A change of the set is counted over the new one from the beginning, and commits nothing before the catalogue has it.
//!
//! Refuses to place anything but the epoch-start before that is committed (R-4), to count anybody but the members of its
//! configuration on their disks and in their boots (R-7), and to go on when something newer was promised. Invariants: the
//! committed end moves only to entries of this epoch; a disk counts for what it acknowledged and for no more than is
//! placed. Counting allocates nothing.

use crate::configuration::{Configuration, Generation, Member};
use crate::copy::{End, SlotCopy, Written};
use crate::follower::{Ack, Diverged, Fetch, Shipment};
use crate::lease::{Grants, Lease, LeaseAsk};
use crate::planted::{Bug, is_planted};
use tiderace_base::catalogue::Durability;
use tiderace_base::ids::{BootId, NodeId};
use tiderace_base::limits::{SLOT_LEASE_NS_MAX, SLOT_MEMBERS_MAX};
use tiderace_base::position::{Epoch, SlotSeq};
use tiderace_base::time::Mono;

/// How far a leader is with its epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// The epoch-start is not placed.
    Chosen,
    /// It is placed here and not committed.
    Started {
        /// Its sequence.
        start: SlotSeq,
    },
    /// It is committed, and with it everything before.
    Led {
        /// Its sequence.
        start: SlotSeq,
    },
}

/// What `SlotLed` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Given {
    /// The epoch.
    pub epoch: Epoch,
    /// The member that leads, in this boot.
    pub leader: Member,
    /// The set that is committed.
    pub configuration: Configuration,
    /// The set that is to replace it, if there is one.
    pub next: Option<Configuration>,
    /// Nothing is exposed before this has passed, from now on.
    pub wait_ns: u64,
}

/// Why this replica may not lead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeadError {
    /// The epoch is below what was promised, or not above what is held (R-1): the change was outrun, or names another
    /// boot's epoch.
    Stale {
        /// The newest epoch that was seen.
        seen: Epoch,
    },
    /// The leader is no member of the set, or of the one to come: whoever proposed this was wrong.
    NotMember,
    /// This copy is out of use.
    Quarantined,
    /// This copy may lack anything.
    Suspect,
}

/// The body of the epoch-start entry, and where it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Start {
    /// The epoch that starts.
    pub epoch: Epoch,
    /// The epoch-start's sequence: the first that the epoch before does not have.
    pub seq: SlotSeq,
    /// The epoch before.
    pub prior_epoch: Epoch,
    /// To be handed back when it is durable.
    pub written: Written,
}

/// A new entry's place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Its epoch.
    pub epoch: Epoch,
    /// Its sequence.
    pub seq: SlotSeq,
    /// To be handed back when it is durable.
    pub written: Written,
}

/// What a follower is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FetchAnswer {
    /// Its copy is a prefix of this log: ship what lies behind it.
    Entries(Shipment),
    /// The logs part.
    Diverged(Diverged),
    /// What it lacks is no longer kept as entries, or cannot be compared.
    Snapshot {
        /// Entries exist above this.
        base: SlotSeq,
    },
    /// The one of the two whose epoch is older is over.
    Fenced {
        /// The newest epoch that was seen here.
        epoch: Epoch,
    },
    /// This leader is over: the follower knows a newer epoch, or the catalogue gave the slot away.
    Deposed,
    /// It is not a member, on this disk and in this boot, as far as this node's catalogue knows.
    NotMember,
    /// It once acknowledged more than it has, and nothing says that it was damaged: an old image, which needs a new
    /// identity (R-1).
    OldImage {
        /// What it acknowledged.
        acknowledged: SlotSeq,
    },
}

/// Why an acknowledgement did not count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AckIgnored {
    /// It belongs to another epoch.
    OtherEpoch,
    /// It comes from nobody who may count (R-7).
    NotMember,
    /// The member has not been found to hold this log, or names what was never placed.
    Unfounded,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Progress {
    /// Its copy was compared, in this boot and under this epoch.
    is_matched: bool,
    /// Acknowledged in this boot and under this epoch.
    durable: SlotSeq,
    /// Acknowledged by this disk under this epoch in earlier boots: whatever this boot asks, it has that much. What was
    /// acknowledged in this boot says nothing here: a question may be long on its way.
    acknowledged: SlotSeq,
}

const NO_PROGRESS: Progress = Progress {
    is_matched: false,
    durable: SlotSeq::ZERO,
    acknowledged: SlotSeq::ZERO,
};

/// One slot's leader under one epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leader {
    epoch: Epoch,
    me: Member,
    my_index: usize,
    configuration: Configuration,
    next: Option<Configuration>,
    phase: Phase,
    progress: [Progress; SLOT_MEMBERS_MAX],
    lease: Lease,
    wait_until: Mono,
    /// The newest epoch that it heard of.
    newest: Epoch,
    is_over: bool,
}

impl Leader {
    /// The catalogue committed that this replica leads. `given.leader` is this process: it was compared with its own
    /// boot and disk by whoever read the catalogue.
    ///
    /// # Errors
    /// When it may not.
    pub fn chosen(copy: &mut SlotCopy, given: &Given, now: Mono) -> Result<Self, LeadError> {
        if copy.quarantine().is_some() {
            return Err(LeadError::Quarantined);
        }
        if copy.is_suspect() {
            return Err(LeadError::Suspect);
        }
        let seen = copy.fence();
        if given.epoch < seen || given.epoch <= copy.held().epoch {
            return Err(LeadError::Stale { seen });
        }
        let counted = given.next.unwrap_or(given.configuration);
        let is_in_both = given.configuration.index_of(&given.leader).is_some();
        let (Some(my_index), true) = (counted.index_of(&given.leader), is_in_both) else {
            return Err(LeadError::NotMember);
        };
        assert!(
            copy.owed_truncation().is_none(),
            "what was owed was cut by the one that owed it"
        );
        copy.follow(given.epoch);
        Ok(Self {
            epoch: given.epoch,
            me: given.leader,
            my_index,
            configuration: given.configuration,
            next: given.next,
            phase: Phase::Chosen,
            progress: [NO_PROGRESS; SLOT_MEMBERS_MAX],
            lease: Lease::NONE,
            wait_until: now.after_ns(given.wait_ns),
            newest: given.epoch,
            is_over: false,
        })
    }

    /// The epoch that it was given.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// How far it is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Who leads.
    #[must_use]
    pub fn member(&self) -> Member {
        self.me
    }

    /// Over whom it counts: the set to come while there is one.
    #[must_use]
    pub fn counted(&self) -> &Configuration {
        self.next.as_ref().unwrap_or(&self.configuration)
    }

    /// Whether it does nothing any more: a newer epoch was heard of, or promised by its own copy, or the record that it
    /// was given is no longer the slot's.
    #[must_use]
    pub fn is_deposed(&self, copy: &SlotCopy) -> bool {
        self.is_over || self.newest(copy) > self.epoch
    }

    /// The newest epoch that it heard of. When it is above its own, tell control: a promise that came late is healed by
    /// an election above it (R-3).
    #[must_use]
    pub fn newest(&self, copy: &SlotCopy) -> Epoch {
        self.newest.max(copy.fence())
    }

    /// Somebody refused, and named the epoch that it promised; or the catalogue gave the slot a newer one.
    pub fn fenced(&mut self, by: Epoch) {
        self.newest = self.newest.max(by);
    }

    /// Places the epoch-start, behind the tail that was inherited. Both reach the members together.
    ///
    /// # Panics
    /// When it is placed already. `None` when this leader is deposed.
    pub fn start(&mut self, copy: &mut SlotCopy) -> Option<Start> {
        assert_eq!(self.phase, Phase::Chosen, "an epoch starts once");
        if self.is_deposed(copy) {
            return None;
        }
        let prior_epoch = copy.held().epoch;
        assert!(prior_epoch < self.epoch, "an epoch is never resumed");
        let seq = copy.end().advance(1);
        let written = copy.append(self.epoch, seq);
        self.phase = Phase::Started { start: seq };
        Some(Start {
            epoch: self.epoch,
            seq,
            prior_epoch,
            written,
        })
    }

    /// Takes the place of a new entry; `None` while this leader does not serve.
    pub fn place(&mut self, copy: &mut SlotCopy, now: Mono) -> Option<Place> {
        if !self.serves(copy, now) {
            return None;
        }
        let seq = copy.end().advance(1);
        let written = copy.append(self.epoch, seq);
        Some(Place {
            epoch: self.epoch,
            seq,
            written,
        })
    }

    /// Whether it takes batches, acknowledges and delivers: the epoch-start and the set are committed, what may be left
    /// of an earlier leader's lease is over, and nothing newer was heard of.
    #[must_use]
    pub fn serves(&self, copy: &SlotCopy, now: Mono) -> bool {
        let is_led = match self.phase {
            Phase::Led { .. } => true,
            Phase::Started { .. } => is_planted(Bug::ServeBeforeStart),
            Phase::Chosen => false,
        };
        is_led && self.next.is_none() && now >= self.wait_until && !self.is_deposed(copy)
    }

    /// Whether W members let it be alone at `now` (R-8).
    #[must_use]
    pub fn has_lease(&self, now: Mono) -> bool {
        let counted = self.counted();
        now < self.lease.until(counted.members().len(), counted.quorum())
    }

    /// The last sequence that may be exposed, for a stream of this level; `None` for nothing at all.
    ///
    /// What is committed needs no lease: commitment is its own proof. So a stream of a lower level whose leader lost its
    /// lease still learns what W members have.
    #[must_use]
    pub fn exposable(&self, copy: &SlotCopy, level: Durability, now: Mono) -> Option<SlotSeq> {
        if !self.serves(copy, now) {
            return None;
        }
        let alone = match level {
            Durability::Quorum => SlotSeq::ZERO,
            Durability::Local if self.has_lease(now) => copy.durable(),
            Durability::Memory if self.has_lease(now) => copy.end(),
            Durability::Local | Durability::Memory => SlotSeq::ZERO,
        };
        Some(copy.committed().max(alone))
    }

    /// A follower asks for entries.
    pub fn fetch(&mut self, copy: &SlotCopy, fetch: &Fetch) -> FetchAnswer {
        if fetch.epoch > self.epoch {
            self.fenced(fetch.epoch);
            return FetchAnswer::Deposed;
        }
        if fetch.epoch < self.epoch {
            return FetchAnswer::Fenced { epoch: self.epoch };
        }
        // A winner that was sealed again reads nothing out for its old epoch (R-3).
        if self.is_deposed(copy) {
            return match self.newest(copy) {
                epoch if epoch > self.epoch => FetchAnswer::Fenced { epoch },
                _ => FetchAnswer::Deposed,
            };
        }
        let Some(index) = self.index_of(&fetch.member) else {
            return FetchAnswer::NotMember;
        };
        let acknowledged = self.progress[index].acknowledged;
        if fetch.marks.is_none() && fetch.held.seq < acknowledged {
            return FetchAnswer::OldImage { acknowledged };
        }
        let held = fetch.held;
        if held.seq < copy.base() {
            return FetchAnswer::Snapshot { base: copy.base() };
        }
        if held.seq <= copy.end() {
            match copy.epoch_at(held.seq) {
                Some(epoch) if epoch == held.epoch => {
                    self.progress[index].is_matched = true;
                    return FetchAnswer::Entries(self.shipment(copy, held));
                }
                Some(_) => {}
                None => return FetchAnswer::Snapshot { base: copy.base() },
            }
        }
        let Some((epoch, past)) = copy.epochs().end_of(held.epoch, copy.end().advance(1)) else {
            return if copy.base() > SlotSeq::ZERO {
                FetchAnswer::Snapshot { base: copy.base() }
            } else {
                FetchAnswer::Diverged(self.parting(held, End::default()))
            };
        };
        let seq = SlotSeq::new(past.get() - 1);
        if seq < copy.base() || copy.epoch_at(seq).is_none() {
            return FetchAnswer::Snapshot { base: copy.base() };
        }
        FetchAnswer::Diverged(self.parting(held, End { epoch, seq }))
    }

    fn parting(&self, asked: End, end: End) -> Diverged {
        Diverged {
            epoch: self.epoch,
            boot: self.me.boot,
            asked,
            end,
        }
    }

    /// What stands before the entries behind `after`, which the receiver is known to have.
    #[must_use]
    pub fn shipment(&self, copy: &SlotCopy, after: End) -> Shipment {
        Shipment {
            epoch: self.epoch,
            boot: self.me.boot,
            after,
            leader_end: copy.end(),
            committed: copy.committed(),
        }
    }

    /// A follower says how far it is durable. The hot path: two comparisons, one search among at most seven members, one
    /// selection; nothing is allocated. Says the committed end when it moved.
    ///
    /// # Errors
    /// When it does not count.
    pub fn ack(&mut self, copy: &mut SlotCopy, ack: &Ack) -> Result<Option<SlotSeq>, AckIgnored> {
        if ack.epoch != self.epoch {
            self.fenced(ack.epoch);
            return Err(AckIgnored::OtherEpoch);
        }
        let index = self.index_of(&ack.member).ok_or(AckIgnored::NotMember)?;
        let progress = &mut self.progress[index];
        let is_founded = progress.is_matched
            || is_planted(Bug::AcknowledgeUnmatched)
            || is_planted(Bug::CountByNode);
        if !is_founded || ack.durable > copy.end() || index == self.my_index {
            return Err(AckIgnored::Unfounded);
        }
        progress.durable = progress.durable.max(ack.durable);
        Ok(self.count(copy))
    }

    /// This replica's own journal has more. Says the committed end when it moved.
    pub fn became_durable(&mut self, copy: &mut SlotCopy) -> Option<SlotSeq> {
        self.count(copy)
    }

    /// The sequence that W of the counted members have on their disks, this one at its own durable end.
    fn on_quorum(&self, copy: &SlotCopy) -> SlotSeq {
        let counted = self.counted();
        let count = counted.members().len();
        let mut durable = [SlotSeq::ZERO; SLOT_MEMBERS_MAX];
        for (index, place) in durable[..count].iter_mut().enumerate() {
            *place = if index == self.my_index {
                copy.durable()
            } else {
                self.progress[index].durable
            };
        }
        let members = &mut durable[..count];
        members.sort_unstable();
        members[count - counted.quorum()]
    }

    /// Moves the committed end: only to an entry of this epoch, of which the epoch-start is the first (R-4), and not
    /// before the set that was counted is the slot's (R-2).
    fn count(&mut self, copy: &mut SlotCopy) -> Option<SlotSeq> {
        let start = match self.phase {
            Phase::Chosen if is_planted(Bug::CommitOlderEpochs) => SlotSeq::MAX,
            Phase::Chosen => return None,
            Phase::Started { start } | Phase::Led { start } => start,
        };
        let is_set_committed = self.next.is_none() || is_planted(Bug::CommitBeforeSet);
        if !is_set_committed || self.is_deposed(copy) {
            return None;
        }
        let reached = self.on_quorum(copy);
        let is_own = reached >= start || is_planted(Bug::CommitOlderEpochs);
        if !is_own || reached <= copy.committed() {
            return None;
        }
        if reached >= start {
            self.phase = Phase::Led { start };
        }
        copy.commit(reached);
        copy.clear_marks(self.epoch);
        Some(reached)
    }

    /// The set that may be proposed now: W of it have everything up to the epoch-start, so that whoever seals it next
    /// finds all that was committed in the one before (R-2).
    #[must_use]
    pub fn set_to_propose(&self, copy: &SlotCopy) -> Option<&Configuration> {
        let (Phase::Started { start } | Phase::Led { start }) = self.phase else {
            return None;
        };
        let is_ready = self.on_quorum(copy) >= start && !self.is_deposed(copy);
        self.next.as_ref().filter(|_| is_ready)
    }

    /// The catalogue has the slot's record in another generation, still under this epoch: the set that this leader
    /// waited for was committed, or nothing changed but the number. Any other set means that this leader is over. Says
    /// the committed end when it moved.
    ///
    /// # Panics
    /// When it is an older record: the catalogue does not go back.
    pub fn set_committed(
        &mut self,
        copy: &mut SlotCopy,
        configuration: &Configuration,
    ) -> Option<SlotSeq> {
        let generation: Generation = configuration.generation();
        assert!(
            generation >= self.configuration.generation(),
            "a record does not go back"
        );
        match self.next {
            Some(next) if next.is_same_set(configuration) => {
                // Places in the progress are those of the set that was counted; so they stay.
                self.configuration = next.at(generation);
                self.next = None;
            }
            Some(_) | None if self.configuration.is_same_set(configuration) => {
                self.configuration = self.configuration.at(generation);
            }
            Some(_) | None => self.is_over = true,
        }
        self.count(copy)
    }

    /// The catalogue has a new boot for a node. Whatever was heard of the old one counts no more (R-7).
    pub fn member_started(&mut self, node: NodeId, boot: BootId) {
        if node == self.me.node && boot != self.me.boot {
            // This process is the old boot: it stands still somewhere and hears of its own successor.
            self.is_over = true;
            return;
        }
        let is_new = match &mut self.next {
            Some(next) => {
                self.configuration.note_boot(node, boot);
                next.note_boot(node, boot)
            }
            None => self.configuration.note_boot(node, boot),
        };
        let index = self.counted().index_of_node(node);
        let Some(index) = index.filter(|index| is_new && *index != self.my_index) else {
            return;
        };
        let progress = &mut self.progress[index];
        progress.is_matched = false;
        progress.acknowledged = progress.acknowledged.max(progress.durable);
        progress.durable = SlotSeq::ZERO;
        self.lease.forget(index);
    }

    /// How far a member has acknowledged, in its boot and under this epoch.
    #[must_use]
    pub fn durable_at(&self, member: &Member) -> Option<SlotSeq> {
        let index = self.index_of(member)?;
        Some(self.progress[index].durable)
    }

    /// Asks for a lease, of everybody, and grants it to itself (R-8): ask every member with what this returns. `None`
    /// when this leader is deposed.
    ///
    /// `confirmed` is when this node last sent what control answered with "this boot lives". Where W is 1 nobody but the
    /// leader grants, and behind a partition it could do so for ever; so its own word is then as old as that. When its
    /// death is committed control says so no more, and a whole lease later nothing of it is left.
    ///
    /// # Panics
    /// When the lease is longer than any may be.
    pub fn ask_lease(
        &mut self,
        copy: &SlotCopy,
        grants: &mut Grants,
        length_ns: u64,
        now: Mono,
        confirmed: Mono,
    ) -> Option<LeaseAsk> {
        assert!(length_ns <= SLOT_LEASE_NS_MAX, "a lease has a limit");
        assert!(confirmed <= now, "nothing is confirmed before it is asked");
        if self.is_deposed(copy) {
            return None;
        }
        let from = if self.counted().quorum() == 1 && !is_planted(Bug::ForgetConfirmation) {
            confirmed
        } else {
            now
        };
        grants.grant(length_ns, now);
        self.lease.granted(self.my_index, from, length_ns, now);
        Some(LeaseAsk {
            epoch: self.epoch,
            sent: now,
            length_ns,
        })
    }

    /// A member granted what was asked for at `sent`. Says whether it counts.
    pub fn lease_granted(
        &mut self,
        member: &Member,
        epoch: Epoch,
        sent: Mono,
        length_ns: u64,
        now: Mono,
    ) -> bool {
        let index = self
            .index_of(member)
            .filter(|index| *index != self.my_index);
        let (Some(index), true) = (index, epoch == self.epoch && sent <= now) else {
            return false;
        };
        if length_ns > SLOT_LEASE_NS_MAX {
            return false;
        }
        self.lease.granted(index, sent, length_ns, now);
        true
    }

    fn index_of(&self, member: &Member) -> Option<usize> {
        if is_planted(Bug::CountByNode) {
            return self.counted().index_of_node(member.node);
        }
        self.counted().index_of(member)
    }
}
