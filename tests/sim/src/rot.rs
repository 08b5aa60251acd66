//! Bytes rot at rest, under a node that runs or between its runs. A lone node cannot bring them back: what it owes is to say
//! so. Either it refuses to start, or it names the place, or what rotted was of no matter: then everything is there. To be
//! silent and to lack a record, or to serve a wrong one, must not happen. Nor must a refusal that does not name the file that
//! rotted, or one for what can be had from elsewhere: the other copy of the superblock, a footer, a checkpoint.

use std::sync::{Arc, Mutex};

use tiderace_base::disk::{Disk, JournalFile};
use tiderace_base::limits::BLOCK_BYTES;
use tiderace_base::prng::Prng;

use crate::history::Judge;
use crate::node::OneNode;
use crate::run::{Scenario, settle};
use crate::world::disk::SimDisk;
use crate::world::faults::Faults;
use crate::world::trace::Lines;
use crate::world::{Setup, World};

/// Long enough for some passes of the search, whatever the rate.
const PASSES_NS: u64 = 20_000_000_000;

/// Longer than a journal waits before it closes.
const PAUSE_NS: u64 = 100_000_000;

/// What the nodes of a run said of damage.
pub type Told = Arc<Mutex<Vec<String>>>;

/// How bytes rot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Rot {
    /// One bit is another.
    Bit,
    /// A block is zeros.
    Zeros,
    /// A block holds what was written to another one of the file.
    Misdirected,
    /// The file ends early. Not one of the log: an open segment without its end is an old image of itself, and nothing on
    /// its own disk tells (`docs/journal.md`, lies of the disk).
    Short,
    /// The file is gone.
    Lost,
}

