//! What is judged in the model world, over all replicas and all time: every entry that was ever written under an (epoch,
//! sequence), what was committed, who led, and who exposed when.

use super::disk::Entry;
use super::past;
use std::collections::BTreeMap;
use tiderace_base::ids::BootId;
use tiderace_base::position::{Epoch, SlotSeq};

#[derive(Default)]
pub(super) struct Checker {
    written: BTreeMap<(Epoch, SlotSeq), u64>,
    leaders: BTreeMap<Epoch, BootId>,
    /// What was committed, by sequence.
    pub(super) settled: Vec<Entry>,
    /// Every epoch that served, with its epoch-start's sequence.
    pub(super) led: Vec<(Epoch, SlotSeq)>,
    newest_exposing: Epoch,
    /// A loss was declared: what was committed may be gone.
    pub(super) is_lossy: bool,
}

pub(super) fn entries_behind(log: &[Entry], after: SlotSeq, count: u64) -> Vec<Entry> {
    let from = past(after).min(log.len());
    let until = (from + count as usize).min(log.len());
    log[from..until].to_vec()
}

impl Checker {
    /// No two copies hold different entries at one (epoch, sequence).
    pub(super) fn writes(&mut self, seq: SlotSeq, entry: Entry) {
        let first = *self
            .written
            .entry((entry.epoch, seq))
            .or_insert(entry.value);
        assert_eq!(
            first, entry.value,
            "two entries at {:?} {seq:?}",
            entry.epoch
        );
    }

    /// One leader for each epoch, in one boot.
    pub(super) fn leads(&mut self, epoch: Epoch, boot: BootId) {
        let first = *self.leaders.entry(epoch).or_insert(boot);
        assert_eq!(first, boot, "{epoch:?} has two leaders");
    }

    /// How many epochs a replica took.
    pub(super) fn given(&self) -> usize {
        self.leaders.len()
    }

    /// A leader begins to serve: it has, and knows to be committed, everything that ever was, up to its own epoch.
    /// One that was held up may begin when a newer one has served for long; it cannot know, and exposes what is true.
    pub(super) fn serves(&mut self, epoch: Epoch, start: SlotSeq, log: &[Entry], to: SlotSeq) {
        if !self.is_lossy {
            let known = self.settled.partition_point(|entry| entry.epoch <= epoch);
            assert!(
                past(to) >= known,
                "{epoch:?} serves and does not know what was committed"
            );
            assert_eq!(
                self.settled[..known],
                log[..known],
                "a committed entry is another"
            );
        }
        self.led.push((epoch, start));
    }

    /// What was committed can be read.
    pub(super) fn readable(&self, log: &[Entry]) {
        if self.is_lossy {
            return;
        }
        assert!(
            self.settled.len() <= log.len(),
            "a committed entry is not there"
        );
        assert_eq!(
            self.settled,
            log[..self.settled.len()],
            "a committed entry is another"
        );
    }

    /// A leader takes its log for committed up to `to`.
    pub(super) fn commits(&mut self, epoch: Epoch, log: &[Entry], to: SlotSeq) {
        if self.is_lossy {
            self.settled.truncate(0);
            self.settled.extend(&log[..past(to)]);
            return;
        }
        for (later, start) in &self.led {
            // An acknowledgement that was long on its way may commit under an older epoch what the newer one inherited.
            assert!(
                *later <= epoch || to < *start,
                "{epoch:?} commits beyond the start of {later:?}"
            );
        }
        let known = self.settled.len().min(past(to));
        assert_eq!(
            self.settled[..known],
            log[..known],
            "two entries are committed at one place"
        );
        self.settled.extend(&log[known..past(to)]);
    }

    /// A follower believes that its log is committed up to `to`.
    pub(super) fn believes(&self, log: &[Entry], to: SlotSeq) {
        if !self.is_lossy {
            assert!(
                past(to) <= self.settled.len(),
                "a follower knows more than was committed"
            );
            assert_eq!(
                self.settled[..past(to)],
                log[..past(to)],
                "a follower believes in another entry"
            );
        }
    }

    /// A sound copy cuts what lies at `from` and behind: none of it is committed.
    pub(super) fn cuts(&self, log: &[Entry], from: SlotSeq) {
        for (at, entry) in log.iter().enumerate().skip(past(from) - 1) {
            assert_ne!(
                self.settled.get(at),
                Some(entry),
                "a committed entry is cut"
            );
        }
    }

    /// A leader that serves exposes what is committed; with a lease also what it has alone. Then no newer one may have
    /// exposed anything.
    pub(super) fn exposes(&mut self, epoch: Epoch, is_alone: bool) {
        assert!(
            !is_alone || self.newest_exposing <= epoch,
            "{epoch:?} believes in its lease while {:?} exposes",
            self.newest_exposing
        );
        self.newest_exposing = self.newest_exposing.max(epoch);
    }
}
