//! The part of a recovery that writes: what was found is synced, a new segment begins behind it, and one superblock makes
//! all of it happen at once. What comes after that superblock can be left undone by a crash. J-11

use super::superblocks;
use super::{Directory, Recovered, disk_error};
use crate::checkpoint;
use crate::cuts::Cuts;
use crate::format::segment::{Predecessor, SegmentHeader};
use crate::format::superblock::{CheckpointRef, Recent, Superblock};
use crate::index::Footer;
use crate::marks::Mark;
use crate::segments::Sealed;
use crate::{OpenError, Settings};
use std::collections::{BTreeMap, BTreeSet};
use tiderace_base::disk::{Disk, DiskError, JournalFile};
use tiderace_base::ids::{BootId, DiskId, JournalId, PartitionKey};
use tiderace_base::limits::BLOCK_BYTES;
use tiderace_base::position::Lsn;
use tiderace_base::prng::Prng;
use tiderace_base::region::aligned_zeroed;
use tiderace_base::time::Now;

/// What was found, and what is to follow it.
#[derive(Debug)]
pub(crate) struct Beginning {
    /// The one that was believed.
    pub(crate) superblock: Superblock,
    pub(crate) marks: Vec<Mark>,
    pub(crate) end: Lsn,
    /// The segment that the new one follows.
    pub(crate) before: Option<Predecessor>,
    /// The greatest number of a life that may have been given.
    pub(crate) last_seq: u64,
    /// Segment files that replay read.
    pub(crate) replayed: Vec<u32>,
    pub(crate) sealed: BTreeMap<u64, Sealed>,
    pub(crate) newest: BTreeMap<PartitionKey, u64>,
    pub(crate) cuts: Cuts,
    pub(crate) footers: Vec<Footer>,
    /// A life whose file holds bytes behind its end, and where that is in the file.
    pub(crate) cut_to: Option<(u64, u64)>,
    /// Files of segments that hold nothing that counts.
    pub(crate) dropped: Vec<u32>,
    pub(crate) checkpoints: checkpoint::Chain,
    pub(crate) covers: Lsn,
}

impl Beginning {
    /// The first start.
    pub(crate) fn fresh(settings: &Settings, journal: JournalId, disk: DiskId) -> Self {
        Self {
            superblock: Superblock {
                generation: 0,
                journal,
                disk,
                node: settings.node,
                journal_index: settings.journal_index,
                journal_count: settings.journal_count,
                boot: BootId::default(),
                boot_count: 0,
                segment_bytes: settings.segment_bytes,
                recovered_end: Lsn::ZERO,
                durable: Lsn::ZERO,
                oldest_segment_seq: 1,
                newest: None,
                previous: None,
                recent: Vec::new(),
                seals: Vec::new(),
                truncations: Vec::new(),
                marks: Vec::new(),
                free: Vec::new(),
            },
            marks: Vec::new(),
            end: Lsn::ZERO,
            before: None,
            last_seq: 0,
            replayed: Vec::new(),
            sealed: BTreeMap::new(),
            newest: BTreeMap::new(),
            cuts: Cuts::default(),
            footers: Vec::new(),
            cut_to: None,
            dropped: Vec::new(),
            checkpoints: checkpoint::Chain::default(),
            covers: Lsn::ZERO,
        }
    }

    /// Whether no journal was ever served from this directory.
    pub(crate) fn is_fresh(&self) -> bool {
        self.superblock.generation == 0
    }

