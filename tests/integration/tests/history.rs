//! A real node under `loadgen integrity` and `kill -9`: what the generator saw, written as a history, is judged afterwards by
//! the same properties that judge the simulator, and none is broken. A history from which one line was taken breaks some.

use history::format::Reader;
use history::judge::Judge;
use history::observation::{Kind, Observation};
use integration::node::{Node, Output, Setup};
use integration::scratch::Scratch;
use integration::{HANG, program};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// Its table says which properties such a run shows something to.
const DOCUMENT: &str = include_str!("../../../docs/consistency.md");
const KILLS: u32 = 4;
/// A kill comes when a run of the node has appended so many records.
const RECORDS_BEFORE_KILL: u64 = 500;

/// What a history file holds.
fn read(path: &Path) -> Vec<Observation> {
    let file = BufReader::new(File::open(path).expect("the generator wrote it"));
    let mut reader = Reader::begin(file).expect("a history");
    let mut observations = Vec::new();
    while let Some(line) = reader.next_line().expect("a line of it") {
        observations.push(line.saw);
    }
    assert!(!reader.is_cut(), "its writer ended in order");
    observations
}

fn judged<'a>(observations: impl IntoIterator<Item = &'a Observation>) -> Judge {
    let mut judge = Judge::default();
    for (at_ns, observation) in (0..).zip(observations) {
        judge.observe(at_ns, observation);
    }
    judge
}

fn generate(setup: &Setup, history: &Path) -> Child {
    let mut command = Command::new(program::loadgen());
    program::forget_environment(&mut command);
    command
        .args(["integrity", "--server", &setup.server.to_string()])
        .args(["--partitions", "3", "--producers", "3", "--rate", "8000"])
        .args(["--count", "40000", "--duration", "10m"])
        .arg("--history")
        .arg(history)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the generator starts")
}

/// Waits until this run of the node has appended enough. False: the generator has ended before.
fn has_appended(node: &Node, generator: &mut Child) -> bool {
    let begun = Instant::now();
    while node.metric("tiderace_shard_records_appended_total") < RECORDS_BEFORE_KILL {
        if generator.try_wait().expect("it is ours").is_some() {
            return false;
        }
        assert!(begun.elapsed() < HANG, "hangs: nothing is appended");
    }
    true
}

#[test]
fn what_a_generator_saw_of_a_killed_node_breaks_no_property() {
    let scratch = Scratch::new("history");
    let setup = Setup::new(&scratch).with("segment", "4MiB");
    let path = scratch.join("history.json");
    let mut node = Node::start(&setup);
    let mut generator = generate(&setup, &path);
    let said = Output::of(generator.stderr.take().expect("piped"));
    let mut kills = 0;
    while kills < KILLS && has_appended(&node, &mut generator) {
        node.kill();
        kills += 1;
        node = Node::start(&setup);
    }
    assert!(kills > 0, "the generator ended before the first kill");
    // What it says ends with it, and waiting for that has a bound.
    let said = said.whole();
    let status = generator.wait().expect("it is ours");
    assert_eq!(status.code(), Some(0), "{said}");
    node.stop();

    let observations = read(&path);
    let judge = judged(&observations);
    assert_eq!(judge.violation(), None);
    assert_eq!(judge.acknowledged(), 40_000, "{said}");
    assert_eq!(judge.delivered(), 40_000, "{said}");
    let count = |kind| {
        let kinds = observations.iter().map(Observation::kind);
        kinds.filter(|other| *other == kind).count()
    };
    assert!(count(Kind::LinkLost) > 0, "a kill is seen");
    assert_eq!(count(Kind::ReadThrough), 3, "every partition was read");
    for verdict in judge.verdicts() {
        let row = format!("| `{}` |", verdict.property);
        let row = DOCUMENT.lines().find(|line| line.starts_with(&row));
        let evidence = row.and_then(|row| row.split('|').nth(4));
        let expects = evidence.expect("it has a row").contains("real");
        assert_eq!(verdict.judged > 0, expects, "{verdict:?}");
    }

    // The judge is not blind: a delivery that did not come, and one that came twice.
    let delivered = (0..observations.len())
        .filter(|index| observations[*index].kind() == Kind::Delivered)
        .nth(20_000)
        .expect("there are twice as many");
    let (before, from) = observations.split_at(delivered);
    let lacking = judged(before.iter().chain(&from[1..]));
    assert!(lacking.is_broken(), "{:?} does not lack", from[0]);
    let doubled = judged(before.iter().chain(&from[..1]).chain(from));
    assert!(doubled.is_broken(), "{:?} does not come twice", from[0]);
}
