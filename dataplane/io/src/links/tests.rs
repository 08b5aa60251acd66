//! Links over the loopback: drivers that connect to another's peer door, and everybody who must not come in. What a machine
//! did not hear of is shown by what it hears first afterwards.

use crate::tls::tests::{Authority, Signed};
use crate::{
    Connector, Counters, CurrentIdentity, Driver, DriverConfig, Listen, Listener, NodeIdentity,
    NodeLinks, Outcome, StopHandle, TlsError, node_name,
};
use bytes::Bytes;
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use tiderace_base::ids::{ConnectionId, NodeId, ZoneId};
use tiderace_base::operation::{ConnectError, Door, Effect, Effects, Event, Machine, OpId, OpIds};
use tiderace_base::time::Now;

const ZONE: ZoneId = ZoneId::new(7);
const HERE: NodeId = NodeId::new(1);
const THERE: NodeId = NodeId::new(2);

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn identity_of(signed: &Signed, trusts: &Authority) -> CurrentIdentity {
    let identity = NodeIdentity::new(signed.identity(), trusts.ca.as_bytes(), None);
    CurrentIdentity::new(identity.expect("it names a node"))
}

fn identity(authority: &Authority, node: NodeId) -> CurrentIdentity {
    identity_of(&authority.sign(&node_name(node, ZONE)), authority)
}

/// What a test hears of the node at the door.
#[derive(PartialEq, Eq, Debug)]
enum Heard {
    Accepted(Door),
    Hangup,
    Closed,
}

/// Lets everybody in and sends back what it receives.
struct Doorman {
    tell: Sender<Heard>,
    begun: bool,
    ops: OpIds,
    waiting: VecDeque<Bytes>,
    sending: bool,
}

impl Doorman {
    fn send(&mut self, conn: ConnectionId, effects: &mut Effects) {
        if !self.sending && !self.waiting.is_empty() {
            self.sending = true;
            let op = self.ops.allocate();
            let parts = self.waiting.drain(..).collect();
            effects.push(Effect::Send { op, conn, parts });
        }
    }
}

impl Machine for Doorman {
    fn step(&mut self, _: Now, event: Event, effects: &mut Effects) {
        match event {
            Event::Accepted { from, peer, .. } => {
                assert!(peer.ip().is_loopback());
                self.waiting.clear();
                self.sending = false;
                let _ = self.tell.send(Heard::Accepted(from));
            }
            Event::Received { conn, data } => {
                self.waiting.push_back(data);
                self.send(conn, effects);
            }
            Event::Sent { conn, .. } => {
                self.sending = false;
                self.send(conn, effects);
            }
            Event::Hangup { conn } => {
                let _ = self.tell.send(Heard::Hangup);
                effects.push(Effect::Close { conn });
            }
            Event::Closed { .. } => {
                let _ = self.tell.send(Heard::Closed);
            }
            Event::Stop => effects.push(Effect::Stopped),
            _ => {}
        }
    }

    fn finish_turn(&mut self, _: Now, effects: &mut Effects) {
        if !std::mem::replace(&mut self.begun, true) {
            effects.push(Effect::Serve);
            effects.push(Effect::ServeNodes(true));
        }
    }
}

/// A node with a peer door, on a thread of its own.
struct Running {
    address: SocketAddr,
    heard: Receiver<Heard>,
    counters: Arc<Counters>,
    stop: StopHandle,
    thread: Option<JoinHandle<Outcome>>,
}

impl Running {
    fn start(identity: &CurrentIdentity) -> Self {
        Self::start_with(identity, DriverConfig::default())
    }

    fn start_with(identity: &CurrentIdentity, config: DriverConfig) -> Self {
        let door = Listener::bind(Listen::on(any_port())).expect("a free port");
        let address = door.address();
        let links = NodeLinks::new(identity.clone(), Some(door));
        let mut driver = Driver::new(DriverConfig {
            links: Some(links),
            ..config
        })
        .expect("io_uring is allowed here");
        let (tell, heard) = channel();
        let (stop, counters) = (driver.stop_handle(), driver.counters());
        let thread = std::thread::spawn(move || {
            driver.run(&mut Doorman {
                tell,
                begun: false,
                ops: OpIds::default(),
                waiting: VecDeque::new(),
                sending: false,
            })
        });
        Self {
            address,
            heard,
            counters,
            stop,
            thread: Some(thread),
        }
    }

