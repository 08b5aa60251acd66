//! A disk that fills up under a node: appends are refused with the code of the protocol before anything is half written, all
//! else goes on, nothing acknowledged is lost, and the node recovers by itself once there is room, whether an operator made
//! it or the node was told to drop a stream. It also starts on a disk without any room, and is read-only there. Also a disk that does not answer: its writer is held to its credit.
//!
//! Needs a user who may mount a disk of its own; where that is not so the output says so.

use integration::batches;
use integration::disks::SmallDisk;
use integration::files;
use integration::node::{Node, Setup, get};
use integration::peer::{Peer, encoded, stream, subscription};
use integration::scratch::Scratch;
use std::fs;
use std::path::Path;
use std::time::Instant;
use tiderace_base::ids::PartitionKey;
use tiderace_base::limits::{LINK_WINDOW_BATCHES, MIB};
use tiderace_wire::error::ErrorCode;
use tiderace_wire::frame::{Control, Credit, CreditScope, StreamDelete, SubscribeFrom};

const KEPT: &str = "disk/kept";
const BULK: &str = "disk/bulk";
/// A batch's body, nearly: few of them fill a small disk, and many of them fit into a segment.
const VALUE_BYTES: usize = 200_000;

/// A disk of its own for a node with one shard, where it may be had.
fn disk(scratch: &Scratch, bytes: usize) -> Option<(SmallDisk, Setup)> {
    let disk = SmallDisk::new(scratch.path(), bytes as u64)?;
    let setup = Setup::at(scratch, disk.path().join("data"))
        .with("shards", 1)
        .with("segment", "4MiB");
    Some((disk, setup))
}

/// A producer over a bare socket, which counts what was acknowledged.
struct Writer {
    peer: Peer,
    key: PartitionKey,
    acked: u64,
}

impl Writer {
    fn new(setup: &Setup, path: &str, acked: u64) -> Self {
        let (peer, key, _) = Peer::at_leader(setup, path, 0);
        Self { peer, key, acked }
    }

    fn value(number: u64) -> Vec<u8> {
        let mut value = vec![u8::try_from(number % 251).expect("a byte"); VALUE_BYTES];
        value[..8].copy_from_slice(&number.to_le_bytes());
        value
    }

    /// Sends one batch. Whether it was acknowledged; refused is it only for want of room.
    #[track_caller]
    fn write(&mut self) -> bool {
        let value = Self::value(self.acked);
        self.peer
            .produce(&batches::batch(self.key, None, &[&value]));
        let ack = self.peer.ack();
        match ack.code {
            None => {
                assert_eq!(ack.base_offset.get(), self.acked, "offsets are dense");
                self.acked += 1;
                true
            }
            Some(code) => {
                assert_eq!(code, ErrorCode::ReadOnly);
                false
            }
        }
    }

    /// Writes until the disk is full.
    fn fill(&mut self) {
        while self.write() {}
    }

    /// Writes until it is taken again, which must come.
    fn wait_for_room(&mut self) {
        let begun = Instant::now();
        while !self.write() {
            assert!(begun.elapsed() < integration::HANG, "hangs: no room comes");
        }
    }

    /// Reads all that was acknowledged, and nothing else.
    #[track_caller]
    fn reads_everything(&self, setup: &Setup, path: &str) {
        let (mut reader, key, _) = Peer::at_leader(setup, path, 0);
        let all = subscription(1, key, SubscribeFrom::Earliest, 0);
        let subscribed = reader.subscribe(&all);
        assert_eq!(
            (subscribed.start.get(), subscribed.end.get()),
            (0, self.acked)
        );
        let mut read = 0;
        let mut spent = 0;
        while read < self.acked {
            let answer = reader.answer();
            spent += answer.batches.len() as u64;
            let more = Credit {
                scope: CreditScope::Subscription,
                id: 1,
                bytes_total: spent + all.credit_bytes,
                batches_total: read + all.credit_batches,
            };
            reader.ask(encoded(|out, id| more.encode(out, id)));
            let Control::Deliver(_) = answer.control() else {
                panic!("a delivery was due, not {:?}", answer.control());
            };
            let mut rest = &answer.batches[..];
            while !rest.is_empty() {
                let header = tiderace_wire::batch::BatchHeader::parse(rest).expect("a batch");
                let (batch, behind) = rest.split_at(header.batch_len());
                let body = &batch[batches::BATCH_BYTES..];
                header.check_placement().expect("a place");
                assert_eq!(header.base_offset().get(), read);
                let body = tiderace_wire::body::validate_batch(header, body).expect("a body");
                let value = body.records()[0].value();
                assert!(
                    value == Some(&Self::value(read)[..]),
                    "{read} is as it was sent"
                );
                read += 1;
                rest = behind;
            }
        }
    }
}

