//! Finds the run of a segment that holds an offset or a time of a partition, or a sequence of a slot: from where a reader of
//! it stopped on into the segments behind, or from the newest segment back, of a partition along the links of the indexes.
//! Stops wherever an index has to be loaded first, and goes on there. Of two segments that hold the same number the later
//! one is right: in the earlier one it is dead. J-61

use super::run::{Of, Run, Stretch};
use super::{Job, Want};
use crate::footers::{Alive, Footers, View};
use crate::index::Footer;
use crate::journal::Journal;
use crate::outcome::ReadError;
use tiderace_base::ids::{PartitionKey, SlotId};
use tiderace_base::limits::BLOCK_BYTES;
use tiderace_base::position::{Lsn, Offset, SlotSeq};

/// Segments looked into behind the one where a reader stopped, before the search begins at the newest. Enough to read a
/// busy partition from segment to segment without ever searching; a partition that skips more has links that skip too.
const FORWARD_MAX: u32 = 4;

/// How far a search has come.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Search {
    /// The segment to look at next; none: start.
    at: Option<u64>,
    /// The oldest segment seen that lies wholly behind what is sought: its first number, that one's time.
    later: Option<(u64, u64)>,
    /// In the segment looked at, what lies before this offset was read, and holds nothing that is young enough.
    pub(super) past: Option<u64>,
    /// Segments looked into from a place on, that of the place included; 0: not begun there.
    forward: u32,
    /// The place was tried, or there is none: the search goes back from the newest segment.
    place_tried: bool,
}

impl Search {
    /// Whether a segment was looked at.
    pub(super) fn has_begun(&self) -> bool {
        self.at.is_some()
    }

    /// The first batch of the segment behind, for a search by time.
    pub(crate) fn candidate(&self) -> Option<(Offset, u64)> {
        let later = self.later;
        later.map(|(offset, time_us)| (Offset::new(offset), time_us))
    }

    /// Why there is nothing with the number that was sought.
    pub(super) fn absent(&self) -> ReadError {
        let later = self.later;
        later.map_or(ReadError::AtEnd, |(first, _)| {
            ReadError::BelowStart(Offset::new(first))
        })
    }
}

