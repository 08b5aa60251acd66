//! A model world of one slot: three to five replicas with their disks and clocks, a network that loses, repeats, delays
//! and reorders, two control leaders of whom one may be deposed, and a catalogue that changes by compare-and-set. One seed
//! is one run; every step is judged, and after the last everything heals and has to get going again.
//!
//! The machines under test are the crate's own; what is modelled is what surrounds them. Damage keeps the bound that the
//! levels promise against: at most W - 1 copies of a set are damaged at a time, or none is and all lose power.

mod checker;
mod control;
mod disk;
mod node;
mod seeds;

use crate::configuration::{Configuration, Member};
use crate::follower::{Ack, Diverged, Fetch, Shipment};
use crate::lease::LeaseAsk;
use crate::seal::{SealAnswer, SealAsk};
use checker::Checker;
use control::Control;
use disk::{Disk, Entry};
use node::{Node, Role};
use tiderace_base::ids::{BootId, DiskId, NodeId};
use tiderace_base::limits::SLOT_LEASE_NS_MAX;
use tiderace_base::position::{Epoch, SlotSeq};
use tiderace_base::prng::Prng;
use tiderace_base::time::Mono;

const NODES_MAX: usize = 5;
const STEPS: u32 = 2000;
/// A shipment's entries: few, so that tails take several.
const SHIPPED_MAX: u64 = 4;

/// What may happen to disks in a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Damage {
    /// Crashes lose what was not durable, and nothing is marked.
    None,
    /// Rot, unreadable bytes, wiped and swapped disks, on at most W - 1 copies.
    Some,
    /// Every crash may leave a mark of a cut tail, on all copies at once; nothing durable is lost.
    Power,
    /// The leader of a slot with W = 1 may be gone for good: elections may be the declared, lossy kind.
    Lossy,
}

#[derive(Clone, Copy, Debug)]
struct Settings {
    damage: Damage,
    drops: u64,
    repeats: u64,
    crashes: u64,
    elections: u64,
    set_changes: u64,
    step_ns_max: u64,
    lease_ns: u64,
}

#[derive(Clone, Debug)]
enum Message {
    Fetch(Fetch),
    Entries(Shipment, Vec<Entry>),
    Diverged(Diverged),
    Ack(Ack),
    Fenced(Epoch),
    LeaseAsk(LeaseAsk, Member),
    LeaseGrant(Member, LeaseAsk, u64),
    Seal(SealAsk, usize),
    Sealed(SealAnswer, usize),
}

/// Messages on their way at once.
const IN_FLIGHT_MAX: usize = 24;
/// Control leaders are beyond the nodes.
const CONTROLLERS: usize = NODES_MAX;

#[derive(Clone, Debug)]
struct Envelope {
    from: usize,
    to: usize,
    /// A connection ends with its receiver.
    to_boot: BootId,
    message: Message,
}

struct World {
    prng: Prng,
    settings: Settings,
    real_ns: u64,
    nodes: Vec<Node>,
    net: Vec<Envelope>,
    control: Control,
    checker: Checker,
    next_id: u64,
    /// Which side of a partition each node is on.
    sides: [u8; NODES_MAX],
    /// Whether control is out of a node's reach.
    is_cut_off: [bool; NODES_MAX],
    is_healing: bool,
}

fn node_id(index: usize) -> NodeId {
    NodeId::new(index as u64 + 1)
}

fn index_of(node: NodeId) -> usize {
    usize::try_from(node.get() - 1).expect("few nodes")
}

