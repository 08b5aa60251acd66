//! The engine against a scripted server, without sockets and with times that the test chooses where the machine takes
//! them, and for real where only the end matters.

use super::link::{Fill, Lanes, Link, LinkPlan};
use super::order::Order;
use super::subscriber::verify;
use super::*;
use crate::batches::{Prepared, Shape, Stamp};
use crate::keys::{Choice, Draws, Keys, Spread};
use crate::setup::identity;
use bytes::BytesMut;
use tiderace_base::hash::partition_of_key;
use tiderace_base::ids::{
    BootId, MessageId, NodeId, PartitionIndex, PartitionKey, ProducerId, ShardId, SlotId, StreamId,
    ZoneId,
};
use tiderace_base::limits::BATCH_HEADER_BYTES;
use tiderace_base::position::{
    CatalogueVersion, Epoch, Offset, ProducerEpoch, ProducerSeq, SlotSeq,
};
use tiderace_base::prng::Prng;
use tiderace_wire::assembly::{Assembler, Receiver};
use tiderace_wire::batch::{BatchHeader, Placement};
use tiderace_wire::body;
use tiderace_wire::entry::EntryKind;
use tiderace_wire::error::ErrorCode;
use tiderace_wire::frame::{Ack, AckFlags, Credit, CreditScope, Produced, Welcome};
use tiderace_wire::link::{Kind, LINK_VERSION};

const SHAPE: Shape = Shape {
    records: 1,
    value_bytes: 64,
    keyed: true,
};

/// The other end of one session.
struct Peer {
    assembler: Assembler,
    last_id: u64,
    unanswered: Vec<MessageId>,
    /// Producer epoch and sequence of everything that came.
    seen: Vec<(u32, u64)>,
    /// Its partition and the first record's key.
    went: Vec<(u32, Vec<u8>)>,
}

impl Peer {
    fn welcome(link: &mut Link) -> Self {
        Self::welcome_with(link, 1 << 20)
    }

