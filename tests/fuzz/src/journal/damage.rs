//! Damage, as an input tells it: which journal, then up to eight steps of eight bytes, each a kind, a file, a place and a number.
//! Every input is a legal one, so that any change of it is another damage and not a syntax error. Places fall where a file
//! holds something, and half of them on the first bytes of a block, where headers lie.

use crate::journal::disk::ImageDisk;
use crate::journal::written::{self, Written};
use std::collections::BTreeSet;
use tiderace_base::disk::JournalFile;
use tiderace_base::limits::BLOCK_BYTES;
use tiderace_base::prng::Prng;

/// Bytes of one step.
pub(crate) const STEP_BYTES: usize = 8;
/// Steps that count; what follows is left out.
pub(crate) const STEPS_MAX: usize = 8;
/// A file never grows beyond its length and so much.
const GROWTH_BYTES_MAX: usize = 16 * BLOCK_BYTES;
/// Bytes of a block that hold headers and the first rows behind them.
const HEADER_BYTES: usize = 512;

/// Numbers that fields are set to.
const NUMBERS: &[u64] = &[
    0,
    1,
    2,
    127,
    128,
    4096,
    65_535,
    65_536,
    1 << 20,
    1 << 31,
    u32::MAX as u64,
    1 << 32,
    1 << 63,
    u64::MAX - 4096,
    u64::MAX - 1,
    u64::MAX,
];

/// A damaged disk, and what is known of what was on it.
pub(crate) struct Damaged {
    pub(crate) written: &'static Written,
    pub(crate) disk: ImageDisk,
    /// Files that a step changed.
    pub(crate) touched: BTreeSet<JournalFile>,
}

/// What an input means.
pub(crate) fn apply(input: &[u8]) -> Damaged {
    let (which, steps) = input.split_first().unwrap_or((&0, &[]));
    let written = &written::ALL[usize::from(*which) % written::ALL.len()];
    let mut damaged = Damaged {
        written,
        disk: written.disk.clone(),
        touched: BTreeSet::new(),
    };
    for step in steps.as_chunks::<STEP_BYTES>().0.iter().take(STEPS_MAX) {
        damaged.step(*step);
    }
    damaged
}

impl Damaged {
    fn step(&mut self, step: [u8; STEP_BYTES]) {
        let [
            kind,
            file,
            block_a,
            block_b,
            fine_a,
            fine_b,
            number_a,
            number_b,
        ] = step;
        let names = self.disk.names();
        if names.is_empty() {
            return;
        }
        let name = names[usize::from(file) % names.len()];
        let number = u16::from_le_bytes([number_a, number_b]);
        let block = usize::from(u16::from_le_bytes([block_a, block_b]));
        let fine = usize::from(u16::from_le_bytes([fine_a, fine_b]));
        let (at, start) = self.place(name, block, fine);
        let other = names[usize::from(number) % names.len()];
        self.touched.insert(name);
        match kind % 18 {
            0 | 1 => {
                let mut byte = self.disk.piece(name, at, 1);
                for byte in &mut byte {
                    *byte ^= 1 << (number % 8);
                }
                self.disk.patch(name, at, &byte);
            }
            2 => self.disk.patch(name, start, &[0; BLOCK_BYTES]),
            3 => {
                let (_, from) = self.place(name, usize::from(number), 0);
                let bytes = self.disk.piece(name, from, BLOCK_BYTES);
                self.disk.patch(name, start, &bytes);
            }
            4 => {
                let (_, from) = self.place(other, fine, 0);
                let bytes = self.disk.piece(other, from, BLOCK_BYTES);
                self.disk.patch(name, start, &bytes);
            }
            5 => {
                let (_, second) = self.place(name, usize::from(number), 0);
                let one = self.disk.piece(name, start, BLOCK_BYTES);
                let two = self.disk.piece(name, second, BLOCK_BYTES);
                self.disk.patch(name, start, &two);
                self.disk.patch(name, second, &one);
            }
            6 => self.disk.set_len(name, at.min(self.disk.len(name))),
            7 => self.disk.set_len(name, start.min(self.disk.len(name))),
            8 => self.disk.drop_file(name),
            9 => {
                let mut bytes = vec![0; usize::from(number) % 6000];
                Prng::new(u64::from(number)).fill(&mut bytes);
                self.disk.patch(name, at, &bytes);
            }
            10 => {
                let bytes = vec![0xff; usize::from(number) % 6000];
                self.disk.patch(name, at, &bytes);
            }
            11..=13 => self.set_number(name, at, number),
            14 => {
                let len = self.disk.len(name) + fine % GROWTH_BYTES_MAX;
                self.disk.set_len(name, len);
            }
            15 => {
                let one = self.disk.clone();
                self.disk.put_from(name, &one, other);
                self.disk.put_from(other, &one, name);
                self.touched.insert(other);
            }
            // The file as it was earlier: lost writes, or an older copy that somebody put back.
            16 => self.disk.put_from(name, &self.written.older, name),
            _ => {
                // A file that was never there, or in the place of one that was.
                let mut stranger = u64::from(block_a % 24);
                if block_b % 4 == 0 {
                    stranger = NUMBERS[usize::from(block_a) % NUMBERS.len()];
                }
                let stranger = match number % 3 {
                    0 => JournalFile::Segment(stranger as u32),
                    1 => JournalFile::Footer(stranger as u32),
                    _ => JournalFile::Checkpoint(stranger),
                };
                let from = self.disk.clone();
                self.disk.put_from(stranger, &from, name);
                self.touched.insert(stranger);
            }
        }
    }

    /// A place in a file where it holds something: of a byte, and of its block.
    fn place(&self, name: JournalFile, block: usize, fine: usize) -> (usize, usize) {
        let blocks = self.disk.telling_blocks(name);
        let block = blocks
            .get(block % blocks.len().max(1))
            .copied()
            .unwrap_or(0);
        let reach = if fine.is_multiple_of(2) {
            HEADER_BYTES
        } else {
            BLOCK_BYTES
        };
        let start = block * BLOCK_BYTES;
        (start + (fine / 2) % reach, start)
    }

    /// Sets, or moves by a little, a field of 1, 2, 4 or 8 bytes.
    fn set_number(&mut self, name: JournalFile, at: usize, number: u16) {
        let width = 1 << (number & 3);
        let at = at - at % width;
        let mut raw = [0; 8];
        let bytes = self.disk.piece(name, at, width);
        raw[..bytes.len()].copy_from_slice(&bytes);
        let old = u64::from_le_bytes(raw);
        let choice = usize::from(number >> 3);
        let new = match number & 4 {
            0 => NUMBERS[choice % NUMBERS.len()],
            _ => old.wrapping_add(choice as u64 % 34).wrapping_sub(17),
        };
        self.disk.patch(name, at, &new.to_le_bytes()[..width]);
    }
}
