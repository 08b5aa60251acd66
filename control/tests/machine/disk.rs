//! A journal's directory in memory, for the blocking port and for effects alike. A power loss keeps what was made durable;
//! of the rest, each block is kept or lost as the seed says. It can be full.

use bytes::Bytes;
use std::collections::BTreeMap;
use tiderace_base::disk::{Disk, DiskError, JournalFile};
use tiderace_base::limits::BLOCK_BYTES;
use tiderace_base::operation::{Effect, Event};
use tiderace_base::prng::Prng;

#[derive(Clone, Default, Debug)]
struct File {
    /// As it is read now.
    seen: Vec<u8>,
    /// As it is read after a power loss that loses everything it may.
    durable: Vec<u8>,
    /// Blocks in which the two differ.
    unsynced: Vec<usize>,
}

impl File {
    fn write(&mut self, at: usize, bytes: &[u8], durable: bool) {
        assert!(
            at.is_multiple_of(BLOCK_BYTES) && bytes.len().is_multiple_of(BLOCK_BYTES),
            "whole blocks at a block's place"
        );
        let end = at + bytes.len();
        if self.seen.len() < end {
            self.seen.resize(end, 0);
        }
        self.seen[at..end].copy_from_slice(bytes);
        for block in at / BLOCK_BYTES..end / BLOCK_BYTES {
            self.unsynced.push(block);
            if durable {
                self.keep(block);
            }
        }
        if durable {
            self.unsynced
                .retain(|block| !(at..end).contains(&(block * BLOCK_BYTES)));
        }
    }

    fn keep(&mut self, block: usize) {
        let range = block * BLOCK_BYTES..(block + 1) * BLOCK_BYTES;
        if self.durable.len() < range.end {
            self.durable.resize(range.end, 0);
        }
        self.durable[range.clone()].copy_from_slice(&self.seen[range]);
    }

    fn sync(&mut self) {
        self.durable.clone_from(&self.seen);
        self.unsynced.clear();
    }

    fn lose_power(&mut self, prng: &mut Prng) {
        for block in core::mem::take(&mut self.unsynced) {
            if prng.chance(1, 2) {
                self.keep(block);
            }
        }
        self.seen.clone_from(&self.durable);
    }
}

/// The directory.
#[derive(Clone, Default, Debug)]
pub(crate) struct MemoryDisk {
    files: BTreeMap<JournalFile, File>,
    /// No file can be created.
    pub(crate) is_full: bool,
    /// No write succeeds.
    pub(crate) is_broken: bool,
}

impl MemoryDisk {
    /// Loses what was not durable.
    pub(crate) fn lose_power(&mut self, prng: &mut Prng) {
        for file in self.files.values_mut() {
            file.lose_power(prng);
        }
    }

    /// Executes an effect on a file; `None` when it is another kind of effect.
    pub(crate) fn execute(&mut self, effect: &Effect) -> Option<Event> {
        Some(match effect {
            Effect::Write {
                op,
                file,
                at,
                data,
                durable,
            } => Event::Written {
                op: *op,
                result: if self.is_broken {
                    Err(DiskError::Io(5))
                } else {
                    self.file(*file).map(|file| {
                        file.write(*at as usize, data, *durable);
                    })
                },
            },
            Effect::Read { op, file, at, len } => {
                let mut bytes = vec![0; *len as usize];
                Event::ReadDone {
                    op: *op,
                    result: self
                        .read(*file, *at, &mut bytes)
                        .map(|()| Bytes::from(bytes)),
                }
            }
            Effect::Sync { op, file } => Event::Synced {
                op: *op,
                result: self.sync(*file),
            },
            Effect::Prepare { op, file, bytes } => Event::Prepared {
                op: *op,
                result: self.create(*file, *bytes),
            },
            Effect::Remove { op, file } => Event::Removed {
                op: *op,
                result: self.remove(*file),
            },
            Effect::Connect { .. }
            | Effect::Send { .. }
            | Effect::CancelSend { .. }
            | Effect::Receive { .. }
            | Effect::Finish { .. }
            | Effect::Close { .. }
            | Effect::Post { .. }
            | Effect::WakeAt(_)
            | Effect::Serve
            | Effect::Refuse
            | Effect::ServeNodes(_)
            | Effect::Stopped
            | Effect::Fatal(_) => return None,
        })
    }

    /// What a power loss leaves of an operation that was under way: any of its blocks.
    pub(crate) fn execute_partly(&mut self, effect: &Effect, prng: &mut Prng) {
        if let Effect::Write { file, at, data, .. } = effect
            && let Ok(file) = self.file(*file)
        {
            file.write(*at as usize, data, false);
        }
        if matches!(effect, Effect::Prepare { .. } | Effect::Remove { .. }) && prng.chance(1, 2) {
            drop(self.execute(effect));
        }
    }

    fn file(&mut self, file: JournalFile) -> Result<&mut File, DiskError> {
        self.files.get_mut(&file).ok_or(DiskError::Absent)
    }
}

impl Disk for MemoryDisk {
    fn list(&mut self) -> Result<Vec<JournalFile>, DiskError> {
        Ok(self.files.keys().copied().collect())
    }

    fn size(&mut self, file: JournalFile) -> Result<u64, DiskError> {
        Ok(self.file(file)?.seen.len() as u64)
    }

    fn read(&mut self, file: JournalFile, at: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let file = self.file(file)?;
        let at = at as usize;
        let bytes = file.seen.get(at..at + into.len()).ok_or(DiskError::Short)?;
        into.copy_from_slice(bytes);
        Ok(())
    }

    fn write(&mut self, file: JournalFile, at: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.file(file)?.write(at as usize, bytes, false);
        Ok(())
    }

    fn sync(&mut self, file: JournalFile) -> Result<(), DiskError> {
        self.file(file)?.sync();
        Ok(())
    }

    fn create(&mut self, file: JournalFile, bytes: u64) -> Result<(), DiskError> {
        if self.is_full {
            return Err(DiskError::NoSpace);
        }
        let zeros = vec![0; bytes as usize];
        self.files.insert(
            file,
            File {
                seen: zeros.clone(),
                durable: zeros,
                unsynced: Vec::new(),
            },
        );
        Ok(())
    }

    fn truncate(&mut self, file: JournalFile, bytes: u64) -> Result<(), DiskError> {
        let file = self.file(file)?;
        file.sync();
        file.seen.truncate(bytes as usize);
        file.durable.truncate(bytes as usize);
        Ok(())
    }

    fn remove(&mut self, file: JournalFile) -> Result<(), DiskError> {
        self.files.remove(&file).map(drop).ok_or(DiskError::Absent)
    }
}
