//! Hostile requests: questions without sense, more of them than may wait, credit that is not there, and peers that never read
//! what they asked for. Each costs itself, the last two their connection; a witness is served throughout.

use integration::HANG;
use integration::batches;
use integration::peer::{Peer, encoded, metadata_of, stream, subscription};
use integration::world::World;
use std::time::Instant;
use tiderace_base::ids::{MessageId, PartitionIndex, PartitionKey, StreamId};
use tiderace_wire::batch::BatchHeader;
use tiderace_wire::error::ErrorCode;
use tiderace_wire::frame::{
    Control, Credit, CreditScope, GapReason, StreamDescribe, Subscribe, SubscribeFrom,
};
use tiderace_wire::link::Kind;

/// Zeros with one byte that is none.
fn with(bytes: usize, at: usize, value: u8) -> Vec<u8> {
    let mut control = vec![0; bytes];
    control[at] = value;
    control
}

#[test]
fn requests_that_make_no_sense_cost_only_themselves() {
    let mut world = World::new("requests");
    let mut peer = world.peer();
    let created = peer.create(&stream("hostile/requests", 1));
    let again = peer.create(&stream("hostile/requests", 1));
    assert_eq!(
        created.stream.id, again.stream.id,
        "the same again is no error"
    );
    let (mut peer, key, epoch) = Peer::at_leader(&world.setup, "hostile/requests", 0);
    for _ in 0..10 {
        peer.produce(&batches::batch(key, None, &[b"x"]));
        assert_eq!(peer.ack().code, None);
    }
    let unknown = PartitionKey {
        stream: StreamId::new(u64::MAX),
        ..key
    };
    let beyond = PartitionKey {
        partition: PartitionIndex::new(1),
        ..key
    };
    let at = |number, key, offset| subscription(number, key, SubscribeFrom::Offset, offset);
    let raw = |kind: Kind, control: &[u8]| batches::frame(kind, MessageId::new(1), control, &[]);
    let creating = |path: &str, partitions: u32| {
        let asked = stream(path, partitions);
        encoded(|out, id| asked.encode(out, id))
    };
    let subscribing = |to: Subscribe| encoded(|out, id| to.encode(out, id));
    let cases: Vec<(&str, Vec<u8>, ErrorCode, u64)> = vec![
        (
            "metadata of nothing",
            encoded(|out, id| metadata_of("hostile/absent").encode(out, id)),
            ErrorCode::UnknownStream,
            0,
        ),
        (
            "a stream with other partitions",
            creating("hostile/requests", 2),
            ErrorCode::StreamExists,
            0,
        ),
        ("an empty path", creating("", 1), ErrorCode::BadPath, 0),
        (
            "a path that climbs",
            creating("a/../b", 1),
            ErrorCode::BadPath,
            0,
        ),
        (
            "a path with a control character",
            creating("a\n", 1),
            ErrorCode::BadPath,
            0,
        ),
        (
            "no partitions",
            creating("hostile/none", 0),
            ErrorCode::BadPartitions,
            0,
        ),
        (
            "too many partitions",
            creating("hostile/many", 16_385),
            ErrorCode::BadPartitions,
            0,
        ),
        (
            "a path longer than its limit",
            raw(
                Kind::StreamDescribe,
                &[&[0, 0, 0, 0, 254, 0], [b'a'; 253].as_slice()].concat(),
            ),
            ErrorCode::BadControl,
            0,
        ),
        (
            "a path that is no text",
            raw(Kind::StreamDescribe, &[0, 0, 0, 0, 2, 0, 0xc3, 0x28]),
            ErrorCode::BadControl,
            0,
        ),
        (
            "a reserved byte",
            raw(Kind::Unsubscribe, &[1, 0, 0, 0, 0, 0, 0, 1]),
            ErrorCode::BadControl,
            0,
        ),
        (
            "a place to begin that has no name",
            raw(Kind::Subscribe, &with(48, 16, 9)),
            ErrorCode::BadControl,
            0,
        ),
        (
            "credit of a produce slot",
            raw(Kind::Credit, &with(24, 0, 2)),
            ErrorCode::BadControl,
            0,
        ),
        (
            "a subscription beyond the end",
            subscribing(at(1, key, 11)),
            ErrorCode::OffsetBeyondEnd,
            10,
        ),
        (
            "a subscription at the last number there is",
            subscribing(at(1, key, u64::MAX)),
            ErrorCode::OffsetBeyondEnd,
            10,
        ),
        (
            "a subscription to no stream",
            subscribing(at(1, unknown, 0)),
            ErrorCode::UnknownStream,
            0,
        ),
        (
            "a subscription to no partition",
            subscribing(at(1, beyond, 0)),
            ErrorCode::UnknownPartition,
            0,
        ),
        (
            "the end of no subscription",
            raw(Kind::Unsubscribe, &[1, 0, 0, 0, 0, 0, 0, 0]),
            ErrorCode::UnknownSubscription,
            0,
        ),
        (
            "the end of no stream",
            raw(Kind::StreamDelete, &u64::MAX.to_le_bytes()),
            ErrorCode::UnknownStream,
            0,
        ),
    ];
    for (name, frame, code, detail) in cases {
        println!("{name}: {code:?}");
        let id = peer.ask(frame);
        let error = peer.refusal();
        assert_eq!((error.request, error.code), (id, code), "{name}");
        assert!(!error.fatal, "{name} costs only itself");
        assert_eq!(error.detail_a, detail, "{name}");
        peer.still_serves();
        world.witness.is_served();
    }

    // A cursor of a history that this log does not share.
    let mut diverged = at(1, key, 5);
    diverged.epoch = tiderace_base::position::Epoch::new(epoch.get() + 1);
    peer.ask(subscribing(diverged));
    let answer = peer.answer();
    assert!(
        matches!(answer.control(), Control::Diverged(_)),
        "{answer:?}"
    );

    // At the end is no error: it waits for what comes. Its number is taken then.
    let subscribed = peer.subscribe(&at(1, key, 10));
    assert_eq!((subscribed.next.get(), subscribed.end.get()), (10, 10));
    peer.ask(subscribing(at(1, key, 10)));
    assert_eq!(peer.refusal().code, ErrorCode::SubscriptionExists);

    // More questions at once than may wait: the ninth is told so, the others are answered.
    let mut asked = Vec::new();
    let mut burst = Vec::new();
    for number in 0..9 {
        let id = peer.id();
        asked.push(id);
        let path = format!("hostile/burst-{number}");
        let mut frame = creating(&path, 1);
        batches::put_u64(&mut frame, 8, id.get());
        batches::seal_link(&mut frame);
        burst.extend(frame);
    }
    peer.send(&burst);
    let mut created = 0;
    let mut refused = Vec::new();
    for _ in 0..9 {
        let answer = peer.answer();
        match answer.control() {
            Control::StreamCreated(_) => created += 1,
            Control::Error(error) => refused.push((error.request, error.code)),
            other => panic!("neither created nor refused: {other:?}"),
        }
    }
    assert_eq!(created, 8);
    assert_eq!(refused, [(asked[8], ErrorCode::TooManyOutstanding)]);
    world.holds();
}

