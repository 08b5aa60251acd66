//! Operations and their completions as plain values: the one seam between a machine and its world. A driver executes
//! effects on a ring; the simulator executes the same effects on a simulated disk, network and clock. An effect owns
//! its buffers until its completion arrives.

use crate::catalogue::Snapshot;
use crate::disk::{DiskError, JournalFile};
use crate::ids::{ConnectionId, NodeId};
use crate::mesh::{Message, Peer};
use crate::time::{Mono, Now};
use bytes::Bytes;
use core::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// Names an operation between its effect and its completion. Given by the machine; unique while outstanding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OpId(u64);

impl OpId {
    /// Wraps a number that the machine chose.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Hands out operation ids.
#[derive(Debug, Default)]
pub struct OpIds(u64);

impl OpIds {
    /// An id that was never given before.
    pub fn allocate(&mut self) -> OpId {
        self.0 += 1;
        OpId(self.0)
    }
}

/// What a machine wants done.
#[derive(Debug)]
pub enum Effect {
    /// Write whole blocks at a block's place; answered by [`Event::Written`]. Several may be in flight and may complete
    /// in any order.
    Write {
        /// Names the operation.
        op: OpId,
        /// Where to.
        file: JournalFile,
        /// Byte position, a multiple of the block size.
        at: u64,
        /// Aligned whole blocks.
        data: Bytes,
        /// Whether the completion promises that the bytes are on the disk (as `RWF_DSYNC` does).
        durable: bool,
    },
    /// Read `len` bytes, whole blocks; answered by [`Event::ReadDone`]. Never delays a write.
    Read {
        /// Names the operation.
        op: OpId,
        /// Where from.
        file: JournalFile,
        /// Byte position, a multiple of the block size.
        at: u64,
        /// A multiple of the block size.
        len: u32,
    },
    /// Make durable every write of the file whose completion was seen before this effect; answered by [`Event::Synced`].
    Sync {
        /// Names the operation.
        op: OpId,
        /// Which file.
        file: JournalFile,
    },
    /// Create the file, or empty it; write `bytes` zeros; make it and its directory entry durable; answered by
    /// [`Event::Prepared`]. Done in pieces behind everything else.
    Prepare {
        /// Names the operation.
        op: OpId,
        /// Which file.
        file: JournalFile,
        /// How many zeros; none for a file that grows by its writes.
        bytes: u64,
    },
    /// Remove the file and its directory entry, durably; answered by [`Event::Removed`]. No operation on it is in flight.
    Remove {
        /// Names the operation.
        op: OpId,
        /// Which file.
        file: JournalFile,
    },
    /// Connect to a node's peer door; answered by one [`Event::Connected`], within [`CONNECT_NS_MAX`] whatever happens. With
    /// `Ok` both ends have verified each other, and the connection is like one that was accepted. There is no way to take
    /// it back: a machine that does not want it any more closes it when it is there, and one that stops is not told.
    ///
    /// [`CONNECT_NS_MAX`]: crate::limits::CONNECT_NS_MAX
    Connect {
        /// Names the operation.
        op: OpId,
        /// Where the node listens for nodes.
        to: SocketAddr,
        /// Which node has to be there.
        peer: NodeId,
    },
    /// Send the parts in order; answered by one [`Event::Sent`], after the last byte or at the first failure. At most one
    /// is in flight per connection.
    Send {
        /// Names the operation.
        op: OpId,
        /// To whom.
        conn: ConnectionId,
        /// What, in order.
        parts: Vec<Bytes>,
    },
    /// End the connection's send in flight early; its [`Event::Sent`] says how far it came.
    CancelSend {
        /// Whose send.
        conn: ConnectionId,
    },
    /// Stop or resume receiving on a connection. A new connection receives.
    Receive {
        /// Which connection.
        conn: ConnectionId,
        /// Whether bytes are wanted.
        wanted: bool,
    },
    /// End the sending side: the peer hears the end behind the last byte. No send is in flight, and none follows; receiving
    /// goes on. To close while the peer still sends would throw away what it has not read yet.
    Finish {
        /// Which connection.
        conn: ConnectionId,
    },
    /// Close the connection. Its last event is [`Event::Closed`], after every operation on it has completed.
    Close {
        /// Which connection.
        conn: ConnectionId,
    },
    /// Post a message over the bounded mesh; order is kept between two peers. When the mesh to that peer is full the
    /// driver holds the message and delivers [`Event::MeshFull`] / [`Event::MeshOpen`].
    Post {
        /// To whom.
        to: Peer,
        /// What.
        message: Message,
    },
    /// The next [`Event::Timer`] is wanted at this time, and no other. Replaces the one asked for before.
    WakeAt(Mono),
    /// The machine is ready: its driver may accept clients.
    Serve,
    /// No more clients are accepted; connections that are open go on.
    Refuse,
    /// Whether nodes of the zone are let in at the peer door; at first they are not. Apart from clients, because a machine
    /// needs its peers before it can serve, and while it drains.
    ServeNodes(bool),
    /// The machine has finished for good after it was asked to stop.
    Stopped,
    /// The machine cannot go on. The node says why and exits with the reason's code.
    Fatal(Fatal),
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// A write completed.
    Written {
        /// The operation.
        op: OpId,
        /// Whether all bytes were written.
        result: Result<(), DiskError>,
    },
    /// A read completed.
    ReadDone {
        /// The operation.
        op: OpId,
        /// The bytes asked for, all of them.
        result: Result<Bytes, DiskError>,
    },
    /// A sync completed.
    Synced {
        /// The operation.
        op: OpId,
        /// Whether everything asked for is durable.
        result: Result<(), DiskError>,
    },
    /// A file was prepared.
    Prepared {
        /// The operation.
        op: OpId,
        /// `NoSpace` leaves no file behind.
        result: Result<(), DiskError>,
    },
    /// A file was removed.
    Removed {
        /// The operation.
        op: OpId,
        /// Whether its entry is durably gone.
        result: Result<(), DiskError>,
    },
    /// A connection was accepted. One of the peer door is told only when its other end is known.
    Accepted {
        /// Its name from now on.
        conn: ConnectionId,
        /// The other end.
        peer: SocketAddr,
        /// How it came in, and so who it may be.
        from: Door,
    },
    /// A connect ended.
    Connected {
        /// The operation.
        op: OpId,
        /// The connection's name from now on: the node asked for is at its other end.
        result: Result<ConnectionId, ConnectError>,
    },
    /// Bytes arrived, in order.
    Received {
        /// Where.
        conn: ConnectionId,
        /// Never empty. Holding it holds a receive buffer of the driver.
        data: Bytes,
    },
    /// The other end will send no more, or the connection failed. Nothing more is received; the machine still closes it.
    Hangup {
        /// Which.
        conn: ConnectionId,
    },
    /// A send ended.
    Sent {
        /// The operation.
        op: OpId,
        /// The connection.
        conn: ConnectionId,
        /// How many bytes were taken by the network: all, unless it failed or was cancelled.
        sent_bytes: u64,
        /// Whether the connection can take more. False after a failure.
        alive: bool,
    },
    /// The connection is gone, and nothing about it will follow.
    Closed {
        /// Which.
        conn: ConnectionId,
    },
    /// A message arrived over the mesh.
    Posted {
        /// From whom.
        from: Peer,
        /// What.
        message: Message,
    },
    /// The mesh to this peer is full: post nothing that can wait.
    MeshFull(Peer),
    /// The mesh to this peer has room again.
    MeshOpen(Peer),
    /// The catalogue changed.
    Catalogue(Arc<Snapshot>),
    /// The time asked for has come.
    Timer,
    /// The operator asked for an orderly end: stop accepting, finish what was promised, emit [`Effect::Stopped`].
    Stop,
}

/// Through which door a connection came in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Door {
    /// A client's: whoever it is says so itself, in its hello or by its certificate.
    Client,
    /// The peer door: this node of the zone, by a certificate of the zone's own CA that was verified.
    Peer(NodeId),
}

