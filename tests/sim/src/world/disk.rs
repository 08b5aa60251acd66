//! One journal's directory on a simulated disk. Every file has two faces: what a read sees, and what is on the platter
//! and survives a power loss. Between the two stand the writes that completed without a sync, in sectors of 512 bytes;
//! beside them the operations in flight. Refuses what a direct, asynchronous disk would refuse or silently spoil:
//! misaligned writes, overlapping writes in flight, operations on a file that is being prepared or removed.
//! Invariant: a durable completion is never taken back; anything less may be lost in any part and any order.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tiderace_base::disk::{Disk, DiskError, JournalFile};
use tiderace_base::limits::BLOCK_BYTES;
use tiderace_base::operation::{Event, OpId};
use tiderace_base::prng::Prng;
use tiderace_base::region::aligned_zeroed;

mod power;

pub use power::Power;

/// The unit in which a write tears.
pub const SECTOR_BYTES: usize = 512;
/// The errno of a failing device.
pub const EIO: i32 = 5;
/// The errno of a process without a descriptor.
const EMFILE: i32 = 24;

/// An operation that the disk has been asked for.
#[derive(Debug)]
pub enum Operation {
    /// See `Effect::Write`.
    Write {
        /// Where to.
        file: JournalFile,
        /// Byte position.
        at: u64,
        /// Whole blocks.
        data: Bytes,
        /// Whether completion promises durability.
        durable: bool,
    },
    /// See `Effect::Read`.
    Read {
        /// Where from.
        file: JournalFile,
        /// Byte position.
        at: u64,
        /// How much.
        len: u32,
    },
    /// See `Effect::Sync`.
    Sync {
        /// Which file.
        file: JournalFile,
    },
    /// See `Effect::Prepare`.
    Prepare {
        /// Which file.
        file: JournalFile,
        /// How many zeros.
        bytes: u64,
    },
    /// See `Effect::Remove`.
    Remove {
        /// Which file.
        file: JournalFile,
    },
}

impl Operation {
    fn file(&self) -> JournalFile {
        match self {
            Self::Write { file, .. }
            | Self::Read { file, .. }
            | Self::Sync { file }
            | Self::Prepare { file, .. }
            | Self::Remove { file } => *file,
        }
    }
}

/// How an operation ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// As it should.
    Done,
    /// The device fails; what was asked for may have happened in part.
    Failed,
    /// A read ends well, with one wrong bit.
    Flipped,
    /// A read ends well, with the bytes of another place.
    Elsewhere,
    /// As it should, except that nothing became durable.
    Lied,
    /// There was no descriptor for the file: nothing happened.
    NotOpened,
}

/// A write that completed without being durable, or a durable one that lies over such writes.
#[derive(Debug)]
struct Layer {
    serial: u64,
    at: usize,
    len: usize,
    /// `None` for a durable write: the platter has its bytes, and older layers may not come back over them.
    data: Option<Bytes>,
}

#[derive(Debug, Default)]
struct File {
    /// Survives a power loss. `None` while the directory entry itself is not durable.
    /// Shared with whoever placed it there, until it is written.
    platter: Option<Arc<Vec<u8>>>,
    /// What a read sees, where that is not the platter.
    cache: Option<Vec<u8>>,
    layers: Vec<Layer>,
}

impl File {
    fn seen(&self) -> &[u8] {
        match (&self.cache, &self.platter) {
            (Some(bytes), _) => bytes,
            (None, Some(bytes)) => bytes,
            (None, None) => &[],
        }
    }

    fn write_volatile(&mut self, serial: u64, at: usize, data: Bytes) {
        if self.cache.is_none() {
            self.cache = Some(self.seen().to_vec());
        }
        if let Some(cache) = &mut self.cache {
            put(cache, at, &data);
        }
        self.layers.push(Layer {
            serial,
            at,
            len: data.len(),
            data: Some(data),
        });
    }

