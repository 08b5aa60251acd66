//! Cold reads: the segment that holds what is asked for is found by the indexes, the bytes are read in whole blocks, and
//! what is handed out is verified and of that partition, or that slot, only. Reads nothing that is not durable, and answers only when a
//! completion arrives: an answer that needs no bytes rides on the read of one block.

mod pace;
mod places;
mod run;
mod search;

use crate::footers::Waiter;
use crate::index::Footer;
use crate::journal::Journal;
use crate::operations::Op;
use crate::outcome::{
    Output, ReadBatches, ReadError, ReadId, SlotEntries, SlotOutput, SlotReadError,
};
use bytes::Bytes;
pub(crate) use pace::Pace;
use places::{Place, Places};
pub(crate) use run::Of;
use run::{Outcome, Run};
use search::Found;
use tiderace_base::collections::Map;
use tiderace_base::disk::{DiskError, JournalFile};
use tiderace_base::limits::BLOCK_BYTES;
use tiderace_base::operation::Effect;
use tiderace_base::position::{Offset, SlotSeq};
use tiderace_base::time::Mono;
use tiderace_wire::batch::BatchHeader;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Want {
    Batches { from: Offset, bytes_max: usize },
    Time { time_us: u64 },
    Entries { from: SlotSeq, bytes_max: usize },
}

impl Want {
    /// The number of the entry that is sought; none: it is sought by time.
    fn from(self) -> Option<u64> {
        match self {
            Self::Batches { from, .. } => Some(from.get()),
            Self::Entries { from, .. } => Some(from.get()),
            Self::Time { .. } => None,
        }
    }
}

/// What a read waits for.
#[derive(Debug)]
enum Waiting {
    /// Nothing: this is the answer.
    Answer(Answer),
    /// The index of a life.
    Index,
    /// Bytes of a segment: so many, since then.
    Bytes(Box<Run>, u64, Mono),
}

#[derive(Debug)]
enum Answer {
    None(ReadError),
    Time(Option<(Offset, u64)>),
}

#[derive(Debug)]
pub(crate) struct Job {
    of: Of,
    want: Want,
    waiting: Waiting,
    search: search::Search,
    /// Nobody waits for it any more; the file is in use until its bytes are back.
    is_cancelled: bool,
    /// A read failed once, and was repeated: what fails twice cannot be read.
    is_doubted: bool,
    /// What it read was wrong once, and it began again: what is wrong twice is damaged.
    is_begun_again: bool,
    /// It met what a truncation took, and began again.
    has_met_dead: bool,
    /// A truncation was written since its answer was found.
    is_stale: bool,
}

impl Job {
    /// Whether what failed is to be read again: once.
    fn doubts(&mut self) -> bool {
        !core::mem::replace(&mut self.is_doubted, true)
    }

    /// Whether what was read wrong is to be sought again: once, whatever fails beside it.
    fn begins_again(&mut self) -> bool {
        !core::mem::replace(&mut self.is_begun_again, true)
    }
}

/// The reads under way.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    given: u64,
    jobs: Map<ReadId, Job>,
    places: Places,
    /// Lives whose files are being read, and by how many.
    using: Map<u64, u32>,
}

impl Reads {
    pub(crate) fn under_way(&self) -> usize {
        self.jobs.len()
    }

    /// A truncation was written: what searches have seen may be dead. What they read is judged when it is there. J-61
    pub(crate) fn forget_what_was_seen(&mut self) {
        for job in self.jobs.values_mut() {
            job.search = search::Search::default();
            job.is_stale = matches!(job.waiting, Waiting::Answer(_));
        }
    }

    pub(crate) fn is_using(&self, seq: u64) -> bool {
        self.using.contains_key(&seq)
    }
}

impl Journal {
    pub(crate) fn start_read(&mut self, of: Of, want: Want) -> ReadId {
        self.stats.reads += 1;
        self.reads.given += 1;
        let id = ReadId(self.reads.given);
        self.reads.jobs.insert(
            id,
            Job {
                of,
                want,
                waiting: Waiting::Index,
                search: search::Search::default(),
                is_cancelled: false,
                is_doubted: false,
                is_begun_again: false,
                has_met_dead: false,
                is_stale: false,
            },
        );
        self.go_on_reading(id, None);
        id
    }

