//! Links between nodes, on several nodes in one world: machines that talk to each other over every link that they can get.
//! What comes out of a link is what went in at its other end, from its beginning and without a gap; every connect is answered
//! once and in its time; and once the network is whole again, everybody reaches everybody.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use sim::history::Judge;
use sim::world::disk::SimDisk;
use sim::world::faults::{Fault, Faults};
use sim::world::trace::Lines;
use sim::world::{BootError, MachineId, Program, Setup, World, door_of};
use tiderace_base::ids::{ConnectionId, NodeId, ShardId};
use tiderace_base::limits::CONNECT_NS_MAX;
use tiderace_base::mesh::Peer;
use tiderace_base::operation::{ConnectError, Door, Effect, Effects, Event, Machine, OpId, OpIds};
use tiderace_base::prng::Prng;
use tiderace_base::time::{Mono, Now};

/// Time after a link that failed before the next is tried.
const AGAIN_NS: u64 = 40_000_000;
/// How often it says something.
const SPEAKS_EVERY_NS: u64 = 20_000_000;
/// How much longer than its time an answer may take to be seen: a machine may not be scheduled for a while, twice.
const SEEN_WITHIN_NS: u64 = 2_000_000_000;

fn door(node: u16) -> SocketAddr {
    door_of(MachineId { node, machine: 0 })
}

fn id(node: u16) -> NodeId {
    NodeId::new(u64::from(node) + 1)
}

/// The byte at a place of what one node says to another.
fn byte(from: NodeId, to: NodeId, at: u64) -> u8 {
    (from.get() * 89 + to.get() * 151 + at * 7 + at / 251) as u8
}

fn check(data: &Bytes, from: NodeId, to: NodeId, at: u64) {
    for (index, found) in data.iter().enumerate() {
        let place = at + index as u64;
        assert_eq!(
            *found,
            byte(from, to, place),
            "{from} to {to}, byte {place}"
        );
    }
}

/// What the talkers of a run achieved: bytes that came back, by who connected and to whom.
type Echoed = Arc<Mutex<BTreeMap<(u16, u16), u64>>>;

#[derive(Clone)]
struct Talkers {
    me: u16,
    nodes: u16,
    echoed: Echoed,
}

impl Program for Talkers {
    fn machines(&self) -> Vec<Peer> {
        vec![Peer::Shard(ShardId::new(0))]
    }

    fn boot(
        &mut self,
        _: &[SimDisk],
        _: Now,
        seed: u64,
    ) -> Result<Vec<Box<dyn Machine>>, BootError> {
        Ok(vec![Box::new(Talker {
            of: self.clone(),
            prng: Prng::new(seed),
            begun: false,
            ops: OpIds::default(),
            connects: BTreeMap::new(),
            links: BTreeMap::new(),
            again: BTreeMap::new(),
            speaks_at: Mono::from_ns(0),
            stopped: false,
        })])
    }
}

struct TalkerLink {
    /// Who is there, and whether this end connected and so speaks first.
    other: u16,
    speaks: bool,
    /// Sent by the end that speaks, and come back to it or on its way back.
    said: u64,
    heard: u64,
    waiting: VecDeque<Bytes>,
    sending_bytes: Option<u64>,
    closing: bool,
}

struct Talker {
    of: Talkers,
    prng: Prng,
    begun: bool,
    ops: OpIds,
    connects: BTreeMap<OpId, (u16, Mono)>,
    links: BTreeMap<ConnectionId, TalkerLink>,
    /// Whom to connect to again, and when.
    again: BTreeMap<u16, Mono>,
    speaks_at: Mono,
    stopped: bool,
}

impl Talker {
    fn connect(&mut self, now: Now, node: u16, effects: &mut Effects) {
        let op = self.ops.allocate();
        self.connects.insert(op, (node, now.mono));
        effects.push(Effect::Connect {
            op,
            to: door(node),
            peer: id(node),
        });
    }

