//! Reads parts, for recovery: first every part of a checkpoint is read to its end and verified, then its cells are handed
//! out in a second reading. Two readings cost a sequential read of what is in the page cache; one would need memory for
//! the largest part, or an owner that can take back what it was told. Memory is one piece and one cell.

use super::PARTS_MAX;
use super::cell::{Cell, CellError, HEAD_BYTES};
use super::part::{NO_PARENT, Part, PartError, decode_header};
use super::writer::PIECE_BYTES;
use core::fmt;
use tiderace_base::checksum::Crc32c;
use tiderace_base::disk::{Disk, JournalFile};
use tiderace_base::ids::JournalId;
use tiderace_base::limits::BLOCK_BYTES;
use tiderace_base::region::aligned_zeroed;

/// A part that was verified whole. Holds no cell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartReader {
    part: Part,
    body_crc: u32,
}

impl PartReader {
    /// Reads the part `id` to its end and judges all of it: nothing is handed out. J-53
    ///
    /// # Errors
    /// Whatever makes the part unusable.
    pub fn verify(disk: &mut dyn Disk, journal: JournalId, id: u64) -> Result<Self, PartError> {
        let file = JournalFile::Checkpoint(id);
        let size = disk.size(file)?;
        if size < BLOCK_BYTES as u64 {
            return Err(PartError::Length);
        }
        let mut block = aligned_zeroed(BLOCK_BYTES);
        disk.read(file, 0, &mut block)?;
        let (part, body_crc) = decode_header(&block, journal, id)?;
        // J-52
        if part.file_bytes() != Some(size) {
            return Err(PartError::Length);
        }
        let reader = Self { part, body_crc };
        reader.pass(disk, &mut |_| {})?;
        Ok(reader)
    }

    /// What its header says.
    #[must_use]
    pub fn part(&self) -> &Part {
        &self.part
    }

    /// Reads the part again and hands out its cells in order. They were verified before; they are verified again as they
    /// pass, because a disk may answer differently.
    ///
    /// # Errors
    /// When the disk fails or no longer says what it said: what was handed out cannot be relied on, give up the start.
    pub fn replay(
        &self,
        disk: &mut dyn Disk,
        each: &mut dyn FnMut(Cell<'_>),
    ) -> Result<(), PartError> {
        self.pass(disk, each)
    }

    fn pass(&self, disk: &mut dyn Disk, each: &mut dyn FnMut(Cell<'_>)) -> Result<(), PartError> {
        let padded = self
            .part
            .body_bytes
            .checked_next_multiple_of(BLOCK_BYTES as u64)
            .ok_or(PartError::Length)?;
        let file = JournalFile::Checkpoint(self.part.id);
        let mut buffer = aligned_zeroed(padded.min(PIECE_BYTES as u64) as usize);
        let mut crc = Crc32c::new();
        let mut cells = Cells::default();
        let mut fed = Ok(());
        let mut done = 0_u64;
        while done < padded {
            // Both are bounded by the buffer: they fit usize.
            let length = (padded - done).min(buffer.len() as u64) as usize;
            let piece = &mut buffer[..length];
            disk.read(file, done + BLOCK_BYTES as u64, piece)?;
            crc.update(piece);
            if fed.is_ok() {
                let body = (self.part.body_bytes - done).min(length as u64) as usize;
                let (body, padding) = piece.split_at(body);
                fed = cells.feed(body, each);
                if padding.iter().any(|byte| *byte != 0) {
                    fed = fed.and(Err(PartError::Malformed));
                }
            }
            done += length as u64;
        }
        // Damage explains every other contradiction: the checksum is judged first.
        if crc.finish() != self.body_crc {
            return Err(PartError::BodyChecksum);
        }
        fed?;
        if !cells.carry.is_empty() || cells.count != self.part.cell_count {
            return Err(PartError::Malformed);
        }
        Ok(())
    }
}

/// Cuts a body that comes in pieces into cells.
#[derive(Default)]
struct Cells {
    /// The start of a cell whose end is in a later piece: less than one cell.
    carry: Vec<u8>,
    count: u64,
    /// Bytes of the body before the cell that comes next.
    at: u64,
}

impl Cells {
    fn feed(&mut self, mut bytes: &[u8], each: &mut dyn FnMut(Cell<'_>)) -> Result<(), PartError> {
        while !bytes.is_empty() {
            let cell_bytes = if self.carry.is_empty() {
                match Cell::decode(bytes) {
                    Ok((cell, length)) => {
                        each(cell);
                        bytes = &bytes[length..];
                        length
                    }
                    Err(CellError::Short) => {
                        self.carry.extend_from_slice(bytes);
                        return Ok(());
                    }
                    Err(error) => return Err(PartError::Cell { at: self.at, error }),
                }
            } else {
                // First the rest of its head, then, as that tells how much is missing, the rest of it.
                let needed = Cell::needed_bytes(&self.carry)
                    .map_err(|error| PartError::Cell { at: self.at, error })?;
                let missing = needed - self.carry.len();
                let (now, later) = bytes.split_at(missing.min(bytes.len()));
                self.carry.extend_from_slice(now);
                bytes = later;
                match Cell::decode(&self.carry) {
                    Ok((cell, length)) => {
                        each(cell);
                        self.carry.clear();
                        length
                    }
                    Err(CellError::Short) => continue,
                    Err(error) => return Err(PartError::Cell { at: self.at, error }),
                }
            };
            assert!(cell_bytes >= HEAD_BYTES, "every cell moves the reader on");
            self.count += 1;
            self.at += cell_bytes as u64;
        }
        Ok(())
    }
}

/// Why a checkpoint cannot be used, and which of its parts is to blame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChainError {
    /// The part.
    pub part: u64,
    /// What is wrong with it.
    pub error: PartError,
}

impl fmt::Display for ChainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = JournalFile::Checkpoint(self.part);
        write!(f, "{file}: {}", self.error)
    }
}

impl core::error::Error for ChainError {}

/// Verifies the checkpoint that ends with the part `newest`: that part and all that it builds on. Gives them base first,
/// as they are to be replayed. J-53, J-54
///
/// # Errors
/// Which part is unusable and why; nothing of the checkpoint may be used then.
pub fn verify_chain(
    disk: &mut dyn Disk,
    journal: JournalId,
    newest: u64,
) -> Result<Vec<PartReader>, ChainError> {
    let mut chain: Vec<PartReader> = Vec::new();
    let mut id = newest;
    loop {
        let blame = |error| ChainError { part: id, error };
        let reader = PartReader::verify(disk, journal, id).map_err(blame)?;
        let covers_more = chain
            .last()
            .is_some_and(|child| child.part.covers < reader.part.covers);
        if covers_more || chain.len() == PARTS_MAX {
            return Err(blame(PartError::Malformed));
        }
        chain.push(reader);
        id = reader.part.parent;
        if id == NO_PARENT {
            chain.reverse();
            return Ok(chain);
        }
    }
}
