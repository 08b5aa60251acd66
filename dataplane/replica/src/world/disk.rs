//! A disk of the model world: the journal's records in order, how many of them are durable, and what the superblock says.
//! Its crash, its rot and its recovery; the recovery is the one that a shard does, with the crate's own replay.

use crate::Replayed;
use crate::copy::{End, Marks, Reach, SlotCopy, Written};
use crate::planted::{Bug, is_planted};
use crate::seal::SealEntry;
use tiderace_base::ids::DiskId;
use tiderace_base::position::{Epoch, SlotSeq};
use tiderace_base::prng::Prng;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) epoch: Epoch,
    pub(super) value: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Record {
    Entry(SlotSeq, Entry),
    Truncate(SlotSeq),
    Seal(SealEntry),
    /// And which start found it; none yet.
    Unreadable(Option<u32>),
    /// Which start this was.
    Restart(u32),
}

#[derive(Clone, Debug)]
pub(super) struct Disk {
    pub(super) id: DiskId,
    pub(super) journal: Vec<(Record, Option<Written>)>,
    pub(super) durable: usize,
    pub(super) marks: Marks,
    pub(super) seal: Option<SealEntry>,
    pub(super) starts: u32,
}

impl Disk {
    pub(super) fn new(id: DiskId) -> Self {
        Self {
            id,
            journal: Vec::new(),
            durable: 0,
            marks: Marks::default(),
            seal: None,
            starts: 0,
        }
    }

    /// The power is gone: what was not durable may be.
    pub(super) fn crash(&mut self, prng: &mut Prng) {
        let loose = (self.journal.len() - self.durable) as u64;
        let kept = self.durable + prng.below(loose + 1) as usize;
        self.journal.truncate(kept);
        self.durable = kept;
    }

    /// The next recovery finds a tail that does not parse, with `lost` records in it. What the superblock holds stays.
    pub(super) fn mark_cut(&mut self, lost: usize, prng: &mut Prng) {
        let kept = self.journal.len() - lost.min(self.journal.len());
        let greatest = self.journal[kept..]
            .iter()
            .filter_map(|(record, _)| match record {
                Record::Entry(seq, entry) => Some(End {
                    epoch: entry.epoch,
                    seq: *seq,
                }),
                Record::Truncate(_)
                | Record::Seal(_)
                | Record::Unreadable(_)
                | Record::Restart(_) => None,
            })
            .max();
        self.journal.truncate(kept);
        self.durable = kept;
        let reach = match greatest {
            _ if prng.chance(1, 3) => Reach::Unknown,
            Some(greatest) => Reach::Known(greatest),
            // Nothing of this slot was in the chunk: that is no mark.
            None if lost > 0 => return,
            None => {
                // A chunk that was never acknowledged: it names entries that this copy may have had, and had not.
                let (_, log) = self.recover();
                let held = log.last().map_or(Epoch::ZERO, |entry| entry.epoch);
                Reach::Known(End {
                    epoch: held,
                    seq: SlotSeq::new(log.len() as u64 + prng.below(3)),
                })
            }
        };
        self.marks.cut = Some(self.marks.cut.map_or(reach, |before| before.and(reach)));
    }

    pub(super) fn make_unreadable(&mut self, prng: &mut Prng) {
        if self.journal.is_empty() {
            return;
        }
        let from = prng.below(self.journal.len() as u64) as usize;
        let until = (from + 1 + prng.below(6) as usize).min(self.journal.len());
        self.journal
            .splice(from..until, [(Record::Unreadable(None), None)]);
        self.durable = self.journal.len();
        self.marks.suspect = true;
    }

    pub(super) fn become_another(&mut self, id: DiskId, keep: bool, prng: &mut Prng) {
        self.id = id;
        let kept = if keep {
            prng.below(self.journal.len() as u64 + 1) as usize
        } else {
            0
        };
        self.journal.truncate(kept);
        self.durable = kept;
        if !keep {
            self.marks = Marks::default();
            self.seal = None;
        }
    }

    /// A recovery has found all damage, and says so in the superblock.
    pub(super) fn find_damage(&mut self) {
        self.starts += 1;
        let start = self.starts;
        // A cut may have taken the start that knew of it: then it is found once more.
        self.marks.suspect |= self.ends_in_damage();
        for (record, _) in &mut self.journal {
            match record {
                Record::Unreadable(by) => *by = Some(by.unwrap_or(start)),
                Record::Entry(..) | Record::Truncate(_) | Record::Seal(_) | Record::Restart(_) => {}
            }
        }
    }

    fn ends_in_damage(&self) -> bool {
        let last = self
            .journal
            .iter()
            .rev()
            .find(|(record, _)| matches!(record, Record::Restart(_) | Record::Unreadable(_)));
        matches!(last, Some((Record::Unreadable(_), _)))
    }

    /// What a start makes of it: the copy, not yet told its marks, and its entries.
    pub(super) fn recover(&self) -> (SlotCopy, Vec<Entry>) {
        let mut copy = SlotCopy::default();
        let mut log = Vec::new();
        let mut found = 0;
        for (record, _) in &self.journal {
            match record {
                Record::Entry(seq, entry) => {
                    if copy.replay(entry.epoch, *seq) == Replayed::Taken {
                        log.push(*entry);
                    }
                }
                Record::Truncate(from) => {
                    copy.replay_truncate(*from);
                    log.truncate(copy.end().get() as usize);
                }
                Record::Seal(entry) => copy.replay_seal(*entry),
                Record::Unreadable(by) => {
                    copy.replay_damage();
                    found = found.max(by.unwrap_or(u32::MAX));
                }
                // A copy that started before the damage was found knew nothing of it.
                Record::Restart(start) if *start < found => {}
                Record::Restart(_) => copy.replay_restart(),
            }
        }
        if let Some(seal) = self.seal {
            copy.replay_seal(seal);
        }
        if is_planted(Bug::ForgetSuspect) && self.marks.suspect {
            copy.replay_restart();
        }
        (copy, log)
    }
}
