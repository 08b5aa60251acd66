//! `kill -9` of a real node under load, thousands of times: behind any acknowledgement, the moment it says that it runs, within
//! milliseconds of a start and in the middle of a recovery, several times in a row, while it drains, while SIGSTOP holds it, and
//! just after SIGCONT. After each cycle the node starts on the same directory, and what was acknowledged since the cycle before
//! is read from it: each record once, in order, as it was sent.

use crate::cycles::{Failure, Plan, Progress, Summary, guarded, let_pass};
use crate::era::Era;
use integration::node::{Node, Setup};
use integration::scratch::Scratch;
use integration::{files, runtime};
use rustix::process::{Signal, kill_process};
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tiderace_base::prng::Prng;
use tokio::runtime::Runtime;

/// Cycles of one stream.
pub const ERA_CYCLES: u64 = 250;
/// Everything is read after so many cycles.
const WHOLE_EVERY: u64 = 25;
/// A kill under load comes behind at most so many acknowledgements.
const ACKS_MAX: u64 = 300;
/// A start is cut short within its first milliseconds, or anywhere in the time that one takes, and a little behind it.
const EARLY_US_MAX: u64 = 4_000;
const LATE_US_MAX: u64 = 80_000;
/// How long a process is held by SIGSTOP.
const HELD_US_MAX: u64 = 30_000;

/// When a running node is killed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Moment {
    /// Behind some acknowledgements.
    Loaded,
    /// The moment it runs, or as soon as may be.
    AtOnce,
    /// After SIGTERM.
    Draining,
    /// While SIGSTOP holds it.
    Held,
    /// After SIGSTOP and SIGCONT.
    LetGo,
}

impl Moment {
    fn drawn(prng: &mut Prng) -> Self {
        match prng.below(10) {
            0..=4 => Self::Loaded,
            5 => Self::AtOnce,
            6 => Self::Draining,
            7 => Self::Held,
            _ => Self::LetGo,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Loaded => "kills under load",
            Self::AtOnce => "kills as soon as it runs",
            Self::Draining => "kills while it drains",
            Self::Held => "kills while SIGSTOP holds it",
            Self::LetGo => "kills behind SIGCONT",
        }
    }
}

/// Runs it.
///
/// # Errors
/// What must not have come.
pub fn run(plan: &Plan, tell: &(dyn Fn(&str) + Sync)) -> Result<Summary, Failure> {
    let at = AtomicU64::new(0);
    guarded(&at, || torture(plan, &at, tell)).map_err(Failure::Violated)
}

fn torture(plan: &Plan, at: &AtomicU64, tell: &(dyn Fn(&str) + Sync)) -> Summary {
    let scratch = Scratch::new("torture-kill");
    let setup = Setup::new(&scratch).with("segment", "4MiB");
    let runtime = runtime();
    let progress = Progress::new("kill", tell);
    let mut summary = Summary::default();
    let mut node = Node::start(&setup);
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
        let moment = Moment::drawn(&mut prng);
        node = one(
            &setup,
            &runtime,
            node,
            load,
            moment,
            &mut prng,
            &mut summary,
        );
        let whole = cycle % WHOLE_EVERY == WHOLE_EVERY - 1;
        let read = load.verify(&runtime, whole);
        summary.add("records read back", read);
        summary.add("readings of everything", u64::from(whole));
        if (cycle + 1).is_multiple_of(ERA_CYCLES) || cycle + 1 == numbers.end {
            end(era.take(), &runtime, &mut summary);
            let bytes = files::size_of(&setup.data_dir);
            summary.at_most("MiB on disk at most", bytes >> 20);
        }
        summary.cycles += 1;
        progress.step(&summary);
    }
    node.stop();
    let bytes = fs::metadata(setup.data_dir.join("layout")).map(|it| it.len());
    assert!(bytes.is_ok(), "the directory is there");
    summary
}

fn end(era: Option<Era>, runtime: &Runtime, summary: &mut Summary) {
    if let Some(era) = era {
        let (acked, delivered) = era.end(runtime);
        summary.add("acknowledgements checked", acked);
        summary.add("deliveries judged", delivered);
    }
}

/// Kills a node at a moment, cuts some starts short, and starts it.
fn one(
    setup: &Setup,
    runtime: &Runtime,
    node: Node,
    load: &mut Era,
    moment: Moment,
    prng: &mut Prng,
    summary: &mut Summary,
) -> Node {
    let acks = prng.below(ACKS_MAX);
    let held = drawn(prng, HELD_US_MAX);
    let short = drawn(prng, EARLY_US_MAX);
    match moment {
        Moment::AtOnce => {}
        Moment::Loaded => load.work(runtime, acks),
        Moment::Draining => {
            load.work(runtime, acks);
            node.terminate();
            let_pass(short);
        }
        Moment::Held => {
            load.work(runtime, acks);
            signal(&node, Signal::STOP);
            let_pass(held);
        }
        Moment::LetGo => {
            load.work(runtime, acks);
            signal(&node, Signal::STOP);
            let_pass(held);
            signal(&node, Signal::CONT);
            let_pass(short);
        }
    }
    node.kill();
    load.died();
    summary.add(moment.name(), 1);
    summary.add("kills", 1);

    let cut_short = match prng.below(8) {
        0..=3 => 0,
        4..=6 => 1,
        _ => prng.range(2, 4),
    };
    for _ in 0..cut_short {
        let early = prng.chance(1, 2);
        let until = drawn(prng, if early { EARLY_US_MAX } else { LATE_US_MAX });
        let node = Node::spawn(setup);
        let_pass(until);
        let ran = node.has_said_that_it_runs();
        node.kill();
        load.died();
        summary.add("kills", 1);
        summary.add(
            match (ran, early) {
                (true, _) => "kills just behind a start",
                (false, true) => "kills within 4 ms of a start",
                (false, false) => "kills in the middle of a start",
            },
            1,
        );
    }
    let node = Node::start(setup);
    load.started();
    node
}

fn drawn(prng: &mut Prng, us_max: u64) -> Duration {
    Duration::from_micros(prng.below(us_max))
}

fn signal(node: &Node, signal: Signal) {
    kill_process(node.pid(), signal).expect("it is ours");
}
