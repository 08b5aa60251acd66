//! Simulated connections between actors (the clients) and a node's machines. Bytes stay in order within a direction and
//! nothing else is promised: they arrive in pieces of any size at any time, a socket buffer takes only so much, either
//! end may vanish, and a reset throws away what was on its way. Keeps the driver's side of the contract of the network
//! effects to the letter and stops a machine that breaks its own side.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::{Buf, Bytes};
use tiderace_base::ids::ConnectionId;
use tiderace_base::operation::{Door, Event, OpId};
use tiderace_base::prng::Prng;

use crate::world::faults::{Fault, Faults};
pub use crate::world::pipe::ReceiveBuffers;
use crate::world::pipe::{BUFFER_RETRY_NS, Pipe, SendInFlight, segment_bytes};
use crate::world::{ActorEvent, ActorId, LinkId, MachineId};

/// What a link does next; scheduled by the world.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The connection is made or refused.
    Accept,
    /// Bytes move towards the node.
    FlowToNode,
    /// Bytes move towards the client.
    FlowToClient,
    /// A send's completion is reaped.
    Sent,
    /// The node learns that the other end is gone.
    Hangup,
    /// A close completes.
    Closed,
    /// The client learns that the connection is gone.
    TellClient,
    /// The operating system gives up on a peer that answers nothing.
    KeepaliveOver,
}

/// What comes out of the network.
#[derive(Debug)]
pub enum Output {
    /// For a machine.
    Machine(MachineId, Event),
    /// For an actor.
    Actor(ActorId, ActorEvent),
    /// For the queue.
    Later(u64, LinkId, Step),
}

/// The node's end of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum NodeEnd {
    Connecting,
    Open,
    Closing,
    Gone,
}

#[derive(Debug)]
struct Link {
    machine: MachineId,
    actor: ActorId,
    conn: ConnectionId,
    node_end: NodeEnd,
    /// The machine wants bytes.
    wanted: bool,
    hung_up: bool,
    send: Option<SendInFlight>,
    to_node: Pipe,
    to_client: Pipe,
    /// The node's socket buffer towards the client.
    capacity_bytes: usize,
    client_open: bool,
    client_reads: bool,
    /// Whether the node can still reach the client.
    broken: bool,
    dribbles: bool,
    /// Waits for a receive buffer.
    starved: bool,
    quiet_until_ns: u64,
}

/// All links of a run.
#[derive(Debug, Default)]
pub struct Network {
    links: Vec<Link>,
    by_conn: BTreeMap<(MachineId, ConnectionId), LinkId>,
    conns: BTreeMap<MachineId, u64>,
}

impl Network {
    fn link(&mut self, id: LinkId) -> &mut Link {
        &mut self.links[id.0 as usize]
    }

    fn find(&self, machine: MachineId, conn: ConnectionId) -> LinkId {
        *self.by_conn.get(&(machine, conn)).unwrap_or_else(|| {
            panic!("contract: {machine:?} names {conn:?}, which it does not have")
        })
    }

    /// The machine at a link's other end.
    #[must_use]
    pub fn machine(&self, id: LinkId) -> MachineId {
        self.links[id.0 as usize].machine
    }

    /// An actor connects to a machine. Answered by `Connected` or `Closed`.
    pub fn connect(
        &mut self,
        actor: ActorId,
        machine: MachineId,
        prng: &mut Prng,
        out: &mut Vec<Output>,
    ) -> LinkId {
        let id = LinkId(u32::try_from(self.links.len()).expect("links are few"));
        self.links.push(Link {
            machine,
            actor,
            conn: ConnectionId::new(0),
            node_end: NodeEnd::Connecting,
            wanted: true,
            hung_up: false,
            send: None,
            to_node: Pipe::default(),
            to_client: Pipe::default(),
            capacity_bytes: 1 << prng.range(12, 21),
            client_open: true,
            client_reads: true,
            broken: false,
            dribbles: false,
            starved: false,
            quiet_until_ns: 0,
        });
        out.push(Output::Later(prng.range(10_000, 500_000), id, Step::Accept));
        id
    }

    /// The client's kernel takes bytes for the node.
    pub fn client_sends(
        &mut self,
        id: LinkId,
        bytes: Bytes,
        prng: &mut Prng,
        out: &mut Vec<Output>,
    ) {
        let link = self.link(id);
        if !link.client_open || link.broken || link.to_node.ended || bytes.is_empty() {
            return;
        }
        if link.node_end == NodeEnd::Gone {
            // Nobody is there to read it: the answer is a reset, before what is on its way the other way.
            return self.reset(id, prng, out);
        }
        link.to_node.push(bytes);
        schedule(id, &mut link.to_node, Step::FlowToNode, prng, out);
    }

