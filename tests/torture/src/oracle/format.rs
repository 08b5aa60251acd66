//! The files of a journal, read from the tables of `docs/journal.md` and not by the code that the node reads them with: a
//! second reader shares no mistake with the first. Only the entries inside a chunk are walked with the protocol's own code.
//! Nothing here judges more than one structure; what follows from them together is in the module above.

use tiderace_base::checksum::crc32c;
use tiderace_wire::batch::walk;
use tiderace_wire::entry::EntryKind;

/// A block, the unit of every write.
pub const BLOCK: usize = 4096;
/// One copy of the superblock.
pub const COPY_BYTES: usize = 262_144;
const SUPER_HEADER_BYTES: usize = 512;
const CHUNK_BYTES_MAX: usize = 2_097_152;
const CHUNK_HEADER_BYTES: usize = 128;

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// A row of the superblock's list of recent segments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Recent {
    /// Number of its file.
    pub file: u32,
    /// Number of its life.
    pub seq: u64,
    /// Salt of that life.
    pub salt: u64,
    /// LSN of its first byte.
    pub start: u64,
}

/// A copy of the superblock that holds.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the fields of the table in docs/journal.md")]
pub struct Superblock {
    pub generation: u64,
    pub journal: u64,
    pub disk: u128,
    pub journal_index: u16,
    pub journal_count: u16,
    pub boot_count: u64,
    pub segment_bytes: u64,
    pub recovered_end: u64,
    pub oldest_seq: u64,
    /// Number and covers_lsn.
    pub newest: Option<(u64, u64)>,
    pub previous: Option<(u64, u64)>,
    pub durable: u64,
    pub recent: Vec<Recent>,
    pub free: Vec<u32>,
}

/// What a copy of the superblock is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Copy {
    /// It holds.
    Valid(Superblock),
    /// It is of a later version.
    Newer,
    /// It does not hold.
    Invalid,
}

impl Copy {
    /// Reads the copy of this number, 0 or 1, from the superblock's file. A copy takes as few blocks as it needs, so that a file
    /// that ends early may still hold all of it. J-1
    #[must_use]
    pub fn of(file: &[u8], number: u64) -> Self {
        let at = usize::try_from(number).expect("small") * COPY_BYTES;
        let there = file.get(at..).unwrap_or_default();
        let there = &there[..there.len().min(COPY_BYTES)];
        let mut copy = there[..there.len() - there.len() % BLOCK].to_vec();
        copy.resize(COPY_BYTES, 0);
        Self::known(&copy, number).unwrap_or(Self::Invalid)
    }

    fn known(copy: &[u8], number: u64) -> Option<Self> {
        let header = &copy[..SUPER_HEADER_BYTES];
        let generation = u64_at(header, 16);
        let holds = &header[..8] == b"TRSUPER1"
            && u32_at(header, 508) == crc32c(&header[..508])
            && generation % 2 == number;
        if !holds {
            return None;
        }
        match u32_at(header, 8) {
            1 => {}
            0 => return None,
            _ => return Some(Self::Newer),
        }
        let body_bytes = u32_at(header, 156) as usize;
        let body = copy.get(SUPER_HEADER_BYTES..SUPER_HEADER_BYTES.checked_add(body_bytes)?)?;
        if u32_at(header, 160) != crc32c(body) || u32_at(header, 12) as usize != COPY_BYTES {
            return None;
        }
        let count = |at| u32_at(header, at) as usize;
        let recent = body.get(..count(136) * 32)?.chunks_exact(32);
        let recent = recent.map(|row| Recent {
            file: u32_at(row, 0),
            seq: u64_at(row, 8),
            salt: u64_at(row, 16),
            start: u64_at(row, 24),
        });
        const MARK_BYTES: usize = 24;
        let before_free = count(136) * 32 + count(140) * 32 + count(144) * 24;
        let before_free = before_free + count(148) * MARK_BYTES;
        let free = body.get(before_free..before_free + count(152) * 4)?;
        let reference =
            |at| (u64_at(header, at) != 0).then(|| (u64_at(header, at), u64_at(header, at + 8)));
        Some(Self::Valid(Superblock {
            generation,
            journal: u64_at(header, 24),
            disk: u128::from(u64_at(header, 32)) | u128::from(u64_at(header, 40)) << 64,
            journal_index: u16_at(header, 56),
            journal_count: u16_at(header, 58),
            boot_count: u64_at(header, 72),
            segment_bytes: u64_at(header, 80),
            recovered_end: u64_at(header, 88),
            oldest_seq: u64_at(header, 96),
            newest: reference(104),
            previous: reference(120),
            durable: u64_at(header, 168),
            recent: recent.collect(),
            free: free.chunks_exact(4).map(|row| u32_at(row, 0)).collect(),
        }))
    }
}

