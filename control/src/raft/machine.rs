//! The machine: what it holds, what it is told, what it asks for, and the one way in which it drives `noraft`. Elections,
//! leases and reads stand in `election.rs`, the flow of entries in `replication.rs`.

use super::entries::{Entries, Entry, Members, Payload, Position};
use super::lease::{Lease, Timing};
use super::message::Message;
use super::peers::Peers;
use super::planted::{Bug, is_planted};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use tiderace_base::ids::{BootId, NodeId};
use tiderace_base::position::{RaftIndex, Term};
use tiderace_base::prng::Prng;
use tiderace_base::time::Mono;

/// Entries that may wait for their commit: beyond it a leader refuses proposals.
const UNCOMMITTED_MAX: u64 = 1024;

/// What a machine is told once.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who it is.
    pub node: NodeId,
    /// Its run.
    pub boot: BootId,
    /// Its clock's business.
    pub timing: Timing,
    /// Decides when it stands for election.
    pub seed: u64,
    /// Its log is empty although others may know it with entries, as one that is to join a zone: it votes for nobody before it has
    /// one. A voter that was wiped would otherwise elect somebody who lacks what it had promised to keep.
    pub is_new: bool,
}

/// Whether the log came back as it was left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Health {
    /// It did.
    Whole,
    /// It did not, on every copy: votes and acknowledgements may be forgotten.
    Damaged,
}

/// What a start found.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The newest term that was recorded.
    pub term: Term,
    /// Who was voted for in it.
    pub vote: Option<NodeId>,
    /// The last entry that the state at hand holds.
    pub base: Position,
    /// Who took part there.
    pub members: Members,
    /// The entries behind it.
    pub entries: Vec<Entry>,
    /// Whether that is all.
    pub health: Health,
}

/// Counts records. The first is 1.
pub type RecordSeq = u64;

/// What must be written, in the order in which it is handed out, before [`Raft::persisted`] is called.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// The term, and who was voted for in it.
    Vote {
        /// The term.
        term: Term,
        /// The vote.
        vote: Option<NodeId>,
    },
    /// These entries follow this one; what else followed it is gone.
    Append {
        /// What they follow.
        before: Position,
        /// The entries.
        entries: Vec<Entry>,
    },
    /// The log holds again whatever it may have promised.
    Healed,
}

/// Names a read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ReadId(pub u64);

/// What a machine asks for and tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// To be written, behind those before it.
    Persist(Record),
    /// To be sent. May be lost.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Entries up to here are committed, and durable here: to be applied.
    Committed(RaftIndex),
    /// The state that holds everything up to this entry answers the read.
    Read {
        /// Which read.
        id: ReadId,
        /// The entry; none: this node does not lead any more, or too many reads wait already.
        at: Option<RaftIndex>,
    },
    /// A peer wants what the log no longer has: send it the state, and the log from there.
    SnapshotWanted {
        /// Who wants it.
        to: NodeId,
    },
    /// What it is changed.
    Became(Role),
}

/// What a machine is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// It follows whoever leads.
    Follower,
    /// It stands for election.
    Candidate,
    /// It leads its term. Whether it may answer alone is what [`Raft::has_lease`] says.
    Leader,
}

/// Why a proposal was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProposeError {
    /// Ask this node, if any is known.
    NotLeader(Option<NodeId>),
    /// Too much waits for its commit, or leadership is being handed over: try again.
    Busy,
    /// The voters are being changed already, or are not those that the change began from.
    Membership,
    /// This leader would not be among them: hand over to one that is, first.
    HandOverFirst,
}

/// A message that promises something, until it is durable.
#[derive(Debug)]
struct Held {
    after: RecordSeq,
    to: NodeId,
    message: Message,
}

/// A damaged log on its way back. docs/replication.md, R-9
#[derive(Debug, Default)]
pub(super) struct Convalescence {
    /// The term whose leader has counted nothing of it.
    pub(super) readmitted: Option<Term>,
}