    fn write_durable(&mut self, serial: u64, at: usize, data: &[u8]) {
        put(
            Arc::make_mut(self.platter.get_or_insert_default()),
            at,
            data,
        );
        if let Some(cache) = &mut self.cache {
            put(cache, at, data);
            self.layers.push(Layer {
                serial,
                at,
                len: data.len(),
                data: None,
            });
        }
    }

    /// Every layer that completed before `serial` reaches the platter, and so does the directory entry.
    fn sync(&mut self, serial: u64) {
        if self.platter.is_some() && self.cache.is_none() {
            // There are no layers without a cache. To leave it alone spares a copy of what is shared.
            return;
        }
        let platter = Arc::make_mut(self.platter.get_or_insert_default());
        for layer in self.layers.iter().filter(|layer| layer.serial < serial) {
            match &layer.data {
                Some(data) => put(platter, layer.at, data),
                // Its bytes are in the cache, unless a later layer covers them, which is then written here or remains.
                None => {
                    if let Some(cache) = &self.cache {
                        let end = (layer.at + layer.len).min(cache.len());
                        put(platter, layer.at, &cache[layer.at..end]);
                    }
                }
            }
        }
        self.layers.retain(|layer| layer.serial >= serial);
        if self.layers.is_empty()
            && let Some(cache) = self.cache.take()
            && platter.len() < cache.len()
        {
            platter.resize(cache.len(), 0);
        }
    }

    /// Power is lost: of each layer any sectors may have reached the platter, unless a later durable write covers them.
    fn settle(&mut self, prng: &mut Prng, losses: &mut Losses) {
        let mut earlier_is_lost = false;
        let mut layers = std::mem::take(&mut self.layers);
        if let Some(platter) = self.platter.as_mut().filter(|_| !layers.is_empty()) {
            let platter = Arc::make_mut(platter);
            for index in 0..layers.len() {
                let Some(data) = layers[index].data.take() else {
                    continue;
                };
                let at = layers[index].at;
                let covered = |from: usize| {
                    layers[index + 1..].iter().any(|later| {
                        later.data.is_none() && later.at <= from && from < later.at + later.len
                    })
                };
                let kept = survivors(prng, data.len().div_ceil(SECTOR_BYTES));
                let is_lost = kept.contains(&false);
                losses.lost_writes += u64::from(is_lost);
                losses.reordered_writes += u64::from(earlier_is_lost && kept.contains(&true));
                earlier_is_lost |= is_lost;
                for (sector, kept) in kept.into_iter().enumerate() {
                    let from = sector * SECTOR_BYTES;
                    if kept && !covered(at + from) {
                        let end = (from + SECTOR_BYTES).min(data.len());
                        put(platter, at + from, &data[from..end]);
                    }
                }
            }
        }
        self.cache = None;
    }
}

/// Writes `data` at `at`, growing with zeros as needed.
fn put(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    let end = at + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[at..end].copy_from_slice(data);
}

/// Which sectors of a write that was cut short are on the platter.
#[must_use]
pub fn survivors(prng: &mut Prng, sectors: usize) -> Vec<bool> {
    let cut = prng.below(sectors as u64 + 1) as usize;
    match prng.below(8) {
        0 => vec![false; sectors],
        1 => vec![true; sectors],
        2 => (0..sectors).map(|sector| sector < cut).collect(),
        3 => (0..sectors).map(|sector| sector >= cut).collect(),
        4 => (0..sectors).map(|sector| sector != cut).collect(),
        5 => (0..sectors).map(|_| prng.chance(1, 2)).collect(),
        6 => (0..sectors).map(|_| prng.chance(7, 8)).collect(),
        _ => {
            let mut kept = Vec::with_capacity(sectors);
            for sector in 0..sectors {
                let kept_before = kept.last().copied().unwrap_or(false);
                let same_block = sector % (BLOCK_BYTES / SECTOR_BYTES) != 0;
                kept.push(if same_block {
                    kept_before
                } else {
                    prng.chance(1, 2)
                });
            }
            kept
        }
    }
}

