//! The seeds that every test run goes through, and the bugs that they must notice.

use super::super::planted::{Bug, plant};
use super::World;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Seeds of an ordinary run.
const SEEDS: u64 = 150;
/// Within so many seeds each planted bug is noticed.
const PLANTED_SEEDS: u64 = 1000;

fn seed(seed: u64, counts: &mut BTreeMap<&'static str, u64>) -> Result<(), String> {
    let mut world = World::new(seed);
    let result = world.run();
    for (what, count) in &world.counts {
        *counts.entry(what).or_default() += count;
    }
    result
}

#[test]
fn nothing_that_must_never_be_is_in_any_seed() {
    let mut counts = BTreeMap::new();
    // More of them: RAFT_SEEDS=20000 cargo test -p tiderace-control raft
    let seeds = option_env!("RAFT_SEEDS").map_or(SEEDS, |count| count.parse().expect("a number"));
    for number in 0..seeds {
        if let Err(what) = seed(number, &mut counts) {
            panic!("seed {number}: {what}");
        }
    }
    for what in [
        "elected",
        "committed",
        "read",
        "lease held",
        "handed over",
        "members changed",
        "compacted",
        "state installed",
        "crashed",
        "damaged",
        "partitioned",
        "isolated",
        "cut and restarted",
        "cut and damaged",
    ] {
        assert!(
            counts.get(what).is_some_and(|count| *count > 0),
            "{what}: never"
        );
    }
}

#[test]
fn every_planted_bug_is_noticed() {
    let only = option_env!("RAFT_BUG");
    for bug in Bug::ALL {
        if only.is_some_and(|only| only != format!("{bug:?}")) {
            continue;
        }
        plant(Some(bug));
        let noticed = (0..PLANTED_SEEDS).find(|number| {
            let mut counts = BTreeMap::new();
            // A panic is no finding: the property is what has to notice.
            let seen = catch_unwind(AssertUnwindSafe(|| seed(*number, &mut counts)));
            seen.is_ok_and(|it| it.is_err())
        });
        plant(None);
        println!("{bug:?}: noticed by seed {noticed:?}");
        assert!(noticed.is_some(), "{bug:?} is not noticed");
    }
}
