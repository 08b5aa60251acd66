//! Several members under one seed: a network that loses, doubles, delays and parts, disks that take their time, crashes that
//! lose what had not landed, clocks that drift, logs that are damaged, changes of the members. What must never be is asked
//! after every step.

mod disk;
mod faults;
mod schedules;
mod seeds;

use super::Timing;
use super::entries::{Entry, Members, Position};
use super::machine::{Config, Output, Raft, ReadId, RecordSeq, Role};
use super::message::Message;
use bytes::Bytes;
use disk::Disk;
use faults::Faults;
use std::collections::{BTreeMap, BTreeSet};
use tiderace_base::ids::{BootId, NodeId};
use tiderace_base::position::RaftIndex;
use tiderace_base::prng::Prng;
use tiderace_base::time::Mono;

const MS: u64 = 1_000_000;
/// More than a seed needs by far: beyond it, something answers itself.
const STEPS_MAX: u64 = 2_000_000;
const MULTIPLY: &str = "messages multiply";
/// Whether every event is printed: RAFT_TRACE=1 RAFT_FROM=2350 RAFT_SEEDS=1 cargo test -p tiderace-control --lib raft::world
const TRACE: Option<&str> = option_env!("RAFT_TRACE");

/// What happens at a time.
#[derive(Debug)]
enum Due {
    Arrives {
        from: u64,
        /// The run that sent it.
        from_boot: u64,
        to: u64,
        /// The run that it was meant for.
        boot: u64,
        message: Message,
    },
    /// A leader's state, with the log's base.
    State {
        to: u64,
        boot: u64,
        base: Position,
        members: Members,
    },
    Landed {
        node: u64,
        boot: u64,
    },
    Wake {
        node: u64,
    },
    Starts {
        node: u64,
    },
    Restarts {
        leader: u64,
        node: u64,
    },
    Damages {
        leader: u64,
        node: u64,
        deaf: u64,
    },
    /// It hears nobody any more.
    Deafens {
        node: u64,
    },
    /// A kill with no start for long.
    Dies {
        node: u64,
    },
    Client,
    Fault,
}

#[derive(Debug)]
struct Member {
    raft: Option<Raft>,
    disk: Disk,
    boot: u64,
    handed_out: RecordSeq,
    /// Its clock: thousandths of a percent that it runs fast or slow, and where it began.
    drift: i64,
    offset: u64,
    /// The run of each other member that it last heard.
    heard: BTreeMap<u64, u64>,
    reads: BTreeMap<ReadId, RaftIndex>,
    committed: RaftIndex,
}