    fn open(&mut self, conn: ConnectionId, other: u16, speaks: bool) {
        let link = TalkerLink {
            other,
            speaks,
            said: 0,
            heard: 0,
            waiting: VecDeque::new(),
            sending_bytes: None,
            closing: false,
        };
        let before = self.links.insert(conn, link);
        assert!(before.is_none(), "{conn:?} is given twice");
    }

    fn close(&mut self, conn: ConnectionId, effects: &mut Effects) {
        let link = self.links.get_mut(&conn).expect("known and not closed");
        if !link.closing {
            link.closing = true;
            effects.push(Effect::Close { conn });
        }
    }

    /// Says something more on every link that is not behind with what was said.
    fn speak(&mut self, effects: &mut Effects) {
        let me = id(self.of.me);
        let mut spoke = Vec::new();
        for (conn, link) in &mut self.links {
            if link.speaks && link.said < link.heard + 100_000 {
                let count = self.prng.range(1, 40_000);
                let other = id(link.other);
                let places = link.said..link.said + count;
                let bytes: Vec<u8> = places.map(|at| byte(me, other, at)).collect();
                link.said += count;
                link.waiting.push_back(bytes.into());
                spoke.push(*conn);
            }
        }
        for conn in spoke {
            self.go_on(conn, effects);
        }
    }

    fn go_on(&mut self, conn: ConnectionId, effects: &mut Effects) {
        let link = self.links.get_mut(&conn).expect("known and not closed");
        if link.closing || link.sending_bytes.is_some() {
            return;
        }
        if link.waiting.is_empty() {
            return;
        }
        let parts: Vec<Bytes> = link.waiting.drain(..).collect();
        link.sending_bytes = Some(parts.iter().map(|part| part.len() as u64).sum());
        let op = self.ops.allocate();
        effects.push(Effect::Send { op, conn, parts });
    }
}

impl Machine for Talker {
    fn step(&mut self, now: Now, event: Event, effects: &mut Effects) {
        if self.stopped {
            return;
        }
        let me = id(self.of.me);
        match event {
            Event::Connected { op, result } => {
                let (node, begun) = self.connects.remove(&op).expect("answered once");
                let took_ns = now.mono.since(begun);
                assert!(took_ns < CONNECT_NS_MAX + SEEN_WITHIN_NS, "{took_ns} ns");
                match result {
                    Ok(conn) => {
                        self.open(conn, node, true);
                    }
                    Err(_) => {
                        self.again.insert(node, now.mono.after_ns(AGAIN_NS));
                    }
                }
            }
            Event::Accepted { conn, from, .. } => {
                let Door::Peer(node) = from else {
                    panic!("there are no clients");
                };
                let other = (0..self.of.nodes).find(|it| id(*it) == node && node != me);
                self.open(conn, other.expect("another node"), false);
            }
            Event::Received { conn, data } => {
                let link = self.links.get_mut(&conn).expect("known and not closed");
                let other = id(link.other);
                let (from, to) = if link.speaks {
                    (me, other)
                } else {
                    (other, me)
                };
                check(&data, from, to, link.heard);
                link.heard += data.len() as u64;
                if link.speaks {
                    let mut echoed = self.of.echoed.lock().expect("nobody panics with it");
                    *echoed.entry((self.of.me, link.other)).or_default() += data.len() as u64;
                } else if !link.closing {
                    // The driver's buffer goes back.
                    link.waiting.push_back(Bytes::copy_from_slice(&data));
                }
                self.go_on(conn, effects);
            }
            Event::Sent {
                conn,
                sent_bytes,
                alive,
                ..
            } => {
                let link = self.links.get_mut(&conn).expect("known and not closed");
                let asked = link.sending_bytes.take().expect("a send is answered once");
                if alive {
                    assert_eq!(sent_bytes, asked);
                    self.go_on(conn, effects);
                } else {
                    self.close(conn, effects);
                }
            }
            Event::Hangup { conn } => self.close(conn, effects),
            Event::Closed { conn } => {
                let link = self.links.remove(&conn).expect("closed once");
                assert!(link.closing && link.sending_bytes.is_none());
                if link.speaks {
                    self.again.insert(link.other, now.mono.after_ns(AGAIN_NS));
                }
            }
            Event::Stop => {
                self.stopped = true;
                effects.push(Effect::Stopped);
            }
            _ => {}
        }
    }

