//! Links to the control threads of the zone's other nodes: who is connected to, which letters wait for which link, and what came
//! in. Both ends of a connection send; a node may have two with another (one that each of them made), and says what it has to
//! say on the one whose hello came last. What does not fit, or has no link, is dropped: letters may be lost.
//!
//! Invariants: nothing but a hello counts on a connection before the other end's hello, which has to name the node that its
//! certificate named; a hello of an older run than was heard before is not heard; a connection on which nothing came for
//! [`SILENT_NS_MAX`] is given up, since a network that is whole again may take minutes to say so on a connection that saw it
//! broken.

use crate::encoding::DecodeError;
use crate::letter::{Hello, Letter};
use bytes::{Buf, Bytes, BytesMut};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use tiderace_base::ids::{ConnectionId, MessageId, NodeId};
use tiderace_base::limits::{LINK_HEADER_BYTES, MIB};
use tiderace_base::operation::{ConnectError, Effect, Effects, OpId, OpIds};
use tiderace_base::prng::Prng;
use tiderace_base::time::Mono;
use tiderace_wire::link::{Flags, Kind, LinkHeader};

/// Something is said on every link this often.
const SAYS_EVERY_NS: u64 = 400_000_000;
/// A link on which nothing came for so long is given up.
const SILENT_NS_MAX: u64 = 1_500_000_000;
/// Between two tries to connect: at first, and at most.
const AGAIN_NS_MIN: u64 = 20_000_000;
const AGAIN_NS_MAX: u64 = 1_000_000_000;
/// Who has the greater id lets the other one connect first.
const GREATER_WAITS_NS: u64 = 100_000_000;
/// Bytes that may wait for a link: beyond them letters are dropped.
const WAITING_BYTES_MAX: usize = 8 * MIB;
/// A long letter is handed over while no more than this waits.
const ROOM_BYTES: usize = MIB;
/// Bytes of one send.
const SEND_BYTES: usize = 512 << 10;

/// What came of the links in this turn.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A node's hello, on a new connection.
    Hello(Hello),
    /// A letter.
    Letter(NodeId, Letter),
    /// A connection with this node is gone, and with it, perhaps, letters in both directions.
    Lost(NodeId),
}

#[derive(Debug)]
struct Link {
    node: NodeId,
    hello: Option<Hello>,
    /// Of all hellos, the how many-th this was.
    since: u64,
    arrived: BytesMut,
    /// The hello, then what is urgent; then the rest. Each keeps its order.
    urgent: VecDeque<Bytes>,
    waiting: VecDeque<Bytes>,
    waiting_bytes: usize,
    sending: Option<OpId>,
    heard_at: Mono,
    said_at: Mono,
    said_id: u64,
    heard_id: u64,
    is_closing: bool,
}

/// A node that is, or shall be, connected to.
#[derive(Debug)]
struct Peer {
    address: Option<SocketAddr>,
    connecting: Option<OpId>,
    again_at: Mono,
    again_ns: u64,
    failed: Option<ConnectError>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Links {
    own: Option<Hello>,
    ops: OpIds,
    prng: Prng,
    links: BTreeMap<ConnectionId, Link>,
    peers: BTreeMap<NodeId, Peer>,
    wanted: BTreeSet<NodeId>,
    /// The newest run of each node that was heard.
    runs: BTreeMap<NodeId, u64>,
    hellos: u64,
    heard: VecDeque<Heard>,
    is_stopping: bool,
}

impl Links {
    /// `own`: what this end says of itself; none: it has no links.
    pub(crate) fn new(own: Option<Hello>, seed: u64) -> Self {
        Self {
            own,
            ops: OpIds::default(),
            prng: Prng::new(seed),
            links: BTreeMap::new(),
            peers: BTreeMap::new(),
            wanted: BTreeSet::new(),
            runs: BTreeMap::new(),
            hellos: 0,
            heard: VecDeque::new(),
            is_stopping: false,
        }
    }

    pub(crate) const fn own(&self) -> Option<&Hello> {
        self.own.as_ref()
    }

    // --- Whom to be linked to -----------------------------------------------------------------------------------------

    /// Where a node is reached, as far as is known now.
    pub(crate) fn learn(&mut self, node: NodeId, address: SocketAddr) {
        let is_own = self.own.as_ref().is_none_or(|own| own.node == node);
        if !is_own {
            self.peer(node).address = Some(address);
        }
    }

    pub(crate) fn address(&self, node: NodeId) -> Option<SocketAddr> {
        self.peers.get(&node).and_then(|peer| peer.address)
    }

    fn peer(&mut self, node: NodeId) -> &mut Peer {
        self.peers.entry(node).or_insert(Peer {
            address: None,
            connecting: None,
            again_at: Mono::default(),
            again_ns: AGAIN_NS_MIN,
            failed: None,
        })
    }

