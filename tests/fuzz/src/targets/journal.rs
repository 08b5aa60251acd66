//! Recovery and reading of a journal whose files rotted, were mixed up, cut, lost, or put back from an older copy, with checksums
//! as they were: a disk lies, and nobody means harm. An input is damage as `journal/damage.rs` reads it.

use crate::journal::damage::{self, Damaged};
use crate::journal::disk::ImageDisk;
use crate::journal::driver::{self, Driven};
use crate::journal::owner::{Owner, PARTITIONS};
use crate::journal::written::{self, Written};
use crate::outcome::Outcome;
use crate::targets::{Sample, Target};
use tiderace_base::checksum::crc32c;
use tiderace_base::limits::MIB;
use tiderace_base::prng::Prng;
use tiderace_storage::{Mark, OpenError, ReadError};

/// See the module.
pub const TARGET: Target = Target {
    name: "journal",
    reads: "`storage::open` and `Journal::read`: a journal's directory after damage of any kind",
    holds: "refused by name with nothing changed, or a prefix of what was appended, byte for byte; a second recovery \
            brings back the same; every read gives what was written at that offset or says that it is damaged; what is \
            appended afterwards is there after the next start",
    run,
    samples,
    seal: None,
    words: &[],
    bytes_max: 1 + damage::STEPS_MAX * damage::STEP_BYTES,
    held_bytes_max: 6 * MIB,
    runs_in_tests: 3_000,
};

/// Runs one input.
#[must_use]
pub fn run(input: &[u8]) -> Outcome {
    let Damaged { written, disk, .. } = damage::apply(input);
    let choice = crc32c(input);
    let Recovered { mut driven, .. } = match recovered_twice(disk, written) {
        Ok(recovered) => recovered,
        Err(outcome) => return outcome,
    };
    assert_eq!(driven.owner.strange, 0, "entries from nowhere");
    let count = is_a_prefix(&driven.owner, written);
    let came_back = reads_give_what_was_written(&mut driven, written, count);
    if choice.is_multiple_of(4) {
        goes_on(driven, written, choice);
    }
    Outcome::Taken(if count == written.entries.len() && came_back {
        "Whole"
    } else {
        "Prefix"
    })
}

/// What two recoveries in a row brought back.
pub(crate) struct Recovered {
    pub(crate) driven: Driven,
}

/// What of a recovery must be the same at the next one.
fn told(driven: &Driven) -> (Owner, u64, Vec<Mark>) {
    let marks = driven.journal.marks().to_vec();
    (driven.owner.clone(), driven.durable.get(), marks)
}

/// Recovers a disk, and what that left once more. A refusal changes nothing that the next start sees.
pub(crate) fn recovered_twice(disk: ImageDisk, written: &Written) -> Result<Recovered, Outcome> {
    let settings = |seed| driver::settings(seed, written.checkpoint_every_bytes);
    // An image shares its blocks with its copies.
    let before = disk.clone();
    let first = match driver::start(disk, settings(70_001)) {
        Ok(driven) => driven,
        Err((error, disk)) => {
            assert!(!error.to_string().is_empty());
            assert!(disk == before, "a refusal changes no byte");
            let again = driver::start(disk, settings(70_002)).err();
            let again = again.map(|(error, _)| error);
            assert_eq!(again.as_ref(), Some(&error), "a refusal changes nothing");
            return Err(Outcome::Refused(refusal(&error)));
        }
    };
    let expected = told(&first);
    let second = driver::start(first.disk, settings(70_002));
    let driven = second.unwrap_or_else(|(error, _)| panic!("refused after a recovery: {error}"));
    assert!(
        told(&driven) == expected,
        "the second recovery brings back {:?}, not {expected:?}",
        told(&driven)
    );
    Ok(Recovered { driven })
}

const fn refusal(error: &OpenError) -> &'static str {
    match error {
        OpenError::Disk { .. } => "Disk",
        OpenError::NoSpace { .. } => "NoSpace",
        OpenError::NotEmptyNoSuperblock { .. } => "NotEmptyNoSuperblock",
        OpenError::SuperblockDamaged => "SuperblockDamaged",
        OpenError::NewerVersion { .. } => "NewerVersion",
        OpenError::Damaged { .. } => "Damaged",
        OpenError::CheckpointDamaged { .. } => "CheckpointDamaged",
        OpenError::SettingsMismatch { .. } => "SettingsMismatch",
    }
}

