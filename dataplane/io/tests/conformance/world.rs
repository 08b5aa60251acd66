//! What the cases share: a machine made of a closure, a driver running it on its own thread, an echo machine, clients,
//! and folders that go away.

use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tiderace_base::ids::ConnectionId;
use tiderace_base::operation::{Effect, Effects, Event, Machine, OpIds};
use tiderace_base::time::Now;
use tiderace_io::{Counters, Driver, DriverConfig, Listen, Listener, Outcome, StopHandle};

/// A machine made of a closure, which gets each event, and none at the end of a turn. It serves from the start and stops
/// when it is asked to.
pub(crate) struct Scripted<F> {
    begun: bool,
    script: F,
}

impl<F: FnMut(Now, Option<Event>, &mut Effects)> Scripted<F> {
    pub(crate) fn new(script: F) -> Self {
        Self {
            begun: false,
            script,
        }
    }
}

impl<F: FnMut(Now, Option<Event>, &mut Effects)> Machine for Scripted<F> {
    fn step(&mut self, now: Now, event: Event, effects: &mut Effects) {
        let stop = matches!(event, Event::Stop);
        (self.script)(now, Some(event), effects);
        if stop {
            effects.push(Effect::Stopped);
        }
    }

    fn finish_turn(&mut self, now: Now, effects: &mut Effects) {
        if !self.begun {
            self.begun = true;
            effects.push(Effect::Serve);
        }
        (self.script)(now, None, effects);
    }
}

/// A driver on its own thread.
pub(crate) struct Running {
    thread: Option<JoinHandle<Outcome>>,
    pub(crate) stop: StopHandle,
    pub(crate) counters: Arc<Counters>,
    pub(crate) address: SocketAddr,
}

impl Running {
    /// Asks for the end and waits for it.
    pub(crate) fn finish(mut self) -> Outcome {
        self.stop.stop();
        self.join()
    }

    /// Waits for the end.
    pub(crate) fn join(&mut self) -> Outcome {
        let thread = self.thread.take().expect("joined once");
        match thread.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// A client's connection. Its timeout turns a hang into a failure.
    pub(crate) fn connect(&self) -> TcpStream {
        connect(self.address)
    }
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the listener has room");
    stream.set_nodelay(true).expect("a TCP socket");
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .expect("a TCP socket");
    stream
}

/// Runs `machine` with a listener of its own.
pub(crate) fn start<M: Machine + Send + 'static>(config: DriverConfig, machine: M) -> Running {
    start_listening(config, Listen::on(any_port()), machine)
}

pub(crate) fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Runs `machine` with a listener as described.
pub(crate) fn start_listening<M: Machine + Send + 'static>(
    mut config: DriverConfig,
    listen: Listen,
    mut machine: M,
) -> Running {
    let listener = Listener::bind(listen).expect("the loopback has a free port");
    let address = listener.address();
    config.listeners.push(listener);
    let mut driver = Driver::new(config).expect("io_uring is allowed here");
    let stop = driver.stop_handle();
    let counters = driver.counters();
    let thread = std::thread::spawn(move || driver.run(&mut machine));
    Running {
        thread: Some(thread),
        stop,
        counters,
        address,
    }
}

/// Sends back what it receives, in order, and closes when the other end is done. Checks the order of events as it goes.
#[derive(Default)]
pub(crate) struct Echo {
    connections: BTreeMap<ConnectionId, EchoConnection>,
    closed: BTreeSet<ConnectionId>,
    ops: OpIds,
}

#[derive(Default)]
struct EchoConnection {
    pending: VecDeque<Bytes>,
    sending_bytes: Option<u64>,
    hung_up: bool,
    closing: bool,
}

impl Echo {
    pub(crate) fn step(&mut self, event: &Event, effects: &mut Effects) {
        match event {
            Event::Accepted { conn, .. } => {
                assert!(!self.closed.contains(conn), "{conn:?} is given twice");
                let before = self.connections.insert(*conn, EchoConnection::default());
                assert!(before.is_none(), "{conn:?} is given twice");
            }
            Event::Received { conn, data } => {
                assert!(!data.is_empty());
                let connection = self
                    .connections
                    .get_mut(conn)
                    .expect("accepted, not closed");
                assert!(!connection.hung_up, "nothing is received after a hangup");
                connection.pending.push_back(data.clone());
                self.go_on(*conn, effects);
            }
            Event::Hangup { conn } => {
                let connection = self
                    .connections
                    .get_mut(conn)
                    .expect("accepted, not closed");
                assert!(!connection.hung_up, "a connection hangs up once");
                connection.hung_up = true;
                self.go_on(*conn, effects);
            }
            Event::Sent {
                conn,
                sent_bytes,
                alive,
                ..
            } => {
                let connection = self
                    .connections
                    .get_mut(conn)
                    .expect("accepted, not closed");
                let asked = connection.sending_bytes.take();
                if *alive {
                    assert_eq!(asked, Some(*sent_bytes));
                }
                self.go_on(*conn, effects);
            }
            Event::Closed { conn } => {
                let connection = self.connections.remove(conn).expect("closed once");
                assert!(connection.closing && connection.sending_bytes.is_none());
                self.closed.insert(*conn);
            }
            _ => {}
        }
    }

    pub(crate) fn open(&self) -> usize {
        self.connections.len()
    }

    fn go_on(&mut self, conn: ConnectionId, effects: &mut Effects) {
        let connection = self.connections.get_mut(&conn).expect("still there");
        if connection.sending_bytes.is_some() || connection.closing {
            return;
        }
        if connection.pending.is_empty() {
            if connection.hung_up {
                connection.closing = true;
                effects.push(Effect::Close { conn });
            }
            return;
        }
        let parts: Vec<Bytes> = connection.pending.drain(..).collect();
        connection.sending_bytes = Some(parts.iter().map(|part| part.len() as u64).sum());
        effects.push(Effect::Send {
            op: self.ops.allocate(),
            conn,
            parts,
        });
    }
}

/// An echo server.
pub(crate) fn start_echo(config: DriverConfig) -> Running {
    let mut echo = Echo::default();
    start(
        config,
        Scripted::new(move |_, event, effects: &mut Effects| {
            if let Some(event) = event {
                echo.step(&event, effects);
            }
        }),
    )
}

/// `len` bytes that tell positions and seeds apart.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    tiderace_base::prng::Prng::new(seed).fill(&mut bytes);
    bytes
}

/// A folder of its own, removed in the end.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the target folder is writable");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
