//! Hostile frames over a bare socket: garbage, lies about lengths and checksums, silence, pieces that never become whole. Each
//! meets the code that `docs/protocol.md` names and costs its sender the connection at most; a witness is served after every
//! one of them, and in the end all its events are there.

use integration::batches::{self, BATCH_BYTES, LINK_BYTES, PRODUCE_BYTES};
use integration::peer::{Peer, encoded, hello, metadata_of, ping, stream};
use integration::world::World;
use tiderace_base::ids::{MessageId, PartitionIndex, PartitionKey, StreamId};
use tiderace_base::prng::Prng;
use tiderace_wire::error::ErrorCode;
use tiderace_wire::frame::{Control, SlotFetch};
use tiderace_wire::link::Kind;

/// An id that a connection has not used.
const FRESH: MessageId = MessageId::new(9);

/// A ping under a fresh id, changed, with a header's checksum that holds.
fn lying(change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    changed(batches::frame(Kind::Ping, FRESH, &[0; 8], &[]), change)
}

fn changed(mut frame: Vec<u8>, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    change(&mut frame);
    batches::seal_link(&mut frame);
    frame
}

#[test]
fn what_is_no_frame_ends_the_connection_with_its_code() {
    let mut world = World::new("no-frame");
    let mut noise = vec![0; 5_000];
    Prng::new(1).fill(&mut noise);
    noise[0] = b'X';
    let mut damaged_header = ping(1);
    damaged_header[9] ^= 1;
    let cases: Vec<(&str, Vec<u8>, ErrorCode)> = vec![
        ("noise", noise, ErrorCode::BadMagic),
        ("zeros", vec![0; LINK_BYTES], ErrorCode::BadMagic),
        (
            "another protocol",
            b"GET / HTTP/1.1\r\nhost: tiderace\r\n\r\n".to_vec(),
            ErrorCode::BadMagic,
        ),
        (
            "another version",
            lying(|frame| frame[2] = 2),
            ErrorCode::BadVersion,
        ),
        ("a damaged header", damaged_header, ErrorCode::BadChecksum),
        (
            "a damaged section",
            lying(|frame| frame[LINK_BYTES] ^= 1),
            ErrorCode::BadChecksum,
        ),
        (
            "an unknown kind",
            lying(|frame| frame[3] = 250),
            ErrorCode::BadKind,
        ),
        (
            "a kind of nodes",
            batches::frame(Kind::Deliver, FRESH, &[0; 16], &[0; 200]),
            ErrorCode::BadKind,
        ),
        (
            "a kind of the zone",
            batches::frame(Kind::SlotFetch, FRESH, &[0; SlotFetch::BYTES], &[]),
            ErrorCode::BadKind,
        ),
        (
            "a second hello",
            changed(hello(), |frame| batches::put_u64(frame, 8, FRESH.get())),
            ErrorCode::BadKind,
        ),
        (
            "an unknown flag",
            lying(|frame| frame[4] = 1 << 7),
            ErrorCode::BadFlags,
        ),
        (
            "a reserved byte",
            lying(|frame| frame[6] = 1),
            ErrorCode::BadFlags,
        ),
        (
            "a section that is too short",
            lying(|frame| batches::put_u32(frame, 16, 7)),
            ErrorCode::BadLength,
        ),
        (
            "a section of 4 GiB",
            lying(|frame| batches::put_u32(frame, 16, u32::MAX)),
            ErrorCode::BadLength,
        ),
        (
            "batches behind a ping",
            lying(|frame| batches::put_u32(frame, 20, 1)),
            ErrorCode::BadLength,
        ),
        (
            "a batch of 4 GiB",
            changed(
                batches::frame(Kind::Produce, FRESH, &[0; 16], &[0; 200]),
                |frame| batches::put_u32(frame, 20, u32::MAX),
            ),
            ErrorCode::BadLength,
        ),
        (
            "a produce without a batch",
            batches::frame(Kind::Produce, FRESH, &[0; 16], &[]),
            ErrorCode::BadLength,
        ),
        (
            "an id again",
            lying(|frame| batches::put_u64(frame, 8, 1)),
            ErrorCode::MessageIdOrder,
        ),
        (
            "the id zero",
            lying(|frame| batches::put_u64(frame, 8, 0)),
            ErrorCode::MessageIdOrder,
        ),
    ];
    for (name, bytes, code) in cases {
        println!("{name}: {code:?}");
        let mut peer = world.peer();
        // The node may hang up in the middle of it.
        drop(peer.try_send(&bytes));
        peer.ends_with(code);
        world.witness.is_served();
    }
    world.holds();
}