    /// These are to be linked to, and no others are connected to.
    pub(crate) fn want(&mut self, nodes: impl Iterator<Item = NodeId>, now: Mono) {
        let Some(own) = self.own.as_ref().map(|own| own.node) else {
            return;
        };
        let wanted: BTreeSet<NodeId> = nodes.filter(|node| *node != own).collect();
        let new: Vec<NodeId> = wanted.difference(&self.wanted).copied().collect();
        for node in new {
            let waits = if own > node { GREATER_WAITS_NS } else { 0 };
            self.peer(node).again_at = now.after_ns(waits);
        }
        self.wanted = wanted;
    }

    /// Whether there is a link on which the node's hello was heard.
    pub(crate) fn is_up(&self, node: NodeId) -> bool {
        self.best(node).is_some()
    }

    /// How many nodes there is a link to.
    pub(crate) fn count_up(&self) -> usize {
        let up = self
            .links
            .values()
            .filter(|link| link.hello.is_some() && !link.is_closing);
        let nodes: BTreeSet<NodeId> = up.map(|link| link.node).collect();
        nodes.len()
    }

    /// Whether a long letter to this node would go out soon.
    pub(crate) fn has_room(&self, node: NodeId) -> bool {
        let link = self.best(node).and_then(|conn| self.links.get(&conn));
        link.is_some_and(|link| link.waiting_bytes <= ROOM_BYTES)
    }

    fn best(&self, node: NodeId) -> Option<ConnectionId> {
        let of_node = |link: &&Link| link.node == node && link.hello.is_some() && !link.is_closing;
        let links = self.links.iter().filter(|(_, link)| of_node(link));
        links
            .max_by_key(|(_, link)| link.since)
            .map(|(conn, _)| *conn)
    }

    /// What came in, in order.
    pub(crate) fn take_heard(&mut self) -> Option<Heard> {
        self.heard.pop_front()
    }

    // --- Saying -------------------------------------------------------------------------------------------------------

    /// Puts a letter on the link to a node, ahead of what waits there when it is urgent. False: it is dropped.
    pub(crate) fn say(&mut self, node: NodeId, letter: &Letter, is_urgent: bool) -> bool {
        let Some(conn) = self.best(node) else {
            return false;
        };
        let link = self.links.get_mut(&conn).expect("it was found");
        if link.waiting_bytes > WAITING_BYTES_MAX {
            return false;
        }
        link.put(letter, is_urgent);
        true
    }

    // --- Events -------------------------------------------------------------------------------------------------------

    pub(crate) fn accepted(
        &mut self,
        conn: ConnectionId,
        node: NodeId,
        now: Mono,
        effects: &mut Effects,
    ) {
        self.open(conn, node, now, effects);
    }

    pub(crate) fn connected(
        &mut self,
        op: OpId,
        result: Result<ConnectionId, ConnectError>,
        now: Mono,
        effects: &mut Effects,
    ) {
        let mut peers = self.peers.iter_mut();
        let Some((node, peer)) = peers.find(|(_, peer)| peer.connecting == Some(op)) else {
            // Given up meanwhile; there is no such operation but by a defect of the driver.
            if let Ok(conn) = result {
                effects.push(Effect::Close { conn });
            }
            return;
        };
        let node = *node;
        peer.connecting = None;
        match result {
            Ok(conn) => {
                peer.failed = None;
                self.open(conn, node, now, effects);
            }
            Err(error) => {
                peer.failed = Some(error);
                self.try_later(node, now);
            }
        }
    }

    fn try_later(&mut self, node: NodeId, now: Mono) {
        let jitter = self.prng.range(75, 126);
        let peer = self.peer(node);
        peer.again_at = now.after_ns(peer.again_ns / 100 * jitter);
        peer.again_ns = (peer.again_ns * 2).min(AGAIN_NS_MAX);
    }

    fn open(&mut self, conn: ConnectionId, node: NodeId, now: Mono, effects: &mut Effects) {
        let own = self.own.clone().filter(|_| !self.is_stopping);
        let is_refused = own.is_none();
        let mut link = Link {
            node,
            hello: None,
            since: 0,
            arrived: BytesMut::new(),
            urgent: VecDeque::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            sending: None,
            heard_at: now,
            said_at: now,
            said_id: 0,
            heard_id: 0,
            is_closing: false,
        };
        if let Some(own) = own {
            link.put(&Letter::Hello(own), true);
        }
        self.links.insert(conn, link);
        if is_refused {
            self.close(conn, effects);
        }
    }

