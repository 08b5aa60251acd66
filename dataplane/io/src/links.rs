//! The links to other nodes: connecting to a peer door, and letting nodes in at this one's own. Always TLS, both ends
//! verified. A machine hears of a link when that is done, with the node's id, and of nothing that did not come so far: a
//! stranger at the peer door is no event, a connect that failed is one answer.
//!
//! | state | it goes on with | it ends with |
//! |---|---|---|
//! | `Stranger` | a whole handshake: `Node`, `Accepted` | a failure, an end, the time of a handshake: nothing is told |
//! | `Sought` | connect, handshake, the other end's word: `Node`, `Connected` | the same, or the time of a connect: `Connected` with why |
//! | `Node` | as every connection | `Closed` |
//!
//! Invariants: each `Connect` is answered once; clients, strangers and links are counted apart, so that none takes another's
//! descriptors; a connect's address lives until its completion.

use crate::listener::{Listener, stream_socket};
use crate::ring::{Completion, Kind, Ring};
use crate::slab::Place;
use crate::sockets::{Connection, Sockets, id_of};
use crate::syscall::RawAddress;
use crate::tls::{CurrentIdentity, node};
use io_uring::{opcode, types};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use tiderace_base::ids::NodeId;
use tiderace_base::limits::NODE_LINKS_PER_SHARD_MAX;
use tiderace_base::operation::{ConnectError, Door, Event, OpId};
use tiderace_base::time::Mono;

/// How a driver is linked to the other nodes of its zone.
#[derive(Debug)]
pub struct NodeLinks {
    /// Who this node is, and whom it trusts.
    pub identity: CurrentIdentity,
    /// The peer door, a listener without TLS of its own: the identity decides who comes in. None: this driver connects and
    /// lets nobody in.
    pub door: Option<Listener>,
    /// Links open at once, those being connected included. One more is refused with `TooMany`, or turned away.
    pub links_max: usize,
}

impl NodeLinks {
    /// Links with the bounds of the product.
    #[must_use]
    pub const fn new(identity: CurrentIdentity, door: Option<Listener>) -> Self {
        Self {
            identity,
            door,
            links_max: NODE_LINKS_PER_SHARD_MAX,
        }
    }
}

/// Who is at a connection's other end, as far as it is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OtherEnd {
    /// A client, or whoever holds the other end of a socket that was handed over.
    Client { from: SocketAddr },
    /// Somebody at the peer door.
    Stranger { from: SocketAddr },
    /// The node that has to be there.
    Sought { op: OpId, node: NodeId },
    /// A node of the zone.
    Node(NodeId),
}

impl OtherEnd {
    /// The machine knows the connection.
    pub(crate) const fn is_told(self) -> bool {
        matches!(self, Self::Client { .. } | Self::Node(_))
    }
}

impl Sockets {
    /// Where connections with such an other end are counted. Clients are the rest.
    pub(crate) const fn count_of(&mut self, end: OtherEnd) -> &mut usize {
        match end {
            OtherEnd::Client { .. } => &mut self.clients,
            OtherEnd::Stranger { .. } => &mut self.strangers,
            OtherEnd::Sought { .. } | OtherEnd::Node(_) => &mut self.links,
        }
    }

    // --- Connecting --------------------------------------------------------------------------------------------------

    /// Begins a connect. What fails at once is told in the next turn, like everything else.
    pub(crate) fn connect(
        &mut self,
        op: OpId,
        to: SocketAddr,
        node: NodeId,
        now: Mono,
        ring: &mut Ring,
        ready: &mut VecDeque<Event>,
    ) {
        let begun = if self.identity.is_none() {
            Err(ConnectError::NoIdentity)
        } else if self.links >= self.links_max {
            Err(ConnectError::TooMany)
        } else {
            stream_socket(to).map_err(|error| failed(error.raw_os_error().unwrap_or(0)))
        };
        let socket = match begun {
            Ok(socket) => socket,
            Err(error) => {
                self.counters.connects_failed.add(1);
                let result = Err(error);
                return ready.push_back(Event::Connected { op, result });
            }
        };
        let fd = types::Fd(socket.as_raw_fd());
        let mut connection = Connection::new(socket, OtherEnd::Sought { op, node });
        let address = connection.connecting.insert(Box::new(RawAddress::from(to)));
        let (pointer, len) = address.parts();
        let entry = opcode::Connect::new(fd, pointer, len).build();
        let place = self.insert(connection);
        // SAFETY: the address lies in a box that the connection keeps, unchanged, until the completion.
        unsafe { ring.push(entry.user_data(Kind::Connect.token(place))) };
        self.connects.begin(place, now);
    }