/// A handing over that is under way.
#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) to: NodeId,
    pub(super) until: Mono,
    pub(super) told: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Raft {
    pub(super) node: NodeId,
    pub(super) boot: BootId,
    is_new: bool,
    pub(super) timing: Timing,
    pub(super) prng: Prng,
    pub(super) core: noraft::Node,
    pub(super) entries: Entries,
    /// The payloads of commands that the core is about to take, and the index of the first.
    pub(super) offered: (RaftIndex, Vec<Entry>),
    records: RecordSeq,
    durable: RecordSeq,
    /// The record of the newest term and vote.
    voted: RecordSeq,
    /// How far the log goes once so many records are durable.
    marks: VecDeque<(RecordSeq, RaftIndex)>,
    /// How far the log is durable.
    pub(super) durable_end: RaftIndex,
    held: VecDeque<Held>,
    pub(super) committed: RaftIndex,
    pub(super) role: Role,
    pub(super) leader: Option<NodeId>,
    // As a voter.
    pub(super) granted_until: Mono,
    pub(super) election_at: Mono,
    /// Who would vote for it, and in which term.
    pub(super) asked: Option<(Term, BTreeSet<NodeId>)>,
    pub(super) handed_over: bool,
    pub(super) convalescence: Option<Convalescence>,
    /// The run of each other member at the other end of the newest link.
    pub(super) boots: BTreeMap<NodeId, BootId>,
    // As the leader.
    pub(super) lease: Lease,
    pub(super) led_since: Mono,
    pub(super) heartbeat_at: Mono,
    pub(super) peers: Peers,
    pub(super) reads: VecDeque<(ReadId, Mono, RaftIndex)>,
    pub(super) transfer: Option<Transfer>,
    pub(super) outputs: Vec<Output>,
    /// As the core's newest entry about them says.
    members: Members,
}

impl Raft {
    /// Begins with what a start found. A voter votes for nobody before the longest lease that it may have granted is over.
    #[must_use]
    pub fn new(config: Config, found: Restored, now: Mono) -> Self {
        let log = noraft::LogEntries::from_iter(
            found.base.inner(),
            found.entries.iter().map(Entry::inner),
        );
        let vote = found.vote.map(|node| noraft::NodeId::new(node.get()));
        let core = noraft::Node::restart(
            noraft::NodeId::new(config.node.get()),
            noraft::Term::new(found.term.get()),
            vote,
            noraft::Log::new(found.members.inner(), log),
        );
        let entries = Entries::new(found.base, found.entries);
        let is_damaged = found.health == Health::Damaged && !is_planted(Bug::DamagedCounts);
        let mut this = Self {
            node: config.node,
            boot: config.boot,
            is_new: config.is_new,
            timing: config.timing,
            prng: Prng::new(config.seed),
            core,
            durable_end: entries.last().index,
            committed: found.base.index,
            entries,
            offered: (RaftIndex::ZERO, Vec::new()),
            records: 0,
            durable: 0,
            voted: 0,
            marks: VecDeque::new(),
            held: VecDeque::new(),
            role: Role::Follower,
            leader: None,
            granted_until: now.after_ns(config.timing.granted_ns()),
            election_at: now,
            asked: None,
            handed_over: false,
            convalescence: is_damaged.then(Convalescence::default),
            boots: BTreeMap::new(),
            lease: Lease::default(),
            led_since: now,
            heartbeat_at: now,
            peers: Peers::default(),
            reads: VecDeque::new(),
            transfer: None,
            outputs: Vec::new(),
            members: found.members,
        };
        this.notice_members();
        if (this.is_alone() && !is_damaged) || is_planted(Bug::ForgetWordAtStart) {
            // It has granted nobody anything but itself, and that run is over.
            this.granted_until = now;
        }
        this.put_election_off(now);
        this.collect(now);
        this
    }

    // --- What it says -------------------------------------------------------------------------------------------------

    /// What it asks for and tells, since the last time.
    pub fn take_outputs(&mut self) -> Vec<Output> {
        core::mem::take(&mut self.outputs)
    }

    /// What it is.
    #[must_use]
    pub const fn role(&self) -> Role {
        self.role
    }