#[test]
fn before_the_handshake_only_a_small_hello_is_heard() {
    let mut world = World::new("handshake");
    let key = PartitionKey {
        stream: StreamId::new(1),
        partition: PartitionIndex::new(0),
    };
    let large = batches::batch(key, None, &[&[7; 5_000]]);
    let server = world.setup.server;
    let cases: Vec<(&str, Vec<u8>, ErrorCode)> = vec![
        ("a ping first", ping(5), ErrorCode::NotReady),
        (
            "a request first",
            encoded(|out, id| metadata_of("a").encode(out, id)),
            ErrorCode::NotReady,
        ),
        (
            "a large frame first",
            batches::produce(FRESH, 0, &large)[..LINK_BYTES].to_vec(),
            ErrorCode::NotReady,
        ),
        (
            "versions of the future",
            {
                let mut hello = hello();
                hello[LINK_BYTES] = 2;
                hello[LINK_BYTES + 1] = 9;
                batches::seal_control(&mut hello);
                hello
            },
            ErrorCode::BadVersion,
        ),
        (
            "a name that is no text",
            {
                let mut hello = hello();
                *hello.last_mut().expect("a name") = 0xff;
                batches::seal_control(&mut hello);
                hello
            },
            ErrorCode::BadControl,
        ),
        (
            "a name longer than its section",
            {
                let mut hello = hello();
                hello[LINK_BYTES + 24] = 60;
                batches::seal_control(&mut hello);
                hello
            },
            ErrorCode::BadControl,
        ),
    ];
    // Nothing at all, and half a hello: both are waited for together, because both take as long as a handshake may.
    let mut silent = Peer::connect(server);
    let mut half = Peer::connect(server);
    half.send(&hello()[..LINK_BYTES + 5]);
    for (name, bytes, code) in cases {
        println!("{name}: {code:?}");
        let mut peer = Peer::connect(server);
        drop(peer.try_send(&bytes));
        peer.ends_with(code);
        world.witness.is_served();
    }
    silent.ends_with(ErrorCode::HandshakeTimeout);
    half.ends_with(ErrorCode::HandshakeTimeout);
    world.holds();
}

#[test]
fn a_frame_that_never_ends_leaves_nothing_behind() {
    let mut world = World::new("truncated");
    let mut creator = world.peer();
    creator.create(&stream("hostile/truncated", 1));
    let (mut whole, key, _) = Peer::at_leader(&world.setup, "hostile/truncated", 0);
    let batch = batches::batch(key, None, &[&[1; 3_000], b"2"]);
    let frame = batches::produce(FRESH, 0, &batch);
    let cuts = [
        1,
        LINK_BYTES - 1,
        LINK_BYTES,
        LINK_BYTES + 3,
        LINK_BYTES + PRODUCE_BYTES,
        LINK_BYTES + PRODUCE_BYTES + 100,
        LINK_BYTES + PRODUCE_BYTES + BATCH_BYTES,
        frame.len() - 1,
    ];
    for cut in cuts {
        let mut peer = world.peer();
        peer.send(&frame[..cut]);
        peer.hang_up();
        assert!(
            peer.next_frame().is_none(),
            "cut at {cut}: there is nothing to answer"
        );
        world.witness.is_served();
    }
    // What was cut was not appended: the first whole one is the first.
    whole.produce(&batch);
    let ack = whole.ack();
    assert_eq!((ack.code, ack.base_offset.get()), (None, 0));
    world.holds();
}

