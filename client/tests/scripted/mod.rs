//! A zone of scripted nodes in memory: it speaks the real protocol through `wire`, keeps real logs and producer windows,
//! and can be told to refuse, to lose answers, to move partitions and to lose what it had. No sockets and no clock:
//! whoever drives it carries the bytes.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary includes this file and uses the part that its properties need"
)]

pub mod world;

use bytes::{Bytes, BytesMut};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use tiderace_base::catalogue::{Durability, Retention, Stream};
use tiderace_base::ids::{
    BootId, MessageId, NodeId, PartitionIndex, ShardId, SlotId, StreamId, SubscriptionId, TenantId,
    ZoneId,
};
use tiderace_base::limits;
use tiderace_base::position::{CatalogueVersion, Epoch, Offset, ProducerSeq, SlotSeq};
use tiderace_wire::assembly::{Assembler, Frame, Receiver};
use tiderace_wire::batch::{BatchHeader, Placement};
use tiderace_wire::body;
use tiderace_wire::credit::{Amount, Granter, Spender};
use tiderace_wire::entry::EntryKind;
use tiderace_wire::error::ErrorCode;
use tiderace_wire::frame::*;
use tiderace_wire::link::Flags;

pub const STREAM: StreamId = StreamId::new(7);
pub const PATH: &str = "shop/orders";

/// What a partition remembers of a producer.
#[derive(Clone, Default, Debug)]
pub struct Window {
    pub epoch: u32,
    pub next_seq: u64,
    /// Offset and producer's checksum of each batch, by its number.
    pub batches: BTreeMap<u64, (u64, u32)>,
}

#[derive(Clone, Default, Debug)]
pub struct Log {
    /// Placed batches.
    pub batches: Vec<Bytes>,
    pub start: u64,
    pub end: u64,
    pub leader: usize,
    pub epoch: u32,
    pub windows: BTreeMap<u128, Window>,
    /// No batch of a forgotten producer stands at or past it.
    pub forgotten_end: u64,
}

impl Log {
    /// Forgets every producer.
    pub fn forget(&mut self) {
        let last = self.windows.values().flat_map(|w| w.batches.values());
        let last = last.map(|(base, _)| base + 1).max().unwrap_or(0);
        self.forgotten_end = self.forgotten_end.max(last);
        self.windows.clear();
    }
}

struct Sub {
    number: u32,
    partition: usize,
    next: u64,
    credit: Spender,
}

pub struct Session {
    pub node: usize,
    assembler: Assembler,
    pub out: BytesMut,
    last_id: u64,
    last_received: u64,
    open: bool,
    pub link: Granter,
    subs: Vec<Sub>,
    pub closed: bool,
}

/// What the next produce frames meet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    Refuse(ErrorCode),
    /// Stored, but the answer is lost with the connection.
    StoreAndDie,
    /// Neither stored nor answered: the connection dies first.
    Die,
    /// The connection dies, and what was sent over it arrives when [`Zone::arrive_late`] says so.
    DieAndArriveLate,
}

pub struct Zone {
    pub addresses: Vec<SocketAddr>,
    pub logs: Vec<Log>,
    pub sessions: BTreeMap<u64, Session>,
    next_session: u64,
    pub fates: VecDeque<Fate>,
    /// Acknowledgements are kept back and sent when released.
    pub hold_acks: bool,
    pub held: Vec<(u64, Ack)>,
    pub window: Amount,
    /// Credit is given back only when told.
    pub hold_credit: bool,
    pub exists: bool,
    pub produced_frames: usize,
    pub metadata_requests: usize,
    pub time_us: u64,
    /// The largest that link credit was ever used, for conservation.
    pub overspent: bool,
    pub resumes: usize,
    late: Vec<(Produce, Bytes)>,
    /// A subscription below the start is refused, not begun with a gap.
    pub strict_start: bool,
}

impl Zone {
    pub fn new(nodes: usize, partitions: usize) -> Self {
        Self {
            addresses: (0..nodes)
                .map(|node| SocketAddr::from(([127, 0, 0, 1], 7600 + node as u16)))
                .collect(),
            logs: (0..partitions)
                .map(|index| Log {
                    leader: index % nodes,
                    epoch: 3,
                    ..Log::default()
                })
                .collect(),
            sessions: BTreeMap::new(),
            next_session: 1,
            fates: VecDeque::new(),
            hold_acks: false,
            held: Vec::new(),
            window: Amount {
                bytes: limits::LINK_WINDOW_BYTES,
                batches: u64::from(limits::LINK_WINDOW_BATCHES),
            },
            hold_credit: false,
            exists: true,
            produced_frames: 0,
            metadata_requests: 0,
            time_us: 1000,
            overspent: false,
            resumes: 0,
            late: Vec::new(),
            strict_start: false,
        }
    }

