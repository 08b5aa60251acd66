//! The choice of a leader: which of the sealed members leads, given what they answered, or what is missing. Pure: control
//! asks, collects and proposes; the rules of who counts stand here.
//!
//! Refuses to choose before R answers count, unless all N members answered and none is suspect. Invariants: the winner's
//! end is the greatest of all that are not suspect, so no answer that counts knows more than the winner; a member's
//! answer counts for the disk and the boot that the catalogue has, and once.

use crate::configuration::{Configuration, Member};
use crate::copy::{End, Reach};
use crate::lease::waited_ns;
use crate::planted::{Bug, is_planted};
use crate::seal::SealAnswer;
use tiderace_base::limits::SLOT_LEASE_NS_MAX;
use tiderace_base::position::Epoch;

/// Who leads, and what it has to wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Winner {
    /// The member. `SlotLed` names its boot, and is refused when the node has started again since.
    pub member: Member,
    /// What it holds.
    pub held: End,
    /// It exposes nothing before this has passed on its own clock, from when it learns that it leads.
    pub wait_ns: u64,
}

/// What the answers allow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Choice {
    /// Propose `SlotLed` for this one.
    Winner(Winner),
    /// A member promised a greater epoch already, and would refuse this one: seal again above it.
    Outrun {
        /// The greatest promise heard of.
        promised: Epoch,
    },
    /// Wait for more answers.
    NeedsMore {
        /// How many answers count.
        counted: usize,
        /// R.
        needed: usize,
    },
    /// So many copies are damaged that only the answers of all members can show that nothing is missing: wait for those
    /// that have not answered.
    NeedsAll {
        /// How many have not answered.
        missing: usize,
    },
    /// No answer that may still come allows a choice without a declared loss: ask the operator, [`choose_lossy`].
    LossyOnly,
}

/// Whether an answer counts toward R when the winner ends at `winner`.
fn counts(answer: &SealAnswer, winner: End) -> bool {
    let is_covered = match answer.marks.cut {
        Some(reach) => reach.is_reached_by(winner),
        None => true,
    };
    !answer.marks.suspect && (is_covered || is_planted(Bug::CountCut))
}

/// The answers of members, each once: the first of each. Who is no member, on its disk and in its boot, is not heard.
fn heard<'a>(
    configuration: &'a Configuration,
    answers: &'a [SealAnswer],
) -> impl Iterator<Item = &'a SealAnswer> + Clone {
    answers.iter().enumerate().filter_map(move |(at, answer)| {
        let is_member = if is_planted(Bug::CountByNode) {
            configuration.index_of_node(answer.member.node).is_some()
        } else {
            configuration.index_of(&answer.member).is_some()
        };
        let mut earlier = answers[..at].iter();
        let is_first = !earlier.any(|other| other.member.node == answer.member.node);
        (is_member && is_first).then_some(answer)
    })
}

/// Chooses among the members of `configuration` that were sealed for `epoch`.
#[must_use]
pub fn choose(configuration: &Configuration, epoch: Epoch, answers: &[SealAnswer]) -> Choice {
    let answers = heard(configuration, answers);
    let members = configuration.members().len();
    let needed = configuration.sealing();
    let promised = answers.clone().map(|answer| answer.epoch).max();
    if let Some(promised) = promised.filter(|promised| *promised > epoch) {
        return Choice::Outrun { promised };
    }
    // An answer to an older ask promises too little.
    let sealed = answers.filter(|answer| answer.epoch == epoch);
    let answered = sealed.clone().count();
    assert!(answered <= members, "every member answers once");
    let missing = members - answered;
    let has_suspect = sealed.clone().any(|answer| answer.marks.suspect);
    let best = sealed
        .clone()
        .filter(|answer| !answer.marks.suspect)
        .max_by_key(|answer| answer.held);
    let Some(best) = best else {
        return if missing == 0 {
            Choice::LossyOnly
        } else {
            Choice::NeedsMore { counted: 0, needed }
        };
    };
    let counted = sealed
        .clone()
        .filter(|answer| counts(answer, best.held))
        .count();
    let has_all = missing == 0 && !has_suspect;
    if counted >= needed || has_all {
        let left_ns = sealed.map(|answer| answer.lease_left_ns).max();
        return Choice::Winner(Winner {
            member: best.member,
            held: best.held,
            wait_ns: waited_ns(left_ns.expect("somebody won")),
        });
    }
    // A winner that is yet to answer may reach what a cut copy may have held.
    let reachable = |answer: &&SealAnswer| matches!(answer.marks.cut, Some(Reach::Known(_)));
    let may_count = sealed
        .filter(|answer| !answer.marks.suspect)
        .filter(|answer| counts(answer, best.held) || (missing > 0 && reachable(answer)))
        .count();
    if may_count + missing >= needed && missing > 0 {
        Choice::NeedsMore { counted, needed }
    } else if missing > 0 && !has_suspect {
        Choice::NeedsAll { missing }
    } else {
        Choice::LossyOnly
    }
}

/// The declared, counted and logged lossy kind: the greatest end of whoever answered, damaged or not, after the longest
/// lease that anybody may hold. Call it when the death of those that do not answer is committed. `None` when nobody
/// answered, or somebody promised more.
#[must_use]
pub fn choose_lossy(
    configuration: &Configuration,
    epoch: Epoch,
    answers: &[SealAnswer],
) -> Option<Winner> {
    let answers = heard(configuration, answers);
    if answers.clone().any(|answer| answer.epoch > epoch) {
        return None;
    }
    let sealed = answers.filter(|answer| answer.epoch == epoch);
    // What a suspect copy holds is less certain than the same end on a sound one.
    let best = sealed.max_by_key(|answer| (answer.held, !answer.marks.suspect))?;
    Some(Winner {
        member: best.member,
        held: best.held,
        wait_ns: if is_planted(Bug::ForgetLeaseOfOne) {
            0
        } else {
            waited_ns(SLOT_LEASE_NS_MAX)
        },
    })
}
