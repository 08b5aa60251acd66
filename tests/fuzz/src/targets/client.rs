//! The client's engine against a node that says anything: a producer and a consumer that want to work, and answers that are
//! right but for what an input changes. Steps of six bytes: what happens, which answer, a place and a number to put there, an
//! amount.

use crate::outcome::Outcome;
use crate::targets::{Sample, Target};
use bytes::{Bytes, BytesMut};
use compat::samples;
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use tiderace_base::ids::{MessageId, PartitionIndex, ProducerId, SubscriptionId};
use tiderace_base::limits::{LINK_HEADER_BYTES, MIB};
use tiderace_base::position::{Epoch, Offset, ProducerSeq};
use tiderace_base::time::{Mono, Now, Wall};
use tiderace_client::Record;
use tiderace_client::core::connection::Identity;
use tiderace_client::core::engine::{
    ConsumerKey, ConsumerSettings, Engine, Event, LinkId, ProducerKey, Request, Settings,
};
use tiderace_client::core::producer;
use tiderace_wire::assembly::{Assembler, Receiver};
use tiderace_wire::batch::{BatchHeader, Placement};
use tiderace_wire::entry::EntryKind;
use tiderace_wire::frame::{
    Ack, AckFlags, Control, Credit, CreditScope, Deliver, Metadata, OffsetOfTime, PartitionInfo,
    Pong, ProduceResumed, Produced, StreamCreated, StreamDeleted, StreamListing, Subscribed,
    Unsubscribed,
};
use tiderace_wire::link::{Flags, Kind, LinkHeader};

/// See the module.
pub const TARGET: Target = Target {
    name: "client",
    reads: "`tiderace_client::core::engine`: everything that a node may send",
    holds: "no panic and bounded memory; whatever is said, the client sends well-formed frames only; each batch that it \
            accepted has one outcome at most; what breaks the protocol costs the connection and not the client",
    run,
    samples,
    seal: None,
    words: &[],
    bytes_max: 300,
    // A stream has at most 16,384 partitions, and a consumer keeps a row for each.
    held_bytes_max: 16 * MIB,
    runs_in_tests: 8_000,
};

const PATH: &str = "shop/orders";
/// Bytes of one step.
const STEP_BYTES: usize = 6;
/// What a driver does for one step, at most: an engine that asks for more goes round in circles.
const EVENTS_MAX: usize = 10_000;

/// What the client asked, with the id of its frame.
#[derive(Clone, Copy)]
struct Asked {
    kind: Kind,
    id: MessageId,
    /// Of a subscription: its number.
    subscription: u32,
}

struct Scene {
    engine: Engine,
    now: Now,
    producer: ProducerKey,
    consumer: ConsumerKey,
    links: Vec<(LinkId, Assembler, u64)>,
    asked: VecDeque<Asked>,
    subscribed: Option<(u32, u64)>,
    ended: usize,
    pushed: u64,
    settled: u64,
    answered: u64,
}

/// Runs one input.
#[must_use]
pub fn run(input: &[u8]) -> Outcome {
    let identity = Identity {
        client_id: 7,
        name: "fuzz".to_owned(),
    };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 7600));
    let mut engine = Engine::new(Settings::new(identity, vec![address]), 5);
    let now = Now {
        mono: Mono::from_ns(1),
        wall: Wall::from_us(1_000_000),
    };
    let producer = engine.producer(now, PATH, producer::Settings::new(ProducerId::new(9)));
    let consumer = engine.consumer(now, PATH, ConsumerSettings::default());
    let mut scene = Scene {
        engine,
        now,
        producer,
        consumer,
        links: Vec::new(),
        asked: VecDeque::new(),
        subscribed: None,
        ended: 0,
        pushed: 0,
        settled: 0,
        answered: 0,
    };
    scene.drive();
    for step in input.as_chunks::<STEP_BYTES>().0 {
        scene.step(*step);
        scene.drive();
    }
    let stored = scene.settled > 0 && scene.answered > 0;
    if scene.ended == 0 {
        Outcome::Taken(if stored { "Stored" } else { "Waiting" })
    } else {
        Outcome::Refused(if stored { "EndedLate" } else { "EndedEarly" })
    }
}