    /// Its term.
    #[must_use]
    pub fn term(&self) -> Term {
        Term::new(self.core.current_term().get())
    }

    /// Who leads, as far as it knows.
    #[must_use]
    pub const fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// How far the log is committed and durable here.
    #[must_use]
    pub const fn committed(&self) -> RaftIndex {
        self.committed
    }

    /// The log's last entry.
    #[must_use]
    pub fn last(&self) -> Position {
        self.entries.last()
    }

    /// An entry that is still held.
    #[must_use]
    pub fn entry(&self, index: RaftIndex) -> Option<&Entry> {
        self.entries.get(index)
    }

    /// The position of an entry that is still held, or of the last one that is not.
    #[must_use]
    pub fn position(&self, index: RaftIndex) -> Option<Position> {
        self.entries.position(index)
    }

    /// Who takes part, as the newest entry about it says, committed or not.
    #[must_use]
    pub const fn members(&self) -> &Members {
        &self.members
    }

    /// What stands at an index that is not forgotten, and who takes part there.
    #[must_use]
    pub fn members_at(&self, index: RaftIndex) -> Option<(Position, Members)> {
        let log = self.core.log();
        let found = log.get_position_and_config(noraft::LogIndex::new(index.get()));
        found.map(|(position, config)| (Position::of(position), Members::of(config)))
    }

    /// How far a peer is known to hold what this leader holds; none: not known, or this node does not lead.
    #[must_use]
    pub fn matched(&self, node: NodeId) -> Option<RaftIndex> {
        let matched = self
            .core
            .follower_match_index(noraft::NodeId::new(node.get()));
        matched.map(|index| RaftIndex::new(index.get()))
    }

    /// Who was voted for in this term.
    #[must_use]
    pub fn voted_for(&self) -> Option<NodeId> {
        self.core.voted_for().map(|node| NodeId::new(node.get()))
    }

    /// Whether leadership is being handed over.
    #[must_use]
    pub const fn is_handing_over(&self) -> bool {
        self.transfer.is_some()
    }

    fn notice_members(&mut self) {
        let config = self.core.config();
        if !self.members.is(config) {
            self.members = Members::of(config);
        }
    }

    /// Whether its vote would be worth anything.
    pub(super) fn may_vote(&self) -> bool {
        self.convalescence.is_none() && !(self.is_new && self.last() == Position::ZERO)
    }

    pub(super) fn is_voter(&self) -> bool {
        self.members.is_voter(self.node)
    }

    pub(super) fn is_alone(&self) -> bool {
        self.members.incoming.is_empty() && self.members.voters.iter().eq([&self.node])
    }

    /// The next time at which [`Raft::tick`] has something to do.
    #[must_use]
    pub fn next_wake(&self) -> Option<Mono> {
        match self.role {
            // Whom nobody follows has nothing to do.
            Role::Leader => {
                let beat = (!self.peers.is_empty()).then_some(self.heartbeat_at);
                let transfer = self.transfer.as_ref().map(|transfer| transfer.until);
                beat.into_iter().chain(transfer).min()
            }
            Role::Follower | Role::Candidate => (self.is_voter() && self.convalescence.is_none())
                .then(|| self.election_at.max(self.granted_until)),
        }
    }

    // --- What it is told ----------------------------------------------------------------------------------------------

    /// Time has passed.
    pub fn tick(&mut self, now: Mono) {
        match self.role {
            Role::Leader => self.lead_on(now),
            Role::Follower | Role::Candidate => self.stand(now),
        }
    }

    /// Records up to this one are durable.
    pub fn persisted(&mut self, up_to: RecordSeq, now: Mono) {
        assert!(up_to <= self.records, "what was handed out is persisted");
        self.durable = self.durable.max(up_to);
        while let Some((after, end)) = self.marks.front().copied()
            && after <= self.durable
        {
            self.marks.pop_front();
            self.durable_end = end;
        }
        while self
            .held
            .front()
            .is_some_and(|held| held.after <= self.durable)
        {
            let held = self.held.pop_front().expect("there is a front");
            self.send(held.to, held.message);
        }
        self.send_entries(now);
        self.take_held_answers(now);
        self.commit(now);
    }

