//! What truncations took (J-61, J-62). A truncation of a slot from a sequence on, written at a place of the log, is the
//! death of every entry of that slot with that sequence or a greater one that lies before the place, and of no other: what
//! the next leader gives the same sequences to lies behind it. So whether an entry lives is decided by its slot, its
//! sequence and where it lies, whatever an index, a footer or a checkpoint says.
//!
//! Invariant: of one slot's truncations each later one cuts from a greater sequence than those before. One that cuts from
//! the same or a lower sequence says all that they said.

use crate::index::SlotSpan;
use crate::planted::{Bug, is_planted};
use std::collections::{BTreeMap, BTreeSet};
use tiderace_base::ids::SlotId;
use tiderace_base::position::{Epoch, Lsn, SlotSeq};

/// Truncations that are kept of one slot.
pub(crate) const CUTS_PER_SLOT_MAX: usize = 256;

/// One truncation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cut {
    /// For which epoch.
    pub(crate) epoch: Epoch,
    /// From where on entries died.
    pub(crate) from: SlotSeq,
    /// Where its entry lies.
    pub(crate) at: Lsn,
    /// The lives in which dead entries may lie: the oldest, and that of its own entry.
    pub(crate) oldest: u64,
    pub(crate) life: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Cuts {
    by_slot: BTreeMap<SlotId, Vec<Cut>>,
    /// What the next checkpoint has to say anew.
    pub(crate) dirty: BTreeSet<(SlotId, Lsn)>,
}

impl Cuts {
    /// The first sequence of the slot of which every entry before `lsn` is dead; the greatest number when there is none.
    pub(crate) fn dead_from(&self, slot: SlotId, lsn: Lsn) -> SlotSeq {
        // The first one behind the place cuts lowest of all that are behind it.
        let cuts = self.by_slot.get(&slot);
        let cut = cuts.and_then(|cuts| cuts.get(cuts.partition_point(|cut| cut.at < lsn)));
        cut.map_or(SlotSeq::MAX, |cut| cut.from)
    }

    /// Whether the entry that begins at `lsn` is dead. Entries of this replica alone have no number, and do not die.
    pub(crate) fn is_dead(&self, slot: SlotId, seq: SlotSeq, lsn: Lsn) -> bool {
        if is_planted(Bug::ServeDead) {
            return false;
        }
        seq > SlotSeq::ZERO && seq >= self.dead_from(slot, lsn)
    }

    /// Whether another truncation of the slot can be kept.
    pub(crate) fn has_room(&self, slot: SlotId) -> bool {
        let cuts = self.by_slot.get(&slot);
        cuts.is_none_or(|cuts| cuts.len() < CUTS_PER_SLOT_MAX)
    }

    /// Takes a truncation. One that is known already, by itself or by what a later one says, changes nothing.
    pub(crate) fn take(&mut self, slot: SlotId, cut: Cut) {
        let cuts = self.by_slot.entry(slot).or_default();
        let place = cuts.partition_point(|it| it.at < cut.at);
        if let Some(later) = cuts.get_mut(place).filter(|it| it.from <= cut.from) {
            // The same one again is known better than a start that reads its entry can know it.
            if later.at != cut.at && cut.oldest < later.oldest {
                later.oldest = cut.oldest;
                self.dirty.insert((slot, later.at));
            }
            return;
        }
        let kept = cuts[..place].partition_point(|earlier| earlier.from < cut.from);
        let mut cut = cut;
        for said in cuts.drain(kept..place) {
            // What they killed is dead by this one's word, wherever it lies.
            cut.oldest = cut.oldest.min(said.oldest);
            self.dirty.insert((slot, said.at));
        }
        cuts.insert(kept, cut);
        self.dirty.insert((slot, cut.at));
        assert!(
            cuts.windows(2)
                .all(|pair| pair[0].at < pair[1].at && pair[0].from < pair[1].from),
            "a later truncation cuts from a greater sequence"
        );
    }

    /// Forgets the truncations of which no dead entry is left: what may lie in lives that are kept.
    pub(crate) fn forget(&mut self, is_any_kept: impl Fn(u64, u64) -> bool) {
        let is_any_kept = |oldest, life| {
            let oldest = if is_planted(Bug::ForgetCutEarly) {
                life
            } else {
                oldest
            };
            is_any_kept(oldest, life)
        };
        let dirty = &mut self.dirty;
        self.by_slot.retain(|slot, cuts| {
            cuts.retain(|cut| {
                let is_needed = is_any_kept(cut.oldest, cut.life);
                if !is_needed {
                    dirty.insert((*slot, cut.at));
                }
                is_needed
            });
            !cuts.is_empty()
        });
    }

