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
//!
//! A cancelling can miss an operation that the kernel is just about to run again. It is then repeated for as long as the
//! operation is there and not wanted.

use crate::counters::Counters;
use crate::listener::Listener;
use crate::receive_pool::{GROUP, ReceivePool};
use crate::ring::{Completion, Kind, Ring};
use crate::slab::{Place, Slab};
use crate::syscall::{shutdown_sending, socket_address};
use bytes::Bytes;
use io_uring::{opcode, types};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::Arc;
use tiderace_base::ids::ConnectionId;
use tiderace_base::operation::{Event, OpId};
use tiderace_base::time::Mono;

/// Parts that one syscall gathers.
const PARTS_MAX: usize = 64;
/// The most that one syscall is asked to send: a length is a `u32` there and its result an `i32`.
const SEND_BYTES_MAX: usize = 1 << 30;
/// Accepts of one listener in the kernel at once. Each takes a descriptor before this thread hears of it, so their number
/// is all that a flood of connections takes beyond those that are open: a multishot accept would take the whole backlog.
pub(crate) const ACCEPTS_PER_LISTENER: usize = 8;
/// How long accepting rests after the process ran out of descriptors.
const ACCEPT_REST_NS: u64 = 100_000_000;

struct Connection {
    socket: OwnedFd,
    /// The machine wants bytes.
    wanted: bool,
    /// A receive is in the kernel.
    receiving: bool,
    /// A cancelling of the receive is in the kernel.
    cancelling_receive: bool,
    /// Waits for a receive buffer, and stands in the queue of those.
    starved: bool,
    /// Nothing more will be received.
    hung_up: bool,
    /// The machine wants it closed.
    closing: bool,
    sending: Option<Sending>,
    /// A cancelling of the send is in the kernel.
    cancelling_send: bool,
}

struct Sending {
    op: OpId,
    /// What is left, in order; no part is empty. Owned until the last completion.
    parts: VecDeque<Bytes>,
    /// How much of the first part is gone.
    skip: usize,
    sent_bytes: u64,
    cancelled: bool,
    gather: Option<Gather>,
}

/// What `sendmsg` points to, in a place of its own that does not move.
struct Gather(Box<Vectors>);

struct Vectors {
    header: libc::msghdr,
    vectors: [libc::iovec; PARTS_MAX],
}

// SAFETY: the pointers inside are written and read by the kernel and `Sending::submit` alone; they point to memory that
// moves between threads together with them.
unsafe impl Send for Vectors {}

impl Gather {
    fn new() -> Self {
        let empty = libc::iovec {
            iov_base: ptr::null_mut(),
            iov_len: 0,
        };
        Self(Box::new(Vectors {
            // SAFETY: all zeros is a valid, empty `msghdr`.
            header: unsafe { std::mem::zeroed() },
            vectors: [empty; PARTS_MAX],
        }))
    }
}

impl Sending {
    fn submit(&mut self, place: Place, socket: &OwnedFd, spare: &mut Vec<Gather>, ring: &mut Ring) {
        let fd = types::Fd(socket.as_raw_fd());
        let token = Kind::Send.token(place);
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let first = &self.parts[0][self.skip..];
        if self.parts.len() == 1 {
            let len = first.len().min(SEND_BYTES_MAX) as u32;
            let entry = opcode::Send::new(fd, first.as_ptr(), len)
                .flags(flags)
                .build();
            // SAFETY: the part lives in `parts` until the completion; the kernel only reads it.
            unsafe { ring.push(entry.user_data(token)) };
            return;
        }
        let Gather(gather) = self
            .gather
            .get_or_insert_with(|| spare.pop().unwrap_or_else(Gather::new));
        let mut count = 0;
        let mut room = SEND_BYTES_MAX;
        for (index, part) in self.parts.iter().take(PARTS_MAX).enumerate() {
            let bytes = if index == 0 { first } else { &part[..] };
            if room == 0 {
                break;
            }
            let len = bytes.len().min(room);
            room -= len;
            gather.vectors[index] = libc::iovec {
                iov_base: bytes.as_ptr().cast_mut().cast(),
                iov_len: len,
            };
            count = index + 1;
        }
        gather.header.msg_iov = gather.vectors.as_mut_ptr();
        gather.header.msg_iovlen = count as _;
        let entry = opcode::SendMsg::new(fd, &raw const gather.header)
            .flags(flags as u32)
            .build();
        // SAFETY: the header and the vectors lie in a box, the parts in `parts`, all of them untouched until the
        // completion; the kernel only reads them.
        unsafe { ring.push(entry.user_data(token)) };
    }