#[derive(Debug)]
struct State {
    files: BTreeMap<JournalFile, File>,
    operations: BTreeMap<OpId, (u64, Operation)>,
    /// Orders completions and submissions, so that a sync knows what it is for.
    serial: u64,
    capacity_bytes: u64,
    /// The blocking port was told that there is no space.
    was_full: bool,
    /// Durable writes that failed under the process that runs: a cache still has their bytes and takes them for written.
    /// Writing them again is answered at once, and brings nothing to the platter.
    failed: Vec<(JournalFile, Range<u64>)>,
    power: Power,
    /// Draws what the blocking port leaves behind; seeded by the world.
    prng: Prng,
    writes: u64,
    bytes_written: u64,
    /// What power losses did since this was asked last.
    losses: Losses,
}

/// What a power loss took, of what it may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Losses {
    /// Writes in flight of which a part is there.
    pub torn_writes: u64,
    /// Writes that had completed without being durable, and are not there, or not all of it.
    pub lost_writes: u64,
    /// Writes of which something is there, though an earlier one on the same file is not.
    pub reordered_writes: u64,
    /// Files that were being made and are not there, or were being removed and still are.
    pub lost_entries: u64,
}

/// A journal's directory. Clones are handles to the same one: the world keeps one, recovery gets another.
#[derive(Clone, Debug)]
pub struct SimDisk(Rc<RefCell<State>>);

/// What a disk did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DiskCounts {
    /// Writes that completed well.
    pub writes: u64,
    /// Their bytes.
    pub bytes_written: u64,
}

impl SimDisk {
    /// An empty directory.
    #[must_use]
    pub fn new(seed: u64, power: &Power) -> Self {
        Self(Rc::new(RefCell::new(State {
            files: BTreeMap::new(),
            operations: BTreeMap::new(),
            serial: 0,
            capacity_bytes: u64::MAX,
            was_full: false,
            failed: Vec::new(),
            power: power.clone(),
            prng: Prng::new(seed),
            writes: 0,
            bytes_written: 0,
            losses: Losses::default(),
        })))
    }

    /// Takes an operation; it is in flight until [`SimDisk::complete`] or a crash.
    ///
    /// # Panics
    /// When the operation breaks the contract of its effect: the machine has a bug.
    pub fn submit(&self, op: OpId, operation: Operation) {
        let mut state = self.0.borrow_mut();
        assert!(
            !state.operations.contains_key(&op),
            "contract: {op:?} is in flight already"
        );
        let file = operation.file();
        for (_, other) in state
            .operations
            .values()
            .filter(|(_, other)| other.file() == file)
        {
            assert_compatible(&operation, other);
        }
        match &operation {
            Operation::Write { at, data, .. } => {
                assert!(
                    at.is_multiple_of(BLOCK_BYTES as u64)
                        && data.len().is_multiple_of(BLOCK_BYTES)
                        && !data.is_empty(),
                    "contract: a write to {file} of {} bytes at {at} is not whole blocks",
                    data.len()
                );
                assert_eq!(
                    data.as_ptr().align_offset(BLOCK_BYTES),
                    0,
                    "contract: a write to {file} comes from a buffer that is not aligned"
                );
            }
            Operation::Read { at, len, .. } => assert!(
                at.is_multiple_of(BLOCK_BYTES as u64)
                    && (*len as usize).is_multiple_of(BLOCK_BYTES)
                    && *len > 0,
                "contract: a read of {file}, {len} bytes at {at}, is not whole blocks"
            ),
            Operation::Sync { .. } | Operation::Prepare { .. } | Operation::Remove { .. } => {}
        }
        state.serial += 1;
        let serial = state.serial;
        state.operations.insert(op, (serial, operation));
    }

