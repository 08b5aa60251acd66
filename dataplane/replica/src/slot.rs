//! One slot of a zone of one node, as its only replica sees it: the greatest (epoch, sequence) held, the map of epochs,
//! and whether this replica leads. Invariants: sequences are dense; an epoch is never resumed; nothing is placed under an epoch before its
//! epoch-start entry is.

use crate::EpochMap;
use tiderace_base::planted::{Bug, is_planted};
use tiderace_base::position::{Epoch, SlotSeq};

/// Whether this replica leads its slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotState {
    /// It does not lead: nothing may be placed.
    Idle,
    /// It was given this epoch, whose epoch-start entry is not placed yet: only that entry may be.
    Chosen(Epoch),
    /// It leads under this epoch.
    Leading(Epoch),
}

/// Why a replica may not lead under an epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeadRefused {
    /// The epoch is not newer than one that the slot has seen.
    Stale {
        /// The newest epoch seen.
        seen: Epoch,
    },
}

/// One slot of one replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Slot {
    epochs: EpochMap<SlotSeq>,
    end: SlotSeq,
    state: SlotState,
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            epochs: EpochMap::default(),
            end: SlotSeq::ZERO,
            state: SlotState::Idle,
        }
    }
}

impl Slot {
    /// A slot as a checkpoint kept it; `None` when what was kept contradicts itself.
    #[must_use]
    pub fn restored(starts: &[(Epoch, SlotSeq)], end: SlotSeq) -> Option<Self> {
        let epochs = EpochMap::restored(starts)?;
        if starts.last().is_some_and(|(_, start)| *start > end) {
            return None;
        }
        Some(Self {
            epochs,
            end,
            state: SlotState::Idle,
        })
    }

    /// Where each epoch of the slot began.
    #[must_use]
    pub fn epochs(&self) -> &EpochMap<SlotSeq> {
        &self.epochs
    }

    /// Takes an entry that recovery found.
    ///
    /// # Panics
    /// When it is not the next of its slot: recovery replays in order, from a checkpoint that is no newer.
    pub fn replay(&mut self, epoch: Epoch, seq: SlotSeq) {
        assert_eq!(seq, self.end.advance(1), "a slot's sequence is dense");
        self.epochs.note(epoch, seq);
        self.end = seq;
    }

    /// The last sequence placed; zero when none was.
    #[must_use]
    pub fn end(&self) -> SlotSeq {
        self.end
    }

    /// The newest epoch of which an entry is held.
    #[must_use]
    pub fn last_epoch(&self) -> Epoch {
        self.epochs.last()
    }

    /// Whether this replica leads.
    #[must_use]
    pub fn state(&self) -> SlotState {
        self.state
    }

    /// The catalogue committed that this replica leads the slot under `epoch`.
    ///
    /// # Errors
    /// When the epoch is not newer than all that the slot has seen: an epoch is never resumed.
    pub fn choose(&mut self, epoch: Epoch) -> Result<(), LeadRefused> {
        let seen = match self.state {
            SlotState::Idle => self.epochs.last(),
            SlotState::Chosen(epoch) | SlotState::Leading(epoch) => epoch,
        };
        if epoch <= seen {
            return Err(LeadRefused::Stale { seen });
        }
        self.state = SlotState::Chosen(epoch);
        Ok(())
    }

    /// The place of the epoch-start entry.
    ///
    /// # Panics
    /// When no epoch waits to be started.
    pub fn start_epoch(&mut self) -> (Epoch, SlotSeq) {
        let SlotState::Chosen(epoch) = self.state else {
            panic!("no epoch waits to be started")
        };
        let epoch = match self.last_epoch() {
            old if is_planted(Bug::ResumeOldEpoch) && old > Epoch::ZERO => old,
            _ => epoch,
        };
        self.state = SlotState::Leading(epoch);
        let seq = self.end.advance(1);
        self.epochs.note(epoch, seq);
        self.end = seq;
        (epoch, seq)
    }

    /// The place of the next entry, not taken yet; `None` while this replica does not lead.
    #[must_use]
    pub fn next_place(&self) -> Option<(Epoch, SlotSeq)> {
        match self.state {
            SlotState::Leading(epoch) => Some((epoch, self.end.advance(1))),
            SlotState::Idle | SlotState::Chosen(_) => None,
        }
    }

    /// Takes the place that [`Slot::next_place`] named: its entry was placed.
    ///
    /// # Panics
    /// When it is another place.
    pub fn placed(&mut self, seq: SlotSeq) {
        assert!(
            matches!(self.state, SlotState::Leading(_)),
            "only a leader places"
        );
        assert_eq!(seq, self.end.advance(1), "a slot's sequence is dense");
        self.end = seq;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_never_resumed() {
        let mut slot =
            Slot::restored(&[(Epoch::new(7), SlotSeq::new(12))], SlotSeq::new(40)).expect("rising");
        assert_eq!(
            slot.choose(Epoch::new(7)),
            Err(LeadRefused::Stale {
                seen: Epoch::new(7)
            })
        );
        assert_eq!(
            slot.choose(Epoch::new(6)),
            Err(LeadRefused::Stale {
                seen: Epoch::new(7)
            })
        );
        assert_eq!(slot.next_place(), None);
        slot.choose(Epoch::new(9)).expect("newer");
        assert_eq!(
            slot.next_place(),
            None,
            "nothing is placed before the epoch-start"
        );
        assert_eq!(slot.start_epoch(), (Epoch::new(9), SlotSeq::new(41)));
        assert_eq!(slot.next_place(), Some((Epoch::new(9), SlotSeq::new(42))));
        slot.placed(SlotSeq::new(42));
        assert_eq!(
            slot.choose(Epoch::new(9)),
            Err(LeadRefused::Stale {
                seen: Epoch::new(9)
            })
        );
    }
}
