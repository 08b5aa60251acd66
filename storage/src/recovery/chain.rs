//! Which segments make up the log, oldest first: from the one begun last back along the predecessors that the headers
//! name, as far as replay reaches; before that by the rows of the checkpoint. J-7

use super::scan::{Remains, Span};
use super::window::Window;
use super::{Directory, disk_error};
use crate::OpenError;
use crate::checkpoint::SegmentRow;
use crate::format::chunk::Life;
use crate::format::segment::SegmentHeader;
use crate::format::superblock::{Recent, Superblock};
use std::collections::{BTreeMap, BTreeSet};
use tiderace_base::disk::{Disk, JournalFile};
use tiderace_base::limits::BLOCK_BYTES;
use tiderace_base::position::Lsn;
use tiderace_base::region::aligned_zeroed;

/// A begun segment whose header was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub(crate) file: u32,
    pub(crate) header: SegmentHeader,
}

/// The segments that replay goes through, oldest first.
pub(crate) struct Chain {
    pub(crate) links: Vec<Link>,
    /// A segment stood in for a superblock that was lost: what only that superblock knew is lost too.
    pub(crate) adopted: bool,
    /// The greatest number of a life in any header that was read.
    pub(crate) last_seq: u64,
}

/// Finds the segments from the one that holds the byte before `covers` on: it may have been open when the checkpoint was
/// captured, and then no row tells of it. J-14 keeps it until the checkpoints cover more. `known`: files that hold no life
/// which the superblock at hand does not know.
pub(crate) fn find<D: Disk>(
    disk: &mut D,
    window: &mut Window,
    directory: &Directory,
    superblock: &Superblock,
    known: &BTreeSet<u32>,
    covers: Lsn,
) -> Result<Chain, OpenError> {
    let mut adopted = false;
    let mut head = begun_last(disk, window, directory, superblock, covers)?;
    let (later, last_seq) = later_life(disk, window, directory, superblock, known, head)?;
    if let Some(later) = later {
        head = later;
        adopted = true;
    }
    let mut links = vec![head];
    while let Some(before) = links[links.len() - 1]
        .header
        .before
        .filter(|_| links[links.len() - 1].header.start_lsn >= covers)
    {
        let header = read_header(disk, directory, superblock, before.file)?
            .filter(|header| header.seq == before.seq && header.salt == before.salt)
            .filter(|header| header.start_lsn <= before.end_lsn);
        let Some(header) = header else {
            return Err(header_damaged(before.file, before.end_lsn));
        };
        links.push(Link {
            file: before.file,
            header,
        });
    }
    let oldest = &links[links.len() - 1];
    if oldest.header.start_lsn > covers {
        return Err(header_damaged(oldest.file, covers));
    }
    links.reverse();
    Ok(Chain {
        links,
        adopted,
        last_seq,
    })
}

/// The newest segment that the superblock names and that was begun. J-8
fn begun_last<D: Disk>(
    disk: &mut D,
    window: &mut Window,
    directory: &Directory,
    superblock: &Superblock,
    covers: Lsn,
) -> Result<Link, OpenError> {
    let floor = superblock.durable.max(superblock.recovered_end).max(covers);
    let mut skipped = false;
    for recent in superblock.recent.iter().rev() {
        // A superblock names a file that is there already: begun or not, one that is absent is lost.
        if !directory
            .files
            .contains_key(&JournalFile::Segment(recent.file))
        {
            return Err(lost(recent.file, superblock, recent.start_lsn));
        }
        let header = read_header(disk, directory, superblock, recent.file)?
            .filter(|header| header.seq == recent.seq && header.salt == recent.salt);
        if let Some(header) = header {
            return Ok(Link {
                file: recent.file,
                header,
            });
        }
        // Chunks are submitted behind a durable header only: one of them proves that the header was damaged.
        if skipped
            || floor > recent.start_lsn
            || holds_chunk(disk, window, directory, superblock, recent)?
        {
            return Err(header_damaged(recent.file, recent.start_lsn));
        }
        skipped = true;
    }
    Err(OpenError::SuperblockDamaged)
}

