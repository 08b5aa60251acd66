//! A history of a run, as `loadgen integrity --history` and the simulator write it and `history check` reads it: any text
//! gives lines that are judged, or an error with its line, and never a panic.

use history::format::{Reader, Writer};
use history::{Judge, Observation};

use crate::target::{Taken, Target, no_seal};

/// See the module.
pub const TARGET: Target = Target {
    name: "history",
    about: "a history file: lines that can be judged, or an error that names the line",
    corpus,
    seal: no_seal,
    run,
};

fn corpus() -> Vec<Vec<u8>> {
    let mut writer = Writer::begin(Vec::new(), "fuzzing").expect("memory takes everything");
    let observations = [
        Observation::Healed,
        Observation::NodeStarted { node: 0 },
        Observation::NodeDied {
            node: 0,
            power: true,
            stopped: false,
        },
        Observation::StopAsked { node: 0, at_ns: 7 },
        Observation::Strangers {
            node: 0,
            partitions: 0,
        },
        Observation::MemoryHeld {
            node: 0,
            shard: 1,
            part: "send_held_bytes".into(),
            held: 3,
            budget: 4,
        },
        Observation::Finished { waiting: vec![] },
    ];
    for (at, observation) in observations.iter().enumerate() {
        writer
            .write(at as u64 * 1000, observation)
            .expect("memory takes everything");
    }
    let short = writer.into_inner();
    let mut corpus = vec![short];
    // A real run: the first lines of it, which hold every kind that clients see.
    let options = sim::run::Options {
        records: true,
        ..sim::run::Options::default()
    };
    let report = sim::run::run(&sim::node::OneNode, 3, options);
    let mut lines = report.history.split_inclusive(|byte| *byte == b'\n');
    let head = lines.next().unwrap_or_default();
    let lines: Vec<&[u8]> = lines.collect();
    for some in lines.chunks(12).step_by(lines.len() / 12 / 40 + 1) {
        corpus.push([head, &some.concat()].concat());
    }
    corpus
}

fn run(input: &[u8]) -> Taken {
    let mut judge = Judge::default();
    let Ok(mut reader) = Reader::begin(input) else {
        return Taken::No;
    };
    let mut lines = 0;
    loop {
        match reader.next_line() {
            Ok(Some(line)) => {
                judge.observe(line.at_ns, &line.saw);
                lines += 1;
            }
            Ok(None) => return Taken::from(lines > 0),
            Err(error) => {
                assert!(!error.to_string().is_empty());
                return Taken::from(lines > 0);
            }
        }
    }
}
