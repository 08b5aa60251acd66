//! A node of the model world: what the shard does around the crate's machines. It writes what they ask it to write, tells
//! them what became durable, and carries what they say to others and back.

use super::checker::entries_behind;
use super::control::Record as View;
use super::disk::{Disk, Entry, Record};
use super::{Message, SHIPPED_MAX, World, index_of, node_id, past};
use crate::configuration::Member;
use crate::copy::{SlotCopy, Written};
use crate::follower::{FollowRefused, Follower, Parting, Taken};
use crate::leader::{FetchAnswer, Given, LeadError, Leader, Phase};
use crate::lease::Grants;
use crate::planted::{Bug, is_planted};
use crate::seal::Sealing;
use tiderace_base::catalogue::Durability;
use tiderace_base::ids::{BootId, DiskId, NodeId};
use tiderace_base::position::SlotSeq;
use tiderace_base::prng::Prng;
use tiderace_base::time::Mono;

#[expect(
    clippy::large_enum_variant,
    reason = "a handful of nodes, each with one role"
)]
#[derive(Clone, Debug)]
pub(super) enum Role {
    Idle,
    Follows(Follower),
    Leads(Leader),
}

pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) boot: BootId,
    pub(super) is_up: bool,
    pub(super) disk: Disk,
    pub(super) spare: Option<Disk>,
    pub(super) copy: SlotCopy,
    pub(super) log: Vec<Entry>,
    pub(super) role: Role,
    pub(super) view: View,
    grants: Grants,
    confirmed: Mono,
    has_served: bool,
    late: Option<(Record, Option<Written>)>,
    rate: u64,
    offset_ns: u64,
}

impl Node {
    pub(super) fn new(index: usize, disk: DiskId, boot: BootId, prng: &mut Prng) -> Self {
        Self {
            id: node_id(index),
            boot,
            is_up: true,
            disk: Disk::new(disk),
            spare: None,
            copy: SlotCopy::default(),
            log: Vec::new(),
            role: Role::Idle,
            view: nobody(),
            grants: Grants::none(),
            confirmed: Mono::from_ns(0),
            has_served: false,
            late: None,
            // Any two clocks run apart by at most a fiftieth.
            rate: prng.range(9_900, 10_101),
            offset_ns: prng.below(1 << 40),
        }
    }

    pub(super) fn member(&self) -> Member {
        Member {
            node: self.id,
            disk: self.disk.id,
            boot: self.boot,
        }
    }

    pub(super) fn clock(&self, real_ns: u64) -> Mono {
        Mono::from_ns(self.offset_ns + real_ns / 10_000 * self.rate)
    }

    fn write(&mut self, record: Record, written: Option<Written>) {
        self.disk.journal.push((record, written));
        if let Some(late) = self.late.take() {
            self.disk.journal.push(late);
        }
    }

    fn write_entry(&mut self, seq: SlotSeq, entry: Entry, written: Written) {
        self.log.push(entry);
        assert_eq!(self.log.len(), past(seq), "the log is what the copy says");
        self.write(Record::Entry(seq, entry), Some(written));
    }
}

fn nobody() -> View {
    use crate::configuration::{Configuration, Generation};
    use tiderace_base::position::Epoch;
    View {
        generation: Generation::default(),
        epoch: Epoch::ZERO,
        leader: None,
        wait_ns: 0,
        configuration: Configuration::new(Generation::default(), &[Member::default()], 1)
            .expect("sound"),
        next: None,
        boots: [BootId::new(0); super::NODES_MAX],
    }
}

impl World {
    pub(super) fn crash(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.disk.crash(&mut self.prng);
        node.is_up = false;
        node.late = None;
        if !is_planted(Bug::ResumeEpoch) {
            node.role = Role::Idle;
        }
    }

