//! Appending: a draft copies an entry into the open chunk, which is sealed when it is full or when a write may go, and
//! submitted in the journal's order. When a segment has no room the next one begins while appends go on filling memory.

pub(crate) mod commit;
pub(crate) mod open_chunk;
pub(crate) mod regions;
pub(crate) mod superblocks;

use crate::entry::{Class, EntryMeta, Placed, Refused};
use crate::format::chunk::{self, HEADER_BYTES};
use crate::format::segment::{Predecessor, SegmentHeader};
use crate::format::superblock::{Recent, copy_at};
use crate::format::whole_blocks;
use crate::index::Note;
use crate::journal::Journal;
use crate::operations::Op;
use crate::segments::{Active, Begun, Sealed};
use crate::spares::{RESERVED_FROM_CONTROL, RESERVED_FROM_DATA};
use bytes::Bytes;
use tiderace_base::disk::JournalFile;
use tiderace_base::limits::{BLOCK_BYTES, CLOSING_CHUNK_AFTER_NS};
use tiderace_base::operation::Effect;
use tiderace_base::planted::{Bug, is_planted};
use tiderace_base::position::{Lsn, SlotSeq};
use tiderace_base::region::aligned_zeroed;

/// A chunk that waits for its turn.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) file: u32,
    pub(crate) at: u64,
    pub(crate) end: Lsn,
    /// Its `durable_lsn`.
    pub(crate) proves: Lsn,
    pub(crate) bytes: Bytes,
    pub(crate) seq: u64,
    pub(crate) closing: bool,
}

/// Room in the open chunk for one entry that is being written. Dropping it takes the room back.
#[derive(Debug)]
pub struct Draft<'a> {
    journal: &'a mut Journal,
    /// Where the entry starts in the open chunk.
    start: usize,
    bytes_max: usize,
    /// What is known of the checksum of its last bytes.
    checksum: Option<(usize, u32)>,
    committed: bool,
}

impl<'a> Draft<'a> {
    /// A draft at the end of the open chunk, which has room for `bytes_max`.
    #[inline]
    pub(crate) fn new(journal: &'a mut Journal, bytes_max: usize) -> Self {
        Self {
            start: journal.regions.filled().len(),
            bytes_max,
            checksum: None,
            committed: false,
            journal,
        }
    }

    /// Adds the next piece of the entry.
    ///
    /// # Panics
    /// When the pieces exceed what the draft was asked for.
    #[inline]
    pub fn copy(&mut self, piece: &[u8]) {
        let open = self.journal.regions.open();
        assert!(
            open.len() - self.start + piece.len() <= self.bytes_max,
            "a draft holds what it was asked for"
        );
        open.extend_from_slice(piece);
        self.checksum = None;
    }

    /// Where the entry ends if nothing more is copied.
    #[must_use]
    pub fn end(&self) -> Lsn {
        let filled = self.journal.regions.filled().len();
        self.journal.open.lsn.advance(filled as u64)
    }

