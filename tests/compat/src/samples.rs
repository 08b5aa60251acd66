//! One value of everything that is published. Every field has a value of its own, so that two fields that change places
//! change the bytes.

use bytes::BytesMut;
use std::sync::LazyLock;
use tiderace_base::catalogue::{Durability, Retention, Stream};
use tiderace_base::checksum::crc32c;
use tiderace_base::ids::{
    BootId, DiskId, MessageId, NodeId, PartitionIndex, PartitionKey, ProducerId, ShardId, SlotId,
    StreamId, SubscriptionId, TenantId, ZoneId,
};
use tiderace_base::position::{
    CatalogueVersion, Epoch, Offset, ProducerEpoch, ProducerSeq, SlotSeq,
};
use tiderace_wire::batch::{Attributes, BatchHeader, Placement, ProducerPart};
use tiderace_wire::body::{self, HAS_KEY, Header, Record, TOMBSTONE};
use tiderace_wire::entry::{
    self, DropReason, EntryKind, ExpireReason, NO_PARTITION, StartReason, TaskState, encode_entry,
};
use tiderace_wire::error::{ErrorCode, Retry};
use tiderace_wire::frame::*;
use tiderace_wire::link::Flags;

/// The message id of every sample frame.
pub const MESSAGE: MessageId = MessageId::new(0x0102_0304_0506_0708);

const KEY: PartitionKey = PartitionKey {
    stream: StreamId::new(0x1112_1314_1516_1718),
    partition: PartitionIndex::new(0x2122_2324),
};
const REQUEST: MessageId = MessageId::new(0x3132_3334_3536_3738);
const SUBSCRIPTION: SubscriptionId = SubscriptionId::new(0x4142_4344);
const SLOT: SlotId = SlotId::new(0x0301);
const EPOCH: Epoch = Epoch::new(0x5152_5354);
const NODE: NodeId = NodeId::new(0x6162_6364_6566_6768);
const BOOT: BootId = BootId::new(0x7172_7374_7576_7778);
const DISK: DiskId = DiskId::new(0x8182_8384_8586_8788_898a_8b8c_8d8e_8f90);
const PRODUCER: ProducerId = ProducerId::new(0x9192_9394_9596_9798_999a_9b9c_9d9e_9fa0);
const SHARD: ShardId = ShardId::new(0x0a0b);

/// The records of the sample body: with and without key, with and without value, with headers.
#[must_use]
pub fn records() -> Vec<Record> {
    vec![
        Record {
            key: b"order-17".to_vec(),
            value: b"paid".to_vec(),
            headers: vec![
                Header {
                    name: b"trace".to_vec(),
                    value: b"4bf92f35".to_vec(),
                },
                Header {
                    name: b"empty".to_vec(),
                    value: Vec::new(),
                },
            ],
            time_delta_us: 0,
            flags: HAS_KEY,
        },
        Record {
            key: Vec::new(),
            value: b"no key".to_vec(),
            headers: Vec::new(),
            time_delta_us: 1500,
            flags: 0,
        },
        Record {
            key: b"order-9".to_vec(),
            value: Vec::new(),
            headers: Vec::new(),
            time_delta_us: 2500,
            flags: HAS_KEY | TOMBSTONE,
        },
    ]
}

/// The smallest sample: one record with neither key nor headers.
#[must_use]
pub fn one_record() -> Vec<Record> {
    vec![Record {
        key: Vec::new(),
        value: b"hi".to_vec(),
        headers: Vec::new(),
        time_delta_us: 0,
        flags: 0,
    }]
}

/// The header of a batch with this body, as its producer sends it.
#[must_use]
pub fn producer_header(body: &[u8], record_count: u32) -> BatchHeader {
    BatchHeader::producer(ProducerPart {
        attributes: Attributes::NONE
            .with_idempotent()
            .with_traced()
            .with_priority(),
        key: KEY,
        record_count,
        body_bytes: body.len() as u32,
        body_crc: crc32c(body),
        producer_id: PRODUCER,
        producer_seq: ProducerSeq::new(0xa1a2_a3a4_a5a6_a7a8),
        producer_epoch: ProducerEpoch::new(0xb1b2_b3b4),
        schema_id: 0xc1c2_c3c4,
        first_time_us: 0x0005_e1e2_e3e4_e5e6,
        time_span_us: 2500,
    })
}

