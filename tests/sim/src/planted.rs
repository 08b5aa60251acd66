//! The checkers, checked: each bug of [`Bug::ALL`] is planted in the product's own code, and the properties that it is aimed
//! at have to notice it, within so many seeds. Whatever else notices it first is on its list: a bug that something else finds
//! shows nothing of the checker that it was planted for. Only in builds with `--cfg planted`.

use std::collections::BTreeSet;
use std::panic;

use tiderace_base::planted::{Bug, plant};

use crate::history::Violation;
use crate::history::properties::names;
use crate::node::{DrainedNode, Habit, OneNode};
use crate::run::{OF_THE_WORLD, Options, Scenario, run};

/// What a bug is planted for.
#[derive(Clone, Copy, Debug)]
pub struct Aim {
    /// The properties that have to notice it.
    pub at: &'static [&'static str],
    /// Those that may notice it, too, or before.
    pub others: &'static [&'static str],
    /// How many seeds it may take until all that have to have noticed it.
    pub seeds_max: u64,
}

/// A property that noticed a bug.
#[derive(Clone, Debug)]
pub struct Noticed {
    /// Which property.
    pub property: &'static str,
    /// By which seed.
    pub seed: u64,
    /// What broke first in that seed.
    pub violation: Violation,
}

/// Why a bug was not noticed as it should be.
#[derive(Clone, Debug)]
pub enum Missed {
    /// Nothing broke that it is aimed at, in as many seeds as it may take: these properties.
    By(Vec<&'static str>),
    /// Something broke that it should not break.
    Unexpected(u64, Violation),
}

/// What notices each bug.
#[must_use]
pub const fn aim(bug: Bug) -> Aim {
    const fn at(at: &'static [&'static str], others: &'static [&'static str], seeds: u64) -> Aim {
        Aim {
            at,
            others,
            seeds_max: seeds,
        }
    }
    // Where nothing else is said a run ends at its first violation, so that what comes first hides what would follow.
    match bug {
        Bug::AcknowledgeBeforeSync => at(&["recovery_never_refuses_a_sound_disk"], &[], 10),
        Bug::AcknowledgeOutOfOrder => at(
            &["no_cycle_of_waiting", "sound_bytes_are_never_damaged"],
            &[
                "acknowledged_is_never_lost",
                "acknowledged_is_never_weaker_than_its_level",
                "offsets_never_disagree",
                "old_epochs_are_refused",
                "recovery_never_refuses_a_sound_disk",
                "sends_never_overtake",
            ],
            100,
        ),
        Bug::RetryFailedSync => at(
            &["sound_bytes_are_never_damaged"],
            &["recovery_never_refuses_a_sound_disk"],
            300,
        ),
        Bug::RewriteTailBlock => at(&["nothing_panics"], &[], 10),
        Bug::ParseOldChunk => at(
            &["recovery_never_refuses_a_sound_disk"],
            &["sound_bytes_are_never_damaged"],
            100,
        ),
        Bug::DropChunkOnRecovery => at(
            &["recovery_never_refuses_a_sound_disk"],
            &[
                "deleted_data_never_comes_back",
                "nodes_never_break_the_protocol",
            ],
            10,
        ),
        Bug::ForgetMarks => at(&["recovery_never_refuses_a_sound_disk"], &[], 10),
        Bug::RecycleTooEarly => at(&["nodes_never_break_the_protocol"], &[], 10),
        Bug::ForgetProducerWindow => at(
            &["acknowledged_is_never_lost", "retries_never_duplicate"],
            &[],
            30,
        ),
        Bug::AnswerDuplicateEarly => at(&["acknowledged_is_never_lost"], &[], 1000),
        Bug::ReuseOffset => at(&["nothing_panics"], &[], 10),
        Bug::DeliverUndurable => at(&["nodes_never_break_the_protocol"], &[], 30),
        // A checkpoint whose times go back is none.
        Bug::FollowWallClock => at(
            &["append_time_never_goes_back"],
            &["recovery_never_refuses_a_sound_disk"],
            50,
        ),
        Bug::ResumeOldEpoch => at(&["old_epochs_are_refused"], &[], 10),
        Bug::AcceptOldEpoch => at(&["old_epochs_are_refused"], &[], 30),
        Bug::KeepDeleted => at(&["no_cycle_of_waiting"], &[], 10),
        Bug::LeakCredit => at(&["credit_is_conserved"], &["no_cycle_of_waiting"], 200),
        Bug::ForgetWaiting => at(&["no_cycle_of_waiting"], &[], 1000),
        Bug::AnswerAnother => at(
            &["nodes_never_break_the_protocol"],
            &["offsets_never_disagree", "retries_never_duplicate"],
            10,
        ),
        Bug::ForgetReaders => at(&["a_drain_never_forgets_a_reader"], &[], 300),
        Bug::ForgetSubscription => at(&["no_cycle_of_waiting"], &[], 20),
        Bug::KeepEverybody => at(&["memory_never_exceeds_its_budget"], &[], 50),
        Bug::AnswerOldEnd => at(
            &[
                "acknowledged_is_never_weaker_than_its_level",
                "delivered_is_never_taken_back",
                "reads_are_never_stale",
            ],
            &["acknowledged_is_never_lost"],
            50,
        ),
        Bug::RefuseAppended => at(&["refused_is_never_visible"], &["no_cycle_of_waiting"], 20),
        Bug::DeliverAgain => at(&["polls_never_go_back"], &[], 20),
        Bug::SkipBatch => at(
            &["acknowledged_is_never_passed_over", "polls_never_skip"],
            &[],
            50,
        ),
        Bug::AcceptFenced => at(&["old_epochs_are_refused", "sends_never_overtake"], &[], 50),
        Bug::AnswerOtherPlace => at(
            &["offsets_never_disagree"],
            &["retries_never_duplicate", "sends_never_overtake"],
            20,
        ),
        Bug::TrimTooMuch => at(&["retention_never_drops_too_much"], &[], 50),
        Bug::SayDropped => at(&["deleted_data_never_comes_back"], &[], 30),
        Bug::OverspendCredit => at(&["credit_is_conserved"], &[], 20),
        Bug::AcknowledgeNamelessEarly => at(
            &["reads_are_never_stale", "sends_never_overtake"],
            &[
                "acknowledged_is_never_lost",
                "acknowledged_is_never_weaker_than_its_level",
                "offsets_never_disagree",
                "old_epochs_are_refused",
            ],
            100,
        ),
        Bug::ExitForNothing => at(&["fatal_needs_a_cause"], &[], 500),
    }
}