    fn finish_turn(&mut self, now: Now, effects: &mut Effects) {
        if self.stopped {
            return;
        }
        if !self.begun {
            self.begun = true;
            effects.push(Effect::ServeNodes(true));
            for node in (0..self.of.nodes).filter(|node| *node != self.of.me) {
                self.again.insert(node, now.mono);
            }
        }
        let due: Vec<u16> = self
            .again
            .iter()
            .filter(|(_, at)| **at <= now.mono)
            .map(|(node, _)| *node)
            .collect();
        for node in due {
            self.again.remove(&node);
            self.connect(now, node, effects);
        }
        for (node, begun) in self.connects.values() {
            let waits_ns = now.mono.since(*begun);
            let within_ns = CONNECT_NS_MAX + SEEN_WITHIN_NS;
            assert!(waits_ns < within_ns, "{node} was never answered");
        }
        if self.speaks_at <= now.mono {
            self.speaks_at = now.mono.after_ns(SPEAKS_EVERY_NS);
            self.speak(effects);
        }
        let again = self.again.values().min().copied();
        let wake_at = again.unwrap_or(self.speaks_at).min(self.speaks_at);
        effects.push(Effect::WakeAt(wake_at));
    }
}

fn setup(seed: u64, faults: Faults) -> Setup {
    Setup {
        seed,
        faults,
        lines: Lines::None,
        mesh_limit: 8,
        receive_buffers: 16,
    }
}

/// Runs a seed: its trace, and how often each fault fired.
fn talk(seed: u64) -> (u64, Vec<u64>) {
    let mut prng = Prng::new(seed);
    let mut faults = Faults::draw(&mut prng);
    faults.draw_links(&mut prng);
    let nodes = prng.range(2, 5) as u16;
    let mut world = World::new(setup(seed, faults), Judge::default());
    let echoed = Echoed::default();
    for me in 0..nodes {
        let echoed = Arc::clone(&echoed);
        world.add_node(Box::new(Talkers { me, nodes, echoed }));
    }
    world.run(5_000_000_000, |_| false);
    world.heal();
    echoed.lock().expect("nobody panics with it").clear();
    let until_ns = world.now_ns() + 200_000_000_000;
    let is_done = |_: &World| {
        let echoed = echoed.lock().expect("nobody panics with it");
        let pairs = usize::from(nodes) * usize::from(nodes - 1);
        echoed.len() == pairs && echoed.values().all(|bytes| *bytes > 200_000)
    };
    let done = world.run(until_ns, is_done);
    assert!(done, "seed {seed}: {:?}", world.judge.violation());
    let fired = Fault::ALL.map(|fault| world.faults.fired().count(fault));
    (world.trace.hash(), fired.to_vec())
}

#[test]
fn every_link_carries_what_was_sent_and_everybody_is_reached_again() {
    let mut fired = vec![0; Fault::ALL.len()];
    for seed in 0..24 {
        for (sum, more) in fired.iter_mut().zip(talk(seed).1) {
            *sum += more;
        }
    }
    for fault in Fault::ALL.into_iter().filter(|it| it.is_between_nodes()) {
        assert!(fired[fault as usize] > 0, "{} never fired", fault.name());
    }
}

#[test]
fn a_seed_of_several_nodes_gives_the_same_trace_twice() {
    for seed in 100..106 {
        assert_eq!(talk(seed), talk(seed), "seed {seed}");
    }
}