/// How many of the entries came back: the first so many, all partitions together, and no others.
fn is_a_prefix(owner: &Owner, written: &Written) -> usize {
    let count = usize::try_from(owner.entries()).expect("entries fit memory");
    let expected = written.after.get(count).unwrap_or_else(|| {
        panic!(
            "{count} entries came back, and {} were written",
            written.entries.len()
        )
    });
    for number in 0..PARTITIONS {
        let found = owner.states.get(&number).copied().unwrap_or_default();
        assert_eq!(
            found, expected[number as usize],
            "partition {number} is not what it was after {count} entries"
        );
    }
    count
}

/// Whether every entry could be read.
fn reads_give_what_was_written(driven: &mut Driven, written: &Written, count: usize) -> bool {
    let entries = &written.entries[..count];
    let mut all = true;
    for number in 0..PARTITIONS {
        let own: Vec<_> = entries
            .iter()
            .filter(|entry| entry.partition == number)
            .collect();
        let mut at = 0;
        // A partition of some fifty entries is read in a few steps; damage is passed over by one entry each time.
        while let Some(entry) = own.get(at) {
            let Some(answer) = driven.read(number, entry.base, 64 * 1024) else {
                assert!(driven.fatal.is_some(), "a read has an answer");
                return false;
            };
            match answer {
                Ok(found) => {
                    assert!(!found.batches.is_empty(), "an answer has a batch");
                    for bytes in &found.batches {
                        let entry = own.get(at).expect("an entry was read that was not there");
                        assert!(
                            bytes[..] == entry.bytes[..],
                            "partition {number}: other bytes at offset {}",
                            entry.base
                        );
                        at += 1;
                    }
                    assert_eq!(found.next.get(), own[at - 1].next);
                }
                Err(ReadError::BelowStart(first)) => {
                    assert!(
                        first.get() > entry.base && first.get() <= written.starts[number as usize],
                        "partition {number}: {first} is not where it starts"
                    );
                    at = own
                        .iter()
                        .position(|entry| entry.next > first.get())
                        .unwrap_or(own.len());
                }
                Err(ReadError::AtEnd) => {
                    panic!(
                        "partition {number}: offset {} was recovered and is not there",
                        entry.base
                    )
                }
                Err(ReadError::Damaged { .. } | ReadError::Disk(_)) => {
                    all = false;
                    at += 8;
                }
            }
        }
    }
    all
}

/// What is appended after a recovery is there after the next start.
fn goes_on(mut driven: Driven, written: &Written, seed: u32) {
    let mut prng = Prng::new(u64::from(seed));
    driven.settle();
    for slot_seq in 1_000_000..1_000_002 {
        let partition = prng.below(PARTITIONS);
        let state = driven
            .owner
            .states
            .get(&partition)
            .copied()
            .unwrap_or_default();
        let drawn = written::draw(&mut prng, partition, state, slot_seq);
        if written::append(&mut driven, &drawn).is_err() {
            return;
        }
    }
    driven.settle();
    if driven.fatal.is_some() {
        return;
    }
    let expected = driven.owner.states.clone();
    let settings = driver::settings(70_003, written.checkpoint_every_bytes);
    let third = driver::start(driven.disk, settings);
    let third = third.unwrap_or_else(|(error, _)| panic!("refused after an append: {error}"));
    assert_eq!(third.owner.states, expected, "what was appended is there");
}

/// One step of every kind, on every journal.
pub(crate) fn samples() -> Vec<Sample> {
    let mut inputs: Vec<Sample> = (0..5_u8)
        .map(|which| (format!("undamaged-{which}"), vec![which]))
        .collect();
    for kind in 0..18_u8 {
        let mut input = vec![kind % 5];
        input.extend_from_slice(&[kind, kind, 1, 0, kind.wrapping_mul(9), 2, 3, 0]);
        input.extend_from_slice(&[kind, kind + 2, 2, 0, 40, 0, 12, 0]);
        inputs.push((format!("step-{kind:02}"), input));
    }
    inputs
}