    /// With credit for so many batches.
    fn welcome_with(link: &mut Link, batches_total: u64) -> Self {
        let mut peer = Self {
            assembler: Assembler::new(Receiver::Node),
            last_id: 0,
            unanswered: Vec::new(),
            seen: Vec::new(),
            went: Vec::new(),
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
            batches_total,
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
                if frame.front.header.kind() == Kind::Produce {
                    self.unanswered.push(frame.front.header.message_id());
                    let batch = frame.batch.into_contiguous();
                    let header = BatchHeader::parse(&batch).expect("a header");
                    self.seen
                        .push((header.producer_epoch().get(), header.producer_seq().get()));
                    let body = &batch[BATCH_HEADER_BYTES..];
                    header.check_body(body).expect("the checksum holds");
                    let records = body::validate_batch(header, body).expect("an archive");
                    let key = records.records()[0].key().unwrap_or_default();
                    self.went.push((header.partition().get(), key.to_vec()));
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

    /// Grants credit for so many batches in all.
    fn grant(&mut self, link: &mut Link, batches_total: u64) {
        let credit = Credit {
            scope: CreditScope::Link,
            id: 0,
            bytes_total: 1 << 30,
            batches_total,
        };
        let mut out = BytesMut::new();
        let id = self.next_id();
        credit.encode(&mut out, id);
        self.give(link, out);
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

/// A partition of stream 1, led by the first shard or the second.
fn place(partition: u32) -> Place {
    Place {
        key: PartitionKey {
            stream: StreamId::new(1),
            partition: PartitionIndex::new(partition),
        },
        address: ([127, 0, 0, 1], 7000 + (partition % 2) as u16).into(),
        epoch: Epoch::new(1),
    }
}

fn target(partitions: u32) -> Target {
    Target {
        tls: None,
        durability: tiderace_base::catalogue::Durability::Local,
        partitions,
        places: (0..partitions).map(place).collect(),
    }
}

fn link(in_flight: usize) -> Link {
    link_to(in_flight, Lanes::Turns(vec![place(0)]))
}

fn link_to(in_flight: usize, lanes: Lanes) -> Link {
    Link::new(
        &identity(),
        LinkPlan {
            lanes,
            shape: SHAPE,
            in_flight,
            producer: ProducerId::new(5),
            weight: 1.0,
            seed: 1,
        },
    )
}

const MS: u64 = 1_000_000;

/// Intended time and lag of each batch that goes out.
fn saturate(link: &mut Link, now_ns: u64) -> Vec<(u64, Option<u64>)> {
    let mut sent = Vec::new();
    link.saturate(now_ns, 0, |intended_ns, lag_ns| {
        sent.push((intended_ns, lag_ns));
    });
    sent
}

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
                    let times = link.acked(token as u32, now_ns);
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
        assert_eq!(saturate(&mut link, round).len(), 16);
        assert_eq!(saturate(&mut link, round).len(), 0);
        peer.take(&mut link);
        assert_eq!(peer.unanswered.len(), 16);
        for completion in peer.answer(&mut link, None) {
            if let Completion::Acked { token, .. } = completion {
                link.acked(token as u32, round);
            }
        }
    }
    let dense: Vec<(u32, u64)> = (0..160).map(|seq| (1, seq)).collect();
    assert_eq!(peer.seen, dense);
}

#[test]
fn in_saturation_a_batch_is_meant_for_when_its_place_became_free() {
    let mut link = link(2);
    let mut peer = Peer::welcome(&mut link);
    let phase = Phase::Running {
        start_ns: 0,
        measured_ns: 0,
        end_ns: 1000 * MS,
        wall_offset_us: 0,
    };
    let mut tally = Tally::default();
    // The first are meant for when the load begins.
    assert_eq!(saturate(&mut link, MS), [(MS, Some(0)); 2]);
    // The server answers at 3 ms; the generator comes to send again at 5 ms: that is its own lag, and part of the
    // response, because the place was free.
    peer.take(&mut link);
    for completion in peer.answer(&mut link, None) {
        if let Completion::Acked { token, .. } = completion {
            link.acked(token as u32, 3 * MS);
        }
    }
    assert_eq!(saturate(&mut link, 5 * MS), [(3 * MS, Some(2 * MS)); 2]);
    peer.take(&mut link);
    for completion in peer.answer(&mut link, None) {
        if let Completion::Acked { token, .. } = completion {
            let times = link.acked(token as u32, 9 * MS);
            tally.acked(times, 9 * MS, phase);
        }
    }
    let (response, service) = (tally.response.summary(), tally.service.summary());
    let close = |found: Option<u64>, ms: u64| found.expect("some").abs_diff(ms * MS) < MS / 100;
    assert!(close(response.max, 6), "{response:?}");
    assert!(close(service.max, 4), "{service:?}");
}

#[test]
fn waiting_for_credit_is_the_servers_doing_and_not_the_generators() {
    let mut link = link(4);
    // Credit for three batches: the fourth waits.
    let mut peer = Peer::welcome_with(&mut link, 3);
    assert_eq!(saturate(&mut link, MS).len(), 3);
    peer.take(&mut link);
    let completions = peer.answer(&mut link, None);
    for completion in completions {
        if let Completion::Acked { token, .. } = completion {
            link.acked(token as u32, 2 * MS);
        }
    }
    assert_eq!(saturate(&mut link, 3 * MS), []);
    peer.grant(&mut link, 6);
    // Those that became free while there was no credit waited for the server.
    let sent = saturate(&mut link, 7 * MS);
    assert_eq!(sent.len(), 3);
    assert!(sent.iter().skip(1).all(|batch| *batch == (2 * MS, None)));
}

#[test]
fn a_refusal_begins_a_new_epoch_once() {
    let mut link = link(3);
    let mut peer = Peer::welcome(&mut link);
    saturate(&mut link, 0);
    peer.take(&mut link);
    for completion in peer.answer(&mut link, Some(ErrorCode::Busy)) {
        if let Completion::ProduceRefused { token, refusal, .. } = completion {
            link.refused(token as u32, refusal, 1);
        }
    }
    saturate(&mut link, 1);
    peer.take(&mut link);
    assert_eq!(peer.seen[3..], [(2, 0), (2, 1), (2, 2)]);
}

#[test]
fn a_drawn_key_decides_the_partition_and_each_partition_is_numbered_densely() {
    let choice = Choice {
        keys: Keys::Zipf,
        key_count: 100,
        key_theta: 1.0,
        spread: Spread::Even,
        stream_theta: 0.0,
    };
    let draws = Draws::all(choice, &target(8), 1).swap_remove(0);
    let lanes = Lanes::Drawn {
        draws: Arc::new(draws),
        first: 7,
    };
    let mut link = link_to(4, lanes);
    let mut peer = Peer::welcome(&mut link);
    for round in 0..50 {
        assert_eq!(saturate(&mut link, round).len(), 4);
        peer.take(&mut link);
        for completion in peer.answer(&mut link, None) {
            if let Completion::Acked { token, .. } = completion {
                link.acked(token as u32, round);
            }
        }
    }
    let mut next = [0; 8];
    for ((partition, key), (_, seq)) in peer.went.iter().zip(&peer.seen) {
        assert_eq!(partition_of_key(key, 8).get(), *partition);
        assert_eq!(partition % 2, 0, "it belongs to this shard");
        assert_eq!(*seq, next[*partition as usize]);
        next[*partition as usize] += 1;
    }
    assert!(next.iter().filter(|count| **count > 0).count() > 1);
}

#[test]
fn drawn_load_falls_on_connections_by_the_share_of_their_shard() {
    let choice = Choice {
        keys: Keys::Zipf,
        key_count: 10,
        key_theta: 2.0,
        spread: Spread::Even,
        stream_theta: 0.0,
    };
    let target = target(8);
    let lanes = |count| lanes(choice, &target, count, 1);
    assert!(lanes(1).expect_err("two shards").contains("2 shards"));
    let five = lanes(5).expect("enough connections");
    let total: f64 = five.iter().map(|(_, weight)| weight).sum();
    assert!((total - 5.0).abs() < 1e-9, "{total}");
    // Three connections share the first shard's load, two the second's.
    let head = |index: usize| five[index].0.places()[0].address;
    assert_eq!(head(0), head(2));
    assert_ne!(head(0), head(1));
    assert!((five[0].1 - five[4].1).abs() < 1e-9);
    let draws = Draws::all(choice, &target, 1);
    assert!((five[0].1 - 5.0 * draws[0].share() / 3.0).abs() < 1e-9);
    assert!((five[1].1 - 5.0 * draws[1].share() / 2.0).abs() < 1e-9);
}

/// A batch of a producer as a node delivers it.
fn delivered(seq: u64) -> BytesMut {
    let mut prepared = Prepared::new(SHAPE, &mut Prng::new(seq));
    let stamp = Stamp {
        key: place(0).key,
        producer: ProducerId::new(7 << 64 | 1),
        epoch: ProducerEpoch::new(1),
        seq: ProducerSeq::new(seq),
        time_us: 0,
    };
    let mut bytes = BytesMut::from(&prepared.stamp(stamp, [])[..]);
    let header = BatchHeader::parse_mut(&mut bytes[..]).expect("a header");
    header.place(Placement {
        base_offset: Offset::new(seq),
        slot_seq: SlotSeq::new(seq + 1),
        epoch: Epoch::new(1),
        slot: SlotId::new(0),
        entry_kind: EntryKind::Data,
        append_time_us: 1,
    });
    bytes
}

#[test]
fn what_is_delivered_is_held_to_what_was_sent() {
    let mut order = Order::default();
    let mut tally = Tally::default();
    let mut take = |bytes: &[u8]| {
        let header = BatchHeader::parse(bytes).expect("a header");
        verify(&mut order, header, bytes, &mut tally);
        (tally.missing, tally.behind, tally.damaged)
    };
    assert_eq!(take(&delivered(0)), (0, 0, 0));
    assert_eq!(take(&delivered(1)), (0, 0, 0));
    assert_eq!(take(&delivered(1)), (0, 1, 0));
    assert_eq!(take(&delivered(4)), (2, 1, 0));
    let mut damaged = delivered(5);
    let last = damaged.len() - 1;
    damaged[last - 20] ^= 1;
    assert_eq!(take(&damaged), (2, 1, 1));
}

#[test]
fn connections_share_partitions_without_crossing_shards() {
    let of = |partitions, index, count| -> Vec<u32> {
        share(&target(partitions), index, count)
            .iter()
            .map(|place| place.key.partition.get())
            .collect()
    };
    assert_eq!(of(4, 6, 8), [2]);
    assert_eq!(of(8, 1, 2), [1, 3, 5, 7]);
    assert_eq!(of(6, 0, 3), [0, 4]);
    assert_eq!(of(6, 1, 3), [1, 3, 5]);
    assert_eq!(of(6, 2, 3), [2]);
}
