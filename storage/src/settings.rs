//! What a journal is told when it opens: who it belongs to and how large its parts may grow. What the superblock keeps
//! from the first start (the segment's size, which journal of how many) must be the same at every later one; the rest
//! may change from start to start.

use crate::spares::WANTED_MIN;
use tiderace_base::ids::{BootId, NodeId};
use tiderace_base::limits::{
    BLOCK_BYTES, CHUNK_BYTES_MAX, CHUNKS_INFLIGHT_MAX, KIB, MIB, SCRUB_BYTES_PER_SECOND_DEFAULT,
    SEGMENT_BYTES_DEFAULT, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SPARES_MAX, TAIL_BYTES_DEFAULT,
};

/// How everything that is kept is read again and again, in search of damage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scrubbing {
    /// The most that is read in a second, in bytes; 0: nothing is.
    pub bytes_per_second: u64,
    /// From the start of the journal to the first pass, in nanoseconds.
    pub first_after_ns: u64,
    /// From the beginning of a pass to the next one, in nanoseconds; where a pass takes longer, the next one follows it.
    pub every_ns: u64,
}

impl Scrubbing {
    /// A pass a day, the first a few seconds after the start.
    #[must_use]
    pub const fn daily(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second,
            first_after_ns: 5_000_000_000,
            every_ns: 86_400_000_000_000,
        }
    }
}

/// How one journal is opened. All sizes in bytes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which of the node's journals this is. Kept from the first start.
    pub journal_index: u16,
    /// How many journals the node has. Kept from the first start.
    pub journal_count: u16,
    /// The node, for the superblock.
    pub node: NodeId,
    /// This run of the node's process, for the superblock and every chunk.
    pub boot: BootId,
    /// Decides salts and ids. A new one at every start, or an old life's bytes could parse.
    pub seed: u64,
    /// Size of a segment's file: whole blocks, from `SEGMENT_BYTES_MIN` to `SEGMENT_BYTES_MAX`. Kept from the first start.
    pub segment_bytes: u64,
    /// The largest chunk: whole blocks. Bounds the largest entry to two blocks less.
    pub chunk_bytes_max: usize,
    /// Chunk writes in flight at once, at least one.
    pub chunks_inflight_max: usize,
    /// Size of one write buffer: at least one chunk.
    pub region_bytes: usize,
    /// How many write buffers there may be, at least two.
    pub regions_max: usize,
    /// Frozen chunks kept in memory for tail reads. Those that are not durable yet are kept above it.
    pub tail_bytes_max: usize,
    /// Indexes of sealed segments kept in memory.
    pub footer_cache_bytes: usize,
    /// The longest single cold read. A read for one larger batch still fetches all of it.
    pub read_bytes_max: usize,
    /// Segment files that are kept ready ahead of the appends, the two reserves included: at least three.
    pub spares_wanted: usize,
    /// Appended bytes after which a checkpoint is wanted.
    pub checkpoint_every_bytes: u64,
    /// The search for damage.
    pub scrubbing: Scrubbing,
}

impl Settings {
    /// The sizes of a serving node.
    #[must_use]
    pub fn serving(
        node: NodeId,
        boot: BootId,
        journal_index: u16,
        journal_count: u16,
        seed: u64,
    ) -> Self {
        Self {
            journal_index,
            journal_count,
            node,
            boot,
            seed,
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            chunk_bytes_max: CHUNK_BYTES_MAX,
            chunks_inflight_max: CHUNKS_INFLIGHT_MAX,
            region_bytes: 4 * MIB,
            regions_max: 8,
            tail_bytes_max: TAIL_BYTES_DEFAULT,
            footer_cache_bytes: 8 * MIB,
            read_bytes_max: 512 * KIB,
            spares_wanted: WANTED_MIN,
            checkpoint_every_bytes: SEGMENT_BYTES_DEFAULT,
            scrubbing: Scrubbing::daily(SCRUB_BYTES_PER_SECOND_DEFAULT),
        }
    }

    /// Checks the relations that every part of the journal relies on.
    ///
    /// # Panics
    /// When one does not hold: the settings come from the node's own code, which has checked what a user chose.
    pub(crate) fn check(&self) {
        let block = BLOCK_BYTES as u64;
        assert!(
            self.segment_bytes.is_multiple_of(block)
                && (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes),
            "a segment is whole blocks within its bounds"
        );
        assert!(
            self.chunk_bytes_max.is_multiple_of(BLOCK_BYTES)
                && self.chunk_bytes_max >= 2 * BLOCK_BYTES
                && self.chunk_bytes_max <= CHUNK_BYTES_MAX
                && self.chunk_bytes_max as u64 + block <= self.segment_bytes,
            "a chunk is whole blocks and fits an empty segment"
        );
        assert!(
            (1..=CHUNKS_INFLIGHT_MAX).contains(&self.chunks_inflight_max),
            "at least one write may be in flight"
        );
        assert!(
            self.region_bytes.is_multiple_of(BLOCK_BYTES)
                && self.region_bytes >= self.chunk_bytes_max,
            "a region holds the largest chunk"
        );
        assert!(
            self.regions_max >= 2,
            "one region fills while another is written"
        );
        assert!(
            self.read_bytes_max >= BLOCK_BYTES && self.read_bytes_max.is_multiple_of(BLOCK_BYTES),
            "a read is whole blocks"
        );
        const { assert!(SPARES_MAX <= crate::format::superblock::FREE_MAX / 2) };
        assert!(
            (WANTED_MIN..=SPARES_MAX).contains(&self.spares_wanted),
            "the spares are the reserves and more, and a superblock lists them"
        );
        assert!(
            self.journal_index < self.journal_count,
            "the journal is one of the node's"
        );
    }
}
