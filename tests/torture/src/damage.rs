//! One damage to a settled directory for each cycle: the kinds of damage take turns, which file and which part of it is drawn. What
//! has to come of it
//! is told by the oracle before a node sees the bytes; then a node is started on them and held against it. Besides, a coarse
//! table says which outcomes a kind of damage may have at all: `docs/torture.md` shows it, and a test compares the two.
//!
//! Places are drawn, and directories are made by real nodes: the same seed and cycle choose the same kind of damage in the same
//! kind of file of a directory that was made in the same way, not the same bytes.

use crate::cycles::{Failure, Plan, Progress, Summary, guarded, in_parallel};
use crate::directory::Directory;
use crate::oracle::format::{BLOCK, COPY_BYTES, Copy};
use crate::oracle::{self, CONTROL, Expected, Log};
use crate::served::{Outcome, Trial, judge};
use crate::settled::{self, Image, SHARDS, Settled};
use integration::runtime;
use integration::scratch::Scratch;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use tiderace_base::prng::Prng;

/// Cycles for which one directory is made.
const SETTLED_CYCLES: u64 = 50;
/// Draws of which each may come to nothing, because the directory has no such file or the change changes nothing.
const DRAWS_MAX: u32 = 200;

/// What is damaged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Target {
    /// A copy of the superblock: the newest, the other one, or whatever the whole file holds.
    Superblock,
    /// The first block of a segment's file.
    Header,
    /// Chunks that others follow.
    Body,
    /// The last two chunks of the log.
    Tail,
    /// What lies behind the log's end in its last file.
    Behind,
    /// A footer.
    Footer,
    /// A part of the newest or of the previous checkpoint.
    Checkpoint,
    /// A segment's file that is free.
    Spare,
    /// The file `layout`.
    Layout,
}

impl Target {
    /// Every target.
    pub const ALL: [Self; 9] = [
        Self::Superblock,
        Self::Header,
        Self::Body,
        Self::Tail,
        Self::Behind,
        Self::Footer,
        Self::Checkpoint,
        Self::Spare,
        Self::Layout,
    ];

    /// Its name in the summary and in `docs/torture.md`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Superblock => "superblock",
            Self::Header => "segment header",
            Self::Body => "segment body",
            Self::Tail => "segment tail",
            Self::Behind => "behind the end",
            Self::Footer => "footer",
            Self::Checkpoint => "checkpoint part",
            Self::Spare => "spare file",
            Self::Layout => "layout",
        }
    }
}

/// How it is damaged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Rot {
    /// One bit is another.
    Bit,
    /// 512 bytes are zeros.
    Sector,
    /// 4096 bytes are zeros.
    Block,
    /// The file ends early.
    Truncated,
    /// The file is gone.
    Removed,
    /// The file and another one of its kind have changed places.
    Swapped,
    /// The file is as it was some time ago.
    Old,
    /// A block holds what was written to another place of this file or of one of its kind.
    Misplaced,
}

impl Rot {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::Bit,
        Self::Sector,
        Self::Block,
        Self::Truncated,
        Self::Removed,
        Self::Swapped,
        Self::Old,
        Self::Misplaced,
    ];

    /// Its name in the summary and in `docs/torture.md`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bit => "bit",
            Self::Sector => "512 zeros",
            Self::Block => "4096 zeros",
            Self::Truncated => "truncated",
            Self::Removed => "removed",
            Self::Swapped => "swapped",
            Self::Old => "old",
            Self::Misplaced => "misplaced",
        }
    }
}

/// One damage.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// What.
    pub target: Target,
    /// How.
    pub rot: Rot,
    /// Of which file.
    pub file: String,
    /// Where, for people.
    pub place: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} ({}): {}",
            self.rot.name(),
            self.target.name(),
            self.file,
            self.place
        )
    }
}

