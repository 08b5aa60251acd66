//! Seeds of the model world: a fixed set that always runs, as many more as are asked for in a release build, and every
//! planted bug, each of which has to be noticed within the number of seeds that stands beside it.

use super::{Outcome, run};
use crate::lease::tests as lease;
use crate::planted::{Bug, plant};
use crate::tests::{copying, leading, sealing};
use std::panic::catch_unwind;

const FIXED: u64 = if cfg!(debug_assertions) {
    2_000
} else {
    20_000
};

fn judged(seed: u64) -> Result<Outcome, String> {
    catch_unwind(|| run(seed)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let short = || panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(short).unwrap_or_default()
    })
}

/// under every seed.
#[test]
fn nothing_committed_is_lost_and_every_slot_gets_going_again() {
    let (mut committed, mut given, mut epochs, mut lossy) = (0, 0, 0, 0);
    let mut failed = Vec::new();
    for seed in 0..FIXED {
        match judged(seed) {
            Ok(outcome) => {
                committed += outcome.committed;
                given += outcome.given;
                epochs += outcome.epochs;
                lossy += u64::from(outcome.lossy);
            }
            Err(reason) => failed.push((seed, reason)),
        }
    }
    println!(
        "{FIXED} seeds: {committed} entries committed, {given} epochs given and {epochs} served, {lossy} with a declared loss"
    );
    for (seed, reason) in failed.iter().take(12) {
        println!("seed {seed}: {}", reason.lines().next().unwrap_or_default());
    }
    if let Some((seed, reason)) = failed.first() {
        panic!(
            "{} of {FIXED} seeds fail, the first is {seed}: {reason}",
            failed.len()
        );
    }
    let seeds = usize::try_from(FIXED).expect("few");
    assert!(
        committed > 5 * seeds && epochs > seeds && lossy > 0,
        "the world does something"
    );
}

/// How many seeds each planted bug may take to be noticed.
const PLANTED: &[(Bug, u64)] = &[
    (Bug::ResumeEpoch, 1_000),
    (Bug::ChangeSetUnsealed, 1_000),
    (Bug::CountCut, 6_000),
    (Bug::ForgetSuspect, 6_000),
    (Bug::CountByNode, 6_000),
    (Bug::ServeBeforeStart, 1_000),
    (Bug::CutByWatermark, 1_000),
    (Bug::TruncateLate, 6_000),
    (Bug::ForgetLeaseOfOne, 20_000),
    (Bug::ForgetConfirmation, 6_000),
    (Bug::LeaseFromAnswer, 10_000),
    (Bug::CommitUnmatched, 1_000),
    (Bug::AcknowledgeUnmatched, 1_000),
    (Bug::TakeBelowPromise, 6_000),
    (Bug::CommitBeforeSet, 6_000),
];

/// Bugs that take a coincidence of three faults in a short time: the rule's own test notices them.
const DIRECTED: &[(Bug, fn())] = &[
    (
        Bug::CommitOlderEpochs,
        leading::the_committed_end_jumps_over_the_tail_with_the_epoch_start,
    ),
    (
        Bug::AnswerUndurableSeal,
        sealing::a_seal_is_answered_when_it_is_durable_and_then_always_the_same,
    ),
    (
        Bug::ForgetGrantsAtStart,
        lease::a_granter_that_starts_assumes_the_longest_lease,
    ),
    (
        Bug::ClearMarkEarly,
        copying::a_mark_goes_with_an_epoch_start_that_was_committed_after_it,
    ),
    (
        Bug::TakeBehindDamage,
        copying::behind_unreadable_bytes_only_the_same_epoch_goes_on,
    ),
    (
        Bug::RepeatLostAnswer,
        sealing::a_restart_repeats_the_answer_unless_damage_took_what_it_said,
    ),
    (
        Bug::MistakeDurable,
        copying::a_completion_of_what_was_cut_says_nothing_about_what_replaced_it,
    ),
];

///
#[test]
fn every_rare_bug_is_noticed_by_its_rule() {
    for (bug, test) in DIRECTED {
        assert!(catch_unwind(test).is_ok(), "sound without {bug:?}");
        plant(Some(*bug));
        let noticed = catch_unwind(test).is_err();
        plant(None);
        assert!(noticed, "{bug:?} is not noticed");
    }
}

/// A world that never refused anything has shown nothing.
#[test]
fn every_planted_bug_is_noticed() {
    let mut missed = Vec::new();
    for (bug, seeds_max) in PLANTED {
        plant(Some(*bug));
        let noticed = (0..*seeds_max).find_map(|seed| Some((seed, judged(seed).err()?)));
        plant(None);
        match noticed {
            Some((seed, reason)) => {
                let first = reason.lines().next().unwrap_or_default();
                let short: String = first.chars().take(90).collect();
                println!("{bug:?}: seed {seed}: {short}");
            }
            None => missed.push(*bug),
        }
    }
    assert!(missed.is_empty(), "not noticed: {missed:?}");
}

/// The same seed is the same run.
#[test]
fn a_seed_decides_everything() {
    for seed in 0..20 {
        assert_eq!(run(seed), run(seed));
    }
}