    /// The client will send no more, but still reads.
    pub fn client_ends(&mut self, id: LinkId, prng: &mut Prng, out: &mut Vec<Output>) {
        let link = self.link(id);
        link.to_node.ended = true;
        schedule(id, &mut link.to_node, Step::FlowToNode, prng, out);
    }

    /// Whether the client takes bytes out of its socket.
    pub fn client_reads(
        &mut self,
        id: LinkId,
        reads: bool,
        prng: &mut Prng,
        out: &mut Vec<Output>,
    ) {
        let link = self.link(id);
        link.client_reads = reads;
        if reads && link.to_client.has_work() {
            schedule(id, &mut link.to_client, Step::FlowToClient, prng, out);
        }
    }

    /// The client closes. `politely`: what it sent still arrives; otherwise the node sees a reset.
    pub fn client_closes(
        &mut self,
        id: LinkId,
        politely: bool,
        prng: &mut Prng,
        out: &mut Vec<Output>,
    ) {
        let link = self.link(id);
        link.client_open = false;
        link.client_reads = true;
        link.to_client.clear();
        if politely && !link.broken {
            link.to_node.ended = true;
            schedule(id, &mut link.to_node, Step::FlowToNode, prng, out);
            // What the node sends from now on is answered by a reset.
            return;
        }
        self.reset(id, prng, out);
    }

    /// The client's host vanishes: nobody is told, for a while.
    pub fn client_vanishes(&mut self, id: LinkId, prng: &mut Prng, out: &mut Vec<Output>) {
        let link = self.link(id);
        link.client_open = false;
        link.client_reads = false;
        link.to_node.clear();
        out.push(Output::Later(
            prng.range(200_000_000, 10_000_000_000),
            id,
            Step::KeepaliveOver,
        ));
    }

    /// Both ends learn, each in its own time, that the connection is gone, and what was on its way with it.
    pub fn reset(&mut self, id: LinkId, prng: &mut Prng, out: &mut Vec<Output>) {
        let link = self.link(id);
        if link.broken {
            return;
        }
        link.broken = true;
        link.to_node.clear();
        link.to_client.clear();
        match link.node_end {
            NodeEnd::Open => {
                end_send(id, link, false, prng, out);
                if !link.hung_up {
                    out.push(Output::Later(
                        prng.range(1_000, 1_000_000),
                        id,
                        Step::Hangup,
                    ));
                }
            }
            NodeEnd::Connecting | NodeEnd::Closing | NodeEnd::Gone => {}
        }
        if link.client_open {
            out.push(Output::Later(
                prng.range(1_000, 1_000_000),
                id,
                Step::TellClient,
            ));
        }
    }

    /// A node's process is gone, and every connection of its machines.
    pub fn node_died(&mut self, node: u16, power: bool, prng: &mut Prng, out: &mut Vec<Output>) {
        for (index, link) in self.links.iter_mut().enumerate() {
            if link.machine.node != node || link.node_end == NodeEnd::Gone {
                continue;
            }
            let id = LinkId(u32::try_from(index).expect("links are few"));
            let connecting = link.node_end == NodeEnd::Connecting;
            link.node_end = NodeEnd::Gone;
            link.send = None;
            link.to_node.clear();
            if connecting || !link.client_open {
                continue;
            }
            if power || link.broken || prng.chance(1, 2) {
                link.broken = true;
                link.to_client.clear();
                // A dead machine answers nothing: the client finds out by its own timeout.
                let within = if power { 300_000_000 } else { 1_000_000 };
                out.push(Output::Later(
                    prng.range(1_000, within),
                    id,
                    Step::TellClient,
                ));
            } else {
                // The kernel outlives the process and delivers what it took.
                link.to_client.ended = true;
                schedule(id, &mut link.to_client, Step::FlowToClient, prng, out);
            }
        }
        self.by_conn.retain(|(machine, _), _| machine.node != node);
        self.conns.retain(|machine, _| machine.node != node);
    }

