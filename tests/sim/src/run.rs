//! The course of one run. Phases: clients work while faults fire; then faults stop and everybody must reach their goal
//! within bounded simulated time; then, sometimes after an orderly stop, the power is cut once more and every record is
//! read from the first to the last. Invariant: the report depends on the scenario and the seed alone.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tiderace_base::prng::Prng;

use crate::history::{Judge, Observation, Violation};
use crate::world::faults::{Faults, Fired, Without};
use crate::world::scheduler::Counts;
use crate::world::{Counted, Setup, World};

/// The time within which everybody must reach their goal once faults have stopped. A reader that was cut off waits for
/// its peer's keepalive, a disk for its stall: both end within ten seconds.
const PROGRESS_WITHIN_NS: u64 = 120_000_000_000;

/// What is simulated: nodes, and clients with goals.
pub trait Scenario {
    /// Adds nodes and clients to an empty world. `seed` decides which.
    fn populate(&self, world: &mut World, seed: u64);

    /// Adds readers that read everything there is; nobody writes any more. `seed` is the one of the population.
    fn audit(&self, world: &mut World, seed: u64);

    /// The mixture of faults for this seed.
    fn faults(&self, prng: &mut Prng) -> Faults {
        Faults::draw(prng)
    }
}

/// How a seed is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Print the trace.
    pub prints: bool,
    /// Faults that are switched off, whatever the seed draws.
    pub without: Without,
    /// Write the history.
    pub records: bool,
}

/// What came of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// The hash over everything that happened.
    pub hash: u64,
    /// What it did.
    pub counts: Counts,
    /// Batches acknowledged.
    pub acknowledged: u64,
    /// Batches delivered.
    pub delivered: u64,
    /// Faults that fired.
    pub fired: Fired,
    /// What the nodes counted about themselves.
    pub counted: Counted,
    /// How long it took in simulated nanoseconds.
    pub simulated_ns: u64,
    /// The history, as a file has it, if it was to be written.
    pub history: Vec<u8>,
    /// What was broken, if anything was.
    pub violation: Option<Violation>,
}

/// What a seed draws: the chance of each fault in millionths, but for those that never fire.
#[must_use]
pub fn mixture(scenario: &dyn Scenario, seed: u64, options: Options) -> String {
    drawn(scenario, &mut Prng::new(seed), options).to_string()
}

fn drawn(scenario: &dyn Scenario, prng: &mut Prng, options: Options) -> Faults {
    let mut faults = scenario.faults(prng);
    faults.switch_off(options.without);
    faults
}

/// Runs a seed. A panic of the program under test is a violation like any other.
#[must_use]
pub fn run(scenario: &dyn Scenario, seed: u64, options: Options) -> Report {
    let mut prng = Prng::new(seed);
    let faults = drawn(scenario, &mut prng, options);
    let setup = Setup {
        seed: prng.next_u64(),
        faults,
        prints: options.prints,
        mesh_limit: prng.range(2, 64) as usize,
        receive_buffers: prng.range(16, 128) as usize,
    };
    let mut world = World::new(setup, Judge::default());
    if options.records {
        world.record(&format!("the simulator, seed {seed}"));
    }
    let outcome = catch_unwind(AssertUnwindSafe(|| course(scenario, &mut world, &mut prng)));
    if let Err(panic) = outcome {
        let what = panic_text(&*panic);
        let now_ns = world.now_ns();
        world.judge.refuse("nothing_panics", what, now_ns);
    }
    Report {
        seed,
        hash: world.trace.hash(),
        counts: world.counts(),
        acknowledged: world.judge.acknowledged(),
        delivered: world.judge.delivered(),
        fired: *world.faults.fired(),
        counted: world.counted(),
        simulated_ns: world.now_ns(),
        history: world.take_history(),
        violation: world.judge.violation().cloned(),
    }
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_default()
}

fn course(scenario: &dyn Scenario, world: &mut World, prng: &mut Prng) {
    let population = prng.next_u64();
    scenario.populate(world, population);
    let safety_ns = prng.range(300_000_000, 6_000_000_000);
    world.run(safety_ns, |_| false);
    world.heal();
    settle(world);
    for node in world.nodes() {
        if prng.chance(1, 2) {
            let incarnation = world.incarnation(node);
            world.ask_to_stop(node);
            let until_ns = world.now_ns() + PROGRESS_WITHIN_NS;
            world.run(until_ns, |world| world.incarnation(node) != incarnation);
        }
        world.cut_power(node);
    }
    scenario.audit(world, population);
    settle(world);
}

/// Runs until nobody waits, and tells the history who still does when the time is over.
pub(crate) fn settle(world: &mut World) {
    let until_ns = world.now_ns() + PROGRESS_WITHIN_NS;
    world.run(until_ns, |world| !world.somebody_waits());
    world.look_for_strangers();
    world.look_at_memory();
    let waiting = world.waiting();
    if !world.judge.is_broken() {
        world.observe(&Observation::Finished { waiting });
    }
}
