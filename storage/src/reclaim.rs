//! Releases segments whose data nobody may ask for any more. A segment goes when every partition in it starts behind its
//! data there, both checkpoints cover it and more, and nothing reads it; its file is used again only when that is durable, so that
//! no crash brings a row back whose bytes are gone. J-14, J-15

use crate::footers::{Alive, View, Waiter};
use crate::format::superblock::FREE_MAX;
use crate::index::Footer;
use crate::journal::{Journal, Starts};
use crate::operations::Op;
use crate::outcome::Output;
use crate::planted::{self, is_planted as is_planted_here};
use crate::segments::Witness;
use crate::spares::Releasing;
use tiderace_base::disk::JournalFile;
use tiderace_base::ids::SlotId;
use tiderace_base::limits::BLOCK_BYTES;
use tiderace_base::operation::Effect;
use tiderace_base::planted::{Bug, is_planted};
use tiderace_base::position::{Lsn, SlotSeq};
use tiderace_base::time::Mono;

/// Indexes looked at in one call.
const INDEXES_AT_ONCE: usize = 16;
/// How long a segment whose index can be neither read nor built is left alone.
const UNREADABLE_FOR_NS: u64 = 60_000_000_000;

/// How far the look at the segments has come. A call goes round once from where the last one stopped, and stops again where it
/// has to wait; what it waited for brings the owner back. So the last call of a row has seen every segment by the starts
/// of that moment.
#[derive(Debug, Default)]
pub(crate) struct Reclaim {
    /// The life to look at next.
    next: u64,
    /// An operation is in flight that goes on with the look.
    waiting: bool,
    /// The index that was waited for: it may be larger than all that is kept in memory.
    loaded: Option<Footer>,
    /// Something could go but for an operation on it.
    blocked: bool,
    /// The owner was asked to call again and did not yet.
    asked: bool,
}

impl Reclaim {
    /// The next call decides about this life.
    pub(crate) fn is_deciding(&self, seq: u64) -> bool {
        self.loaded.as_ref().is_some_and(|it| it.life().seq == seq)
    }
}

/// Whether a segment whose entries of the slot end before `next` holds one above the slot's base. J-65
fn is_above_base(starts: &impl Starts, slot: SlotId, next: SlotSeq) -> bool {
    SlotSeq::new(next.get() - 1) > starts.base_of(slot)
        && !is_planted_here(planted::Bug::ReleaseAboveBase)
}

impl Journal {
    pub(crate) fn reclaim_some(&mut self, starts: &impl Starts) {
        self.reclaim.asked = false;
        if self.reclaim.waiting {
            return;
        }
        let mut loaded = self.reclaim.loaded.take();
        // J-14
        let Some(covered) = self.checkpointing.chain.covered_by_both() else {
            return;
        };
        let covered: Lsn = covered.min(self.inflight.durable());
        self.reclaim.blocked = false;
        let mut looked = 0;
        for _ in 0..self.segments.len() {
            let mut later = self.segments.range(self.reclaim.next..);
            let next = later.next().or_else(|| self.segments.first_key_value());
            let Some(seq) = next.map(|(seq, _)| *seq) else {
                return;
            };
            self.reclaim.next = seq;
            if self.is_candidate(seq, covered, starts) {
                if looked == INDEXES_AT_ONCE {
                    self.wait_a_turn();
                    return;
                }
                looked += 1;
                let held = loaded.take_if(|footer| footer.life().seq == seq);
                let held = held.or_else(|| match self.footers.view(seq) {
                    Some(View::Footer(footer)) => Some(footer),
                    Some(View::Open(_)) | None => None,
                });
                let Some(footer) = held else {
                    self.reclaim.waiting = true;
                    self.load_index(seq, Waiter::Reclaim);
                    return;
                };
                self.judge(seq, &footer, starts);
            }
            self.reclaim.next = seq + 1;
        }
    }

    fn is_candidate(&mut self, seq: u64, covered: Lsn, starts: &impl Starts) -> bool {
        let now: Mono = self.now.mono;
        let Some(sealed) = self.segments.get(&seq) else {
            return false;
        };
        let is_needed = match sealed.witness {
            Some(Witness::Partition(key, end)) => {
                starts.start_of(key).is_some_and(|start| start < end)
            }
            Some(Witness::Slot(slot, next)) => is_above_base(starts, slot, next),
            None => false,
        };
        if sealed.row.end >= covered
            || is_needed
            || sealed.unreadable_until.is_some_and(|until| now < until)
        {
            return false;
        }
        let is_busy = self.reads.is_using(seq) || self.footers.is_busy(seq);
        self.reclaim.blocked |= is_busy;
        !is_busy
    }

