//! Chooses the superblock that a start believes, and makes the first one. J-1, J-2

use super::{Directory, disk_error};
use crate::format::superblock::{COPY_BYTES, Copy, FILE_BYTES, Superblock, copy_at};
use crate::{OpenError, Settings};
use tiderace_base::disk::{Disk, DiskError, JournalFile};
use tiderace_base::limits::BLOCK_BYTES;
use tiderace_base::region::aligned_zeroed;

/// What the superblock's file holds.
pub(crate) enum Choice {
    /// The newest valid copy, and whether the other one is unreadable (torn while it was written, or damaged since).
    Found(Box<Superblock>, bool),
    /// No journal was ever served from this directory.
    Fresh,
}

/// Reads both copies; the newest valid one counts.
pub(crate) fn choose<D: Disk>(
    disk: &mut D,
    directory: &Directory,
    known_version: u32,
) -> Result<Choice, OpenError> {
    let mut found: Option<Box<Superblock>> = None;
    let mut invalid = 0;
    let mut newer = None;
    for index in 0..2 {
        let mut bytes = aligned_zeroed(COPY_BYTES);
        let at = index * COPY_BYTES as u64;
        // A file may be cut short, as a first start that did not come far leaves it. A copy takes as few blocks as it needs:
        // what is there of it may be all of it.
        let there = directory
            .bytes(JournalFile::Superblock)
            .saturating_sub(at)
            .min(COPY_BYTES as u64) as usize;
        let there = there - there % BLOCK_BYTES;
        let copy = match disk.read(JournalFile::Superblock, at, &mut bytes[..there]) {
            Ok(()) => Superblock::decode(&bytes, index),
            Err(DiskError::Absent | DiskError::Short) => Copy::Invalid,
            Err(error) => return Err(disk_error(JournalFile::Superblock, "reading", error)),
        };
        match copy {
            Copy::Valid(superblock) => {
                if found
                    .as_ref()
                    .is_none_or(|other| other.generation < superblock.generation)
                {
                    found = Some(superblock);
                }
            }
            Copy::Newer(version) => newer = Some(version),
            Copy::Invalid => invalid += 1,
        }
    }
    if let Some(version) = newer {
        return Err(OpenError::NewerVersion {
            found: version,
            known: known_version,
        });
    }
    match found {
        Some(superblock) => Ok(Choice::Found(superblock, invalid > 0)),
        None => fresh_or_damaged(disk, directory),
    }
}

/// J-2: without a superblock no chunk was ever submitted. A directory that could come from a first start that was
/// interrupted holds one segment without a chunk at most.
fn fresh_or_damaged<D: Disk>(disk: &mut D, directory: &Directory) -> Result<Choice, OpenError> {
    let mut held = None;
    for (file, bytes) in &directory.files {
        let holds_data = match file {
            JournalFile::Superblock => false,
            JournalFile::Segment(0) => !is_empty_segment(disk, *file, *bytes)?,
            JournalFile::Segment(_) | JournalFile::Footer(_) | JournalFile::Checkpoint(_) => true,
        };
        if holds_data {
            held = Some(*file);
        }
    }
    match held {
        None => Ok(Choice::Fresh),
        Some(_) if directory.files.contains_key(&JournalFile::Superblock) => {
            Err(OpenError::SuperblockDamaged)
        }
        Some(file) => Err(OpenError::NotEmptyNoSuperblock { file }),
    }
}

/// Whether nothing but zeros lies behind the header's block.
fn is_empty_segment<D: Disk>(
    disk: &mut D,
    file: JournalFile,
    file_bytes: u64,
) -> Result<bool, OpenError> {
    let block = BLOCK_BYTES as u64;
    let whole = file_bytes - file_bytes % block;
    let mut buffer = aligned_zeroed(64 * BLOCK_BYTES);
    let mut at = block;
    while at < whole {
        let bytes = (whole - at).min(buffer.len() as u64) as usize;
        disk.read(file, at, &mut buffer[..bytes])
            .map_err(|error| disk_error(file, "reading", error))?;
        if buffer[..bytes].iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        at += bytes as u64;
    }
    Ok(true)
}

/// Writes the superblock to its copy and makes it durable.
pub(crate) fn write<D: Disk>(disk: &mut D, superblock: &Superblock) -> Result<(), OpenError> {
    let encoded = superblock.encode();
    let mut bytes = aligned_zeroed(encoded.len());
    bytes.copy_from_slice(&encoded);
    disk.write(
        JournalFile::Superblock,
        copy_at(superblock.generation),
        &bytes,
    )
    .map_err(|error| disk_error(JournalFile::Superblock, "writing", error))?;
    disk.sync(JournalFile::Superblock)
        .map_err(|error| disk_error(JournalFile::Superblock, "syncing", error))
}

/// Gives a file that was cut short its length again, with zeros: whoever searches for damage reads all of both copies. Not
/// durable before the superblock that follows is.
pub(crate) fn lengthen<D: Disk>(disk: &mut D, directory: &Directory) -> Result<(), OpenError> {
    if directory.bytes(JournalFile::Superblock) >= FILE_BYTES {
        return Ok(());
    }
    let block = aligned_zeroed(BLOCK_BYTES);
    let last = FILE_BYTES - BLOCK_BYTES as u64;
    disk.write(JournalFile::Superblock, last, &block)
        .map_err(|error| disk_error(JournalFile::Superblock, "lengthening", error))
}

/// Makes the file, with two copies that are none.
pub(crate) fn create<D: Disk>(disk: &mut D) -> Result<(), OpenError> {
    super::create(disk, JournalFile::Superblock, FILE_BYTES)
}

/// What the first start decided must hold for ever.
pub(crate) fn check_settings(
    superblock: &Superblock,
    settings: &Settings,
) -> Result<(), OpenError> {
    let pairs = [
        (
            "the segment size",
            superblock.segment_bytes,
            settings.segment_bytes,
        ),
        (
            "the journal's index",
            u64::from(superblock.journal_index),
            u64::from(settings.journal_index),
        ),
        (
            "the number of journals",
            u64::from(superblock.journal_count),
            u64::from(settings.journal_count),
        ),
    ];
    for (what, found, wanted) in pairs {
        if found != wanted {
            return Err(OpenError::SettingsMismatch {
                what,
                found,
                wanted,
            });
        }
    }
    Ok(())
}
