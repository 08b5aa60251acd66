//! Frames about streams, partitions and nodes. What may be long is paged: a page keeps its own limits and says whether
//! more follows, so that no answer outgrows a control section.

use super::subscribe::ADDRESS_BYTES_MAX;
use super::{end, fixed_frames, open_frames, put_text, take_text};
use crate::layout::{ControlError, coded, fixed};
use bytes::BytesMut;
use std::sync::Arc;
use tiderace_base::catalogue::{Durability, Retention, Stream};
use tiderace_base::ids::{
    BootId, MessageId, NodeId, PartitionIndex, ShardId, SlotId, StreamId, TenantId,
};
use tiderace_base::limits::{CONTROL_BYTES_MAX, KIB, PATH_BYTES_MAX, SHARDS_MAX};
use tiderace_base::position::{CatalogueVersion, Epoch, Offset};

/// Partitions of one page of metadata.
pub const PARTITIONS_PER_PAGE_MAX: usize = 1024;
/// What the nodes of one page of metadata take, in bytes ([`NodeInfo::encoded_bytes`]).
pub const NODES_BYTES_PER_PAGE_MAX: usize = 40 * KIB;
/// Streams of one page of a listing.
pub const STREAMS_PER_PAGE_MAX: usize = 128;
/// Partitions of one page of a description.
pub const DESCRIBED_PER_PAGE_MAX: usize = 1024;

const STREAM_BYTES_MAX: usize = StreamHead::BYTES + 2 + PATH_BYTES_MAX;

const _: () = {
    assert!(
        MetadataHead::BYTES
            + STREAM_BYTES_MAX
            + NODES_BYTES_PER_PAGE_MAX
            + PARTITIONS_PER_PAGE_MAX * PartitionInfo::BYTES
            <= CONTROL_BYTES_MAX,
        "a page of metadata fits a control section"
    );
    assert!(
        PageHead::BYTES + STREAMS_PER_PAGE_MAX * STREAM_BYTES_MAX <= CONTROL_BYTES_MAX,
        "a page of a listing fits a control section"
    );
    assert!(
        PageHead::BYTES + STREAM_BYTES_MAX + DESCRIBED_PER_PAGE_MAX * DescribedPartition::BYTES
            <= CONTROL_BYTES_MAX,
        "a page of a description fits a control section"
    );
    assert!(
        NodeHead::BYTES + 2 + ADDRESS_BYTES_MAX + 2 + SHARDS_MAX * (2 + ADDRESS_BYTES_MAX)
            <= NODES_BYTES_PER_PAGE_MAX,
        "any node fits a page"
    );
};

coded!(
    /// What metadata is about.
    pub enum MetadataWhat: u8 {
        /// The stream of this path.
        ByPath = 0,
        /// The stream of this id.
        ById = 1,
        /// The nodes only.
        Nodes = 2,
    }
);

fixed!(
    pub(crate) struct MetadataRequestHead [16] {
        /// What it is about.
        what: MetadataWhat, pad 3;
        /// The first partition wanted; for nodes, how many of them to pass over.
        first_partition: PartitionIndex;
        /// The stream, when it is asked for by id; else zero.
        stream: StreamId;
    }
);

/// Asks where a stream's partitions are led.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MetadataRequest {
    /// What it is about.
    pub what: MetadataWhat,
    /// The first partition wanted; for nodes, how many of them to pass over.
    pub first_partition: PartitionIndex,
    /// The stream, when it is asked for by id; else zero.
    pub stream: StreamId,
    /// The stream, when it is asked for by path; else empty.
    pub path: Arc<str>,
}

impl MetadataRequest {
    fn put(&self, out: &mut BytesMut) {
        let head = MetadataRequestHead {
            what: self.what,
            first_partition: self.first_partition,
            stream: self.stream,
        };
        out.extend_from_slice(&head.to_bytes());
        put_text(out, &self.path);
    }

