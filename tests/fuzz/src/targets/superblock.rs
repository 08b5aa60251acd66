//! One copy of a superblock, read by a start of a small journal whose other files are good. Everything that a start believes
//! first stands there. The first byte of an input says which copy it is (bit 0) and whether the other one is kept (bit 1).

use crate::journal::sealing::{self, COPY_BYTES};
use crate::journal::written;
use crate::outcome::Outcome;
use crate::targets::{Sample, Target, journal};
use tiderace_base::disk::JournalFile;
use tiderace_base::limits::{KIB, MIB};

/// See the module.
pub const TARGET: Target = Target {
    name: "superblock",
    reads: "`storage::open`: a copy of the superblock, from a disk or a hostile writer",
    holds: "no panic and bounded memory; refused by name with nothing changed, or what comes back comes back twice",
    run,
    samples,
    seal: Some(|bytes| seal(bytes)),
    words: &[],
    bytes_max: 5 * KIB,
    held_bytes_max: 6 * MIB,
    runs_in_tests: 3_000,
};

/// The journal that is started: one with checkpoints and footers.
const WHICH: usize = 2;

/// Runs one input.
#[must_use]
pub fn run(input: &[u8]) -> Outcome {
    let Some((flags, bytes)) = input.split_first() else {
        return Outcome::Refused("Short");
    };
    let written = &written::ALL[WHICH];
    let mut disk = written.disk.clone();
    let (own, other) = if flags & 1 == 0 {
        (0, COPY_BYTES)
    } else {
        (COPY_BYTES, 0)
    };
    let mut copy = vec![0; 8 * KIB];
    let count = bytes.len().min(copy.len());
    copy[..count].copy_from_slice(&bytes[..count]);
    disk.patch(JournalFile::Superblock, own, &copy);
    if flags & 2 == 0 {
        disk.patch(JournalFile::Superblock, other, &[0; 8 * KIB]);
    }
    match journal::recovered_twice(disk, written) {
        Ok(mut recovered) => {
            recovered.driven.settle();
            Outcome::Taken("Recovered")
        }
        Err(outcome) => outcome,
    }
}

/// The parity that a copy's generation must have, then both checksums.
fn seal(bytes: &mut [u8]) {
    let Some((flags, copy)) = bytes.split_first_mut() else {
        return;
    };
    if copy.len() > 16 {
        copy[16] = copy[16] & !1 | *flags & 1;
    }
    sealing::superblock(copy);
}

fn samples() -> Vec<Sample> {
    let mut inputs = Vec::new();
    for (which, written) in written::ALL.iter().enumerate() {
        for copy in 0..2_u8 {
            let at = usize::from(copy) * COPY_BYTES;
            let mut bytes = written.disk.piece(JournalFile::Superblock, at, 8 * KIB);
            let used = bytes
                .iter()
                .rposition(|byte| *byte != 0)
                .map_or(0, |last| last + 1);
            bytes.truncate(used);
            // The other copy is kept in half of them.
            let flags = copy | if which % 2 == 0 { 2 } else { 0 };
            inputs.push((
                format!("journal-{which}-copy-{copy}"),
                [&[flags], bytes.as_slice()].concat(),
            ));
        }
    }
    inputs
}