    /// Releases the segment, or remembers why not.
    fn judge(&mut self, seq: u64, footer: &Footer, starts: &impl Starts) {
        let view = View::Footer(footer.clone());
        let alive = Alive::new(&view, &self.cuts, footer.life().end);
        let partition = footer.partitions().find_map(|partition| {
            // What a truncation took keeps nothing. J-61
            let living = alive.partition(partition.key)?;
            let start = starts.start_of(living.key)?;
            (start < living.next_offset)
                .then_some(Witness::Partition(living.key, living.next_offset))
        });
        let mut slots = footer.slots();
        let witness = partition.or_else(|| {
            slots.find_map(|span| {
                let living = alive.slot_span(span.slot)?;
                is_above_base(starts, living.slot, living.next_seq)
                    .then_some(Witness::Slot(living.slot, living.next_seq))
            })
        });
        match witness.filter(|_| !is_planted(Bug::RecycleTooEarly)) {
            Some(witness) => {
                if let Some(sealed) = self.segments.get_mut(&seq) {
                    sealed.witness = Some(witness);
                }
            }
            None => self.release(seq, footer),
        }
    }

    /// Goes on after the completion of a read that means nothing: others come first.
    fn wait_a_turn(&mut self) {
        self.reclaim.waiting = true;
        let op = self.operations.begin(Op::ReclaimTurn);
        self.outbox.push(Effect::Read {
            op,
            file: JournalFile::Superblock,
            at: 0,
            len: BLOCK_BYTES as u32,
        });
    }

    pub(crate) fn reclaim_turn_done(&mut self) {
        self.reclaim.waiting = false;
        self.want_reclaim();
    }

    /// The index that a look waited for; none: there is no having it, and the look goes on behind its segment.
    pub(crate) fn reclaim_loaded(&mut self, seq: u64, footer: Option<Footer>) {
        self.reclaim.waiting = false;
        if footer.is_none() {
            let until = self.now.mono.after_ns(UNREADABLE_FOR_NS);
            if let Some(sealed) = self.segments.get_mut(&seq) {
                sealed.unreadable_until = Some(until);
            }
        }
        self.reclaim.loaded = footer;
        self.want_reclaim();
    }

    /// An operation on a segment ended: what it kept from being released may go now.
    pub(crate) fn reclaim_unblocked(&mut self) {
        if core::mem::take(&mut self.reclaim.blocked) {
            self.want_reclaim();
        }
    }

    pub(crate) fn want_reclaim(&mut self) {
        if !self.reclaim.asked {
            self.reclaim.asked = true;
            self.outputs.push(Output::ReclaimMore);
        }
    }

    fn release(&mut self, seq: u64, footer: &Footer) {
        let Some(sealed) = self.segments.remove(&seq) else {
            return;
        };
        self.checkpointing.segment_changed(seq);
        for partition in footer.partitions() {
            if self.newest.get(&partition.key) == Some(&seq) {
                self.newest.remove(&partition.key);
                self.checkpointing.partition_changed(partition.key);
            }
        }
        self.footers.forget(seq);
        self.forget_cuts();
        self.stats.segments_recycled += 1;
        // A file that was damaged, or is not there any more, gets no other life.
        let was_damaged = self.scrub.forget(seq);
        self.spares.releasing.push(Releasing {
            file: sealed.row.file,
            lsn: self.end_lsn(),
            version: None,
            is_short: sealed.is_short || was_damaged,
        });
    }

    /// Moves released files on towards their next life, or away. J-15
    pub(crate) fn push_released(&mut self) {
        let durable = self.inflight.durable();
        if !self.spares.releasing.is_empty() {
            // What a superblock does not list is not removed and not used: it waits.
            let mut room = FREE_MAX.saturating_sub(self.spares.listed().count());
            for mut releasing in core::mem::take(&mut self.spares.releasing) {
                if releasing.version.is_none() && releasing.lsn <= durable && room > 0 {
                    room -= 1;
                    releasing.version = Some(self.superblocks.ask());
                }
                let version = releasing.version;
                if !version.is_some_and(|it| self.superblocks.is_durable(it)) {
                    self.spares.releasing.push(releasing);
                } else if releasing.is_short {
                    self.spares.leave(releasing.file, self.superblocks.ask());
                } else {
                    self.spares.add(releasing.file);
                }
            }
        }
        while let Some(file) = self.spares.take_surplus(self.now.mono) {
            self.spares.leave(file, self.superblocks.ask());
        }
        let superblocks = &self.superblocks;
        let left = self
            .spares
            .left(self.stats.checkpoints, |it| superblocks.is_durable(it));
        for file in left {
            for file in [JournalFile::Segment(file), JournalFile::Footer(file)] {
                let op = self.operations.begin(Op::Remove);
                self.outbox.push(Effect::Remove { op, file });
            }
        }
    }
}
