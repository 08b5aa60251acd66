//! Connections come, speak and go: from the first byte to the last event. Every frame passes its session first; what a
//! request means is decided in the rooms beside. A frame that cannot be taken now stops its connection's receive, and
//! with it its peer, until there is room.

use crate::connection::{Blocked, Closing, Connection, Leaving};
use crate::metrics::Metrics;
use crate::produce::{Accepted, Rejected, refusal};
use crate::sending::Outgoing;
use crate::shard::{Phase, Shard};
use crate::subscription::Source;
use crate::undurable::Waiter;
use bytes::Bytes;
use std::net::SocketAddr;
use tiderace_base::ids::{ConnectionId, MessageId};
use tiderace_base::limits::{
    FINISH_NS_MAX, LINK_WINDOW_BATCHES, LINK_WINDOW_BYTES, SUBSCRIPTION_WINDOW_BATCHES_MAX,
    SUBSCRIPTION_WINDOW_BYTES_MAX,
};
use tiderace_base::mesh::{Origin, Peer};
use tiderace_base::operation::{Effect, Effects};
use tiderace_base::planted::{Bug, is_planted};
use tiderace_base::time::Now;
use tiderace_wire::assembly::{Frame, View};
use tiderace_wire::credit::Amount;
use tiderace_wire::error::ErrorCode;
use tiderace_wire::frame::{Ack, Credit, CreditScope, Goodbye, GoodbyeReason, Pong, Produce};
use tiderace_wire::link::LinkHeader;
use tiderace_wire::session::{Fault, Identity, Request, Server};

/// What is to be done with a batch that is not this shard's, or not yet.
#[derive(Clone, Copy)]
enum Later {
    /// The same again, when the journal has room.
    Here,
    /// It is another shard's.
    By(Peer),
}

/// Whether a connection's next frame may be taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Flow {
    On,
    Blocked,
}

impl Shard {
    pub(crate) fn accepted(
        &mut self,
        now: Now,
        id: ConnectionId,
        _peer: SocketAddr,
        effects: &mut Effects,
    ) {
        self.metrics.connections_accepted_total.add(1);
        let window = Amount {
            bytes: LINK_WINDOW_BYTES,
            batches: u64::from(LINK_WINDOW_BATCHES),
        };
        let mut connection = Box::new(Connection::new(id, Server::new(now.mono, window)));
        let refused = if self.connections.len() >= self.config.connections_max {
            Some(ErrorCode::TooManyConnections)
        } else if self.phase == Phase::Serving {
            None
        } else {
            Some(ErrorCode::Draining)
        };
        if let Some(code) = refused {
            self.metrics.connections_refused_total.add(1);
            self.fail_connection(&mut connection, Fault::of_connection(code), effects);
        }
        self.connections.insert(connection);
        if refused.is_some() {
            self.connections.ready(id);
        }
    }

    pub(crate) fn received(
        &mut self,
        now: Now,
        id: ConnectionId,
        data: Bytes,
        effects: &mut Effects,
    ) {
        let Some(mut connection) = self.connections.take(id) else {
            return;
        };
        connection.backlog.push_back(data);
        self.drive(now, &mut connection, effects);
        self.put_back(connection);
    }

    /// Puts a connection back, and notes whether it has something to send.
    fn put_back(&mut self, connection: Box<Connection>) {
        let id = connection.id;
        let ready = connection.has_output()
            || connection.leaving != Leaving::No
            || connection.closing == Closing::WhenSent;
        self.connections.put(connection);
        if ready {
            self.connections.ready(id);
        }
    }

