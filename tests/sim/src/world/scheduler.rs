//! The scheduler: one queue of happenings, ordered by world time and, within a nanosecond, by chance. It runs machines
//! turn by turn, as their driver would (some of the ready events, then `finish_turn`), executes their effects on the
//! simulated disk, network, mesh and clock, and lets nodes die at any point: between happenings, and between any two
//! effects of a turn. Invariant: everything that is drawn is drawn from the seed.

mod alarm;
mod execution;
mod lifecycle;
mod partitions;

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};
use std::ops::Range;

use tiderace_base::disk::JournalFile;
use tiderace_base::mesh::Peer;
use tiderace_base::operation::{Event, Machine, OpId};
use tiderace_base::prng::Prng;

use alarm::Alarm;

use crate::history::format::Writer;
use crate::history::{Judge, Observation};
use crate::world::clock::Clock;
use crate::world::disk::{Ending, Power, SimDisk};
use crate::world::faults::{Fault, Faults};
use crate::world::mesh::Mesh;
use crate::world::network::{self, Network, ReceiveBuffers};
use crate::world::peers::{self, PeerLinkId, Peers};
use crate::world::trace::{Lines, Trace};
use crate::world::{
    Actor, ActorEvent, ActorId, Counted, LinkId, MachineId, Port, Program, Request,
};

/// The most happenings of one run: a machine that keeps itself busy for nothing is stopped here.
const HAPPENINGS_MAX: u64 = 20_000_000;
/// An orderly stop that takes longer than this is ended by a kill, as a supervisor would.
const STOP_WITHIN_NS: u64 = 20_000_000_000;

/// How a world is made.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Decides everything.
    pub seed: u64,
    /// What goes wrong.
    pub faults: Faults,
    /// What becomes of the trace's lines.
    pub lines: Lines,
    /// Messages at which a mesh says it is full.
    pub mesh_limit: usize,
    /// Receive buffers of each machine's driver.
    pub receive_buffers: usize,
}

/// How a node's process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Death {
    Power,
    Kill,
    Exit,
}

#[derive(Debug)]
enum Happening {
    Turn(MachineId, u32),
    Disk(MachineId, u32, OpId, Ending),
    Timer(MachineId, u32),
    Mesh(MachineId, MachineId, u32),
    Link(LinkId, network::Step),
    PeerLink(PeerLinkId, peers::Step),
    Actor(ActorId),
    Start(u16),
    StopOverdue(u16, u32),
    DiskFree(u16),
    Mend(u16, u16),
    Disturb,
}

struct Entry {
    at_ns: u64,
    tie: u32,
    serial: u64,
    happening: Happening,
}

