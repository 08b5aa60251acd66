//! Who belongs to the zone and who votes in it. A node that is new says so to the nodes that it was told of, until it sees itself
//! among the members; whoever leads notes its disks and gives it every entry; and once it has started and is as far as the others,
//! it may vote. Voters are the greatest odd number of nodes up to [`VOTERS_MAX`]: an even one makes nothing safer.

use crate::catalogue::Catalogue;
use crate::control::Control;
use crate::event::Fact;
use crate::leading::Batch;
use crate::letter::{Letter, NotAdmitted};
use crate::raft::codec::MEMBERS_MAX;
use std::collections::BTreeSet;
use std::sync::Arc;
use tiderace_base::ids::{DiskId, NodeId};
use tiderace_base::operation::{Effects, Fatal};
use tiderace_base::time::{Mono, Now};
use tiderace_storage::Class;

/// Nodes that vote, if there are so many.
const VOTERS_MAX: usize = 5;
/// A node that lacks no more entries than this is as far as the others.
const BEHIND_MAX: u64 = 256;
/// Whoever waits for the zone asks this often.
const ASKS_EVERY_NS: u64 = 200_000_000;

/// Whether a boot of a node of the zone is its next one.
fn check_boot(state: &Catalogue, node: NodeId, fact: &Fact) -> Result<Option<Fact>, NotAdmitted> {
    let Fact::NodeBooted {
        node: named,
        boot,
        shards,
        ..
    } = fact
    else {
        return Ok(None);
    };
    let Some(record) = state.node(node).filter(|_| *named == node) else {
        return Ok(None);
    };
    if record
        .place
        .as_ref()
        .is_some_and(|place| place.boot == *boot)
    {
        return Ok(None);
    }
    if record.journals.len() != shards.len() {
        return Err(NotAdmitted::Shards);
    }
    for (known, found) in record.journals.iter().zip(shards.iter()) {
        if known.disk != found.disk {
            return Err(NotAdmitted::OtherDisks);
        }
        if found.boot_count <= known.boot_count {
            return Err(NotAdmitted::OldImage);
        }
    }
    let mut fact = fact.clone();
    if let Fact::NodeBooted { boot_number, .. } = &mut fact {
        *boot_number = record.boot_number + 1;
    }
    // Epochs that are spent are found out by applying it.
    let mut trial = state.clone();
    let fits = trial.apply(&trial.event(fact.clone())).is_ok();
    Ok(fits.then_some(fact))
}

impl Control {
    // --- Whoever is to be let in --------------------------------------------------------------------------------------

    /// Says what this node still wants of the zone: to be a member, then that its start is known.
    pub(crate) fn ask_zone(&mut self, now: Now) {
        let is_member = self.is_member(self.node);
        let is_settled = self.is_booted && is_member;
        if self.links.own().is_none() || is_settled || self.leads() || now.mono < self.ask_at {
            return;
        }
        self.ask_at = now.mono.after_ns(ASKS_EVERY_NS);
        let leader = self.raft.leader();
        // What its own log says of it may have been lost by whoever said it.
        if !is_member || (leader.is_none() && !self.is_booted) {
            let letter = Letter::Join {
                disks: Arc::clone(&self.disks),
            };
            let asked: Vec<NodeId> = self.asked.iter().copied().chain(leader).collect();
            for node in asked {
                self.links.say(node, &letter, false);
            }
        }
        let is_known = self.applied.node(self.node).is_some();
        if let Some(leader) = leader
            && is_known
            && !self.is_booted
            && let Some(fact) = self.boot.last()
        {
            let letter = Letter::Boot(Box::new(fact.clone()));
            self.links.say(leader, &letter, false);
        }
    }

    /// When [`Control::ask_zone`] has something to say.
    pub(crate) fn asks_at(&self) -> Option<Mono> {
        let is_settled = self.is_booted && self.is_member(self.node);
        (self.links.own().is_some() && !is_settled && !self.leads()).then_some(self.ask_at)
    }

    pub(crate) fn is_member(&self, node: NodeId) -> bool {
        let members = self.raft.members();
        members.is_voter(node) || members.learners.contains(&node)
    }

    /// Whom to be linked to.
    pub(crate) fn want_links(&mut self, now: Now) {
        let members = self.raft.members();
        let sets = [&members.voters, &members.incoming, &members.learners];
        let mut wanted: BTreeSet<NodeId> = sets.into_iter().flatten().copied().collect();
        if !self.is_booted || !self.is_member(self.node) {
            wanted.extend(&self.asked);
        }
        self.links.want(wanted.into_iter(), now.mono);
    }

