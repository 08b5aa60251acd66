//! Real sockets: a machine behind TLS, and clients that are not ours.

use crate::tls::tests::Authority;
use crate::{Acceptor, Connector, Driver, DriverConfig, Listen, Listener, Outcome, StopHandle};
use bytes::Bytes;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use tiderace_base::ids::ConnectionId;
use tiderace_base::operation::{Effect, Effects, Event, Machine, OpId, OpIds};
use tiderace_base::time::Now;

/// What a test hears of its machine.
#[derive(PartialEq, Eq, Debug)]
enum Heard {
    Accepted,
    Received(usize),
    Sent { bytes: u64, alive: bool },
    Hangup,
    Closed,
}

/// Answers each first byte: `e` echoes what follows, `s` sends much and cancels it, `f` ends its side.
struct Server {
    tell: Sender<Heard>,
    ops: OpIds,
    mode: Option<u8>,
    waiting: Vec<Bytes>,
    sending: bool,
    cancelled: bool,
}

const MUCH: usize = 16 << 20;

impl Server {
    fn send(&mut self, conn: ConnectionId, effects: &mut Effects) {
        if self.sending || self.waiting.is_empty() {
            return;
        }
        self.sending = true;
        let op: OpId = self.ops.allocate();
        let parts = std::mem::take(&mut self.waiting);
        effects.push(Effect::Send { op, conn, parts });
    }

    fn received(&mut self, conn: ConnectionId, mut data: Bytes, effects: &mut Effects) {
        let _ = self.tell.send(Heard::Received(data.len()));
        let mode = *self.mode.get_or_insert_with(|| data.split_to(1)[0]);
        match mode {
            b'e' => self.waiting.push(data),
            b's' if !self.cancelled => {
                self.waiting.push(pattern(0, MUCH).into());
                self.send(conn, effects);
                // What the other end does not read fills the network's buffers; the rest is taken back.
                self.cancelled = true;
                effects.push(Effect::CancelSend { conn });
                return;
            }
            b'f' => {
                effects.push(Effect::Finish { conn });
                return;
            }
            _ => {}
        }
        self.send(conn, effects);
    }
}

impl Machine for Server {
    fn step(&mut self, _: Now, event: Event, effects: &mut Effects) {
        match event {
            Event::Accepted { .. } => {
                let _ = self.tell.send(Heard::Accepted);
            }
            Event::Received { conn, data } => self.received(conn, data, effects),
            Event::Sent {
                conn,
                sent_bytes,
                alive,
                ..
            } => {
                self.sending = false;
                let bytes = sent_bytes;
                let _ = self.tell.send(Heard::Sent { bytes, alive });
                if self.mode == Some(b's') && (bytes as usize) < MUCH && alive {
                    // The rest follows behind what was held up.
                    self.mode = Some(b'e');
                    let done = bytes as usize;
                    self.waiting.push(pattern(done, MUCH - done).into());
                }
                self.send(conn, effects);
            }
            Event::Hangup { conn } => {
                let _ = self.tell.send(Heard::Hangup);
                effects.push(Effect::Close { conn });
            }
            Event::Closed { .. } => {
                let _ = self.tell.send(Heard::Closed);
                self.mode = None;
            }
            Event::Stop => effects.push(Effect::Stopped),
            _ => {}
        }
    }

    fn finish_turn(&mut self, _: Now, effects: &mut Effects) {
        if self.ops.allocate() == OpId::new(1) {
            effects.push(Effect::Serve);
        }
    }
}

fn pattern(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|at| (at % 251) as u8).collect()
}

struct Running {
    address: SocketAddr,
    heard: Receiver<Heard>,
    stop: StopHandle,
    thread: Option<JoinHandle<Outcome>>,
    counters: std::sync::Arc<crate::Counters>,
}

impl Running {
    fn start(acceptor: Acceptor) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = Listener::bind(Listen::on(any)).expect("a free port");
        let address = listener.address();
        let mut driver = Driver::new(DriverConfig {
            listeners: vec![listener.with_tls(acceptor)],
            ..DriverConfig::default()
        })
        .expect("io_uring is allowed here");
        let (tell, heard) = channel();
        let (stop, counters) = (driver.stop_handle(), driver.counters());
        let thread = std::thread::spawn(move || {
            driver.run(&mut Server {
                tell,
                ops: OpIds::default(),
                mode: None,
                waiting: Vec::new(),
                sending: false,
                cancelled: false,
            })
        });
        Self {
            address,
            heard,
            stop,
            thread: Some(thread),
            counters,
        }
    }

    fn hear(&self) -> Heard {
        self.heard.recv().expect("the machine runs")
    }

    fn hear_until(&self, last: &Heard) -> Vec<Heard> {
        let mut all = Vec::new();
        while all.last() != Some(last) {
            all.push(self.hear());
        }
        all
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.stop();
        let outcome = self.thread.take().map(JoinHandle::join);
        assert!(matches!(outcome, Some(Ok(Outcome::Stopped))));
    }
}