/// A place.
#[must_use]
pub fn placement(entry_kind: EntryKind) -> Placement {
    Placement {
        base_offset: Offset::new(0x00d1_d2d3_d4d5_d6d7),
        slot_seq: SlotSeq::new(0x00e1_e2e3_e4e5_e6e7),
        epoch: EPOCH,
        slot: SLOT,
        entry_kind,
        append_time_us: 0x0005_f1f2_f3f4_f5f6,
    }
}

/// A whole batch, as its producer sends it.
#[must_use]
pub fn batch() -> Vec<u8> {
    let body = body::encode(&records());
    let mut bytes = producer_header(&body, 3).bytes().to_vec();
    bytes.extend_from_slice(&body);
    bytes
}

/// A whole batch, placed.
#[must_use]
pub fn placed_batch() -> Vec<u8> {
    let body = body::encode(&records());
    let mut header = producer_header(&body, 3);
    header.place(placement(EntryKind::Data));
    let mut bytes = header.bytes().to_vec();
    bytes.extend_from_slice(&body);
    bytes
}

/// Every kind of control entry: its header, placed, and its body.
#[must_use]
pub fn entries() -> Vec<(EntryKind, Vec<u8>)> {
    EntryKind::ALL
        .iter()
        .filter_map(|kind| Some((*kind, entry_body(*kind)?)))
        .map(|(kind, body)| {
            let key = match kind {
                EntryKind::EpochStart
                | EntryKind::Truncate
                | EntryKind::Seal
                | EntryKind::Catalogue
                | EntryKind::Consensus => NO_PARTITION,
                _ => KEY,
            };
            let mut header = encode_entry(kind, key, &body);
            let mut placement = placement(kind);
            if kind.is_local() {
                placement.slot_seq = SlotSeq::ZERO;
            }
            header.place(placement);
            let mut bytes = header.bytes().to_vec();
            bytes.extend_from_slice(&body);
            (kind, bytes)
        })
        .collect()
}

fn entry_body(kind: EntryKind) -> Option<Vec<u8>> {
    Some(match kind {
        EntryKind::Data => return None,
        EntryKind::EpochStart => entry::EpochStart {
            epoch: EPOCH,
            boot: BOOT,
            node: NODE,
            prior_epoch: Epoch::new(0x5152_5300),
            prior_end_seq: SlotSeq::new(0x00e1_e2e3_e4e5_e600),
        }
        .to_bytes()
        .to_vec(),
        EntryKind::StartOffset => entry::StartOffset {
            offset: Offset::new(77),
            reason: StartReason::Bytes,
        }
        .to_bytes()
        .to_vec(),
        EntryKind::ProducerExpire => entry::ProducerExpire {
            producer_id: PRODUCER,
            producer_epoch: ProducerEpoch::new(5),
            reason: ExpireReason::Silence,
        }
        .to_bytes()
        .to_vec(),
        EntryKind::GroupOffset => entry::GroupOffset {
            group: 0x1234_5678_9abc_def0_0fed_cba9_8765_4321,
            epoch: EPOCH,
            offset: Offset::new(78),
        }
        .to_bytes()
        .to_vec(),
        EntryKind::TaskTransition => entry::TaskTransition {
            offset: Offset::new(79),
            from: TaskState::Leased,
            to: TaskState::Done,
            attempt: 3,
            worker: 0x1111_2222_3333_4444_5555_6666_7777_8888,
            lease_until_us: 80,
        }
        .to_bytes()
        .to_vec(),
        EntryKind::Loss => entry::Loss {
            epoch: EPOCH,
            from_offset: Offset::new(81),
            until_offset: Offset::MAX,
        }
        .to_bytes()
        .to_vec(),
        EntryKind::Truncate => entry::Truncate {
            slot: SLOT,
            epoch: EPOCH,
            from_seq: SlotSeq::new(82),
        }
        .to_bytes()
        .to_vec(),
        EntryKind::Seal => entry::Seal {
            slot: SLOT,
            epoch: EPOCH,
            last_epoch: Epoch::new(83),
            last_seq: SlotSeq::new(84),
            flushed_seq: SlotSeq::new(85),
            cut: true,
        }
        .to_bytes()
        .to_vec(),
        EntryKind::PartitionDrop => entry::PartitionDrop {
            reason: DropReason::StreamDeleted,
        }
        .to_bytes()
        .to_vec(),
        EntryKind::Catalogue | EntryKind::Consensus => b"owned by control".to_vec(),
    })
}

