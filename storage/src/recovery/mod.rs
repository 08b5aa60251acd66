//! Opens a journal in two steps: [`recover`] reads everything, judges it and changes nothing; [`Recovery::begin`] makes it
//! happen. A node begins none of its journals before all of them are known to belong together. What was found is synced before it counts;
//! nothing is ever appended to a segment that was found: a new one begins, and the superblock that names it is what makes
//! the recovery happen. A crash at any step leaves what the next recovery reads the same way. The rules stand in
//! `docs/journal.md`.

mod begin;
mod cells;
mod chain;
mod replay;
mod scan;
mod superblocks;
mod window;

pub(crate) use scan::{Chunk, entries_are_good, note_entry};

use crate::cuts::Cuts;
use crate::format::{COUNT_MAX, FILE_NUMBER_MAX, FORMAT_VERSION};
use crate::index::Footer;
use crate::journal::{Journal, Replay};
use crate::segments::Sealed;
use crate::{OpenError, Settings, checkpoint};
use begin::Beginning;
use core::fmt;
use std::collections::BTreeMap;
use superblocks::Choice;
use tiderace_base::disk::{Disk, DiskError, JournalFile};
use tiderace_base::ids::{DiskId, JournalId, PartitionKey};
use tiderace_base::position::Lsn;
use tiderace_base::prng::Prng;
use tiderace_base::time::Now;
use window::Window;

/// The journal's files and their sizes, as they were found.
#[derive(Debug)]
pub(crate) struct Directory {
    files: BTreeMap<JournalFile, u64>,
}

impl Directory {
    fn read<D: Disk>(disk: &mut D) -> Result<Self, OpenError> {
        let list = disk.list().map_err(|error| OpenError::Disk {
            file: None,
            doing: "listing the journal's directory",
            error,
        })?;
        let mut files = BTreeMap::new();
        for file in list {
            // A number that no journal gives: nobody's business, like other names.
            let is_ours = match file {
                JournalFile::Superblock => true,
                JournalFile::Segment(file) | JournalFile::Footer(file) => file <= FILE_NUMBER_MAX,
                JournalFile::Checkpoint(part) => part <= COUNT_MAX,
            };
            if !is_ours {
                continue;
            }
            let bytes = disk
                .size(file)
                .map_err(|error| disk_error(file, "asking the size of", error))?;
            files.insert(file, bytes);
        }
        Ok(Self { files })
    }

    /// Zero for a file that is not there.
    fn bytes(&self, file: JournalFile) -> u64 {
        self.files.get(&file).copied().unwrap_or(0)
    }

    fn segments(&self) -> impl Iterator<Item = u32> + '_ {
        self.files.keys().filter_map(|file| match file {
            JournalFile::Segment(file) => Some(*file),
            JournalFile::Superblock | JournalFile::Footer(_) | JournalFile::Checkpoint(_) => None,
        })
    }
}

fn disk_error(file: JournalFile, doing: &'static str, error: DiskError) -> OpenError {
    OpenError::Disk {
        file: Some(file),
        doing,
        error,
    }
}

/// Makes a file without which the journal cannot begin.
fn create<D: Disk>(disk: &mut D, file: JournalFile, bytes: u64) -> Result<(), OpenError> {
    disk.create(file, bytes).map_err(|error| match error {
        DiskError::NoSpace => OpenError::NoSpace { file, bytes },
        error => disk_error(file, "creating", error),
    })
}

/// What a recovery hands to the journal that will serve.
pub(crate) struct Recovered {
    pub(crate) settings: Settings,
    pub(crate) now: Now,
    pub(crate) prng: Prng,
    /// As it was written, durable.
    pub(crate) superblock: crate::format::superblock::Superblock,
    /// The segment that was begun.
    pub(crate) file: u32,
    pub(crate) seq: u64,
    pub(crate) salt: u64,
    /// Where it starts: the journal's end.
    pub(crate) start: Lsn,
    /// Checksum of the last chunk before it.
    pub(crate) last_crc: u32,
    pub(crate) sealed: BTreeMap<u64, Sealed>,
    /// The latest sealed life that holds some of a partition.
    pub(crate) newest: BTreeMap<PartitionKey, u64>,
    pub(crate) cuts: Cuts,
    pub(crate) footers: Vec<Footer>,
    pub(crate) spares: Vec<u32>,
    /// Files that are free and that no life can use: the checkpoints may tell of lives in them.
    pub(crate) gone: Vec<u32>,
    /// No file with this number or a greater one exists.
    pub(crate) next_file: u32,
    pub(crate) checkpoints: checkpoint::Chain,
    /// Where replay began.
    pub(crate) covers: Lsn,
}

/// Something that could not be read and that something else on the disk stands in for. Nothing is lost; a write that a power cut
/// tore may be all there is to it, and a second one before it is mended may be more than the journal can bear.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StandIn {
    /// The other copy of the superblock.
    SuperblockCopy,
    /// A segment that began after the superblock at hand was written: a newer one is lost.
    LaterSegment,
    /// The checkpoint before the one whose last part this is.
    PreviousCheckpoint(u64),
    /// None is needed: the newest checkpoint is whole, but the one before, whose last part this is, could not stand in for it.
    NewestAlone(u64),
    /// The whole log, because no checkpoint is left beside the one whose last part this is.
    WholeLog(u64),
}