    /// A message has come from another member, over a link that says whose it is.
    pub fn receive(&mut self, from: NodeId, message: Message, now: Mono) {
        if from == self.node {
            return;
        }
        match message {
            Message::PreVote { term, last } => self.pre_vote(from, term, last, now),
            Message::PreVoted {
                asked,
                term,
                granted,
            } => self.pre_voted(from, asked, term, granted, now),
            Message::Vote {
                term,
                last,
                handed_over,
            } => self.vote(from, term, last, handed_over, now),
            Message::Voted { term, granted } => self.voted(from, term, granted, now),
            Message::Heartbeat { term, sent } => self.heartbeat(from, term, sent, now),
            Message::HeartbeatSeen {
                term,
                sent,
                committed,
            } => self.heartbeat_seen(from, term, sent, committed, now),
            Message::StandNow { term } => self.stand_now(from, term, now),
            Message::Append {
                term,
                before,
                committed,
                entries,
            } => self.append(from, term, before, committed, entries, now),
            Message::Appended {
                term,
                last,
                before,
                boot,
                counts,
            } => {
                self.follow(term, now);
                if term == self.term() {
                    self.appended(from, last, before, boot, counts, now);
                }
            }
            Message::Damaged { term, boot } => self.damaged(from, term, boot, now),
            Message::Readmitted { term, boot } => self.readmitted(from, term, boot),
        }
    }

    /// Offers a command. It is committed when [`Output::Committed`] reaches its position while the entry there has its term.
    ///
    /// # Errors
    /// When this node does not lead, or cannot take it now.
    pub fn propose(&mut self, command: Bytes, now: Mono) -> Result<Position, ProposeError> {
        self.may_propose()?;
        let position = Position {
            term: self.term(),
            index: self.entries.last().index.advance(1),
        };
        let payload = Payload::Command(command);
        self.offered = (position.index, vec![Entry { position, payload }]);
        let taken = Position::of(self.core.propose_command());
        self.collect(now);
        assert_eq!(taken, position, "the leader's log only grows");
        Ok(position)
    }

    /// Offers a change of the members. Voters change by way of both sets; the second step follows by itself. The leader has to be
    /// a voter of the new set. One that is not may be the only holder of the second step: then nobody who votes gets its vote,
    /// because its log is longer, and it stands for nothing itself (Ongaro's dissertation, 4.2.2, lets it stand; noraft does
    /// not).
    ///
    /// # Errors
    /// When this node does not lead, or voters are being changed already.
    pub fn change_members(
        &mut self,
        voters: &BTreeSet<NodeId>,
        learners: &BTreeSet<NodeId>,
        now: Mono,
    ) -> Result<Position, ProposeError> {
        self.may_propose()?;
        let mut members = self.members.clone();
        if !members.incoming.is_empty() || voters.is_empty() || !voters.is_disjoint(learners) {
            return Err(ProposeError::Membership);
        }
        // Who stops voting and goes on learning does so in a second change: nobody may be both.
        if !members.voters.is_disjoint(learners) {
            return Err(ProposeError::Membership);
        }
        if !voters.contains(&self.node) {
            return Err(ProposeError::HandOverFirst);
        }
        members.learners.clone_from(learners);
        if members.voters != *voters {
            members.incoming.clone_from(voters);
        }
        let taken = self.core.propose_config(members.inner());
        if taken.is_invalid() {
            return Err(ProposeError::Membership);
        }
        self.collect(now);
        Ok(Position::of(taken))
    }

    fn may_propose(&self) -> Result<(), ProposeError> {
        if self.role != Role::Leader {
            return Err(ProposeError::NotLeader(
                self.leader.filter(|node| *node != self.node),
            ));
        }
        let waiting = self.entries.last().index.distance_from(self.committed);
        if self.transfer.is_some() || waiting.is_some_and(|waiting| waiting >= UNCOMMITTED_MAX) {
            return Err(ProposeError::Busy);
        }
        Ok(())
    }

