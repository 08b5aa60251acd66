//! Requests about streams and partitions, answered from the catalogue's snapshot and the shard's own state; what changes
//! the catalogue goes to control and is answered when every shard knows it. A page keeps its limits and says whether more
//! follows.

use crate::connection::Connection;
use crate::partition::Partition;
use crate::partitions::Index;
use crate::reads::{Lookup, ReadFor};
use crate::shard::Shard;
use crate::subscription::{Source, Subscription};
use std::ops::Bound;
use std::sync::Arc;
use tiderace_base::catalogue::{
    Change, NodePlace, Outcome, Refusal, Retention, SlotPlace, Snapshot, Stream,
};
use tiderace_base::disk::DiskError;
use tiderace_base::ids::{MessageId, PartitionIndex, PartitionKey};
use tiderace_base::limits::{
    SUBSCRIPTION_WINDOW_BATCHES_MAX, SUBSCRIPTION_WINDOW_BYTES_MAX,
    SUBSCRIPTIONS_PER_CONNECTION_MAX,
};
use tiderace_base::mesh::{Message, Origin, Peer};
use tiderace_base::operation::{Effect, Effects};
use tiderace_base::planted::{Bug, is_planted};
use tiderace_base::position::{Epoch, Offset};
use tiderace_storage::{ReadError, ReadId};
use tiderace_wire::credit::{Amount, Spender};
use tiderace_wire::error::ErrorCode;
use tiderace_wire::frame::{
    DESCRIBED_PER_PAGE_MAX, DescribedPartition, Diverged, Error, Metadata, MetadataRequest,
    MetadataWhat, NODES_BYTES_PER_PAGE_MAX, NodeInfo, OffsetByTime, OffsetOfTime,
    PARTITIONS_PER_PAGE_MAX, PartitionInfo, ProduceResume, ProduceResumed, Redirect,
    STREAMS_PER_PAGE_MAX, StreamCreate, StreamCreated, StreamDelete, StreamDeleted, StreamDescribe,
    StreamDescription, StreamList, StreamListing, Subscribe, SubscribeFrom, Subscribed,
    Unsubscribe, Unsubscribed,
};

/// A partition that a request names, as this shard sees it.
enum Found {
    /// It is led here.
    Here(Arc<Stream>, SlotPlace),
    /// It is led elsewhere, or there is none: the answer is written already.
    Answered,
}

fn node_info(node: &NodePlace) -> NodeInfo {
    NodeInfo {
        id: node.id,
        boot: node.boot,
        shared: node.shared.to_string(),
        shards: node.shards.iter().map(ToString::to_string).collect(),
    }
}

/// The nodes that fit a page, from the `skip`th on, and whether more follow.
fn nodes_page(catalogue: &Snapshot, skip: usize) -> (Vec<NodeInfo>, bool) {
    let mut nodes = Vec::new();
    let mut bytes = 0;
    for (_, node) in catalogue.nodes.iter().skip(skip) {
        let info = node_info(node);
        bytes += info.encoded_bytes();
        if bytes > NODES_BYTES_PER_PAGE_MAX {
            return (nodes, true);
        }
        nodes.push(info);
    }
    (nodes, false)
}

impl Shard {
    pub(crate) fn metadata(
        &mut self,
        conn: &mut Connection,
        request: MessageId,
        asked: &MetadataRequest,
    ) {
        let catalogue = self.known_catalogue();
        let stream = match asked.what {
            MetadataWhat::ByPath => catalogue.stream_at(&asked.path),
            MetadataWhat::ById => catalogue.streams.get(&asked.stream),
            MetadataWhat::Nodes => {
                let (nodes, more) = nodes_page(&catalogue, asked.first_partition.get() as usize);
                let page = Metadata {
                    request,
                    catalogue_version: catalogue.version,
                    stream: None,
                    more,
                    nodes,
                    partitions: Vec::new(),
                };
                return conn.push_reply(|id, out| page.encode(out, id));
            }
        };
        let Some(stream) = stream else {
            return self.refuse(conn, request, ErrorCode::UnknownStream, 0, 0);
        };
        let first = asked.first_partition.get();
        if first >= stream.partitions {
            return self.refuse(conn, request, ErrorCode::UnknownPartition, 0, 0);
        }
        let last = stream
            .partitions
            .min(first.saturating_add(PARTITIONS_PER_PAGE_MAX as u32));
        let partitions = (first..last)
            .filter_map(|partition| {
                let key = PartitionKey {
                    stream: stream.id,
                    partition: PartitionIndex::new(partition),
                };
                let (slot, place) = catalogue.place(key)?;
                Some(PartitionInfo {
                    partition: key.partition,
                    slot,
                    shard: place.shard,
                    node: place.leader,
                    epoch: place.epoch,
                })
            })
            .collect();
        let page = Metadata {
            request,
            catalogue_version: catalogue.version,
            stream: Some(Stream::clone(stream)),
            more: last < stream.partitions,
            nodes: nodes_page(&catalogue, 0).0,
            partitions,
        };
        conn.push_reply(|id, out| page.encode(out, id));
    }