    pub(crate) fn refused(&mut self, why: NotAdmitted, effects: &mut Effects) {
        if !self.is_booted {
            self.fail(Fatal::NotAdmitted(why.text()), effects);
        }
    }

    // --- Who leads ----------------------------------------------------------------------------------------------------

    /// Where else to ask.
    fn point_to_leader(&mut self, node: NodeId) {
        if let Some(leader) = self.raft.leader()
            && let Some(address) = self.links.address(leader)
        {
            let letter = Letter::Leader {
                node: leader,
                address,
            };
            self.links.say(node, &letter, false);
        }
    }

    pub(crate) fn asked_to_join(&mut self, node: NodeId, disks: &Arc<[DiskId]>, now: Now) {
        let Some(leading) = self.leading.as_ref().filter(|_| self.is_open()) else {
            self.point_to_leader(node);
            return;
        };
        let working = leading.working();
        if let Some(record) = working.node(node) {
            if !record
                .journals
                .iter()
                .map(|it| it.disk)
                .eq(disks.iter().copied())
            {
                let letter = Letter::Refused(NotAdmitted::OtherDisks);
                self.links.say(node, &letter, false);
                return;
            }
        } else {
            if working.nodes().count() >= MEMBERS_MAX {
                let letter = Letter::Refused(NotAdmitted::Full);
                self.links.say(node, &letter, false);
                return;
            }
            let mut batch = leading.batch(Class::Control);
            batch.add(Fact::NodeJoined {
                node,
                disks: Arc::clone(disks),
            });
            // What there is no room for is asked again.
            if self.offer(batch, now).is_err() {
                return;
            }
        }
        if !self.is_member(node) {
            let members = self.raft.members().clone();
            let mut learners = members.learners;
            learners.insert(node);
            // A change that is under way ends, and the node asks again.
            let _ = self
                .raft
                .change_members(&members.voters, &learners, now.mono);
        }
    }

    pub(crate) fn told_of_boot(&mut self, node: NodeId, fact: &Fact, now: Now) {
        let Some(leading) = self.leading.as_ref().filter(|_| self.is_open()) else {
            self.point_to_leader(node);
            return;
        };
        match check_boot(leading.working(), node, fact) {
            Ok(None) => {}
            Ok(Some(fact)) => {
                let mut batch = leading.batch(Class::Control);
                batch.add(fact);
                // What there is no room for is asked again.
                let _ = self.offer(batch, now);
            }
            Err(why) => {
                self.links.say(node, &Letter::Refused(why), false);
            }
        }
    }

    /// The leader's own start.
    pub(crate) fn boot_batch(&self) -> Result<Option<Batch>, NotAdmitted> {
        let leading = self.leading.as_ref();
        let Some(leading) = leading.filter(|it| !self.is_booted && !it.has_booted) else {
            return Ok(None);
        };
        let mut batch = leading.batch(Class::Control);
        if leading.working().zone().get() == 0 {
            for fact in &self.boot {
                batch.add(fact.clone());
            }
            return Ok(Some(batch));
        }
        let Some(fact) = self.boot.last() else {
            return Ok(None);
        };
        Ok(check_boot(leading.working(), self.node, fact)?.map(|fact| {
            batch.add(fact);
            batch
        }))
    }

    /// Makes voters of nodes that are as far, when there are enough of them.
    pub(crate) fn promote(&mut self, now: Now) {
        let Some(leading) = &self.leading else { return };
        let members = self.raft.members();
        if members.learners.is_empty() || !members.incoming.is_empty() {
            return;
        }
        let nodes = members.voters.len() + members.learners.len();
        let most = nodes.min(VOTERS_MAX);
        let wanted = most - (most + 1) % 2;
        let lacking = wanted.saturating_sub(members.voters.len());
        if lacking == 0 {
            return;
        }
        let end = self.raft.last().index.get();
        let is_ready = |node: &&NodeId| {
            let record = leading.working().node(**node);
            let has_booted = record.is_some_and(|record| record.place.is_some());
            let matched = self.raft.matched(**node);
            let is_near = matched.is_some_and(|matched| matched.get() + BEHIND_MAX >= end);
            has_booted && is_near && self.links.is_up(**node)
        };
        let ready: BTreeSet<NodeId> = members.learners.iter().filter(is_ready).copied().collect();
        if ready.len() < lacking {
            return;
        }
        let new: BTreeSet<NodeId> = ready.into_iter().take(lacking).collect();
        let voters = members.voters.union(&new).copied().collect();
        let learners = members.learners.difference(&new).copied().collect();
        // What cannot be now is tried again in the next turn.
        let _ = self.raft.change_members(&voters, &learners, now.mono);
    }
}
