//! who counts among the sealed, and who wins. Each test is a set of answers and the one conclusion that they allow:
//! a winner, more answers, all of them, or nothing but the lossy kind.

use super::{end, epoch, member, set};
use crate::lease::waited_ns;
use crate::{Choice, End, Marks, Reach, SealAnswer, Winner, choose, choose_lossy};
use tiderace_base::ids::{BootId, DiskId};
use tiderace_base::limits::SLOT_LEASE_NS_MAX;

fn answer(node: u64, held: End) -> SealAnswer {
    SealAnswer {
        member: member(node),
        epoch: epoch(9),
        held,
        flushed: held.seq,
        marks: Marks::default(),
        lease_left_ns: 0,
    }
}

fn cut(node: u64, held: End, reach: Reach) -> SealAnswer {
    SealAnswer {
        marks: Marks {
            suspect: false,
            cut: Some(reach),
        },
        ..answer(node, held)
    }
}

fn suspect(node: u64, held: End) -> SealAnswer {
    SealAnswer {
        marks: Marks {
            suspect: true,
            cut: None,
        },
        ..answer(node, held)
    }
}

fn winner(node: u64, held: End) -> Choice {
    Choice::Winner(Winner {
        member: member(node),
        held,
        wait_ns: 0,
    })
}

fn chosen(answers: &[SealAnswer]) -> Choice {
    choose(&set(&[1, 2, 3], 2), epoch(9), answers)
}

///
#[test]
fn the_greatest_end_of_r_answers_wins_and_epochs_come_first() {
    assert_eq!(
        chosen(&[]),
        Choice::NeedsMore {
            counted: 0,
            needed: 2
        }
    );
    assert_eq!(
        chosen(&[answer(1, end(1, 90))]),
        Choice::NeedsMore {
            counted: 1,
            needed: 2
        }
    );
    assert_eq!(
        chosen(&[answer(1, end(1, 90)), answer(2, end(2, 4))]),
        winner(2, end(2, 4))
    );
    let twice = [answer(1, end(1, 90)), answer(1, end(1, 90))];
    assert_eq!(
        chosen(&twice),
        Choice::NeedsMore {
            counted: 1,
            needed: 2
        },
        "a member answers once"
    );
}

///
#[test]
fn who_is_no_member_on_this_disk_and_in_this_boot_is_not_heard() {
    let mut wiped = answer(2, end(2, 4));
    wiped.member.disk = DiskId::new(9);
    let mut restarted = answer(3, end(2, 4));
    restarted.member.boot = BootId::new(9);
    let answers = [
        answer(1, end(1, 90)),
        wiped,
        restarted,
        answer(4, end(7, 7)),
    ];
    assert_eq!(
        chosen(&answers),
        Choice::NeedsMore {
            counted: 1,
            needed: 2
        }
    );
}

///
#[test]
fn a_greater_promise_outruns_the_election_and_a_smaller_one_is_no_answer() {
    let mut outrun = answer(2, end(2, 4));
    outrun.epoch = epoch(12);
    assert_eq!(
        chosen(&[answer(1, end(1, 1)), outrun]),
        Choice::Outrun {
            promised: epoch(12)
        }
    );
    let mut late = answer(2, end(2, 4));
    late.epoch = epoch(8);
    assert_eq!(
        chosen(&[answer(1, end(1, 1)), late]),
        Choice::NeedsMore {
            counted: 1,
            needed: 2
        }
    );
}

///
#[test]
fn a_cut_copy_counts_when_the_winner_reaches_what_it_may_have_held() {
    let reached = cut(2, end(1, 3), Reach::Known(end(1, 5)));
    assert_eq!(
        chosen(&[answer(1, end(1, 5)), reached]),
        winner(1, end(1, 5))
    );
    let not_reached = cut(2, end(1, 3), Reach::Known(end(1, 6)));
    let two = [answer(1, end(1, 5)), not_reached];
    assert_eq!(
        chosen(&two),
        Choice::NeedsMore {
            counted: 1,
            needed: 2
        }
    );
    let by_epoch = cut(2, end(1, 3), Reach::Known(end(1, 600)));
    assert_eq!(
        chosen(&[answer(1, end(2, 5)), by_epoch]),
        winner(1, end(2, 5))
    );
    // Its own end may be the one that others are measured by.
    let both = [
        cut(1, end(1, 5), Reach::Known(end(1, 5))),
        cut(2, end(1, 3), Reach::Known(end(1, 5))),
    ];
    assert_eq!(chosen(&both), winner(1, end(1, 5)));
}

/// power lost everywhere.
#[test]
fn unknown_is_reached_by_nothing_but_by_all_n() {
    let unknown = |node, seq| cut(node, end(1, seq), Reach::Unknown);
    assert_eq!(
        chosen(&[unknown(1, 5), unknown(2, 4)]),
        Choice::NeedsAll { missing: 1 }
    );
    assert_eq!(
        chosen(&[unknown(1, 5), unknown(2, 4), unknown(3, 6)]),
        winner(3, end(1, 6))
    );
    let three = [unknown(1, 5), unknown(2, 4), suspect(3, end(1, 6))];
    assert_eq!(chosen(&three), Choice::LossyOnly);
    let one_sound = [unknown(1, 5), answer(2, end(1, 4))];
    assert_eq!(
        chosen(&one_sound),
        Choice::NeedsMore {
            counted: 1,
            needed: 2
        }
    );
}

///
#[test]
fn a_suspect_copy_neither_counts_nor_wins() {
    let two = [answer(1, end(1, 5)), suspect(2, end(1, 9))];
    assert_eq!(
        chosen(&two),
        Choice::NeedsMore {
            counted: 1,
            needed: 2
        }
    );
    let three = [
        answer(1, end(1, 5)),
        suspect(2, end(1, 9)),
        answer(3, end(1, 4)),
    ];
    assert_eq!(chosen(&three), winner(1, end(1, 5)));
    let gone = [
        answer(1, end(1, 5)),
        suspect(2, end(1, 9)),
        suspect(3, end(1, 4)),
    ];
    assert_eq!(chosen(&gone), Choice::LossyOnly);
    assert_eq!(
        chosen(&[suspect(2, end(1, 9))]),
        Choice::NeedsMore {
            counted: 0,
            needed: 2
        }
    );
}

///
#[test]
fn the_winner_waits_for_the_greatest_rest_of_a_lease() {
    let mut granted = answer(1, end(1, 1));
    granted.lease_left_ns = 700;
    let Choice::Winner(won) = chosen(&[granted, answer(2, end(1, 5))]) else {
        panic!("two answers are enough");
    };
    assert_eq!((won.member, won.wait_ns), (member(2), 714));
    // Where W is 1 all have to answer; without the leader only the lossy kind is left, and it waits for a whole lease.
    let alone = set(&[1, 2], 1);
    assert_eq!(
        choose(&alone, epoch(9), &[answer(2, end(1, 5))]),
        Choice::NeedsMore {
            counted: 1,
            needed: 2
        }
    );
    let lossy = choose_lossy(&alone, epoch(9), &[answer(2, end(1, 5))]).expect("somebody answered");
    assert_eq!(
        (lossy.member, lossy.wait_ns),
        (member(2), waited_ns(SLOT_LEASE_NS_MAX))
    );
    assert_eq!(choose_lossy(&alone, epoch(9), &[]), None);
    assert_eq!(
        choose_lossy(&alone, epoch(8), &[answer(2, end(1, 5))]),
        None,
        "outrun"
    );
}