    pub(super) fn restart(&mut self, index: usize) {
        let boot = BootId::new(self.fresh_id());
        let (mut copy, log) = self.nodes[index].disk.recover();
        self.nodes[index].disk.find_damage();
        if is_planted(Bug::ForgetSuspect) {
            self.nodes[index].disk.marks.suspect = false;
        }
        self.control.node_started(index, boot);
        let epoch = self.epoch_at_start();
        let now = self.now(index);
        let record = self.control.record;
        let node = &mut self.nodes[index];
        node.boot = boot;
        node.is_up = true;
        copy.recovered(node.disk.marks, epoch);
        node.copy = copy;
        node.log = log;
        node.grants = Grants::started(now);
        node.confirmed = Mono::from_ns(0);
        node.has_served = false;
        node.view = record;
        node.write(Record::Restart(node.disk.starts), None);
        let length = node.disk.journal.len();
        node.disk.durable = length;
        if let Some(from) = node.copy.owed_truncation() {
            let written = node.copy.truncated(from);
            node.write(Record::Truncate(from), Some(written));
        }
        if let (Role::Leads(_), true) = (&node.role, is_planted(Bug::ResumeEpoch)) {
            return;
        }
        self.nodes[index].role = Role::Idle;
        self.take_role(index);
    }

    /// The node reads the catalogue.
    pub(super) fn catch_up(&mut self, index: usize) {
        if !self.nodes[index].is_up || self.is_cut_off[index] {
            return;
        }
        let record = self.control.record;
        if self.nodes[index].view == record {
            if record.boots[index] == self.nodes[index].boot {
                let now = self.now(index);
                self.nodes[index].confirmed = now;
            }
            return;
        }
        self.nodes[index].view = record;
        if let Role::Leads(leader) = &mut self.nodes[index].role {
            for (other, boot) in record.boots.iter().enumerate() {
                let resumes = is_planted(Bug::ResumeEpoch) && other == index;
                if !resumes {
                    leader.member_started(node_id(other), *boot);
                }
            }
        }
        self.take_role(index);
    }

    fn take_role(&mut self, index: usize) {
        let now = self.now(index);
        let record = self.nodes[index].view;
        let me = self.nodes[index].member();
        let node = &mut self.nodes[index];
        let Some(given) = record.leader.filter(|_| record.boots[index] == node.boot) else {
            node.role = Role::Idle;
            return;
        };
        let resumes = is_planted(Bug::ResumeEpoch) && given.node == me.node;
        if given == me || resumes {
            if let Role::Leads(leader) = &mut node.role
                && leader.epoch() == record.epoch
            {
                let before = node.copy.committed();
                leader.set_committed(&mut node.copy, &record.configuration);
                self.settle(index, before);
                return;
            }
            let given = Given {
                epoch: record.epoch,
                leader: me,
                configuration: record.configuration,
                next: record.next,
                wait_ns: record.wait_ns,
            };
            node.role = match Leader::chosen(&mut node.copy, &given, now) {
                Ok(leader) => {
                    node.has_served = false;
                    self.checker.leads(record.epoch, me.boot);
                    Role::Leads(leader)
                }
                Err(LeadError::NotMember) => {
                    assert!(is_planted(Bug::CountByNode), "control chose somebody else");
                    Role::Idle
                }
                Err(LeadError::Stale { .. } | LeadError::Quarantined | LeadError::Suspect) => {
                    self.control.is_due();
                    Role::Idle
                }
            };
            return;
        }
        let is_member = |set: &crate::Configuration| {
            set.has_disk(me.node, me.disk)
                || is_planted(Bug::CountByNode) && set.index_of_node(me.node).is_some()
        };
        let holds = is_member(&record.configuration) || record.next.as_ref().is_some_and(is_member);
        if !holds || given.node == me.node {
            node.role = Role::Idle;
            return;
        }
        if let Role::Follows(follower) = &node.role
            && follower.epoch() == record.epoch
            && follower.leader() == given
        {
            return;
        }
        node.role = match Follower::follow(&mut node.copy, record.epoch, given, me) {
            Ok(follower) => Role::Follows(follower),
            Err(FollowRefused::Fenced { .. }) => {
                self.control.is_due();
                Role::Idle
            }
            Err(_) => Role::Idle,
        };
        self.cut_what_is_owed(index);
    }

    fn cut_what_is_owed(&mut self, index: usize) {
        let is_lossy = self.checker.is_lossy;
        let node = &mut self.nodes[index];
        let Some(from) = node.copy.owed_truncation() else {
            return;
        };
        if !node.copy.is_suspect() && !is_lossy {
            self.checker.cuts(&node.log, from);
        }
        let written = node.copy.truncated(from);
        node.log.truncate(past(node.copy.end()));
        let record = (Record::Truncate(from), Some(written));
        if is_planted(Bug::TruncateLate) {
            node.late = Some(record);
        } else {
            node.disk.journal.push(record);
        }
    }

