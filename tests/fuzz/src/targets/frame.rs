//! Bytes that arrive on a link, as one piece. A frame that is taken has the checksums that its header says, was allowed to
//! arrive, and is written again as the bytes that came; what is refused has a code that ends the connection. P-1 to P-4

use bytes::Bytes;
use compat::samples;
use tiderace_base::checksum::crc32c;
use tiderace_base::limits::LINK_HEADER_BYTES;
use tiderace_wire::assembly::{Assembler, Receiver};
use tiderace_wire::frame::Control;

use crate::target::{Taken, Target};

/// See the module.
pub const TARGET: Target = Target {
    name: "frame",
    about: "a frame from a link: what is taken is written again as the same bytes",
    corpus,
    seal,
    run,
};

fn corpus() -> Vec<Vec<u8>> {
    samples::frames()
        .into_iter()
        .map(|(_, bytes)| bytes)
        .collect()
}

/// Both checksums of the first frame.
pub(super) fn seal(input: &mut [u8]) {
    let Some((header, rest)) = input.split_at_mut_checked(LINK_HEADER_BYTES) else {
        return;
    };
    let control = u32::from_le_bytes([header[16], header[17], header[18], header[19]]) as usize;
    if let Some(control) = rest.get(..control) {
        header[24..28].copy_from_slice(&crc32c(control).to_le_bytes());
    }
    let crc = crc32c(&header[..28]);
    header[28..32].copy_from_slice(&crc.to_le_bytes());
}

fn run(input: &[u8]) -> Taken {
    let mut assembler = Assembler::new(Receiver::Peer);
    assembler.open();
    assembler.push(Bytes::copy_from_slice(input));
    let Ok(Some(frame)) = assembler.next_frame() else {
        return Taken::No;
    };
    let header = &frame.front.header;
    assert!(header.frame_len() <= input.len(), "it was whole");
    let control = &frame.front.control;
    assert!(header.check_control(control).is_ok());
    let mut again = header.bytes().to_vec();
    again.extend_from_slice(control);
    again.extend_from_slice(&frame.batch.into_contiguous());
    assert_eq!(again, input[..header.frame_len()], "nothing is made up");
    let Ok(decoded) = Control::decode(header.kind(), control) else {
        return Taken::No;
    };
    super::section::is_written_again(&decoded, control);
    Taken::Yes
}