impl Entry {
    fn key(&self) -> (u64, u32, u64) {
        (self.at_ns, self.tie, self.serial)
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

struct Seat {
    peer: Peer,
    machine: Option<Box<dyn Machine>>,
    disk: SimDisk,
    buffers: ReceiveBuffers,
    inbox: VecDeque<Event>,
    turn_scheduled: bool,
    alarm: Alarm,
    serving: bool,
    serving_nodes: bool,
    stopped: bool,
    stalled_until_ns: u64,
    /// The last reads that went wrong, where the next ones do not.
    reads_gone_wrong: VecDeque<(JournalFile, Range<u64>)>,
}

struct Node {
    program: Box<dyn Program>,
    seats: Vec<Seat>,
    power: Power,
    clock: Clock,
    up: bool,
    /// Its host answers, even if the process does not run.
    has_power: bool,
    incarnation: u32,
    /// The node dies after this many more effects.
    doom: Option<(u32, Death)>,
    /// An operation failed under it, so that it may say `Fatal`.
    has_cause: bool,
    /// Tombstones in the snapshot that its control published last.
    tombstones: usize,
}

/// A client, its own numbers and its alarm. Taken out while it acts.
struct Client {
    actor: Option<Box<dyn Actor>>,
    prng: Prng,
    alarm: Alarm,
}

/// What a run did, for the summary.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Times that a node's process ended without being asked to.
    pub crashes: u64,
    /// Times that a node started again.
    pub restarts: u64,
    /// Happenings.
    pub happenings: u64,
    /// Events that machines took.
    pub events: u64,
    /// Effects that machines had.
    pub effects: u64,
    /// Disk writes that completed well.
    pub writes: u64,
}

/// A world: nodes, clients, and all that lies between.
pub struct World {
    now_ns: u64,
    serial: u64,
    queue: BinaryHeap<Reverse<Entry>>,
    prng: Prng,
    nodes: Vec<Node>,
    machines: Vec<u16>,
    actors: Vec<Client>,
    network: Network,
    peers: Peers,
    mesh: Mesh,
    /// What goes wrong.
    pub faults: Faults,
    /// What happened.
    pub trace: Trace,
    /// What may not happen.
    pub judge: Judge,
    recorder: Option<Writer<Vec<u8>>>,
    receive_buffers: usize,
    healed: bool,
    counts: Counts,
    outputs: Vec<network::Output>,
    peer_outputs: Vec<peers::Output>,
}

impl World {
    /// An empty world, judged by `judge`.
    #[must_use]
    pub fn new(setup: Setup, judge: Judge) -> Self {
        let mut world = Self {
            now_ns: 0,
            serial: 0,
            queue: BinaryHeap::new(),
            prng: Prng::new(setup.seed),
            nodes: Vec::new(),
            machines: Vec::new(),
            actors: Vec::new(),
            network: Network::default(),
            peers: Peers::default(),
            mesh: Mesh::new(setup.mesh_limit),
            faults: setup.faults,
            trace: Trace::new(setup.lines),
            judge,
            recorder: None,
            receive_buffers: setup.receive_buffers,
            healed: false,
            counts: Counts::default(),
            outputs: Vec::new(),
            peer_outputs: Vec::new(),
        };
        world.push(200_000_000, Happening::Disturb);
        world
    }

    /// Adds a node with empty disks; it starts at once.
    pub fn add_node(&mut self, program: Box<dyn Program>) -> u16 {
        let index = u16::try_from(self.nodes.len()).expect("nodes are few");
        let power = Power::default();
        let seats: Vec<Seat> = program
            .machines()
            .into_iter()
            .map(|peer| Seat {
                peer,
                machine: None,
                disk: SimDisk::new(self.prng.next_u64(), &power),
                buffers: ReceiveBuffers::new(self.receive_buffers),
                inbox: VecDeque::new(),
                turn_scheduled: false,
                alarm: Alarm::default(),
                serving: false,
                serving_nodes: false,
                stopped: false,
                stalled_until_ns: 0,
                reads_gone_wrong: VecDeque::new(),
            })
            .collect();
        let machines = u16::try_from(seats.len()).expect("machines are few");
        self.machines.push(machines);
        self.peers.add_node(machines);
        self.nodes.push(Node {
            program,
            seats,
            power,
            clock: Clock::new(),
            up: false,
            has_power: true,
            incarnation: 0,
            doom: None,
            has_cause: false,
            tombstones: 0,
        });
        self.push(0, Happening::Start(index));
        index
    }

    /// The disk of a machine, to put files there before it starts.
    ///
    /// # Panics
    /// When there is no such machine.
    #[must_use]
    pub fn disk(&self, id: MachineId) -> SimDisk {
        let seats = &self.nodes[usize::from(id.node)].seats;
        seats[usize::from(id.machine)].disk.clone()
    }

    /// Adds a client; it is woken once.
    pub fn add_actor(&mut self, actor: Box<dyn Actor>) -> ActorId {
        let id = ActorId(u16::try_from(self.actors.len()).expect("actors are few"));
        let prng = Prng::new(self.prng.next_u64());
        self.actors.push(Client {
            actor: Some(actor),
            prng,
            alarm: Alarm::default(),
        });
        self.wake_actor_at(id, self.now_ns);
        id
    }

    /// World time in nanoseconds.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// What the run did so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let disks = self.nodes.iter().flat_map(|node| &node.seats);
        Counts {
            events: self.trace.events(),
            effects: self.trace.effects(),
            writes: disks.map(|seat| seat.disk.counts().writes).sum(),
            ..self.counts
        }
    }