    /// Reads a control section.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(control: &[u8]) -> Result<Self, ControlError> {
        let (head, rest) = MetadataRequestHead::from_prefix(control)?;
        let (path, rest) = take_text(rest, PATH_BYTES_MAX)?;
        end(rest)?;
        Ok(Self {
            what: head.what,
            first_partition: head.first_partition,
            stream: head.stream,
            path: path.into(),
        })
    }
}

fixed!(
    pub(crate) struct StreamHead [44] {
        /// Its id, never reused.
        id: StreamId;
        /// Who pays for it.
        tenant: TenantId;
        /// How many partitions it has.
        partitions: u32;
        /// What its acknowledgements promise: 0 memory, 1 local, 2 quorum.
        durability: Durability, pad 3;
        /// Bytes kept per partition; zero without bound.
        retention_bytes: u64;
        /// Age kept, in milliseconds; zero without bound.
        retention_age_ms: u64;
        /// When it was created, in microseconds since 1970.
        created_us: u64;
    }
);

fn put_stream(out: &mut BytesMut, stream: &Stream) {
    let head = StreamHead {
        id: stream.id,
        tenant: stream.tenant,
        partitions: stream.partitions,
        durability: stream.durability,
        retention_bytes: stream.retention.bytes,
        retention_age_ms: stream.retention.age_ms,
        created_us: stream.created_us,
    };
    out.extend_from_slice(&head.to_bytes());
    put_text(out, &stream.path);
}

fn take_stream(bytes: &[u8]) -> Result<(Stream, &[u8]), ControlError> {
    let (head, rest) = StreamHead::from_prefix(bytes)?;
    let (path, rest) = take_text(rest, PATH_BYTES_MAX)?;
    let stream = Stream {
        id: head.id,
        path: path.into(),
        tenant: head.tenant,
        partitions: head.partitions,
        durability: head.durability,
        retention: Retention {
            bytes: head.retention_bytes,
            age_ms: head.retention_age_ms,
        },
        created_us: head.created_us,
    };
    Ok((stream, rest))
}

fixed!(
    pub(crate) struct NodeHead [16] {
        /// The node.
        id: NodeId;
        /// Its run.
        boot: BootId;
    }
);

/// A node and where it listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeInfo {
    /// The node.
    pub id: NodeId,
    /// Its run.
    pub boot: BootId,
    /// The address that all its shards share; at most [`ADDRESS_BYTES_MAX`] bytes.
    pub shared: String,
    /// The address of each shard, by number; at most [`SHARDS_MAX`].
    pub shards: Vec<String>,
}

impl NodeInfo {
    /// What it takes in a page.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        let shards: usize = self.shards.iter().map(|address| 2 + address.len()).sum();
        NodeHead::BYTES + 2 + self.shared.len() + 2 + shards
    }

    fn put(&self, out: &mut BytesMut) {
        let head = NodeHead {
            id: self.id,
            boot: self.boot,
        };
        out.extend_from_slice(&head.to_bytes());
        put_text(out, &self.shared);
        let count = u16::try_from(self.shards.len()).expect("a node keeps the limit of shards");
        out.extend_from_slice(&count.to_le_bytes());
        for address in &self.shards {
            put_text(out, address);
        }
    }

    fn take(bytes: &[u8]) -> Result<(Self, &[u8]), ControlError> {
        let (head, rest) = NodeHead::from_prefix(bytes)?;
        let (shared, rest) = take_text(rest, ADDRESS_BYTES_MAX)?;
        let (count, mut rest) = rest.split_first_chunk().ok_or(ControlError::Short)?;
        let count = usize::from(u16::from_le_bytes(*count));
        if count > SHARDS_MAX {
            return Err(ControlError::TooLong);
        }
        let mut shards = Vec::new();
        for _ in 0..count {
            let (address, behind) = take_text(rest, ADDRESS_BYTES_MAX)?;
            shards.push(address.to_owned());
            rest = behind;
        }
        let node = Self {
            id: head.id,
            boot: head.boot,
            shared: shared.to_owned(),
            shards,
        };
        Ok((node, rest))
    }
}

