//! The link header: the first bytes of every frame, which decide how much is awaited and held.

use crate::outcome::Outcome;
use crate::targets::{Sample, Target, seals};
use compat::samples;
use tiderace_base::checksum::crc32c;
use tiderace_base::limits::LINK_HEADER_BYTES;
use tiderace_wire::link::LinkHeader;

/// See the module.
pub const TARGET: Target = Target {
    name: "link-header",
    reads: "`LinkHeader::parse`: 32 bytes from any peer",
    holds: "what is taken means its very bytes and keeps the bounds of its kind; with any one bit changed it is refused",
    run,
    samples,
    seal: Some(seals::link_header),
    words: &[],
    bytes_max: LINK_HEADER_BYTES,
    held_bytes_max: 4096,
    runs_in_tests: 100_000,
};

/// Runs one input: a header, and nothing when it is shorter.
#[must_use]
pub fn run(input: &[u8]) -> Outcome {
    let Some(bytes) = input.first_chunk::<LINK_HEADER_BYTES>() else {
        return Outcome::Refused("Short");
    };
    let header = match LinkHeader::parse(bytes) {
        Ok(header) => header,
        Err(code) => return Outcome::Refused(code.name()),
    };
    assert_eq!(header.bytes(), bytes, "nothing is made up");
    let kind = header.kind();
    let (control_min, control_max) = kind.control_bounds();
    let (batch_min, batch_max) = kind.batch_bounds();
    assert!((control_min..=control_max).contains(&header.control_len()));
    assert!((batch_min..=batch_max).contains(&header.batch_len()));
    assert_eq!(
        header.frame_len(),
        LINK_HEADER_BYTES + header.control_len() + header.batch_len()
    );
    let bit = crc32c(bytes) as usize % (LINK_HEADER_BYTES * 8);
    let mut other = *bytes;
    other[bit / 8] ^= 1 << (bit % 8);
    assert!(
        LinkHeader::parse(&other).is_err(),
        "bit {bit} is not covered"
    );
    Outcome::Taken(kind.name())
}

fn samples() -> Vec<Sample> {
    samples::frames()
        .into_iter()
        .map(|(control, bytes)| {
            (
                control.kind().name().to_owned(),
                bytes[..LINK_HEADER_BYTES].to_vec(),
            )
        })
        .collect()
}