/// What a full disk does not stop: questions, readers, and their answers.
fn control_goes_on(setup: &Setup, writer: &Writer) {
    let (mut peer, _) = Peer::open(setup.server);
    peer.still_serves();
    assert_eq!(peer.metadata(KEPT).partitions.len(), 1);
    writer.reads_everything(setup, KEPT);
}

fn delete(setup: &Setup, path: &str) {
    let (mut peer, _) = Peer::open(setup.server);
    let asked = StreamDelete {
        stream: peer.metadata(path).stream.expect("it is there").id,
    };
    peer.ask(encoded(|out, id| asked.encode(out, id)));
    let answer = peer.answer();
    assert!(
        matches!(answer.control(), Control::StreamDeleted(_)),
        "a full disk can be told to drop data, but: {:?}",
        answer.control()
    );
}

#[test]
fn a_full_disk_refuses_appends_and_nothing_else_and_recovers() {
    let scratch = Scratch::new("disk-full");
    let Some((disk, setup)) = disk(&scratch, 160 * MIB) else {
        return;
    };
    let node = Node::start(&setup);
    let (mut peer, _) = Peer::open(setup.server);
    peer.create(&stream(KEPT, 1));
    peer.create(&stream(BULK, 1));
    let mut kept = Writer::new(&setup, KEPT, 0);
    let mut bulk = Writer::new(&setup, BULK, 0);
    for _ in 0..20 {
        assert!(kept.write() && bulk.write());
    }

    // Somebody else takes the room: writing ends before it hits the wall, and goes on when the room is given back.
    disk.leave("other", 40 * MIB as u64);
    kept.fill();
    println!(
        "full with {} MiB left to the file system",
        disk.available() >> 20
    );
    assert!(!bulk.write(), "it is the disk that is full, not a stream");
    control_goes_on(&setup, &kept);
    fs::remove_file(disk.path().join("other")).expect("removed");
    kept.wait_for_room();

    // The node's own events take it, until it is told to drop some.
    bulk.fill();
    println!(
        "{} events of the bulk and {} others",
        bulk.acked, kept.acked
    );
    assert!(!kept.write());
    control_goes_on(&setup, &kept);
    delete(&setup, BULK);
    kept.wait_for_room();
    control_goes_on(&setup, &kept);

    // Full again, and killed: everything that was acknowledged is there, and room is all that is missing.
    kept.fill();
    node.kill();
    let node = Node::start(&setup);
    let mut again = Writer::new(&setup, KEPT, kept.acked);
    again.reads_everything(&setup, KEPT);
    control_goes_on(&setup, &again);
    again.fill();
    again.reads_everything(&setup, KEPT);
    node.stop();
    println!(
        "{} MiB of events at the end",
        files::size_of(Path::new(&setup.data_dir)) >> 20
    );
}

/// Waits until the node says of itself whether it is read-only; it is ready and lives all the while.
fn wait_until_ready_says(setup: &Setup, text: &str) {
    let begun = Instant::now();
    loop {
        assert_eq!(get(setup.admin, "/livez"), (200, "ok\n".to_owned()));
        let (status, said) = get(setup.admin, "/readyz");
        if status == 200 && said.starts_with(text) {
            return;
        }
        assert!(begun.elapsed() < integration::HANG, "hangs: {said}");
        std::thread::yield_now();
    }
}

