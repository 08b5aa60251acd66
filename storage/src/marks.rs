//! Marks: what a recovery found out about a slot's copy on this disk that its peers must know before they count it. Kept
//! in the superblock, so that they survive restarts; cleared once the slot has caught up past them.

use tiderace_base::ids::SlotId;
use tiderace_base::limits::SLOTS;
use tiderace_base::position::{Epoch, Lsn, SlotSeq};

/// What is known about a slot's copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MarkKind {
    /// Bytes of it could not be read: it may lack anything.
    Suspect,
    /// Its tail was cut: it may lack what was written last and never acknowledged as durable.
    Cut,
}

/// A mark on one slot, or on all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    /// The slot; none: every slot of the journal.
    pub slot: Option<SlotId>,
    /// What happened to it.
    pub kind: MarkKind,
    /// The greatest (epoch, sequence) that it may have held; none: unknown.
    pub greatest: Option<(Epoch, SlotSeq)>,
    /// Where the journal ended when the mark was made.
    pub since_lsn: Lsn,
}

/// One mark of a kind for a slot: the greater, and none is greater than unknown.
pub(crate) fn put_mark(marks: &mut Vec<Mark>, mark: Mark) {
    let held = marks
        .iter_mut()
        .find(|it| it.slot == mark.slot && it.kind == mark.kind);
    match held {
        Some(held) => {
            held.greatest = match (held.greatest, mark.greatest) {
                (Some(a), Some(b)) => Some(a.max(b)),
                _ => None,
            };
            held.since_lsn = mark.since_lsn;
        }
        None => marks.push(mark),
    }
}

/// Takes a slot's marks. One on every slot stays for each of the others. J-67
pub(crate) fn clear_marks_of(marks: &mut Vec<Mark>, slot: SlotId) {
    let (every, mut rest): (Vec<Mark>, Vec<Mark>) =
        marks.drain(..).partition(|mark| mark.slot.is_none());
    rest.retain(|mark| mark.slot != Some(slot));
    for every in every {
        let mut has_own = vec![false; usize::from(SLOTS)];
        let own = rest.iter_mut().filter(|mark| mark.kind == every.kind);
        for mark in own {
            if let Some(slot) = mark.slot {
                has_own[usize::from(slot.get())] = true;
                let one = every.greatest.zip(mark.greatest);
                mark.greatest = one.map(|(a, b)| a.max(b));
                mark.since_lsn = mark.since_lsn.max(every.since_lsn);
            }
        }
        let others = (0..SLOTS).map(SlotId::new);
        let others = others.filter(|it| *it != slot && !has_own[usize::from(it.get())]);
        rest.extend(others.map(|slot| Mark {
            slot: Some(slot),
            ..every
        }));
    }
    *marks = rest;
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiderace_base::prng::Prng;

    /// What is known of a slot, of one kind: nothing, or how far at most.
    type Known = Option<Option<(Epoch, SlotSeq)>>;

    fn kind(n: usize) -> MarkKind {
        [MarkKind::Suspect, MarkKind::Cut][n]
    }

    fn said(marks: &[Mark], kind: MarkKind, slot: u16) -> Known {
        let own = marks.iter().filter(|mark| mark.kind == kind);
        let own = own.filter(|mark| mark.slot.is_none_or(|it| it.get() == slot));
        own.map(|mark| mark.greatest)
            .reduce(|a, b| a.zip(b).map(|(a, b)| a.max(b)))
    }

    // J-10, J-67
    #[test]
    fn marks_say_of_each_slot_what_a_row_for_each_would_say() {
        for seed in 0..40 {
            let mut prng = Prng::new(seed);
            let mut marks = Vec::new();
            let mut model: [Vec<Known>; 2] = [(); 2].map(|()| vec![None; usize::from(SLOTS)]);
            for _ in 0..60 {
                let slot = prng.below(4) as u16 * 300;
                if prng.chance(1, 3) {
                    clear_marks_of(&mut marks, SlotId::new(slot));
                    for kind in &mut model {
                        kind[usize::from(slot)] = None;
                    }
                } else {
                    let greatest = prng.chance(2, 3).then(|| {
                        let epoch = Epoch::new(prng.below(3) as u32);
                        (epoch, SlotSeq::new(prng.below(9)))
                    });
                    let is_every = prng.chance(1, 6);
                    let of = prng.below(2) as usize;
                    put_mark(
                        &mut marks,
                        Mark {
                            slot: (!is_every).then(|| SlotId::new(slot)),
                            kind: kind(of),
                            greatest,
                            since_lsn: Lsn::ZERO,
                        },
                    );
                    for n in 0..SLOTS {
                        if is_every || n == slot {
                            let held = &mut model[of][usize::from(n)];
                            *held = Some(match *held {
                                Some(held) => held.zip(greatest).map(|(a, b)| a.max(b)),
                                None => greatest,
                            });
                        }
                    }
                }
                for (of, slots) in model.iter().enumerate() {
                    for slot in [0, 1, 300, 600, 900, SLOTS - 1] {
                        let expected = slots[usize::from(slot)];
                        assert_eq!(said(&marks, kind(of), slot), expected, "seed {seed}");
                    }
                }
                assert!(
                    marks.len() <= 2 * (usize::from(SLOTS) + 1),
                    "rows are bounded"
                );
            }
        }
    }
}