    pub(crate) fn on_connect(
        &mut self,
        completion: Completion,
        ring: &mut Ring,
        ready: &mut VecDeque<Event>,
    ) {
        let place = completion.place;
        let Some(connection) = self.connections.get_mut(place) else {
            return;
        };
        connection.connecting = None;
        if connection.closing {
            return self.finish_close(place, ready);
        }
        let OtherEnd::Sought { node, .. } = connection.end else {
            return;
        };
        if completion.result < 0 {
            return self.give_up(place, failed(-completion.result), ring, ready);
        }
        let Some(identity) = &self.identity else {
            return;
        };
        connection.identity_version = identity.version();
        let Ok(link) = identity.current().connect(node) else {
            self.counters.tls_failed.add(1);
            return self.give_up(place, ConnectError::NoIdentity, ring, ready);
        };
        connection.tls = Some(Box::new(link));
        connection.arm(place, ring);
        self.advance_tls(place, ring, ready);
    }

    pub(crate) fn on_cancel_connect(&mut self, place: Place, ring: &mut Ring) {
        if let Some(connection) = self.connections.get_mut(place)
            && connection.connecting.is_some()
        {
            // It was missed, or has not had its effect yet.
            cancel_connect(place, ring);
        }
    }

    /// Ends the connects that took too long.
    pub(crate) fn end_connects(&mut self, now: Mono, ring: &mut Ring, ready: &mut VecDeque<Event>) {
        loop {
            let connections = &mut self.connections;
            let over = self.connects.take(now, |place| {
                let sought = connections.get_mut(place).map(|it| it.end);
                !matches!(sought, Some(OtherEnd::Sought { .. }))
            });
            let Some(place) = over else {
                return;
            };
            let is_sought = self
                .connections
                .get_mut(place)
                .is_some_and(|it| matches!(it.end, OtherEnd::Sought { .. }));
            if is_sought {
                self.give_up(place, ConnectError::TimedOut, ring, ready);
            }
        }
    }

    // --- Becoming known ----------------------------------------------------------------------------------------------

    /// Tells the machine of a link whose ends have verified each other by now. False: the machine does not know it (yet).
    pub(crate) fn announce(
        &mut self,
        place: Place,
        ring: &mut Ring,
        ready: &mut VecDeque<Event>,
    ) -> bool {
        let Some(connection) = self.connections.get_mut(place) else {
            return false;
        };
        if connection.end.is_told() {
            return true;
        }
        let Some(link) = connection.tls.as_ref().filter(|link| link.is_confirmed()) else {
            return false;
        };
        if connection.closing {
            return false;
        }
        let named = node::node_of(link.chain());
        if let (Some(identity), Some(node)) = (&self.identity, named)
            && connection.identity_version != identity.version()
            && !identity.current().trusts(link.chain(), node)
        {
            // It was replaced in the middle of the handshake.
            self.counters.links_distrusted.add(1);
            self.give_up(place, ConnectError::NotTrusted, ring, ready);
            return false;
        }
        let conn = id_of(place);
        let before = connection.end;
        let event = match (before, named) {
            (OtherEnd::Sought { op, node }, Some(named)) if node == named => {
                connection.end = OtherEnd::Node(node);
                self.counters.nodes_connected.add(1);
                let result = Ok(conn);
                Event::Connected { op, result }
            }
            (OtherEnd::Stranger { from }, Some(node)) if self.links < self.links_max => {
                connection.end = OtherEnd::Node(node);
                self.counters.nodes_accepted.add(1);
                Event::Accepted {
                    conn,
                    peer: from,
                    from: Door::Peer(node),
                }
            }
            // Its certificate was verified, so it has a name: there is no room for it.
            _ => {
                self.counters.turned_away.add(1);
                self.give_up(place, ConnectError::Refused, ring, ready);
                return false;
            }
        };
        let after = connection.end;
        *self.count_of(before) -= 1;
        *self.count_of(after) += 1;
        ready.push_back(event);
        true
    }

