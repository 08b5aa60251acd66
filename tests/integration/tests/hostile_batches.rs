//! Hostile batches: lies inside a batch that its frame's checksums cover, forged places, and producers whose numbers do not
//! follow. Each is refused by an acknowledgement of its own with the code that `docs/protocol.md` names; its connection goes
//! on, nothing of it is appended, and a witness is served.

use integration::batches::{self, BATCH_BYTES, Origin};
use integration::peer::{Peer, stream};
use integration::world::World;
use tiderace_base::ids::{PartitionIndex, PartitionKey, StreamId};
use tiderace_wire::error::ErrorCode;

#[test]
fn a_batch_that_lies_is_refused_and_its_connection_goes_on() {
    let mut world = World::new("lying-batch");
    world.peer().create(&stream("hostile/lies", 2));
    let (mut peer, key, _) = Peer::at_leader(&world.setup, "hostile/lies", 0);
    let good = || batches::batch(key, None, &[b"one", b"two"]);
    let origin = Origin {
        id: 99,
        epoch: 1,
        seq: 0,
    };
    let sealed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut batch = good();
        change(&mut batch);
        batches::seal_batch(&mut batch);
        batch
    };
    // The root of a body is its last 8 bytes: pointer and count of the rows.
    let root = |batch: &[u8]| batch.len() - 8;
    let row = |batch: &[u8]| root(batch) - 2 * 29;
    let cases: Vec<(&str, Vec<u8>, ErrorCode)> = vec![
        ("magic", sealed(&|it| it[0] = b'X'), ErrorCode::BatchHeader),
        ("version", sealed(&|it| it[4] = 9), ErrorCode::BatchHeader),
        (
            "an unknown attribute",
            sealed(&|it| it[7] = 0x80),
            ErrorCode::BatchHeader,
        ),
        (
            "an unknown codec",
            sealed(&|it| it[6] = 0x0f),
            ErrorCode::BatchHeader,
        ),
        (
            "repeats of nobody",
            sealed(&|it| it[6] = 1 << 4),
            ErrorCode::BatchHeader,
        ),
        (
            "a producer without repeats",
            sealed(&|it| it[32] = 1),
            ErrorCode::BatchHeader,
        ),
        (
            "no records",
            sealed(&|it| batches::put_u32(it, 20, 0)),
            ErrorCode::BatchHeader,
        ),
        (
            "more records than a batch may have",
            sealed(&|it| batches::put_u32(it, 20, 32_769)),
            ErrorCode::BatchHeader,
        ),
        (
            "a producer's checksum",
            {
                let mut batch = good();
                batch[64] ^= 1;
                batch
            },
            ErrorCode::BatchChecksum,
        ),
        (
            "a body's checksum",
            {
                let mut batch = good();
                batch[BATCH_BYTES] ^= 1;
                batch
            },
            ErrorCode::BatchChecksum,
        ),
        (
            "a body longer than it says",
            {
                let mut batch = good();
                let bytes = batches_len(&batch) - 1;
                batches::put_u32(&mut batch, 24, bytes);
                batches::seal_producer(&mut batch);
                batch
            },
            ErrorCode::BatchHeader,
        ),
        (
            "a body shorter than it says",
            {
                let mut batch = good();
                let bytes = batches_len(&batch) + 1;
                batches::put_u32(&mut batch, 24, bytes);
                batches::seal_producer(&mut batch);
                batch
            },
            ErrorCode::BatchHeader,
        ),
        (
            "fewer records than the header counts",
            sealed(&|it| batches::put_u32(it, 20, 3)),
            ErrorCode::BatchBody,
        ),
        (
            "more records than the header counts",
            sealed(&|it| batches::put_u32(it, 20, 1)),
            ErrorCode::BatchBody,
        ),
        (
            "a count of 4 billion rows",
            sealed(&|it| {
                let at = root(it) + 4;
                batches::put_u32(it, at, u32::MAX);
            }),
            ErrorCode::BatchBody,
        ),
        (
            "rows before the body",
            sealed(&|it| {
                let at = root(it);
                batches::put_u32(it, at, i32::MIN.cast_unsigned());
            }),
            ErrorCode::BatchBody,
        ),
        (
            "rows behind the body",
            sealed(&|it| {
                let at = root(it);
                batches::put_u32(it, at, 1 << 20);
            }),
            ErrorCode::BatchBody,
        ),
        (
            "rows that are the root itself",
            sealed(&|it| {
                let at = root(it);
                batches::put_u32(it, at, 0);
            }),
            ErrorCode::BatchBody,
        ),
        (
            "a value that leaves the body",
            sealed(&|it| {
                let at = row(it) + 12;
                batches::put_u32(it, at, 1 << 30);
            }),
            ErrorCode::BatchBody,
        ),
        (
            "values that overlap",
            sealed(&|it| {
                let at = row(it) + 29 + 8;
                batches::put_u32(
                    it,
                    at,
                    (-(i64::from(29_u32) + 8 + 6) as i32).cast_unsigned(),
                );
            }),
            ErrorCode::BatchBody,
        ),
        (
            "a record's unknown flag",
            sealed(&|it| {
                let at = row(it) + 28;
                it[at] = 0x80;
            }),
            ErrorCode::BatchBody,
        ),
        (
            "a tombstone with a value",
            sealed(&|it| {
                let at = row(it) + 28;
                it[at] = 2;
            }),
            ErrorCode::BatchBody,
        ),
        (
            "a time outside the batch's",
            sealed(&|it| {
                let at = row(it) + 24;
                batches::put_u32(it, at, 1);
            }),
            ErrorCode::BatchBody,
        ),
        (
            "a body of noise",
            batches::batch_of(key, None, 2, &[0xa5; 300]),
            ErrorCode::BatchBody,
        ),
        (
            "a body of a few bytes",
            batches::batch_of(key, None, 1, &[0; 3]),
            ErrorCode::BatchBody,
        ),
        (
            "a forged offset",
            sealed(&|it| batches::put_u64(it, 80, 1_000_000)),
            ErrorCode::BatchHeader,
        ),
        (
            "a forged epoch",
            sealed(&|it| batches::put_u32(it, 96, 7)),
            ErrorCode::BatchHeader,
        ),
        (
            "a forged kind of entry",
            sealed(&|it| it[102] = 2),
            ErrorCode::BatchHeader,
        ),
        (
            "a forged placement checksum",
            sealed(&|it| batches::put_u32(it, 124, 1)),
            ErrorCode::BatchHeader,
        ),
        (
            "an unknown stream",
            batches::batch(
                PartitionKey {
                    stream: StreamId::new(u64::MAX),
                    ..key
                },
                None,
                &[b"x"],
            ),
            ErrorCode::UnknownStream,
        ),
        (
            "the stream zero",
            batches::batch(
                PartitionKey {
                    stream: StreamId::new(0),
                    ..key
                },
                None,
                &[b"x"],
            ),
            ErrorCode::UnknownStream,
        ),
        (
            "an unknown partition",
            batches::batch(
                PartitionKey {
                    partition: PartitionIndex::new(2),
                    ..key
                },
                None,
                &[b"x"],
            ),
            ErrorCode::UnknownPartition,
        ),
        (
            "a producer that nobody knows and that does not begin at 0",
            batches::batch(key, Some(Origin { seq: 5, ..origin }), &[b"x"]),
            ErrorCode::ProducerUnknown,
        ),
    ];
    for (name, batch, code) in cases {
        println!("{name}: {code:?}");
        let id = peer.produce(&batch);
        let ack = peer.ack();
        assert_eq!((ack.request, ack.code), (id, Some(code)), "{name}");
        peer.still_serves();
        world.witness.is_served();
    }
    // Not one of them was appended, in part or whole.
    peer.produce(&good());
    let ack = peer.ack();
    assert_eq!((ack.code, ack.base_offset.get()), (None, 0));
    world.holds();
}

