//! The engine against a scripted server, without sockets and with times that the test chooses where the machine takes
//! them, and for real where only the end matters.

use super::link::{Fill, Link, LinkPlan};
use super::*;
use crate::batches::Shape;
use crate::setup::identity;
use bytes::BytesMut;
use tiderace_base::ids::{
    BootId, MessageId, NodeId, PartitionIndex, ProducerId, ShardId, StreamId, ZoneId,
};
use tiderace_base::position::{CatalogueVersion, Epoch, Offset};
use tiderace_wire::assembly::{Assembler, Receiver};
use tiderace_wire::batch::BatchHeader;
use tiderace_wire::error::ErrorCode;
use tiderace_wire::frame::{Ack, AckFlags, Produced, Welcome};
use tiderace_wire::link::{Kind, LINK_VERSION};

const SHAPE: Shape = Shape {
    records: 1,
    value_bytes: 64,
};

/// The other end of one session.
struct Peer {
    assembler: Assembler,
    last_id: u64,
    unanswered: Vec<MessageId>,
    /// Producer epoch and sequence of everything that came.
    seen: Vec<(u32, u64)>,
}

impl Peer {
    fn welcome(link: &mut Link) -> Self {
        let mut peer = Self {
            assembler: Assembler::new(Receiver::Node),
            last_id: 0,
            unanswered: Vec::new(),
            seen: Vec::new(),
        };
        peer.take(link);
        peer.assembler.open();
        let welcome = Welcome {
            version: LINK_VERSION,
            shard: ShardId::new(0),
            shard_count: 1,
            features: 0,
            node: NodeId::new(1),
            boot: BootId::new(1),
            zone: ZoneId::new(1),
            catalogue_version: CatalogueVersion::ZERO,
            body_bytes_max: 1 << 20,
            batch_records_max: 1000,
            producer_window: 128,
            uncredited_max: 8,
            bytes_total: 1 << 30,
            batches_total: 1 << 20,
        };
        let mut out = BytesMut::new();
        let id = peer.next_id();
        welcome.encode(&mut out, id);
        peer.give(link, out);
        peer
    }

    fn next_id(&mut self) -> MessageId {
        self.last_id += 1;
        MessageId::new(self.last_id)
    }

    /// Takes all that the link has sent.
    fn take(&mut self, link: &mut Link) {
        let mut parts = Vec::new();
        link.session.connection.transmit(&mut parts);
        for part in parts {
            self.assembler.push(part);
            while let Some(frame) = self.assembler.next_frame().expect("it is well formed") {
                if frame.header.kind() == Kind::Produce {
                    self.unanswered.push(frame.header.message_id());
                    let batch = frame.batch.into_contiguous();
                    let header = BatchHeader::parse(&batch).expect("a header");
                    self.seen
                        .push((header.producer_epoch().get(), header.producer_seq().get()));
                }
            }
        }
    }

    fn give(&mut self, link: &mut Link, out: BytesMut) -> Vec<Completion> {
        let mut completions = Vec::new();
        link.session
            .connection
            .receive(out.freeze(), &mut completions)
            .expect("the peer keeps the protocol");
        completions
    }

    /// Answers everything.
    fn answer(&mut self, link: &mut Link, code: Option<ErrorCode>) -> Vec<Completion> {
        let acks: Vec<Ack> = self
            .unanswered
            .drain(..)
            .map(|request| Ack {
                request,
                base_offset: Offset::ZERO,
                append_time_us: 0,
                epoch: Epoch::new(1),
                code,
                flags: AckFlags::NONE,
            })
            .collect();
        let mut out = BytesMut::new();
        let id = self.next_id();
        Produced::encode(&acks, &mut out, id);
        self.give(link, out)
    }
}

fn link(in_flight: usize) -> Link {
    let place = Place {
        partition: PartitionIndex::new(0),
        address: ([127, 0, 0, 1], 1).into(),
        epoch: Epoch::new(1),
    };
    Link::new(
        &identity(),
        LinkPlan {
            stream: StreamId::new(1),
            places: vec![place],
            shape: SHAPE,
            in_flight,
            producer: ProducerId::new(5),
            seed: 1,
        },
    )
}

const MS: u64 = 1_000_000;

