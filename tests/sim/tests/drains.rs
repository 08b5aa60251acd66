//! P-52: a node that is asked to stop under load delivers to every subscriber that stays what it has credit for, and waits
//! for the others no longer than it said. What is lost on the way is for the properties to notice; here are the bounds.

use core::ops::Range;
use sim::history::Judge;
use sim::node::{DrainedNode, Habit};
use sim::run::Scenario;
use sim::world::faults::Faults;
use sim::world::trace::Lines;
use sim::world::{Setup, World};
use tiderace_base::limits::DRAIN_NS_MAX;
use tiderace_base::prng::Prng;

const SEEDS: u64 = 40;
/// What a stop takes besides its readers: the last chunks of the shards, then control's.
const BESIDE_NS: u64 = 1_000_000_000;

/// How a stop under load went.
struct Stop {
    /// How long it took, in simulated time.
    took_ns: u64,
    /// Subscribers that heard the end behind the last delivery.
    drained: u64,
    /// Subscribers whose connection broke.
    cut_off: u64,
}

fn stop_under_load(habits: &'static [Habit], seed: u64) -> Stop {
    stop_after(100_000_000..2_000_000_000, habits, seed)
}

/// Asks to stop so many nanoseconds after the start.
fn stop_after(started_ns: Range<u64>, habits: &'static [Habit], seed: u64) -> Stop {
    let prng = &mut Prng::new(seed);
    let setup = Setup {
        seed: prng.next_u64(),
        faults: Faults::none(),
        lines: Lines::None,
        mesh_limit: prng.range(2, 64) as usize,
        receive_buffers: prng.range(16, 128) as usize,
    };
    let mut world = World::new(setup, Judge::default());
    DrainedNode { habits }.populate(&mut world, seed);
    world.run(prng.range(started_ns.start, started_ns.end), |_| false);
    let begun_ns = world.now_ns();
    world.ask_to_stop(0);
    let stopped = world.run(begun_ns + 4 * DRAIN_NS_MAX, |world| {
        world.incarnation(0) > 0
    });
    let took_ns = world.now_ns() - begun_ns;
    // What the network still carries arrives.
    world.run(world.now_ns() + BESIDE_NS, |_| false);
    assert_eq!(world.judge.violation(), None, "seed {seed}, {habits:?}");
    assert!(stopped, "seed {seed}, {habits:?}: it has not stopped");
    Stop {
        took_ns,
        drained: world.judge.drained(),
        cut_off: world.judge.cut_off(),
    }
}

#[test]
fn a_drain_ends_by_itself_when_its_subscribers_read() {
    let mut drained = 0;
    for seed in 0..SEEDS {
        let stop = stop_under_load(&[Habit::Reads, Habit::Reads], seed);
        assert!(
            stop.took_ns < DRAIN_NS_MAX,
            "seed {seed} took {} ns",
            stop.took_ns
        );
        assert_eq!(stop.cut_off, 0, "seed {seed}: nobody is cut off");
        drained += stop.drained;
    }
    assert!(drained > 3 * SEEDS, "only {drained} subscribers stayed");
}

#[test]
fn a_drain_answers_what_was_forwarded_between_shards() {
    // Most batches land on another shard than their own. One whose shard were gone would hold its client to the limit.
    for seed in 0..5 * SEEDS {
        let stop = stop_under_load(&[], seed);
        assert!(
            stop.took_ns < DRAIN_NS_MAX,
            "seed {seed} took {} ns",
            stop.took_ns
        );
    }
}

#[test]
fn a_stop_is_not_forgotten_by_a_shard_that_has_not_begun_to_serve() {
    // Within these some shards have their first catalogue and others do not, and epochs are on their way to the disk.
    for seed in 0..10 * SEEDS {
        let stop = stop_after(0..3_000_000, &[], seed);
        assert!(
            stop.took_ns < DRAIN_NS_MAX,
            "seed {seed} took {} ns",
            stop.took_ns
        );
    }
}

#[test]
fn subscribers_that_do_not_grant_or_read_hold_a_drain_no_longer_than_its_limit() {
    let (mut drained, mut held) = (0, 0);
    for seed in 0..SEEDS {
        let stop = stop_under_load(&[Habit::Reads, Habit::Starves, Habit::Sleeps], seed);
        assert!(
            stop.took_ns < DRAIN_NS_MAX + BESIDE_NS,
            "seed {seed} took {} ns",
            stop.took_ns
        );
        drained += stop.drained;
        held += u64::from(stop.took_ns >= DRAIN_NS_MAX);
    }
    assert!(drained > 2 * SEEDS, "only {drained} subscribers stayed");
    assert!(held > SEEDS / 2, "only {held} drains were held at all");
}
