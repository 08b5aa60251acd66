//! Replays every input of the tree, and runs a small campaign of every target. What was found once is found again here.

use fuzz::campaign::{self, Until};
use fuzz::{Target, corpus, targets};

fn inputs(target: &Target) -> Vec<(String, Vec<u8>)> {
    let inputs = corpus::read(target).unwrap_or_else(|error| {
        panic!(
            "{}: {error}; write the samples with `cargo run -p fuzz -- --write-corpus`",
            corpus::folder(target).display()
        )
    });
    assert!(!inputs.is_empty(), "{} has a corpus", target.name);
    inputs
}

#[test]
fn every_input_of_the_tree_holds() {
    for target in targets::ALL {
        for (name, input) in inputs(target) {
            if let Err(message) = campaign::once(target, &input) {
                panic!("{} {name}: {message}", target.name);
            }
        }
    }
}

/// A campaign whose inputs all fall at one check tests that check and nothing behind it.
#[test]
fn a_small_campaign_of_every_target_holds_and_goes_deep() {
    for target in targets::ALL {
        let pool = inputs(target).into_iter().map(|(_, input)| input);
        let until = Until {
            runs: target.runs_in_tests,
            at: None,
        };
        let report = campaign::run(target, pool.collect(), 1, until);
        let name = target.name;
        if let Some(finding) = report.finding {
            panic!("{name}, {:02x?}: {}", finding.input, finding.message);
        }
        assert_eq!(report.runs, target.runs_in_tests, "{name}");
        assert!(
            report.taken() * 100 >= report.runs,
            "{name}: {} of {} runs passed every check",
            report.taken(),
            report.runs
        );
        let refused = report.outcomes.keys().filter(|it| !it.is_taken()).count();
        assert!(
            refused >= 2 && report.outcomes.len() >= 3,
            "{name}: {:?}",
            report.outcomes
        );
    }
}