    pub fn accept(&mut self, node: usize) -> u64 {
        let id = self.next_session;
        self.next_session += 1;
        self.sessions.insert(
            id,
            Session {
                node,
                assembler: Assembler::new(Receiver::Node),
                out: BytesMut::new(),
                last_id: 0,
                last_received: 0,
                open: false,
                link: Granter::new(self.window),
                subs: Vec::new(),
                closed: false,
            },
        );
        id
    }

    pub fn records(&self, partition: usize) -> Vec<Vec<u8>> {
        let mut values = Vec::new();
        for batch in &self.logs[partition].batches {
            let header = BatchHeader::parse(batch).expect("a stored batch");
            let body = body::validate(&batch[128..], header.record_count()).expect("a body");
            values.extend(
                body.records()
                    .iter()
                    .map(|record| record.value().expect("a value").to_vec()),
            );
        }
        values
    }

    fn stream(&self) -> Stream {
        Stream {
            id: STREAM,
            path: PATH.into(),
            tenant: TenantId::new(0),
            partitions: self.logs.len() as u32,
            durability: Durability::Local,
            retention: Retention::default(),
            created_us: 1,
        }
    }

    fn id(&mut self, session: u64) -> MessageId {
        let session = self.session(session);
        session.last_id += 1;
        MessageId::new(session.last_id)
    }

    fn session(&mut self, session: u64) -> &mut Session {
        self.sessions.get_mut(&session).expect("a known session")
    }

    pub fn with(&mut self, session: u64, write: impl FnOnce(&mut BytesMut, MessageId)) {
        let id = self.id(session);
        write(&mut self.session(session).out, id);
    }

    pub fn receive(&mut self, session: u64, bytes: Bytes) {
        if self.session(session).closed {
            return;
        }
        self.session(session).assembler.push(bytes);
        loop {
            let frame = self
                .session(session)
                .assembler
                .next_frame()
                .expect("a client sends valid frames");
            let Some(frame) = frame else { return };
            let id = frame.front.header.message_id();
            let state = self.session(session);
            assert!(id.get() > state.last_received, "message ids grow");
            state.last_received = id.get();
            self.frame(session, &frame);
            if self.session(session).closed {
                return;
            }
        }
    }

    fn error(&mut self, session: u64, request: MessageId, code: ErrorCode) {
        let error = Error::about(request, code);
        self.with(session, |out, id| error.encode(out, id));
    }