fixed!(
    /// Where a partition is led.
    pub struct PartitionInfo [20] {
        /// Which partition.
        partition: PartitionIndex;
        /// Its slot.
        slot: SlotId;
        /// The shard of that node.
        shard: ShardId;
        /// The leading node.
        node: NodeId;
        /// The slot's epoch.
        epoch: Epoch;
    }
);

fixed!(
    pub(crate) struct MetadataHead [24] {
        /// The request.
        request: MessageId;
        /// The catalogue that it was read from.
        catalogue_version: CatalogueVersion;
        /// Whether a stream follows.
        has_stream: bool;
        /// Whether partitions (or nodes) follow those of this page.
        more: bool, pad 2;
        /// How many nodes follow.
        nodes_count: u16;
        /// How many partitions follow.
        partitions_count: u16;
    }
);

/// Nodes, a stream and where its partitions are led; one page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Metadata {
    /// The request.
    pub request: MessageId,
    /// The catalogue that it was read from.
    pub catalogue_version: CatalogueVersion,
    /// The stream; `None` when only nodes were asked for.
    pub stream: Option<Stream>,
    /// Whether partitions (or nodes) follow those of this page.
    pub more: bool,
    /// At least every node that leads a partition of this page; at most [`NODES_BYTES_PER_PAGE_MAX`] bytes of them.
    pub nodes: Vec<NodeInfo>,
    /// In order; at most [`PARTITIONS_PER_PAGE_MAX`].
    pub partitions: Vec<PartitionInfo>,
}

impl Metadata {
    fn put(&self, out: &mut BytesMut) {
        assert!(
            self.partitions.len() <= PARTITIONS_PER_PAGE_MAX
                && self
                    .nodes
                    .iter()
                    .map(NodeInfo::encoded_bytes)
                    .sum::<usize>()
                    <= NODES_BYTES_PER_PAGE_MAX,
            "a page keeps its limits"
        );
        let head = MetadataHead {
            request: self.request,
            catalogue_version: self.catalogue_version,
            has_stream: self.stream.is_some(),
            more: self.more,
            nodes_count: self.nodes.len() as u16,
            partitions_count: self.partitions.len() as u16,
        };
        out.extend_from_slice(&head.to_bytes());
        if let Some(stream) = &self.stream {
            put_stream(out, stream);
        }
        for node in &self.nodes {
            node.put(out);
        }
        for partition in &self.partitions {
            out.extend_from_slice(&partition.to_bytes());
        }
    }

    /// Reads a control section.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(control: &[u8]) -> Result<Self, ControlError> {
        let (head, mut rest) = MetadataHead::from_prefix(control)?;
        let mut stream = None;
        if head.has_stream {
            let (taken, behind) = take_stream(rest)?;
            stream = Some(taken);
            rest = behind;
        }
        // P-5: no room is taken on the word of a count; it grows with what is there.
        let mut nodes = Vec::new();
        for _ in 0..head.nodes_count {
            let (node, behind) = NodeInfo::take(rest)?;
            nodes.push(node);
            rest = behind;
        }
        let partitions = rows(
            rest,
            head.partitions_count,
            PARTITIONS_PER_PAGE_MAX,
            PartitionInfo::from_prefix,
        )?;
        Ok(Self {
            request: head.request,
            catalogue_version: head.catalogue_version,
            stream,
            more: head.more,
            nodes,
            partitions,
        })
    }
}

/// The rows that fill the rest of a section.
fn rows<T>(
    mut rest: &[u8],
    count: u16,
    count_max: usize,
    take: impl Fn(&[u8]) -> Result<(T, &[u8]), ControlError>,
) -> Result<Vec<T>, ControlError> {
    if usize::from(count) > count_max {
        return Err(ControlError::TooLong);
    }
    let mut rows = Vec::new();
    for _ in 0..count {
        let (row, behind) = take(rest)?;
        rows.push(row);
        rest = behind;
    }
    end(rest)?;
    Ok(rows)
}

