//! The simulated world: disks, network, clocks and the scheduler that executes a machine's effects on them and gives it
//! its events, in one thread and under one seed. A machine cannot tell it from the ring driver, except that here
//! everything that may go wrong does. Knows no protocol: clients are actors that the workload provides.
//!
//! To plug in a program: implement [`Program`] (its machines and how they are booted from their disks), add it with
//! [`World::add_node`], add [`Actor`]s, and run.

pub mod clock;
pub mod disk;
pub mod faults;
mod mesh;
pub mod network;
mod peers;
mod pipe;
pub mod scheduler;
pub mod trace;

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use tiderace_base::mesh::Peer;
use tiderace_base::operation::Machine;
use tiderace_base::prng::Prng;
use tiderace_base::time::Now;

use crate::history::Observation;
use disk::SimDisk;
pub use peers::door_of;
pub use scheduler::{Setup, World};

/// A machine of a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct MachineId {
    /// Which node, from zero.
    pub node: u16,
    /// Which of its machines, in the order of [`Program::machines`].
    pub machine: u16,
}

impl fmt::Display for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}m{}", self.node, self.machine)
    }
}

/// A connection, as the world and its client know it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LinkId(pub u32);

/// A client.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ActorId(pub u16);

/// Why a program did not start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BootError {
    /// The disk lost power in the middle: start again.
    PowerLost,
    /// The program refuses what it found, and says why. Without damage at rest it has no reason to.
    Refused(String),
}

/// Counters by name.
pub type Counted = BTreeMap<&'static str, u64>;

/// A part of a program and its share of the memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    /// Which shard's.
    pub shard: u16,
    /// Which part; the name ends in its unit.
    pub part: &'static str,
    /// How much it holds.
    pub held: u64,
    /// The most that it may hold.
    pub budget: u64,
}

/// What runs on a node: one machine per thread, each with a disk of its own.
pub trait Program {
    /// The threads of the node, the same at every start. Connections go to any of them that serves.
    fn machines(&self) -> Vec<Peer>;

    /// Starts from what the disks hold (the first time: nothing). `disks` are in the order of the machines.
    ///
    /// # Errors
    /// When a disk lost power, or its content is refused.
    fn boot(
        &mut self,
        disks: &[SimDisk],
        now: Now,
        seed: u64,
    ) -> Result<Vec<Box<dyn Machine>>, BootError>;

    /// Whether the node leads any partition.
    fn holds_data(&self) -> bool {
        true
    }

    /// Partitions that the running machines hold and whose stream the catalogue does not know: not even as deleted.
    fn strangers(&self) -> u64 {
        0
    }

    /// What the parts of the running machines hold of the memory that they were given.
    fn memory(&self) -> Vec<Share> {
        Vec::new()
    }

    /// What the program counts about itself, over all its starts.
    fn counted(&self) -> Counted {
        Counted::new()
    }
}

/// What happens to a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ActorEvent {
    /// The time asked for has come. Also its first event.
    Wake,
    /// The connection asked for is there.
    Connected(LinkId),
    /// Bytes, in order.
    Received(LinkId, Bytes),
    /// The other end sends no more: everything that it sent was received, and the connection is over.
    Ended(LinkId),
    /// The connection was refused or is gone; nothing about it follows.
    Closed(LinkId),
}

/// A client: deterministic, like a machine, but on the other side of the network.
pub trait Actor {
    /// Takes one event.
    fn step(&mut self, event: ActorEvent, port: &mut Port<'_>);

    /// Whether it has not reached its goal yet.
    fn waits(&self) -> bool;

    /// What it waits for, and where it stands; asked when it has waited for too long.
    fn waits_for(&self) -> String;

    /// Faults have ended: from now on the actor works towards its goal and stops making trouble.
    fn heal(&mut self, port: &mut Port<'_>);

    /// Whoever writes has finished: what there is now, the actor has to reach, if it reads.
    fn conclude(&mut self, _port: &mut Port<'_>) {}
}

/// What a client asks of the world.
#[derive(Debug)]
pub(crate) enum Request {
    Connect(MachineId),
    Send(LinkId, Bytes),
    End(LinkId),
    Reads(LinkId, bool),
    Close(LinkId, bool),
    WakeAt(u64),
    Observe(Observation),
}

/// A client's hands: what it does here happens after its step.
#[derive(Debug)]
pub struct Port<'a> {
    /// World time in nanoseconds.
    pub now_ns: u64,
    /// Microseconds of a wall clock that is right.
    pub wall_us: u64,
    /// The client's own numbers.
    pub prng: &'a mut Prng,
    /// The run is in its last part: no more faults.
    pub healed: bool,
    /// Machines of each node, so that a client can name one.
    pub machines: &'a [u16],
    pub(crate) requests: &'a mut Vec<Request>,
}

impl Port<'_> {
    /// Connects; answered by `Connected` or `Closed`, whose link is new.
    pub fn connect(&mut self, machine: MachineId) {
        self.requests.push(Request::Connect(machine));
    }

    /// Sends bytes.
    pub fn send(&mut self, link: LinkId, bytes: Bytes) {
        self.requests.push(Request::Send(link, bytes));
    }

    /// Sends no more, but goes on reading.
    pub fn end(&mut self, link: LinkId) {
        self.requests.push(Request::End(link));
    }

    /// Stops or resumes reading.
    pub fn reads(&mut self, link: LinkId, reads: bool) {
        self.requests.push(Request::Reads(link, reads));
    }

    /// Closes politely: what was sent still arrives. No event about the link follows.
    pub fn close(&mut self, link: LinkId) {
        self.requests.push(Request::Close(link, true));
    }

    /// Closes with a reset. No event about the link follows.
    pub fn abort(&mut self, link: LinkId) {
        self.requests.push(Request::Close(link, false));
    }

    /// Asks for a `Wake` this much later; replaces the one asked for before.
    pub fn wake_in(&mut self, ns: u64) {
        self.requests.push(Request::WakeAt(self.now_ns + ns));
    }

    /// Tells the history.
    pub fn observe(&mut self, observation: Observation) {
        self.requests.push(Request::Observe(observation));
    }
}