    fn frame(&mut self, session: u64, frame: &Frame) {
        let request = frame.front.header.message_id();
        let control = Control::decode(frame.front.header.kind(), &frame.front.control)
            .expect("a valid control section");
        assert!(
            self.session(session).open || matches!(control, Control::Hello(_)),
            "hello comes first"
        );
        match control {
            Control::Hello(_) => {
                let state = self.session(session);
                state.open = true;
                state.assembler.open();
                let node = state.node;
                let welcome = Welcome {
                    version: 1,
                    shard: ShardId::new(0),
                    shard_count: 1,
                    features: 0,
                    node: NodeId::new(node as u64 + 1),
                    boot: BootId::new(1),
                    zone: ZoneId::new(1),
                    catalogue_version: CatalogueVersion::new(1),
                    body_bytes_max: limits::BODY_BYTES_MAX as u32,
                    batch_records_max: limits::BATCH_RECORDS_MAX,
                    producer_window: limits::PRODUCER_WINDOW as u32,
                    uncredited_max: limits::UNCREDITED_OUTSTANDING_MAX as u32,
                    bytes_total: self.window.bytes,
                    batches_total: self.window.batches,
                };
                self.with(session, |out, id| welcome.encode(out, id));
            }
            Control::Ping(ping) => {
                self.with(session, |out, id| {
                    Pong { nonce: ping.nonce }.encode(out, id);
                });
            }
            Control::MetadataRequest(asked) => {
                self.metadata_requests += 1;
                if !self.exists || &*asked.path != PATH {
                    self.error(session, request, ErrorCode::UnknownStream);
                    return;
                }
                let metadata = Metadata {
                    request,
                    catalogue_version: CatalogueVersion::new(1),
                    stream: Some(self.stream()),
                    more: false,
                    nodes: self
                        .addresses
                        .iter()
                        .enumerate()
                        .map(|(node, address)| NodeInfo {
                            id: NodeId::new(node as u64 + 1),
                            boot: BootId::new(1),
                            shared: address.to_string(),
                            shards: vec![address.to_string()],
                        })
                        .collect(),
                    partitions: self
                        .logs
                        .iter()
                        .enumerate()
                        .map(|(index, log)| PartitionInfo {
                            partition: PartitionIndex::new(index as u32),
                            slot: SlotId::new(0),
                            shard: ShardId::new(0),
                            node: NodeId::new(log.leader as u64 + 1),
                            epoch: Epoch::new(log.epoch),
                        })
                        .collect(),
                };
                self.with(session, |out, id| metadata.encode(out, id));
            }
            Control::StreamCreate(_) => {
                let created = StreamCreated {
                    request,
                    stream: self.stream(),
                };
                self.with(session, |out, id| created.encode(out, id));
            }
            Control::StreamDescribe(_) => {
                let node = self.session(session).node;
                let description = StreamDescription {
                    request,
                    more: false,
                    stream: self.stream(),
                    partitions: self
                        .logs
                        .iter()
                        .enumerate()
                        .filter(|(_, log)| log.leader == node)
                        .map(|(index, log)| DescribedPartition {
                            partition: PartitionIndex::new(index as u32),
                            epoch: Epoch::new(log.epoch),
                            start: Offset::new(log.start),
                            end: Offset::new(log.end),
                        })
                        .collect(),
                };
                self.with(session, |out, id| description.encode(out, id));
            }
            Control::StreamList(_) => {
                let listing = StreamListing {
                    request,
                    more: false,
                    streams: vec![self.stream()],
                };
                self.with(session, |out, id| listing.encode(out, id));
            }
            Control::StreamDelete(_) => {
                self.exists = false;
                self.with(session, |out, id| {
                    StreamDeleted { request }.encode(out, id);
                });
            }
            Control::OffsetByTime(asked) => {
                let log = &self.logs[asked.partition.get() as usize];
                let answer = OffsetOfTime {
                    request,
                    offset: Offset::new(log.end),
                    append_time_us: 0,
                    epoch: Epoch::new(log.epoch),
                    found: false,
                };
                self.with(session, |out, id| answer.encode(out, id));
            }
            Control::Produce(asked) => self.produce(session, request, asked, frame),
            Control::ProduceResume(asked) => {
                self.resumes += 1;
                let log = &self.logs[asked.partition.get() as usize];
                let window = log.windows.get(&asked.producer_id.get()).filter(|window| {
                    window.epoch == asked.producer_epoch.get() && window.next_seq > 0
                });
                let resumed = ProduceResumed {
                    request,
                    known: window.is_some(),
                    epoch: Epoch::new(log.epoch),
                    last_seq: ProducerSeq::new(window.map_or(0, |window| window.next_seq - 1)),
                    last_offset: Offset::ZERO,
                    end: Offset::new(log.end),
                };
                self.with(session, |out, id| resumed.encode(out, id));
            }
            Control::Subscribe(asked) => self.subscribe(session, request, asked),
            Control::Unsubscribe(asked) => {
                self.session(session)
                    .subs
                    .retain(|sub| sub.number != asked.subscription.get());
                let ended = Unsubscribed {
                    request,
                    subscription: asked.subscription,
                };
                self.with(session, |out, id| ended.encode(out, id));
            }
            Control::Credit(credit) => {
                assert_eq!(credit.scope, CreditScope::Subscription);
                let state = self.session(session);
                if let Some(sub) = state.subs.iter_mut().find(|sub| sub.number == credit.id) {
                    sub.credit.granted_to(Amount {
                        bytes: credit.bytes_total,
                        batches: credit.batches_total,
                    });
                }
                self.deliver();
            }
            Control::Goodbye(_) | Control::Pong(_) => {}
            other => panic!("no client sends {:?}", other.kind()),
        }
    }