impl Scene {
    /// Does what the engine asks, and reads what it sends.
    fn drive(&mut self) {
        for _ in 0..EVENTS_MAX {
            let mut idle = true;
            while let Some(event) = self.engine.next_event() {
                idle = false;
                self.take(event);
            }
            while let Some(link) = self.engine.next_transmit() {
                idle = false;
                let mut out = Vec::new();
                self.engine.transmit(link, &mut out);
                for bytes in out {
                    self.read(link, bytes);
                }
            }
            if idle {
                assert!(
                    self.settled <= self.pushed,
                    "a batch has one outcome: {} of {}",
                    self.settled,
                    self.pushed
                );
                return;
            }
        }
        panic!("the engine goes round in circles");
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Connect { link, .. } => {
                self.links.retain(|(known, ..)| *known != link);
                let mut assembler = Assembler::new(Receiver::Node);
                assembler.open();
                self.links.push((link, assembler, 0));
                self.engine.connected(self.now, link);
            }
            Event::Disconnect { link } => {
                self.ended += 1;
                self.links.retain(|(known, ..)| *known != link);
                self.asked.clear();
                self.subscribed = None;
            }
            Event::Settled { settled, .. } => {
                self.settled += 1;
                self.answered += u64::from(settled.result.is_ok());
            }
            Event::Room { .. } | Event::Answered { .. } => {}
            Event::Ready { consumer } => {
                while let Some(Ok(_)) = self.engine.take(self.now, consumer) {}
            }
        }
    }

    fn read(&mut self, link: LinkId, bytes: Bytes) {
        let Some((_, assembler, _)) = self.links.iter_mut().find(|(known, ..)| *known == link)
        else {
            return;
        };
        assembler.push(bytes);
        while let Some(frame) = assembler
            .next_frame()
            .expect("a client sends well-formed frames")
        {
            let header = &frame.front.header;
            let control = Control::decode(header.kind(), &frame.front.control);
            let control = control.expect("a client sends well-formed frames");
            let mut subscription = 0;
            match control {
                Control::Subscribe(frame) => {
                    subscription = frame.subscription.get();
                }
                Control::Produce(_) => {
                    let batch = frame.batch.clone().into_contiguous();
                    let batch = BatchHeader::parse(&batch)
                        .expect("a batch follows")
                        .to_owned();
                    let body = header.batch_len() - batch.bytes().len();
                    assert_eq!(batch.check_door(body), Ok(()), "it passes the door");
                }
                _ => {}
            }
            self.asked.push_back(Asked {
                kind: header.kind(),
                id: header.message_id(),
                subscription,
            });
            if self.asked.len() > 64 {
                self.asked.pop_front();
            }
        }
    }

    fn step(&mut self, step: [u8; STEP_BYTES]) {
        let [what, which, _, _, _, amount] = step;
        let now = self.now;
        match what % 16 {
            0..=8 => {
                // What waits longest is answered first.
                let index = usize::from(which) % self.asked.len().max(1);
                let asked = self.asked.remove(if which < 200 { 0 } else { index });
                if let Some(asked) = asked {
                    if asked.kind == Kind::Produce {
                        let section = acknowledged(asked.id, u64::from(amount));
                        self.send_section(Kind::Produced, section, &[], step);
                    }
                    for control in self.answers(asked, u64::from(amount)) {
                        self.send(&control, step);
                    }
                }
            }
            9 => {
                let all = samples::controls();
                let control = &all[usize::from(which) % all.len()];
                self.send(control, step);
            }
            10 => {
                let delivered = self.delivery(u64::from(amount));
                if let Some(control) = delivered {
                    self.send(&control, step);
                }
            }
            11 => {
                let ns = 1 << (amount % 40);
                self.now = Now {
                    mono: now.mono.after_ns(ns),
                    wall: Wall::from_us(now.wall.as_us() + ns / 1000),
                };
                self.engine.tick(self.now);
            }
            12 | 13 => {
                let record = Record::new(vec![amount; usize::from(which)]).key(vec![amount; 3]);
                let partition =
                    (amount % 4 != 0).then(|| PartitionIndex::new(u32::from(amount % 3)));
                if self
                    .engine
                    .push(now, self.producer, &record, partition)
                    .is_ok()
                {
                    self.pushed += 1;
                }
            }
            14 => {
                let request = match amount % 4 {
                    0 => Request::Nodes,
                    1 => Request::Ping { nonce: 4 },
                    2 => Request::Describe {
                        path: PATH.into(),
                        first_partition: PartitionIndex::new(0),
                    },
                    _ => Request::List {
                        after: "".into(),
                        limit: 3,
                    },
                };
                let _ = self.engine.request(now, request);
            }
            _ => {
                if let Some((link, ..)) = self.links.pop() {
                    self.ended += 1;
                    self.asked.clear();
                    self.engine.disconnected(now, link);
                }
            }
        }
        let _ = self.engine.cursors(self.consumer).count();
    }

    /// Sends a frame on the link opened last, with a number of the step put into its control section.
    fn send(&mut self, control: &Control<'_>, step: [u8; STEP_BYTES]) {
        let batches = match control {
            Control::Deliver(frame) => self.batches(frame),
            other => samples::batches_behind(other),
        };
        let frame = samples::encode(control, MessageId::new(1), &batches);
        let behind = frame.len() - batches.len();
        let section = frame[LINK_HEADER_BYTES..behind].to_vec();
        self.send_section(control.kind(), section, &batches, step);
    }

    fn send_section(
        &mut self,
        kind: Kind,
        mut section: Vec<u8>,
        batches: &[u8],
        [_, _, at, number, width, _]: [u8; STEP_BYTES],
    ) {
        let (at, width) = (usize::from(at), 1 << (width % 4));
        if at > 0 && number > 0 && at - 1 + width <= section.len() {
            let number = match number {
                255 => u64::MAX,
                254 => 1 << 63,
                253 => u64::from(u32::MAX),
                number => u64::from(number),
            };
            section[at - 1..at - 1 + width].copy_from_slice(&number.to_le_bytes()[..width]);
        }
        let Some((link, _, last)) = self.links.last_mut() else {
            return;
        };
        *last += 1;
        let id = MessageId::new(*last);
        let header = LinkHeader::new(kind, Flags::NONE, id, &section, batches.len());
        let bytes = [header.bytes().as_slice(), &section, batches].concat();
        let link = *link;
        self.engine.received(self.now, link, Bytes::from(bytes));
    }

    /// What a node that means well would answer.
    fn answers(&mut self, asked: Asked, amount: u64) -> Vec<Control<'static>> {
        let request = asked.id;
        let sample = |kind: Kind| {
            let all = samples::controls().into_iter();
            all.filter(move |control| control.kind() == kind)
        };
        let epoch = Epoch::new(3);
        match asked.kind {
            Kind::Hello => sample(Kind::Welcome)
                .map(|control| match control {
                    Control::Welcome(mut welcome) => {
                        welcome.bytes_total = 1 << 22;
                        welcome.batches_total = 1 << 10;
                        welcome.body_bytes_max = 1 << 20;
                        welcome.batch_records_max = 1 << 15;
                        welcome.producer_window = 128;
                        welcome.uncredited_max = 8;
                        Control::Welcome(welcome)
                    }
                    other => other,
                })
                .collect(),
            Kind::MetadataRequest => sample(Kind::Metadata)
                .map(|control| match control {
                    Control::Metadata(metadata) => Control::Metadata(led(metadata, request)),
                    other => other,
                })
                .collect(),
            Kind::ProduceResume => vec![Control::ProduceResumed(ProduceResumed {
                request,
                known: amount % 2 == 1,
                epoch,
                last_seq: ProducerSeq::new(amount / 2),
                last_offset: Offset::new(amount),
                end: Offset::new(amount + 9),
            })],
            Kind::Subscribe => {
                self.subscribed = Some((asked.subscription, amount));
                vec![Control::Subscribed(Subscribed {
                    request,
                    subscription: SubscriptionId::new(asked.subscription),
                    epoch,
                    start: Offset::new(0),
                    end: Offset::new(amount + 10),
                    next: Offset::new(amount),
                })]
            }
            Kind::Unsubscribe => vec![Control::Unsubscribed(Unsubscribed {
                request,
                subscription: SubscriptionId::new(asked.subscription),
            })],
            Kind::OffsetByTime => vec![Control::OffsetOfTime(OffsetOfTime {
                request,
                offset: Offset::new(amount),
                append_time_us: 4,
                epoch,
                found: true,
            })],
            Kind::StreamCreate => vec![Control::StreamCreated(StreamCreated {
                request,
                stream: stream(),
            })],
            Kind::StreamDelete => vec![Control::StreamDeleted(StreamDeleted { request })],
            Kind::StreamList => vec![Control::StreamListing(StreamListing {
                request,
                more: false,
                streams: vec![stream()],
            })],
            Kind::Ping => vec![Control::Pong(Pong { nonce: 4 })],
            Kind::Credit => vec![Control::Credit(Credit {
                scope: CreditScope::Link,
                id: 0,
                bytes_total: (1 << 22) + amount * 1000,
                batches_total: (1 << 10) + amount,
            })],
            _ => Vec::new(),
        }
    }

    /// A delivery of the running subscription, where it stands.
    fn delivery(&self, amount: u64) -> Option<Control<'static>> {
        let (subscription, next) = self.subscribed?;
        Some(Control::Deliver(Deliver {
            subscription: SubscriptionId::new(subscription),
            epoch: Epoch::new(3),
            end_offset: Offset::new(next + amount),
        }))
    }

    /// One batch of three records at the place where the subscription stands.
    fn batches(&mut self, frame: &Deliver) -> Vec<u8> {
        let next = match &mut self.subscribed {
            Some((subscription, next)) if *subscription == frame.subscription.get() => {
                *next += 3;
                *next - 3
            }
            _ => 0,
        };
        let mut batch = samples::batch();
        let stream = stream();
        let header = BatchHeader::parse_mut(&mut batch).expect("a sample");
        let mut part = tiderace_wire::batch::ProducerPart {
            attributes: header.attributes(),
            key: header.key(),
            record_count: header.record_count(),
            body_bytes: header.body_bytes(),
            body_crc: header.body_crc(),
            producer_id: header.producer_id(),
            producer_seq: header.producer_seq(),
            producer_epoch: header.producer_epoch(),
            schema_id: header.schema_id(),
            first_time_us: header.first_time_us(),
            time_span_us: header.time_span_us(),
        };
        part.key.stream = stream.id;
        part.key.partition = PartitionIndex::new(0);
        *header = BatchHeader::producer(part);
        header.place(Placement {
            base_offset: Offset::new(next),
            epoch: Epoch::new(3),
            ..samples::placement(EntryKind::Data)
        });
        batch
    }
}

