//! a follower finds where the logs part, cuts there and nowhere else, and takes what continues its own log.

use super::{copy, end, epoch, follower, given, member, seq, set, started};
use crate::{
    Diverged, End, Fetch, FetchAnswer, FollowRefused, Leader, Parting, Shipment, SlotCopy, Taken,
};
use tiderace_base::ids::BootId;

fn shipment(of: u32, after: End) -> Shipment {
    Shipment {
        epoch: epoch(of),
        boot: member(1).boot,
        after,
        leader_end: seq(100),
        committed: seq(0),
    }
}

/// Asks and cuts until the leader ships; says what the copy is cut to, round by round.
fn cut_rounds(leader: &mut Leader, leads: &SlotCopy, mine: &mut SlotCopy) -> Vec<End> {
    let mut follower = follower(mine, leader.epoch().get());
    let mut rounds = Vec::new();
    loop {
        let fetch = follower.fetch(mine).expect("it asks");
        match leader.fetch(leads, &fetch) {
            FetchAnswer::Entries(shipment) => {
                follower.admit(mine, &shipment).expect("it continues");
                assert!(follower.is_matched());
                return rounds;
            }
            FetchAnswer::Diverged(diverged) => {
                let Parting::Cut { from, .. } = follower.diverged(mine, &diverged) else {
                    panic!("it has to be cut");
                };
                assert_eq!(
                    follower.fetch(mine),
                    None,
                    "it is cut before anything is asked"
                );
                mine.truncated(from);
                rounds.push(mine.held());
            }
            other => panic!("{other:?}"),
        }
    }
}

/// the cases of figure 7 of Raft's paper, under the map: each round leaves an epoch behind.
#[test]
fn divergence_is_cut_by_the_epoch_map() {
    let log = [(1, 3), (4, 5), (5, 7), (6, 10)];
    for (held, rounds) in [
        (vec![(1, 3), (4, 5), (5, 7), (6, 9)], vec![]),
        (vec![(1, 3), (4, 4)], vec![]),
        (vec![], vec![]),
        (vec![(1, 3), (4, 5), (5, 7), (6, 11)], vec![end(6, 10)]),
        (
            vec![(1, 3), (4, 5), (5, 7), (6, 10), (7, 12)],
            vec![end(6, 10)],
        ),
        (vec![(1, 3), (4, 7)], vec![end(4, 5)]),
        (vec![(1, 3), (2, 6), (3, 11)], vec![end(1, 3)]),
        (vec![(2, 6), (3, 11)], vec![end(0, 0)]),
        (vec![(1, 2), (2, 6)], vec![end(1, 2)]),
    ] {
        let mut leads = copy(&log);
        let mut leader = started(&mut leads, &given(8, set(&[1, 2, 3], 2)));
        let mut mine = copy(&held);
        assert_eq!(
            cut_rounds(&mut leader, &leads, &mut mine),
            rounds,
            "{held:?}"
        );
    }
}

/// nothing is known of where an epoch ended that a full map may have folded.
#[test]
fn among_folded_epochs_there_is_only_a_snapshot() {
    let many: Vec<(u32, u64)> = (1..=70).map(|of| (of, u64::from(of) * 2)).collect();
    let mut leads = copy(&many);
    let mut leader = started(&mut leads, &given(90, set(&[1, 2, 3], 2)));
    let mut old = copy(&many[..3]);
    let fetch = follower(&mut old, 90).fetch(&old).expect("it asks");
    assert_eq!(
        leader.fetch(&leads, &fetch),
        FetchAnswer::Snapshot { base: seq(0) }
    );
    let mut recent = copy(&many[..60]);
    assert_eq!(cut_rounds(&mut leader, &leads, &mut recent), vec![]);
}

#[test]
fn below_the_base_there_is_only_a_snapshot() {
    let mut leads = copy(&[(1, 9)]);
    let mut leader = started(&mut leads, &given(2, set(&[1], 1)));
    leads.raise_base(seq(6));
    leader.set_committed(&mut leads, &set(&[1], 1));
    let mut other = set(&[1, 2], 1);
    other.note_boot(member(2).node, member(2).boot);
    let mut leader = Leader::chosen(&mut leads, &given(3, other), super::at(0)).expect("it may");
    for (held, is_snapshot) in [
        (end(1, 5), true),
        (end(1, 6), false),
        (end(1, 9), false),
        (end(0, 0), true),
    ] {
        let fetch = Fetch {
            epoch: epoch(3),
            member: member(2),
            held,
            durable: held.seq,
            marks: crate::Marks::default(),
        };
        let answer = leader.fetch(&leads, &fetch);
        assert_eq!(
            answer == FetchAnswer::Snapshot { base: seq(6) },
            is_snapshot,
            "{held:?} {answer:?}"
        );
    }
}

///
#[test]
fn below_the_committed_end_the_copy_is_quarantined_instead() {
    let mut mine = copy(&[(1, 5)]);
    mine.commit(seq(4));
    let mut follower = follower(&mut mine, 2);
    let diverged = Diverged {
        epoch: epoch(2),
        boot: member(1).boot,
        asked: end(1, 5),
        end: end(1, 3),
    };
    let Parting::Quarantined(quarantine) = follower.diverged(&mut mine, &diverged) else {
        panic!("4 is committed");
    };
    assert_eq!((quarantine.from, quarantine.committed), (seq(4), seq(4)));
    assert_eq!(follower.fetch(&mine), None);
    assert_eq!(follower.ack(&mine), None);
    assert_eq!(
        follower.admit(&mine, &shipment(2, end(1, 5))),
        Err(FollowRefused::Quarantined)
    );
}

