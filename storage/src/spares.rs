//! Segment files that no life needs: prepared ahead, so that beginning a segment never waits for zeros, or left over by
//! released lives. The last two are reserves: one for control entries, so that a full disk can still be told to drop data,
//! and one for rewriting. Decides when data is refused on a full disk, and when a disk that fails is given up. J-18

use crate::filling::{Filling, Pace};
use std::collections::VecDeque;
use tiderace_base::disk::DiskError;
use tiderace_base::position::Lsn;
use tiderace_base::time::Mono;

/// Spares that data may not take: one for control entries, one for rewriting.
pub(crate) const RESERVED_FROM_DATA: usize = 2;
/// Spares that control entries may not take.
pub(crate) const RESERVED_FROM_CONTROL: usize = 1;
/// Spares kept for later lives beyond those that are wanted and those that appends took of late; more would be taken from
/// others on the same file system.
const KEPT_BEYOND: usize = 3;
/// What appends took of late: in the window of this length that is open, or in the one before it.
const WINDOW_NS: u64 = 10_000_000_000;
/// A checkpoint that was being captured at a release may tell of the life, and so may the one before it: after this many
/// that are durable neither does.
const CHECKPOINTS_UNTIL_FORGOTTEN: u64 = 3;
/// The fewest spares that are wanted: the reserves and one ahead.
pub(crate) const WANTED_MIN: usize = RESERVED_FROM_DATA + 1;
/// How long to wait before what failed is tried again.
pub(crate) const RETRY_AFTER_NS: u64 = 1_000_000_000;
/// After so many failures in a row that are not for want of space, appends that wait for a spare wait in vain: nobody
/// makes room on a disk that fails.
const FAILURES_MAX: u32 = 10;

/// A released life's file on its way to being a spare.
#[derive(Debug)]
pub(crate) struct Releasing {
    pub(crate) file: u32,
    /// The journal's end when it was released: what made it dead must be durable first. J-15
    pub(crate) lsn: Lsn,
    /// The superblock that lists it as free, once asked for.
    pub(crate) version: Option<u64>,
    /// Recovery cut it short: it is removed then.
    pub(crate) is_short: bool,
}

/// A file that is to be removed.
#[derive(Debug)]
struct Leaving {
    file: u32,
    /// The superblock that lists it as free for the second time: both copies do then.
    version: u64,
}

/// A file that was removed.
#[derive(Debug)]
pub(crate) struct Gone {
    file: u32,
    /// Listed as free until so many checkpoints were made: they may tell of a life in it, and the next start has to know
    /// that it is not lost. J-7
    until: u64,
}

/// How many spares appends take. Retention lets segments go in lumps and at other times than appends take them: what
/// comes back is kept for as long as it is likely to be taken again, or its zeros would be written again, too.
#[derive(Debug, Default)]
struct Taken {
    in_window: usize,
    in_last: usize,
    window_ends: Mono,
}

impl Taken {
    fn pass(&mut self, now: Mono) {
        let late_ns = now.since(self.window_ends);
        if now < self.window_ends {
            return;
        }
        self.in_last = if late_ns < WINDOW_NS {
            self.in_window
        } else {
            0
        };
        self.in_window = 0;
        self.window_ends = now.after_ns(WINDOW_NS);
    }

    fn of_late(&self) -> usize {
        self.in_window.max(self.in_last)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    pub(crate) ready: VecDeque<u32>,
    pub(crate) releasing: Vec<Releasing>,
    leaving: Vec<Leaving>,
    pub(crate) gone: Vec<Gone>,
    /// The one that is being filled.
    pub(crate) filling: Option<Filling>,
    pub(crate) pace: Pace,
    wanted: usize,
    next_file: u32,
    /// A filling failed for want of space, and none has succeeded since.
    full: bool,
    /// Fillings that failed otherwise since one succeeded.
    failures: u32,
    /// Appends wait for a spare.
    starved: bool,
    /// The start found less than the reserves.
    short: bool,
    retry_at: Option<Mono>,
    taken: Taken,
}

impl Spares {
    pub(crate) fn new(wanted: usize, ready: Vec<u32>, gone: Vec<u32>, next_file: u32) -> Self {
        let until = CHECKPOINTS_UNTIL_FORGOTTEN;
        Self {
            wanted,
            ready: ready.into(),
            gone: gone.into_iter().map(|file| Gone { file, until }).collect(),
            next_file,
            ..Self::default()
        }
    }

    /// A later start than the first: where it left less than the reserves, data waits until they are whole again, or is
    /// refused because they cannot be. The open segment is then a reserve, too, and data leaves all of it to control
    /// entries.
    pub(crate) fn found_short(mut self) -> Self {
        self.short = self.ready.len() < RESERVED_FROM_DATA;
        self
    }

    /// See [`Spares::found_short`].
    pub(crate) fn is_short(&self) -> bool {
        self.short
    }

