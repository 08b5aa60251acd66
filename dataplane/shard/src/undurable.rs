//! What waits for the journal to become durable: in the order of the journal, the batches that were appended; beside
//! them, the retries whose first answer is not durable yet. Nothing leaves before its place is durable, and everything
//! leaves in the journal's order. Bounded by the credit of those who wait.

use crate::partitions::Index;
use std::collections::{BTreeMap, VecDeque};
use tiderace_base::ids::{ConnectionId, PartitionKey};
use tiderace_base::mesh::Origin;
use tiderace_base::position::{Lsn, Offset};
use tiderace_base::time::Mono;
use tiderace_wire::frame::Ack;

/// Who waits for an acknowledgement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Waiter {
    /// A connection of this shard.
    Here(ConnectionId),
    /// A connection of another shard of this node.
    There(Origin),
    /// It was told already: its stream promises no durability.
    Nobody,
}

/// One acknowledgement that waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    /// Who waits.
    pub waiter: Waiter,
    /// What it will be told.
    pub ack: Ack,
    /// Bytes of credit that its batch spent.
    pub credit_bytes: u64,
}

/// A batch that is not durable yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    /// The end of its entry.
    pub end: Lsn,
    /// Its partition's place in the table; given to another when the partition is dropped.
    pub partition: Index,
    /// Its partition's name.
    pub key: PartitionKey,
    /// What becomes visible: the offset after its last record.
    pub next: Offset,
    /// When it was appended.
    pub appended_at: Mono,
    /// Who waits.
    pub waiting: Waiting,
}

/// The queue.
#[derive(Debug, Default)]
pub(crate) struct Undurable {
    batches: VecDeque<Pending>,
    duplicates: BTreeMap<(Lsn, u64), Waiting>,
    duplicates_seen: u64,
}

impl Undurable {
    /// Whether nothing waits.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.duplicates.is_empty()
    }

    /// Batches that wait.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.batches.len()
    }

    /// Queues a batch that was just appended.
    ///
    /// # Panics
    /// When it does not lie behind the one before: the journal hands out places in order.
    pub(crate) fn push(&mut self, pending: Pending) {
        if let Some(last) = self.batches.back() {
            assert!(pending.end > last.end, "the journal's places rise");
        }
        self.batches.push_back(pending);
    }

    /// Queues a retry until the first answer is durable.
    pub(crate) fn push_duplicate(&mut self, end: Lsn, waiting: Waiting) {
        self.duplicates_seen += 1;
        self.duplicates.insert((end, self.duplicates_seen), waiting);
    }

    /// The next batch that is durable when everything below `durable` is.
    pub(crate) fn pop(&mut self, durable: Lsn) -> Option<Pending> {
        self.batches.pop_front_if(|pending| pending.end <= durable)
    }

    /// The next retry that can be answered when everything below `durable` is durable.
    pub(crate) fn pop_duplicate(&mut self, durable: Lsn) -> Option<Waiting> {
        let first = self.duplicates.first_entry()?;
        (first.key().0 <= durable).then(|| first.remove())
    }

    /// Forgets that a connection waits: it is gone. Its batches stay, for what they make visible.
    pub(crate) fn forget(&mut self, conn: ConnectionId) {
        self.duplicates
            .retain(|_, waiting| waiting.waiter != Waiter::Here(conn));
    }
}
