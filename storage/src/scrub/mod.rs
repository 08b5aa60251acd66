//! Reads everything that is kept, a piece at a time, so that damage is found before a reader or a start finds it. What this
//! disk still holds elsewhere is written anew: a footer from its segment, a checkpoint from memory, a copy of the superblock
//! from the other. Damage to entries is named, with the partitions that it touches, and stays: peers repair it, or nobody. J-19
//!
//! Invariants: one read is in flight, of a piece or of one chunk; none is begun beside appends or cold reads unless they
//! left no gap for a while; so many bytes a second are read and no more, but for the segment of a damaged footer.

mod damage;
mod walk;

use crate::checkpoint::PartCheck;
use crate::footers::Waiter;
use crate::format::chunk;
use crate::format::superblock::{COPY_BYTES, Copy, Superblock, copy_at};
use crate::index::Footer;
use crate::journal::Journal;
use crate::operations::Op;
use crate::segments::Begun;
use crate::settings::Scrubbing;
use bytes::Bytes;
use core::ops::Range;
use std::collections::BTreeMap;
use tiderace_base::disk::{DiskError, JournalFile};
use tiderace_base::limits::BLOCK_BYTES;
use tiderace_base::operation::Effect;
use tiderace_base::position::Lsn;
use tiderace_base::time::Mono;
use walk::Walk;

const BLOCK: u64 = BLOCK_BYTES as u64;
/// How long a read that is due waits for a gap between appends.
const PATIENCE_NS: u64 = 100_000_000;
/// How long after a read that found no descriptor another is tried.
const RETRY_AFTER_NS: u64 = 1_000_000_000;

/// Where a pass is.
#[derive(Debug)]
enum Stage {
    /// In a life, with what of it was found damaged.
    Segment {
        seq: u64,
        walk: Walk,
        damaged: Vec<Range<u64>>,
    },
    /// Waits for the life's footer.
    Footer { seq: u64, damaged: Vec<Range<u64>> },
    /// In the checkpoints' parts: one that may have been read wrong once, and those still to come.
    Parts {
        check: Option<Box<PartCheck>>,
        doubted: bool,
        left: Vec<u64>,
    },
    /// At a copy of the superblock, which may have been read wrong once.
    Superblock { copy: u64, doubted: bool },
}

#[derive(Debug)]
struct Pass {
    begun: Mono,
    /// The life that it began with, and the newest one then.
    first: u64,
    last: u64,
    stage: Stage,
}

/// The read in flight: of so many bytes, of which file.
#[derive(Clone, Copy, Debug)]
struct Reading {
    bytes: u64,
    of: Source,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    Life(u64),
    Part(u64),
    /// With the newest generation there is; none: it is being written.
    Superblock(Option<u64>),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Scrub {
    settings: Scrubbing,
    pass: Option<Pass>,
    reading: Option<Reading>,
    /// Parts that nobody needs any more and that were being read then.
    unneeded_parts: Vec<u64>,
    /// The next read, or the next pass.
    due: Mono,
    /// Damaged places of lives that are kept: where each ends, by life and first byte.
    known: BTreeMap<(u64, u64), u64>,
    /// A part that was found damaged and that a checkpoint still builds on.
    broken_part: Option<u64>,
}

impl Scrub {
    pub(crate) fn new(settings: Scrubbing, now: Mono) -> Self {
        Self {
            settings,
            pass: None,
            reading: None,
            unneeded_parts: Vec::new(),
            due: now.after_ns(settings.first_after_ns),
            known: BTreeMap::new(),
            broken_part: None,
        }
    }

    fn is_off(&self) -> bool {
        self.settings.bytes_per_second == 0
    }

    /// Damaged places that are kept.
    pub(crate) fn damaged(&self) -> u64 {
        self.known.len() as u64
    }

    /// The life was released. True: it was damaged.
    pub(crate) fn forget(&mut self, seq: u64) -> bool {
        let before = self.known.len();
        self.known.retain(|(known, _), _| *known != seq);
        self.known.len() < before
    }