fixed!(
    pub(crate) struct StreamCreateHead [28] {
        /// How many partitions.
        partitions: u32;
        /// 0 memory, 1 local, 2 quorum; 255 takes the zone's default.
        durability: Option<Durability>, pad 3;
        /// Who pays for it.
        tenant: TenantId;
        /// Bytes kept per partition; zero without bound.
        retention_bytes: u64;
        /// Age kept, in milliseconds; zero without bound.
        retention_age_ms: u64;
    }
);

/// Creates a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamCreate {
    /// How many partitions.
    pub partitions: u32,
    /// `None` takes the zone's default.
    pub durability: Option<Durability>,
    /// Who pays for it.
    pub tenant: TenantId,
    /// How much is kept.
    pub retention: Retention,
    /// Its path.
    pub path: Arc<str>,
}

impl StreamCreate {
    fn put(&self, out: &mut BytesMut) {
        let head = StreamCreateHead {
            partitions: self.partitions,
            durability: self.durability,
            tenant: self.tenant,
            retention_bytes: self.retention.bytes,
            retention_age_ms: self.retention.age_ms,
        };
        out.extend_from_slice(&head.to_bytes());
        put_text(out, &self.path);
    }

    /// Reads a control section.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(control: &[u8]) -> Result<Self, ControlError> {
        let (head, rest) = StreamCreateHead::from_prefix(control)?;
        let (path, rest) = take_text(rest, PATH_BYTES_MAX)?;
        end(rest)?;
        Ok(Self {
            partitions: head.partitions,
            durability: head.durability,
            tenant: head.tenant,
            retention: Retention {
                bytes: head.retention_bytes,
                age_ms: head.retention_age_ms,
            },
            path: path.into(),
        })
    }
}

fixed!(
    pub(crate) struct StreamCreatedHead [8] {
        /// The request.
        request: MessageId;
    }
);

/// The stream exists.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamCreated {
    /// The request.
    pub request: MessageId,
    /// The stream.
    pub stream: Stream,
}

impl StreamCreated {
    fn put(&self, out: &mut BytesMut) {
        let head = StreamCreatedHead {
            request: self.request,
        };
        out.extend_from_slice(&head.to_bytes());
        put_stream(out, &self.stream);
    }

    /// Reads a control section.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(control: &[u8]) -> Result<Self, ControlError> {
        let (head, rest) = StreamCreatedHead::from_prefix(control)?;
        let (stream, rest) = take_stream(rest)?;
        end(rest)?;
        Ok(Self {
            request: head.request,
            stream,
        })
    }
}

fixed!(
    pub(crate) struct StreamDescribeHead [4] {
        /// The first partition wanted.
        first_partition: PartitionIndex;
    }
);

/// Asks for a stream and its partitions' ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamDescribe {
    /// The first partition wanted.
    pub first_partition: PartitionIndex,
    /// The stream's path.
    pub path: Arc<str>,
}

impl StreamDescribe {
    fn put(&self, out: &mut BytesMut) {
        let head = StreamDescribeHead {
            first_partition: self.first_partition,
        };
        out.extend_from_slice(&head.to_bytes());
        put_text(out, &self.path);
    }

    /// Reads a control section.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(control: &[u8]) -> Result<Self, ControlError> {
        let (head, rest) = StreamDescribeHead::from_prefix(control)?;
        let (path, rest) = take_text(rest, PATH_BYTES_MAX)?;
        end(rest)?;
        Ok(Self {
            first_partition: head.first_partition,
            path: path.into(),
        })
    }
}

fixed!(
    /// A partition as its leading shard knows it.
    pub struct DescribedPartition [24] {
        /// Which partition.
        partition: PartitionIndex;
        /// The slot's epoch.
        epoch: Epoch;
        /// The first offset that is kept.
        start: Offset;
        /// One past the last that subscribers may see.
        end: Offset;
    }
);

fixed!(
    pub(crate) struct PageHead [12] {
        /// The request.
        request: MessageId;
        /// Whether more follow those of this page.
        more: bool, pad 1;
        /// How many follow.
        count: u16;
    }
);