/// The control section of an acknowledgement.
fn acknowledged(request: MessageId, base_offset: u64) -> Vec<u8> {
    let ack = Ack {
        request,
        base_offset: Offset::new(base_offset),
        append_time_us: 5,
        epoch: Epoch::new(3),
        code: None,
        flags: AckFlags::default(),
    };
    let mut out = BytesMut::new();
    Produced::encode(&[ack], &mut out, MessageId::new(1));
    out[LINK_HEADER_BYTES..].to_vec()
}

/// The stream of the samples.
fn stream() -> tiderace_base::catalogue::Stream {
    let stream = samples::controls()
        .into_iter()
        .find_map(|control| match control {
            Control::StreamCreated(created) => Some(created.stream),
            _ => None,
        });
    stream.expect("every kind has a sample")
}

/// Metadata of a stream with three partitions, all led by the node that answers.
fn led(mut metadata: Metadata, request: MessageId) -> Metadata {
    metadata.request = request;
    metadata.more = false;
    if let Some(stream) = &mut metadata.stream {
        stream.partitions = 3;
    }
    let first = metadata.partitions[0];
    let node = &mut metadata.nodes[0];
    node.shared = "127.0.0.1:7600".to_owned();
    node.shards = vec!["127.0.0.1:7600".to_owned(); usize::from(first.shard.get() % 4) + 1];
    metadata.partitions = (0..3)
        .map(|partition| PartitionInfo {
            partition: PartitionIndex::new(partition),
            shard: tiderace_base::ids::ShardId::new(0),
            ..first
        })
        .collect();
    metadata
}

