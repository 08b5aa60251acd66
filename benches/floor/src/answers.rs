//! The catalogue of one stream: what the floor answers to a client that asks before it produces. Every answer is true;
//! there is only little to tell.

use bytes::BytesMut;
use std::net::SocketAddr;
use tiderace_base::catalogue::{Durability, Stream};
use tiderace_base::ids::{
    BootId, MessageId, NodeId, PartitionIndex, PartitionKey, ShardId, SlotId, StreamId, ZoneId,
};
use tiderace_base::limits::{
    BATCH_RECORDS_MAX, BODY_BYTES_MAX, PARTITIONS_MAX, PRODUCER_WINDOW, UNCREDITED_OUTSTANDING_MAX,
};
use tiderace_base::position::{CatalogueVersion, Epoch, Offset, ProducerSeq};
use tiderace_base::time::Now;
use tiderace_wire::error::ErrorCode;
use tiderace_wire::frame::{
    Control, DESCRIBED_PER_PAGE_MAX, DescribedPartition, Error, Metadata, MetadataRequest,
    MetadataWhat, NodeInfo, PARTITIONS_PER_PAGE_MAX, PartitionInfo, Pong, ProduceResumed,
    StreamCreate, StreamCreated, StreamDeleted, StreamDescribe, StreamDescription, StreamListing,
    Welcome,
};
use tiderace_wire::link::LINK_VERSION;

/// The only epoch.
pub(crate) const EPOCH: Epoch = Epoch::new(1);
const NODE: NodeId = NodeId::new(1);
/// Granted once and for a session of any length: this server bounds itself by what its clients keep in flight.
const CREDIT: u64 = 1 << 60;

/// One stream and how to reach it.
#[derive(Debug)]
pub(crate) struct Answers {
    address: SocketAddr,
    boot: BootId,
    stream: Option<Stream>,
    created_count: u64,
    ends: Vec<Offset>,
}

impl Answers {
    pub(crate) const fn new(address: SocketAddr, boot: u64) -> Self {
        Self {
            address,
            boot: BootId::new(boot),
            stream: None,
            created_count: 0,
            ends: Vec::new(),
        }
    }

    /// The offset of the next record of a partition, which moves on by `records`.
    pub(crate) fn place(&mut self, key: PartitionKey, records: u32) -> Result<Offset, ErrorCode> {
        if self.stream.as_ref().map(|stream| stream.id) != Some(key.stream) {
            return Err(ErrorCode::UnknownStream);
        }
        let end = self
            .ends
            .get_mut(key.partition.get() as usize)
            .ok_or(ErrorCode::UnknownPartition)?;
        let base = *end;
        *end = end.advance(u64::from(records));
        Ok(base)
    }

    pub(crate) fn welcome(&self) -> Welcome {
        Welcome {
            version: LINK_VERSION,
            shard: ShardId::new(0),
            shard_count: 1,
            features: 0,
            node: NODE,
            boot: self.boot,
            zone: ZoneId::new(1),
            catalogue_version: CatalogueVersion::new(self.created_count),
            body_bytes_max: BODY_BYTES_MAX as u32,
            batch_records_max: BATCH_RECORDS_MAX,
            producer_window: PRODUCER_WINDOW as u32,
            uncredited_max: UNCREDITED_OUTSTANDING_MAX as u32,
            bytes_total: CREDIT,
            batches_total: CREDIT,
        }
    }

    /// Writes the answer to a request behind `out`, if it needs one. `id` names the next frame of the session.
    pub(crate) fn answer(
        &mut self,
        now: Now,
        request: MessageId,
        control: Control<'_>,
        out: &mut BytesMut,
        id: MessageId,
    ) {
        let result = match control {
            Control::Ping(ping) => {
                Pong { nonce: ping.nonce }.encode(out, id);
                Ok(())
            }
            Control::MetadataRequest(asked) => self
                .metadata(request, &asked)
                .map(|answer| answer.encode(out, id)),
            Control::StreamCreate(asked) => self
                .create(now, request, asked)
                .map(|answer| answer.encode(out, id)),
            Control::StreamDescribe(asked) => self
                .describe(request, &asked)
                .map(|answer| answer.encode(out, id)),
            Control::StreamList(_) => {
                StreamListing {
                    request,
                    more: false,
                    streams: self.stream.iter().cloned().collect(),
                }
                .encode(out, id);
                Ok(())
            }
            Control::StreamDelete(asked) => match &self.stream {
                Some(stream) if stream.id == asked.stream => {
                    self.stream = None;
                    StreamDeleted { request }.encode(out, id);
                    Ok(())
                }
                Some(_) | None => Err(ErrorCode::UnknownStream),
            },
            Control::ProduceResume(_) => {
                ProduceResumed {
                    request,
                    known: false,
                    epoch: EPOCH,
                    last_seq: ProducerSeq::ZERO,
                    last_offset: Offset::ZERO,
                    end: Offset::ZERO,
                }
                .encode(out, id);
                Ok(())
            }
            // Nothing that was written is kept for reading.
            Control::Subscribe(_) | Control::Unsubscribe(_) => Err(ErrorCode::UnknownSubscription),
            Control::OffsetByTime(_) => Err(ErrorCode::OffsetBelowStart),
            // Credit is not used here, and a goodbye is followed by the end of the connection.
            _ => Ok(()),
        };
        if let Err(code) = result {
            Error::about(request, code).encode(out, id);
        }
    }