    /// `Effect::Send`.
    ///
    /// # Panics
    /// When the machine breaks the effect's contract, as with every effect here.
    pub fn send(
        &mut self,
        machine: MachineId,
        conn: ConnectionId,
        op: OpId,
        parts: Vec<Bytes>,
        prng: &mut Prng,
        out: &mut Vec<Output>,
    ) {
        let id = self.find(machine, conn);
        let link = self.link(id);
        assert_eq!(
            link.node_end,
            NodeEnd::Open,
            "contract: {machine:?} sends on {conn:?} after closing it"
        );
        assert!(
            !link.to_client.ended,
            "contract: {machine:?} sends on {conn:?} after its end"
        );
        assert!(
            link.send.is_none(),
            "contract: {machine:?} has two sends in flight on {conn:?}"
        );
        link.send = Some(SendInFlight {
            op,
            parts: parts.into_iter().filter(|part| !part.is_empty()).collect(),
            sent_bytes: 0,
            ended: None,
        });
        pump(id, link, prng, out);
    }

    /// `Effect::CancelSend`.
    pub fn cancel_send(
        &mut self,
        machine: MachineId,
        conn: ConnectionId,
        prng: &mut Prng,
        out: &mut Vec<Output>,
    ) {
        let id = self.find(machine, conn);
        let link = self.link(id);
        let alive = !link.broken;
        end_send(id, link, alive, prng, out);
    }

    /// `Effect::Receive`.
    pub fn receive(
        &mut self,
        machine: MachineId,
        conn: ConnectionId,
        wanted: bool,
        prng: &mut Prng,
        out: &mut Vec<Output>,
    ) {
        let id = self.find(machine, conn);
        let link = self.link(id);
        link.wanted = wanted;
        if wanted && link.to_node.has_work() {
            schedule(id, &mut link.to_node, Step::FlowToNode, prng, out);
        }
    }

    /// `Effect::Finish`.
    pub fn finish(
        &mut self,
        machine: MachineId,
        conn: ConnectionId,
        prng: &mut Prng,
        out: &mut Vec<Output>,
    ) {
        let id = self.find(machine, conn);
        let link = self.link(id);
        assert!(
            link.node_end == NodeEnd::Open && link.send.is_none() && !link.to_client.ended,
            "contract: {machine:?} ends its side of {conn:?} when it is closed, finished or still sending"
        );
        link.to_client.ended = true;
        if link.client_open && !link.broken {
            schedule(id, &mut link.to_client, Step::FlowToClient, prng, out);
        }
    }

    /// `Effect::Close`.
    pub fn close(
        &mut self,
        machine: MachineId,
        conn: ConnectionId,
        prng: &mut Prng,
        out: &mut Vec<Output>,
    ) {
        let id = self.find(machine, conn);
        let link = self.link(id);
        assert_eq!(
            link.node_end,
            NodeEnd::Open,
            "contract: {machine:?} closes {conn:?} twice"
        );
        link.node_end = NodeEnd::Closing;
        end_send(id, link, false, prng, out);
        if prng.chance(3, 4) {
            link.wanted = false;
        }
        out.push(Output::Later(prng.range(1_000, 50_000), id, Step::Closed));
    }

