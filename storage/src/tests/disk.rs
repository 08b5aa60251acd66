//! A disk in memory. Unsynced writes stand apart from what is durable; a crash keeps any subset of their sectors. An
//! operation may be the last one before the power goes.

use std::collections::{BTreeMap, BTreeSet};
use tiderace_base::disk::{Disk, DiskError, JournalFile};
use tiderace_base::prng::Prng;

#[derive(Clone, Default)]
pub(super) struct File {
    pub(super) durable: Vec<u8>,
    /// What a read sees.
    pub(super) seen: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
}

#[derive(Clone)]
pub(super) struct TestDisk {
    pub(super) files: BTreeMap<JournalFile, File>,
    pub(super) prng: Prng,
    /// Changing operations until the power goes.
    pub(super) fuel: Option<u64>,
    /// Room for segments, in bytes of all files.
    pub(super) bytes_max: u64,
    lost: bool,
    /// Blocks that cannot be read.
    pub(super) unreadable: BTreeSet<(JournalFile, u64)>,
}

impl TestDisk {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            files: BTreeMap::new(),
            prng: Prng::new(seed ^ 0xd15c),
            fuel: None,
            bytes_max: u64::MAX,
            lost: false,
            unreadable: BTreeSet::new(),
        }
    }

    fn burn(&mut self) -> Result<(), DiskError> {
        if self.lost {
            return Err(DiskError::PowerLost);
        }
        if let Some(fuel) = &mut self.fuel {
            if *fuel == 0 {
                self.lost = true;
                return Err(DiskError::PowerLost);
            }
            *fuel -= 1;
        }
        Ok(())
    }

    /// The power goes: of what was not synced any subset of sectors is kept.
    pub(super) fn crash(&mut self, in_flight: Vec<(JournalFile, u64, Vec<u8>)>) {
        for (file, at, bytes) in in_flight {
            if let Some(file) = self.files.get_mut(&file) {
                file.unsynced.push((at as usize, bytes));
            }
        }
        let sector = if self.prng.chance(1, 2) { 512 } else { 4096 };
        for file in self.files.values_mut() {
            if file.unsynced.is_empty() {
                continue;
            }
            for (at, bytes) in core::mem::take(&mut file.unsynced) {
                // Whole writes are kept or lost as often as they are torn.
                let kept = self.prng.below(5);
                for (index, piece) in bytes.chunks(sector).enumerate() {
                    let keeps = match kept {
                        0 => false,
                        1 => true,
                        2 => index == 0,
                        _ => self.prng.chance(1, 2),
                    };
                    if keeps {
                        put(&mut file.durable, at + index * sector, piece);
                    }
                }
            }
            file.seen.clone_from(&file.durable);
        }
        self.lost = false;
        self.fuel = None;
    }

    /// The process dies, the machine does not: what was in flight arrives or does not, and is not synced.
    pub(super) fn kill(&mut self, in_flight: Vec<(JournalFile, u64, Vec<u8>)>) {
        for (file, at, bytes) in in_flight {
            if let (Some(file), true) = (self.files.get_mut(&file), self.prng.chance(2, 3)) {
                put(&mut file.seen, at as usize, &bytes);
                file.unsynced.push((at as usize, bytes));
            }
        }
        self.lost = false;
        self.fuel = None;
    }

    /// A write that its completion promises to be durable.
    pub(super) fn write_durably(&mut self, file: JournalFile, at: u64, bytes: &[u8]) {
        let file = self
            .files
            .get_mut(&file)
            .expect("a file is written when it is there");
        let at = at as usize;
        put(&mut file.durable, at, bytes);
        put(&mut file.seen, at, bytes);
        // An older write to the same place, never synced, can no longer arrive after it.
        for (start, older) in &mut file.unsynced {
            let from = at.max(*start);
            let to = (at + bytes.len()).min(*start + older.len());
            if from < to {
                older[from - *start..to - *start].copy_from_slice(&bytes[from - at..to - at]);
            }
        }
    }

    fn used(&self) -> u64 {
        self.files.values().map(|file| file.seen.len() as u64).sum()
    }

    pub(super) fn flip(&mut self, file: JournalFile, at: u64) {
        let file = self.files.get_mut(&file).expect("the file is there");
        file.durable[at as usize] ^= 0x10;
        file.seen[at as usize] ^= 0x10;
    }
}