fn stream() -> Stream {
    Stream {
        id: KEY.stream,
        path: "shop/orders".into(),
        tenant: TenantId::new(0x0d0e_0f10),
        partitions: 16,
        durability: Durability::Quorum,
        retention: Retention {
            bytes: 1 << 40,
            age_ms: 604_800_000,
        },
        created_us: 0x0005_0102_0304_0506,
    }
}

static ACKS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let acks = [
        Ack {
            request: REQUEST,
            base_offset: Offset::new(90),
            append_time_us: 91,
            epoch: EPOCH,
            code: None,
            flags: AckFlags::DUPLICATE,
        },
        Ack::refused(MessageId::new(92), ErrorCode::SequenceGap, 93, 94),
    ];
    let mut out = BytesMut::new();
    Produced::encode(&acks, &mut out, MESSAGE);
    out[32..].to_vec()
});

/// A control section of every kind, in the order of their numbers.
///
/// # Panics
/// Never: the samples are constants.
#[must_use]
pub fn controls() -> Vec<Control<'static>> {
    let subscription = SUBSCRIPTION;
    let (stream_id, partition) = (KEY.stream, KEY.partition);
    vec![
        Control::Hello(Hello {
            version_min: 1,
            version_max: 2,
            features: 0x0102_0304,
            client_id: 0x1234_5678_9abc_def0_0fed_cba9_8765_4321,
            name: "example/1.0 ü".into(),
        }),
        Control::Welcome(Welcome {
            version: 1,
            shard: SHARD,
            shard_count: 0x0c0d,
            features: 0x0102_0304,
            node: NODE,
            boot: BOOT,
            zone: ZoneId::new(9),
            catalogue_version: CatalogueVersion::new(10),
            body_bytes_max: 11,
            batch_records_max: 12,
            producer_window: 13,
            uncredited_max: 14,
            bytes_total: 15,
            batches_total: 16,
        }),
        Control::Ping(Ping { nonce: 17 }),
        Control::Pong(Pong { nonce: 18 }),
        Control::Error(Error {
            request: REQUEST,
            code: ErrorCode::SequenceGap,
            retry: Retry::Later,
            fatal: true,
            detail_a: 19,
            detail_b: 20,
            message: "expected 19".into(),
        }),
        Control::Goodbye(Goodbye {
            reason: GoodbyeReason::Protocol,
        }),
        Control::Credit(Credit {
            scope: CreditScope::Subscription,
            id: 21,
            bytes_total: 22,
            batches_total: 23,
        }),
        Control::MetadataRequest(MetadataRequest {
            what: MetadataWhat::ById,
            first_partition: partition,
            stream: stream_id,
            path: "shop/orders".into(),
        }),
        Control::Metadata(Metadata {
            request: REQUEST,
            catalogue_version: CatalogueVersion::new(24),
            stream: Some(stream()),
            more: true,
            nodes: vec![NodeInfo {
                id: NODE,
                boot: BOOT,
                shared: "10.0.0.1:7070".into(),
                shards: vec!["10.0.0.1:7071".into(), "[::1]:7072".into()],
            }],
            partitions: vec![
                PartitionInfo {
                    partition,
                    slot: SLOT,
                    shard: SHARD,
                    node: NODE,
                    epoch: EPOCH,
                },
                PartitionInfo {
                    partition: PartitionIndex::new(25),
                    slot: SlotId::new(26),
                    shard: ShardId::new(27),
                    node: NodeId::new(28),
                    epoch: Epoch::new(29),
                },
            ],
        }),
        Control::StreamCreate(StreamCreate {
            partitions: 30,
            durability: None,
            tenant: TenantId::new(31),
            retention: Retention {
                bytes: 32,
                age_ms: 33,
            },
            path: "shop/orders".into(),
        }),
        Control::StreamCreated(StreamCreated {
            request: REQUEST,
            stream: stream(),
        }),
        Control::StreamDescribe(StreamDescribe {
            first_partition: partition,
            path: "shop/orders".into(),
        }),
        Control::StreamDescription(StreamDescription {
            request: REQUEST,
            more: false,
            stream: stream(),
            partitions: vec![DescribedPartition {
                partition,
                epoch: EPOCH,
                start: Offset::new(34),
                end: Offset::new(35),
            }],
        }),
        Control::StreamList(StreamList {
            limit: 36,
            after: "shop".into(),
        }),
        Control::StreamListing(StreamListing {
            request: REQUEST,
            more: true,
            streams: vec![stream()],
        }),
        Control::StreamDelete(StreamDelete { stream: stream_id }),
        Control::StreamDeleted(StreamDeleted { request: REQUEST }),
        Control::Produce(Produce {
            epoch: EPOCH,
            produce_slot: 37,
            since: Offset::new(70),
        }),
        Control::Produced(Produced::decode(&ACKS).expect("the samples are well formed")),
        Control::ProduceResume(ProduceResume {
            stream: stream_id,
            partition,
            producer_epoch: ProducerEpoch::new(38),
            producer_id: PRODUCER,
            last_acked_seq: ProducerSeq::new(39),
            has_acked: true,
        }),
        Control::ProduceResumed(ProduceResumed {
            request: REQUEST,
            known: true,
            epoch: EPOCH,
            last_seq: ProducerSeq::new(40),
            last_offset: Offset::new(41),
            end: Offset::new(71),
        }),
        Control::AckedLost(AckedLost {
            stream: stream_id,
            partition,
            producer_id: PRODUCER,
            from_seq: ProducerSeq::new(42),
            to_seq: ProducerSeq::new(43),
        }),
        Control::Subscribe(Subscribe {
            subscription,
            partition,
            stream: stream_id,
            from: SubscribeFrom::Offset,
            epoch: EPOCH,
            position: 44,
            credit_bytes: 45,
            credit_batches: 46,
        }),
        Control::Subscribed(Subscribed {
            request: REQUEST,
            subscription,
            epoch: EPOCH,
            start: Offset::new(47),
            end: Offset::new(48),
            next: Offset::new(49),
        }),
        Control::Deliver(Deliver {
            subscription,
            epoch: EPOCH,
            end_offset: Offset::new(50),
        }),
        Control::Unsubscribe(Unsubscribe { subscription }),
        Control::Unsubscribed(Unsubscribed {
            request: REQUEST,
            subscription,
        }),
        Control::OffsetByTime(OffsetByTime {
            stream: stream_id,
            partition,
            time_us: 51,
        }),
        Control::OffsetOfTime(OffsetOfTime {
            request: REQUEST,
            offset: Offset::new(52),
            append_time_us: 53,
            epoch: EPOCH,
            found: true,
        }),
        Control::Gap(Gap {
            subscription,
            reason: GapReason::Damaged,
            from: Offset::new(54),
            to: Offset::new(55),
        }),
        Control::Diverged(Diverged {
            request: REQUEST,
            subscription,
            epoch: EPOCH,
            end: Offset::new(56),
        }),
        Control::Redirect(Redirect {
            request: REQUEST,
            stream: stream_id,
            partition,
            epoch: EPOCH,
            node: NODE,
            shard: SHARD,
            address: "10.0.0.2:7071".into(),
        }),
        Control::Loss(Loss {
            subscription,
            epoch: EPOCH,
            partition,
            from: Offset::new(57),
        }),
        Control::SlotFetch(SlotFetch {
            slot: SLOT,
            suspect: true,
            cut: Cut::Known,
            epoch: EPOCH,
            last_epoch: Epoch::new(58),
            cut_epoch: Epoch::new(0x1058),
            last_seq: SlotSeq::new(0x2058),
            durable_seq: SlotSeq::new(0x3058),
            cut_seq: SlotSeq::new(0x4058),
            credit_bytes: 59,
            credit_entries: 60,
            boot: BOOT,
            disk: DISK,
        }),
        Control::SlotEntries(SlotEntries {
            slot: SLOT,
            epoch: EPOCH,
            boot: BOOT,
            after_epoch: Epoch::new(0x1061),
            after_seq: SlotSeq::new(0x2061),
            leader_seq: SlotSeq::new(61),
            committed_seq: SlotSeq::new(62),
        }),
        Control::SlotAck(SlotAck {
            slot: SLOT,
            epoch: EPOCH,
            durable_seq: SlotSeq::new(63),
            boot: BOOT,
            disk: DISK,
        }),
        Control::SlotSeal(SlotSeal {
            slot: SLOT,
            epoch: EPOCH,
            generation: 0x1064,
            node: NODE,
            boot: BOOT,
        }),
        Control::SlotSealed(SlotSealed {
            slot: SLOT,
            suspect: true,
            cut: Cut::Unknown,
            epoch: EPOCH,
            last_epoch: Epoch::new(64),
            cut_epoch: Epoch::new(67),
            last_seq: SlotSeq::new(65),
            flushed_seq: SlotSeq::new(66),
            cut_seq: SlotSeq::new(68),
            lease_left_ns: 69,
            generation: 0x1069,
            boot: BOOT,
            disk: DISK,
        }),
        Control::LeaseGrant(LeaseGrant {
            slot: SLOT,
            epoch: EPOCH,
            sent_ns: 71,
            length_ns: 72,
            boot: BOOT,
            disk: DISK,
        }),
        Control::SlotSnapshotRequest(SlotSnapshotRequest {
            slot: SLOT,
            epoch: EPOCH,
            from_seq: SlotSeq::new(73),
            part: 74,
        }),
        Control::SlotSnapshot(SlotSnapshot {
            slot: SLOT,
            last: true,
            epoch: EPOCH,
            boot: BOOT,
            base_seq: SlotSeq::new(75),
            part: 76,
            bytes: b"a part",
        }),
        Control::SlotDiverged(SlotDiverged {
            slot: SLOT,
            epoch: EPOCH,
            boot: BOOT,
            asked_epoch: Epoch::new(0x1072),
            end_epoch: Epoch::new(0x2072),
            asked_seq: SlotSeq::new(0x3072),
            end_seq: SlotSeq::new(0x4072),
        }),
        Control::SlotFenced(SlotFenced {
            slot: SLOT,
            reason: FenceReason::OldImage,
            epoch: EPOCH,
            fence: Epoch::new(0x1073),
            number: 0x2073,
        }),
        Control::LeaseAsk(LeaseAsk {
            slot: SLOT,
            epoch: EPOCH,
            boot: BOOT,
            sent_ns: 0x1074,
            length_ns: 0x2074,
        }),
        Control::ControlLetter(ControlLetter {
            letter: 2,
            bytes: b"there",
        }),
        Control::GroupCommit(GroupCommit {
            group: 0x1234_5678_9abc_def0_0fed_cba9_8765_4321,
            stream: stream_id,
            partition,
            epoch: EPOCH,
            offset: Offset::new(77),
        }),
        Control::GroupCommitted(GroupCommitted {
            request: REQUEST,
            code: Some(ErrorCode::FencedEpoch),
        }),
        Control::TaskTake(TaskTake {
            worker: 0x1111_2222_3333_4444_5555_6666_7777_8888,
            stream: stream_id,
            partition,
            tasks_max: 78,
            lease_us: 79,
        }),
        Control::TaskGive(TaskGive {
            request: REQUEST,
            lease_until_us: 80,
            epoch: EPOCH,
            tasks: vec![Task {
                offset: Offset::new(81),
                attempt: 82,
            }],
        }),
        Control::TaskSettle(TaskSettle {
            worker: 0x1111_2222_3333_4444_5555_6666_7777_8888,
            stream: stream_id,
            partition,
            outcome: SettleOutcome::Nack,
            offset: Offset::new(83),
            delay_us: 84,
        }),
        Control::TaskSettled(TaskSettled {
            request: REQUEST,
            code: None,
        }),
    ]
}

