//! Connections: accept, receive, send, close. Each connection has at most one receive (multishot), one send and one
//! cancelling of each in the kernel; it is closed when none of them is left, and only then is its name spent. A name is
//! never given twice, so a completion that comes late finds nobody.
//!
//! | effect | what is in flight | what follows |
//! |---|---|---|
//! | `Receive { wanted: false }` | receive | cancelled; pieces that were complete are still delivered |
//! | `CancelSend` | send | cancelled; `Sent` says how far it came |
//! | `Finish` | receive | goes on; the kernel sends what it has, then the end |
//! | `Close` | receive, send | both cancelled; `Sent`, then `Closed` last |
//! | `Connect` | connect | in `links`; the connection has its name from the beginning, and its machine hears of it at the end |
//!
//! A cancelling can miss an operation that the kernel is just about to run again. It is then repeated for as long as the
//! operation is there and not wanted.

use crate::adopt::Adopted;
use crate::counters::Counters;
use crate::links::{NodeLinks, OtherEnd};
use crate::listener::Listener;
use crate::parts::Parts;
use crate::receive_pool::{GROUP, ReceivePool};
use crate::ring::{Completion, Kind, Ring};
use crate::sending::{Gather, Sending};
use crate::slab::{Place, Slab};
use crate::syscall::{RawAddress, shutdown_sending, socket_address};
use crate::tls::{Acceptor, Connector, CurrentIdentity, Handshakes, Link};
use bytes::Bytes;
use io_uring::{opcode, types};
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::Arc;
use tiderace_base::ids::ConnectionId;
use tiderace_base::limits::{CONNECT_NS_MAX, HANDSHAKE_NS_MAX, PEER_DOOR_STRANGERS_MAX};
use tiderace_base::operation::{Door, Event, OpId};
use tiderace_base::time::Mono;

/// Accepts of one listener in the kernel at once. Each takes a descriptor before this thread hears of it, so their number
/// is all that a flood of connections takes beyond those that are open: a multishot accept would take the whole backlog.
pub(crate) const ACCEPTS_PER_LISTENER: usize = 8;
/// How long accepting rests after the process ran out of descriptors.
const ACCEPT_REST_NS: u64 = 100_000_000;

pub(crate) struct Connection {
    pub(crate) socket: OwnedFd,
    /// Who is there, as far as it is known.
    pub(crate) end: OtherEnd,
    /// A connect is in the kernel, which reads this.
    pub(crate) connecting: Option<Box<RawAddress>>,
    /// The identity that its handshake began with, if it is a link.
    pub(crate) identity_version: u64,
    /// What its bytes pass through. None: they are plain.
    pub(crate) tls: Option<Box<Link>>,
    /// The machine wants bytes.
    pub(crate) wanted: bool,
    /// A receive is in the kernel.
    receiving: bool,
    /// A cancelling of the receive is in the kernel.
    cancelling_receive: bool,
    /// Waits for a receive buffer, and stands in the queue of those.
    starved: bool,
    /// Nothing more will be received.
    hung_up: bool,
    /// The machine wants it closed.
    pub(crate) closing: bool,
    pub(crate) sending: Option<Sending>,
    /// A cancelling of the send is in the kernel.
    cancelling_send: bool,
}

struct Accepting {
    listener: Listener,
    place: Place,
    /// Nodes come in here, not clients.
    is_peer_door: bool,
    /// Connections are wanted here.
    serving: bool,
    /// Accepts in the kernel.
    armed: usize,
}

/// All connections of one driver.
pub(crate) struct Sockets {
    listeners: Vec<Accepting>,
    accept_again_at: Option<Mono>,
    pub(crate) connections: Slab<Connection>,
    connections_max: usize,
    /// Who this node is to other nodes. None: it has no links.
    pub(crate) identity: Option<CurrentIdentity>,
    /// The replacement of the identity that links were looked at for.
    pub(crate) identity_seen: u64,
    /// Connections of clients.
    pub(crate) clients: usize,
    /// Links to nodes, and those being connected to.
    pub(crate) links: usize,
    pub(crate) links_max: usize,
    /// Connections of the peer door that are not known yet.
    pub(crate) strangers: usize,
    /// Connects that are not done.
    pub(crate) connects: Handshakes,
    /// Connections that wait for a receive buffer, oldest first.
    starved: VecDeque<Place>,
    pub(crate) pool: ReceivePool,
    pub(crate) handshakes: Handshakes,
    /// Steps of handshakes in this turn.
    pub(crate) handshake_steps: usize,
    /// Small parts on their way into one record.
    pub(crate) gathered: Vec<u8>,
    spare: Vec<Gather>,
    pub(crate) counters: Arc<Counters>,
}

