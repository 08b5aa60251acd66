//! The seeds that every test run goes through, and the bugs that they must notice.

use super::super::planted::{Bug, plant};
use super::World;
use super::disk::Disk;
use crate::raft::{Config, Members, ProposeError, Raft, Role, Timing};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use tiderace_base::ids::{BootId, NodeId};
use tiderace_base::time::Mono;

/// Seeds of an ordinary run.
const SEEDS: u64 = 150;
/// Within so many seeds each planted bug is noticed.
const PLANTED_SEEDS: u64 = 600;

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
    let from = option_env!("RAFT_FROM").map_or(0, |from| from.parse().expect("a number"));
    let seeds = option_env!("RAFT_SEEDS").map_or(SEEDS, |count| count.parse().expect("a number"));
    for number in from..from + seeds {
        let seen = catch_unwind(AssertUnwindSafe(|| seed(number, &mut counts)));
        match seen {
            Ok(Ok(())) => {}
            Ok(Err(what)) => panic!("seed {number}: {what}"),
            Err(panicked) => {
                println!("seed {number} panicked");
                resume_unwind(panicked);
            }
        }
    }
    for what in [
        "elected",
        "committed",
        "read",
        "lease held",
        "handed over",
        "members changed",
        "led unheard",
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
        // Schedules of their own come to them: schedules.rs.
        if matches!(
            bug,
            Bug::ReadmitUnasked | Bug::HealTooSoon | Bug::LeadUndurable
        ) {
            continue;
        }
        plant(Some(bug));
        let noticed = (0..PLANTED_SEEDS).find(|number| {
            let mut counts = BTreeMap::new();
            // A panic is no finding: the property is what has to notice.
            let seen = catch_unwind(AssertUnwindSafe(|| seed(*number, &mut counts)));
            seen.is_ok_and(|it| it.is_err_and(|what| !what.contains(super::MULTIPLY)))
        });
        plant(None);
        println!("{bug:?}: noticed by seed {noticed:?}");
        assert!(noticed.is_some(), "{bug:?} is not noticed");
    }
}

/// It may be the only holder of the change's second step, and nobody who votes would get its vote.
#[test]
fn a_leader_does_not_remove_itself() {
    let node = NodeId::new(1);
    let config = Config {
        node,
        boot: BootId::new(1),
        timing: Timing::default(),
        seed: 1,
        is_new: false,
    };
    let disk = Disk::new(Members::voters([node]));
    let mut raft = Raft::new(config, disk.restored(), Mono::from_ns(0));
    let now = raft.next_wake().expect("it stands for election");
    raft.tick(now);
    assert_eq!(raft.role(), Role::Leader);
    let others = BTreeSet::from([NodeId::new(2)]);
    let refused = raft.change_members(&others, &BTreeSet::new(), now);
    assert_eq!(refused, Err(ProposeError::HandOverFirst));
    let both = BTreeSet::from([node, NodeId::new(2)]);
    assert!(raft.change_members(&both, &BTreeSet::new(), now).is_ok());
}
