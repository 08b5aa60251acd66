//! One connection as its shard holds it: what is being assembled, what waits to be sent, its subscriptions, and the
//! ledger of its credit. Small while idle: ten thousand idle ones cost little more than their table. At most one send is
//! in flight; what is added meanwhile leaves with the next.

use crate::sending::{Delivered, Outgoing, Owed, Piece, Place, Sending};
use crate::subscription::{Source, Subscription};
use bytes::{Bytes, BytesMut};
use std::collections::{BTreeMap, VecDeque};
use tiderace_base::collections::Map;
use tiderace_base::ids::{ConnectionId, MessageId, PartitionKey, SubscriptionId};
use tiderace_base::limits::{ACKS_PER_FRAME_MAX, REPLY_BYTES_MAX};
use tiderace_base::time::Mono;
use tiderace_wire::assembly::{Assembler, Frame, Receiver};
use tiderace_wire::credit::Amount;
use tiderace_wire::error::ErrorCode;
use tiderace_wire::frame::{Ack, Credit, Deliver, Error, Produce, Produced};
use tiderace_wire::link::Flags;
use tiderace_wire::session::{Fault, Server};

/// Where a connection is on its way out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Closing {
    /// It is not.
    No,
    /// It closes when what waits has been sent.
    WhenSent,
    /// Its last byte is on the way; it closes when its peer has ended its side too, or takes too long.
    Finished,
    /// It is being closed: its last event is on the way.
    Now,
}

/// Whether a goodbye was said, and what is still to come: P-52.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Leaving {
    /// None was.
    No,
    /// The node drains: answers, and deliveries until its subscriptions have caught up.
    Drained,
    /// The client begins nothing new: answers alone.
    Left,
}

/// A produce frame that could not be taken yet; its credit is spent.
#[derive(Debug)]
pub(crate) struct Blocked {
    /// The frame.
    pub(crate) frame: Frame,
    /// Its control section.
    pub(crate) produce: Produce,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    pub(crate) session: Server,
    pub(crate) assembler: Assembler,
    pub(crate) blocked: Option<Blocked>,
    /// Whether the driver was told to receive.
    pub(crate) receiving: bool,
    /// What was received behind a frame that is blocked.
    pub(crate) backlog: VecDeque<Bytes>,
    acks: Vec<Ack>,
    out: BytesMut,
    pub(crate) sending: Option<Sending>,
    /// The rest of the deliver frame that the last send began.
    pub(crate) owed: Option<Box<Owed>>,
    /// Whether anything was read for its subscriptions since its last send.
    pub(crate) has_reads: bool,
    pub(crate) subscriptions: BTreeMap<SubscriptionId, Subscription>,
    /// Subscriptions that may have something to send, each once.
    pub(crate) runnable: VecDeque<SubscriptionId>,
    /// What the first of them needs of the link's credit before any of them goes on. None: there was enough.
    pub(crate) link_needs: Option<Amount>,
    pub(crate) closing: Closing,
    /// Whether it stands among those that wait for room.
    pub(crate) waiting: bool,
    /// Whether one side said goodbye: it ends once nothing is outstanding.
    pub(crate) leaving: Leaving,
    ready: bool,
}

impl Connection {
    pub(crate) fn new(id: ConnectionId, session: Server) -> Self {
        Self {
            id,
            session,
            assembler: Assembler::new(Receiver::Node),
            blocked: None,
            receiving: true,
            backlog: VecDeque::new(),
            acks: Vec::new(),
            out: BytesMut::new(),
            sending: None,
            owed: None,
            has_reads: false,
            subscriptions: BTreeMap::new(),
            runnable: VecDeque::new(),
            link_needs: None,
            closing: Closing::No,
            waiting: false,
            leaving: Leaving::No,
            ready: false,
        }
    }

    /// Writes a frame that answers no request.
    pub(crate) fn push_frame(&mut self, encode: impl FnOnce(MessageId, &mut BytesMut)) {
        let id = self.session.next_message_id();
        encode(id, &mut self.out);
    }

    /// Writes the one answer to a request that no credit covers.
    pub(crate) fn push_reply(&mut self, encode: impl FnOnce(MessageId, &mut BytesMut)) {
        self.session.answered();
        self.push_frame(encode);
    }