    fn produce(&mut self, session: u64, request: MessageId, asked: Produce, frame: &Frame) {
        self.produced_frames += 1;
        let bytes = frame.batch.clone().into_contiguous();
        let amount = Amount::batch(bytes.len() as u64);
        if self.session(session).link.spend(amount).is_err() {
            self.overspent = true;
            self.error(session, MessageId::new(0), ErrorCode::NoCredit);
            self.session(session).closed = true;
            return;
        }
        let header = *BatchHeader::parse(&bytes).expect("a batch header");
        header.check_door(bytes.len() - 128).expect("a sound batch");
        header.check_body(&bytes[128..]).expect("a sound body");
        let fate = self.fates.pop_front();
        let partition = header.partition().get() as usize;
        let leader = self.logs[partition].leader;
        let ack = if leader != self.session(session).node {
            Ack::refused(request, ErrorCode::NotLeader, 0, 0)
        } else {
            match fate {
                Some(Fate::Die) => {
                    self.session(session).closed = true;
                    return;
                }
                Some(Fate::DieAndArriveLate) => {
                    self.late.push((asked, bytes));
                    self.session(session).closed = true;
                    return;
                }
                Some(Fate::Refuse(code)) => Ack::refused(request, code, 0, 0),
                Some(Fate::StoreAndDie) | None => self.append(request, asked, &header, &bytes),
            }
        };
        if fate == Some(Fate::StoreAndDie) {
            self.session(session).closed = true;
            self.deliver();
            return;
        }
        if self.hold_acks {
            self.held.push((session, ack));
        } else {
            self.with(session, |out, id| Produced::encode(&[ack], out, id));
        }
        if ack.code == Some(ErrorCode::NotLeader) {
            let redirect = Redirect {
                request,
                stream: STREAM,
                partition: header.partition(),
                epoch: Epoch::new(self.logs[partition].epoch),
                node: NodeId::new(leader as u64 + 1),
                shard: ShardId::new(0),
                address: self.addresses[leader].to_string(),
            };
            self.with(session, |out, id| redirect.encode(out, id));
        }
        if !self.hold_credit {
            self.give_back(session, amount);
        }
        self.deliver();
    }

    pub fn give_back(&mut self, session: u64, amount: Amount) {
        let state = self.session(session);
        state.link.give_back(amount);
        if let Some(total) = state.link.grant() {
            let credit = Credit {
                scope: CreditScope::Link,
                id: 0,
                bytes_total: total.bytes,
                batches_total: total.batches,
            };
            self.with(session, |out, id| credit.encode(out, id));
        }
    }

    fn append(
        &mut self,
        request: MessageId,
        asked: Produce,
        header: &BatchHeader,
        bytes: &Bytes,
    ) -> Ack {
        self.time_us += 1;
        let time_us = self.time_us;
        let log = &mut self.logs[header.partition().get() as usize];
        if asked.epoch.get() != log.epoch && asked.epoch != Epoch::ZERO {
            return Ack::refused(request, ErrorCode::FencedEpoch, u64::from(log.epoch), 0);
        }
        let known = log.windows.get(&header.producer_id().get());
        let (epoch, seq) = (header.producer_epoch().get(), header.producer_seq().get());
        if known.is_some_and(|window| epoch < window.epoch) {
            return Ack::refused(request, ErrorCode::ProducerFenced, 0, 0);
        }
        if known.is_none_or(|window| epoch > window.epoch) {
            if seq != 0 {
                return match known {
                    Some(_) => Ack::refused(request, ErrorCode::SequenceGap, 0, 0),
                    None => Ack::refused(request, ErrorCode::ProducerUnknown, log.end, 0),
                };
            }
            // P-19
            let since = if asked.epoch == Epoch::ZERO {
                0
            } else {
                asked.since.get()
            };
            if since < log.forgotten_end {
                return Ack::refused(request, ErrorCode::ProducerUnknown, log.end, 0);
            }
            let window = Window {
                epoch,
                ..Window::default()
            };
            log.windows.insert(header.producer_id().get(), window);
        }
        let window = log.windows.entry(header.producer_id().get()).or_default();
        let mut flags = AckFlags::NONE;
        let base = if let Some((base, crc)) = window.batches.get(&seq) {
            // P-18
            if *crc != header.producer_crc() {
                return Ack::refused(request, ErrorCode::SequenceReused, 0, 0);
            }
            flags = AckFlags::DUPLICATE;
            *base
        } else if seq < window.next_seq {
            return Ack::refused(request, ErrorCode::DuplicateForgotten, 0, 0);
        } else if seq != window.next_seq {
            return Ack::refused(request, ErrorCode::SequenceGap, window.next_seq, 0);
        } else {
            let base = log.end;
            window.batches.insert(seq, (base, header.producer_crc()));
            window.next_seq += 1;
            log.end += u64::from(header.record_count());
            let mut stored = BytesMut::from(&bytes[..]);
            BatchHeader::parse_mut(&mut stored)
                .expect("a batch header")
                .place(Placement {
                    base_offset: Offset::new(base),
                    slot_seq: SlotSeq::new(log.batches.len() as u64 + 1),
                    epoch: Epoch::new(log.epoch),
                    slot: SlotId::new(0),
                    entry_kind: EntryKind::Data,
                    append_time_us: time_us,
                });
            log.batches.push(stored.freeze());
            base
        };
        Ack {
            request,
            base_offset: Offset::new(base),
            append_time_us: time_us,
            epoch: Epoch::new(log.epoch),
            code: None,
            flags,
        }
    }