impl World {
    fn new(seed: u64) -> Self {
        let mut prng = Prng::new(seed);
        let damage = match prng.below(8) {
            0 => Damage::None,
            1..=4 => Damage::Some,
            5 | 6 => Damage::Power,
            _ => Damage::Lossy,
        };
        let nodes = 3 + prng.below(3) as usize;
        let settings = Settings {
            damage,
            drops: prng.below(15),
            repeats: prng.below(15),
            crashes: 1 + prng.below(12),
            elections: 1 + prng.below(40),
            set_changes: prng.below(4) * 10,
            step_ns_max: [3_000_000, 20_000_000, 100_000_000][prng.below(3) as usize],
            lease_ns: [100_000_000, 400_000_000, SLOT_LEASE_NS_MAX][prng.below(3) as usize],
        };
        let mut next_id = 100;
        let members = if damage == Damage::Lossy {
            2 + prng.below(2) as usize
        } else {
            1 + prng.below(nodes as u64) as usize
        };
        let quorum = match damage {
            Damage::Lossy => 1,
            // A slot that is one copy short of everything, sometimes; else a majority.
            _ if prng.chance(1, 5) => 1 + prng.below(members as u64) as usize,
            _ => members / 2 + 1,
        };
        let nodes: Vec<Node> = (0..nodes)
            .map(|index| {
                next_id += 2;
                Node::new(
                    index,
                    DiskId::new(next_id.into()),
                    BootId::new(next_id + 1),
                    &mut prng,
                )
            })
            .collect();
        let control = Control::new(&nodes, members, quorum);
        let mut world = Self {
            prng,
            settings,
            real_ns: 0,
            nodes,
            net: Vec::new(),
            control,
            checker: Checker::default(),
            next_id: next_id + 2,
            sides: [0; NODES_MAX],
            is_cut_off: [false; NODES_MAX],
            is_healing: false,
        };
        for index in 0..world.nodes.len() {
            world.nodes[index].view = world.control.record;
        }
        world
    }

    fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn now(&self, node: usize) -> Mono {
        self.nodes[node].clock(self.real_ns)
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        let to_boot = if to < CONTROLLERS {
            self.nodes[to].boot
        } else {
            BootId::new(0)
        };
        self.net.push(Envelope {
            from,
            to,
            to_boot,
            message,
        });
    }

    /// One step of the unsafe phase.
    fn step(&mut self) {
        self.real_ns += self.prng.below(self.settings.step_ns_max);
        let some = self.prng.below(self.nodes.len() as u64) as usize;
        match self.prng.below(100) {
            0..=33 => {
                for _ in 0..1 + self.prng.below(4) {
                    self.deliver_one();
                }
            }
            34..=42 => self.produce(self.some_leader(some)),
            43..=57 => {
                self.flush(self.busy(some, |node| node.disk.durable < node.disk.journal.len()));
            }
            58..=69 => self.fetch(self.busy(some, |node| matches!(node.role, Role::Follows(_)))),
            70..=74 => self.ask_lease(self.some_leader(some)),
            75..=82 => {
                let record = self.control.record;
                self.catch_up(self.busy(some, |node| node.view != record));
            }
            83..=89 => {
                let controller = self.prng.below(2) as usize;
                self.control_turn(controller);
            }
            90..=93 => self.lead_turn(self.some_leader(some)),
            94..=96 => self.disturb(some),
            97 => self.partition(),
            _ => self.restart_if_down(some),
        }
        // What waits for longer than others is lost: else everything would be late.
        while self.net.len() > IN_FLIGHT_MAX {
            let at = self.prng.below(IN_FLIGHT_MAX as u64) as usize;
            self.net.swap_remove(at);
        }
        self.judge();
    }

    /// The first node from `from` on that has something to do; else that one.
    fn busy(&self, from: usize, has_work: impl Fn(&Node) -> bool) -> usize {
        let count = self.nodes.len();
        (from..from + count)
            .map(|index| index % count)
            .find(|index| self.nodes[*index].is_up && has_work(&self.nodes[*index]))
            .unwrap_or(from)
    }

    fn some_leader(&self, from: usize) -> usize {
        self.busy(from, |node| matches!(node.role, Role::Leads(_)))
    }

    fn judge(&mut self) {
        for index in 0..self.nodes.len() {
            self.judge_exposure(index);
        }
    }

    fn deliver_one(&mut self) {
        if self.net.is_empty() {
            return;
        }
        let at = self.prng.below(self.net.len() as u64) as usize;
        let envelope = self.net.swap_remove(at);
        let (drops, repeats) = (self.settings.drops, self.settings.repeats);
        if !self.is_healing {
            if self.prng.chance(drops, 100) {
                return;
            }
            if self.prng.chance(repeats, 100) {
                self.net.push(envelope.clone());
            }
        }
        self.deliver(envelope);
    }

