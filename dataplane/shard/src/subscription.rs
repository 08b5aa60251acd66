//! A subscription as its shard holds it, and how its batches leave: from the journal's memory while it is live, by cold
//! reads while it is behind, never more than its credit, never what is not durable at its stream's level. A subscriber
//! that does not grant costs its own window and nothing else.

use crate::connection::Connection;
use crate::partition::Partition;
use crate::partitions::Index;
use crate::reads::ReadFor;
use crate::sending::{Delivered, Held, Outgoing};
use crate::shard::Shard;
use bytes::Bytes;
use std::collections::VecDeque;
use tiderace_base::disk::DiskError;
use tiderace_base::ids::{ConnectionId, MessageId, PartitionKey, SubscriptionId};
use tiderace_base::limits::DELIVER_BYTES_MAX;
use tiderace_base::operation::Effects;
use tiderace_base::planted::{Bug, is_planted};
use tiderace_base::position::{Lsn, Offset};
use tiderace_storage::{ReadBatches, ReadError, ReadId};
use tiderace_wire::batch::BatchHeader;
use tiderace_wire::credit::{Amount, Spender};
use tiderace_wire::error::ErrorCode;
use tiderace_wire::frame::{Deliver, Gap};
use tiderace_wire::session::Server;

/// Where a subscription's next batches come from.
#[derive(Debug)]
pub(crate) enum Source {
    /// The journal's memory, or a read once it turns out that they are not there any more.
    Memory,
    /// A read that waits until fewer are under way.
    Waiting,
    /// A read under way.
    Reading(ReadId),
    /// What a read brought. It is sent in the same turn, or dropped and read again: nothing that was read is held for a
    /// reader that does not take it.
    Read(VecDeque<Bytes>, Held),
    /// The time that it starts at is being looked up; `None`: that waits until fewer reads are under way.
    Seeking(Option<ReadId>),
}

impl Source {
    /// The read under way, if there is one.
    fn read(&self) -> Option<ReadId> {
        match self {
            Self::Reading(read) | Self::Seeking(Some(read)) => Some(*read),
            Self::Memory | Self::Waiting | Self::Read(..) | Self::Seeking(None) => None,
        }
    }
}

/// One subscription.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) id: SubscriptionId,
    /// The request that began it: what goes wrong later is told under its id.
    pub(crate) request: MessageId,
    pub(crate) key: PartitionKey,
    pub(crate) partition: Index,
    /// The next offset that it wants.
    pub(crate) next: Offset,
    pub(crate) credit: Spender,
    pub(crate) source: Source,
    /// Credit in bytes without which its next batch cannot leave: nothing is read before it is there.
    pub(crate) needs_bytes: u64,
    /// Whether it stands in its connection's queue.
    pub(crate) queued: bool,
}

impl Subscription {
    /// Goes back to before a frame that was not sent after all. The read under way is for what follows it: it is returned,
    /// to be forgotten.
    pub(crate) fn take_back(&mut self, frame: &Delivered) -> Option<ReadId> {
        self.credit.take_back(frame.amount);
        self.next = frame.before;
        self.needs_bytes = 0;
        core::mem::replace(&mut self.source, Source::Memory).read()
    }
}

/// Whether a subscription has more to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Progress {
    /// It has, and may.
    More,
    /// It waits: for data, for its credit or for a read.
    Waits,
    /// The connection's credit does not cover so much: it stays the first, and the others wait behind it.
    NeedsLink(Amount),
    /// It ended with an error.
    Ended,
}

impl Shard {
    /// Puts the live subscribers of partitions to work in which something became visible.
    pub(crate) fn wake_subscribers(&mut self) {
        let mut woken = core::mem::take(&mut self.woken);
        for index in woken.drain(..) {
            let Some(partition) = self.partitions.get_mut(index) else {
                continue;
            };
            partition.woken = false;
            // One by one: the set keeps its node for those that catch up again, and is not allocated anew at each commit.
            while let Some((conn, id)) = partition.caught_up.pop_first() {
                if is_planted(Bug::ForgetSubscription) && partition.visible.get() % 16 == 0 {
                    continue;
                }
                let Some(connection) = self.connections.get(conn) else {
                    continue;
                };
                if connection.queue_subscription(id) {
                    self.connections.ready(conn);
                }
            }
        }
        self.woken = woken;
    }