    /// Makes the recovery happen.
    pub(crate) fn make_durable<D: Disk>(
        mut self,
        disk: &mut D,
        directory: &Directory,
        settings: Settings,
        now: Now,
        mut prng: Prng,
    ) -> Result<Recovered, OpenError> {
        // What was read may never have been synced: it counts from here on only.
        for file in &self.replayed {
            sync(disk, JournalFile::Segment(*file))?;
        }
        if !self.is_fresh() {
            superblocks::lengthen(disk, directory)?;
            sync(disk, JournalFile::Superblock)?;
        }
        let is_whole =
            |file: u32| directory.bytes(JournalFile::Segment(file)) == settings.segment_bytes;
        let kept: BTreeSet<u32> = self.sealed.values().map(|it| it.row.file).collect();
        // Begun, and nothing came of it. A checkpoint may tell of an earlier life there, which had been released. J-7
        let in_vain = self.superblock.recent.iter();
        let in_vain = in_vain.filter(|it| !self.sealed.contains_key(&it.seq));
        let in_vain = in_vain.map(|it| it.file);
        self.dropped
            .extend(in_vain.filter(|file| !kept.contains(file)));
        let mut free: Vec<u32> = self
            .superblock
            .free
            .iter()
            .copied()
            .filter(|file| is_whole(*file) && !kept.contains(file))
            .collect();
        free.extend(self.never_begun(disk, directory, &settings, &free, &kept)?);
        let header = SegmentHeader {
            journal: self.superblock.journal,
            seq: self.last_seq + 1,
            salt: prng.next_u64(),
            start_lsn: self.end,
            segment_bytes: settings.segment_bytes,
            before: self.before,
            created_us: now.wall.as_us(),
        };
        let file = self.begin(disk, directory, &settings, &free, &kept, &header)?;
        free.extend(
            self.dropped
                .iter()
                .copied()
                .filter(|file| is_whole(*file) && !kept.contains(file)),
        );
        free.retain(|it| *it != file);
        free.sort_unstable();
        free.dedup();
        // Not whole, or not there: still listed, because a checkpoint may tell of an earlier life in them. J-7
        let mut gone: Vec<u32> = self
            .superblock
            .free
            .iter()
            .chain(&self.dropped)
            .copied()
            .filter(|it| *it != file && !kept.contains(it) && free.binary_search(it).is_err())
            .collect();
        gone.sort_unstable();
        gone.dedup();

        let reference = |part: &checkpoint::Part| CheckpointRef {
            id: part.id,
            covers: part.covers,
        };
        self.superblock.generation += 1;
        self.superblock.node = settings.node;
        self.superblock.boot = settings.boot;
        self.superblock.boot_count += 1;
        self.superblock.recovered_end = self.end;
        self.superblock.durable = self.end;
        self.superblock.oldest_segment_seq =
            self.sealed.keys().next().copied().unwrap_or(header.seq);
        self.superblock.newest = self.checkpoints.newest().map(reference);
        self.superblock.previous = self.checkpoints.previous().map(reference);
        self.superblock
            .recent
            .retain(|recent| self.sealed.contains_key(&recent.seq));
        self.superblock.begin(Recent {
            file,
            seq: header.seq,
            salt: header.salt,
            start_lsn: self.end,
        });
        self.superblock.marks = core::mem::take(&mut self.marks);
        self.superblock.free = gone.iter().chain(&free).copied().collect();
        superblocks::write(disk, &self.superblock)?;
        // Once more, into the other copy: it is of an earlier run, and whoever has to believe it alone would take the journal
        // for an old image.
        self.superblock.generation += 1;
        superblocks::write(disk, &self.superblock)?;

        self.tidy(disk, directory, file, &free)?;
        let next_file = directory
            .segments()
            .chain(Some(file))
            .chain(gone.iter().copied())
            .max()
            .map_or(0, |file| file + 1);
        Ok(Recovered {
            settings,
            now,
            prng,
            superblock: self.superblock,
            file,
            seq: header.seq,
            salt: header.salt,
            start: self.end,
            last_crc: self.before.map_or(0, |before| before.last_crc),
            sealed: self.sealed,
            newest: self.newest,
            cuts: self.cuts,
            footers: self.footers,
            spares: free,
            gone,
            next_file,
            checkpoints: self.checkpoints,
            covers: self.covers,
        })
    }

    /// Spares that were filled since the last superblock: whole files that nobody names and whose first block holds nothing.
    /// Made anew they would cost the time, and on a full disk there may be no room for them any more.
    fn never_begun<D: Disk>(
        &self,
        disk: &mut D,
        directory: &Directory,
        settings: &Settings,
        free: &[u32],
        kept: &BTreeSet<u32>,
    ) -> Result<Vec<u32>, OpenError> {
        let mut found = Vec::new();
        for file in directory.segments() {
            let name = JournalFile::Segment(file);
            let is_known = free.contains(&file) || self.is_named(file, kept);
            if is_known || directory.bytes(name) != settings.segment_bytes {
                continue;
            }
            // One to begin, and those that are wanted behind it.
            if free.len() + found.len() > settings.spares_wanted {
                break;
            }
            let mut block = aligned_zeroed(BLOCK_BYTES);
            disk.read(name, 0, &mut block)
                .map_err(|error| disk_error(name, "reading", error))?;
            if block.iter().all(|byte| *byte == 0) {
                found.push(file);
            }
        }
        Ok(found)
    }

