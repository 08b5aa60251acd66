//! A stretch of one segment that holds a partition's batches, or a slot's entries, with those of others between them: which
//! bytes to read next, and what to take out of them. Every header is verified before its length is believed, every body
//! before it is given, and what a truncation took is passed over, whenever that was written. J-61

use super::Want;
use crate::index::{Located, SlotPosition};
use bytes::Bytes;
use std::collections::VecDeque;
use tiderace_base::ids::{PartitionKey, SlotId};
use tiderace_base::limits::{BATCH_HEADER_BYTES, BLOCK_BYTES};
use tiderace_base::position::SlotSeq;
use tiderace_wire::batch::BatchHeader;
use tiderace_wire::entry::EntryKind;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// Whose entries are read, and so what numbers them: a partition's batches their offsets, a slot's entries of all kinds
/// their sequence.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Of {
    Partition(PartitionKey),
    Slot(SlotId),
}

impl Of {
    /// Whether an entry may be what begins a part.
    fn is_of(self, header: &BatchHeader) -> bool {
        match self {
            Self::Partition(key) => header.key() == key,
            Self::Slot(slot) => header.slot() == slot && header.slot_seq() > SlotSeq::ZERO,
        }
    }

    /// Whether an entry, if it lives, is wanted.
    fn wants(self, header: &BatchHeader) -> bool {
        let is_data = || header.entry_kind() == Ok(EntryKind::Data);
        self.is_of(header) && (matches!(self, Self::Slot(_)) || is_data())
    }

    /// The number of an entry, and that of the one behind it.
    fn numbers(self, header: &BatchHeader) -> (u64, u64) {
        match self {
            Self::Partition(_) => (header.base_offset().get(), header.next_offset().get()),
            Self::Slot(_) => {
                let seq = header.slot_seq().get();
                (seq, seq.saturating_add(1))
            }
        }
    }
}

/// A run of an index.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch {
    pub(crate) at: u32,
    pub(crate) span: u32,
    /// What begins it has no number before this one.
    pub(crate) from: u64,
    /// Nothing of it with this number or a greater one lives.
    pub(crate) until: u64,
}

impl From<&Located> for Stretch {
    fn from(located: &Located) -> Self {
        Self {
            at: located.position.at,
            span: located.position.span,
            from: located.position.base_offset.get(),
            until: located.until.get(),
        }
    }
}