    fn hear(&self) -> Heard {
        self.heard.recv().expect("the machine runs")
    }

    /// A good link comes and goes, and nothing was heard before it.
    fn hears_nothing_but(&self, identity: &CurrentIdentity) {
        assert_eq!(dial(identity, self.address, THERE), Ok(()));
        let node = identity.current().node();
        assert_eq!(self.hear(), Heard::Accepted(Door::Peer(node)));
        assert_eq!([self.hear(), self.hear()], [Heard::Hangup, Heard::Closed]);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.stop();
        let outcome = self.thread.take().map(JoinHandle::join);
        assert!(matches!(outcome, Some(Ok(Outcome::Stopped))));
    }
}

/// Connects, sends a pattern, and stops when it came back, or when it could not be sent.
struct Dialer {
    to: SocketAddr,
    node: NodeId,
    begun: bool,
    pattern: Bytes,
    back: usize,
    answer: Option<Result<(), ConnectError>>,
}

const CONNECT: OpId = OpId::new(1);

impl Machine for Dialer {
    fn step(&mut self, _: Now, event: Event, effects: &mut Effects) {
        match event {
            Event::Connected { op, result } => {
                assert!(self.answer.is_none() && op == CONNECT, "answered once");
                self.answer = Some(result.map(drop));
                match result {
                    Ok(conn) => effects.push(Effect::Send {
                        op: OpId::new(2),
                        conn,
                        parts: vec![self.pattern.clone()],
                    }),
                    Err(_) => effects.push(Effect::Stopped),
                }
            }
            Event::Received { conn, data } => {
                assert_eq!(self.pattern[self.back..][..data.len()], data);
                self.back += data.len();
                if self.back == self.pattern.len() {
                    effects.push(Effect::Close { conn });
                }
            }
            Event::Closed { .. } => effects.push(Effect::Stopped),
            Event::Accepted { .. } | Event::Hangup { .. } => panic!("{event:?}"),
            _ => {}
        }
    }

    fn finish_turn(&mut self, _: Now, effects: &mut Effects) {
        if !std::mem::replace(&mut self.begun, true) {
            effects.push(Effect::Connect {
                op: CONNECT,
                to: self.to,
                peer: self.node,
            });
        }
    }
}

fn dialer(to: SocketAddr, node: NodeId) -> Dialer {
    let pattern: Vec<u8> = (0..1 << 20).map(|at: u32| (at % 251) as u8).collect();
    Dialer {
        to,
        node,
        begun: false,
        pattern: pattern.into(),
        back: 0,
        answer: None,
    }
}

fn dial_with(
    links: Option<NodeLinks>,
    to: SocketAddr,
    node: NodeId,
) -> (Result<(), ConnectError>, Arc<Counters>) {
    let mut driver = Driver::new(DriverConfig {
        links,
        ..DriverConfig::default()
    })
    .expect("io_uring is allowed here");
    let mut machine = dialer(to, node);
    assert!(matches!(driver.run(&mut machine), Outcome::Stopped));
    let answer = machine.answer.expect("a connect is answered");
    if answer.is_ok() {
        assert_eq!(machine.back, machine.pattern.len());
    }
    (answer, driver.counters())
}

/// Connects to `node`; with a link, bytes have gone both ways.
fn dial(identity: &CurrentIdentity, to: SocketAddr, node: NodeId) -> Result<(), ConnectError> {
    dial_with(Some(NodeLinks::new(identity.clone(), None)), to, node).0
}

/// Somebody who is no node of ours knocks, and is let go.
fn knock(running: &Running, authority: &Authority, shows: Option<&Signed>) {
    let shown = shows.map(Signed::identity);
    let name = node_name(THERE, ZONE);
    let connector = Connector::new(authority.ca.as_bytes(), shown, &name).expect("usable");
    let (config, name) = connector.parts();
    let connection = rustls::ClientConnection::new(config, name).expect("a configuration");
    let socket = TcpStream::connect(running.address).expect("it listens");
    let mut stream = rustls::StreamOwned::new(connection, socket);
    let _ = stream.write_all(b"let me in");
    let mut said = Vec::new();
    stream
        .read_to_end(&mut said)
        .expect_err("not an orderly end");
    assert_eq!(said, b"");
}

