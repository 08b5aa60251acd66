//! The flow of entries: from the leader to each peer as far as it has room, and back what is durable there.

use super::entries::{Entry, Position};
use super::machine::{Convalescence, Output, Raft, Record, Role};
use super::message::Message;
use super::planted::{Bug, is_planted};
use tiderace_base::ids::{BootId, NodeId};
use tiderace_base::position::{RaftIndex, Term};
use tiderace_base::time::Mono;

/// Bytes of entries in one message, but for a single entry that is larger.
const APPEND_BYTES_MAX: usize = 256 << 10;
/// Heartbeats without a sign of life after which what was sent is taken for lost.
const BEATS_UNTIL_LOST: u64 = 3;

impl Raft {
    // --- The leader ---------------------------------------------------------------------------------------------------

    pub(super) fn keep_peers(&mut self, now: Mono) {
        let nodes: Vec<NodeId> = self
            .core
            .peers()
            .map(|node| NodeId::new(node.get()))
            .collect();
        let next = self.entries.last().index.advance(1);
        self.peers.keep(&nodes, next, now);
        self.send_entries(now);
    }

    /// Sends what each peer has room for.
    pub(super) fn send_entries(&mut self, now: Mono) {
        if self.role != Role::Leader || !self.may_say_that_it_leads() {
            return;
        }
        let (term, committed) = (self.term(), self.committed);
        let end = self.entries.last().index;
        for (to, peer) in self.peers.iter() {
            loop {
                let before = RaftIndex::new(peer.next.get() - 1);
                let Some(before) = self.entries.position(before) else {
                    // Forgotten meanwhile. Whether the peer lacks it is what it says when it is asked.
                    peer.restart(self.entries.base().index.advance(1));
                    continue;
                };
                let wants_news = !peer.is_matched || peer.told < committed;
                if peer.wants_snapshot || !peer.has_room() || (peer.next > end && !wants_news) {
                    break;
                }
                let entries = self.entries.from(peer.next, APPEND_BYTES_MAX);
                if let Some(last) = entries.last()
                    && peer.is_matched
                {
                    peer.next = last.position.index.advance(1);
                }
                peer.told = committed;
                peer.under_way += 1;
                peer.moved = now;
                self.outputs.push(Output::Send {
                    to,
                    message: Message::Append {
                        term,
                        before,
                        committed,
                        entries,
                    },
                });
            }
            if peer.wants_snapshot {
                peer.wants_snapshot = false;
                peer.under_way = super::peers::UNDER_WAY_MAX;
                peer.moved = now;
                self.outputs.push(Output::SnapshotWanted { to });
            }
        }
    }

    /// What was sent to a peer that says nothing is sent again.
    pub(super) fn send_again(&mut self, now: Mono) {
        let patience = BEATS_UNTIL_LOST * self.timing.heartbeat_ns;
        let core = &self.core;
        for (node, peer) in self.peers.iter() {
            if peer.under_way == 0 || now.since(peer.moved) < patience {
                continue;
            }
            let matched = core.follower_match_index(noraft::NodeId::new(node.get()));
            let matched = matched.map_or(0, noraft::LogIndex::get);
            let next = if matched > 0 {
                RaftIndex::new(matched + 1)
            } else {
                peer.next
            };
            peer.restart(next);
        }
    }

    /// The link to a peer was made anew, and this is the run at its other end: what was under way on the old one is lost, and
    /// nothing of another run counts any more.
    pub fn link_is_new(&mut self, to: NodeId, boot: BootId, now: Mono) {
        self.boots.insert(to, boot);
        self.link_lost(to, now);
    }

    /// What was under way to a peer may be lost, and what it answered: it is asked anew how far it is.
    pub fn link_lost(&mut self, to: NodeId, now: Mono) {
        if let Some(peer) = self.peers.get(to) {
            let next = peer.next;
            peer.restart(next);
            peer.moved = now;
        }
        self.send_entries(now);
    }

    /// A peer knows less to be committed than it was told, and nothing is on its way there: that was lost.
    pub(super) fn say_committed_again(&mut self, to: NodeId, known: RaftIndex, now: Mono) {
        if let Some(peer) = self.peers.get(to)
            && peer.under_way == 0
            && known < peer.told
        {
            peer.told = known;
            self.send_entries(now);
        }
    }

