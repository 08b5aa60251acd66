//! A few cycles of each torture: enough to see that each still runs and finds nothing, and that what they tell is what the
//! guide says. Thousands are for the program: `cargo run --release -p torture -- all --cycles 10000`.

#![expect(
    clippy::print_stdout,
    reason = "a test that fails says how far its torture was and what came of it"
)]

use integration::runtime;
use integration::scratch::Scratch;
use std::sync::atomic::AtomicU64;
use tiderace_base::prng::Prng;
use torture::cycles::{Failure, Plan, Summary, guarded};
use torture::damage::{Rot, Target, allowed};
use torture::directory::Directory;
use torture::served::{Outcome, Trial, judge};
use torture::settled::{self, SHARDS};
use torture::{damage, full, image, kill, oracle, refuse, stop};

const DOCUMENT: &str = include_str!("../../../docs/torture.md");

fn told(line: &str) {
    println!("{line}");
}

fn plan(cycles: u64) -> Plan {
    Plan {
        at_once: 8,
        ..Plan::new(1, cycles)
    }
}

#[track_caller]
fn held(ran: Result<Summary, Failure>) -> Option<Summary> {
    match ran {
        Ok(summary) => {
            println!("{summary}");
            Some(summary)
        }
        Err(Failure::Unavailable(what)) => {
            println!("not tried: {what}");
            None
        }
        Err(Failure::Violated(violation)) => panic!("{violation:?}"),
    }
}

#[test]
fn nothing_acknowledged_is_lost_by_kills_and_stops() {
    let killed = held(kill::run(&plan(10), &told)).expect("it needs nothing");
    assert!(killed.count("kills") >= 10);
    assert!(killed.count("acknowledgements checked") > 500);
    let stopped = held(stop::run(&plan(10), &told)).expect("it needs nothing");
    assert!(stopped.count("stops") >= 10);
}

#[test]
fn damage_comes_out_as_it_was_told() {
    let kinds = damage::kinds();
    // Its directory was started often enough to have nearly everything that can be damaged.
    let plan = Plan {
        at_once: 8,
        ..Plan::new(4, kinds.len() as u64)
    };
    let damaged = held(damage::run(&plan, &told)).expect("it needs nothing");
    assert!(damaged.count(Outcome::Refused.name()) > 0);
    // A file whose number came back, which takes more than one directory's load.
    let is_rare = |target, rot| match target {
        Target::Behind => matches!(rot, Rot::Sector | Rot::Block),
        Target::Footer | Target::Spare => rot == Rot::Old,
        _ => false,
    };
    for (target, rot) in kinds {
        if is_rare(target, rot) {
            continue;
        }
        let kind = format!("{}, {}: ", target.name(), rot.name());
        let was_tried = damaged.counts.keys().any(|name| name.starts_with(&kind));
        assert!(was_tried, "{kind}no directory of these cycles has it");
    }
    let mixed = held(image::run(&self::plan(10), &told)).expect("it needs nothing");
    assert_eq!(mixed.cycles, 10);
}

#[test]
fn full_disks_and_refusals_cost_nothing_that_is_kept() {
    if let Some(filled) = held(full::run(&plan(10), &told)) {
        assert!(filled.count("disks filled") >= 10);
    }
    if let Some(refused) = held(refuse::run(&plan(1), &told)) {
        assert_eq!(refused.count("refused: io_uring"), 1);
    }
}

/// A node that does otherwise than was told, in either direction, or that has less than was told, is noticed.
#[test]
fn what_comes_out_otherwise_is_a_violation() {
    let settled = settled::make(&mut Prng::new(3));
    let was = settled.last();
    let told = |directory: &Directory| oracle::expect(directory, SHARDS, &was.committed);
    let whole = &was.directory;
    let mut lost = whole.clone();
    lost.put("shard-0001/superblock", None);
    let mut cut = whole.clone();
    let shards = was.shards.iter().zip([0, 1]);
    let (last, shard) = shards
        .filter_map(|(log, shard)| Some((log.segments.last()?, shard)))
        .find(|(segment, _)| !segment.entries.is_empty())
        .expect("something was written last");
    let name = format!("{}/{}", oracle::shard_folder(shard), last.name());
    cut.change(&name, |bytes| {
        bytes.truncate(last.entries[0].at - last.entries[0].at % 4096);
    });
    for (directory, expected) in [
        (&lost, told(whole)),
        (whole, told(&lost)),
        (&cut, told(whole)),
    ] {
        let scratch = Scratch::new("torture-otherwise");
        let runtime = runtime();
        let trial = Trial {
            again: false,
            is_elsewhere: true,
        };
        let judged = guarded(&AtomicU64::new(0), || {
            judge(
                &scratch, &runtime, directory, &expected, was, &settled, trial,
            )
        });
        assert!(judged.is_err(), "it came out as {judged:?}");
    }
}

/// The guide's table of damages is the one that every cycle is held against.
#[test]
fn the_guide_says_what_may_come_of_each_damage() {
    let mut rows = String::new();
    for target in Target::ALL {
        for rot in Rot::ALL {
            let outcomes = allowed(target, rot);
            if !outcomes.is_empty() {
                let names: Vec<&str> = outcomes.iter().map(|it| it.name()).collect();
                let (target, rot) = (target.name(), rot.name());
                rows.push_str(&format!("| {target} | {rot} | {} |\n", names.join(", ")));
            }
        }
    }
    let begin = "<!-- begin outcomes -->";
    let end = "<!-- end outcomes -->";
    let (_, rest) = DOCUMENT.split_once(begin).expect("the table begins");
    let (table, _) = rest.split_once(end).expect("the table ends");
    let body = table.trim().split_once("|---|---|---|\n");
    let (_, body) = body.expect("a table has a head");
    assert_eq!(
        body.trim(),
        rows.trim(),
        "docs/torture.md should have\n{rows}"
    );
}
