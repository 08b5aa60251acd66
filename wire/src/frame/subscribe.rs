//! Frames of subscribers: from the first credit to the last batch, and everything that a log may say to whoever reads
//! it: that records are gone, that its past is another one, that another shard leads it.

use super::{end, fixed_frames, fixed_frames_before_batches, open_frames, put_text, take_text};
use crate::layout::{ControlError, coded, fixed};
use bytes::BytesMut;
use tiderace_base::ids::{MessageId, NodeId, PartitionIndex, ShardId, StreamId, SubscriptionId};
use tiderace_base::position::{Epoch, Offset};

/// An address (host and port), in bytes.
pub const ADDRESS_BYTES_MAX: usize = 64;

coded!(
    /// Where a subscription begins.
    pub enum SubscribeFrom: u8 {
        /// At the first offset that is kept.
        Earliest = 0,
        /// At the end: what is appended from now on.
        Latest = 1,
        /// At the offset in `position`.
        Offset = 2,
        /// At the first batch appended at or after the time in `position`, in microseconds since 1970.
        Time = 3,
    }
);

fixed!(
    /// Begins a subscription, with its first credit.
    pub struct Subscribe [48] {
        /// Its number, chosen by the client; free on this connection.
        subscription: SubscriptionId;
        /// The partition.
        partition: PartitionIndex;
        /// The stream.
        stream: StreamId;
        /// Where it begins.
        from: SubscribeFrom, pad 3;
        /// The epoch of the last record seen; zero for none.
        epoch: Epoch;
        /// The offset or the time; zero where neither is asked for.
        position: u64;
        /// Credit in bytes of batches, from the subscription's start.
        credit_bytes: u64;
        /// The same in batches.
        credit_batches: u64;
    }
);

fixed!(
    /// The subscription has begun.
    pub struct Subscribed [40] {
        /// The request.
        request: MessageId;
        /// Its number.
        subscription: SubscriptionId;
        /// The slot's epoch.
        epoch: Epoch;
        /// The first offset that is kept.
        start: Offset;
        /// One past the last that subscribers may see.
        end: Offset;
        /// The first offset that will be delivered.
        next: Offset;
    }
);

fixed!(
    /// Batches of a subscription, in offset order. The first may begin before the offset that is wanted: the client
    /// passes over those records.
    pub struct Deliver [16] {
        /// Which subscription.
        subscription: SubscriptionId;
        /// The slot's epoch.
        epoch: Epoch;
        /// One past the last offset that subscribers may see.
        end_offset: Offset;
    }
);

fixed!(
    /// Ends a subscription.
    pub struct Unsubscribe [8] {
        /// Which.
        subscription: SubscriptionId, pad 4;
    }
);

fixed!(
    /// The subscription has ended: no deliver of it follows.
    pub struct Unsubscribed [16] {
        /// The request.
        request: MessageId;
        /// Which.
        subscription: SubscriptionId, pad 4;
    }
);

fixed!(
    /// Asks for the first batch appended at or after a time.
    pub struct OffsetByTime [24] {
        /// The stream.
        stream: StreamId;
        /// The partition.
        partition: PartitionIndex, pad 4;
        /// The time, in microseconds since 1970.
        time_us: u64;
    }
);

fixed!(
    /// The answer to an offset by time.
    pub struct OffsetOfTime [32] {
        /// The request.
        request: MessageId;
        /// The batch's first offset; the end when there is none.
        offset: Offset;
        /// When it was appended; zero when there is none.
        append_time_us: u64;
        /// The slot's epoch.
        epoch: Epoch;
        /// Whether there is one.
        found: bool, pad 3;
    }
);

coded!(
    /// Why offsets are not kept.
    pub enum GapReason: u8 {
        /// Older than the stream's age.
        Age = 1,
        /// Beyond the stream's bytes.
        Bytes = 2,
        /// Somebody asked for it.
        Asked = 3,
        /// They are damaged here and on every replica that could be asked.
        Damaged = 4,
    }
);

fixed!(
    /// Offsets of a subscription that are not kept.
    pub struct Gap [24] {
        /// Which subscription.
        subscription: SubscriptionId;
        /// Why.
        reason: GapReason, pad 3;
        /// The first offset not kept.
        from: Offset;
        /// The offset at which delivery goes on.
        to: Offset;
    }
);

fixed!(
    /// The cursor's epoch and offset are not in this log: where they part.
    pub struct Diverged [24] {
        /// The request; zero when it happened to an open subscription.
        request: MessageId;
        /// Which subscription.
        subscription: SubscriptionId;
        /// The newest epoch not after the cursor's that this log has.
        epoch: Epoch;
        /// The end of that epoch here: what the cursor read from there on was lost.
        end: Offset;
    }
);

fixed!(
    pub(crate) struct RedirectHead [34] {
        /// The request; zero when it happened to an open subscription.
        request: MessageId;
        /// The stream.
        stream: StreamId;
        /// The partition.
        partition: PartitionIndex;
        /// The slot's epoch.
        epoch: Epoch;
        /// The leading node.
        node: NodeId;
        /// The shard of that node.
        shard: ShardId;
    }
);

/// Who leads the partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Redirect {
    /// The request; zero when it happened to an open subscription.
    pub request: MessageId,
    /// The stream.
    pub stream: StreamId,
    /// The partition.
    pub partition: PartitionIndex,
    /// The slot's epoch.
    pub epoch: Epoch,
    /// The leading node.
    pub node: NodeId,
    /// The shard of that node.
    pub shard: ShardId,
    /// Where that shard listens; at most [`ADDRESS_BYTES_MAX`] bytes.
    pub address: String,
}

impl Redirect {
    fn put(&self, out: &mut BytesMut) {
        let head = RedirectHead {
            request: self.request,
            stream: self.stream,
            partition: self.partition,
            epoch: self.epoch,
            node: self.node,
            shard: self.shard,
        };
        out.extend_from_slice(&head.to_bytes());
        put_text(out, &self.address);
    }

    /// Reads a control section.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(control: &[u8]) -> Result<Self, ControlError> {
        let (head, rest) = RedirectHead::from_prefix(control)?;
        let (address, rest) = take_text(rest, ADDRESS_BYTES_MAX)?;
        end(rest)?;
        Ok(Self {
            request: head.request,
            stream: head.stream,
            partition: head.partition,
            epoch: head.epoch,
            node: head.node,
            shard: head.shard,
            address: address.to_owned(),
        })
    }
}

fixed!(
    /// Records of a subscribed partition that were acknowledged and are gone.
    pub struct Loss [24] {
        /// Which subscription.
        subscription: SubscriptionId;
        /// The epoch that lost them.
        epoch: Epoch;
        /// The partition.
        partition: PartitionIndex, pad 4;
        /// The first offset lost.
        from: Offset;
    }
);

fixed_frames!(
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
    OffsetByTime,
    OffsetOfTime,
    Gap,
    Diverged,
    Loss,
);
fixed_frames_before_batches!(Deliver);
open_frames!(Redirect);