    /// Ends every subscription of a partition that is gone.
    pub(crate) fn end_subscriptions(&mut self, partition: &Partition, code: ErrorCode) {
        for (conn, id) in &partition.subscribers {
            let Some(connection) = self.connections.get(*conn) else {
                continue;
            };
            let ended = connection.remove_subscription(*id);
            if let Some(subscription) = &ended {
                connection.end_subscription(subscription, code);
            }
            self.connections.ready(*conn);
            if let Some(subscription) = ended {
                self.metrics.subscriptions.sub(1);
                if let Some(read) = subscription.source.read() {
                    self.forget_read(read);
                }
            }
        }
    }

    /// Lets go of a subscription's reads and of its place among its partition's subscribers. A partition that was only
    /// there for its subscribers goes with the last.
    pub(crate) fn release(&mut self, conn: ConnectionId, subscription: &Subscription) {
        self.metrics.subscriptions.sub(1);
        if let Some(read) = subscription.source.read() {
            self.forget_read(read);
        }
        // The index may have been given to another partition since: the key decides.
        if self
            .partitions
            .get(subscription.partition)
            .is_some_and(|partition| partition.key == subscription.key)
        {
            let partition = self.partitions.at(subscription.partition);
            let entry = (conn, subscription.id);
            partition.subscribers.remove(&entry);
            partition.caught_up.remove(&entry);
            if partition.subscribers.is_empty() {
                partition.recent = VecDeque::new();
                if partition.durable.is_untouched() {
                    self.partitions.remove(subscription.key);
                    self.retained.remove(&subscription.key);
                    self.metrics.partitions.set(self.partitions.len() as u64);
                }
            }
        }
    }

    /// Adds delivers of a connection's subscriptions to what it sends, each in its turn, up to `budget` bytes.
    pub(crate) fn deliver(
        &mut self,
        connection: &mut Connection,
        outgoing: &mut Outgoing,
        mut budget: usize,
        effects: &mut Effects,
    ) {
        while budget > 0
            && connection.link_needs.is_none()
            && let Some(id) = connection.runnable.pop_front()
        {
            let Some(mut subscription) = connection.subscriptions.remove(&id) else {
                continue;
            };
            subscription.queued = false;
            self.metrics.subscription_turns_total.add(1);
            match self.deliver_one(
                connection,
                &mut subscription,
                outgoing,
                &mut budget,
                effects,
            ) {
                Progress::More => {
                    subscription.queued = true;
                    connection.runnable.push_back(id);
                    connection.subscriptions.insert(id, subscription);
                }
                Progress::Waits => {
                    connection.subscriptions.insert(id, subscription);
                }
                Progress::NeedsLink(amount) => {
                    subscription.queued = true;
                    connection.runnable.push_front(id);
                    connection.subscriptions.insert(id, subscription);
                    connection.link_needs = Some(amount);
                }
                Progress::Ended => self.release(connection.id, &subscription),
            }
        }
    }