#[test]
fn what_is_no_longer_kept_is_refused_with_what_is() {
    const PATH: &str = "hostile/short";
    /// Far more than are kept.
    const BATCHES: u64 = 100;
    let world = World::new("below-start");
    let mut asked = stream(PATH, 1);
    asked.retention.bytes = 1 << 20;
    world.peer().create(&asked);
    let (mut peer, key, _) = Peer::at_leader(&world.setup, PATH, 0);
    let batch = batches::batch(key, None, &[&vec![1; 60_000]]);
    let (mut slow, ..) = Peer::at_leader(&world.setup, PATH, 0);
    slow.subscribe(&Subscribe {
        credit_batches: 0,
        ..subscription(1, key, SubscribeFrom::Offset, 0)
    });
    for number in 0..BATCHES {
        peer.produce(&batch);
        let ack = peer.ack();
        assert_eq!((ack.code, ack.base_offset.get()), (None, number));
    }
    // The node drops what is too much in its own time.
    let describing = StreamDescribe {
        first_partition: key.partition,
        path: PATH.into(),
    };
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < HANG, "hangs: nothing is dropped");
        peer.ask(encoded(|out, id| describing.encode(out, id)));
        let answer = peer.answer();
        let Control::StreamDescription(page) = answer.control() else {
            panic!("a description was due, not {:?}", answer.control());
        };
        if page.partitions[0].start.get() > 0 {
            break;
        }
    }
    // Whoever has begun is told what is gone when there is credit again, and goes on behind it.
    let credit = Credit {
        scope: CreditScope::Subscription,
        id: 1,
        bytes_total: 1 << 22,
        batches_total: 10,
    };
    slow.ask(encoded(|out, id| credit.encode(out, id)));
    let answer = slow.answer();
    let Control::Gap(gap) = answer.control() else {
        panic!("a gap was due, not {:?}", answer.control());
    };
    assert_eq!((gap.from.get(), gap.reason), (0, GapReason::Bytes));
    let answer = slow.answer();
    assert_eq!(answer.kind(), Kind::Deliver);
    let first = BatchHeader::parse(&answer.batches).expect("a batch");
    assert!(first.base_offset() <= gap.to && gap.to < first.next_offset());
    // Whoever comes later is refused.
    let late = subscription(1, key, SubscribeFrom::Offset, 0);
    peer.ask(encoded(|out, id| late.encode(out, id)));
    let refused = peer.refusal();
    assert_eq!(refused.code, ErrorCode::OffsetBelowStart);
    assert!(refused.detail_a >= gap.to.get());
    let start = refused.detail_a;
    assert!(
        0 < start && start < BATCHES,
        "{start} of {BATCHES} is the first that is kept"
    );
    // As much as was asked for is kept, and read from there on.
    assert!(
        (BATCHES - start) * 60_000 >= 1 << 20,
        "{start} of {BATCHES}"
    );
    let subscribed = peer.subscribe(&subscription(2, key, SubscribeFrom::Offset, start));
    assert!(subscribed.start.get() >= start);
    assert_eq!(peer.answer().kind(), Kind::Deliver);
    world.holds();
}