type Stream = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

fn client(address: SocketAddr, connector: &Connector) -> Stream {
    let (config, name) = connector.parts();
    let connection = rustls::ClientConnection::new(config, name).expect("a configuration");
    rustls::StreamOwned::new(connection, TcpStream::connect(address).expect("it listens"))
}

fn node() -> (Running, Connector) {
    let authority = Authority::new();
    let identity = authority.sign("127.0.0.1");
    let acceptor = Acceptor::new(identity.identity(), None).expect("it can be used");
    let connector = Connector::new(authority.ca.as_bytes(), None, "127.0.0.1").expect("a name");
    (Running::start(acceptor), connector)
}

#[test]
fn a_client_and_a_machine_exchange_plaintext_both_ways() {
    let (running, connector) = node();
    let mut stream = client(running.address, &connector);
    let sent = pattern(0, 3 << 20);
    let mut reading = Vec::new();
    stream.write_all(b"e").expect("it is open");
    for piece in sent.chunks(300_001) {
        stream.write_all(piece).expect("it is open");
        let mut back = vec![0; piece.len()];
        stream.read_exact(&mut back).expect("it answers");
        reading.extend_from_slice(&back);
    }
    assert!(reading == sent);
    assert_eq!(running.counters.tls_opened.get(), 1);
    stream.conn.send_close_notify();
    stream.flush().expect("it is open");
    let all = running.hear_until(&Heard::Closed);
    assert_eq!(all[0], Heard::Accepted);
    assert!(all.contains(&Heard::Hangup));
    assert_eq!(running.counters.tls_failed.get(), 0);
}

#[test]
fn a_send_that_was_taken_back_goes_on_where_it_ended() {
    let (running, connector) = node();
    let mut stream = client(running.address, &connector);
    stream.write_all(b"s").expect("it is open");
    // Not read until the machine has its answer: most of it cannot have been taken by the network.
    let sent = loop {
        if let Heard::Sent { bytes, alive } = running.hear() {
            assert!(alive);
            break bytes;
        }
    };
    assert!((sent as usize) < MUCH);
    let mut all = vec![0; MUCH];
    stream.read_exact(&mut all).expect("it sends the rest");
    assert!(all == pattern(0, MUCH));
    let rest = running.hear();
    assert_eq!(
        rest,
        Heard::Sent {
            bytes: MUCH as u64 - sent,
            alive: true
        }
    );
}

/// Refuses everybody, with a reason.
struct Refuser;

impl Machine for Refuser {
    fn step(&mut self, _: Now, event: Event, effects: &mut Effects) {
        match event {
            Event::Accepted { conn, .. } => {
                let wanted = false;
                effects.push(Effect::Receive { conn, wanted });
                effects.push(Effect::Send {
                    op: OpId::new(1),
                    conn,
                    parts: vec![Bytes::from_static(b"too many")],
                });
            }
            Event::Sent {
                conn,
                sent_bytes,
                alive,
                ..
            } => {
                assert!(alive && sent_bytes == 8, "the reason goes out");
                effects.push(Effect::Finish { conn });
                effects.push(Effect::Receive { conn, wanted: true });
            }
            Event::Hangup { conn } => effects.push(Effect::Close { conn }),
            Event::Closed { .. } | Event::Stop => effects.push(Effect::Stopped),
            _ => {}
        }
    }

    fn finish_turn(&mut self, _: Now, effects: &mut Effects) {
        effects.push(Effect::Serve);
    }
}

