//! The published byte tables, made of the structs themselves, so that the document cannot say anything else than the
//! code does. A test prints them into `docs/protocol.md`.

use super::*;
use crate::layout::FieldLayout;

/// One byte table of the document.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Table {
    /// The frame or the part of one.
    pub name: &'static str,
    /// Its fixed fields.
    pub fields: &'static [FieldLayout],
    /// What follows them.
    pub then: Option<&'static str>,
}

/// The control section of each kind, in the order of their numbers.
pub const SECTIONS: &[Table] = &[
    Table {
        name: "Hello",
        fields: session::HelloHead::LAYOUT,
        then: Some("a text: the client's name, at most 64 bytes"),
    },
    Table {
        name: "Welcome",
        fields: Welcome::LAYOUT,
        then: None,
    },
    Table {
        name: "Ping",
        fields: Ping::LAYOUT,
        then: None,
    },
    Table {
        name: "Pong",
        fields: Pong::LAYOUT,
        then: None,
    },
    Table {
        name: "Error",
        fields: session::ErrorHead::LAYOUT,
        then: Some("a text for people, at most 512 bytes"),
    },
    Table {
        name: "Goodbye",
        fields: Goodbye::LAYOUT,
        then: None,
    },
    Table {
        name: "Credit",
        fields: Credit::LAYOUT,
        then: None,
    },
    Table {
        name: "MetadataRequest",
        fields: catalogue::MetadataRequestHead::LAYOUT,
        then: Some("a text: the path when the stream is asked for by path, else empty"),
    },
    Table {
        name: "Metadata",
        fields: catalogue::MetadataHead::LAYOUT,
        then: Some("a `Stream` if it has one; then each `Node`; then each `Partition`"),
    },
    Table {
        name: "StreamCreate",
        fields: catalogue::StreamCreateHead::LAYOUT,
        then: Some("a text: the path"),
    },
    Table {
        name: "StreamCreated",
        fields: catalogue::StreamCreatedHead::LAYOUT,
        then: Some("a `Stream`"),
    },
    Table {
        name: "StreamDescribe",
        fields: catalogue::StreamDescribeHead::LAYOUT,
        then: Some("a text: the path"),
    },
    Table {
        name: "StreamDescription",
        fields: catalogue::PageHead::LAYOUT,
        then: Some("a `Stream`; then each `DescribedPartition`"),
    },
    Table {
        name: "StreamList",
        fields: catalogue::StreamListHead::LAYOUT,
        then: Some("a text: the listing begins behind this path; empty from the first"),
    },
    Table {
        name: "StreamListing",
        fields: catalogue::PageHead::LAYOUT,
        then: Some("each `Stream`"),
    },
    Table {
        name: "StreamDelete",
        fields: StreamDelete::LAYOUT,
        then: None,
    },
    Table {
        name: "StreamDeleted",
        fields: StreamDeleted::LAYOUT,
        then: None,
    },
    Table {
        name: "Produce",
        fields: Produce::LAYOUT,
        then: None,
    },
    Table {
        name: "Produced",
        fields: produce::ProducedHead::LAYOUT,
        then: Some("each `Ack`"),
    },
    Table {
        name: "ProduceResume",
        fields: ProduceResume::LAYOUT,
        then: None,
    },
    Table {
        name: "ProduceResumed",
        fields: ProduceResumed::LAYOUT,
        then: None,
    },
    Table {
        name: "AckedLost",
        fields: AckedLost::LAYOUT,
        then: None,
    },
    Table {
        name: "Subscribe",
        fields: Subscribe::LAYOUT,
        then: None,
    },
    Table {
        name: "Subscribed",
        fields: Subscribed::LAYOUT,
        then: None,
    },
    Table {
        name: "Deliver",
        fields: Deliver::LAYOUT,
        then: None,
    },
    Table {
        name: "Unsubscribe",
        fields: Unsubscribe::LAYOUT,
        then: None,
    },
    Table {
        name: "Unsubscribed",
        fields: Unsubscribed::LAYOUT,
        then: None,
    },
    Table {
        name: "OffsetByTime",
        fields: OffsetByTime::LAYOUT,
        then: None,
    },
    Table {
        name: "OffsetOfTime",
        fields: OffsetOfTime::LAYOUT,
        then: None,
    },
    Table {
        name: "Gap",
        fields: Gap::LAYOUT,
        then: None,
    },
    Table {
        name: "Diverged",
        fields: Diverged::LAYOUT,
        then: None,
    },
    Table {
        name: "Redirect",
        fields: subscribe::RedirectHead::LAYOUT,
        then: Some("a text: where that shard listens, as host:port, at most 64 bytes"),
    },
    Table {
        name: "Loss",
        fields: Loss::LAYOUT,
        then: None,
    },
    Table {
        name: "SlotFetch",
        fields: SlotFetch::LAYOUT,
        then: None,
    },
    Table {
        name: "SlotEntries",
        fields: SlotEntries::LAYOUT,
        then: None,
    },
    Table {
        name: "SlotAck",
        fields: SlotAck::LAYOUT,
        then: None,
    },
    Table {
        name: "SlotSeal",
        fields: SlotSeal::LAYOUT,
        then: None,
    },
    Table {
        name: "SlotSealed",
        fields: SlotSealed::LAYOUT,
        then: None,
    },
    Table {
        name: "LeaseGrant",
        fields: LeaseGrant::LAYOUT,
        then: None,
    },
    Table {
        name: "SlotSnapshotRequest",
        fields: SlotSnapshotRequest::LAYOUT,
        then: None,
    },
    Table {
        name: "SlotSnapshot",
        fields: zone::SlotSnapshotHead::LAYOUT,
        then: Some("the part's bytes"),
    },
    Table {
        name: "SlotDiverged",
        fields: SlotDiverged::LAYOUT,
        then: None,
    },
    Table {
        name: "SlotFenced",
        fields: SlotFenced::LAYOUT,
        then: None,
    },
    Table {
        name: "LeaseAsk",
        fields: LeaseAsk::LAYOUT,
        then: None,
    },
    Table {
        name: "ControlLetter",
        fields: control::ControlLetterHead::LAYOUT,
        then: Some("what it says, control's own"),
    },
    Table {
        name: "GroupCommit",
        fields: GroupCommit::LAYOUT,
        then: None,
    },
    Table {
        name: "GroupCommitted",
        fields: GroupCommitted::LAYOUT,
        then: None,
    },
    Table {
        name: "TaskTake",
        fields: TaskTake::LAYOUT,
        then: None,
    },
    Table {
        name: "TaskGive",
        fields: work::TaskGiveHead::LAYOUT,
        then: Some("each `Task`"),
    },
    Table {
        name: "TaskSettle",
        fields: TaskSettle::LAYOUT,
        then: None,
    },
    Table {
        name: "TaskSettled",
        fields: TaskSettled::LAYOUT,
        then: None,
    },
];

/// What sections hold after their fixed fields.
pub const PARTS: &[Table] = &[
    Table {
        name: "Stream",
        fields: catalogue::StreamHead::LAYOUT,
        then: Some("a text: the path"),
    },
    Table {
        name: "Node",
        fields: catalogue::NodeHead::LAYOUT,
        then: Some(
            "a text: the address that all shards share; then a u16: how many shards, at most 256; then a text for each: its address. Addresses are host:port, at most 64 bytes",
        ),
    },
    Table {
        name: "Partition",
        fields: PartitionInfo::LAYOUT,
        then: None,
    },
    Table {
        name: "DescribedPartition",
        fields: DescribedPartition::LAYOUT,
        then: None,
    },
    Table {
        name: "Ack",
        fields: Ack::LAYOUT,
        then: None,
    },
    Table {
        name: "Task",
        fields: Task::LAYOUT,
        then: None,
    },
];
