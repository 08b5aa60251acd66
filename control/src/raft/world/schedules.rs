//! Schedules that chance does not come to: each a small world whose every message is delivered at once, or cut.

use super::super::machine::{Config, Output, Raft, Role};
use super::super::planted::{Bug, plant};
use super::super::{Entry, Members, Message, Position, Timing};
use super::disk::Disk;
use bytes::Bytes;
use std::collections::BTreeMap;
use tiderace_base::ids::{BootId, NodeId};
use tiderace_base::position::{RaftIndex, Term};
use tiderace_base::prng::Prng;
use tiderace_base::time::Mono;

const MS: u64 = 1_000_000;
/// Rounds of messages that a turn may take.
const ROUNDS_MAX: u32 = 60;

struct Schedule {
    at_ns: u64,
    rafts: BTreeMap<u64, Raft>,
    disks: BTreeMap<u64, Disk>,
    boots: BTreeMap<u64, u64>,
    records: BTreeMap<u64, u64>,
    cut: Vec<(u64, u64)>,
    /// From whom to whom no entry comes, though all else does.
    without_entries: Vec<(u64, u64)>,
    /// Whose disk does nothing.
    stalled: Option<u64>,
    committed: BTreeMap<RaftIndex, Entry>,
    violation: Option<String>,
}

impl Schedule {
    fn new(nodes: u64) -> Self {
        let members = Members::voters((1..=nodes).map(NodeId::new));
        Self {
            at_ns: MS,
            rafts: BTreeMap::new(),
            disks: (1..=nodes)
                .map(|node| (node, Disk::new(members.clone())))
                .collect(),
            boots: BTreeMap::new(),
            records: BTreeMap::new(),
            cut: Vec::new(),
            without_entries: Vec::new(),
            stalled: None,
            committed: BTreeMap::new(),
            violation: None,
        }
    }

    fn now(&self) -> Mono {
        Mono::from_ns(self.at_ns)
    }

    fn raft(&mut self, node: u64) -> &mut Raft {
        self.rafts.get_mut(&node).expect("it runs")
    }

    fn leads(&self, node: u64) -> bool {
        self.rafts[&node].role() == Role::Leader
    }

    fn start(&mut self, node: u64) {
        let boot = self.boots.entry(node).or_insert(0);
        *boot += 1;
        let boot = BootId::new(*boot);
        self.records.insert(node, 0);
        let config = Config {
            node: NodeId::new(node),
            boot,
            timing: Timing::default(),
            seed: node,
            is_new: false,
        };
        let now = self.now();
        let raft = Raft::new(config, self.disks[&node].restored(), now);
        self.rafts.insert(node, raft);
        let others: Vec<u64> = self
            .rafts
            .keys()
            .copied()
            .filter(|it| *it != node)
            .collect();
        for other in others {
            let of_other = BootId::new(self.boots[&other]);
            self.raft(other).link_is_new(NodeId::new(node), boot, now);
            self.raft(node)
                .link_is_new(NodeId::new(other), of_other, now);
        }
        self.deliver();
    }

    fn part(&mut self, a: u64, b: u64) {
        self.cut.extend([(a, b), (b, a)]);
    }

    /// Does what everybody wants, until nobody wants anything.
    fn deliver(&mut self) {
        for round in 0.. {
            if round > ROUNDS_MAX {
                self.violation
                    .get_or_insert_with(|| "messages answer messages without end".to_owned());
                return;
            }
            let mut letters: Vec<(u64, u64, Message)> = Vec::new();
            let nodes: Vec<u64> = self.rafts.keys().copied().collect();
            for node in nodes {
                self.take(node, &mut letters);
            }
            if letters.is_empty() {
                return;
            }
            let now = self.now();
            for (from, to, message) in letters {
                let has_entries =
                    matches!(&message, Message::Append { entries, .. } if !entries.is_empty());
                let is_lost = has_entries && self.without_entries.contains(&(from, to));
                if !self.cut.contains(&(from, to))
                    && !is_lost
                    && let Some(raft) = self.rafts.get_mut(&to)
                {
                    raft.receive(NodeId::new(from), message, now);
                }
            }
        }
    }