    /// Writes an error about an open subscription.
    pub(crate) fn push_subscription_error(
        &mut self,
        request: MessageId,
        code: ErrorCode,
        detail_a: u64,
        detail_b: u64,
    ) {
        self.push_frame(|id, out| {
            Error {
                detail_a,
                detail_b,
                ..Error::about(request, code)
            }
            .encode(out, id);
        });
    }

    /// Tells the client that a subscription ended. One that was still looking for its start has not been answered yet.
    pub(crate) fn end_subscription(&mut self, subscription: &Subscription, code: ErrorCode) {
        if matches!(subscription.source, Source::Seeking(_)) {
            self.push_reply(|id, out| Error::about(subscription.request, code).encode(out, id));
        } else {
            self.push_subscription_error(subscription.request, code, 0, 0);
        }
    }

    /// Queues an acknowledgement.
    pub(crate) fn push_ack(&mut self, ack: Ack) {
        self.acks.push(ack);
    }

    /// Puts a subscription into the queue of those that may have something to send. False: it is there, or gone.
    pub(crate) fn queue_subscription(&mut self, id: SubscriptionId) -> bool {
        match self.subscriptions.get_mut(&id) {
            Some(subscription) if !subscription.queued => {
                subscription.queued = true;
                self.runnable.push_back(id);
                true
            }
            Some(_) | None => false,
        }
    }

    /// Drops what was read and found no room in a send: it would be held for as long as that send takes. It is read again.
    pub(crate) fn drop_reads(&mut self) {
        if !core::mem::take(&mut self.has_reads) {
            return;
        }
        for id in &self.runnable {
            if let Some(subscription) = self.subscriptions.get_mut(id)
                && matches!(subscription.source, Source::Read(..))
            {
                subscription.source = Source::Memory;
            }
        }
    }

    /// Takes a subscription out. If it was the one that needed more of the link's credit, the others need not wait for it.
    pub(crate) fn remove_subscription(&mut self, id: SubscriptionId) -> Option<Subscription> {
        self.link_needs = None;
        self.subscriptions.remove(&id)
    }

    /// Tells the client what is wrong with a frame, or with the connection.
    pub(crate) fn push_fault(&mut self, fault: &Fault) {
        self.push_frame(|id, out| fault.encode(out, id));
    }

    /// Puts frames that were encoded before, and not sent, before those that wait.
    pub(crate) fn keep_encoded(&mut self, kept: &[u8]) {
        if kept.is_empty() {
            return;
        }
        let behind = core::mem::replace(&mut self.out, BytesMut::from(kept));
        self.out.extend_from_slice(&behind);
    }

    /// Moves everything that is encoded, acknowledgements included, to what is sent.
    pub(crate) fn take_encoded(&mut self, outgoing: &mut Outgoing) {
        self.encode_acks();
        let credit: Option<Credit> = self.session.grant();
        if let Some(credit) = credit {
            self.push_frame(|id, out| credit.encode(out, id));
        }
        if !self.out.is_empty() {
            outgoing.push(self.out.split().freeze());
        }
    }

    /// Encodes the acknowledgements so far behind what is encoded.
    pub(crate) fn encode_acks(&mut self) {
        let acks = core::mem::take(&mut self.acks);
        for acks in acks.chunks(ACKS_PER_FRAME_MAX) {
            let id = self.session.next_message_id();
            Produced::encode(acks, &mut self.out, id);
        }
        // The room of the list is kept for the next ones.
        self.acks = acks;
        self.acks.clear();
    }

    /// Adds a deliver frame: its front, then the batches as they are.
    pub(crate) fn push_deliver(
        &mut self,
        frame: Deliver,
        key: PartitionKey,
        whole: Delivered,
        batches: Vec<Bytes>,
        outgoing: &mut Outgoing,
    ) {
        let id = self.session.next_message_id();
        let bytes = batches.iter().map(Bytes::len).sum();
        let before = self.out.len();
        frame.encode(&mut self.out, id, Flags::NONE, bytes);
        outgoing.pieces.push(Piece {
            at: outgoing.bytes + before,
            front: self.out.len() - before,
            batches: bytes,
            key,
            whole: Some(whole),
            place: Place {
                offset: whole.before,
                skip: 0,
            },
            torn: (0, whole.before),
            more: 0,
        });
        outgoing.push(self.out.split().freeze());
        for batch in batches {
            outgoing.push(batch);
        }
    }

