//! Reads of the journal under way, and who waits until fewer are. Each takes memory until its bytes are back, wanted or
//! not, so there is one bound for all of them; lookups of a time have a share of their own, so that neither subscriptions
//! that are behind nor questions about time keep the other waiting.

use crate::shard::Shard;
use crate::subscription::Source;
use std::collections::{BTreeMap, VecDeque};
use tiderace_base::ids::{ConnectionId, MessageId, PartitionKey, SubscriptionId};
use tiderace_base::operation::Effects;
use tiderace_base::position::Epoch;
use tiderace_storage::ReadId;

/// For whom the journal is being read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReadFor {
    /// A subscription that is behind.
    Subscription(ConnectionId, SubscriptionId),
    /// A subscription whose start is a time. The request tells it from a later one of the same name.
    Seek(ConnectionId, SubscriptionId, MessageId),
    /// An offset by time.
    OffsetByTime(ConnectionId, MessageId, PartitionKey, Epoch),
}

impl ReadFor {
    fn is_lookup(self) -> bool {
        match self {
            Self::Subscription(..) => false,
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

/// The reads of one shard.
#[derive(Debug)]
pub(crate) struct Reads {
    under_way: BTreeMap<ReadId, ReadFor>,
    /// How many of them look a time up.
    lookups: usize,
    /// Subscriptions that wait until fewer reads are under way; some have ended since. As many as there are subscriptions
    /// at the most, but for those that end while they wait.
    subscriptions_waiting: VecDeque<(ConnectionId, SubscriptionId)>,
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
            subscriptions_waiting: VecDeque::new(),
            lookups_waiting: VecDeque::new(),
            max,
        }
    }

    fn lookups_max(&self) -> usize {
        (self.max / 4).max(1)
    }

    /// Whether a subscription may read now, while `busy` reads take memory.
    pub(crate) fn may_read(&self, busy: usize) -> bool {
        busy < self.max && self.under_way.len() - self.lookups < self.max - self.lookups_max()
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
        self.subscriptions_waiting.push_back((conn, id));
    }
}

impl Shard {
    /// Ends a read that nobody waits for any more.
    pub(crate) fn forget_read(&mut self, read: ReadId) {
        self.reads.end(read);
        self.journal.cancel_read(read);
    }

    /// Looks a time up, now or when fewer reads are under way.
    pub(crate) fn look_up(&mut self, lookup: Lookup) {
        self.reads.lookups_waiting.push_back(lookup);
    }

    /// Lets as many read as may. Between events, when no connection is being worked on.
    pub(crate) fn read_waiting(&mut self, effects: &mut Effects) {
        while self.reads.may_look_up(self.journal.reads_under_way())
            && let Some(lookup) = self.reads.lookups_waiting.pop_front()
        {
            self.start_lookup(lookup, effects);
        }
        let mut busy = self.journal.reads_under_way();
        while self.reads.may_read(busy)
            && let Some((conn, id)) = self.reads.subscriptions_waiting.pop_front()
        {
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
            ReadFor::Subscription(..) => unreachable!("it looks no time up"),
        }
    }
}
