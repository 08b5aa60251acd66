//! Hash maps with a pinned hasher: the same insertions give the same iteration order in every run, which replay
//! needs. The hasher is fast and has no defence against chosen keys: keys that a peer chooses freely go into a
//! `BTreeMap`.

use core::hash::{BuildHasherDefault, Hasher};

/// A hash map for keys that this node gave out itself.
#[expect(
    clippy::disallowed_types,
    reason = "this is the pinned hasher that the ban points to"
)]
pub type Map<K, V> = std::collections::HashMap<K, V, BuildHasherDefault<PinnedHasher>>;

/// A hash set for keys that this node gave out itself.
#[expect(
    clippy::disallowed_types,
    reason = "this is the pinned hasher that the ban points to"
)]
pub type Set<K> = std::collections::HashSet<K, BuildHasherDefault<PinnedHasher>>;

/// Multiply and fold: one 128-bit product per word.
#[derive(Clone, Copy, Default, Debug)]
pub struct PinnedHasher(u64);

impl PinnedHasher {
    fn mix(&mut self, word: u64) {
        let product =
            u128::from(self.0 ^ word ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93_u128;
        self.0 = (product as u64) ^ ((product >> 64) as u64);
    }
}

impl Hasher for PinnedHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, word: u8) {
        self.mix(u64::from(word));
    }

    fn write_u16(&mut self, word: u16) {
        self.mix(u64::from(word));
    }

    fn write_u32(&mut self, word: u32) {
        self.mix(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        self.mix(word);
    }

    fn write_usize(&mut self, word: usize) {
        self.mix(word as u64);
    }
}