    /// Drops what was sent. True: nothing is left.
    fn advance(&mut self, sent: usize) -> bool {
        self.sent_bytes += sent as u64;
        let mut passed = self.skip + sent;
        while let Some(first) = self.parts.front() {
            if passed < first.len() {
                break;
            }
            passed -= first.len();
            self.parts.pop_front();
        }
        assert!(
            passed == 0 || !self.parts.is_empty(),
            "the kernel sent more than it was given"
        );
        self.skip = passed;
        self.parts.is_empty()
    }
}

struct Accepting {
    listener: Listener,
    place: Place,
    /// Accepts in the kernel.
    armed: usize,
}

/// All connections of one driver.
pub(crate) struct Sockets {
    listeners: Vec<Accepting>,
    serving: bool,
    accept_again_at: Option<Mono>,
    connections: Slab<Connection>,
    connections_max: usize,
    /// Connections that wait for a receive buffer, oldest first.
    starved: VecDeque<Place>,
    pool: ReceivePool,
    spare: Vec<Gather>,
    counters: Arc<Counters>,
}

fn id_of(place: Place) -> ConnectionId {
    ConnectionId::new(place.pack())
}

impl Sockets {
    pub(crate) fn new(
        listeners: Vec<Listener>,
        connections_max: usize,
        pool: ReceivePool,
        counters: Arc<Counters>,
    ) -> Self {
        let listeners = listeners
            .into_iter()
            .enumerate()
            .map(|(index, listener)| Accepting {
                listener,
                place: Place {
                    slot: index as u32,
                    generation: 0,
                },
                armed: 0,
            })
            .collect();
        Self {
            listeners,
            serving: false,
            accept_again_at: None,
            connections: Slab::new(),
            connections_max,
            starved: VecDeque::new(),
            pool,
            spare: Vec::new(),
            counters,
        }
    }

    // --- Accepting ---------------------------------------------------------------------------------------------------

    /// Starts or stops accepting.
    pub(crate) fn serve(&mut self, serving: bool, ring: &mut Ring) {
        self.serving = serving;
        self.accept_again_at = None;
        for accepting in &mut self.listeners {
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
            self.admit(socket, ring, ready);
        }
        if !self.serving {
            return;
        }
        match -completion.result {
            libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM => {
                self.accept_again_at = Some(now.after_ns(ACCEPT_REST_NS));
            }
            _ => self.listeners[listener].arm(ring),
        }
    }

    fn admit(&mut self, socket: OwnedFd, ring: &mut Ring, ready: &mut VecDeque<Event>) {
        let peer = match socket_address(socket.as_raw_fd(), true) {
            // One that is gone already has no other end.
            Err(_) => return,
            Ok(_) if !self.serving || self.connections.len() >= self.connections_max => {
                self.counters.turned_away.add(1);
                return;
            }
            Ok(peer) => peer,
        };
        self.counters.accepted.add(1);
        self.open(socket, peer, ring, ready);
    }

    /// Begins a connection on a connected socket.
    pub(crate) fn open(
        &mut self,
        socket: OwnedFd,
        peer: SocketAddr,
        ring: &mut Ring,
        ready: &mut VecDeque<Event>,
    ) {
        let place = self.connections.insert(Connection {
            socket,
            wanted: true,
            receiving: false,
            cancelling_receive: false,
            starved: false,
            hung_up: false,
            closing: false,
            sending: None,
            cancelling_send: false,
        });
        ready.push_back(Event::Accepted {
            conn: id_of(place),
            peer,
        });
        if let Some(connection) = self.connections.get_mut(place) {
            connection.arm(place, ring);
        }
    }

    /// When something of this module's own is due.
    pub(crate) fn next_wake(&self) -> Option<Mono> {
        self.accept_again_at
    }