    /// The journal reaches further.
    pub(super) fn flush(&mut self, index: usize) {
        let loose = {
            let disk = &self.nodes[index].disk;
            (disk.journal.len() - disk.durable) as u64
        };
        if !self.nodes[index].is_up || loose == 0 {
            return;
        }
        let more = if self.is_healing {
            loose
        } else {
            1 + self.prng.below(loose)
        };
        let member = self.nodes[index].member();
        let now = self.now(index);
        let node = &mut self.nodes[index];
        let from = node.disk.durable;
        node.disk.durable += more as usize;
        let mut is_sealed = false;
        for at in from..node.disk.durable {
            let (record, written) = node.disk.journal[at];
            if let Some(written) = written {
                node.copy.became_durable(written);
            }
            if let Record::Seal(entry) = record {
                // The superblock has it, too, before it is answered.
                node.disk.seal = Some(entry);
                is_sealed |= node.copy.seal_became_durable(entry.epoch);
            }
        }
        let before = node.copy.committed();
        let mut ack = None;
        match &mut node.role {
            Role::Idle => {}
            Role::Leads(leader) => {
                leader.became_durable(&mut node.copy);
            }
            Role::Follows(follower) => {
                if follower.became_durable(&mut node.copy) {
                    node.disk.marks = node.copy.marks();
                }
                ack = follower
                    .ack(&node.copy)
                    .map(|ack| (index_of(follower.leader().node), ack));
            }
        }
        if let Some((leader, ack)) = ack {
            self.send(index, leader, Message::Ack(ack));
        }
        if is_sealed {
            for controller in 0..2 {
                let node = &self.nodes[index];
                if let Some(answer) = node.copy.seal_answer(member, node.grants.left_ns(now)) {
                    self.send(
                        index,
                        super::CONTROLLERS,
                        Message::Sealed(answer, controller),
                    );
                }
            }
        }
        self.settle(index, before);
    }

    pub(super) fn fetch(&mut self, index: usize) {
        let node = &self.nodes[index];
        let Role::Follows(follower) = &node.role else {
            return;
        };
        if let (true, Some(fetch)) = (node.is_up, follower.fetch(&node.copy)) {
            let to = index_of(follower.leader().node);
            self.send(index, to, Message::Fetch(fetch));
        }
    }

    pub(super) fn produce(&mut self, index: usize) {
        let now = self.now(index);
        let node = &mut self.nodes[index];
        let Role::Leads(leader) = &mut node.role else {
            return;
        };
        for _ in 0..1 + self.prng.below(3) {
            let Some(place) = leader.place(&mut node.copy, now) else {
                return;
            };
            let entry = Entry {
                epoch: place.epoch,
                value: self.prng.next_u64(),
            };
            self.checker.writes(place.seq, entry);
            node.log.push(entry);
            let record = Record::Entry(place.seq, entry);
            node.disk.journal.push((record, Some(place.written)));
        }
    }

    pub(super) fn lead_turn(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if !node.is_up {
            return;
        }
        let Role::Leads(leader) = &mut node.role else {
            return;
        };
        if leader.is_deposed(&node.copy) {
            // It tells control, which elects above what was promised.
            if leader.epoch() == self.control.record.epoch {
                self.control.is_due();
            }
            return;
        }
        if leader.phase() == Phase::Chosen
            && let Some(start) = leader.start(&mut node.copy)
        {
            let entry = Entry {
                epoch: start.epoch,
                value: self.prng.next_u64(),
            };
            self.checker.writes(start.seq, entry);
            node.write_entry(start.seq, entry, start.written);
        }
        let node = &self.nodes[index];
        let Role::Leads(leader) = &node.role else {
            return;
        };
        if let Some(set) = leader.set_to_propose(&node.copy).copied()
            && !self.is_cut_off[index]
        {
            let epoch = leader.epoch();
            let generation = node.view.generation;
            self.control.propose_set(generation, epoch, &set);
        }
    }

