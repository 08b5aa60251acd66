//! CRC32C (Castagnoli; RFC 3720, appendix B.4), the one checksum of the wire and of the disk.

use crc_fast::{CrcAlgorithm, Digest};

/// CRC32C of `bytes`.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    // The algorithm's width is 32 bits: the upper half of the u64 is zero.
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// CRC32C of pieces that stand apart in memory, as if they were one.
#[derive(Debug)]
pub struct Crc32c(Digest);

impl Default for Crc32c {
    fn default() -> Self {
        Self::new()
    }
}

impl Crc32c {
    /// Starts with nothing read.
    #[must_use]
    pub fn new() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc32Iscsi))
    }

    /// Reads the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum of all pieces read.
    #[must_use]
    pub fn finish(&self) -> u32 {
        self.0.finalize() as u32
    }
}

/// CRC32C of what `crc` is the checksum of, and `bytes` behind it.
#[must_use]
pub fn crc32c_append(crc: u32, bytes: &[u8]) -> u32 {
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(!crc));
    digest.update(bytes);
    digest.finalize() as u32
}

/// The polynomial, with its bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// The product of two polynomials of reversed bits, modulo [`POLYNOMIAL`].
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 1 << 31;
    while bit != 0 {
        if a & bit != 0 {
            product ^= b;
        }
        bit >>= 1;
        b = if b & 1 == 0 {
            b >> 1
        } else {
            (b >> 1) ^ POLYNOMIAL
        };
    }
    product
}

/// x to the power of 8, 16, 32, ..: what 1, 2, 4, .. zero bytes multiply a checksum by.
const ZERO_BYTES: [u32; 32] = {
    let mut powers = [0; 32];
    // x^8
    powers[0] = 1 << (31 - 8);
    let mut n = 1;
    while n < 32 {
        powers[n] = multiply(powers[n - 1], powers[n - 1]);
        n += 1;
    }
    powers
};

/// Joins checksums of neighbours without reading either: appending n bytes multiplies the checksum of what stands before
/// them by x^(8n), so the operator for one n serves every pair whose second part has n bytes. (M. Adler's method for
/// zlib's `crc32_combine_gen`.)
#[derive(Clone, Copy, Debug)]
pub struct Joiner {
    bytes: u32,
    operator: u32,
}

impl Joiner {
    /// For second parts of `bytes` bytes.
    #[must_use]
    pub fn new(bytes: u32) -> Self {
        let mut operator = 1 << 31;
        for (n, power) in ZERO_BYTES.iter().enumerate() {
            if bytes & (1 << n) != 0 {
                operator = multiply(*power, operator);
            }
        }
        Self { bytes, operator }
    }

    /// How many bytes the second part has.
    #[must_use]
    pub const fn bytes(&self) -> u32 {
        self.bytes
    }

    /// The checksum of a first part with `first` and the second part with `second`.
    #[must_use]
    pub const fn join(&self, first: u32, second: u32) -> u32 {
        multiply(self.operator, first) ^ second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 3720, B.4.
    #[test]
    fn published_vectors() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b""), 0);
    }

    #[test]
    fn joined_checksums_equal_the_whole() {
        let bytes: Vec<u8> = (0..70_000_u32).map(|n| ((n * 31) >> 3) as u8).collect();
        for cut in [0, 1, 7, 128, 4095, 4096, 65_535, 65_536, 69_999, 70_000] {
            let (first, second) = bytes.split_at(cut);
            let joiner = Joiner::new(second.len() as u32);
            let joined = joiner.join(crc32c(first), crc32c(second));
            assert_eq!(joined, crc32c(&bytes), "{cut}");
            assert_eq!(crc32c_append(crc32c(first), second), crc32c(&bytes));
        }
    }

    #[test]
    fn pieces_equal_the_whole() {
        let bytes: Vec<u8> = (0..=255).cycle().take(5000).collect();
        for cut in [0, 1, 31, 32, 4095, 4096, 5000] {
            let mut crc = Crc32c::new();
            crc.update(&bytes[..cut]);
            crc.update(&bytes[cut..]);
            assert_eq!(crc.finish(), crc32c(&bytes));
        }
    }
}