    /// The truncation that was written there, if it still says something.
    pub(crate) fn get(&self, slot: SlotId, at: Lsn) -> Option<&Cut> {
        let cuts = self.by_slot.get(&slot)?;
        let place = cuts.binary_search_by_key(&at, |cut| cut.at).ok()?;
        Some(&cuts[place])
    }

    /// All of them, by slot, and by place in each.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SlotId, &Cut)> {
        let slots = self.by_slot.iter();
        slots.flat_map(|(slot, cuts)| cuts.iter().map(|cut| (*slot, cut)))
    }

    /// The newest of each slot.
    pub(crate) fn newest(&self) -> impl Iterator<Item = (SlotId, &Cut)> {
        let slots = self.by_slot.iter();
        slots.filter_map(|(slot, cuts)| Some((*slot, cuts.last()?)))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_slot.is_empty()
    }
}

/// The oldest life in which entries may lie that a truncation from `from` on takes. `lives` are the one of the truncation
/// and those before it, newest first, each with what lives there of the slot; not known: nothing is concluded, and 0 says
/// so. Stops at the first one that holds something that stays.
pub(crate) fn oldest_dead(
    from: SlotSeq,
    lives: impl Iterator<Item = (u64, Option<Option<SlotSpan>>)>,
) -> u64 {
    let mut oldest = None;
    for (life, span) in lives {
        let Some(span) = span else {
            return 0;
        };
        let newest = *oldest.get_or_insert(life);
        let Some(span) = span else {
            continue;
        };
        oldest = Some(if span.next_seq > from { life } else { newest });
        if span.first_seq < from {
            break;
        }
    }
    oldest.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiderace_base::prng::Prng;

    const SLOT: SlotId = SlotId::new(3);

    fn cut(from: u64, at: u64) -> Cut {
        Cut {
            epoch: Epoch::new(1),
            from: SlotSeq::new(from),
            at: Lsn::new(at),
            oldest: at / 100,
            life: at / 100,
        }
    }

    /// J-61: an entry is dead if and only if some truncation behind it cut at or below its sequence, in whatever order the
    /// truncations are learned, and however often.
    #[test]
    fn what_lives_is_what_no_truncation_behind_it_took() {
        for seed in 0..300 {
            let mut prng = Prng::new(seed);
            let mut all: Vec<Cut> = (0..prng.below(12))
                .map(|n| cut(prng.range(1, 30), 10 + n * 40))
                .collect();
            let mut cuts = Cuts::default();
            let mut learned = all.clone();
            for n in (1..learned.len()).rev() {
                learned.swap(n, prng.below(n as u64 + 1) as usize);
            }
            learned.extend_from_within(..learned.len() / 2);
            for it in &learned {
                cuts.take(SLOT, *it);
            }
            for seq in 0..32 {
                for lsn in (0..600).step_by(7) {
                    let expected = seq > 0
                        && all
                            .iter()
                            .any(|it| it.at.get() >= lsn && it.from.get() <= seq);
                    assert_eq!(
                        cuts.is_dead(SLOT, SlotSeq::new(seq), Lsn::new(lsn)),
                        expected,
                        "seed {seed}: {seq} at {lsn}"
                    );
                    assert!(!cuts.is_dead(SlotId::new(4), SlotSeq::new(seq), Lsn::new(lsn)));
                }
            }
            // What is kept of them says the same again.
            let kept: Vec<(SlotId, Cut)> = cuts.iter().map(|(slot, it)| (slot, *it)).collect();
            for (slot, it) in &kept {
                assert_eq!(cuts.get(*slot, it.at), Some(it));
            }
            // Everything before this life is released, and nothing dead is left there.
            let released = prng.below(7);
            cuts.forget(|_, life| life >= released);
            all.retain(|it| it.life >= released);
            assert!(cuts.iter().all(|(_, it)| it.life >= released));
            for (_, it) in kept.iter().filter(|(_, it)| it.life < released) {
                assert!(cuts.dirty.contains(&(SLOT, it.at)), "seed {seed}");
            }
        }
    }

    #[test]
    fn a_lower_truncation_takes_over_what_the_one_before_it_reached() {
        let mut cuts = Cuts::default();
        cuts.take(SLOT, cut(20, 100));
        cuts.take(SLOT, cut(10, 500));
        let kept: Vec<Cut> = cuts.iter().map(|(_, it)| *it).collect();
        assert_eq!(
            kept,
            [Cut {
                oldest: 1,
                ..cut(10, 500)
            }]
        );
        assert!(cuts.get(SLOT, Lsn::new(100)).is_none());
        assert!(cuts.dirty.contains(&(SLOT, Lsn::new(100))), "its cell goes");
    }
}
