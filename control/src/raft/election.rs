//! Who leads, for how long, and what may be answered alone. Nobody stands for election or votes before the word that it last gave a
//! leader has run out, but for a leader that gives it back. Whoever lost a majority for a few leases gives up by itself.

use super::entries::Position;
use super::lease::Lease;
use super::machine::{Output, Raft, ReadId, Role, Transfer};
use super::message::Message;
use super::planted::{Bug, is_planted};
use std::collections::{BTreeSet, VecDeque};
use tiderace_base::ids::NodeId;
use tiderace_base::position::{RaftIndex, Term};
use tiderace_base::time::Mono;

/// Leases without a majority's answer after which a leader gives up.
const LEASES_ALONE_MAX: u64 = 3;
/// Reads that may wait for a majority's answer.
const READS_MAX: usize = 4096;
/// Leases that a handing over may take.
const LEASES_OF_TRANSFER: u64 = 3;

impl Raft {
    // --- Following ----------------------------------------------------------------------------------------------------

    /// A later term than its own: it follows. Nothing is promised to anybody by that.
    pub(super) fn follow(&mut self, term: Term, now: Mono) {
        if term <= self.term() {
            return;
        }
        self.leader = None;
        self.tell_core(
            &noraft::Message::RequestVoteReply {
                // Anybody but itself: it is the term that matters.
                from: noraft::NodeId::new(!self.node.get()),
                term: noraft::Term::new(term.get()),
                vote_granted: false,
            },
            now,
        );
    }

    /// Hands a message to the core. The position, if any, is where the core would go on sending.
    pub(super) fn tell_core(&mut self, message: &noraft::Message, now: Mono) -> Option<Position> {
        // Its one error is a log that contradicts what was installed as committed: nothing may be concluded from that leader.
        if self.core.handle_message(message).is_err() {
            self.collect(now);
            return None;
        }
        self.collect(now)
    }

    pub(super) fn put_election_off(&mut self, now: Mono) {
        let drawn = match self.is_alone() {
            // Nobody is in its way.
            true => 0,
            false => self.prng.below(self.timing.spread_ns.max(1)),
        };
        let from = match is_planted(Bug::VoteInLease) {
            true => now,
            false => now.max(self.granted_until),
        };
        self.election_at = from.after_ns(drawn);
        self.asked = None;
    }

    // --- Standing for election ----------------------------------------------------------------------------------------

    /// Asks whether anybody would vote for it, if nobody has been heard for a lease.
    pub(super) fn stand(&mut self, now: Mono) {
        let is_free = now >= self.granted_until || is_planted(Bug::VoteInLease);
        let is_due = now >= self.election_at && is_free;
        if !is_due || !self.is_voter() || self.convalescence.is_some() {
            return;
        }
        self.put_election_off(now);
        self.leader = None;
        let term = self.term().advance(1);
        self.asked = Some((term, BTreeSet::from([self.node])));
        let last = self.last();
        for voter in self.other_voters() {
            self.send(voter, Message::PreVote { term, last });
        }
        self.count_pre_votes(now);
    }

    pub(super) fn other_voters(&self) -> Vec<NodeId> {
        let members = self.members();
        let voters = members.voters.union(&members.incoming).copied();
        voters.filter(|node| *node != self.node).collect()
    }

    pub(super) fn pre_vote(&mut self, from: NodeId, term: Term, last: Position, now: Mono) {
        let is_free = now >= self.granted_until || is_planted(Bug::VoteInLease);
        let would = is_free
            && self.role != Role::Leader
            && self.may_vote()
            && term > self.term()
            && last >= self.last();
        let answer = Message::PreVoted {
            asked: term,
            term: self.term(),
            granted: would,
        };
        self.send(from, answer);
    }

    pub(super) fn pre_voted(
        &mut self,
        from: NodeId,
        asked: Term,
        term: Term,
        granted: bool,
        now: Mono,
    ) {
        self.follow(term, now);
        if granted
            && let Some((wanted, votes)) = &mut self.asked
            && *wanted == asked
        {
            votes.insert(from);
            self.count_pre_votes(now);
        }
    }

    fn count_pre_votes(&mut self, now: Mono) {
        let Some((term, votes)) = &self.asked else {
            return;
        };
        let members = self.members();
        let has_majority = |voters: &BTreeSet<NodeId>| {
            voters.is_empty() || 2 * voters.intersection(votes).count() > voters.len()
        };
        let is_current = *term == self.term().advance(1);
        if is_current && has_majority(&members.voters) && has_majority(&members.incoming) {
            self.asked = None;
            self.campaign(false, now);
        }
    }

