//! What a slot's entries are: data, or one of the fixed control bodies that the broker itself writes. A control entry
//! has the header of a batch with no producer and no records; its body is one of the structs here, held by the header's
//! body checksum. No client can write one: its kind stands in the placement part, which arrives as zeros.

use crate::batch::{Attributes, BatchHeader, ProducerPart};
use crate::layout::{coded, fixed};
use tiderace_base::checksum::crc32c;
use tiderace_base::ids::{
    BootId, NodeId, PartitionIndex, PartitionKey, ProducerId, SlotId, StreamId,
};
use tiderace_base::position::{Epoch, Offset, ProducerEpoch, ProducerSeq, SlotSeq};

coded!(
    /// What an entry is.
    pub enum EntryKind: u8 {
        /// A producer's batch.
        Data = 0,
        /// The first entry of an epoch: [`EpochStart`].
        EpochStart = 1,
        /// A partition's start moved: [`StartOffset`].
        StartOffset = 2,
        /// A producer is no longer remembered: [`ProducerExpire`].
        ProducerExpire = 3,
        /// A group's position: [`GroupOffset`].
        GroupOffset = 4,
        /// A task changed its state: [`TaskTransition`].
        TaskTransition = 5,
        /// Acknowledged records were lost: [`Loss`].
        Loss = 6,
        /// This replica dropped a suffix; local to it, slot sequence 0: [`Truncate`].
        Truncate = 7,
        /// This replica promised an epoch; local to it, slot sequence 0: [`Seal`].
        Seal = 8,
        /// A partition's data may be removed: [`PartitionDrop`].
        PartitionDrop = 9,
        /// A change of the catalogue, in the control journal; opaque here.
        Catalogue = 10,
        /// What consensus keeps in the control journal beside changes; opaque here.
        Consensus = 11,
    }
);

impl EntryKind {
    /// The size of the control body, where it is fixed.
    #[must_use]
    pub const fn body_bytes(self) -> Option<usize> {
        match self {
            Self::Data | Self::Catalogue | Self::Consensus => None,
            Self::EpochStart => Some(EpochStart::BYTES),
            Self::StartOffset => Some(StartOffset::BYTES),
            Self::ProducerExpire => Some(ProducerExpire::BYTES),
            Self::GroupOffset => Some(GroupOffset::BYTES),
            Self::TaskTransition => Some(TaskTransition::BYTES),
            Self::Loss => Some(Loss::BYTES),
            Self::Truncate => Some(Truncate::BYTES),
            Self::Seal => Some(Seal::BYTES),
            Self::PartitionDrop => Some(PartitionDrop::BYTES),
        }
    }

    /// Whether the entry belongs to this replica only and has slot sequence 0.
    #[must_use]
    pub const fn is_local(self) -> bool {
        matches!(self, Self::Truncate | Self::Seal)
    }
}

coded!(
    /// Why a partition's start moved.
    pub enum StartReason: u8 {
        /// Older than the stream's age.
        Age = 1,
        /// Beyond the stream's bytes.
        Bytes = 2,
        /// Somebody asked for it.
        Asked = 3,
    }
);

coded!(
    /// Why a producer is no longer remembered.
    pub enum ExpireReason: u32 {
        /// The partition, or its shard, remembers as many as it may, and this one was silent for longer than others.
        Room = 1,
        /// Silent for longer than producers are remembered.
        Silence = 2,
    }
);

coded!(
    /// Where a task stands.
    pub enum TaskState: u8 {
        /// Waits for a worker.
        Ready = 0,
        /// A worker holds it under a lease.
        Leased = 1,
        /// Waits for its time.
        Delayed = 2,
        /// Acknowledged.
        Done = 3,
        /// Given up.
        Dead = 4,
    }
);

coded!(
    /// Why a partition's data may be removed.
    pub enum DropReason: u8 {
        /// Its stream was deleted.
        StreamDeleted = 1,
    }
);

fixed!(
    /// The first entry of an epoch.
    pub struct EpochStart [40] {
        /// The epoch that starts.
        epoch: Epoch, pad 4;
        /// The leader's run.
        boot: BootId;
        /// The leader.
        node: NodeId;
        /// The epoch before; zero for the slot's first.
        prior_epoch: Epoch, pad 4;
        /// Sequence of the first entry that the epoch before does not have.
        prior_end_seq: SlotSeq;
    }
);

fixed!(
    /// A partition's start moved. Stream and partition stand in the header.
    pub struct StartOffset [16] {
        /// The first offset that is kept.
        offset: Offset;
        /// Why.
        reason: StartReason, pad 7;
    }
);

