//! The changes that clients ask for, from the asking to the answer: those that wait to be concluded, those that were given to the
//! leader on another node, and those whose outcome waits until it is true here.
//!
//! Invariants: every change that was taken is answered once. An outcome is told when what it speaks of is committed and, to a
//! client of this node, when every shard has applied it. What nobody can tell any more is `Unavailable`: the change may have
//! been made. Changes that wait, at whatever stage, are at most [`CHANGES_WAITING_MAX`].

use crate::letter::Letter;
use crate::links::Links;
use std::collections::{BTreeMap, VecDeque};
use tiderace_base::catalogue::{Change, Outcome, Refusal};
use tiderace_base::ids::NodeId;
use tiderace_base::limits;
use tiderace_base::mesh::{Message, Origin, Peer};
use tiderace_base::operation::{Effect, Effects};
use tiderace_base::position::{CatalogueVersion, RaftIndex};
use tiderace_base::time::Mono;

/// Changes that may wait for their answer: a few commits' worth.
pub(crate) const CHANGES_WAITING_MAX: usize = 4 * limits::CATALOGUE_BATCH_MAX;
/// How long a change waits for somebody who leads.
const LEADERLESS_NS_MAX: u64 = 2_000_000_000;
/// How long another node has for its answer.
const FORWARDED_NS_MAX: u64 = 5_000_000_000;

/// Who asked for a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Asker {
    /// A client of this node.
    Here(Origin),
    /// Another node, under a number of its own.
    There { node: NodeId, ticket: u64 },
}

/// An outcome that is true once the log is committed up to an index, and from a version on.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) asker: Asker,
    pub(crate) index: RaftIndex,
    pub(crate) version: CatalogueVersion,
    pub(crate) outcome: Result<Outcome, Refusal>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    pub(crate) waiting: VecDeque<(Asker, Change)>,
    leaderless_since: Option<Mono>,
    /// Concluded here.
    here: VecDeque<Answer>,
    there: VecDeque<Answer>,
    /// Given to the leader.
    forwarded: BTreeMap<u64, (Origin, Mono)>,
    forwarded_to: Option<NodeId>,
    tickets: u64,
    /// Concluded there; not applied everywhere here.
    due: BTreeMap<(CatalogueVersion, u64), (Origin, Result<Outcome, Refusal>)>,
}