pub(crate) fn id_of(place: Place) -> ConnectionId {
    ConnectionId::new(place.pack())
}

impl Sockets {
    pub(crate) fn new(
        listeners: Vec<Listener>,
        connections_max: usize,
        links: Option<NodeLinks>,
        pool: ReceivePool,
        counters: Arc<Counters>,
    ) -> Self {
        let (identity, door, links_max) = match links {
            None => (None, None, 0),
            Some(links) => (Some(links.identity), links.door, links.links_max),
        };
        let listeners = listeners.into_iter().map(|listener| (listener, false));
        let listeners = listeners
            .chain(door.map(|listener| (listener, true)))
            .enumerate()
            .map(|(index, (listener, is_peer_door))| Accepting {
                listener,
                place: Place {
                    slot: index as u32,
                    generation: 0,
                },
                is_peer_door,
                serving: false,
                armed: 0,
            })
            .collect();
        Self {
            listeners,
            identity_seen: identity.as_ref().map_or(0, CurrentIdentity::version),
            identity,
            clients: 0,
            links: 0,
            links_max,
            strangers: 0,
            connects: Handshakes::new(CONNECT_NS_MAX),
            accept_again_at: None,
            connections: Slab::new(),
            connections_max,
            starved: VecDeque::new(),
            pool,
            handshakes: Handshakes::new(HANDSHAKE_NS_MAX),
            handshake_steps: 0,
            gathered: Vec::new(),
            spare: Vec::new(),
            counters,
        }
    }

    // --- Accepting ---------------------------------------------------------------------------------------------------

    /// Starts or stops accepting: nodes at the peer door, or clients at the others.
    pub(crate) fn serve(&mut self, at_peer_door: bool, serving: bool, ring: &mut Ring) {
        for accepting in &mut self.listeners {
            if accepting.is_peer_door != at_peer_door {
                continue;
            }
            accepting.serving = serving;
            if serving {
                accepting.arm(ring);
            } else if accepting.armed > 0 {
                ring.cancel_each(
                    Kind::Accept.token(accepting.place),
                    Kind::Forgotten.token(accepting.place),
                );
            }
        }
    }

    /// Accepts again where accepting rested.
    fn accept_again(&mut self, ring: &mut Ring) {
        self.accept_again_at = None;
        for accepting in self.listeners.iter_mut().filter(|it| it.serving) {
            accepting.arm(ring);
        }
    }

    pub(crate) fn on_accept(
        &mut self,
        completion: Completion,
        now: Mono,
        ring: &mut Ring,
        ready: &mut VecDeque<Event>,
    ) {
        let listener = completion.place.slot as usize;
        self.listeners[listener].armed -= 1;
        if completion.result >= 0 {
            // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
            let socket = unsafe { OwnedFd::from_raw_fd(completion.result) };
            // First: one that is turned away has given its descriptor back when the next is accepted.
            self.admit(socket, listener, now, ring, ready);
        }
        if !self.listeners[listener].serving {
            return;
        }
        match -completion.result {
            libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM => {
                self.accept_again_at = Some(now.after_ns(ACCEPT_REST_NS));
            }
            _ => self.listeners[listener].arm(ring),
        }
    }