    pub(super) fn appended(
        &mut self,
        from: NodeId,
        last: Position,
        before: RaftIndex,
        boot: BootId,
        counts: bool,
        now: Mono,
    ) {
        if self.role != Role::Leader {
            return;
        }
        let durable_end = self.durable_end;
        let matched = self.matched(from);
        // Of a run that is over, whose memory may be gone.
        let is_over = self.boots.get(&from).is_some_and(|known| *known != boot);
        let Some(peer) = self.peers.get(from).filter(|_| !is_over) else {
            return;
        };
        // From before an answer that said more: nothing is to be sent for it.
        if counts && matched.is_some_and(|matched| matched > last.index) {
            return;
        }
        peer.under_way = peer.under_way.saturating_sub(1);
        peer.moved = now;
        if !counts {
            self.go_on_uncounted(from, last, before, now);
            return;
        }
        if last.index > durable_end && !is_planted(Bug::CountUnwritten) {
            // The core counts this node's own log whole: what it does not have durably itself it must not hear of.
            peer.held = Some(last);
            let is_known = self.entries.position(last.index) == Some(last);
            if is_known && let Some(peer) = self.peers.get(from) {
                peer.is_matched = true;
                peer.next = peer.next.max(last.index.advance(1));
            }
            self.send_entries(now);
            return;
        }
        self.answered(from, last, before, now);
    }

    fn answered(&mut self, from: NodeId, last: Position, before: RaftIndex, now: Mono) {
        let id = noraft::NodeId::new(from.get());
        let answer = noraft::Message::AppendEntriesReply {
            from: id,
            term: self.core.current_term(),
            last_position: last.inner(),
        };
        let resume = self.tell_core(&answer, now);
        let holds = self.entries.position(last.index) == Some(last);
        if let Some(peer) = self.peers.get(from) {
            if holds && last.index >= before {
                // Everything up to there is the same.
                peer.is_matched = true;
                if last.index.advance(1) >= peer.next {
                    // One answer may speak for several messages.
                    peer.under_way = 0;
                    peer.next = last.index.advance(1);
                }
            } else if holds {
                // It lacks what should be there before what was sent.
                peer.restart(last.index.advance(1));
            } else if let Some(resume) = resume.filter(|_| !holds) {
                // The logs part at or before there: the peer forgets its last entry and says what is before it.
                peer.restart(resume.index.advance(1));
            }
        }
        self.try_transfer();
        self.send_entries(now);
    }

    /// A damaged peer is told where the log goes on, and counts for nothing.
    fn go_on_uncounted(&mut self, from: NodeId, last: Position, before: RaftIndex, now: Mono) {
        let holds = self.entries.position(last.index) == Some(last);
        let base = self.entries.base().index;
        if let Some(peer) = self.peers.get(from) {
            if holds && last.index >= before {
                peer.is_matched = true;
                peer.next = peer.next.max(last.index.advance(1));
            } else if holds {
                peer.restart(last.index.advance(1));
            } else if last.index > base {
                let end = self.entries.last().index;
                peer.restart(last.index.min(end.advance(1)));
            } else {
                peer.wants_snapshot = true;
            }
        }
        self.send_entries(now);
    }

    /// Answers that waited for this node's own disk.
    pub(super) fn take_held_answers(&mut self, now: Mono) {
        if self.role != Role::Leader {
            return;
        }
        let Some(durable) = self.entries.position(self.durable_end) else {
            return;
        };
        let entries = &self.entries;
        let ready: Vec<(NodeId, Position)> = self
            .peers
            .iter()
            .filter_map(|(node, peer)| {
                let last = peer.held?;
                if last.index <= durable.index {
                    peer.held = None;
                    Some((node, last))
                } else {
                    // Whoever holds the entry there holds all before it.
                    (entries.position(last.index) == Some(last)).then_some((node, durable))
                }
            })
            .collect();
        for (node, last) in ready {
            if self.role == Role::Leader {
                self.answered(node, last, RaftIndex::ZERO, now);
            }
        }
    }

