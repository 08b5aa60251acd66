//! Zeros ahead of the appends. A segment's first life overwrites blocks that were written before, because a durable write
//! to fresh ones pays for the file system's journal too. The zeros are this journal's own doing, so they must not stand in
//! the way of its appends: they are written in small pieces, one at a time, and only when the journal is quiet, or at a
//! pace that has the next spare ready just before the active segment is full. One file is filled at a time.

use crate::journal::Journal;
use crate::operations::Op;
use crate::spares::RESERVED_FROM_DATA;
use bytes::Bytes;
use tiderace_base::disk::{DiskError, JournalFile};
use tiderace_base::limits::{BLOCK_BYTES, KIB};
use tiderace_base::operation::{Effect, Fatal};
use tiderace_base::region::aligned_zeroed;

/// Zeros of one write. An append that comes while it is on its way waits for at most this much.
const PIECE_BYTES: usize = 256 * KIB;
/// How much faster than needed zeros are written, in quarters: the last of them must be synced before the roll.
const PACE_QUARTERS: u64 = 5;

const _: () = assert!(
    PIECE_BYTES.is_multiple_of(BLOCK_BYTES),
    "a piece is whole blocks"
);

/// What the file waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Create,
    Write,
    Sync,
}

/// The file that is being filled.
#[derive(Debug)]
pub(crate) struct Filling {
    file: u32,
    filled: u64,
    stage: Stage,
    /// An operation on it is in flight.
    busy: bool,
}

impl Filling {
    pub(crate) fn new(file: u32) -> Self {
        Self {
            file,
            filled: 0,
            stage: Stage::Create,
            busy: false,
        }
    }
}

/// How many zeros appends have left room for.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    allowed_bytes: u64,
}

impl Pace {
    /// A chunk left. `due_bytes` of zeros must be there before `room_bytes` more of chunks are.
    pub(crate) fn chunk_left(&mut self, chunk_bytes: u64, due_bytes: u64, room_bytes: u64) {
        let share = u128::from(chunk_bytes) * u128::from(due_bytes) * u128::from(PACE_QUARTERS)
            / (4 * u128::from(room_bytes.max(chunk_bytes)));
        let share = u64::try_from(share).unwrap_or(u64::MAX);
        self.allowed_bytes = self.allowed_bytes.saturating_add(share).min(due_bytes);
    }

    fn take(&mut self, bytes: u64) -> bool {
        let allows = self.allowed_bytes >= bytes;
        if allows {
            self.allowed_bytes -= bytes;
        }
        allows
    }
}

impl Journal {
    /// A chunk of the active segment was submitted: zeros may follow it in proportion.
    pub(crate) fn pace_filling(&mut self, chunk_bytes: u64) {
        let missing = (RESERVED_FROM_DATA + 1).saturating_sub(self.spares.ready.len()) as u64;
        let filled = self.spares.filling.as_ref().map_or(0, |it| it.filled);
        let due = (missing * self.settings.segment_bytes).saturating_sub(filled);
        let room = self.settings.segment_bytes - self.active.at;
        self.spares.pace.chunk_left(chunk_bytes, due, room);
    }

    /// Nothing was appended for long enough that a closing chunk has proven it.
    fn is_quiet(&self) -> bool {
        self.closing_at.is_none()
            && self.inflight.count() == 0
            && self.ready.is_empty()
            && (!self.open.is_open || self.open.entry_count == 0)
    }

    /// Moves the file that is being filled on by one operation, when none is in flight and one may go.
    pub(crate) fn push_filling(&mut self) {
        let may_write = self.spares.is_starved() || self.is_quiet();
        let now = self.now.mono;
        let Some((filling, pace)) = self.spares.filling(now) else {
            return;
        };
        if filling.busy {
            return;
        }
        let file = JournalFile::Segment(filling.file);
        let left = self.settings.segment_bytes - filling.filled;
        let piece = left.min(PIECE_BYTES as u64);
        if filling.stage == Stage::Write && !may_write && !pace.take(piece) {
            return;
        }
        filling.busy = true;
        let op = self.operations.begin(Op::Filling);
        self.outbox.push(match filling.stage {
            Stage::Create => Effect::Prepare { op, file, bytes: 0 },
            Stage::Write => Effect::Write {
                op,
                file,
                at: filling.filled,
                data: zeros(&mut self.zeros, piece as usize),
                durable: false,
            },
            Stage::Sync => Effect::Sync { op, file },
        });
    }

    /// The operation on the file that is being filled ended.
    pub(crate) fn filling_done(&mut self, result: Result<(), DiskError>) {
        let Some(mut filling) = self.spares.filling.take() else {
            return;
        };
        filling.busy = false;
        if let Err(error) = result {
            // Nothing of the journal is in the file. A sync is never tried again: another file is, later.
            if filling.stage != Stage::Create {
                let op = self.operations.begin(Op::Remove);
                let file = JournalFile::Segment(filling.file);
                self.outbox.push(Effect::Remove { op, file });
            }
            self.stats.spares_failed += u64::from(error != DiskError::NoSpace);
            self.spares.failed(error, self.now.mono);
            if self.spares.are_hopeless() {
                self.fail(Fatal::JournalWrite(error));
            }
            return;
        }
        match filling.stage {
            Stage::Create => filling.stage = Stage::Write,
            Stage::Write => {
                let left = self.settings.segment_bytes - filling.filled;
                let piece = left.min(PIECE_BYTES as u64);
                filling.filled += piece;
                self.stats.prewritten_bytes += piece;
                if filling.filled == self.settings.segment_bytes {
                    filling.stage = Stage::Sync;
                }
            }
            Stage::Sync => {
                self.spares.add(filling.file);
                return;
            }
        }
        self.spares.filling = Some(filling);
    }
}

/// `bytes` zeros out of one buffer that is made at first use.
fn zeros(held: &mut Bytes, bytes: usize) -> Bytes {
    if held.len() < bytes {
        *held = aligned_zeroed(bytes).freeze();
    }
    held.slice(..bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_keep_ahead_of_the_chunks_that_will_need_them() {
        for (segment, chunk, due_segments) in [(64, 1, 1), (64, 3, 1), (100, 7, 3), (32, 32, 2)] {
            let (mut pace, mut room, mut due) = (Pace::default(), segment, due_segments * segment);
            while room > 0 {
                let bytes = u64::min(chunk, room);
                room -= bytes;
                pace.chunk_left(bytes, due, room);
                while due > 0 && pace.take(1) {
                    due -= 1;
                }
            }
            assert_eq!(due, 0, "segment {segment}, chunk {chunk}");
        }
    }

    #[test]
    fn nothing_is_allowed_that_is_not_due() {
        let mut pace = Pace::default();
        pace.chunk_left(1 << 20, 0, 1 << 30);
        assert!(!pace.take(1));
        pace.chunk_left(u64::MAX, 10, 0);
        assert!(pace.take(10) && !pace.take(1));
    }
}