#[test]
fn two_nodes_exchange_bytes_over_a_link_whose_ends_are_known() {
    let authority = Authority::new();
    let running = Running::start(&identity(&authority, THERE));
    let here = identity(&authority, HERE);
    let links = Some(NodeLinks::new(here, None));
    let (answer, counters) = dial_with(links, running.address, THERE);
    assert_eq!(answer, Ok(()));
    assert_eq!(running.hear(), Heard::Accepted(Door::Peer(HERE)));
    assert_eq!(
        [running.hear(), running.hear()],
        [Heard::Hangup, Heard::Closed]
    );
    assert_eq!(counters.nodes_connected.get(), 1);
    assert_eq!(running.counters.nodes_accepted.get(), 1);
    assert_eq!(running.counters.accepted.get(), 0);
    assert_eq!(running.counters.tls_failed.get(), 0);
}

#[test]
fn a_port_without_a_listener_refuses() {
    let listener = TcpListener::bind(any_port()).expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    drop(listener);
    let (answer, counters) = dial_with(
        Some(NodeLinks::new(identity(&Authority::new(), HERE), None)),
        address,
        THERE,
    );
    assert_eq!(answer, Err(ConnectError::Refused));
    assert_eq!(counters.connects_failed.get(), 1);
}

#[test]
fn a_node_that_lets_go_in_the_middle_of_a_handshake_refuses() {
    let listener = TcpListener::bind(any_port()).expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let thread = std::thread::spawn(move || drop(listener.accept()));
    let here = identity(&Authority::new(), HERE);
    assert_eq!(dial(&here, address, THERE), Err(ConnectError::Refused));
    thread.join().expect("one came");
}

#[test]
fn a_certificate_of_another_ca_is_trusted_at_neither_end() {
    let [ours, theirs] = [Authority::new(), Authority::new()];
    let running = Running::start(&identity(&ours, THERE));
    let stranger = identity(&theirs, HERE);
    let answer = dial(&stranger, running.address, THERE);
    assert_eq!(answer, Err(ConnectError::NotTrusted));
    // It trusts us, and shows what somebody else has signed.
    let forged = identity_of(&theirs.sign(&node_name(HERE, ZONE)), &ours);
    let answer = dial(&forged, running.address, THERE);
    assert_eq!(answer, Err(ConnectError::Rejected));
    running.hears_nothing_but(&identity(&ours, HERE));
}

#[test]
fn another_node_than_the_one_asked_for_is_no_link() {
    let authority = Authority::new();
    let running = Running::start(&identity(&authority, THERE));
    let here = identity(&authority, HERE);
    let answer = dial(&here, running.address, NodeId::new(3));
    assert_eq!(answer, Err(ConnectError::WrongNode));
    running.hears_nothing_but(&here);
}

#[test]
fn a_node_of_another_zone_is_trusted_at_neither_end() {
    let authority = Authority::new();
    let running = Running::start(&identity(&authority, THERE));
    let elsewhere = authority.sign(&node_name(HERE, ZoneId::new(8)));
    let answer = dial(&identity_of(&elsewhere, &authority), running.address, THERE);
    assert_eq!(answer, Err(ConnectError::NotTrusted));
    // Without an own opinion of us.
    knock(&running, &authority, Some(&elsewhere));
    running.hears_nothing_but(&identity(&authority, HERE));
}

#[test]
fn an_expired_certificate_is_trusted_at_neither_end() {
    let authority = Authority::new();
    let expired = |node| identity_of(&authority.sign_expired(&node_name(node, ZONE)), &authority);
    let running = Running::start(&identity(&authority, THERE));
    let answer = dial(&expired(HERE), running.address, THERE);
    assert_eq!(answer, Err(ConnectError::Rejected));
    let here = identity(&authority, HERE);
    running.hears_nothing_but(&here);
    let old = Running::start(&expired(THERE));
    assert_eq!(
        dial(&here, old.address, THERE),
        Err(ConnectError::NotTrusted)
    );
}