    pub(super) fn ask_lease(&mut self, index: usize) {
        let now = self.now(index);
        let length = self.settings.lease_ns;
        let member = self.nodes[index].member();
        let node = &mut self.nodes[index];
        let Role::Leads(leader) = &mut node.role else {
            return;
        };
        let confirmed = node.confirmed.min(now);
        let asks = leader.ask_lease(&node.copy, &mut node.grants, length, now, confirmed);
        if let (Some(ask), true) = (asks, node.is_up) {
            let others: Vec<usize> = leader
                .counted()
                .members()
                .iter()
                .map(|other| index_of(other.node))
                .filter(|other| *other != index)
                .collect();
            let heard = leader.shipment(&node.copy, node.copy.held());
            for other in others {
                self.send(index, other, Message::LeaseAsk(ask, member));
                // How far it is, and how far that is committed, without being asked.
                self.send(index, other, Message::Entries(heard, Vec::new()));
            }
        }
    }

    pub(super) fn receive(&mut self, from: usize, to: usize, message: Message) {
        let now = self.now(to);
        let before = self.nodes[to].copy.committed();
        let node = &mut self.nodes[to];
        match message {
            Message::Fetch(fetch) => {
                let Role::Leads(leader) = &mut node.role else {
                    return;
                };
                let count = 1 + self.prng.below(SHIPPED_MAX);
                let answer = match leader.fetch(&node.copy, &fetch) {
                    FetchAnswer::Entries(shipment) => {
                        let entries = entries_behind(&node.log, shipment.after.seq, count);
                        Message::Entries(shipment, entries)
                    }
                    FetchAnswer::Diverged(diverged) => Message::Diverged(diverged),
                    FetchAnswer::Fenced { epoch } => Message::Fenced(epoch),
                    FetchAnswer::Deposed | FetchAnswer::NotMember => return,
                    FetchAnswer::Snapshot { .. } => panic!("no base was raised"),
                    FetchAnswer::OldImage { acknowledged } => panic!(
                        "an honest disk taken for an old image: {acknowledged:?} {fetch:?} {:?}",
                        self.nodes[from].disk
                    ),
                };
                self.send(to, from, answer);
            }
            Message::Entries(shipment, entries) => {
                let Role::Follows(follower) = &mut node.role else {
                    return;
                };
                match follower.admit(&node.copy, &shipment) {
                    Ok(()) => {}
                    Err(FollowRefused::Fenced { fence }) => {
                        self.send(to, from, Message::Fenced(fence));
                        return;
                    }
                    Err(_) => return,
                }
                for (seq, entry) in (shipment.after.seq.get() + 1..).zip(entries) {
                    let seq = SlotSeq::new(seq);
                    match follower.entry(&mut node.copy, entry.epoch, seq) {
                        Ok(Taken::Placed(written)) => {
                            self.checker.writes(seq, entry);
                            node.log.push(entry);
                            let record = Record::Entry(seq, entry);
                            node.disk.journal.push((record, Some(written)));
                            if let Some(late) = node.late.take() {
                                node.disk.journal.push(late);
                            }
                        }
                        Ok(Taken::Known) => {}
                        Err(FollowRefused::Malformed) => panic!("an honest leader is malformed"),
                        Err(_) => break,
                    }
                }
                if follower.committed(&mut node.copy, &shipment) {
                    node.disk.marks = node.copy.marks();
                }
                let ack = follower.ack(&node.copy);
                if let Some(ack) = ack {
                    self.send(to, from, Message::Ack(ack));
                }
            }
            Message::Diverged(diverged) => {
                let Role::Follows(follower) = &mut node.role else {
                    return;
                };
                match follower.diverged(&mut node.copy, &diverged) {
                    Parting::Cut { .. } => self.cut_what_is_owed(to),
                    Parting::Late => {}
                    Parting::Snapshot => panic!("no base was raised"),
                    Parting::Quarantined(quarantine) => {
                        assert!(
                            self.checker.is_lossy,
                            "an honest copy is out of use: {quarantine:?}"
                        );
                    }
                }
            }
            Message::Ack(ack) => {
                if let Role::Leads(leader) = &mut node.role {
                    // Who does not count is not heard; the world judges what was counted.
                    let _ = leader.ack(&mut node.copy, &ack);
                }
            }
            Message::Fenced(epoch) => {
                if let Role::Leads(leader) = &mut node.role {
                    leader.fenced(epoch);
                }
            }
            Message::LeaseAsk(ask, asker) => {
                let me = node.member();
                if let Role::Follows(follower) = &node.role {
                    let granted =
                        follower.grant(&node.copy, &mut node.grants, &ask, asker.boot, now);
                    match granted {
                        Ok(length) => self.send(to, from, Message::LeaseGrant(me, ask, length)),
                        Err(FollowRefused::Fenced { fence }) => {
                            self.send(to, from, Message::Fenced(fence));
                        }
                        Err(_) => {}
                    }
                }
            }
            Message::LeaseGrant(member, ask, length) => {
                if let Role::Leads(leader) = &mut node.role {
                    leader.lease_granted(&member, ask.epoch, ask.sent, length, now);
                }
            }
            Message::Seal(ask, controller) => {
                let known = node.view.generation;
                let member = node.member();
                match node.copy.seal(ask, known) {
                    Sealing::Write(entry) => {
                        node.write(Record::Seal(entry), None);
                        if !is_planted(Bug::AnswerUndurableSeal) {
                            return;
                        }
                    }
                    Sealing::Answer => {}
                    Sealing::Waiting | Sealing::Refused(_) => return,
                }
                let answer = node.copy.seal_answer(member, node.grants.left_ns(now));
                if let Some(answer) = answer {
                    self.send(to, super::CONTROLLERS, Message::Sealed(answer, controller));
                }
                // A seal is where a crash hurts.
                if !self.is_healing && self.prng.chance(1, 8) {
                    self.crash(to);
                    self.restart(to);
                    return;
                }
            }
            Message::Sealed(..) => {}
        }
        self.settle(to, before);
    }

