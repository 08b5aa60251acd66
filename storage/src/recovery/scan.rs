//! Follows the chunks of one life and says where they stop following one another; then, whether what lies behind that
//! place proves that it was durable. Holds one window of a segment at a time.

use super::window::Window;
use crate::format::COUNT_MAX;
use crate::format::chunk::{ChunkHeader, Life, decode_first};
use crate::index::{Note, SegmentIndex};
use crate::{EntryMeta, OpenError};
use std::collections::BTreeMap;
use tiderace_base::disk::{Disk, JournalFile};
use tiderace_base::ids::SlotId;
use tiderace_base::limits::{BLOCK_BYTES, SLOTS};
use tiderace_base::planted::{Bug, is_planted};
use tiderace_base::position::{Epoch, Lsn, SlotSeq};
use tiderace_wire::batch::{BatchHeader, walk};
use tiderace_wire::entry::{EntryKind, Seal, Truncate};

const BLOCK: u64 = BLOCK_BYTES as u64;

/// A life's file as it is on the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) file: u32,
    pub(crate) file_bytes: u64,
    pub(crate) life: Life,
    pub(crate) start: Lsn,
    /// Where the life ends if its successor says so, else where a whole segment would.
    pub(crate) end: Lsn,
    /// Its successor says where it ends.
    pub(crate) end_is_known: bool,
}

impl Span {
    /// The byte of the file where `lsn` lies.
    pub(crate) fn place(&self, lsn: Lsn) -> u64 {
        lsn.distance_from(self.start)
            .unwrap_or(0)
            .saturating_add(BLOCK)
    }

    fn lsn(&self, at: u64) -> Lsn {
        Lsn::new(self.start.get().saturating_add(at.saturating_sub(BLOCK)))
    }
}

/// Where the chunks stop.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    pub(crate) lsn: Lsn,
    /// Checksum of the last chunk's first block; none when there was no chunk.
    pub(crate) last_crc: Option<u32>,
    /// The last chunk was written for the sake of what comes before it.
    pub(crate) closed: bool,
    /// The life's end was reached, every byte of it good.
    pub(crate) complete: bool,
    /// Bytes of the chunk that stands, damaged, at the stop; none: no chunk's first block can be read there.
    pub(crate) bad_bytes: Option<u64>,
}

/// One good chunk.
pub(crate) struct Chunk<'a> {
    pub(crate) header: &'a ChunkHeader,
    /// Byte of the segment's file.
    pub(crate) at: u64,
    pub(crate) bytes: &'a [u8],
}

impl Chunk<'_> {
    /// Hands out the entries: their place in the segment's file, header, and all bytes.
    pub(crate) fn entries(&self, mut each: impl FnMut(u64, &BatchHeader, &[u8])) {
        let entries = self.header.entries(self.bytes);
        for entry in walk(entries) {
            let Ok((header, range)) = entry else { return };
            let at = self.at + (self.header.entries_at + range.start) as u64;
            each(at, header, &entries[range]);
        }
    }
}

/// Takes an entry of a scan into the index of its segment, as the writer did. False: it does not follow the one before it.
pub(crate) fn note_entry(
    index: &mut SegmentIndex,
    chunk: Lsn,
    at: u64,
    header: &BatchHeader,
    bytes: &[u8],
) -> bool {
    if let Some(truncate) = truncate_of(header, bytes) {
        index.truncate(truncate.slot, truncate.from_seq);
    }
    let meta = EntryMeta::of(header);
    // Entries of this replica alone have no number in their slot, and nothing finds them.
    if meta.slot_seq == SlotSeq::ZERO {
        return meta.key.is_none();
    }
    index
        .note(Note {
            key: meta.key,
            slot: meta.slot,
            slot_seq: meta.slot_seq,
            base_offset: meta.base_offset,
            next_offset: meta.next_offset,
            append_time_us: meta.append_time_us,
            at: at as u32,
            bytes: bytes.len() as u32,
            chunk,
        })
        .is_ok()
}

/// The truncation that an entry says.
pub(crate) fn truncate_of(header: &BatchHeader, bytes: &[u8]) -> Option<Truncate> {
    let body = bytes.get(bytes.len() - header.body_len()..)?;
    (header.entry_kind() == Ok(EntryKind::Truncate))
        .then(|| Truncate::from_bytes(body).ok())
        .flatten()
}

/// The seal that an entry says.
pub(crate) fn seal_of(header: &BatchHeader, bytes: &[u8]) -> Option<Seal> {
    let body = bytes.get(bytes.len() - header.body_len()..)?;
    (header.entry_kind() == Ok(EntryKind::Seal))
        .then(|| Seal::from_bytes(body).ok())
        .flatten()
}

/// Whether every entry of a chunk is what its checksums say.
pub(crate) fn entries_are_good(header: &ChunkHeader, chunk: &[u8]) -> bool {
    let entries = header.entries(chunk);
    let mut count = 0_u32;
    for entry in walk(entries) {
        let Ok((entry, range)) = entry else {
            return false;
        };
        let body = &entries[range][entry.batch_len() - entry.body_len()..];
        let good = entry.check_producer(body.len()).is_ok()
            && entry.check_placement().is_ok()
            && entry.check_body(body).is_ok()
            && entry.entry_kind().is_ok_and(|kind| match kind {
                EntryKind::Data => entry.next_offset() > entry.base_offset(),
                // The superblock repeats both, and what says more than it may is not believed.
                EntryKind::Truncate => Truncate::from_bytes(body).is_ok_and(|it| {
                    (1..=COUNT_MAX).contains(&it.from_seq.get()) && it.slot.get() < SLOTS
                }),
                EntryKind::Seal => Seal::from_bytes(body).is_ok_and(|it| {
                    let greatest = it.last_seq.max(it.flushed_seq);
                    greatest.get() <= COUNT_MAX && it.slot.get() < SLOTS
                }),
                // What it means is its owner's business.
                kind => kind.body_bytes().is_none_or(|bytes| bytes == body.len()),
            });
        if !good {
            return false;
        }
        count += 1;
    }
    count == header.entry_count
}