    /// Bytes on their way arrive all the same; nobody asks for them then, and until then the file is not let go. J-14
    pub(crate) fn forget_read(&mut self, id: ReadId) {
        match self.reads.jobs.get_mut(&id) {
            Some(job) if matches!(job.waiting, Waiting::Bytes(..)) => job.is_cancelled = true,
            Some(_) | None => {
                self.reads.jobs.remove(&id);
            }
        }
    }

    /// The life's file is in use.
    pub(crate) fn hold(&mut self, seq: u64) {
        *self.reads.using.entry(seq).or_default() += 1;
    }

    pub(crate) fn let_go(&mut self, seq: u64) {
        if let Some(readers) = self.reads.using.get_mut(&seq) {
            *readers -= 1;
            if *readers == 0 {
                self.reads.using.remove(&seq);
                self.reclaim_unblocked();
            }
        }
    }

    /// Searches on, with the index that was waited for.
    pub(crate) fn go_on_reading(&mut self, id: ReadId, loaded: Option<Footer>) {
        let Some(mut job) = self.reads.jobs.remove(&id) else {
            return;
        };
        match self.search(&mut job, loaded) {
            Found::NeedsIndex(seq) => {
                job.waiting = Waiting::Index;
                self.reads.jobs.insert(id, job);
                self.load_index(seq, Waiter::Read(id));
            }
            Found::Run(run) => {
                self.hold(run.seq);
                self.read_run(id, job, run);
            }
            Found::None(error) => self.answer_soon(id, job, Answer::None(error)),
            Found::Time(found) => self.answer_soon(id, job, Answer::Time(found)),
        }
    }

    /// What was read was wrong, and may have led astray: forgets what it led to, and searches from the beginning.
    fn begin_again(&mut self, id: ReadId, mut job: Job, seq: u64) {
        self.let_go(seq);
        if let Some(from) = job.want.from() {
            self.reads.places.forget(job.of, from);
        }
        job.search = search::Search::default();
        self.reads.jobs.insert(id, job);
        self.go_on_reading(id, None);
    }

    fn read_run(&mut self, id: ReadId, mut job: Job, run: Box<Run>) {
        let (at, bytes) = run.next_read(self.read_bytes());
        let file = JournalFile::Segment(run.file);
        job.waiting = Waiting::Bytes(run, bytes, self.now.mono);
        self.reads.jobs.insert(id, job);
        self.push_read(id, file, at, bytes);
    }

    /// The most that a read brings now.
    pub(crate) fn read_bytes(&self) -> usize {
        let most = self.settings.read_bytes_max;
        self.pace.read_bytes(most)
    }

    fn push_read(&mut self, id: ReadId, file: JournalFile, at: u64, bytes: u64) {
        self.stats.read_bytes += bytes;
        let op = self.operations.begin(Op::Data(id));
        self.outbox.push(Effect::Read {
            op,
            file,
            at,
            len: bytes as u32,
        });
    }

    /// Answers with the completion of a read that means nothing.
    fn answer_soon(&mut self, id: ReadId, mut job: Job, answer: Answer) {
        job.waiting = Waiting::Answer(answer);
        self.reads.jobs.insert(id, job);
        self.push_read(id, JournalFile::Superblock, 0, BLOCK_BYTES as u64);
    }

    pub(crate) fn answer_read_error(&mut self, id: ReadId, error: ReadError) {
        if let Some(job) = self.reads.jobs.remove(&id) {
            self.answer(id, job.want, error);
        }
    }

    fn answer(&mut self, id: ReadId, want: Want, error: ReadError) {
        match want {
            Want::Batches { .. } => self.outputs.push(Output::Read {
                id,
                result: Err(error),
            }),
            Want::Time { .. } => self.outputs.push(Output::Time {
                id,
                result: Err(error),
            }),
            Want::Entries { .. } => {
                let error = match error {
                    ReadError::AtEnd => SlotReadError::AtEnd,
                    // A search knows numbers, and of a slot they are sequences.
                    ReadError::BelowStart(first) => {
                        SlotReadError::BelowFirst(SlotSeq::new(first.get()))
                    }
                    ReadError::Damaged { file, at, bytes } => {
                        SlotReadError::Damaged { file, at, bytes }
                    }
                    ReadError::Disk(error) => SlotReadError::Disk(error),
                };
                self.slot_outputs.push(SlotOutput::Entries {
                    id,
                    result: Err(error),
                });
            }
        }
    }

