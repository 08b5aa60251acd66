//! What the driver's files tell a disk recording: each step that changes something, before the kernel sees it, and its end.
//! A step that goes on after a short write is a new operation there, as it is for the kernel. Reads are not recorded.

use super::{Files, PREPARE_PIECE_BYTES, Step};
use crate::recorder::JournalRecorder;
use crate::recording::{Event, Operation};
use crate::slab::Place;

impl Files {
    /// Where what is done is recorded, if it is.
    pub(crate) fn recorder(&self) -> Option<&JournalRecorder> {
        self.directory.recorder()
    }

    pub(super) fn record_began(&mut self, place: Place) {
        if let Some(operation) = self.recorded(place)
            && let Some(recorder) = self.directory.recorder()
        {
            recorder.note(Event::Began {
                token: place.pack(),
                operation,
            });
        }
    }

    pub(super) fn record_ended(&mut self, place: Place, result: i32) {
        if self.recorded(place).is_some()
            && let Some(recorder) = self.directory.recorder()
        {
            recorder.note(Event::Ended {
                token: place.pack(),
                result,
            });
        }
    }

    /// What the operation in this place asks of the kernel, when that changes something.
    fn recorded(&mut self, place: Place) -> Option<Operation> {
        let operation = self.operations.get_mut(place)?;
        let file = operation.file;
        Some(match &operation.step {
            Step::Write {
                data,
                at,
                done,
                durable,
            } => Operation::Write {
                file,
                at: *at + *done as u64,
                data: data.slice(*done..),
                durable: *durable,
            },
            Step::Sync | Step::PrepareSync => Operation::Sync { file },
            Step::PrepareOpen { .. } => Operation::Create { file },
            Step::PrepareZero { bytes, at } => Operation::Zero {
                file,
                at: *at,
                bytes: (*bytes - *at).min(PREPARE_PIECE_BYTES as u64),
            },
            Step::PrepareDirectory | Step::RemoveDirectory => Operation::SyncDirectory,
            Step::PrepareUndo { .. } | Step::Unlink { .. } => Operation::Unlink { file },
            Step::Read { .. } | Step::PrepareQueued { .. } => return None,
        })
    }
}
