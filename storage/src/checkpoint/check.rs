//! Verifies a part while the journal serves, a piece at a time: its header, its length and the checksum of its body. What
//! its cells say is recovery's to judge; they were written with the checksum. J-51, J-52

use super::part::{PartError, decode_header};
use super::writer::PIECE_BYTES;
use tiderace_base::checksum::Crc32c;
use tiderace_base::ids::JournalId;
use tiderace_base::limits::BLOCK_BYTES;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// A part that is being read.
#[derive(Debug)]
pub(crate) struct PartCheck {
    pub(crate) id: u64,
    at: u64,
    /// The file's length and the body's checksum, once the header was read.
    bound: Option<(u64, u32)>,
    crc: Crc32c,
}

impl PartCheck {
    pub(crate) fn new(id: u64) -> Self {
        Self {
            id,
            at: 0,
            bound: None,
            crc: Crc32c::new(),
        }
    }

    /// The byte and the length of the next read; none: the part is whole.
    pub(crate) fn next_read(&self) -> Option<(u64, u64)> {
        let Some((length, _)) = self.bound else {
            return Some((0, BLOCK));
        };
        let bytes = (length - self.at).min(PIECE_BYTES as u64);
        (bytes > 0).then_some((self.at, bytes))
    }

    /// Takes what [`PartCheck::next_read`] asked for.
    ///
    /// # Errors
    /// What makes the part unusable.
    pub(crate) fn take(&mut self, journal: JournalId, bytes: &[u8]) -> Result<(), PartError> {
        self.at += bytes.len() as u64;
        let Some((length, crc)) = self.bound else {
            let (part, crc) = decode_header(bytes, journal, self.id)?;
            self.bound = Some((part.file_bytes().ok_or(PartError::Length)?, crc));
            return Ok(());
        };
        self.crc.update(bytes);
        if self.at == length && core::mem::take(&mut self.crc).finish() != crc {
            return Err(PartError::BodyChecksum);
        }
        Ok(())
    }
}