    /// Takes frames from what was received, until it is used up or one must wait.
    pub(crate) fn drive(&mut self, now: Now, connection: &mut Connection, effects: &mut Effects) {
        loop {
            if connection.closing != Closing::No {
                connection.backlog.clear();
                return;
            }
            if let Some(Blocked { frame, produce }) = connection.blocked.take() {
                let result = self.append(now, produce, View::all(frame.batch.as_slice()));
                let later = self.answer(now, connection, &frame.front.header, result);
                if let Some(later) = later
                    && self.put_off(connection, frame, produce, later, effects) == Flow::Blocked
                {
                    return self.listen(connection, false, effects);
                }
            }
            if connection.choked() {
                return self.listen(connection, false, effects);
            }
            match connection.assembler.next_front() {
                Ok(Some(front)) => {
                    let flow = match connection.session.receive(&front) {
                        Ok(Request::Produce(produce)) => {
                            let result = self.append(now, produce, connection.assembler.batch());
                            match self.answer(now, connection, &front.header, result) {
                                None => Flow::On,
                                Some(later) => {
                                    let batch = connection.assembler.take_batch();
                                    let frame = Frame { front, batch };
                                    self.put_off(connection, frame, produce, later, effects)
                                }
                            }
                        }
                        Ok(request) => {
                            self.request(connection, front.header.message_id(), request, effects);
                            Flow::On
                        }
                        Err(fault) => {
                            self.faulty(connection, &front.header, fault, effects);
                            Flow::On
                        }
                    };
                    // What it lies in is not held while the connection waits for anything.
                    connection.assembler.skip_batch();
                    if flow == Flow::Blocked {
                        return self.listen(connection, false, effects);
                    }
                }
                Ok(None) => match connection.backlog.pop_front() {
                    Some(piece) => connection.assembler.push(piece),
                    None => return self.listen(connection, true, effects),
                },
                Err(code) => self.fail_connection(connection, Fault::of_connection(code), effects),
            }
        }
    }

    /// Tells the driver whether bytes of this connection are wanted, if that changed.
    fn listen(&self, connection: &mut Connection, wanted: bool, effects: &mut Effects) {
        if connection.receiving != wanted {
            connection.receiving = wanted;
            effects.push(Effect::Receive {
                conn: connection.id,
                wanted,
            });
        }
    }

    fn faulty(
        &mut self,
        connection: &mut Connection,
        header: &LinkHeader,
        fault: Fault,
        effects: &mut Effects,
    ) {
        if fault.is_fatal {
            return self.fail_connection(connection, fault, effects);
        }
        self.metrics.errors_total.add(1);
        // A draining session gives the batch's credit back by itself; whatever else is wrong with a produce is on us.
        if fault.kind == Some(tiderace_wire::link::Kind::Produce)
            && fault.code != ErrorCode::Draining
        {
            connection.session.give_back(header.batch_len() as u64);
        }
        connection.push_fault(&fault);
    }

    /// Ends a connection that broke the framing or the credit, with the reason as the last thing it hears.
    fn fail_connection(
        &mut self,
        connection: &mut Connection,
        fault: Fault,
        effects: &mut Effects,
    ) {
        self.metrics.errors_total.add(1);
        self.metrics.connections_refused_total.add(1);
        connection.session.close();
        // What was promised before is told before.
        connection.encode_acks();
        connection.push_fault(&fault);
        connection.closing = Closing::WhenSent;
        connection.backlog.clear();
        connection.blocked = None;
        self.listen(connection, false, effects);
        self.let_subscriptions_go(connection);
    }

    fn let_subscriptions_go(&mut self, connection: &mut Connection) {
        for (_, subscription) in core::mem::take(&mut connection.subscriptions) {
            if matches!(subscription.source, Source::Seeking(_)) {
                connection.end_subscription(&subscription, ErrorCode::Draining);
            }
            self.release(connection.id, &subscription);
        }
        connection.runnable.clear();
        connection.link_needs = None;
    }

    /// What became of a produce frame: appended, or refused for good. Otherwise why it has to wait or to go elsewhere.
    fn answer(
        &mut self,
        now: Now,
        connection: &mut Connection,
        header: &LinkHeader,
        result: Result<Accepted, Rejected>,
    ) -> Option<Later> {
        let request = header.message_id();
        let credit_bytes = header.batch_len() as u64;
        let refused = match result {
            Ok(accepted) => {
                let waiter = Waiter::Here(connection.id);
                if let Some(waiting) = self.promise(now, accepted, waiter, request, credit_bytes) {
                    acknowledge_on(&self.metrics, connection, waiting.ack, credit_bytes);
                }
                return None;
            }
            Err(Rejected::Error { code, detail }) => {
                self.metrics.errors_total.add(1);
                refusal(request, code, detail)
            }
            Err(Rejected::Busy) => return Some(Later::Here),
            Err(Rejected::Elsewhere(place)) => {
                let catalogue = self.catalogue.as_ref().expect("it said where");
                if place.leader == catalogue.node {
                    return Some(Later::By(Peer::Shard(place.shard)));
                }
                refusal(request, ErrorCode::NotLeader, 0)
            }
        };
        acknowledge_on(&self.metrics, connection, refused, credit_bytes);
        None
    }