    pub(crate) fn read_done(&mut self, id: ReadId, result: Result<Bytes, DiskError>) {
        let Some(mut job) = self.reads.jobs.remove(&id) else {
            return;
        };
        if let Waiting::Bytes(_, bytes, begun) = job.waiting {
            let took_ns = self.now.mono.since(begun);
            self.pace.read(took_ns, bytes as usize);
        }
        match core::mem::replace(&mut job.waiting, Waiting::Index) {
            Waiting::Answer(_) if job.is_stale => {
                job.is_stale = false;
                self.reads.jobs.insert(id, job);
                self.go_on_reading(id, None);
            }
            Waiting::Answer(Answer::None(error)) => self.answer(id, job.want, error),
            Waiting::Answer(Answer::Time(found)) => {
                self.outputs.push(Output::Time {
                    id,
                    result: Ok(found),
                });
            }
            // The load of the index answers for itself.
            Waiting::Index => {
                self.reads.jobs.insert(id, job);
            }
            Waiting::Bytes(run, ..) if job.is_cancelled => self.let_go(run.seq),
            Waiting::Bytes(mut run, ..) => match result {
                Err(error) if !matches!(error, DiskError::NotOpened(_)) && job.doubts() => {
                    self.read_run(id, job, run);
                }
                // One bad block fails every read that crosses it, and what lies before it in the read is whole.
                Err(error) if !matches!(error, DiskError::NotOpened(_)) && run.narrow() => {
                    job.is_doubted = false;
                    self.read_run(id, job, run);
                }
                Err(error) => {
                    self.let_go(run.seq);
                    // A process without descriptors says nothing of the disk.
                    if !matches!(error, DiskError::NotOpened(_)) {
                        self.tell_damage(run.seq, &run.place(), None);
                    }
                    self.answer(id, job.want, ReadError::Disk(error));
                }
                Ok(bytes) => self.take_run(id, job, run, &bytes),
            },
        }
    }

    fn take_run(&mut self, id: ReadId, mut job: Job, mut run: Box<Run>, bytes: &Bytes) {
        let start = match self.segments.get(&run.seq) {
            Some(sealed) => sealed.row.start,
            None => self.active.start,
        };
        let cuts = &self.cuts;
        // J-61: judged now, not when the run was found: a truncation may have been written since.
        let is_dead = |header: &BatchHeader, at: u64| {
            let lsn = start.advance(at - BLOCK_BYTES as u64);
            cuts.is_dead(header.slot(), header.slot_seq(), lsn)
        };
        match run.take(&job.want, bytes, is_dead) {
            Outcome::More => self.read_run(id, job, run),
            Outcome::Damaged { .. } if job.begins_again() => {
                self.begin_again(id, job, run.seq);
            }
            Outcome::Damaged { at, bytes } => {
                self.let_go(run.seq);
                self.tell_damage(run.seq, &(at..at + bytes), None);
                let file = JournalFile::Segment(run.file);
                self.answer(id, job.want, ReadError::Damaged { file, at, bytes });
            }
            Outcome::Dead if !core::mem::replace(&mut job.has_met_dead, true) => {
                self.begin_again(id, job, run.seq);
            }
            Outcome::Dead => {
                self.let_go(run.seq);
                self.answer(id, job.want, job.search.absent());
            }
            Outcome::Batches { batches, next, at } => {
                self.let_go(run.seq);
                let place = Place { seq: run.seq, at };
                self.reads.places.remember(job.of, next, place);
                let buffer_bytes = bytes.len();
                match job.want {
                    Want::Entries { .. } => self.slot_outputs.push(SlotOutput::Entries {
                        id,
                        result: Ok(SlotEntries {
                            entries: batches,
                            next: SlotSeq::new(next),
                            buffer_bytes,
                        }),
                    }),
                    Want::Batches { .. } | Want::Time { .. } => {
                        self.outputs.push(Output::Read {
                            id,
                            result: Ok(ReadBatches {
                                batches,
                                next: Offset::new(next),
                                buffer_bytes,
                            }),
                        });
                    }
                }
            }
            Outcome::Time((offset, time_us)) => {
                self.let_go(run.seq);
                self.outputs.push(Output::Time {
                    id,
                    result: Ok(Some((Offset::new(offset), time_us))),
                });
            }
            // All too old, or dead: what follows holds the answer, in this segment or behind it.
            Outcome::Nothing => {
                // Unless a truncation made it begin anew.
                if job.search.has_begun() {
                    job.search.past = Some(run.until);
                }
                self.let_go(run.seq);
                self.reads.jobs.insert(id, job);
                self.go_on_reading(id, None);
            }
        }
    }
}