#[test]
fn whoever_does_not_read_costs_nobody_else() {
    const READERS: usize = 20;
    let mut world = World::new("never-reads");
    world.peer().create(&stream("hostile/unread", 1));
    let (mut peer, key, _) = Peer::at_leader(&world.setup, "hostile/unread", 0);
    // Subscribers with all the credit there is, who read no byte of what they asked for.
    let mut deaf: Vec<Peer> = (0..READERS)
        .map(|_| Peer::at_leader(&world.setup, "hostile/unread", 0).0)
        .collect();
    for reader in &mut deaf {
        let all = subscription(1, key, SubscribeFrom::Earliest, 0);
        reader.ask(encoded(|out, id| all.encode(out, id)));
    }
    // Somebody who asks and asks and reads no answer: the node stops reading from it before answers pile up.
    const BURSTS_MAX: u64 = 100_000;
    const PINGS_PER_BURST: u64 = 500;
    let mut asking = world.peer();
    let bursts = (0..BURSTS_MAX).map(|burst| {
        let first = 2 + burst * PINGS_PER_BURST;
        let frame = |id| batches::frame(Kind::Ping, MessageId::new(id), &[0; 8], &[]);
        (first..first + PINGS_PER_BURST).flat_map(frame).collect()
    });
    let taken = asking.flood(bursts);
    println!("{taken} bursts of pings were taken from somebody who reads no pong");
    assert!(taken < BURSTS_MAX, "the node does not answer for ever");
    // Far more than the node's memory is written past them, and every bit of it acknowledged.
    let body = vec![5; 1 << 20].split_off(4_096);
    let batch = batches::batch(key, None, &[&body]);
    for number in 0..100 {
        peer.produce(&batch);
        let ack = peer.ack();
        assert_eq!((ack.code, ack.base_offset.get()), (None, number));
        world.witness.is_served();
    }
    let (_, most) = world.node.resident_bytes();
    println!("{} MiB at most, with 64 MiB configured", most >> 20);
    assert!(most < 128 << 20, "{} MiB", most >> 20);
    // Who begins to read gets every answer, in order.
    for _ in 0..taken * PINGS_PER_BURST {
        assert_eq!(asking.next_frame().expect("a pong").kind(), Kind::Pong);
    }
    drop((deaf, asking));
    world.holds();
}
