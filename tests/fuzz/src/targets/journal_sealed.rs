//! Recovery and reading of a journal whose files somebody wrote who can compute checksums: the damage of `journal.rs`, with
//! every checksum of a changed file mended. Nothing can tell such bytes from good ones, so what comes back may be anything; it
//! must come back without harm, within memory, and the same every time.

use crate::journal::damage::{self, Damaged};
use crate::journal::owner::PARTITIONS;
use crate::journal::sealing;
use crate::outcome::Outcome;
use crate::targets::{Target, journal};
use tiderace_base::limits::{BATCH_HEADER_BYTES, MIB};
use tiderace_wire::batch::BatchHeader;

/// See the module.
pub const TARGET: Target = Target {
    name: "journal-sealed",
    reads: "`storage::open` and `Journal::read`: a journal's directory from a hostile writer",
    holds: "no panic, bounded memory, every entry that is told or read passes its own checks, refused or the same twice",
    run,
    samples: journal::samples,
    seal: None,
    words: &[],
    bytes_max: 1 + damage::STEPS_MAX * damage::STEP_BYTES,
    held_bytes_max: 6 * MIB,
    runs_in_tests: 3_000,
};

/// Runs one input.
#[must_use]
pub fn run(input: &[u8]) -> Outcome {
    let Damaged {
        written,
        mut disk,
        touched,
    } = damage::apply(input);
    for file in touched {
        if let Some(mut bytes) = disk.bytes(file) {
            sealing::seal(file, &mut bytes);
            disk.put(file, &bytes);
        }
    }
    let mut driven = match journal::recovered_twice(disk, written) {
        Ok(recovered) => recovered.driven,
        Err(outcome) => return outcome,
    };
    for number in 0..PARTITIONS {
        let mut from = 0;
        for _ in 0..12 {
            let Some(answer) = driven.read(number, from, 64 * 1024) else {
                break;
            };
            let Ok(found) = answer else {
                from += 20;
                continue;
            };
            for bytes in &found.batches {
                let header = BatchHeader::parse(bytes).expect("a whole batch");
                let body = &bytes[BATCH_HEADER_BYTES..];
                assert_eq!(header.check_producer(body.len()), Ok(()));
                assert_eq!(header.check_placement(), Ok(()));
                assert_eq!(header.check_body(body), Ok(()));
            }
            assert!(found.next.get() > from, "a read moves on");
            from = found.next.get();
        }
    }
    driven.settle();
    Outcome::Taken("Recovered")
}
