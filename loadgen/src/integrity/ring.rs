//! The client's engine on our own ring: connects its links, carries their bytes and their timers. Connecting blocks this
//! thread for a short, bounded time, which costs nothing here: nothing is measured, and a node that is down refuses at
//! once. A link that is lost is reported to the engine, which decides what to do about it.

use bytes::Bytes;
use std::collections::VecDeque;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use tiderace_base::collections::Map;
use tiderace_base::ids::ConnectionId;
use tiderace_base::operation::{Effect, Effects, Event, OpIds};
use tiderace_base::time::{Mono, Now};
use tiderace_client::core::engine::{self, Engine, LinkId, Settings};
use tiderace_io::{Adopter, Connector, Driver, DriverConfig, entropy};

/// How long one attempt to connect may take.
const CONNECT_MAX: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
struct Socket {
    conn: Option<ConnectionId>,
    sending: bool,
    parts: Vec<Bytes>,
}

/// The engine and its sockets.
#[derive(Debug)]
pub(crate) struct Ring {
    pub(crate) engine: Engine,
    adopter: Adopter,
    tls: Option<Connector>,
    by_conn: Map<ConnectionId, LinkId>,
    /// By the link's number.
    sockets: Vec<Socket>,
    /// Sockets that were handed over, in order; none: given up meanwhile.
    expected: VecDeque<Option<LinkId>>,
    ops: OpIds,
    /// Connections that were open and were lost.
    pub(crate) lost: u64,
}

impl Ring {
    /// An engine for this node, and the driver that it will run on.
    pub(crate) fn new(
        server: SocketAddr,
        tls: Option<Connector>,
        cpu: Option<usize>,
    ) -> Result<(Self, Driver), String> {
        let driver = Driver::new(DriverConfig {
            cpu,
            ..DriverConfig::default()
        })
        .map_err(|error| error.to_string())?;
        let mut settings = Settings::new(crate::setup::identity(), vec![server]);
        // The node may be started again within milliseconds.
        settings.backoff.longest_ns = 200_000_000;
        let ring = Self {
            engine: Engine::new(settings, entropy::random_u64()),
            adopter: driver.adopter(),
            tls,
            by_conn: Map::default(),
            sockets: Vec::new(),
            expected: VecDeque::new(),
            ops: OpIds::default(),
            lost: 0,
        };
        Ok((ring, driver))
    }

    fn socket(&mut self, link: LinkId) -> &mut Socket {
        if self.sockets.len() <= link.index() {
            self.sockets.resize_with(link.index() + 1, Socket::default);
        }
        &mut self.sockets[link.index()]
    }

    /// Takes what happened on a socket.
    pub(crate) fn step(&mut self, now: Now, event: Event, effects: &mut Effects) {
        match event {
            Event::Accepted { conn, .. } => match self.expected.pop_front().flatten() {
                Some(link) => {
                    self.by_conn.insert(conn, link);
                    self.socket(link).conn = Some(conn);
                    self.engine.connected(now, link);
                }
                None => effects.push(Effect::Close { conn }),
            },
            Event::Received { conn, data } => {
                if let Some(link) = self.by_conn.get(&conn).copied() {
                    self.engine.received(now, link, data);
                }
            }
            Event::Sent { conn, alive, .. } => {
                if let Some(link) = self.by_conn.get(&conn).copied() {
                    self.socket(link).sending = false;
                }
                if !alive {
                    self.hang_up(now, conn, effects);
                }
            }
            Event::Hangup { conn } => self.hang_up(now, conn, effects),
            _ => {}
        }
    }

    fn hang_up(&mut self, now: Now, conn: ConnectionId, effects: &mut Effects) {
        if let Some(link) = self.by_conn.remove(&conn) {
            self.lost += 1;
            *self.socket(link) = Socket::default();
            effects.push(Effect::Close { conn });
            self.engine.disconnected(now, link);
        }
    }

    /// Does what the engine wants done, and pushes what it tells the application behind `told`.
    pub(crate) fn turn(
        &mut self,
        now: Now,
        effects: &mut Effects,
        told: &mut VecDeque<engine::Event>,
    ) {
        if self.engine.wake_at().is_some_and(|at| at <= now.mono) {
            self.engine.tick(now);
        }
        while let Some(event) = self.engine.next_event() {
            match event {
                engine::Event::Connect { link, address } => self.connect(now, link, address),
                engine::Event::Disconnect { link } => self.disconnect(link, effects),
                other => told.push_back(other),
            }
        }
    }

    /// Sends what there is to be sent, and says when the engine wants to be woken; `also`: when the application does.
    pub(crate) fn finish(&mut self, also: Mono, effects: &mut Effects) {
        while let Some(link) = self.engine.next_transmit() {
            let mut parts = Vec::new();
            self.engine.transmit(link, &mut parts);
            self.socket(link).parts.append(&mut parts);
        }
        for socket in &mut self.sockets {
            if let Some(conn) = socket.conn
                && !socket.sending
                && !socket.parts.is_empty()
            {
                socket.sending = true;
                effects.push(Effect::Send {
                    op: self.ops.allocate(),
                    conn,
                    parts: std::mem::take(&mut socket.parts),
                });
            }
        }
        let at = self.engine.wake_at().map_or(also, |at| at.min(also));
        effects.push(Effect::WakeAt(at));
    }

    fn connect(&mut self, now: Now, link: LinkId, address: SocketAddr) {
        let adopted =
            TcpStream::connect_timeout(&address, CONNECT_MAX).and_then(|socket| match &self.tls {
                None => self.adopter.adopt(socket),
                Some(tls) => self.adopter.adopt_tls(socket, tls),
            });
        match adopted {
            Ok(()) => self.expected.push_back(Some(link)),
            Err(_) => self.engine.disconnected(now, link),
        }
    }

    fn disconnect(&mut self, link: LinkId, effects: &mut Effects) {
        for expected in &mut self.expected {
            if *expected == Some(link) {
                *expected = None;
            }
        }
        if let Some(conn) = std::mem::take(self.socket(link)).conn {
            self.by_conn.remove(&conn);
            effects.push(Effect::Close { conn });
        }
    }
}