    fn take(&mut self, node: u64, letters: &mut Vec<(u64, u64, Message)>) {
        loop {
            let outputs = self.raft(node).take_outputs();
            if outputs.is_empty() {
                return;
            }
            for output in outputs {
                match output {
                    Output::Persist(record) => {
                        let seq = self.records.get_mut(&node).expect("it runs");
                        *seq += 1;
                        let seq = *seq;
                        let disk = self.disks.get_mut(&node).expect("it has one");
                        disk.on_their_way.push_back((seq, record));
                        if self.stalled == Some(node) {
                            continue;
                        }
                        disk.land(1);
                        let now = self.now();
                        self.raft(node).persisted(seq, now);
                    }
                    Output::Send { to, message } => letters.push((node, to.get(), message)),
                    Output::Committed(end) => self.check_committed(node, end),
                    Output::Read { .. } | Output::SnapshotWanted { .. } | Output::Became(_) => {}
                }
            }
        }
    }

    fn check_committed(&mut self, node: u64, end: RaftIndex) {
        for index in 1..=end.get() {
            let index = RaftIndex::new(index);
            let Some(entry) = self.rafts[&node].entry(index).cloned() else {
                continue;
            };
            let known = self.committed.entry(index).or_insert_with(|| entry.clone());
            if *known != entry {
                let what = format!("{node} commits {entry:?}, where {known:?} was committed");
                self.violation.get_or_insert(what);
            }
        }
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms {
            self.at_ns += MS;
            let now = self.now();
            for raft in self.rafts.values_mut() {
                if raft.next_wake().is_some_and(|at| at <= now) {
                    raft.tick(now);
                }
            }
            self.deliver();
            let holders = self.rafts.values().filter(|raft| raft.has_lease(now));
            if holders.count() > 1 {
                self.violation
                    .get_or_insert_with(|| "two hold the lease at once".to_owned());
            }
        }
    }

    fn pass_until(&mut self, is_so: impl Fn(&Self) -> bool) {
        for _ in 0..1000 {
            if is_so(self) {
                return;
            }
            self.pass(1);
        }
        panic!("it never comes to that");
    }

    /// The node is gone, and its log forgets everything.
    fn damage(&mut self, node: u64) {
        self.rafts.remove(&node);
        let disk = self.disks.get_mut(&node).expect("it has one");
        disk.damage(&mut Prng::new(1));
        disk.entries.clear();
        disk.term = Term::ZERO;
        disk.vote = None;
    }

    /// Node 1 stands first, and 2 votes for it.
    fn elect_the_first(&mut self) {
        self.cut.push((2, 1));
        self.pass_until(|world| {
            let at = world.rafts[&1].next_wake();
            at.is_some_and(|at| at <= Mono::from_ns(world.at_ns + MS))
        });
        self.cut.retain(|cut| *cut != (2, 1));
        self.pass_until(|world| world.leads(1));
        self.pass(5);
    }

    fn propose(&mut self, node: u64, what: &'static [u8]) {
        let now = self.now();
        let proposed = self.raft(node).propose(Bytes::from_static(what), now);
        proposed.expect("it leads");
        self.deliver();
    }
}

/// Node 1 leads term 1 with 2. Then 2 and 3 elect 2 and commit an entry, unheard by 1; 3 dies, and its log is damaged, so that it
/// forgets the entry, its vote and the term; and it comes back where it hears 1 alone, which still takes itself for the leader.
fn a_deposed_leader_meets_who_forgot_the_later_term() -> Schedule {
    let mut world = Schedule::new(3);
    world.part(3, 1);
    world.part(3, 2);
    for node in 1..=3 {
        world.start(node);
    }
    world.elect_the_first();
    world.cut.clear();
    world.part(1, 2);
    world.part(1, 3);
    world.pass_until(|world| world.leads(2) || world.leads(3));
    assert!(world.leads(2), "who has the longer log is elected");
    world.propose(2, b"acknowledged by 2 and 3");
    assert!(world.leads(1), "it has heard of nothing");
    world.damage(3);
    world.cut.clear();
    world.part(1, 2);
    world.part(3, 2);
    world.pass(1);
    world.start(3);
    world.pass(30);
    if world.leads(1) {
        world.propose(1, b"acknowledged by 1 and 3");
    }
    world.pass(60);
    world
}