    fn admit(
        &mut self,
        socket: OwnedFd,
        listener: usize,
        now: Mono,
        ring: &mut Ring,
        ready: &mut VecDeque<Event>,
    ) {
        let peer = match socket_address(socket.as_raw_fd(), true) {
            // One that is gone already has no other end.
            Err(_) => return,
            Ok(_) if !self.has_room(listener) => {
                self.counters.turned_away.add(1);
                return;
            }
            Ok(peer) => peer,
        };
        let accepting = &self.listeners[listener];
        // Read before the identity, so that a replacement in between is seen.
        let identity_version = self.identity.as_ref().map_or(0, CurrentIdentity::version);
        let (tls, end) = if accepting.is_peer_door {
            // Never plain: without an identity there is no peer door.
            let identity = self.identity.as_ref();
            let tls = identity.map(|identity| identity.current().accept());
            (tls.transpose(), OtherEnd::Stranger { from: peer })
        } else {
            let acceptor = accepting.listener.acceptor();
            (
                acceptor.map(Acceptor::accept).transpose(),
                OtherEnd::Client { from: peer },
            )
        };
        let Ok(tls) = tls else {
            self.counters.tls_failed.add(1);
            return;
        };
        if !accepting.is_peer_door {
            self.counters.accepted.add(1);
        }
        let mut connection = Connection::new(socket, end);
        connection.tls = tls.map(Box::new);
        connection.identity_version = identity_version;
        self.open(connection, now, ring, ready);
    }

    /// Whether one more may come in here: clients, strangers and links each have a number of their own.
    fn has_room(&self, listener: usize) -> bool {
        let accepting = &self.listeners[listener];
        accepting.serving
            && if accepting.is_peer_door {
                self.strangers < PEER_DOOR_STRANGERS_MAX
            } else {
                self.clients < self.connections_max
            }
    }

    /// Begins a connection on a socket that was connected here.
    pub(crate) fn adopt(
        &mut self,
        (socket, peer, connector): Adopted,
        now: Mono,
        ring: &mut Ring,
        ready: &mut VecDeque<Event>,
    ) {
        let Ok(tls) = connector.as_ref().map(Connector::connect).transpose() else {
            self.counters.tls_failed.add(1);
            return;
        };
        let mut connection = Connection::new(socket.into(), OtherEnd::Client { from: peer });
        connection.tls = tls.map(Box::new);
        self.open(connection, now, ring, ready);
    }

    fn open(
        &mut self,
        connection: Connection,
        now: Mono,
        ring: &mut Ring,
        ready: &mut VecDeque<Event>,
    ) {
        let (is_secure, end) = (connection.tls.is_some(), connection.end);
        let place = self.insert(connection);
        if let OtherEnd::Client { from } = end {
            ready.push_back(Event::Accepted {
                conn: id_of(place),
                peer: from,
                from: Door::Client,
            });
        }
        if let Some(connection) = self.connections.get_mut(place) {
            connection.arm(place, ring);
        }
        if is_secure {
            self.handshakes.begin(place, now);
            self.advance_tls(place, ring, ready);
        }
    }

    /// Counts it among its kind and gives it its name.
    pub(crate) fn insert(&mut self, connection: Connection) -> Place {
        *self.count_of(connection.end) += 1;
        self.connections.insert(connection)
    }

    /// When something of this module's own is due.
    pub(crate) fn next_wake(&self) -> Option<Mono> {
        let handshakes = self.handshakes.next_wake();
        [self.accept_again_at, handshakes, self.connects.next_wake()]
            .into_iter()
            .flatten()
            .min()
    }

    // --- Receiving ---------------------------------------------------------------------------------------------------

    /// Ends a turn: gives the kernel the buffers that came back, and those who wait for one another chance, oldest first
    /// and no more of them than there are buffers. True: some still wait. Each of those that got a chance has bytes or
    /// an end to report, so the next turn comes at once and the others follow.
    pub(crate) fn finish_turn(
        &mut self,
        now: Mono,
        ring: &mut Ring,
        ready: &mut VecDeque<Event>,
    ) -> bool {
        self.pool.reclaim();
        let mut buffers = self.pool.free();
        while buffers > 0 {
            let Some(place) = self.starved.pop_front() else {
                break;
            };
            let Some(connection) = self.connections.get_mut(place) else {
                continue;
            };
            connection.starved = false;
            if connection.may_receive() {
                connection.arm(place, ring);
                buffers -= 1;
            }
        }
        if self.accept_again_at.is_some_and(|at| at <= now) {
            self.accept_again(ring);
        }
        self.handshake_steps = 0;
        self.end_handshakes(now, ring, ready);
        self.end_connects(now, ring, ready);
        !self.starved.is_empty()
    }

