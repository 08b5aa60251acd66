//! What a connection sends at once, and what becomes of it when its reader stalls. A send that holds memory which somebody
//! waits for is ended early: deliver frames that have not begun are taken back, and of the one that has begun only a few
//! bytes are copied and sent. What is owed of it is read again from the journal once the network has taken those: the
//! batches are durable and do not change. So a reader that does not read holds its few bytes and nothing else.

use crate::connection::Connection;
use crate::reads::ReadFor;
use crate::shard::Shard;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tiderace_base::ids::{ConnectionId, MessageId, PartitionKey, SubscriptionId};
use tiderace_base::limits::STALLED_BYTES_MAX;
use tiderace_base::operation::{Effect, Effects, OpId};
use tiderace_base::position::Offset;
use tiderace_base::time::{Mono, Now};
use tiderace_storage::{ReadBatches, ReadError, ReadId};
use tiderace_wire::batch::BatchHeader;
use tiderace_wire::credit::Amount;

/// Sends of slow readers ended early in one turn, while somebody waits for what they hold.
const CANCELS_PER_TURN: usize = 8;
/// A send is slow once it has taken so long: a reader that reads has taken it before, and is not made to wait for reads.
const SLOW_SEND_NS: u64 = 5_000_000;

/// Bytes of read buffers that are held by what is sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct HeldBytes(Arc<AtomicUsize>);

impl HeldBytes {
    pub(crate) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts a buffer until what is returned is dropped.
    pub(crate) fn hold(&self, bytes: usize) -> Held {
        self.0.fetch_add(bytes, Ordering::Relaxed);
        Held {
            bytes,
            all: self.clone(),
        }
    }
}

/// A read buffer that is held.
#[derive(Debug)]
pub(crate) struct Held {
    bytes: usize,
    all: HeldBytes,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A place in a partition's batches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    /// The first offset of a batch.
    pub(crate) offset: Offset,
    /// Bytes of that batch before the place.
    pub(crate) skip: usize,
}

/// Whose deliver frame it is, and what it took: for when it is not sent after all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Delivered {
    pub(crate) subscription: SubscriptionId,
    /// The request that began the subscription: the name may be another's by now.
    pub(crate) request: MessageId,
    /// What the subscription wanted next before it.
    pub(crate) before: Offset,
    /// The credit that was spent.
    pub(crate) amount: Amount,
}

/// A deliver frame in a send, or the rest of one that an earlier send began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    /// Where it begins among the bytes of its send.
    pub(crate) at: usize,
    /// Bytes before its batches.
    pub(crate) front: usize,
    /// Bytes of its batches here.
    pub(crate) batches: usize,
    pub(crate) key: PartitionKey,
    /// None: it is the rest of one.
    pub(crate) whole: Option<Delivered>,
    /// Where its batches here begin.
    pub(crate) place: Place,
    /// Bytes of the batch that they begin inside of, and the offset behind it. Zero: they begin with a batch.
    pub(crate) torn: (usize, Offset),
    /// Bytes of the frame that follow with another send.
    pub(crate) more: usize,
}

impl Piece {
    fn end(&self) -> usize {
        self.at + self.front + self.batches
    }

    /// The place behind the first `sent` bytes of its batches here.
    fn place_at(&self, parts: &[Bytes], sent: usize) -> Place {
        let (torn, behind) = self.torn;
        if sent < torn {
            return Place {
                offset: self.place.offset,
                skip: self.place.skip + sent,
            };
        }
        let mut next = if torn > 0 { behind } else { self.place.offset };
        let (mut at, mut part, mut part_at) = (torn, 0, 0);
        while at < self.batches {
            let wanted = self.at + self.front + at;
            while wanted >= part_at + parts[part].len() {
                part_at += parts[part].len();
                part += 1;
            }
            let header = BatchHeader::parse(&parts[part][wanted - part_at..])
                .expect("a batch lies in one part, and the journal verified it");
            if sent < at + header.batch_len() {
                return Place {
                    offset: header.base_offset(),
                    skip: sent - at,
                };
            }
            at += header.batch_len();
            next = header.next_offset();
        }
        Place {
            offset: next,
            skip: 0,
        }
    }
}

/// What is sent at once.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    pub(crate) parts: Vec<Bytes>,
    pub(crate) bytes: usize,
    /// Its deliver frames; what lies between them are other frames.
    pub(crate) pieces: Vec<Piece>,
    /// Read buffers that its parts are slices of.
    pub(crate) held: Vec<Held>,
    /// Whether any part is a slice of a write buffer.
    pub(crate) pins: bool,
}

