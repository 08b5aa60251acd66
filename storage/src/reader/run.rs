//! A stretch of one segment that holds a partition's batches, with those of others between them: which bytes to read next,
//! and what to take out of them. Every header is verified before its length is believed, every body before it is given.

use super::Want;
use crate::index::Located;
use bytes::Bytes;
use std::collections::VecDeque;
use tiderace_base::ids::PartitionKey;
use tiderace_base::limits::{BATCH_HEADER_BYTES, BLOCK_BYTES};
use tiderace_base::position::Offset;
use tiderace_wire::batch::BatchHeader;
use tiderace_wire::entry::EntryKind;

const BLOCK: u64 = BLOCK_BYTES as u64;

#[derive(Clone, Copy, Debug)]
struct Part {
    start: u64,
    end: u64,
    /// A batch of the partition at or past it is dead.
    until: Offset,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) seq: u64,
    pub(crate) file: u32,
    /// The offset behind the last part.
    pub(crate) until: Offset,
    parts: VecDeque<Part>,
    cursor: u64,
    end: u64,
    from: Offset,
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
        next: Offset,
        at: u64,
    },
    Time((Offset, u64)),
    /// No batch of the run is young enough. An offset is never sought in a run that the index does not give for it.
    Nothing,
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
    pub(crate) fn new(seq: u64, file: u32, from: Offset, bytes_max: usize) -> Self {
        Self {
            seq,
            file,
            until: Offset::ZERO,
            parts: VecDeque::new(),
            cursor: 0,
            end: 0,
            from,
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
    pub(crate) fn push(&mut self, located: &Located, at: Option<u64>) {
        let start = u64::from(located.position.at);
        let end = start + u64::from(located.position.span);
        let start = at.filter(|at| (start..end).contains(at)).unwrap_or(start);
        if self.parts.is_empty() {
            self.cursor = start;
            self.first = start;
        }
        self.parts.push_back(Part {
            start,
            end,
            until: located.until,
        });
        self.end = end;
        self.until = located.until;
    }

    /// Where in the file what a failed read was for lies.
    pub(crate) fn place(&self) -> core::ops::Range<u64> {
        let (at, bytes) = self.next_read(BLOCK_BYTES);
        self.cursor..(at + bytes).min(self.end)
    }

    /// Whether all parts were looked through.
    pub(crate) fn is_spent(&self) -> bool {
        self.parts.is_empty()
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

    /// Takes what [`Run::next_read`] asked for.
    pub(crate) fn take(&mut self, key: PartitionKey, want: &Want, bytes: &Bytes) -> Outcome {
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
                let is_alive = header.key() == key
                    && header.entry_kind() == Ok(EntryKind::Data)
                    && header.base_offset() < part.until;
                match want {
                    Want::Batches { .. } if is_alive && header.next_offset() > self.from => {
                        // The index says that the offset is here: a block of another place, whole in itself, was read.
                        if header.base_offset() > self.from {
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
                        self.from = header.next_offset();
                        batches.push(bytes.slice(from..from + length));
                        taken += length;
                        self.cursor += length as u64;
                        if taken >= self.bytes_max {
                            return self.batches(batches);
                        }
                    }
                    Want::Time { time_us } if is_alive && header.append_time_us() >= *time_us => {
                        return Outcome::Time((header.base_offset(), header.append_time_us()));
                    }
                    Want::Batches { .. } | Want::Time { .. } => self.cursor += length as u64,
                }
            }
            self.parts.pop_front();
        }
        match want {
            _ if !batches.is_empty() => self.batches(batches),
            Want::Batches { .. } => Outcome::Damaged {
                at: self.first,
                bytes: self.end - self.first,
            },
            Want::Time { .. } => Outcome::Nothing,
        }
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
