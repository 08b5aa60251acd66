//! what a leader counts, and what may be exposed.

use super::{at, copy, end, epoch, given, member, seq, set, started};
use crate::lease::believed_ns;
use crate::{
    Ack, AckIgnored, Configuration, Fetch, FetchAnswer, Generation, Given, Grants, LeadError,
    Leader, Marks, Member, Phase, SlotCopy,
};
use tiderace_base::catalogue::Durability;
use tiderace_base::ids::{BootId, DiskId};

fn fetch(from: Member, of: u32, held: crate::End) -> Fetch {
    Fetch {
        epoch: epoch(of),
        member: from,
        held,
        durable: held.seq,
        marks: Marks::default(),
    }
}

fn ack(from: Member, of: u32, durable: u64) -> Ack {
    Ack {
        epoch: epoch(of),
        member: from,
        durable: seq(durable),
    }
}

/// Member 2 is found to have the log of epoch 1, and says how far it is durable.
fn acked(leader: &mut Leader, held: &mut SlotCopy, durable: u64) -> Option<u64> {
    let of = leader.epoch().get();
    assert!(matches!(
        leader.fetch(held, &fetch(member(2), of, held.held())),
        FetchAnswer::Entries(_)
    ));
    let moved = leader
        .ack(held, &ack(member(2), of, durable))
        .expect("it counts");
    moved.map(|to| to.get())
}

///
#[test]
fn nobody_leads_what_it_holds_entries_of_or_promised_above() {
    let mut held = copy(&[(5, 3)]);
    let all = set(&[1, 2, 3], 2);
    let stale = LeadError::Stale { seen: epoch(5) };
    assert_eq!(
        Leader::chosen(&mut held, &given(5, all), at(0)).err(),
        Some(stale)
    );
    assert_eq!(
        Leader::chosen(&mut held, &given(4, all), at(0)).err(),
        Some(stale)
    );
    let others = set(&[2, 3], 2);
    assert_eq!(
        Leader::chosen(&mut held, &given(6, others), at(0)).err(),
        Some(LeadError::NotMember)
    );
    let mut restarted = given(6, all);
    restarted.leader.boot = BootId::new(99);
    assert_eq!(
        Leader::chosen(&mut held, &restarted, at(0)).err(),
        Some(LeadError::NotMember)
    );
    let mut leader = started(&mut held, &given(6, all));
    // The process that has this epoch stands still, and its successor starts.
    leader.member_started(member(1).node, BootId::new(99));
    assert!(leader.is_deposed(&held));
    assert_eq!(leader.place(&mut held, at(5)), None);
}

/// figure 8. Copies of older epochs are not counted; the epoch-start on W members commits them all.
#[test]
pub(crate) fn the_committed_end_jumps_over_the_tail_with_the_epoch_start() {
    let mut held = copy(&[(1, 3)]);
    let mut leader = started(&mut held, &given(4, set(&[1, 2, 3], 2)));
    assert_eq!(leader.phase(), Phase::Started { start: seq(4) });
    assert_eq!(leader.place(&mut held, at(5)), None, "no batch before");
    assert_eq!(leader.exposable(&held, Durability::Memory, at(5)), None);
    assert_eq!(
        acked(&mut leader, &mut held, 3),
        None,
        "all that was inherited, and not the start"
    );
    assert_eq!(held.committed(), seq(0));
    assert_eq!(acked(&mut leader, &mut held, 4), Some(4));
    assert_eq!(leader.phase(), Phase::Led { start: seq(4) });
    assert_eq!(
        leader.exposable(&held, Durability::Quorum, at(5)),
        Some(seq(4))
    );
    let place = leader.place(&mut held, at(5)).expect("it serves");
    assert_eq!((place.epoch, place.seq), (epoch(4), seq(5)));
    // Its own disk counts as it is, and not before.
    assert_eq!(acked(&mut leader, &mut held, 5), None);
    held.became_durable(place.written);
    assert_eq!(leader.became_durable(&mut held), Some(seq(5)));
}

///
#[test]
fn only_members_on_their_disks_and_in_their_boots_count() {
    let mut held = copy(&[(1, 3)]);
    let mut leader = started(&mut held, &given(4, set(&[1, 2, 3], 2)));
    let other_disk = Member {
        disk: DiskId::new(7),
        ..member(2)
    };
    let other_boot = Member {
        boot: BootId::new(7),
        ..member(2)
    };
    for stranger in [other_disk, other_boot, member(4)] {
        assert_eq!(
            leader.fetch(&held, &fetch(stranger, 4, end(1, 3))),
            FetchAnswer::NotMember
        );
        assert_eq!(
            leader.ack(&mut held, &ack(stranger, 4, 4)),
            Err(AckIgnored::NotMember)
        );
    }
    assert_eq!(
        leader.ack(&mut held, &ack(member(2), 4, 4)),
        Err(AckIgnored::Unfounded),
        "it was not compared"
    );
    assert_eq!(acked(&mut leader, &mut held, 3), None);
    assert_eq!(
        leader.ack(&mut held, &ack(member(2), 3, 4)),
        Err(AckIgnored::OtherEpoch)
    );
    assert_eq!(
        leader.ack(&mut held, &ack(member(2), 4, 5)),
        Err(AckIgnored::Unfounded),
        "never placed"
    );
    // The member starts again: what its old boot said is forgotten, and what is still on its way does not count.
    leader.member_started(other_boot.node, other_boot.boot);
    assert_eq!(leader.durable_at(&other_boot), Some(seq(0)));
    assert_eq!(
        leader.ack(&mut held, &ack(member(2), 4, 4)),
        Err(AckIgnored::NotMember)
    );
    assert_eq!(
        leader.ack(&mut held, &ack(other_boot, 4, 4)),
        Err(AckIgnored::Unfounded)
    );
    leader.fetch(&held, &fetch(other_boot, 4, end(1, 3)));
    assert_eq!(
        leader.ack(&mut held, &ack(other_boot, 4, 4)),
        Ok(Some(seq(4)))
    );
}