/// Why a node could not be connected to. Nothing of it is left behind; each may be tried again, but not at once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ConnectError {
    /// Nobody listens there, or whoever does let go of it: see whether the node runs, whether it serves nodes yet, and
    /// whether it has room for one more.
    Refused,
    /// The network has no way there: see the address, the routes and the filters between the two hosts.
    Unreachable,
    /// The time for a connect was over: the host is off, the network drops what is sent, or the node is overloaded.
    TimedOut,
    /// What answers is no node of this zone: its certificate is of another CA, another zone or another role, has expired or
    /// was revoked, or it speaks something else. See what listens there, and which certificate it shows.
    NotTrusted,
    /// Another node of this zone answers: its address in the catalogue is wrong, or has moved.
    WrongNode,
    /// The other node does not trust this one: renew this node's certificate, and see both clocks.
    Rejected,
    /// This driver has no certificate of a node to show: configure the node's links first.
    NoIdentity,
    /// As many links to nodes are open as may be: close some first.
    TooMany,
    /// The process or its host has no descriptor, no port or no memory left for it: raise the limit on open files.
    NoDescriptor,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "nobody listens there, or it has no room: see whether the node runs",
            Self::Unreachable => "the network has no way there: see the address and the routes",
            Self::TimedOut => {
                "the time was over: the host is off, packets are dropped, or the node is overloaded"
            }
            Self::NotTrusted => {
                "what answers there is no node of this zone: see its certificate (CA, zone, role, time)"
            }
            Self::WrongNode => "another node of this zone answers there: see the address",
            Self::Rejected => {
                "the other node does not trust this one: renew this node's certificate, see the clocks"
            }
            Self::NoIdentity => "this driver has no node's certificate to show: configure its links",
            Self::TooMany => "as many links to nodes are open as may be",
            Self::NoDescriptor => {
                "no descriptor, port or memory is left: raise the limit on open files"
            }
        })
    }
}