    /// One deliver frame at most.
    fn deliver_one(
        &mut self,
        connection: &mut Connection,
        subscription: &mut Subscription,
        outgoing: &mut Outgoing,
        budget: &mut usize,
        effects: &mut Effects,
    ) -> Progress {
        let held = self
            .partitions
            .get(subscription.partition)
            .filter(|partition| partition.key == subscription.key);
        let Some(partition) = held else {
            connection.push_subscription_error(
                subscription.request,
                ErrorCode::UnknownStream,
                0,
                0,
            );
            return Progress::Ended;
        };
        let (start, visible, epoch) = (
            partition.durable.start,
            partition.visible,
            partition.durable.epochs.last(),
        );
        if subscription.next < start
            && matches!(subscription.source, Source::Memory | Source::Read(..))
        {
            // Before its delivers of this send, never between them: those may be taken back, and the gap is not. What was
            // read may be gone in part.
            subscription.source = Source::Memory;
            let gap = Gap {
                subscription: subscription.id,
                reason: partition.gap_reason(),
                from: subscription.next,
                to: start,
            };
            connection.push_frame(|id, out| gap.encode(out, id));
            subscription.next = start;
        }
        let before = subscription.next;
        let bytes_max = DELIVER_BYTES_MAX.min(*budget);
        let mut batches: Vec<Bytes> = Vec::new();
        let mut bytes = 0;
        let mut count = 0;
        let mut starved = None;
        match &mut subscription.source {
            Source::Waiting | Source::Reading(_) | Source::Seeking(_) => return Progress::Waits,
            Source::Read(read, _) => {
                while let Some(batch) = read.front() {
                    if bytes > 0 && bytes + batch.len() > bytes_max {
                        break;
                    }
                    if let Err(which) = spend(
                        &mut connection.session,
                        &mut subscription.credit,
                        batch.len(),
                    ) {
                        subscription.needs_bytes = batch.len() as u64;
                        starved = Some(which);
                        break;
                    }
                    bytes += batch.len();
                    count += 1;
                    let header = BatchHeader::parse(batch).expect("the journal verified it");
                    subscription.next = header.next_offset();
                    batches.extend(read.pop_front());
                }
                if let Source::Read(_, held) =
                    core::mem::replace(&mut subscription.source, Source::Memory)
                    && bytes > 0
                {
                    outgoing.held.push(held);
                }
            }
            Source::Memory => {
                if subscription.next >= visible {
                    self.catch_up(connection.id, subscription);
                    return Progress::Waits;
                }
                let Some(first) = partition.recent_at(subscription.next) else {
                    return self.read_on(connection.id, subscription, effects);
                };
                let first = match first {
                    first if is_planted(Bug::SkipBatch) && visible.get() % 16 == 0 => first + 1,
                    first => first,
                };
                let mut run: Option<(Lsn, usize)> = None;
                for recent in partition.recent.range(first..) {
                    let len = recent.bytes as usize;
                    if recent.next > visible || (bytes > 0 && bytes + len > bytes_max) {
                        break;
                    }
                    // Batches that lie side by side in a chunk leave as one slice.
                    let joined = run
                        .filter(|(lsn, bytes)| lsn.advance(*bytes as u64) == recent.lsn)
                        .map(|(lsn, bytes)| (lsn, bytes + len));
                    let (from, wanted) = joined.unwrap_or((recent.lsn, len));
                    let Some(slice) = self.journal.slice(from, wanted) else {
                        break;
                    };
                    if let Err(which) =
                        spend(&mut connection.session, &mut subscription.credit, len)
                    {
                        starved = Some(which);
                        break;
                    }
                    match batches.last_mut() {
                        Some(last) if joined.is_some() => *last = slice,
                        Some(_) | None => batches.push(slice),
                    }
                    outgoing.pins = true;
                    run = Some((from, wanted));
                    bytes += len;
                    count += 1;
                    subscription.next = recent.next;
                }
                if bytes == 0 && starved.is_none() {
                    // Remembered, but no longer in memory.
                    return self.read_on(connection.id, subscription, effects);
                }
            }
        }
        if bytes > 0 {
            let frame = Deliver {
                subscription: subscription.id,
                epoch,
                end_offset: visible,
            };
            let whole = Delivered {
                subscription: subscription.id,
                request: subscription.request,
                before,
                amount: Amount {
                    bytes: bytes as u64,
                    batches: count,
                },
            };
            connection.push_deliver(frame, subscription.key, whole, batches, outgoing);
            *budget = budget.saturating_sub(bytes);
            if is_planted(Bug::DeliverAgain) && visible.get() % 16 == 0 {
                subscription.next = before;
            }
        }
        match starved {
            Some(Starved::Link(amount)) => Progress::NeedsLink(amount),
            Some(Starved::Own) => Progress::Waits,
            None if subscription.next < visible => Progress::More,
            None => {
                self.catch_up(connection.id, subscription);
                Progress::Waits
            }
        }
    }