fn samples() -> Vec<Sample> {
    let answer = [0, 0, 0, 0, 0, 4];
    let push = [12, 9, 0, 0, 0, 5];
    let deliver = [10, 0, 0, 0, 0, 9];
    let input = |steps: &[[u8; STEP_BYTES]]| steps.as_flattened().to_vec();
    let begun = [answer; 6];
    vec![
        ("begins".to_owned(), input(&begun)),
        (
            "produces".to_owned(),
            input(
                &[
                    begun.as_slice(),
                    &[push, push],
                    &[answer; 8],
                    &[push],
                    &[answer; 3],
                ]
                .concat(),
            ),
        ),
        (
            "consumes".to_owned(),
            input(&[begun.as_slice(), &[answer; 4], &[deliver; 4], &[answer; 2]].concat()),
        ),
        (
            "asks".to_owned(),
            input(
                &[
                    begun.as_slice(),
                    &[[14, 0, 0, 0, 0, 3], [14, 0, 0, 0, 0, 1]],
                    &[answer; 6],
                ]
                .concat(),
            ),
        ),
        (
            "lost".to_owned(),
            input(
                &[
                    begun.as_slice(),
                    &[push, [15, 0, 0, 0, 0, 0], [11, 0, 0, 0, 0, 33]],
                    &[answer; 8],
                ]
                .concat(),
            ),
        ),
        (
            "foreign".to_owned(),
            input(&[begun.as_slice(), &[[9, 12, 0, 0, 0, 0]]].concat()),
        ),
    ]
}
