//! Many cheap requests of one peer: what each costs is its own, not the number of the others.

use integration::batches;
use integration::node::{Node, Setup};
use integration::peer::{Peer, encoded, stream, subscription};
use integration::scratch::Scratch;
use tiderace_base::ids::{PartitionIndex, PartitionKey};
use tiderace_base::limits::{SUBSCRIPTIONS_PER_CONNECTION_MAX, UNCREDITED_OUTSTANDING_MAX};
use tiderace_wire::frame::{
    Control, Credit, CreditScope, OffsetByTime, SubscribeFrom, Unsubscribe,
};

const TURNS: &str = "tiderace_shard_subscription_turns_total";
const PARTITIONS: &str = "tiderace_shard_partitions";
const MIB: u64 = 1 << 20;

/// Sends frames under the next ids, in one write.
fn flood(peer: &mut Peer, frames: impl IntoIterator<Item = Vec<u8>>) {
    let mut all = Vec::new();
    for mut frame in frames {
        let id = peer.id();
        batches::put_u64(&mut frame, 8, id.get());
        batches::seal_link(&mut frame);
        all.extend_from_slice(&frame);
    }
    peer.send(&all);
}

/// Subscriptions to one partition, without credit.
fn subscribe_many(peer: &mut Peer, key: PartitionKey, count: usize) {
    let numbers: Vec<u32> = (1..=count as u32).collect();
    for some in numbers.chunks(UNCREDITED_OUTSTANDING_MAX) {
        let frames = some.iter().map(|number| {
            let mut asked = subscription(*number, key, SubscribeFrom::Latest, 0);
            asked.credit_bytes = 0;
            asked.credit_batches = 0;
            encoded(|out, id| asked.encode(out, id))
        });
        flood(peer, frames);
        for _ in some {
            assert!(matches!(peer.answer().control(), Control::Subscribed(_)));
        }
    }
}

fn link_credit(bytes_total: u64, batches_total: u64) -> Vec<u8> {
    let credit = Credit {
        scope: CreditScope::Link,
        id: 0,
        bytes_total,
        batches_total,
    };
    encoded(|out, id| credit.encode(out, id))
}

#[test]
fn subscribers_without_credit_cost_an_append_nothing() {
    let scratch = Scratch::new("crowd-commits");
    let setup = Setup::new(&scratch);
    let node = Node::start(&setup);
    let mut peer = Peer::open(setup.server).0;
    peer.create(&stream("crowd/commits", 1));
    let (mut writer, key, _) = Peer::at_leader(&setup, "crowd/commits", 0);
    let (mut crowd, ..) = Peer::at_leader(&setup, "crowd/commits", 0);
    subscribe_many(&mut crowd, key, SUBSCRIPTIONS_PER_CONNECTION_MAX);
    let mut produce = || {
        writer.produce(&batches::batch(key, None, &[b"x"]));
        assert_eq!(writer.ack().code, None);
        writer.still_serves();
    };
    // Each had seen everything, so the first batch wakes each. After it they wait for credit, not for data.
    produce();
    crowd.still_serves();
    let before = node.metric(TURNS);
    for _ in 0..10 {
        produce();
    }
    crowd.still_serves();
    let turns = node.metric(TURNS) - before;
    assert!(turns < 100, "{turns} turns of subscriptions for 10 batches");
    // Nor does a grant for the connection that brings nothing new, or not enough.
    let grants = (0..5000).map(|n| link_credit(1 + n, 1));
    flood(&mut crowd, grants);
    crowd.still_serves();
    let turns = node.metric(TURNS) - before;
    assert!(
        turns < 100,
        "{turns} turns of subscriptions for 5,000 grants"
    );
    drop(crowd);
    node.stop();
}

