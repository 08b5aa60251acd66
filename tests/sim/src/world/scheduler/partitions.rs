//! What lies between nodes: who they are to each other, the steps of their links, and the network between them, which can be
//! cut and mended node by node and direction by direction.

use tiderace_base::ids::NodeId;

use super::{Happening, World};
use crate::world::peers::{Hand, Output, PeerLinkId, Peers, Seen, Step};

impl World {
    /// Who a node is to others.
    #[must_use]
    pub fn node_id(&self, node: u16) -> NodeId {
        self.peers.node_id(node)
    }

    /// Says who a node is to others. At first the nodes are 1, 2, 3 and so on.
    pub fn set_node_id(&mut self, node: u16, id: NodeId) {
        self.peers.set_node_id(node, id);
    }

    /// Whether other nodes trust this one's certificate, in every handshake from now on. At first they do.
    pub fn set_trusted(&mut self, node: u16, trusted: bool) {
        self.peers.set_trusted(node, trusted);
    }

    /// Nothing comes from one node to the other any more, until [`World::mend`] or [`World::heal`].
    pub fn cut(&mut self, from: u16, to: u16) {
        self.trace
            .note("cut", (u64::from(from) << 16) | u64::from(to));
        self.with_peers(|peers, hand| peers.cut(from, to, hand));
    }

    /// What comes from one node to the other arrives again.
    pub fn mend(&mut self, from: u16, to: u16) {
        self.trace
            .note("mend", (u64::from(from) << 16) | u64::from(to));
        self.with_peers(|peers, hand| peers.mend(from, to, hand));
    }

    /// Cuts each of `some` off each of `others`, in both directions. Whoever is in neither reaches all: a bridge.
    pub fn part(&mut self, some: &[u16], others: &[u16]) {
        for (&one, &other) in some
            .iter()
            .flat_map(|one| others.iter().map(move |it| (one, it)))
        {
            self.cut(one, other);
            self.cut(other, one);
        }
    }

    /// Cuts the network between some nodes for a while: two of them, in both directions or in one, or one off all others.
    pub(super) fn cut_somewhere(&mut self) {
        let nodes = self.nodes.len() as u64;
        let node = self.prng.below(nodes) as u16;
        let other = ((u64::from(node) + self.prng.range(1, nodes)) % nodes) as u16;
        let pairs: Vec<(u16, u16)> = match self.prng.below(4) {
            0 => vec![(node, other)],
            1 | 2 => vec![(node, other), (other, node)],
            _ => {
                let others = self.nodes().filter(|it| *it != node);
                others.flat_map(|it| [(node, it), (it, node)]).collect()
            }
        };
        let within = 1 << self.prng.range(24, 34);
        let mended_after_ns = self.prng.range(1_000_000, within);
        for (from, to) in pairs {
            self.cut(from, to);
            self.push(mended_after_ns, Happening::Mend(from, to));
        }
    }

    pub(super) fn peer_link_step(&mut self, link: PeerLinkId, step: Step) {
        let machines = self.peers.machines(link);
        let [_, far] = machines;
        let node = &self.nodes[usize::from(far.node)];
        let seat = &node.seats[usize::from(far.machine)];
        let seen = Seen {
            serving: node.up && seat.serving_nodes,
            has_power: node.has_power,
            buffers: machines.map(|id| self.seat_of(id).buffers.clone()),
        };
        self.with_peers(|peers, hand| peers.step(link, step, &seen, hand));
    }

    /// Lets the links between nodes act, and does what they say.
    pub(super) fn with_peers(&mut self, act: impl FnOnce(&mut Peers, &mut Hand<'_>)) {
        let mut hand = Hand {
            now_ns: self.now_ns,
            faults: &mut self.faults,
            prng: &mut self.prng,
            out: &mut self.peer_outputs,
        };
        act(&mut self.peers, &mut hand);
        for output in std::mem::take(&mut self.peer_outputs) {
            match output {
                Output::Machine(id, event) => self.deliver(id, event),
                Output::Later(delay_ns, link, step) => {
                    self.push(delay_ns, Happening::PeerLink(link, step));
                }
            }
        }
    }
}
