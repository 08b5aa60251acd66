//! Makes inputs: takes one that is in the pool, and changes bits, numbers, lengths and order. Knows no format, but for two
//! things that a target may give it: words that mean something to its reader, and a way to mend what a change broke, such as a
//! checksum. Invariant: the same generator over the same pool makes the same inputs, and none longer than asked for.

use tiderace_base::prng::Prng;

/// Numbers at which readers turn: bounds of types, blocks, pages and sectors, and their neighbours.
const NUMBERS: &[u64] = &[
    0,
    1,
    2,
    7,
    8,
    9,
    31,
    32,
    33,
    63,
    64,
    127,
    128,
    129,
    255,
    256,
    257,
    511,
    512,
    1023,
    1024,
    4095,
    4096,
    4097,
    8192,
    32_767,
    32_768,
    65_535,
    65_536,
    65_537,
    1 << 20,
    (1 << 20) + 128,
    1 << 21,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX - 1,
    u64::MAX,
];

/// What a mutator knows of a format.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// The longest input, in bytes.
    pub bytes_max: usize,
    /// Bytes that mean something to the reader.
    pub words: &'static [&'static [u8]],
    /// Mends what a change broke, as a hostile writer would.
    pub seal: Option<fn(&mut Vec<u8>)>,
}

/// An input made from the pool. One in sixteen is arbitrary bytes; three in four of the others are mended where the format can.
///
/// # Panics
/// When the pool is empty: there is nothing to begin with.
pub fn make(prng: &mut Prng, pool: &[Vec<u8>], format: &Format) -> Vec<u8> {
    assert!(!pool.is_empty(), "a pool holds at least one input");
    if prng.chance(1, 16) {
        let mut bytes = vec![0; prng.below(format.bytes_max.min(600) as u64 + 1) as usize];
        prng.fill(&mut bytes);
        return bytes;
    }
    let mut bytes = pool[prng.below(pool.len() as u64) as usize].clone();
    // One change half of the time, two a quarter of the time, and so on: many small steps, some leaps.
    let changes = 1 + prng.next_u64().trailing_ones().min(6);
    for _ in 0..changes {
        change(prng, &mut bytes, pool, format);
    }
    bytes.truncate(format.bytes_max);
    if let Some(seal) = format.seal
        && prng.chance(3, 4)
    {
        seal(&mut bytes);
        bytes.truncate(format.bytes_max);
    }
    bytes
}

/// A place in `bytes`; places near the front more often, because headers lie there.
fn place(prng: &mut Prng, len: usize) -> usize {
    let reach = if prng.chance(1, 3) { len.min(160) } else { len };
    prng.below(reach.max(1) as u64) as usize
}

/// A run of bytes inside `bytes`, short more often than long.
fn run(prng: &mut Prng, len: usize) -> std::ops::Range<usize> {
    let from = place(prng, len);
    let longest = (len - from).min(1 << prng.below(12));
    let to = from + prng.below(longest as u64 + 1) as usize;
    from..to
}

fn change(prng: &mut Prng, bytes: &mut Vec<u8>, pool: &[Vec<u8>], format: &Format) {
    let len = bytes.len();
    if len == 0 {
        bytes.push(prng.next_u64() as u8);
        return;
    }
    let has_words = !format.words.is_empty();
    match prng.below(if has_words { 16 } else { 13 }) {
        0 | 1 => {
            let at = place(prng, len);
            bytes[at] ^= 1 << prng.below(8);
        }
        2 => {
            let at = place(prng, len);
            bytes[at] = prng.next_u64() as u8;
        }
        3 | 4 => {
            let number = NUMBERS[prng.below(NUMBERS.len() as u64) as usize];
            number_at(prng, bytes, |_| number);
        }
        5 => {
            let delta = prng.range(1, 36);
            let is_more = prng.chance(1, 2);
            number_at(prng, bytes, |old| {
                if is_more {
                    old.wrapping_add(delta)
                } else {
                    old.wrapping_sub(delta)
                }
            });
        }
        6 => bytes.truncate(place(prng, len)),
        7 => {
            let run = run(prng, len);
            bytes.drain(run);
        }
        8 => {
            let again = bytes[run(prng, len)].to_vec();
            insert(prng, bytes, &again);
        }
        9 => {
            let mut random = vec![0; 1 + prng.below(16) as usize];
            prng.fill(&mut random);
            insert(prng, bytes, &random);
        }
        10 => {
            let other = &pool[prng.below(pool.len() as u64) as usize];
            if !other.is_empty() {
                let piece = other[run(prng, other.len())].to_vec();
                if prng.chance(1, 2) {
                    insert(prng, bytes, &piece);
                } else {
                    overwrite(prng, bytes, &piece);
                }
            }
        }
        11 => {
            let run = run(prng, len);
            let piece = bytes[run].to_vec();
            overwrite(prng, bytes, &piece);
        }
        12 => {
            let run = run(prng, len);
            let with = if prng.chance(1, 2) { 0 } else { 0xff };
            bytes[run].fill(with);
        }
        _ => {
            let word = format.words[prng.below(format.words.len() as u64) as usize];
            if prng.chance(1, 2) {
                insert(prng, bytes, word);
            } else {
                overwrite(prng, bytes, word);
            }
        }
    }
}

/// Changes a little-endian number of 1, 2, 4 or 8 bytes somewhere, at a place of its own alignment half of the time.
fn number_at(prng: &mut Prng, bytes: &mut [u8], new: impl FnOnce(u64) -> u64) {
    let width = 1 << prng.below(4);
    if bytes.len() < width {
        return;
    }
    let mut at = place(prng, bytes.len() - width + 1);
    if prng.chance(1, 2) {
        at -= at % width;
    }
    let mut number = [0; 8];
    number[..width].copy_from_slice(&bytes[at..at + width]);
    let new = new(u64::from_le_bytes(number)).to_le_bytes();
    bytes[at..at + width].copy_from_slice(&new[..width]);
}

fn insert(prng: &mut Prng, bytes: &mut Vec<u8>, piece: &[u8]) {
    let at = prng.below(bytes.len() as u64 + 1) as usize;
    bytes.splice(at..at, piece.iter().copied());
}

fn overwrite(prng: &mut Prng, bytes: &mut [u8], piece: &[u8]) {
    let at = place(prng, bytes.len());
    let count = piece.len().min(bytes.len() - at);
    bytes[at..at + count].copy_from_slice(&piece[..count]);
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMAT: Format = Format {
        bytes_max: 100,
        words: &[b"word"],
        seal: None,
    };

    #[test]
    fn a_seed_decides_every_input_and_none_is_too_long() {
        let pool = [b"the first".to_vec(), vec![7; 90], Vec::new()];
        let all = |seed| {
            let mut prng = Prng::new(seed);
            let made: Vec<_> = (0..3000).map(|_| make(&mut prng, &pool, &FORMAT)).collect();
            made
        };
        let made = all(1);
        assert_eq!(made, all(1));
        assert_ne!(made, all(2));
        assert!(made.iter().all(|input| input.len() <= 100));
        assert!(
            made.iter()
                .any(|input| input.windows(4).any(|at| at == b"word"))
        );
    }
}
