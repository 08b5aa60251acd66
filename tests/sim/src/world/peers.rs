//! Simulated links between nodes: a machine connects to another node's peer door, and both ends are machines. Bytes keep
//! their order within a direction and nothing else is promised, as for clients; besides, the network between two nodes may
//! be cut, in both directions or in one: then what is sent waits, what is asked is not answered, and an end that goes tells
//! nobody. TLS is not played, its verdicts are: who is asked for and not there, and whose certificate is not trusted.
//!
//! Invariants: every connect is answered once, within the time that it has; a machine hears of a link only when its other
//! end is known; a machine that breaks its own side of the contract is stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use bytes::{Buf, Bytes};
use tiderace_base::ids::{ConnectionId, NodeId};
use tiderace_base::limits::CONNECT_NS_MAX;
use tiderace_base::operation::{ConnectError, Door, Event, OpId};
use tiderace_base::prng::Prng;

use crate::world::MachineId;
use crate::world::faults::{Fault, Faults};
use crate::world::pipe::{BUFFER_RETRY_NS, Pipe, ReceiveBuffers, SendInFlight, segment_bytes};

/// A link between two nodes, as the world knows it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct PeerLinkId(u32);

/// Above the names of every client's connection, so that a name says which network it is of.
const CONN_FIRST: u64 = 1 << 40;
/// A packet that got no answer is sent again after about so long.
const RESENT_AFTER_NS: u64 = 1_000_000_000;

/// An end of a link: the one that connected, or the one whose door it came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    Near,
    Far,
}

impl Side {
    const fn other(self) -> Self {
        match self {
            Self::Near => Self::Far,
            Self::Far => Self::Near,
        }
    }
}

/// What a link does next; scheduled by the world.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// The connect reaches the door.
    Knock,
    /// The handshake is done at the far end.
    Met,
    /// And at the near end.
    Confirmed,
    /// The connect's time is over.
    Over,
    /// Bytes of this end move towards the other.
    Flow(Side),
    /// A send's completion is reaped.
    Sent(Side),
    /// An end learns that the other is gone.
    Hangup(Side),
    /// A close completes.
    Closed(Side),
    /// The operating systems give up on a link that was silent since its trouble of this number began.
    GivenUp(u32),
}

/// What comes out.
#[derive(Debug)]
pub(crate) enum Output {
    Machine(MachineId, Event),
    Later(u64, PeerLinkId, Step),
}

/// What a step depends on, and where it leaves what comes out.
pub(crate) struct Hand<'a> {
    pub(crate) now_ns: u64,
    pub(crate) faults: &'a mut Faults,
    pub(crate) prng: &'a mut Prng,
    pub(crate) out: &'a mut Vec<Output>,
}

impl Hand<'_> {
    fn later(&mut self, from_ns: u64, to_ns: u64, id: PeerLinkId, step: Step) {
        let delay_ns = self.prng.range(from_ns, to_ns);
        self.out.push(Output::Later(delay_ns, id, step));
    }
}

/// What the world knows of a link's two machines.
pub(crate) struct Seen {
    /// The far machine lets nodes in.
    pub(crate) serving: bool,
    /// The far machine's host has power.
    pub(crate) has_power: bool,
    /// Of the near and the far machine.
    pub(crate) buffers: [ReceiveBuffers; 2],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// The machine does not know the link.
    Unknown,
    Open,
    Closing,
    Gone,
}

#[derive(Debug)]
struct End {
    machine: MachineId,
    conn: ConnectionId,
    state: State,
    /// The machine wants bytes.
    wanted: bool,
    hung_up: bool,
    send: Option<SendInFlight>,
    /// On the way to the other end.
    pipe: Pipe,
    /// Arrived, and the word of it did not come back: they still take room.
    unheard_bytes: usize,
    capacity_bytes: usize,
    dribbles: bool,
    starved: bool,
}

impl End {
    fn new(machine: MachineId, prng: &mut Prng) -> Self {
        Self {
            machine,
            conn: ConnectionId::new(0),
            state: State::Unknown,
            wanted: true,
            hung_up: false,
            send: None,
            pipe: Pipe::default(),
            unheard_bytes: 0,
            capacity_bytes: 1 << prng.range(12, 21),
            dribbles: false,
            starved: false,
        }
    }
}