/// What a search came to.
pub(crate) enum Found {
    NeedsIndex(u64),
    Run(Box<Run>),
    /// Nothing, and why.
    None(ReadError),
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
                self.look_on(job, seq, &step);
                continue;
            }
            match step {
                Step::Run(run) => return Found::Run(Box::new(run)),
                Step::Behind => return Self::nothing(job, ReadError::AtEnd),
                // What lay between two segments was released.
                Step::Before => return Self::nothing(job, job.search.absent()),
                Step::Absent | Step::Back(_) => {
                    job.search.past = None;
                    let next = match (&step, job.of) {
                        (_, Of::Partition(key)) if seq == self.active.seq => {
                            self.newest.get(&key).copied()
                        }
                        (Step::Back(Some(link)), _) => *link,
                        _ => seq.checked_sub(1),
                    };
                    let next = next.and_then(|next| self.segments.range(..=next).next_back());
                    match next {
                        Some((next, _)) => job.search.at = Some(*next),
                        None => return Self::nothing(job, job.search.absent()),
                    }
                }
            }
        }
    }

    /// Where to look first.
    fn first_look(&self, job: &mut Job) -> u64 {
        if let (Some(from), false) = (job.want.from(), job.search.place_tried)
            && let Some(place) = self.reads.places.get(job.of, from)
            && (place.seq == self.active.seq || self.segments.contains_key(&place.seq))
        {
            job.search.forward = 1;
            return place.seq;
        }
        job.search.place_tried = true;
        self.active.seq
    }

    /// The segment of a place, or one behind it, does not hold what is sought: the next one may, as long as each ends
    /// before it or holds nothing of the partition. Whatever else is met is left to a search from the newest segment. A slot
    /// has no links that skip: whoever reads it on looks at each segment once.
    fn look_on(&self, job: &mut Job, seq: u64, step: &Step) {
        let search = &mut job.search;
        let is_slot = matches!(job.of, Of::Slot(_));
        let may_follow = matches!(step, Step::Before | Step::Absent)
            && (search.forward <= FORWARD_MAX || is_slot)
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
            Want::Batches { .. } | Want::Entries { .. } => Found::None(error),
            Want::Time { .. } => Found::Time(job.search.candidate()),
        }
    }

    fn look(&self, job: &mut Job, seq: u64, view: &View<'_>) -> Step {
        let life = if seq == self.active.seq {
            Looked {
                seq,
                file: self.active.file,
                start: self.active.start,
                end: Lsn::MAX,
            }
        } else {
            match self.segments.get(&seq) {
                Some(sealed) => Looked {
                    seq,
                    file: sealed.row.file,
                    start: sealed.row.start,
                    end: sealed.row.end,
                },
                None => return Step::Absent,
            }
        };
        let alive = Alive::new(view, &self.cuts, life.end);
        match job.of {
            Of::Partition(key) => {
                let link = view.has_links().then(|| view.previous_seq(key));
                self.look_for_partition(job, key, &life, &alive, link)
            }
            Of::Slot(slot) => self.look_for_slot(job, slot, &life, &alive),
        }
    }

    fn look_for_partition(
        &self,
        job: &mut Job,
        key: PartitionKey,
        life: &Looked,
        view: &Alive<'_>,
        link: Option<Option<u64>>,
    ) -> Step {
        let durable = self.inflight.durable();
        let is_durable = |at: u32| life.lsn_of(at) < durable;
        let Some(partition) = view.partition(key) else {
            return Step::Absent;
        };
        let first = view.locate(key, partition.first_offset);
        if !first.is_some_and(|first| is_durable(first.position.at)) {
            return Step::Back(link);
        }
        let later = (partition.first_offset.get(), partition.first_time_us);
        match job.want {
            Want::Batches { from, bytes_max } => {
                if from < partition.first_offset {
                    job.search.later = Some(later);
                    return Step::Back(link);
                }
                let Some(located) = view.locate(key, from) else {
                    return Step::Before;
                };
                if !is_durable(located.position.at) {
                    return Step::Behind;
                }
                let place = self.reads.places.get(job.of, from.get());
                let place = place.filter(|place| place.seq == life.seq);
                let mut run = Run::new(life.seq, life.file, job.of, from.get(), bytes_max);
                run.push(Stretch::from(&located), place.map(|place| place.at));
                while run.takes_more(self.read_bytes())
                    && let Some(next) = view.locate(key, Offset::new(run.until))
                    && is_durable(next.position.at)
                    && next.until.get() > run.until
                {
                    run.push(Stretch::from(&next), None);
                }
                Step::Run(run)
            }
            Want::Time { time_us } => {
                if partition.last_time_us < time_us {
                    return Step::Behind;
                }
                if partition.first_time_us >= time_us {
                    job.search.later = Some(later);
                    return Step::Back(link);
                }
                // Where a truncation left dead entries in a run, the answer may lie in any behind it.
                let located = match job.search.past {
                    Some(past) => view.locate(key, Offset::new(past)),
                    None => view.locate_time(key, time_us),
                };
                let Some(located) = located.filter(|located| is_durable(located.position.at))
                else {
                    return Step::Behind;
                };
                let mut run = Run::new(life.seq, life.file, job.of, 0, 0);
                run.push(Stretch::from(&located), None);
                Step::Run(run)
            }
            Want::Entries { .. } => Step::Absent,
        }
    }

    fn look_for_slot(&self, job: &mut Job, slot: SlotId, life: &Looked, view: &Alive<'_>) -> Step {
        let Want::Entries { from, bytes_max } = job.want else {
            return Step::Absent;
        };
        let durable = self.inflight.durable();
        let is_durable = |at: u32| life.lsn_of(at) < durable;
        let Some(span) = view.slot_span(slot) else {
            return Step::Absent;
        };
        let first = view.locate_seq(slot, span.first_seq);
        if !first.is_some_and(|first| is_durable(first.at)) {
            return Step::Back(None);
        }
        if from < span.first_seq {
            job.search.later = Some((span.first_seq.get(), 0));
            return Step::Back(None);
        }
        let Some(position) = view.locate_seq(slot, from) else {
            return Step::Before;
        };
        if !is_durable(position.at) {
            return Step::Behind;
        }
        let place = self.reads.places.get(job.of, from.get());
        let place = place.filter(|place| place.seq == life.seq);
        let mut run = Run::new(life.seq, life.file, job.of, from.get(), bytes_max);
        run.push(Stretch::from(&position), place.map(|place| place.at));
        while run.takes_more(self.read_bytes())
            && let Some(next) = view.locate_seq(slot, SlotSeq::new(run.until))
            && is_durable(next.at)
        {
            run.push(Stretch::from(&next), None);
        }
        Step::Run(run)
    }
}

/// The life that is looked at.
struct Looked {
    seq: u64,
    file: u32,
    start: Lsn,
    end: Lsn,
}

impl Looked {
    fn lsn_of(&self, at: u32) -> Lsn {
        self.start.advance(u64::from(at) - BLOCK_BYTES as u64)
    }
}
