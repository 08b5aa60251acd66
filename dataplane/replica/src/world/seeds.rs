//! Seeds of the model world: a fixed set that always runs, as many more as are asked for in a release build, and every
//! planted bug, each of which has to be noticed within the number of seeds that stands beside it.

use super::run;
use crate::planted::{Bug, plant};
use std::panic::catch_unwind;

const FIXED: u64 = if cfg!(debug_assertions) {
    2_000
} else {
    20_000
};

fn reason(seed: u64) -> Option<String> {
    let panic = catch_unwind(|| run(seed)).err()?;
    let text = panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    Some(text.unwrap_or_default())
}

/// under every seed.
#[test]
fn nothing_committed_is_lost_and_every_slot_gets_going_again() {
    let (mut committed, mut epochs, mut lossy) = (0, 0, 0);
    for seed in 0..FIXED {
        if let Some(reason) = reason(seed) {
            panic!("seed {seed}: {reason}");
        }
        let outcome = run(seed);
        committed += outcome.committed;
        epochs += outcome.epochs;
        lossy += u64::from(outcome.lossy);
    }
    let seeds = usize::try_from(FIXED).expect("few");
    println!(
        "{FIXED} seeds: {committed} entries committed, {epochs} epochs served, {lossy} with a declared loss"
    );
    assert!(
        committed > 5 * seeds && epochs > 2 * seeds && lossy > 0,
        "the world does something"
    );
}

/// The same seed is the same run.
#[test]
fn a_seed_decides_everything() {
    for seed in 0..20 {
        assert_eq!(run(seed), run(seed));
    }
}