    /// Appends wait for a spare.
    pub(crate) fn starve(&mut self) {
        self.starved = true;
    }

    /// A spare, if more than `reserved` are there.
    pub(crate) fn take(&mut self, reserved: usize) -> Option<u32> {
        if self.ready.len() <= reserved {
            self.starved = true;
            return None;
        }
        self.taken.in_window += 1;
        self.ready.pop_front()
    }

    /// Whether appends wait for a spare, or are refused for want of one: then zeros stand in nobody's way.
    pub(crate) fn is_starved(&self) -> bool {
        self.starved || self.is_read_only()
    }

    /// The file that is being filled; a new one, if one is wanted and due.
    pub(crate) fn filling(&mut self, now: Mono) -> Option<(&mut Filling, &mut Pace)> {
        if self.is_wanted() && self.retry_at.is_none_or(|at| now >= at) {
            self.retry_at = None;
            self.filling = Some(Filling::new(self.next_file));
            self.next_file += 1;
        }
        Some((self.filling.as_mut()?, &mut self.pace))
    }

    /// A file is ready for another life. With more than the reserves there is room, wherever it came from.
    pub(crate) fn add(&mut self, file: u32) {
        self.ready.push_back(file);
        self.starved = false;
        self.short &= self.ready.len() < RESERVED_FROM_DATA;
        self.failures = 0;
        if self.ready.len() > RESERVED_FROM_DATA {
            self.full = false;
            self.retry_at = None;
        }
    }

    /// The files that a superblock lists as free.
    pub(crate) fn listed(&self) -> impl Iterator<Item = u32> + '_ {
        let releasing = self.releasing.iter().filter(|it| it.version.is_some());
        let gone = self.gone.iter().map(|it| it.file);
        gone.chain(self.leaving.iter().map(|it| it.file))
            .chain(releasing.map(|it| it.file))
            .chain(self.ready.iter().copied())
    }

    /// The file leaves when the superblock of this version is durable.
    pub(crate) fn leave(&mut self, file: u32, version: u64) {
        self.leaving.push(Leaving { file, version });
    }

    /// A spare beyond those that are kept.
    pub(crate) fn take_surplus(&mut self, now: Mono) -> Option<u32> {
        self.taken.pass(now);
        if !self.has_surplus(self.taken.of_late()) {
            return None;
        }
        self.ready.pop_back()
    }

    fn has_surplus(&self, taken: usize) -> bool {
        self.ready.len() > self.wanted + KEPT_BEYOND + taken
    }

    /// When there may be a surplus, though nothing happens until then.
    pub(crate) fn surplus_at(&self) -> Option<Mono> {
        self.has_surplus(0).then_some(self.taken.window_ends)
    }

    /// The files to remove now. `checkpoints` were made so far.
    pub(crate) fn left(&mut self, checkpoints: u64, is_durable: impl Fn(u64) -> bool) -> Vec<u32> {
        let until = checkpoints + CHECKPOINTS_UNTIL_FORGOTTEN;
        let mut files = Vec::new();
        self.leaving.retain(|it| {
            let stays = !is_durable(it.version);
            if !stays {
                files.push(it.file);
            }
            stays
        });
        self.gone
            .extend(files.iter().map(|&file| Gone { file, until }));
        files
    }

    /// So many checkpoints were made.
    pub(crate) fn forget_gone(&mut self, checkpoints: u64) {
        self.gone.retain(|it| it.until > checkpoints);
    }

    /// Another one has to be filled, and none is being filled.
    fn is_wanted(&self) -> bool {
        let coming = self.releasing.iter().filter(|it| !it.is_short).count();
        self.filling.is_none() && self.ready.len() + coming < self.wanted
    }

    /// The one that was being filled is not to be had. Another one is tried later, whatever the reason; data is refused
    /// only when it is space that is missing. J-18
    pub(crate) fn failed(&mut self, error: DiskError, now: Mono) {
        self.filling = None;
        match error {
            DiskError::NoSpace => self.full = true,
            _ => self.failures = self.failures.saturating_add(1),
        }
        self.retry_at = Some(now.after_ns(RETRY_AFTER_NS));
    }

    /// Appends wait for a spare, and the disk has failed to give one too often.
    pub(crate) fn are_hopeless(&self) -> bool {
        self.starved && self.failures >= FAILURES_MAX
    }

    /// Whether data is refused: only the reserves are left, and no more can be had.
    pub(crate) fn is_read_only(&self) -> bool {
        self.full && self.ready.len() <= RESERVED_FROM_DATA
    }

    pub(crate) fn is_full(&self) -> bool {
        self.full
    }

    /// When another try to fill one is due, if one is wanted.
    pub(crate) fn retry_at(&self) -> Option<Mono> {
        self.retry_at.filter(|_| self.is_wanted())
    }
}