impl fmt::Display for StandIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SuperblockCopy => write!(
                f,
                "one copy of the superblock cannot be read, and the other one stands in for it"
            ),
            Self::LaterSegment => write!(
                f,
                "the newest write of the superblock is lost, and a segment that it named stands in for it"
            ),
            Self::PreviousCheckpoint(part) => write!(
                f,
                "the checkpoint up to {} cannot be read, and the one before stands in for it",
                JournalFile::Checkpoint(*part)
            ),
            Self::NewestAlone(part) => write!(
                f,
                "the older checkpoint, up to {}, cannot be read, and the newest one is alone",
                JournalFile::Checkpoint(*part)
            ),
            Self::WholeLog(part) => write!(
                f,
                "the checkpoint up to {} cannot be read, and the whole log stands in for it",
                JournalFile::Checkpoint(*part)
            ),
        }
    }
}

/// A journal that was read and judged, and nothing of it changed. Until it is begun, whoever read it may decide that it must
/// not serve: it is then as if nobody had looked.
#[derive(Debug)]
pub struct Recovery {
    stand_ins: Vec<StandIn>,
    beginning: Beginning,
    directory: Directory,
    settings: Settings,
    now: Now,
    prng: Prng,
}

impl Recovery {
    /// The disk's identity. Of a directory without a journal, the one that it gets.
    #[must_use]
    pub fn disk(&self) -> DiskId {
        self.beginning.superblock.disk
    }

    /// How many runs the superblock will have counted, this one among them.
    #[must_use]
    pub fn boot_count(&self) -> u64 {
        self.beginning.superblock.boot_count + 1
    }

    /// What stands in for something that could not be read.
    #[must_use]
    pub fn stand_ins(&self) -> &[StandIn] {
        &self.stand_ins
    }

    /// Makes the recovery happen: the run is counted, a new segment begins. J-11
    ///
    /// # Errors
    /// See [`OpenError`]: a crash or an error at any step leaves what the next recovery reads the same way.
    pub fn begin<D: Disk>(self, disk: &mut D) -> Result<Journal, OpenError> {
        if self.beginning.is_fresh() {
            superblocks::create(disk)?;
        }
        let recovered = self.beginning.make_durable(
            disk,
            &self.directory,
            self.settings,
            self.now,
            self.prng,
        )?;
        Ok(Journal::recovered(recovered))
    }
}

/// Reads the journal in a directory and judges it, and prepares one for an empty directory. Changes nothing. What is handed to
/// `replay` counts once the recovery has begun.
///
/// # Errors
/// See [`OpenError`].
///
/// # Panics
/// When the settings contradict one another: their owner has checked what a user chose.
pub fn recover<D: Disk>(
    disk: &mut D,
    settings: Settings,
    now: Now,
    replay: &mut impl Replay,
) -> Result<Recovery, OpenError> {
    settings.check();
    let mut prng = Prng::new(settings.seed);
    let directory = Directory::read(disk)?;
    let mut stand_ins = Vec::new();
    let beginning = match superblocks::choose(disk, &directory, FORMAT_VERSION)? {
        Choice::Fresh => {
            let journal = JournalId::new(prng.next_u64());
            let disk_id = DiskId::new(prng.next_u128());
            Beginning::fresh(&settings, journal, disk_id)
        }
        Choice::Found(superblock, copy_lost) => {
            superblocks::check_settings(&superblock, &settings)?;
            let mut window = Window::new(settings.segment_bytes);
            let cells = cells::load(disk, &directory, &superblock, replay)?;
            let chain = cells.find_chain(disk, &mut window, &directory, &superblock, copy_lost)?;
            stand_ins.extend(copy_lost.then_some(StandIn::SuperblockCopy));
            stand_ins.extend(chain.adopted.then_some(StandIn::LaterSegment));
            stand_ins.extend(cells.stand_in);
            let found = replay::Found {
                superblock: *superblock,
                cells,
                chain,
            };
            let footers_bytes_max = settings.footer_cache_bytes;
            replay::run(
                disk,
                &mut window,
                &directory,
                found,
                footers_bytes_max,
                replay,
            )?
        }
    };
    Ok(Recovery {
        stand_ins,
        beginning,
        directory,
        settings,
        now,
        prng,
    })
}

/// Opens the journal in a directory, and creates it in an empty one: [`recover`], and [`Recovery::begin`] at once.
///
/// # Errors
/// See [`OpenError`]: nothing that matters was changed.
///
/// # Panics
/// When the settings contradict one another: their owner has checked what a user chose.
pub fn open<D: Disk>(
    disk: &mut D,
    settings: Settings,
    now: Now,
    replay: &mut impl Replay,
) -> Result<Journal, OpenError> {
    recover(disk, settings, now, replay)?.begin(disk)
}
