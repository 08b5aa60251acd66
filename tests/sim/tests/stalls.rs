//! Hundreds of subscribers that grant much and keep ceasing to read, while appends go on and segments roll. What is lost,
//! repeated or out of order, and credit that does not add up, is for the properties to notice; that what is held for them
//! stays within the budget is for each shard, which checks it in every turn. Here: that nobody waits for ever or is cut off,
//! and that sends were ended early at all.

use sim::history::Judge;
use sim::history::Observation;
use sim::node::StalledNode;
use sim::run::Scenario;
use sim::world::faults::Faults;
use sim::world::trace::Lines;
use sim::world::{Setup, World};
use tiderace_base::prng::Prng;

const SEEDS: u64 = 12;
const SUBSCRIBERS: usize = 200;
/// From the last stall until everybody has read everything, in simulated time.
const PROGRESS_WITHIN_NS: u64 = 60_000_000_000;

#[test]
fn readers_that_stall_lose_nothing_and_hold_what_the_budget_allows() {
    let (mut ended_early, mut cut_off) = (0, 0);
    for seed in 0..SEEDS {
        let prng = &mut Prng::new(seed);
        let setup = Setup {
            seed: prng.next_u64(),
            faults: Faults::none(),
            lines: Lines::None,
            mesh_limit: prng.range(2, 64) as usize,
            receive_buffers: prng.range(64, 128) as usize,
        };
        let mut world = World::new(setup, Judge::default());
        let scenario = StalledNode {
            subscribers: SUBSCRIBERS,
            keeps: seed % 3 != 0,
            ..StalledNode::default()
        };
        scenario.populate(&mut world, seed);
        world.run(4_000_000_000, |_| false);
        world.heal();
        let until_ns = world.now_ns() + PROGRESS_WITHIN_NS;
        world.run(until_ns, |world| !world.somebody_waits());
        world.conclude();
        world.run(until_ns, |world| !world.somebody_waits());
        let waiting = world.waiting();
        world.observe(&Observation::Finished { waiting });
        assert_eq!(world.judge.violation(), None, "seed {seed}");
        for metrics in scenario.metrics.lock().expect("nobody panics").iter() {
            ended_early += metrics.sends_ended_early_total.get();
            // Only what retention has dropped cannot be read again.
            let incomplete = metrics.frames_incomplete_total.get();
            assert!(
                incomplete == 0 || !scenario.keeps,
                "seed {seed}: {incomplete} frames were not completed"
            );
            cut_off += incomplete;
            assert_eq!(
                metrics.send_held_bytes.get(),
                0,
                "seed {seed}: all was sent"
            );
        }
    }
    assert!(cut_off > 0, "retention has dropped what was owed");
    assert!(
        ended_early > 100 * SEEDS,
        "only {ended_early} sends were ended early"
    );
}
