//! A disk in memory whose copies share every block that neither has changed, so that an image costs little more than its
//! damage. It keeps the contract of the port and has no faults of its own: here the bytes lie, not the operations.

use std::collections::BTreeMap;
use std::sync::Arc;
use tiderace_base::disk::{Disk, DiskError, JournalFile};
use tiderace_base::limits::BLOCK_BYTES;

type Block = [u8; BLOCK_BYTES];

/// A file: blocks, of which those that hold only zeros take no room.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
struct Blocks {
    len: usize,
    blocks: Vec<Option<Arc<Block>>>,
}

impl Blocks {
    fn resize(&mut self, len: usize) {
        if len < self.len && !len.is_multiple_of(BLOCK_BYTES) {
            // What lies behind the end reads as zeros when the file grows again.
            if let Some(Some(block)) = self.blocks.get_mut(len / BLOCK_BYTES) {
                Arc::make_mut(block)[len % BLOCK_BYTES..].fill(0);
            }
        }
        self.blocks.resize(len.div_ceil(BLOCK_BYTES), None);
        self.len = len;
    }

    fn read(&self, at: usize, into: &mut [u8]) {
        let mut done = 0;
        while done < into.len() {
            let (block, from) = ((at + done) / BLOCK_BYTES, (at + done) % BLOCK_BYTES);
            let count = (BLOCK_BYTES - from).min(into.len() - done);
            let piece = &mut into[done..done + count];
            match &self.blocks[block] {
                Some(block) => piece.copy_from_slice(&block[from..from + count]),
                None => piece.fill(0),
            }
            done += count;
        }
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        if self.len < at + bytes.len() {
            self.resize(at + bytes.len());
        }
        let mut done = 0;
        while done < bytes.len() {
            let (block, from) = ((at + done) / BLOCK_BYTES, (at + done) % BLOCK_BYTES);
            let count = (BLOCK_BYTES - from).min(bytes.len() - done);
            let place = &mut self.blocks[block];
            let piece = &bytes[done..done + count];
            if count == BLOCK_BYTES && piece.iter().all(|byte| *byte == 0) {
                *place = None;
            } else {
                let block = place.get_or_insert_with(|| Arc::new([0; BLOCK_BYTES]));
                Arc::make_mut(block)[from..from + count].copy_from_slice(piece);
            }
            done += count;
        }
    }
}

/// The files of a journal.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub(crate) struct ImageDisk {
    files: BTreeMap<JournalFile, Blocks>,
}

impl ImageDisk {
    /// The files that are there, in order.
    pub(crate) fn names(&self) -> Vec<JournalFile> {
        self.files.keys().copied().collect()
    }

    /// A file's bytes; none: it is not there.
    pub(crate) fn bytes(&self, file: JournalFile) -> Option<Vec<u8>> {
        let blocks = self.files.get(&file)?;
        let mut bytes = vec![0; blocks.len];
        blocks.read(0, &mut bytes);
        Some(bytes)
    }

    /// Makes a file these bytes, whatever it was.
    pub(crate) fn put(&mut self, file: JournalFile, bytes: &[u8]) {
        let mut blocks = Blocks::default();
        blocks.resize(bytes.len());
        blocks.write(0, bytes);
        self.files.insert(file, blocks);
    }

    /// Changes bytes inside a file, wherever they lie; those behind its end are left out.
    pub(crate) fn patch(&mut self, file: JournalFile, at: usize, bytes: &[u8]) {
        if let Some(blocks) = self.files.get_mut(&file) {
            let count = bytes.len().min(blocks.len.saturating_sub(at));
            blocks.write(at, &bytes[..count]);
        }
    }

    /// Bytes of a file from `at`, as many as there are of `count`.
    pub(crate) fn piece(&self, file: JournalFile, at: usize, count: usize) -> Vec<u8> {
        let Some(blocks) = self.files.get(&file) else {
            return Vec::new();
        };
        let mut bytes = vec![0; count.min(blocks.len.saturating_sub(at))];
        blocks.read(at, &mut bytes);
        bytes
    }

    /// Makes a file shorter, or longer by zeros.
    pub(crate) fn set_len(&mut self, file: JournalFile, len: usize) {
        if let Some(blocks) = self.files.get_mut(&file) {
            blocks.resize(len);
        }
    }