/// What becomes of a send that ended early.
#[derive(Debug)]
struct Cut {
    /// A copy of what is sent next.
    rest: Vec<u8>,
    /// Frames other than delivers that follow once nothing is owed any more.
    kept: Vec<u8>,
    /// What is owed of a frame behind `rest`.
    owed: Option<Owed>,
    /// Frames that were not begun.
    dropped: Vec<Delivered>,
}

impl Outgoing {
    pub(crate) fn push(&mut self, part: Bytes) {
        self.bytes += part.len();
        self.parts.push(part);
    }

    fn copied(bytes: Vec<u8>) -> Self {
        let mut outgoing = Self::default();
        outgoing.push(bytes.into());
        outgoing
    }

    fn copy(&self, from: usize, to: usize, into: &mut Vec<u8>) {
        let mut at = 0;
        for part in &self.parts {
            let (start, end) = (from.max(at), to.min(at + part.len()));
            if start < end {
                into.extend_from_slice(&part[start - at..end - at]);
            }
            at += part.len();
        }
    }

    /// Deliver frames of which a byte was sent: batches and bytes.
    fn begun(&self, sent: usize) -> Amount {
        let begun = self.pieces.iter().filter(|piece| piece.at < sent);
        begun
            .filter_map(|piece| piece.whole)
            .fold(Amount::ZERO, |all, frame| {
                all.checked_add(frame.amount).expect("a send is bounded")
            })
    }

    /// What is still owed of the last frame, when all of this was sent.
    fn owed(&self) -> Option<Owed> {
        let piece = self.pieces.last().filter(|piece| piece.more > 0)?;
        Some(Owed {
            key: piece.key,
            place: piece.place_at(&self.parts, piece.batches),
            left: piece.more,
            state: OwedState::Waiting,
        })
    }

    /// Divides what was not sent.
    fn cut(&self, sent: usize) -> Cut {
        assert!(sent < self.bytes, "something is left");
        let mut cut = Cut {
            rest: Vec::new(),
            kept: Vec::new(),
            owed: None,
            dropped: Vec::new(),
        };
        let mut pieces = self
            .pieces
            .iter()
            .skip_while(|piece| piece.end() <= sent)
            .peekable();
        let mut at = sent;
        // One that would begin just here begins: something has to find out when the reader reads again.
        if let Some(piece) = pieces.next_if(|piece| piece.at <= sent) {
            let here = piece.end() - sent;
            let copied = here.min(STALLED_BYTES_MAX);
            self.copy(sent, sent + copied, &mut cut.rest);
            if copied < here || piece.more > 0 {
                let front_end = piece.at + piece.front;
                let batches = (sent + copied).saturating_sub(front_end);
                cut.owed = Some(Owed {
                    key: piece.key,
                    place: piece.place_at(&self.parts, batches),
                    left: piece.batches - batches + piece.more,
                    state: OwedState::Probing,
                });
            }
            at = piece.end();
        }
        let others = if cut.owed.is_some() {
            &mut cut.kept
        } else {
            &mut cut.rest
        };
        for piece in pieces {
            self.copy(at, piece.at, others);
            cut.dropped.extend(piece.whole);
            at = piece.end();
        }
        self.copy(at, self.bytes, others);
        cut
    }
}

/// A send in flight.
#[derive(Debug)]
pub(crate) struct Sending {
    pub(crate) op: OpId,
    /// What is being sent: needed again when it is ended early.
    outgoing: Outgoing,
    /// Whether it was ended early, or is the copy that follows one that was: it holds no buffer for long.
    cancelled: bool,
}

/// How far the rest of a deliver frame is.
#[derive(Debug)]
enum OwedState {
    /// The bytes before it are being sent.
    Probing,
    /// It waits until it may be read.
    Waiting,
    /// It is being read.
    Reading(ReadId),
    /// It was read, and is sent in the same turn.
    Read(Vec<Bytes>, Held),
}

/// The rest of a deliver frame whose front was sent. Nothing else is sent on its connection before it.
#[derive(Debug)]
pub(crate) struct Owed {
    /// The subscription may have ended: the partition is enough.
    key: PartitionKey,
    place: Place,
    /// Bytes.
    left: usize,
    state: OwedState,
}