    /// Puts a subscription among those that the next visible batch wakes. One that waits for credit is woken by its grant,
    /// and costs a partition's appends nothing.
    fn catch_up(&mut self, conn: ConnectionId, subscription: &Subscription) {
        let partition = self.partitions.at(subscription.partition);
        partition.caught_up.insert((conn, subscription.id));
    }

    /// Reads on where memory ends. Nothing is read without credit to send it, and only so many reads are under way.
    fn read_on(
        &mut self,
        conn: ConnectionId,
        subscription: &mut Subscription,
        effects: &mut Effects,
    ) -> Progress {
        let left = subscription.credit.available();
        if left.bytes < subscription.needs_bytes.max(1) || left.batches == 0 {
            return Progress::Waits;
        }
        let busy = self.journal.reads_under_way();
        let allowed = self.journal.reads_allowed();
        if !self.reads.may_read(busy, allowed) || !self.read_fits(busy) {
            subscription.source = Source::Waiting;
            self.reads.wait(conn, subscription.id);
            return Progress::Waits;
        }
        let bytes_max = usize::try_from(left.bytes)
            .unwrap_or(usize::MAX)
            .min(self.config.read_bytes_max);
        let read = self
            .journal
            .read(subscription.key, subscription.next, bytes_max, effects);
        self.reads
            .begin(read, ReadFor::Subscription(conn, subscription.id));
        subscription.source = Source::Reading(read);
        Progress::Waits
    }

    /// A read of the journal ended.
    pub(crate) fn read_done(
        &mut self,
        read: ReadId,
        result: Result<ReadBatches, ReadError>,
        effects: &mut Effects,
    ) {
        let (conn, id) = match self.reads.end(read) {
            Some(ReadFor::Subscription(conn, id)) => (conn, id),
            Some(ReadFor::Owed(conn)) => return self.owed_read(conn, result, effects),
            Some(ReadFor::Seek(..) | ReadFor::OffsetByTime(..)) | None => return,
        };
        let Some(connection) = self.connections.get(conn) else {
            return;
        };
        let is_sending = connection.sending.is_some() || connection.owed.is_some();
        connection.has_reads |= !is_sending;
        let Some(subscription) = connection.subscriptions.get_mut(&id) else {
            return;
        };
        let Some(partition) = self.partitions.get(subscription.partition) else {
            return;
        };
        let damaged = match result {
            Ok(found) => {
                subscription.needs_bytes = 0;
                subscription.source = if is_sending {
                    Source::Memory
                } else {
                    Source::Read(found.batches.into(), self.held.hold(found.buffer_bytes))
                };
                false
            }
            Err(error) => {
                subscription.source = Source::Memory;
                match error {
                    // The start moved, or the end has come: look again. Anything else is data that should be there.
                    ReadError::BelowStart(first) => first > partition.durable.start,
                    ReadError::AtEnd => subscription.next < partition.visible,
                    // It was waited for, and is waited for again.
                    ReadError::Disk(DiskError::NotOpened(_)) => false,
                    ReadError::Damaged { .. } | ReadError::Disk(_) => true,
                }
            }
        };
        if damaged {
            let from = subscription.next.get();
            let request = subscription.request;
            connection.push_subscription_error(request, ErrorCode::Damaged, from, from);
            if let Some(subscription) = connection.remove_subscription(id) {
                self.release(conn, &subscription);
            }
            self.connections.ready(conn);
            return;
        }
        if connection.queue_subscription(id) {
            self.connections.ready(conn);
        }
    }
}

/// Which credit did not cover a batch.
#[derive(Clone, Copy, Debug)]
enum Starved {
    /// The subscription's own.
    Own,
    /// The connection's, for so much.
    Link(Amount),
}

/// Spends a batch on both levels, or on neither.
fn spend(session: &mut Server, credit: &mut Spender, bytes: usize) -> Result<(), Starved> {
    let amount = Amount::batch(bytes as u64);
    if is_planted(Bug::OverspendCredit) {
        let _ = credit.try_spend(amount);
        return Ok(());
    }
    if !credit.available().covers(amount) {
        return Err(Starved::Own);
    }
    if !session.try_deliver(amount) {
        return Err(Starved::Link(amount));
    }
    assert!(credit.try_spend(amount), "it covers the batch");
    Ok(())
}
