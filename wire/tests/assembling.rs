//! Assembly: however the network cuts a stream of frames, the same frames come out, and what may not come is refused
//! before it is awaited.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use std::sync::Arc;
use tiderace_base::ids::MessageId;
use tiderace_base::limits::{FIRST_FRAME_BYTES_MAX, LINK_HEADER_BYTES, RECEIVE_BUFFERS_HELD_MAX};
use tiderace_base::position::{Epoch, Offset};
use tiderace_wire::assembly::{Assembler, Frame, Receiver};
use tiderace_wire::error::ErrorCode;
use tiderace_wire::frame::{Hello, Ping, Produce, StreamList};
use tiderace_wire::link::{Direction, Flags, Kind, LinkHeader};

/// A frame: its kind, its control section and its batches.
type Sent = (Kind, Vec<u8>, Vec<u8>);

/// Frames as a client sends them: with and without batches, small and large; control sections of 6 to 54 bytes.
fn stream(sizes: &[usize]) -> (Vec<u8>, Vec<Sent>) {
    let mut out = BytesMut::new();
    let mut expected = Vec::new();
    for (index, size) in sizes.iter().enumerate() {
        let id = MessageId::new(index as u64 + 1);
        let control_at = out.len() + LINK_HEADER_BYTES;
        match *size {
            0..80 => {
                let nonce = *size as u64;
                Ping { nonce }.encode(&mut out, id);
                expected.push((Kind::Ping, out[control_at..].to_vec(), Vec::new()));
            }
            80..129 => {
                let list = StreamList {
                    limit: 9,
                    after: "o".repeat(*size - 80).into(),
                };
                list.encode(&mut out, id);
                expected.push((Kind::StreamList, out[control_at..].to_vec(), Vec::new()));
            }
            _ => {
                let produce = Produce {
                    epoch: Epoch::new(index as u32),
                    produce_slot: 0,
                    since: Offset::ZERO,
                };
                produce.encode(&mut out, id, Flags::NONE, *size);
                let control = out[control_at..].to_vec();
                let batch: Vec<u8> = (0..*size).map(|at| (at * 7 + index) as u8).collect();
                out.extend_from_slice(&batch);
                expected.push((Kind::Produce, control, batch));
            }
        }
    }
    (out.to_vec(), expected)
}

fn received(frame: Frame) -> Sent {
    let batch = frame.batch.into_contiguous().to_vec();
    (
        frame.front.header.kind(),
        frame.front.control.to_vec(),
        batch,
    )
}

fn drain(assembler: &mut Assembler, out: &mut Vec<Frame>) -> Result<(), ErrorCode> {
    while let Some(frame) = assembler.next_frame()? {
        out.push(frame);
    }
    Ok(())
}

/// A receive buffer that counts while anybody holds it.
struct Buffer {
    bytes: Bytes,
    _held: Arc<()>,
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn open() -> Assembler {
    let mut assembler = Assembler::new(Receiver::Node);
    assembler.open();
    assembler
}

proptest! {
    // P-32
    #[test]
    fn any_cut_gives_the_same_frames(
        sizes in prop::collection::vec(prop_oneof![0_usize..129, 129_usize..600, 60_000..200_000_usize], 1..12),
        cuts in prop::collection::vec(prop_oneof![Just(1_usize), 1..64_usize, 1000..20_000_usize], 1..50),
    ) {
        let (bytes, expected) = stream(&sizes);
        let mut assembler = open();
        let mut frames = Vec::new();
        let mut rest = Bytes::from(bytes);
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            assembler.push(rest.split_to((*cut).min(rest.len())));
            prop_assert_eq!(drain(&mut assembler, &mut frames), Ok(()));
            prop_assert!(assembler.held_pieces() <= RECEIVE_BUFFERS_HELD_MAX);
        }
        prop_assert!(!assembler.is_midway());
        let frames: Vec<_> = frames.into_iter().enumerate().map(|(index, frame)| {
            assert_eq!(frame.front.header.message_id().get(), index as u64 + 1);
            received(frame)
        }).collect();
        prop_assert_eq!(frames, expected);
    }
}

proptest! {
    #[test]
    fn batches_that_are_seen_taken_or_skipped_are_the_same_and_hide_no_frame(
        sizes in prop::collection::vec(prop_oneof![0_usize..129, 129_usize..600, 60_000..200_000_usize], 1..12),
        cuts in prop::collection::vec(prop_oneof![1..64_usize, 200..20_000_usize, Just(1 << 20)], 1..50),
        ends in prop::collection::vec(0..4_u8, 1..12),
    ) {
        let (bytes, expected) = stream(&sizes);
        let mut assembler = open();
        let mut expected = expected.into_iter();
        let mut ends = ends.iter().cycle();
        let mut rest = Bytes::from(bytes);
        let buffers = Arc::new(());
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            assembler.push(Bytes::from_owner(Buffer {
                bytes: rest.split_to((*cut).min(rest.len())),
                _held: Arc::clone(&buffers),
            }));
            while let Some(front) = assembler.next_front().expect("well formed") {
                let (kind, control, batch) = expected.next().expect("no frame is made up");
                prop_assert_eq!((front.header.kind(), &front.control[..]), (kind, &control[..]));
                let seen = assembler.batch();
                prop_assert_eq!(seen.len(), batch.len());
                let slices: Vec<&[u8]> = seen.slices().collect();
                prop_assert!(slices.iter().all(|slice| !slice.is_empty()));
                prop_assert_eq!(slices.concat(), batch.clone());
                match ends.next() {
                    Some(0) => prop_assert_eq!(&assembler.take_batch().into_contiguous()[..], &batch[..]),
                    Some(1) => assembler.skip_batch(),
                    Some(2) => {
                        assembler.skip_batch();
                        prop_assert_eq!(assembler.batch().len(), 0);
                        prop_assert!(assembler.take_batch().is_empty());
                    }
                    // The next call skips it.
                    _ => {}
                }
            }
            // What is used up is let go of at once: an idle connection keeps no receive buffer.
            prop_assert_eq!(Arc::strong_count(&buffers) - 1, assembler.held_pieces());
            prop_assert!(assembler.held_pieces() <= RECEIVE_BUFFERS_HELD_MAX);
        }
        prop_assert!(expected.next().is_none() && !assembler.is_midway());
    }
}

