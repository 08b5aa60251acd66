//! Reads files of any size through one bounded buffer. What lies past a file's end is no error: it is not there.

use crate::OpenError;
use bytes::BytesMut;
use tiderace_base::disk::{Disk, JournalFile};
use tiderace_base::limits::{BLOCK_BYTES, CHUNK_BYTES_MAX};
use tiderace_base::region::aligned_zeroed;

/// See the module.
pub(crate) struct Window {
    buffer: BytesMut,
    file: Option<JournalFile>,
    at: u64,
    filled: usize,
}

impl Window {
    /// Room for twice the largest chunk, or for a whole small segment.
    pub(crate) fn new(segment_bytes: u64) -> Self {
        let bytes = usize::try_from(segment_bytes)
            .unwrap_or(usize::MAX)
            .min(2 * CHUNK_BYTES_MAX);
        Self {
            buffer: aligned_zeroed(bytes),
            file: None,
            at: 0,
            filled: 0,
        }
    }

    /// `bytes` bytes from `at`, both whole blocks; none where the file of `file_bytes` ends before.
    pub(crate) fn get<D: Disk>(
        &mut self,
        disk: &mut D,
        file: JournalFile,
        file_bytes: u64,
        at: u64,
        bytes: usize,
    ) -> Result<Option<&[u8]>, OpenError> {
        let block = BLOCK_BYTES as u64;
        let whole = file_bytes - file_bytes % block;
        if bytes > self.buffer.len() || at.saturating_add(bytes as u64) > whole {
            return Ok(None);
        }
        let held = self.file == Some(file)
            && at >= self.at
            && at + bytes as u64 <= self.at + self.filled as u64;
        if !held {
            let filled = (self.buffer.len() as u64).min(whole - at) as usize;
            // Nothing is held while the read may have failed half way.
            self.file = None;
            disk.read(file, at, &mut self.buffer[..filled])
                .map_err(|error| OpenError::Disk {
                    file: Some(file),
                    doing: "reading",
                    error,
                })?;
            self.file = Some(file);
            self.at = at;
            self.filled = filled;
        }
        let from = (at - self.at) as usize;
        Ok(Some(&self.buffer[from..from + bytes]))
    }
}