#[test]
fn who_is_no_node_is_never_heard_of() {
    let [nodes, clients] = [Authority::new(), Authority::new()];
    let running = Running::start(&identity(&nodes, THERE));
    let client_name = node_name(HERE, ZONE).replace("node-", "client-");
    let role = nodes.sign(&client_name);
    let refused = NodeIdentity::new(role.identity(), nodes.ca.as_bytes(), None);
    assert_eq!(refused.expect_err("a client"), TlsError::NotANode);
    knock(&running, &nodes, Some(&role));
    knock(&running, &nodes, Some(&clients.sign(&client_name)));
    knock(&running, &nodes, Some(&clients.sign("client.example")));
    knock(&running, &nodes, Some(&nodes.sign("127.0.0.1")));
    knock(&running, &nodes, None);
    // Neither does it speak anything else.
    let mut plain = TcpStream::connect(running.address).expect("it listens");
    plain.write_all(&[7; 100]).expect("it is open");
    let mut rest = Vec::new();
    let _ = plain.read_to_end(&mut rest);
    assert!(rest.is_empty() || rest[0] == 21, "one alert: {rest:?}");
    running.hears_nothing_but(&identity(&nodes, HERE));
    assert_eq!(running.counters.tls_failed.get(), 6);
}

#[test]
fn who_says_nothing_is_let_go_at_both_ends() {
    let authority = Authority::new();
    let here = identity(&authority, HERE);
    // The kernel connects, and nobody accepts.
    let silent = TcpListener::bind(any_port()).expect("a free port");
    let address = silent.local_addr().expect("it is bound");
    let dialing = {
        let here = here.clone();
        std::thread::spawn(move || dial(&here, address, THERE))
    };
    let running = Running::start(&identity(&authority, THERE));
    let mut mute = TcpStream::connect(running.address).expect("it listens");
    let mut rest = Vec::new();
    mute.read_to_end(&mut rest).expect("it is ended");
    running.hears_nothing_but(&here);
    let answer = dialing.join().expect("no panic");
    assert_eq!(answer, Err(ConnectError::TimedOut));
}

#[test]
fn the_next_link_meets_the_identity_that_was_replaced() {
    let [old, new] = [Authority::new(), Authority::new()];
    let there = identity(&old, THERE);
    let running = Running::start(&there);
    running.hears_nothing_but(&identity(&old, HERE));
    let signed = new.sign(&node_name(THERE, ZONE));
    let identity_new = NodeIdentity::new(signed.identity(), new.ca.as_bytes(), None);
    there
        .replace(identity_new.expect("usable"))
        .expect("the same node");
    let answer = dial(&identity(&old, HERE), running.address, THERE);
    assert_eq!(answer, Err(ConnectError::NotTrusted));
    running.hears_nothing_but(&identity(&new, HERE));
    // The same at the connecting end.
    let here = identity(&old, HERE);
    let signed = new.sign(&node_name(HERE, ZONE));
    let identity_new = NodeIdentity::new(signed.identity(), new.ca.as_bytes(), None);
    here.replace(identity_new.expect("usable"))
        .expect("the same node");
    running.hears_nothing_but(&here);
}

/// Connects and stays until the other end lets go.
struct Guest(Dialer);

impl Machine for Guest {
    fn step(&mut self, now: Now, event: Event, effects: &mut Effects) {
        match event {
            Event::Connected { result, .. } => self.0.answer = Some(result.map(drop)),
            Event::Hangup { .. } => effects.push(Effect::Stopped),
            event => self.0.step(now, event, effects),
        }
    }

    fn finish_turn(&mut self, now: Now, effects: &mut Effects) {
        self.0.finish_turn(now, effects);
    }
}