/// What a probe was told, in order, of one node.
type Told = Arc<Mutex<Vec<(u16, String)>>>;

/// Lets nodes in or does not, connects once, and sends so much on what it connected.
#[derive(Clone)]
struct Probe {
    me: u16,
    serves: bool,
    asks: Option<(SocketAddr, NodeId)>,
    sends_bytes: usize,
    told: Told,
    begun: bool,
}

impl Program for Probe {
    fn machines(&self) -> Vec<Peer> {
        vec![Peer::Shard(ShardId::new(0))]
    }

    fn boot(&mut self, _: &[SimDisk], _: Now, _: u64) -> Result<Vec<Box<dyn Machine>>, BootError> {
        Ok(vec![Box::new(self.clone())])
    }
}

impl Machine for Probe {
    fn step(&mut self, _: Now, event: Event, effects: &mut Effects) {
        let text = match event {
            Event::Connected {
                result: Ok(conn), ..
            } => {
                if self.sends_bytes > 0 {
                    effects.push(Effect::Send {
                        op: OpId::new(2),
                        conn,
                        parts: vec![vec![7; self.sends_bytes].into()],
                    });
                }
                "connected".to_owned()
            }
            Event::Connected {
                result: Err(error), ..
            } => format!("{error:?}"),
            Event::Accepted { from, .. } => format!("accepted {from:?}"),
            Event::Received { data, .. } => format!("received {}", data.len()),
            Event::Sent { sent_bytes, .. } => format!("sent {sent_bytes}"),
            Event::Hangup { conn } => {
                effects.push(Effect::Close { conn });
                "hangup".to_owned()
            }
            Event::Closed { .. } => "closed".to_owned(),
            _ => return,
        };
        let mut told = self.told.lock().expect("nobody panics with it");
        told.push((self.me, text));
    }

    fn finish_turn(&mut self, _: Now, effects: &mut Effects) {
        if !std::mem::replace(&mut self.begun, true) {
            effects.push(Effect::ServeNodes(self.serves));
            if let Some((to, peer)) = self.asks {
                let op = OpId::new(1);
                effects.push(Effect::Connect { op, to, peer });
            }
        }
    }
}

/// Two nodes, of which the second asks for the first; nothing goes wrong by itself.
struct Pair {
    world: World,
    told: Told,
}

impl Pair {
    fn new(serves: bool, asks: (SocketAddr, NodeId), sends_bytes: usize) -> Self {
        let mut world = World::new(setup(1, Faults::none()), Judge::default());
        let told = Told::default();
        for (me, asks) in [(0, None), (1, Some(asks))] {
            let told = Arc::clone(&told);
            world.add_node(Box::new(Probe {
                me,
                serves,
                asks,
                sends_bytes,
                told,
                begun: false,
            }));
        }
        Self { world, told }
    }

    /// Everything that this node was told within so many more seconds.
    fn told(&mut self, node: u16, seconds: u64) -> Vec<String> {
        let until_ns = self.world.now_ns() + seconds * 1_000_000_000;
        self.world.run(until_ns, |_| false);
        assert!(!self.world.judge.is_broken());
        let told = self.told.lock().expect("nobody panics with it");
        let of_node = told.iter().filter(|(it, _)| *it == node);
        of_node.map(|(_, text)| text.clone()).collect()
    }

    fn received_bytes(&mut self, seconds: u64) -> usize {
        let told = self.told(0, seconds);
        let received = told.iter().filter_map(|it| it.strip_prefix("received "));
        received
            .map(|it| it.parse::<usize>().expect("a number"))
            .sum()
    }
}

fn answer(pair: &mut Pair) -> Vec<String> {
    pair.told(1, 60)
}

fn text(error: ConnectError) -> Vec<String> {
    vec![format!("{error:?}")]
}