#[test]
fn who_needs_more_of_a_connections_credit_is_first_and_lets_the_others_go_when_it_leaves() {
    let scratch = Scratch::new("crowd-link");
    let setup = Setup::new(&scratch);
    let node = Node::start(&setup);
    let mut peer = Peer::open(setup.server).0;
    peer.create(&stream("crowd/link", 16));
    // Both partitions are read over one connection, so one shard must lead them.
    let places = peer.metadata("crowd/link").partitions;
    let first = &places[0];
    let second = places[1..].iter().find(|place| place.shard == first.shard);
    let second = second.expect("16 partitions on 2 shards");
    let write = |partition: PartitionIndex, value: &[u8]| {
        let (mut writer, key, _) = Peer::at_leader(&setup, "crowd/link", partition.get());
        writer.produce(&batches::batch(key, None, &[value]));
        assert_eq!(writer.ack().code, None);
        key
    };
    let large = write(first.partition, &vec![7; 100_000]);
    let small = write(second.partition, b"small");
    let (mut reader, ..) = Peer::at_leader(&setup, "crowd/link", first.partition.get());
    flood(&mut reader, [link_credit(10_000, 10)]);
    reader.subscribe(&subscription(1, large, SubscribeFrom::Earliest, 0));
    reader.subscribe(&subscription(2, small, SubscribeFrom::Earliest, 0));
    // The first does not fit and holds the second back. When it leaves, the second goes on.
    let end = Unsubscribe {
        subscription: subscription(1, large, SubscribeFrom::Earliest, 0).subscription,
    };
    flood(&mut reader, [encoded(|out, id| end.encode(out, id))]);
    let mut delivered = 0;
    let mut left = false;
    while delivered == 0 || !left {
        let answer = reader.answer();
        match answer.control() {
            Control::Deliver(frame) => {
                assert_eq!(frame.subscription.get(), 2);
                delivered += answer.batches.len();
            }
            Control::Unsubscribed(_) => left = true,
            other => panic!("not expected: {other:?}"),
        }
    }
    // With enough it is delivered at once.
    flood(&mut reader, [link_credit(1_000_000, 100)]);
    reader.subscribe(&subscription(3, large, SubscribeFrom::Earliest, 0));
    let answer = reader.answer();
    assert!(matches!(answer.control(), Control::Deliver(_)));
    assert!(answer.batches.len() > 100_000);
    node.stop();
}

#[test]
fn questions_about_time_keep_the_memory_budget() {
    const PEERS: usize = 100;
    let scratch = Scratch::new("crowd-times");
    let setup = Setup::new(&scratch);
    let node = Node::start(&setup);
    let mut peer = Peer::open(setup.server).0;
    peer.create(&stream("crowd/times", 1));
    let (mut writer, key, _) = Peer::at_leader(&setup, "crowd/times", 0);
    let body = vec![7; 1_000_000];
    let mut times = Vec::new();
    for _ in 0..20 {
        writer.produce(&batches::batch(key, None, &[&body]));
        let ack = writer.ack();
        assert_eq!(ack.code, None);
        times.push(ack.append_time_us);
    }
    let asked = OffsetByTime {
        stream: key.stream,
        partition: key.partition,
        time_us: times[10],
    };
    let mut peers: Vec<Peer> = (0..PEERS)
        .map(|_| Peer::at_leader(&setup, "crowd/times", 0).0)
        .collect();
    let (_, before) = node.resident_bytes();
    for peer in &mut peers {
        let frames =
            (0..UNCREDITED_OUTSTANDING_MAX).map(|_| encoded(|out, id| asked.encode(out, id)));
        flood(peer, frames);
    }
    // A reader that is behind is served meanwhile.
    let mut reader = Peer::at_leader(&setup, "crowd/times", 0).0;
    reader.subscribe(&subscription(1, key, SubscribeFrom::Earliest, 0));
    let mut bytes = 0;
    while bytes < 20 * body.len() {
        bytes += reader.answer().batches.len();
    }
    for peer in &mut peers {
        for _ in 0..UNCREDITED_OUTSTANDING_MAX {
            let answer = peer.answer();
            let Control::OffsetOfTime(found) = answer.control() else {
                panic!("not expected: {:?}", answer.control());
            };
            assert!(found.found && found.append_time_us >= times[10]);
        }
    }
    let (_, most) = node.resident_bytes();
    node.stop();
    // 800 lookups of a megabyte each; a few of them are under way at once.
    let grew = most.saturating_sub(before) / MIB;
    assert!(grew < 64, "{grew} MiB more than before the questions");
}

#[test]
fn subscriptions_that_ended_leave_nothing_behind() {
    const COUNT: u32 = 4096;
    let scratch = Scratch::new("crowd-partitions");
    let setup = Setup::new(&scratch);
    let node = Node::start(&setup);
    let mut peer = Peer::open(setup.server).0;
    let id = peer.create(&stream("crowd/partitions", COUNT)).stream.id;
    let mut subscribed = 0;
    for shard in 0..2 {
        let (mut peer, _) = Peer::open(setup.shard(shard));
        for at in 0..COUNT {
            let key = PartitionKey {
                stream: id,
                partition: PartitionIndex::new(at),
            };
            let asked = subscription(1, key, SubscribeFrom::Latest, 0);
            let end = Unsubscribe {
                subscription: asked.subscription,
            };
            let frames = [
                encoded(|out, id| asked.encode(out, id)),
                encoded(|out, id| end.encode(out, id)),
            ];
            flood(&mut peer, frames);
            let first = peer.answer();
            subscribed += u32::from(matches!(first.control(), Control::Subscribed(_)));
            peer.answer();
        }
    }
    assert_eq!(subscribed, COUNT, "each partition has one leader");
    assert_eq!(node.metric(PARTITIONS), 0, "they are held for nobody");
    node.stop();
}
