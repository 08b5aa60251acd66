//! A stream of frames that the network cuts anywhere: the first two bytes of an input say how, the rest is the stream. The
//! same frames come out as from one piece, then the same refusal; what is held never exceeds what is not yet whole. P-32

use bytes::Bytes;
use compat::samples;
use tiderace_base::limits::RECEIVE_BUFFERS_HELD_MAX;
use tiderace_base::prng::Prng;
use tiderace_wire::assembly::{Assembler, Receiver};
use tiderace_wire::error::ErrorCode;

use crate::target::{Taken, Target};

/// See the module.
pub const TARGET: Target = Target {
    name: "stream",
    about: "frames cut anywhere by the network: the same frames as in one piece, then the same refusal",
    corpus,
    seal,
    run,
};

fn corpus() -> Vec<Vec<u8>> {
    let frames: Vec<Vec<u8>> = samples::frames()
        .into_iter()
        .map(|(_, bytes)| bytes)
        .collect();
    let streams = frames.chunks(4).enumerate().map(|(number, frames)| {
        let mut input = vec![number as u8, 0];
        input.extend(frames.concat());
        input
    });
    streams.collect()
}

fn seal(input: &mut [u8]) {
    if let Some((_, stream)) = input.split_at_mut_checked(2) {
        super::frame::seal(stream);
    }
}

type Out = (Vec<Vec<u8>>, Option<ErrorCode>);

fn take(pieces: impl Iterator<Item = Bytes>) -> Out {
    let mut assembler = Assembler::new(Receiver::Peer);
    assembler.open();
    let mut frames = Vec::new();
    for piece in pieces {
        assembler.push(piece);
        loop {
            match assembler.next_frame() {
                Ok(Some(frame)) => {
                    let mut bytes = frame.front.header.bytes().to_vec();
                    bytes.extend_from_slice(&frame.front.control);
                    bytes.extend_from_slice(&frame.batch.into_contiguous());
                    frames.push(bytes);
                }
                Ok(None) => break,
                Err(code) => return (frames, Some(code)),
            }
        }
        assert!(assembler.held_pieces() <= RECEIVE_BUFFERS_HELD_MAX);
    }
    (frames, None)
}

fn run(input: &[u8]) -> Taken {
    let Some((cuts, stream)) = input.split_at_checked(2) else {
        return Taken::No;
    };
    let mut prng = Prng::new(u64::from(u16::from_le_bytes([cuts[0], cuts[1]])));
    let longest = 1 << prng.below(10);
    let stream = Bytes::copy_from_slice(stream);
    let whole = take(std::iter::once(stream.clone()));
    let mut rest = stream;
    let cut = take(std::iter::from_fn(|| {
        let length = (prng.below(longest) as usize + 1).min(rest.len());
        (length > 0).then(|| rest.split_to(length))
    }));
    assert_eq!(whole, cut, "a cut changes nothing");
    Taken::from(!whole.0.is_empty())
}
