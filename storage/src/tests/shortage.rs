//! Work of the journal's own that fails for another reason than a full disk: a spare segment or a checkpoint whose file
//! cannot be opened, and a disk that fails under zeros. Data is refused for want of space alone, and nothing waits for
//! ever.

use super::world::World;
use crate::Refused;
use tiderace_base::disk::{DiskError, JournalFile};
use tiderace_base::operation::{Effect, Fatal};

/// How a process without a descriptor is told so.
const NOT_OPENED: DiskError = DiskError::NotOpened(24);
const FAILED: DiskError = DiskError::Io(5);
const SECOND_NS: u64 = 1_000_000_000;

fn makes_a_spare(effect: &Effect) -> bool {
    matches!(
        effect,
        Effect::Prepare {
            file: JournalFile::Segment(_),
            ..
        }
    )
}

fn fills_a_spare(effect: &Effect) -> bool {
    matches!(
        effect,
        Effect::Write {
            file: JournalFile::Segment(_),
            durable: false,
            ..
        }
    )
}

fn syncs_a_spare(effect: &Effect) -> bool {
    matches!(
        effect,
        Effect::Sync {
            file: JournalFile::Segment(_),
            ..
        }
    )
}

fn opened(seed: u64) -> World {
    let mut world = World::new(seed);
    world.open();
    world.settle();
    world
}

/// Goes on with everything but what makes spares, until that is in flight.
fn until_a_spare_is_made(world: &mut World, held: fn(&Effect) -> bool) {
    while !world.flying.iter().any(held) {
        if world.append(2000).is_err() {
            world.pass(SECOND_NS);
        }
        world.flush();
        world.tick();
        world.feed();
        world.complete_but(held);
    }
}

/// Appends until nothing but a spare is missing.
fn until_appends_wait(world: &mut World) {
    until_a_spare_is_made(world, makes_a_spare);
    for _ in 0..1000 {
        if world.append(2000).is_err() && world.journal().spares.is_starved() {
            return;
        }
        world.flush();
        world.feed();
        world.complete_but(makes_a_spare);
    }
    panic!("appends never wait");
}

/// Lets a pause come, in which zeros are in nobody's way.
fn rest(world: &mut World) {
    for _ in 0..3 {
        world.pass(SECOND_NS);
        world.tick();
        world.settle();
    }
}

#[test]
fn a_spare_that_cannot_be_made_is_no_full_disk_and_is_tried_again() {
    for (held, error) in [
        (makes_a_spare as fn(&Effect) -> bool, NOT_OPENED),
        (makes_a_spare, FAILED),
        (fills_a_spare, NOT_OPENED),
        (fills_a_spare, FAILED),
        (syncs_a_spare, FAILED),
    ] {
        let mut world = opened(31);
        until_a_spare_is_made(&mut world, held);
        world.fail_one(held, error);
        let stats = world.journal().stats();
        assert_eq!((stats.spares_failed, stats.read_only), (1, false));
        assert!(!world.read_only);
        // Not at once: whatever is missing is not there yet.
        world.flush();
        world.complete_but(|_| false);
        assert!(!world.flying.iter().any(makes_a_spare));
        let now = world.now.mono;
        assert!(world.journal().next_wake().is_some_and(|at| at > now));
        world.pass(SECOND_NS);
        world.tick();
        assert!(world.flying.iter().any(makes_a_spare));
        rest(&mut world);
        assert_eq!(world.journal().stats().spares, 3);
        assert_eq!(world.fatal, None);
    }
}

#[test]
fn appends_that_need_a_spare_wait_for_it_and_go_on() {
    let mut world = opened(32);
    until_appends_wait(&mut world);
    for _ in 0..9 {
        world.fail_one(makes_a_spare, NOT_OPENED);
        assert_ne!(world.append(2000).err(), Some(Refused::ReadOnly));
        world.pass(SECOND_NS);
        world.tick();
    }
    assert!(world.fatal.is_none() && !world.read_only);
    world.settle();
    world.append(2000).expect("there is a spare");
    // What failed before is forgotten.
    until_appends_wait(&mut world);
    world.fail_one(makes_a_spare, NOT_OPENED);
    assert_eq!(world.fatal, None);
    world.pass(SECOND_NS);
    world.tick();
    world.settle();
    world.append(2000).expect("there is a spare");
    world.settle();
    world.crash();
    world.open();
}

// J-18
#[test]
fn appends_do_not_wait_for_ever_for_a_disk_that_fails() {
    for error in [NOT_OPENED, FAILED] {
        let mut world = opened(33);
        until_appends_wait(&mut world);
        for attempt in 1..=10 {
            assert_eq!(world.fatal, None, "attempt {attempt}");
            world.fail_one(makes_a_spare, error);
            world.pass(SECOND_NS);
            world.tick();
        }
        assert_eq!(world.fatal, Some(Fatal::JournalWrite(error)));
        assert_eq!(world.append(2000), Err(Refused::Poisoned));
    }
}

// J-18
#[test]
fn spares_that_nobody_waits_for_may_fail_for_long() {
    let mut world = opened(34);
    until_a_spare_is_made(&mut world, makes_a_spare);
    for _ in 0..50 {
        world.fail_one(makes_a_spare, FAILED);
        world.flush();
        world.complete_but(makes_a_spare);
        world.pass(SECOND_NS);
        world.tick();
    }
    assert!(world.fatal.is_none() && !world.read_only);
    world.append(100).expect("the segment has room");
    rest(&mut world);
    assert_eq!(world.journal().stats().spares, 3);
}

// J-12
#[test]
fn a_checkpoint_whose_file_cannot_be_opened_is_given_up_and_made_later() {
    let of_part = |effect: &Effect| {
        matches!(
            effect,
            Effect::Prepare {
                file: JournalFile::Checkpoint(_),
                ..
            } | Effect::Write {
                file: JournalFile::Checkpoint(_),
                ..
            } | Effect::Sync {
                file: JournalFile::Checkpoint(_),
                ..
            }
        )
    };
    // The making of the file, its first piece, and so on to its sync.
    for done_before in 0..3 {
        let mut world = opened(35);
        let mut done = 0;
        loop {
            if world.append(900).is_err() {
                world.pass(SECOND_NS);
                world.tick();
            }
            world.flush();
            world.feed();
            world.complete_but(of_part);
            if world.flying.iter().any(of_part) {
                if done == done_before {
                    break;
                }
                done += 1;
                world.complete_first(of_part);
            }
        }
        world.fail_one(of_part, NOT_OPENED);
        assert_eq!(world.fatal, None, "{done_before} done before");
        world.settle();
        assert_eq!(world.journal().stats().checkpoints_failed, 1);
        rest(&mut world);
        assert!(world.journal().stats().checkpoints >= 1);
        world.crash();
        world.open();
    }
}