#[test]
fn who_forgot_a_later_term_counts_for_no_deposed_leader() {
    let mut world = a_deposed_leader_meets_who_forgot_the_later_term();
    assert_eq!(world.violation, None);
    // The network is whole again, and so is everybody.
    world.cut.clear();
    world.pass(1000);
    assert_eq!(world.violation, None);
    let committed = world.committed.keys().next_back().copied();
    for (node, raft) in &world.rafts {
        assert_eq!(Some(raft.committed()), committed, "{node}");
    }
    assert!(world.disks.values().all(|disk| !disk.is_damaged));
}

#[test]
fn to_take_it_back_unasked_is_noticed() {
    plant(Some(Bug::ReadmitUnasked));
    let world = a_deposed_leader_meets_who_forgot_the_later_term();
    plant(None);
    assert!(world.violation.is_some());
}

/// Nodes 1 and 2 commit an entry that 3 does not get. 2 loses its log, and 1 starts anew: it leads again and does not know yet what is
/// committed. It takes 2 back and dies before 2 has the entry.
fn a_new_leader_takes_back_who_forgot_and_dies() -> Schedule {
    let mut world = Schedule::new(3);
    world.part(3, 1);
    world.part(3, 2);
    for node in 1..=3 {
        world.start(node);
    }
    world.elect_the_first();
    world.propose(1, b"acknowledged by 1 and 2");
    world.pass(5);
    assert_eq!(world.committed.len(), 2, "the term's first, and this");
    world.damage(2);
    world.rafts.remove(&1);
    world.cut.clear();
    world.without_entries = vec![(1, 3), (1, 2)];
    world.start(1);
    world.start(2);
    world.pass_until(|world| world.leads(1));
    world.pass(50);
    world.rafts.remove(&1);
    world.without_entries.clear();
    world.pass(400);
    for node in 2..=3 {
        if world.leads(node) {
            world.propose(node, b"in its place");
            world.pass(5);
        }
    }
    world
}

#[test]
fn who_forgot_is_whole_when_it_has_what_was_committed_and_no_sooner() {
    let mut world = a_new_leader_takes_back_who_forgot_and_dies();
    assert_eq!(world.violation, None);
    world.start(1);
    world.pass(1000);
    assert_eq!(world.violation, None);
    assert!(world.disks.values().all(|disk| !disk.is_damaged));
}

#[test]
fn to_call_it_whole_too_soon_is_noticed() {
    plant(Some(Bug::HealTooSoon));
    let world = a_new_leader_takes_back_who_forgot_and_dies();
    plant(None);
    assert!(world.violation.is_some());
}

/// Node 1 is the only voter, 2 learns; 1 leads, and its disk does nothing.
fn a_voter_by_itself_leads_and_its_disk_stalls() -> Schedule {
    let mut world = Schedule::new(1);
    let members = Members {
        learners: [NodeId::new(2)].into(),
        ..Members::voters([NodeId::new(1)])
    };
    for node in 1..=2 {
        world.disks.insert(node, Disk::new(members.clone()));
    }
    world.stalled = Some(1);
    world.start(2);
    world.start(1);
    world.pass_until(|world| world.leads(1));
    world.propose(1, b"of a term that may begin once more");
    world.pass(100);
    world
}

#[test]
fn nobody_hears_of_a_term_that_may_begin_once_more() {
    let mut world = a_voter_by_itself_leads_and_its_disk_stalls();
    assert_eq!(world.raft(2).last(), Position::ZERO);
    assert_eq!(world.raft(2).term(), Term::ZERO);
    // The disk goes on.
    world.stalled = None;
    let disk = world.disks.get_mut(&1).expect("it has one");
    let landed = disk.land(disk.on_their_way.len()).expect("records waited");
    let now = world.now();
    world.raft(1).persisted(landed, now);
    world.deliver();
    world.pass(100);
    assert_eq!(world.raft(2).last(), world.rafts[&1].last());
    assert_eq!(world.raft(2).committed(), world.rafts[&1].committed());
    assert!(world.committed.len() >= 2);
}

#[test]
fn to_lead_before_the_vote_is_durable_is_noticed() {
    plant(Some(Bug::LeadUndurable));
    let mut world = a_voter_by_itself_leads_and_its_disk_stalls();
    plant(None);
    assert_ne!(world.raft(2).last(), Position::ZERO);
}