/// Runs it.
///
/// # Errors
/// What must not have come.
pub fn run(plan: &Plan, tell: &(dyn Fn(&str) + Sync)) -> Result<Summary, Failure> {
    let progress = Progress::new("damage", tell);
    let summary = Mutex::new(Summary::default());
    let numbers = plan.numbers();
    let mut first = None;
    let mut from = numbers.start - numbers.start % SETTLED_CYCLES;
    while from < numbers.end {
        let own = from.max(numbers.start)..(from + SETTLED_CYCLES).min(numbers.end);
        let at = AtomicU64::new(own.start);
        // Which directory it is depends on the cycles' common number alone.
        let made = guarded(&at, || {
            settled::make(&mut plan.choices(!(from / SETTLED_CYCLES)))
        });
        let settled = made.map_err(Failure::Violated)?;
        let ran = in_parallel(plan, own, tell, |cycle| {
            let outcome = one(plan, cycle, &settled, tell);
            let mut summary = summary.lock().expect("nobody panics with it");
            if let Some((damage, outcome)) = outcome {
                summary.add(outcome.name(), 1);
                let (target, rot) = (damage.target.name(), damage.rot.name());
                summary.add(format!("{target}, {rot}: {}", outcome.name()), 1);
            } else {
                summary.add("nothing of the kind", 1);
            }
            summary.cycles += 1;
            progress.step(&coarse(&summary));
        });
        if let Err(violation) = ran {
            if !plan.keep_going {
                return Err(Failure::Violated(violation));
            }
            first.get_or_insert(violation);
        }
        from += SETTLED_CYCLES;
    }
    if let Some(violation) = first {
        return Err(Failure::Violated(violation));
    }
    Ok(summary.into_inner().expect("nobody panics with it"))
}

/// The outcomes alone.
fn coarse(summary: &Summary) -> Summary {
    let mut coarse = summary.clone();
    coarse.counts.retain(|name, _| !name.contains(", "));
    coarse
}

/// Damages, tells, starts and judges. None: there is nothing to damage.
fn one(
    plan: &Plan,
    cycle: u64,
    settled: &Settled,
    tell: &(dyn Fn(&str) + Sync),
) -> Option<(Damage, Outcome)> {
    let mut prng = plan.choices(cycle);
    let was = settled.last();
    let kinds = kinds();
    let kind = kinds[(cycle % kinds.len() as u64) as usize];
    let (directory, damage) = draw(&mut prng, settled, kind)?;
    let again = prng.chance(1, 6);
    let expected = match damage.target {
        Target::Layout => Expected::Refused {
            exits: vec![64],
            words: vec!["layout".to_owned()],
        },
        _ => oracle::expect(&directory, SHARDS, &was.committed),
    };
    if plan.only.is_some() {
        tell(&format!("{damage}; expected: {expected:?}"));
    }
    let scratch = Scratch::new("torture-damage");
    let runtime = runtime();
    let judged = guarded(&AtomicU64::new(cycle), || {
        judge(
            &scratch,
            &runtime,
            &directory,
            &expected,
            was,
            settled,
            Trial {
                again,
                is_elsewhere: matches!(damage.rot, Rot::Old | Rot::Swapped),
            },
        )
    });
    let outcome = match judged {
        Ok(outcome) => outcome,
        Err(violation) => {
            was.directory.write(&scratch.join("before"));
            directory.write(&scratch.join("damaged"));
            panic!("{damage}: {}", violation.what);
        }
    };
    let allowed = allowed(damage.target, damage.rot);
    assert!(
        allowed.contains(&outcome),
        "{damage} came out as {outcome:?}, which may be {allowed:?} only"
    );
    Some((damage, outcome))
}

/// What a kind of damage may come to; nothing: it is not tried. Where the place decides, the oracle tells.
#[must_use]
pub const fn allowed(target: Target, rot: Rot) -> &'static [Outcome] {
    use Outcome::{Lie, Named, Refused, Repaired, Whole};
    match (target, rot) {
        (Target::Layout, Rot::Removed) => &[Refused],
        // Its other damages are told apart by what its text then means.
        (Target::Layout, _) => &[],
        (Target::Superblock, Rot::Bit | Rot::Sector | Rot::Block | Rot::Misplaced) => {
            &[Whole, Repaired]
        }
        // A second copy that was never written is not missed.
        (Target::Superblock, Rot::Truncated) => &[Whole, Repaired, Refused],
        (Target::Superblock, Rot::Removed | Rot::Swapped) => &[Refused],
        (Target::Superblock, Rot::Old) => &[Whole, Repaired, Refused],
        // A segment that was never begun needs no header, and one that is empty looks like one that was never begun.
        (Target::Header, Rot::Truncated) => &[Whole, Refused, Named, Lie],
        (Target::Header, Rot::Bit | Rot::Sector | Rot::Block | Rot::Misplaced) => {
            &[Whole, Refused, Named]
        }
        // The last chunks may have been under way together.
        (Target::Body, Rot::Bit | Rot::Sector | Rot::Block | Rot::Misplaced | Rot::Truncated) => {
            &[Refused, Named, Lie]
        }
        // A closing chunk holds nothing.
        (Target::Tail, Rot::Bit | Rot::Sector | Rot::Block | Rot::Misplaced | Rot::Truncated) => {
            &[Whole, Refused, Lie]
        }
        (Target::Behind, Rot::Bit | Rot::Sector | Rot::Block | Rot::Misplaced | Rot::Truncated) => {
            &[Whole]
        }
        (Target::Header | Target::Body | Target::Tail | Target::Behind, Rot::Removed) => &[Refused],
        // The file of the newest segment may be found where it is now.
        (
            Target::Header | Target::Body | Target::Tail | Target::Behind | Target::Spare,
            Rot::Swapped,
        )
        | (Target::Header | Target::Body | Target::Tail | Target::Behind, Rot::Old) => {
            &[Whole, Repaired, Refused, Named, Lie]
        }
        (Target::Footer, _) => &[Whole, Repaired],
        // A part's number never comes again.
        (Target::Checkpoint, Rot::Old) => &[],
        // Both checkpoints may build on the part, and the log may not reach back to its beginning any more.
        (Target::Checkpoint, _) => &[Whole, Repaired, Refused],
        (Target::Spare, _) => &[Whole],
    }
}