impl Owed {
    /// The rest, as far as `batches` bring it. None: they are not what was sent before.
    fn outgoing(&self, batches: Vec<Bytes>, held: Held) -> Option<Outgoing> {
        let first = BatchHeader::parse(batches.first()?).ok()?;
        let Place { offset, skip } = self.place;
        if first.base_offset() != offset || skip >= first.batch_len() {
            return None;
        }
        let rest = if skip > 0 {
            first.batch_len() - skip
        } else {
            0
        };
        let torn = (rest, first.next_offset());
        let mut outgoing = Outgoing {
            held: vec![held],
            ..Outgoing::default()
        };
        for (index, batch) in batches.into_iter().enumerate() {
            if outgoing.bytes == self.left {
                break;
            }
            outgoing.push(if index == 0 {
                batch.slice(skip..)
            } else {
                batch
            });
        }
        let more = self.left.checked_sub(outgoing.bytes)?;
        outgoing.pieces.push(Piece {
            at: 0,
            front: 0,
            batches: outgoing.bytes,
            key: self.key,
            whole: None,
            place: self.place,
            torn,
            more,
        });
        Some(outgoing)
    }
}

/// Sends that hold memory of one kind, in the order in which they began; some have ended.
#[derive(Debug, Default)]
pub(crate) struct SendQueue(VecDeque<(Mono, ConnectionId, OpId)>);

impl SendQueue {
    /// When the oldest is slow.
    fn slow_at(&self) -> Option<Mono> {
        self.0
            .front()
            .map(|(began, ..)| began.after_ns(SLOW_SEND_NS))
    }

    /// Takes the oldest out, if it is slow.
    fn pop_slow(&mut self, now: Mono) -> Option<(ConnectionId, OpId)> {
        self.0
            .pop_front_if(|(began, ..)| began.after_ns(SLOW_SEND_NS) <= now)
            .map(|(_, id, op)| (id, op))
    }

    /// Forgets the sends that have ended, so that the list stays as short as that of the open ones.
    fn forget(&mut self, open: usize, mut is_open: impl FnMut(ConnectionId, OpId) -> bool) {
        while self
            .0
            .pop_front_if(|(_, id, op)| !is_open(*id, *op))
            .is_some()
        {}
        if self.0.len() > 2 * open + 64 {
            self.0.retain(|(_, id, op)| is_open(*id, *op));
        }
    }
}

impl Shard {
    /// Begins a send.
    pub(crate) fn begin_send(
        &mut self,
        now: Now,
        connection: &mut Connection,
        outgoing: Outgoing,
        effects: &mut Effects,
    ) {
        let op = self.ops.allocate();
        let entry = (now.mono, connection.id, op);
        if outgoing.pins {
            self.pinning.0.push_back(entry);
        }
        if !outgoing.held.is_empty() {
            self.holding.0.push_back(entry);
        }
        self.push_send(connection, op, outgoing, false, effects);
    }

    fn push_send(
        &mut self,
        connection: &mut Connection,
        op: OpId,
        outgoing: Outgoing,
        cancelled: bool,
        effects: &mut Effects,
    ) {
        effects.push(Effect::Send {
            op,
            conn: connection.id,
            parts: outgoing.parts.clone(),
        });
        connection.sending = Some(Sending {
            op,
            outgoing,
            cancelled,
        });
    }

    /// Whether somebody waits for a write buffer.
    fn room_is_wanted(&self) -> bool {
        !self.waiting_for_room.is_empty() || !self.forwarded.is_empty()
    }

    /// Whether somebody waits for a read that no memory is left for.
    fn reads_are_wanted(&self) -> bool {
        self.reads.somebody_waits() && !self.read_fits(self.journal.reads_under_way())
    }

    /// Takes memory back from slow readers when somebody waits for it: the oldest sends that hold any are ended early.
    pub(crate) fn end_slow_sends(&mut self, now: Now, effects: &mut Effects) {
        let mut cancelled = 0;
        while cancelled < CANCELS_PER_TURN {
            let slow = if self.room_is_wanted() {
                self.pinning.pop_slow(now.mono)
            } else {
                None
            };
            let slow = slow.or_else(|| {
                self.reads_are_wanted()
                    .then(|| self.holding.pop_slow(now.mono))
                    .flatten()
            });
            let Some((id, op)) = slow else {
                return;
            };
            if let Some(connection) = self.connections.get(id)
                && let Some(sending) = &mut connection.sending
                && sending.op == op
                && !sending.cancelled
            {
                sending.cancelled = true;
                cancelled += 1;
                effects.push(Effect::CancelSend { conn: id });
            }
        }
    }