#[test]
fn one_byte_at_a_time_gives_the_same_frames() {
    let (bytes, expected) = stream(&[0, 129, 5000, 80, 128, 3]);
    let mut assembler = open();
    let mut frames = Vec::new();
    for byte in bytes {
        assembler.push(Bytes::from(vec![byte]));
        drain(&mut assembler, &mut frames).expect("well formed");
    }
    assert_eq!(frames.len(), expected.len());
    for (frame, sent) in frames.into_iter().zip(expected) {
        assert_eq!(received(frame), sent);
    }
}

#[test]
fn a_control_section_of_any_length_comes_out_of_one_piece_whatever_lies_behind_it() {
    for behind in [&[][..], &[0], &[0, 129]] {
        for size in 80..129 {
            let sizes = [&[size], behind].concat();
            let (bytes, expected) = stream(&sizes);
            let mut assembler = open();
            assembler.push(bytes.into());
            let mut frames = Vec::new();
            drain(&mut assembler, &mut frames).expect("well formed");
            let frames: Vec<_> = frames.into_iter().map(received).collect();
            assert_eq!(frames, expected);
        }
    }
}

// P-30
#[test]
fn a_kind_of_the_wrong_direction_is_refused_at_its_header() {
    for (receiver, wrong) in [
        (Receiver::Node, [Direction::ToClient, Direction::Zone]),
        (Receiver::Client, [Direction::ToNode, Direction::Zone]),
    ] {
        for kind in Kind::ALL {
            let control = vec![0; kind.control_bounds().0];
            let header = LinkHeader::new(
                *kind,
                Flags::NONE,
                MessageId::new(1),
                &control,
                kind.batch_bounds().0,
            );
            let mut assembler = Assembler::new(receiver);
            assembler.open();
            assembler.push(Bytes::copy_from_slice(header.bytes()));
            let expected = if wrong.contains(&kind.direction()) {
                Err(ErrorCode::BadKind)
            } else {
                Ok(None)
            };
            assert_eq!(assembler.next_frame(), expected, "{kind:?}");
        }
    }
}

// P-31
#[test]
fn before_the_handshake_only_a_small_frame_is_awaited() {
    let refused = |kind: Kind, control_len: usize, batch_len: usize| {
        let control = vec![0; control_len];
        let header = LinkHeader::new(kind, Flags::NONE, MessageId::new(1), &control, batch_len);
        let mut assembler = Assembler::new(Receiver::Node);
        assembler.push(Bytes::copy_from_slice(header.bytes()));
        assembler.next_frame()
    };
    assert_eq!(
        refused(Kind::Produce, 16, FIRST_FRAME_BYTES_MAX),
        Err(ErrorCode::NotReady)
    );
    assert_eq!(refused(Kind::Hello, 90, 0), Ok(None));
    assert!(32 + Kind::Hello.control_bounds().1 <= FIRST_FRAME_BYTES_MAX);
}

#[test]
fn a_failed_assembler_says_so_for_ever() {
    let mut assembler = open();
    assembler.push(Bytes::from_static(
        b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n",
    ));
    assert_eq!(assembler.next_frame(), Err(ErrorCode::BadMagic));
    let (bytes, _) = stream(&[0]);
    assembler.push(Bytes::from(bytes));
    assert_eq!(assembler.next_frame(), Err(ErrorCode::BadMagic));
}

#[test]
fn a_control_section_across_pieces_is_joined() {
    let mut out = BytesMut::new();
    let list = StreamList {
        limit: 9,
        after: "shop/orders".into(),
    };
    list.encode(&mut out, MessageId::new(1));
    Hello {
        version_min: 1,
        version_max: 1,
        features: 0,
        client_id: 1,
        name: "x".into(),
    }
    .encode(&mut out, MessageId::new(2));
    let bytes = out.freeze();
    for cut in 1..bytes.len() {
        let mut assembler = open();
        let mut frames = Vec::new();
        for piece in [bytes.slice(..cut), bytes.slice(cut..)] {
            assembler.push(piece);
            drain(&mut assembler, &mut frames).expect("well formed");
        }
        assert_eq!(frames.len(), 2, "cut at {cut}");
        assert_eq!(
            StreamList::decode(&frames[0].front.control),
            Ok(list.clone())
        );
    }
}
