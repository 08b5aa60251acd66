//! Peers that take descriptors, and a process that has few. Connections beyond what the limit of open files leaves are
//! turned away and cost nobody else; a limit that is too low is refused at the start; a file that cannot be opened while the
//! process has no descriptor is waited for, and nothing is lost.

use integration::HANG;
use integration::batches;
use integration::limits::raise_open_files;
use integration::node::{Node, Setup};
use integration::peer::{Peer, stream};
use integration::scratch::Scratch;
use integration::witness::Witness;
use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
use std::net::TcpStream;
use std::time::Instant;
use tiderace_base::ids::PartitionKey;

const SEGMENT_BYTES: usize = 4 << 20;
const BODY_BYTES: usize = 200_000;
/// Two shards take fewer than a hundred connections each with so many.
const FILES: u64 = 400;
/// What this process needs for its own ends of all connections.
const FILES_HERE: u64 = 3000;
/// Connections that say nothing, in each of three rounds.
const IDLE: u64 = 600;

/// Writes one batch after the other until `segments` segments are full of them; each must be acknowledged.
#[track_caller]
fn fill_segments(writer: &mut Peer, key: PartitionKey, segments: usize) {
    let body = vec![7; BODY_BYTES];
    let batch = batches::batch(key, None, &[&body]);
    for _ in 0..=segments * SEGMENT_BYTES / BODY_BYTES {
        writer.produce(&batch);
        assert_eq!(writer.ack().code, None);
    }
}

/// Asks until the node says what it is asked for.
#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < HANG, "hangs: {what}");
    }
}

#[test]
fn idle_connections_beyond_the_limit_take_nothing_from_those_that_produce() {
    assert_eq!(raise_open_files(FILES_HERE), FILES_HERE);
    let scratch = Scratch::new("few-descriptors");
    let setup = Setup::new(&scratch)
        .with("segment", "4MiB")
        .with_open_files(FILES);
    let node = Node::start(&setup);
    let mut witness = Witness::new(setup.server, "honest/witness");
    let mut peer = Peer::open(setup.server).0;
    peer.create(&stream("honest/rolls", 1));
    let (mut writer, key, _) = Peer::at_leader(&setup, "honest/rolls", 0);
    // Some are told that there are too many; when many come at once, the others are closed without a word.
    let turned_away = || {
        node.metric("tiderace_driver_turned_away_total")
            + node.metric("tiderace_shard_connections_refused_total")
    };

    // They connect and say nothing, to the address that all share and to those of the shards.
    let mut idle = Vec::new();
    for round in 1..=3 {
        for address in [setup.server, setup.shard(0), setup.shard(1)] {
            for _ in 0..IDLE / 3 {
                idle.push(TcpStream::connect(address).expect("the backlog has room"));
            }
        }
        until("too many connections are turned away", || {
            turned_away() >= (IDLE - FILES / 2) * round
        });
        fill_segments(&mut writer, key, 2);
        witness.is_served();
    }
    assert_eq!(node.metric("tiderace_driver_opens_repeated_total"), 0);

    // They go, and everybody is welcome again.
    drop(idle);
    until("the connections are gone", || {
        node.metric("tiderace_shard_connections") < 10
    });
    Peer::open(setup.server).0.still_serves();
    witness.lost_nothing();
    node.stop();
}

#[test]
fn a_limit_that_is_too_low_is_refused_with_the_one_that_is_needed() {
    let scratch = Scratch::new("no-descriptors");
    let setup = Setup::new(&scratch).with_open_files(100);
    Node::refused(&setup).expect(
        68,
        &[
            "the limit of open files is 100",
            "2 shards need",
            "LimitNOFILE=",
        ],
    );
    assert!(!setup.data_dir.exists(), "nothing was made");
    // The number that it names is enough.
    let enough = Setup::new(&scratch).with_open_files(FILES);
    Node::start(&enough).stop();
}

/// An operator, or a mistake of one, can lower the limit under a node that runs; another process can take the machine's.
#[test]
fn a_node_that_runs_out_of_descriptors_waits_for_them() {
    let scratch = Scratch::new("lost-descriptors");
    let setup = Setup::new(&scratch).with("segment", "4MiB");
    let node = Node::start(&setup);
    let mut witness = Witness::new(setup.server, "honest/witness");
    let mut peer = Peer::open(setup.server).0;
    peer.create(&stream("honest/rolls", 1));
    let (mut writer, key, _) = Peer::at_leader(&setup, "honest/rolls", 0);
    fill_segments(&mut writer, key, 2);
    let mut idle: Vec<Peer> = (0..200).map(|_| Peer::open(setup.server).0).collect();
    until("two spares and their reserves are ready", || {
        node.metric("tiderace_shard_journal_spares") >= 6
    });

    // Every descriptor below the limit is taken.
    let limit = Rlimit {
        current: Some(64),
        maximum: getrlimit(Resource::Nofile).maximum,
    };
    let before = prlimit(Some(node.pid()), Resource::Nofile, limit).expect("it is ours");
    // A roll takes a spare that is open; the next spare cannot be made.
    fill_segments(&mut writer, key, 1);
    witness.is_served();
    for peer in &mut idle {
        peer.still_serves();
    }
    prlimit(Some(node.pid()), Resource::Nofile, before).expect("it is ours");
    until("the opens were tried again", || {
        node.metric("tiderace_driver_opens_repeated_total") > 0
    });
    fill_segments(&mut writer, key, 4);
    assert_eq!(node.metric("tiderace_shard_read_only"), 0);
    witness.lost_nothing();
    drop(idle);
    node.stop();
}