    /// When the next send is slow, if somebody waits for what it holds.
    pub(crate) fn next_slow_send(&self) -> Option<Mono> {
        let pinning = self.room_is_wanted().then(|| self.pinning.slow_at());
        let holding = self.reads_are_wanted().then(|| self.holding.slow_at());
        pinning.flatten().into_iter().chain(holding.flatten()).min()
    }

    fn forget_sent(&mut self) {
        let open = self.connections.len();
        let connections = &mut self.connections;
        let mut is_open = |id, op| {
            connections
                .get(id)
                .and_then(|connection| connection.sending.as_ref())
                .is_some_and(|sending| sending.op == op)
        };
        self.pinning.forget(open, &mut is_open);
        self.holding.forget(open, &mut is_open);
    }

    pub(crate) fn sent(
        &mut self,
        now: Now,
        id: ConnectionId,
        op: OpId,
        sent_bytes: u64,
        alive: bool,
        effects: &mut Effects,
    ) {
        let Some(mut connection) = self.connections.take(id) else {
            return;
        };
        let sending = connection.sending.take().expect("a send is in flight");
        assert_eq!(sending.op, op, "one send is in flight, and it is this one");
        let outgoing = sending.outgoing;
        let sent = usize::try_from(sent_bytes).expect("a send is bounded");
        assert!(sent <= outgoing.bytes, "no more is sent than there is");
        if alive && sent < outgoing.bytes && !connection.is_closed() {
            self.ended_early(&mut connection, &outgoing, sent, effects);
            self.connections.put(connection);
            drop(outgoing);
            self.forget_sent();
            return self.room(now, effects);
        }
        self.count_delivered(outgoing.begun(sent));
        if alive {
            if let Some(owed) = outgoing.owed().filter(|_| !connection.is_closed()) {
                connection.owed = Some(Box::new(owed));
            }
            if let Some(owed) = &mut connection.owed {
                owed.state = OwedState::Waiting;
                self.reads.wait_owed(id);
            }
            // What it could not be told before may have choked it.
            self.drive(now, &mut connection, effects);
        } else {
            self.close(&mut connection, effects);
        }
        self.connections.put(connection);
        self.connections.ready(id);
        drop(outgoing);
        self.forget_sent();
        if self.room_is_wanted() {
            self.room(now, effects);
        }
    }

    fn count_delivered(&self, amount: Amount) {
        self.metrics.batches_delivered_total.add(amount.batches);
        self.metrics.bytes_delivered_total.add(amount.bytes);
    }

    /// A send was cancelled. What lets go of its buffers is sent, the rest of a frame before anything else.
    fn ended_early(
        &mut self,
        connection: &mut Connection,
        outgoing: &Outgoing,
        sent: usize,
        effects: &mut Effects,
    ) {
        self.metrics.sends_ended_early_total.add(1);
        let cut = outgoing.cut(sent);
        let mut delivered = outgoing.begun(usize::MAX);
        for frame in cut.dropped.into_iter().rev() {
            delivered = delivered
                .checked_sub(frame.amount)
                .expect("it is one of them");
            self.take_back(connection, &frame);
        }
        self.count_delivered(delivered);
        connection.keep_encoded(&cut.kept);
        if let Some(owed) = cut.owed {
            connection.owed = Some(Box::new(owed));
        }
        let op = self.ops.allocate();
        self.push_send(connection, op, Outgoing::copied(cut.rest), true, effects);
    }

    /// A deliver frame was not sent after all. Its batches are delivered later, if its subscription is still there.
    fn take_back(&mut self, connection: &mut Connection, frame: &Delivered) {
        connection.session.take_back(frame.amount);
        connection.link_needs = None;
        let subscription = connection.subscriptions.get_mut(&frame.subscription);
        let Some(subscription) = subscription.filter(|it| it.request == frame.request) else {
            return;
        };
        let read = subscription.take_back(frame);
        connection.queue_subscription(frame.subscription);
        if let Some(read) = read {
            self.forget_read(read);
        }
    }

    /// Reads on in the frame that a connection's reader was sent the front of. Says whether a read began.
    pub(crate) fn read_owed(&mut self, id: ConnectionId, effects: &mut Effects) -> bool {
        let Some(owed) = self.connections.get(id).and_then(|it| it.owed.as_mut()) else {
            return false;
        };
        if !matches!(owed.state, OwedState::Waiting) {
            return false;
        }
        let bytes_max = (owed.place.skip + owed.left).min(self.config.read_bytes_max);
        let read = self
            .journal
            .read(owed.key, owed.place.offset, bytes_max, effects);
        owed.state = OwedState::Reading(read);
        self.reads.begin(read, ReadFor::Owed(id));
        true
    }

