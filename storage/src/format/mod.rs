//! The bytes of a journal's files, and nothing else: encode, decode, check. No decision is taken here; decoding takes any
//! bytes and never panics. The byte tables stand in `docs/journal.md`.

pub(crate) mod chunk;
pub(crate) mod segment;
pub(crate) mod superblock;

/// The newest version of these formats that this program reads and writes.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// `bytes` rounded up to whole blocks.
pub(crate) const fn whole_blocks(bytes: usize) -> usize {
    bytes.next_multiple_of(tiderace_base::limits::BLOCK_BYTES)
}
