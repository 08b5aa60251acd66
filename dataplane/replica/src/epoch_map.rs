//! Where each epoch of a sequence began, which is what two copies are compared by. Bounded: when it is full, the
//! oldest epoch kept answers for the one that goes, and nothing is concluded about entries that may lie in a folded one.
//! Invariant: epochs rise strictly, positions do not go back.

use tiderace_base::limits::EPOCHS_KEPT_MAX;
use tiderace_base::position::Epoch;

/// Where each epoch of a sequence began. `P` is the sequence's position: a slot sequence or an offset.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EpochMap<P> {
    starts: Vec<(Epoch, P)>,
}

impl<P> Default for EpochMap<P> {
    fn default() -> Self {
        Self { starts: Vec::new() }
    }
}

impl<P: Copy + Ord> EpochMap<P> {
    /// Notes that the entry at `start` carries `epoch`. Only the first entry of an epoch is kept.
    ///
    /// # Panics
    /// When the epoch or the position goes back: a caller that lets that happen has lost its fence.
    pub fn note(&mut self, epoch: Epoch, start: P) {
        if let Some((last, at)) = self.starts.last() {
            assert!(epoch >= *last, "an epoch went back");
            assert!(start >= *at, "a position went back");
            if epoch == *last {
                return;
            }
        }
        self.starts.push((epoch, start));
        if self.starts.len() > EPOCHS_KEPT_MAX {
            // The oldest one kept answers for the one that goes.
            self.starts.remove(1);
        }
    }

    /// A map as a checkpoint kept it; `None` when it goes back anywhere or is longer than any map.
    #[must_use]
    pub fn restored(starts: &[(Epoch, P)]) -> Option<Self> {
        let rising = starts
            .windows(2)
            .all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
        (rising && starts.len() <= EPOCHS_KEPT_MAX).then(|| Self {
            starts: starts.to_vec(),
        })
    }

    /// The newest epoch, or the zero epoch when nothing was noted.
    #[must_use]
    pub fn last(&self) -> Epoch {
        self.starts.last().map_or(Epoch::ZERO, |(epoch, _)| *epoch)
    }

    /// Where the history of `epoch` ends: the start of the next epoch that is known, or `end` when there is none. The
    /// epoch answered for is the newest one that is not above `epoch`; `None` when all that are known are above it.
    #[must_use]
    pub fn end_of(&self, epoch: Epoch, end: P) -> Option<(Epoch, P)> {
        let above = self
            .starts
            .partition_point(|(started, _)| *started <= epoch);
        let (answered, _) = self.starts.get(above.checked_sub(1)?)?;
        let until = self.starts.get(above).map_or(end, |(_, start)| *start);
        Some((*answered, until))
    }

    /// The epoch of the entry at `position`, which the caller knows to be held. `None` when it lies before all that is
    /// known, or among epochs that may have been folded into one.
    #[must_use]
    pub fn epoch_at(&self, position: P) -> Option<Epoch> {
        let until = self.starts.partition_point(|(_, start)| *start <= position);
        let at = until.checked_sub(1)?;
        let may_be_folded = at == 0 && self.starts.len() == EPOCHS_KEPT_MAX;
        (!may_be_folded).then(|| self.starts[at].0)
    }

    /// Where the first epoch above `epoch` begins; `None` when there is none.
    #[must_use]
    pub fn start_above(&self, epoch: Epoch) -> Option<P> {
        let above = self
            .starts
            .partition_point(|(started, _)| *started <= epoch);
        self.starts.get(above).map(|(_, start)| *start)
    }

    /// Where `epoch` begins; `None` when nothing of it is held.
    #[must_use]
    pub fn start_of(&self, epoch: Epoch) -> Option<P> {
        let at = self
            .starts
            .binary_search_by_key(&epoch, |(started, _)| *started)
            .ok()?;
        Some(self.starts[at].1)
    }

    /// Forgets every epoch that begins at `from` or behind it: those entries are cut.
    pub fn truncate(&mut self, from: P) {
        let kept = self.starts.partition_point(|(_, start)| *start < from);
        self.starts.truncate(kept);
    }

    /// Every epoch with its start, oldest first.
    #[must_use]
    pub fn starts(&self) -> &[(Epoch, P)] {
        &self.starts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epoch_map_says_where_an_epoch_ended() {
        let mut map = EpochMap::default();
        for (epoch, start) in [(3, 0_u64), (3, 5), (8, 10), (9, 30)] {
            map.note(Epoch::new(epoch), start);
        }
        assert_eq!(map.end_of(Epoch::new(2), 50), None);
        assert_eq!(map.end_of(Epoch::new(3), 50), Some((Epoch::new(3), 10)));
        assert_eq!(map.end_of(Epoch::new(7), 50), Some((Epoch::new(3), 10)));
        assert_eq!(map.end_of(Epoch::new(8), 50), Some((Epoch::new(8), 30)));
        assert_eq!(map.end_of(Epoch::new(99), 50), Some((Epoch::new(9), 50)));
    }

    #[test]
    fn the_epoch_map_is_bounded() {
        let mut map = EpochMap::default();
        for epoch in 1..1000 {
            map.note(Epoch::new(epoch), u64::from(epoch));
        }
        assert_eq!(map.starts().len(), EPOCHS_KEPT_MAX);
        assert_eq!(
            map.end_of(Epoch::new(5), 5000).map(|(epoch, _)| epoch),
            Some(Epoch::new(1)),
            "an old epoch is folded into the oldest"
        );
    }

    /// a map is bounded, and what may have been folded is not answered for.
    #[test]
    fn an_entry_among_folded_epochs_has_no_epoch() {
        let mut map = EpochMap::default();
        for epoch in 1..=64 {
            map.note(Epoch::new(epoch), u64::from(epoch) * 10);
        }
        assert_eq!(map.epoch_at(9), None, "before all that is known");
        assert_eq!(
            map.epoch_at(15),
            None,
            "the first of a full map may be folded"
        );
        assert_eq!(map.epoch_at(20), Some(Epoch::new(2)));
        assert_eq!(map.epoch_at(29), Some(Epoch::new(2)));
        assert_eq!(map.epoch_at(9999), Some(Epoch::new(64)));
    }

    ///
    #[test]
    fn a_cut_forgets_the_epochs_behind_it() {
        let mut map = EpochMap::default();
        for (epoch, start) in [(3, 1_u64), (8, 10), (9, 30)] {
            map.note(Epoch::new(epoch), start);
        }
        assert_eq!(map.start_above(Epoch::new(3)), Some(10));
        assert_eq!(map.start_above(Epoch::new(9)), None);
        assert_eq!(map.start_of(Epoch::new(8)), Some(10));
        assert_eq!(map.start_of(Epoch::new(7)), None);
        map.truncate(31);
        assert_eq!(map.last(), Epoch::new(9), "its start is kept");
        map.truncate(30);
        assert_eq!(map.last(), Epoch::new(8));
        map.truncate(1);
        assert_eq!(map.last(), Epoch::ZERO);
    }
}