/// Every kind of damage that is tried.
#[must_use]
pub fn kinds() -> Vec<(Target, Rot)> {
    let all = Target::ALL
        .into_iter()
        .flat_map(|target| Rot::ALL.map(|rot| (target, rot)));
    all.filter(|(target, rot)| !allowed(*target, *rot).is_empty())
        .collect()
}

/// Draws a place for a kind of damage, such that it makes a difference. None: so many draws came to nothing.
fn draw(
    prng: &mut Prng,
    settled: &Settled,
    (target, rot): (Target, Rot),
) -> Option<(Directory, Damage)> {
    let was = settled.last();
    for _ in 0..DRAWS_MAX {
        let journals: Vec<(String, &Log)> = was.journals().collect();
        let place = match prng.below(8) {
            0..=2 => 0,
            3..=5 => 1,
            _ => 2,
        };
        let (folder, log) = &journals[place];
        let Some((file, region)) = region(prng, was, folder, log, target) else {
            continue;
        };
        let mut directory = was.directory.clone();
        let Some(place) = apply(prng, &mut directory, settled, folder, &file, region, rot) else {
            continue;
        };
        if directory != was.directory {
            let damage = Damage {
                target,
                rot,
                file,
                place,
            };
            return Some((directory, damage));
        }
    }
    None
}

fn pick<'a, T>(prng: &mut Prng, some: &'a [T]) -> Option<&'a T> {
    some.get(prng.below(some.len().max(1) as u64) as usize)
}

/// A file of the target's kind, and which bytes of it count.
fn region(
    prng: &mut Prng,
    was: &Image,
    folder: &str,
    log: &Log,
    target: Target,
) -> Option<(String, Range<usize>)> {
    let path = |name: &str| format!("{folder}/{name}");
    let length = |path: &str| was.directory.get(path).map(|file| file.len());
    let whole = |path: String| {
        let bytes = length(&path)?;
        Some((path, 0..bytes))
    };
    match target {
        Target::Superblock => {
            let path = path("superblock");
            let copy = prng.below(2);
            let from = copy as usize * COPY_BYTES;
            // Mostly where it is written: the blocks behind keep what they held.
            let file = was.directory.get(&path)?;
            let is_written = matches!(Copy::of(file, copy), Copy::Valid(_));
            let bytes = if is_written && prng.chance(7, 8) {
                1024
            } else {
                COPY_BYTES
            };
            Some((path, from..from + bytes))
        }
        Target::Header => {
            let mut files: Vec<u32> = log.segments.iter().map(|it| it.file).collect();
            files.push(log.active);
            let file = pick(prng, &files)?;
            Some((path(&oracle::segment(*file)), 0..BLOCK))
        }
        Target::Body => {
            let segment = pick(prng, &log.segments)?;
            let is_last = log.segments.last() == Some(segment);
            let tail = if is_last { 2 } else { 0 };
            let chunks = segment.chunks.len().saturating_sub(tail);
            let (at, bytes, _) = pick(prng, &segment.chunks[..chunks])?;
            Some((path(&segment.name()), *at..at + bytes))
        }
        Target::Tail => {
            let segment = log.segments.last()?;
            let last = segment.chunks.len().saturating_sub(2);
            let (at, bytes, _) = pick(prng, &segment.chunks[last..])?;
            Some((path(&segment.name()), *at..at + bytes))
        }
        Target::Behind => {
            let segment = log.segments.last()?;
            let end = BLOCK + usize::try_from(segment.end - segment.start).expect("small");
            let path = path(&segment.name());
            let bytes = length(&path)?;
            (end < bytes).then_some((path, end..bytes))
        }
        Target::Footer => {
            let segment = pick(prng, &log.segments)?;
            whole(path(&format!("footer-{:08}", segment.file)))
        }
        Target::Checkpoint => {
            let (newest, previous) = &log.parts;
            let parts: Vec<u64> = newest.iter().chain(previous).copied().collect();
            whole(path(&oracle::part(*pick(prng, &parts)?)))
        }
        Target::Spare => {
            let used: Vec<String> = log.segments.iter().map(|it| path(&it.name())).collect();
            let active = path(&oracle::segment(log.active));
            let prefix = path("segment-");
            let names = was.directory.names();
            let spares: Vec<&str> = names
                .filter(|name| name.starts_with(&prefix))
                .filter(|name| *name != active && !used.iter().any(|used| used == name))
                .collect();
            whole((*pick(prng, &spares)?).to_owned())
        }
        Target::Layout => whole("layout".to_owned()),
    }
}