    pub(crate) fn describe(
        &mut self,
        conn: &mut Connection,
        request: MessageId,
        asked: &StreamDescribe,
    ) {
        let catalogue = self.known_catalogue();
        let Some(stream) = catalogue.stream_at(&asked.path) else {
            return self.refuse(conn, request, ErrorCode::UnknownStream, 0, 0);
        };
        let mut partitions = Vec::new();
        let mut more = false;
        for partition in asked.first_partition.get()..stream.partitions {
            let key = PartitionKey {
                stream: stream.id,
                partition: PartitionIndex::new(partition),
            };
            let Some((_, place)) = catalogue.place(key) else {
                continue;
            };
            if place.leader != catalogue.node || place.shard != self.config.id {
                continue;
            }
            if partitions.len() == DESCRIBED_PER_PAGE_MAX {
                more = true;
                break;
            }
            let held = self
                .partitions
                .find(key)
                .and_then(|index| self.partitions.get(index));
            let (start, end) = held.map_or((Offset::ZERO, Offset::ZERO), |held| {
                (held.durable.start, held.visible)
            });
            partitions.push(DescribedPartition {
                partition: key.partition,
                epoch: place.epoch,
                start,
                end,
            });
        }
        let page = StreamDescription {
            request,
            more,
            stream: Stream::clone(stream),
            partitions,
        };
        conn.push_reply(|id, out| page.encode(out, id));
    }

    pub(crate) fn list(&mut self, conn: &mut Connection, request: MessageId, asked: &StreamList) {
        let catalogue = self.known_catalogue();
        let limit = (asked.limit as usize).clamp(1, STREAMS_PER_PAGE_MAX);
        let after: (Bound<&str>, Bound<&str>) = (
            if asked.after.is_empty() {
                Bound::Unbounded
            } else {
                Bound::Excluded(&*asked.after)
            },
            Bound::Unbounded,
        );
        let mut behind = catalogue
            .paths
            .range::<str, _>(after)
            .filter_map(|(_, id)| catalogue.streams.get(id));
        let streams: Vec<Stream> = behind
            .by_ref()
            .take(limit)
            .map(|stream| Stream::clone(stream))
            .collect();
        let more = behind.next().is_some();
        let page = StreamListing {
            request,
            more,
            streams,
        };
        conn.push_reply(|id, out| page.encode(out, id));
    }

    pub(crate) fn create(
        &mut self,
        conn: &mut Connection,
        request: MessageId,
        asked: StreamCreate,
        effects: &mut Effects,
    ) {
        let StreamCreate {
            partitions,
            durability,
            tenant,
            retention,
            path,
        } = asked;
        let change = Change::CreateStream {
            path,
            tenant,
            partitions,
            durability,
            retention,
        };
        self.ask_control(conn, request, change, effects);
    }

    pub(crate) fn delete(
        &mut self,
        conn: &mut Connection,
        request: MessageId,
        asked: StreamDelete,
        effects: &mut Effects,
    ) {
        self.ask_control(conn, request, Change::DeleteStream(asked.stream), effects);
    }

    fn ask_control(
        &mut self,
        conn: &mut Connection,
        request: MessageId,
        change: Change,
        effects: &mut Effects,
    ) {
        if self.mesh_full.contains(&Peer::Control) {
            return self.refuse(conn, request, ErrorCode::Busy, 0, 0);
        }
        let origin = Origin {
            shard: self.config.id,
            conn: conn.id,
            request,
        };
        effects.push(Effect::Post {
            to: Peer::Control,
            message: Message::Change { origin, change },
        });
    }

