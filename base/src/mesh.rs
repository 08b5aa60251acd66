//! What the threads of one node say to each other: plain values over bounded queues, one for each ordered pair. A shard
//! hands a frame that landed on it to the shard that owns it; shards and control exchange catalogue requests. Nobody
//! shares anything else.

use crate::catalogue::{Change, Outcome, Refusal, Snapshot};
use crate::ids::{ConnectionId, MessageId, ShardId};
use crate::position::CatalogueVersion;
use bytes::Bytes;
use std::sync::Arc;

/// A thread of this node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Peer {
    /// A shard's thread.
    Shard(ShardId),
    /// The control thread.
    Control,
}

/// Who asked, so that the answer finds its way back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Origin {
    /// The shard that the connection lives on.
    pub shard: ShardId,
    /// The connection.
    pub conn: ConnectionId,
    /// The request's message id on that connection.
    pub request: MessageId,
}

/// A message between two threads of a node.
#[derive(Clone, Debug)]
pub enum Message {
    /// A produce frame whose partition lives on the receiving shard: its control section and its batch.
    Produce {
        /// Who waits for the acknowledgement.
        origin: Origin,
        /// The frame's control section.
        control: Bytes,
        /// Batch header and body, in pieces.
        batch: Vec<Bytes>,
    },
    /// The answer to a forwarded produce: one acknowledgement, as it stands in a produced frame.
    Produced {
        /// Who waits for it.
        origin: Origin,
        /// The encoded acknowledgement.
        ack: Bytes,
    },
    /// A shard asks control for a change of the catalogue.
    Change {
        /// Who waits for the outcome.
        origin: Origin,
        /// What should change.
        change: Change,
    },
    /// Control's answer, after every shard has applied the snapshot that holds the change.
    Changed {
        /// Who waits for it.
        origin: Origin,
        /// What came of it.
        outcome: Result<Outcome, Refusal>,
    },
    /// A shard that drains asks nothing more of the receiving shard, and waits for none of its answers.
    Finished,
    /// Control publishes a new snapshot.
    Snapshot(Arc<Snapshot>),
    /// A shard has applied the snapshot of this version.
    Applied(CatalogueVersion),
    /// A shard holds nothing of any stream that is a tombstone in the snapshot of this version, and no restart brings
    /// anything of one back: what dropped them is on the disk, and proven there. Each run says it anew.
    Dropped(CatalogueVersion),
}
