//! What holds where a producer was forgotten, for its partition or its shard knew too many: nothing is stored twice, nothing
//! is acknowledged that is stored nowhere, and a process that takes over meets no epoch of the one before it.

use integration::batches::{self, Origin};
use integration::node::{Node, Setup};
use integration::peer::{Peer, stream};
use integration::scratch::Scratch;
use tiderace_base::ids::{PartitionIndex, PartitionKey, ProducerId};
use tiderace_base::limits::PRODUCERS_PER_PARTITION_MAX;
use tiderace_client::{
    Client, Options, ProducerOptions, Record, SendError, SessionEpoch, StreamOptions,
};
use tiderace_wire::error::ErrorCode;
use tiderace_wire::frame::Ack;

/// Makes a partition remember as many others as it may, so that whoever was there before is forgotten.
fn crowd_out(setup: &Setup, path: &str) {
    let (mut peer, key, _) = Peer::at_leader(setup, path, 0);
    for n in 0..PRODUCERS_PER_PARTITION_MAX as u128 {
        let from = Origin {
            id: 1_000_000 + n,
            epoch: 1,
            seq: 0,
        };
        peer.produce(&batches::batch(key, Some(from), &[b"crowd"]));
        assert_eq!(peer.ack().code, None);
    }
}

#[test]
fn a_process_that_takes_over_with_a_higher_session_loses_nothing() {
    let scratch = Scratch::new("takeover");
    let setup = Setup::new(&scratch);
    let node = Node::start(&setup);
    let options = |session| ProducerOptions {
        id: Some((ProducerId::new(77), SessionEpoch::new(session))),
        ..ProducerOptions::default()
    };
    integration::runtime().block_on(integration::within("a takeover", async {
        let client = Client::connect(setup.server, Options::default())
            .await
            .expect("a node");
        client
            .create_stream("honest/takeover", StreamOptions::default())
            .await
            .expect("created");
        // It is silent for a while, and forgotten meanwhile.
        let older = client.producer("honest/takeover", options(1));
        older.send(Record::new("first")).await.expect("stored");
        crowd_out(&setup, "honest/takeover");
        let second = older.send(Record::new("second")).await.expect("stored");
        let newer = client.producer("honest/takeover", options(2));
        let third = newer.send(Record::new("third")).await.expect("stored");
        assert!(
            !third.duplicate && third.offset > second.offset,
            "{third:?}"
        );
        assert_eq!(
            older.send(Record::new("late")).await,
            Err(SendError::Fenced)
        );
    }));
    node.stop();
}

/// Sends the first batch of a producer.
fn begin(peer: &mut Peer, key: PartitionKey, producer: u128, epoch: u32, since: u64) -> Ack {
    let from = Origin {
        id: producer,
        epoch: 1,
        seq: 0,
    };
    let id = peer.id();
    let batch = batches::batch(key, Some(from), &[b"once"]);
    peer.send(&batches::produce_since(id, epoch, since, &batch));
    peer.ack()
}

#[test]
fn a_first_batch_that_comes_again_is_stored_once_and_a_new_producer_begins() {
    // P-19
    let scratch = Scratch::new("forgotten");
    let setup = Setup::new(&scratch);
    let node = Node::start(&setup);
    Peer::open(setup.server)
        .0
        .create(&stream("honest/retry", 1));
    let (mut peer, key, epoch) = Peer::at_leader(&setup, "honest/retry", 0);
    assert_eq!(begin(&mut peer, key, 7, epoch.get(), 0).code, None);
    crowd_out(&setup, "honest/retry");
    let end = 1 + PRODUCERS_PER_PARTITION_MAX as u64;
    let unknown = (Some(ErrorCode::ProducerUnknown), end);
    let told = |ack: Ack| (ack.code, ack.base_offset.get());
    assert_eq!(told(begin(&mut peer, key, 7, epoch.get(), 0)), unknown);
    assert_eq!(told(begin(&mut peer, key, 7, 0, end)), unknown, "no epoch");
    assert_eq!(told(begin(&mut peer, key, 8, epoch.get(), 0)), unknown);
    assert_eq!(
        told(begin(&mut peer, key, 8, epoch.get(), end)),
        (None, end),
        "whoever begins behind all that is forgotten is no repeat of it"
    );
    node.stop();
    // It is state of the partition: a restart changes nothing.
    let node = Node::start(&setup);
    let (mut peer, key, epoch) = Peer::at_leader(&setup, "honest/retry", 0);
    let unknown = (Some(ErrorCode::ProducerUnknown), end + 1);
    assert_eq!(told(begin(&mut peer, key, 7, epoch.get(), 0)), unknown);
    assert_eq!(told(begin(&mut peer, key, 8, epoch.get(), 0)), (None, end));
    node.stop();
}