impl Rot {
    /// Every kind.
    pub const ALL: [Self; 5] = [
        Self::Bit,
        Self::Zeros,
        Self::Misdirected,
        Self::Short,
        Self::Lost,
    ];
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Outcome {
    /// A start was refused.
    Refused,
    /// The node named it, and nothing wrong was served.
    Named,
    /// Nothing was said, and everything was there.
    OfNoMatter,
    /// What must not happen.
    Wrong(String),
}

/// What was done to one file, and what came of it.
#[derive(Clone, Debug)]
pub struct Case {
    /// What.
    pub rot: Rot,
    /// To which file.
    pub file: JournalFile,
    /// Whether the node ran.
    pub while_running: bool,
    /// What came of it.
    pub outcome: Outcome,
    /// The last lines of the trace, if they were to be kept.
    pub last_lines: Vec<String>,
}

/// A place that rotted.
#[derive(Clone, Copy, Debug)]
struct Decay {
    rot: Rot,
    file: JournalFile,
    /// The block, or where the file ends since.
    at: u64,
    /// How many bytes the file had.
    bytes: u64,
    /// Whether it is the newest of its kind.
    is_newest: bool,
    while_running: bool,
}

impl Decay {
    /// Whether something else says the same as what rotted: then it is no reason to refuse a start.
    fn is_elsewhere(&self) -> bool {
        match self.file {
            JournalFile::Footer(_) => true,
            // Both checkpoints may need an older part; whoever runs has all of it in memory, too.
            JournalFile::Checkpoint(_) => self.is_newest || self.while_running,
            JournalFile::Segment(_) => false,
            JournalFile::Superblock => match self.rot {
                Rot::Bit | Rot::Zeros | Rot::Misdirected => true,
                // Its second half is the second copy.
                Rot::Short => self.at >= self.bytes / 2,
                Rot::Lost => false,
            },
        }
    }
}

/// Runs a seed: clients work, everything settles, something rots, and every record is read. `None`: there was nothing yet.
#[must_use]
pub fn run(seed: u64, lines: Lines) -> Option<Case> {
    let prng = &mut Prng::new(seed ^ 0x0207);
    let setup = Setup {
        seed: prng.next_u64(),
        faults: Faults::none(),
        lines,
        mesh_limit: 64,
        receive_buffers: 128,
    };
    let mut world = World::new(setup, Judge::default());
    let told = Told::default();
    let population = prng.next_u64();
    OneNode::populate_telling(&mut world, population, &told);
    world.run(prng.range(500_000_000, 4_000_000_000), |_| false);
    world.heal();
    settle(&mut world);
    if let Some(violation) = world.judge.violation() {
        panic!("seed {seed}: nothing rots yet, and {violation}");
    }

    // The closing chunk: before it nothing tells the last chunk that rotted from one that was torn. J-13
    let until_ns = world.now_ns() + PAUSE_NS;
    world.run(until_ns, |_| false);
    let while_running = prng.chance(1, 2);
    if !while_running {
        world.cut_power(0);
    }
    let disks = world.disks(0);
    let machine = prng.below(disks.len() as u64) as usize;
    let disk = &mut disks[machine].clone();
    let decay = decay(disk, while_running, prng)?;
    let Decay { rot, file, .. } = decay;
    if while_running {
        let until_ns = world.now_ns() + PASSES_NS;
        world.run(until_ns, |_| false);
        world.cut_power(0);
    }
    OneNode.audit(&mut world, population);
    settle(&mut world);
    let told = told.lock().expect("nobody panics with it").clone();
    let is_told = !told.is_empty();
    // The last one is control's.
    let whose = match machine + 1 {
        last if last == disks.len() => "control".to_owned(),
        shard => format!("shard {}", shard - 1),
    };
    // Of the checkpoints it is all parts together that say something.
    let names = |text: &str| match file {
        JournalFile::Checkpoint(_) if text.contains("the checkpoint files") => true,
        file => text.contains(&file.to_string()),
    };
    let outcome = match world.judge.violation() {
        _ if told.iter().any(|told| !names(told)) => {
            Outcome::Wrong(format!("{told:?} does not name {file}"))
        }
        None if is_told => Outcome::Named,
        None => Outcome::OfNoMatter,
        Some(violation) if violation.property == "recovery_never_refuses_a_sound_disk" => {
            if decay.is_elsewhere() {
                Outcome::Wrong(format!("refused, and need not be: {violation}"))
            } else if !names(&violation.what) || !violation.what.contains(&whose) {
                Outcome::Wrong(format!("refused without {whose} and {file}: {violation}"))
            } else {
                Outcome::Refused
            }
        }
        // A reader is told, and so is whoever runs the node.
        Some(violation) if violation.what.contains("are said to be damaged") && is_told => {
            Outcome::Named
        }
        Some(violation) => Outcome::Wrong(violation.to_string()),
    };
    Some(Case {
        rot,
        file,
        while_running,
        outcome,
        last_lines: world.trace.take_kept(),
    })
}

/// Lets something of a disk rot. `None`: it holds nothing.
fn decay(disk: &mut SimDisk, while_running: bool, prng: &mut Prng) -> Option<Decay> {
    const BLOCK: u64 = BLOCK_BYTES as u64;
    let mut files = disk.list().ok()?;
    let newest = files.iter().copied().max();
    files.retain(|file| disk.size(*file).is_ok_and(|bytes| bytes >= 2 * BLOCK));
    let file = *files.get(prng.below(files.len().max(1) as u64) as usize)?;
    let bytes = disk.size(file).ok()?;
    // Files of a process that runs stay as long as they are.
    let kinds = if while_running { 3 } else { Rot::ALL.len() };
    let rot = Rot::ALL[prng.below(kinds as u64) as usize];
    let at = prng.below(bytes / BLOCK) * BLOCK;
    match rot {
        Rot::Bit => disk.rot(file, at + prng.below(BLOCK), prng.below(8) as u8),
        Rot::Zeros => overwrite(disk, file, at, &[0; BLOCK_BYTES]),
        Rot::Misdirected => {
            let mut other = [0; BLOCK_BYTES];
            let from = prng.below(bytes / BLOCK) * BLOCK;
            disk.read(file, from, &mut other).ok()?;
            overwrite(disk, file, at, &other);
        }
        Rot::Short if matches!(file, JournalFile::Segment(_)) => return None,
        Rot::Short => disk.truncate(file, at).ok()?,
        Rot::Lost => disk.remove(file).ok()?,
    }
    Some(Decay {
        rot,
        file,
        at,
        bytes,
        is_newest: matches!(file, JournalFile::Checkpoint(_)) && Some(&file) == newest.as_ref(),
        while_running,
    })
}

/// Changes a block bit by bit: nobody wrote it.
fn overwrite(disk: &mut SimDisk, file: JournalFile, at: u64, with: &[u8; BLOCK_BYTES]) {
    let mut held = [0; BLOCK_BYTES];
    if disk.read(file, at, &mut held).is_err() {
        return;
    }
    for (n, (held, with)) in held.iter().zip(with).enumerate() {
        for bit in (0..8).filter(|bit| (held ^ with) & (1 << bit) != 0) {
            disk.rot(file, at + n as u64, bit);
        }
    }
}