impl Desk {
    /// Numbers of this run, so that no answer to an earlier one is taken for one to this.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            tickets: seed >> 1,
            ..Self::default()
        }
    }

    pub(crate) fn has_room(&self) -> bool {
        self.waiting.len() + self.unanswered() < CHANGES_WAITING_MAX
    }

    /// Changes that are concluded, or given to the leader, and not answered yet.
    pub(crate) fn unanswered(&self) -> usize {
        self.here.len() + self.there.len() + self.forwarded.len() + self.due.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.unanswered() == 0
    }

    pub(crate) fn concluded(&mut self, answer: Answer) {
        match answer.asker {
            Asker::Here(_) => self.here.push_back(answer),
            Asker::There { .. } => self.there.push_back(answer),
        }
    }

    /// Tells whoever asked at once.
    pub(crate) fn tell(
        asker: Asker,
        version: CatalogueVersion,
        outcome: Result<Outcome, Refusal>,
        links: &mut Links,
        effects: &mut Effects,
    ) {
        match asker {
            Asker::Here(origin) => effects.push(Effect::Post {
                to: Peer::Shard(origin.shard),
                message: Message::Changed { origin, outcome },
            }),
            Asker::There { node, ticket } => {
                let letter = Letter::Outcome {
                    ticket,
                    version,
                    outcome,
                };
                // Lost with its link, it is asked for again by whoever wants to know.
                links.say(node, &letter, true);
            }
        }
    }

    fn tell_unavailable(asker: Asker, links: &mut Links, effects: &mut Effects) {
        let outcome = Err(Refusal::Unavailable);
        Self::tell(asker, CatalogueVersion::ZERO, outcome, links, effects);
    }

    /// Gives what waits to the leader on another node. What came from others goes back.
    pub(crate) fn forward(
        &mut self,
        leader: Option<NodeId>,
        now: Mono,
        links: &mut Links,
        effects: &mut Effects,
    ) {
        if self.forwarded_to != leader {
            self.lose_forwarded(effects);
            self.forwarded_to = leader;
        }
        let mut kept = VecDeque::new();
        for (asker, change) in core::mem::take(&mut self.waiting) {
            let Asker::Here(origin) = asker else {
                Self::tell_unavailable(asker, links, effects);
                continue;
            };
            let ticket = self.tickets + 1;
            let is_said = leader.is_some_and(|leader| {
                let change = change.clone();
                links.say(leader, &Letter::Forward { ticket, change }, true)
            });
            if is_said {
                self.tickets = ticket;
                let until = now.after_ns(FORWARDED_NS_MAX);
                self.forwarded.insert(ticket, (origin, until));
            } else {
                kept.push_back((asker, change));
            }
        }
        self.waiting = kept;
    }

    /// What was given to the leader may have been made or not.
    pub(crate) fn lose_forwarded(&mut self, effects: &mut Effects) {
        for (origin, _) in core::mem::take(&mut self.forwarded).into_values() {
            let message = Message::Changed {
                origin,
                outcome: Err(Refusal::Unavailable),
            };
            effects.push(Effect::Post {
                to: Peer::Shard(origin.shard),
                message,
            });
        }
    }

    /// The node stops: nobody applies any more what other answers wait for.
    pub(crate) fn stop(&mut self, effects: &mut Effects) {
        self.lose_forwarded(effects);
        for (origin, outcome) in core::mem::take(&mut self.due).into_values() {
            let message = Message::Changed { origin, outcome };
            effects.push(Effect::Post {
                to: Peer::Shard(origin.shard),
                message,
            });
        }
    }

    /// The link to a node is gone, with what was under way on it.
    pub(crate) fn lost(&mut self, node: NodeId, effects: &mut Effects) {
        if self.forwarded_to == Some(node) {
            self.lose_forwarded(effects);
        }
    }

    /// The leader's answer.
    pub(crate) fn answered(
        &mut self,
        from: NodeId,
        ticket: u64,
        version: CatalogueVersion,
        outcome: Result<Outcome, Refusal>,
    ) {
        if self.forwarded_to == Some(from)
            && let Some((origin, _)) = self.forwarded.remove(&ticket)
        {
            self.due.insert((version, ticket), (origin, outcome));
        }
    }

    /// This node no longer leads: what is not committed may be yet, or never.
    pub(crate) fn stopped_leading(
        &mut self,
        committed: RaftIndex,
        links: &mut Links,
        effects: &mut Effects,
    ) {
        for queue in [&mut self.here, &mut self.there] {
            let (kept, lost) = core::mem::take(queue)
                .into_iter()
                .partition(|answer| answer.index <= committed);
            *queue = kept;
            let lost: VecDeque<Answer> = lost;
            for answer in lost {
                Self::tell_unavailable(answer.asker, links, effects);
            }
        }
    }

    /// Whether somebody can be asked now. Nobody for too long: what waits is refused.
    pub(crate) fn refuse_when_leaderless(
        &mut self,
        is_led: bool,
        now: Mono,
        links: &mut Links,
        effects: &mut Effects,
    ) {
        if is_led || self.waiting.is_empty() {
            self.leaderless_since = None;
            return;
        }
        let since = *self.leaderless_since.get_or_insert(now);
        if now.since(since) >= LEADERLESS_NS_MAX {
            self.refuse_waiting(links, effects);
        }
    }

    pub(crate) fn refuse_waiting(&mut self, links: &mut Links, effects: &mut Effects) {
        self.leaderless_since = None;
        for (asker, _) in core::mem::take(&mut self.waiting) {
            Self::tell_unavailable(asker, links, effects);
        }
    }

    /// Tells what has become true: committed up to an index; for clients of this node, applied by every shard up to a version.
    pub(crate) fn release(
        &mut self,
        committed: RaftIndex,
        applied: CatalogueVersion,
        now: Mono,
        links: &mut Links,
        effects: &mut Effects,
    ) {
        while let Some(answer) = self.there.pop_front_if(|it| it.index <= committed) {
            Self::tell(answer.asker, answer.version, answer.outcome, links, effects);
        }
        while let Some(answer) = self
            .here
            .pop_front_if(|it| it.index <= committed && it.version <= applied)
        {
            Self::tell(answer.asker, answer.version, answer.outcome, links, effects);
        }
        while let Some(entry) = self.due.first_entry()
            && entry.key().0 <= applied
        {
            let (origin, outcome) = entry.remove();
            let asker = Asker::Here(origin);
            Self::tell(asker, CatalogueVersion::ZERO, outcome, links, effects);
        }
        while let Some(entry) = self.forwarded.first_entry()
            && entry.get().1 <= now
        {
            let (origin, _) = entry.remove();
            Self::tell_unavailable(Asker::Here(origin), links, effects);
        }
    }

    /// When something is to be said by the clock alone.
    pub(crate) fn next_wake(&self) -> Option<Mono> {
        let leaderless = self
            .leaderless_since
            .map(|since| since.after_ns(LEADERLESS_NS_MAX));
        let forwarded = self.forwarded.first_key_value();
        let forwarded = forwarded.map(|(_, (_, until))| *until);
        leaderless.into_iter().chain(forwarded).min()
    }
}
