//! Old images: the whole directory as it was some time ago, which no disk can tell from the truth, and directories whose
//! journals, or whose files, are of two moments. The first starts, consistently, at the old state: that is a lie of the disk,
//! and listed. Of the others the oracle tells which are refused, because a journal has run less often than the catalogue knows
//! or holds an epoch that it does not, and which are lies as well, because everything lies within one run of the node.

use crate::cycles::{Failure, Plan, Progress, Summary, guarded, in_parallel};
use crate::directory::Directory;
use crate::oracle::{self, CONTROL, Expected};
use crate::served::{Outcome, Trial, judge};

use crate::settled::{self, Image, SHARDS, Settled};
use integration::runtime;
use integration::scratch::Scratch;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use tiderace_base::prng::Prng;

/// Cycles for which one directory is made.
const SETTLED_CYCLES: u64 = 25;
/// What is lost may have been anywhere.
const MIXED: Trial = Trial {
    again: false,
    is_elsewhere: true,
};

/// What a directory is put together from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mix {
    /// One image.
    Whole,
    /// Journals of two images.
    Journals,
    /// Files of two images, within one journal.
    Files,
}

impl Mix {
    const fn name(self) -> &'static str {
        match self {
            Self::Whole => "one old image",
            Self::Journals => "journals of two images",
            Self::Files => "files of two images",
        }
    }
}

/// Runs it.
///
/// # Errors
/// What must not have come.
pub fn run(plan: &Plan, tell: &(dyn Fn(&str) + Sync)) -> Result<Summary, Failure> {
    let progress = Progress::new("image", tell);
    let summary = Mutex::new(Summary::default());
    let numbers = plan.numbers();
    let mut first = None;
    let mut from = numbers.start - numbers.start % SETTLED_CYCLES;
    while from < numbers.end {
        let own = from.max(numbers.start)..(from + SETTLED_CYCLES).min(numbers.end);
        let at = AtomicU64::new(own.start);
        let made = guarded(&at, || {
            settled::make(&mut plan.choices(!(from / SETTLED_CYCLES)))
        });
        let settled = made.map_err(Failure::Violated)?;
        let ran = in_parallel(plan, own, tell, |cycle| {
            let (mix, outcome) = one(plan, cycle, &settled, tell);
            let mut summary = summary.lock().expect("nobody panics with it");
            summary.add(format!("{}: {}", mix.name(), outcome.name()), 1);
            summary.cycles += 1;
            progress.step(&summary);
        });
        if let Err(violation) = ran {
            if !plan.keep_going {
                return Err(Failure::Violated(violation));
            }
            first.get_or_insert(violation);
        }
        from += SETTLED_CYCLES;
    }
    match first {
        Some(violation) => Err(Failure::Violated(violation)),
        None => Ok(summary.into_inner().expect("nobody panics with it")),
    }
}

fn one(plan: &Plan, cycle: u64, settled: &Settled, tell: &(dyn Fn(&str) + Sync)) -> (Mix, Outcome) {
    let mut prng = plan.choices(cycle);
    let mix = match prng.below(4) {
        0 => Mix::Whole,
        1 | 2 => Mix::Journals,
        _ => Mix::Files,
    };
    let count = settled.images.len() as u64;
    let old = prng.below(count - 1) as usize;
    let new = prng.range(old as u64 + 1, count) as usize;
    let (old_image, new_image) = (&settled.images[old], &settled.images[new]);
    let (directory, control, what) = put_together(&mut prng, mix, old_image, new_image);
    let what = format!("{} ({old} and {new} of {count}): {what}", mix.name());
    let expected = oracle::expect(&directory, SHARDS, &control.committed);
    // What lay in damaged places is told by the newer one, which has all that the older one has.
    let mut was = match mix {
        Mix::Whole => old_image.clone(),
        Mix::Journals | Mix::Files => new_image.clone(),
    };
    if let (Mix::Journals, Expected::Runs { control, .. }) = (mix, &expected) {
        // An old catalogue is told from what the shards hold, or not at all: it has forgotten nothing in the middle.
        was.control = (**control).clone();
    }
    if plan.only.is_some() {
        tell(&format!("{what}; expected: {expected:?}"));
    }
    let scratch = Scratch::new("torture-image");
    let runtime = runtime();
    let judged = guarded(&AtomicU64::new(cycle), || {
        judge(
            &scratch, &runtime, &directory, &expected, &was, settled, MIXED,
        )
    });
    match judged {
        // Everything that came after it is gone, and nobody can tell.
        Ok(Outcome::Whole) if mix == Mix::Whole => (mix, Outcome::Lie),
        Ok(outcome) => (mix, outcome),
        Err(violation) => {
            directory.write(&scratch.join("mixed"));
            panic!("{what}: {}", violation.what);
        }
    }
}

/// The directory, the image whose catalogue it has, and what was taken from where.
fn put_together<'a>(
    prng: &mut Prng,
    mix: Mix,
    old: &'a Image,
    new: &'a Image,
) -> (Directory, &'a Image, String) {
    let folders: Vec<String> = (0..SHARDS)
        .map(oracle::shard_folder)
        .chain([CONTROL.to_owned()])
        .collect();
    match mix {
        Mix::Whole => (old.directory.clone(), old, "all of it".to_owned()),
        Mix::Journals => {
            let mut directory = new.directory.clone();
            // At least one is old and one is new.
            let mask = prng.range(1, (1 << folders.len()) - 1);
            let mut taken = Vec::new();
            for (bit, folder) in folders.iter().enumerate() {
                if mask & (1 << bit) != 0 {
                    replace(&mut directory, &old.directory, folder);
                    taken.push(folder.as_str());
                }
            }
            let control = if taken.contains(&CONTROL) { old } else { new };
            (
                directory,
                control,
                format!("{} of the older", taken.join(", ")),
            )
        }
        Mix::Files => {
            let mut directory = new.directory.clone();
            let folder = &folders[prng.below(folders.len() as u64) as usize];
            let prefix = format!("{folder}/");
            let both = old.directory.names().chain(new.directory.names());
            let names: BTreeSet<&str> = both.filter(|name| name.starts_with(&prefix)).collect();
            let mut taken = Vec::new();
            for name in names {
                if prng.chance(1, 2) {
                    directory.put(name, old.directory.get(name).cloned());
                    taken.push(name);
                }
            }
            (directory, new, format!("{} of the older", taken.join(", ")))
        }
    }
}

fn replace(directory: &mut Directory, by: &Directory, folder: &str) {
    for name in directory.journal(folder).keys() {
        directory.put(&format!("{folder}/{name}"), None);
    }
    for (name, bytes) in by.journal(folder) {
        directory.put(&format!("{folder}/{name}"), Some(bytes));
    }
}