    /// The state at hand, durable, holds everything up to this committed entry: entries up to it are forgotten, now or with a
    /// later call.
    ///
    /// # Panics
    /// When the entry is not committed.
    pub fn compact(&mut self, to: RaftIndex) {
        assert!(to <= self.committed, "only what is committed is forgotten");
        // A core that was begun anew by a leader that stepped down does not know yet how far the log is committed.
        let to = to.min(RaftIndex::new(self.core.commit_index().get()));
        if to <= self.entries.base().index {
            return;
        }
        let index = noraft::LogIndex::new(to.get());
        let (position, config) = self
            .core
            .log()
            .get_position_and_config(index)
            .expect("it is held");
        let config = config.clone();
        let taken = self.core.handle_snapshot_installed(position, config);
        assert!(taken, "a committed prefix of the log is a snapshot of it");
        self.entries.rebase(Position::of(position));
    }

    /// The state of a leader, durable here, takes the place of everything up to `base`, where these were the members. Of no
    /// effect when the log is as far by itself.
    pub fn install(&mut self, base: Position, members: &Members, now: Mono) {
        if base.index <= self.committed || self.role == Role::Leader || base.term > self.term() {
            return;
        }
        if !self
            .core
            .handle_snapshot_installed(base.inner(), members.inner())
        {
            return;
        }
        self.entries.rebase(base);
        let end = self.entries.last().index;
        self.durable_end = self.durable_end.clamp(base.index, end.max(base.index));
        for (_, mark) in &mut self.marks {
            *mark = (*mark).max(base.index);
        }
        self.collect(now);
        self.commit(now);
        if let Some(leader) = self.leader {
            let answer = self.answer(RaftIndex::ZERO);
            self.hold(leader, answer);
        }
    }

    /// What it holds, to be said once it is durable.
    pub(super) fn answer(&self, before: RaftIndex) -> Message {
        Message::Appended {
            term: self.term(),
            last: self.last(),
            before,
            boot: self.boot,
            counts: self.convalescence.is_none(),
        }
    }

    // --- Driving the core ---------------------------------------------------------------------------------------------

    /// Takes what the core wants after a call, all of it: nothing of one call may meet something of the next.
    pub(super) fn collect(&mut self, now: Mono) -> Option<Position> {
        let actions = core::mem::take(self.core.actions_mut());
        if actions.save_current_term || actions.save_voted_for {
            let vote = self.core.voted_for().map(|node| NodeId::new(node.get()));
            self.persist(Record::Vote {
                term: self.term(),
                vote,
            });
        }
        if let Some(appended) = &actions.append_log_entries {
            self.take_appended(appended);
        } else {
            // Where logs part the core forgets entries before it has others.
            let end = RaftIndex::new(self.core.log().last_position().index.get());
            self.cut(end);
        }
        self.offered.1.clear();
        self.notice_members();
        assert_eq!(
            self.entries.last(),
            Position::of(self.core.log().last_position()),
            "payloads and positions end together"
        );
        if let Some(noraft::Message::RequestVoteCall { .. }) = &actions.broadcast_message {
            self.ask_for_votes();
        }
        let mut resume = None;
        for (to, message) in actions.send_messages {
            let to = NodeId::new(to.get());
            match message {
                noraft::Message::RequestVoteReply { vote_granted, .. } => {
                    let term = self.term();
                    let granted = vote_granted;
                    self.hold(to, Message::Voted { term, granted });
                }
                noraft::Message::AppendEntriesReply { .. } => {}
                noraft::Message::AppendEntriesCall { entries, .. } => {
                    resume = Some(Position::of(entries.prev_position()));
                }
                noraft::Message::RequestVoteCall { .. } => {}
            }
        }
        for node in actions.install_snapshots {
            if let Some(peer) = self.peers.get(NodeId::new(node.get())) {
                peer.wants_snapshot = true;
            }
        }
        self.notice_role(now);
        self.commit(now);
        resume
    }

