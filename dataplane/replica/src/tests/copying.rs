//! What a copy holds: density, lives of a log that truncations end, replay behind unreadable bytes, and when marks go.

use super::{copy, end, epoch, follower, given, seq, set, started};
use crate::{EpochMap, Marks, Reach, Replayed, Shipment, SlotCopy};
use tiderace_base::position::Epoch;

/// two entries stood at one sequence; the first one's completion says nothing about the second.
#[test]
pub(crate) fn a_completion_of_what_was_cut_says_nothing_about_what_replaced_it() {
    let mut held = copy(&[(1, 4)]);
    let old = held.append(epoch(1), seq(5));
    held.owe_truncation(epoch(3), seq(3))
        .expect("not committed");
    let cut = held.truncated(seq(3));
    held.append(epoch(1), seq(3));
    held.append(epoch(1), seq(4));
    held.append(epoch(1), seq(5));
    held.became_durable(old);
    assert_eq!(
        held.durable(),
        seq(2),
        "the truncation stands behind it in the journal"
    );
    held.became_durable(cut);
    assert_eq!(held.durable(), seq(2));
    held.became_durable(held.written());
    assert_eq!(held.durable(), seq(5));
}

///
#[test]
fn what_is_committed_is_never_cut_and_the_copy_is_out_of_use_for_ever() {
    let mut held = copy(&[(1, 5)]);
    held.commit(seq(4));
    let quarantine = held
        .owe_truncation(epoch(2), seq(4))
        .expect_err("4 is committed");
    assert_eq!(quarantine.committed, seq(4));
    assert_eq!(held.quarantine(), Some(quarantine));
    assert_eq!(held.owed_truncation(), None);
    assert_eq!(held.end(), seq(5), "nothing was cut");
    assert!(
        crate::Follower::follow(&mut held, epoch(9), super::member(1), super::member(2)).is_err()
    );
    assert!(held.seal_answer(super::member(2), 0).is_none());
}

#[test]
#[should_panic(expected = "before what is owed is cut")]
fn nothing_is_appended_before_what_is_owed_is_cut() {
    let mut held = copy(&[(1, 5)]);
    held.owe_truncation(epoch(2), seq(4))
        .expect("not committed");
    held.append(epoch(2), seq(6));
}

/// unreadable bytes may hold a truncation and other entries. A number that fits proves nothing.
#[test]
pub(crate) fn behind_unreadable_bytes_only_the_same_epoch_goes_on() {
    // Written: 1..=10 of epoch 1, a truncation from 8, 8..=11 of epoch 2. Not readable: from the truncation to (2, 10).
    let mut held = copy(&[(1, 10)]);
    held.replay_damage();
    assert_eq!(held.replay(epoch(2), seq(11)), Replayed::Dropped);
    held.recovered(
        Marks {
            suspect: true,
            cut: None,
        },
        epoch(2),
    );
    assert_eq!(held.held(), end(1, 10));
    assert_eq!(
        held.owed_truncation(),
        Some(seq(11)),
        "the next recovery must not take it up"
    );
    held.truncated(seq(11));
    // Where only another slot's entries were unreadable, the epoch goes on.
    let mut held = copy(&[(1, 10)]);
    held.replay_damage();
    assert_eq!(held.replay(epoch(1), seq(11)), Replayed::Taken);
    assert_eq!(held.replay(epoch(1), seq(13)), Replayed::Dropped, "a hole");
    // What was written by a copy that knew of the damage is taken as it stands.
    held.replay_restart();
    assert_eq!(held.replay(epoch(4), seq(12)), Replayed::Taken);
    held.recovered(
        Marks {
            suspect: true,
            cut: None,
        },
        epoch(4),
    );
    assert_eq!(held.owed_truncation(), None);
}

fn shipment(of: u32, after: crate::End, committed: u64) -> Shipment {
    Shipment {
        epoch: epoch(of),
        boot: super::member(1).boot,
        after,
        leader_end: seq(committed.max(after.seq.get())),
        committed: seq(committed),
    }
}