    fn campaign(&mut self, handed_over: bool, now: Mono) {
        self.handed_over = handed_over;
        self.core.handle_election_timeout();
        self.collect(now);
    }

    /// The core stands for election: its vote for itself is on its way to the disk.
    pub(super) fn ask_for_votes(&mut self) {
        let vote = Message::Vote {
            term: self.term(),
            last: self.last(),
            handed_over: self.handed_over,
        };
        for voter in self.other_voters() {
            self.hold(voter, vote.clone());
        }
    }

    pub(super) fn vote(
        &mut self,
        from: NodeId,
        term: Term,
        last: Position,
        handed_over: bool,
        now: Mono,
    ) {
        // A word that was given holds, whoever asks; only the leader to whom it was given may give it back.
        let is_bound =
            (now < self.granted_until || self.has_lease(now)) && !is_planted(Bug::VoteInLease);
        if !self.may_vote() || (is_bound && !handed_over) {
            return;
        }
        self.tell_core(
            &noraft::Message::RequestVoteCall {
                from: noraft::NodeId::new(from.get()),
                term: noraft::Term::new(term.get()),
                last_position: last.inner(),
            },
            now,
        );
    }

    pub(super) fn voted(&mut self, from: NodeId, term: Term, granted: bool, now: Mono) {
        self.tell_core(
            &noraft::Message::RequestVoteReply {
                from: noraft::NodeId::new(from.get()),
                term: noraft::Term::new(term.get()),
                vote_granted: granted,
            },
            now,
        );
    }

    // --- The lease ----------------------------------------------------------------------------------------------------

    pub(super) fn heartbeat(&mut self, from: NodeId, term: Term, sent: Mono, now: Mono) {
        self.follow(term, now);
        if term == self.term() {
            if self.role == Role::Leader {
                return;
            }
            self.leader = Some(from);
            if self.answer_if_damaged(from, term) {
                return;
            }
            self.granted_until = self
                .granted_until
                .max(now.after_ns(self.timing.granted_ns()));
            self.put_election_off(now);
        }
        let term = self.term();
        let committed = self.committed;
        self.send(
            from,
            Message::HeartbeatSeen {
                term,
                sent,
                committed,
            },
        );
    }

    pub(super) fn heartbeat_seen(
        &mut self,
        from: NodeId,
        term: Term,
        sent: Mono,
        committed: RaftIndex,
        now: Mono,
    ) {
        self.follow(term, now);
        let is_ours = sent >= self.led_since && sent <= now;
        if self.role == Role::Leader && term == self.term() && is_ours {
            let sent = match is_planted(Bug::LeaseFromAnswer) {
                true => now,
                false => sent,
            };
            self.lease.answered(from, sent);
            self.answer_reads(now);
            self.say_committed_again(from, committed, now);
        }
    }

    fn confirmed(&self, now: Mono) -> Option<Mono> {
        self.lease.confirmed(self.members(), self.node, now)
    }

    /// Whether nobody else can lead now, so that this node may answer alone. A process that is stopped between asking and
    /// answering answers late all the same.
    #[must_use]
    pub fn has_lease(&self, now: Mono) -> bool {
        self.role == Role::Leader
            && !self.lease.is_renounced
            && self
                .confirmed(now)
                .is_some_and(|sent| now < sent.after_ns(self.timing.relied_on_ns()))
    }

    pub(super) fn start_leading(&mut self, now: Mono) {
        self.leader = Some(self.node);
        self.lease = Lease::default();
        self.led_since = now;
        self.transfer = None;
        self.reads.clear();
        self.peers.clear();
        self.keep_peers(now);
        self.beat(now);
        self.send_entries(now);
    }

    pub(super) fn stop_leading(&mut self, now: Mono) {
        if self.leader == Some(self.node) {
            self.leader = None;
        }
        self.peers.clear();
        self.transfer = None;
        for (id, ..) in core::mem::take(&mut self.reads) {
            self.outputs.push(Output::Read { id, at: None });
        }
        // What it granted itself.
        self.granted_until = self
            .granted_until
            .max(now.after_ns(if self.lease.is_renounced {
                0
            } else {
                self.timing.granted_ns()
            }));
    }

    /// Gives leadership up without another leader: its term stays, and nobody leads it.
    pub(super) fn step_down(&mut self, now: Mono) {
        assert_eq!(self.role, Role::Leader, "only a leader steps down");
        self.core = noraft::Node::restart(
            self.core.id(),
            self.core.current_term(),
            self.core.voted_for(),
            self.core.log().clone(),
        );
        self.collect(now);
    }