    pub(crate) fn received(
        &mut self,
        conn: ConnectionId,
        data: &[u8],
        now: Mono,
        effects: &mut Effects,
    ) {
        let Some(link) = self.links.get_mut(&conn).filter(|link| !link.is_closing) else {
            return;
        };
        link.heard_at = now;
        link.arrived.extend_from_slice(data);
        loop {
            let Some(link) = self.links.get_mut(&conn).filter(|link| !link.is_closing) else {
                return;
            };
            match link.take() {
                Ok(Some(letter)) => self.take(conn, letter, effects),
                Ok(None) => return,
                Err(Unreadable) => {
                    self.close(conn, effects);
                    return;
                }
            }
        }
    }

    fn take(&mut self, conn: ConnectionId, letter: Letter, effects: &mut Effects) {
        let link = self.links.get_mut(&conn).expect("it was found");
        let node = link.node;
        match (letter, &link.hello) {
            (Letter::Hello(hello), None) => {
                let zone = self.own.as_ref().map(|own| own.zone);
                let newest = self.runs.get(&node).copied().unwrap_or(0);
                if hello.node != node || Some(hello.zone) != zone || hello.boot_count < newest {
                    self.close(conn, effects);
                    return;
                }
                self.runs.insert(node, hello.boot_count);
                self.hellos += 1;
                link.since = self.hellos;
                link.hello = Some(hello.clone());
                // What an older run said last is not to come behind this.
                let is_old = |it: &Link| {
                    let of_run = |it: &Hello| it.boot_count < hello.boot_count;
                    it.node == node && it.hello.as_ref().is_some_and(of_run)
                };
                let links = self.links.iter();
                let old: Vec<ConnectionId> = links
                    .filter(|(_, link)| is_old(link))
                    .map(|(conn, _)| *conn)
                    .collect();
                for conn in old {
                    self.close(conn, effects);
                }
                self.learn(node, hello.address);
                self.heard.push_back(Heard::Hello(hello));
            }
            (Letter::Hello(_), Some(_)) | (_, None) => self.close(conn, effects),
            // Its hello was taken, and so was ours: otherwise nothing would follow.
            (letter, Some(_)) => {
                self.peer(node).again_ns = AGAIN_NS_MIN;
                if letter != Letter::Ping {
                    self.heard.push_back(Heard::Letter(node, letter));
                }
            }
        }
    }

    pub(crate) fn sent(
        &mut self,
        op: OpId,
        conn: ConnectionId,
        alive: bool,
        effects: &mut Effects,
    ) {
        let Some(link) = self.links.get_mut(&conn) else {
            return;
        };
        if link.sending == Some(op) {
            link.sending = None;
        }
        if !alive {
            self.close(conn, effects);
        }
    }

    pub(crate) fn hung_up(&mut self, conn: ConnectionId, effects: &mut Effects) {
        self.close(conn, effects);
    }

    pub(crate) fn closed(&mut self, conn: ConnectionId, now: Mono) {
        let Some(link) = self.links.remove(&conn) else {
            return;
        };
        self.try_later(link.node, now);
    }

    fn close(&mut self, conn: ConnectionId, effects: &mut Effects) {
        let Some(link) = self.links.get_mut(&conn) else {
            return;
        };
        if link.is_closing {
            return;
        }
        let was_heard = link.hello.is_some();
        let node = link.node;
        link.is_closing = true;
        link.urgent.clear();
        link.waiting.clear();
        link.waiting_bytes = 0;
        effects.push(Effect::Close { conn });
        if was_heard {
            self.heard.push_back(Heard::Lost(node));
        }
    }

    /// No link is made or let in any more, and those that are there end.
    pub(crate) fn stop(&mut self, effects: &mut Effects) {
        if self.own.is_some() && !self.is_stopping {
            self.is_stopping = true;
            effects.push(Effect::ServeNodes(false));
            let open: Vec<ConnectionId> = self.links.keys().copied().collect();
            for conn in open {
                self.close(conn, effects);
            }
        }
    }

    /// No connection is left, and none is being made.
    pub(crate) fn is_quiet(&self) -> bool {
        self.links.is_empty() && self.peers.values().all(|peer| peer.connecting.is_none())
    }

    // --- The turn's end -----------------------------------------------------------------------------------------------

    /// Connects, says that it is there, gives up what is silent, and sends what waits.
    pub(crate) fn finish_turn(&mut self, now: Mono, effects: &mut Effects) {
        if self.own.is_none() {
            return;
        }
        self.give_up_silent(now, effects);
        self.connect(now, effects);
        for (conn, link) in &mut self.links {
            if link.is_closing {
                continue;
            }
            if now.since(link.said_at) >= SAYS_EVERY_NS && link.is_idle() {
                link.put(&Letter::Ping, true);
            }
            if link.sending.is_some() || link.is_idle() {
                continue;
            }
            let op = self.ops.allocate();
            link.sending = Some(op);
            link.said_at = now;
            effects.push(Effect::Send {
                op,
                conn: *conn,
                parts: link.next_parts(),
            });
        }
    }