    /// Control's answer to a change.
    pub(crate) fn changed(&mut self, origin: Origin, outcome: Result<Outcome, Refusal>) {
        let Some(conn) = self.connections.get(origin.conn) else {
            return;
        };
        let request = origin.request;
        match outcome {
            Ok(Outcome::Created(stream)) => {
                let reply = StreamCreated {
                    request,
                    stream: Stream::clone(&stream),
                };
                conn.push_reply(|id, out| reply.encode(out, id));
            }
            Ok(Outcome::Deleted(_)) => {
                conn.push_reply(|id, out| StreamDeleted { request }.encode(out, id));
            }
            Err(refusal) => {
                self.metrics.errors_total.add(1);
                let code = match refusal {
                    Refusal::Exists => ErrorCode::StreamExists,
                    Refusal::Absent => ErrorCode::UnknownStream,
                    Refusal::BadPath => ErrorCode::BadPath,
                    Refusal::BadPartitions => ErrorCode::BadPartitions,
                    Refusal::TooManyStreams => ErrorCode::TooManyStreams,
                    Refusal::Busy => ErrorCode::Busy,
                    Refusal::DiskFull => ErrorCode::ReadOnly,
                    Refusal::Unavailable => ErrorCode::CatalogueUnavailable,
                };
                conn.push_reply(|id, out| Error::about(request, code).encode(out, id));
            }
        }
        self.connections.ready(origin.conn);
    }

    pub(crate) fn resume(
        &mut self,
        conn: &mut Connection,
        request: MessageId,
        asked: &ProduceResume,
    ) {
        let key = PartitionKey {
            stream: asked.stream,
            partition: asked.partition,
        };
        let Found::Here(_, place) = self.locate(conn, request, key) else {
            return;
        };
        let held = self
            .partitions
            .find(key)
            .and_then(|index| self.partitions.get(index));
        let producer = held.and_then(|held| held.durable.producers.get(asked.producer_id));
        let known = producer.filter(|producer| producer.epoch == asked.producer_epoch);
        let reply = ProduceResumed {
            request,
            known: known.is_some(),
            epoch: place.epoch,
            last_seq: known.map_or_else(Default::default, |producer| producer.last_seq),
            last_offset: known.map_or(Offset::ZERO, |producer| producer.last().base_offset),
            end: held.map_or(Offset::ZERO, |held| held.durable.end),
        };
        conn.push_reply(|id, out| reply.encode(out, id));
    }

    pub(crate) fn offset_by_time(
        &mut self,
        conn: &mut Connection,
        request: MessageId,
        asked: &OffsetByTime,
    ) {
        let key = PartitionKey {
            stream: asked.stream,
            partition: asked.partition,
        };
        let Found::Here(_, place) = self.locate(conn, request, key) else {
            return;
        };
        self.look_up(Lookup {
            whom: ReadFor::OffsetByTime(conn.id, request, key, place.epoch),
            key,
            time_us: asked.time_us,
        });
    }

