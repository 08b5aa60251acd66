//! a promise holds when it is written, is answered when it is durable, and is repeated unchanged.

use super::{copy, end, epoch, follower, given, member, seq, set};
use crate::{
    FollowRefused, Generation, Leader, Marks, Reach, SealAsk, SealEntry, SealRefused, Sealing,
    Shipment,
};

fn ask(generation: u64, of: u32) -> SealAsk {
    SealAsk {
        generation: Generation::new(generation),
        epoch: epoch(of),
    }
}

const KNOWN: Generation = Generation::new(7);

///
#[test]
pub(crate) fn a_seal_is_answered_when_it_is_durable_and_then_always_the_same() {
    let mut held = copy(&[(1, 5)]);
    let entry = SealEntry {
        epoch: epoch(4),
        held: end(1, 5),
        flushed: seq(5),
        cut: false,
    };
    assert_eq!(held.seal(ask(7, 4), KNOWN), Sealing::Write(entry));
    assert_eq!(held.promised(), epoch(4), "it holds from now on");
    assert_eq!(held.seal_answer(member(2), 0), None);
    assert_eq!(held.seal(ask(7, 4), KNOWN), Sealing::Waiting);
    assert!(held.seal_became_durable(epoch(4)));
    let answer = held.seal_answer(member(2), 55).expect("durable");
    assert_eq!(
        (answer.epoch, answer.held, answer.lease_left_ns),
        (epoch(4), end(1, 5), 55)
    );
    // Asked for the same, or for less.
    assert_eq!(held.seal(ask(7, 4), KNOWN), Sealing::Answer);
    assert_eq!(held.seal(ask(7, 2), KNOWN), Sealing::Answer);
    // The epoch goes on; what was answered stays what was answered.
    held.append(epoch(4), seq(6));
    assert_eq!(held.seal_answer(member(2), 55), Some(answer));
    // More is a new promise. The old one's completion answers nothing.
    assert!(matches!(held.seal(ask(7, 9), KNOWN), Sealing::Write(_)));
    assert!(!held.seal_became_durable(epoch(4)));
    assert_eq!(held.seal_answer(member(2), 0), None);
}

///
#[test]
pub(crate) fn a_restart_repeats_the_answer_unless_damage_took_what_it_said() {
    let entry = SealEntry {
        epoch: epoch(4),
        held: end(1, 5),
        flushed: seq(5),
        cut: false,
    };
    let mut held = copy(&[(1, 5)]);
    held.replay_seal(entry);
    held.replay_seal(SealEntry {
        epoch: epoch(3),
        ..entry
    });
    held.recovered(Marks::default(), epoch(1));
    assert_eq!(held.seal(ask(7, 4), KNOWN), Sealing::Answer);
    let answer = held.seal_answer(member(2), 0).expect("durable");
    assert_eq!((answer.epoch, answer.held), (epoch(4), end(1, 5)));
    // The tail rotted, the seal is in the superblock: to repeat it would be to win with what is lost.
    let mut held = copy(&[(1, 3)]);
    held.replay_seal(entry);
    let marks = Marks {
        suspect: false,
        cut: Some(Reach::Known(end(1, 5))),
    };
    held.recovered(marks, epoch(1));
    let answer = held.seal_answer(member(2), 0).expect("durable");
    assert_eq!(
        (answer.epoch, answer.held, answer.marks),
        (epoch(4), end(1, 3), marks)
    );
}

///
#[test]
fn a_seal_from_an_older_record_or_for_an_epoch_that_is_led_is_refused() {
    let mut held = copy(&[(1, 5)]);
    assert_eq!(
        held.seal(ask(6, 4), KNOWN),
        Sealing::Refused(SealRefused::OldGeneration { known: KNOWN })
    );
    assert_eq!(
        held.seal(ask(8, 1), KNOWN),
        Sealing::Refused(SealRefused::Stale { seen: epoch(1) }),
        "entries of it are held"
    );
    follower(&mut held, 5);
    assert_eq!(
        held.seal(ask(7, 5), KNOWN),
        Sealing::Refused(SealRefused::Stale { seen: epoch(5) })
    );
    assert!(matches!(held.seal(ask(8, 6), KNOWN), Sealing::Write(_)));
}

/// entries, acknowledgements, grants and recovery reads, from the moment at which the seal is written.
#[test]
fn a_sealed_replica_refuses_everything_of_older_epochs() {
    let mut held = copy(&[(1, 5)]);
    let mut follower = follower(&mut held, 2);
    let shipment = Shipment {
        epoch: epoch(2),
        boot: member(1).boot,
        after: end(1, 5),
        leader_end: seq(6),
        committed: seq(0),
    };
    follower.admit(&held, &shipment).expect("it continues");
    assert!(follower.ack(&held).is_some());
    let mut grants = crate::Grants::none();
    let lease = crate::LeaseAsk {
        epoch: epoch(2),
        sent: super::at(3),
        length_ns: 100,
    };
    assert_eq!(
        follower.grant(&held, &mut grants, &lease, member(1).boot, super::at(9)),
        Ok(100)
    );
    assert!(matches!(held.seal(ask(7, 4), KNOWN), Sealing::Write(_)));
    let fenced = FollowRefused::Fenced { fence: epoch(4) };
    assert_eq!(follower.admit(&held, &shipment), Err(fenced));
    assert_eq!(follower.entry(&mut held, epoch(2), seq(6)), Err(fenced));
    assert_eq!(follower.ack(&held), None);
    assert_eq!(follower.fetch(&held), None);
    assert_eq!(
        follower.grant(&held, &mut grants, &lease, member(1).boot, super::at(10)),
        Err(fenced)
    );
    assert_eq!(
        grants.left_ns(super::at(10)),
        99,
        "what was granted is told"
    );
    // As a leader that was chosen before: it commits, exposes and reads out nothing any more.
    let mut held = copy(&[(1, 5)]);
    let mut leader = super::started(&mut held, &given(2, set(&[1, 2, 3], 2)));
    assert!(matches!(held.seal(ask(7, 4), KNOWN), Sealing::Write(_)));
    assert!(leader.is_deposed(&held));
    let mut other = copy(&[(1, 5)]);
    let fetch = super::follower(&mut other, 2)
        .fetch(&other)
        .expect("it asks");
    assert_eq!(
        leader.fetch(&held, &fetch),
        crate::FetchAnswer::Fenced { epoch: epoch(4) }
    );
    assert_eq!(leader.newest(&held), epoch(4), "which it tells control");
    // And nobody is led below its promise.
    let stale = Leader::chosen(&mut held, &given(3, set(&[1, 2, 3], 2)), super::at(0));
    assert_eq!(
        stale.err(),
        Some(crate::LeadError::Stale { seen: epoch(4) })
    );
}
