//! How far a partition's start may move. Marks are taken as data is appended, at a bounded number per partition, so
//! that deciding needs neither the index nor the disk. What is kept is therefore exact to 1/64 of the retention: never
//! less than was asked, at most that much more. Pure.

use std::collections::VecDeque;
use tiderace_base::catalogue::Retention;
use tiderace_base::position::Offset;
use tiderace_base::time::Now;

/// Marks of one partition: twice the resolution, so that halving them never drops below it.
pub(crate) const MARKS_MAX: usize = 128;
/// A retention is divided into this many steps.
const STEPS: u64 = 64;

/// A point in a partition's past.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    /// Offset of the first record of the batch that was appended then.
    pub offset: Offset,
    /// When it was appended, in microseconds since 1970.
    pub append_time_us: u64,
    /// Bytes of all batches of the partition before it, since the partition began.
    pub bytes_before: u64,
}

/// Which bound moved the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// Older than the stream keeps.
    Age,
    /// More than the stream keeps.
    Bytes,
}

/// How far the wall clock may be ahead of what it said when it was first read plus what has passed since.
const JUMP_US_MAX: u64 = 60_000_000;

/// The time that ages are measured by: the wall clock, but no jump of it. Data is dropped for being old; a clock that is
/// set forward by an hour makes nothing an hour older.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AgeClock {
    first: Option<Now>,
}

impl AgeClock {
    /// The time, in microseconds since 1970.
    pub(crate) fn now_us(&mut self, now: Now) -> u64 {
        let first = *self.first.get_or_insert(now);
        let passed_us = now.mono.since(first.mono) / 1000;
        let latest = first
            .wall
            .as_us()
            .saturating_add(passed_us)
            .saturating_add(JUMP_US_MAX);
        now.wall.as_us().min(latest)
    }
}

/// The marks of one partition, oldest first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Marks {
    marks: VecDeque<Mark>,
}

impl Marks {
    /// Every mark, oldest first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Mark> {
        self.marks.iter()
    }

    /// Marks as a checkpoint kept them; `None` when there are too many or they go back.
    #[must_use]
    pub fn restored(marks: Vec<Mark>) -> Option<Self> {
        let rising = marks.windows(2).all(|pair| {
            pair[0].offset < pair[1].offset
                && pair[0].append_time_us <= pair[1].append_time_us
                && pair[0].bytes_before <= pair[1].bytes_before
        });
        (rising && marks.len() <= MARKS_MAX).then(|| Self {
            marks: marks.into(),
        })
    }

    /// Notes a batch, when the last mark lies far enough back. Nothing is noted without a retention. True: it was noted.
    pub fn note(&mut self, mark: Mark, retention: Retention) -> bool {
        let due = match self.marks.back() {
            None => true,
            Some(last) => {
                let aged = retention.age_ms > 0
                    && mark.append_time_us.saturating_sub(last.append_time_us)
                        >= (retention.age_ms.saturating_mul(1000) / STEPS).max(1);
                let grown = retention.bytes > 0
                    && mark.bytes_before - last.bytes_before >= (retention.bytes / STEPS).max(1);
                aged || grown
            }
        };
        if (retention.age_ms == 0 && retention.bytes == 0) || !due {
            return false;
        }
        if self.marks.len() == MARKS_MAX {
            let mut index = 0;
            self.marks.retain(|_| {
                index += 1;
                index % 2 == 1
            });
        }
        self.marks.push_back(mark);
        true
    }

    /// The newest mark below which everything may go, by `now_us` and `bytes` of all batches since the partition began.
    /// `None` when nothing may.
    #[must_use]
    pub fn expired(
        &self,
        now_us: u64,
        bytes: u64,
        retention: Retention,
    ) -> Option<(Offset, Reason)> {
        let mut found = None;
        for next in self.marks.iter().skip(1) {
            // Everything before `next` was appended before it, so it is at least as old.
            let reason = if retention.bytes > 0 && bytes - next.bytes_before >= retention.bytes {
                Reason::Bytes
            } else if retention.age_ms > 0
                && now_us.saturating_sub(next.append_time_us)
                    >= retention.age_ms.saturating_mul(1000)
            {
                Reason::Age
            } else {
                break;
            };
            found = Some((next.offset, reason));
        }
        found
    }

    /// Forgets the marks below the start, which has moved.
    pub(crate) fn forget_below(&mut self, start: Offset) {
        while self.marks.front().is_some_and(|mark| mark.offset < start) {
            self.marks.pop_front();
        }
    }

    /// When the next age bound is reached, in microseconds since 1970.
    #[must_use]
    pub fn next_age_us(&self, retention: Retention) -> Option<u64> {
        let next = self.marks.get(1)?;
        (retention.age_ms > 0).then(|| {
            next.append_time_us
                .saturating_add(retention.age_ms.saturating_mul(1000))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiderace_base::prng::Prng;
    use tiderace_base::time::{Mono, Wall};

    #[test]
    fn a_clock_that_jumps_makes_nothing_older() {
        let at = |mono_s: u64, wall_s: u64| Now {
            mono: Mono::from_ns(mono_s * 1_000_000_000),
            wall: Wall::from_us(wall_s * 1_000_000),
        };
        let mut clock = AgeClock::default();
        assert_eq!(clock.now_us(at(10, 1000)), 1_000_000_000);
        assert_eq!(clock.now_us(at(20, 1010)), 1_010_000_000);
        assert_eq!(
            clock.now_us(at(21, 4611)),
            1_071_000_000,
            "an hour forward counts for a minute at most"
        );
        assert_eq!(
            clock.now_us(at(22, 500)),
            500_000_000,
            "back is back: less is dropped"
        );
    }

    #[test]
    fn never_less_is_kept_than_was_asked() {
        for seed in 0..300 {
            let mut prng = Prng::new(seed);
            let retention = Retention {
                bytes: prng.below(3) * 10_000,
                age_ms: prng.below(3) * 50,
            };
            let mut marks = Marks::default();
            let mut batches: Vec<Mark> = Vec::new();
            let (mut now_us, mut bytes, mut start) = (0, 0, Offset::ZERO);
            for n in 0..2000 {
                now_us += prng.below(1000);
                let mark = Mark {
                    offset: Offset::new(n),
                    append_time_us: now_us,
                    bytes_before: bytes,
                };
                batches.push(mark);
                marks.note(mark, retention);
                bytes += 1 + prng.below(500);
                if let Some((to, _)) = marks.expired(now_us, bytes, retention) {
                    assert!(to > start);
                    start = to;
                    marks.forget_below(to);
                    let first_kept = batches[to.get() as usize];
                    let by_bytes =
                        retention.bytes > 0 && bytes - first_kept.bytes_before >= retention.bytes;
                    let by_age = retention.age_ms > 0
                        && now_us - first_kept.append_time_us >= retention.age_ms * 1000;
                    assert!(by_bytes || by_age, "a batch went that was to be kept");
                }
                assert!(marks.iter().len() <= MARKS_MAX);
            }
            if retention.bytes > 0 {
                let kept = bytes - batches[start.get() as usize].bytes_before;
                assert!(
                    kept <= retention.bytes + retention.bytes / 16 + 2000,
                    "{kept} kept of {}",
                    retention.bytes
                );
            }
            if retention == Retention::default() {
                assert_eq!(start, Offset::ZERO);
            }
        }
    }
}
