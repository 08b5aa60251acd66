//! The course of one run. Phases: clients work while faults fire; then faults stop and everybody must reach their goal
//! within bounded simulated time: first whoever writes, then every subscriber, on the subscription that it has, the end that
//! there is when nobody writes any more. Then, sometimes after an orderly stop, the power is cut once more and every record
//! is read from the first to the last. Invariant: the report depends on the scenario and the seed alone.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tiderace_base::prng::Prng;

use crate::history::{Judge, Observation, Violation};
use crate::world::faults::{Faults, Fired, Without};
use crate::world::scheduler::Counts;
use crate::world::trace::Lines;
use crate::world::{Counted, Setup, World};

/// The time within which everybody must reach their goal once faults have stopped. A client gives up on a silent
/// connection after five seconds, a stall of a disk ends within five, an orderly stop under way takes as long as its readers
/// do, five more: one behind the other that is half of this. The summary says how long the slowest took.
const PROGRESS_WITHIN_NS: u64 = 30_000_000_000;

/// What is simulated: nodes, and clients with goals.
pub trait Scenario {
    /// Adds nodes and clients to an empty world. `seed` decides which.
    fn populate(&self, world: &mut World, seed: u64);

    /// Adds readers that read everything there is; nobody writes any more. `seed` is the one of the population.
    fn audit(&self, world: &mut World, seed: u64);

    /// What this seed's population is, for people.
    fn describe(&self, seed: u64) -> String {
        format!("population {seed}")
    }

    /// The mixture of faults for this seed.
    fn faults(&self, prng: &mut Prng) -> Faults {
        Faults::draw(prng)
    }
}

/// How a seed is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// What becomes of the trace's lines.
    pub lines: Lines,
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
    /// The longest that it took until everybody had reached their goal, in simulated nanoseconds.
    pub progress_ns: u64,
    /// The history, as a file has it, if it was to be written.
    pub history: Vec<u8>,
    /// What was broken, if anything was.
    pub violation: Option<Violation>,
    /// Every property that was broken, the first one first.
    pub broken: Vec<&'static str>,
    /// The last lines of the trace, if they were to be kept.
    pub last_lines: Vec<String>,
}

/// Properties that the world refuses by itself: they are not about what clients see.
pub const OF_THE_WORLD: [&str; 5] = [
    "fatal_needs_a_cause",
    "nothing_panics",
    "nothing_spins",
    "recovery_never_refuses_a_sound_disk",
    "sound_bytes_are_never_damaged",
];

/// How a panic begins that says that a node gave an alarm where no bytes rot.
pub(crate) const NOTHING_IS_DAMAGED: &str = "nothing is damaged, and a node says";

/// What a seed draws: the chance of each fault in millionths, but for those that never fire, the bounds of its world, and
/// who is there.
#[must_use]
pub fn mixture(scenario: &dyn Scenario, seed: u64, options: Options) -> String {
    let mut prng = Prng::new(seed);
    let setup = draw(scenario, &mut prng, options);
    let population = scenario.describe(prng.next_u64());
    format!(
        "{}; mesh limit {}, receive buffers {}; {population}",
        setup.faults, setup.mesh_limit, setup.receive_buffers
    )
}

fn draw(scenario: &dyn Scenario, prng: &mut Prng, options: Options) -> Setup {
    let mut faults = scenario.faults(prng);
    faults.switch_off(options.without);
    Setup {
        seed: prng.next_u64(),
        faults,
        lines: options.lines,
        mesh_limit: prng.range(2, 64) as usize,
        receive_buffers: prng.range(16, 128) as usize,
    }
}

/// Runs a seed. A panic of the program under test is a violation like any other.
#[must_use]
pub fn run(scenario: &dyn Scenario, seed: u64, options: Options) -> Report {
    let mut prng = Prng::new(seed);
    let setup = draw(scenario, &mut prng, options);
    let mut world = World::new(setup, Judge::default());
    if options.records {
        world.record(&format!("the simulator, seed {seed}"));
    }
    let outcome = catch_unwind(AssertUnwindSafe(|| course(scenario, &mut world, &mut prng)));
    let progress_ns = outcome.unwrap_or_else(|panic| {
        let what = panic_text(&*panic);
        let now_ns = world.now_ns();
        let property = if what.starts_with(NOTHING_IS_DAMAGED) {
            "sound_bytes_are_never_damaged"
        } else {
            "nothing_panics"
        };
        world.judge.refuse(property, what, now_ns);
        0
    });
    Report {
        seed,
        hash: world.trace.hash(),
        counts: world.counts(),
        acknowledged: world.judge.acknowledged(),
        delivered: world.judge.delivered(),
        fired: *world.faults.fired(),
        counted: world.counted(),
        simulated_ns: world.now_ns(),
        progress_ns,
        history: world.take_history(),
        violation: world.judge.violation().cloned(),
        broken: world.judge.broken(),
        last_lines: world.trace.take_kept(),
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

/// Runs the phases; the longest that everybody's goals took.
fn course(scenario: &dyn Scenario, world: &mut World, prng: &mut Prng) -> u64 {
    let population = prng.next_u64();
    scenario.populate(world, population);
    let safety_ns = prng.range(300_000_000, 6_000_000_000);
    world.run(safety_ns, |_| false);
    world.heal();
    let mut progress_ns = settle(world);
    let stops: Vec<bool> = world.nodes().map(|_| prng.chance(1, 2)).collect();
    // A stop meets subscribers that are behind only where they are not waited for before.
    let waits_for_readers = !stops.contains(&true) || prng.chance(1, 2);
    if waits_for_readers {
        world.conclude();
        progress_ns = progress_ns.max(settle(world));
    }
    for (node, stops) in world.nodes().zip(stops) {
        if stops {
            let incarnation = world.incarnation(node);
            world.ask_to_stop(node);
            let until_ns = world.now_ns() + PROGRESS_WITHIN_NS;
            world.run(until_ns, |world| world.incarnation(node) != incarnation);
        }
        world.cut_power(node);
    }
    scenario.audit(world, population);
    world.conclude();
    progress_ns.max(settle(world))
}

/// Runs until nobody waits, and tells the history who still does when the time is over. How long it took.
pub(crate) fn settle(world: &mut World) -> u64 {
    let begun_ns = world.now_ns();
    world.run(begun_ns + PROGRESS_WITHIN_NS, |world| {
        !world.somebody_waits()
    });
    let took_ns = world.now_ns() - begun_ns;
    world.look_for_strangers();
    world.look_at_memory();
    let waiting = world.waiting();
    if !world.judge.is_broken() {
        world.observe(&Observation::Finished { waiting });
    }
    took_ns
}