    fn deliver(&mut self, envelope: Envelope) {
        let Envelope {
            from,
            to,
            to_boot,
            message,
        } = envelope;
        if to >= CONTROLLERS {
            if let Message::Sealed(answer, controller) = message {
                self.control.heard(controller, answer);
            }
            return;
        }
        let is_apart = from < CONTROLLERS && self.sides[from] != self.sides[to];
        let is_cut_off = from >= CONTROLLERS && self.is_cut_off[to];
        if !self.nodes[to].is_up || self.nodes[to].boot != to_boot || is_apart || is_cut_off {
            return;
        }
        self.receive(from, to, message);
    }

    fn partition(&mut self) {
        let apart = self.prng.chance(2, 5);
        for side in 0..self.nodes.len() {
            self.sides[side] = if apart { self.prng.below(2) as u8 } else { 0 };
            let is_lossy = self.settings.damage == Damage::Lossy;
            self.is_cut_off[side] = (apart || is_lossy) && self.prng.chance(1, 3);
        }
    }

    fn restart_if_down(&mut self, index: usize) {
        if !self.nodes[index].is_up {
            self.restart(index);
        }
    }

    fn damaged(&self, set: &Configuration) -> usize {
        let is_damaged = |member: &&Member| {
            let disk = &self.nodes[index_of(member.node)].disk;
            disk.id != member.disk || !disk.marks.is_none()
        };
        set.members().iter().filter(is_damaged).count()
    }

    /// Whether a set with so many damaged copies keeps what the levels promise, and a majority with which the damaged
    /// ones can be replaced one by one.
    fn bears(set: &Configuration, damaged: usize) -> bool {
        let count = set.members().len();
        damaged < set.quorum() && (count == 2 || 2 * damaged < count)
    }

    fn is_sound(&self, set: &Configuration) -> bool {
        self.settings.damage == Damage::Power || Self::bears(set, self.damaged(set))
    }

    /// Whether one more copy may be damaged.
    fn may_damage(&self, index: usize) -> bool {
        let record = &self.control.record;
        let sets = [Some(record.configuration), record.next];
        sets.iter()
            .flatten()
            .all(|set| match set.index_of_node(node_id(index)) {
                Some(_) => Self::bears(set, self.damaged(set) + 1),
                None => true,
            })
    }

    /// A crash, with or without damage.
    fn disturb(&mut self, index: usize) {
        let leader = self.some_leader(index);
        if self.settings.damage == Damage::Lossy && self.is_cut_off[leader] {
            // Whom control does not hear it declares dead, alive or not.
            self.control.declare_dead(leader);
            return;
        }
        let crashes = self.settings.crashes;
        if !self.nodes[index].is_up || !self.prng.chance(crashes, 12) {
            return;
        }
        self.crash(index);
        let damage = self.settings.damage;
        match damage {
            Damage::None | Damage::Lossy => {}
            Damage::Power => {
                if self.prng.chance(2, 3) {
                    self.nodes[index].disk.mark_cut(0, &mut self.prng);
                }
            }
            Damage::Some => {
                if self.prng.chance(2, 3) && self.may_damage(index) {
                    self.damage(index);
                }
            }
        }
        if self.prng.chance(1, 2) {
            self.restart(index);
        }
    }

    fn damage(&mut self, index: usize) {
        match self.prng.below(8) {
            0 => self.nodes[index].disk.mark_cut(0, &mut self.prng),
            1..=3 => {
                let lost = 1 + self.prng.below(6) as usize;
                self.nodes[index].disk.mark_cut(lost, &mut self.prng);
            }
            4 | 5 => self.nodes[index].disk.make_unreadable(&mut self.prng),
            6 => {
                // A wiped disk, or an old image of one: another identity, with nothing or an old copy on it.
                let id = DiskId::new(self.fresh_id().into());
                let keep = self.prng.below(2) == 0;
                self.nodes[index]
                    .disk
                    .become_another(id, keep, &mut self.prng);
            }
            _ => {
                let id = DiskId::new(self.fresh_id().into());
                let node = &mut self.nodes[index];
                let spare = node.spare.take().unwrap_or_else(|| Disk::new(id));
                node.spare = Some(core::mem::replace(&mut node.disk, spare));
            }
        }
    }

