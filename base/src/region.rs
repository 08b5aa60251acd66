//! Regions: the large aligned buffers that batches are copied into once, and from which they go to the journal and
//! to subscribers without another copy. A region is filled at its end while frozen parts of its front are still being
//! written or sent; it is used again only when the last such part is gone. Owns its memory; never copies it.

use crate::limits::BLOCK_BYTES;
use bytes::{Bytes, BytesMut};

/// One region: aligned to a block, filled front to back.
#[derive(Debug)]
pub struct Region {
    /// Unfrozen part. Its start is aligned to a block whenever nothing is open.
    open: BytesMut,
    frozen_bytes: usize,
    capacity_bytes: usize,
}

impl Region {
    /// Allocates a region of `capacity_bytes`, a multiple of the block size.
    ///
    /// # Panics
    /// When the capacity is no positive multiple of the block size.
    #[must_use]
    pub fn new(capacity_bytes: usize) -> Self {
        assert!(
            capacity_bytes > 0 && capacity_bytes.is_multiple_of(BLOCK_BYTES),
            "a region is whole blocks"
        );
        let mut region = Self {
            open: BytesMut::with_capacity(capacity_bytes + BLOCK_BYTES),
            frozen_bytes: 0,
            capacity_bytes,
        };
        region.align();
        region
    }

    /// Moves the start of the open part to a block boundary.
    fn align(&mut self) {
        assert!(self.open.is_empty());
        let pad = self.open.as_ptr().align_offset(BLOCK_BYTES);
        self.open.resize(pad, 0);
        drop(self.open.split());
        assert_eq!(self.open.as_ptr().align_offset(BLOCK_BYTES), 0);
    }

    /// How many more bytes fit behind the open part.
    #[must_use]
    pub fn room_bytes(&self) -> usize {
        // Not the buffer's own capacity: that depends on where the allocator put it, and a replay would differ.
        self.capacity_bytes - self.frozen_bytes - self.open.len()
    }

    /// The open part. It may grow by up to [`Region::room_bytes`]; growing it further would reallocate, which the next
    /// freeze refuses.
    pub fn open(&mut self) -> &mut BytesMut {
        &mut self.open
    }

    /// Read access to the open part.
    #[must_use]
    pub fn filled(&self) -> &[u8] {
        &self.open
    }

    /// Freezes the open part, whole blocks, and opens an empty one behind it.
    ///
    /// # Panics
    /// When the open part is not whole blocks or no longer aligned.
    pub fn freeze(&mut self) -> Bytes {
        assert!(
            self.open.len().is_multiple_of(BLOCK_BYTES),
            "only whole blocks are frozen"
        );
        assert_eq!(
            self.open.as_ptr().align_offset(BLOCK_BYTES),
            0,
            "the open part outgrew its region"
        );
        self.frozen_bytes += self.open.len();
        assert!(
            self.frozen_bytes <= self.capacity_bytes,
            "the open part outgrew its region"
        );
        self.open.split().freeze()
    }

    /// Takes the whole region back when no frozen part is referred to any more. False: somebody still holds one.
    pub fn try_reset(&mut self) -> bool {
        assert!(self.open.is_empty(), "an open part would be lost");
        if !self.open.try_reclaim(self.capacity_bytes + BLOCK_BYTES) {
            return false;
        }
        self.frozen_bytes = 0;
        self.align();
        true
    }
}

/// An aligned buffer of exactly `len` zeroed bytes, for a direct read or write.
#[must_use]
pub fn aligned_zeroed(len: usize) -> BytesMut {
    let mut bytes = BytesMut::with_capacity(len + BLOCK_BYTES);
    let pad = bytes.as_ptr().align_offset(BLOCK_BYTES);
    bytes.resize(pad + len, 0);
    drop(bytes.split_to(pad));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_reused_only_when_nobody_holds_a_part() {
        let mut region = Region::new(4 * BLOCK_BYTES);
        let mut parts = Vec::new();
        for round in 0..4_u8 {
            region.open().resize(BLOCK_BYTES, round);
            parts.push(region.freeze());
        }
        assert_eq!(region.room_bytes(), 0);
        assert!(!region.try_reset());
        for (round, part) in parts.iter().enumerate() {
            assert!(part.iter().all(|byte| usize::from(*byte) == round));
            assert_eq!(part.as_ptr().align_offset(BLOCK_BYTES), 0);
        }
        parts.truncate(1);
        assert!(!region.try_reset());
        parts.clear();
        assert!(region.try_reset());
        assert_eq!(region.room_bytes(), 4 * BLOCK_BYTES);
    }

    #[test]
    fn aligned_buffers_are_aligned() {
        for len in [0, 1, 4096, 10_000] {
            let buffer = aligned_zeroed(len);
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.as_ptr().align_offset(BLOCK_BYTES), 0);
        }
    }
}