    /// A link's scheduled step. `serving`: whether its machine accepts connections now.
    #[expect(
        clippy::too_many_arguments,
        reason = "everything that one step of a link depends on"
    )]
    pub fn step(
        &mut self,
        now_ns: u64,
        id: LinkId,
        step: Step,
        serving: bool,
        buffers: &ReceiveBuffers,
        faults: &mut Faults,
        prng: &mut Prng,
        out: &mut Vec<Output>,
    ) {
        match step {
            Step::Accept => self.accept(id, serving, faults, prng, out),
            Step::FlowToNode => self.flow_to_node(now_ns, id, buffers, faults, prng, out),
            Step::FlowToClient => self.flow_to_client(now_ns, id, faults, prng, out),
            Step::Sent => {
                let link = self.link(id);
                if let Some(send) = link.send.take_if(|send| send.ended.is_some()) {
                    out.push(Output::Machine(
                        link.machine,
                        Event::Sent {
                            op: send.op,
                            conn: link.conn,
                            sent_bytes: send.sent_bytes,
                            alive: send.ended == Some(true),
                        },
                    ));
                }
            }
            Step::Hangup => {
                let link = self.link(id);
                if link.node_end == NodeEnd::Open && !link.hung_up {
                    link.hung_up = true;
                    out.push(Output::Machine(
                        link.machine,
                        Event::Hangup { conn: link.conn },
                    ));
                }
            }
            Step::Closed => {
                let link = self.link(id);
                if link.node_end != NodeEnd::Closing {
                    return;
                }
                if link.send.is_some() {
                    out.push(Output::Later(prng.range(1_000, 50_000), id, Step::Closed));
                    return;
                }
                link.node_end = NodeEnd::Gone;
                let unread = link.to_node.queued_bytes > 0;
                link.to_node.clear();
                let (machine, conn) = (link.machine, link.conn);
                if unread {
                    // A kernel that throws away what nobody read says so, and what it had still to send is gone.
                    self.reset(id, prng, out);
                } else if !link.broken {
                    link.to_client.ended = true;
                    if link.client_open {
                        schedule(id, &mut link.to_client, Step::FlowToClient, prng, out);
                    }
                }
                self.by_conn.remove(&(machine, conn));
                out.push(Output::Machine(machine, Event::Closed { conn }));
            }
            Step::TellClient => {
                let link = self.link(id);
                if link.client_open {
                    link.client_open = false;
                    out.push(Output::Actor(link.actor, ActorEvent::Closed(id)));
                }
            }
            Step::KeepaliveOver => self.reset(id, prng, out),
        }
    }

    fn accept(
        &mut self,
        id: LinkId,
        serving: bool,
        faults: &mut Faults,
        prng: &mut Prng,
        out: &mut Vec<Output>,
    ) {
        let link = self.link(id);
        if link.node_end != NodeEnd::Connecting || !link.client_open || !serving {
            link.node_end = NodeEnd::Gone;
            if link.client_open {
                link.client_open = false;
                out.push(Output::Actor(link.actor, ActorEvent::Closed(id)));
            }
            return;
        }
        if faults.fires(Fault::AcceptWaits, prng) {
            let wait_ns = prng.range(1_000_000, 300_000_000);
            return out.push(Output::Later(wait_ns, id, Step::Accept));
        }
        link.node_end = NodeEnd::Open;
        link.dribbles = faults.fires(Fault::Dribble, prng);
        let machine = link.machine;
        let actor = link.actor;
        let next = self.conns.entry(machine).or_insert(0);
        *next += 1;
        let conn = ConnectionId::new(*next);
        self.link(id).conn = conn;
        self.by_conn.insert((machine, conn), id);
        let port = 40_000 + u16::try_from(id.0 % 20_000).expect("below 20000");
        out.push(Output::Machine(
            machine,
            Event::Accepted {
                conn,
                peer: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port),
                from: Door::Client,
            },
        ));
        out.push(Output::Actor(actor, ActorEvent::Connected(id)));
    }

    fn flow_to_node(
        &mut self,
        now_ns: u64,
        id: LinkId,
        buffers: &ReceiveBuffers,
        faults: &mut Faults,
        prng: &mut Prng,
        out: &mut Vec<Output>,
    ) {
        let link = self.link(id);
        link.to_node.flowing = false;
        let receives = matches!(link.node_end, NodeEnd::Open | NodeEnd::Closing) && !link.hung_up;
        if link.broken || !receives || !link.wanted {
            return;
        }
        if let Some(wait) = link.delayed(now_ns, faults, prng) {
            link.to_node.flowing = true;
            out.push(Output::Later(wait, id, Step::FlowToNode));
            return;
        }
        if link.to_node.queued_bytes == 0 {
            if link.to_node.ended && !link.to_node.told && link.node_end == NodeEnd::Open {
                link.to_node.told = true;
                link.hung_up = true;
                out.push(Output::Machine(
                    link.machine,
                    Event::Hangup { conn: link.conn },
                ));
            }
            return;
        }
        if buffers.exhausted() {
            if !link.starved {
                faults.note(Fault::BuffersHeld);
            }
            link.starved = true;
            link.to_node.flowing = true;
            out.push(Output::Later(BUFFER_RETRY_NS, id, Step::FlowToNode));
            return;
        }
        link.starved = false;
        let limit = segment_bytes(link.dribbles, link.to_node.queued_bytes, prng);
        let data = buffers.lend(link.to_node.take(limit));
        out.push(Output::Machine(
            link.machine,
            Event::Received {
                conn: link.conn,
                data,
            },
        ));
        if link.to_node.has_work() {
            schedule(id, &mut link.to_node, Step::FlowToNode, prng, out);
        }
        self.maybe_break(id, faults, prng, out);
    }

    fn flow_to_client(
        &mut self,
        now_ns: u64,
        id: LinkId,
        faults: &mut Faults,
        prng: &mut Prng,
        out: &mut Vec<Output>,
    ) {
        let link = self.link(id);
        link.to_client.flowing = false;
        if link.broken {
            return;
        }
        if !link.client_open {
            // Polite close, and the node goes on sending: the answer is a reset.
            if link.client_reads {
                self.reset(id, prng, out);
            }
            return;
        }
        if !link.client_reads {
            return;
        }
        if let Some(wait) = link.delayed(now_ns, faults, prng) {
            link.to_client.flowing = true;
            out.push(Output::Later(wait, id, Step::FlowToClient));
            return;
        }
        if link.to_client.queued_bytes > 0 {
            let limit = segment_bytes(link.dribbles, link.to_client.queued_bytes, prng);
            let data = Bytes::from(link.to_client.take(limit));
            out.push(Output::Actor(link.actor, ActorEvent::Received(id, data)));
            pump(id, link, prng, out);
        } else if link.to_client.ended && !link.to_client.told {
            link.to_client.told = true;
            link.client_open = false;
            out.push(Output::Actor(link.actor, ActorEvent::Ended(id)));
            // An end answers an end.
            link.to_node.ended = true;
            if link.node_end == NodeEnd::Open {
                schedule(id, &mut link.to_node, Step::FlowToNode, prng, out);
            }
            return;
        }
        let link = self.link(id);
        if link.to_client.has_work() {
            schedule(id, &mut link.to_client, Step::FlowToClient, prng, out);
        }
        self.maybe_break(id, faults, prng, out);
    }

    fn maybe_break(
        &mut self,
        id: LinkId,
        faults: &mut Faults,
        prng: &mut Prng,
        out: &mut Vec<Output>,
    ) {
        if !self.link(id).client_open || self.link(id).broken {
            return;
        }
        if faults.fires(Fault::Reset, prng) {
            self.reset(id, prng, out);
        } else if faults.fires(Fault::HalfOpen, prng) {
            let actor = self.link(id).actor;
            self.client_vanishes(id, prng, out);
            out.push(Output::Actor(actor, ActorEvent::Closed(id)));
        }
    }
}