    /// Everything is mended, and then has to get going: the slot is led, every member has the whole log, no mark is left,
    /// and everything that was ever committed can be read.
    fn heal(&mut self) {
        self.is_healing = true;
        self.sides = [0; NODES_MAX];
        self.is_cut_off = [false; NODES_MAX];
        for index in 0..self.nodes.len() {
            // A disk that was swapped is put back, if it still counts.
            let node = &self.nodes[index];
            let wants = |disk: &Disk| {
                self.control
                    .record
                    .configuration
                    .has_disk(node_id(index), disk.id)
            };
            let is_away = node.spare.as_ref().is_some_and(wants) && !wants(&node.disk);
            if is_away {
                if self.nodes[index].is_up {
                    self.crash(index);
                }
                let node = &mut self.nodes[index];
                let spare = node.spare.take().expect("it is away");
                node.spare = Some(core::mem::replace(&mut node.disk, spare));
            }
            let is_dead = self.nodes[index].boot != self.control.record.boots[index];
            if is_dead && self.nodes[index].is_up {
                self.crash(index);
            }
            self.restart_if_down(index);
        }
        for round in 0..400 {
            self.real_ns += 25_000_000;
            self.control.mend(round % 80 == 79);
            self.control_turn(0);
            for index in 0..self.nodes.len() {
                self.catch_up(index);
                self.flush(index);
                self.lead_turn(index);
                self.fetch(index);
                self.ask_lease(index);
            }
            for _ in 0..4000 {
                if self.net.is_empty() {
                    break;
                }
                self.deliver_one();
            }
            self.judge();
            if self.is_well() {
                return;
            }
        }
        panic!("the slot does not get going: {}", self.describe());
    }

    fn leader(&self) -> Option<usize> {
        let member = self.control.record.leader?;
        let index = index_of(member.node);
        let node = &self.nodes[index];
        let leads = match &node.role {
            Role::Leads(leader) => {
                leader.epoch() == self.control.record.epoch
                    && leader.serves(&node.copy, self.now(index))
            }
            Role::Idle | Role::Follows(_) => false,
        };
        leads.then_some(index)
    }

    fn is_well(&mut self) -> bool {
        let Some(leads) = self.leader() else {
            return false;
        };
        let record = self.control.record;
        let end = self.nodes[leads].copy.end();
        let has_all = record.configuration.members().iter().all(|member| {
            let node = &self.nodes[index_of(member.node)];
            node.disk.id == member.disk
                && node.copy.durable() == end
                && node.copy.committed() == end
                && node.copy.marks().is_none()
        });
        if record.next.is_none() && has_all {
            self.checker.readable(&self.nodes[leads].log);
            return true;
        }
        false
    }

    fn describe(&self) -> String {
        use core::fmt::Write as _;
        let mut text = format!("{:?}\nrecord {:?}\n", self.settings, self.control.record);
        for node in &self.nodes {
            let role = match &node.role {
                Role::Idle => "idle".to_owned(),
                Role::Follows(follower) => format!("{follower:?}"),
                Role::Leads(leader) => format!("{leader:?}"),
            };
            let copy = &node.copy;
            let _ = writeln!(
                text,
                "{:?} {:?} up {} disk {:?} {:?} durable {:?} committed {:?} promised {:?} {:?}\n  {role}",
                node.id,
                node.boot,
                node.is_up,
                node.disk.id,
                copy.held(),
                copy.durable(),
                copy.committed(),
                copy.promised(),
                copy.marks(),
            );
        }
        let _ = writeln!(text, "{:?}", self.control.controllers);
        text
    }
}

/// A whole run. Panics, with the reason, where a property does not hold.
fn run(seed: u64) -> Outcome {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
    }
    if !world.checker.is_lossy {
        world.heal();
    }
    Outcome {
        committed: world.checker.settled.len(),
        epochs: world.checker.led.len(),
        given: world.checker.given(),
        lossy: world.checker.is_lossy,
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Outcome {
    committed: usize,
    epochs: usize,
    given: usize,
    lossy: bool,
}

fn past(seq: SlotSeq) -> usize {
    usize::try_from(seq.get()).expect("a short log")
}