/// Does it. None: there is nothing to do it with.
fn apply(
    prng: &mut Prng,
    directory: &mut Directory,
    settled: &Settled,
    folder: &str,
    file: &str,
    region: Range<usize>,
    rot: Rot,
) -> Option<String> {
    let at = region.start + prng.below(region.len() as u64) as usize;
    let before = Arc::clone(directory.get(file)?);
    let zeroed = |directory: &mut Directory, unit: usize| {
        let from = at - at % unit;
        let to = (from + unit).min(before.len());
        directory.change(file, |bytes| bytes[from..to].fill(0));
        format!("bytes {from}..{to}")
    };
    match rot {
        Rot::Bit => {
            let bit = prng.below(8);
            directory.change(file, |bytes| bytes[at] ^= 1 << bit);
            Some(format!("bit {bit} of byte {at}"))
        }
        Rot::Sector => Some(zeroed(directory, 512)),
        Rot::Block => Some(zeroed(directory, BLOCK)),
        Rot::Truncated => {
            let unit = if prng.chance(1, 2) { BLOCK } else { 512 };
            let to = at - at % unit;
            directory.change(file, |bytes| bytes.truncate(to));
            Some(format!("to {to} of {} bytes", before.len()))
        }
        Rot::Removed => {
            directory.put(file, None);
            Some("gone".to_owned())
        }
        Rot::Swapped => {
            let other = alike(prng, directory, folder, file)?;
            let theirs = directory.get(&other).cloned();
            directory.put(file, theirs);
            directory.put(&other, Some(before));
            Some(format!("with {other}"))
        }
        Rot::Old => {
            let pasts = &settled.images[..settled.images.len() - 1];
            let past = pick(prng, pasts)?;
            let old = past.directory.get(file)?;
            let start = past.committed.boots;
            // A write that was lost leaves one copy as it was.
            if file.ends_with("superblock") && prng.chance(1, 2) {
                let copy = prng.below(2) as usize;
                let range = copy * COPY_BYTES..(copy + 1) * COPY_BYTES;
                let old = old.get(range.clone())?;
                directory.change(file, |bytes| bytes[range].copy_from_slice(old));
                return Some(format!("copy {copy} as at start {start}"));
            }
            directory.put(file, Some(Arc::clone(old)));
            Some(format!("as at start {start}"))
        }
        Rot::Misplaced => {
            let other = if prng.chance(1, 2) {
                file.to_owned()
            } else {
                alike(prng, directory, folder, file)?
            };
            let source = Arc::clone(directory.get(&other)?);
            let from = prng.below((source.len() / BLOCK) as u64) as usize * BLOCK;
            let to = at - at % BLOCK;
            let block = source.get(from..from + BLOCK)?;
            directory.change(file, |bytes| {
                let length = bytes.len().min(to + BLOCK) - to;
                bytes[to..to + length].copy_from_slice(&block[..length]);
            });
            Some(format!("block {from} of {other} at {to}"))
        }
    }
}

/// Another file of the same kind: in the same journal, or, where that has only one, in another.
fn alike(prng: &mut Prng, directory: &Directory, folder: &str, file: &str) -> Option<String> {
    let name = file.strip_prefix(folder)?.strip_prefix('/')?;
    let kind = name.split('-').next()?;
    let is_alike = |other: &&str| {
        let is_its = if kind == "superblock" {
            !other.starts_with(CONTROL) && !file.starts_with(CONTROL)
        } else {
            other.starts_with(folder)
        };
        let their_name = other.split_once('/').map_or("", |(_, name)| name);
        is_its && *other != file && their_name.split('-').next() == Some(kind)
    };
    let others: Vec<&str> = directory.names().filter(is_alike).collect();
    pick(prng, &others).map(|other| (*other).to_owned())
}