#[derive(Debug)]
struct PeerLink {
    /// Near, far.
    ends: [End; 2],
    op: OpId,
    asked: NodeId,
    /// The connect was answered, or nobody waits for it any more.
    answered: bool,
    /// Both ends know, or will soon, that nothing more comes.
    broken: bool,
    /// Nothing arrives any more, and nobody is told.
    dark: bool,
    /// Troubles that ended: one that is given up on must still be the same.
    troubles: u32,
    quiet_until_ns: u64,
}

impl PeerLink {
    fn end(&mut self, side: Side) -> &mut End {
        &mut self.ends[side as usize]
    }

    fn nodes(&self, from: Side) -> (u16, u16) {
        let node = |side: Side| self.ends[side as usize].machine.node;
        (node(from), node(from.other()))
    }
}

#[derive(Debug)]
struct Certificate {
    names: NodeId,
    trusted: bool,
}

/// All links between the nodes of a run.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    links: Vec<PeerLink>,
    by_conn: BTreeMap<(MachineId, ConnectionId), (PeerLinkId, Side)>,
    conns: u64,
    machines: BTreeMap<SocketAddr, MachineId>,
    certificates: Vec<Certificate>,
    /// From where to where nothing comes.
    cut: BTreeSet<(u16, u16)>,
}

/// Where a machine's peer door is.
#[must_use]
pub fn door_of(machine: MachineId) -> SocketAddr {
    let [high, low] = machine.node.to_be_bytes();
    SocketAddr::from(([10, 0, high, low], 7100 + machine.machine))
}

impl Peers {
    /// A node with so many machines. Its id is that of no other.
    pub(crate) fn add_node(&mut self, machines: u16) {
        let node = u16::try_from(self.certificates.len()).expect("nodes are few");
        for machine in 0..machines {
            let id = MachineId { node, machine };
            self.machines.insert(door_of(id), id);
        }
        self.certificates.push(Certificate {
            names: NodeId::new(u64::from(node) + 1),
            trusted: true,
        });
    }

    pub(crate) fn node_id(&self, node: u16) -> NodeId {
        self.certificates[usize::from(node)].names
    }

    pub(crate) fn set_node_id(&mut self, node: u16, id: NodeId) {
        self.certificates[usize::from(node)].names = id;
    }

    /// Whether others trust the node's certificate, in handshakes from now on.
    pub(crate) fn set_trusted(&mut self, node: u16, trusted: bool) {
        self.certificates[usize::from(node)].trusted = trusted;
    }

    /// Whether the connection is a link between nodes.
    pub(crate) fn has(&self, conn: ConnectionId) -> bool {
        conn.get() > CONN_FIRST
    }

    /// The machines of a link, near and far.
    pub(crate) fn machines(&self, id: PeerLinkId) -> [MachineId; 2] {
        let ends = &self.links[id.0 as usize].ends;
        [ends[0].machine, ends[1].machine]
    }

    fn link(&mut self, id: PeerLinkId) -> &mut PeerLink {
        &mut self.links[id.0 as usize]
    }

    fn ids(&self) -> impl Iterator<Item = PeerLinkId> + use<> {
        (0..u32::try_from(self.links.len()).expect("links are few")).map(PeerLinkId)
    }

    fn is_cut(&self, (from, to): (u16, u16)) -> bool {
        self.cut.contains(&(from, to))
    }

    fn find(&self, machine: MachineId, conn: ConnectionId) -> (PeerLinkId, Side) {
        *self.by_conn.get(&(machine, conn)).unwrap_or_else(|| {
            panic!("contract: {machine:?} names {conn:?}, which it does not have")
        })
    }

    fn name(&mut self, id: PeerLinkId, side: Side) -> ConnectionId {
        self.conns += 1;
        let conn = ConnectionId::new(CONN_FIRST + self.conns);
        let end = self.link(id).end(side);
        end.conn = conn;
        end.state = State::Open;
        let machine = end.machine;
        self.by_conn.insert((machine, conn), (id, side));
        conn
    }

    // --- Partitions --------------------------------------------------------------------------------------------------