    /// The committed end of a copy moved: whoever leads has made the entries committed, whoever follows believes it.
    fn settle(&mut self, index: usize, before: SlotSeq) {
        let node = &mut self.nodes[index];
        let committed = node.copy.committed();
        if committed <= before {
            return;
        }
        let Role::Leads(leader) = &node.role else {
            self.checker.believes(&node.log, committed);
            return;
        };
        node.disk.marks = node.copy.marks();
        let epoch = leader.epoch();
        let counted = *leader.counted();
        self.checker.commits(epoch, &node.log, committed);
        if !self.checker.is_lossy {
            self.is_on_quorum(&counted, committed);
        }
    }

    /// What a leader took for committed is on W disks of the set, damage aside.
    fn is_on_quorum(&self, set: &crate::Configuration, seq: SlotSeq) {
        let entry = self.checker.settled[past(seq) - 1];
        let has = |member: &&Member| {
            let node = &self.nodes[index_of(member.node)];
            if node.disk.id == member.disk && !node.disk.marks.is_none() {
                return true;
            }
            let (copy, log) = if node.disk.id == member.disk && node.is_up {
                (node.copy.durable(), node.log.get(past(seq) - 1).copied())
            } else {
                match self.stored(member) {
                    Some((_, log)) => (
                        SlotSeq::new(log.len() as u64),
                        log.get(past(seq) - 1).copied(),
                    ),
                    // Wiped since.
                    None => return true,
                }
            };
            copy >= seq && log == Some(entry)
        };
        let on = set.members().iter().filter(has).count();
        assert!(
            on >= set.quorum(),
            "{seq:?} counts as committed on {on} members of {set:?}"
        );
    }

    pub(super) fn judge_exposure(&mut self, index: usize) {
        let now = self.now(index);
        let node = &mut self.nodes[index];
        let Role::Leads(leader) = &node.role else {
            return;
        };
        if !node.is_up || !leader.serves(&node.copy, now) {
            return;
        }
        let epoch = leader.epoch();
        if !node.has_served {
            node.has_served = true;
            let start = match leader.phase() {
                Phase::Led { start } | Phase::Started { start } => start,
                Phase::Chosen => panic!("nothing is exposed before the epoch-start is placed"),
            };
            self.checker
                .serves(epoch, start, &node.log, node.copy.committed());
        }
        let quorum = leader.exposable(&node.copy, Durability::Quorum, now);
        assert_eq!(
            quorum,
            Some(node.copy.committed()),
            "what serves exposes what is committed"
        );
        let local = leader.exposable(&node.copy, Durability::Local, now);
        let memory = leader.exposable(&node.copy, Durability::Memory, now);
        assert!(
            quorum <= local && local <= memory,
            "a weaker level exposes no less"
        );
        self.checker.exposes(epoch, leader.has_lease(now));
    }
}