fn batches_len(batch: &[u8]) -> u32 {
    u32::try_from(batch.len() - BATCH_BYTES).expect("small")
}

#[test]
fn repeats_gaps_and_fences_of_a_producer_are_told_apart() {
    let mut world = World::new("sequences");
    world.peer().create(&stream("hostile/sequences", 1));
    let (mut peer, key, epoch) = Peer::at_leader(&world.setup, "hostile/sequences", 0);
    let numbered = |epoch: u32, seq: u64, value: &[u8]| {
        batches::batch(key, Some(Origin { id: 5, epoch, seq }), &[value])
    };
    let mut refused = |peer: &mut Peer, batch: &[u8], code: ErrorCode, detail: u64| {
        peer.produce(batch);
        let ack = peer.ack();
        assert_eq!((ack.code, ack.base_offset.get()), (Some(code), detail));
        world.witness.is_served();
    };
    for seq in 0..3 {
        peer.produce(&numbered(1, seq, b"first"));
        let ack = peer.ack();
        assert_eq!((ack.code, ack.base_offset.get()), (None, seq));
        assert!(!ack.flags.is_duplicate());
    }
    // Repeated, on this connection and on another: the first answer again.
    let (mut other, ..) = Peer::at_leader(&world.setup, "hostile/sequences", 0);
    for peer in [&mut peer, &mut other] {
        for seq in 0..3 {
            peer.produce(&numbered(1, seq, b"first"));
            let ack = peer.ack();
            assert_eq!((ack.code, ack.base_offset.get()), (None, seq));
            assert!(ack.flags.is_duplicate(), "it is a repeat and says so");
        }
    }
    // P-18: another batch under a number that is taken is no repeat.
    for seq in 0..3 {
        refused(
            &mut other,
            &numbered(1, seq, b"other"),
            ErrorCode::SequenceReused,
            0,
        );
    }
    refused(
        &mut peer,
        &numbered(1, 4, b"gap"),
        ErrorCode::SequenceGap,
        3,
    );
    refused(
        &mut peer,
        &numbered(1, u64::MAX, b"gap"),
        ErrorCode::SequenceGap,
        3,
    );
    refused(
        &mut peer,
        &numbered(2, 7, b"gap"),
        ErrorCode::SequenceGap,
        0,
    );

    // So old that its answer is forgotten: further back than a producer's window.
    for seq in 3..140 {
        peer.produce(&numbered(1, seq, b"more"));
        assert_eq!(peer.ack().code, None);
    }
    refused(
        &mut peer,
        &numbered(1, 0, b"first"),
        ErrorCode::DuplicateForgotten,
        0,
    );

    // A higher epoch fences the lower one.
    peer.produce(&numbered(2, 0, b"second"));
    assert_eq!(peer.ack().base_offset.get(), 140);
    refused(
        &mut other,
        &numbered(1, 140, b"late"),
        ErrorCode::ProducerFenced,
        2,
    );

    // An epoch of the slot that is not the current one.
    let current = epoch.get();
    for wrong in [current + 1, current - 1, u32::MAX] {
        if wrong == 0 {
            continue;
        }
        let id = peer.id();
        peer.send(&batches::produce(
            id,
            wrong,
            &numbered(2, 1, b"wrong epoch"),
        ));
        let ack = peer.ack();
        assert_eq!(
            (ack.code, ack.base_offset.get()),
            (Some(ErrorCode::FencedEpoch), u64::from(current))
        );
    }
    let id = peer.id();
    peer.send(&batches::produce(
        id,
        current,
        &numbered(2, 1, b"right epoch"),
    ));
    assert_eq!(peer.ack().base_offset.get(), 141);
    world.holds();
}
