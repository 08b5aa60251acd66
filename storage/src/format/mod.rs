//! The bytes of a journal's files, and nothing else: encode, decode, check. No decision is taken here; decoding takes any
//! bytes and never panics. The byte tables stand in `docs/journal.md`.

pub(crate) mod chunk;
pub(crate) mod segment;
pub(crate) mod superblock;

/// The newest version of these formats that this program reads and writes.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// No journal counts so far, be it LSNs, lives, generations, starts or checkpoint parts: at a byte a nanosecond it lasts
/// 146 years. Bytes that say more are not believed, so that arithmetic on what is believed never overflows. J-4
pub(crate) const COUNT_MAX: u64 = 1 << 62;

/// No journal gives a file so great a number: a life that ends in a second lasts 68 years. J-4
pub(crate) const FILE_NUMBER_MAX: u32 = 1 << 31;

/// `bytes` rounded up to whole blocks.
pub(crate) const fn whole_blocks(bytes: usize) -> usize {
    bytes.next_multiple_of(tiderace_base::limits::BLOCK_BYTES)
}