#[test]
fn who_is_refused_before_the_handshake_hears_the_reason_after_it() {
    let authority = Authority::new();
    let identity = authority.sign("127.0.0.1");
    let acceptor = Acceptor::new(identity.identity(), None).expect("it can be used");
    let connector = Connector::new(authority.ca.as_bytes(), None, "127.0.0.1").expect("a name");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = Listener::bind(Listen::on(any)).expect("a free port");
    let address = listener.address();
    let mut driver = Driver::new(DriverConfig {
        listeners: vec![listener.with_tls(acceptor)],
        ..DriverConfig::default()
    })
    .expect("io_uring is allowed here");
    let thread = std::thread::spawn(move || driver.run(&mut Refuser));
    let mut stream = client(address, &connector);
    let mut said = Vec::new();
    stream.write_all(b"never read").expect("it is open");
    stream.read_to_end(&mut said).expect("an orderly end");
    assert_eq!(said, b"too many");
    drop(stream);
    assert!(matches!(thread.join(), Ok(Outcome::Stopped)));
}

#[test]
fn more_handshakes_than_a_turn_takes_are_all_done() {
    let (running, connector) = node();
    let clients: Vec<_> = (0..60)
        .map(|_| {
            let mut stream = client(running.address, &connector);
            std::thread::spawn(move || {
                stream.write_all(b"").expect("nothing to write");
                stream.conn.complete_io(&mut stream.sock).expect("trusted");
            })
        })
        .collect();
    for client in clients {
        client.join().expect("it is let in");
    }
    for _ in 0..60 {
        while running.hear() != Heard::Closed {}
    }
    assert_eq!(running.counters.tls_opened.get(), 60);
}

#[test]
fn an_end_of_the_sending_side_is_said_and_then_shown() {
    let (running, connector) = node();
    let mut stream = client(running.address, &connector);
    stream.write_all(b"f").expect("it is open");
    let mut rest = Vec::new();
    // An end without a goodbye would be an error here.
    assert_eq!(stream.read_to_end(&mut rest).expect("it was said"), 0);
    assert_eq!(stream.sock.read(&mut [0]).expect("it was shown"), 0);
}

#[test]
fn who_speaks_no_tls_or_trusts_another_is_closed_and_counted() {
    let (running, _) = node();
    let mut plain = TcpStream::connect(running.address).expect("it listens");
    plain.write_all(&[7; 100]).expect("it is open");
    let mut rest = Vec::new();
    let _ = plain.read_to_end(&mut rest);
    // One alert, and nothing else.
    assert!(rest.is_empty() || rest[0] == 21, "{rest:?}");
    assert_eq!(
        running.hear_until(&Heard::Closed),
        [Heard::Accepted, Heard::Hangup, Heard::Closed]
    );
    assert_eq!(running.counters.tls_failed.get(), 1);
    let stranger = Authority::new();
    let connector = Connector::new(stranger.ca.as_bytes(), None, "127.0.0.1").expect("a name");
    let error = client(running.address, &connector)
        .write_all(b"e")
        .expect_err("not trusted");
    assert!(
        error.to_string().starts_with("invalid peer certificate"),
        "{error}"
    );
    running.hear_until(&Heard::Closed);
    assert_eq!(running.counters.tls_failed.get(), 2);
    assert_eq!(running.counters.tls_opened.get(), 0);
}

/// Asks for an echo on an adopted connection, before its handshake can be done.
struct Asker {
    got: Vec<u8>,
    wanted: usize,
}

impl Machine for Asker {
    fn step(&mut self, _: Now, event: Event, effects: &mut Effects) {
        match event {
            Event::Accepted { conn, .. } => effects.push(Effect::Send {
                op: OpId::new(1),
                conn,
                parts: vec![Bytes::from_static(b"e"), pattern(0, self.wanted).into()],
            }),
            Event::Received { data, .. } => {
                self.got.extend_from_slice(&data);
                if self.got.len() == self.wanted {
                    effects.push(Effect::Stopped);
                }
            }
            Event::Hangup { .. } => effects.push(Effect::Stopped),
            _ => {}
        }
    }

    fn finish_turn(&mut self, _: Now, _: &mut Effects) {}
}

#[test]
fn a_driver_speaks_tls_as_a_client_too() {
    let (running, connector) = node();
    let mut driver = Driver::new(DriverConfig::default()).expect("io_uring is allowed here");
    let stream = TcpStream::connect(running.address).expect("it listens");
    driver
        .adopter()
        .adopt_tls(stream, &connector)
        .expect("it is connected");
    let mut asker = Asker {
        got: Vec::new(),
        wanted: 1 << 20,
    };
    assert!(matches!(driver.run(&mut asker), Outcome::Stopped));
    assert!(asker.got == pattern(0, asker.wanted));
}