/// The segment before another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the fields of the table in docs/journal.md")]
pub struct Before {
    pub file: u32,
    pub seq: u64,
    pub salt: u64,
    pub end: u64,
    pub last_crc: u32,
}

/// A segment's first block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the fields of the table in docs/journal.md")]
pub struct SegmentHeader {
    pub seq: u64,
    pub salt: u64,
    pub start: u64,
    pub before: Option<Before>,
}

impl SegmentHeader {
    /// Reads it, if it is one of this journal.
    #[must_use]
    pub fn of(file: &[u8], journal: u64, segment_bytes: u64) -> Option<Self> {
        let block = file.get(..BLOCK)?;
        let holds = &block[..8] == b"TRSEGM01"
            && u32_at(block, 4092) == crc32c(&block[..4092])
            && u32_at(block, 8) == 1
            && u64_at(block, 16) == journal
            && u64_at(block, 48) == segment_bytes
            && u64_at(block, 24) > 0;
        let before = (u64_at(block, 56) != 0).then(|| Before {
            file: u32_at(block, 80),
            seq: u64_at(block, 56),
            salt: u64_at(block, 64),
            end: u64_at(block, 72),
            last_crc: u32_at(block, 84),
        });
        holds.then(|| Self {
            seq: u64_at(block, 24),
            salt: u64_at(block, 32),
            start: u64_at(block, 40),
            before,
        })
    }
}

/// A chunk's first block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the fields of the table in docs/journal.md")]
pub struct ChunkHeader {
    pub lsn: u64,
    pub durable: u64,
    pub bytes: usize,
    pub prev_crc: u32,
    pub first_crc: u32,
    pub closing: bool,
    entries_at: usize,
    entry_bytes: usize,
    entry_count: u32,
    rest_crc: u32,
}

/// One entry of a partition's data.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Entry {
    /// Its stream.
    pub stream: u64,
    /// Its partition.
    pub partition: u32,
    /// Its first offset.
    pub base: u64,
    /// One past its last.
    pub next: u64,
    /// Byte of its chunk where it begins.
    pub at: usize,
    /// Bytes of it.
    pub bytes: usize,
}

impl ChunkHeader {
    /// Reads the block at byte `at` of a segment's file, if a chunk of this life begins there.
    #[must_use]
    pub fn of(file: &[u8], at: usize, journal: u64, salt: u64) -> Option<Self> {
        let first = file.get(at..at + BLOCK)?;
        let is_of_life = &first[..4] == b"TRC1"
            && u16_at(first, 4) == 1
            && u64_at(first, 8) == journal
            && u64_at(first, 16) == salt;
        if !is_of_life {
            return None;
        }
        let mut unsealed = first.to_vec();
        unsealed.drain(124..128);
        if u32_at(first, 124) != crc32c(&unsealed) {
            return None;
        }
        let header = Self {
            lsn: u64_at(first, 24),
            durable: u64_at(first, 32),
            bytes: u32_at(first, 40) as usize,
            prev_crc: u32_at(first, 60),
            first_crc: u32_at(first, 124),
            closing: u16_at(first, 6) & 2 != 0,
            entries_at: usize::from(u16_at(first, 44)),
            entry_bytes: u32_at(first, 52) as usize,
            entry_count: u32_at(first, 56),
            rest_crc: u32_at(first, 120),
        };
        let bounded = header.bytes.is_multiple_of(BLOCK)
            && (BLOCK..=CHUNK_BYTES_MAX).contains(&header.bytes)
            && (CHUNK_HEADER_BYTES..=BLOCK).contains(&header.entries_at)
            && header.entries_at + header.entry_bytes <= header.bytes;
        bounded.then_some(header)
    }