/// The batches that follow a control section of a sample.
#[must_use]
pub fn batches_behind(control: &Control<'_>) -> Vec<u8> {
    match control {
        Control::Produce(_) => batch(),
        Control::Deliver(_) => [placed_batch(), placed_batch()].concat(),
        Control::TaskGive(_) => placed_batch(),
        Control::SlotEntries(_) => entries().into_iter().flat_map(|(_, bytes)| bytes).collect(),
        _ => Vec::new(),
    }
}

/// A whole frame of this control section, with these batches.
#[must_use]
pub fn encode(control: &Control<'_>, message_id: MessageId, batches: &[u8]) -> Vec<u8> {
    let out = &mut BytesMut::new();
    match control {
        Control::Produce(produce) => {
            let flags = BatchHeader::parse(batches)
                .map_or(Flags::NONE, |header| Flags::of(header.attributes()));
            produce.encode(out, message_id, flags, batches.len());
        }
        Control::Deliver(frame) => frame.encode(out, message_id, Flags::NONE, batches.len()),
        Control::SlotEntries(frame) => frame.encode(out, message_id, Flags::NONE, batches.len()),
        Control::TaskGive(frame) => frame.encode(out, message_id, Flags::NONE, batches.len()),
        Control::Produced(frame) => {
            Produced::encode(&frame.acks().collect::<Vec<_>>(), out, message_id);
        }
        Control::Hello(frame) => frame.encode(out, message_id),
        Control::Welcome(frame) => frame.encode(out, message_id),
        Control::Ping(frame) => frame.encode(out, message_id),
        Control::Pong(frame) => frame.encode(out, message_id),
        Control::Error(frame) => frame.encode(out, message_id),
        Control::Goodbye(frame) => frame.encode(out, message_id),
        Control::Credit(frame) => frame.encode(out, message_id),
        Control::MetadataRequest(frame) => frame.encode(out, message_id),
        Control::Metadata(frame) => frame.encode(out, message_id),
        Control::StreamCreate(frame) => frame.encode(out, message_id),
        Control::StreamCreated(frame) => frame.encode(out, message_id),
        Control::StreamDescribe(frame) => frame.encode(out, message_id),
        Control::StreamDescription(frame) => frame.encode(out, message_id),
        Control::StreamList(frame) => frame.encode(out, message_id),
        Control::StreamListing(frame) => frame.encode(out, message_id),
        Control::StreamDelete(frame) => frame.encode(out, message_id),
        Control::StreamDeleted(frame) => frame.encode(out, message_id),
        Control::ProduceResume(frame) => frame.encode(out, message_id),
        Control::ProduceResumed(frame) => frame.encode(out, message_id),
        Control::AckedLost(frame) => frame.encode(out, message_id),
        Control::Subscribe(frame) => frame.encode(out, message_id),
        Control::Subscribed(frame) => frame.encode(out, message_id),
        Control::Unsubscribe(frame) => frame.encode(out, message_id),
        Control::Unsubscribed(frame) => frame.encode(out, message_id),
        Control::OffsetByTime(frame) => frame.encode(out, message_id),
        Control::OffsetOfTime(frame) => frame.encode(out, message_id),
        Control::Gap(frame) => frame.encode(out, message_id),
        Control::Diverged(frame) => frame.encode(out, message_id),
        Control::Redirect(frame) => frame.encode(out, message_id),
        Control::Loss(frame) => frame.encode(out, message_id),
        Control::SlotFetch(frame) => frame.encode(out, message_id),
        Control::SlotAck(frame) => frame.encode(out, message_id),
        Control::SlotSeal(frame) => frame.encode(out, message_id),
        Control::SlotSealed(frame) => frame.encode(out, message_id),
        Control::LeaseGrant(frame) => frame.encode(out, message_id),
        Control::SlotSnapshotRequest(frame) => frame.encode(out, message_id),
        Control::SlotSnapshot(frame) => frame.encode(out, message_id),
        Control::SlotDiverged(frame) => frame.encode(out, message_id),
        Control::SlotFenced(frame) => frame.encode(out, message_id),
        Control::LeaseAsk(frame) => frame.encode(out, message_id),
        Control::ControlLetter(frame) => frame.encode(out, message_id),
        Control::GroupCommit(frame) => frame.encode(out, message_id),
        Control::GroupCommitted(frame) => frame.encode(out, message_id),
        Control::TaskTake(frame) => frame.encode(out, message_id),
        Control::TaskSettle(frame) => frame.encode(out, message_id),
        Control::TaskSettled(frame) => frame.encode(out, message_id),
    }
    out.extend_from_slice(batches);
    out.to_vec()
}

/// Every sample frame, whole.
#[must_use]
pub fn frames() -> Vec<(Control<'static>, Vec<u8>)> {
    controls()
        .into_iter()
        .map(|control| {
            let bytes = encode(&control, MESSAGE, &batches_behind(&control));
            (control, bytes)
        })
        .collect()
}
