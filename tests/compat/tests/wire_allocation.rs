//! What the wire costs in memory: nothing for frames inside one received piece, and for hostile bytes never more than a
//! small multiple of what arrived.
#![allow(
    unsafe_code,
    reason = "a counting allocator is an unsafe trait; it only counts and forwards"
)]

use bytes::Bytes;
use compat::samples;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use tiderace_base::ids::MessageId;
use tiderace_base::limits::{BATCH_BYTES_MAX, KIB, LINK_HEADER_BYTES, RECEIVE_BUFFERS_HELD_MAX};
use tiderace_wire::assembly::{Assembler, Receiver};
use tiderace_wire::body;
use tiderace_wire::frame::{Control, Ping, Produced};
use tiderace_wire::link::{Flags, Kind, LinkHeader};

struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
    static BYTES: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        BYTES.with(|bytes| bytes.set(bytes.get() + layout.size()));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often and how much the call allocated.
fn cost<T>(call: impl FnOnce() -> T) -> (usize, usize, T) {
    let (count, bytes) = (COUNT.get(), BYTES.get());
    let result = call();
    (COUNT.get() - count, BYTES.get() - bytes, result)
}

#[test]
fn frames_inside_one_piece_cost_no_allocation() {
    let batch = samples::batch();
    let produce = samples::controls()
        .into_iter()
        .find(|control| control.kind() == Kind::Produce)
        .expect("every kind has a sample");
    let mut bytes = Vec::new();
    for id in 1..=1000 {
        bytes.extend_from_slice(&samples::encode(&produce, MessageId::new(id), &batch));
    }
    let mut assembler = Assembler::new(Receiver::Node);
    assembler.open();
    assembler.push(Bytes::from(bytes));
    // The first shared slice of a vector costs one; it is taken before counting.
    assert!(assembler.next_frame().expect("well formed").is_some());
    let (allocations, _, frames) = cost(|| {
        let mut frames = 0;
        while let Some(frame) = assembler.next_frame().expect("well formed") {
            assert!(matches!(
                Control::decode(frame.front.header.kind(), &frame.front.control),
                Ok(Control::Produce(_))
            ));
            frames += 1;
        }
        frames
    });
    assert_eq!((frames, allocations), (999, 0));
}

#[test]
fn acknowledgements_are_read_and_bodies_validated_without_allocation() {
    let (_, produced) = samples::frames()
        .into_iter()
        .find(|(control, _)| control.kind() == Kind::Produced)
        .expect("every kind has a sample");
    let body = body::encode(&samples::records());
    let (allocations, _, acks) = cost(|| {
        assert!(body::validate(&body, 3).is_ok());
        assert!(body::validate(&body[1..], 3).is_err());
        Produced::decode(&produced[LINK_HEADER_BYTES..]).map(|frame| frame.acks().count())
    });
    assert_eq!((allocations, acks), (0, Ok(2)));
}

// P-5: a count or a length that lies costs no more than the section that carries it.
#[test]
fn lying_counts_cost_no_more_than_what_arrived() {
    for (control, bytes) in samples::frames() {
        let kind = control.kind();
        let section =
            &bytes[LINK_HEADER_BYTES..bytes.len() - samples::batches_behind(&control).len()];
        for at in 0..section.len().saturating_sub(1) {
            let mut lie = section.to_vec();
            lie[at..at + 2].fill(0xff);
            let (_, allocated, _) = cost(|| Control::decode(kind, &lie).is_ok());
            assert!(
                allocated <= 16 * section.len() + KIB,
                "{kind:?}: {allocated} bytes for a section of {}",
                section.len()
            );
        }
    }
}

// P-32
#[test]
fn a_large_frame_that_dribbles_in_costs_what_arrived_of_it() {
    let link = LinkHeader::new(
        Kind::Produce,
        Flags::NONE,
        MessageId::new(1),
        &[0; 16],
        BATCH_BYTES_MAX,
    );
    let mut assembler = Assembler::new(Receiver::Node);
    assembler.open();
    assembler.push(Bytes::copy_from_slice(link.bytes()));
    assert_eq!(assembler.next_frame(), Ok(None));
    for arrived in 1..=10_000_usize {
        assembler.push(Bytes::from_static(&[0]));
        assert_eq!(assembler.next_frame(), Ok(None));
        assert!(assembler.held_pieces() <= RECEIVE_BUFFERS_HELD_MAX);
        assert!(
            assembler.held_bytes() <= (64 * KIB).max(8 * arrived),
            "{}",
            assembler.held_bytes()
        );
    }
}

#[test]
fn a_ping_is_written_without_more_than_its_buffer() {
    let mut out = bytes::BytesMut::with_capacity(4096);
    let (allocations, _, ()) = cost(|| {
        for id in 1..=100 {
            Ping { nonce: id }.encode(&mut out, MessageId::new(id));
        }
    });
    assert_eq!((allocations, out.len()), (0, 4000));
}