    /// What was copied so far.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.journal.regions.filled()[self.start..]
    }

    /// What was copied so far, to be placed.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.journal.regions.open()[self.start..]
    }

    /// The last `bytes` bytes of what was copied so far have this CRC32C: it was just checked. They are not read again for
    /// the chunk's checksum.
    ///
    /// # Panics
    /// When fewer were copied.
    #[inline]
    pub fn checked(&mut self, bytes: usize, crc: u32) {
        assert!(bytes <= self.bytes().len(), "what is checked was copied");
        self.checksum = Some((bytes, crc));
    }

    /// Appends the entry: it will be durable, in its place, before anything that follows it.
    ///
    /// # Panics
    /// When nothing was copied, `meta` names a partition and no offsets or no number, or a number of the slot that was given
    /// and not truncated.
    #[inline]
    pub fn commit(mut self, meta: EntryMeta) -> Placed {
        self.committed = true;
        let start = self.start;
        let journal = &mut *self.journal;
        let bytes = journal.regions.filled().len() - start;
        assert!(bytes > 0, "an entry has bytes");
        let lsn = journal.open.lsn.advance(start as u64);
        if meta.slot_seq > SlotSeq::ZERO {
            journal
                .active
                .index
                .note(Note {
                    key: meta.key,
                    slot: meta.slot,
                    slot_seq: meta.slot_seq,
                    base_offset: meta.base_offset,
                    next_offset: meta.next_offset,
                    append_time_us: meta.append_time_us,
                    at: (journal.active.at + start as u64) as u32,
                    bytes: bytes as u32,
                    chunk: journal.open.lsn,
                })
                .expect("a committed entry follows the one before it and has records");
        } else {
            assert!(
                meta.key.is_none(),
                "a partition's data has a number in its slot"
            );
        }
        journal.open.note(&meta);
        if let Some((bytes, crc)) = self.checksum {
            let chunk = journal.regions.filled();
            journal.open.note_checksum(chunk, bytes, crc);
        }
        journal.stats.entries += 1;
        journal.stats.entry_bytes += bytes as u64;
        Placed {
            lsn,
            end: lsn.advance(bytes as u64),
        }
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if !self.committed {
            self.journal.regions.open().truncate(self.start);
        }
    }
}

impl Journal {
    /// Sees to it that the open chunk has room for an entry of `bytes`.
    pub(crate) fn make_room(&mut self, class: Class, bytes: usize) -> Result<(), Refused> {
        assert!(
            bytes > 0 && bytes <= self.settings.chunk_bytes_max - BLOCK_BYTES,
            "an entry fits a chunk"
        );
        if self.poisoned {
            return Err(Refused::Poisoned);
        }
        if class == Class::Data && self.spares.is_read_only() {
            self.stats.refused_read_only += 1;
            return Err(Refused::ReadOnly);
        }
        if class == Class::Data && self.spares.is_short() {
            self.spares.starve();
            self.stats.refused_busy += 1;
            self.room_is_wanted = true;
            return Err(Refused::Busy);
        }
        let fits = self.open.is_open && self.regions.filled().len() + bytes <= self.open.capacity;
        if !fits {
            self.close_chunk(false);
            if let Err(refused) = self.open_chunk(class, bytes) {
                match refused {
                    Refused::ReadOnly => self.stats.refused_read_only += 1,
                    Refused::Busy => self.stats.refused_busy += 1,
                    Refused::Poisoned => {}
                }
                self.room_is_wanted |= refused == Refused::Busy;
                return Err(refused);
            }
        }
        Ok(())
    }

    /// Opens a chunk with room for `bytes` of entries.
    fn open_chunk(&mut self, class: Class, bytes: usize) -> Result<(), Refused> {
        let entries_at = self.open.next_entries_at();
        let needed = whole_blocks(entries_at + bytes);
        if self.active.at + needed as u64 > self.settings.segment_bytes {
            self.roll(class)?;
        }
        let durable = self.inflight.durable();
        if !self.regions.make_room(needed, &mut self.tail, durable) {
            return Err(Refused::Busy);
        }
        let room = (self.settings.segment_bytes - self.active.at)
            .min(self.regions.room_bytes() as u64) as usize;
        let capacity = self.settings.chunk_bytes_max.min(room - room % BLOCK_BYTES);
        assert!(capacity >= needed, "the room was made");
        self.open
            .start(self.active.next_lsn(), entries_at, capacity);
        let open = self.regions.open();
        assert!(open.is_empty(), "a chunk starts where the last one ended");
        open.resize(entries_at, 0);
        Ok(())
    }