    /// Forwards a produce frame to its shard, or keeps it until there is room.
    fn put_off(
        &mut self,
        connection: &mut Connection,
        frame: Frame,
        produce: Produce,
        later: Later,
        effects: &mut Effects,
    ) -> Flow {
        let waiting_for = match later {
            Later::By(to) if !self.mesh_full.contains(&to) => {
                let origin = Origin {
                    shard: self.config.id,
                    conn: connection.id,
                    request: frame.front.header.message_id(),
                };
                let credit_bytes = frame.front.header.batch_len() as u64;
                self.forwarded_out.insert(origin, credit_bytes);
                let control = Bytes::copy_from_slice(&frame.front.control);
                self.forward(origin, to, control, frame.batch.into_vec(), effects);
                return Flow::On;
            }
            Later::By(_) => &mut self.waiting_for_mesh,
            Later::Here => &mut self.waiting_for_room,
        };
        if !connection.waiting {
            connection.waiting = true;
            waiting_for.push_back(connection.id);
        }
        connection.blocked = Some(Blocked { frame, produce });
        Flow::Blocked
    }

    /// Queues an acknowledgement on its connection, if that is still there.
    pub(crate) fn acknowledge(&mut self, id: ConnectionId, ack: Ack, credit_bytes: u64) {
        if let Some(connection) = self.connections.get_ready(id) {
            acknowledge_on(&self.metrics, connection, ack, credit_bytes);
        }
    }

    /// Another shard's answer to a batch that was forwarded to it.
    pub(crate) fn forwarded_ack(&mut self, origin: Origin, ack: &[u8]) {
        let Some(credit_bytes) = self.forwarded_out.remove(&origin) else {
            return;
        };
        let ack = Ack::from_bytes(ack).expect("a shard of this node encoded it");
        self.acknowledge(origin.conn, ack, credit_bytes);
    }

    fn request(
        &mut self,
        connection: &mut Connection,
        id: MessageId,
        request: Request,
        effects: &mut Effects,
    ) {
        match request {
            Request::Hello(_) => {
                connection.assembler.open();
                let catalogue = self
                    .catalogue
                    .as_ref()
                    .expect("connections are accepted once the shard has a catalogue");
                let identity = Identity {
                    zone: catalogue.zone,
                    node: catalogue.node,
                    boot: self.config.boot,
                    shard: self.config.id,
                    shard_count: self.config.shards,
                };
                let welcome = connection.session.welcome(identity, catalogue.version);
                connection.push_frame(|id, out| welcome.encode(out, id));
            }
            Request::Ping(ping) => {
                connection.push_frame(|id, out| Pong { nonce: ping.nonce }.encode(out, id));
            }
            Request::Pong(_) => {}
            Request::Credit(credit) => self.credited(connection, &credit),
            Request::Goodbye(_) => self.client_leaves(connection),
            Request::Metadata(asked) => self.metadata(connection, id, &asked),
            Request::StreamCreate(asked) => self.create(connection, id, asked, effects),
            Request::StreamDescribe(asked) => self.describe(connection, id, &asked),
            Request::StreamList(asked) => self.list(connection, id, &asked),
            Request::StreamDelete(asked) => self.delete(connection, id, asked, effects),
            Request::Produce(_) => unreachable!("a produce has a way of its own"),
            Request::ProduceResume(asked) => self.resume(connection, id, &asked),
            Request::Subscribe(asked) => self.subscribe(connection, id, &asked),
            Request::Unsubscribe(asked) => self.unsubscribe(connection, id, &asked),
            Request::OffsetByTime(asked) => self.offset_by_time(connection, id, &asked),
        }
    }