fn put(into: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if into.len() < at + bytes.len() {
        into.resize(at + bytes.len(), 0);
    }
    into[at..at + bytes.len()].copy_from_slice(bytes);
}

impl Disk for TestDisk {
    fn list(&mut self) -> Result<Vec<JournalFile>, DiskError> {
        Ok(self.files.keys().copied().collect())
    }

    fn size(&mut self, file: JournalFile) -> Result<u64, DiskError> {
        let file = self.files.get(&file).ok_or(DiskError::Absent)?;
        Ok(file.seen.len() as u64)
    }

    fn read(&mut self, file: JournalFile, at: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let blocks = at / 4096..(at + into.len() as u64).div_ceil(4096);
        let mut blocks = self
            .unreadable
            .range((file, blocks.start)..(file, blocks.end));
        if blocks.next().is_some() {
            return Err(DiskError::Io(5));
        }
        let file = self.files.get(&file).ok_or(DiskError::Absent)?;
        let at = at as usize;
        let bytes = file.seen.get(at..at + into.len()).ok_or(DiskError::Short)?;
        into.copy_from_slice(bytes);
        Ok(())
    }

    fn write(&mut self, file: JournalFile, at: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let dying = self.burn();
        let file = self.files.get_mut(&file).ok_or(DiskError::Absent)?;
        file.unsynced.push((at as usize, bytes.to_vec()));
        put(&mut file.seen, at as usize, bytes);
        dying
    }

    fn sync(&mut self, file: JournalFile) -> Result<(), DiskError> {
        self.burn()?;
        let file = self.files.get_mut(&file).ok_or(DiskError::Absent)?;
        for (at, bytes) in core::mem::take(&mut file.unsynced) {
            put(&mut file.durable, at, &bytes);
        }
        Ok(())
    }

    fn create(&mut self, file: JournalFile, bytes: u64) -> Result<(), DiskError> {
        if let Err(error) = self.burn() {
            // The entry may be there, and some of the zeros.
            match self.prng.below(3) {
                0 => {}
                1 => {
                    self.files.insert(file, File::default());
                }
                _ => {
                    let zeros = vec![0; (self.prng.below(bytes + 1)) as usize];
                    self.files.insert(
                        file,
                        File {
                            durable: zeros.clone(),
                            seen: zeros,
                            unsynced: Vec::new(),
                        },
                    );
                }
            }
            return Err(error);
        }
        let old = self.files.remove(&file);
        if self.used() + bytes > self.bytes_max {
            drop(old);
            return Err(DiskError::NoSpace);
        }
        let zeros = vec![0; bytes as usize];
        self.files.insert(
            file,
            File {
                durable: zeros.clone(),
                seen: zeros,
                unsynced: Vec::new(),
            },
        );
        Ok(())
    }

    fn truncate(&mut self, file: JournalFile, bytes: u64) -> Result<(), DiskError> {
        let dying = self.burn();
        if dying.is_err() && self.prng.chance(1, 2) {
            return dying;
        }
        let file = self.files.get_mut(&file).ok_or(DiskError::Absent)?;
        file.durable.truncate(bytes as usize);
        file.seen.truncate(bytes as usize);
        file.unsynced.clear();
        dying
    }

    fn remove(&mut self, file: JournalFile) -> Result<(), DiskError> {
        let dying = self.burn();
        if dying.is_err() && self.prng.chance(1, 2) {
            return dying;
        }
        let removed = self.files.remove(&file);
        dying?;
        removed.map(|_| ()).ok_or(DiskError::Absent)
    }
}
