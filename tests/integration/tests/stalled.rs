//! Peers that grant much and do not read, while more is written than the node may hold: they cost the node next to nothing,
//! nobody is disconnected, and once they read each of them gets every byte in order.

use integration::batches;
use integration::node::{Node, Setup};
use integration::peer::{Peer, stream, subscription};
use integration::scratch::Scratch;
use tiderace_base::limits::BATCH_HEADER_BYTES;
use tiderace_wire::batch::BatchHeader;
use tiderace_wire::frame::{Control, SubscribeFrom};

const MIB: u64 = 1 << 20;
const PEERS: usize = 100;
/// Batches written before anybody subscribes: every buffer has been used once by then.
const BEFORE: u64 = 60;
/// Batches written while nobody reads.
const MEANWHILE: u64 = 100;
/// Batches that each peer grants credit for. The sockets between it and the node take less.
const GRANTED: u64 = 12;
/// What the node may grow by for all of them together. Each alone could hold a megabyte.
const GROWTH_MIB: u64 = 32;

/// The body of the batch at an offset: sizes and bytes differ, so that none can stand for another.
fn body(offset: u64) -> Vec<u8> {
    let bytes = 600_000 + 1_000 * (offset % 97) as usize;
    let mut body = vec![offset as u8; bytes];
    for (index, at) in (0..bytes - 8).step_by(4096).enumerate() {
        batches::put_u64(&mut body, at, offset << 32 | index as u64);
    }
    body
}

/// Reads everything that was granted, and checks it.
fn read_all(peer: &mut Peer, first: u64, expected: &[Vec<u8>]) {
    let mut next = first;
    while next < first + GRANTED {
        let answer = peer.answer();
        let Control::Deliver(_) = answer.control() else {
            panic!("not expected: {:?}", answer.control());
        };
        let mut rest = answer.batches.as_slice();
        while !rest.is_empty() {
            let header = BatchHeader::parse(rest).expect("a batch");
            let (batch, behind) = rest.split_at(header.batch_len());
            assert_eq!(header.base_offset().get(), next, "in order, each once");
            assert!(
                batch[BATCH_HEADER_BYTES..] == expected[next as usize][BATCH_HEADER_BYTES..],
                "batch {next} is what was written"
            );
            next += 1;
            rest = behind;
        }
    }
    assert_eq!(next, first + GRANTED, "no more than was granted");
}

#[test]
fn readers_that_do_not_read_hold_little_and_lose_nothing() {
    let scratch = Scratch::new("stalled");
    let setup = Setup::new(&scratch);
    let node = Node::start(&setup);
    let mut peer = Peer::open(setup.server).0;
    peer.create(&stream("stalled/readers", 1));
    let (mut writer, key, _) = Peer::at_leader(&setup, "stalled/readers", 0);
    let written: Vec<Vec<u8>> = (0..BEFORE + MEANWHILE)
        .map(|offset| batches::batch(key, None, &[&body(offset)]))
        .collect();
    let (before, meanwhile) = written.split_at(BEFORE as usize);
    let mut write = |some: &[Vec<u8>]| {
        for batch in some {
            writer.produce(batch);
            assert_eq!(writer.ack().code, None);
        }
    };
    write(before);
    // One that reads everything: what a reader takes once is taken.
    let mut reader = Peer::at_leader(&setup, "stalled/readers", 0).0;
    let mut asked = subscription(1, key, SubscribeFrom::Earliest, 0);
    asked.credit_batches = GRANTED;
    reader.subscribe(&asked);
    read_all(&mut reader, 0, &written);
    let (_, resident) = node.resident_bytes();
    // Every other one is behind from the start, the rest falls behind.
    let mut peers: Vec<(Peer, u64)> = (0..PEERS)
        .map(|number| {
            let mut peer = Peer::at_leader(&setup, "stalled/readers", 0).0;
            let (from, first) = if number % 2 == 0 {
                (SubscribeFrom::Earliest, 0)
            } else {
                (SubscribeFrom::Latest, BEFORE)
            };
            let mut asked = subscription(1, key, from, 0);
            asked.credit_batches = GRANTED;
            peer.subscribe(&asked);
            (peer, first)
        })
        .collect();
    write(meanwhile);
    // Somebody who is behind and reads is served beside them.
    let mut reader = Peer::at_leader(&setup, "stalled/readers", 0).0;
    reader.subscribe(&asked);
    read_all(&mut reader, 0, &written);
    let (_, most) = node.resident_bytes();
    let grew = most.saturating_sub(resident) / MIB;
    assert!(grew < GROWTH_MIB, "{grew} MiB more for readers that stall");
    assert!(
        node.metric("tiderace_shard_sends_ended_early_total") > 0,
        "their sends were ended early"
    );
    for (peer, first) in &mut peers {
        read_all(peer, *first, &written);
        peer.still_serves();
    }
    let (_, most) = node.resident_bytes();
    let grew = most.saturating_sub(resident) / MIB;
    assert!(grew < GROWTH_MIB, "{grew} MiB more when they read on");
    assert_eq!(node.metric("tiderace_shard_frames_incomplete_total"), 0);
    node.stop();
}