    pub(crate) fn on_receive(
        &mut self,
        completion: Completion,
        ring: &mut Ring,
        ready: &mut VecDeque<Event>,
    ) {
        let place = completion.place;
        let Some(connection) = self.connections.get_mut(place) else {
            if let Some(buffer) = completion.buffer() {
                self.pool.discard(buffer);
            }
            return;
        };
        connection.receiving = completion.more();
        let result = completion.result;
        match completion.buffer() {
            Some(buffer) if result > 0 && !connection.closing && connection.tls.is_some() => {
                self.counters.received.add(1);
                self.received_tls(place, buffer, result as usize, ring, ready);
            }
            Some(buffer) if result > 0 && !connection.closing => {
                let (data, copied) = self.pool.take(buffer, result as usize);
                self.counters.received.add(1);
                self.counters.received_copied.add(u64::from(copied));
                ready.push_back(Event::Received {
                    conn: id_of(place),
                    data,
                });
            }
            Some(buffer) => self.pool.discard(buffer),
            None => {}
        }
        let Some(connection) = self.connections.get_mut(place) else {
            return;
        };
        match -result {
            _ if result > 0 => {}
            libc::ENOBUFS => {
                self.counters.receive_starved.add(1);
                if connection.may_receive() && !connection.starved {
                    connection.starved = true;
                    self.starved.push_back(place);
                }
            }
            // Nothing was wrong with the connection: receive on if that is wanted.
            libc::ECANCELED | libc::EINTR | libc::EAGAIN | libc::ENOMEM => {}
            // The end of the stream, or an error.
            _ => connection.hang_up(place, ready),
        }
        if connection.may_receive() && !connection.starved {
            connection.arm(place, ring);
        }
        self.settle(place, ring, ready);
    }

    /// Stops or resumes receiving.
    pub(crate) fn want(&mut self, conn: ConnectionId, wanted: bool, ring: &mut Ring) {
        let place = Place::unpack(conn.get());
        let Some(connection) = self.connections.get_mut(place) else {
            return;
        };
        connection.wanted = wanted;
        if connection.may_receive() && !connection.starved {
            connection.arm(place, ring);
        } else if !connection.is_receive_wanted() {
            connection.cancel_receive(place, ring);
        }
    }

    pub(crate) fn on_cancel_receive(&mut self, place: Place, ring: &mut Ring) {
        if let Some(connection) = self.connections.get_mut(place) {
            connection.cancelling_receive = false;
            if connection.receiving && (!connection.is_receive_wanted() || connection.closing) {
                connection.cancel_receive(place, ring);
            }
        }
    }

    // --- Sending -----------------------------------------------------------------------------------------------------

    pub(crate) fn send(
        &mut self,
        op: OpId,
        conn: ConnectionId,
        parts: Vec<Bytes>,
        ring: &mut Ring,
        ready: &mut VecDeque<Event>,
    ) {
        let place = Place::unpack(conn.get());
        let mut sent = |alive| {
            ready.push_back(Event::Sent {
                op,
                conn,
                sent_bytes: 0,
                alive,
            });
        };
        let Some(connection) = self.connections.get_mut(place) else {
            return sent(false);
        };
        if connection.closing {
            return sent(false);
        }
        assert!(
            connection.sending.is_none(),
            "one send at a time: {conn:?} has one in flight"
        );
        let parts = Parts::new(parts);
        if parts.is_empty() {
            return sent(true);
        }
        let mut sending = Sending::new(op, parts);
        if connection.tls.is_some() {
            connection.sending = Some(sending);
            return self.advance_tls(place, ring, ready);
        }
        sending.submit(place, &connection.socket, &mut self.spare, ring);
        connection.sending = Some(sending);
    }