    /// Ends the safety phase: no more faults, room on every disk, and every client works towards its goal.
    pub fn heal(&mut self) {
        self.faults.stop();
        self.healed = true;
        self.observe(&Observation::Healed);
        self.with_peers(Peers::mend_all);
        for node in 0..self.nodes.len() {
            self.nodes[node].doom = None;
            self.free_disks(node);
        }
        for index in 0..self.actors.len() {
            let id = ActorId(u16::try_from(index).expect("actors are few"));
            self.with_actor(id, |actor, port| actor.heal(port));
        }
    }

    /// Whoever writes has finished: every client that reads is given the end as its goal.
    pub fn conclude(&mut self) {
        for index in 0..self.actors.len() {
            let id = ActorId(u16::try_from(index).expect("actors are few"));
            self.with_actor(id, |actor, port| actor.conclude(port));
        }
    }

    /// A node's disks, in the order of its machines.
    #[must_use]
    pub fn disks(&self, node: u16) -> Vec<SimDisk> {
        let seats = self.nodes[usize::from(node)].seats.iter();
        seats.map(|seat| seat.disk.clone()).collect()
    }

    /// Cuts a node's power now.
    pub fn cut_power(&mut self, node: u16) {
        self.die(node, Death::Power);
    }

    /// Asks a node for an orderly stop; it starts again afterwards.
    pub fn ask_to_stop(&mut self, node: u16) {
        if !self.nodes[usize::from(node)].up {
            return;
        }
        self.observe(&Observation::StopAsked {
            node,
            at_ns: self.now_ns,
        });
        // As the program does: control stops behind the shards.
        for machine in 0..self.machines[usize::from(node)] {
            let id = MachineId { node, machine };
            if self.seat(id).peer != Peer::Control {
                self.deliver(id, Event::Stop);
            }
        }
        let incarnation = self.nodes[usize::from(node)].incarnation;
        self.push(STOP_WITHIN_NS, Happening::StopOverdue(node, incarnation));
    }

    /// Every node.
    #[must_use]
    pub fn nodes(&self) -> Range<u16> {
        0..u16::try_from(self.nodes.len()).expect("nodes are few")
    }

    /// How often the node's process ended so far.
    #[must_use]
    pub fn incarnation(&self, node: u16) -> u32 {
        self.nodes[usize::from(node)].incarnation
    }

    /// Whether the node's process runs.
    #[must_use]
    pub fn is_up(&self, node: u16) -> bool {
        self.nodes[usize::from(node)].up
    }

    /// Whether a client has not reached its goal, or a node not dropped what was deleted.
    #[must_use]
    pub fn somebody_waits(&self) -> bool {
        let mut actors = self
            .actors
            .iter()
            .filter_map(|client| client.actor.as_ref());
        actors.any(|actor| actor.waits()) || self.nodes.iter().any(|node| node.tombstones > 0)
    }

    /// What the clients and the nodes wait for; empty when all have reached their goals.
    #[must_use]
    pub fn waiting(&self) -> Vec<String> {
        let actors = self.actors.iter().enumerate();
        let waiting = actors.filter_map(|(index, client)| {
            let actor = client.actor.as_ref().filter(|actor| actor.waits())?;
            Some(format!("actor{index}: {}", actor.waits_for()))
        });
        let nodes = self.nodes.iter().enumerate();
        let nodes = nodes.filter(|(_, node)| node.tombstones > 0);
        let tombstones = nodes.map(|(index, node)| {
            format!("node{index}: {} tombstones to be cleared", node.tombstones)
        });
        waiting.chain(tombstones).collect()
    }

    /// Asks every node that runs what it holds of streams that its catalogue does not know.
    pub fn look_for_strangers(&mut self) {
        for node in self.nodes() {
            if self.nodes[usize::from(node)].up {
                let partitions = self.nodes[usize::from(node)].program.strangers();
                self.observe(&Observation::Strangers { node, partitions });
            }
        }
    }

    /// Asks every node that runs what its parts hold of its memory.
    pub fn look_at_memory(&mut self) {
        for node in self.nodes() {
            if self.nodes[usize::from(node)].up {
                for share in self.nodes[usize::from(node)].program.memory() {
                    self.observe(&Observation::MemoryHeld {
                        node,
                        shard: share.shard,
                        part: share.part.into(),
                        held: share.held,
                        budget: share.budget,
                    });
                }
            }
        }
    }

