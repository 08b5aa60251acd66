//! What holds where a partition has forgotten a producer: nothing is stored twice, nothing is acknowledged that is stored
//! nowhere, and a process that takes over meets no epoch of the one before it.

use integration::batches::{self, Origin};
use integration::node::{Node, Setup};
use integration::peer::{Peer, stream};
use integration::scratch::Scratch;
use tiderace_base::ids::{PartitionKey, ProducerId};
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
