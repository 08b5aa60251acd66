//! The journal of one shard: what its owner sees. Composes the writer, the reader, recovery and checkpoints.

use crate::{Class, EntryMeta, Mark, OpenError, Output, Placed, ReadId, Refused, Settings, Stats};
use bytes::Bytes;
use tiderace_base::disk::Disk;
use tiderace_base::ids::{DiskId, JournalId, PartitionKey};
use tiderace_base::operation::{Effects, Event};
use tiderace_base::position::{Lsn, Offset};
use tiderace_base::time::{Mono, Now};
use tiderace_wire::batch::BatchHeader;

/// Rebuilds its owner's state while a journal opens.
pub trait Replay {
    /// A checkpoint's cell of the owner's kinds (16 and above); base first, then deltas. No value: the cell was removed.
    fn cell(&mut self, kind: u8, key: &[u8], value: Option<&[u8]>);
    /// An entry, in LSN order, from the place that the checkpoint covers on. Applying one that the cells already reflect
    /// must change nothing.
    fn entry(&mut self, lsn: Lsn, end: Lsn, header: &BatchHeader, body: &[u8]);
}

/// Where partitions start: what lies below may be recycled.
pub trait Starts {
    /// The partition's first kept offset; none: the partition was dropped. Only starts whose entries are in the journal.
    fn start_of(&self, key: PartitionKey) -> Option<Offset>;
}

/// Opens the journal in a directory, and creates it in an empty one.
///
/// # Errors
/// See [`OpenError`]: nothing that matters was changed.
pub fn open<D: Disk>(
    _disk: &mut D,
    settings: Settings,
    _now: Now,
    _replay: &mut impl Replay,
) -> Result<Journal, OpenError> {
    settings.check();
    Ok(Journal {
        marks: Vec::new(),
        bytes: Vec::new(),
    })
}

/// One shard's journal.
#[derive(Debug)]
pub struct Journal {
    marks: Vec<Mark>,
    bytes: Vec<u8>,
}

/// Room in the open chunk for one entry that is being written. Dropping it takes the room back.
#[derive(Debug)]
pub struct Draft<'a> {
    journal: &'a mut Journal,
}

impl Draft<'_> {
    /// Adds the next piece of the entry.
    ///
    /// # Panics
    /// When the pieces exceed what the draft was asked for.
    pub fn copy(&mut self, piece: &[u8]) {
        self.journal.bytes.extend_from_slice(piece);
    }
    /// What was copied so far.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.journal.bytes
    }
    /// What was copied so far, to be placed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.journal.bytes
    }
    /// Appends the entry: it will be durable, in its place, before anything that follows it.
    pub fn commit(self, _meta: EntryMeta) -> Placed {
        Placed {
            lsn: Lsn::ZERO,
            end: Lsn::ZERO,
        }
    }
}

impl Journal {
    /// The journal's random identity.
    #[must_use]
    pub fn journal_id(&self) -> JournalId {
        JournalId::default()
    }
    /// The disk's identity, made at the first start.
    #[must_use]
    pub fn disk_id(&self) -> DiskId {
        DiskId::default()
    }
    /// How many times the journal has been opened.
    #[must_use]
    pub fn boot_count(&self) -> u64 {
        0
    }
    /// What recoveries found out that peers must know.
    #[must_use]
    pub fn marks(&self) -> &[Mark] {
        &self.marks
    }
    /// Forgets the marks, durably with the next superblock.
    pub fn clear_marks(&mut self) {
        self.marks.clear();
    }
    /// Makes room for one whole entry of at most `bytes`.
    ///
    /// # Errors
    /// See [`Refused`]: nothing was written.
    pub fn draft(&mut self, _class: Class, _bytes: usize) -> Result<Draft<'_>, Refused> {
        Ok(Draft { journal: self })
    }
    /// Everything below is on the disk.
    #[must_use]
    pub fn durable_lsn(&self) -> Lsn {
        Lsn::ZERO
    }
    /// After the last committed entry.
    #[must_use]
    pub fn end_lsn(&self) -> Lsn {
        Lsn::ZERO
    }
    /// Below it slices can be taken.
    #[must_use]
    pub fn frozen_lsn(&self) -> Lsn {
        Lsn::ZERO
    }
    /// The bytes of an entry from memory; none: no longer held there, read them.
    #[must_use]
    pub fn slice(&self, _lsn: Lsn, _bytes: usize) -> Option<Bytes> {
        None
    }
    /// Reads batches of a partition from the disk, from the one that holds `from` on, about `bytes_max` of them and at
    /// least one. Answered by [`Output::Read`], never at once.
    pub fn read(
        &mut self,
        _key: PartitionKey,
        _from: Offset,
        _bytes_max: usize,
        _effects: &mut Effects,
    ) -> ReadId {
        ReadId(0)
    }
    /// Looks for a partition's first batch whose append time is at or after `time_us`. Answered by [`Output::Time`].
    pub fn read_time(
        &mut self,
        _key: PartitionKey,
        _time_us: u64,
        _effects: &mut Effects,
    ) -> ReadId {
        ReadId(0)
    }
    /// The answer is no longer wanted and will not come.
    pub fn cancel_read(&mut self, _id: ReadId) {}
    /// Takes the completion of one of the journal's operations.
    pub fn step(
        &mut self,
        _now: Now,
        _event: Event,
        _effects: &mut Effects,
        _out: &mut Vec<Output>,
    ) {
    }
    /// Ends a turn: submits the open chunk when a write may go.
    pub fn flush(&mut self, _now: Now, _effects: &mut Effects) {}
    /// Does what is due: the closing chunk, another try to prepare a segment.
    pub fn tick(&mut self, _now: Now, _effects: &mut Effects) {}
    /// When [`Journal::tick`] is wanted next.
    #[must_use]
    pub fn next_wake(&self) -> Option<Mono> {
        None
    }
    /// Releases segments whose data all lies below its partitions' starts. Call it now and then: each call looks at a few.
    pub fn reclaim(&mut self, _starts: &impl Starts, _effects: &mut Effects) {}
    /// Adds a cell to the checkpoint that was wanted. No value: the cell is gone.
    pub fn checkpoint_cell(
        &mut self,
        _kind: u8,
        _key: &[u8],
        _value: Option<&[u8]>,
        _effects: &mut Effects,
    ) {
    }
    /// Bytes of cells that are not on the disk yet: feed more while this is below 1 MiB.
    #[must_use]
    pub fn checkpoint_backlog_bytes(&self) -> usize {
        0
    }
    /// All cells were fed.
    pub fn checkpoint_finish(&mut self, _effects: &mut Effects) {}
    /// Nothing is in flight and nothing is open.
    #[must_use]
    pub fn drained(&self) -> bool {
        true
    }
    /// Counters and gauges.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats::default()
    }
}