/// Properties that are judged and that no bug is aimed at, and why.
pub const WITHOUT_A_BUG: [(&str, &str); 5] = [
    (
        "committed_offsets_never_go_back",
        "there are no groups yet, and the simulator judges nothing by it",
    ),
    (
        "nothing_spins",
        "a run that spins takes a minute: a bug of that kind would cost as much as all the others",
    ),
    (
        "offsets_never_have_holes",
        "the step of a reader that would make a hole is refused before, by polls_never_skip; it is for readers that share the \
         work",
    ),
    (
        "tenants_never_leak",
        "there are no tenants yet, and the simulator judges nothing by it",
    ),
    (
        "truncated_never_comes_back",
        "nothing is truncated without replicas, and the simulator judges nothing by it",
    ),
];

/// Properties for which there is neither a bug nor a reason, or both.
#[must_use]
pub fn unaimed() -> Vec<&'static str> {
    let aimed: BTreeSet<&str> = Bug::ALL
        .iter()
        .flat_map(|bug| aim(*bug).at.iter().copied())
        .collect();
    let excused: BTreeSet<&str> = WITHOUT_A_BUG.iter().map(|(name, _)| *name).collect();
    let mut all = names();
    all.extend(OF_THE_WORLD);
    all.retain(|name| aimed.contains(name) == excused.contains(name));
    let unknown = aimed.iter().chain(&excused).copied();
    let known: BTreeSet<&str> = names().into_iter().chain(OF_THE_WORLD).collect();
    all.extend(unknown.filter(|name| !known.contains(name)));
    all
}

/// Plants a bug and runs seeds until every property that it is aimed at has noticed it.
///
/// # Errors
/// When one does not, in as many seeds as it may take, or another property breaks than those that may.
pub fn hunt(bug: Bug, seeds_max: u64) -> Result<Vec<Noticed>, Missed> {
    let scenario: &dyn Scenario = match bug {
        // Subscribers that stay until the end are a scenario of their own.
        Bug::ForgetReaders => &DrainedNode {
            habits: &[Habit::Reads],
        },
        _ => &OneNode,
    };
    let aim = aim(bug);
    let mut missing: BTreeSet<&str> = aim.at.iter().copied().collect();
    let mut noticed = Vec::new();
    // A panic is how some of them show: it is caught, and no news.
    let before = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    plant(Some(bug));
    let mut unexpected = None;
    for seed in 0..aim.seeds_max.min(seeds_max) {
        let report = run(scenario, seed, Options::default());
        let Some(violation) = report.violation else {
            continue;
        };
        let may = |property: &&str| aim.at.contains(property) || aim.others.contains(property);
        if !report.broken.iter().all(|property| may(&property)) {
            unexpected = Some((seed, violation));
            break;
        }
        for property in report.broken {
            if missing.remove(property) {
                noticed.push(Noticed {
                    property,
                    seed,
                    violation: violation.clone(),
                });
            }
        }
        if missing.is_empty() {
            break;
        }
    }
    plant(None);
    panic::set_hook(before);
    match unexpected {
        Some((seed, violation)) => Err(Missed::Unexpected(seed, violation)),
        None if missing.is_empty() => Ok(noticed),
        None => Err(Missed::By(missing.into_iter().collect())),
    }
}