    /// Whether anything is in flight.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.0.borrow().operations.is_empty()
    }

    /// Ends an operation and says how, as an event. `None` when a crash took it.
    pub fn complete(&self, op: OpId, ending: Ending) -> Option<Event> {
        let mut state = self.0.borrow_mut();
        let (serial, operation) = state.operations.remove(&op)?;
        Some(state.finish(op, serial, operation, ending))
    }

    /// Power is lost: operations in flight and what was not synced survive in any part. Says what was lost since it said
    /// so last, by operations of the blocking port too.
    pub fn lose_power(&self, prng: &mut Prng) -> Losses {
        let mut guard = self.0.borrow_mut();
        let state = &mut *guard;
        let operations = std::mem::take(&mut state.operations);
        state.failed.clear();
        for (_, (serial, operation)) in operations {
            state.interrupt(operation, serial, prng, true);
        }
        let losses = &mut state.losses;
        state.files.retain(|_, file| {
            if file.platter.is_none() && prng.chance(1, 2) {
                file.platter = Some(Arc::default());
            }
            file.settle(prng, losses);
            losses.lost_entries += u64::from(file.platter.is_none());
            file.platter.is_some()
        });
        std::mem::take(losses)
    }

    /// The process is killed: what it had in flight happens or does not, and nobody hears of it; the rest stays as it is,
    /// durable or not.
    pub fn kill(&self, prng: &mut Prng) {
        let mut state = self.0.borrow_mut();
        let operations = std::mem::take(&mut state.operations);
        state.failed.clear();
        for (_, (serial, operation)) in operations {
            state.interrupt(operation, serial, prng, false);
        }
    }

    /// Puts a file there, durably, as whoever prepares a disk does.
    pub fn place(&self, file: JournalFile, bytes: Arc<Vec<u8>>) {
        let placed = File {
            platter: Some(bytes),
            ..File::default()
        };
        self.0.borrow_mut().files.insert(file, placed);
    }

    /// Sets how many bytes the directory may hold.
    pub fn set_capacity(&self, bytes: u64) {
        self.0.borrow_mut().capacity_bytes = bytes;
    }

    /// Whether the blocking port was told that there is no space, since this was asked last.
    #[must_use]
    pub fn take_was_full(&self) -> bool {
        std::mem::take(&mut self.0.borrow_mut().was_full)
    }

    /// How many bytes the directory holds.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.0.borrow().used_bytes()
    }

    /// What the disk did so far.
    #[must_use]
    pub fn counts(&self) -> DiskCounts {
        let state = self.0.borrow();
        DiskCounts {
            writes: state.writes,
            bytes_written: state.bytes_written,
        }
    }

    /// Changes bytes at rest, behind everybody's back.
    ///
    /// # Panics
    /// When there is no such byte.
    pub fn rot(&self, file: JournalFile, at: u64, bit: u8) {
        let mut state = self.0.borrow_mut();
        let file = state.files.get_mut(&file).expect("there is such a file");
        let at = usize::try_from(at).expect("positions fit memory");
        let platter = file.platter.as_mut().map(Arc::make_mut);
        for bytes in platter.into_iter().chain(&mut file.cache) {
            bytes[at] ^= 1 << (bit % 8);
        }
    }
}

/// Which operations on one file may be in flight together.
fn assert_compatible(new: &Operation, old: &Operation) {
    let exclusive = |operation: &Operation| {
        matches!(
            operation,
            Operation::Prepare { .. } | Operation::Remove { .. }
        )
    };
    assert!(
        !exclusive(new) && !exclusive(old),
        "contract: {} is prepared or removed while another operation on it is in flight",
        new.file()
    );
    if let (
        Operation::Write { at, data, .. },
        Operation::Write {
            at: other_at,
            data: other,
            ..
        },
    ) = (new, old)
    {
        assert!(
            at + data.len() as u64 <= *other_at || other_at + other.len() as u64 <= *at,
            "contract: two writes in flight overlap in {}",
            new.file()
        );
    }
}

impl State {
    fn used_bytes(&self) -> u64 {
        self.files
            .values()
            .map(|file| {
                let platter = file.platter.as_ref().map_or(0, |bytes| bytes.len());
                file.seen().len().max(platter) as u64
            })
            .sum()
    }