    /// Nothing comes from one node to the other any more.
    pub(crate) fn cut(&mut self, from: u16, to: u16, hand: &mut Hand<'_>) {
        if from == to || !self.cut.insert((from, to)) {
            return;
        }
        for id in self.between(from, to) {
            let troubles = self.link(id).troubles;
            hand.later(60_000_000_000, 130_000_000_000, id, Step::GivenUp(troubles));
        }
    }

    /// What comes from one node to the other arrives again, and so does what waited.
    pub(crate) fn mend(&mut self, from: u16, to: u16, hand: &mut Hand<'_>) {
        if !self.cut.remove(&(from, to)) {
            return;
        }
        for id in self.between(from, to) {
            self.link(id).troubles += 1;
            let link = &self.links[id.0 as usize];
            let mut sides = [Side::Near, Side::Far].into_iter();
            let answers = |side: Side| {
                let is_gone = link.ends[side as usize].state == State::Gone;
                is_gone && !self.is_cut(link.nodes(side))
            };
            if link.dark && sides.any(answers) {
                // What is sent again reaches a host that knows nothing of it.
                self.reset(id, hand);
                continue;
            }
            self.go_on(id, hand);
        }
    }

    /// Mends everything.
    pub(crate) fn mend_all(&mut self, hand: &mut Hand<'_>) {
        for (from, to) in self.cut.clone() {
            self.mend(from, to, hand);
        }
    }

    fn between(&self, from: u16, to: u16) -> Vec<PeerLinkId> {
        let is_between = |id: &PeerLinkId| {
            let link = &self.links[id.0 as usize];
            let nodes = link.nodes(Side::Near);
            !link.broken && (nodes == (from, to) || nodes == (to, from))
        };
        self.ids().filter(is_between).collect()
    }

    fn go_on(&mut self, id: PeerLinkId, hand: &mut Hand<'_>) {
        for side in [Side::Near, Side::Far] {
            let back = self.is_cut(self.links[id.0 as usize].nodes(side.other()));
            let link = self.link(id);
            if !back {
                link.end(side).unheard_bytes = 0;
            }
            pump(id, link, side, hand);
            if link.end(side).pipe.has_work() {
                schedule(id, link, side, hand);
            }
        }
    }

    // --- Connecting --------------------------------------------------------------------------------------------------

    /// `Effect::Connect`.
    pub(crate) fn connect(
        &mut self,
        machine: MachineId,
        op: OpId,
        to: SocketAddr,
        asked: NodeId,
        hand: &mut Hand<'_>,
    ) {
        let Some(far) = self.machines.get(&to).copied() else {
            let result = Err(ConnectError::Unreachable);
            let event = Event::Connected { op, result };
            return hand.out.push(Output::Machine(machine, event));
        };
        let id = PeerLinkId(u32::try_from(self.links.len()).expect("links are few"));
        let ends = [machine, far].map(|machine| End::new(machine, hand.prng));
        self.links.push(PeerLink {
            ends,
            op,
            asked,
            answered: false,
            broken: false,
            dark: false,
            troubles: 0,
            quiet_until_ns: 0,
        });
        hand.out.push(Output::Later(CONNECT_NS_MAX, id, Step::Over));
        if hand.faults.fires(Fault::ConnectLost, hand.prng) {
            return;
        }
        if hand.faults.fires(Fault::ConnectSlow, hand.prng) {
            return hand.later(100_000_000, 6_000_000_000, id, Step::Knock);
        }
        hand.later(10_000, 500_000, id, Step::Knock);
    }

    fn answer(
        &mut self,
        id: PeerLinkId,
        result: Result<ConnectionId, ConnectError>,
        hand: &mut Hand<'_>,
    ) {
        let link = self.link(id);
        if link.answered {
            return;
        }
        link.answered = true;
        let op = link.op;
        if result.is_err() {
            link.end(Side::Near).state = State::Gone;
        }
        let event = Event::Connected { op, result };
        let machine = link.end(Side::Near).machine;
        hand.out.push(Output::Machine(machine, event));
    }