/// a mark goes when an epoch-start that was committed after it is on this disk: not of an epoch that was given
/// before the mark was made, not before it is committed, not before it is durable here.
#[test]
pub(crate) fn a_mark_goes_with_an_epoch_start_that_was_committed_after_it() {
    let marks = Marks {
        suspect: true,
        cut: Some(Reach::Unknown),
    };
    for (of, committed, durable, goes) in [
        (5, 3, true, false),
        (6, 2, true, false),
        (6, 3, false, false),
        (6, 3, true, true),
    ] {
        let mut held = copy(&[(1, 2)]);
        held.recovered(marks, epoch(5));
        let mut follower = follower(&mut held, of);
        let shipped = shipment(of, end(1, 2), committed);
        follower.admit(&held, &shipped).expect("it continues");
        follower
            .entry(&mut held, epoch(of), seq(3))
            .expect("it is next");
        if durable {
            held.became_durable(held.written());
        }
        assert_eq!(
            follower.committed(&mut held, &shipped),
            goes,
            "{of} {committed} {durable}"
        );
        assert_eq!(held.marks().is_none(), goes);
        // Durable last is as good.
        held.became_durable(held.written());
        let late = follower.became_durable(&mut held);
        assert_eq!(late, !goes && of == 6 && committed == 3);
    }
}

/// where the suspect copy is needed for W, its mark could never go if it had to wait for the commit. It counts
/// once it has, durably, all of an epoch that was given after the mark.
#[test]
fn a_suspect_copy_counts_when_it_is_whole_again() {
    let mut held = copy(&[(1, 2)]);
    held.recovered(
        Marks {
            suspect: true,
            cut: None,
        },
        epoch(5),
    );
    let mut follower = follower(&mut held, 6);
    follower
        .admit(&held, &shipment(6, end(1, 2), 0))
        .expect("it continues");
    assert_eq!(follower.ack(&held), None, "anything may be missing");
    follower
        .entry(&mut held, epoch(6), seq(3))
        .expect("it is next");
    assert_eq!(follower.ack(&held), None, "not durable");
    held.became_durable(held.written());
    assert_eq!(follower.ack(&held).map(|ack| ack.durable), Some(seq(3)));
    assert!(
        !held.marks().is_none(),
        "the mark stays until that is committed"
    );
    // Under the epoch in which it was marked it does not.
    let mut held = copy(&[(1, 2), (5, 3)]);
    held.recovered(
        Marks {
            suspect: true,
            cut: None,
        },
        epoch(5),
    );
    let mut follower = super::follower(&mut held, 5);
    follower
        .admit(&held, &shipment(5, end(5, 3), 3))
        .expect("it continues");
    assert_eq!(follower.ack(&held), None);
}

#[test]
fn a_snapshot_counts_for_nothing_before_it_is_whole() {
    let mut held = copy(&[(1, 2)]);
    held.recovered(Marks::default(), Epoch::ZERO);
    held.begin_snapshot();
    assert!(held.is_suspect());
    let mut epochs = EpochMap::default();
    epochs.note(epoch(1), seq(1));
    epochs.note(epoch(4), seq(30));
    held.finish_snapshot(epochs, seq(50));
    assert!(!held.is_suspect());
    assert_eq!(
        (held.held(), held.durable(), held.committed()),
        (end(4, 50), seq(50), seq(50))
    );
    assert_eq!(held.epoch_at(seq(50)), Some(epoch(4)));
    assert_eq!(
        held.epoch_at(seq(49)),
        None,
        "below the base there are no entries"
    );
    held.append(epoch(4), seq(51));
}

#[test]
fn a_checkpoint_that_contradicts_itself_is_refused() {
    let starts = [(epoch(1), seq(1)), (epoch(4), seq(30))];
    assert!(SlotCopy::restored(&starts, seq(5), seq(40), seq(20)).is_some());
    assert!(SlotCopy::restored(&starts, seq(21), seq(40), seq(20)).is_none());
    assert!(SlotCopy::restored(&starts, seq(0), seq(40), seq(41)).is_none());
    assert!(SlotCopy::restored(&starts, seq(0), seq(29), seq(20)).is_none());
    assert!(SlotCopy::restored(&[], seq(0), seq(4), seq(0)).is_none());
}

#[test]
fn only_what_is_committed_is_folded_below_the_base() {
    let mut held = copy(&[(1, 9)]);
    let mut leader = started(&mut held, &given(2, set(&[1], 1)));
    assert_eq!(
        leader.became_durable(&mut held),
        None,
        "it was counted when it started"
    );
    held.raise_base(seq(10));
    assert_eq!(held.base(), seq(10));
    let panics = std::panic::catch_unwind(move || held.raise_base(seq(11)));
    assert!(panics.is_err());
}