    pub(crate) fn on_send(
        &mut self,
        completion: Completion,
        ring: &mut Ring,
        ready: &mut VecDeque<Event>,
    ) {
        let place = completion.place;
        let Some(connection) = self.connections.get_mut(place) else {
            return;
        };
        if connection.tls.is_some() {
            return self.sent_tls(place, completion.result, ring, ready);
        }
        let Some(sending) = connection.sending.as_mut() else {
            return;
        };
        let stop = sending.cancelled || connection.closing;
        let (ended, alive) = match usize::try_from(completion.result) {
            Ok(0) => (true, false),
            Ok(sent) => (sending.advance(sent) || stop, true),
            Err(_) => match -completion.result {
                libc::ECANCELED => (true, true),
                libc::EINTR | libc::EAGAIN | libc::ENOMEM | libc::ENOBUFS => (stop, true),
                _ => (true, false),
            },
        };
        if !ended {
            self.counters.sends_continued.add(1);
            sending.submit(place, &connection.socket, &mut self.spare, ring);
            return;
        }
        ready.push_back(sending.ended(place, alive && !connection.closing));
        self.spare.extend(sending.gather.take());
        connection.sending = None;
        self.finish_close(place, ready);
    }

    pub(crate) fn cancel_send(
        &mut self,
        conn: ConnectionId,
        ring: &mut Ring,
        ready: &mut VecDeque<Event>,
    ) {
        let place = Place::unpack(conn.get());
        let Some(connection) = self.connections.get_mut(place) else {
            return;
        };
        connection.cancel_send(place, ring);
        if connection.tls.is_some() {
            self.advance_tls(place, ring, ready);
        }
    }

    pub(crate) fn on_cancel_send(&mut self, place: Place, ring: &mut Ring) {
        if let Some(connection) = self.connections.get_mut(place) {
            connection.cancelling_send = false;
            let sending = connection.sending.as_ref();
            let is_cancelled = sending.is_some_and(|sending| sending.cancelled);
            if is_cancelled || connection.closing {
                connection.cancel_send(place, ring);
            }
        }
    }

    /// Ends the sending side.
    pub(crate) fn finish(
        &mut self,
        conn: ConnectionId,
        ring: &mut Ring,
        ready: &mut VecDeque<Event>,
    ) {
        let place = Place::unpack(conn.get());
        let Some(connection) = self.connections.get_mut(place) else {
            return;
        };
        assert!(
            connection.sending.is_none(),
            "{conn:?} ends its side while it sends"
        );
        if let Some(link) = &mut connection.tls {
            link.finish();
            return self.advance_tls(place, ring, ready);
        }
        // A peer that is gone already is told by its own end.
        let _ = shutdown_sending(&connection.socket);
    }

    // --- Closing -----------------------------------------------------------------------------------------------------

    pub(crate) fn close(
        &mut self,
        conn: ConnectionId,
        ring: &mut Ring,
        ready: &mut VecDeque<Event>,
    ) {
        let place = Place::unpack(conn.get());
        let Some(connection) = self.connections.get_mut(place) else {
            return;
        };
        if connection.closing {
            return;
        }
        connection.closing = true;
        connection.cancel_receive(place, ring);
        connection.cancel_send(place, ring);
        self.finish_close(place, ready);
    }

    /// Closes the socket when nothing on it is left in the kernel.
    pub(crate) fn finish_close(&mut self, place: Place, ready: &mut VecDeque<Event>) {
        let Some(connection) = self.connections.get_mut(place) else {
            return;
        };
        let is_connecting = connection.connecting.is_some();
        if !connection.closing || connection.receiving || connection.is_sending() || is_connecting {
            return;
        }
        // One that waited for a handshake is not in the kernel.
        if let Some(sending) = connection.sending.take() {
            ready.push_back(sending.ended(place, false));
        }
        let end = connection.end;
        drop(self.connections.remove(place));
        *self.count_of(end) -= 1;
        if end.is_told() {
            ready.push_back(Event::Closed { conn: id_of(place) });
        }
        // A descriptor is free again.
        if let Some(at) = &mut self.accept_again_at {
            *at = Mono::from_ns(0);
        }
    }