    fn subscribe(&mut self, session: u64, request: MessageId, asked: Subscribe) {
        let partition = asked.partition.get() as usize;
        let node = self.session(session).node;
        let log = &self.logs[partition];
        if log.leader != node {
            self.error(session, request, ErrorCode::NotLeader);
            return;
        }
        let (start, end, epoch) = (log.start, log.end, log.epoch);
        let next = match asked.from {
            SubscribeFrom::Earliest => start,
            SubscribeFrom::Latest => end,
            SubscribeFrom::Offset => asked.position,
            SubscribeFrom::Time => start,
        };
        if asked.from == SubscribeFrom::Offset && self.strict_start && next < start {
            let mut error = Error::about(request, ErrorCode::OffsetBelowStart);
            error.detail_a = start;
            self.with(session, |out, id| error.encode(out, id));
            return;
        }
        if next > end {
            if asked.epoch.get() != 0 && asked.epoch.get() < epoch {
                let diverged = Diverged {
                    request,
                    subscription: asked.subscription,
                    epoch: Epoch::new(epoch),
                    end: Offset::new(end),
                };
                self.with(session, |out, id| diverged.encode(out, id));
            } else {
                self.error(session, request, ErrorCode::OffsetBeyondEnd);
            }
            return;
        }
        let begun = Subscribed {
            request,
            subscription: asked.subscription,
            epoch: Epoch::new(epoch),
            start: Offset::new(start),
            end: Offset::new(end),
            next: Offset::new(next),
        };
        self.with(session, |out, id| begun.encode(out, id));
        let mut next = next;
        if next < start {
            let gap = Gap {
                subscription: asked.subscription,
                reason: GapReason::Age,
                from: Offset::new(next),
                to: Offset::new(start),
            };
            self.with(session, |out, id| gap.encode(out, id));
            next = start;
        }
        self.session(session).subs.push(Sub {
            number: asked.subscription.get(),
            partition,
            next,
            credit: Spender::new(Amount {
                bytes: asked.credit_bytes,
                batches: asked.credit_batches,
            }),
        });
        self.deliver();
    }

    /// Sends every subscription what its credit allows.
    pub fn deliver(&mut self) {
        let sessions: Vec<u64> = self.sessions.keys().copied().collect();
        for session in sessions {
            let mut frames = Vec::new();
            let Self { sessions, logs, .. } = self;
            let state = sessions.get_mut(&session).expect("listed");
            if state.closed {
                continue;
            }
            for sub in &mut state.subs {
                let log = &logs[sub.partition];
                for batch in &log.batches {
                    let header = BatchHeader::parse(batch).expect("a stored batch");
                    if header.next_offset().get() <= sub.next {
                        continue;
                    }
                    if !sub.credit.try_spend(Amount::batch(batch.len() as u64)) {
                        break;
                    }
                    sub.next = header.next_offset().get();
                    let deliver = Deliver {
                        subscription: SubscriptionId::new(sub.number),
                        epoch: Epoch::new(log.epoch),
                        end_offset: Offset::new(log.end),
                    };
                    frames.push((deliver, batch.clone()));
                }
            }
            for (deliver, batch) in frames {
                self.with(session, |out, id| {
                    deliver.encode(out, id, Flags::NONE, batch.len());
                    out.extend_from_slice(&batch);
                });
            }
        }
    }

    /// What dead connections still carried arrives, in the order in which it was sent. What is said to it is heard by
    /// nobody.
    pub fn arrive_late(&mut self) -> Vec<Ack> {
        core::mem::take(&mut self.late)
            .into_iter()
            .map(|(asked, bytes)| {
                let header = *BatchHeader::parse(&bytes).expect("a batch header");
                self.append(MessageId::new(1), asked, &header, &bytes)
            })
            .collect()
    }

    /// Sends acknowledgements that were kept back, in this order.
    pub fn release(&mut self, order: impl IntoIterator<Item = usize>) {
        let held = core::mem::take(&mut self.held);
        for index in order {
            let (session, ack) = held[index];
            self.with(session, |out, id| Produced::encode(&[ack], out, id));
        }
    }

    pub fn close_all(&mut self) {
        for session in self.sessions.values_mut() {
            session.closed = true;
        }
    }
}