/// a disk that has less than it acknowledged, and no mark that says why, is an old image.
#[test]
fn a_disk_that_forgot_what_it_acknowledged_is_refused() {
    let mut held = copy(&[(1, 3)]);
    let mut leader = started(&mut held, &given(4, set(&[1, 2, 3], 2)));
    acked(&mut leader, &mut held, 4);
    let again = Member {
        boot: BootId::new(7),
        ..member(2)
    };
    leader.member_started(again.node, again.boot);
    let old = fetch(again, 4, end(1, 2));
    assert_eq!(
        leader.fetch(&held, &old),
        FetchAnswer::OldImage {
            acknowledged: seq(4)
        }
    );
    let marked = Fetch {
        marks: Marks {
            suspect: true,
            cut: None,
        },
        ..old
    };
    assert!(matches!(
        leader.fetch(&held, &marked),
        FetchAnswer::Entries(_)
    ));
    assert!(matches!(
        leader.fetch(&held, &fetch(again, 4, end(4, 4))),
        FetchAnswer::Entries(_)
    ));
}

///
#[test]
fn a_leader_that_hears_of_a_newer_epoch_stops() {
    let led = || {
        let mut held = copy(&[(1, 3)]);
        let mut leader = started(&mut held, &given(4, set(&[1, 2, 3], 2)));
        acked(&mut leader, &mut held, 4);
        assert!(leader.serves(&held, at(5)));
        (held, leader)
    };
    let (held, mut leader) = led();
    assert_eq!(
        leader.fetch(&held, &fetch(member(2), 5, end(4, 4))),
        FetchAnswer::Deposed
    );
    assert!(!leader.serves(&held, at(5)));
    let (held, mut leader) = led();
    leader.fenced(epoch(4));
    assert!(leader.serves(&held, at(5)), "its own epoch is no news");
    leader.fenced(epoch(6));
    assert_eq!(leader.exposable(&held, Durability::Quorum, at(5)), None);
    assert_eq!(leader.newest(&held), epoch(6));
    let (mut held, mut leader) = led();
    assert_eq!(
        leader.ack(&mut held, &ack(member(3), 6, 4)),
        Err(AckIgnored::OtherEpoch)
    );
    assert_eq!(leader.place(&mut held, at(5)), None);
    let (mut held, mut leader) = led();
    leader.set_committed(&mut held, &set(&[1, 2], 2).at(Generation::new(9)));
    assert!(leader.is_deposed(&held), "a set that it does not know of");
    assert_eq!(
        leader.fetch(&held, &fetch(member(2), 4, end(4, 4))),
        FetchAnswer::Deposed
    );
    let (held, mut leader) = led();
    assert_eq!(
        leader.fetch(&held, &fetch(member(2), 3, end(1, 3))),
        FetchAnswer::Fenced { epoch: epoch(4) }
    );
    assert!(leader.serves(&held, at(5)), "the follower is the older one");
}

///
#[test]
fn a_change_of_the_set_commits_nothing_before_the_catalogue_has_it() {
    let mut held = copy(&[(1, 3)]);
    let next = set(&[1, 2], 2);
    let mut leader = started(
        &mut held,
        &Given {
            next: Some(next),
            ..given(4, set(&[1], 1))
        },
    );
    assert_eq!(
        held.committed(),
        seq(0),
        "the old set would have committed it"
    );
    assert_eq!(leader.set_to_propose(&held), None);
    acked(&mut leader, &mut held, 3);
    assert_eq!(
        leader.set_to_propose(&held),
        None,
        "the tail, and not the epoch-start"
    );
    acked(&mut leader, &mut held, 4);
    assert_eq!(leader.set_to_propose(&held), Some(&next));
    assert!(!leader.serves(&held, at(5)));
    assert_eq!(held.committed(), seq(0));
    assert_eq!(
        leader.set_committed(&mut held, &next.at(Generation::new(5))),
        Some(seq(4))
    );
    assert!(leader.serves(&held, at(5)));
    assert_eq!(leader.set_to_propose(&held), None);
    // Not in both sets: it can neither be the winner of the old one nor count itself in the new one.
    let mut other = copy(&[(1, 3)]);
    let without = Given {
        next: Some(set(&[2, 3], 2)),
        ..given(4, set(&[1, 2], 2))
    };
    assert_eq!(
        Leader::chosen(&mut other, &without, at(0)).err(),
        Some(LeadError::NotMember)
    );
}