    /// What the nodes count about themselves, over all their starts.
    #[must_use]
    pub fn counted(&self) -> Counted {
        let mut counted = Counted::new();
        for node in &self.nodes {
            for (name, count) in node.program.counted() {
                *counted.entry(name).or_default() += count;
            }
        }
        counted
    }

    /// Lets things happen until `until_ns`, until `done` says so, or until a property is broken. Whether `done` said so.
    pub fn run(&mut self, until_ns: u64, mut done: impl FnMut(&Self) -> bool) -> bool {
        let mut countdown = 0_u32;
        while !self.judge.is_broken() {
            if countdown == 0 {
                if done(self) {
                    return true;
                }
                countdown = 64;
            }
            countdown -= 1;
            match self.queue.peek() {
                Some(Reverse(entry)) if entry.at_ns <= until_ns => {}
                Some(_) | None => {
                    self.now_ns = self.now_ns.max(until_ns);
                    return done(self);
                }
            }
            let Some(Reverse(entry)) = self.queue.pop() else {
                break;
            };
            self.now_ns = entry.at_ns;
            self.trace.at(self.now_ns);
            self.counts.happenings += 1;
            if self.counts.happenings > HAPPENINGS_MAX {
                self.judge.refuse(
                    "nothing_spins",
                    format!("{HAPPENINGS_MAX} happenings, and still not done"),
                    self.now_ns,
                );
                break;
            }
            self.happen(entry.happening);
        }
        false
    }

    fn push(&mut self, delay_ns: u64, happening: Happening) {
        self.push_at(self.now_ns.saturating_add(delay_ns), happening);
    }

    fn push_at(&mut self, at_ns: u64, happening: Happening) {
        self.serial += 1;
        self.queue.push(Reverse(Entry {
            at_ns: at_ns.max(self.now_ns),
            tie: (self.prng.next_u64() >> 32) as u32,
            serial: self.serial,
            happening,
        }));
    }

    /// Tells the history.
    pub fn observe(&mut self, observation: &Observation) {
        self.trace.say(|| format!("{observation:?}"));
        self.judge.observe(self.now_ns, observation);
        if let Some(recorder) = &mut self.recorder {
            let written = recorder.write(self.now_ns, observation);
            written.expect("memory takes everything");
        }
    }

    /// Writes the history from now on. `by` says whose it is.
    pub fn record(&mut self, by: &str) {
        let writer = Writer::begin(Vec::new(), by);
        self.recorder = Some(writer.expect("memory takes everything"));
    }

    /// The history that was written, as a file has it; empty when none was.
    pub fn take_history(&mut self) -> Vec<u8> {
        self.recorder
            .take()
            .map_or_else(Vec::new, Writer::into_inner)
    }

    fn node(&mut self, node: u16) -> &mut Node {
        &mut self.nodes[usize::from(node)]
    }

    fn seat(&mut self, id: MachineId) -> &mut Seat {
        &mut self.nodes[usize::from(id.node)].seats[usize::from(id.machine)]
    }

    fn seat_of(&self, id: MachineId) -> &Seat {
        &self.nodes[usize::from(id.node)].seats[usize::from(id.machine)]
    }