    /// Ends a connection that hung up before its machine heard of it, and closes what can be closed.
    pub(crate) fn settle(&mut self, place: Place, ring: &mut Ring, ready: &mut VecDeque<Event>) {
        let Some(connection) = self.connections.get_mut(place) else {
            return;
        };
        if connection.is_hung_up() && !connection.end.is_told() && !connection.closing {
            let failure = connection.tls.as_ref().and_then(|link| link.failure());
            // An end in the middle of a handshake: nobody is there any more.
            let why = failure.map_or(ConnectError::Refused, node::reason);
            return self.give_up(place, why, ring, ready);
        }
        self.finish_close(place, ready);
    }

    /// Ends a connection that its machine has not heard of; one that waits for it is told why.
    fn give_up(
        &mut self,
        place: Place,
        why: ConnectError,
        ring: &mut Ring,
        ready: &mut VecDeque<Event>,
    ) {
        let Some(connection) = self.connections.get_mut(place) else {
            return;
        };
        if connection.closing {
            return;
        }
        if let OtherEnd::Sought { op, .. } = connection.end {
            self.counters.connects_failed.add(1);
            let result = Err(why);
            ready.push_back(Event::Connected { op, result });
        }
        connection.closing = true;
        if connection.connecting.is_some() {
            cancel_connect(place, ring);
        }
        connection.cancel_receive(place, ring);
        connection.cancel_send(place, ring);
        self.finish_close(place, ready);
    }

    // --- A new identity ----------------------------------------------------------------------------------------------

    /// Whether the identity was replaced since the links were looked at.
    pub(crate) fn is_identity_new(&self) -> bool {
        let version = self.identity.as_ref().map(CurrentIdentity::version);
        version.is_some_and(|version| version != self.identity_seen)
    }

    /// Ends the links whose other end the new identity does not trust. Those whose handshake is under way are judged when it
    /// is done.
    pub(crate) fn look_at_links(&mut self, ring: &mut Ring, ready: &mut VecDeque<Event>) {
        let Some(identity) = &self.identity else {
            return;
        };
        // Read before the identity: a replacement in between is looked at again.
        self.identity_seen = identity.version();
        let identity = identity.current();
        let mut distrusted = Vec::new();
        for (place, connection) in self.connections.iter_mut() {
            if let (OtherEnd::Node(node), Some(link)) = (connection.end, &connection.tls)
                && !connection.closing
                && !identity.trusts(link.chain(), node)
            {
                distrusted.push(place);
            }
        }
        for place in distrusted {
            self.counters.links_distrusted.add(1);
            if let Some(connection) = self.connections.get_mut(place) {
                if let Some(link) = &mut connection.tls {
                    link.distrust();
                }
                self.advance_tls(place, ring, ready);
            }
        }
    }
}

fn cancel_connect(place: Place, ring: &mut Ring) {
    let answer = Kind::CancelConnect.token(place);
    ring.cancel(Kind::Connect.token(place), answer);
}

/// Why the kernel did not connect.
const fn failed(errno: i32) -> ConnectError {
    match errno {
        libc::ECONNREFUSED | libc::ECONNRESET => ConnectError::Refused,
        libc::ETIMEDOUT => ConnectError::TimedOut,
        // No local port is free, and EAGAIN says the same of the routing table.
        libc::EADDRNOTAVAIL
        | libc::EAGAIN
        | libc::EMFILE
        | libc::ENFILE
        | libc::ENOBUFS
        | libc::ENOMEM => ConnectError::NoDescriptor,
        _ => ConnectError::Unreachable,
    }
}

#[cfg(test)]
mod tests;