    /// Its data entries and the greatest epoch of all its entries, if all of it holds; entries of other kinds are checked and
    /// left out.
    #[must_use]
    pub fn entries(&self, file: &[u8], at: usize) -> Option<(Vec<Entry>, u32)> {
        let chunk = file.get(at..at + self.bytes)?;
        if crc32c(&chunk[BLOCK..]) != self.rest_crc {
            return None;
        }
        let bytes = &chunk[self.entries_at..self.entries_at + self.entry_bytes];
        let mut found = Vec::new();
        let mut epoch_max = 0;
        let mut count = 0;
        for entry in walk(bytes) {
            let (header, range) = entry.ok()?;
            let body = &bytes[range.clone()][header.batch_len() - header.body_len()..];
            header.check_producer(body.len()).ok()?;
            header.check_placement().ok()?;
            header.check_body(body).ok()?;
            epoch_max = epoch_max.max(header.epoch().get());
            if header.entry_kind().ok()? == EntryKind::Data {
                found.push(Entry {
                    stream: header.stream().get(),
                    partition: header.partition().get(),
                    base: header.base_offset().get(),
                    next: header.next_offset().get(),
                    at: self.entries_at + range.start,
                    bytes: range.len(),
                });
            }
            count += 1;
        }
        (count == self.entry_count).then_some((found, epoch_max))
    }
}

/// What a checkpoint's part says of the journal itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Part {
    /// The part that it builds on; 0: a base.
    pub parent: u64,
    /// Replay from here on completes it.
    pub covers: u64,
    /// Rows of segments, in their order: number of the life, and its file, salt, start and end; none: released.
    pub rows: Vec<(u64, Option<Row>)>,
}

/// A checkpoint's row of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the fields of the table in docs/journal.md")]
pub struct Row {
    pub file: u32,
    pub salt: u64,
    pub start: u64,
    pub end: u64,
}

impl Part {
    /// Reads the part of this number, if all of it holds.
    #[must_use]
    pub fn of(file: &[u8], journal: u64, id: u64) -> Option<Self> {
        let header = file.get(..BLOCK)?;
        let body_bytes = usize::try_from(u64_at(header, 56)).ok()?;
        let holds = &header[..8] == b"TRCKPT01"
            && u32_at(header, 4092) == crc32c(&header[..4092])
            && u32_at(header, 8) == 1
            && u64_at(header, 16) == journal
            && u64_at(header, 24) == id
            && u64_at(header, 32) < id
            && file.len() == BLOCK + body_bytes.checked_next_multiple_of(BLOCK)?
            && u32_at(header, 12) == crc32c(&file[BLOCK..]);
        if !holds {
            return None;
        }
        let mut part = Self {
            parent: u64_at(header, 32),
            covers: u64_at(header, 40),
            rows: Vec::new(),
        };
        let mut cells = &file[BLOCK..BLOCK + body_bytes];
        while !cells.is_empty() {
            let head = cells.get(..8)?;
            let key_end = 8 + usize::from(u16_at(head, 2));
            let end = key_end + u32_at(head, 4) as usize;
            let (key, value) = (cells.get(8..key_end)?, cells.get(key_end..end)?);
            if let (1, Ok(seq)) = (head[0], <[u8; 8]>::try_from(key)) {
                let row = (head[1] & 1 == 0 && value.len() == 32).then(|| Row {
                    file: u32_at(value, 0),
                    salt: u64_at(value, 8),
                    start: u64_at(value, 16),
                    end: u64_at(value, 24),
                });
                part.rows.push((u64::from_le_bytes(seq), row));
            }
            cells = &cells[end..];
        }
        Some(part)
    }
}

/// A life of a segment's file: its number, its salt, where it starts and where it ends.
pub type Life = (u64, u64, u64, u64);

/// Whether a footer's file holds in itself, and of which life it speaks.
#[must_use]
pub fn footer_life(file: &[u8], journal: u64) -> Option<Life> {
    let header = file.get(..CHUNK_HEADER_BYTES)?;
    let holds = &header[..8] == b"TRFOOT01"
        && u32_at(header, 124) == crc32c(&header[..124])
        && u32_at(header, 8) == 2
        && u64_at(header, 16) == journal
        && u64_at(header, 64) == file.len() as u64
        && u32_at(header, 120) == crc32c(&file[CHUNK_HEADER_BYTES..]);
    holds.then(|| {
        (
            u64_at(header, 24),
            u64_at(header, 32),
            u64_at(header, 40),
            u64_at(header, 48),
        )
    })
}