    fn take_appended(&mut self, appended: &noraft::LogEntries) {
        let before = Position::of(appended.prev_position());
        self.cut(before.index);
        let mut entries = Vec::with_capacity(appended.len());
        for (position, entry) in appended.iter_with_positions() {
            let position = Position::of(position);
            let payload = match entry {
                noraft::LogEntry::Term(_) => Payload::Term,
                noraft::LogEntry::ClusterConfig(config) => Payload::Members(Members::of(&config)),
                noraft::LogEntry::Command => self.offered_at(position),
            };
            let entry = Entry { position, payload };
            self.entries.push(entry.clone());
            entries.push(entry);
        }
        self.persist(Record::Append { before, entries });
        self.marks
            .push_back((self.records, self.entries.last().index));
    }

    /// The payload of a command that the core takes.
    fn offered_at(&self, position: Position) -> Payload {
        let (first, offered) = &self.offered;
        let nth = position.index.get().checked_sub(first.get());
        let entry = nth.and_then(|nth| offered.get(nth as usize));
        let entry = entry.expect("the core takes what it was offered");
        assert_eq!(entry.position, position, "at its place");
        entry.payload.clone()
    }

    /// Drops entries from memory. On the disk they stay until others take their place.
    fn cut(&mut self, end: RaftIndex) {
        if self.entries.last().index <= end {
            return;
        }
        assert!(end >= self.committed, "what is committed is never cut");
        self.entries.cut(end);
        self.durable_end = self.durable_end.min(end);
        for (_, mark) in &mut self.marks {
            *mark = (*mark).min(end);
        }
    }

    pub(super) fn persist(&mut self, record: Record) {
        self.records += 1;
        if matches!(record, Record::Vote { .. }) {
            self.voted = self.records;
        }
        self.outputs.push(Output::Persist(record));
    }

    /// Whether a leader may say that it leads: a voter by itself is elected before its vote is durable, and could be elected once more
    /// in the same term after a crash.
    pub(super) fn may_say_that_it_leads(&self) -> bool {
        self.durable >= self.voted || is_planted(Bug::LeadUndurable)
    }

    /// Sends once everything that was handed out so far is durable.
    pub(super) fn hold(&mut self, to: NodeId, message: Message) {
        if self.durable >= self.records || is_planted(Bug::PromiseUndurable) {
            self.send(to, message);
            return;
        }
        let held = Held {
            after: self.records,
            to,
            message,
        };
        // What a leader asks again while a disk stalls is answered once.
        let repeats = |last: &&mut Held| {
            let is_answer = |it: &Held| matches!(it.message, Message::Appended { .. });
            last.after == held.after && last.to == to && is_answer(last) && is_answer(&held)
        };
        match self.held.back_mut().filter(repeats) {
            Some(last) => *last = held,
            None => self.held.push_back(held),
        }
    }

    pub(super) fn send(&mut self, to: NodeId, message: Message) {
        self.outputs.push(Output::Send { to, message });
    }

    fn notice_role(&mut self, now: Mono) {
        let role = match self.core.role() {
            noraft::Role::Follower => Role::Follower,
            noraft::Role::Candidate => Role::Candidate,
            noraft::Role::Leader => Role::Leader,
        };
        if role == self.role {
            if role == Role::Leader {
                self.keep_peers(now);
            }
            return;
        }
        let was = core::mem::replace(&mut self.role, role);
        if was == Role::Leader {
            self.stop_leading(now);
        }
        if role == Role::Leader {
            self.start_leading(now);
        } else {
            self.put_election_off(now);
        }
        self.outputs.push(Output::Became(role));
    }

    /// Says how far the log is committed. The core counts this node's own log whole; it counts here as far as it is durable.
    pub(super) fn commit(&mut self, now: Mono) {
        let counted = RaftIndex::new(self.core.commit_index().get());
        let committed = match is_planted(Bug::CountUnwritten) {
            true => counted,
            false => counted.min(self.durable_end),
        };
        if committed <= self.committed {
            return;
        }
        self.committed = committed;
        self.outputs.push(Output::Committed(committed));
        if self.role == Role::Leader {
            self.send_entries(now);
            self.answer_reads(now);
        }
    }
}