    /// Whether this is still the run of the process that scheduled the happening.
    fn lives(&self, node: u16, incarnation: u32) -> bool {
        let node = &self.nodes[usize::from(node)];
        node.up && node.incarnation == incarnation
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Turn(id, incarnation) => {
                if self.lives(id.node, incarnation) {
                    self.turn(id);
                }
            }
            Happening::Disk(id, incarnation, op, ending) => {
                if self.lives(id.node, incarnation)
                    && let Some(event) = self.seat(id).disk.complete(op, ending)
                {
                    self.deliver(id, event);
                }
            }
            Happening::Timer(id, incarnation) => {
                if self.lives(id.node, incarnation) {
                    let now_ns = self.now_ns;
                    let (rings, again) = self.seat(id).alarm.look(now_ns);
                    if let Some(at_ns) = again {
                        self.push_at(at_ns, Happening::Timer(id, incarnation));
                    }
                    if rings {
                        self.deliver(id, Event::Timer);
                    }
                }
            }
            Happening::Mesh(from, to, incarnation) => {
                if self.lives(from.node, incarnation) {
                    self.carry(from, to, incarnation);
                }
            }
            Happening::Link(link, step) => self.link_step(link, step),
            Happening::Actor(id) => {
                let (rings, again) = self.actors[usize::from(id.0)].alarm.look(self.now_ns);
                if let Some(at_ns) = again {
                    self.push_at(at_ns, Happening::Actor(id));
                }
                if rings {
                    self.tell_actor(id, ActorEvent::Wake);
                }
            }
            Happening::Start(node) => self.start(node),
            Happening::StopOverdue(node, incarnation) => {
                if self.lives(node, incarnation) {
                    if self.healed {
                        self.judge.refuse(
                            "no_cycle_of_waiting",
                            format!(
                                "node {node} was asked to stop {STOP_WITHIN_NS} ns ago and has not"
                            ),
                            self.now_ns,
                        );
                    }
                    self.die(node, Death::Kill);
                }
            }
            Happening::PeerLink(link, step) => self.peer_link_step(link, step),
            Happening::Mend(from, to) => self.mend(from, to),
            Happening::DiskFree(node) => self.free_disks(usize::from(node)),
            Happening::Disturb => self.disturb(),
        }
    }

    fn link_step(&mut self, link: LinkId, step: network::Step) {
        let machine = self.network.machine(link);
        let seat = &self.nodes[usize::from(machine.node)].seats[usize::from(machine.machine)];
        let serving = seat.serving && self.nodes[usize::from(machine.node)].up;
        let buffers = seat.buffers.clone();
        self.network.step(
            self.now_ns,
            link,
            step,
            serving,
            &buffers,
            &mut self.faults,
            &mut self.prng,
            &mut self.outputs,
        );
        self.carry_out();
    }

    /// Does what the network said.
    fn carry_out(&mut self) {
        for output in std::mem::take(&mut self.outputs) {
            match output {
                network::Output::Machine(id, event) => self.deliver(id, event),
                network::Output::Actor(id, event) => self.tell_actor(id, event),
                network::Output::Later(delay_ns, link, step) => {
                    self.push(delay_ns, Happening::Link(link, step));
                }
            }
        }
    }

    fn tell_actor(&mut self, id: ActorId, event: ActorEvent) {
        self.trace.actor(id, &event);
        self.with_actor(id, |actor, port| actor.step(event, port));
    }

    fn with_actor(&mut self, id: ActorId, act: impl FnOnce(&mut dyn Actor, &mut Port<'_>)) {
        let wall_us = Clock::new().read(self.now_ns).wall.as_us();
        let mut requests = Vec::new();
        let client = &mut self.actors[usize::from(id.0)];
        let Some(mut actor) = client.actor.take() else {
            return;
        };
        let mut port = Port {
            now_ns: self.now_ns,
            wall_us,
            prng: &mut client.prng,
            healed: self.healed,
            machines: &self.machines,
            requests: &mut requests,
        };
        act(actor.as_mut(), &mut port);
        client.actor = Some(actor);
        for request in requests {
            let (prng, out) = (&mut self.prng, &mut self.outputs);
            match request {
                Request::Connect(machine) => {
                    self.network.connect(id, machine, prng, out);
                }
                Request::Send(link, bytes) => self.network.client_sends(link, bytes, prng, out),
                Request::End(link) => self.network.client_ends(link, prng, out),
                Request::Reads(link, reads) => {
                    if !reads && self.faults.active() {
                        self.faults.note(Fault::SlowConsumer);
                    }
                    self.network.client_reads(link, reads, prng, out);
                }
                Request::Close(link, politely) => {
                    self.network.client_closes(link, politely, prng, out);
                }
                Request::WakeAt(at_ns) => self.wake_actor_at(id, at_ns),
                Request::Observe(observation) => self.observe(&observation),
            }
        }
        self.carry_out();
    }

    fn wake_actor_at(&mut self, id: ActorId, at_ns: u64) {
        if let Some(at_ns) = self.actors[usize::from(id.0)].alarm.set(at_ns) {
            self.push_at(at_ns, Happening::Actor(id));
        }
    }
}
