//! A run's history file holds all that the run was judged by: judged again from the file it gives the same verdict, and no
//! property that the product can break is blind.

use history::export::{elle, porcupine};
use history::format::Reader;
use history::judge::Judge;
use history::observation::Observation;
use sim::node::OneNode;
use sim::run::{Options, Scenario, run};
use sim::toy::{Bug, Toy};
use sim::world::faults::Without;
use sim::world::trace::Lines;
use std::collections::BTreeMap;

const RECORDS: Options = Options {
    lines: Lines::None,
    records: true,
    without: Without::NONE,
};
/// Its table says which properties the simulator shows something to.
const DOCUMENT: &str = include_str!("../../../docs/consistency.md");

fn judged(file: &[u8]) -> Judge {
    let mut judge = Judge::default();
    let mut reader = Reader::begin(file).expect("a history");
    while let Some(line) = reader.next_line().expect("a line of it") {
        judge.observe(line.at_ns, &line.saw);
    }
    assert!(!reader.is_cut(), "the file ends with a whole line");
    judge
}

fn acknowledged_without_an_id(file: &[u8]) -> u64 {
    let mut reader = Reader::begin(file).expect("a history");
    let mut count = 0;
    while let Some(line) = reader.next_line().expect("a line of it") {
        if let Observation::Acknowledged { batch, .. } = line.saw {
            count += u64::from(batch.is_nameless());
        }
    }
    count
}

#[test]
fn a_run_judged_from_its_file_holds_and_every_property_sees_something() {
    let mut total: BTreeMap<&str, u64> = BTreeMap::new();
    let mut nameless = 0;
    for seed in 0..20 {
        let report = run(&OneNode, seed, RECORDS);
        let judge = judged(&report.history);
        assert_eq!(judge.violation(), report.violation.as_ref(), "seed {seed}");
        assert_eq!(judge.acknowledged(), report.acknowledged, "seed {seed}");
        assert_eq!(judge.delivered(), report.delivered, "seed {seed}");
        for verdict in judge.verdicts() {
            *total.entry(verdict.property).or_default() += verdict.judged;
        }
        nameless += acknowledged_without_an_id(&report.history);
    }
    assert!(
        nameless > 100,
        "only {nameless} batches without a producer id"
    );
    for (property, judged) in total {
        let row = format!("| `{property}` |");
        let row = DOCUMENT.lines().find(|line| line.starts_with(&row));
        let evidence = row.and_then(|row| row.split('|').nth(4));
        let expects = evidence.expect("it has a row").contains("sim");
        assert_eq!(
            judged > 0,
            expects,
            "{property} judged {judged} observations"
        );
    }
}

#[test]
fn what_broke_a_run_is_found_in_its_file() {
    let mut found = 0;
    for bug in Bug::ALL {
        let toy = Toy { bug: Some(bug) };
        let broken = (0..400)
            .map(|seed| run(&toy as &dyn Scenario, seed, RECORDS))
            .find(|report| report.violation.is_some())
            .expect("every planted bug breaks a property");
        let violation = broken.violation.as_ref();
        let seen = judged(&broken.history);
        // What the world itself refuses, such as a panic, is no observation.
        if let Some(again) = seen.violation() {
            assert_eq!(Some(again), violation, "{bug:?}");
            found += 1;
        }
    }
    assert!(
        found > Bug::ALL.len() / 2,
        "only {found} bugs are in the files"
    );
}

#[test]
fn a_run_is_exported_whole() {
    let report = (0..20)
        .map(|seed| run(&OneNode, seed, RECORDS))
        .find(|report| report.acknowledged > 200 && report.delivered > 200)
        .expect("most runs append and read so much");
    let (mut operations, mut transactions) =
        (porcupine::Export::default(), elle::Export::default());
    let mut reader = Reader::begin(&report.history[..]).expect("a history");
    while let Some(line) = reader.next_line().expect("a line of it") {
        operations.observe(line.at_ns, &line.saw);
        transactions.observe(line.at_ns, &line.saw);
    }
    let operations = operations.finish();
    assert!(operations.len() > 100, "the run appends and reads");
    for operation in &operations {
        assert!(operation.call < operation.r#return, "{operation:?}");
    }
    let mut text = Vec::new();
    transactions
        .write(&mut text)
        .expect("memory takes everything");
    let text = String::from_utf8(text).expect("EDN is UTF-8");
    let count = |what: &str| text.lines().filter(|line| line.contains(what)).count();
    assert_eq!(
        count(":type :invoke"),
        count(":type :ok") + count(":type :info") + count(":type :fail"),
        "everything that begins ends"
    );
    assert!(count(":r ") > 0, "somebody reads a whole list");
}