#[test]
fn a_stalled_server_shows_in_every_batch_that_was_due_meanwhile() {
    let mut link = link(4);
    let mut peer = Peer::welcome(&mut link);
    // 1,000 batches a second for a second; the server answers at once except that it sleeps for 500 ms in the middle.
    link.schedule = Some(Schedule::new(Arrivals::Constant, 1000.0, 0, 0, 1, 1));
    let phase = Phase::Running {
        start_ns: 0,
        measured_ns: 0,
        end_ns: 1000 * MS,
        wall_offset_us: 0,
    };
    let mut tally = Tally::default();
    let mut blocked = false;
    for ms in 0..2000 {
        let now_ns = ms * MS;
        let stalled = (300..800).contains(&ms);
        if blocked && link.unblocked(now_ns).is_some() {
            blocked = false;
        }
        while !blocked && link.schedule.as_ref().expect("set").next_ns() <= now_ns.min(999 * MS) {
            match link.send_due(now_ns, 0) {
                Fill::Sent { lag_ns, .. } => {
                    if let Some(lag_ns) = lag_ns {
                        tally.lag(now_ns, lag_ns, phase);
                    }
                }
                Fill::Blocked => blocked = true,
            }
        }
        peer.take(&mut link);
        if !stalled && !peer.unanswered.is_empty() {
            for completion in peer.answer(&mut link, None) {
                if let Completion::Acked { token, .. } = completion {
                    let times = link.acked(token as u32);
                    tally.acked(times, now_ns, phase);
                }
            }
        }
    }
    assert!(link.settled(1000 * MS));
    assert_eq!(tally.measured, 1000);
    let response = tally.response.summary();
    let service = tally.service.summary();
    // Half of the batches were due in the stall or queued behind it: the median sees it. The time since sending alone
    // would show it in the four batches that were in flight.
    assert!(response.p50.expect("enough") > 100 * MS, "{response:?}");
    assert!(response.p90.expect("enough") > 400 * MS, "{response:?}");
    assert!(service.p90.expect("enough") <= 2 * MS, "{service:?}");
    assert!(service.max.expect("some") >= 499 * MS);
    // And it is not blamed on the generator.
    assert!(tally.lag.summary().max.expect("some") <= MS);
}

#[test]
fn what_is_never_answered_counts_with_the_time_it_waited() {
    let mut link = link(2);
    let mut peer = Peer::welcome(&mut link);
    link.schedule = Some(Schedule::new(Arrivals::Constant, 1000.0, 0, 0, 1, 1));
    let phase = Phase::Running {
        start_ns: 0,
        measured_ns: 0,
        end_ns: 100 * MS,
        wall_offset_us: 0,
    };
    for now_ns in [0, MS] {
        assert!(matches!(link.send_due(now_ns, 0), Fill::Sent { .. }));
    }
    assert_eq!(link.send_due(2 * MS, 0), Fill::Blocked);
    peer.take(&mut link);
    let mut tally = Tally::default();
    link.abandon(100 * MS, |times| tally.unfinished(times, 200 * MS, phase));
    assert_eq!(tally.unfinished, 100);
    let response = tally.response.summary();
    assert!(response.p50.expect("enough") >= 149 * MS);
    assert_eq!(tally.service.count(), 2);
}

#[test]
fn saturation_keeps_to_its_bound_and_numbers_batches_densely() {
    let mut link = link(16);
    let mut peer = Peer::welcome(&mut link);
    for round in 0..10 {
        assert_eq!(link.saturate(round, 0), 16);
        assert_eq!(link.saturate(round, 0), 0);
        peer.take(&mut link);
        assert_eq!(peer.unanswered.len(), 16);
        for completion in peer.answer(&mut link, None) {
            if let Completion::Acked { token, .. } = completion {
                link.acked(token as u32);
            }
        }
    }
    let dense: Vec<(u32, u64)> = (0..160).map(|seq| (1, seq)).collect();
    assert_eq!(peer.seen, dense);
}

#[test]
fn a_refusal_begins_a_new_epoch_once() {
    let mut link = link(3);
    let mut peer = Peer::welcome(&mut link);
    link.saturate(0, 0);
    peer.take(&mut link);
    for completion in peer.answer(&mut link, Some(ErrorCode::Busy)) {
        if let Completion::ProduceRefused { token, refusal, .. } = completion {
            link.refused(token as u32, refusal);
        }
    }
    link.saturate(1, 0);
    peer.take(&mut link);
    assert_eq!(peer.seen[3..], [(2, 0), (2, 1), (2, 2)]);
}

#[test]
fn connections_share_partitions_without_crossing_shards() {
    let place = |partition: u32| Place {
        partition: PartitionIndex::new(partition),
        address: ([127, 0, 0, 1], 7000 + (partition % 2) as u16).into(),
        epoch: Epoch::new(1),
    };
    let target = |partitions| Target {
        stream: tiderace_base::catalogue::Stream {
            id: StreamId::new(1),
            path: "a".into(),
            tenant: tiderace_base::ids::TenantId::new(0),
            partitions,
            durability: tiderace_base::catalogue::Durability::Local,
            retention: tiderace_base::catalogue::Retention::default(),
            created_us: 0,
        },
        places: (0..partitions).map(place).collect(),
    };
    let of = |partitions, index, count| -> Vec<u32> {
        share(&target(partitions), index, count)
            .iter()
            .map(|place| place.partition.get())
            .collect()
    };
    assert_eq!(of(4, 6, 8), [2]);
    assert_eq!(of(8, 1, 2), [1, 3, 5, 7]);
    assert_eq!(of(6, 0, 3), [0, 4]);
    assert_eq!(of(6, 1, 3), [1, 3, 5]);
    assert_eq!(of(6, 2, 3), [2]);
}
