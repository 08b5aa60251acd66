//! A fixed set of seeds of the whole node, each run twice: no property is broken, and both runs are the same to the last
//! byte. `cargo run --release -p sim -- --seeds A..B` runs as many others as there is time for.

use sim::node::OneNode;
use sim::run::{Options, Scenario, run};
use sim::world::faults::{Fault, Faults};
use sim::world::{Counted, World};
use tiderace_base::prng::Prng;

const SEEDS: u64 = 60;

#[test]
fn fixed_seeds_break_no_property_and_are_the_same_twice() {
    let mut acknowledged = 0;
    let mut restarts = 0;
    let mut counted = Counted::new();
    for seed in 0..SEEDS {
        let report = run(&OneNode, seed, Options::default());
        assert_eq!(
            report.violation, None,
            "cargo run --release -p sim -- --seed {seed} --trace"
        );
        assert_eq!(
            report,
            run(&OneNode, seed, Options::default()),
            "seed {seed}: two runs differ"
        );
        acknowledged += report.acknowledged;
        restarts += report.counts.restarts;
        for (name, count) in report.counted {
            *counted.entry(name).or_default() += count;
        }
    }
    assert!(
        acknowledged > 10 * SEEDS && restarts > SEEDS,
        "the seeds do too little to show anything"
    );
    let rare = [
        "duplicates_total",
        "journal_segments_recycled_total",
        "producers_expired_total",
        "producers_expired_for_memory_total",
        "producer_windows_cut_total",
    ];
    for name in rare {
        assert!(counted[name] > 0, "no seed comes to {name}");
    }
}

/// What once broke something, each with what it was.
const KEPT: [(u64, &str); 3] = [
    (
        2,
        "one failed read of a file of one block was told as damage",
    ),
    (
        253_670,
        "a file that was begun anew and torn, twice not recovered: the life before was taken for kept",
    ),
    (
        567_866,
        "the judge, not the node: a gap of a dead process's `memory` stream came late, and counted",
    ),
];

#[test]
fn seeds_that_broke_something_do_not() {
    for (seed, what) in KEPT {
        let report = run(&OneNode, seed, Options::default());
        assert_eq!(report.violation, None, "seed {seed}: {what}");
    }
}

/// The same node on disks that do not keep what they promise.
struct OnLyingDisks;

impl Scenario for OnLyingDisks {
    fn populate(&self, world: &mut World, seed: u64) {
        OneNode.populate(world, seed);
    }

    fn audit(&self, world: &mut World, seed: u64) {
        OneNode.audit(world, seed);
    }

    fn faults(&self, _prng: &mut Prng) -> Faults {
        let mut faults = Faults::none();
        faults.set(Fault::LyingDisk, 300_000);
        faults.set(Fault::PowerLoss, 300_000);
        faults
    }
}

#[test]
fn a_disk_that_lies_is_noticed() {
    let noticed = (0..20).filter(|seed| {
        run(&OnLyingDisks, *seed, Options::default())
            .violation
            .is_some()
    });
    assert!(noticed.count() >= 15, "the properties are blind");
}