    /// Seals the open chunk, if one is open and holds anything (a closing one holds nothing).
    pub(crate) fn close_chunk(&mut self, closing: bool) {
        if !self.open.is_open {
            return;
        }
        if self.open.entry_count == 0 && !closing {
            self.regions.open().clear();
            self.open.close();
            return;
        }
        let open = self.regions.open();
        let filled = open.len();
        open.resize(whole_blocks(filled), 0);
        let seal = chunk::Seal {
            life: self.active.chunk_life(self.superblocks.next.journal),
            lsn: self.open.lsn,
            durable_lsn: self.inflight.durable(),
            entries_at: self.open.entries_at,
            entry_bytes: filled - self.open.entries_at,
            entry_count: self.open.entry_count,
            prev_crc: self.active.last_crc,
            known: self.open.known,
            closing,
            wall: self.now.wall,
            boot: self.settings.boot,
        };
        let (crc, complete) = chunk::seal(open, &seal, &self.open.slots, &self.open.partitions);
        self.open.close();
        if !complete {
            self.stats.directory_overflows += 1;
        }
        let bytes = self.regions.freeze();
        self.tail
            .push(seal.lsn, bytes.clone(), self.regions.current());
        let at = self.active.at;
        self.active.at += bytes.len() as u64;
        if is_planted(Bug::RewriteTailBlock) && bytes.len() > BLOCK_BYTES {
            self.active.at -= BLOCK_BYTES as u64;
        }
        self.active.last_crc = crc;
        self.ready.push_back(Ready {
            file: self.active.file,
            at,
            end: self.active.next_lsn(),
            proves: seal.durable_lsn,
            bytes,
            seq: self.active.seq,
            closing,
        });
    }

    /// Submits what may go. J-3, J-5
    pub(crate) fn submit(&mut self) {
        while !self.poisoned && self.inflight.count() < self.settings.chunks_inflight_max {
            let begun = self.active.begun == Begun::Yes;
            if let Some(ready) = self.ready.front() {
                if ready.seq == self.active.seq && !begun {
                    return;
                }
            } else {
                let open_bytes = self.regions.filled().len();
                let goes = self.open.is_open
                    && self.open.entry_count > 0
                    && begun
                    && self.inflight.admits(
                        open_bytes,
                        self.settings.chunks_inflight_max,
                        self.now.mono,
                    );
                if !goes {
                    return;
                }
                self.close_chunk(false);
            }
            let Some(ready) = self.ready.pop_front() else {
                return;
            };
            let op = self.operations.begin(Op::Chunk);
            let (begun, bytes) = (self.now.mono, ready.bytes.len());
            self.inflight
                .submitted(op, ready.end, ready.proves, begun, bytes);
            self.stats.chunks += 1;
            self.stats.chunk_bytes += ready.bytes.len() as u64;
            self.stats.closing_chunks += u64::from(ready.closing);
            self.closing_at =
                (!ready.closing).then(|| self.now.mono.after_ns(CLOSING_CHUNK_AFTER_NS));
            self.pace_filling(ready.bytes.len() as u64);
            self.outbox.push(Effect::Write {
                op,
                file: JournalFile::Segment(ready.file),
                at: ready.at,
                data: ready.bytes,
                durable: !is_planted(Bug::AcknowledgeBeforeSync),
            });
        }
    }