    /// A file's length; zero for one that is not there.
    pub(crate) fn len(&self, file: JournalFile) -> usize {
        self.files.get(&file).map_or(0, |blocks| blocks.len)
    }

    /// Removes a file.
    pub(crate) fn drop_file(&mut self, file: JournalFile) {
        self.files.remove(&file);
    }

    /// Makes a file what it is on another disk; it goes away where that has none.
    pub(crate) fn put_from(&mut self, file: JournalFile, other: &Self, name: JournalFile) {
        match other.files.get(&name) {
            Some(blocks) => self.files.insert(file, blocks.clone()),
            None => self.files.remove(&file),
        };
    }

    /// The blocks of a file that hold something, and the one behind each run of them: where damage is likely to be met.
    pub(crate) fn telling_blocks(&self, file: JournalFile) -> Vec<usize> {
        let Some(blocks) = self.files.get(&file) else {
            return Vec::new();
        };
        let holds = |at: usize| blocks.blocks.get(at).is_some_and(Option::is_some);
        (0..blocks.blocks.len())
            .filter(|at| holds(*at) || (*at > 0 && holds(at - 1)))
            .collect()
    }

    fn file(&self, file: JournalFile) -> Result<&Blocks, DiskError> {
        self.files.get(&file).ok_or(DiskError::Absent)
    }
}

impl Disk for ImageDisk {
    fn list(&mut self) -> Result<Vec<JournalFile>, DiskError> {
        Ok(self.names())
    }

    fn size(&mut self, file: JournalFile) -> Result<u64, DiskError> {
        Ok(self.file(file)?.len as u64)
    }

    fn read(&mut self, file: JournalFile, at: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let blocks = self.file(file)?;
        let end = at.checked_add(into.len() as u64).ok_or(DiskError::Short)?;
        if end > blocks.len as u64 {
            return Err(DiskError::Short);
        }
        blocks.read(at as usize, into);
        Ok(())
    }

    fn write(&mut self, file: JournalFile, at: u64, bytes: &[u8]) -> Result<(), DiskError> {
        assert!(
            at.is_multiple_of(BLOCK_BYTES as u64) && bytes.len().is_multiple_of(BLOCK_BYTES),
            "a journal writes whole blocks"
        );
        let blocks = self.files.get_mut(&file).ok_or(DiskError::Absent)?;
        blocks.write(at as usize, bytes);
        Ok(())
    }

    fn sync(&mut self, file: JournalFile) -> Result<(), DiskError> {
        self.file(file).map(|_| ())
    }

    fn create(&mut self, file: JournalFile, bytes: u64) -> Result<(), DiskError> {
        let mut blocks = Blocks::default();
        blocks.resize(bytes as usize);
        self.files.insert(file, blocks);
        Ok(())
    }

    fn truncate(&mut self, file: JournalFile, bytes: u64) -> Result<(), DiskError> {
        let blocks = self.files.get_mut(&file).ok_or(DiskError::Absent)?;
        blocks.resize((bytes as usize).min(blocks.len));
        Ok(())
    }

    fn remove(&mut self, file: JournalFile) -> Result<(), DiskError> {
        self.files
            .remove(&file)
            .map(|_| ())
            .ok_or(DiskError::Absent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_does_not_see_what_the_other_writes() {
        let file = JournalFile::Superblock;
        let mut one = ImageDisk::default();
        one.put(file, &[7; 5000]);
        let mut two = one.clone();
        two.write(file, 4096, &[9; 4096]).expect("it is there");
        assert_eq!(one.bytes(file), Some(vec![7; 5000]));
        let mut expected = vec![7; 4096];
        expected.extend_from_slice(&[9; 4096]);
        assert_eq!(two.bytes(file), Some(expected));
        two.truncate(file, 4097).expect("it is there");
        two.put(JournalFile::Segment(1), &[0; 100]);
        two.write(file, 8192, &[1; 4096]).expect("it is there");
        let bytes = two.bytes(file).expect("it is there");
        assert_eq!((bytes.len(), bytes[4096], bytes[4097]), (12_288, 9, 0));
        assert_eq!(two.read(file, 8192, &mut [0; 4097]), Err(DiskError::Short));
        assert_eq!(two.telling_blocks(file), [0, 1, 2]);
    }
}
