//! Bytes rot at rest, under a node that runs or between its runs. A lone node cannot bring them back: what it owes is to say
//! so. Either it refuses to start, or it names the place, or what rotted was of no matter: then everything is there. To be
//! silent and to lack a record, or to serve a wrong one, is the one thing that must not happen.

use std::sync::{Arc, Mutex};

use tiderace_base::disk::{Disk, JournalFile};
use tiderace_base::limits::BLOCK_BYTES;
use tiderace_base::prng::Prng;

use crate::history::Judge;
use crate::node::OneNode;
use crate::run::{Scenario, settle};
use crate::world::disk::SimDisk;
use crate::world::faults::Faults;
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
}

/// Runs a seed: clients work, everything settles, something rots, and every record is read. `None`: there was nothing yet.
#[must_use]
pub fn run(seed: u64) -> Option<Case> {
    let prng = &mut Prng::new(seed ^ 0x0207);
    let setup = Setup {
        seed: prng.next_u64(),
        faults: Faults::none(),
        prints: false,
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
    let disk = &mut disks[prng.below(disks.len() as u64) as usize].clone();
    let (rot, file) = decay(disk, while_running, prng)?;
    if while_running {
        let until_ns = world.now_ns() + PASSES_NS;
        world.run(until_ns, |_| false);
        world.cut_power(0);
    }
    OneNode.audit(&mut world, population);
    settle(&mut world);
    let is_told = !told.lock().expect("nobody panics with it").is_empty();
    let outcome = match world.judge.violation() {
        None if is_told => Outcome::Named,
        None => Outcome::OfNoMatter,
        Some(violation) if violation.property == "recovery_never_refuses_a_sound_disk" => {
            Outcome::Refused
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
    })
}

/// Lets something of a disk rot. `None`: it holds nothing.
fn decay(disk: &mut SimDisk, while_running: bool, prng: &mut Prng) -> Option<(Rot, JournalFile)> {
    const BLOCK: u64 = BLOCK_BYTES as u64;
    let mut files = disk.list().ok()?;
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
    Some((rot, file))
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