    /// Whether `file` may grow to `bytes`.
    fn has_room(&self, file: JournalFile, bytes: u64) -> bool {
        let now = self
            .files
            .get(&file)
            .map_or(0, |file| file.seen().len() as u64);
        bytes <= now || self.used_bytes() - now + bytes <= self.capacity_bytes
    }

    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    fn finish(&mut self, op: OpId, submitted: u64, operation: Operation, ending: Ending) -> Event {
        match operation {
            Operation::Write {
                file,
                at,
                data,
                durable,
            } => {
                let result = self.finish_write(file, at, data, durable, ending);
                Event::Written { op, result }
            }
            Operation::Read { file, at, len } => Event::ReadDone {
                op,
                result: self.finish_read(file, at, len, ending),
            },
            Operation::Sync { file } => Event::Synced {
                op,
                result: self.finish_sync(file, submitted, ending),
            },
            Operation::Prepare { file, bytes } => Event::Prepared {
                op,
                result: self.finish_prepare(file, bytes, ending),
            },
            Operation::Remove { file } => {
                let result = match ending {
                    Ending::Failed => Err(DiskError::Io(EIO)),
                    Ending::Done
                    | Ending::Flipped
                    | Ending::Elsewhere
                    | Ending::Lied
                    | Ending::NotOpened => {
                        self.files.remove(&file).map(drop).ok_or(DiskError::Absent)
                    }
                };
                Event::Removed { op, result }
            }
        }
    }

    fn finish_write(
        &mut self,
        file: JournalFile,
        at: u64,
        data: Bytes,
        durable: bool,
        ending: Ending,
    ) -> Result<(), DiskError> {
        if !self.files.contains_key(&file) {
            return Err(DiskError::Absent);
        }
        if !self.has_room(file, at + data.len() as u64) {
            return Err(DiskError::NoSpace);
        }
        let place = at..at + data.len() as u64;
        if ending == Ending::Failed {
            if durable {
                self.failed.push((file, place));
            }
            let serial = self.next_serial();
            let mut prng = self.prng.clone();
            self.interrupt(
                Operation::Write {
                    file,
                    at,
                    data,
                    durable,
                },
                serial,
                &mut prng,
                false,
            );
            self.prng = prng;
            return Err(DiskError::Io(EIO));
        }
        self.writes += 1;
        self.bytes_written += data.len() as u64;
        let serial = self.next_serial();
        let entry = self.files.entry(file).or_default();
        let at = usize::try_from(at).expect("positions fit memory");
        let is_cached = self.failed.iter().any(|(of, failed)| {
            *of == file && failed.start < place.end && place.start < failed.end
        });
        if durable && ending != Ending::Lied && !is_cached {
            entry.write_durable(serial, at, &data);
        } else {
            // Its own copy: the machine may reuse the buffer from now on, and the disk's cache keeps what it was given.
            entry.write_volatile(serial, at, Bytes::copy_from_slice(&data));
        }
        Ok(())
    }

