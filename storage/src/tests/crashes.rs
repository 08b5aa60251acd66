//! Crash anywhere, again and again, also while opening: what was acknowledged comes back, what comes back is a prefix of
//! what was appended, and opening twice is opening once. Keeps J-3, J-4, J-5, J-6, J-7, J-11, J-12, J-14, J-15.

use super::world::{World, key};
use crate::OpenError;
use tiderace_base::disk::DiskError;

fn turn(world: &mut World) {
    let appends = world.prng.below(8);
    for _ in 0..appends {
        let large = world.prng.chance(1, 20);
        let bytes = world.prng.range(1, if large { 11_000 } else { 900 }) as usize;
        if world.append(bytes).is_err() {
            break;
        }
        if world.prng.chance(1, 10) && world.append_control().is_err() {
            break;
        }
    }
    if world.prng.chance(7, 8) {
        world.flush();
    }
    if world.prng.chance(1, 3) {
        world.feed();
    }
    if world.prng.chance(1, 6) {
        world.pass(11_000_000);
        world.tick();
    }
    if world.prng.chance(1, 4) {
        let all = world.prng.chance(1, 2);
        let partition = world.prng.below(5);
        for partition in if all { 0..5 } else { partition..partition + 1 } {
            let end = world.durable_end(partition);
            let start = world.starts.get(&key(partition)).map_or(0, |it| it.get());
            if end > start {
                let from = if all {
                    start + (end - start) / 2
                } else {
                    start
                };
                let to = world.prng.range(from, end + 1);
                if world.advance_start(partition, to).is_err() {
                    break;
                }
            }
        }
        world.reclaim();
    }
    if world.prng.chance(1, 5) {
        let partition = world.prng.below(5);
        let end = world.durable_end(partition);
        let from = world.prng.below(end + 3);
        let bytes = world.prng.range(1, 20_000) as usize;
        world.ask(partition, from, bytes);
    }
    let completions = world.prng.below(6);
    for _ in 0..completions {
        world.complete_one();
    }
    world.pass(50_000);
}

fn open_through_crashes(world: &mut World) {
    loop {
        if world.prng.chance(1, 2) {
            world.disk.fuel = Some(world.prng.below(14));
        }
        match world.try_open() {
            Ok(owner) => {
                world.disk.fuel = None;
                world.check_recovered(&owner);
                // What is kept can be read, whatever was being released.
                for partition in 0..5 {
                    let start = world.starts.get(&key(partition)).map_or(0, |it| it.get());
                    world.ask(partition, start, 1);
                }
                return;
            }
            Err(OpenError::Disk {
                error: DiskError::PowerLost,
                ..
            }) => world.disk.crash(Vec::new()),
            Err(error) => panic!("refused: {error}"),
        }
    }
}

fn run(seed: u64) -> World {
    let mut world = World::new(seed);
    let crashes = 1 + world.prng.below(4);
    for _ in 0..crashes {
        open_through_crashes(&mut world);
        if world.prng.chance(1, 4) {
            // Opening again at once changes nothing.
            let marks = world.journal().marks().to_vec();
            let end = world.journal().durable_lsn();
            world.crash();
            world.open();
            assert_eq!(world.journal().marks(), marks, "seed {seed}");
            assert_eq!(world.journal().durable_lsn(), end, "seed {seed}");
        }
        let turns = world.prng.below(120);
        for _ in 0..turns {
            turn(&mut world);
        }
        if world.prng.chance(1, 4) {
            world.settle();
            let all = world.entries.last().map_or(world.acked, |entry| entry.end);
            assert!(world.acked >= all, "seed {seed}: everything settles");
        }
        assert_eq!(world.fatal, None, "seed {seed}");
        world.recycled += world.journal().stats().segments_recycled;
        if world.prng.chance(1, 3) {
            world.kill();
        } else {
            world.crash();
        }
    }
    open_through_crashes(&mut world);
    world
}

#[test]
fn whatever_was_acknowledged_comes_back_and_nothing_that_was_not_appended() {
    let (mut checkpoints, mut reads, mut recycled) = (0, 0, 0);
    for seed in 0..2500 {
        let world = std::panic::catch_unwind(|| run(seed));
        let world = world.unwrap_or_else(|cause| {
            eprintln!("seed {seed} fails");
            std::panic::resume_unwind(cause);
        });
        checkpoints += world.checkpoints;
        reads += world.reads_answered;
        recycled += world.recycled;
    }
    assert!(checkpoints > 500, "{checkpoints} checkpoints were made");
    assert!(reads > 5000, "{reads} reads were answered");
    assert!(recycled > 2000, "{recycled} segments were recycled");
}
