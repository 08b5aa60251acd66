//! SIGSTOP and SIGCONT of a real node under load: for microseconds, for longer than a client waits before it asks again, several
//! times in a row. Whoever was connected goes on where it stood, nothing is lost or doubled by what clients did meanwhile, and
//! the node never dies of it.

use crate::cycles::{Failure, Plan, Progress, Summary, guarded, let_pass};
use crate::era::Era;
use integration::node::{Node, Setup};
use integration::runtime;
use integration::scratch::Scratch;
use rustix::process::{Signal, kill_process};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Cycles of one stream.
const ERA_CYCLES: u64 = 250;
/// Everything is read after so many cycles.
const WHOLE_EVERY: u64 = 25;
const ACKS_MAX: u64 = 300;
const STOPS_MAX: u64 = 4;
/// Most stops are short; one in sixteen is long.
const SHORT_US_MAX: u64 = 20_000;
const LONG_US_MAX: u64 = 1_500_000;
const BETWEEN_US_MAX: u64 = 3_000;

/// Runs it.
///
/// # Errors
/// What must not have come.
pub fn run(plan: &Plan, tell: &(dyn Fn(&str) + Sync)) -> Result<Summary, Failure> {
    let at = AtomicU64::new(0);
    guarded(&at, || torture(plan, &at, tell)).map_err(Failure::Violated)
}

fn torture(plan: &Plan, at: &AtomicU64, tell: &(dyn Fn(&str) + Sync)) -> Summary {
    let scratch = Scratch::new("torture-stop");
    let setup = Setup::new(&scratch).with("segment", "4MiB");
    let runtime = runtime();
    let progress = Progress::new("stop", tell);
    let mut summary = Summary::default();
    let node = Node::start(&setup);
    let mut era: Option<Era> = None;
    let numbers = plan.numbers_since(ERA_CYCLES);
    for cycle in numbers.clone() {
        at.store(cycle, Ordering::Relaxed);
        let mut prng = plan.choices(cycle);
        let load = era.get_or_insert_with(|| {
            let number = cycle / ERA_CYCLES;
            let history = scratch.join(&format!("history-{number}.json"));
            Era::begin(&runtime, setup.server, number, history)
        });
        load.work(&runtime, prng.below(ACKS_MAX));
        for _ in 0..prng.range(1, STOPS_MAX + 1) {
            let is_long = prng.chance(1, 16);
            let held = prng.below(if is_long { LONG_US_MAX } else { SHORT_US_MAX });
            kill_process(node.pid(), Signal::STOP).expect("it is ours");
            let_pass(Duration::from_micros(held));
            kill_process(node.pid(), Signal::CONT).expect("it is ours");
            let_pass(Duration::from_micros(prng.below(BETWEEN_US_MAX)));
            summary.add("stops", 1);
            summary.add("stops of up to 1.5 s", u64::from(is_long));
        }
        let whole = cycle % WHOLE_EVERY == WHOLE_EVERY - 1;
        let read = load.verify(&runtime, whole);
        summary.add("records read back", read);
        if (cycle + 1).is_multiple_of(ERA_CYCLES) || cycle + 1 == numbers.end {
            let ended = era.take().map(|era| era.end(&runtime));
            let (acked, delivered) = ended.unwrap_or_default();
            summary.add("acknowledgements checked", acked);
            summary.add("deliveries judged", delivered);
        }
        summary.cycles += 1;
        progress.step(&summary);
    }
    node.stop();
    summary
}
