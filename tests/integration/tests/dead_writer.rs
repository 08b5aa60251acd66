//! A node that was killed while its disk held up a write: the next one must not touch the journal before that write has
//! landed, or it would land on what the next one has acknowledged. J-17
//!
//! Needs a user who may mount and freeze a disk of its own; where that is not so the output says so.

use integration::batches;
use integration::disks::StalledDisk;
use integration::node::{Node, Setup};
use integration::peer::{Peer, stream, subscription};
use integration::scratch::Scratch;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::path::Path;
use std::time::Instant;
use tiderace_base::limits::MIB;
use tiderace_wire::frame::SubscribeFrom;

const PATH: &str = "dead/writer";

/// Whether somebody holds the lock of this folder.
fn is_locked(folder: &Path) -> bool {
    let lock = File::open(folder.join("lock")).expect("a node was here");
    flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err()
}

fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < integration::HANG, "hangs: {what}");
        std::thread::yield_now();
    }
}

/// Segment files that are as long as they will be.
fn whole_segments(folder: &Path) -> usize {
    let files = fs::read_dir(folder).expect("a node was here");
    let segments = files.flatten().filter(|file| {
        let is_segment = file.file_name().to_string_lossy().starts_with("segment-");
        is_segment && file.metadata().is_ok_and(|it| it.len() == 4 * MIB as u64)
    });
    segments.count()
}

/// Appends one record. Its offset.
fn append(setup: &Setup, value: &[u8]) -> u64 {
    let (mut peer, key, _) = Peer::at_leader(setup, PATH, 0);
    peer.produce(&batches::batch(key, None, &[value]));
    let ack = peer.ack();
    assert_eq!(ack.code, None);
    ack.base_offset.get()
}

/// Where the partition ends.
fn end(setup: &Setup) -> u64 {
    let (mut peer, key, _) = Peer::at_leader(setup, PATH, 0);
    let all = subscription(1, key, SubscribeFrom::Earliest, 0);
    peer.subscribe(&all).end.get()
}

#[test]
fn nothing_is_written_before_the_last_write_of_a_killed_node_has_landed() {
    let scratch = Scratch::new("dead-writer");
    let Some(mut disk) = StalledDisk::new(scratch.path(), 128 * MIB as u64) else {
        return;
    };
    let setup = Setup::at(&scratch, disk.path().join("data"))
        .with("shards", 1)
        .with("segment", "4MiB");
    let shard = setup.data_dir.join("shard-0000");
    let node = Node::start(&setup);
    let (mut peer, _) = Peer::open(setup.server);
    peer.create(&stream(PATH, 1));
    assert_eq!(append(&setup, b"before"), 0);
    let (mut peer, key, _) = Peer::at_leader(&setup, PATH, 0);
    // Every spare is there and nothing else is going on, control's journal included: what comes then is a pure overwrite,
    // which no thread of the process waits for.
    wait_for("the journals are quiet", || {
        let completions = node.metric("tiderace_driver_completions_total");
        disk.sync();
        [&shard, &setup.data_dir.join("control")]
            .iter()
            .all(|folder| whole_segments(folder) == 4)
            && node.metric("tiderace_driver_completions_total") == completions
    });
    if !disk.stall() {
        return node.stop();
    }
    peer.produce(&batches::batch(key, None, &[b"on its way"]));
    wait_for("the write is on its way", || disk.writes_inflight() > 0);
    node.kill();
    assert!(!is_locked(&setup.data_dir), "the process is gone");
    assert!(is_locked(&shard), "its write is not");

    // A start that is not answered in time says why it ends.
    Node::refused(&setup).expect(
        77,
        &["waits for them, at most 30s", "still hang", "what to do"],
    );
    assert!(is_locked(&shard), "its write still is not");

    let node = Node::spawn(&setup);
    assert!(node.says("waits for them"), "{}", node.log());
    disk.go_on();
    assert!(node.runs(), "{}", node.log());
    // The write landed before the next node looked, so it is part of the log.
    assert_eq!(end(&setup), 2);
    assert_eq!(append(&setup, b"after"), 2);
    assert_eq!(end(&setup), 3);
    node.kill();
    let node = Node::start(&setup);
    assert_eq!(end(&setup), 3);
    node.stop();
}