    fn finish_read(
        &mut self,
        file: JournalFile,
        at: u64,
        len: u32,
        ending: Ending,
    ) -> Result<Bytes, DiskError> {
        match ending {
            Ending::Failed => return Err(DiskError::Io(EIO)),
            Ending::NotOpened => return Err(DiskError::NotOpened(EMFILE)),
            Ending::Done | Ending::Flipped | Ending::Elsewhere | Ending::Lied => {}
        }
        let mut bytes = aligned_zeroed(len as usize);
        self.read_now(file, at, &mut bytes)?;
        if ending == Ending::Elsewhere {
            let seen = self.files.get(&file).ok_or(DiskError::Absent)?.seen();
            let places = (seen.len() - bytes.len()) / BLOCK_BYTES + 1;
            let elsewhere = self.prng.below(places as u64) * BLOCK_BYTES as u64;
            self.read_now(file, elsewhere, &mut bytes)?;
        }
        if ending == Ending::Flipped {
            let bit = self.prng.below(u64::from(len) * 8) as usize;
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        Ok(bytes.freeze())
    }

    fn finish_sync(
        &mut self,
        file: JournalFile,
        submitted: u64,
        ending: Ending,
    ) -> Result<(), DiskError> {
        let Some(entry) = self.files.get_mut(&file) else {
            return Err(DiskError::Absent);
        };
        if ending == Ending::Failed {
            // The kernel marks the pages clean: a later sync succeeds without them, a read may still see them.
            let mut dropped = Vec::new();
            for layer in std::mem::take(&mut entry.layers) {
                if layer.serial >= submitted || layer.data.is_none() || self.prng.chance(1, 4) {
                    dropped.push(layer);
                }
            }
            entry.layers = dropped;
            return Err(DiskError::Io(EIO));
        }
        if ending != Ending::Lied {
            entry.sync(submitted);
        }
        Ok(())
    }

    fn finish_prepare(
        &mut self,
        file: JournalFile,
        bytes: u64,
        ending: Ending,
    ) -> Result<(), DiskError> {
        if ending == Ending::NotOpened {
            return Err(DiskError::NotOpened(EMFILE));
        }
        // Emptied first, so that the old content does not count.
        self.files.remove(&file);
        if !self.has_room(file, bytes) {
            return Err(DiskError::NoSpace);
        }
        let length = usize::try_from(bytes).expect("sizes fit memory");
        if ending == Ending::Failed {
            return Err(DiskError::Io(EIO));
        }
        self.files.insert(
            file,
            File {
                platter: Some(Arc::new(vec![0; length])),
                ..File::default()
            },
        );
        Ok(())
    }

    fn read_now(&self, file: JournalFile, at: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let seen = self.files.get(&file).ok_or(DiskError::Absent)?.seen();
        let at = usize::try_from(at).map_err(|_| DiskError::Short)?;
        let bytes = seen.get(at..at + into.len()).ok_or(DiskError::Short)?;
        into.copy_from_slice(bytes);
        Ok(())
    }

    /// An operation is cut short: it has happened in any part, durably or, when the disk goes on working, perhaps not.
    fn interrupt(&mut self, operation: Operation, submitted: u64, prng: &mut Prng, power: bool) {
        match operation {
            Operation::Read { .. } => {}
            Operation::Write { file, at, data, .. } => {
                let Some(entry) = self.files.get_mut(&file) else {
                    return;
                };
                let at = usize::try_from(at).expect("positions fit memory");
                let kept = survivors(prng, data.len() / SECTOR_BYTES);
                let is_torn = power && kept.contains(&true) && kept.contains(&false);
                self.losses.torn_writes += u64::from(is_torn);
                let mut sector = 0;
                for run in kept.chunk_by(|a, b| a == b) {
                    let from = sector * SECTOR_BYTES;
                    sector += run.len();
                    if run[0] {
                        self.serial += 1;
                        let bytes = &data[from..sector * SECTOR_BYTES];
                        if power {
                            entry.write_durable(self.serial, at + from, bytes);
                        } else {
                            let bytes = Bytes::copy_from_slice(bytes);
                            entry.write_volatile(self.serial, at + from, bytes);
                        }
                    }
                }
            }
            Operation::Sync { file } => {
                if let Some(entry) = self.files.get_mut(&file)
                    && prng.chance(1, 2)
                {
                    entry.sync(submitted);
                }
            }
            Operation::Prepare { file, bytes } => match prng.below(4) {
                0 => self.losses.lost_entries += u64::from(power),
                1 => {
                    self.losses.lost_entries += u64::from(power);
                    self.files.remove(&file);
                }
                _ => {
                    let length = if prng.chance(1, 3) {
                        bytes
                    } else {
                        prng.below(bytes / SECTOR_BYTES as u64 + 1) * SECTOR_BYTES as u64
                    };
                    let zeros = vec![0; usize::try_from(length).expect("sizes fit memory")];
                    let entry = File {
                        platter: if power || prng.chance(1, 2) {
                            Some(Arc::new(zeros.clone()))
                        } else {
                            None
                        },
                        cache: if power { None } else { Some(zeros) },
                        layers: Vec::new(),
                    };
                    self.files.insert(file, entry);
                }
            },
            Operation::Remove { file } => {
                if prng.chance(1, 2) {
                    self.files.remove(&file);
                } else {
                    self.losses.lost_entries += u64::from(power);
                }
            }
        }
    }

    /// Before an operation of the blocking port that changes something: is this the one during which power is lost?
    fn loses_power_at(&mut self, operation: Operation) -> Result<(), DiskError> {
        self.check_power()?;
        if self.power.spend() {
            return Ok(());
        }
        let mut prng = self.prng.clone();
        let serial = self.next_serial();
        self.interrupt(operation, serial, &mut prng, true);
        self.prng = prng;
        Err(DiskError::PowerLost)
    }

    fn check_power(&self) -> Result<(), DiskError> {
        if self.power.is_lost() {
            Err(DiskError::PowerLost)
        } else {
            Ok(())
        }
    }
}

impl Disk for SimDisk {
    fn list(&mut self) -> Result<Vec<JournalFile>, DiskError> {
        let state = self.0.borrow();
        state.check_power()?;
        Ok(state.files.keys().copied().collect())
    }

