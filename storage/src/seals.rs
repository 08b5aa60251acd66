//! What slots of this journal promised and answered when they were sealed: the newest of each, kept in the superblock for
//! ever (J-64), because a promise that is forgotten was broken. A seal is told of when its entry, all before it, and a
//! superblock that names it are durable. Invariant: a slot's promise never goes back.

use crate::planted::{Bug, is_planted};
use std::collections::BTreeMap;
use tiderace_base::ids::SlotId;
use tiderace_base::position::{Epoch, Lsn};
use tiderace_wire::entry::Seal;

#[derive(Clone, Copy, Debug)]
struct Kept {
    seal: Seal,
    /// The end of its entry and the superblock that it waits for; none: it was told of, or comes from an earlier run.
    waits: Option<(Lsn, u64)>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Seals {
    by_slot: BTreeMap<SlotId, Kept>,
    waiting: usize,
}

impl Seals {
    /// As the superblock has them.
    pub(crate) fn new(rows: impl Iterator<Item = Seal>) -> Self {
        let mut seals = Self::default();
        for seal in rows.filter(|_| !is_planted(Bug::ForgetSeal)) {
            seals.replay(seal);
        }
        seals
    }

    /// A seal that recovery read: the greatest counts.
    pub(crate) fn replay(&mut self, seal: Seal) {
        if self.epoch_of(seal.slot) < Some(seal.epoch) {
            self.by_slot.insert(seal.slot, Kept { seal, waits: None });
        }
    }

    pub(crate) fn epoch_of(&self, slot: SlotId) -> Option<Epoch> {
        Some(self.by_slot.get(&slot)?.seal.epoch)
    }

    /// A seal whose entry ends at `end` and that the superblock of this version names.
    pub(crate) fn take(&mut self, seal: Seal, end: Lsn, version: u64) {
        assert!(
            self.epoch_of(seal.slot) < Some(seal.epoch),
            "a promise never goes back"
        );
        let kept = Kept {
            seal,
            waits: Some((end, version)),
        };
        let before = self.by_slot.insert(seal.slot, kept);
        let was_waiting = before.is_some_and(|kept| kept.waits.is_some());
        self.waiting += usize::from(!was_waiting);
    }

    /// Those that became durable now.
    pub(crate) fn told(
        &mut self,
        durable: Lsn,
        is_durable: impl Fn(u64) -> bool,
    ) -> Vec<(SlotId, Epoch)> {
        if self.waiting == 0 {
            return Vec::new();
        }
        let mut told = Vec::new();
        for (slot, kept) in &mut self.by_slot {
            let is_named = |version| is_durable(version) || is_planted(Bug::TellSealEarly);
            let is_due = kept
                .waits
                .is_some_and(|(end, version)| end <= durable && is_named(version));
            if is_due {
                kept.waits = None;
                told.push((*slot, kept.seal.epoch));
            }
        }
        self.waiting -= told.len();
        told
    }

    /// The newest of each slot.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Seal> {
        self.by_slot.values().map(|kept| kept.seal)
    }
}
