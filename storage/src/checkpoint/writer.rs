//! Writes one part: takes cells, gives aligned blocks with their places. Holds what was not taken yet, one open piece at
//! most beside it; the journal feeds it no faster than the disk takes. The header block comes last, with the checksum and
//! the counts of all that came before it.

use super::cell::{Cell, CellError};
use super::part::{NO_PARENT, Part, encode_header};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use tiderace_base::checksum::Crc32c;
use tiderace_base::ids::JournalId;
use tiderace_base::limits::BLOCK_BYTES;
use tiderace_base::position::Lsn;
use tiderace_base::region::aligned_zeroed;

/// The largest piece: large enough for the disk to be busy, small enough to slip between the chunks of the log.
pub const PIECE_BYTES: usize = 256 * 1024;

const _: () = assert!(
    PIECE_BYTES.is_multiple_of(BLOCK_BYTES),
    "a piece is whole blocks"
);

/// Whole aligned blocks and where they go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Byte position in the part's file, a multiple of the block size.
    pub at: u64,
    /// Up to [`PIECE_BYTES`].
    pub data: Bytes,
}

/// A part that is being written.
#[derive(Debug)]
pub struct PartWriter {
    journal: JournalId,
    part: Part,
    body_crc: Crc32c,
    open: BytesMut,
    open_bytes: usize,
    /// Where the open piece goes.
    at: u64,
    ready: VecDeque<Piece>,
    ready_bytes: usize,
    finished: bool,
}

impl PartWriter {
    /// Starts the part `id`, on top of `parent` ([`NO_PARENT`] for a base). Replay from `covers` on will complete it: every
    /// cell pushed reflects at least all entries below.
    ///
    /// # Panics
    /// When the parent is not older than the part.
    #[must_use]
    pub fn new(journal: JournalId, id: u64, parent: u64, covers: Lsn) -> Self {
        assert!(parent < id, "a part builds on an older one");
        const { assert!(NO_PARENT == 0, "no parent is older than every part") };
        Self {
            journal,
            part: Part {
                id,
                parent,
                covers,
                cell_count: 0,
                body_bytes: 0,
            },
            body_crc: Crc32c::new(),
            open: BytesMut::new(),
            open_bytes: 0,
            at: BLOCK_BYTES as u64,
            ready: VecDeque::new(),
            ready_bytes: 0,
            finished: false,
        }
    }

    /// Appends a cell.
    ///
    /// # Errors
    /// When the cell exceeds a bound or has kind 0; nothing is appended then.
    ///
    /// # Panics
    /// After [`PartWriter::finish`].
    pub fn push(&mut self, cell: Cell<'_>) -> Result<(), CellError> {
        assert!(!self.finished, "a finished part takes no cells");
        let head = cell.head()?;
        self.append(&head);
        self.append(cell.key);
        self.append(cell.value.unwrap_or_default());
        self.part.cell_count += 1;
        self.part.body_bytes += cell.encoded_bytes() as u64;
        Ok(())
    }

    fn append(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.open.is_empty() {
                self.open = aligned_zeroed(PIECE_BYTES);
            }
            let taken = bytes.len().min(PIECE_BYTES - self.open_bytes);
            let (now, later) = bytes.split_at(taken);
            self.open[self.open_bytes..self.open_bytes + taken].copy_from_slice(now);
            self.open_bytes += taken;
            bytes = later;
            if self.open_bytes == PIECE_BYTES {
                self.close_piece();
            }
        }
    }

    /// Queues the open piece, padded with its zeros to a block.
    fn close_piece(&mut self) {
        let mut piece = core::mem::take(&mut self.open);
        piece.truncate(self.open_bytes.next_multiple_of(BLOCK_BYTES));
        self.open_bytes = 0;
        // J-51: the padding is covered too.
        self.body_crc.update(&piece);
        let at = self.at;
        self.at += piece.len() as u64;
        self.queue(at, piece);
    }

    fn queue(&mut self, at: u64, piece: BytesMut) {
        self.ready_bytes += piece.len();
        self.ready.push_back(Piece {
            at,
            data: piece.freeze(),
        });
    }

    /// Ends the part: its last blocks and then its header block are there to be taken. The file may be named by a superblock
    /// when all pieces are written and it is synced.
    ///
    /// # Panics
    /// When called twice.
    pub fn finish(&mut self) {
        assert!(!self.finished, "a part is finished once");
        self.finished = true;
        if self.open_bytes > 0 {
            self.close_piece();
        }
        // J-51: the header goes last.
        let mut block = aligned_zeroed(BLOCK_BYTES);
        encode_header(&mut block, self.journal, &self.part, self.body_crc.finish());
        self.queue(0, block);
    }

    /// The next piece to write, in order. `None`: feed more cells, or, after [`PartWriter::finish`], all was taken.
    pub fn take(&mut self) -> Option<Piece> {
        let piece = self.ready.pop_front()?;
        self.ready_bytes -= piece.data.len();
        Some(piece)
    }

    /// Bytes in memory that were not taken yet.
    #[must_use]
    pub fn backlog_bytes(&self) -> usize {
        self.ready_bytes + self.open_bytes
    }

    /// The part as its header says, once it is finished.
    #[must_use]
    pub fn finished(&self) -> Option<&Part> {
        self.finished.then_some(&self.part)
    }

    /// The part's number.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.part.id
    }

    /// From where on replay completes it.
    #[must_use]
    pub fn covers(&self) -> Lsn {
        self.part.covers
    }
}