#[test]
fn a_shard_that_knows_too_many_forgets_some_and_keeps_its_memory() {
    /// Producers for which the least memory has room.
    const ROOM: u64 = 32_768;
    const PARTITIONS: u32 = 40;
    const EACH: u64 = 1_000;
    const AT_ONCE: u64 = 50;
    let scratch = Scratch::new("too-many");
    let setup = Setup::new(&scratch)
        .with("shards", 1)
        .with("memory", "24MiB");
    let node = Node::start(&setup);
    Peer::open(setup.server)
        .0
        .create(&stream("honest/many", PARTITIONS));
    let producer = |partition: u32, n: u64| u128::from(partition) << 64 | u128::from(n + 1);
    let first_batch = |key, id| {
        let origin = Origin {
            id,
            epoch: 1,
            seq: 0,
        };
        batches::batch(key, Some(origin), &[b"many"])
    };
    let send = |peer: &mut Peer, key, epoch: u32, since, id| {
        let frame = peer.id();
        peer.send(&batches::produce_since(
            frame,
            epoch,
            since,
            &first_batch(key, id),
        ));
    };
    let (mut peer, one, _) = Peer::at_leader(&setup, "honest/many", 0);
    for partition in 0..PARTITIONS {
        let key = PartitionKey {
            partition: PartitionIndex::new(partition),
            ..one
        };
        let epoch = peer.metadata("honest/many").partitions[partition as usize].epoch;
        for from in (0..EACH).step_by(AT_ONCE as usize) {
            for n in from..from + AT_ONCE {
                send(&mut peer, key, epoch.get(), from, producer(partition, n));
            }
            for n in from..from + AT_ONCE {
                let ack = peer.ack();
                assert_eq!((ack.code, ack.base_offset.get()), (None, n));
            }
        }
    }
    let known = |node: &Node| node.metric("tiderace_shard_producers");
    let sent = u64::from(PARTITIONS) * EACH;
    assert_eq!(known(&node), ROOM);
    let forgotten = node.metric("tiderace_shard_producers_expired_for_memory_total");
    assert_eq!(forgotten, sent - ROOM);
    let check = |node: Node| {
        let (mut peer, last, epoch) = Peer::at_leader(&setup, "honest/many", PARTITIONS - 1);
        let (_, first, first_epoch) = Peer::at_leader(&setup, "honest/many", 0);
        // Whoever came last is remembered, and somebody of the first partition is not: nobody is stored again.
        send(
            &mut peer,
            last,
            epoch.get(),
            0,
            producer(PARTITIONS - 1, EACH - 1),
        );
        let ack = peer.ack();
        assert_eq!((ack.code, ack.base_offset.get()), (None, EACH - 1));
        assert!(ack.flags.is_duplicate());
        let mut unknown = 0;
        for n in 0..EACH {
            send(&mut peer, first, first_epoch.get(), 0, producer(0, n));
            let ack = peer.ack();
            match ack.code {
                None => assert!(ack.flags.is_duplicate()),
                Some(ErrorCode::ProducerUnknown) => unknown += 1,
                Some(code) => panic!("{code:?}"),
            }
        }
        assert!(unknown > 0, "the longest silent are still known");
        node.stop();
    };
    check(node);
    let node = Node::start(&setup);
    assert_eq!(known(&node), ROOM, "a restart forgets nobody");
    check(node);
}