/// an answer to a question that is no longer asked cuts nothing.
#[test]
fn a_late_answer_about_where_the_logs_part_changes_nothing() {
    let mut mine = copy(&[(1, 3), (2, 6)]);
    let mut follower = follower(&mut mine, 4);
    let diverged = Diverged {
        epoch: epoch(4),
        boot: member(1).boot,
        asked: end(2, 6),
        end: end(1, 2),
    };
    assert_eq!(
        follower.diverged(&mut mine, &diverged),
        Parting::Cut {
            epoch: epoch(4),
            from: seq(3)
        }
    );
    assert_eq!(
        follower.diverged(&mut mine, &diverged),
        Parting::Late,
        "it is owed already"
    );
    mine.truncated(seq(3));
    follower
        .admit(&mine, &shipment(4, end(1, 2)))
        .expect("it continues");
    for (of, next) in [(4, 3), (4, 4), (4, 5), (4, 6)] {
        follower
            .entry(&mut mine, epoch(of), seq(next))
            .expect("it is next");
    }
    assert_eq!(follower.diverged(&mut mine, &diverged), Parting::Late);
    let again = Diverged {
        asked: end(4, 6),
        ..diverged
    };
    assert_eq!(
        follower.diverged(&mut mine, &again),
        Parting::Late,
        "it is matched"
    );
    let other_boot = Diverged {
        boot: BootId::new(5),
        ..diverged
    };
    assert_eq!(follower.diverged(&mut mine, &other_boot), Parting::Late);
}

///
#[test]
fn entries_of_another_epoch_or_another_boot_are_refused() {
    let mut mine = copy(&[(1, 3)]);
    let mut follower = follower(&mut mine, 4);
    let sound = shipment(4, end(1, 3));
    let resumed = Shipment {
        boot: BootId::new(5),
        ..sound
    };
    assert_eq!(
        follower.admit(&mine, &resumed),
        Err(FollowRefused::OtherBoot)
    );
    let old = Shipment {
        epoch: epoch(3),
        ..sound
    };
    assert_eq!(
        follower.admit(&mine, &old),
        Err(FollowRefused::Fenced { fence: epoch(4) })
    );
    let new = Shipment {
        epoch: epoch(5),
        ..sound
    };
    assert_eq!(follower.admit(&mine, &new), Err(FollowRefused::Ahead));
    assert!(!follower.is_matched());
    let stale = crate::Follower::follow(&mut mine, epoch(3), member(1), member(2));
    assert_eq!(stale.err(), Some(FollowRefused::Fenced { fence: epoch(4) }));
}

///
#[test]
fn entries_are_taken_in_order_behind_what_was_matched() {
    let mut mine = copy(&[(1, 3), (2, 5)]);
    let mut follower = follower(&mut mine, 4);
    follower
        .admit(&mine, &shipment(4, end(1, 3)))
        .expect("an older question's answer");
    assert_eq!(
        follower.entry(&mut mine, epoch(2), seq(6)),
        Err(FollowRefused::Unmatched)
    );
    assert_eq!(
        follower.entry(&mut mine, epoch(3), seq(4)),
        Err(FollowRefused::Parted)
    );
    assert_eq!(
        follower.entry(&mut mine, epoch(2), seq(4)),
        Ok(Taken::Known)
    );
    assert!(
        !follower.is_matched(),
        "what lies behind 4 was not compared"
    );
    assert_eq!(
        follower.entry(&mut mine, epoch(2), seq(5)),
        Ok(Taken::Known)
    );
    assert!(follower.is_matched());
    assert_eq!(
        follower.entry(&mut mine, epoch(4), seq(7)),
        Err(FollowRefused::Gap)
    );
    assert_eq!(
        follower.entry(&mut mine, epoch(5), seq(6)),
        Err(FollowRefused::Malformed)
    );
    assert_eq!(
        follower.entry(&mut mine, epoch(1), seq(6)),
        Err(FollowRefused::Malformed)
    );
    assert!(matches!(
        follower.entry(&mut mine, epoch(4), seq(6)),
        Ok(Taken::Placed(_))
    ));
    assert_eq!(
        follower.entry(&mut mine, epoch(3), seq(5)),
        Err(FollowRefused::Malformed)
    );
}

/// neither an acknowledgement nor a committed end means anything about a log that was not compared.
#[test]
fn nothing_is_acknowledged_or_believed_before_the_copy_is_matched() {
    let mut mine = copy(&[(1, 3), (2, 6)]);
    let mut follower = follower(&mut mine, 4);
    let older = Shipment {
        committed: seq(6),
        ..shipment(4, end(1, 3))
    };
    follower.admit(&mine, &older).expect("the sender may");
    follower.committed(&mut mine, &older);
    assert_eq!(mine.committed(), seq(0), "6 is another entry there");
    assert_eq!(follower.ack(&mine), None);
    let matched = Shipment {
        committed: seq(9),
        ..shipment(4, end(2, 6))
    };
    follower.admit(&mine, &matched).expect("it continues");
    follower.committed(&mut mine, &matched);
    assert_eq!(mine.committed(), seq(6), "as far as this copy reaches");
    let ack = follower.ack(&mine).expect("matched");
    assert_eq!(
        (ack.epoch, ack.durable, ack.member),
        (epoch(4), seq(6), member(2))
    );
    follower
        .entry(&mut mine, epoch(4), seq(7))
        .expect("it is next");
    assert_eq!(
        follower.ack(&mine).map(|ack| ack.durable),
        Some(seq(6)),
        "7 is not durable"
    );
    mine.became_durable(mine.written());
    assert_eq!(follower.ack(&mine).map(|ack| ack.durable), Some(seq(7)));
}