#[test]
fn a_start_on_a_full_disk_serves_what_it_has_and_goes_on_when_there_is_room() {
    let scratch = Scratch::new("full-start");
    let Some((disk, setup)) = disk(&scratch, 96 * MIB) else {
        return;
    };
    let mut node = Node::start(&setup);
    let (mut peer, _) = Peer::open(setup.server);
    peer.create(&stream(KEPT, 1));
    let mut kept = Writer::new(&setup, KEPT, 0);
    // Somebody else's, to be given back: enough for the reserves and more.
    disk.leave("other", disk.available() - 32 * MIB as u64);
    kept.fill();
    // Each start writes a little and so takes one spare for good, and there are two reserves.
    for round in 0..2 {
        // What the last recovery gave back is taken, too: not a block is free.
        disk.fill_up(&format!("other-{round}"));
        node.kill();
        node = Node::start(&setup);
        kept = Writer::new(&setup, KEPT, kept.acked);
        wait_until_ready_says(&setup, "ready, read-only");
        kept.fill();
        control_goes_on(&setup, &kept);
    }
    for round in 0..2 {
        fs::remove_file(disk.path().join(format!("other-{round}"))).expect("removed");
    }
    fs::remove_file(disk.path().join("other")).expect("removed");
    kept.wait_for_room();
    wait_until_ready_says(&setup, "ready\n");
    control_goes_on(&setup, &kept);
    node.kill();
    let node = Node::start(&setup);
    kept.reads_everything(&setup, KEPT);
    node.stop();
}

#[test]
fn a_disk_too_full_for_a_first_start_is_refused_and_left_as_it_was() {
    let scratch = Scratch::new("too-full");
    let Some((disk, setup)) = disk(&scratch, 64 * MIB) else {
        return;
    };
    disk.leave("other", MIB as u64);
    Node::refused(&setup).expect(
        67,
        &["segment-00000000 needs 4194304 bytes", "free that much"],
    );
    fs::remove_file(disk.path().join("other")).expect("removed");
    // What the start that failed has left does not stand in the way.
    let node = Node::start(&setup);
    let (mut peer, _) = Peer::open(setup.server);
    peer.create(&stream(KEPT, 1));
    let mut kept = Writer::new(&setup, KEPT, 0);
    assert!(kept.write());
    kept.reads_everything(&setup, KEPT);
    node.stop();
}

#[test]
fn whoever_sends_more_than_was_granted_is_cut_off() {
    let scratch = Scratch::new("overspend");
    let Some((mut disk, setup)) = disk(&scratch, 128 * MIB) else {
        return;
    };
    let node = Node::start(&setup);
    let (mut peer, _) = Peer::open(setup.server);
    peer.create(&stream(KEPT, 1));
    let (mut honest, key, _) = Peer::at_leader(&setup, KEPT, 0);
    let mut greedy = Peer::at_leader(&setup, KEPT, 0).0;
    let batch = batches::batch(key, None, &[b"x"]);
    honest.produce(&batch);
    assert_eq!(honest.ack().code, None);
    // While the disk does not answer, nothing is acknowledged, so nothing is granted again.
    if !disk.freeze() {
        return node.stop();
    }
    honest.produce(&batch);
    for _ in 0..LINK_WINDOW_BATCHES {
        greedy.produce(&batch);
    }
    greedy.still_serves();
    greedy.produce(&batch);
    greedy.ends_with(ErrorCode::NoCredit);
    honest.still_serves();
    disk.thaw();
    // What was within the credit was taken, and who kept to it is answered.
    assert_eq!(honest.ack().code, None);
    let (mut reader, ..) = Peer::at_leader(&setup, KEPT, 0);
    honest.produce(&batch);
    let ack = honest.ack();
    assert_eq!(
        (ack.code, ack.base_offset.get()),
        (None, 2 + u64::from(LINK_WINDOW_BATCHES))
    );
    let all = subscription(1, key, SubscribeFrom::Earliest, 0);
    assert_eq!(reader.subscribe(&all).end.get(), ack.base_offset.get() + 1);
    node.stop();
}