/// A stream and the partitions that this shard leads; one page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamDescription {
    /// The request.
    pub request: MessageId,
    /// Whether partitions follow those of this page.
    pub more: bool,
    /// The stream.
    pub stream: Stream,
    /// In order; at most [`DESCRIBED_PER_PAGE_MAX`].
    pub partitions: Vec<DescribedPartition>,
}

impl StreamDescription {
    fn put(&self, out: &mut BytesMut) {
        assert!(
            self.partitions.len() <= DESCRIBED_PER_PAGE_MAX,
            "a page keeps its limit"
        );
        let head = PageHead {
            request: self.request,
            more: self.more,
            count: self.partitions.len() as u16,
        };
        out.extend_from_slice(&head.to_bytes());
        put_stream(out, &self.stream);
        for partition in &self.partitions {
            out.extend_from_slice(&partition.to_bytes());
        }
    }

    /// Reads a control section.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(control: &[u8]) -> Result<Self, ControlError> {
        let (head, rest) = PageHead::from_prefix(control)?;
        let (stream, rest) = take_stream(rest)?;
        let partitions = rows(
            rest,
            head.count,
            DESCRIBED_PER_PAGE_MAX,
            DescribedPartition::from_prefix,
        )?;
        Ok(Self {
            request: head.request,
            more: head.more,
            stream,
            partitions,
        })
    }
}

fixed!(
    pub(crate) struct StreamListHead [4] {
        /// The most that is wanted.
        limit: u32;
    }
);

/// Asks for the streams behind a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamList {
    /// The most that is wanted; a page never holds more than [`STREAMS_PER_PAGE_MAX`].
    pub limit: u32,
    /// The listing begins behind this path; empty from the first.
    pub after: Arc<str>,
}

impl StreamList {
    fn put(&self, out: &mut BytesMut) {
        let head = StreamListHead { limit: self.limit };
        out.extend_from_slice(&head.to_bytes());
        put_text(out, &self.after);
    }

    /// Reads a control section.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(control: &[u8]) -> Result<Self, ControlError> {
        let (head, rest) = StreamListHead::from_prefix(control)?;
        let (after, rest) = take_text(rest, PATH_BYTES_MAX)?;
        end(rest)?;
        Ok(Self {
            limit: head.limit,
            after: after.into(),
        })
    }
}

/// Streams in the order of their paths; one page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamListing {
    /// The request.
    pub request: MessageId,
    /// Whether streams follow those of this page.
    pub more: bool,
    /// At most [`STREAMS_PER_PAGE_MAX`].
    pub streams: Vec<Stream>,
}

impl StreamListing {
    fn put(&self, out: &mut BytesMut) {
        assert!(
            self.streams.len() <= STREAMS_PER_PAGE_MAX,
            "a page keeps its limit"
        );
        let head = PageHead {
            request: self.request,
            more: self.more,
            count: self.streams.len() as u16,
        };
        out.extend_from_slice(&head.to_bytes());
        for stream in &self.streams {
            put_stream(out, stream);
        }
    }

    /// Reads a control section.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(control: &[u8]) -> Result<Self, ControlError> {
        let (head, rest) = PageHead::from_prefix(control)?;
        let streams = rows(rest, head.count, STREAMS_PER_PAGE_MAX, take_stream)?;
        Ok(Self {
            request: head.request,
            more: head.more,
            streams,
        })
    }
}

fixed!(
    /// Deletes a stream.
    pub struct StreamDelete [8] {
        /// Which.
        stream: StreamId;
    }
);

fixed!(
    /// The stream is gone.
    pub struct StreamDeleted [8] {
        /// The request.
        request: MessageId;
    }
);

fixed_frames!(StreamDelete, StreamDeleted);
open_frames!(
    MetadataRequest,
    Metadata,
    StreamCreate,
    StreamCreated,
    StreamDescribe,
    StreamDescription,
    StreamList,
    StreamListing,
);