    pub(crate) fn subscribe(
        &mut self,
        conn: &mut Connection,
        request: MessageId,
        asked: &Subscribe,
    ) {
        let key = PartitionKey {
            stream: asked.stream,
            partition: asked.partition,
        };
        let Found::Here(stream, place) = self.locate(conn, request, key) else {
            return;
        };
        if conn.subscriptions.contains_key(&asked.subscription) {
            return self.refuse(conn, request, ErrorCode::SubscriptionExists, 0, 0);
        }
        if conn.subscriptions.len() >= SUBSCRIPTIONS_PER_CONNECTION_MAX
            || self.metrics.subscriptions.get() >= self.config.subscriptions_max as u64
        {
            return self.refuse(conn, request, ErrorCode::TooManySubscriptions, 0, 0);
        }
        let held = self.partitions.find(key);
        let fresh = Partition::new(key);
        let partition = held
            .and_then(|index| self.partitions.get(index))
            .unwrap_or(&fresh);
        let (start, end) = (partition.durable.start, partition.visible);
        let cursor = Offset::new(asked.position);
        let next = match asked.from {
            SubscribeFrom::Earliest => start,
            SubscribeFrom::Latest | SubscribeFrom::Time => end,
            SubscribeFrom::Offset => cursor,
        };
        if asked.from == SubscribeFrom::Offset {
            // The epoch first. A cursor of another history must not be told that its offset is merely early or late.
            if asked.epoch != Epoch::ZERO {
                let diverged = match partition.durable.epochs.end_of(asked.epoch, end) {
                    Some((epoch, until)) => (cursor > until).then_some((epoch, until)),
                    None => (cursor > Offset::ZERO && partition.durable.end > Offset::ZERO)
                        .then_some((Epoch::ZERO, Offset::ZERO)),
                };
                let diverged = diverged
                    .or((asked.epoch > place.epoch)
                        .then_some((partition.durable.epochs.last(), end)));
                if let Some((epoch, end)) = diverged {
                    let reply = Diverged {
                        request,
                        subscription: asked.subscription,
                        epoch,
                        end,
                    };
                    return conn.push_reply(|id, out| reply.encode(out, id));
                }
            }
            if cursor < start {
                return self.refuse(
                    conn,
                    request,
                    ErrorCode::OffsetBelowStart,
                    start.get(),
                    end.get(),
                );
            }
            if cursor > end {
                return self.refuse(
                    conn,
                    request,
                    ErrorCode::OffsetBeyondEnd,
                    end.get(),
                    start.get(),
                );
            }
        }
        let index = held.unwrap_or_else(|| self.hold(fresh, stream));
        let partition = self.partitions.at(index);
        partition.subscribers.insert((conn.id, asked.subscription));
        self.metrics.subscriptions.add(1);
        let granted = Amount {
            bytes: asked.credit_bytes.min(SUBSCRIPTION_WINDOW_BYTES_MAX),
            batches: asked
                .credit_batches
                .min(u64::from(SUBSCRIPTION_WINDOW_BATCHES_MAX)),
        };
        let mut subscription = Subscription {
            id: asked.subscription,
            request,
            key,
            partition: index,
            next,
            credit: Spender::new(granted),
            source: Source::Memory,
            needs_bytes: 0,
            queued: false,
        };
        if asked.from == SubscribeFrom::Time {
            subscription.source = Source::Seeking(None);
            conn.subscriptions.insert(asked.subscription, subscription);
            return self.look_up(Lookup {
                whom: ReadFor::Seek(conn.id, asked.subscription, request),
                key,
                time_us: asked.position,
            });
        }
        conn.subscriptions.insert(asked.subscription, subscription);
        let end = match end {
            _ if is_planted(Bug::AnswerOldEnd) => next,
            end => end,
        };
        let reply = Subscribed {
            request,
            subscription: asked.subscription,
            epoch: place.epoch,
            start,
            end,
            next,
        };
        conn.push_reply(|id, out| reply.encode(out, id));
        conn.queue_subscription(asked.subscription);
    }

    /// Holds a partition that has a subscriber before its first entry.
    fn hold(&mut self, mut partition: Partition, stream: Arc<Stream>) -> Index {
        partition.durable.slot = tiderace_base::hash::slot_of(partition.key, stream.durability);
        if stream.retention != Retention::default() {
            self.retained.insert(partition.key);
        }
        partition.stream = Some(stream);
        let index = self.partitions.insert(partition);
        self.metrics.partitions.set(self.partitions.len() as u64);
        index
    }

    pub(crate) fn unsubscribe(
        &mut self,
        conn: &mut Connection,
        request: MessageId,
        asked: &Unsubscribe,
    ) {
        match conn.remove_subscription(asked.subscription) {
            Some(subscription) => {
                if matches!(subscription.source, Source::Seeking(_)) {
                    conn.end_subscription(&subscription, ErrorCode::UnknownSubscription);
                }
                self.release(conn.id, &subscription);
                let reply = Unsubscribed {
                    request,
                    subscription: asked.subscription,
                };
                conn.push_reply(|id, out| reply.encode(out, id));
            }
            None => self.refuse(conn, request, ErrorCode::UnknownSubscription, 0, 0),
        }
    }