    /// Whether its last event is on the way.
    pub(crate) fn is_closed(&self) -> bool {
        self.closing == Closing::Now
    }

    /// Whether anything waits to be sent that is encoded or acknowledged.
    pub(crate) fn has_output(&self) -> bool {
        !self.out.is_empty()
            || !self.acks.is_empty()
            || (!self.runnable.is_empty() && self.link_needs.is_none())
    }

    /// Whether so much waits for this reader that nothing more is taken from it.
    pub(crate) fn choked(&self) -> bool {
        self.out.len() >= REPLY_BYTES_MAX
    }
}

/// Every connection of a shard.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    open: Map<ConnectionId, Box<Connection>>,
    ready: VecDeque<ConnectionId>,
    /// In the order of acceptance, and so of their deadlines.
    handshakes: VecDeque<(Mono, ConnectionId)>,
    /// In the order in which they finished, and so of when they are closed.
    finished: VecDeque<(Mono, ConnectionId)>,
}

impl Connections {
    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Every id, oldest first.
    pub(crate) fn ids(&self) -> Vec<ConnectionId> {
        let mut ids: Vec<ConnectionId> = self.open.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    pub(crate) fn insert(&mut self, connection: Box<Connection>) {
        if let Some(due) = connection.session.deadline() {
            self.handshakes.push_back((due, connection.id));
        }
        self.open.insert(connection.id, connection);
    }

    pub(crate) fn get(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.open.get_mut(&id).map(Box::as_mut)
    }

    /// One connection, which is about to have something to send.
    pub(crate) fn get_ready(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        let connection = self.open.get_mut(&id)?;
        if !connection.ready {
            connection.ready = true;
            self.ready.push_back(id);
        }
        Some(connection)
    }

    /// Takes a connection out, to work on it beside the rest of the shard. It is put back with [`Connections::put`].
    pub(crate) fn take(&mut self, id: ConnectionId) -> Option<Box<Connection>> {
        self.open.remove(&id)
    }

    /// Puts back what was taken.
    pub(crate) fn put(&mut self, connection: Box<Connection>) {
        self.open.insert(connection.id, connection);
    }

    /// Notes that a connection has something to send.
    pub(crate) fn ready(&mut self, id: ConnectionId) {
        if let Some(connection) = self.open.get_mut(&id)
            && !connection.ready
        {
            connection.ready = true;
            self.ready.push_back(id);
        }
    }

    /// How many have something to send.
    pub(crate) fn ready_len(&self) -> usize {
        self.ready.len()
    }

    /// The next connection that has something to send.
    pub(crate) fn next_ready(&mut self) -> Option<ConnectionId> {
        let id = self.ready.pop_front()?;
        if let Some(connection) = self.open.get_mut(&id) {
            connection.ready = false;
        }
        Some(id)
    }

    /// Closes a finished connection at this time if its peer does not end its side before.
    pub(crate) fn finished(&mut self, due: Mono, id: ConnectionId) {
        self.finished.push_back((due, id));
    }

    /// When the next finished connection is closed. One that is gone already may count.
    pub(crate) fn next_finish(&self) -> Option<Mono> {
        self.finished.front().map(|(due, _)| *due)
    }

    /// A finished connection whose peer took too long, or that is gone.
    pub(crate) fn unfinished(&mut self, now: Mono) -> Option<ConnectionId> {
        self.finished
            .pop_front_if(|(due, _)| *due <= now)
            .map(|(_, id)| id)
    }

    /// When the next handshake must be complete.
    pub(crate) fn next_deadline(&mut self) -> Option<Mono> {
        while let Some((due, id)) = self.handshakes.front().copied() {
            if self
                .open
                .get(&id)
                .is_some_and(|connection| connection.session.deadline().is_some())
            {
                return Some(due);
            }
            self.handshakes.pop_front();
        }
        None
    }

    /// A connection whose handshake is overdue.
    pub(crate) fn overdue(&mut self, now: Mono) -> Option<ConnectionId> {
        if self.next_deadline()? > now {
            return None;
        }
        self.handshakes.pop_front().map(|(_, id)| id)
    }
}
