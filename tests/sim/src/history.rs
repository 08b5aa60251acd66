//! What was seen from outside: by the clients, over the wire, and by whoever watches the nodes come and go. Properties
//! judge nothing else, so that they hold for any program that speaks the protocol, and so that a test can plant a
//! history that must not be.

use tiderace_base::catalogue::Durability;
use tiderace_base::ids::PartitionKey;

use crate::world::LinkId;

/// A batch, as its producer names it: retries carry the same name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct BatchName {
    /// Where it belongs.
    pub partition: PartitionKey,
    /// Who made it.
    pub producer: u128,
    /// The producer's own fence.
    pub producer_epoch: u32,
    /// Its number within these.
    pub seq: u64,
}

/// One subscription of one connection: it starts somewhere and reads on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Reader(pub u64);

/// Whose spending a ledger bounds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Scope {
    /// The node grants, the client spends on batches that it produces.
    Produce,
    /// The client grants, the node spends on batches that it delivers to this subscription.
    Deliver(u32),
}

/// A credit ledger.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ledger {
    /// The connection.
    pub link: LinkId,
    /// Which of its ledgers.
    pub scope: Scope,
}

/// Bytes and batches; cumulative where a total is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Credit {
    /// In bytes.
    pub bytes: u64,
    /// In batches.
    pub batches: u64,
}

/// What was seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Observation {
    /// A node's process started to serve, or at least to run.
    NodeStarted {
        /// Which node.
        node: u16,
    },
    /// A node's process ended.
    NodeDied {
        /// Which node.
        node: u16,
        /// Whether its power was lost.
        power: bool,
        /// Whether it ended in order, because it was asked to.
        stopped: bool,
    },
    /// A node was asked to end in order.
    StopAsked {
        /// Which node.
        node: u16,
        /// When, in nanoseconds of world time.
        at_ns: u64,
    },
    /// A node said goodbye to a subscriber, and then the connection ended.
    DrainedTo {
        /// The subscriber.
        reader: Reader,
        /// Of what.
        partition: PartitionKey,
        /// The next offset that it would have had.
        next: u64,
        /// When it heard the end, in nanoseconds of world time.
        at_ns: u64,
        /// Whether it was one: everything that was sent had arrived.
        in_order: bool,
    },
    /// Faults ended.
    Healed,
    /// A node was asked what it holds of streams that its catalogue does not know.
    Strangers {
        /// Which node.
        node: u16,
        /// Partitions.
        partitions: u64,
    },
    /// A stream exists.
    StreamKnown {
        /// Its id.
        stream: u64,
        /// What its acknowledgements promise.
        durability: Durability,
        /// Whether old records may go away.
        trims: bool,
    },
    /// A producer sent a batch, for the first time or again.
    Submitted {
        /// The batch.
        batch: BatchName,
        /// The slot epoch that the producer claims to know; zero for none.
        epoch: u32,
        /// How many records it has.
        records: u32,
        /// A digest of its content.
        digest: u64,
    },
    /// A producer was told that its batch is safe.
    Acknowledged {
        /// The batch.
        batch: BatchName,
        /// The offset of its first record.
        offset: u64,
        /// The slot epoch in which it was accepted.
        epoch: u32,
        /// The node had it already.
        duplicate: bool,
    },
    /// A reader asks to be positioned: what it will be told is no older than this.
    Asked {
        /// Who.
        reader: Reader,
        /// Of what.
        partition: PartitionKey,
    },
    /// A subscription begins, or begins anew.
    Positioned {
        /// Who.
        reader: Reader,
        /// Of what.
        partition: PartitionKey,
        /// The offset that comes first.
        next: u64,
        /// The oldest offset that is kept.
        start: u64,
        /// The end of what may be seen.
        end: u64,
    },
    /// A batch was delivered.
    Delivered {
        /// To whom.
        reader: Reader,
        /// Of what.
        partition: PartitionKey,
        /// The batch; `None` when its producer has no name.
        batch: Option<BatchName>,
        /// The offset of its first record.
        offset: u64,
        /// How many records it has.
        records: u32,
        /// A digest of its content.
        digest: u64,
        /// The epoch in which it was accepted.
        epoch: u32,
        /// When it was appended, by the node's wall clock.
        append_time_us: u64,
    },
    /// A subscriber was told that a range is gone.
    GapTold {
        /// Who.
        reader: Reader,
        /// The first offset that is gone.
        from: u64,
        /// The first that is not.
        to: u64,
    },
    /// A reader has reached the end and reports what it has read from where it began.
    ReadThrough {
        /// Who.
        reader: Reader,
        /// Of what.
        partition: PartitionKey,
        /// The end that it reached.
        end: u64,
    },
    /// A ledger begins with nothing granted and nothing spent.
    LedgerOpened {
        /// Which.
        ledger: Ledger,
        /// The most that may be granted and not yet spent.
        window: Credit,
    },
    /// A grant, as a total since the ledger began.
    Granted {
        /// Which ledger.
        ledger: Ledger,
        /// The total.
        total: Credit,
    },
    /// Something was spent, as a total since the ledger began.
    Spent {
        /// Which ledger.
        ledger: Ledger,
        /// The total.
        total: Credit,
    },
    /// Everything that was sent has been answered: what is left must let the sender go on.
    Settled {
        /// Which ledger.
        ledger: Ledger,
        /// The least that must be left.
        least: Credit,
    },
    /// A node said something that the protocol does not allow.
    ProtocolBroken {
        /// What.
        what: String,
    },
    /// A node says that it holds a batch, and not where.
    Stored {
        /// Which.
        batch: BatchName,
    },
    /// A node no longer knows what it had acknowledged to a producer.
    Forgotten {
        /// The newest batch that was acknowledged.
        batch: BatchName,
    },
    /// A reader was told that its past is another one, or that records it may have seen are gone.
    PastChanged {
        /// Who.
        reader: Reader,
        /// Of what.
        partition: PartitionKey,
        /// Where the pasts part.
        from: u64,
    },
    /// The run is over.
    Finished {
        /// What clients still wait for.
        waiting: Vec<String>,
    },
}