    pub(crate) fn owed_read(
        &mut self,
        id: ConnectionId,
        result: Result<ReadBatches, ReadError>,
        effects: &mut Effects,
    ) {
        let Some(mut connection) = self.connections.take(id) else {
            return;
        };
        match (result, &mut connection.owed) {
            (Ok(found), Some(owed)) => {
                let held = self.held.hold(found.buffer_bytes);
                owed.state = OwedState::Read(found.batches, held);
            }
            (Ok(_), None) => {}
            (Err(_), _) => self.cannot_complete(&mut connection, effects),
        }
        self.connections.put(connection);
        self.connections.ready(id);
    }

    /// Sends what is owed, once it was read. Says whether anything is owed: then nothing else may be sent.
    pub(crate) fn send_owed(
        &mut self,
        now: Now,
        connection: &mut Connection,
        effects: &mut Effects,
    ) -> bool {
        let Some(mut owed) = connection.owed.take() else {
            return false;
        };
        match core::mem::replace(&mut owed.state, OwedState::Waiting) {
            OwedState::Read(batches, held) => match owed.outgoing(batches, held) {
                Some(outgoing) => self.begin_send(now, connection, outgoing, effects),
                None => self.cannot_complete(connection, effects),
            },
            state => {
                owed.state = state;
                connection.owed = Some(owed);
            }
        }
        true
    }

    /// The journal does not hold the rest of a frame any more: a frame cannot end in its middle, so its connection does.
    fn cannot_complete(&mut self, connection: &mut Connection, effects: &mut Effects) {
        self.metrics.frames_incomplete_total.add(1);
        self.close(connection, effects);
    }