    fn knock(&mut self, id: PeerLinkId, seen: &Seen, hand: &mut Hand<'_>) {
        let link = &self.links[id.0 as usize];
        if link.answered {
            return;
        }
        let (near, far) = link.nodes(Side::Near);
        let is_lost = self.is_cut((near, far)) || self.is_cut((far, near)) || !seen.has_power;
        if is_lost {
            // Sent again, until the time is over.
            return hand.later(
                RESENT_AFTER_NS * 9 / 10,
                RESENT_AFTER_NS * 2,
                id,
                Step::Knock,
            );
        }
        let [shown, asks] = [far, near].map(|node| &self.certificates[usize::from(node)]);
        let refused = if !seen.serving || hand.faults.fires(Fault::ConnectRefused, hand.prng) {
            Some(ConnectError::Refused)
        } else if !shown.trusted {
            Some(ConnectError::NotTrusted)
        } else if shown.names != link.asked {
            Some(ConnectError::WrongNode)
        } else if !asks.trusted {
            Some(ConnectError::Rejected)
        } else {
            None
        };
        if let Some(error) = refused {
            return self.answer(id, Err(error), hand);
        }
        if hand.faults.fires(Fault::AcceptWaits, hand.prng) {
            return hand.later(1_000_000, 300_000_000, id, Step::Knock);
        }
        hand.later(100_000, 5_000_000, id, Step::Met);
    }

    fn met(&mut self, id: PeerLinkId, seen: &Seen, hand: &mut Hand<'_>) {
        let link = &self.links[id.0 as usize];
        if link.answered {
            return;
        }
        if self.is_cut(link.nodes(Side::Near)) {
            return hand.later(RESENT_AFTER_NS / 5, RESENT_AFTER_NS, id, Step::Met);
        }
        if link.dark {
            // The far host is gone with all that it knew.
            return;
        }
        if link.broken || !seen.serving {
            return self.answer(id, Err(ConnectError::Refused), hand);
        }
        let (near, _) = link.nodes(Side::Near);
        let far = link.ends[1].machine;
        let node = self.node_id(near);
        let conn = self.name(id, Side::Far);
        let dribbles = hand.faults.fires(Fault::Dribble, hand.prng);
        self.link(id).end(Side::Far).dribbles = dribbles;
        let port = 40_000 + u16::try_from(id.0 % 20_000).expect("below 20000");
        let [high, low] = near.to_be_bytes();
        hand.out.push(Output::Machine(
            far,
            Event::Accepted {
                conn,
                peer: SocketAddr::from(([10, 0, high, low], port)),
                from: Door::Peer(node),
            },
        ));
        hand.later(50_000, 2_000_000, id, Step::Confirmed);
    }

    fn confirmed(&mut self, id: PeerLinkId, hand: &mut Hand<'_>) {
        let link = &self.links[id.0 as usize];
        if link.answered {
            return;
        }
        if self.is_cut(link.nodes(Side::Far)) {
            return hand.later(RESENT_AFTER_NS / 5, RESENT_AFTER_NS, id, Step::Confirmed);
        }
        if link.dark {
            return;
        }
        if link.broken {
            return self.answer(id, Err(ConnectError::Refused), hand);
        }
        let conn = self.name(id, Side::Near);
        self.link(id).end(Side::Near).dribbles = hand.faults.fires(Fault::Dribble, hand.prng);
        self.answer(id, Ok(conn), hand);
        self.go_on(id, hand);
    }

    fn over(&mut self, id: PeerLinkId, hand: &mut Hand<'_>) {
        if self.link(id).answered {
            return;
        }
        self.answer(id, Err(ConnectError::TimedOut), hand);
        self.gone(id, Side::Near, hand);
    }

    // --- Ends that go ------------------------------------------------------------------------------------------------

    /// An end is there no more, and what it had not read is lost: the other learns it, if word of it comes through.
    fn gone(&mut self, id: PeerLinkId, side: Side, hand: &mut Hand<'_>) {
        let link = &self.links[id.0 as usize];
        if !link.dark && !self.is_cut(link.nodes(side)) {
            return self.reset(id, hand);
        }
        let link = self.link(id);
        link.dark = true;
        link.end(side).pipe.clear();
        let troubles = link.troubles;
        hand.later(200_000_000, 60_000_000_000, id, Step::GivenUp(troubles));
    }