impl core::error::Error for ConnectError {}

/// Effects in the order in which they are wanted.
pub type Effects = Vec<Effect>;

/// A deterministic machine: the same events in, the same effects out. Reads no clock and starts no thread.
pub trait Machine {
    /// Takes one event.
    fn step(&mut self, now: Now, event: Event, effects: &mut Effects);

    /// Ends a turn: every event that was ready has been taken. Group commit happens here.
    fn finish_turn(&mut self, now: Now, effects: &mut Effects);
}

/// Why a node ends by itself. Each reason has its own exit code.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fatal {
    /// A journal's write failed: what it held was never acknowledged. Look at the disk before starting again.
    JournalWrite(DiskError),
    /// A journal's sync failed. It is never tried again: the kernel may have dropped the bytes.
    JournalSync(DiskError),
    /// A superblock could not be written.
    Superblock(DiskError),
    /// Bytes that were acknowledged could not be read back.
    Corruption(String),
    /// The kernel or a container refuses io_uring.
    RingRefused(String),
    /// The zone does not let the node in as it is, and this is why.
    NotAdmitted(&'static str),
}

impl Fatal {
    /// The process's exit code.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::JournalWrite(_) => 70,
            Self::JournalSync(_) => 71,
            Self::Superblock(_) => 72,
            Self::Corruption(_) => 73,
            Self::RingRefused(_) => 74,
            Self::NotAdmitted(_) => 78,
        }
    }
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::JournalWrite(error) => write!(
                f,
                "a write to the journal failed ({error}): nothing in it was acknowledged; check the disk, then start again"
            ),
            Self::JournalSync(error) => write!(
                f,
                "a sync of the journal failed ({error}): it is never retried, because the kernel may have dropped the bytes; check the disk, then start again"
            ),
            Self::Superblock(error) => write!(
                f,
                "a superblock could not be written ({error}); check the disk, then start again"
            ),
            Self::Corruption(what) => write!(f, "acknowledged bytes are damaged: {what}"),
            Self::RingRefused(what) => write!(f, "io_uring is refused here: {what}"),
            Self::NotAdmitted(why) => f.write_str(why),
        }
    }
}
