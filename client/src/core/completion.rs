//! What a session says to its owner, as values: answers, acknowledgements, news of subscriptions, and why something was
//! not sent. Each accepted request has exactly one of them.

use crate::core::producer::{Placed, Reached};
use crate::error::Refusal;
use bytes::Bytes;
use tiderace_base::catalogue::Stream;
use tiderace_base::ids::{NodeId, PartitionKey, ProducerId, ShardId, SubscriptionId};
use tiderace_base::position::{Epoch, Offset, ProducerSeq};
use tiderace_wire::frame::{Metadata, StreamDescription, StreamListing, Welcome};

/// What a node answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// To a ping.
    Pong,
    /// A page of metadata.
    Metadata(Box<Metadata>),
    /// The stream exists.
    Created(Box<Stream>),
    /// A page of a stream's partitions.
    Description(Box<StreamDescription>),
    /// A page of streams.
    Listing(Box<StreamListing>),
    /// The stream is gone.
    Deleted,
    /// What the node has of a producer: the last batch of its epoch, `None` when it knows none.
    Resumed {
        /// The last batch that it holds.
        last_seq: Option<ProducerSeq>,
        /// Where the partition ends.
        reached: Reached,
    },
    /// An offset by time; `None`: everything is older.
    OffsetOfTime {
        /// The first offset appended at or after the time, or the end.
        offset: Offset,
        /// When that was appended, in microseconds since 1970; `None`: there is nothing yet.
        append_time_us: Option<u64>,
        /// The epoch that leads.
        epoch: Epoch,
    },
}

/// News of a subscription.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// It has begun.
    Begun {
        /// The slot's epoch.
        epoch: Epoch,
        /// One past the last visible offset.
        end: Offset,
        /// The first offset that comes.
        next: Offset,
    },
    /// Batches, whole, unchecked, in order.
    Delivered {
        /// The slot's epoch.
        epoch: Epoch,
        /// One past the last visible offset.
        end: Offset,
        /// Each with its header.
        batches: Vec<Bytes>,
    },
    /// Offsets that are not kept.
    Gap {
        /// Why, by its number.
        reason: u8,
        /// The first.
        from: Offset,
        /// The next that comes.
        to: Offset,
    },
    /// Records that were acknowledged are gone.
    Loss {
        /// The epoch that lost them.
        epoch: Epoch,
        /// The first.
        from: Offset,
    },
    /// The cursor is not in this log. The subscription has ended.
    Diverged {
        /// The newest epoch not after the cursor's that the log has.
        epoch: Epoch,
        /// Its end.
        end: Offset,
    },
    /// The subscription was refused or ended with an error.
    Refused(Refusal),
    /// Another shard leads now. The subscription has ended.
    Ended,
}

/// What came of something, or what a node said unasked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Completion {
    /// The session is open.
    Open(Welcome),
    /// What was refused for lack of credit may be tried again.
    Room,
    /// A batch is stored.
    Acked {
        /// As given to [`super::connection::Connection::produce`].
        owner: u32,
        /// As given to [`super::connection::Connection::produce`].
        token: u64,
        /// Where.
        placed: Placed,
    },
    /// A batch was refused.
    ProduceRefused {
        /// As given to [`super::connection::Connection::produce`].
        owner: u32,
        /// As given to [`super::connection::Connection::produce`].
        token: u64,
        /// Why.
        refusal: Refusal,
    },
    /// Acknowledged batches are gone.
    AckedLost {
        /// Where.
        partition: PartitionKey,
        /// Whose.
        producer: ProducerId,
        /// The first.
        from_seq: u64,
        /// The last.
        to_seq: u64,
    },
    /// Who leads a partition. The request that it is about, if any, was refused just before.
    Redirect {
        /// Which.
        partition: PartitionKey,
        /// The slot's epoch.
        epoch: Epoch,
        /// The leading node.
        node: NodeId,
        /// The shard of that node.
        shard: ShardId,
        /// Where it listens.
        address: String,
    },
    /// The answer to [`super::connection::Connection::ask`].
    Answered {
        /// As given.
        token: u64,
        /// What the node said.
        answer: Answer,
    },
    /// A request was refused.
    Refused {
        /// As given to [`super::connection::Connection::ask`].
        token: u64,
        /// Why.
        refusal: Refusal,
    },
    /// News of a subscription.
    Subscription {
        /// As given to [`super::connection::Connection::subscribe`].
        owner: u64,
        /// Which.
        subscription: SubscriptionId,
        /// What happened.
        notice: Notice,
    },
    /// The node begins nothing new: go elsewhere.
    Goodbye,
    /// The node ends the connection, for this reason.
    Ended(Refusal),
}

/// Why something was not sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SendRefused {
    /// There is no credit, or as many requests wait as may: [`Completion::Room`] says when to try again.
    NoCredit,
    /// The session is not open.
    NotOpen,
}

/// Why a question was not sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AskRefused {
    /// As many requests wait as may.
    Full,
    /// The session is not open.
    NotOpen,
    /// No node would accept it.
    Invalid(Refusal),
}