    /// Both ends learn, each in its own time, that the link is gone, and what was on its way with it.
    fn reset(&mut self, id: PeerLinkId, hand: &mut Hand<'_>) {
        let link = self.link(id);
        if link.broken {
            return;
        }
        link.broken = true;
        for side in [Side::Near, Side::Far] {
            link.end(side).pipe.clear();
            if link.end(side).state == State::Open {
                end_send(id, link, side, false, hand);
                if !link.end(side).hung_up {
                    hand.later(1_000, 1_000_000, id, Step::Hangup(side));
                }
            }
        }
    }

    /// A node's process is gone, and every link of its machines.
    pub(crate) fn node_died(&mut self, node: u16, power: bool, hand: &mut Hand<'_>) {
        for id in self.ids() {
            for side in [Side::Near, Side::Far] {
                let link = self.link(id);
                let was_connecting = !link.answered;
                let end = link.end(side);
                if end.machine.node != node || end.state == State::Gone {
                    continue;
                }
                end.state = State::Gone;
                end.send = None;
                let unread = link.end(side.other()).pipe.queued_bytes > 0;
                if side == Side::Near {
                    link.answered = true;
                } else if was_connecting && !power {
                    // Its kernel says so when it is asked again.
                    link.broken = true;
                }
                if link.broken {
                    continue;
                }
                if power {
                    link.end(side).pipe.clear();
                    link.dark = true;
                    let troubles = link.troubles;
                    hand.later(200_000_000, 10_000_000_000, id, Step::GivenUp(troubles));
                } else if unread || hand.prng.chance(1, 2) {
                    self.gone(id, side, hand);
                } else {
                    // The kernel outlives the process and delivers what it took.
                    link.end(side).pipe.ended = true;
                    schedule(id, link, side, hand);
                }
            }
        }
        self.by_conn.retain(|(machine, _), _| machine.node != node);
    }

    // --- Effects -----------------------------------------------------------------------------------------------------

    /// `Effect::Send`.
    pub(crate) fn send(
        &mut self,
        machine: MachineId,
        conn: ConnectionId,
        op: OpId,
        parts: Vec<Bytes>,
        hand: &mut Hand<'_>,
    ) {
        let (id, side) = self.find(machine, conn);
        let link = self.link(id);
        let end = link.end(side);
        assert_eq!(
            end.state,
            State::Open,
            "contract: {machine:?} sends on {conn:?} after closing it"
        );
        assert!(
            !end.pipe.ended,
            "contract: {machine:?} sends on {conn:?} after its end"
        );
        assert!(
            end.send.is_none(),
            "contract: {machine:?} has two sends in flight on {conn:?}"
        );
        end.send = Some(SendInFlight {
            op,
            parts: parts.into_iter().filter(|part| !part.is_empty()).collect(),
            sent_bytes: 0,
            ended: None,
        });
        pump(id, link, side, hand);
    }

    /// `Effect::CancelSend`.
    pub(crate) fn cancel_send(
        &mut self,
        machine: MachineId,
        conn: ConnectionId,
        hand: &mut Hand<'_>,
    ) {
        let (id, side) = self.find(machine, conn);
        let link = self.link(id);
        let alive = !link.broken;
        end_send(id, link, side, alive, hand);
    }

    /// `Effect::Receive`.
    pub(crate) fn receive(
        &mut self,
        machine: MachineId,
        conn: ConnectionId,
        wanted: bool,
        hand: &mut Hand<'_>,
    ) {
        let (id, side) = self.find(machine, conn);
        let link = self.link(id);
        link.end(side).wanted = wanted;
        if wanted && link.end(side.other()).pipe.has_work() {
            schedule(id, link, side.other(), hand);
        }
    }

    /// `Effect::Finish`.
    pub(crate) fn finish(&mut self, machine: MachineId, conn: ConnectionId, hand: &mut Hand<'_>) {
        let (id, side) = self.find(machine, conn);
        let link = self.link(id);
        let end = link.end(side);
        assert!(
            end.state == State::Open && end.send.is_none() && !end.pipe.ended,
            "contract: {machine:?} ends its side of {conn:?} when it is closed, finished or still sending"
        );
        end.pipe.ended = true;
        schedule(id, link, side, hand);
    }