fixed!(
    /// A producer of a partition is no longer remembered.
    pub struct ProducerExpire [24] {
        /// Which.
        producer_id: ProducerId;
        /// Its epoch when it was last heard.
        producer_epoch: ProducerEpoch;
        /// Why.
        reason: ExpireReason;
    }
);

fixed!(
    /// A group's position in a partition.
    pub struct GroupOffset [32] {
        /// The group: 128 bits.
        group: u128;
        /// Epoch of the record before the position.
        epoch: Epoch, pad 4;
        /// The next offset that the group wants.
        offset: Offset;
    }
);

fixed!(
    /// A task changed its state.
    pub struct TaskTransition [40] {
        /// The task's record.
        offset: Offset;
        /// From which state.
        from: TaskState;
        /// To which.
        to: TaskState, pad 2;
        /// How often it was given to a worker.
        attempt: u32;
        /// Who holds it; zero for nobody.
        worker: u128;
        /// Until when, in microseconds since 1970; zero without a lease.
        lease_until_us: u64;
    }
);

fixed!(
    /// Records of a partition that were acknowledged and are gone.
    pub struct Loss [24] {
        /// The epoch that lost them.
        epoch: Epoch, pad 4;
        /// The first offset lost.
        from_offset: Offset;
        /// The first offset behind them; [`Offset::MAX`] when it is not known.
        until_offset: Offset;
    }
);

fixed!(
    /// This replica dropped a suffix of a slot.
    pub struct Truncate [16] {
        /// Which slot.
        slot: SlotId, pad 2;
        /// The epoch for which it was dropped.
        epoch: Epoch;
        /// The first sequence dropped.
        from_seq: SlotSeq;
    }
);

fixed!(
    /// What this replica promised and answered when a slot was sealed.
    pub struct Seal [40] {
        /// Which slot.
        slot: SlotId, pad 2;
        /// The epoch promised: nothing older is taken from now on.
        epoch: Epoch;
        /// The epoch of its last entry.
        last_epoch: Epoch, pad 4;
        /// The sequence of its last entry; zero when it held none.
        last_seq: SlotSeq;
        /// How far of that was durable before the seal.
        flushed_seq: SlotSeq;
        /// Whether a tail of it was cut off at a start.
        cut: bool, pad 7;
    }
);

fixed!(
    /// A partition's data may be removed.
    pub struct PartitionDrop [8] {
        /// Why.
        reason: DropReason, pad 7;
    }
);

/// The partition key of an entry that belongs to a whole slot.
pub const NO_PARTITION: PartitionKey = PartitionKey {
    stream: StreamId::new(0),
    partition: PartitionIndex::new(0),
};

/// The header of a control entry with this body: no producer, no records, both producer checksums; not placed yet.
/// `key` is [`NO_PARTITION`] for what concerns the whole slot.
///
/// # Panics
/// When `kind` is data, or `body` has not the size of that kind.
#[must_use]
pub fn encode_entry(kind: EntryKind, key: PartitionKey, body: &[u8]) -> BatchHeader {
    assert!(kind != EntryKind::Data, "data comes from a producer");
    assert!(
        kind.body_bytes().is_none_or(|bytes| bytes == body.len()),
        "a control body has the size of its kind"
    );
    BatchHeader::producer(ProducerPart {
        attributes: Attributes::NONE,
        key,
        record_count: 0,
        body_bytes: u32::try_from(body.len()).expect("a control body is small"),
        body_crc: crc32c(body),
        producer_id: ProducerId::new(0),
        producer_seq: ProducerSeq::ZERO,
        producer_epoch: ProducerEpoch::ZERO,
        schema_id: 0,
        first_time_us: 0,
        time_span_us: 0,
    })
}

/// The control bodies, for the published tables.
pub const TABLES: &[(EntryKind, &[crate::layout::FieldLayout])] = &[
    (EntryKind::EpochStart, EpochStart::LAYOUT),
    (EntryKind::StartOffset, StartOffset::LAYOUT),
    (EntryKind::ProducerExpire, ProducerExpire::LAYOUT),
    (EntryKind::GroupOffset, GroupOffset::LAYOUT),
    (EntryKind::TaskTransition, TaskTransition::LAYOUT),
    (EntryKind::Loss, Loss::LAYOUT),
    (EntryKind::Truncate, Truncate::LAYOUT),
    (EntryKind::Seal, Seal::LAYOUT),
    (EntryKind::PartitionDrop, PartitionDrop::LAYOUT),
];
