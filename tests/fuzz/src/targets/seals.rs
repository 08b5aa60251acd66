//! Mends what a change broke in bytes of the wire and of the disk: lengths that repeat what is there, and checksums, from the
//! inside out. Whoever writes hostile bytes can compute a checksum too, so most inputs must come behind it.

use tiderace_base::checksum::crc32c;
use tiderace_base::limits::{BATCH_HEADER_BYTES, LINK_HEADER_BYTES};

/// Writes a checksum of `covered` at `at`.
pub(crate) fn crc_at(bytes: &mut [u8], covered: std::ops::Range<usize>, at: usize) {
    if at + 4 <= bytes.len() && covered.end <= bytes.len() {
        let crc = crc32c(&bytes[covered]);
        bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    }
}

/// The number of four bytes at `at`; zero where there is none.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|bytes| bytes.first_chunk())
        .map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// A link header alone.
pub(crate) fn link_header(bytes: &mut Vec<u8>) {
    bytes.resize(LINK_HEADER_BYTES, 0);
    crc_at(bytes, 0..28, 28);
}

/// A whole frame: where its lengths do not say what is there, the control section is made to; then both checksums.
pub(crate) fn frame(bytes: &mut [u8]) {
    if bytes.len() < LINK_HEADER_BYTES {
        return;
    }
    let behind = bytes.len() - LINK_HEADER_BYTES;
    let batch = (u32_at(bytes, 20) as usize).min(behind);
    let control = behind - batch;
    bytes[16..20].copy_from_slice(&(control as u32).to_le_bytes());
    bytes[20..24].copy_from_slice(&(batch as u32).to_le_bytes());
    crc_at(bytes, LINK_HEADER_BYTES..LINK_HEADER_BYTES + control, 24);
    crc_at(bytes, 0..28, 28);
    batch_at(bytes, LINK_HEADER_BYTES + control);
}

/// A batch that takes the rest of `bytes` from `at`.
pub(crate) fn batch_at(bytes: &mut [u8], at: usize) {
    let Some(batch) = bytes.get_mut(at..) else {
        return;
    };
    if batch.len() < BATCH_HEADER_BYTES {
        return;
    }
    let body = batch.len() - BATCH_HEADER_BYTES;
    batch[24..28].copy_from_slice(&(body as u32).to_le_bytes());
    crc_at(batch, BATCH_HEADER_BYTES..BATCH_HEADER_BYTES + body, 28);
    crc_at(batch, 0..76, 76);
    // A batch that was never placed stays so: its producer may not have one.
    if batch[80..128] != [0; 48] {
        crc_at(batch, 76..124, 124);
    }
}

/// A batch alone.
pub(crate) fn batch(bytes: &mut [u8]) {
    batch_at(bytes, 0);
}

/// Bytes that are no ASCII become some that are: most inputs must come behind the question whether they are text.
pub(crate) fn text(bytes: &mut [u8]) {
    for byte in bytes.iter_mut().filter(|byte| !byte.is_ascii()) {
        *byte = b' ' + *byte % 95;
    }
}