    /// Begins the next segment in memory; its header and the superblock that names it are on their way. J-3
    fn roll(&mut self, class: Class) -> Result<(), Refused> {
        if self.active.begun != Begun::Yes {
            return Err(Refused::Busy);
        }
        let reserved = match class {
            Class::Data => RESERVED_FROM_DATA,
            Class::Control => RESERVED_FROM_CONTROL,
        };
        let Some(file) = self.spares.take(reserved) else {
            return Err(if self.spares.is_full() {
                Refused::ReadOnly
            } else {
                Refused::Busy
            });
        };
        let end = self.active.next_lsn();
        let before = Predecessor {
            seq: self.active.seq,
            file: self.active.file,
            salt: self.active.salt,
            end_lsn: end,
            last_crc: self.active.last_crc,
        };
        let seq = self.active.seq + 1;
        let salt = self.prng.next_u64();
        let next = &mut self.superblocks.next;
        next.begin(Recent {
            file,
            seq,
            salt,
            start_lsn: end,
        });
        let header = SegmentHeader {
            journal: next.journal,
            seq,
            salt,
            start_lsn: end,
            segment_bytes: self.settings.segment_bytes,
            before: Some(before),
            created_us: self.now.wall.as_us(),
        };
        let mut block = aligned_zeroed(BLOCK_BYTES);
        header.encode(&mut block);
        let op = self.operations.begin(Op::SegmentHeader);
        self.outbox.push(Effect::Write {
            op,
            file: JournalFile::Segment(file),
            at: 0,
            data: block.freeze(),
            durable: true,
        });
        let begun = Begun::Waiting {
            header: false,
            version: self.superblocks.ask(),
        };
        let old = core::mem::replace(
            &mut self.active,
            Active::new(file, seq, salt, end, begun, before.last_crc),
        );
        let row = crate::checkpoint::SegmentRow {
            seq: old.seq,
            file: old.file,
            last_crc: before.last_crc,
            salt: old.salt,
            start: old.start,
            end,
        };
        let sealed = Sealed::new(row, false);
        self.seal_index(old.index, &sealed);
        self.segments.insert(old.seq, sealed);
        self.checkpointing.segment_changed(old.seq);
        self.stats.rolls += 1;
        Ok(())
    }

    /// The new segment may take chunks once all that J-3 asks for is there.
    pub(crate) fn check_begun(&mut self) {
        if let Begun::Waiting {
            header: true,
            version,
        } = self.active.begun
            && self.superblocks.is_durable(version)
        {
            self.active.begun = Begun::Yes;
        }
    }

    /// J-13: after a pause, an empty chunk proves that the last one was durable.
    pub(crate) fn close_when_due(&mut self) {
        let due = self.closing_at.is_some_and(|at| self.now.mono >= at);
        if !due || self.poisoned {
            return;
        }
        let idle = !self.open.is_open || self.open.entry_count == 0;
        if !idle || !self.ready.is_empty() || self.inflight.count() > 0 {
            // Whatever is on its way proves it too, and asks for a closing chunk of its own.
            self.closing_at = Some(self.now.mono.after_ns(CLOSING_CHUNK_AFTER_NS));
            return;
        }
        self.close_chunk(false);
        match self.open_chunk(Class::Control, 1) {
            Ok(()) => {
                self.close_chunk(true);
                self.closing_at = None;
            }
            Err(_) => {
                self.closing_at = Some(self.now.mono.after_ns(CLOSING_CHUNK_AFTER_NS));
            }
        }
    }

    /// Writes the superblock that was asked for. J-1
    pub(crate) fn write_superblock(&mut self) {
        let Some(version) = self.superblocks.start() else {
            return;
        };
        let durable = self.inflight.durable();
        let free: Vec<u32> = self.spares.listed().collect();
        let oldest = self.segments.keys().next().copied();
        let seals = self.seals.rows().collect();
        let truncations = self.truncations_to_name().collect();
        let next = &mut self.superblocks.next;
        next.seals = seals;
        next.truncations = truncations;
        next.durable = durable;
        next.free = free;
        next.oldest_segment_seq = oldest.unwrap_or(self.active.seq);
        let encoded = next.encode();
        let at = copy_at(next.generation);
        let mut bytes = aligned_zeroed(encoded.len());
        bytes.copy_from_slice(&encoded);
        self.stats.superblocks += 1;
        let op = self.operations.begin(Op::Superblock { version });
        self.outbox.push(Effect::Write {
            op,
            file: JournalFile::Superblock,
            at,
            data: bytes.freeze(),
            durable: true,
        });
    }
}

const _: () = assert!(
    HEADER_BYTES < BLOCK_BYTES,
    "a closing chunk is one block at least"
);