    // --- Receiving ---------------------------------------------------------------------------------------------------

    /// Ends a turn: gives the kernel the buffers that came back, and those who wait for one another chance, oldest first
    /// and no more of them than there are buffers. True: some still wait. Each of those that got a chance has bytes or
    /// an end to report, so the next turn comes at once and the others follow.
    pub(crate) fn finish_turn(&mut self, now: Mono, ring: &mut Ring) -> bool {
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
            self.serve(true, ring);
        }
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
        self.finish_close(place, ready);
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
        } else if !wanted {
            connection.cancel_receive(place, ring);
        }
    }

    pub(crate) fn on_cancel_receive(&mut self, place: Place, ring: &mut Ring) {
        if let Some(connection) = self.connections.get_mut(place) {
            connection.cancelling_receive = false;
            if connection.receiving && (!connection.wanted || connection.closing) {
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
        let mut parts = VecDeque::from(parts);
        parts.retain(|part| !part.is_empty());
        if parts.is_empty() {
            return sent(true);
        }
        let mut sending = Sending {
            op,
            parts,
            skip: 0,
            sent_bytes: 0,
            cancelled: false,
            gather: None,
        };
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
        ready.push_back(Event::Sent {
            op: sending.op,
            conn: id_of(place),
            sent_bytes: sending.sent_bytes,
            alive: alive && !connection.closing,
        });
        self.spare.extend(sending.gather.take());
        connection.sending = None;
        self.finish_close(place, ready);
    }

    pub(crate) fn cancel_send(&mut self, conn: ConnectionId, ring: &mut Ring) {
        let place = Place::unpack(conn.get());
        if let Some(connection) = self.connections.get_mut(place) {
            connection.cancel_send(place, ring);
        }
    }

    pub(crate) fn on_cancel_send(&mut self, place: Place, ring: &mut Ring) {
        if let Some(connection) = self.connections.get_mut(place) {
            connection.cancelling_send = false;
            let wanted = connection
                .sending
                .as_ref()
                .is_some_and(|sending| sending.cancelled);
            if wanted {
                connection.cancel_send(place, ring);
            }
        }
    }

    /// Ends the sending side.
    pub(crate) fn finish(&mut self, conn: ConnectionId) {
        let place = Place::unpack(conn.get());
        let Some(connection) = self.connections.get_mut(place) else {
            return;
        };
        assert!(
            connection.sending.is_none(),
            "{conn:?} ends its side while it sends"
        );
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
    fn finish_close(&mut self, place: Place, ready: &mut VecDeque<Event>) {
        let Some(connection) = self.connections.get_mut(place) else {
            return;
        };
        if !connection.closing || connection.receiving || connection.sending.is_some() {
            return;
        }
        drop(self.connections.remove(place));
        ready.push_back(Event::Closed { conn: id_of(place) });
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
    fn may_receive(&self) -> bool {
        self.wanted && !self.receiving && !self.hung_up && !self.closing
    }

    fn arm(&mut self, place: Place, ring: &mut Ring) {
        self.receiving = true;
        let entry = opcode::RecvMulti::new(types::Fd(self.socket.as_raw_fd()), GROUP)
            .build()
            .user_data(Kind::Receive.token(place));
        // SAFETY: the kernel writes to buffers of the pool alone, which keeps them until the ring is gone.
        unsafe { ring.push(entry) };
    }

    fn hang_up(&mut self, place: Place, ready: &mut VecDeque<Event>) {
        if !self.hung_up && !self.closing {
            ready.push_back(Event::Hangup { conn: id_of(place) });
        }
        self.hung_up = true;
    }

    fn cancel_receive(&mut self, place: Place, ring: &mut Ring) {
        if self.receiving && !self.cancelling_receive {
            self.cancelling_receive = true;
            ring.cancel(Kind::Receive.token(place), Kind::CancelReceive.token(place));
        }
    }

    fn cancel_send(&mut self, place: Place, ring: &mut Ring) {
        if let Some(sending) = &mut self.sending {
            sending.cancelled = true;
            if !self.cancelling_send {
                self.cancelling_send = true;
                ring.cancel(Kind::Send.token(place), Kind::CancelSend.token(place));
            }
        }
    }
}