    /// A time was looked up in the journal.
    pub(crate) fn time_found(
        &mut self,
        read: ReadId,
        result: Result<Option<(Offset, u64)>, ReadError>,
    ) {
        match self.reads.end(read) {
            Some(ReadFor::OffsetByTime(id, request, key, epoch)) => {
                let end = self
                    .partitions
                    .find(key)
                    .and_then(|index| self.partitions.get(index))
                    .map_or(Offset::ZERO, |held| held.visible);
                let Some(conn) = self.connections.get(id) else {
                    return;
                };
                match result {
                    Ok(found) => {
                        // What is not visible yet is not there yet.
                        let found = found.filter(|(offset, _)| *offset < end);
                        let (offset, append_time_us) = found.unwrap_or((end, 0));
                        let reply = OffsetOfTime {
                            request,
                            offset,
                            append_time_us,
                            epoch,
                            found: found.is_some(),
                        };
                        conn.push_reply(|id, out| reply.encode(out, id));
                    }
                    Err(error) => conn.push_reply(|id, out| {
                        Error::about(request, code_of_read(&error)).encode(out, id);
                    }),
                }
                self.connections.ready(id);
            }
            Some(ReadFor::Seek(id, name, _)) => {
                let Some(conn) = self.connections.get(id) else {
                    return;
                };
                let Some(subscription) = conn.subscriptions.get_mut(&name) else {
                    return;
                };
                let request = subscription.request;
                let Some(partition) = self.partitions.get(subscription.partition) else {
                    return;
                };
                let (start, end) = (partition.durable.start, partition.visible);
                match result {
                    Ok(found) => {
                        subscription.next =
                            found.map_or(end, |(offset, _)| offset).clamp(start, end);
                        subscription.source = Source::Memory;
                        let next = subscription.next;
                        let epoch = partition.durable.epochs.last();
                        let reply = Subscribed {
                            request,
                            subscription: name,
                            epoch,
                            start,
                            end,
                            next,
                        };
                        conn.push_reply(|id, out| reply.encode(out, id));
                        conn.queue_subscription(name);
                    }
                    Err(error) => {
                        conn.push_reply(|id, out| {
                            Error::about(request, code_of_read(&error)).encode(out, id);
                        });
                        if let Some(subscription) = conn.remove_subscription(name) {
                            self.release(id, &subscription);
                        }
                    }
                }
                self.connections.ready(id);
            }
            Some(ReadFor::Subscription(..) | ReadFor::Owed(_)) | None => {}
        }
    }

    /// Finds out who leads a partition, and answers when it is not this shard.
    fn locate(&mut self, conn: &mut Connection, request: MessageId, key: PartitionKey) -> Found {
        let catalogue = self.known_catalogue();
        let Some(stream) = catalogue.streams.get(&key.stream) else {
            self.refuse(conn, request, ErrorCode::UnknownStream, 0, 0);
            return Found::Answered;
        };
        let Some((_, place)) = catalogue.place(key) else {
            self.refuse(conn, request, ErrorCode::UnknownPartition, 0, 0);
            return Found::Answered;
        };
        if place.leader == catalogue.node && place.shard == self.config.id {
            return Found::Here(Arc::clone(stream), place);
        }
        let address = catalogue
            .nodes
            .get(&place.leader)
            .and_then(|node| node.shards.get(usize::from(place.shard.get())))
            .map_or_else(String::new, ToString::to_string);
        let reply = Redirect {
            request,
            stream: key.stream,
            partition: key.partition,
            epoch: place.epoch,
            node: place.leader,
            shard: place.shard,
            address,
        };
        conn.push_reply(|id, out| reply.encode(out, id));
        Found::Answered
    }

    /// Answers a request with an error.
    pub(crate) fn refuse(
        &mut self,
        conn: &mut Connection,
        request: MessageId,
        code: ErrorCode,
        detail_a: u64,
        detail_b: u64,
    ) {
        self.metrics.errors_total.add(1);
        let error = Error {
            detail_a,
            detail_b,
            ..Error::about(request, code)
        };
        conn.push_reply(|id, out| error.encode(out, id));
    }

    /// The catalogue. A shard that serves has one.
    fn known_catalogue(&self) -> Arc<Snapshot> {
        Arc::clone(
            self.catalogue
                .as_ref()
                .expect("connections are accepted once the shard has a catalogue"),
        )
    }
}

/// What a peer is told when the journal could not be read. Without a descriptor nothing was read, so nothing is damaged.
fn code_of_read(error: &ReadError) -> ErrorCode {
    match error {
        ReadError::Disk(DiskError::NotOpened(_)) => ErrorCode::Busy,
        _ => ErrorCode::Damaged,
    }
}