    fn size(&mut self, file: JournalFile) -> Result<u64, DiskError> {
        let state = self.0.borrow();
        state.check_power()?;
        let file = state.files.get(&file).ok_or(DiskError::Absent)?;
        Ok(file.seen().len() as u64)
    }

    fn read(&mut self, file: JournalFile, at: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let state = self.0.borrow();
        state.check_power()?;
        state.read_now(file, at, into)
    }

    fn write(&mut self, file: JournalFile, at: u64, bytes: &[u8]) -> Result<(), DiskError> {
        assert!(
            at.is_multiple_of(BLOCK_BYTES as u64) && bytes.len().is_multiple_of(BLOCK_BYTES),
            "contract: a write to {file} of {} bytes at {at} is not whole blocks",
            bytes.len()
        );
        let mut state = self.0.borrow_mut();
        let data = Bytes::copy_from_slice(bytes);
        let durable = false;
        state.loses_power_at(Operation::Write {
            file,
            at,
            data: data.clone(),
            durable,
        })?;
        let result = state.finish_write(file, at, data, durable, Ending::Done);
        state.was_full |= result == Err(DiskError::NoSpace);
        result
    }

    fn sync(&mut self, file: JournalFile) -> Result<(), DiskError> {
        let mut state = self.0.borrow_mut();
        state.loses_power_at(Operation::Sync { file })?;
        let serial = state.next_serial();
        state.finish_sync(file, serial, Ending::Done)
    }

    fn create(&mut self, file: JournalFile, bytes: u64) -> Result<(), DiskError> {
        let mut state = self.0.borrow_mut();
        state.loses_power_at(Operation::Prepare { file, bytes })?;
        let result = state.finish_prepare(file, bytes, Ending::Done);
        state.was_full |= result == Err(DiskError::NoSpace);
        result
    }

    fn truncate(&mut self, file: JournalFile, bytes: u64) -> Result<(), DiskError> {
        let mut state = self.0.borrow_mut();
        // Cut or not, with nothing in between: a length is one field of one inode.
        let operation = Operation::Sync { file };
        let before = state.power.is_lost();
        let lost = state.loses_power_at(operation).is_err();
        if lost && (before || state.prng.chance(1, 2)) {
            return Err(DiskError::PowerLost);
        }
        let length = usize::try_from(bytes).expect("sizes fit memory");
        let entry = state.files.get_mut(&file).ok_or(DiskError::Absent)?;
        let platter = entry.platter.as_mut().map(Arc::make_mut);
        for bytes in platter.into_iter().chain(&mut entry.cache) {
            bytes.resize(length, 0);
        }
        entry.layers.retain_mut(|layer| {
            layer.len = layer.len.min(length.saturating_sub(layer.at));
            if let Some(data) = &mut layer.data {
                data.truncate(layer.len);
            }
            layer.len > 0
        });
        if lost {
            Err(DiskError::PowerLost)
        } else {
            Ok(())
        }
    }

    fn remove(&mut self, file: JournalFile) -> Result<(), DiskError> {
        let mut state = self.0.borrow_mut();
        state.loses_power_at(Operation::Remove { file })?;
        state.files.remove(&file).map(drop).ok_or(DiskError::Absent)
    }
}

#[cfg(test)]
mod tests;