    /// Lets go of what a connection that ends still owes.
    pub(crate) fn forget_owed(&mut self, connection: &mut Connection) {
        if let Some(owed) = connection.owed.take()
            && let OwedState::Reading(read) = owed.state
        {
            self.forget_read(read);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use tiderace_base::ids::{PartitionIndex, ProducerId, SlotId, StreamId};
    use tiderace_base::limits::BATCH_HEADER_BYTES;
    use tiderace_base::position::{Epoch, ProducerEpoch, ProducerSeq, SlotSeq};
    use tiderace_wire::batch::{Attributes, Placement, ProducerPart};
    use tiderace_wire::entry::EntryKind;
    use tiderace_wire::frame::{Deliver, Pong};
    use tiderace_wire::session::Server;

    fn key() -> PartitionKey {
        PartitionKey {
            stream: StreamId::new(1),
            partition: PartitionIndex::new(0),
        }
    }

    /// A placed batch of 3 records whose body says where it stands.
    fn batch(base: u64, body_bytes: usize) -> Bytes {
        let mut header = BatchHeader::producer(ProducerPart {
            attributes: Attributes::NONE,
            key: key(),
            record_count: 3,
            body_bytes: body_bytes as u32,
            body_crc: 0,
            producer_id: ProducerId::default(),
            producer_seq: ProducerSeq::ZERO,
            producer_epoch: ProducerEpoch::ZERO,
            schema_id: 0,
            first_time_us: 0,
            time_span_us: 0,
        });
        header.place(Placement {
            base_offset: Offset::new(base),
            slot_seq: SlotSeq::new(base),
            epoch: Epoch::new(1),
            slot: SlotId::new(0),
            entry_kind: EntryKind::Data,
            append_time_us: base,
        });
        let mut bytes = header.bytes().to_vec();
        bytes.extend((0..body_bytes).map(|at| (base as usize * 7 + at) as u8));
        bytes.into()
    }

    /// A send of other frames and of deliver frames, and where each of its batches lies.
    fn send() -> (Outgoing, BTreeMap<Offset, usize>) {
        let window = Amount {
            bytes: 1 << 20,
            batches: 100,
        };
        let session = Server::new(Mono::from_ns(0), window);
        let mut connection = Connection::new(ConnectionId::new(1), session);
        let mut outgoing = Outgoing::default();
        let mut places = BTreeMap::new();
        let mut base = 10;
        for (number, sizes) in [vec![40], vec![500, 1, 300], vec![], vec![20, 20]]
            .iter()
            .enumerate()
        {
            connection.push_frame(|id, out| {
                Pong {
                    nonce: number as u64,
                }
                .encode(out, id);
            });
            if sizes.is_empty() {
                continue;
            }
            let before = Offset::new(base);
            let mut batches = Vec::new();
            for bytes in sizes {
                batches.push(batch(base, *bytes));
                base += 3;
            }
            let bytes: usize = batches.iter().map(Bytes::len).sum();
            let frame = Deliver {
                subscription: SubscriptionId::new(number as u32),
                epoch: Epoch::new(1),
                end_offset: Offset::new(1000),
            };
            let whole = Delivered {
                subscription: frame.subscription,
                request: MessageId::new(1 + number as u64),
                before,
                amount: Amount {
                    bytes: bytes as u64,
                    batches: batches.len() as u64,
                },
            };
            connection.push_deliver(frame, key(), whole, batches.clone(), &mut outgoing);
            let mut at = outgoing.bytes - bytes;
            for (index, batch) in batches.iter().enumerate() {
                places.insert(before.advance(3 * index as u64), at);
                at += batch.len();
            }
        }
        connection.push_frame(|id, out| Pong { nonce: 9 }.encode(out, id));
        connection.take_encoded(&mut outgoing);
        (outgoing, places)
    }

    #[test]
    fn wherever_a_send_is_cut_what_follows_is_the_rest_without_the_frames_taken_back() {
        let (outgoing, places) = send();
        let all = outgoing.parts.concat();
        assert_eq!(all.len(), outgoing.bytes);
        let mut owed_seen = 0;
        for sent in 0..all.len() {
            let cut = outgoing.cut(sent);
            let unbegun = outgoing.pieces.iter().filter(|piece| piece.at > sent);
            let dropped: Vec<Delivered> = unbegun.clone().filter_map(|piece| piece.whole).collect();
            assert_eq!(cut.dropped, dropped, "cut at {sent}");
            let mut due: Vec<u8> = Vec::new();
            let mut at = sent;
            for piece in unbegun {
                due.extend_from_slice(&all[at..piece.at]);
                at = piece.end();
            }
            due.extend_from_slice(&all[at..]);
            let mut follows = cut.rest.clone();
            if let Some(owed) = &cut.owed {
                owed_seen += 1;
                assert!(cut.rest.len() <= STALLED_BYTES_MAX, "cut at {sent}");
                let from = places[&owed.place.offset] + owed.place.skip;
                follows.extend_from_slice(&all[from..from + owed.left]);
            }
            follows.extend_from_slice(&cut.kept);
            assert!(follows == due, "cut at {sent}");
        }
        assert!(owed_seen > 100, "a frame larger than a probe was cut");
    }

    #[test]
    fn what_is_owed_goes_on_in_the_middle_of_a_batch() {
        let (outgoing, places) = send();
        let all = outgoing.parts.concat();
        let held = HeldBytes::default();
        for sent in 0..all.len() {
            let Some(owed) = outgoing.cut(sent).owed else {
                continue;
            };
            // Read again from its place on, one batch at a time and all at once.
            let from = places[&owed.place.offset];
            let mut batches = Vec::new();
            let mut at = from;
            while at < from + owed.place.skip + owed.left {
                let header = BatchHeader::parse(&all[at..]).expect("a batch begins here");
                batches.push(Bytes::copy_from_slice(&all[at..at + header.batch_len()]));
                at += header.batch_len();
            }
            let want = &all[from + owed.place.skip..][..owed.left];
            for count in 1..=batches.len() {
                let some = batches[..count].to_vec();
                let next = owed.outgoing(some, held.hold(1)).expect("it is the rest");
                assert_eq!(next.parts.concat(), want[..next.bytes], "cut at {sent}");
                assert_eq!(next.bytes + next.pieces[0].more, owed.left, "cut at {sent}");
                let behind = next.owed().map(|owed| (owed.place, owed.left));
                match behind {
                    Some((place, left)) => {
                        assert_eq!(
                            places[&place.offset] + place.skip + left,
                            from + owed.place.skip + owed.left
                        );
                    }
                    None => assert_eq!(next.bytes, owed.left),
                }
            }
            let stranger = vec![batch(5000, BATCH_HEADER_BYTES)];
            assert!(owed.outgoing(stranger, held.hold(1)).is_none());
        }
        assert_eq!(held.get(), 0, "what was held is given back");
    }
}