/// Follows the chunks from the life's start. `prev_crc`: what the first one must name as its predecessor. J-4
pub(crate) fn follow<D: Disk>(
    disk: &mut D,
    window: &mut Window,
    span: &Span,
    mut prev_crc: Option<u32>,
    mut each: impl FnMut(&Chunk<'_>),
) -> Result<Stop, OpenError> {
    let file = JournalFile::Segment(span.file);
    let mut at = BLOCK;
    let mut stop = Stop {
        lsn: span.start,
        last_crc: None,
        closed: false,
        complete: false,
        bad_bytes: None,
    };
    let end_at = span.place(span.end);
    while at + BLOCK <= end_at {
        let Some(first) = window.get(disk, file, span.file_bytes, at, BLOCK_BYTES)? else {
            return Ok(stop);
        };
        let is_here = |it: &ChunkHeader| it.lsn == span.lsn(at) || is_planted(Bug::ParseOldChunk);
        let Some(header) = decode_first(first, span.life).filter(is_here) else {
            return Ok(stop);
        };
        stop.bad_bytes = Some(header.chunk_bytes as u64);
        let fits = at + header.chunk_bytes as u64 <= end_at
            && header.durable_lsn <= header.lsn
            && (prev_crc.is_none_or(|crc| crc == header.prev_crc)
                || is_planted(Bug::ParseOldChunk));
        if !fits {
            return Ok(stop);
        }
        let chunk = window.get(disk, file, span.file_bytes, at, header.chunk_bytes)?;
        let Some(bytes) =
            chunk.filter(|chunk| header.rest_matches(chunk) && entries_are_good(&header, chunk))
        else {
            return Ok(stop);
        };
        if !is_planted(Bug::DropChunkOnRecovery) || header.entry_count != 1 {
            each(&Chunk {
                header: &header,
                at,
                bytes,
            });
        }
        at += header.chunk_bytes as u64;
        prev_crc = Some(header.first_crc);
        stop.lsn = span.lsn(at);
        stop.last_crc = prev_crc;
        stop.closed = header.closing;
        stop.bad_bytes = None;
    }
    stop.complete = true;
    Ok(stop)
}

/// What lies behind the place where the chunks stop.
#[derive(Default, Debug)]
pub(crate) struct Remains {
    /// A later chunk that was submitted when the place was durable: its file and byte.
    pub(crate) proof: Option<(u32, u64)>,
    /// The first blocks of chunks that were cut off name these as the last of their slots.
    pub(crate) greatest: BTreeMap<SlotId, (Epoch, SlotSeq)>,
    /// A first block that can be read lies at the stop itself, and no directory lacked a row.
    pub(crate) is_named: bool,
    /// First blocks that can be read.
    pub(crate) chunks: usize,
}

impl Remains {
    /// Looks at every block of the life from the stop, or from its first chunk on. J-6
    pub(crate) fn look<D: Disk>(
        &mut self,
        disk: &mut D,
        window: &mut Window,
        span: &Span,
        stop: Lsn,
    ) -> Result<(), OpenError> {
        let file = JournalFile::Segment(span.file);
        let from = span.place(stop);
        let mut at = from;
        while at + BLOCK <= span.place(span.end) {
            let Some(first) = window.get(disk, file, span.file_bytes, at, BLOCK_BYTES)? else {
                return Ok(());
            };
            if let Some(header) =
                decode_first(first, span.life).filter(|header| header.lsn == span.lsn(at))
            {
                self.chunks += 1;
                if header.durable_lsn > stop && self.proof.is_none() {
                    self.proof = Some((span.file, at));
                }
                if header.lsn == stop {
                    self.is_named = true;
                }
                self.is_named &= header.directory_complete;
                for row in header.slots(first) {
                    // No slot of ours: what the row was meant to name is not known.
                    if row.slot.get() >= SLOTS {
                        self.is_named = false;
                        continue;
                    }
                    let greatest = self
                        .greatest
                        .entry(row.slot)
                        .or_insert((row.epoch, row.last_seq));
                    *greatest = (*greatest).max((row.epoch, row.last_seq));
                }
            }
            at += BLOCK;
        }
        Ok(())
    }

    /// The slots that the damaged chunk at `stop` names, if its first block can be read.
    pub(crate) fn slots_at<D: Disk>(
        disk: &mut D,
        window: &mut Window,
        span: &Span,
        stop: Lsn,
    ) -> Result<Vec<SlotId>, OpenError> {
        let file = JournalFile::Segment(span.file);
        let at = span.place(stop);
        let Some(first) = window.get(disk, file, span.file_bytes, at, BLOCK_BYTES)? else {
            return Ok(Vec::new());
        };
        let header = decode_first(first, span.life)
            .filter(|header| header.lsn == stop && header.directory_complete);
        Ok(header.map_or_else(Vec::new, |header| {
            header.slots(first).map(|row| row.slot).collect()
        }))
    }
}