    fn give_up_silent(&mut self, now: Mono, effects: &mut Effects) {
        let silent = |link: &Link| !link.is_closing && now.since(link.heard_at) >= SILENT_NS_MAX;
        let links = self.links.iter();
        let silent: Vec<ConnectionId> = links
            .filter(|(_, link)| silent(link))
            .map(|(conn, _)| *conn)
            .collect();
        for conn in silent {
            self.close(conn, effects);
        }
    }

    fn connect(&mut self, now: Mono, effects: &mut Effects) {
        if self.is_stopping {
            return;
        }
        for node in &self.wanted {
            let has_link = self
                .links
                .values()
                .any(|link| link.node == *node && !link.is_closing);
            let Some(peer) = self.peers.get_mut(node) else {
                continue;
            };
            let Some(to) = peer.address else { continue };
            if !has_link && peer.connecting.is_none() && now >= peer.again_at {
                let op = self.ops.allocate();
                peer.connecting = Some(op);
                effects.push(Effect::Connect {
                    op,
                    to,
                    peer: *node,
                });
            }
        }
    }

    /// When [`Links::finish_turn`] has something to do by the clock alone.
    pub(crate) fn next_wake(&self) -> Option<Mono> {
        self.own.as_ref()?;
        let of_links = self.links.values().filter(|link| !link.is_closing);
        let of_links = of_links.map(|link| {
            let silent = link.heard_at.after_ns(SILENT_NS_MAX);
            // What is being sent is as good as said.
            match link.sending {
                Some(_) => silent,
                None => silent.min(link.said_at.after_ns(SAYS_EVERY_NS)),
            }
        });
        let linked: BTreeSet<NodeId> = self.links.values().map(|link| link.node).collect();
        let wanted = self.wanted.iter().filter(|node| !linked.contains(node));
        let of_peers = wanted
            .filter_map(|node| self.peers.get(node))
            .filter(|peer| peer.connecting.is_none() && peer.address.is_some())
            .map(|peer| peer.again_at)
            .filter(|_| !self.is_stopping);
        of_links.chain(of_peers).min()
    }
}

/// What arrived is no letter.
struct Unreadable;

impl From<DecodeError> for Unreadable {
    fn from(_: DecodeError) -> Self {
        Self
    }
}

impl Link {
    fn is_idle(&self) -> bool {
        self.urgent.is_empty() && self.waiting.is_empty()
    }

    fn put(&mut self, letter: &Letter, is_urgent: bool) {
        let letter = Bytes::from(letter.encode());
        self.waiting_bytes += letter.len();
        if is_urgent {
            self.urgent.push_back(letter);
        } else {
            self.waiting.push_back(letter);
        }
    }

    fn next_parts(&mut self) -> Vec<Bytes> {
        let mut parts = Vec::new();
        let mut bytes = 0;
        loop {
            let queue = match self.urgent.is_empty() {
                true => &mut self.waiting,
                false => &mut self.urgent,
            };
            let fits = |letter: &mut Bytes| bytes == 0 || bytes + letter.len() <= SEND_BYTES;
            let Some(letter) = queue.pop_front_if(fits) else {
                break;
            };
            bytes += letter.len();
            self.said_id += 1;
            let id = MessageId::new(self.said_id);
            let header = LinkHeader::new(Kind::ControlLetter, Flags::NONE, id, &letter, 0);
            parts.push(Bytes::copy_from_slice(header.bytes()));
            parts.push(letter);
        }
        self.waiting_bytes -= bytes;
        parts
    }

    /// The next whole letter that arrived.
    fn take(&mut self) -> Result<Option<Letter>, Unreadable> {
        let Some(header) = self.arrived.first_chunk::<LINK_HEADER_BYTES>() else {
            return Ok(None);
        };
        let header = LinkHeader::parse(header).map_err(|_| Unreadable)?;
        // Whoever has not said hello has nothing long to say.
        let is_long = header.control_len() > 4096;
        if header.kind() != Kind::ControlLetter || (is_long && self.hello.is_none()) {
            return Err(Unreadable);
        }
        if self.arrived.len() < header.frame_len() {
            return Ok(None);
        }
        let id = header.message_id().get();
        if id <= self.heard_id {
            return Err(Unreadable);
        }
        self.heard_id = id;
        self.arrived.advance(LINK_HEADER_BYTES);
        let control = self.arrived.split_to(header.control_len());
        header.check_control(&control).map_err(|_| Unreadable)?;
        Ok(Some(Letter::decode(&control)?))
    }
}
