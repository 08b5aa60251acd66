//! A disk whose writes cost nothing: lengths are kept, bytes only while a node boots from them.

use std::collections::BTreeMap;
use tiderace_base::disk::{Disk, DiskError, JournalFile};

/// A journal's directory in memory.
#[derive(Clone, Default, Debug)]
pub struct MemoryDisk {
    files: BTreeMap<JournalFile, Vec<u8>>,
}

impl MemoryDisk {
    fn file(&mut self, file: JournalFile) -> Result<&mut Vec<u8>, DiskError> {
        self.files.get_mut(&file).ok_or(DiskError::Absent)
    }
}

impl Disk for MemoryDisk {
    fn list(&mut self) -> Result<Vec<JournalFile>, DiskError> {
        Ok(self.files.keys().copied().collect())
    }

    fn size(&mut self, file: JournalFile) -> Result<u64, DiskError> {
        Ok(self.file(file)?.len() as u64)
    }

    fn read(&mut self, file: JournalFile, at: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let at = at as usize;
        let bytes = self.file(file)?.get(at..at + into.len());
        into.copy_from_slice(bytes.ok_or(DiskError::Short)?);
        Ok(())
    }

    fn write(&mut self, file: JournalFile, at: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let at = at as usize;
        let into = self.file(file)?;
        into.resize(into.len().max(at + bytes.len()), 0);
        into[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self, file: JournalFile) -> Result<(), DiskError> {
        self.file(file).map(|_| ())
    }

    fn create(&mut self, file: JournalFile, bytes: u64) -> Result<(), DiskError> {
        self.files.insert(file, vec![0; bytes as usize]);
        Ok(())
    }

    fn truncate(&mut self, file: JournalFile, bytes: u64) -> Result<(), DiskError> {
        self.file(file)?.truncate(bytes as usize);
        Ok(())
    }

    fn remove(&mut self, file: JournalFile) -> Result<(), DiskError> {
        self.files
            .remove(&file)
            .map(|_| ())
            .ok_or(DiskError::Absent)
    }
}
