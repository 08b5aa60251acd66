//! Group commit, the same for every server: appends are copied once into the open chunk and checksummed there; a chunk is
//! written as whole blocks, round and round over a file that was written before; several may be in flight; an append is
//! acknowledged when its chunk and every chunk before it are on the disk. How bytes reach the disk is the runtime's.
//! Bounded: one open chunk, and as many in flight as the server was told.

use std::collections::VecDeque;
use tiderace_base::checksum::crc32c;
use tiderace_base::limits::BLOCK_BYTES;
use tiderace_base::region::Region;

/// The largest chunk. Seven appends of the largest payload.
pub(crate) const CHUNK_BYTES_MAX: usize = 512 * 1024;

/// Memory that a chunk is collected in, aligned to a block, of [`CHUNK_BYTES_MAX`].
pub(crate) trait Chunk {
    /// Copies bytes behind those that are there.
    fn append(&mut self, bytes: &[u8]);
    /// The bytes that are there.
    fn filled(&self) -> &[u8];
}

impl Chunk for Region {
    fn append(&mut self, bytes: &[u8]) {
        self.open().extend_from_slice(bytes);
    }

    fn filled(&self) -> &[u8] {
        Self::filled(self)
    }
}

/// An aligned piece of a vector, for runtimes that own vectors.
#[derive(Debug)]
pub(crate) struct AlignedVec {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedVec {
    /// An empty one.
    pub(crate) fn new() -> Self {
        let bytes = vec![0; CHUNK_BYTES_MAX + BLOCK_BYTES];
        let start = bytes.as_ptr().align_offset(BLOCK_BYTES);
        Self {
            bytes,
            start,
            len: 0,
        }
    }

    /// Its parts: the vector, where the aligned bytes begin, and where they end.
    pub(crate) fn into_parts(self) -> (Vec<u8>, usize, usize) {
        (self.bytes, self.start, self.start + self.len)
    }

    /// An empty one in a vector that was taken apart before.
    pub(crate) fn from_vec(bytes: Vec<u8>) -> Self {
        let start = bytes.as_ptr().align_offset(BLOCK_BYTES);
        assert_eq!(bytes.len(), CHUNK_BYTES_MAX + BLOCK_BYTES, "another vector");
        Self {
            bytes,
            start,
            len: 0,
        }
    }

    /// Forgets what is there.
    pub(crate) const fn clear(&mut self) {
        self.len = 0;
    }
}

impl Chunk for AlignedVec {
    fn append(&mut self, bytes: &[u8]) {
        let at = self.start + self.len;
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}

/// A chunk that is to be written.
#[derive(Debug)]
pub(crate) struct Taken<C> {
    /// Names it until it is done.
    pub(crate) id: u64,
    /// Where it is written.
    pub(crate) at: u64,
    /// Whole blocks.
    pub(crate) chunk: C,
}

/// What became of an append.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Appended {
    /// It is the first of a chunk: somebody must come and write it.
    First,
    /// It goes with others.
    Joined,
    /// The open chunk is full: write it, then try again.
    Full,
}

#[derive(Debug)]
struct Flight<W> {
    id: u64,
    done: bool,
    waiting: Vec<(W, u32)>,
}

/// The open chunk, those in flight, and who waits for them. `W` names an append for its acknowledgement.
#[derive(Debug)]
pub(crate) struct Group<C, W> {
    file_bytes: u64,
    writes_max: usize,
    at: u64,
    next_id: u64,
    open: Option<C>,
    waiting: Vec<(W, u32)>,
    flights: VecDeque<Flight<W>>,
    spare: Vec<C>,
    spare_lists: Vec<Vec<(W, u32)>>,
}

impl<C: Chunk, W> Group<C, W> {
    /// Writes to a file of `file_bytes`, at most `writes_max` chunks at once.
    pub(crate) fn new(file_bytes: u64, writes_max: usize) -> Self {
        assert!(writes_max > 0, "somebody must write");
        assert!(
            file_bytes >= CHUNK_BYTES_MAX as u64 && file_bytes.is_multiple_of(BLOCK_BYTES as u64),
            "the file holds no chunk"
        );
        Self {
            file_bytes,
            writes_max,
            at: 0,
            next_id: 0,
            open: None,
            waiting: Vec::new(),
            flights: VecDeque::new(),
            spare: Vec::new(),
            spare_lists: Vec::new(),
        }
    }

    /// Copies a frame, which may come in pieces, and checksums the copy. `make` gives memory where none is spare.
    pub(crate) fn append<'a>(
        &mut self,
        frame_bytes: usize,
        pieces: impl IntoIterator<Item = &'a [u8]>,
        waiting: W,
        make: impl FnOnce() -> C,
    ) -> Appended {
        let open = match &mut self.open {
            Some(open) => open,
            None => {
                let chunk = self.spare.pop().unwrap_or_else(make);
                assert!(chunk.filled().is_empty(), "a chunk is given back empty");
                self.open.insert(chunk)
            }
        };
        let start = open.filled().len();
        if start + frame_bytes > CHUNK_BYTES_MAX {
            return Appended::Full;
        }
        for piece in pieces {
            open.append(piece);
        }
        let copy = &open.filled()[start..];
        assert_eq!(copy.len(), frame_bytes, "a frame is copied whole");
        self.waiting.push((waiting, crc32c(copy)));
        if start == 0 {
            Appended::First
        } else {
            Appended::Joined
        }
    }

