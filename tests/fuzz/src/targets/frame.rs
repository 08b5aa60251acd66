//! Whole frames in a stream of bytes that arrives in any pieces: the assembler, the header, the control section. The first
//! byte of an input says how long the pieces are; the rest is what a peer sent.

use crate::outcome::Outcome;
use crate::targets::{Sample, Target, control, reasons, seals};
use bytes::Bytes;
use compat::samples;
use tiderace_base::checksum::crc32c;
use tiderace_base::limits::{LINK_HEADER_BYTES, RECEIVE_BUFFERS_HELD_MAX};
use tiderace_wire::assembly::{Assembler, Frame, Receiver};
use tiderace_wire::error::ErrorCode;
use tiderace_wire::frame::Control;

/// See the module.
pub const TARGET: Target = Target {
    name: "frame",
    reads: "`Assembler`: a stream of frames from any peer, in pieces of any length",
    holds: "the same frames in one piece and in many; few pieces held; a section that is taken is written as the same \
            bytes; a frame with one bit changed before its batches is refused",
    run,
    samples,
    seal: Some(seal),
    words: &[],
    bytes_max: 4000,
    held_bytes_max: 256 * 1024,
    runs_in_tests: 40_000,
};

/// Runs one input.
#[must_use]
pub fn run(input: &[u8]) -> Outcome {
    let Some((cut, stream)) = input.split_first() else {
        return Outcome::Refused("Short");
    };
    let stream = Bytes::copy_from_slice(stream);
    let whole = frames(&stream, stream.len().max(1));
    // From one byte to 255, and in one piece.
    let piece = if *cut == 0 {
        stream.len().max(1)
    } else {
        usize::from(*cut)
    };
    let pieces = frames(&stream, piece);
    assert!(
        whole == pieces,
        "pieces of {piece} bytes change what arrives"
    );
    let (frames, ended) = whole;
    let mut outcome = match ended {
        Some(code) => Outcome::Refused(code.name()),
        None if frames.is_empty() => Outcome::Refused("Midway"),
        None => Outcome::Taken("Frames"),
    };
    for frame in &frames {
        let header = &frame.front.header;
        match Control::decode(header.kind(), &frame.front.control) {
            Ok(decoded) => control::holds(&decoded, &frame.front.control),
            Err(error) => outcome = Outcome::Refused(reasons::control(error)),
        }
    }
    if let Some(first) = frames.first() {
        a_changed_bit_is_refused(first);
    }
    outcome
}

/// What arrives of a stream in pieces of so many bytes, and with which code it ended.
fn frames(stream: &Bytes, piece: usize) -> (Vec<Frame>, Option<ErrorCode>) {
    let mut assembler = Assembler::new(Receiver::Peer);
    assembler.open();
    let mut frames = Vec::new();
    let mut at = 0;
    while at < stream.len() {
        let to = (at + piece).min(stream.len());
        assembler.push(stream.slice(at..to));
        at = to;
        loop {
            match assembler.next_frame() {
                Ok(Some(mut frame)) => {
                    let batch =
                        std::mem::replace(&mut frame.batch, tiderace_wire::assembly::Pieces::None);
                    frame.batch = one_piece(batch);
                    frames.push(frame);
                }
                Ok(None) => break,
                Err(code) => {
                    assert_eq!(assembler.next_frame(), Err(code), "a failure is for ever");
                    return (frames, Some(code));
                }
            }
        }
        assert!(assembler.held_pieces() <= RECEIVE_BUFFERS_HELD_MAX + 1);
    }
    (frames, None)
}

/// Batches compare by their bytes, wherever they were cut.
fn one_piece(batch: tiderace_wire::assembly::Pieces) -> tiderace_wire::assembly::Pieces {
    let bytes = batch.into_contiguous();
    if bytes.is_empty() {
        tiderace_wire::assembly::Pieces::None
    } else {
        tiderace_wire::assembly::Pieces::One(bytes)
    }
}

fn a_changed_bit_is_refused(frame: &Frame) {
    let front = [&frame.front.header.bytes()[..], &frame.front.control].concat();
    let bit = crc32c(&front) as usize % (front.len() * 8);
    let mut other = front;
    other[bit / 8] ^= 1 << (bit % 8);
    other.extend_from_slice(&frame.batch.clone().into_contiguous());
    let stream = Bytes::from(other);
    let (frames, ended) = frames(&stream, stream.len());
    assert!(frames.is_empty(), "bit {bit} is not covered");
    assert!(ended.is_some(), "bit {bit} is awaited");
}

/// The checksums of the first frame.
fn seal(bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        return;
    }
    let mut stream = bytes.split_off(1);
    // Frames that follow are left as they are.
    let control = seals::u32_at(&stream, 16) as usize;
    let batch = seals::u32_at(&stream, 20) as usize;
    let end = LINK_HEADER_BYTES
        .saturating_add(control)
        .saturating_add(batch);
    let rest = if end < stream.len() {
        stream.split_off(end)
    } else {
        Vec::new()
    };
    seals::frame(&mut stream);
    bytes.extend_from_slice(&stream);
    bytes.extend_from_slice(&rest);
}

fn samples() -> Vec<Sample> {
    let all = samples::frames();
    let mut inputs: Vec<Sample> = all
        .iter()
        .zip(0_u8..)
        .map(|((control, bytes), number)| {
            let input = [&[number.wrapping_mul(7)], bytes.as_slice()].concat();
            (control.kind().name().to_owned(), input)
        })
        .collect();
    let several: Vec<u8> = all
        .iter()
        .take(5)
        .flat_map(|(_, bytes)| bytes.clone())
        .collect();
    inputs.push(("several".to_owned(), [&[3], several.as_slice()].concat()));
    inputs
}