    /// Whether the part is being read: then it is removed when that is over, and not now.
    pub(crate) fn keeps_part(&mut self, part: u64) -> bool {
        let keeps = self
            .reading
            .is_some_and(|reading| reading.of == Source::Part(part));
        if keeps {
            self.unneeded_parts.push(part);
        }
        keeps
    }

    /// When it wants to go on; none while it waits for something else.
    pub(crate) fn next_wake(&self, now: Mono) -> Option<Mono> {
        let waits = self
            .pass
            .as_ref()
            .is_some_and(|pass| matches!(pass.stage, Stage::Footer { .. }));
        if self.is_off() || self.reading.is_some() || waits {
            None
        } else if now < self.due {
            Some(self.due)
        } else {
            Some(self.due.after_ns(PATIENCE_NS))
        }
    }
}

/// What stands in a copy when no superblock is on its way: the newest, or the one before it. A start writes both, and so does
/// a repair.
fn generation_in(copy: u64, newest: u64) -> u64 {
    if copy_at(newest) == copy * COPY_BYTES as u64 {
        newest
    } else {
        newest - 1
    }
}

impl Journal {
    /// Goes on with the pass, or begins one, if that is due.
    pub(crate) fn push_scrub(&mut self) {
        self.ask_for_whole_checkpoint();
        let now = self.now.mono;
        let scrub = &self.scrub;
        if scrub.is_off() || scrub.reading.is_some() || now < scrub.due {
            return;
        }
        let is_quiet = self.inflight.count() == 0
            && self.ready.is_empty()
            && !self.open.is_open
            && self.reads.under_way() == 0;
        if !is_quiet && now < scrub.due.after_ns(PATIENCE_NS) {
            return;
        }
        let mut pass = match self.scrub.pass.take() {
            Some(pass) => pass,
            None => self.begin_pass(),
        };
        if self.go_on(&mut pass) {
            self.scrub.pass = Some(pass);
        } else {
            self.stats.scrubs += 1;
            let next = pass.begun.after_ns(self.scrub.settings.every_ns);
            self.scrub.due = next.max(now.after_ns(PATIENCE_NS));
        }
    }

    /// A start begins anywhere, so that frequent starts leave nothing out for ever.
    fn begin_pass(&mut self) -> Pass {
        let lives = self.segments.len() as u64 + 1;
        let nth = self.prng.below(lives) as usize;
        let first = self.segments.keys().nth(nth).copied();
        let first = first.unwrap_or(self.active.seq);
        Pass {
            begun: self.now.mono,
            first,
            last: self.active.seq,
            stage: self.segment_stage(first),
        }
    }

    fn segment_stage(&self, seq: u64) -> Stage {
        let (salt, start) = match self.segments.get(&seq) {
            Some(sealed) => (sealed.row.salt, sealed.row.start),
            None => (self.active.salt, self.active.start),
        };
        let life = chunk::Life {
            journal: self.journal_id(),
            salt,
        };
        Stage::Segment {
            seq,
            walk: Walk::new(life, seq, start),
            damaged: Vec::new(),
        }
    }

    /// The file of a life, and where in it everything durable ends; none: it is gone, or was not begun.
    fn durable_extent(&self, seq: u64) -> Option<(u32, u64)> {
        let end_of = |start: Lsn, end: Lsn| BLOCK + end.distance_from(start).unwrap_or(0);
        let durable = self.inflight.durable();
        if let Some(sealed) = self.segments.get(&seq) {
            let row = &sealed.row;
            Some((row.file, end_of(row.start, row.end.min(durable))))
        } else if seq == self.active.seq && self.active.begun == Begun::Yes {
            Some((self.active.file, end_of(self.active.start, durable)))
        } else {
            None
        }
    }