/// A life that began after the superblock at hand was written: proof that a newer one was durable and is lost, whether its
/// copy cannot be read or holds an older one that can. With it, the greatest number that any header has: one that has no chunk
/// proves nothing, and was given all the same.
fn later_life<D: Disk>(
    disk: &mut D,
    window: &mut Window,
    directory: &Directory,
    superblock: &Superblock,
    known: &BTreeSet<u32>,
    head: Link,
) -> Result<(Option<Link>, u64), OpenError> {
    let mut later: Option<Link> = None;
    let mut last_seq = head.header.seq;
    for file in directory.segments().filter(|file| !known.contains(file)) {
        let Some(header) = read_header(disk, directory, superblock, file)? else {
            continue;
        };
        last_seq = last_seq.max(header.seq);
        let recent = Recent {
            file,
            seq: header.seq,
            salt: header.salt,
            start_lsn: header.start_lsn,
        };
        let newest = later.map_or(head.header.seq, |link| link.header.seq);
        if header.seq > newest && holds_chunk(disk, window, directory, superblock, &recent)? {
            // The superblock knows where this life is, and that is not here: files were exchanged. J-8
            if let Some(known) = superblock.recent.iter().find(|it| it.seq == header.seq) {
                return Err(header_damaged(known.file, known.start_lsn));
            }
            later = Some(Link { file, header });
        }
    }
    Ok((later, last_seq))
}

fn holds_chunk<D: Disk>(
    disk: &mut D,
    window: &mut Window,
    directory: &Directory,
    superblock: &Superblock,
    recent: &Recent,
) -> Result<bool, OpenError> {
    let span = Span {
        file: recent.file,
        file_bytes: directory.bytes(JournalFile::Segment(recent.file)),
        life: Life {
            journal: superblock.journal,
            salt: recent.salt,
        },
        start: recent.start_lsn,
        end: Lsn::new(
            recent
                .start_lsn
                .get()
                .saturating_add(superblock.segment_bytes - BLOCK_BYTES as u64),
        ),
        end_is_known: false,
    };
    let mut remains = Remains::default();
    remains.look(disk, window, &span, span.start)?;
    Ok(remains.chunks > 0)
}

fn header_damaged(file: u32, lsn: Lsn) -> OpenError {
    OpenError::Damaged {
        file: JournalFile::Segment(file),
        at: 0,
        bytes: BLOCK_BYTES as u64,
        lsn,
        slots: Vec::new(),
    }
}

fn lost(file: u32, superblock: &Superblock, lsn: Lsn) -> OpenError {
    OpenError::Damaged {
        file: JournalFile::Segment(file),
        at: 0,
        bytes: superblock.segment_bytes,
        lsn,
        slots: Vec::new(),
    }
}

/// A file's first block, if it is a header of this journal.
pub(crate) fn read_header<D: Disk>(
    disk: &mut D,
    directory: &Directory,
    superblock: &Superblock,
    file: u32,
) -> Result<Option<SegmentHeader>, OpenError> {
    let name = JournalFile::Segment(file);
    if directory.bytes(name) < BLOCK_BYTES as u64 {
        return Ok(None);
    }
    let mut block = aligned_zeroed(BLOCK_BYTES);
    disk.read(name, 0, &mut block)
        .map_err(|error| disk_error(name, "reading", error))?;
    Ok(SegmentHeader::decode(&block, superblock.journal)
        .filter(|header| header.segment_bytes == superblock.segment_bytes && header.seq > 0))
}

/// The rows of segments that replay does not go through and that still exist: none below the oldest that the superblock
/// keeps. A file that is free, or that a later life took, holds no earlier one. A file that is absent though its segment was
/// not released is lost; so is one that only a life which the superblock does not know took, although it was not free: files
/// were exchanged. J-7, J-15
pub(crate) fn older_segments(
    rows: &BTreeMap<u64, SegmentRow>,
    links: &[Link],
    directory: &Directory,
    superblock: &Superblock,
    covers: Lsn,
) -> Result<BTreeMap<u64, SegmentRow>, OpenError> {
    let mut taken: BTreeSet<u32> = superblock.free.iter().copied().collect();
    taken.extend(links.iter().map(|link| link.file));
    let known = superblock.recent.last().map_or(0, |recent| recent.seq);
    let unknown: BTreeSet<u32> = links
        .iter()
        .filter(|link| link.header.seq > known)
        .map(|link| link.file)
        .collect();
    let first = links[0].header.seq;
    // A life whose header never came, or came in part, was begun all the same: its file had been released before.
    let is_overtaken = |seq: u64, file: u32| {
        let mut recent = superblock.recent.iter();
        recent.any(|recent| recent.file == file && recent.seq > seq)
    };
    let mut alive = BTreeMap::new();
    for (seq, row) in rows.iter().rev() {
        let is_older = *seq < first && row.end <= covers;
        if !is_older || *seq < superblock.oldest_segment_seq || is_overtaken(*seq, row.file) {
            continue;
        }
        if !taken.insert(row.file) {
            if unknown.contains(&row.file) && !superblock.free.contains(&row.file) {
                return Err(lost(row.file, superblock, row.start));
            }
            continue;
        }
        let name = JournalFile::Segment(row.file);
        if directory.files.contains_key(&name) {
            alive.insert(*seq, *row);
        } else {
            return Err(lost(row.file, superblock, row.start));
        }
    }
    Ok(alive)
}