#[test]
fn a_link_is_told_at_both_ends_and_each_knows_the_other() {
    let mut pair = Pair::new(true, (door(0), id(0)), 1000);
    assert_eq!(pair.told(1, 1), ["connected", "sent 1000"]);
    assert_eq!(pair.told(0, 0)[0], "accepted Peer(NodeId(2))");
    assert_eq!(pair.received_bytes(0), 1000);
}

#[test]
fn a_connect_that_cannot_be_is_refused_with_the_reason() {
    let mut pair = Pair::new(false, (door(0), id(0)), 0);
    assert_eq!(answer(&mut pair), text(ConnectError::Refused));
    let mut pair = Pair::new(true, (door(9), id(0)), 0);
    assert_eq!(answer(&mut pair), text(ConnectError::Unreachable));
    let mut pair = Pair::new(true, (door(0), id(7)), 0);
    assert_eq!(answer(&mut pair), text(ConnectError::WrongNode));
    for (distrusted, error) in [(0, ConnectError::NotTrusted), (1, ConnectError::Rejected)] {
        let mut pair = Pair::new(true, (door(0), id(0)), 0);
        pair.world.set_trusted(distrusted, false);
        assert_eq!(answer(&mut pair), text(error));
        assert_eq!(pair.told(0, 0), Vec::<String>::new());
    }
}

#[test]
fn a_connect_across_a_partition_waits_for_its_end_and_no_longer_than_it_may() {
    for (from, to) in [(0, 1), (1, 0)] {
        let mut pair = Pair::new(true, (door(0), id(0)), 0);
        pair.world.cut(from, to);
        assert_eq!(answer(&mut pair), text(ConnectError::TimedOut));
        assert_eq!(pair.told(0, 0), Vec::<String>::new());
        let mut pair = Pair::new(true, (door(0), id(0)), 0);
        pair.world.cut(from, to);
        assert_eq!(pair.told(1, 2), Vec::<String>::new());
        pair.world.mend(from, to);
        assert_eq!(answer(&mut pair), ["connected"]);
    }
}

#[test]
fn what_waits_behind_a_partition_arrives_when_it_ends() {
    let mut pair = Pair::new(true, (door(0), id(0)), 100 << 20);
    pair.world.run(20_000_000, |_| false);
    pair.world.part(&[0], &[1]);
    let before = pair.received_bytes(10);
    assert!(before < 100 << 20, "{before} bytes in twenty milliseconds");
    assert_eq!(pair.received_bytes(10), before);
    pair.world.heal();
    assert_eq!(pair.received_bytes(10), 100 << 20);
}

#[test]
fn bytes_cross_a_partition_of_the_other_direction_until_the_sender_hears_nothing() {
    let mut pair = Pair::new(true, (door(0), id(0)), 100 << 20);
    pair.world.run(20_000_000, |_| false);
    let before = pair.received_bytes(0);
    pair.world.cut(0, 1);
    let after = pair.received_bytes(10);
    assert!(after > before && after < 100 << 20);
    assert_eq!(pair.received_bytes(10), after);
    pair.world.mend(0, 1);
    assert_eq!(pair.received_bytes(10), 100 << 20);
}

#[test]
fn a_partition_that_lasts_ends_the_link_at_both_ends() {
    let mut pair = Pair::new(true, (door(0), id(0)), 0);
    assert_eq!(pair.told(1, 1), ["connected"]);
    pair.world.part(&[0], &[1]);
    assert_eq!(pair.told(1, 50), ["connected"]);
    assert_eq!(pair.told(1, 100), ["connected", "hangup", "closed"]);
    let told = pair.told(0, 0);
    assert_eq!(told[1..], ["hangup", "closed"]);
}

#[test]
fn a_host_without_power_tells_nobody_and_is_found_out() {
    let mut pair = Pair::new(true, (door(0), id(0)), 0);
    assert_eq!(pair.told(1, 1), ["connected"]);
    pair.world.cut_power(0);
    assert_eq!(pair.told(1, 20), ["connected", "hangup", "closed"]);
}