    /// Begins the next read. False: the pass is over.
    fn go_on(&mut self, pass: &mut Pass) -> bool {
        loop {
            match &mut pass.stage {
                Stage::Segment { seq, walk, damaged } => {
                    let seq = *seq;
                    if let Some((file, end)) = self.durable_extent(seq) {
                        if let Some((at, bytes)) = walk.next_read(end) {
                            self.hold(seq);
                            let of = Source::Life(seq);
                            self.scrub_read(JournalFile::Segment(file), at, bytes, of);
                            return true;
                        }
                        let damaged = core::mem::take(damaged);
                        if self.segments.contains_key(&seq) && self.footers.is_on_disk(seq) {
                            pass.stage = Stage::Footer { seq, damaged };
                            // The answer may come later, and may have to go on from here.
                            self.load_index(seq, Waiter::Scrub);
                            return true;
                        }
                        self.name_damage(seq, &damaged, None);
                    }
                    pass.stage = self.stage_after(pass, seq);
                }
                Stage::Footer { seq, .. } => {
                    // Only a life that was released meanwhile gives no answer.
                    if self.segments.contains_key(seq) {
                        return true;
                    }
                    let seq = *seq;
                    pass.stage = self.stage_after(pass, seq);
                }
                Stage::Parts {
                    check,
                    doubted,
                    left,
                } => {
                    // A part that is not needed any more may be on its way out.
                    check.take_if(|part| !self.is_needed(part.id));
                    left.retain(|id| self.is_needed(*id));
                    let read = check.as_ref().and_then(|part| part.next_read());
                    if let (Some(check), Some((at, bytes))) = (check.as_ref(), read) {
                        let file = JournalFile::Checkpoint(check.id);
                        self.scrub_read(file, at, bytes, Source::Part(check.id));
                        return true;
                    }
                    match left.pop() {
                        Some(id) => {
                            *check = Some(Box::new(PartCheck::new(id)));
                            *doubted = false;
                        }
                        None => {
                            pass.stage = Stage::Superblock {
                                copy: 0,
                                doubted: false,
                            };
                        }
                    }
                }
                Stage::Superblock { copy: 2, .. } => return false,
                Stage::Superblock { copy, .. } => {
                    let at = *copy * COPY_BYTES as u64;
                    let (file, bytes) = (JournalFile::Superblock, COPY_BYTES as u64);
                    self.scrub_read(
                        file,
                        at,
                        bytes,
                        Source::Superblock(self.settled_generation()),
                    );
                    return true;
                }
            }
        }
    }

    /// The generation of the newest superblock, which is durable; none: another one is asked for or on its way.
    fn settled_generation(&self) -> Option<u64> {
        let superblocks = &self.superblocks;
        superblocks.is_idle().then_some(superblocks.next.generation)
    }

    /// The next life, around to the one that the pass began with.
    fn stage_after(&self, pass: &Pass, seq: u64) -> Stage {
        let first = pass.first;
        let after = self.segments.range(seq + 1..).next().map(|(seq, _)| *seq);
        let after = after.or((seq < self.active.seq).then_some(self.active.seq));
        // Appends may be faster than the search.
        let after = after.filter(|after| *after <= pass.last);
        let oldest = self.segments.keys().next().copied();
        let next = match after {
            Some(next) if seq < first && next >= first => None,
            Some(next) => Some(next),
            None => oldest.filter(|oldest| *oldest < first && seq >= first),
        };
        match next {
            Some(next) => self.segment_stage(next),
            None => Stage::Parts {
                check: None,
                doubted: false,
                left: self.checkpointing.chain.needed().collect(),
            },
        }
    }

    fn scrub_read(&mut self, file: JournalFile, at: u64, bytes: u64, of: Source) {
        self.pause_after(bytes);
        self.scrub.reading = Some(Reading { bytes, of });
        self.stats.scrubbed_bytes += bytes;
        let op = self.operations.begin(Op::Scrub);
        self.outbox.push(Effect::Read {
            op,
            file,
            at,
            len: bytes as u32,
        });
    }

    /// Nothing more is read before so many bytes are within the rate.
    fn pause_after(&mut self, bytes: u64) {
        let pause = bytes.saturating_mul(1_000_000_000) / self.scrub.settings.bytes_per_second;
        self.scrub.due = self.now.mono.after_ns(pause);
    }

