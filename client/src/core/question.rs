//! Requests that no credit covers, as frames: what is asked, checked before it is sent, and the kind of frame that answers
//! it. Refuses what no node would accept, so that it costs no round trip.

use crate::core::engine::Request;
use crate::error::Refusal;
use bytes::BytesMut;
use tiderace_base::catalogue::path_is_valid;
use tiderace_base::ids::{MessageId, PartitionIndex, StreamId};
use tiderace_base::position::ProducerSeq;
use tiderace_wire::error::ErrorCode;
use tiderace_wire::frame::{
    MetadataRequest, MetadataWhat, OffsetByTime, Ping, ProduceResume, StreamCreate, StreamDelete,
    StreamDescribe, StreamList,
};
use tiderace_wire::link::Kind;

/// Whether a node could accept the request at all.
pub(crate) fn check(request: &Request) -> Result<(), Refusal> {
    let path = match request {
        Request::Metadata { path, .. }
        | Request::Create { path, .. }
        | Request::Describe { path, .. } => path,
        Request::List { after, .. } if !after.is_empty() => after,
        Request::List { .. }
        | Request::Ping { .. }
        | Request::Nodes
        | Request::Delete { .. }
        | Request::Resume { .. }
        | Request::OffsetByTime { .. } => return Ok(()),
    };
    if path_is_valid(path) {
        Ok(())
    } else {
        Err(Refusal {
            code: ErrorCode::BadPath,
            detail_a: 0,
            detail_b: 0,
        })
    }
}

/// Appends the whole frame.
pub(crate) fn encode(request: &Request, id: MessageId, out: &mut BytesMut) {
    match request {
        Request::Ping { nonce } => Ping { nonce: *nonce }.encode(out, id),
        Request::Metadata {
            path,
            first_partition,
        } => MetadataRequest {
            what: MetadataWhat::ByPath,
            first_partition: *first_partition,
            stream: StreamId::new(0),
            path: path.clone(),
        }
        .encode(out, id),
        Request::Nodes => MetadataRequest {
            what: MetadataWhat::Nodes,
            first_partition: PartitionIndex::new(0),
            stream: StreamId::new(0),
            path: "".into(),
        }
        .encode(out, id),
        Request::Create {
            path,
            partitions,
            durability,
            tenant,
            retention,
        } => StreamCreate {
            partitions: *partitions,
            durability: *durability,
            tenant: *tenant,
            retention: *retention,
            path: path.clone(),
        }
        .encode(out, id),
        Request::Describe {
            path,
            first_partition,
        } => StreamDescribe {
            first_partition: *first_partition,
            path: path.clone(),
        }
        .encode(out, id),
        Request::List { after, limit } => StreamList {
            limit: *limit,
            after: after.clone(),
        }
        .encode(out, id),
        Request::Delete { stream } => StreamDelete { stream: *stream }.encode(out, id),
        Request::Resume {
            key,
            producer,
            epoch,
            last_acked,
        } => ProduceResume {
            stream: key.stream,
            partition: key.partition,
            producer_epoch: *epoch,
            producer_id: *producer,
            last_acked_seq: last_acked.unwrap_or(ProducerSeq::ZERO),
            has_acked: last_acked.is_some(),
        }
        .encode(out, id),
        Request::OffsetByTime { key, time_us } => OffsetByTime {
            stream: key.stream,
            partition: key.partition,
            time_us: *time_us,
        }
        .encode(out, id),
    }
}

/// The kind of frame that answers.
pub(crate) const fn answer_kind(request: &Request) -> Kind {
    match request {
        Request::Ping { .. } => Kind::Pong,
        Request::Metadata { .. } | Request::Nodes => Kind::Metadata,
        Request::Create { .. } => Kind::StreamCreated,
        Request::Describe { .. } => Kind::StreamDescription,
        Request::List { .. } => Kind::StreamListing,
        Request::Delete { .. } => Kind::StreamDeleted,
        Request::Resume { .. } => Kind::ProduceResumed,
        Request::OffsetByTime { .. } => Kind::OffsetOfTime,
    }
}