    /// Whether the believed superblock, or what was found of the log, tells of a life in this file.
    fn is_named(&self, file: u32, kept: &BTreeSet<u32>) -> bool {
        kept.contains(&file)
            || self.superblock.recent.iter().any(|it| it.file == file)
            || self.dropped.contains(&file)
    }

    /// Writes the new segment's header into a file that the believed superblock does not need: a free one, or one that
    /// nobody names, or a new one.
    fn begin<D: Disk>(
        &self,
        disk: &mut D,
        directory: &Directory,
        settings: &Settings,
        free: &[u32],
        kept: &BTreeSet<u32>,
        header: &SegmentHeader,
    ) -> Result<u32, OpenError> {
        let named = |file: &u32| self.is_named(*file, kept);
        let file = if let Some(file) = free.iter().copied().find(|file| !named(file)) {
            file
        } else {
            let stray = directory
                .segments()
                .find(|file| !named(file) && !free.contains(file));
            let file = stray.unwrap_or_else(|| {
                directory
                    .segments()
                    .max()
                    .map_or(0, |greatest| greatest + 1)
            });
            let name = JournalFile::Segment(file);
            super::create(disk, name, settings.segment_bytes)?;
            file
        };
        let name = JournalFile::Segment(file);
        let mut block = aligned_zeroed(BLOCK_BYTES);
        header.encode(&mut block);
        disk.write(name, 0, &block)
            .map_err(|error| disk_error(name, "writing", error))?;
        sync(disk, name)?;
        Ok(file)
    }

    /// What may be left undone: cutting the tail's file, footers, and files that nobody needs.
    fn tidy<D: Disk>(
        &mut self,
        disk: &mut D,
        directory: &Directory,
        begun: u32,
        free: &[u32],
    ) -> Result<(), OpenError> {
        if let Some((seq, bytes)) = self.cut_to
            && let Some(sealed) = self.sealed.get_mut(&seq)
        {
            let name = JournalFile::Segment(sealed.row.file);
            disk.truncate(name, bytes)
                .map_err(|error| disk_error(name, "cutting", error))?;
            sealed.is_short = true;
        }
        for footer in &self.footers {
            let Some(sealed) = self.sealed.get(&footer.life().seq) else {
                continue;
            };
            let name = JournalFile::Footer(sealed.row.file);
            match write_footer(disk, name, footer) {
                // Without room it is built again when it is needed.
                Ok(()) | Err(DiskError::NoSpace) => {}
                Err(error) => return Err(disk_error(name, "writing", error)),
            }
        }
        let kept: BTreeSet<u32> = self.sealed.values().map(|it| it.row.file).collect();
        for file in directory.files.keys() {
            let is_needed = match file {
                JournalFile::Superblock | JournalFile::Checkpoint(_) => true,
                JournalFile::Segment(file) => {
                    kept.contains(file) || free.contains(file) || *file == begun
                }
                JournalFile::Footer(file) => kept.contains(file),
            };
            if !is_needed {
                remove(disk, *file)?;
            }
        }
        for part in self.checkpoints.give_up() {
            remove(disk, JournalFile::Checkpoint(part))?;
        }
        Ok(())
    }
}

fn write_footer<D: Disk>(
    disk: &mut D,
    name: JournalFile,
    footer: &Footer,
) -> Result<(), DiskError> {
    disk.create(name, 0)?;
    disk.write(name, 0, footer.bytes())?;
    disk.sync(name)
}

fn remove<D: Disk>(disk: &mut D, file: JournalFile) -> Result<(), OpenError> {
    match disk.remove(file) {
        Ok(()) | Err(DiskError::Absent) => Ok(()),
        Err(error) => Err(disk_error(file, "removing", error)),
    }
}

fn sync<D: Disk>(disk: &mut D, file: JournalFile) -> Result<(), OpenError> {
    disk.sync(file)
        .map_err(|error| disk_error(file, "syncing", error))
}