    pub(super) fn damaged(&mut self, from: NodeId, term: Term, boot: BootId, now: Mono) {
        self.follow(term, now);
        let is_over = self.boots.get(&from).is_some_and(|known| *known != boot);
        if self.role != Role::Leader || term != self.term() || is_over {
            return;
        }
        let counted = self
            .core
            .follower_match_index(noraft::NodeId::new(from.get()))
            .is_some_and(|matched| matched.get() > 0);
        let Some(peer) = self.peers.get(from) else {
            return;
        };
        let known = peer.damaged.filter(|(known, _)| *known == boot);
        if counted && known.is_none() {
            // What it acknowledged in this term is gone: only a leader that never counted it can tell what is committed.
            self.step_down(now);
            return;
        }
        let since = known.map_or(now, |(_, since)| since);
        peer.damaged = Some((boot, since));
        peer.held = None;
        // It may have voted, and acknowledged, in a later term, and forgotten that. Whoever stood in that one knows of it, and
        // answers no heartbeat of this.
        let others = self.other_voters();
        let mut others = others.iter().filter(|node| **node != from);
        let is_newest = others.all(|node| self.lease.has_answered(*node, since));
        if !is_newest && !is_planted(Bug::ReadmitUnasked) {
            return;
        }
        let peer = self.peers.get(from).expect("it is there");
        let next = peer.next;
        peer.restart(next);
        self.send(from, Message::Readmitted { term, boot });
        self.send_entries(now);
    }

    // --- The follower -------------------------------------------------------------------------------------------------

    pub(super) fn append(
        &mut self,
        from: NodeId,
        term: Term,
        before: Position,
        committed: RaftIndex,
        entries: Vec<Entry>,
        now: Mono,
    ) {
        self.follow(term, now);
        if term < self.term() {
            // So that it hears of the later term.
            let term = self.term();
            let (last, boot) = (self.last(), self.boot);
            let answer = Message::Appended {
                term,
                last,
                before: before.index,
                boot,
                counts: false,
            };
            self.hold(from, answer);
            return;
        }
        if self.role == Role::Leader {
            return;
        }
        self.leader = Some(from);
        if self.answer_if_damaged(from, term) {
            return;
        }
        if !follows(before, &entries) {
            return;
        }
        let log = noraft::LogEntries::from_iter(before.inner(), entries.iter().map(Entry::inner));
        self.offered = (before.index.advance(1), entries);
        self.tell_core(
            &noraft::Message::AppendEntriesCall {
                from: noraft::NodeId::new(from.get()),
                term: noraft::Term::new(term.get()),
                commit_index: noraft::LogIndex::new(committed.get()),
                entries: log,
            },
            now,
        );
        // What is committed of an earlier term, a new leader does not know yet: only an entry of its own says that everything
        // which was ever committed is before it.
        let at = self.entries.position(committed);
        let is_whole = at.is_some_and(|at| at.term == term || is_planted(Bug::HealTooSoon));
        if self.convalescence.is_some() && is_whole {
            self.convalescence = None;
            self.persist(Record::Healed);
            self.put_election_off(now);
        }
        let answer = self.answer(before.index);
        self.hold(from, answer);
    }

    /// Whether its log was damaged and this term's leader has not said yet that it counted nothing of it.
    pub(super) fn answer_if_damaged(&mut self, from: NodeId, term: Term) -> bool {
        let is_known = |it: &Convalescence| it.readmitted == Some(term);
        let waits = self.convalescence.as_ref().is_some_and(|it| !is_known(it));
        if waits {
            let boot = self.boot;
            self.send(from, Message::Damaged { term, boot });
        }
        waits
    }

    pub(super) fn readmitted(&mut self, from: NodeId, term: Term, boot: BootId) {
        if let Some(convalescence) = &mut self.convalescence
            && boot == self.boot
            && term == Term::new(self.core.current_term().get())
            && self.leader == Some(from)
        {
            convalescence.readmitted = Some(term);
        }
    }
}

/// Whether entries stand back to back behind `before`, with terms that never go back.
fn follows(before: Position, entries: &[Entry]) -> bool {
    let mut last = before;
    entries.iter().all(|entry| {
        let position = entry.position;
        let follows =
            last.index.checked_add(1) == Some(position.index) && position.term >= last.term;
        last = position;
        follows
    })
}