    /// The open chunk, if there is something in it and one more may be in flight.
    pub(crate) fn take(&mut self) -> Option<Taken<C>> {
        const ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
        if self.waiting.is_empty() || self.flights.len() >= self.writes_max {
            return None;
        }
        let mut chunk = self.open.take()?;
        let filled = chunk.filled().len();
        let whole = filled.next_multiple_of(BLOCK_BYTES);
        chunk.append(&ZEROS[..whole - filled]);
        if self.at + whole as u64 > self.file_bytes {
            self.at = 0;
        }
        let (id, at) = (self.next_id, self.at);
        self.next_id += 1;
        self.at += whole as u64;
        let empty = self.spare_lists.pop().unwrap_or_default();
        self.flights.push_back(Flight {
            id,
            done: false,
            waiting: std::mem::replace(&mut self.waiting, empty),
        });
        Some(Taken { id, at, chunk })
    }

    /// A chunk is on the disk: says which appends are durable now, in order.
    pub(crate) fn done(&mut self, id: u64, mut durable: impl FnMut(W, u32)) {
        let flight = self.flights.iter_mut().find(|flight| flight.id == id);
        let flight = flight.expect("a chunk in flight is done once");
        assert!(!std::mem::replace(&mut flight.done, true), "done twice");
        while let Some(mut flight) = self.flights.pop_front_if(|flight| flight.done) {
            for (waiting, crc) in flight.waiting.drain(..) {
                durable(waiting, crc);
            }
            self.spare_lists.push(flight.waiting);
        }
    }

    /// Takes memory back, emptied, for a later chunk.
    pub(crate) fn give_back(&mut self, chunk: C) {
        self.spare.push(chunk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE_BYTES: u64 = 2 * CHUNK_BYTES_MAX as u64;

    fn append(group: &mut Group<AlignedVec, u32>, name: u32, bytes: usize) -> Appended {
        let frame = vec![name as u8; bytes];
        let (front, back) = frame.split_at(bytes / 3);
        group.append(bytes, [front, back], name, AlignedVec::new)
    }

    fn done(group: &mut Group<AlignedVec, u32>, id: u64) -> Vec<u32> {
        let mut names = Vec::new();
        group.done(id, |name, crc| {
            assert_ne!(crc, 0);
            names.push(name);
        });
        names
    }

    #[test]
    fn acknowledgements_keep_the_order_of_the_chunks() {
        let mut group = Group::new(FILE_BYTES, 2);
        assert_eq!(append(&mut group, 1, 100), Appended::First);
        assert_eq!(append(&mut group, 2, 5000), Appended::Joined);
        let one = group.take().expect("a chunk");
        assert_eq!((one.at, one.chunk.filled().len()), (0, 8192));
        assert!(
            one.chunk
                .filled()
                .as_ptr()
                .addr()
                .is_multiple_of(BLOCK_BYTES)
        );
        assert_eq!(one.chunk.filled()[5100..], [0; 8192 - 5100]);
        assert!(group.take().is_none(), "nothing is open");
        assert_eq!(append(&mut group, 3, 10), Appended::First);
        let two = group.take().expect("a chunk");
        assert_eq!(two.at, 8192);
        append(&mut group, 4, 10);
        assert!(group.take().is_none(), "two are in flight");
        assert!(done(&mut group, two.id).is_empty());
        assert_eq!(done(&mut group, one.id), [1, 2, 3]);
        let three = group.take().expect("a chunk");
        assert_eq!(done(&mut group, three.id), [4]);
    }

    #[test]
    fn a_full_chunk_is_written_first_and_the_file_is_used_round_and_round() {
        let mut group = Group::new(FILE_BYTES, 1);
        let mut places = Vec::new();
        for name in 0..4 {
            assert_eq!(append(&mut group, name, CHUNK_BYTES_MAX), Appended::First);
            assert_eq!(append(&mut group, 9, 1), Appended::Full);
            let taken = group.take().expect("a chunk");
            places.push(taken.at);
            assert_eq!(done(&mut group, taken.id), [name]);
            let (bytes, start, end) = taken.chunk.into_parts();
            assert_eq!(end - start, CHUNK_BYTES_MAX);
            group.give_back(AlignedVec::from_vec(bytes));
        }
        let half = CHUNK_BYTES_MAX as u64;
        assert_eq!(places, [0, half, 0, half]);
    }

    #[test]
    fn the_checksum_is_that_of_the_whole_frame() {
        let mut group = Group::new(FILE_BYTES, 1);
        let frame = [b"1234".as_slice(), b"56789"];
        group.append(9, frame, 0, || Region::new(CHUNK_BYTES_MAX));
        let taken = group.take().expect("a chunk");
        // The check value of CRC32C.
        group.done(taken.id, |_: i32, crc| assert_eq!(crc, 0xe306_9283));
    }
}
