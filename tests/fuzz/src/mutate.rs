//! The engine: an input of the corpus, or two of them joined, with a few changes: bits, bytes, numbers at the edges of their
//! types, pieces that are repeated, moved, left out or cut off. One in sixteen is arbitrary from the beginning. Allocates at
//! most [`INPUT_BYTES_MAX`] above the longest input of the corpus. Everything is drawn from the generator that is given.

use tiderace_base::prng::Prng;

/// The longest input that grows; one of the corpus may be longer.
pub const INPUT_BYTES_MAX: usize = 64 * 1024;

/// Numbers at which readers go wrong.
const EDGES: [u64; 12] = [
    0,
    1,
    2,
    0x7f,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    u64::MAX >> 1,
    u64::MAX - 1,
    u64::MAX,
];

/// An input, from the corpus and the generator alone.
#[must_use]
pub fn mutate(prng: &mut Prng, corpus: &[Vec<u8>]) -> Vec<u8> {
    if corpus.is_empty() || prng.chance(1, 16) {
        let mut bytes = vec![0; prng.below(512) as usize];
        prng.fill(&mut bytes);
        return bytes;
    }
    let mut input = pick(prng, corpus).clone();
    if prng.chance(1, 8) {
        let other = pick(prng, corpus);
        let head = prng.below(input.len() as u64 + 1) as usize;
        let tail = prng.below(other.len() as u64 + 1) as usize;
        input.truncate(head);
        input.extend_from_slice(&other[tail..]);
    }
    // Most often one change: what is changed everywhere is refused at once.
    let changes = 1 << prng.below(4);
    for _ in 0..prng.below(changes) + 1 {
        change(prng, &mut input);
    }
    input
}

fn pick<'a>(prng: &mut Prng, corpus: &'a [Vec<u8>]) -> &'a Vec<u8> {
    &corpus[prng.below(corpus.len() as u64) as usize]
}

fn change(prng: &mut Prng, input: &mut Vec<u8>) {
    if input.is_empty() {
        input.push(prng.below(256) as u8);
        return;
    }
    let at = prng.below(input.len() as u64) as usize;
    let rest = input.len() - at;
    match prng.below(9) {
        0 => input[at] ^= 1 << prng.below(8),
        1 => input[at] = prng.below(256) as u8,
        2 => {
            let edge = EDGES[prng.below(EDGES.len() as u64) as usize].to_le_bytes();
            let width = (1 << prng.below(4)).min(rest);
            input[at..at + width].copy_from_slice(&edge[..width]);
        }
        3 => {
            // A little more or less than what stood there.
            let by = prng.below(33) as u8;
            input[at] = input[at].wrapping_add(by).wrapping_sub(16);
        }
        4 => input.truncate(at),
        5 => {
            let length = prng.below(64.min(rest as u64)) as usize;
            input.drain(at..at + length);
        }
        6 => {
            let mut piece = vec![0; prng.below(64) as usize];
            prng.fill(&mut piece);
            input.splice(at..at, piece);
        }
        7 => {
            let length = prng.below(rest as u64 + 1) as usize;
            if input.len() + length <= INPUT_BYTES_MAX {
                let piece = input[at..at + length].to_vec();
                input.extend_from_slice(&piece);
            }
        }
        _ => {
            let to = prng.below(input.len() as u64) as usize;
            let length = prng.below(rest.min(input.len() - to) as u64 + 1) as usize;
            input.copy_within(at..at + length, to);
        }
    }
}