impl From<&SlotPosition> for Stretch {
    fn from(position: &SlotPosition) -> Self {
        Self {
            at: position.at,
            span: position.span,
            from: position.first_seq.get(),
            until: position.next_seq.get(),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Part {
    /// Where it begins, and where to read from.
    begins_at: u64,
    start: u64,
    end: u64,
    /// What begins it has no number before this one.
    from: u64,
    /// An entry at or past it is dead.
    until: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) seq: u64,
    pub(crate) file: u32,
    of: Of,
    /// The number behind the last part.
    pub(crate) until: u64,
    parts: VecDeque<Part>,
    cursor: u64,
    end: u64,
    from: u64,
    /// The number of the next living entry, once one of the part was seen.
    expected: Option<u64>,
    /// An entry was met that a truncation took.
    met_dead: bool,
    bytes_max: usize,
    /// Where the run begins.
    first: u64,
    /// The next read has to bring as much, or it brings no whole entry.
    needed: u64,
    /// A long read failed: each brings a block, or one entry, so that what can be read beside the damage is.
    is_narrow: bool,
}

/// What the bytes held.
pub(crate) enum Outcome {
    /// No whole batch yet.
    More,
    Batches {
        batches: Vec<Bytes>,
        next: u64,
        at: u64,
    },
    Time((u64, u64)),
    /// No batch of the run is young enough. A number is never sought in a run that the index does not give for it.
    Nothing,
    /// What was sought may be what a truncation took: it does not live here.
    Dead,
    Damaged {
        at: u64,
        bytes: u64,
    },
}

/// What an entry's bytes came to.
enum Entry {
    Whole(usize),
    Needs(usize),
    Bad,
}

impl Run {
    pub(crate) fn new(seq: u64, file: u32, of: Of, from: u64, bytes_max: usize) -> Self {
        Self {
            seq,
            file,
            of,
            until: 0,
            parts: VecDeque::new(),
            cursor: 0,
            end: 0,
            from,
            expected: None,
            met_dead: false,
            bytes_max,
            first: 0,
            needed: 0,
            is_narrow: false,
        }
    }

    /// A read failed: from here on each brings no more than it has to. False: it did so already.
    pub(crate) fn narrow(&mut self) -> bool {
        !core::mem::replace(&mut self.is_narrow, true)
    }

    /// Adds what was located; `at` skips what was read before.
    pub(crate) fn push(&mut self, stretch: Stretch, at: Option<u64>) {
        let begins_at = u64::from(stretch.at);
        let end = begins_at + u64::from(stretch.span);
        let start = at.filter(|at| (begins_at..end).contains(at));
        let start = start.unwrap_or(begins_at);
        if self.parts.is_empty() {
            self.cursor = start;
            self.first = start;
        }
        self.parts.push_back(Part {
            begins_at,
            start,
            end,
            from: stretch.from,
            until: stretch.until,
        });
        self.end = end;
        self.until = stretch.until;
    }

    /// Where in the file what a failed read was for lies.
    pub(crate) fn place(&self) -> core::ops::Range<u64> {
        let (at, bytes) = self.next_read(BLOCK_BYTES);
        self.cursor..(at + bytes).min(self.end)
    }

    /// Whether another part still fits one read and is wanted.
    pub(crate) fn takes_more(&self, read_bytes_max: usize) -> bool {
        let bytes = self.end.saturating_sub(self.cursor);
        bytes < (self.bytes_max as u64).min(read_bytes_max as u64)
    }

    /// Which blocks to read now.
    pub(crate) fn next_read(&self, read_bytes_max: usize) -> (u64, u64) {
        let at = self.cursor - self.cursor % BLOCK;
        let most = if self.is_narrow {
            BLOCK
        } else {
            read_bytes_max as u64
        };
        let bytes = self
            .end
            .next_multiple_of(BLOCK)
            .saturating_sub(at)
            .min(most.max(self.needed));
        (at, bytes)
    }

    /// Takes what [`Run::next_read`] asked for. `is_dead` tells whether a truncation took the entry at a byte of the file.
    pub(crate) fn take(
        &mut self,
        want: &Want,
        bytes: &Bytes,
        is_dead: impl Fn(&BatchHeader, u64) -> bool,
    ) -> Outcome {
        let base = self.cursor - self.cursor % BLOCK;
        let mut batches = Vec::new();
        let mut taken = 0;
        while let Some(part) = self.parts.front().copied() {
            self.cursor = self.cursor.max(part.start);
            while self.cursor < part.end {
                let from = (self.cursor - base) as usize;
                let rest = bytes.get(from..).unwrap_or_default();
                let length = match entry_at(rest, part.end - self.cursor) {
                    Entry::Whole(length) => length,
                    _ if !batches.is_empty() => return self.batches(batches),
                    Entry::Needs(length) => {
                        self.needed = (self.cursor % BLOCK + length as u64).next_multiple_of(BLOCK);
                        return Outcome::More;
                    }
                    Entry::Bad => return self.damaged(part.end),
                };
                let Ok(header) = BatchHeader::parse(rest) else {
                    return self.damaged(part.end);
                };
                let (number, next) = self.of.numbers(header);
                let is_wanted = self.of.wants(header) && number < part.until;
                let is_alive = is_wanted && !is_dead(header, self.cursor);
                self.met_dead |= is_wanted && !is_alive;
                if self.is_astray(header, part, is_alive) {
                    if batches.is_empty() {
                        return self.damaged(part.end);
                    }
                    return self.batches(batches);
                }
                match want {
                    Want::Batches { .. } | Want::Entries { .. } if is_alive && next > self.from => {
                        // The index says that it is here: a block of another place, whole in itself, was read.
                        if number > self.from {
                            if batches.is_empty() {
                                return self.damaged(part.end);
                            }
                            return self.batches(batches);
                        }
                        let body = &rest[length - header.body_len()..length];
                        if header.check_body(body).is_err() {
                            if batches.is_empty() {
                                return self.damaged(part.end);
                            }
                            return self.batches(batches);
                        }
                        self.from = next;
                        batches.push(bytes.slice(from..from + length));
                        taken += length;
                        self.cursor += length as u64;
                        if taken >= self.bytes_max {
                            return self.batches(batches);
                        }
                    }
                    Want::Time { time_us } if is_alive && header.append_time_us() >= *time_us => {
                        return Outcome::Time((number, header.append_time_us()));
                    }
                    Want::Batches { .. } | Want::Entries { .. } | Want::Time { .. } => {
                        self.cursor += length as u64;
                    }
                }
            }
            self.parts.pop_front();
        }
        match want {
            _ if !batches.is_empty() => self.batches(batches),
            Want::Batches { .. } | Want::Entries { .. } if self.met_dead => Outcome::Dead,
            Want::Batches { .. } | Want::Entries { .. } => Outcome::Damaged {
                at: self.first,
                bytes: self.end - self.first,
            },
            Want::Time { .. } => Outcome::Nothing,
        }
    }

    /// Whether an entry, whole in itself, is not what the index says lies here: a block of another place was read. What the
    /// index locates begins with a batch of the partition, and its living batches follow each other without a gap.
    fn is_astray(&mut self, header: &BatchHeader, part: Part, is_alive: bool) -> bool {
        let begins = self.cursor == part.begins_at;
        let (number, next) = self.of.numbers(header);
        if begins && (!self.of.is_of(header) || number < part.from) {
            return true;
        }
        if !is_alive {
            return false;
        }
        let expected = self.expected.replace(next);
        !begins && expected.is_some_and(|expected| expected != number)
    }

    fn batches(&self, batches: Vec<Bytes>) -> Outcome {
        Outcome::Batches {
            batches,
            next: self.from,
            at: self.cursor,
        }
    }

    fn damaged(&self, end: u64) -> Outcome {
        Outcome::Damaged {
            at: self.cursor,
            bytes: end - self.cursor,
        }
    }
}

/// Looks at the entry at the start of `rest`, in a part that has `left` bytes more.
fn entry_at(rest: &[u8], left: u64) -> Entry {
    if left < BATCH_HEADER_BYTES as u64 {
        return Entry::Bad;
    }
    if rest.len() < BATCH_HEADER_BYTES {
        return Entry::Needs(BATCH_HEADER_BYTES);
    }
    let Ok(header) = BatchHeader::parse(rest) else {
        return Entry::Bad;
    };
    let length = header.batch_len();
    let is_good = header.check_producer(header.body_len()).is_ok()
        && header.check_placement().is_ok()
        && length as u64 <= left;
    if !is_good {
        Entry::Bad
    } else if rest.len() < length {
        Entry::Needs(length)
    } else {
        Entry::Whole(length)
    }
}