impl Link {
    /// How long the link carries nothing, if it does now.
    fn delayed(&mut self, now_ns: u64, faults: &mut Faults, prng: &mut Prng) -> Option<u64> {
        if self.quiet_until_ns <= now_ns && faults.fires(Fault::NetworkStall, prng) {
            self.quiet_until_ns = now_ns + prng.range(1_000_000, 3_000_000_000);
        }
        (self.quiet_until_ns > now_ns).then(|| self.quiet_until_ns - now_ns)
    }
}

fn schedule(id: LinkId, pipe: &mut Pipe, step: Step, prng: &mut Prng, out: &mut Vec<Output>) {
    if !pipe.flowing {
        pipe.flowing = true;
        let delay_ns = if prng.chance(1, 16) {
            prng.range(100_000, 2_000_000)
        } else {
            prng.range(2_000, 60_000)
        };
        out.push(Output::Later(delay_ns, id, step));
    }
}

/// Moves bytes of the send in flight into the socket buffer, as far as there is room.
fn pump(id: LinkId, link: &mut Link, prng: &mut Prng, out: &mut Vec<Output>) {
    let Some(send) = &mut link.send else {
        return;
    };
    if send.ended.is_some() {
        return;
    }
    if link.broken {
        end_send(id, link, false, prng, out);
        return;
    }
    while let Some(part) = send.parts.front_mut() {
        let room = link
            .capacity_bytes
            .saturating_sub(link.to_client.queued_bytes);
        let count = part.len().min(room);
        if count == 0 {
            break;
        }
        // The kernel's own copy: the machine's buffer is its own again when the send completes.
        link.to_client.push(Bytes::copy_from_slice(&part[..count]));
        part.advance(count);
        send.sent_bytes += count as u64;
        if part.is_empty() {
            send.parts.pop_front();
        }
    }
    let complete = send.parts.is_empty();
    if link.to_client.has_work() {
        schedule(id, &mut link.to_client, Step::FlowToClient, prng, out);
    }
    if complete {
        end_send(id, link, true, prng, out);
    }
}

/// The send in flight, if there is one, completes with what it has achieved.
fn end_send(id: LinkId, link: &mut Link, alive: bool, prng: &mut Prng, out: &mut Vec<Output>) {
    if let Some(send) = &mut link.send
        && send.ended.is_none()
    {
        send.ended = Some(alive);
        send.parts.clear();
        out.push(Output::Later(prng.range(1_000, 40_000), id, Step::Sent));
    }
}

#[cfg(test)]
mod tests;
