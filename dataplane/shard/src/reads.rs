//! Reads of the journal under way, and who waits until fewer are. Each takes memory until its bytes are back, wanted or
//! not, so there is one bound for all of them; lookups of a time have a share of their own, so that neither subscriptions
//! that are behind nor questions about time keep the other waiting.

use crate::shard::Shard;
use crate::subscription::Source;
use std::collections::{BTreeMap, VecDeque};
use tiderace_base::ids::{ConnectionId, MessageId, PartitionKey, SubscriptionId};
use tiderace_base::limits::BLOCK_BYTES;
use tiderace_base::operation::Effects;
use tiderace_base::position::Epoch;
use tiderace_storage::ReadId;

/// For whom the journal is being read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReadFor {
    /// A subscription that is behind.
    Subscription(ConnectionId, SubscriptionId),
    /// The rest of a deliver frame that was begun.
    Owed(ConnectionId),
    /// A subscription whose start is a time. The request tells it from a later one of the same name.
    Seek(ConnectionId, SubscriptionId, MessageId),
    /// An offset by time.
    OffsetByTime(ConnectionId, MessageId, PartitionKey, Epoch),
}

impl ReadFor {
    fn is_lookup(self) -> bool {
        match self {
            Self::Subscription(..) | Self::Owed(_) => false,
            Self::Seek(..) | Self::OffsetByTime(..) => true,
        }
    }
}

/// A time to be looked up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lookup {
    pub(crate) whom: ReadFor,
    pub(crate) key: PartitionKey,
    pub(crate) time_us: u64,
}

/// Who waits for a read.
#[derive(Clone, Copy, Debug)]
enum Reader {
    Subscription(ConnectionId, SubscriptionId),
    Owed(ConnectionId),
}

/// The most that the buffer of one read takes: whole blocks around `read_bytes_max`, or around the largest batch.
#[must_use]
pub const fn read_buffer_bytes_max(read_bytes_max: usize) -> usize {
    read_bytes_max + 2 * BLOCK_BYTES
}

/// The reads of one shard.
#[derive(Debug)]
pub(crate) struct Reads {
    under_way: BTreeMap<ReadId, ReadFor>,
    /// How many of them look a time up.
    lookups: usize,
    /// Subscriptions and connections that wait until fewer reads are under way; some have ended since. As many as there are
    /// at the most, but for those that end while they wait.
    readers_waiting: VecDeque<Reader>,
    /// As many as sessions may ask at once.
    lookups_waiting: VecDeque<Lookup>,
    max: usize,
}

impl Reads {
    /// Never more than `max` at once, a quarter of them lookups.
    pub(crate) fn new(max: usize) -> Self {
        assert!(max >= 2, "a read and a lookup may be under way");
        Self {
            under_way: BTreeMap::new(),
            lookups: 0,
            readers_waiting: VecDeque::new(),
            lookups_waiting: VecDeque::new(),
            max,
        }
    }

    fn lookups_max(&self) -> usize {
        (self.max / 4).max(1)
    }

    /// Whether a subscription may read now, while `busy` reads take memory and the disk has time for `allowed`.
    pub(crate) fn may_read(&self, busy: usize, allowed: usize) -> bool {
        busy < self.max.min(allowed + self.lookups)
            && self.under_way.len() - self.lookups < self.max - self.lookups_max()
    }

    fn may_look_up(&self, busy: usize) -> bool {
        busy < self.max && self.lookups < self.lookups_max()
    }

    pub(crate) fn begin(&mut self, read: ReadId, whom: ReadFor) {
        self.lookups += usize::from(whom.is_lookup());
        self.under_way.insert(read, whom);
    }

    /// A read ended, or nobody wants it any more.
    pub(crate) fn end(&mut self, read: ReadId) -> Option<ReadFor> {
        let whom = self.under_way.remove(&read)?;
        self.lookups -= usize::from(whom.is_lookup());
        Some(whom)
    }

    /// Queues a subscription that found no read free.
    pub(crate) fn wait(&mut self, conn: ConnectionId, id: SubscriptionId) {
        self.readers_waiting
            .push_back(Reader::Subscription(conn, id));
    }

    /// Queues a connection that owes the rest of a frame.
    pub(crate) fn wait_owed(&mut self, conn: ConnectionId) {
        self.readers_waiting.push_back(Reader::Owed(conn));
    }

    /// Whether anybody waits until a read may begin.
    pub(crate) fn somebody_waits(&self) -> bool {
        !self.readers_waiting.is_empty() || !self.lookups_waiting.is_empty()
    }
}

impl Shard {
    /// Ends a read that nobody waits for any more.
    pub(crate) fn forget_read(&mut self, read: ReadId) {
        self.reads.end(read);
        self.journal.cancel_read(read);
    }

    /// Whether there is memory for one more read beside `busy` ones and what was read and is being sent.
    pub(crate) fn read_fits(&self, busy: usize) -> bool {
        let each = read_buffer_bytes_max(self.config.read_bytes_max);
        self.held.get() + (busy + 1) * each <= self.config.held_bytes_max
    }

    /// Looks a time up, now or when fewer reads are under way.
    pub(crate) fn look_up(&mut self, lookup: Lookup) {
        self.reads.lookups_waiting.push_back(lookup);
    }

    /// Lets as many read as may. Between events, when no connection is being worked on.
    pub(crate) fn read_waiting(&mut self, effects: &mut Effects) {
        while self.reads.may_look_up(self.journal.reads_under_way())
            && self.read_fits(self.journal.reads_under_way())
            && let Some(lookup) = self.reads.lookups_waiting.pop_front()
        {
            self.start_lookup(lookup, effects);
        }
        let mut busy = self.journal.reads_under_way();
        while self.reads.may_read(busy, self.journal.reads_allowed())
            && self.read_fits(busy)
            && let Some(reader) = self.reads.readers_waiting.pop_front()
        {
            let (conn, id) = match reader {
                Reader::Subscription(conn, id) => (conn, id),
                Reader::Owed(conn) => {
                    busy += usize::from(self.read_owed(conn, effects));
                    continue;
                }
            };
            let Some(connection) = self.connections.get(conn) else {
                continue;
            };
            let Some(subscription) = connection.subscriptions.get_mut(&id) else {
                continue;
            };
            if matches!(subscription.source, Source::Waiting) {
                // It reads when its connection has its turn; if others were faster it waits again.
                busy += 1;
                subscription.source = Source::Memory;
                connection.queue_subscription(id);
                self.connections.ready(conn);
            }
        }
    }

    fn start_lookup(&mut self, lookup: Lookup, effects: &mut Effects) {
        let Lookup { whom, key, time_us } = lookup;
        match whom {
            ReadFor::Seek(conn, id, request) => {
                let connection = self.connections.get(conn);
                let subscription = connection.and_then(|it| it.subscriptions.get_mut(&id));
                if let Some(subscription) = subscription.filter(|it| it.request == request) {
                    let read = self.journal.read_time(key, time_us, effects);
                    subscription.source = Source::Seeking(Some(read));
                    self.reads.begin(read, whom);
                }
            }
            ReadFor::OffsetByTime(conn, ..) => {
                if self.connections.get(conn).is_some() {
                    let read = self.journal.read_time(key, time_us, effects);
                    self.reads.begin(read, whom);
                }
            }
            ReadFor::Subscription(..) | ReadFor::Owed(_) => unreachable!("it looks no time up"),
        }
    }
}