    /// `Effect::Close`.
    pub(crate) fn close(&mut self, machine: MachineId, conn: ConnectionId, hand: &mut Hand<'_>) {
        let (id, side) = self.find(machine, conn);
        let link = self.link(id);
        assert_eq!(
            link.end(side).state,
            State::Open,
            "contract: {machine:?} closes {conn:?} twice"
        );
        link.end(side).state = State::Closing;
        end_send(id, link, side, false, hand);
        if hand.prng.chance(3, 4) {
            link.end(side).wanted = false;
        }
        hand.later(1_000, 50_000, id, Step::Closed(side));
    }

    // --- Steps -------------------------------------------------------------------------------------------------------

    /// A link's scheduled step.
    pub(crate) fn step(&mut self, id: PeerLinkId, step: Step, seen: &Seen, hand: &mut Hand<'_>) {
        match step {
            Step::Knock => self.knock(id, seen, hand),
            Step::Met => self.met(id, seen, hand),
            Step::Confirmed => self.confirmed(id, hand),
            Step::Over => self.over(id, hand),
            Step::Flow(side) => self.flow(id, side, seen, hand),
            Step::Sent(side) => {
                let end = self.link(id).end(side);
                let (machine, conn) = (end.machine, end.conn);
                if let Some(send) = end.send.take_if(|send| send.ended.is_some()) {
                    let event = Event::Sent {
                        op: send.op,
                        conn,
                        sent_bytes: send.sent_bytes,
                        alive: send.ended == Some(true),
                    };
                    hand.out.push(Output::Machine(machine, event));
                }
            }
            Step::Hangup(side) => self.hang_up(id, side, hand),
            Step::Closed(side) => self.closed(id, side, hand),
            Step::GivenUp(troubles) => {
                let link = &self.links[id.0 as usize];
                let [there, back] = [Side::Near, Side::Far].map(|side| link.nodes(side));
                let is_cut = self.is_cut(there) || self.is_cut(back);
                if link.dark || (link.troubles == troubles && is_cut) {
                    self.reset(id, hand);
                }
            }
        }
    }

    fn hang_up(&mut self, id: PeerLinkId, side: Side, hand: &mut Hand<'_>) {
        let end = self.link(id).end(side);
        if end.state == State::Open && !end.hung_up {
            end.hung_up = true;
            let event = Event::Hangup { conn: end.conn };
            hand.out.push(Output::Machine(end.machine, event));
        }
    }

    fn closed(&mut self, id: PeerLinkId, side: Side, hand: &mut Hand<'_>) {
        let link = self.link(id);
        if link.end(side).state != State::Closing {
            return;
        }
        if link.end(side).send.is_some() {
            return hand.later(1_000, 50_000, id, Step::Closed(side));
        }
        link.end(side).state = State::Gone;
        let (machine, conn) = (link.end(side).machine, link.end(side).conn);
        let is_other_gone = link.end(side.other()).state == State::Gone;
        let unread = link.end(side.other()).pipe.queued_bytes > 0;
        if unread || is_other_gone {
            // A kernel that throws away what nobody read says so, and what it had still to send is gone.
            self.gone(id, side, hand);
        } else if !link.broken {
            link.end(side).pipe.ended = true;
            schedule(id, link, side, hand);
        }
        self.by_conn.remove(&(machine, conn));
        hand.out
            .push(Output::Machine(machine, Event::Closed { conn }));
    }

