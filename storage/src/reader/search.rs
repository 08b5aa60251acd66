//! Finds the run of a segment that holds an offset or a time: from where a reader of the partition stopped on into the
//! segments behind, or from the newest segment back along the links of the indexes. Stops wherever an index has to be
//! loaded first, and goes on there.

use super::run::Run;
use super::{Job, Want};
use crate::footers::{Footers, View};
use crate::index::Footer;
use crate::journal::Journal;
use crate::outcome::ReadError;
use tiderace_base::limits::BLOCK_BYTES;
use tiderace_base::position::{Lsn, Offset};

/// Segments looked into behind the one where a reader stopped, before the search begins at the newest. Enough to read a
/// busy partition from segment to segment without ever searching; a partition that skips more has links that skip too.
const FORWARD_MAX: u32 = 4;

/// How far a search has come.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Search {
    /// The segment to look at next; none: start.
    at: Option<u64>,
    /// The oldest segment seen that lies wholly behind what is sought: it, its first offset, that one's time.
    later: Option<(u64, Offset, u64)>,
    /// Segments looked into from a place on, that of the place included; 0: not begun there.
    forward: u32,
    /// The place was tried, or there is none: the search goes back from the newest segment.
    place_tried: bool,
}

impl Search {
    /// The first batch of the segment behind, for a search by time.
    pub(crate) fn candidate(&self) -> Option<(Offset, u64)> {
        self.later.map(|(_, offset, time_us)| (offset, time_us))
    }
}

/// What a search came to.
pub(crate) enum Found {
    NeedsIndex(u64),
    Run(Box<Run>),
    /// No batches, and why.
    Batches(ReadError),
    /// The answer to a search by time.
    Time(Option<(Offset, u64)>),
}

/// What one segment says.
enum Step {
    Run(Run),
    /// It holds nothing of the partition.
    Absent,
    /// Look further back, along this link (none: the segment before).
    Back(Option<Option<u64>>),
    /// Nothing durable lies there.
    Behind,
    /// The segment ends before what is sought.
    Before,
}

impl Journal {
    pub(crate) fn search(&mut self, job: &mut Job, mut loaded: Option<Footer>) -> Found {
        loop {
            let seq = match job.search.at {
                Some(seq) => seq,
                None => self.first_look(job),
            };
            job.search.at = Some(seq);
            let step = if seq == self.active.seq {
                let view = View::Open(&self.active.index);
                self.look(job, seq, &view)
            } else {
                let is_kept = self.segments.contains_key(&seq);
                let held = loaded.take().filter(|footer| footer.life().seq == seq);
                if !is_kept {
                    // Released while its index was loaded: what it held lies below the start now.
                    Step::Absent
                } else if let Some(footer) = held {
                    self.look(job, seq, &View::Footer(footer))
                } else {
                    // Taken out while it is searched: a view borrows it, and looking reads everything else.
                    let nothing = Footers::new(0, Vec::new());
                    let mut footers = core::mem::replace(&mut self.footers, nothing);
                    let step = footers.view(seq).map(|view| self.look(job, seq, &view));
                    self.footers = footers;
                    match step {
                        Some(step) => step,
                        None => return Found::NeedsIndex(seq),
                    }
                }
            };
            self.stats.segments_searched += 1;
            if !matches!(step, Step::Run(_)) && job.search.forward > 0 {
                self.look_on(&mut job.search, seq, &step);
                continue;
            }
            match step {
                Step::Run(run) => return Found::Run(Box::new(run)),
                Step::Behind => return Self::nothing(job, ReadError::AtEnd),
                Step::Before => {
                    // What lay between two segments was released.
                    let later = job.search.later;
                    let error = later.map_or(ReadError::AtEnd, |(_, first, _)| {
                        ReadError::BelowStart(first)
                    });
                    return Self::nothing(job, error);
                }
                Step::Absent | Step::Back(_) => {
                    let next = match step {
                        _ if seq == self.active.seq => self.newest.get(&job.key).copied(),
                        Step::Back(Some(link)) => link,
                        _ => seq.checked_sub(1),
                    };
                    let next = next.and_then(|next| self.segments.range(..=next).next_back());
                    match (next, job.search.later) {
                        (Some((next, _)), _) => job.search.at = Some(*next),
                        (None, Some((_, first, _))) => {
                            return Self::nothing(job, ReadError::BelowStart(first));
                        }
                        (None, None) => return Self::nothing(job, ReadError::AtEnd),
                    }
                }
            }
        }
    }