impl Member {
    fn clock(&self, at_ns: u64) -> Mono {
        let drifted = i128::from(at_ns) * (100_000 + i128::from(self.drift)) / 100_000;
        Mono::from_ns(self.offset + drifted as u64)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct World {
    prng: Prng,
    at_ns: u64,
    steps: u64,
    due: BTreeMap<(u64, u64), Due>,
    due_count: u64,
    members: BTreeMap<u64, Member>,
    faults: Faults,
    leaders: BTreeMap<u64, u64>,
    /// Every entry that was ever committed.
    log: Vec<Entry>,
    /// The term in which each was seen to be committed first.
    committed_in: Vec<u64>,
    proposed: u64,
    reads: u64,
    /// What was seen to happen.
    pub(super) counts: BTreeMap<&'static str, u64>,
    violation: Option<String>,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut prng = Prng::new(seed);
        let voters = prng.range(1, 6);
        let members = Members::voters((1..=voters).map(NodeId::new));
        let faults = Faults::draw(&mut prng);
        let mut world = Self {
            at_ns: 0,
            steps: 0,
            due: BTreeMap::new(),
            due_count: 0,
            members: BTreeMap::new(),
            faults,
            leaders: BTreeMap::new(),
            log: Vec::new(),
            committed_in: Vec::new(),
            proposed: 0,
            reads: 0,
            counts: BTreeMap::new(),
            violation: None,
            prng,
        };
        for node in 1..=5 {
            let known = if node <= voters {
                members.clone()
            } else {
                Members::default()
            };
            let member = Member {
                raft: None,
                disk: Disk::new(known),
                boot: 0,
                handed_out: 0,
                // Within a hundredth: two of them part by a fiftieth at most.
                drift: world.prng.range(0, 1800) as i64 - 900,
                offset: world.prng.below(1 << 40),
                heard: BTreeMap::new(),
                reads: BTreeMap::new(),
                committed: RaftIndex::ZERO,
            };
            world.members.insert(node, member);
            world.start(node);
        }
        world.later(MS, Due::Client);
        world.later(5 * MS, Due::Fault);
        world
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn refuse(&mut self, what: String) {
        let at = self.at_ns;
        self.violation
            .get_or_insert_with(|| format!("at {at} ns: {what}"));
    }

    fn later(&mut self, ns: u64, due: Due) {
        self.due_count += 1;
        self.due.insert((self.at_ns + ns, self.due_count), due);
    }

    /// A safety phase, then everything heals and everybody has to get as far.
    pub(super) fn run(&mut self) -> Result<(), String> {
        self.run_until(3_000 * MS);
        self.faults = Faults::default();
        for node in 1..=5 {
            if self.members[&node].raft.is_none() {
                self.start(node);
            }
        }
        let healed = self.log.len();
        self.run_until(8_000 * MS);
        if self.violation.is_none() {
            self.check_progress(healed);
        }
        self.violation.take().map_or(Ok(()), Err)
    }

    fn run_until(&mut self, until_ns: u64) {
        while self.violation.is_none() {
            let Some(entry) = self.due.first_entry() else {
                return;
            };
            if entry.key().0 > until_ns {
                self.at_ns = until_ns;
                return;
            }
            let ((at_ns, _), due) = entry.remove_entry();
            self.at_ns = at_ns;
            self.steps += 1;
            if self.steps > STEPS_MAX {
                self.refuse(MULTIPLY.to_owned());
            }
            if TRACE.is_some() {
                eprintln!("{at_ns} {due:?}");
            }
            self.step(due);
            self.check_leases();
        }
    }

    fn step(&mut self, due: Due) {
        match due {
            Due::Arrives {
                from,
                from_boot,
                to,
                boot,
                message,
            } => {
                let now = self.members[&to].clock(self.at_ns);
                let member = self.members.get_mut(&to).expect("it is there");
                if member.boot != boot {
                    return;
                }
                let Some(raft) = &mut member.raft else { return };
                // The link to a newer run has taken the place of that to an older one.
                match member.heard.insert(from, from_boot) {
                    Some(heard) if heard > from_boot => {
                        member.heard.insert(from, heard);
                        return;
                    }
                    Some(heard) if heard == from_boot => {}
                    _ => raft.link_is_new(NodeId::new(from), BootId::new(from_boot), now),
                }
                raft.receive(NodeId::new(from), message, now);
                self.drain(to);
            }
            Due::State {
                to,
                boot,
                base,
                members,
            } => {
                let now = self.members[&to].clock(self.at_ns);
                let member = self.members.get_mut(&to).expect("it is there");
                if member.boot != boot || member.raft.is_none() {
                    return;
                }
                let raft = member.raft.as_mut().expect("it runs");
                if base.index > raft.committed() {
                    member.disk.rebase(base, members.clone());
                    raft.install(base, &members, now);
                    if raft.committed() >= base.index {
                        member.committed = member.committed.max(base.index);
                        self.count("state installed");
                    }
                }
                self.drain(to);
            }
            Due::Landed { node, boot } => {
                let now = self.members[&node].clock(self.at_ns);
                let member = self.members.get_mut(&node).expect("it is there");
                if member.boot != boot || member.raft.is_none() {
                    return;
                }
                let many = member.disk.on_their_way.len() as u64;
                let count = self.prng.range(1, many.max(1) + 1).min(many) as usize;
                if let Some(seq) = member.disk.land(count) {
                    member.raft.as_mut().expect("it runs").persisted(seq, now);
                }
                self.drain(node);
            }
            Due::Wake { node } => {
                let now = self.members[&node].clock(self.at_ns);
                let member = self.members.get_mut(&node).expect("it is there");
                if let Some(raft) = &mut member.raft
                    && raft.next_wake().is_some_and(|at| at <= now)
                {
                    raft.tick(now);
                    self.drain(node);
                }
            }
            Due::Starts { node } => {
                if self.members[&node].raft.is_none() {
                    self.start(node);
                }
            }
            Due::Restarts { leader, node } => self.restart(leader, node),
            Due::Damages { leader, node, deaf } => self.damage_one(leader, node, deaf),
            Due::Dies { node } => self.die(node),
            Due::Deafens { node } => self.deafen(node),
            Due::Client => self.ask(),
            Due::Fault => self.fault(),
        }
    }

    fn start(&mut self, node: u64) {
        let seed = self.prng.next_u64();
        let now = self.members[&node].clock(self.at_ns);
        let member = self.members.get_mut(&node).expect("it is there");
        member.boot += 1;
        member.handed_out = 0;
        member.heard.clear();
        member.reads.clear();
        member.committed = member.disk.base.index;
        let config = Config {
            node: NodeId::new(node),
            boot: BootId::new(member.boot),
            timing: Timing::default(),
            seed,
            is_new: false,
        };
        member.raft = Some(Raft::new(config, member.disk.restored(), now));
        self.drain(node);
    }

    /// Does what a member asks for.
    fn drain(&mut self, node: u64) {
        let member = self.members.get_mut(&node).expect("it is there");
        let Some(raft) = &mut member.raft else { return };
        let outputs = raft.take_outputs();
        let boot = member.boot;
        let leads = |it: &Output| matches!(it, Output::Became(Role::Leader));
        if outputs.iter().any(leads) {
            self.aim_at_new(node);
        }
        for output in outputs {
            match output {
                Output::Persist(record) => {
                    let member = self.members.get_mut(&node).expect("it is there");
                    member.handed_out += 1;
                    let seq = member.handed_out;
                    member.disk.on_their_way.push_back((seq, record));
                    let ns = self.faults.disk_ns(node, &mut self.prng);
                    self.later(ns, Due::Landed { node, boot });
                }
                Output::Send { to, message } => self.post(node, to.get(), message),
                Output::Committed(end) => self.take_committed(node, end),
                Output::Read { id, at } => self.take_read(node, id, at),
                Output::SnapshotWanted { to } => self.send_state(node, to.get()),
                Output::Became(role) => self.take_role(node, role),
            }
        }
        let member = &self.members[&node];
        let wake = member.raft.as_ref().and_then(Raft::next_wake);
        if let Some(at) = wake {
            let now = member.clock(self.at_ns);
            // A clock that runs slow asks again.
            let ns = at.as_ns().saturating_sub(now.as_ns()).max(10_000) * 102 / 100;
            self.later(ns, Due::Wake { node });
        }
    }

    fn post(&mut self, from: u64, to: u64, message: Message) {
        let Some(target) = self.members.get(&to) else {
            return;
        };
        let boot = target.boot;
        let from_boot = self.members[&from].boot;
        let has_entries = matches!(message, Message::Append { .. });
        for _ in 0..self.faults.copies(from, to, has_entries, &mut self.prng) {
            let ns = self.faults.delay_ns(&mut self.prng);
            let message = message.clone();
            self.later(
                ns,
                Due::Arrives {
                    from,
                    from_boot,
                    to,
                    boot,
                    message,
                },
            );
        }
    }

    fn send_state(&mut self, from: u64, to: u64) {
        let sender = &self.members[&from];
        let raft = sender.raft.as_ref().expect("it runs");
        let at = raft.committed();
        let Some(base) = raft.position(at) else {
            return;
        };
        let members = sender.disk.members_at(at);
        let Some(target) = self.members.get(&to) else {
            return;
        };
        let boot = target.boot;
        if self.faults.copies(from, to, true, &mut self.prng) > 0 {
            let ns = 3 * self.faults.delay_ns(&mut self.prng);
            self.later(
                ns,
                Due::State {
                    to,
                    boot,
                    base,
                    members,
                },
            );
        }
    }

    /// A client offers something, or reads, or somebody wants a change.
    fn ask(&mut self) {
        let gap = self.prng.range(MS / 2, 6 * MS);
        self.later(gap, Due::Client);
        let node = self.prng.range(1, 6);
        let now = self.members[&node].clock(self.at_ns);
        let newest = RaftIndex::new(self.log.len() as u64);
        let member = self.members.get_mut(&node).expect("it is there");
        let Some(raft) = &mut member.raft else { return };
        if raft.role() != Role::Leader {
            return;
        }
        match self.prng.below(40) {
            0 if self.faults.changes_members => {
                let voters: BTreeSet<NodeId> = (1..=5)
                    .filter(|_| self.prng.chance(3, 5))
                    .map(NodeId::new)
                    .collect();
                let current = raft.members().voters.clone();
                let learners: BTreeSet<NodeId> = (1..=5)
                    .map(NodeId::new)
                    .filter(|it| !voters.contains(it) && !current.contains(it))
                    .filter(|_| self.prng.chance(1, 2))
                    .collect();
                // Of two voters neither may be damaged, or nobody is elected before an operator helps.
                let is_enough = voters.len() >= 3 || !self.faults.damages;
                if is_enough && raft.change_members(&voters, &learners, now).is_ok() {
                    self.count("members changed");
                }
            }
            1 => {
                let to = NodeId::new(self.prng.range(1, 6));
                raft.transfer(to, now);
                self.count("handed over");
                // Often it does not hear what comes of it.
                let later = self.prng.range(0, MS);
                self.later(later, Due::Deafens { node });
            }
            2..=4 => {
                let at = raft.committed().get();
                let to = RaftIndex::new(at.saturating_sub(self.prng.below(20)));
                if to > member.disk.base.index
                    && let Some(base) = raft.entry(to).map(|it| it.position)
                {
                    let members = member.disk.members_at(to);
                    member.disk.rebase(base, members);
                    raft.compact(to);
                    self.count("compacted");
                }
            }
            5..=15 => {
                self.reads += 1;
                let id = ReadId(self.reads);
                member.reads.insert(id, newest);
                raft.read(id, now);
            }
            _ => {
                for _ in 0..self.prng.range(1, 4) {
                    self.proposed += 1;
                    let command = Bytes::copy_from_slice(&self.proposed.to_le_bytes());
                    let _ = raft.propose(command, now);
                }
            }
        }
        self.drain(node);
    }

    // --- What must never be -------------------------------------------------------------------------------------------

    fn take_role(&mut self, node: u64, role: Role) {
        if role == Role::Leader {
            let raft = self.members[&node].raft.as_ref().expect("it runs");
            let term = raft.term().get();
            let known = *self.leaders.entry(term).or_insert(node);
            if known != node {
                self.refuse(format!("term {term} has two leaders, {known} and {node}"));
            }
            self.count("elected");
            self.check_is_complete(node);
        }
    }

    /// Leader completeness: who leads has everything that was committed in an earlier term.
    fn check_is_complete(&mut self, node: u64) {
        let member = &self.members[&node];
        let raft = member.raft.as_ref().expect("it runs");
        let (term, base) = (raft.term().get(), member.disk.base.index.get());
        let mut committed = self.log.iter().zip(&self.committed_in).skip(base as usize);
        let lacks = committed.find(|(entry, committed_in)| {
            let holds = raft.position(entry.position.index) == Some(entry.position);
            **committed_in < term && !holds
        });
        if let Some((entry, _)) = lacks {
            let what = format!("{node} leads term {term} without {:?}", entry.position);
            self.refuse(what);
        }
    }

    fn take_committed(&mut self, node: u64, end: RaftIndex) {
        let member = &self.members[&node];
        let raft = member.raft.as_ref().expect("it runs");
        if end < member.committed {
            self.refuse(format!("{node}: the commit index went back to {end}"));
            return;
        }
        // What is not held came with the state of another member.
        let fresh: Vec<(u64, Entry)> = (member.committed.get() + 1..=end.get())
            .filter_map(|index| Some((index, raft.entry(RaftIndex::new(index))?.clone())))
            .collect();
        for (index, entry) in fresh {
            match self.log.get(index as usize - 1) {
                Some(known) if *known != entry => {
                    self.refuse(format!(
                        "{node} commits {entry:?}, where {known:?} was committed"
                    ));
                    return;
                }
                Some(_) => {}
                None => {
                    let term = self.members[&node].raft.as_ref().expect("it runs").term();
                    self.check_is_kept(node, &entry);
                    self.log.push(entry);
                    self.committed_in.push(term.get());
                }
            }
        }
        let member = self.members.get_mut(&node).expect("it is there");
        member.committed = end;
        self.count("committed");
    }

    /// What is committed for the first time is on the disks of a majority.
    fn check_is_kept(&mut self, node: u64, entry: &Entry) {
        if entry.position.index.get() != self.log.len() as u64 + 1 {
            self.refuse(format!("{node} commits {entry:?} behind a hole"));
            return;
        }
        // A leader counts by the newest members that it knows, or by those that it knew before it appended these.
        let member = &self.members[&node];
        let newest = member.raft.as_ref().expect("it runs").members();
        let then = member.disk.members_at(entry.position.index);
        let has_majority = |voters: &BTreeSet<NodeId>| {
            // A damaged one that had acknowledged it votes for nobody until it has it again.
            let keeps = |voter: &&NodeId| {
                let disk = &self.members[&voter.get()].disk;
                disk.holds(entry.position) || disk.is_damaged
            };
            voters.is_empty() || 2 * voters.iter().filter(keeps).count() > voters.len()
        };
        let keep = |it: &Members| has_majority(&it.voters) && has_majority(&it.incoming);
        if !keep(newest) && !keep(&then) {
            let states = self.states();
            self.refuse(format!(
                "{node} commits {entry:?}, which no majority keeps:{states}"
            ));
        }
    }

    fn take_read(&mut self, node: u64, id: ReadId, at: Option<RaftIndex>) {
        let member = self.members.get_mut(&node).expect("it is there");
        let newest = member.reads.remove(&id).expect("it was asked for");
        let Some(at) = at else { return };
        self.count("read");
        if at < newest {
            self.refuse(format!(
                "{node} reads at {at}, and {newest} was committed before"
            ));
        }
    }

    /// Whoever has the lease is alone, and has everything that was committed as soon as it has anything of its own term.
    fn check_leases(&mut self) {
        let mut holders = Vec::new();
        for (node, member) in &self.members {
            let now = member.clock(self.at_ns);
            if let Some(raft) = member.raft.as_ref().filter(|raft| raft.has_lease(now)) {
                holders.push((*node, raft.term()));
            }
        }
        if holders.len() > 1 {
            self.refuse(format!("these hold the lease at once: {holders:?}"));
        }
        if !holders.is_empty() {
            self.count("lease held");
        }
    }

    fn states(&self) -> String {
        let state = |(node, it): (&u64, &Member)| {
            it.raft.as_ref().map(|raft| {
                let (role, term, last) = (raft.role(), raft.term(), raft.last());
                let (committed, members) = (raft.committed(), raft.members());
                let disk = (
                    it.disk.term,
                    it.disk.last(),
                    it.disk.is_damaged,
                    it.disk.on_their_way.len(),
                );
                format!(
                    "\n{node}: {role:?} {term} {last:?} {committed} {members:?}, on disk {disk:?}"
                )
            })
        };
        self.members.iter().filter_map(state).collect()
    }

    fn check_progress(&mut self, healed: usize) {
        let end = self.log.len();
        if end < healed + 20 {
            let states = self.states();
            self.refuse(format!(
                "after healing, {healed} grew to {end} only:{states}"
            ));
            return;
        }
        let running = self.members.values().filter_map(|it| it.raft.as_ref());
        let furthest = running.max_by_key(|raft| raft.committed());
        let members = furthest.expect("all of them run").members();
        for node in members.voters.iter().chain(&members.learners) {
            let committed = self.members[&node.get()].committed.get();
            if committed + 30 < end as u64 {
                self.refuse(format!("after healing {node} is at {committed} of {end}"));
                return;
            }
        }
    }
}
