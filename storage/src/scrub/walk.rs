//! Follows the chunks of one life through pieces of its file, and tells what of it is damaged. Goes on behind damage: at the
//! next chunk if the damaged one says how long it is, else at the next block that begins one. Pure. Invariant: every byte
//! from the file's start to the end asked for is judged once, and only what was read wrong twice is called damaged.

use crate::format::chunk::{ChunkHeader, Life, decode_first};
use crate::format::segment::SegmentHeader;
use crate::recovery::entries_are_good;
use core::ops::Range;
use tiderace_base::limits::{BLOCK_BYTES, KIB};
use tiderace_base::position::Lsn;

const BLOCK: u64 = BLOCK_BYTES as u64;
/// What one read brings, unless a chunk is longer: a write that waits for it waits a quarter of a millisecond at 1 GB/s.
pub(super) const PIECE_BYTES: u64 = 256 * KIB as u64;

/// See the module.
#[derive(Debug)]
pub(super) struct Walk {
    life: Life,
    seq: u64,
    start: Lsn,
    /// The byte of the file that is judged next.
    at: u64,
    prev_crc: Option<u32>,
    /// Damage that began here has no end yet.
    lost_since: Option<u64>,
    /// The chunk or block at this byte was read wrong once.
    doubted: Option<u64>,
    /// What the next read has to bring, where a piece would be too little or too much.
    wanted: Option<u64>,
}

impl Walk {
    pub(super) fn new(life: Life, seq: u64, start: Lsn) -> Self {
        Self {
            life,
            seq,
            start,
            at: 0,
            prev_crc: None,
            lost_since: None,
            doubted: None,
            wanted: None,
        }
    }

    /// The byte and the length of the next read, of a life whose chunks end at byte `end` of the file; none: all is judged.
    pub(super) fn next_read(&self, end: u64) -> Option<(u64, u64)> {
        let bytes = self
            .wanted
            .unwrap_or(PIECE_BYTES)
            .min(end - self.at.min(end));
        (bytes > 0).then_some((self.at, bytes))
    }

    /// Judges what [`Walk::next_read`] asked for.
    pub(super) fn take(&mut self, bytes: &[u8], end: u64, damaged: &mut Vec<Range<u64>>) {
        let from = self.at;
        self.wanted = None;
        while self.at < end {
            let rest = &bytes[(self.at - from) as usize..];
            if rest.len() < BLOCK_BYTES {
                return;
            }
            if self.at == 0 {
                if self.is_header(rest) {
                    self.go_to(BLOCK, None);
                } else if self.is_certain(BLOCK) {
                    damaged.push(0..BLOCK);
                    self.go_to(BLOCK, None);
                } else {
                    return;
                }
                continue;
            }
            let Some(header) = self.chunk_at(rest, end) else {
                if self.lost_since.is_none() && !self.is_certain(BLOCK) {
                    return;
                }
                self.lose_a_block(end, damaged);
                continue;
            };
            let length = header.chunk_bytes as u64;
            let Some(chunk) = rest.get(..header.chunk_bytes) else {
                // Unless it began the read, the next one begins with it.
                self.wanted = (self.at == from).then_some(length);
                return;
            };
            if header.rest_matches(chunk) && entries_are_good(&header, chunk) {
                self.end_loss(damaged);
                self.go_to(self.at + length, Some(header.first_crc));
            } else if self.is_certain(length) {
                self.end_loss(damaged);
                damaged.push(self.at..self.at + length);
                self.go_to(self.at + length, Some(header.first_crc));
            } else {
                return;
            }
        }
    }

    /// The read that [`Walk::next_read`] asked for failed: narrows down to the block, or to the chunk whose first block can
    /// be read, that cannot.
    pub(super) fn unreadable(&mut self, read_bytes: u64, end: u64, damaged: &mut Vec<Range<u64>>) {
        let is_narrow = read_bytes == BLOCK || self.wanted == Some(read_bytes);
        if !is_narrow {
            self.wanted = Some(BLOCK);
            return;
        }
        if self.lost_since.is_none() && !self.is_certain(read_bytes) {
            return;
        }
        if read_bytes == BLOCK && self.at > 0 {
            self.lose_a_block(end, damaged);
            self.wanted = Some(BLOCK);
        } else {
            self.end_loss(damaged);
            damaged.push(self.at..self.at + read_bytes);
            self.go_to(self.at + read_bytes, None);
        }
    }

    /// Nothing of the file from here on can be read.
    pub(super) fn lose_the_rest(&mut self, end: u64, damaged: &mut Vec<Range<u64>>) {
        damaged.push(self.lost_since.take().unwrap_or(self.at)..end);
        self.at = end;
    }

    /// The place in the log of a byte of the file.
    pub(super) fn lsn(&self, at: u64) -> Lsn {
        self.start.advance(at.saturating_sub(BLOCK))
    }

    fn is_header(&self, block: &[u8]) -> bool {
        SegmentHeader::decode(block, self.life.journal).is_some_and(|header| {
            (header.seq, header.salt, header.start_lsn) == (self.seq, self.life.salt, self.start)
        })
    }

    /// The header of the chunk that stands where one is due. J-4
    fn chunk_at(&self, first: &[u8], end: u64) -> Option<ChunkHeader> {
        decode_first(first, self.life).filter(|header| {
            header.lsn == self.lsn(self.at)
                && header.durable_lsn <= header.lsn
                && self.at + header.chunk_bytes as u64 <= end
                && self.prev_crc.is_none_or(|crc| crc == header.prev_crc)
        })
    }

    /// Whether what stands here was read wrong before; if not, it is read again, alone.
    fn is_certain(&mut self, bytes: u64) -> bool {
        if self.doubted == Some(self.at) {
            return true;
        }
        self.doubted = Some(self.at);
        self.wanted = Some(bytes);
        false
    }

    fn lose_a_block(&mut self, end: u64, damaged: &mut Vec<Range<u64>>) {
        self.lost_since.get_or_insert(self.at);
        self.go_to(self.at + BLOCK, None);
        if self.at >= end {
            self.end_loss(damaged);
        }
    }

    fn end_loss(&mut self, damaged: &mut Vec<Range<u64>>) {
        if let Some(from) = self.lost_since.take() {
            damaged.push(from..self.at);
        }
    }

    fn go_to(&mut self, at: u64, prev_crc: Option<u32>) {
        self.at = at;
        self.prev_crc = prev_crc;
        self.doubted = None;
        self.wanted = None;
    }
}