#[test]
fn a_revocation_ends_the_links_that_are_open_and_no_others() {
    let authority = Authority::new();
    let signed = |node: NodeId| authority.sign_numbered(&node_name(node, ZONE), node.get());
    let there = identity(&authority, THERE);
    let running = Running::start(&there);
    let [stays, goes] = [3, 4].map(|node| {
        let identity = identity_of(&signed(NodeId::new(node)), &authority);
        let address = running.address;
        let thread = std::thread::spawn(move || {
            let mut driver = Driver::new(DriverConfig {
                links: Some(NodeLinks::new(identity, None)),
                ..DriverConfig::default()
            })
            .expect("io_uring is allowed here");
            let mut guest = Guest(dialer(address, THERE));
            assert!(matches!(driver.run(&mut guest), Outcome::Stopped));
            assert_eq!(guest.0.answer, Some(Ok(())));
        });
        assert_eq!(
            running.hear(),
            Heard::Accepted(Door::Peer(NodeId::new(node)))
        );
        thread
    });
    let revoke = |numbers: &[u64]| {
        let list = authority.revoke(numbers);
        let shown = authority.sign(&node_name(THERE, ZONE));
        let ca = authority.ca.as_bytes();
        let identity = NodeIdentity::new(shown.identity(), ca, Some(list.as_bytes()));
        there
            .replace(identity.expect("usable"))
            .expect("the same node");
    };
    revoke(&[4]);
    assert_eq!(
        [running.hear(), running.hear()],
        [Heard::Hangup, Heard::Closed]
    );
    goes.join().expect("it was ended");
    assert_eq!(running.counters.links_distrusted.get(), 1);
    // Nor does it come in again.
    let again = identity_of(&signed(NodeId::new(4)), &authority);
    let answer = dial(&again, running.address, THERE);
    assert_eq!(answer, Err(ConnectError::Rejected));
    revoke(&[3, 4]);
    stays.join().expect("it was ended");
    assert_eq!(running.counters.links_distrusted.get(), 2);
}

#[test]
fn links_and_clients_have_numbers_of_their_own() {
    let authority = Authority::new();
    let here = identity(&authority, HERE);
    let clients = Listener::bind(Listen::on(any_port())).expect("a free port");
    let client_address = clients.address();
    let config = DriverConfig {
        listeners: vec![clients],
        connections_max: 0,
        ..DriverConfig::default()
    };
    let running = Running::start_with(&identity(&authority, THERE), config);
    let mut client = TcpStream::connect(client_address).expect("it listens");
    let _ = client.read_to_end(&mut Vec::new());
    running.hears_nothing_but(&here);
    assert_eq!(running.counters.turned_away.get(), 1);
    let none = NodeLinks {
        links_max: 0,
        ..NodeLinks::new(here, None)
    };
    let (answer, _) = dial_with(Some(none), running.address, THERE);
    assert_eq!(answer, Err(ConnectError::TooMany));
    let (answer, _) = dial_with(None, running.address, THERE);
    assert_eq!(answer, Err(ConnectError::NoIdentity));
}

#[test]
fn a_door_without_room_for_a_link_turns_a_node_away() {
    let authority = Authority::new();
    let door = Listener::bind(Listen::on(any_port())).expect("a free port");
    let address = door.address();
    let links = NodeLinks {
        links_max: 0,
        ..NodeLinks::new(identity(&authority, THERE), Some(door))
    };
    let mut driver = Driver::new(DriverConfig {
        links: Some(links),
        ..DriverConfig::default()
    })
    .expect("io_uring is allowed here");
    let (stop, counters) = (driver.stop_handle(), driver.counters());
    let (tell, heard) = channel();
    let thread = std::thread::spawn(move || {
        driver.run(&mut Doorman {
            tell,
            begun: false,
            ops: OpIds::default(),
            waiting: VecDeque::new(),
            sending: false,
        })
    });
    let answer = dial(&identity(&authority, HERE), address, THERE);
    assert_eq!(answer, Err(ConnectError::Refused));
    stop.stop();
    assert!(matches!(thread.join(), Ok(Outcome::Stopped)));
    assert_eq!(counters.turned_away.get(), 1);
    assert!(heard.recv().is_err(), "nothing was heard");
}

/// Stops while it connects.
struct Leaver(SocketAddr);

impl Machine for Leaver {
    fn step(&mut self, _: Now, event: Event, _: &mut Effects) {
        panic!("{event:?} after the end");
    }

    fn finish_turn(&mut self, _: Now, effects: &mut Effects) {
        effects.push(Effect::Connect {
            op: CONNECT,
            to: self.0,
            peer: THERE,
        });
        effects.push(Effect::Stopped);
    }
}

#[test]
fn a_machine_may_stop_while_it_connects() {
    let silent = TcpListener::bind(any_port()).expect("a free port");
    let address = silent.local_addr().expect("it is bound");
    let identity = identity(&Authority::new(), HERE);
    let mut driver = Driver::new(DriverConfig {
        links: Some(NodeLinks::new(identity, None)),
        ..DriverConfig::default()
    })
    .expect("io_uring is allowed here");
    let outcome = driver.run(&mut Leaver(address));
    assert!(matches!(outcome, Outcome::Stopped));
}
