//! The mesh: one bounded queue for each ordered pair of a node's threads, and the means to wake whoever sleeps. When a
//! queue is full its sender keeps the rest in order and tells its machine; the receiver wakes the sender when it has made
//! room. Order between two peers is the order of posting, always.

use crate::spsc::{self, Giver, Taker};
use crate::waker::Waker;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use tiderace_base::limits::MESH_MESSAGES_MAX;
use tiderace_base::mesh::{Message, Peer};
use tiderace_base::operation::Event;

const _: () = assert!(
    MESH_MESSAGES_MAX.is_power_of_two(),
    "places in a queue are found with a mask"
);

/// Makes the ends of a mesh.
#[derive(Debug)]
pub struct MeshBuilder {
    ends: Vec<MeshEnd>,
}

/// One thread's end. Given to its driver.
#[derive(Debug)]
pub struct MeshEnd {
    me: Peer,
    waker: Arc<Waker>,
    to: Vec<Outbox>,
    from: Vec<Inbox>,
}

#[derive(Debug)]
struct Outbox {
    peer: Peer,
    queue: Giver<Message>,
    waker: Arc<Waker>,
    /// What did not fit, in order. Empty unless the machine was told that the mesh is full.
    held: VecDeque<Message>,
    full: bool,
    /// Something was pushed since the peer was last woken.
    dirty: bool,
}

#[derive(Debug)]
struct Inbox {
    peer: Peer,
    queue: Taker<Message>,
    waker: Arc<Waker>,
}

impl MeshBuilder {
    /// Joins `peers`, each named once, with queues of [`MESH_MESSAGES_MAX`] messages.
    ///
    /// # Errors
    /// When the kernel has no descriptor left for an eventfd.
    pub fn new(peers: &[Peer]) -> io::Result<Self> {
        Self::with_capacity(peers, MESH_MESSAGES_MAX)
    }

    /// The same with queues of `capacity` messages, a power of two.
    ///
    /// # Errors
    /// When the kernel has no descriptor left for an eventfd.
    ///
    /// # Panics
    /// When a peer is named twice or the capacity is no power of two.
    pub fn with_capacity(peers: &[Peer], capacity: usize) -> io::Result<Self> {
        let mut ends = Vec::with_capacity(peers.len());
        for (index, me) in peers.iter().enumerate() {
            assert!(!peers[..index].contains(me), "{me:?} is named twice");
            ends.push(MeshEnd {
                me: *me,
                waker: Waker::new()?,
                to: Vec::new(),
                from: Vec::new(),
            });
        }
        for sender in 0..ends.len() {
            for receiver in 0..ends.len() {
                if sender == receiver {
                    continue;
                }
                let (giver, taker) = spsc::queue(capacity);
                let outbox = Outbox {
                    peer: ends[receiver].me,
                    queue: giver,
                    waker: Arc::clone(&ends[receiver].waker),
                    held: VecDeque::new(),
                    full: false,
                    dirty: false,
                };
                let inbox = Inbox {
                    peer: ends[sender].me,
                    queue: taker,
                    waker: Arc::clone(&ends[sender].waker),
                };
                ends[sender].to.push(outbox);
                ends[receiver].from.push(inbox);
            }
        }
        Ok(Self { ends })
    }

    /// The ends, in the order in which their peers were named.
    #[must_use]
    pub fn into_ends(self) -> Vec<MeshEnd> {
        self.ends
    }
}

impl MeshEnd {
    /// Whose end this is.
    #[must_use]
    pub const fn peer(&self) -> Peer {
        self.me
    }

    pub(crate) fn waker(&self) -> &Arc<Waker> {
        &self.waker
    }

    /// Posts a message, or keeps it while the mesh to that peer is full. True: it had to be kept.
    pub(crate) fn post(&mut self, to: Peer, message: Message, ready: &mut VecDeque<Event>) -> bool {
        if to == self.me {
            ready.push_back(Event::Posted { from: to, message });
            return false;
        }
        let Some(outbox) = self.to.iter_mut().find(|outbox| outbox.peer == to) else {
            panic!(
                "{to:?} is no peer of {:?}: the node's threads are fixed at its start",
                self.me
            );
        };
        let rejected = if outbox.held.is_empty() {
            outbox.queue.push(message).err()
        } else {
            Some(message)
        };
        match rejected {
            None => {
                outbox.dirty = true;
                false
            }
            Some(message) => {
                outbox.held.push_back(message);
                if !outbox.full {
                    outbox.full = true;
                    ready.push_back(Event::MeshFull(to));
                }
                true
            }
        }
    }

    /// Moves what is held into queues that have room again and wakes peers that have something to take. Called once a
    /// turn, after all posts.
    pub(crate) fn flush(&mut self, ready: &mut VecDeque<Event>) {
        for outbox in &mut self.to {
            while let Some(message) = outbox.held.pop_front() {
                match outbox.queue.push(message) {
                    Ok(()) => outbox.dirty = true,
                    Err(message) => {
                        outbox.held.push_front(message);
                        if !outbox.queue.wait_for_room() {
                            break;
                        }
                    }
                }
            }
            if outbox.full && outbox.held.is_empty() {
                outbox.full = false;
                ready.push_back(Event::MeshOpen(outbox.peer));
            }
            if outbox.dirty {
                outbox.dirty = false;
                outbox.waker.wake();
            }
        }
    }

    /// Takes up to `each_max` messages from each peer.
    pub(crate) fn receive(&mut self, each_max: usize, ready: &mut VecDeque<Event>) {
        for inbox in &mut self.from {
            let mut taken = 0;
            while taken < each_max {
                let Some(message) = inbox.queue.pop() else {
                    break;
                };
                ready.push_back(Event::Posted {
                    from: inbox.peer,
                    message,
                });
                taken += 1;
            }
            if taken > 0 && inbox.queue.giver_waits() {
                inbox.waker.wake();
            }
        }
    }

    /// Whether a message waits, or a queue that was full has room: then this thread must not sleep.
    pub(crate) fn has_work(&mut self) -> bool {
        self.from.iter().any(|inbox| !inbox.queue.is_empty())
            || self
                .to
                .iter_mut()
                .any(|outbox| !outbox.held.is_empty() && outbox.queue.wait_for_room())
    }
}