    fn flow(&mut self, id: PeerLinkId, side: Side, seen: &Seen, hand: &mut Hand<'_>) {
        let [there, back] = [side, side.other()].map(|side| {
            let link = &self.links[id.0 as usize];
            self.is_cut(link.nodes(side))
        });
        let link = self.link(id);
        link.end(side).pipe.flowing = false;
        if link.broken || link.dark || there {
            return;
        }
        if link.quiet_until_ns <= hand.now_ns && hand.faults.fires(Fault::NetworkStall, hand.prng) {
            link.quiet_until_ns = hand.now_ns + hand.prng.range(1_000_000, 3_000_000_000);
        }
        if link.quiet_until_ns > hand.now_ns {
            let wait_ns = link.quiet_until_ns - hand.now_ns;
            link.end(side).pipe.flowing = true;
            return hand.out.push(Output::Later(wait_ns, id, Step::Flow(side)));
        }
        let to = link.end(side.other());
        match to.state {
            // It goes on when the other end is told of the link.
            State::Unknown => return,
            State::Gone => {
                if link.end(side).pipe.queued_bytes > 0 {
                    // Nobody is there to read it: the answer is a reset.
                    self.gone(id, side.other(), hand);
                }
                return;
            }
            State::Open | State::Closing if to.hung_up || !to.wanted => return,
            State::Open | State::Closing => {}
        }
        let (machine, conn, is_open) = (to.machine, to.conn, to.state == State::Open);
        if link.end(side).pipe.queued_bytes == 0 {
            let pipe = &mut link.end(side).pipe;
            if pipe.ended && !pipe.told && is_open {
                pipe.told = true;
                self.hang_up(id, side.other(), hand);
            }
            return;
        }
        let buffers = &seen.buffers[side.other() as usize];
        if buffers.exhausted() {
            if !link.end(side.other()).starved {
                hand.faults.note(Fault::BuffersHeld);
            }
            link.end(side.other()).starved = true;
            link.end(side).pipe.flowing = true;
            let step = Step::Flow(side);
            return hand.out.push(Output::Later(BUFFER_RETRY_NS, id, step));
        }
        link.end(side.other()).starved = false;
        let end = link.end(side);
        let limit = segment_bytes(end.dribbles, end.pipe.queued_bytes, hand.prng);
        let bytes = end.pipe.take(limit);
        end.unheard_bytes = if back {
            end.unheard_bytes + bytes.len()
        } else {
            0
        };
        let data = buffers.lend(bytes);
        let event = Event::Received { conn, data };
        hand.out.push(Output::Machine(machine, event));
        pump(id, link, side, hand);
        if link.end(side).pipe.has_work() {
            schedule(id, link, side, hand);
        }
        if hand.faults.fires(Fault::Reset, hand.prng) {
            self.reset(id, hand);
        } else if hand.faults.fires(Fault::HalfOpen, hand.prng) {
            // Something between them forgets the link.
            let link = self.link(id);
            link.dark = true;
            let troubles = link.troubles;
            hand.later(200_000_000, 10_000_000_000, id, Step::GivenUp(troubles));
        }
    }
}

fn schedule(id: PeerLinkId, link: &mut PeerLink, side: Side, hand: &mut Hand<'_>) {
    let pipe = &mut link.end(side).pipe;
    if !pipe.flowing {
        pipe.flowing = true;
        if hand.prng.chance(1, 16) {
            hand.later(100_000, 2_000_000, id, Step::Flow(side));
        } else {
            hand.later(2_000, 60_000, id, Step::Flow(side));
        }
    }
}

/// Moves bytes of the send in flight into the socket buffer, as far as there is room.
fn pump(id: PeerLinkId, link: &mut PeerLink, side: Side, hand: &mut Hand<'_>) {
    let is_broken = link.broken;
    let end = link.end(side);
    let Some(send) = &mut end.send else {
        return;
    };
    if send.ended.is_some() {
        return;
    }
    if is_broken {
        return end_send(id, link, side, false, hand);
    }
    while let Some(part) = send.parts.front_mut() {
        let taken_bytes = end.pipe.queued_bytes + end.unheard_bytes;
        let room = end.capacity_bytes.saturating_sub(taken_bytes);
        let count = part.len().min(room);
        if count == 0 {
            break;
        }
        // The kernel's own copy: the machine's buffer is its own again when the send completes.
        end.pipe.push(Bytes::copy_from_slice(&part[..count]));
        part.advance(count);
        send.sent_bytes += count as u64;
        if part.is_empty() {
            send.parts.pop_front();
        }
    }
    let is_complete = send.parts.is_empty();
    if end.pipe.has_work() {
        schedule(id, link, side, hand);
    }
    if is_complete {
        end_send(id, link, side, true, hand);
    }
}

/// The send in flight, if there is one, completes with what it has achieved.
fn end_send(id: PeerLinkId, link: &mut PeerLink, side: Side, alive: bool, hand: &mut Hand<'_>) {
    if let Some(send) = &mut link.end(side).send
        && send.ended.is_none()
    {
        send.ended = Some(alive);
        send.parts.clear();
        hand.later(1_000, 40_000, id, Step::Sent(side));
    }
}