///
#[test]
fn what_one_copy_alone_decides_needs_a_lease_of_w_members() {
    let mut held = copy(&[(1, 3)]);
    let mut leader = started(&mut held, &given(4, set(&[1, 2, 3], 2)));
    acked(&mut leader, &mut held, 4);
    let place = leader.place(&mut held, at(5)).expect("it serves");
    held.became_durable(place.written);
    leader.place(&mut held, at(5)).expect("it serves");
    let exposed = |leader: &Leader, held: &SlotCopy, now| {
        Durability::ALL.map(|level| {
            leader
                .exposable(held, level, at(now))
                .expect("it serves")
                .get()
        })
    };
    assert_eq!(exposed(&leader, &held, 10), [4, 4, 4]);
    let mut grants = Grants::none();
    let asked = leader
        .ask_lease(&held, &mut grants, 1000, at(10), at(10))
        .expect("it leads");
    assert_eq!(
        exposed(&leader, &held, 11),
        [4, 4, 4],
        "its own word is one of two"
    );
    assert!(!leader.lease_granted(&member(4), epoch(4), asked.sent, 1000, at(20)));
    assert!(!leader.lease_granted(&member(2), epoch(3), asked.sent, 1000, at(20)));
    assert!(!leader.lease_granted(&member(1), epoch(4), asked.sent, 1000, at(20)));
    assert!(
        !leader.lease_granted(&member(2), epoch(4), at(21), 1000, at(20)),
        "not sent yet"
    );
    assert!(leader.lease_granted(&member(2), epoch(4), asked.sent, 1000, at(20)));
    assert_eq!(exposed(&leader, &held, 20), [6, 5, 4]);
    let last = 10 + believed_ns(1000) - 1;
    assert_eq!(exposed(&leader, &held, last), [6, 5, 4]);
    assert_eq!(
        exposed(&leader, &held, last + 1),
        [4, 4, 4],
        "from when it was sent, less the drift"
    );
    assert_eq!(
        grants.left_ns(at(10)),
        1000,
        "it granted to itself, and says so when it is sealed"
    );
    // A member that starts again has forgotten.
    let asked = leader
        .ask_lease(&held, &mut grants, 1000, at(2000), at(2000))
        .expect("it leads");
    leader.lease_granted(&member(2), epoch(4), asked.sent, 1000, at(2001));
    assert!(leader.has_lease(at(2002)));
    leader.member_started(member(2).node, BootId::new(9));
    assert!(!leader.has_lease(at(2002)));
}

/// alone in its quorum, its word is as old as control's that it lives.
#[test]
fn where_w_is_one_a_lease_ends_with_the_contact_to_control() {
    let mut held = copy(&[(1, 3)]);
    let mut leader = started(&mut held, &given(4, set(&[1, 2], 1)));
    let mut grants = Grants::none();
    leader.ask_lease(&held, &mut grants, 1000, at(500), at(500));
    assert!(leader.has_lease(at(1400)));
    leader.ask_lease(&held, &mut grants, 1000, at(1300), at(500));
    assert!(leader.has_lease(at(1479)));
    assert!(
        !leader.has_lease(at(1480)),
        "it may have been declared dead since"
    );
}

///
#[test]
fn nothing_is_exposed_before_the_last_lease_is_over() {
    let mut held = copy(&[(1, 3)]);
    let mut leader = started(
        &mut held,
        &Given {
            wait_ns: 700,
            ..given(4, set(&[1, 2, 3], 2))
        },
    );
    acked(&mut leader, &mut held, 4);
    for level in Durability::ALL {
        assert_eq!(leader.exposable(&held, level, at(699)), None);
    }
    assert_eq!(leader.place(&mut held, at(699)), None);
    assert_eq!(
        leader.exposable(&held, Durability::Quorum, at(700)),
        Some(seq(4))
    );
}

#[test]
fn every_size_and_quorum_is_counted() {
    for count in 1..=7_u64 {
        for quorum in 1..=count as usize {
            let nodes: Vec<u64> = (1..=count).collect();
            let all: Configuration = set(&nodes, quorum);
            let mut held = copy(&[(1, 3)]);
            let mut leader = started(&mut held, &given(4, all));
            for other in 2..=count {
                let before = held.committed();
                assert_eq!(
                    before == seq(4),
                    other > quorum as u64,
                    "{count} {quorum} {other}"
                );
                leader.fetch(&held, &fetch(member(other), 4, end(1, 3)));
                leader
                    .ack(&mut held, &ack(member(other), 4, 4))
                    .expect("it counts");
            }
            assert_eq!(held.committed(), seq(4));
        }
    }
}