#[test]
fn a_frame_that_dribbles_is_taken_when_it_is_whole() {
    const DRIBBLERS: usize = 100;
    let mut world = World::new("dribble");
    world.peer().create(&stream("hostile/dribble", 1));
    let (_, key, _) = Peer::at_leader(&world.setup, "hostile/dribble", 0);
    let batch = batches::batch(key, None, &[&[1; 700], b"2"]);
    // Many who have begun a large frame and go on a byte at a time, while everybody else is served.
    let large = batches::produce(FRESH, 0, &batches::batch(key, None, &[&vec![3; 900_000]]));
    let mut others: Vec<Peer> = (0..DRIBBLERS).map(|_| world.peer()).collect();
    for other in &mut others {
        other.send(&large[..100_000]);
    }
    let mut peer = Peer::connect(world.setup.server);
    peer.dribble(&hello());
    peer.id();
    assert_eq!(peer.next_frame().expect("a welcome").kind(), Kind::Welcome);
    let id = peer.id();
    let frame = batches::produce(id, 0, &batch);
    for (at, byte) in frame.iter().enumerate() {
        peer.dribble(core::slice::from_ref(byte));
        let other = &mut others[at % DRIBBLERS];
        let sent = 100_000 + at / DRIBBLERS;
        other.send(&large[sent..=sent]);
    }
    let ack = peer.ack();
    assert_eq!(
        (ack.request, ack.code, ack.base_offset.get()),
        (id, None, 0)
    );
    world.witness.is_served();
    drop(others);
    world.holds();
}

#[test]
fn frames_with_random_damage_are_answered_or_cut_off_and_never_half_taken() {
    const FRAMES: u64 = 3_000;
    const RECORDS: u64 = 3;
    let mut world = World::new("damaged-frames");
    world.peer().create(&stream("hostile/damaged", 1));
    let (mut honest, key, _) = Peer::at_leader(&world.setup, "hostile/damaged", 0);
    let good = batches::batch(key, None, &[b"one", &[2; 300], b"three"]);
    let mut prng = Prng::new(4);
    let mut next_offset = 0;
    let mut acknowledged = 0;
    for number in 0..FRAMES {
        let mut frame = batches::produce(FRESH, 0, &good);
        let batch_at = LINK_BYTES + PRODUCE_BYTES;
        let bits = prng.range(1, 4);
        for _ in 0..bits {
            let at = usize::try_from(prng.below(frame.len() as u64)).expect("small");
            // The stream stays: the witness's is a flipped bit away.
            if !(batch_at + 8..batch_at + 16).contains(&at) {
                frame[at] ^= 1 << prng.below(8);
            }
        }
        // Half of them lie with checksums that hold: on the whole, or on the batch inside.
        if prng.chance(1, 2) {
            if prng.chance(1, 2) {
                batches::seal_batch(&mut frame[batch_at..]);
            }
            if frame[16..20] == (PRODUCE_BYTES as u32).to_le_bytes() {
                batches::seal_control(&mut frame);
            }
        }
        let mut peer = world.peer();
        drop(peer.try_send(&frame));
        peer.hang_up();
        while let Some(answer) = peer.next_frame() {
            match answer.control() {
                Control::Produced(produced) => {
                    for ack in produced.acks().filter(|ack| ack.code.is_none()) {
                        // Who hung up may not be answered for what was taken: others may have gone before. Whole ones.
                        let missed = ack.base_offset.get().checked_sub(next_offset);
                        let missed = missed.expect("offsets only grow");
                        assert_eq!(missed % RECORDS, 0, "frame {number}");
                        next_offset += missed + RECORDS;
                        acknowledged += 1;
                    }
                }
                Control::Error(_) | Control::Credit(_) => {}
                other => panic!("frame {number}: {other:?}"),
            }
        }
        if number % 100 == 0 {
            world.witness.is_served();
        }
    }
    // What was not acknowledged may have been taken when its sender hung up; what is there is whole.
    honest.produce(&good);
    let ack = honest.ack();
    assert_eq!(ack.code, None);
    assert!(ack.base_offset.get() >= next_offset);
    assert_eq!(ack.base_offset.get() % RECORDS, 0);
    // Those whose damage is in no part that means anything, or whose checksums were made to hold.
    assert!(ack.base_offset.get() > 0, "nothing was taken at all");
    println!(
        "{} records were taken of {FRAMES} damaged frames, and {acknowledged} frames acknowledged",
        ack.base_offset
    );
    world.holds();
}
