//! Mends the checksums of a journal's files as whoever writes hostile files would: entries, then chunks and how they follow one
//! another, headers, footers, checkpoint parts and both copies of a superblock. The places are those of docs/journal.md.

use crate::targets::seals::{crc_at, u32_at};
use tiderace_base::checksum::Crc32c;
use tiderace_base::disk::JournalFile;
use tiderace_base::limits::{BATCH_HEADER_BYTES, BLOCK_BYTES, KIB};

/// One copy of a superblock.
pub(crate) const COPY_BYTES: usize = 256 * KIB;

/// Mends a whole file.
pub(crate) fn seal(file: JournalFile, bytes: &mut [u8]) {
    match file {
        JournalFile::Superblock => {
            for copy in bytes.chunks_mut(COPY_BYTES) {
                superblock(copy);
            }
        }
        JournalFile::Segment(_) => segment(bytes),
        JournalFile::Footer(_) => {
            footer_length(bytes);
            footer(bytes);
        }
        JournalFile::Checkpoint(_) => checkpoint(bytes),
    }
}

/// One copy of a superblock.
pub(crate) fn superblock(copy: &mut [u8]) {
    const HEADER_BYTES: usize = 512;
    let body = u32_at(copy, 156) as usize;
    crc_at(copy, HEADER_BYTES..HEADER_BYTES.saturating_add(body), 160);
    crc_at(copy, 0..HEADER_BYTES - 4, HEADER_BYTES - 4);
}

/// Makes a footer's length what its counts promise, whatever is there.
fn footer_length(bytes: &mut [u8]) {
    if bytes.len() >= 128 {
        let rows = u64::from(u32_at(bytes, 56));
        let positions = u64::from(u32_at(bytes, 60));
        let length = (128 + 64 * rows + 24 * positions).next_multiple_of(BLOCK_BYTES as u64);
        bytes[64..72].copy_from_slice(&length.to_le_bytes());
    }
}

/// A footer.
pub(crate) fn footer(bytes: &mut [u8]) {
    if bytes.len() >= 128 {
        crc_at(bytes, 128..bytes.len(), 120);
        crc_at(bytes, 0..124, 124);
    }
}

/// A checkpoint part.
pub(crate) fn checkpoint(bytes: &mut [u8]) {
    if bytes.len() >= BLOCK_BYTES {
        crc_at(bytes, BLOCK_BYTES..bytes.len(), 12);
        crc_at(bytes, 0..BLOCK_BYTES - 4, BLOCK_BYTES - 4);
    }
}

fn segment(bytes: &mut [u8]) {
    crc_at(bytes, 0..BLOCK_BYTES - 4, BLOCK_BYTES - 4);
    let mut at = BLOCK_BYTES;
    let mut before = None;
    while at + BLOCK_BYTES <= bytes.len() && bytes[at..at + 4] == *b"TRC1" {
        let claimed = u32_at(bytes, at + 40) as usize;
        let length = claimed.clamp(BLOCK_BYTES, bytes.len() - at);
        let chunk = &mut bytes[at..at + length];
        if let Some(before) = before {
            chunk[60..64].copy_from_slice(&u32::to_le_bytes(before));
        }
        before = Some(seal_chunk(chunk));
        at += length.next_multiple_of(BLOCK_BYTES);
    }
}

/// Mends one chunk and gives the checksum of its first block.
fn seal_chunk(chunk: &mut [u8]) -> u32 {
    let from = (u32_at(chunk, 44) & 0xffff) as usize;
    let to = from
        .saturating_add(u32_at(chunk, 52) as usize)
        .min(chunk.len());
    let mut at = from;
    while at + BATCH_HEADER_BYTES <= to && chunk[at..at + 4] == *b"TRB1" {
        let body = u32_at(chunk, at + 24) as usize;
        let length = BATCH_HEADER_BYTES.saturating_add(body).min(to - at);
        let entry = &mut chunk[at..at + length];
        crc_at(entry, BATCH_HEADER_BYTES..length, 28);
        crc_at(entry, 0..76, 76);
        crc_at(entry, 76..124, 124);
        at += length;
    }
    crc_at(chunk, BLOCK_BYTES..chunk.len(), 120);
    let mut first = Crc32c::new();
    first.update(&chunk[..124]);
    first.update(&chunk[128..BLOCK_BYTES]);
    let first = first.finish();
    chunk[124..128].copy_from_slice(&first.to_le_bytes());
    first
}