    /// A client granted more.
    fn credited(&mut self, connection: &mut Connection, credit: &Credit) {
        let total = Amount {
            bytes: credit.bytes_total,
            batches: credit.batches_total,
        };
        match credit.scope {
            // The session took it. Whoever waits for it stands in the queue and goes on once it suffices for the first.
            CreditScope::Link => {
                if let Some(needed) = connection.link_needs
                    && connection.session.may_deliver(needed)
                {
                    connection.link_needs = None;
                }
            }
            CreditScope::Subscription => {
                let id = tiderace_base::ids::SubscriptionId::new(credit.id);
                // One that just ended may still be granted: that is no fault of the client.
                if let Some(subscription) = connection.subscriptions.get_mut(&id) {
                    let total = bounded(total, subscription.credit.spent());
                    if subscription.credit.granted_to(total) {
                        connection.queue_subscription(id);
                    }
                }
            }
            CreditScope::ProduceSlot => {}
        }
    }

    /// The client said goodbye: its deliveries end, its answers come.
    fn client_leaves(&mut self, connection: &mut Connection) {
        // P-52
        self.let_subscriptions_go(connection);
        connection.leaving = Leaving::Left;
    }

    /// Says goodbye to a client: the node begins nothing new for it, and still delivers what its subscriptions have credit
    /// for, until they have caught up.
    pub(crate) fn goodbye(
        &mut self,
        now: Now,
        id: ConnectionId,
        reason: GoodbyeReason,
        effects: &mut Effects,
    ) {
        let Some(mut connection) = self.connections.take(id) else {
            return;
        };
        // P-52
        if connection.session.drain() {
            connection.push_frame(|id, out| Goodbye { reason }.encode(out, id));
            connection.leaving = Leaving::Drained;
            // A batch that waits for room begins nothing any more.
            self.drive(now, &mut connection, effects);
        } else if connection.session.deadline().is_some() {
            self.fail_connection(
                &mut connection,
                Fault::of_connection(ErrorCode::Draining),
                effects,
            );
        }
        self.put_back(connection);
        self.connections.ready(id);
    }

    /// Whether a goodbye was said and nothing that it leaves open is left.
    fn is_done(&self, connection: &Connection) -> bool {
        // P-52: a shard that drains appends nothing, so that the ends stand still and are reached.
        connection.leaving != Leaving::No
            && connection.session.outstanding() == 0
            && connection.session.link().outstanding() == Amount::ZERO
            && connection.subscriptions.values().all(|subscription| {
                self.partitions
                    .get(subscription.partition)
                    .is_none_or(|partition| {
                        partition.key != subscription.key
                            || subscription.next >= partition.durable.end
                    })
            })
    }

    /// Ends this side of a connection. It is closed when the other side has ended too: closed at once it would answer
    /// whatever still arrives (a grant, a ping) with a reset, and what the network has not delivered yet would be lost.
    fn finish(&mut self, now: Now, connection: &mut Connection, effects: &mut Effects) {
        connection.closing = Closing::Finished;
        connection.session.close();
        connection.backlog.clear();
        self.let_subscriptions_go(connection);
        self.listen(connection, true, effects);
        effects.push(Effect::Finish {
            conn: connection.id,
        });
        self.connections
            .finished(now.mono.after_ns(FINISH_NS_MAX), connection.id);
    }

    /// Closes the finished connections whose peers took too long.
    pub(crate) fn finishes_due(&mut self, now: Now, effects: &mut Effects) {
        while let Some(id) = self.connections.unfinished(now.mono) {
            self.hung_up(id, effects);
        }
    }

    /// The peer sends no more, or is gone.
    pub(crate) fn hung_up(&mut self, id: ConnectionId, effects: &mut Effects) {
        let Some(mut connection) = self.connections.take(id) else {
            return;
        };
        self.close(&mut connection, effects);
        self.connections.put(connection);
    }

    /// Lets go of everything that belongs to a connection and asks for its end.
    pub(crate) fn close(&mut self, connection: &mut Connection, effects: &mut Effects) {
        if connection.closing == Closing::Now {
            return;
        }
        connection.closing = Closing::Now;
        connection.session.close();
        connection.backlog.clear();
        connection.blocked = None;
        self.let_subscriptions_go(connection);
        self.forget_owed(connection);
        self.undurable.forget(connection.id);
        effects.push(Effect::Close {
            conn: connection.id,
        });
    }

    pub(crate) fn closed(&mut self, id: ConnectionId) {
        if let Some(mut connection) = self.connections.take(id) {
            self.let_subscriptions_go(&mut connection);
            self.forget_owed(&mut connection);
            self.undurable.forget(id);
        }
    }