    fn create(
        &mut self,
        now: Now,
        request: MessageId,
        asked: StreamCreate,
    ) -> Result<StreamCreated, ErrorCode> {
        if asked.partitions == 0 || asked.partitions > PARTITIONS_MAX {
            return Err(ErrorCode::BadPartitions);
        }
        // Its acknowledgements promise this and nothing else.
        if asked
            .durability
            .is_some_and(|level| level != Durability::Local)
        {
            return Err(ErrorCode::DurabilityUnavailable);
        }
        if let Some(stream) = &self.stream
            && stream.path == asked.path
        {
            return if stream.partitions == asked.partitions {
                Ok(StreamCreated {
                    request,
                    stream: stream.clone(),
                })
            } else {
                Err(ErrorCode::StreamExists)
            };
        }
        self.created_count += 1;
        let stream = Stream {
            id: StreamId::new(self.created_count),
            path: asked.path,
            tenant: asked.tenant,
            partitions: asked.partitions,
            durability: Durability::Local,
            retention: asked.retention,
            created_us: now.wall.as_us(),
        };
        self.ends = vec![Offset::ZERO; asked.partitions as usize];
        self.stream = Some(stream.clone());
        Ok(StreamCreated { request, stream })
    }

    fn metadata(&self, request: MessageId, asked: &MetadataRequest) -> Result<Metadata, ErrorCode> {
        let stream = match asked.what {
            MetadataWhat::Nodes => None,
            MetadataWhat::ByPath | MetadataWhat::ById => {
                let stream = self.stream.as_ref().ok_or(ErrorCode::UnknownStream)?;
                let known = match asked.what {
                    MetadataWhat::ByPath => stream.path == asked.path,
                    MetadataWhat::ById | MetadataWhat::Nodes => stream.id == asked.stream,
                };
                Some(known.then_some(stream).ok_or(ErrorCode::UnknownStream)?)
            }
        };
        let count = stream.map_or(0, |stream| stream.partitions);
        let first = asked.first_partition.get().min(count);
        let end = count.min(first + PARTITIONS_PER_PAGE_MAX as u32);
        let address = self.address.to_string();
        Ok(Metadata {
            request,
            catalogue_version: CatalogueVersion::new(self.created_count),
            stream: stream.cloned(),
            more: end < count,
            nodes: vec![NodeInfo {
                id: NODE,
                boot: self.boot,
                shared: address.clone(),
                shards: vec![address],
            }],
            partitions: (first..end)
                .map(|partition| PartitionInfo {
                    partition: PartitionIndex::new(partition),
                    slot: SlotId::new(0),
                    shard: ShardId::new(0),
                    node: NODE,
                    epoch: EPOCH,
                })
                .collect(),
        })
    }

    fn describe(
        &self,
        request: MessageId,
        asked: &StreamDescribe,
    ) -> Result<StreamDescription, ErrorCode> {
        let stream = self
            .stream
            .as_ref()
            .filter(|stream| stream.path == asked.path)
            .ok_or(ErrorCode::UnknownStream)?;
        let first = (asked.first_partition.get() as usize).min(self.ends.len());
        let end = self.ends.len().min(first + DESCRIBED_PER_PAGE_MAX);
        Ok(StreamDescription {
            request,
            more: end < self.ends.len(),
            stream: stream.clone(),
            partitions: (first..end)
                .map(|partition| DescribedPartition {
                    partition: PartitionIndex::new(partition as u32),
                    epoch: EPOCH,
                    // What is overwritten can be read by nobody: nothing is kept.
                    start: self.ends[partition],
                    end: self.ends[partition],
                })
                .collect(),
        })
    }
}