    fn beat(&mut self, now: Mono) {
        self.heartbeat_at = now.after_ns(self.timing.heartbeat_ns);
        let beat = Message::Heartbeat {
            term: self.term(),
            sent: now,
        };
        if !self.may_say_that_it_leads() {
            return;
        }
        let nodes: Vec<NodeId> = self.peers.iter().map(|(node, _)| node).collect();
        for node in nodes {
            self.send(node, beat.clone());
        }
    }

    pub(super) fn lead_on(&mut self, now: Mono) {
        if now >= self.heartbeat_at {
            let since = self.confirmed(now).unwrap_or(self.led_since);
            if now.since(since.max(self.led_since)) > LEASES_ALONE_MAX * self.timing.lease_ns {
                // Somebody else may be heard where this node is not.
                self.step_down(now);
                return;
            }
            self.beat(now);
            self.send_again(now);
            self.send_entries(now);
        }
        if self
            .transfer
            .take_if(|transfer| now >= transfer.until)
            .is_some_and(|transfer| transfer.told)
        {
            // The word was given: without a lease it is better to be elected anew.
            self.step_down(now);
        }
        if self.role == Role::Leader {
            self.answer_reads(now);
        }
    }

    // --- Handing over -------------------------------------------------------------------------------------------------

    /// Hands leadership to a voter that is as far, as soon as it is. Proposals are refused meanwhile.
    pub fn transfer(&mut self, to: NodeId, now: Mono) {
        let may = self.role == Role::Leader && to != self.node && self.members().is_voter(to);
        if may && self.transfer.is_none() {
            self.transfer = Some(Transfer {
                to,
                until: now.after_ns(LEASES_OF_TRANSFER * self.timing.lease_ns),
                told: false,
            });
            self.try_transfer();
        }
    }

    pub(super) fn try_transfer(&mut self) {
        let Some(transfer) = &mut self.transfer else {
            return;
        };
        let node = noraft::NodeId::new(transfer.to.get());
        let last = self.core.log().last_position().index;
        let is_as_far = self.core.follower_match_index(node) == Some(last);
        if is_as_far && !transfer.told {
            transfer.told = true;
            let to = transfer.to;
            self.lease.is_renounced = !is_planted(Bug::KeepLeaseHandedOver);
            let term = self.term();
            self.send(to, Message::StandNow { term });
        }
    }

    pub(super) fn stand_now(&mut self, from: NodeId, term: Term, now: Mono) {
        let may = term == self.term()
            && self.leader == Some(from)
            && self.role == Role::Follower
            && self.is_voter()
            && self.convalescence.is_none();
        if may {
            self.campaign(true, now);
        }
    }

    // --- Reads --------------------------------------------------------------------------------------------------------

    /// Asks for a linearizable read: answered by [`Output::Read`] with an entry that holds whatever was committed anywhere
    /// before this call.
    pub fn read(&mut self, id: ReadId, now: Mono) {
        if self.role != Role::Leader || self.reads.len() >= READS_MAX {
            self.outputs.push(Output::Read { id, at: None });
            return;
        }
        // What older terms committed is known once something of this one is.
        self.reads.push_back((id, now, RaftIndex::ZERO));
        self.answer_reads(now);
        if !self.reads.is_empty() && self.heartbeat_at > now {
            let is_first = self.reads.len() == 1;
            if is_first {
                self.beat(now);
            }
        }
    }

    pub(super) fn answer_reads(&mut self, now: Mono) {
        if self.role != Role::Leader {
            return;
        }
        let term = self.term();
        let knows_all = self
            .entries
            .position(self.committed)
            .is_some_and(|committed| committed.term == term);
        if !knows_all && !is_planted(Bug::ReadBeforeTerm) {
            return;
        }
        let committed = self.committed;
        let confirmed = if self.has_lease(now) {
            Some(now)
        } else {
            self.confirmed(now)
        };
        let mut left = VecDeque::new();
        for (id, asked, at) in core::mem::take(&mut self.reads) {
            let at = at.max(committed);
            let is_confirmed = confirmed.is_some_and(|confirmed| confirmed >= asked);
            if is_confirmed || is_planted(Bug::ReadUnconfirmed) {
                self.outputs.push(Output::Read { id, at: Some(at) });
            } else {
                left.push_back((id, asked, at));
            }
        }
        self.reads = left;
    }
}