    /// Where to look first.
    fn first_look(&self, job: &mut Job) -> u64 {
        if let (Want::Batches { from, .. }, false) = (job.want, job.search.place_tried)
            && let Some(place) = self.reads.places.get(job.key, from)
            && (place.seq == self.active.seq || self.segments.contains_key(&place.seq))
        {
            job.search.forward = 1;
            return place.seq;
        }
        job.search.place_tried = true;
        self.active.seq
    }

    /// The segment of a place, or one behind it, does not hold what is sought: the next one may, as long as each ends
    /// before it or holds nothing of the partition. Whatever else is met is left to a search from the newest segment.
    fn look_on(&self, search: &mut Search, seq: u64, step: &Step) {
        let may_follow = matches!(step, Step::Before | Step::Absent)
            && search.forward <= FORWARD_MAX
            && seq != self.active.seq;
        if may_follow {
            let next = self.segments.range(seq + 1..).next();
            search.at = Some(next.map_or(self.active.seq, |(next, _)| *next));
            search.forward += 1;
        } else {
            *search = Search {
                place_tried: true,
                ..Search::default()
            };
        }
    }

    fn nothing(job: &Job, error: ReadError) -> Found {
        match job.want {
            Want::Batches { .. } => Found::Batches(error),
            Want::Time { .. } => Found::Time(job.search.candidate()),
        }
    }

    fn look(&self, job: &mut Job, seq: u64, view: &View<'_>) -> Step {
        let (file, start) = if seq == self.active.seq {
            (self.active.file, self.active.start)
        } else {
            match self.segments.get(&seq) {
                Some(sealed) => (sealed.row.file, sealed.row.start),
                None => return Step::Absent,
            }
        };
        let durable = self.inflight.durable();
        let is_durable = |at: u32| lsn_of(start, at) < durable;
        let link = view.has_links().then(|| view.previous_seq(job.key));
        let Some(partition) = view.partition(job.key) else {
            return Step::Absent;
        };
        let first = view.locate(job.key, partition.first_offset);
        if !first.is_some_and(|first| is_durable(first.position.at)) {
            return Step::Back(link);
        }
        match job.want {
            Want::Batches { from, bytes_max } => {
                if from < partition.first_offset {
                    job.search.later = Some((seq, partition.first_offset, partition.first_time_us));
                    return Step::Back(link);
                }
                let Some(located) = view.locate(job.key, from) else {
                    return Step::Before;
                };
                if !is_durable(located.position.at) {
                    return Step::Behind;
                }
                let place = self.reads.places.get(job.key, from);
                let place = place.filter(|place| place.seq == seq);
                let mut run = Run::new(seq, file, from, bytes_max);
                run.push(&located, place.map(|place| place.at));
                while run.takes_more(self.read_bytes())
                    && let Some(next) = view.locate(job.key, run.until)
                    && is_durable(next.position.at)
                    && next.until > run.until
                {
                    run.push(&next, None);
                }
                Step::Run(run)
            }
            Want::Time { time_us } => {
                if partition.last_time_us < time_us {
                    return Step::Behind;
                }
                if partition.first_time_us >= time_us {
                    job.search.later = Some((seq, partition.first_offset, partition.first_time_us));
                    return Step::Back(link);
                }
                let Some(located) = view
                    .locate_time(job.key, time_us)
                    .filter(|located| is_durable(located.position.at))
                else {
                    return Step::Behind;
                };
                let mut run = Run::new(seq, file, Offset::ZERO, 0);
                run.push(&located, None);
                // Where a truncation left dead entries in the run, the answer lies in the next one.
                if let Some(next) = view
                    .locate(job.key, run.until)
                    .filter(|next| is_durable(next.position.at) && next.until > run.until)
                {
                    run.push(&next, None);
                }
                Step::Run(run)
            }
        }
    }
}

fn lsn_of(start: Lsn, at: u32) -> Lsn {
    start.advance(u64::from(at) - BLOCK_BYTES as u64)
}
