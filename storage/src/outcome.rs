//! What the journal tells its owner: durability, answers to reads, wishes, and the end. Every answer arrives through
//! `Journal::step`, so that nothing happens behind the owner's back while it is in the middle of something else.

use bytes::Bytes;
use core::fmt;
use tiderace_base::disk::{DiskError, JournalFile};
use tiderace_base::ids::{PartitionKey, SlotId};
use tiderace_base::operation::Fatal;
use tiderace_base::position::{Epoch, Lsn, Offset, SlotSeq};

/// Names a read between its request and its answer. Never reused within a boot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReadId(pub(crate) u64);

/// What happened in the journal.
#[derive(Debug)]
pub enum Output {
    /// Everything below is on the disk: acknowledge it.
    Durable(Lsn),
    /// Answers `Journal::read`.
    Read {
        /// Which.
        id: ReadId,
        /// Whole batches, or why there are none.
        result: Result<ReadBatches, ReadError>,
    },
    /// Answers `Journal::read_time`: the first batch at or after the time, as (base offset, append time); none when
    /// every batch is older.
    Time {
        /// Which.
        id: ReadId,
        /// The batch, or why it cannot be told.
        result: Result<Option<(Offset, u64)>, ReadError>,
    },
    /// Feed the state's cells: all live ones when `base`, else those changed since the last checkpoint was wanted. Comes
    /// instead of [`Output::CheckpointDone`], with `base`, when a checkpoint had to be given up: start feeding anew.
    CheckpointWanted {
        /// Whether all live cells are wanted.
        base: bool,
    },
    /// The checkpoint that was fed is durable and referred to.
    CheckpointDone,
    /// The disk became full (true) or has room again (false).
    ReadOnly(bool),
    /// A draft that was refused as busy may be tried again.
    Room,
    /// Segments are left that may go: call `Journal::reclaim` again, when every start that it would be told is durable.
    ReclaimMore,
    /// Bytes that were durable are damaged, and nothing on this disk can replace them. Said once for each place, by a
    /// search or by a read that met it. Everything else is served.
    Damaged(Damage),
    /// The journal has failed for good. Acknowledge nothing more, say why, exit.
    Fatal(Fatal),
}

/// What happened to slots, for an owner that replicates them.
#[derive(Debug)]
pub enum SlotOutput {
    /// Answers `Journal::read_slot`.
    Entries {
        /// Which.
        id: ReadId,
        /// Whole entries, or why there are none.
        result: Result<SlotEntries, SlotReadError>,
    },
    /// A superblock says durably that the slot's copy here is suspect.
    Marked {
        /// Which slot.
        slot: SlotId,
    },
    /// A seal, everything before it, and a superblock that names it are durable: its answer may be given.
    Sealed {
        /// Which slot.
        slot: SlotId,
        /// The epoch that was promised.
        epoch: Epoch,
    },
}

/// Entries of one slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlotEntries {
    /// Whole, verified when they come from the disk, one sequence after the other, the first the one asked for.
    pub entries: Vec<Bytes>,
    /// Where to read on.
    pub next: SlotSeq,
    /// Bytes of the buffers that the entries are slices of: what holding any of them holds.
    pub buffer_bytes: usize,
}

/// Why a read of a slot has no entries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SlotReadError {
    /// Nothing durable that lives has this sequence.
    AtEnd,
    /// What was asked for is gone; the first that is kept as an entry.
    BelowFirst(SlotSeq),
    /// Bytes that were durable fail their checksum. Ship nothing of this range: fetch it from a peer.
    Damaged {
        /// In which file.
        file: JournalFile,
        /// From which byte.
        at: u64,
        /// How many bytes are in doubt.
        bytes: u64,
    },
    /// The disk could not read.
    Disk(DiskError),
}

impl fmt::Display for SlotReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtEnd => write!(f, "nothing durable has this sequence yet"),
            Self::BelowFirst(first) => {
                write!(
                    f,
                    "entries are kept from sequence {first} on: take a snapshot"
                )
            }
            Self::Damaged { file, at, bytes } => write!(
                f,
                "{bytes} bytes from byte {at} of {file} are damaged: fetch the entries from a peer"
            ),
            Self::Disk(error) => write!(f, "the disk could not read: {error}"),
        }
    }
}

impl core::error::Error for SlotReadError {}

/// A place of the log whose bytes are not what was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// In which file.
    pub file: JournalFile,
    /// From which byte.
    pub at: u64,
    /// How many bytes are in doubt.
    pub bytes: u64,
    /// The place in the log where they begin.
    pub lsn: Lsn,
    /// What of which partitions lies there, as far as it is known.
    pub partitions: Vec<DamagedRange>,
    /// Partitions that lie there beside those that are named.
    pub unnamed: usize,
}

/// Offsets of a partition that may lie in a damaged place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DamagedRange {
    /// Whose.
    pub key: PartitionKey,
    /// The first of them.
    pub from: Offset,
    /// The first that is not one of them.
    pub to: Offset,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bytes from byte {} of {} (LSN {}) are damaged",
            self.bytes, self.at, self.file, self.lsn
        )?;
        for (n, range) in self.partitions.iter().enumerate() {
            let before = if n == 0 { ": " } else { ", " };
            write!(
                f,
                "{before}stream {} partition {} offsets {} to {}",
                range.key.stream,
                range.key.partition,
                range.from,
                range.to.get().saturating_sub(1)
            )?;
        }
        if self.unnamed > 0 {
            write!(f, " and {} more partitions", self.unnamed)?;
        }
        Ok(())
    }
}

/// Batches of one partition, read from the disk.
#[derive(Clone, Debug)]
pub struct ReadBatches {
    /// Whole, verified, in offset order; the first may begin before the offset asked for.
    pub batches: Vec<Bytes>,
    /// Where to read on.
    pub next: Offset,
    /// Bytes of the buffer that every batch is a slice of: what holding any of them holds.
    pub buffer_bytes: usize,
}

/// Why a read has no batches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReadError {
    /// Nothing durable lies at or after the offset.
    AtEnd,
    /// What was asked for is gone; the first that is kept.
    BelowStart(Offset),
    /// Bytes that were durable fail their checksum. Serve nothing of this range.
    Damaged {
        /// In which file.
        file: JournalFile,
        /// From which byte.
        at: u64,
        /// How many bytes are in doubt.
        bytes: u64,
    },
    /// The disk could not read.
    Disk(DiskError),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtEnd => write!(f, "nothing durable lies there yet"),
            Self::BelowStart(start) => write!(f, "the data is gone; read from offset {start}"),
            Self::Damaged { file, at, bytes } => write!(
                f,
                "{bytes} bytes from byte {at} of {file} are damaged: restore the file from a copy, or give up the range"
            ),
            Self::Disk(error) => write!(f, "the disk could not read: {error}"),
        }
    }
}

impl core::error::Error for ReadError {}