    pub(crate) fn scrub_read_done(&mut self, result: Result<Bytes, DiskError>) {
        let Some(reading) = self.scrub.reading.take() else {
            return;
        };
        if let Source::Life(seq) = reading.of {
            self.let_go(seq);
        }
        let unneeded = core::mem::take(&mut self.scrub.unneeded_parts);
        self.remove_parts(unneeded);
        let Some(mut pass) = self.scrub.pass.take() else {
            return;
        };
        if let Err(DiskError::NotOpened(_)) = result {
            self.scrub.due = self.now.mono.after_ns(RETRY_AFTER_NS);
            self.scrub.pass = Some(pass);
            return;
        }
        match &mut pass.stage {
            Stage::Segment { seq, walk, damaged } => {
                // It cannot have been released: its file was in use.
                if let Some((_, end)) = self.durable_extent(*seq) {
                    match result {
                        Ok(bytes) => walk.take(&bytes, end, damaged),
                        Err(DiskError::Absent) => walk.lose_the_rest(end, damaged),
                        Err(_) => walk.unreadable(reading.bytes, end, damaged),
                    }
                }
            }
            Stage::Parts { check, doubted, .. } => {
                let journal = self.superblocks.next.journal;
                if let Some(part) = check {
                    let is_good = result.is_ok_and(|bytes| part.take(journal, &bytes).is_ok());
                    let id = part.id;
                    if !is_good && !*doubted {
                        *doubted = true;
                        **part = PartCheck::new(id);
                    } else if !is_good {
                        *check = None;
                        self.part_is_broken(id);
                    }
                }
            }
            Stage::Superblock { copy, doubted } => {
                let newest = self.settled_generation();
                let is_good = result.is_ok_and(|bytes| match Superblock::decode(&bytes, *copy) {
                    // Whole and old: a write that was said to be durable never came.
                    Copy::Valid(found) => newest.is_some_and(|newest| {
                        found.journal == self.superblocks.next.journal
                            && found.generation == generation_in(*copy, newest)
                    }),
                    Copy::Invalid | Copy::Newer(_) => false,
                });
                // One that was written meanwhile may be seen half, or not yet.
                let is_settled = newest.is_some() && reading.of == Source::Superblock(newest);
                if is_good || !is_settled {
                    pass.stage = Stage::Superblock {
                        copy: *copy + 1,
                        doubted: false,
                    };
                } else if *doubted {
                    self.stats.scrub_repairs += 1;
                    self.superblocks.repair(*copy);
                    pass.stage = Stage::Superblock {
                        copy: 2,
                        doubted: false,
                    };
                } else {
                    *doubted = true;
                }
            }
            Stage::Footer { .. } => {}
        }
        self.scrub.pass = Some(pass);
    }

    /// The footer that the pass waited for; none: it could be neither read nor built.
    pub(crate) fn scrub_loaded(&mut self, loaded: u64, footer: Option<Footer>) {
        let Some(mut pass) = self.scrub.pass.take() else {
            return;
        };
        if let Stage::Footer { seq, damaged } = &pass.stage
            && *seq == loaded
        {
            self.name_damage(loaded, damaged, footer.as_ref());
            let read = footer.as_ref().map_or(0, |footer| footer.bytes().len());
            self.pause_after(read as u64);
            pass.stage = self.stage_after(&pass, loaded);
        }
        self.scrub.pass = Some(pass);
    }

    /// Whether a checkpoint builds on the part.
    fn is_needed(&self, part: u64) -> bool {
        let mut needed = self.checkpointing.chain.needed();
        needed.any(|needed| needed == part)
    }

    /// A part of a checkpoint cannot be used: unless it is not needed any more, everything is written anew until it is not.
    fn part_is_broken(&mut self, id: u64) {
        if self.is_needed(id) {
            self.scrub.broken_part = Some(id);
            self.ask_for_whole_checkpoint();
        }
    }

    fn ask_for_whole_checkpoint(&mut self) {
        let Some(id) = self.scrub.broken_part else {
            return;
        };
        if self.is_needed(id) {
            self.checkpointing.ask_for_base(self.now.mono);
        } else {
            self.scrub.broken_part = None;
            self.stats.scrub_repairs += 1;
        }
    }
}