    pub(crate) fn handshakes_due(&mut self, now: Now, effects: &mut Effects) {
        while let Some(id) = self.connections.overdue(now.mono) {
            let Some(mut connection) = self.connections.take(id) else {
                continue;
            };
            if let Some(fault) = connection.session.timer(now.mono) {
                self.fail_connection(&mut connection, fault, effects);
            }
            self.put_back(connection);
        }
    }

    /// The journal has room again: those who waited go on, in order.
    pub(crate) fn room(&mut self, now: Now, effects: &mut Effects) {
        self.drive_forwarded(now, effects);
        if !self.forwarded.is_empty() {
            return;
        }
        for _ in 0..self.waiting_for_room.len() {
            let Some(id) = self.waiting_for_room.pop_front() else {
                return;
            };
            if is_planted(Bug::ForgetWaiting) {
                continue;
            }
            let others = self.waiting_for_room.len();
            self.drive_by_id(now, id, effects);
            // It may wait for the mesh now: that is no reason for the others to wait.
            if self.waiting_for_room.len() > others {
                // Still no room. It stays the first.
                if let Some(last) = self.waiting_for_room.pop_back() {
                    self.waiting_for_room.push_front(last);
                }
                return;
            }
        }
    }

    /// The mesh has room again.
    pub(crate) fn mesh_room(&mut self, now: Now, effects: &mut Effects) {
        for _ in 0..self.waiting_for_mesh.len() {
            let Some(id) = self.waiting_for_mesh.pop_front() else {
                return;
            };
            self.drive_by_id(now, id, effects);
        }
    }

    /// Goes on with a connection that waited.
    fn drive_by_id(&mut self, now: Now, id: ConnectionId, effects: &mut Effects) {
        let Some(mut connection) = self.connections.take(id) else {
            return;
        };
        connection.waiting = false;
        self.drive(now, &mut connection, effects);
        self.put_back(connection);
    }

    /// Sends what is ready, a bounded amount for each connection; those with more have their turn when it has left.
    pub(crate) fn send_ready(&mut self, now: Now, effects: &mut Effects) {
        for _ in 0..self.connections.ready_len() {
            let Some(id) = self.connections.next_ready() else {
                return;
            };
            let Some(mut connection) = self.connections.take(id) else {
                continue;
            };
            self.send(now, &mut connection, effects);
            self.connections.put(connection);
        }
    }

    fn send(&mut self, now: Now, connection: &mut Connection, effects: &mut Effects) {
        if connection.sending.is_some()
            || matches!(connection.closing, Closing::Finished | Closing::Now)
        {
            return;
        }
        if self.send_owed(now, connection, effects) {
            return;
        }
        let mut outgoing = Outgoing::default();
        connection.take_encoded(&mut outgoing);
        let budget = self.config.send_bytes_max.saturating_sub(outgoing.bytes);
        self.deliver(connection, &mut outgoing, budget, effects);
        connection.drop_reads();
        // Delivering may have written errors and gaps.
        connection.take_encoded(&mut outgoing);
        if outgoing.bytes == 0 {
            if connection.closing == Closing::WhenSent {
                self.close(connection, effects);
            } else if self.is_done(connection) {
                self.finish(now, connection, effects);
            }
            return;
        }
        self.begin_send(now, connection, outgoing, effects);
    }
}

/// Queues an acknowledgement and gives its credit back.
fn acknowledge_on(metrics: &Metrics, connection: &mut Connection, ack: Ack, credit_bytes: u64) {
    if matches!(connection.closing, Closing::Finished | Closing::Now) {
        return;
    }
    if ack.code.is_none() {
        metrics.batches_acked_total.add(1);
    }
    connection.session.give_back(credit_bytes);
    connection.push_ack(ack);
}

/// A subscription's total, held to the largest window beyond what was spent.
fn bounded(total: Amount, spent: Amount) -> Amount {
    Amount {
        bytes: total
            .bytes
            .min(spent.bytes.saturating_add(SUBSCRIPTION_WINDOW_BYTES_MAX)),
        batches: total.batches.min(
            spent
                .batches
                .saturating_add(u64::from(SUBSCRIPTION_WINDOW_BATCHES_MAX)),
        ),
    }
}