    /// At the driver's end, for completions that nobody is told about.
    pub(crate) fn discard(&mut self, completion: Completion) {
        match completion.kind {
            Kind::Accept if completion.result >= 0 => {
                // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
                drop(unsafe { OwnedFd::from_raw_fd(completion.result) });
            }
            Kind::Receive => {
                if let Some(buffer) = completion.buffer() {
                    self.pool.discard(buffer);
                }
            }
            _ => {}
        }
    }

    /// Keeps everything that the kernel may still use for ever.
    pub(crate) fn leak(&mut self) {
        self.pool.leak();
        for (_, connection) in self.connections.iter_mut() {
            if let Some(sending) = connection.sending.take() {
                Box::leak(Box::new(sending));
            }
            if let Some(link) = connection.tls.take() {
                Box::leak(link);
            }
            if let Some(address) = connection.connecting.take() {
                Box::leak(address);
            }
        }
    }
}

impl std::fmt::Debug for Sockets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sockets")
            .field("connections", &self.connections.len())
            .finish_non_exhaustive()
    }
}

impl Accepting {
    fn arm(&mut self, ring: &mut Ring) {
        while self.armed < ACCEPTS_PER_LISTENER {
            self.armed += 1;
            let nowhere = ptr::null_mut();
            let entry =
                opcode::Accept::new(types::Fd(self.listener.fd()), nowhere, ptr::null_mut())
                    .flags(libc::SOCK_CLOEXEC)
                    .build()
                    .user_data(Kind::Accept.token(self.place));
            // SAFETY: the entry points to nothing.
            unsafe { ring.push(entry) };
        }
    }
}

impl Connection {
    pub(crate) const fn new(socket: OwnedFd, end: OtherEnd) -> Self {
        Self {
            socket,
            end,
            connecting: None,
            identity_version: 0,
            tls: None,
            wanted: true,
            receiving: false,
            cancelling_receive: false,
            starved: false,
            hung_up: false,
            closing: false,
            sending: None,
            cancelling_send: false,
        }
    }

    /// The machine wants bytes, or a handshake does.
    fn is_receive_wanted(&self) -> bool {
        self.wanted || self.tls.as_ref().is_some_and(|link| link.is_shaking())
    }

    /// Nothing more will be received.
    pub(crate) const fn is_hung_up(&self) -> bool {
        self.hung_up
    }

    fn may_receive(&self) -> bool {
        self.is_receive_wanted() && !self.receiving && !self.hung_up && !self.closing
    }

    pub(crate) fn arm(&mut self, place: Place, ring: &mut Ring) {
        self.receiving = true;
        let entry = opcode::RecvMulti::new(types::Fd(self.socket.as_raw_fd()), GROUP)
            .build()
            .user_data(Kind::Receive.token(place));
        // SAFETY: the kernel writes to buffers of the pool alone, which keeps them until the ring is gone.
        unsafe { ring.push(entry) };
    }

    /// A send is in the kernel.
    pub(crate) fn is_sending(&self) -> bool {
        match &self.tls {
            None => self.sending.is_some(),
            Some(link) => link.is_sending(),
        }
    }

    pub(crate) fn hang_up(&mut self, place: Place, ready: &mut VecDeque<Event>) {
        if !self.hung_up && !self.closing && self.end.is_told() {
            ready.push_back(Event::Hangup { conn: id_of(place) });
        }
        self.hung_up = true;
    }

    pub(crate) fn cancel_receive(&mut self, place: Place, ring: &mut Ring) {
        if self.receiving && !self.cancelling_receive {
            self.cancelling_receive = true;
            ring.cancel(Kind::Receive.token(place), Kind::CancelReceive.token(place));
        }
    }

    pub(crate) fn cancel_send(&mut self, place: Place, ring: &mut Ring) {
        if let Some(sending) = &mut self.sending {
            sending.cancelled = true;
        }
        let is_wanted = self.sending.is_none() && !self.closing;
        if self.is_sending() && !is_wanted && !self.cancelling_send {
            self.cancelling_send = true;
            ring.cancel(Kind::Send.token(place), Kind::CancelSend.token(place));
        }
    }
}
